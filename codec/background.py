"""The one colour that much of a picture has, such as the white behind a product, kept to the last bit.

A transform spreads the error of what is near. Where a picture has exactly one colour, the eye sees a difference of one
level, and a page of that colour shows a seam. So the blocks of the most frequent such colour are listed, and filled
with it after decoding: a section of the file, which a reader may pass over.

    section: red, green, blue, 16 bits each | zlib: rows of blocks, each bit with that of the block above, exclusive or
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .errors import Corrupt

if TYPE_CHECKING:
    from .model import View


BLOCK = 8  # pixels; a preview at 1/8 has one pixel a block
_COLOUR_BYTES = 6
_MIN_SHARE = 1 / 8  # of the blocks
_MAX_COST = 1 / 32  # of the tiles' bytes
MIN_QUALITY = 5000  # below, colours are not what counts
_BAND = 8  # rows of blocks at a time


class Background(NamedTuple):
    """What has one colour.

    Attributes:
        colour: uint16 (3,), red, green, blue.
        blocks: bool (ceil(H / BLOCK), ceil(W / BLOCK)), which blocks have it in all of their pixels.
    """

    colour: np.ndarray
    blocks: np.ndarray


def find(pixels: np.ndarray) -> Background | None:
    """The background of a picture, uint8 or uint16 (H, W, 3); None where no colour fills an eighth of it."""
    height, width, _ = pixels.shape
    rows, columns = -(-height // BLOCK), -(-width // BLOCK)
    even = np.empty((rows, columns), bool)
    colours = np.empty((rows, columns), np.uint64)
    for top in range(0, rows, _BAND):
        band = pixels[top * BLOCK : (top + _BAND) * BLOCK]
        missing = [-side % BLOCK for side in band.shape[:2]]
        band = np.pad(band, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
        band = band.reshape(-1, BLOCK, columns, BLOCK, 3)
        first = band[:, :1, :, :1]
        part = slice(top, top + len(band))
        even[part] = (band == first).all((1, 3, 4))
        red, green, blue = first[:, 0, :, 0].astype(np.uint64).transpose(2, 0, 1)
        colours[part] = red << np.uint64(32) | green << np.uint64(16) | blue
    if even.sum() < _MIN_SHARE * even.size:
        return None
    found, counts = np.unique(colours[even], return_counts=True)
    if counts.max() < _MIN_SHARE * even.size:
        return None
    most = int(found[counts.argmax()])
    colour = np.array([most >> 32, most >> 16 & 0xFFFF, most & 0xFFFF], np.uint16)
    scale = 257 if pixels.dtype == np.uint8 else 1
    return Background(colour * np.uint16(scale), even & (colours == most))


def worth(background: Background | None, quality: int, tile_bytes: int) -> bytes | None:
    """The section of a background, where it is to be written: at that quality, in hundredths, and beside such tiles."""
    if background is None or quality < MIN_QUALITY:
        return None
    section = pack(background)
    return section if len(section) <= _MAX_COST * tile_bytes else None


def pack(background: Background) -> bytes:
    """The section's bytes."""
    changes = background.blocks ^ np.pad(background.blocks, ((1, 0), (0, 0)))[:-1]
    return background.colour.astype("<u2").tobytes() + zlib.compress(np.packbits(changes, axis=1).tobytes(), 9)


def unpack(section: bytes, width: int, height: int) -> Background:
    """The background of a picture of that size; the inverse of :func:`pack`.

    Raises:
        Corrupt: the section holds no such thing.
    """
    rows, columns = -(-height // BLOCK), -(-width // BLOCK)
    size = rows * -(-columns // 8)
    try:
        stream = zlib.decompressobj()
        contents = stream.decompress(section[_COLOUR_BYTES:], size + 1)
    except zlib.error:
        raise Corrupt("corrupt: the background is no zlib stream") from None
    if len(contents) != size or not stream.eof or stream.unused_data:
        raise Corrupt("corrupt: the background is one of another picture")
    changes = np.unpackbits(np.frombuffer(contents, np.uint8).reshape(rows, -1), axis=1, count=columns)
    colour = np.frombuffer(section, "<u2", 3).astype(np.uint16)
    return Background(colour, np.bitwise_xor.accumulate(changes, axis=0).astype(bool))


def fill(pixels: np.ndarray, background: Background, view: View) -> None:
    """Put a background back.

    Args:
        pixels: uint8 or uint16 (h, w, 3), changed: what has been decoded of the picture.
        view: model.View, which part of it that is.
    """
    colour = background.colour
    if pixels.dtype == np.uint8:
        colour = ((colour.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    (top, left), (height, width) = view.corner, view.size
    row = (top + np.arange(height)) * view.reduce // BLOCK
    column = (left + np.arange(width)) * view.reduce // BLOCK
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    for start, end in zip(starts, [*starts[1:], height]):
        pixels[start:end, background.blocks[row[start]][column]] = colour
