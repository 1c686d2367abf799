"""The border to files: every mode in, eight bits out, nothing half written, one clear line where it fails."""

import io
import os
import random
import struct
import warnings
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from codec import bitstream, image_io
from codec.errors import CodecError, Corrupt, ImageError
from codec.image_io import decode_alpha, encode_alpha, read_picture, save_picture, to_image


def gradient(height=40, width=56):
    """uint8 (H, W, 3), smooth, different in every channel and without any symmetry."""
    rows, columns = np.mgrid[:height, :width]
    channels = [rows * 5 + columns, 200 - rows * 2 - columns, columns * 3 + 20]
    return np.stack(channels, axis=-1).clip(0, 255).astype(np.uint8)


def soft_disc(height=40, width=56):
    """uint8 (H, W): 0 outside of a disc, 255 inside, a ramp between."""
    rows, columns = np.mgrid[:height, :width]
    distance = np.hypot(rows - height / 2, columns - width / 2)
    return ((height / 2.5 - distance) * 64).clip(0, 255).astype(np.uint8)


def saved(image, format, **options):
    """The image as a file in memory, opened again."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return Image.open(io.BytesIO(file.getvalue()))


def visible(picture, wanted):
    """Largest difference of colour where something can be seen."""
    seen = np.ones(wanted.shape[:2], bool) if picture.alpha is None else picture.alpha > 0
    return np.abs(picture.pixels.astype(int) - wanted)[seen].max()


@pytest.fixture
def small_strips(monkeypatch):
    """Pictures of a few rows are converted in several strips, as large ones are."""
    monkeypatch.setattr(image_io, "_STRIP_PIXELS", 56 * 8)


# What may be read


def test_path_image_and_array_give_the_same_picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(gradient()).save(path)
    for source in (path, str(path), Image.open(path), Image.fromarray(gradient()), gradient()):
        picture = read_picture(source)
        assert picture.pixels.dtype == np.uint8
        assert picture.pixels.flags.c_contiguous and picture.pixels.flags.writeable
        np.testing.assert_array_equal(picture.pixels, gradient())
        assert (picture.alpha, picture.grey, picture.icc, picture.exif) == (None, False, None, None)


def test_arrays_may_be_grey_or_rgba_and_in_any_memory_order():
    grey = read_picture(gradient()[..., 0])
    assert grey.grey and (grey.pixels == gradient()[..., :1]).all()
    rgba = np.dstack([gradient(), soft_disc()])
    picture = read_picture(np.asfortranarray(rgba)[::-1])
    np.testing.assert_array_equal(picture.alpha, soft_disc()[::-1])
    assert visible(picture, gradient()[::-1]) == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (40, 56)])
def test_sources_are_left_as_they_were(size):
    rgba = np.dstack([gradient(*size), np.zeros(size, np.uint8)])
    array, image = rgba.copy(), Image.fromarray(rgba)
    read_picture(array)
    read_picture(image)
    np.testing.assert_array_equal(array, rgba)
    np.testing.assert_array_equal(image, rgba)


def test_read_only_array_becomes_writable():
    array = gradient()
    array.flags.writeable = False
    assert read_picture(array).pixels.flags.writeable


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.int32),
        np.zeros((4, 4, 3), np.complex64),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((4,), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((), np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_of_other_shapes_and_types_are_refused(array):
    with pytest.raises(ImageError, match="needed bool, uint8 or uint16"):
        read_picture(array)


@pytest.mark.parametrize("thing", [None, 5, b"bytes", [[0]], object()])
def test_other_things_are_refused(thing):
    with pytest.raises(ImageError, match=type(thing).__name__):
        read_picture(thing)


# Modes


@pytest.mark.parametrize("mode", ["RGB", "RGBX", "RGBA", "RGBa", "HSV", "YCbCr", "CMYK", "LAB"])
def test_colour_modes_keep_the_colours(mode, small_strips):
    picture = read_picture(Image.fromarray(gradient()).convert(mode))
    assert not picture.grey and picture.alpha is None and picture.icc is None
    # Eight bits of hue, chroma or L*a*b* are coarser than eight bits of RGB, L*a*b* by far in dark green.
    assert visible(picture, gradient()) <= {"HSV": 6, "YCbCr": 3, "LAB": 24}.get(mode, 0)
    assert np.abs(picture.pixels.astype(int) - gradient()).mean() < 2


@pytest.mark.parametrize("mode", ["L", "LA", "La", "1"])
def test_grey_modes_are_grey(mode, small_strips):
    grey = gradient()[..., 0] if mode != "1" else (gradient()[..., 0] > 99) * np.uint8(255)
    image = Image.fromarray(grey).convert("LA" if mode == "La" else mode).convert(mode)
    picture = read_picture(image)
    assert picture.grey and picture.alpha is None
    np.testing.assert_array_equal(picture.pixels, np.dstack([grey] * 3))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGBa", "La"])
def test_alpha_modes_keep_the_alpha(mode, small_strips):
    base = Image.fromarray(gradient()).convert("L" if mode[0] == "L" else "RGB")
    wanted = np.asarray(base.convert("RGB"))
    base.putalpha(Image.fromarray(soft_disc()))
    picture = read_picture(base.convert(mode))
    np.testing.assert_array_equal(picture.alpha, soft_disc())
    assert picture.grey == (mode[0] == "L")
    if mode in ("RGBA", "LA"):  # premultiplied colours are rounded
        assert visible(picture, wanted) == 0


@pytest.mark.parametrize("mode", ["P", "L", "1", "RGB"])
def test_transparent_colours_become_alpha(mode, small_strips):
    image = Image.new(mode, (56, 40), 0)
    white = {"RGB": (255, 255, 255), "P": 1}.get(mode, 255)
    if mode == "P":
        image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(white, (8, 4, 30, 35))
    picture = read_picture(saved(image, "PNG", transparency=(0, 0, 0) if mode == "RGB" else 0))
    opaque = np.zeros((40, 56), bool)
    opaque[4:35, 8:30] = True
    np.testing.assert_array_equal(picture.alpha, opaque * 255)
    assert picture.grey == (mode in ("L", "1"))
    assert (picture.pixels[opaque] == ((200, 100, 50) if mode == "P" else 255)).all()


def test_palette_gives_its_colours(small_strips):
    image = Image.fromarray(gradient()).quantize(64)
    picture = read_picture(image)
    np.testing.assert_array_equal(picture.pixels, image.convert("RGB"))
    assert picture.alpha is None and not picture.grey


@pytest.mark.parametrize("mode", ["P", "PA"])
def test_palette_with_soft_transparency_keeps_it(mode, small_strips):
    image = Image.fromarray((np.arange(40 * 56) % 4).astype(np.uint8).reshape(40, 56))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    levels = bytes([255, 128, 1, 77])
    image.info["transparency"] = levels
    if mode == "PA":
        image = image.convert("PA")
    else:
        image = saved(image, "PNG")
        assert image.mode == "P"
    picture = read_picture(image)
    np.testing.assert_array_equal(picture.alpha, np.resize(np.frombuffer(levels, np.uint8), (40, 56)))
    assert (picture.pixels[0, :4] == [[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]).all()


def deep_samples():
    """uint16 (256, 256): every value there is."""
    return np.arange(2**16, dtype=np.uint16).reshape(256, 256)


def divided_by_257():
    return np.array([int(value / 257 + 0.5) for value in range(2**16)], np.uint8).reshape(256, 256)


@pytest.mark.parametrize("source", ["I;16", "I;16B", "I", "PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(source, small_strips):
    deep = Image.fromarray(deep_samples())
    if source in ("PNG", "TIFF"):
        image = saved(deep, source)
    elif source == "I;16B":
        image = Image.frombytes("I;16B", (256, 256), deep_samples().astype(">u2").tobytes())
    else:
        image = deep.convert(source)
    picture = read_picture(image)
    assert picture.grey and picture.alpha is None
    np.testing.assert_array_equal(picture.pixels, np.dstack([divided_by_257()] * 3))


def test_sixteen_bits_keep_their_transparent_value():
    picture = read_picture(saved(Image.fromarray(deep_samples()), "PNG", transparency=300))
    assert picture.grey
    np.testing.assert_array_equal(picture.alpha, np.where(deep_samples() == 300, 0, 255))


def test_floats_are_from_0_to_1_or_to_255(small_strips):
    ramp = np.linspace(0, 1, 40 * 56, dtype=np.float32).reshape(40, 56)
    wanted = np.floor(ramp.astype(float) * 255 + 0.5)
    for values in (ramp, ramp * 255):
        picture = read_picture(saved(Image.fromarray(values), "TIFF"))
        assert picture.grey
        assert np.abs(picture.pixels[..., 0] - wanted).max() == 0


@pytest.mark.parametrize(
    ("dtype", "value"),
    [(np.int32, -1), (np.int32, 65536)] + [(np.float32, value) for value in (-0.6, 400, "nan", "inf")],
)
def test_samples_without_agreed_meaning_are_refused(dtype, value, small_strips):
    samples = np.ones((40, 56), dtype)
    samples[20, 20] = value
    with pytest.raises(ImageError, match="samples from .* needed 0 to"):
        read_picture(Image.fromarray(samples))


def test_floats_a_little_outside_of_their_range_are_clipped(small_strips):
    ramp = np.linspace(0, 1, 40 * 56, dtype=np.float32).reshape(40, 56)
    ramp[0, 0], ramp[-1, -1] = -0.02, 1.04
    wanted = np.floor(ramp.clip(0, 1).astype(float) * 255 + 0.5)
    picture = read_picture(saved(Image.fromarray(ramp), "TIFF"))
    np.testing.assert_array_equal(picture.pixels[..., 0], wanted)


@pytest.mark.parametrize(("dtype", "white"), [(np.uint16, 65535), (np.float32, 1)])
def test_a_tiff_in_which_0_is_white_is_no_negative(dtype, white, small_strips):
    stored = np.linspace(0, white, 40 * 56).reshape(40, 56).astype(dtype)
    data = bytearray(saved(Image.fromarray(stored), "TIFF").fp.getvalue())
    entry = data.index(struct.pack("<HHIH", 262, 3, 1, 1))  # PhotometricInterpretation: BlackIsZero
    data[entry + 8] = 0
    picture = read_picture(io.BytesIO(data))
    wanted = np.floor((white - stored.astype(float)) * 255 / white + 0.5)
    assert np.abs(picture.pixels[..., 0] - wanted).max() <= (dtype is np.float32)


@pytest.mark.parametrize("depth", [2, 4])
def test_transparent_grey_is_compared_at_the_depth_of_the_file(depth):
    samples = np.arange(16, dtype=np.uint8)[None] % 2**depth
    packed = np.packbits(np.unpackbits(samples[0, :, None], axis=1)[:, 8 - depth :])

    def chunk(kind, contents):
        return struct.pack(">I", len(contents)) + kind + contents + struct.pack(">I", zlib.crc32(kind + contents))

    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 1, depth, 0, 0, 0, 0))
    png += chunk(b"tRNS", struct.pack(">H", 3))
    png += chunk(b"IDAT", zlib.compress(b"\0" + packed.tobytes())) + chunk(b"IEND", b"")
    picture = read_picture(io.BytesIO(png))
    np.testing.assert_array_equal(picture.alpha, np.where(samples == 3, 0, 255))
    seen = samples != 3
    np.testing.assert_array_equal(picture.pixels[seen][:, 0], samples[seen] * (255 // (2**depth - 1)))


@pytest.mark.parametrize(("gamma", "wanted"), [(100_000, 188), (45_455, 128)])
def test_gamma_alone_is_brought_to_srgb(gamma, wanted):
    file = io.BytesIO()
    Image.new("RGB", (9, 7), (0, 128, 255)).save(file, "PNG")
    contents = struct.pack(">I", gamma)
    chunk = struct.pack(">I", 4) + b"gAMA" + contents + struct.pack(">I", zlib.crc32(b"gAMA" + contents))
    data = file.getvalue()
    picture = read_picture(io.BytesIO(data[:33] + chunk + data[33:]))  # behind IHDR
    assert (picture.pixels == (0, wanted, 255)).all()  # half of the light is level 188: IEC 61966-2-1


def test_a_bmp_whose_fourth_bytes_are_all_zero_is_opaque():
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, 56, -40, 1, 32, 3, 0, 0, 0, 0, 0) + masks + bytes(52)
    samples = np.dstack([gradient()[..., ::-1], np.zeros((40, 56), np.uint8)]).tobytes()
    file = b"BM" + struct.pack("<IHHI", 14 + 108 + len(samples), 0, 0, 14 + 108) + header + samples
    assert Image.open(io.BytesIO(file)).mode == "RGBA"
    picture = read_picture(io.BytesIO(file))
    assert picture.alpha is None
    np.testing.assert_array_equal(picture.pixels, gradient())


def test_colours_are_kept_where_nothing_would_be_visible():
    picture = read_picture(np.dstack([gradient(), np.zeros((40, 56), np.uint8)]))
    np.testing.assert_array_equal(picture.pixels, gradient())
    assert not picture.alpha.any()


def test_animations_give_their_first_frame(tmp_path):
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("red", "lime", "blue")]
    for name in ("first.gif", "first.png", "first.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert (read_picture(tmp_path / name).pixels == (255, 0, 0)).all()


# EXIF


def as_stored(upright, orientation):
    """The pixels that a camera stores, from the table of the EXIF standard (2.32, 4.6.5.1.4, Orientation).

    The standard says where on the upright picture the first row and the first column of the stored one are.
    """
    first_row, first_column = {
        1: ("top", "left"),
        2: ("top", "right"),
        3: ("bottom", "right"),
        4: ("bottom", "left"),
        5: ("left", "top"),
        6: ("right", "top"),
        7: ("right", "bottom"),
        8: ("left", "bottom"),
    }[orientation]
    height, width = upright.shape[:2]
    rows_run_down = first_row in ("top", "bottom")
    stored = np.zeros((height, width, 3) if rows_run_down else (width, height, 3), np.uint8)
    for row in range(stored.shape[0]):
        for column in range(stored.shape[1]):
            place = {}
            for side, steps in ((first_row, row), (first_column, column)):
                if side in ("top", "bottom"):
                    place["row"] = steps if side == "top" else height - 1 - steps
                else:
                    place["column"] = steps if side == "left" else width - 1 - steps
            stored[row, column] = upright[place["row"], place["column"]]
    return stored


def exif_with(**tags):
    exif = Image.Exif()
    for tag, value in tags.items():
        exif[{"orientation": 0x0112, "artist": 0x013B, "make": 0x010F}[tag]] = value
    return exif


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_orientation_is_applied(orientation, format):
    upright = gradient(10, 14)
    stored = Image.fromarray(as_stored(upright, orientation))
    options = {"lossless": True} if format == "WEBP" else {}
    image = saved(stored, format, exif=exif_with(orientation=orientation, artist="Ada"), **options)
    picture = read_picture(image)
    np.testing.assert_array_equal(picture.pixels, upright)
    kept = Image.Exif()
    kept.load(picture.exif)
    assert kept.pop(0x0112, 1) == 1 and dict(kept) == {0x013B: "Ada"}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_turns_alpha_too(orientation):
    upright = np.dstack([gradient(10, 14), soft_disc(10, 14) // 2 + np.arange(14, dtype=np.uint8) + 1])
    stored = as_stored(upright[..., :3], orientation)
    alpha = as_stored(np.dstack([upright[..., 3]] * 3), orientation)[..., :1]
    image = saved(Image.fromarray(np.dstack([stored, alpha])), "PNG", exif=exif_with(orientation=orientation))
    picture = read_picture(image)
    np.testing.assert_array_equal(np.dstack([picture.pixels, picture.alpha]), upright)


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_unknown_orientations_mean_upright(orientation):
    picture = read_picture(saved(Image.fromarray(gradient()), "PNG", exif=exif_with(orientation=orientation)))
    np.testing.assert_array_equal(picture.pixels, gradient())
    assert picture.exif is None


THUMBNAIL = b"\xff\xd8 the thumbnail, before cropping \xff\xd9"


def camera_exif():
    """EXIF as cameras write it: make, orientation 6, sensitivity, position, and a thumbnail."""

    def directory(entries, following):
        packed = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
        return struct.pack("<H", len(entries)) + packed + struct.pack("<I", following)

    def number(value):
        return struct.pack("<I", value)

    size = 2 + 4 * 12 + 4
    exif, gps, second = 8 + size, 8 + size + 18, 8 + size + 36
    first_directory = directory(
        [
            (0x010F, 2, 4, b"Cam\0"),
            (0x0112, 3, 1, struct.pack("<HH", 6, 0)),
            (0x8769, 4, 1, number(exif)),
            (0x8825, 4, 1, number(gps)),
        ],
        second,
    )
    exif_directory = directory([(0x8827, 3, 1, struct.pack("<HH", 400, 0))], 0)
    gps_directory = directory([(0x0001, 2, 2, b"N\0\0\0")], 0)
    thumbnail_directory = directory([(0x0201, 4, 1, number(second + 30)), (0x0202, 4, 1, number(len(THUMBNAIL)))], 0)
    directories = first_directory + exif_directory + gps_directory + thumbnail_directory
    return b"Exif\0\0II*\0\x08\0\0\0" + directories + THUMBNAIL


def test_kept_exif_is_upright_and_has_no_thumbnail():
    stored = Image.fromarray(gradient())
    image = saved(stored, "JPEG", exif=camera_exif(), quality=100, subsampling=0)
    assert image.getexif().get_ifd(ExifTags.IFD.IFD1)[0x0202] == len(THUMBNAIL)
    picture = read_picture(image)
    assert picture.pixels.shape == (56, 40, 3)
    assert picture.exif[:2] in (b"II", b"MM")
    assert THUMBNAIL not in picture.exif
    kept = to_image(picture.pixels, exif=picture.exif).getexif()
    assert kept[0x010F] == "Cam"
    assert kept.get_ifd(0x8769) == {0x8827: 400}
    assert kept.get_ifd(0x8825) == {1: "N"}
    assert not kept.get_ifd(ExifTags.IFD.IFD1)
    assert kept[0x0112] == 1
    # The source still says what it said.
    assert image.getexif()[0x0112] == 6


def test_exif_of_tiff_does_not_describe_the_tiff():
    picture = read_picture(saved(Image.fromarray(gradient()), "TIFF", exif=exif_with(make="Cam")))
    kept = Image.Exif()
    kept.load(picture.exif)
    assert dict(kept) == {0x010F: "Cam"}
    assert read_picture(saved(Image.fromarray(gradient()), "TIFF")).exif is None


@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\x7f", camera_exif()[:40]])
def test_broken_exif_costs_nothing_but_itself(exif):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about the damage
        picture = read_picture(saved(Image.fromarray(gradient()), "PNG", exif=exif))
    assert sorted(picture.pixels.shape) == sorted(gradient().shape)


# ICC


def icc_profile(space, tags):
    """A version 2 profile of the given colour space from (signature, contents); ICC.1:2001-04."""
    table, contents = struct.pack(">I", len(tags)), b""
    offset = 128 + 4 + 12 * len(tags)
    for signature, content in tags:
        content += bytes(-len(content) % 4)
        table += struct.pack(">4sII", signature, offset + len(contents), len(content))
        contents += content
    pcs = b"Lab " if space == b"CMYK" else b"XYZ "
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    header = struct.pack(">I4sI4s4s4s", offset + len(contents), bytes(4), 0x02100000, kind, space, pcs)
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)  # D50
    return header.ljust(128, b"\0") + table + contents


def xyz(*values):
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def gamma(value):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))


WHITE = (b"wtpt", xyz(0.9642, 1.0, 0.8249))
# Primaries of Adobe RGB (1998), adapted to D50.
WIDE = icc_profile(
    b"RGB ",
    [
        WHITE,
        (b"rXYZ", xyz(0.60974, 0.31111, 0.01947)),
        (b"gXYZ", xyz(0.20528, 0.62567, 0.06087)),
        (b"bXYZ", xyz(0.14919, 0.06322, 0.74457)),
        *((name, gamma(2.2)) for name in (b"rTRC", b"gTRC", b"bTRC")),
    ],
)
GREY = icc_profile(b"GRAY", [WHITE, (b"kTRC", gamma(1.0))])


def cmyk_profile():
    """A press with four inks that are all grey: anything but the usual idea of cyan."""
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    ramp = bytes(range(256))
    corners = b"".join(bytes([255 - 255 * ink.bit_count() // 4, 128, 128]) for ink in range(16))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4 + corners + ramp * 3
    return icc_profile(b"CMYK", [WHITE, (b"A2B0", table)])


def test_profiles_are_kept_unless_they_say_srgb():
    image = Image.fromarray(gradient())
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert read_picture(saved(image, "PNG", icc_profile=srgb)).icc is None
    assert read_picture(saved(image, "PNG", icc_profile=WIDE)).icc == WIDE
    assert read_picture(saved(image.convert("P"), "PNG", icc_profile=WIDE)).icc == WIDE
    grey = read_picture(saved(image.convert("L"), "PNG", icc_profile=GREY))
    assert grey.icc == GREY and grey.grey


def test_profiles_of_another_colour_space_are_dropped():
    image = Image.fromarray(gradient())
    for icc in (GREY, cmyk_profile(), b"no profile at all"):
        picture = read_picture(saved(image, "JPEG", icc_profile=icc))
        assert picture.icc is None and not picture.grey


def test_grey_picture_with_a_colour_profile_counts_as_colour():
    picture = read_picture(saved(Image.fromarray(gradient()[..., 0]), "JPEG", icc_profile=WIDE))
    assert not picture.grey and picture.icc == WIDE


def test_broken_profile_does_not_cost_the_picture():
    broken = WIDE[:200] + bytes(len(WIDE) - 200)
    picture = read_picture(saved(Image.fromarray(gradient()), "PNG", icc_profile=broken))
    np.testing.assert_array_equal(picture.pixels, gradient())


def test_cmyk_goes_through_its_profile(small_strips):
    cyan = Image.new("CMYK", (56, 40), (255, 0, 0, 0))
    assert (read_picture(saved(cyan, "TIFF")).pixels == (0, 255, 255)).all()
    picture = read_picture(saved(cyan, "TIFF", icc_profile=cmyk_profile()))
    assert picture.icc is None and not picture.grey
    assert np.ptp(picture.pixels, axis=2).max() <= 2  # grey ink
    assert 150 < picture.pixels.mean() < 220
    # Unusable profiles leave the plain conversion.
    assert (read_picture(saved(cyan, "TIFF", icc_profile=GREY)).pixels == (0, 255, 255)).all()


def test_profile_beyond_the_limit_is_applied_instead_of_kept(monkeypatch, small_strips):
    image = Image.fromarray(np.dstack([gradient(), soft_disc()]))
    monkeypatch.setattr(bitstream, "MAX_ICC", 100)
    picture = read_picture(saved(image, "PNG", icc_profile=WIDE))
    assert picture.icc is None
    np.testing.assert_array_equal(picture.alpha, soft_disc())
    assert visible(picture, gradient()) > 5


# Alpha


def planes():
    rng = np.random.default_rng(3)
    yield "opaque", np.full((5, 7), 255, np.uint8)
    yield "nothing", np.zeros((5, 7), np.uint8)
    yield "one pixel", np.array([[77]], np.uint8)
    yield "mask", (soft_disc() > 100) * np.uint8(255)
    yield "soft", soft_disc()
    yield "noise", rng.integers(0, 256, (33, 65), dtype=np.uint8)
    yield "row", rng.integers(0, 256, (1, 999), dtype=np.uint8)
    yield "column", rng.integers(0, 2, (999, 1), dtype=np.uint8) * np.uint8(255)
    yield "view", soft_disc()[::-2, 1::3]


@pytest.mark.parametrize("alpha", dict(planes()).values(), ids=dict(planes()))
def test_alpha_returns_without_loss(alpha):
    data = encode_alpha(alpha)
    returned = decode_alpha(data, alpha.shape[1], alpha.shape[0])
    assert returned.dtype == np.uint8
    np.testing.assert_array_equal(returned, alpha)
    # What the container allows.
    assert 0 < len(data) <= 3 * alpha.size + 1024


def test_masks_are_stored_with_one_bit_a_pixel():
    assert encode_alpha((soft_disc() > 100) * np.uint8(255))[24] == 1
    assert encode_alpha(soft_disc())[24] == 8


def test_alpha_of_the_documented_example(root):
    text = (root / "codec" / "BITSTREAM.md").read_text(encoding="utf-8")
    lines = [line.split("|") for line in text.splitlines() if "| alpha: " in line]
    data = b"".join(bytes.fromhex(hexadecimal) for hexadecimal, _ in lines)
    wanted = np.full((2, 300), 255, np.uint8)
    wanted[:, :3] = (0, 0, 128)
    np.testing.assert_array_equal(decode_alpha(data, 300, 2), wanted)


def test_alpha_of_another_size_is_refused_before_it_is_decoded(monkeypatch):
    data = encode_alpha(soft_disc())
    monkeypatch.setattr(image_io.PngImagePlugin, "PngImageFile", None)  # would fail if it were tried
    for width, height in ((56, 41), (55, 40), (40, 56), (1, 1)):
        with pytest.raises(Corrupt, match=f"{width} x {height}"):
            decode_alpha(data, width, height)


def test_other_pictures_are_no_alpha():
    plane = Image.fromarray(soft_disc())
    for format, image in (
        ("PNG", plane.convert("RGB")),
        ("PNG", plane.convert("LA")),
        ("PNG", plane.convert("P")),
        ("PNG", Image.fromarray(soft_disc().astype(np.uint16))),
        ("JPEG", plane),
        ("BMP", plane),
    ):
        file = io.BytesIO()
        image.save(file, format)
        with pytest.raises(Corrupt):
            decode_alpha(file.getvalue(), 56, 40)


def test_alpha_with_further_chunks_is_refused():
    data = encode_alpha(soft_disc())
    end = data.index(b"IEND") - 4
    text = b"\0\0\0\x04tEXta\0bc" + b"\0\0\0\0"
    for changed in (data[:33] + text + data[33:], data[:end] + text + data[end:], data + text, data + b"\0"):
        with pytest.raises(Corrupt):
            decode_alpha(changed, 56, 40)


def test_every_truncation_of_alpha_is_refused():
    data = encode_alpha(soft_disc())
    for length in range(len(data)):
        with pytest.raises(Corrupt):
            decode_alpha(data[:length], 56, 40)


def test_hostile_alpha_ends_in_a_plane_or_corrupt():
    rng = random.Random(5)
    originals = [encode_alpha(soft_disc()), encode_alpha((soft_disc() > 9) * np.uint8(255))]
    refused = 0
    for _ in range(500):
        data = bytearray(rng.choice(originals))
        for _ in range(rng.randrange(1, 5)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            assert decode_alpha(bytes(data), 56, 40).shape == (40, 56)
        except Corrupt:
            refused += 1
    assert refused > 100


def test_colour_under_transparent_pixels_is_a_smooth_fill(small_strips):
    alpha = soft_disc(80, 112)
    colours = gradient(80, 112)
    noise = np.random.default_rng(1).integers(0, 256, colours.shape, dtype=np.uint8)
    rgba = np.dstack([np.where(alpha[..., None] > 0, colours, noise), alpha])
    picture = read_picture(rgba)
    assert visible(picture, colours) == 0
    # Nothing jumps, neither within the fill nor across its edge, and no colour is invented.
    steps = np.abs(np.diff(picture.pixels.astype(int), axis=1))
    assert steps.max() <= 24
    hidden = picture.pixels[alpha == 0]
    shown = picture.pixels[alpha > 0]
    assert (hidden >= shown.min(0)).all() and (hidden <= shown.max(0)).all()
    # Far fewer bytes than the noise, hardly more than the visible part.
    sizes = {}
    for name, pixels in (("filled", picture.pixels), ("noise", rgba[..., :3])):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG")
        sizes[name] = len(file.getvalue())
    assert sizes["filled"] < sizes["noise"] / 3


def test_fill_has_no_seams_between_strips(monkeypatch):
    rgba = np.dstack([gradient(200, 120), soft_disc(200, 120)])
    whole = read_picture(rgba).pixels.astype(int)
    monkeypatch.setattr(image_io, "_STRIP_PIXELS", 1)
    # Pillow rounds a level differently according to the shape of what it enlarges.
    assert np.abs(read_picture(rgba).pixels - whole).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (7, 1), (8, 8), (9, 17), (64, 65)])
def test_fill_copes_with_every_size_and_with_nothing_visible(size):
    pixels = gradient(*size)
    for alpha in (np.zeros(size, np.uint8), np.eye(*size, dtype=np.uint8)):
        picture = read_picture(np.dstack([pixels, alpha]))
        np.testing.assert_array_equal(picture.alpha, alpha)
        assert visible(picture, pixels) == 0 if alpha.any() else (picture.pixels == pixels).all()


def test_fill_of_grey_stays_grey():
    image = Image.fromarray(gradient()[..., 1])
    image.putalpha(Image.fromarray(soft_disc()))
    picture = read_picture(image)
    assert picture.grey and np.ptp(picture.pixels, axis=2).max() == 0


# Bad input


def refusal(source):
    with pytest.raises(ImageError) as caught:
        read_picture(source)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


def test_unreadable_files_end_in_one_line_naming_them(tmp_path):
    empty, text, binary = tmp_path / "empty.png", tmp_path / "text.png", tmp_path / "picture.bin"
    empty.touch()
    text.write_text("this is not a picture")
    binary.write_bytes(bitstream.MAGIC + b"\x01\x00")
    for path, reason in (
        (tmp_path / "missing.png", "No such file"),
        (tmp_path, "directory"),
        (empty, "empty"),
        (text, "not a picture"),
        (binary, "already compressed"),
        (Path("a\0b.png"), "null"),
    ):
        message = refusal(path)
        assert message.startswith(f"{path}: ") and reason in message


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM"])
def test_truncated_pictures_are_refused(tmp_path, format):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"picture.{format.lower()}"
    Image.fromarray(noise).save(path, format)
    data = path.read_bytes()
    for length in (3, 20, len(data) // 2):
        path.write_bytes(data[:length])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about the damage
            assert str(path) in refusal(path)


def test_truncated_picture_that_was_already_opened_is_refused(tmp_path):
    path = tmp_path / "cut.jpg"
    Image.fromarray(gradient()).save(path, quality=100)
    path.write_bytes(path.read_bytes()[:-500])
    with Image.open(path) as image:
        assert str(path) in refusal(image)


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_pictures_may_come_through_a_pipe():
    file = io.BytesIO()
    Image.fromarray(gradient()).save(file, "PNG")
    reader, writer = os.pipe()
    os.write(writer, file.getvalue())  # few enough bytes to wait inside the pipe
    os.close(writer)
    np.testing.assert_array_equal(read_picture(f"/dev/fd/{reader}").pixels, gradient())
    os.close(reader)


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0, 3), (0, 0), (0, 5, 4)])
def test_empty_arrays_are_refused(shape):
    assert "empty" in refusal(np.zeros(shape, np.uint8))


def test_empty_images_are_refused():
    assert "empty" in refusal(Image.new("RGB", (0, 5)))


def test_too_large_pictures_are_refused_before_they_are_loaded(tmp_path, monkeypatch):
    assert "too large" in refusal(np.broadcast_to(np.uint8(0), (1, 65536, 3)))
    assert "too large" in refusal(np.broadcast_to(np.uint8(0), (20000, 20000)))
    path = tmp_path / "wide.png"
    Image.new("1", (65536, 1)).save(path)
    monkeypatch.setattr(Image.Image, "load", None)
    message = refusal(path)
    assert str(path) in message and "too large: 65536 x 1" in message


def test_the_limit_is_ours_and_not_that_of_pillow(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    Image.fromarray(gradient()).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # twice as much is an error of Image.open
    assert read_picture(path).pixels.shape == (40, 56, 3) and Image.MAX_IMAGE_PIXELS == 100
    for source in (path, io.BytesIO(path.read_bytes()), Image.fromarray(gradient()), gradient()):
        assert read_picture(source, max_pixels=40 * 56).pixels.shape == (40, 56, 3)
        if hasattr(source, "seek"):
            source.seek(0)
        with pytest.raises(ImageError, match="too large: 56 x 40 pixels; at most 2239 in all"):
            read_picture(source, max_pixels=40 * 56 - 1)


def test_alpha_of_large_pictures_is_no_decompression_bomb(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    np.testing.assert_array_equal(decode_alpha(encode_alpha(soft_disc()), 56, 40), soft_disc())


def test_mutated_files_end_in_a_picture_or_an_image_error(tmp_path):
    rng = random.Random(11)
    image = Image.fromarray(gradient(16, 16))
    for format in ("PNG", "JPEG", "GIF", "TIFF", "BMP"):
        file = io.BytesIO()
        metadata = {} if format in ("GIF", "BMP") else {"exif": camera_exif(), "icc_profile": WIDE}
        image.save(file, format, **metadata)
        for index in range(60):
            data = bytearray(file.getvalue())
            for _ in range(rng.randrange(1, 6)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            path = tmp_path / f"{index}.{format}"
            path.write_bytes(data)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's, about the damage
                try:
                    picture = read_picture(path)
                except ImageError as error:
                    assert "\n" not in str(error)
                else:
                    assert picture.pixels.dtype == np.uint8 and picture.pixels.shape[2] == 3


# Back to Pillow and to files


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("alpha", [None, soft_disc()], ids=["opaque", "alpha"])
def test_to_image_has_the_mode_of_the_picture(grey, alpha, small_strips):
    pixels = np.dstack([gradient()[..., 0]] * 3) if grey else gradient()
    image = to_image(pixels, alpha, grey, icc=WIDE, exif=b"II*\0\x08\0\0\0\0\0\0\0\0\0")
    assert image.mode == ("L" if grey else "RGB") + ("" if alpha is None else "A")
    assert image.info["icc_profile"] == WIDE and image.info["exif"].startswith(b"Exif\0\0II")
    back = read_picture(image)
    assert visible(back, pixels) == 0
    assert back.alpha is None if alpha is None else (back.alpha == alpha).all()


def test_to_image_rounds_the_mean_of_grey_channels():
    pixels = np.array([[[1, 1, 2], [1, 2, 2], [255, 255, 255], [0, 0, 1], [254, 255, 255]]], np.uint8)
    assert np.asarray(to_image(pixels, grey=True)).tolist() == [[1, 2, 255, 0, 255]]


def test_a_png_is_made_by_runs_where_that_costs_hardly_anything(photo):
    i, j = np.mgrid[:128, :192]
    pattern = np.repeat(255 * ((i + 2 * j) // 3 % 2)[..., None], 3, axis=2).astype(np.uint8)
    for pixels, strategy in ((photo, zlib.Z_RLE), (pattern, zlib.Z_FILTERED)):
        for channels in (3, 1):
            image = Image.fromarray(pixels if channels == 3 else pixels[..., 0])
            found, _ = image_io.encode_picture(image.copy(), ".png")
            sizes = {}
            for each in (zlib.Z_RLE, zlib.Z_FILTERED):
                file = io.BytesIO()
                image.save(file, "PNG", compress_type=each)
                sizes[each] = file.tell()
                assert (file.getvalue() == found) == (each == strategy)
            assert len(found) < 1.06 * sizes[zlib.Z_FILTERED]
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(found))), np.asarray(image))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("extension", sorted(image_io.FORMATS))
def test_every_mode_can_be_saved_in_every_format(tmp_path, extension, mode):
    if extension == ".jxl":
        pytest.importorskip("pillow_jxl")  # of the extra eval
    image = Image.fromarray(gradient()).convert(mode.removesuffix("A"))
    if "A" in mode:
        image.putalpha(Image.fromarray(soft_disc()))
    path = tmp_path / f"picture{extension.upper()}"
    save_picture(image, path)
    assert os.listdir(tmp_path) == [path.name]
    back = Image.open(path)
    assert back.size == image.size
    form = image_io.FORMATS[extension]
    if "RGBA" in form.modes:
        wanted = image.convert("RGBA")
    else:
        white = Image.new("RGBA", image.size, "white")
        wanted = Image.alpha_composite(white, image.convert("RGBA"))
    difference = np.abs(np.asarray(back.convert("RGBA")).astype(int) - np.asarray(wanted))
    seen = np.asarray(wanted)[..., 3] > 0  # lossless WebP may forget what nobody sees
    if extension == ".pgm":
        difference[..., :3] = np.abs(np.asarray(back).astype(int) - np.asarray(wanted.convert("L")))[..., None]
    tolerance = 10 if form.lossy else 1 if "A" in mode and "RGBA" not in form.modes else 0
    assert difference[seen].max() <= tolerance and difference[..., 3].max() <= tolerance // 2
    if {"L", "RGB"} <= set(form.modes):
        assert back.mode[0] == mode[0]
    else:
        assert back.mode[0] == form.modes[0][0]


@pytest.mark.parametrize("extension", [".png", ".jpg", ".webp", ".tif"])
def test_metadata_is_saved_where_the_format_has_room(tmp_path, extension):
    exif = exif_with(artist="Ada").tobytes().removeprefix(b"Exif\0\0")
    save_picture(to_image(gradient(), icc=WIDE, exif=exif), tmp_path / f"picture{extension}")
    with Image.open(tmp_path / f"picture{extension}") as back:
        assert back.info["icc_profile"] == WIDE
        assert back.getexif()[0x013B] == "Ada"
    save_picture(to_image(gradient()), tmp_path / f"bare{extension}")
    with Image.open(tmp_path / f"bare{extension}") as back:
        assert not back.info.get("icc_profile") and 0x013B not in back.getexif()


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # about the damage
@pytest.mark.parametrize(
    "exif", [b"nonsense", b"II*\0", b"MM\0*\0\0\0\x08\xff\xff", b"II*\0\x08\0\0\0" + bytes(70_000)]
)
def test_exif_that_cannot_be_read_or_kept_costs_no_picture(tmp_path, exif):
    image = to_image(gradient(), exif=exif)
    dict(image.getexif())
    image.info["exif"] = b"Exif\0\0" + exif
    for extension in image_io.FORMATS:
        if extension == ".jxl" and find_spec("pillow_jxl") is None:
            continue
        save_picture(image, tmp_path / f"picture{extension}")
        with Image.open(tmp_path / f"picture{extension}") as back:
            assert back.size == image.size


@pytest.mark.parametrize("extension", [".bmp", ".ppm", ".webp"])
def test_formats_without_the_profile_get_srgb(tmp_path, extension):
    grey = extension == ".webp"  # which has profiles, but no grey
    pixels = np.dstack([gradient()[..., 0]] * 3) if grey else gradient()
    save_picture(to_image(pixels, grey=grey, icc=GREY if grey else WIDE), tmp_path / f"picture{extension}")
    with Image.open(tmp_path / f"picture{extension}") as back:
        assert not back.info.get("icc_profile")
        assert np.abs(np.asarray(back.convert("RGB")).astype(int) - pixels).max() > 5


@pytest.mark.parametrize("name", ["picture", "picture.xyz", "picture.bin", "picture.png.gif"])
def test_unknown_extensions_are_refused_with_the_known_ones(tmp_path, name):
    with pytest.raises(ImageError, match=r"\.png .*\.webp"):
        save_picture(Image.fromarray(gradient()), tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_other_modes_are_not_saved(tmp_path):
    with pytest.raises(ImageError, match="CMYK"):
        save_picture(Image.new("CMYK", (4, 4)), tmp_path / "picture.tif")


@pytest.mark.parametrize("old", [None, b"the old contents"])
@pytest.mark.parametrize("failure", [OSError(28, "No space left"), ValueError("two\nlines"), MemoryError()])
def test_failure_while_writing_leaves_nothing_behind(tmp_path, monkeypatch, old, failure):
    path = tmp_path / "picture.png"
    if old:
        path.write_bytes(old)

    def save(image, file, format, **options):
        file.write(b"half of a picture")
        raise failure

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(CodecError) as caught:
        save_picture(Image.fromarray(gradient()), path)
    reason = "not enough memory for 0.00224 megapixels" if isinstance(failure, MemoryError) else "cannot write: "
    assert str(caught.value).startswith(f"{path}: {reason}") and "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == (["picture.png"] if old else [])
    assert not old or path.read_bytes() == old


def test_pictures_too_big_for_a_format_leave_nothing_behind(tmp_path):
    for name, size in (("wide.webp", (16384, 1)), ("wide.jpg", (65535, 1))):
        with pytest.raises(ImageError, match=name):
            save_picture(Image.new("L", size), tmp_path / name)
    assert os.listdir(tmp_path) == []
