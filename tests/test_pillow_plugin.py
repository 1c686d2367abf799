"""Image.open and Image.save with compressed files: header now, pixels later, and OSError where it fails."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import ExifTags, Image, UnidentifiedImageError

import codec
import codec.pillow_plugin  # noqa: F401  (registers the format)
from codec import bitstream
from codec.bitstream import Container, Tile, pack


def container(**changes):
    """A file as far as its header and checksum go; its strings decode to nothing."""
    fields = {
        "model_id": "0123abcd" * 2,
        "quality": 4250,
        "width": 300,
        "height": 200,
        "grey": False,
        "tiles": (Tile(b"latents", 1, 0),),
    }
    return Container(**{**fields, **changes})


@pytest.fixture
def decoded(monkeypatch):
    """Replaces the network: decompress returns the image put in here, and notes what it was called with."""
    notes = {"image": None, "calls": []}

    def decompress(data):
        notes["calls"].append(data)
        bitstream.unpack(data)
        return notes["image"]

    monkeypatch.setitem(vars(codec), "decompress", decompress)
    return notes


# --- Header now ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("alpha", [None, b"\x89PNG"])
def test_open_tells_size_mode_and_quality_from_the_header(decoded, grey, alpha):
    data = pack(container(grey=grey, alpha=alpha, tiles=(Tile(bytes(5000), 1, 0),)))
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "CODEC"
        assert image.size == (300, 200)
        assert image.mode == ("L" if grey else "RGB") + ("A" if alpha else "")
        assert image.info == {"quality": 42.5, "model_id": "0123abcd" * 2}
    assert decoded["calls"] == []


def test_open_reads_no_more_than_the_header():
    file = io.BytesIO(pack(container(tiles=(Tile(bytes(5000), 1, 0),))))
    Image.open(file)
    assert file.tell() <= bitstream.HEADER_MAX


def test_opening_a_file_loads_no_torch(tmp_path, root):
    path = tmp_path / "picture.bin"
    path.write_bytes(pack(container()))
    code = (
        "import sys, codec.pillow_plugin; from PIL import Image;"
        "assert Image.open(sys.argv[1]).size == (300, 200); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], cwd=root).returncode == 0


def test_other_formats_still_open():
    file = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(file, "PNG")
    assert Image.open(file).format == "PNG"
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(b"neither one nor the other"))


def test_extension_belongs_to_the_format():
    assert Image.registered_extensions()[".bin"] == Image.registered_extensions()[".lqc"] == "CODEC"
    assert Image.MIME["CODEC"] == "image/x-lqc"


# --- Pixels later -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_load_gives_what_decompress_gives_once(tmp_path, decoded, mode):
    path = tmp_path / "picture.bin"
    data = pack(container(grey=mode[0] == "L", alpha=b"\x89PNG" if "A" in mode else None))
    path.write_bytes(data)
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 4), dtype=np.uint8)
    decoded["image"] = Image.fromarray(noise).convert(mode)
    decoded["image"].info["icc_profile"] = b"profile"
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(decoded["image"]))
        assert image.getpixel((7, 5)) == decoded["image"].getpixel((7, 5))
        assert image.resize((30, 20)).size == (30, 20)
        assert image.info == {"quality": 42.5, "model_id": "0123abcd" * 2, "icc_profile": b"profile"}
    assert decoded["calls"] == [data]


def test_exif_arrives_without_asking_for_pixels(decoded):
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "Ada"
    decoded["image"] = Image.new("RGB", (300, 200))
    decoded["image"].info["exif"] = exif.tobytes()
    image = Image.open(io.BytesIO(pack(container(exif=b"II*\0"))))
    assert image.getexif()[ExifTags.Base.Artist] == "Ada"


def test_copies_and_thumbnails_work(decoded):
    decoded["image"] = Image.new("RGB", (300, 200), "teal")
    image = Image.open(io.BytesIO(pack(container())))
    image.thumbnail((64, 64))
    assert image.size == (64, 43) and image.getpixel((0, 0)) == (0, 128, 128)
    image = Image.open(io.BytesIO(pack(container())))
    assert image.copy().getpixel((0, 0)) == (0, 128, 128)


# --- Errors -------------------------------------------------------------------------------------------------


def test_damaged_headers_are_named_by_open():
    good = pack(container())
    for data, reason in (
        (good[:9], "truncated"),
        (good[:4] + b"\x07" + good[5:], "unsupported version: format 7"),
        (good[:18] + b"\1" + good[19:], "corrupt"),
        (good[:16] + b"\xff\xff\x03\xff\xff\x03" + good[20:], "too large"),
    ):
        with pytest.raises(OSError, match=reason):
            Image.open(io.BytesIO(data))


def test_damage_behind_the_header_is_an_oserror_of_load(decoded):
    good = pack(container(alpha=bytes(100)))
    flipped = bytearray(good)
    flipped[-50] ^= 1
    for data, reason in ((good[:-1], "truncated"), (flipped, "checksum"), (good + b"\0", "longer than")):
        image = Image.open(io.BytesIO(data))
        for _ in range(2):  # asking again does not help
            with pytest.raises(OSError, match=reason):
                image.load()


def test_unknown_model_is_an_oserror_of_load(monkeypatch):
    def decompress(data):
        raise codec.ModelError("model 0123abcd is not installed")

    monkeypatch.setitem(vars(codec), "decompress", decompress)
    with pytest.raises(OSError, match="0123abcd"):
        Image.open(io.BytesIO(pack(container()))).load()


# --- Saving -------------------------------------------------------------------------------------------------


@pytest.fixture
def compressed(monkeypatch):
    """Replaces the network: notes the image and options that compress is called with."""
    calls = []

    def compress(image, quality=50.0, *, exif=None, fallback="auto"):
        calls.append((image, quality, exif))
        return pack(container())

    monkeypatch.setitem(vars(codec), "compress", compress)
    return calls


def test_save_passes_quality_and_writes_what_compress_returns(tmp_path, compressed):
    image = Image.new("RGB", (300, 200))
    image.save(tmp_path / "picture.bin", quality=12.5)
    image.save(tmp_path / "default.bin")
    assert (tmp_path / "picture.bin").read_bytes() == pack(container())
    assert [(quality, exif) for _, quality, exif in compressed] == [(12.5, b""), (50.0, b"")]
    assert compressed[0][0] is image


def test_save_keeps_exif_only_where_it_is_given(compressed):
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "Ada"
    image = Image.new("RGB", (300, 200))
    image.info["exif"] = exif.tobytes()
    image.save(io.BytesIO(), "CODEC")
    for given in (exif, exif.tobytes()):
        image.save(io.BytesIO(), "CODEC", exif=given, icc_profile=b"profile")
        seen, _, kept = compressed[-1]
        assert kept == exif.tobytes() and seen.info["icc_profile"] == b"profile"
    assert compressed[0][2] == b""
    assert "icc_profile" not in image.info


def test_save_reports_failures_as_oserror_and_leaves_no_file(tmp_path, monkeypatch):
    def compress(image, quality=50.0, *, exif=None, fallback="auto"):
        raise codec.ImageError("too large")

    monkeypatch.setitem(vars(codec), "compress", compress)
    with pytest.raises(OSError, match="too large"):
        Image.new("RGB", (300, 200)).save(tmp_path / "picture.bin")
    assert not list(tmp_path.iterdir())


# --- With the shipped weights -------------------------------------------------------------------------------


def test_saved_picture_opens_as_decompress_returns_it(tmp_path, photo):
    path = tmp_path / "picture.bin"
    Image.fromarray(photo).save(path, quality=40)
    assert path.read_bytes() == codec.compress(photo, quality=40)
    with Image.open(path) as image:
        assert image.size == (photo.shape[1], photo.shape[0]) and image.info["quality"] == 40
        np.testing.assert_array_equal(np.asarray(image), np.asarray(codec.decompress(path.read_bytes())))


def test_alpha_grey_and_exif_survive_the_round_trip(tmp_path, photo):
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "Ada"
    exif[ExifTags.Base.Orientation] = 6
    image = Image.fromarray(photo).convert("LA")
    mask = Image.linear_gradient("L").resize(image.size)
    image.putalpha(mask)
    image.save(tmp_path / "picture.bin", quality=40, exif=exif)
    with Image.open(tmp_path / "picture.bin") as back:
        assert back.mode == "LA" and back.size == (photo.shape[0], photo.shape[1])
        assert dict(back.getexif()) == {ExifTags.Base.Artist: "Ada", ExifTags.Base.Orientation: 1}
        np.testing.assert_array_equal(np.asarray(back)[..., 1], np.rot90(np.asarray(mask), -1))
