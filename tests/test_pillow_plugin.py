"""Image.open and Image.save with compressed files: header now, pixels later, and OSError where it fails."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import ExifTags, Image, UnidentifiedImageError

import codec
import codec.pillow_plugin
from codec import bitstream, colour, pillow_plugin
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

    def decompress(data, scale=1):
        notes["calls"].append(data)
        bitstream.unpack(data)
        return notes["image"]

    monkeypatch.setitem(vars(codec), "decompress", decompress)
    return notes


# Header now


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("alpha", [None, b"\x89PNG"])
def test_open_tells_size_mode_and_quality_from_the_header(decoded, grey, alpha):
    data = pack(container(grey=grey, alpha=alpha, tiles=(Tile(bytes(5000), 1, 0),)))
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "LQC"
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


def test_the_mime_type_is_known():
    assert Image.open(io.BytesIO(pack(container()))).get_format_mimetype() == "image/x-lqc"


def test_extension_belongs_to_the_format():
    assert Image.registered_extensions()[".bin"] == Image.registered_extensions()[".lqc"] == "LQC"
    assert Image.MIME["LQC"] == "image/x-lqc"


# Pixels later


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


def test_profile_and_exif_are_there_after_open_without_decoding(decoded):
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "Ada"
    data = pack(
        container(exif=exif.tobytes().removeprefix(b"Exif\0\0"), icc=b"profile", tiles=(Tile(bytes(5000), 1, 0),))
    )
    file = io.BytesIO(data)
    image = Image.open(file)
    assert image.info["icc_profile"] == b"profile" and image.info["exif"] == exif.tobytes()
    assert image.getexif()[ExifTags.Base.Artist] == "Ada"
    assert decoded["calls"] == [] and file.tell() < len(data) - 4000


def test_exif_that_pillow_cannot_read_costs_nothing(decoded):
    image = Image.open(io.BytesIO(pack(container(exif=b"no TIFF"))))
    assert dict(image.getexif()) == {} and "exif" not in image.info


def test_metadata_that_is_damaged_is_left_to_load(decoded):
    data = bytearray(pack(container(icc=b"profile", tiles=(Tile(bytes(50), 1, 0),))))
    data[-55] ^= 1
    image = Image.open(io.BytesIO(data))
    assert "icc_profile" not in image.info
    with pytest.raises(OSError, match="checksum of icc"):
        image.load()


def test_copies_and_thumbnails_work(decoded):
    decoded["image"] = Image.new("RGB", (300, 200), "teal")
    image = Image.open(io.BytesIO(pack(container())))
    image.thumbnail((64, 64))
    assert image.size == (64, 43) and image.getpixel((0, 0)) == (0, 128, 128)
    image = Image.open(io.BytesIO(pack(container())))
    assert image.copy().getpixel((0, 0)) == (0, 128, 128)


# Errors


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
    def decompress(data, scale=1):
        raise codec.ModelError("model 0123abcd is not installed")

    monkeypatch.setitem(vars(codec), "decompress", decompress)
    with pytest.raises(OSError, match="0123abcd"):
        Image.open(io.BytesIO(pack(container()))).load()


# Saving


@pytest.fixture
def compressed(monkeypatch):
    """Replaces the network: notes the image and options that compress is called with."""
    calls = []

    def compress(image, quality=50.0, *, strip=False):
        calls.append((image, quality, strip))
        return pack(container())

    monkeypatch.setitem(vars(codec), "compress", compress)
    return calls


def test_save_passes_quality_and_writes_what_compress_returns(tmp_path, compressed):
    image = Image.new("RGB", (300, 200))
    image.save(tmp_path / "picture.bin", quality=12.5)
    image.save(tmp_path / "default.bin")
    assert (tmp_path / "picture.bin").read_bytes() == pack(container())
    assert [(quality, strip) for _, quality, strip in compressed] == [(12.5, True), (50.0, True)]
    assert compressed[0][0] is image


def test_save_keeps_exif_only_where_it_is_given(compressed):
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "Ada"
    image = Image.new("RGB", (300, 200))
    image.info["exif"] = exif.tobytes()
    image.save(io.BytesIO(), "LQC")
    for given in (exif, exif.tobytes()):
        image.save(io.BytesIO(), "LQC", exif=given, icc_profile=b"profile")
        seen, _, strip = compressed[-1]
        assert not strip and seen.getexif()[ExifTags.Base.Artist] == "Ada"
        assert seen.info["icc_profile"] == b"profile"
    assert compressed[0][2] is True
    assert "icc_profile" not in image.info


def test_save_reports_failures_as_oserror_and_leaves_no_file(tmp_path, monkeypatch):
    def compress(image, quality=50.0, **options):
        raise codec.ImageError("too large")

    monkeypatch.setitem(vars(codec), "compress", compress)
    with pytest.raises(OSError, match="too large"):
        Image.new("RGB", (300, 200)).save(tmp_path / "picture.bin")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["save_al", "progressive", "optimize"])
def test_save_refuses_what_it_does_not_know(tmp_path, compressed, option):
    with pytest.raises(TypeError, match=f"LQC has no option '{option}'; there are quality, effort"):
        Image.new("RGB", (300, 200)).save(tmp_path / "picture.bin", **{option: True})
    assert not compressed and not list(tmp_path.iterdir())


def test_several_frames_are_refused(tmp_path, compressed):
    with pytest.raises(OSError, match="holds one picture"):
        Image.new("RGB", (300, 200)).save(tmp_path / "picture.bin", save_all=True)
    assert not compressed and not list(tmp_path.iterdir())


# With the shipped weights


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


def turned(pixels):
    """A JPEG whose EXIF says that its pixels are to be turned a quarter to the right."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Artist] = "Ada"
    file = io.BytesIO()
    Image.fromarray(np.rot90(pixels)).save(file, "JPEG", exif=exif, quality=95)
    return Image.open(file)


def described(**tags):
    exif = Image.Exif()
    exif.update({getattr(ExifTags.Base, name): value for name, value in tags.items()})
    return exif


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, {}),
        ({"exif": b""}, {}),
        ({"exif": None}, {}),
        ({"exif": described(Copyright="Eve")}, {ExifTags.Base.Copyright: "Eve"}),
        (
            {"exif": described(Copyright="Eve", Orientation=6)},
            {ExifTags.Base.Copyright: "Eve", ExifTags.Base.Orientation: 1},
        ),
        (
            {"exif": described(Copyright="Eve", Orientation=1)},
            {ExifTags.Base.Copyright: "Eve", ExifTags.Base.Orientation: 1},
        ),
        ({"exif": b"no EXIF"}, {}),
    ],
)
def test_a_turned_picture_is_saved_upright_whatever_exif_is_given(photo, options, kept):
    image = turned(photo)
    before = dict(image.getexif())
    file = io.BytesIO()
    image.save(file, "LQC", quality=60, **options)
    back = Image.open(file)
    wanted, given = photo, options.get("exif")
    if isinstance(given, Image.Exif) and given.get(ExifTags.Base.Orientation) == 1:
        wanted = np.rot90(photo)  # who gives EXIF with an orientation says how the pixels stand
    assert back.size == wanted.shape[1::-1] and dict(back.getexif()) == kept
    error = np.asarray(back).astype(float) - wanted
    assert np.mean(error**2) < 60 and dict(image.getexif()) == before


def test_files_that_carry_a_picture_as_it_was_open_and_verify(tmp_path, photo):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Artist] = "Ada"
    profile = colour.code_point_profile(12, 13)
    Image.fromarray(photo).save(tmp_path / "a.jpg", exif=exif, icc_profile=profile, quality=50)
    data = codec.compress(tmp_path / "a.jpg", fallback="always")
    image = Image.open(io.BytesIO(data))
    before = dict(image.info)
    assert before["icc_profile"] == profile and image.getexif()[ExifTags.Base.Artist] == "Ada"
    assert image.size == photo.shape[:2] and image.getexif()[ExifTags.Base.Orientation] == 1
    image.load()
    assert image.info == before
    Image.open(io.BytesIO(data)).verify()
    damaged = bytearray(data)
    damaged[-9] ^= 1
    with pytest.raises(OSError, match="checksum"):
        Image.open(io.BytesIO(damaged)).verify()


def test_verify_notices_damage_anywhere_and_nothing_else(photo):
    image = Image.fromarray(photo)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    file = io.BytesIO()
    image.save(file, "LQC", quality=40)
    data = file.getvalue()
    Image.open(io.BytesIO(data)).verify()
    for place in (20, len(data) // 8, len(data) // 2, len(data) - 40, len(data) - 1):
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        with pytest.raises(OSError, match="corrupt|checksum|truncated"):
            Image.open(io.BytesIO(damaged)).verify()
    opened = Image.open(io.BytesIO(data))
    opened.verify()
    with pytest.raises(OSError, match="open it again"):
        opened.load()


@pytest.mark.parametrize("fallback", ["always", "never"])
def test_info_is_the_same_before_and_after_the_pixels_are_there(tmp_path, photo, fallback):
    exif = Image.Exif()
    exif[ExifTags.Base.Artist], exif[ExifTags.Base.Orientation] = "Ada", 6
    for suffix, options in ((".jpg", {"quality": 30, "dpi": (300, 300)}), (".png", {"dpi": (150, 150)})):
        Image.fromarray(photo).save(
            tmp_path / f"a{suffix}", exif=exif, xmp=b"<x:xmpmeta/>", **options
        ) if suffix == ".jpg" else (Image.fromarray(photo).save(tmp_path / f"a{suffix}", exif=exif, **options))
        (tmp_path / "a.bin").write_bytes(codec.compress(tmp_path / f"a{suffix}", 40, fallback=fallback))
        with Image.open(tmp_path / "a.bin") as image:
            before = dict(image.info)
            image.load()
            assert (
                image.info == before
                and image.getexif()[ExifTags.Base.Artist] == "Ada"
                and image.size == photo.shape[:2]
            )
        assert {"exif", "dpi", "quality"} <= set(before) and ("xmp" in before) == (suffix == ".jpg")


def test_a_hostile_stored_picture_is_opened_by_no_other_reader():
    for payload in (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"\x89PNG\r\n\x1a\n" + bytes(30),
        b"\xff\xd8\xff\xe1\0\3x",
    ):
        sections = dict.fromkeys(("exif", "icc", "xmp", "packed_icc", "iptc", "packed_exif", "resolution"))
        assert pillow_plugin._info({**sections, "stored": payload}, False) == {}
