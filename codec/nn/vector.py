"""The torch side of :mod:`codec.latents.vector`: groups and contexts, for batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ..latents.vector import HISTORIES, NEIGHBOURHOODS


def to_groups(y: torch.Tensor, code_dim: int) -> torch.Tensor:
    """(B, M, h, w) -> (M / code_dim, B h w, code_dim): the vectors that are quantised, batch first."""
    batch, channels, height, width = y.shape
    groups = channels // code_dim
    vectors = y.view(batch, groups, code_dim, height, width).permute(1, 0, 3, 4, 2)
    return vectors.reshape(groups, batch * height * width, code_dim)


def from_groups(vectors: torch.Tensor, batch: int, height: int, width: int) -> torch.Tensor:
    """Inverse of :func:`to_groups`."""
    groups, _, code_dim = vectors.shape
    vectors = vectors.view(groups, batch, height, width, code_dim).permute(1, 0, 4, 2, 3)
    return vectors.reshape(batch, groups * code_dim, height, width)


def histories(earlier: Sequence[torch.Tensor], stage_before: torch.Tensor) -> torch.Tensor:
    """Classes 0 to HISTORIES - 1 of what is known at a position before its own pair.

    Args:
        earlier: list of up to three int tensors, magnitudes of the groups before, in the same stage.
        stage_before: int tensor, magnitudes of the same group in the stage before; zero for the first.
    """
    activity = 2 * stage_before + sum(earlier)
    return (activity >= 1).long() + (activity >= 4) + (activity >= 8)


def contexts(history: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """Rows of the pair's table (..., h, w), given its magnitudes (..., h, w), for both halves of the checkerboard.

    The first half does not look at ``magnitude``; the second looks at its first half alone.
    """
    height, width = magnitude.shape[-2:]
    first = checkerboard(height, width, magnitude.device)
    around = F.pad(magnitude * first, (1, 1, 1, 1))
    total = around[..., :-2, 1:-1] + around[..., 2:, 1:-1] + around[..., 1:-1, :-2] + around[..., 1:-1, 2:]
    neighbourhood = (total >= 1).long() + (total >= 3) + (total >= 6)
    second = HISTORIES + NEIGHBOURHOODS * (history >= 2) + neighbourhood
    return torch.where(first, history, second)


def checkerboard(height: int, width: int, device: torch.device | str | None = None) -> torch.Tensor:
    """bool (h, w): the half that is coded first."""
    rows = torch.arange(height, device=device)[:, None]
    return (rows + torch.arange(width, device=device)) % 2 == 0
