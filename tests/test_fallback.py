"""Smaller or as it was: what others hold in fewer bytes is carried as they hold it."""

import ast
import io
import json
import zlib

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageDraw

import codec
from cli.main import codec as codec_command
from codec import Codec, bitstream, image_io
from codec.errors import BitstreamError, Corrupt, TooLarge
from codec.fallback import looks_drawn
from codec.metadata import PREFIX


def file_of(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def compressed(data, quality=50, **options):
    return codec.compress(io.BytesIO(data) if isinstance(data, bytes) else data, quality, **options)


def stored(data):
    """The picture file that a file carries, or None."""
    container = bitstream.unpack(data)
    return container.tiles[0].data if container.stored else None


@pytest.fixture(scope="module")
def screenshot():
    """A page of text with a box around it, in RGB."""
    image = Image.new("RGB", (360, 240), "white")
    draw = ImageDraw.Draw(image)
    for line in range(14):
        draw.text((9, 8 + 16 * line), f"{line:2}: for name in names: print(name, {line * 977 % 1000})", "#123456")
    draw.rectangle((3, 3, 356, 236), outline="red")
    return image


@pytest.fixture(scope="module")
def dither():
    """A grey ramp in black and white: noise to a transform."""
    return Image.linear_gradient("L").resize((200, 160)).convert("1")


# What is chosen


def test_text_is_kept_without_loss_and_said_so(screenshot):
    said = []
    data = compressed(file_of(screenshot), on_remark=said.append)
    assert stored(data)[:4] == b"RIFF" and len(data) < len(compressed(file_of(screenshot), fallback="never"))
    assert len(said) == 1 and said[0].startswith("text or a drawing, kept without loss as WEBP")
    np.testing.assert_array_equal(np.asarray(codec.decompress(data)), np.asarray(screenshot))


def test_dithered_pictures_are_no_larger_than_png_and_exact(dither):
    source = file_of(dither, optimize=True)
    data = compressed(source)
    assert len(data) <= len(source) + 40 < len(compressed(source, fallback="never"))
    back = codec.decompress(data)
    assert back.mode == "L"
    np.testing.assert_array_equal(np.asarray(back), np.asarray(dither.convert("L")))


@pytest.mark.parametrize("colour", ["red", "white", "#030405"])
def test_one_colour_is_exact_and_smaller_than_png(colour):
    source = file_of(Image.new("RGB", (256, 256), colour), optimize=True)
    data = compressed(source)
    assert len(data) < min(60, len(source)) and codec.decompress(data).getcolors() == [
        (65536, Image.new("RGB", (1, 1), colour).getpixel((0, 0)))
    ]


def test_photographs_are_coded(photo):
    assert not looks_drawn(photo) and stored(compressed(photo)) is None
    assert compressed(photo) == compressed(photo, fallback="never")


def test_what_was_compressed_harder_before_is_kept_as_it_was(photo):
    source = file_of(Image.fromarray(photo), "JPEG", quality=15)
    said = []
    data = compressed(source, 95, on_remark=said.append)
    assert stored(data) == source and said[0].startswith("kept as it is")
    assert len(data) < len(compressed(source, 95, fallback="never"))
    np.testing.assert_array_equal(np.asarray(codec.decompress(data)), np.asarray(Image.open(io.BytesIO(source))))


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "AVIF"])
def test_a_kept_picture_comes_back_byte_for_byte_in_its_own_format(photo, form, tmp_path):
    suffix = {"JPEG": ".jpg", "WEBP": ".webp", "AVIF": ".avif"}[form]
    exif = Image.Exif()
    exif[0x013B], exif[0x0112] = "Ada", 6
    source = file_of(Image.fromarray(photo), form, quality=30, exif=exif.tobytes())
    coder = Codec()
    data = coder.compress(io.BytesIO(source), 90, fallback="always")
    assert coder.to_file(data, suffix) == (source, photo.shape[:2], [])
    png = Image.open(io.BytesIO(coder.to_file(data, ".png")[0]))
    np.testing.assert_array_equal(np.asarray(png), np.asarray(coder.decompress(data)))
    np.testing.assert_array_equal(np.asarray(png), np.rot90(np.asarray(Image.open(io.BytesIO(source))), -1))
    assert png.getexif()[0x013B] == "Ada" and png.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "AVIF", "GIF", "JPEG2000", "TIFF"])
def test_nothing_grows_that_a_file_can_carry(photo, form):
    options = {"quality": 10}
    if form == "JPEG2000":
        options = {"quality_mode": "rates", "quality_layers": [80], "irreversible": True}
    elif form == "TIFF":
        options = {"quality": 10, "compression": "jpeg"}
    image = Image.fromarray(photo)
    source = file_of(image.quantize(2) if form == "GIF" else image, form, **options)
    data = compressed(source, 99)
    assert len(data) <= len(source) + 40 < len(compressed(source, 99, fallback="never"))
    picture = image_io.read_picture(io.BytesIO(source))
    np.testing.assert_array_equal(np.asarray(codec.decompress(data)), picture.pixels)


def test_lossless_pictures_come_back_exactly(photo, screenshot):
    rng = np.random.default_rng(0)
    hidden = np.dstack([photo, np.where(photo[..., :1] > 128, 0, photo[..., 1:2])])
    for image in (
        photo, photo[..., 0].copy(), hidden, np.asarray(screenshot), Image.fromarray(hidden).convert("LA"),
        Image.fromarray(photo).quantize(7), Image.fromarray(rng.integers(0, 256, (9, 7, 4), np.uint8)),
        dither_of(photo),
    ):  # fmt: skip
        data = compressed(image, fallback="always")
        wanted = image if isinstance(image, Image.Image) else Image.fromarray(image)
        back = codec.decompress(data)
        wanted = wanted.convert(back.mode)
        assert stored(data) and bitstream.read_header(data).alpha == ("A" in back.mode)
        np.testing.assert_array_equal(np.asarray(back), np.asarray(wanted))


def dither_of(photo):
    return Image.fromarray(photo).convert("1")


def test_sixteen_bits_are_kept_without_loss(tmp_path, photo):
    deep = (photo.astype(np.uint16) << 8) + np.arange(192 * 3).reshape(192, 3).astype(np.uint16) % 256
    from codec.picture_files import write_png16

    data = compressed(write_png16(deep), fallback="always")
    coder = Codec()
    np.testing.assert_array_equal(coder.decompress_picture(data, 16).pixels, deep)
    for extension in (".png", ".ppm"):
        file, _, _ = coder.to_file(data, extension)
        again = image_io.read_picture(io.BytesIO(file), deep=True).pixels if extension == ".png" else None
        if again is None:
            again = np.frombuffer(file[-deep.nbytes :], ">u2").reshape(deep.shape)
        np.testing.assert_array_equal(again, deep)
    tiff = io.BytesIO()
    Image.fromarray(deep[..., 0]).save(tiff, "TIFF")
    kept = compressed(tiff.getvalue(), fallback="always")
    assert stored(kept)[:4] == b"\x89PNG"
    np.testing.assert_array_equal(coder.decompress_picture(kept, 16).pixels[..., 1], deep[..., 0])


def test_metadata_stands_beside_a_lossless_file(screenshot):
    exif = Image.Exif()
    exif[0x013B], exif[0x0112] = "Ada", 6
    data = compressed(file_of(screenshot, exif=exif.tobytes()))
    assert stored(data)[:4] == b"RIFF" and PREFIX not in stored(data)
    back = codec.decompress(data)
    assert back.getexif()[0x013B] == "Ada" and back.size == (240, 360)
    np.testing.assert_array_equal(np.asarray(back), np.rot90(np.asarray(screenshot), -1))


def test_pictures_beyond_the_side_of_webp_are_kept_as_png():
    wide = np.zeros((2, 17000, 3), np.uint8)
    wide[1, ::7] = 9
    data = compressed(wide, fallback="always")
    assert stored(data)[:4] == b"\x89PNG"
    np.testing.assert_array_equal(np.asarray(codec.decompress(data)), wide)


def test_of_an_animation_nothing_but_its_frame_is_kept():
    frames = [Image.new("P", (40, 30), n) for n in (1, 2, 3)]
    for frame, image in enumerate(frames):
        image.putpalette([7 * n % 256 for n in range(768)])
        image.putpixel((frame, 0), 9)
    source = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    for frame in (None, 0, 1, 2):
        said = []
        data = compressed(source, fallback="always", frame=frame, on_remark=said.append)
        assert stored(data)[:4] == b"RIFF"
        np.testing.assert_array_equal(np.asarray(codec.decompress(data)), np.asarray(frames[frame or 0].convert("RGB")))
        assert ("first of 3 frames" in said[0]) == (frame is None)


def test_wrong_settings_are_refused(photo):
    for options in ({"fallback": "perhaps"}, {"alpha_quality": 101}, {"fallback": "always", "target_bpp": 1}):
        with pytest.raises(ValueError):
            compressed(photo, **options)
    with pytest.raises(TypeError):
        compressed(photo, strip_everything=True)


# Hostile files


def container(payload, width=40, height=30, **changes):
    fields = dict(
        model_id=bitstream.NO_MODEL, quality=bitstream.LOSSLESS, width=width, height=height, stored=True,
        tiles=(bitstream.Tile(payload, 1, zlib.crc32(payload)),),
    )  # fmt: skip
    return bitstream.pack(bitstream.Container(**{**fields, **changes}))


def test_stored_pictures_that_are_not_what_the_header_says_are_corrupt(photo):
    picture = Image.fromarray(photo[:30, :40])
    sound = file_of(picture)
    assert codec.decompress(container(sound)).size == (40, 30)
    large = file_of(Image.new("1", (20000, 20000)), "PNG")
    for data in (
        container(file_of(picture.convert("RGB").resize((40, 31)))), container(sound, 30, 40),
        container(sound, grey=True),
        container(sound, stored_alpha=True), container(file_of(picture.convert("L"))), container(sound[:-40]),
        container(sound[:60]), container(large), container(large, 16383, 16383),
        container(b"RIFF\xff\0\0\0WEBPVP8X" + bytes(30)), container(b"\xff\xd8\xff" + bytes(50)),
        container(b"\xff\xd8\xff\xe0" + bytes(5)), container(b"GIF89a" + bytes(20)),
        container(file_of(picture, "JPEG")[:-100]),
    ):  # fmt: skip
        with pytest.raises(Corrupt):
            codec.decompress(data)


def test_formats_that_may_not_be_stored_are_refused_before_any_reader_sees_them(photo):
    for form in ("BMP", "QOI", "PPM", "ICO", "TGA"):
        with pytest.raises(Corrupt, match="no format that may be stored"):
            container(file_of(Image.fromarray(photo[:30, :40]), form))


def test_the_limit_of_pixels_holds_before_a_stored_picture_is_opened(monkeypatch):
    data = container(file_of(Image.new("L", (40, 30)), "PNG"), grey=True)
    monkeypatch.setattr(image_io, "read_stored", None)
    with pytest.raises(TooLarge):
        Codec(max_pixels=1199).decompress(data)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_mutated_stored_pictures_end_in_a_picture_or_a_bitstream_error(photo):
    rng = np.random.default_rng(1)
    for form in ("PNG", "JPEG", "WEBP", "GIF", "JPEG2000", "AVIF", "TIFF"):
        sound = file_of(Image.fromarray(photo[:30, :40]), form)
        for _ in range(60):
            payload = bytearray(sound)
            for place in rng.integers(8, len(sound), rng.integers(1, 4)):
                payload[place] ^= 1 << rng.integers(8)
            if rng.random() < 0.3:
                payload = payload[: rng.integers(8, len(payload))]
            try:
                image = codec.decompress(container(bytes(payload)))
                assert image.size == (40, 30)
            except BitstreamError as error:
                assert "\n" not in str(error)


# Commands


def run(*arguments):
    result = CliRunner().invoke(codec_command, [str(argument) for argument in arguments], prog_name="codec")
    assert result.exit_code == 0, result.output
    return result.output


def test_commands_say_what_they_kept(tmp_path, screenshot, photo):
    (tmp_path / "page.png").write_bytes(file_of(screenshot))
    (tmp_path / "photo.jpg").write_bytes(file_of(Image.fromarray(photo), "JPEG", quality=20))
    said = run("compress", tmp_path / "page.png", tmp_path / "photo.jpg", "-q", 95, "-o", tmp_path / "out")
    assert "page.png: text or a drawing, kept without loss as WEBP" in said and "photo.jpg: kept as it is" in said
    shown = run("info", tmp_path / "out" / "page.bin")
    assert "kept     as WEBP, without loss" in shown and "picture file" in shown
    found = [json.loads(line) for line in run("info", "--json", tmp_path / "out").splitlines() if line.startswith("{")]
    assert [each["stored"] for each in found] == ["WEBP", "JPEG"]
    run("decompress", tmp_path / "out" / "photo.bin", "-o", tmp_path / "back.jpg")
    assert (tmp_path / "back.jpg").read_bytes() == (tmp_path / "photo.jpg").read_bytes()
    run("compress", tmp_path / "page.png", "-o", tmp_path / "never.bin", "--fallback", "never", "--quiet")
    assert stored((tmp_path / "never.bin").read_bytes()) is None
    assert "photo.png" not in run("compress", tmp_path / "photo.jpg", "-o", tmp_path / "all.bin", "--lossless", "-q", 1)
    assert stored((tmp_path / "all.bin").read_bytes()) == (tmp_path / "photo.jpg").read_bytes()


def test_a_result_that_is_larger_than_its_source_is_mentioned(tmp_path, dither):
    dither.save(tmp_path / "dither.tif", compression="group4")
    said = run("compress", tmp_path / "dither.tif", "-o", tmp_path / "a.bin", "--fallback", "never")
    assert "the file is larger than the picture" in said


def test_evaluation_measures_the_codec_itself(root):
    """Each command that reports figures of the codec makes it without a fallback."""
    for name in ("codec/evaluation/run", "cli/bench", "cli/report", "cli/compare", "cli/demo"):
        tree = ast.parse((root / f"{name}.py").read_text(encoding="utf-8"))
        calls = [
            node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Codec"
        ]
        assert calls and all(
            any(word.arg == "fallback" and word.value.value == "never" for word in call.keywords) for call in calls
        ), name
