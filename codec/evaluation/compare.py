"""A picture beside other versions of it: files of ours or of any format Pillow reads, measured and shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from .. import bitstream
from ..errors import BitstreamError, ImageError, ModelError
from ..files import StrPath
from ..image_io import read_picture
from . import pages

# Of a coding run, which nobody made here.
LEFT_OUT = ("codec", "picture", "width", "height", "encode_s", "decode_s")


class _File:
    """A file in the place of a coder: its bytes are what was compressed, its picture what comes back."""

    def __init__(self, path, decode, original, size):
        self.path, self.decode = path, decode
        self.original, self.size = original, size  # (W, H)
        self.quality = None  # of our files; others keep theirs to themselves

    def compress(self, image, quality):
        data = Path(self.path).read_bytes()
        if data.startswith(bitstream.MAGIC):
            self.quality = bitstream.read_header(data).quality / 100
        return data

    def decompress(self, data):
        if data.startswith(bitstream.MAGIC):
            image = self.decode(data)
        else:
            image = Image.fromarray(read_picture(self.path).pixels)
        if image.size != self.size:
            found, wanted = (" x ".join(map(str, size)) for size in (image.size, self.size))
            raise ImageError(f"{self.path}: {found} pixels, but {self.original} has {wanted}")
        return image


def compare(
    original: StrPath,
    others: Iterable[StrPath],
    decode: Callable[[bytes], Image.Image],
    pictures: bool = False,
    step: Callable[[StrPath], object] | None = None,
) -> dict[str, Any]:
    """Bytes and metrics of some versions of a picture.

    Pixels are compared as ``codec evaluate`` does: RGB, upright, 8 bits; alpha and profiles are left out.

    Args:
        original: path of a picture.
        others: paths of pictures, or of files made by this codec.
        decode: ``decode(data) -> PIL.Image`` for the latter, such as ``codec.decompress``.
        pictures: also put the decoded pictures into the result, for :func:`build`.
        step: called as ``step(path)`` before each of the others, for a progress display.

    Returns:
        dict: ``name``, ``width``, ``height``, ``bytes``, ``bpp`` of the original, and ``views``: for each of
        the others a dict with ``title`` (its path), ``quality`` (None where unknown), ``bytes``, ``bpp`` and
        every metric that ``codec evaluate`` knows.

    Raises:
        ImageError: one of them cannot be read, or has another size than the original.
        BitstreamError, ModelError: one of our files cannot be decoded.
    """
    pixels = read_picture(original).pixels
    height, width = pixels.shape[:2]
    found: dict[str, Any] = {"name": str(original), "width": width, "height": height, "views": []}
    found["bytes"] = Path(original).stat().st_size
    found["bpp"] = 8 * found["bytes"] / (width * height)
    for path in others:
        if step is not None:
            step(path)
        file = _File(path, decode, original, (width, height))
        try:
            measured, decoded, _ = pages.measure(str(path), file, str(path), pixels, None)
        except (BitstreamError, ModelError) as error:  # which know the bytes, not the file
            raise type(error)(f"{path}: {error}") from error
        shown = {key: value for key, value in measured.items() if key not in LEFT_OUT}
        shown["quality"] = file.quality
        if pictures:
            shown["src"] = pages.data_uri(decoded)
        found["views"].append(shown)
    if pictures:
        found["src"] = pages.data_uri(pixels)
    return found


def build(found: dict[str, Any]) -> str:
    """The text of a page that shows what :func:`compare` found, with pictures."""
    # Without their folders, which say more about the computer than about the pictures, where that is clear.
    short = [Path(view["title"]).name for view in found["views"]]
    views = found["views"]
    if len(set(short)) == len(short):
        views = [{**view, "title": name} for view, name in zip(views, short)]
    name = Path(found["name"]).name
    picture = {**{key: found[key] for key in ("width", "height", "src", "bytes", "bpp")}, "name": name}
    picture["levels"] = [{"label": "", "views": views}]
    rows = [{key: value for key, value in view.items() if key != "src"} for view in views]
    data = {"metrics": pages.metrics_of(rows), "viewer": [picture], "rows": rows}
    return pages.page(f"{name}, compared", "compare", data, ("compare", "viewer"))
