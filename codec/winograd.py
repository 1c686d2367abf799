"""3x3 convolutions with a quarter of the multiplications, and the order of positions that goes with it.

Winograd's F(4x4, 3x3) (Lavin, Gray 2015, arXiv:1509.09308) makes 4x4 outputs of a 6x6 neighbourhood by 36 products
where the definition takes 144. As array code over all tiles of a picture:

    neighbourhoods of all tiles       (36, tiles, C)     one gather
    times FORWARD                     (36, tiles, C)     one product with a constant 36 x 36 matrix
    times kernels, for each of 36     (36, tiles, D)     36 products over channels: all the arithmetic that counts;
                                                         kernels (36, C, D) = KERNELS (36, 9) times the 9 taps
    times BACKWARD                    (16, tiles, D)     one product with a constant 16 x 36 matrix

The result is in *stream order*: position within the tile first, then tile. Layers that look at single positions do not
care about order, so that a whole network stays in stream order and pays for no way back. The gather replicates the
border by naming border positions more than once, and lets a picture be any number of positions high and wide: tiles
that stick out hold values that no gather names.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

TILE, REACH = 4, 6  # positions of a tile's side, and of its neighbourhood's

_B = np.array(
    [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
     [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
)  # fmt: skip
_G = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
_A = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])

FORWARD = np.kron(_B, _B).astype(np.float32)  # (36, 36)
KERNELS = np.kron(_G, _G).astype(np.float32)  # (36, 9)
BACKWARD = np.kron(_A, _A).astype(np.float32)  # (16, 36)


def taps(weight: np.ndarray) -> np.ndarray:
    """float (D, C, 3, 3), as a convolution has it -> float32 (9, C D); :data:`KERNELS` times that are the kernels.

    They take four times the memory, and are made within the network for one layer at a time.
    """
    return weight.reshape(*weight.shape[:2], 9).transpose(2, 1, 0).astype(np.float32, order="C").reshape(9, -1)


class Layout:
    """Stream order of ``height`` x ``width`` positions.

    Args:
        rows_at_least: rows of the stream, filled up with repetitions where the picture has less.

    Attributes:
        rows: of the stream, a multiple of 16.
        raster: int32 (rows,), the raster position (row * width + column) of each row of the stream; of rows that stand
            for no position, some position.
        stream: int32 (height * width,), the row of each raster position.
        neighbours: int32 (36 * tiles,), the rows that :data:`FORWARD` combines.
    """

    def __init__(self, height: int, width: int, rows_at_least: int = 0) -> None:
        down, across = -(-height // TILE), -(-width // TILE)
        self.height, self.width = height, width
        tiles = max(down * across, -(-rows_at_least // TILE**2))
        self.rows = TILE**2 * tiles
        self.raster = _filled(_windows(height, width, down, across, TILE, 0), tiles)
        position, tile = np.indices((TILE**2, down * across))
        r, c = (position // TILE + TILE * (tile // across)), (position % TILE + TILE * (tile % across))
        inside = (r < height) & (c < width)
        self.stream = np.empty(height * width, np.int32)
        self.stream[(r * width + c)[inside]] = (position * tiles + tile)[inside]
        self.neighbours = self.stream[_filled(_windows(height, width, down, across, REACH, -1), tiles)]

    def core_neighbours(self, top: int, left: int, core: Layout) -> np.ndarray:
        """``neighbours`` for the tiles of another layout, ``core``, whose position (0, 0) is (top, left) here."""
        down, across = -(-core.height // TILE), -(-core.width // TILE)
        positions = _windows(self.height, self.width, down, across, REACH, -1, top, left)
        return self.stream[_filled(positions, core.rows // TILE**2)]


@lru_cache(16)
def layout(height: int, width: int, rows_at_least: int = 0) -> Layout:
    """The :class:`Layout`, remembered: most pieces of a picture have the same size."""
    return Layout(height, width, rows_at_least)


def _windows(height, width, down, across, side, offset, top=0, left=0):
    """Raster positions of side x side windows every 4 positions, clipped to the picture: (side^2, down * across)."""
    r = np.clip(top + TILE * np.arange(down)[:, None] + offset + np.arange(side), 0, height - 1)
    c = np.clip(left + TILE * np.arange(across)[:, None] + offset + np.arange(side), 0, width - 1)
    positions = r.T[:, None, :, None] * width + c.T[None, :, None, :]  # (side, side, down, across)
    return positions.reshape(side**2, down * across)


def _filled(positions, tiles):
    """(n, some tiles) -> int32 (n * tiles,), the last tile repeated."""
    return np.pad(positions, ((0, 0), (0, tiles - positions.shape[1])), mode="edge").astype(np.int32).reshape(-1)
