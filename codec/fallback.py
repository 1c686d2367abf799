"""Smaller or as it was: pictures that others hold in fewer bytes are carried as they are.

A transform codec is made for photographs. Text, drawings, screenshots and dithered pictures take fewer bytes without
any loss, and a picture that has been compressed harder before only grows. Then the file carries the source's own bytes,
or a lossless WebP of it, behind the same header (BITSTREAM.md, "Stored").
"""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np

from . import bitstream, image_io, picture_files
from .image_io import Picture

MODES = ("never", "auto", "always")
# Share of pixels that equal their left neighbour from which on a lossless coder is tried, and how many colours are few.
# Of photographs 5 to 20 % do so, of screenshots 60 to 99 %.
_EQUAL_NEIGHBOURS = 0.4
_FEW_COLOURS = 256
_SAMPLE = 2**16  # pixels among which colours are counted
_WEBP_SIDE = 16383
_TRIED_PIXELS = 2**25  # larger pictures are not tried: WebP takes 20 bytes of memory a pixel


class Stored(NamedTuple):
    """A picture file in the place of tiles, and whether it says itself what belongs to the picture."""

    data: bytes
    complete: bool
    remark: str


def looks_drawn(pixels: np.ndarray) -> bool:
    """Whether a picture (H, W, 3) has flat areas or few colours, as text, drawings and screenshots have."""
    height, width = pixels.shape[:2]
    step = max(1, height * width // _SAMPLE)
    sample = pixels.reshape(-1, 3)[::step].astype(np.uint64)
    packed = sample[:, 0] << np.uint64(32) | sample[:, 1] << np.uint64(16) | sample[:, 2]
    if len(np.unique(packed)) <= _FEW_COLOURS:
        return True
    equal = 0
    rows = max(1, 2**20 // width)
    for top in range(0, height, rows):
        band = pixels[top : top + rows]
        equal += np.count_nonzero((band[:, 1:] == band[:, :-1]).all(axis=2))
    return bool(equal > _EQUAL_NEIGHBOURS * height * (width - 1))


def lossless_file(picture: Picture) -> bytes:
    """A lossless WebP of a picture; PNG where it has 16 bits or a side that WebP does not hold."""
    height, width = picture.pixels.shape[:2]
    if picture.pixels.dtype == np.uint16:
        samples = picture.pixels[..., :1] if picture.grey else picture.pixels
        if picture.alpha is not None:
            samples = np.concatenate([samples, picture.alpha[..., None].astype(np.uint16) * 257], axis=2)
        return picture_files.write_png16(samples)
    image = image_io.to_image(picture.pixels, picture.alpha, picture.grey)
    file = io.BytesIO()
    if max(height, width) > _WEBP_SIDE:
        image.save(file, "PNG", optimize=True)
        return file.getvalue()
    if image.mode in ("L", "LA"):
        image = image.convert({"L": "RGB", "LA": "RGBA"}[image.mode])
    image.save(file, "WEBP", lossless=True, exact=True)  # thorougher methods take 20 times as long, for 1 %
    return file.getvalue()


def stored_instead(picture: Picture, mode: str, coded_size: int | None = None, *, bare: bool = False) -> Stored | None:
    """What to store in the place of a coded picture, or None to keep that.

    Args:
        picture: Picture, read exactly, with its source.
        mode: one of MODES. "always": the smaller one of source and lossless file.
        coded_size: bytes of the coded file; None where there is none, with "always".
        bare: the source must not bring its metadata.
    """
    if mode == "never":
        return None
    found = []
    source = picture.source
    own = None if source is None else source.bare if bare else source.data
    if own is not None and (coded_size is None or len(own) <= coded_size):
        remark = "kept as it is, without loss"
        if coded_size is not None:
            remark = f"kept as it is: coded it would take {coded_size:,} bytes"
        found.append(Stored(own, not bare, remark))
    small = picture.pixels[..., 0].size <= _TRIED_PIXELS
    drawn = (small or mode == "always") and looks_drawn(picture.pixels)
    if mode == "always" or (drawn and picture.pixels.dtype == np.uint8):
        data = lossless_file(picture)
        if coded_size is None or len(data) < coded_size - _said_besides(picture):
            kind = "text or a drawing" if drawn else "a picture"
            remark = f"{kind}, kept without loss as {bitstream.stored_kind(data)}"
            if coded_size is not None:
                remark += f": coded it would take {coded_size:,} bytes"
            found.append(Stored(data, False, remark))
    return min(
        found, key=lambda stored: len(stored.data) + (0 if stored.complete else _said_besides(picture)), default=None
    )


def _said_besides(picture):
    """Bytes, about, of what stands beside a stored picture that does not say it itself."""
    parts = picture.icc, picture.metadata.exif, picture.metadata.xmp, picture.metadata.iptc
    return sum(len(part) for part in parts if part)
