"""Regions, smaller pictures, and what is left of damaged files."""

import io

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from cli.main import codec as command
from codec import Codec, bitstream
from codec.errors import CodecError, Corrupt, Truncated
from tiny import coding

WIDTH, HEIGHT = 2200, 1100  # two pieces and three tiles across, two tiles down


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    coding(folder)
    return folder


@pytest.fixture(scope="module")
def coder(folder):
    return Codec(folder, threads=1)


def picture(height=HEIGHT, width=WIDTH):
    i, j = np.mgrid[:height, :width]
    waves = [128 + 90 * np.sin(i / 37 + c) + 30 * np.cos(j / (11 + c)) for c in range(3)]
    return np.clip(np.stack(waves, 2), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def data(coder):
    return coder.compress(picture(), 60, fallback="never")


@pytest.fixture(scope="module")
def whole(coder, data):
    return coder.decompress(data, as_array=True)


def shown(path):
    with Image.open(path) as found:
        return np.asarray(found)


class Counting(io.BytesIO):
    """Counts the bytes that are read."""

    count = 0

    def read(self, *size):
        found = super().read(*size)
        self.count += len(found)
        return found


@pytest.mark.parametrize(
    "region",
    [(0, 0, WIDTH, HEIGHT), (5, 3, 1, 1), (2040, 1010, 17, 33), (WIDTH - 1, HEIGHT - 1, 1, 1), (1023, 0, 2, HEIGHT)],
)
def test_a_region_is_that_cut_of_the_whole(coder, data, whole, region):
    left, top, width, height = region
    cut = coder.decompress(io.BytesIO(data), region=region, as_array=True)
    assert np.array_equal(cut, whole[top : top + height, left : left + width])


def test_a_region_reads_its_tiles_alone(coder, data):
    lengths = [tile.length for tile in bitstream.read_header(data).tiles]
    file = Counting(data)
    coder.decompress(file, region=(2190, 0, 5, 5))
    # The second piece takes what is around it: not the first tiles of the rows.
    others = lengths[0] + lengths[3]
    assert file.count <= bitstream.HEADER_MAX + sum(lengths) - others


@pytest.mark.parametrize("region", [(-1, 0, 5, 5), (0, 0, 0, 5), (0, 0, WIDTH + 1, 5), (WIDTH, 0, 1, 1)])
def test_a_region_that_is_not_within_the_picture_is_one_line(coder, data, region):
    with pytest.raises(CodecError, match="not within the 2200 x 1100"):
        coder.decompress(data, region=region)


@pytest.mark.parametrize("wrong", [{"scale": 3}, {"scale": 0.3}, {"region": (1, 2, 3)}, {"region": (0, 0, 1.5, 2)}])
def test_what_makes_no_part_is_a_value_error(coder, data, wrong):
    with pytest.raises(ValueError):
        coder.decompress(data, **wrong)


@pytest.mark.parametrize("reduce", [2, 4])
def test_smaller_pictures_are_means(coder, data, whole, reduce):
    small = coder.decompress(data, scale=1 / reduce, as_array=True)
    rows, columns = -(-HEIGHT // reduce), -(-WIDTH // reduce)
    assert small.shape == (rows, columns, 3)
    inside = whole[: HEIGHT // reduce * reduce, : WIDTH // reduce * reduce]
    means = inside.reshape(HEIGHT // reduce, reduce, WIDTH // reduce, reduce, 3).mean((1, 3))
    # Of floats before they are rounded to 8 bits: half a level, and rounding.
    assert np.abs(small[: len(means), : means.shape[1]] - means).max() <= 1.01


def test_an_eighth_is_near_the_means_for_a_trained_model(photo):
    coder = Codec()
    data = coder.compress(photo, 60, fallback="never")
    means = coder.decompress(data, as_array=True).reshape(16, 8, 24, 8, 3).mean((1, 3))
    preview = coder.decompress(data, scale=1 / 8, as_array=True)
    assert preview.shape == (16, 24, 3) and np.abs(preview - means).mean() < 1.5
    assert np.array_equal(coder.decompress(data, scale=1 / 8, region=(9, 17, 30, 20), as_array=True), preview[2:5, 1:5])


def test_alpha_and_flat_pictures_and_stored_ones_have_parts_too(coder):
    pixels = np.dstack([picture(90, 70), np.arange(90)[:, None] * np.full(70, 2)]).astype(np.uint8)
    data = coder.compress(pixels, 60, fallback="never")
    part = coder.decompress(data, region=(3, 20, 30, 40), as_array=True)
    assert np.array_equal(part[..., 3], pixels[20:60, 3:33, 3])
    small = coder.decompress(data, scale=1 / 4, as_array=True)
    assert small.shape == (23, 18, 4) and abs(int(small[5, 5, 3]) - pixels[20:24, 20:24, 3].mean()) <= 1
    flat = np.full((90, 1030, 3), (9, 200, 77), np.uint8)
    data = coder.compress(flat, 60, fallback="never")
    assert (coder.decompress(data, region=(1020, 3, 9, 9), scale=1 / 2, as_array=True) == (9, 200, 77)).all()
    stored = coder.compress(pixels[..., :3], fallback="always")
    assert np.array_equal(coder.decompress(stored, region=(3, 20, 30, 40), as_array=True), pixels[20:60, 3:33, :3])


def test_a_flipped_byte_costs_one_tile(coder, data, whole):
    offset, length = next(part[1:] for part in bitstream.read_header(data).layout() if part[0] == "tile 2")
    damaged = bytearray(data)
    damaged[offset + length // 2] ^= 1
    with pytest.raises(Corrupt):
        coder.decompress(bytes(damaged))
    lost = []
    found = coder.decompress(bytes(damaged), as_array=True, lost=lost)
    assert lost == ["tile 2 is lost: x 2048 to 2199, y 0 to 1023"]
    # Within reach of the synthesis of the lost tile, others differ a little.
    assert np.array_equal(found[:, : 2048 - 96], whole[:, : 2048 - 96]) and np.array_equal(
        found[-50:, :1900], whole[-50:, :1900]
    )
    assert np.abs(found[:900, 2100:].astype(int) - found[:900, 2100:].mean((0, 1))).max() < 60


def test_of_a_file_cut_short_the_upper_tiles_are_left(coder, data, whole):
    cut = data[: len(data) - 10]
    with pytest.raises(Truncated):
        coder.decompress(cut)
    lost = []
    found = coder.decompress(cut, as_array=True, lost=lost)
    assert lost == ["tile 5 is lost: x 2048 to 2199, y 1024 to 1099"] and np.array_equal(found[:900], whole[:900])
    header = bitstream.read_header(data).size
    lost = []
    assert coder.decompress(data[:header], lost=lost).size == (WIDTH, HEIGHT) and len(lost) == 6
    with pytest.raises(CodecError):
        coder.decompress(data[: header - 1], lost=[])


def test_damaged_metadata_is_left_out_and_named(coder):
    image = Image.fromarray(picture(64, 64))
    exif = Image.Exif()
    exif[0x010E] = "a description"
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    data = bytearray(coder.compress(buffer.getvalue(), 60, fallback="never"))
    offset = next(part[1] for part in bitstream.read_header(bytes(data)).layout() if "exif" in part[0])
    data[offset + 3] ^= 1
    lost = []
    assert "exif" not in coder.decompress(bytes(data), lost=lost).info
    assert len(lost) == 1 and "exif is damaged and left out" in lost[0]


def test_the_command_line_has_parts(folder, data, whole, tmp_path):
    (tmp_path / "a.bin").write_bytes(data)
    damaged = bytearray(data)
    damaged[-5] ^= 1
    (tmp_path / "b.bin").write_bytes(damaged)

    def run(*arguments):
        return CliRunner().invoke(command, ["decompress", *map(str, arguments), "--model", str(folder), "-f"])

    result = run(tmp_path / "a.bin", "--region", "10,20,30,40", "-o", tmp_path / "a.png")
    assert result.exit_code == 0, result.output
    assert np.array_equal(shown(tmp_path / "a.png"), whole[20:60, 10:40])
    assert run(tmp_path / "a.bin", "--scale", "1/8", "-o", tmp_path / "a.png").exit_code == 0
    assert shown(tmp_path / "a.png").shape == (138, 275, 3)
    for wrong in ("1,2,3", "a,b,c,d"):
        assert run(tmp_path / "a.bin", "--region", wrong).exit_code == 2
    result = run(tmp_path / "a.bin", "--region", "0,0,9999,1")
    assert result.exit_code == 1 and "not within" in result.output
    assert run(tmp_path / "b.bin").exit_code == 1 and not (tmp_path / "b.png").exists()
    result = run(tmp_path / "b.bin", "--salvage")
    assert result.exit_code == 1 and "tile 5 is lost" in result.output
    assert np.array_equal(shown(tmp_path / "b.png")[:900], whole[:900])


def test_pillow_makes_thumbnails_of_small_pictures(photo, tmp_path):
    import codec.pillow_plugin  # noqa: F401

    path = tmp_path / "a.bin"
    Image.fromarray(photo).save(path, quality=60)
    with Image.open(path) as image:
        assert image.draft(None, (40, 40)) == ("RGB", (0, 0, 192 / 2, 128 / 2)) and image.size == (96, 64)
        assert image.draft(None, (10, 10)) is None  # once
        half = np.asarray(image)
    whole = shown(path)
    assert np.abs(half - whole.reshape(64, 2, 96, 2, 3).mean((1, 3))).max() <= 1.01
    with Image.open(path) as image:
        assert image.draft(None, (100, 100)) is None and image.draft("L", None) is None
        image.thumbnail((12, 12))
        assert image.size == (12, 8) and np.abs(np.asarray(image).mean((0, 1)) - whole.mean((0, 1))).max() < 2
