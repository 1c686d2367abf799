"""What files mean: colours in other words, 16 bits, grey, JPEG cut short, frames, formats of other packages."""

import importlib.util
import io
import struct
import sys
import zlib

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageCms

import codec
from cli.main import codec as codec_command
from codec import Codec, bitstream, colour, image_io, picture_files
from codec.errors import ImageError
from codec.image_io import Writing, encode_alpha, encode_picture, read_picture, to_image


def run(*arguments, status=0):
    result = CliRunner().invoke(codec_command, [str(argument) for argument in arguments], prog_name="codec")
    assert result.exit_code == status, result.output
    return result.output


def gradient(height=40, width=56):
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 5 + columns, 200 - rows - columns, columns * 3 + 20], axis=-1).clip(0, 255).astype(np.uint8)


def deep_gradient(height=40, width=56):
    """uint16 (H, W, 3) whose low bytes matter."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 1300 + columns * 17, 60000 - rows * 333 - columns, columns * 1111 + rows], axis=-1).astype(
        np.uint16
    )


def png(samples, depth, kind, *chunks):
    """A PNG of rows of bytes; ``kind`` is its colour type."""
    height, width = samples.shape[:2]
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)), *chunks]
    rows = samples.astype(">u2" if depth == 16 else np.uint8).reshape(height, -1)
    parts += [(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))), (b"IEND", b"")]
    return picture_files.PNG_START + b"".join(
        len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big") for name, body in parts
    )


def read(data, **how):
    return read_picture(io.BytesIO(data), **how)


def file_of(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def in_srgb(picture):
    """uint8 (H, W, 3) of a picture as a screen shows it."""
    image = Image.fromarray(picture.pixels)
    if picture.icc is None:
        return np.asarray(image).astype(int)
    profile = ImageCms.ImageCmsProfile(io.BytesIO(picture.icc))
    return np.asarray(ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"))).astype(int)


# Colours in other words

P3 = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
P3_COLOURS = [(200, 100, 50), (128, 128, 128), (90, 140, 110), (255, 255, 255)]  # inside of sRGB


def chrm(*numbers):
    return b"cHRM", struct.pack(">8I", *(round(100000 * n) for n in numbers))


def css_p3_to_srgb(levels):
    """CSS Color Module Level 4, section 18: display-p3 to sRGB."""
    light = np.array(levels) / 255
    light = np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4)
    to_xyz = [
        [0.4865709486, 0.2656676932, 0.1982172852],
        [0.2289745641, 0.6917385218, 0.0792869141],
        [0, 0.0451133819, 1.0439443689],
    ]
    from_xyz = [
        [3.2409699419, -1.5373831776, -0.4986107603],
        [-0.9692436363, 1.8759675015, 0.0415550574],
        [0.0556300797, -0.2039769589, 1.0569715142],
    ]
    light = np.array(from_xyz) @ np.array(to_xyz) @ light
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.abs(light) ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(
    "chunks",
    [[chrm(*P3)], [chrm(*P3), (b"gAMA", struct.pack(">I", 45455))], [(b"cICP", bytes([12, 13, 0, 1]))],
     [(b"gAMA", struct.pack(">I", 100000)), (b"cICP", bytes([12, 13, 0, 1]))]],
    ids=["cHRM", "cHRM and gAMA", "cICP", "cICP outranks gAMA"],
)  # fmt: skip
def test_primaries_become_a_profile(chunks):
    colours = np.array([P3_COLOURS], np.uint8)
    picture = read(png(colours, 8, 2, *chunks))
    np.testing.assert_array_equal(picture.pixels, colours)
    assert len(picture.icc) < 600
    assert np.abs(in_srgb(picture) - [[css_p3_to_srgb(each) for each in P3_COLOURS]]).max() <= 1


def test_primaries_of_srgb_are_none():
    colours = np.array([P3_COLOURS], np.uint8)
    srgb = chrm(*(n for pair in colour.SRGB for n in pair))
    linear = (b"gAMA", struct.pack(">I", 100000))
    for chunks in (
        [srgb],
        [(b"cICP", bytes([1, 13, 0, 1]))],
        [(b"cICP", bytes([1, 1, 0, 1]))],
        [chrm(*P3), (b"sRGB", b"\0")],
    ):
        picture = read(png(colours, 8, 2, *chunks))
        assert picture.icc is None and (picture.pixels == colours).all()
    assert read(png(colours, 8, 2, srgb, linear)).pixels[0, 1, 0] == 188  # gAMA still counts


def test_gamma_beside_other_primaries_is_in_the_profile():
    """Grey of half the light is 188 in sRGB, whatever the primaries of the same white."""
    picture = read(png(np.full((2, 2, 3), 128, np.uint8), 8, 2, chrm(*P3), (b"gAMA", struct.pack(">I", 100000))))
    assert np.abs(in_srgb(picture) - 188).max() <= 1
    assert (
        np.abs(
            in_srgb(read(png(np.full((2, 2), 128, np.uint8), 8, 0, chrm(*P3), (b"gAMA", struct.pack(">I", 100000)))))
            - 188
        ).max()
        <= 1
    )


@pytest.mark.parametrize(("transfer", "word"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused_with_a_word(transfer, word):
    with pytest.raises(ImageError, match=f"{word} .*convert"):
        read(png(gradient(), 8, 2, (b"cICP", bytes([9, transfer, 0, 1]))))
    avif = file_of(Image.fromarray(gradient()), "AVIF")
    place = avif.index(b"colrnclx") + 8
    with pytest.raises(ImageError, match=word):
        read(avif[:place] + struct.pack(">HH", 9, transfer) + avif[place + 4 :])


def test_primaries_of_tiff_and_avif_count_too():
    tiff = file_of(Image.fromarray(gradient()), "TIFF", tiffinfo={318: P3[:2], 319: P3[2:]})
    avif = file_of(Image.fromarray(gradient()), "AVIF", quality=100, subsampling="4:4:4")
    place = avif.index(b"colrnclx") + 8
    for data in (tiff, avif[:place] + struct.pack(">HH", 12, 13) + avif[place + 4 :]):
        picture = read(data)
        assert picture.icc and np.abs(in_srgb(picture) - picture.pixels.astype(int)).max() > 8
    assert read(avif).icc is None


def test_nonsense_primaries_cost_nothing():
    for numbers in (
        (0,) * 8,
        (0.3, 0.3) * 4,
        (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.0),
        (0.01, 0.9, 1, 0, 0, 1, 0, 0.001),
    ):
        assert (read(png(gradient(), 8, 2, chrm(*numbers))).pixels == gradient()).all()


# 16 bits


def tiff16(samples, order="<"):
    """An uncompressed TIFF of uint16 (H, W, C)."""
    height, width, channels = samples.shape
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, 0), (259, 3, 1, 1), (262, 3, 1, 2),
               (273, 4, 1, 0),
               (277, 3, 1, channels), (278, 4, 1, height), (279, 4, 1, samples.nbytes)]  # fmt: skip
    if channels == 4:
        entries.append((338, 3, 1, 2))
    bits = 8 + 2 + 12 * len(entries) + 4
    table = b""
    for tag, type_, count, value in entries:
        value = {258: bits, 273: bits + 2 * channels}.get(tag, value)
        packed = struct.pack(
            order + ("HH" if type_ == 3 and count == 1 else "I"),
            *((value, 0) if type_ == 3 and count == 1 else (value,)),
        )
        table += struct.pack(order + "HHI", tag, type_, count) + packed
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
    return (
        head
        + table
        + bytes(4)
        + struct.pack(order + f"{channels}H", *[16] * channels)
        + samples.astype(order + "u2").tobytes()
    )


def libtiff16(samples):
    """The same, compressed: Pillow reads it through libtiff."""
    file = io.BytesIO(tiff16(samples))
    with Image.open(file):
        pass
    data = bytearray(file.getvalue())
    packed = zlib.compress(samples.astype("<u2").tobytes())
    offset = len(data) - samples.nbytes
    data[offset:] = packed
    for tag, value in ((259, 8), (279, len(packed))):
        place = data.index(struct.pack("<HHI", tag, 3 if tag == 259 else 4, 1)) + 8
        data[place : place + 4] = struct.pack("<I", value)
    return bytes(data)


def test_colours_of_16_bits_are_read_to_the_last_bit():
    deep = deep_gradient()
    alpha = np.full((40, 56, 1), 65535, np.uint16)
    alpha[:9] = 128 * 257
    with_alpha = np.concatenate([deep, alpha], axis=2)
    for data in (
        png(deep, 16, 2), png(with_alpha, 16, 6), tiff16(deep), tiff16(deep, ">"), tiff16(with_alpha),
        tiff16(with_alpha, ">"), libtiff16(deep),
    ):  # fmt: skip
        picture = read(data, deep=True)
        assert picture.pixels.dtype == np.uint16
        np.testing.assert_array_equal(picture.pixels, deep)
        small = read(data)
        np.testing.assert_array_equal(small.pixels, (deep.astype(int) + 128) // 257)
        if picture.alpha is not None:
            np.testing.assert_array_equal(picture.alpha, np.where(alpha[..., 0] < 65535, 128, 255))
        assert (
            (picture.alpha is None)
            == (small.alpha is None)
            == ((len(data) < with_alpha.nbytes and data[:4] != b"\x89PNG") or picture.alpha is None)
        )


@pytest.mark.parametrize("bits", [16, 10])
def test_ppm_of_more_than_8_bits_is_read_to_the_last_bit(bits):
    top = 2**bits - 1
    samples = deep_gradient() >> (16 - bits)
    for head, part in ((b"P6", samples), (b"P5", samples[..., 0])):
        data = head + f"\n56 40\n{top}\n".encode() + part.astype(">u2").tobytes()
        picture = read(data, deep=True)
        found = picture.pixels if head == b"P6" else picture.pixels[..., 0]
        assert picture.pixels.dtype == np.uint16 and picture.grey == (head == b"P5")
        np.testing.assert_allclose(found, part * (65535 / top), atol=0.5001)
        with pytest.raises(ImageError):
            read(data[:-5])


def test_grey_of_16_bits_with_alpha_is_read_to_the_last_bit():
    grey = deep_gradient()[..., 0]
    alpha = np.where(np.arange(56) < 20, 200 * 257, 65535).astype(np.uint16) * np.ones((40, 1), np.uint16)
    picture = read(png(np.dstack([grey, alpha]), 16, 4), deep=True)
    assert picture.grey and picture.pixels.dtype == np.uint16
    np.testing.assert_array_equal(picture.pixels[..., 2], grey)
    np.testing.assert_array_equal(picture.alpha, alpha // 257)
    alone = read(png(grey, 16, 0), deep=True)
    assert alone.grey and (alone.pixels[..., 1] == grey).all() and alone.alpha is None


def test_the_transparent_colour_of_16_bits_is_compared_as_a_whole():
    row = np.array([[[256, 512, 768], [257, 512, 768], [256, 512, 769], [0, 0, 0]]], np.uint16)
    for deep in (False, True):
        assert read(png(row, 16, 2, (b"tRNS", struct.pack(">3H", 256, 512, 768))), deep=deep).alpha.tolist() == [
            [0, 255, 255, 255]
        ]


def test_tiff_of_9_to_15_bits_is_white_where_it_says_so():
    for bits in (10, 12, 14):
        image = Image.fromarray(np.linspace(0, 2**bits - 1, 64).astype(np.uint16).reshape(8, 8))
        data = bytearray(file_of(image, "TIFF"))
        with Image.open(io.BytesIO(data)) as opened:
            assert opened.tag_v2[258] == (16,)
        place = data.index(struct.pack("<HHI", 258, 3, 1)) + 8
        samples = np.asarray(image)
        packed = np.packbits(
            np.unpackbits(samples.astype(">u2").view(np.uint8).reshape(-1, 2), axis=1)[:, -bits:].reshape(8, -1), axis=1
        )
        data[place : place + 2] = struct.pack("<H", bits)
        offset = struct.unpack("<I", data[(at := data.index(struct.pack("<HHI", 273, 4, 1)) + 8) : at + 4])[0]
        data[offset : offset + packed.size] = packed.tobytes()
        place = data.index(struct.pack("<HHI", 279, 4, 1)) + 8
        data[place : place + 4] = struct.pack("<I", packed.size)
        try:
            picture = read(bytes(data))
        except ImageError as error:  # of these depths Pillow reads 12 alone
            assert bits != 12 and "known kind" in str(error)
            continue
        np.testing.assert_array_equal(picture.pixels[..., 0], np.floor(samples * (255 / (2**bits - 1)) + 0.5))


@pytest.fixture(scope="module")
def deep_photo():
    """uint16 (96, 128, 3), smooth, with nothing that 8 bits would hold."""
    rows, columns = np.mgrid[:96, :128] / 96
    return np.stack(
        [30000 + 9000 * np.sin(3 * rows + columns), 20000 + 7000 * columns, 41000 - 6000 * rows * columns], axis=-1
    ).astype(np.uint16)


def test_sixteen_bits_are_coded_as_such_and_come_back_at_the_models_precision(deep_photo):
    coder = Codec(fallback="never")
    data = coder.compress(io.BytesIO(picture_files.write_png16(deep_photo)), 100)
    back = coder.decompress_picture(data, 16).pixels
    assert back.dtype == np.uint16 and len(np.unique(back)) > 1000
    error = lambda a: np.sqrt(np.mean((a.astype(float) - deep_photo) ** 2))  # noqa: E731
    rounded = read(picture_files.write_png16(deep_photo)).pixels
    eight = np.asarray(coder.decompress(data)).astype(float) * 257
    assert error(back) < error(eight) and error(back) < 1.2 * error(eight)
    # What 8 bits of the source give is another file.
    assert coder.compress(rounded, 100) != data
    assert np.abs(np.round(back / 257) - np.asarray(coder.decompress(data))).max() <= 1


def test_depth_16_of_every_kind_of_file(tmp_path, deep_photo):
    (tmp_path / "deep.png").write_bytes(picture_files.write_png16(deep_photo))
    run("compress", tmp_path / "deep.png", "-q", 90)
    for suffix in image_io.DEEP_EXTENSIONS:
        run("decompress", tmp_path / "deep.bin", "-o", tmp_path / f"back{suffix}", "--depth", 16)
        data = (tmp_path / f"back{suffix}").read_bytes()
        if suffix == ".png":
            found = read(data, deep=True).pixels
        else:
            head = b"P5\n128 96\n65535\n" if suffix == ".pgm" else b"P6\n128 96\n65535\n"
            assert data.startswith(head)
            found = np.frombuffer(data[len(head) :], ">u2").reshape(96, 128, -1)
            deep_photo = deep_photo @ [0.299, 0.587, 0.114] if suffix == ".pgm" else deep_photo
            deep_photo = deep_photo[..., None] if suffix == ".pgm" else deep_photo
        assert np.abs(found.astype(float) - deep_photo).mean() < 300
        if suffix == ".pgm":
            break
    assert "only png, ppm, pgm, pnm" in run(
        "decompress", tmp_path / "deep.bin", "-o", tmp_path / "back.jpg", "--depth", 16, status=1
    )
    assert not (tmp_path / "back.jpg").exists()


def test_flat_16_bits_are_no_flat_8_bits():
    coder = Codec(fallback="never")
    data = coder.compress(io.BytesIO(picture_files.write_png16(np.full((64, 64, 3), 1000, np.uint16))), 100)
    assert np.abs(coder.decompress_picture(data, 16).pixels.astype(int) - 1000).max() < 257
    assert (Codec().decompress_picture(codec.compress(np.full((9, 9, 3), 7, np.uint8)), 16).pixels == 7 * 257).all()


# Grey stays grey


def test_equal_channels_come_back_equal_whatever_the_mode_or_profile(photo):
    photo = photo[:64, :64]
    grey = Image.fromarray(photo).convert("L")
    profile = colour.code_point_profile(12, 13)
    for image in (
        grey.convert("RGB"), grey.convert("P"), grey.convert("RGBA"), Image.merge("RGB", [grey] * 3).quantize(31), grey,
    ):  # fmt: skip
        for icc in (None, profile):
            file = file_of(image, "PNG", icc_profile=icc)
            back = codec.decompress(codec.compress(io.BytesIO(file), 30, fallback="never"))
            assert back.mode in ("L", "RGB")
            back = np.asarray(back.convert("RGB"))
            assert (back[..., 0] == back[..., 1]).all() and (back[..., 0] == back[..., 2]).all()
    coloured = np.asarray(codec.decompress(codec.compress(photo, 30)))
    assert (coloured[..., 0] != coloured[..., 1]).any()


# JPEG that ends too early


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("grey", [False, True])
def test_a_jpeg_without_its_end_marker_is_read(photo, progressive, grey):
    image = Image.fromarray(photo).convert("L" if grey else "RGB")
    whole = file_of(image, "JPEG", quality=80, progressive=progressive)
    wanted = read(whole)
    for cut in (1, 2):
        found = read(whole[:-cut])
        np.testing.assert_array_equal(found.pixels, wanted.pixels)
        assert found.remarks == ()


@pytest.mark.parametrize("progressive", [False, True])
def test_a_shorter_jpeg_is_read_on_request_alone(photo, progressive, tmp_path):
    whole = file_of(Image.fromarray(photo), "JPEG", quality=80, progressive=progressive)
    scan = whole.rindex(b"\xff\xda")
    for length in (len(whole) - 4, len(whole) - 40, scan + 30, scan, 3 * len(whole) // 4):
        with pytest.raises(ImageError, match="truncated.*--allow-truncated"):
            read(whole[:length])
    short = read(whole[: 3 * len(whole) // 4], allow_truncated=True)
    assert "truncated" in short.remarks[0] and short.pixels.shape == photo.shape
    if not progressive:
        assert (short.pixels[:32] == read(whole).pixels[:32]).all()
    (tmp_path / "short.jpg").write_bytes(whole[: 3 * len(whole) // 4])
    assert "--allow-truncated" in run("compress", tmp_path / "short.jpg", status=1)
    assert "missing are grey" in run("compress", tmp_path / "short.jpg", "--allow-truncated")


def test_what_follows_a_jpeg_does_not_matter(photo):
    whole = file_of(Image.fromarray(photo), "JPEG")
    for tail in (b"\0" * 100, whole, b"\xff\xd9"):
        assert (read(whole + tail).pixels == read(whole).pixels).all()


# Frames, formats, folders


@pytest.mark.parametrize(("form", "suffix"), [("GIF", ".gif"), ("TIFF", ".tif"), ("PNG", ".png"), ("WEBP", ".webp")])
def test_frames_and_pages_are_told_and_taken(tmp_path, form, suffix):
    frames = [Image.fromarray(np.roll(gradient(), 9 * n, axis=1)) for n in range(3)]
    options = {"lossless": True} if form == "WEBP" else {}
    (tmp_path / f"a{suffix}").write_bytes(file_of(frames[0], form, save_all=True, append_images=frames[1:], **options))
    said = run("compress", tmp_path / f"a{suffix}")
    assert "only the first of 3 frames is kept; --all-frames" in said and (tmp_path / "a.bin").exists()
    said = run("compress", tmp_path / f"a{suffix}", "--all-frames", "--lossless", "-o", tmp_path / "all" / "a.bin")
    assert "only the first" not in said
    for number, frame in enumerate(frames):
        back = codec.decompress((tmp_path / "all" / f"a.{number}.bin").read_bytes()).convert("RGB")
        wanted = frame.quantize() if form == "GIF" else frame
        assert np.abs(np.asarray(back).astype(int) - np.asarray(wanted.convert("RGB"))).mean() < (
            3 if form == "GIF" else 0.01
        )
    assert "exists already" in run(
        "compress", tmp_path / f"a{suffix}", "--all-frames", "-o", tmp_path / "all" / "a.bin", status=1
    )


@pytest.mark.parametrize(
    ("suffix", "form"), [(".tga", "TGA"), (".pcx", "PCX"), (".qoi", "QOI"), (".dib", "DIB"), (".sgi", "SGI")]
)
def test_other_formats_are_taken(tmp_path, suffix, form):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(gradient()).save(path, "BMP" if form == "DIB" else form)
    np.testing.assert_array_equal(read_picture(path).pixels, gradient())
    assert f"a{suffix}" in run("compress", tmp_path)


@pytest.mark.parametrize("form", ["BMP", "TGA"])
def test_a_fourth_byte_that_nobody_filled_in_is_no_alpha(tmp_path, form):
    path = tmp_path / f"a.{form.lower()}"
    Image.fromarray(np.dstack([gradient(), np.zeros((40, 56), np.uint8)])).save(path, form)
    picture = read_picture(path)
    assert picture.alpha is None and (picture.pixels == gradient()).all()


def test_what_is_passed_over_in_a_folder_is_counted_and_named(tmp_path, photo):
    Image.fromarray(photo).save(tmp_path / "a.png")
    for name in ("b.cr2", "c.cr2", "d.txt", "README"):
        (tmp_path / name).write_bytes(b"x")
    said = run("compress", tmp_path)
    for part in ("2 passed over (.cr2)", "1 passed over (.txt)", "1 passed over (no suffix)"):
        assert part in said
    assert "passed over" not in run("compress", tmp_path / "a.png", "--force")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "d.txt").write_bytes(b"x")
    assert "(1 .txt)" in run("compress", tmp_path / "empty", status=1)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
JXL = b"\xff\x0a" + bytes(40)


@pytest.mark.parametrize(
    ("data", "module", "package"), [(JXL, "pillow_jxl", "pillow-jxl-plugin"), (HEIC, "pillow_heif", "pillow-heif")]
)
def test_formats_of_other_packages_name_the_package(monkeypatch, data, module, package):
    Image.init()
    for form in ("JXL", "HEIF"):
        monkeypatch.delitem(Image.OPEN, form, raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImageError, match=f"needs the package {package}"):
        read(data)


@pytest.mark.skipif(not importlib.util.find_spec("pillow_jxl"), reason="needs pillow-jxl-plugin")
def test_jpeg_xl_goes_in_and_out(tmp_path):
    image = to_image(gradient())
    for name, how in (("a.jxl", Writing()), ("b.jxl", Writing(80))):
        (tmp_path / name).write_bytes(encode_picture(image, ".jxl", how=how)[0])
        difference = np.abs(read_picture(tmp_path / name).pixels.astype(int) - gradient()).max()
        assert difference == 0 if how.quality is None else 0 < difference < 40
    assert "a.jxl" in run("compress", tmp_path / "a.jxl")


@pytest.mark.skipif(not importlib.util.find_spec("pillow_heif"), reason="needs pillow-heif")
def test_heic_is_read_upright(tmp_path):
    import pillow_heif

    exif = Image.Exif()
    exif[0x013B], exif[0x0112] = "Ada", 6
    pillow_heif.from_pillow(Image.fromarray(gradient())).save(tmp_path / "a.heic", quality=95, exif=exif.tobytes())
    picture = read_picture(tmp_path / "a.heic")
    assert np.abs(picture.pixels.astype(int) - np.rot90(gradient(), -1)).mean() < 4 and b"Ada" in picture.exif
    assert "a.heic" in run("compress", tmp_path / "a.heic")


# Alpha and outputs


def test_alpha_loses_levels_on_request_alone(tmp_path):
    ramp = np.tile(np.arange(256, dtype=np.uint8), (9, 1))
    noise = np.random.default_rng(0).integers(0, 256, (60, 60), np.uint8)
    sizes = []
    for quality in (100, 90, 50, 0):
        plane = image_io.decode_alpha(encode_alpha(ramp, quality), 256, 9).astype(int)
        assert plane[0, 0] == 0 and plane[0, 255] == 255 and (np.diff(plane[0]) >= 0).all()
        assert (
            np.abs(plane - ramp).max() <= 255 / (2 * (1 + int(62 * quality / 100))) + 1
            if quality < 100
            else (plane == ramp).all()
        )
        sizes.append(len(encode_alpha(noise, quality)))
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0] / 4
    Image.fromarray(np.dstack([np.resize(gradient(), (60, 60, 3)), noise])).save(tmp_path / "a.png")
    run("compress", tmp_path / "a.png", "--alpha-quality", 20, "--fallback", "never")
    alpha = np.asarray(codec.decompress((tmp_path / "a.bin").read_bytes()))[..., 3].astype(int)
    assert 0 < np.abs(alpha - noise).max() <= 11


def test_the_background_is_what_was_asked_for(tmp_path):
    image = np.dstack([gradient(), np.zeros((40, 56), np.uint8)])
    image[:20, :, 3] = 255
    Image.fromarray(image).save(tmp_path / "a.png")
    run("compress", tmp_path / "a.png", "--lossless")
    for suffix in (".bmp", ".jpg", ".ppm"):
        for word, wanted in (("#102030", (16, 32, 48)), ("red", (255, 0, 0)), (None, (255, 255, 255))):
            run(
                "decompress",
                tmp_path / "a.bin",
                "-o",
                tmp_path / f"b{suffix}",
                "-f",
                *(["--background", word] if word else []),
            )
            found = np.asarray(Image.open(tmp_path / f"b{suffix}")).astype(int)
            assert np.abs(found[30] - wanted).max() <= (3 if suffix == ".jpg" else 0)
    assert "is no colour" in run(
        "decompress", tmp_path / "a.bin", "-o", tmp_path / "c.bmp", "--background", "reddish", status=2
    )
    grey = to_image(np.full((4, 4, 3), 9, np.uint8), np.zeros((4, 4), np.uint8), grey=True)
    assert read(bytes(encode_picture(grey, ".bmp", how=Writing(background=(255, 0, 0)))[0])).pixels[0, 0].tolist() == [
        255,
        0,
        0,
    ]


def test_output_quality_is_that_of_lossy_formats(tmp_path, photo):
    image = to_image(photo)
    for extension in (".jpg", ".avif", ".webp"):
        small, default = (len(encode_picture(image, extension, how=Writing(quality))[0]) for quality in (20, None))
        assert small < default / 3
    assert encode_picture(image, ".png", how=Writing(20))[0] == encode_picture(image, ".png")[0]


def test_pnm_files_are_what_their_names_say():
    for grey, extension, head in (
        (False, ".ppm", b"P6"), (True, ".ppm", b"P6"), (False, ".pgm", b"P5"), (True, ".pgm", b"P5"),
        (False, ".pnm", b"P6"), (True, ".pnm", b"P5"),
    ):  # fmt: skip
        pixels = np.repeat(gradient()[..., :1], 3, axis=2) if grey else gradient()
        data, remarks = encode_picture(to_image(pixels, grey=grey), extension)
        assert bytes(data[:2]) == head
        assert bool(remarks) == (extension == ".pgm" and not grey)


def test_a_compressed_file_in_a_pictures_name_is_warned_of(tmp_path, photo):
    Image.fromarray(photo).save(tmp_path / "a.png")
    said = run("compress", tmp_path / "a.png", "-o", tmp_path / "b.jpg")
    assert "compressed file, whatever its name" in said
    assert bitstream.read_header((tmp_path / "b.jpg").read_bytes()).width == photo.shape[1]
