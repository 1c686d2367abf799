"""``codec compare``: the table, the page, and what is refused."""

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import codec
from cli.main import codec as codec_command
from codec import bitstream
from codec.errors import ImageError
from codec.evaluation import compare
from codec.evaluation.metrics import psnr_db
from codec.training.loop import export
from test_report import Page, pixels_of
from tiny import trainable


def run(*arguments):
    """Result of a command in this process."""
    result = CliRunner().invoke(codec_command, [str(argument) for argument in arguments], prog_name="codec")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def folder(tmp_path, photo, monkeypatch):
    """The current folder, with a picture in two formats."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo).save("photo.png")
    Image.fromarray(photo).save("photo.jpg", quality=40)
    return tmp_path


def never(data):
    raise AssertionError("no file of ours is among them")


def test_figures_are_those_of_the_files(folder, photo):
    found = compare.compare("photo.png", ["photo.jpg", "photo.png"], never)
    assert (found["name"], found["width"], found["height"]) == ("photo.png", 192, 128)
    assert found["bytes"] == (folder / "photo.png").stat().st_size
    jpeg, same = found["views"]
    assert (jpeg["title"], jpeg["quality"]) == ("photo.jpg", None)
    assert jpeg["bytes"] == (folder / "photo.jpg").stat().st_size
    assert jpeg["bpp"] == 8 * jpeg["bytes"] / (192 * 128)
    assert jpeg["psnr_db"] == psnr_db(photo, np.asarray(Image.open("photo.jpg")))
    assert same["psnr_db"] > jpeg["psnr_db"]
    assert "src" not in found and "src" not in jpeg and "encode_s" not in jpeg


def test_our_files_are_decoded_and_tell_their_quality(folder, photo):
    export(trainable(), folder / "model")
    coder = codec.Codec(folder / "model")
    data = coder.compress("photo.png", 42.5)
    (folder / "photo.bin").write_bytes(data)
    (folder / "renamed.jpg").write_bytes(data)  # known by its beginning, not by its name
    files = ("photo.png", "photo.bin", "renamed.jpg", "photo.jpg")
    result = run("compare", *files, "--html", "page.html", "--model", "model")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == f"photo.png: 192 x 128, {(folder / 'photo.png').stat().st_size:,} bytes, " + (
        f"{8 * (folder / 'photo.png').stat().st_size / (192 * 128):.3f} bpp"
    )
    decoded = np.asarray(coder.decompress(data))
    assert "PSNR dB  PSNR-Y dB  SSIMULACRA2" in lines[2] and "MS-SSIM" not in lines[2]  # too small for that one
    figures = ["42.5", f"{len(data):,}", f"{8 * len(data) / (192 * 128):.4f}", f"{psnr_db(photo, decoded):.2f}"]
    assert lines[3].split()[:5] == ["photo.bin", *figures] and lines[4].split()[:5] == ["renamed.jpg", *figures]
    assert lines[5].split()[:2] == ["photo.jpg", "-"]

    page = Page((folder / "page.html").read_text(encoding="utf-8"))
    (picture,) = page.data["viewer"]
    assert np.array_equal(pixels_of(picture["src"]), photo)
    (level,) = picture["levels"]
    assert np.array_equal(pixels_of(level["views"][0]["src"]), decoded)
    assert [view["title"] for view in level["views"]] == ["photo.bin", "renamed.jpg", "photo.jpg"]
    assert "Plotly" not in page.scripts[None][0]  # a small page: no plots, no library for them


def test_orientation_depth_and_greyness_do_not_stand_in_the_way(folder, photo):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(photo)).save("turned.png", exif=exif)
    Image.fromarray(photo).convert("RGBA").save("alpha.webp", lossless=True)
    Image.fromarray(photo).convert("L").save("grey.tif")
    turned, alpha, grey = compare.compare("photo.png", ["turned.png", "alpha.webp", "grey.tif"], never)["views"]
    assert turned["psnr_db"] == alpha["psnr_db"] > 99
    assert grey["psnr_db"] < 50


def test_sizes_must_agree(folder, photo):
    Image.fromarray(photo[:, :100]).save("part.png")
    with pytest.raises(ImageError, match="^part.png: 100 x 128 pixels, but photo.png has 192 x 128$"):
        compare.compare("photo.png", ["part.png"], never)


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["photo.png"], "Missing argument 'OTHER...'", 2),
        (["photo.png", "-"], "not from standard input", 2),
        (["photo.png", "gone.png"], "codec: gone.png: no such file or directory", 1),
        (["gone.png", "photo.jpg"], "codec: gone.png: cannot read: No such file or directory", 1),
        (["photo.png", "notes.txt"], "codec: notes.txt: not a picture of a known kind", 1),
        (["photo.png", "broken.bin"], "codec: broken.bin: ", 1),
        (["photo.png", "photo.jpg", "--html", "notes.txt"], "exists already; --force overwrites", 1),
        (["photo.png", "photo.jpg", "--html", "photo.jpg", "-f"], "would be written over an input", 1),
    ],
)
def test_what_cannot_be_done_ends_in_one_clear_line(folder, arguments, message, status):
    (folder / "notes.txt").write_text("not a picture")
    (folder / "broken.bin").write_bytes(bitstream.MAGIC + b"\x01\x02")
    result = run("compare", *arguments)
    assert result.exit_code == status, result.output
    assert message in result.stderr and "Traceback" not in result.output and result.stdout == ""
    assert status == 2 or result.stderr.count("\n") == 1
    assert not (folder / "page.html").exists()
