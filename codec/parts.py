"""Parts of pictures: a region, a smaller picture, what is left of a damaged file.

Tiles are coded apart and the synthesis works on pieces of a fixed grid, so that a region takes only its own tiles and
pieces, and is the same cut of the whole picture to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO, cast

import numpy as np

from . import bitstream
from .errors import CodecError
from .files import BytesLike
from .model import View

SCALES = (1, 1 / 2, 1 / 4, 1 / 8)


@dataclass(frozen=True)
class Part:
    """What is wanted of a file.

    Attributes:
        region: (left, top, width, height) in pixels of the picture; None for all of it.
        scale: 1, 1/2, 1/4 or 1/8: means of pixels. 1/8 is made without the network, from the latents' lowest
            frequencies.
        lost: None: damage is an error. A list: intact tiles are decoded, what is lost is grey, and lines that say so
            are added to the list.
    """

    region: tuple[int, int, int, int] | None = None
    scale: float = 1
    lost: list[str] | None = None

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise ValueError(f"scale {self.scale}: there are 1, 1/2, 1/4 and 1/8")
        if self.region is not None and (len(self.region) != 4 or any(n != int(n) for n in self.region)):
            raise ValueError(f"region {self.region}: it takes four whole numbers: left, top, width, height")

    @property
    def whole(self) -> bool:
        return self.region is None and self.scale == 1

    def view(self, width: int, height: int) -> View:
        """The model.View of a picture of that size.

        Raises:
            CodecError: the region is empty or not within the picture.
        """
        left, top, wide, high = map(int, self.region or (0, 0, width, height))
        if min(left, top) < 0 or min(wide, high) < 1 or left + wide > width or top + high > height:
            raise CodecError(
                f"region {left},{top},{wide},{high} is not within the {width} x {height} pixels of the picture"
            )
        return View(left, top, wide, high, round(1 / self.scale))

    def of(self, pixels: np.ndarray) -> np.ndarray:
        """This part of an array (H, W) or (H, W, 3) of the whole picture; means of what there is at its borders."""
        view = self.view(pixels.shape[1], pixels.shape[0])
        if view.reduce == 1:
            return pixels[view.top : view.top + view.height, view.left : view.left + view.width]
        (row, column), (rows, columns) = view.corner, view.size
        cut = pixels[
            row * view.reduce : (row + rows) * view.reduce, column * view.reduce : (column + columns) * view.reduce
        ]
        missing = [(0, view.reduce * n - have) for n, have in zip((rows, columns), cut.shape)]
        cut = np.pad(cut, [*missing, *[(0, 0)] * (cut.ndim - 2)], mode="edge")
        means = cut.reshape(rows, view.reduce, columns, view.reduce, *cut.shape[2:]).mean((1, 3), dtype=np.float64)
        return np.floor(means + 0.5).astype(pixels.dtype)


def container_of(source: IO[bytes] | BytesLike, part: Part) -> bitstream.Container:
    """The container in a binary file, which must stay open for as long as it is used, or in bytes.

    Args:
        source: a binary file, read from its position on, or bytes. Of a file that can seek, a region's tiles alone are
            read.
        part: Part.

    Raises:
        BitstreamError: it is damaged, and more so than ``part`` bears.
    """
    data: BytesLike
    if hasattr(source, "read"):
        file = cast("IO[bytes]", source)
        if part.region is not None and part.lost is None:
            return bitstream.unpack_partly(file)
        data = bitstream.read_file(file)
    else:
        data = source if isinstance(source, bytes) else memoryview(cast("BytesLike", source))
    if part.lost is None:
        return bitstream.unpack(data)
    container, names = bitstream.unpack_damaged(data)
    part.lost.extend(f"{name} is damaged and left out" for name in names)
    return container


def in_words(container: bitstream.Container, lost: Iterable[int]) -> list[str]:
    """Lines that say which tiles of a picture are lost, by number."""
    columns, _ = bitstream.tile_grid(container.width, container.height)
    side = bitstream.TILE_SIDE
    found = []
    for number in sorted(set(lost)):
        row, column = divmod(number, columns)
        right, bottom = min(side * (column + 1), container.width), min(side * (row + 1), container.height)
        found.append(f"tile {number} is lost: x {side * column} to {right - 1}, y {side * row} to {bottom - 1}")
    return found
