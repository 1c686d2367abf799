"""The transform codec that training starts from: a 16x16 transform of a DCT and a Haar step, and what to expect of it.

An 8x8 DCT of a luma/chroma rotation, then a 2x2 Haar step on each of its 192 channels: 768 coefficients for 16x16
pixels, orthonormal, ordered by the energy that photographs give them. The codec keeps the first M. NumPy arrays;
:mod:`codec.nn.dct` has the same as tensors.
"""

import math

import numpy as np

from .config import COARSE, FINE, PATCH

# Orthonormal luma/chroma rotation: rows are (R+G+B), (R-B), (R-2G+B), normalised.
_ROTATION = ((3**-0.5,) * 3, (2**-0.5, 0.0, -(2**-0.5)), (6**-0.5, -2 * 6**-0.5, 6**-0.5))
_CHROMA = (1.0, 0.32, 0.22)  # standard deviations of the rotated channels of photographs, relative to luma
_SMALLEST = 0.05  # a deviation is not taken to be less, so that rare channels are not magnified


def dct_matrix() -> np.ndarray:
    """(192, 192): pixels of an 8x8 RGB patch, in pixel_unshuffle's order, to orthonormal DCT coefficients."""
    n = np.arange(PATCH, dtype=np.float64)
    dct = np.cos(math.pi / PATCH * n[:, None] * (n[None, :] + 0.5)) * (2 / PATCH) ** 0.5
    dct[0] *= 0.5**0.5
    return np.kron(np.kron(np.array(_ROTATION), dct), dct).astype(np.float32)


def haar_matrix(count: int) -> np.ndarray:
    """(count, 768): the Haar step on DCT channels after pixel_unshuffle(2), the ``count`` most energetic rows."""
    matrix = np.zeros((count, COARSE), np.float32)
    for row, (_, c, k, m) in enumerate(_haar_rows(count)):
        for i in (0, 1):
            for j in (0, 1):
                matrix[row, 4 * c + 2 * i + j] = 0.5 * (-1) ** (k * i + m * j)
    return matrix


def fine_deviation() -> np.ndarray:
    """Expected standard deviation of each DCT channel of a photograph in [0, 1]: float32 (192,)."""
    u, v, chroma = _frequencies()
    frequency = np.sqrt(u**2 + v**2)
    # Amplitudes of photographs fall as about 1/f; the mean stands out by far. Measured.
    deviation = chroma * np.where(frequency == 0, 2.4, 0.3 / (0.5 + frequency))
    return np.maximum(deviation, _SMALLEST).astype(np.float32)


def coarse_deviation(count: int) -> np.ndarray:
    """The same for the first ``count`` channels of the whole transform: float32 (count,)."""
    energy = np.array([-e for e, *_ in _haar_rows(count)], np.float32)
    deviation = np.where(energy == 1, 4.8, 0.5 * energy)  # 1: the luma mean
    return np.maximum(deviation, _SMALLEST).astype(np.float32)


def coarse_to_pixels(matrix: np.ndarray) -> np.ndarray:
    """A matrix (rows, 768) on the DCT channels of :func:`haar_matrix` -> the same on pixels of pixel_unshuffle(16).

    Orthonormal: the transpose of the result leads back.
    """
    rows = len(matrix)
    # (rows, DCT channel, i, j) -> (rows, i, j, pixel of the 8x8 patch); patch (i, j) of a 2x2 square of patches.
    patches = matrix.reshape(rows, FINE, 2, 2).transpose(0, 2, 3, 1) @ dct_matrix()
    # pixel_unshuffle(16) counts colour, row, column; the row of a pixel is 8 i + its row in the patch.
    patches = patches.reshape(rows, 2, 2, 3, PATCH, PATCH)
    return patches.transpose(0, 3, 1, 4, 2, 5).reshape(rows, COARSE)


def coarse_from_pixels(matrix: np.ndarray) -> np.ndarray:
    """Inverse of :func:`coarse_to_pixels`."""
    rows = len(matrix)
    patches = matrix.reshape(rows, 3, 2, PATCH, 2, PATCH).transpose(0, 2, 4, 1, 3, 5).reshape(rows, 2, 2, FINE)
    return (patches @ dct_matrix().T).transpose(0, 3, 1, 2).reshape(rows, COARSE)


def _frequencies():
    """Vertical and horizontal frequency, and deviation relative to luma, of each DCT channel: three float64 (192,)."""
    u = np.tile(np.repeat(np.arange(PATCH), PATCH), 3).astype(np.float64)
    v = np.tile(np.arange(PATCH), PATCH * 3).astype(np.float64)
    return u, v, np.repeat(np.array(_CHROMA), PATCH**2)


def _haar_rows(count):
    """For each of the ``count`` kept coefficients: (-energy, DCT channel, vertical bit, horizontal bit)."""
    u, v, chroma = _frequencies()
    rows = []
    for k in (0, 1):
        for m in (0, 1):
            # Odd DCT functions flip their sign from block to block in a smooth signal, so that for them the
            # difference of neighbours is the lower frequency.
            fu = 2 * u + np.where(u % 2 == 0, float(k), float(1 - k))
            fv = 2 * v + np.where(v % 2 == 0, float(m), float(1 - m))
            energy = (chroma / (1 + np.sqrt(fu**2 + fv**2))).tolist()
            rows += [(-e, c, k, m) for c, e in enumerate(energy)]
    return sorted(rows)[:count]
