"""The constants of :mod:`codec.dct` as tensors."""

import torch

from .. import dct
from ..dct import COARSE, FINE, PATCH

__all__ = [
    "COARSE", "FINE", "PATCH", "coarse_deviation", "coarse_from_pixels", "coarse_to_pixels", "dct_matrix",
    "fine_deviation", "haar_matrix", "quantisation_step",
]  # fmt: skip


def dct_matrix():
    """float32 (192, 192)."""
    return torch.from_numpy(dct.dct_matrix())


def haar_matrix(count):
    """float32 (count, 768)."""
    return torch.from_numpy(dct.haar_matrix(count))


def fine_deviation():
    """float32 (192,)."""
    return torch.from_numpy(dct.fine_deviation())


def coarse_deviation(count):
    """float32 (count,)."""
    return torch.from_numpy(dct.coarse_deviation(count))


def coarse_to_pixels(matrix):
    """Of a tensor (rows, 768); the result has its device and dtype and no gradient."""
    return torch.from_numpy(dct.coarse_to_pixels(matrix.detach().cpu().numpy()).copy()).to(matrix)


def coarse_from_pixels(matrix):
    """Inverse of :func:`coarse_to_pixels`."""
    return torch.from_numpy(dct.coarse_from_pixels(matrix.detach().cpu().numpy()).copy()).to(matrix)


def quantisation_step(config):
    """float32 (anchors,)."""
    return torch.tensor(config.quantisation_step())
