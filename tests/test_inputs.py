"""What the functions take and give: bytes, files, paths, URLs and arrays of every kind, the same picture each time."""

import contextlib
import io
import json
import os
import re

import numpy as np
import pytest
from PIL import Image

import codec
from codec.errors import BitstreamError, CodecError, ImageError
from codec.image_io import read_picture
from codec.remote import is_url
from test_cli import fail, succeed, without_warning


@pytest.fixture(scope="module")
def coder():
    return codec.Codec()


@pytest.fixture
def small(photo):
    return np.ascontiguousarray(photo[:40, :56])


@pytest.fixture
def wanted(coder, small):
    """The file of ``small`` at quality 60."""
    return coder.compress(small, 60)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


# Files


def test_bytes_files_and_paths_are_taken_on_both_sides(tmp_path, coder, small, wanted):
    data = png(small)
    path, file = tmp_path / "a.png", tmp_path / "a.bin"
    path.write_bytes(data)
    file.write_bytes(wanted)
    pixels = np.asarray(coder.decompress(wanted))
    with open(path, "rb") as opened:
        for picture in (data, bytearray(data), memoryview(data), io.BytesIO(data), opened, path, str(path)):
            assert coder.compress(picture, 60) == wanted
    with open(file, "rb") as opened:
        for given in (bytearray(wanted), memoryview(wanted), io.BytesIO(wanted), opened, file, str(file)):
            assert (np.asarray(coder.decompress(given)) == pixels).all()
    assert coder.compress_batch([path, data, io.BytesIO(data)], 60) == [wanted] * 3
    assert [image.size for image in coder.decompress_batch([file, wanted, io.BytesIO(wanted)])] == [(56, 40)] * 3


def test_a_file_that_cannot_be_read_is_named(tmp_path, coder, wanted):
    missing, damaged = tmp_path / "missing.bin", tmp_path / "damaged.bin"
    damaged.write_bytes(wanted[:30])
    with pytest.raises(CodecError, match=rf"^{re.escape(str(missing))}: cannot read: No such file"):
        coder.decompress(missing)
    with pytest.raises(BitstreamError, match=rf"^{re.escape(str(damaged))}: truncated"):
        coder.decompress(damaged)
    with pytest.raises(ImageError, match="not a picture of a known kind"):
        coder.compress(b"neither one nor the other")
    with pytest.raises(CodecError, match="cannot read"):
        coder.decompress("a\0b")


# Arrays


def test_arrays_of_every_kind_are_the_picture_they_mean(coder, small, wanted):
    grey = np.ascontiguousarray(small[..., 1])
    grey_file, mask = coder.compress(grey, 60), grey > 128
    same = {
        "floats": (small / 255, wanted),
        "float32, channels first": ((small / 255).astype(np.float32).transpose(2, 0, 1), wanted),
        "uint16": (small.astype(np.uint16) * 257, wanted),
        "(H, W, 1)": (grey[..., None], grey_file),
        "(1, H, W) float": ((grey / 255)[None], grey_file),
        "uint16 grey": (grey.astype(np.uint16) * 257, grey_file),
        "bool": (mask, coder.compress(np.where(mask, 255, 0).astype(np.uint8), 60)),
        "a view": (np.repeat(small, 2, axis=1)[:, ::2], wanted),
    }
    for kind, (array, data) in same.items():
        before = array.copy()
        assert coder.compress(array, 60) == data, kind
        assert (array == before).all(), kind


def test_sixteen_bits_are_kept_where_they_are_asked_for_and_rounded_elsewhere(small):
    values = np.linspace(0, 65535, small[..., 0].size).astype(np.uint16).reshape(small.shape[:2])
    nearest = np.floor(values / 257 + 0.5).astype(np.uint8)
    assert (read_picture(values).pixels[..., 1] == nearest).all()
    assert (read_picture(values, deep=True).pixels[..., 1] == values).all()
    assert (read_picture(values / 65535, deep=True).pixels[..., 1] == values).all()


def test_alpha_comes_in_any_depth(coder, small):
    alpha = np.linspace(0, 255, small[..., 0].size).astype(np.uint8).reshape(small.shape[:2])
    rgba = np.dstack([small, alpha])
    data = coder.compress(rgba)
    assert coder.compress(rgba.astype(np.uint16) * 257) == coder.compress((rgba / 255).transpose(2, 0, 1)) == data
    assert (coder.decompress(data, as_array=True)[..., 3] == alpha).all()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.int32), np.zeros((4, 4, 2), np.uint8), np.zeros((3, 40, 40), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8), np.zeros(4, np.uint8), np.zeros((4, 4), complex), np.full((4, 4), np.nan),
        np.full((4, 4, 3), 255.0), np.full((4, 4), -1.0),
        np.zeros((0, 4), np.uint8), np.zeros((0, 4)),
    ],
)  # fmt: skip
def test_arrays_that_mean_no_picture_are_refused(coder, array):
    with pytest.raises(ImageError, match="array: "):
        coder.compress(array)


def test_a_batch_may_be_one_array(coder, small, wanted):
    torch = pytest.importorskip("torch")
    pictures = np.stack([small, small[::-1], small[:, ::-1]])
    files = coder.compress_batch(pictures, 60)
    assert files[0] == wanted and len(set(files)) == 3
    floats = (pictures / 255).astype(np.float32).transpose(0, 3, 1, 2)
    assert coder.compress_batch(floats, 60) == files
    assert coder.compress_batch(torch.from_numpy(floats.copy()), 60) == files
    assert coder.compress(torch.from_numpy(small), 60) == wanted
    back = coder.decompress_batch(files, as_array=True)
    assert np.stack(back).shape == (3, 40, 56, 3)


def test_arrays_come_back_in_the_shape_of_the_mode(coder, small):
    for mode, shape in (("L", (40, 56)), ("LA", (40, 56, 2)), ("RGB", (40, 56, 3)), ("RGBA", (40, 56, 4))):
        image = Image.fromarray(small).convert(mode)
        if "A" in mode:
            image.putalpha(Image.linear_gradient("L").resize(image.size))
        data = coder.compress(image)
        found = coder.decompress(data, as_array=True)
        assert found.shape == shape and found.dtype == np.uint8 and found.flags.writeable
        assert (found == np.asarray(coder.decompress(data))).all()
        assert (codec.decompress(data, as_array=True) == found).all()


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("s3://bucket/a.png", True), ("simplecache::https://host/a.png", True), ("a.png", False), ("C:\\a.png", False),
        ("C://a.png", False), ("a::b.png", False), ("/tmp/a:b//c.png", False), (b"s3://bucket/a.png", False),
    ],
)  # fmt: skip
def test_a_url_is_told_from_a_path(name, url):
    assert is_url(name) is url


# URLs


@pytest.fixture
def store():
    """A file system in memory, as fsspec has it, with three pictures."""
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    with contextlib.suppress(FileNotFoundError):
        system.rm("/shop", recursive=True)
    yield system
    with contextlib.suppress(FileNotFoundError):
        system.rm("/shop", recursive=True)


def test_urls_are_taken_by_functions_and_commands(tmp_path, monkeypatch, coder, store, small, wanted):
    monkeypatch.setitem(vars(codec), "Codec", lambda *_, **__: coder)
    for name in ("a.png", "x/b.png"):
        store.pipe_file(f"/shop/{name}", png(small))
    assert coder.compress("memory://shop/a.png", 60) == wanted
    said = succeed("compress", "memory://shop/a.png", "-q", "60")
    assert "memory://shop/a.png -> memory://shop/a.bin: " in said and store.cat_file("/shop/a.bin") == wanted
    assert (coder.decompress("memory://shop/a.bin", as_array=True) == coder.decompress(wanted, as_array=True)).all()
    assert "memory://shop/a.bin: exists already" in fail("compress", "memory://shop/a.png")
    assert json.loads(succeed("info", "--json", "memory://shop/a.bin"))["width"] == 56

    succeed("compress", "memory://shop", "--recursive", "-q", "60", "-o", tmp_path / "out", "--quiet")
    assert (tmp_path / "out" / "a.bin").read_bytes() == (tmp_path / "out" / "x" / "b.bin").read_bytes() == wanted
    succeed("compress", "memory://shop/**/*.png", "-q", "60", "-o", "memory://shop/packed/", "--quiet")
    assert sorted(store.find("/shop/packed")) == ["/shop/packed/a.bin", "/shop/packed/x/b.bin"]
    succeed(
        "decompress", "memory://shop/packed", "--recursive", "-o", tmp_path / "{folder}" / "{stem}-back.png", "--quiet"
    )
    with Image.open(tmp_path / "x" / "b-back.png") as image:
        assert image.size == (56, 40)


def test_frames_behind_a_url_are_refused_in_one_line_and_the_rest_goes_on(tmp_path, monkeypatch, store, small):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(small).save("b.png")
    said = without_warning(fail("compress", "memory://shop/a.png", "b.png", "--all-frames", "-o", "out"))
    first, *rest = said.splitlines()
    assert (
        first
        == "codec: memory://shop/a.png: URLs are for compress, decompress, info and evaluate; --all-frames needs files"
    )
    assert os.listdir("out") == ["b.bin"] and len(rest) <= 2 and "Traceback" not in said


def test_what_is_not_behind_a_url_is_one_line(coder, store, monkeypatch):
    said = without_warning(fail("compress", "memory://shop/missing.png", "-o", "memory://shop/x.bin"))
    assert said.startswith("codec: memory://shop/missing.png: ") and said.count("\n") == 1
    assert "nothing matches" in fail("compress", "memory://shop/*.tif")
    assert "measuring needs files" in fail("bench", "memory://shop/a.png", "--against", "none")
    with pytest.raises(CodecError, match="nowhere://a.png: "):
        coder.compress("nowhere://a.png")
    monkeypatch.setattr("codec.remote.installed", lambda _: False)
    with pytest.raises(CodecError, match=r'memory needs fsspec: pip install "\.\[remote\]"'):
        coder.decompress("memory://shop/a.bin")
