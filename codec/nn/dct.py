"""The constants of :mod:`codec.dct` as tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .. import dct
from ..dct import COARSE, FINE, PATCH

if TYPE_CHECKING:
    from ..config import ModelConfig


__all__ = [
    "COARSE", "FINE", "PATCH", "coarse_deviation", "coarse_from_pixels", "coarse_to_pixels", "dct_matrix",
    "fine_deviation", "haar_matrix", "quantisation_step",
]  # fmt: skip


def dct_matrix() -> torch.Tensor:
    """float32 (192, 192)."""
    return torch.from_numpy(dct.dct_matrix())


def haar_matrix(count: int) -> torch.Tensor:
    """float32 (count, 768)."""
    return torch.from_numpy(dct.haar_matrix(count))


def fine_deviation() -> torch.Tensor:
    """float32 (192,)."""
    return torch.from_numpy(dct.fine_deviation())


def coarse_deviation(count: int) -> torch.Tensor:
    """float32 (count,)."""
    return torch.from_numpy(dct.coarse_deviation(count))


def coarse_to_pixels(matrix: torch.Tensor) -> torch.Tensor:
    """Of a tensor (rows, 768); the result has its device and dtype and no gradient."""
    return torch.from_numpy(dct.coarse_to_pixels(matrix.detach().cpu().numpy()).copy()).to(matrix)


def coarse_from_pixels(matrix: torch.Tensor) -> torch.Tensor:
    """Inverse of :func:`coarse_to_pixels`."""
    return torch.from_numpy(dct.coarse_from_pixels(matrix.detach().cpu().numpy()).copy()).to(matrix)


def quantisation_step(config: ModelConfig) -> torch.Tensor:
    """float32 (anchors,)."""
    return torch.tensor(config.quantisation_step())
