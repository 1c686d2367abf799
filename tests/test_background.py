"""What has one colour comes back in it."""

import zlib

import numpy as np
import pytest

import codec
from codec import background, bitstream
from codec.background import BLOCK, Background
from codec.errors import Corrupt
from codec.model import View

SIZE = (203, 317)  # rows, columns: no multiples of a block


@pytest.fixture(scope="module")
def product(samples):
    """uint8 (203, 317, 3): a disc of a photograph on white, and the mask of what is white."""
    from codec.image_io import read_picture

    pixels = read_picture(samples / "guitar.png").pixels[100 : 100 + SIZE[0], 100 : 100 + SIZE[1]].copy()
    y, x = np.indices(SIZE)
    behind = np.hypot(y - 90, x - 150) > 70
    pixels[behind] = 255
    return pixels, behind


@pytest.fixture(scope="module")
def coder():
    return codec.Codec(threads=1, fallback="never")


@pytest.mark.parametrize(
    "dtype, colour", [(np.uint8, (255, 255, 255)), (np.uint8, (240, 9, 3)), (np.uint16, (65535, 4660, 1))]
)
def test_what_is_found_is_what_has_the_colour(dtype, colour):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 200, (*SIZE, 3)).astype(dtype)
    pixels[40:170, 60:300] = colour
    pixels[100, 200] = colour[0] - 1, *colour[1:]
    pixels[0:24, 0:64] = 7  # another colour, of fewer blocks
    found = background.find(pixels)
    scale = 257 if dtype == np.uint8 else 1
    assert found.colour.tolist() == [scale * value for value in colour]
    wanted = np.zeros((26, 40), bool)
    wanted[5:21, 8:37] = True
    wanted[100 // BLOCK, 200 // BLOCK] = False
    assert np.array_equal(found.blocks, wanted)
    unpacked = background.unpack(background.pack(found), SIZE[1], SIZE[0])
    assert np.array_equal(unpacked.colour, found.colour) and np.array_equal(unpacked.blocks, wanted)


def test_blocks_at_the_border_count_with_the_pixels_they_have():
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[:100] = np.random.default_rng(0).integers(0, 256, (100, SIZE[1], 3))
    blocks = background.find(pixels).blocks
    assert blocks.shape == (26, 40) and blocks[13:].all() and not blocks[:13].any()


def test_photographs_have_none(samples):
    from codec.image_io import read_picture

    for path in sorted(samples.glob("*.png")):
        assert background.find(read_picture(path).pixels) is None


@pytest.mark.parametrize("tune", ["eyes", "psnr"])
@pytest.mark.parametrize("quality", [50, 80])
def test_a_product_keeps_its_background(product, tune, quality):
    """Exactly, but for parts of blocks at its border; without, hardly two thirds of it at quality 50."""
    pixels, behind = product
    coder = codec.Codec(tune=tune, threads=1, fallback="never")
    data = coder.compress(pixels, quality=quality)
    decoded = coder.decompress(data, as_array=True)
    exact = (decoded == 255).all(2)[behind].mean()
    assert exact >= 0.95
    container = bitstream.unpack(data)
    assert 0 < len(container.background) <= sum(len(tile.data) for tile in container.tiles) / 32
    without = bitstream.pack(bitstream.Container(**{**vars(container), "background": None}))
    plainly = coder.decompress(without, as_array=True)
    assert exact > (plainly == 255).all(2)[behind].mean()
    blocks = background.unpack(container.background, *SIZE[::-1]).blocks.repeat(BLOCK, 0).repeat(BLOCK, 1)
    elsewhere = ~blocks[: SIZE[0], : SIZE[1]]
    assert np.array_equal(decoded[elsewhere], plainly[elsewhere])
    assert np.array_equal(coder.reconstruct(pixels, quality=quality), decoded)


def test_below_quality_50_there_is_none(coder, product):
    assert bitstream.unpack(coder.compress(product[0], quality=49.99)).background is None


def test_a_background_that_would_cost_too_much_is_left_out(product):
    found = background.find(product[0])
    size = len(background.pack(found))
    assert background.worth(found, 5000, 32 * size) == background.pack(found)
    assert background.worth(found, 5000, 32 * size - 1) is None
    assert background.worth(None, 5000, 10**9) is None


def test_sixteen_bits_keep_theirs(coder, product):
    deep = product[0].astype(np.uint16) * 257
    deep[product[1]] = (65535, 1000, 4)
    decoded = coder.decompress_picture(coder.compress(deep, quality=60), depth=16).pixels
    assert decoded.dtype == np.uint16
    assert (decoded == (65535, 1000, 4)).all(2)[product[1]].mean() >= 0.95
    eight = coder.decompress(coder.compress(deep, quality=60), as_array=True)
    assert (eight == (255, 4, 0)).all(2)[product[1]].mean() >= 0.95  # 1000 * 255 / 65535 = 3.89


@pytest.mark.parametrize("region", [(0, 0, 317, 203), (3, 5, 200, 100), (297, 190, 20, 13)])
@pytest.mark.parametrize("scale", [1, 1 / 2, 1 / 8])
def test_parts_have_their_part_of_it(coder, product, region, scale):
    data = coder.compress(product[0], quality=50)
    part = coder.decompress(data, as_array=True, region=region, scale=scale)
    reduce = round(1 / scale)
    view = View(*region, reduce)
    blocks = background.unpack(bitstream.unpack(data).background, *SIZE[::-1]).blocks
    rows, columns = ((start + np.arange(count)) * reduce // BLOCK for start, count in zip(view.corner, view.size))
    inside = blocks[np.ix_(rows, columns)]
    assert part.shape == (*view.size, 3) and inside.any() and (part[inside] == 255).all()
    if scale == 1:
        left, top, width, height = region
        whole = coder.decompress(data, as_array=True)
        assert np.array_equal(part, whole[top : top + height, left : left + width])


def _section(stream=None, colour=b"\0" * 6, size=26 * 5):
    return colour + (zlib.compress(b"\0" * size) if stream is None else stream)


@pytest.mark.parametrize(
    "section",
    [
        b"a", b"abcdef", _section(size=26 * 5 - 1), _section(size=26 * 5 + 1), _section(b"no zlib"), _section() + b"a",
        _section()[:-1], _section(size=900_000),
    ],
    ids=lambda section: f"{len(section)} bytes",
)  # fmt: skip
def test_damaged_sections_are_corrupt(coder, product, section):
    container = bitstream.unpack(coder.compress(product[0], quality=50))
    data = bitstream.pack(bitstream.Container(**{**vars(container), "background": section}))
    with pytest.raises(Corrupt, match="background"):
        coder.decompress(data)


def test_where_no_latents_are_there_is_no_background(coder):
    flat = bitstream.unpack(coder.compress(np.full((64, 64, 3), 9, np.uint8), quality=50))
    assert flat.flat and flat.background is None
    with pytest.raises(Corrupt, match="background"):
        bitstream.pack(bitstream.Container(**{**vars(flat), "background": _section()}))


def test_fill_touches_nothing_else():
    blocks = np.zeros((3, 2), bool)
    blocks[1, 1] = True
    pixels = np.zeros((20, 15, 3), np.uint8)
    background.fill(pixels, Background(np.array([257, 514, 771], np.uint16), blocks), View(0, 0, 15, 20))
    assert (pixels[8:16, 8:15] == (1, 2, 3)).all() and pixels.any(2).sum() == 8 * 7
