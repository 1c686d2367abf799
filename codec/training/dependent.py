"""Dependent quantisation in training: forward what an encoder writes, backward the straight-through estimator.

Plain rounding stands for quantisation while a network learns. What its files hold in the end are the latents that the
trellis chose (:mod:`codec.latents.trellis`): errors of another size and shape, and more zeros. Here the synthesis and
the entropy networks see those. The estimator is that of Bengio, Leonard, Courville 2013, arXiv:1308.3432: one choice's
effect on the next goes unheard.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from ..config import ModelConfig
from ..errors import ModelError
from ..latents.coded import Queue
from ..latents.networks import Y_LIMIT
from ..latents.quadtree import MEAN_UNIT, PASSES
from ..latents.quantisers import TRELLIS_FIRST, Dependent, Dequantiser, read_channel_weights, read_slopes
from ..latents.rans import Tables
from ..latents.scalar import read_tables
from ..latents.trellis import STEP

TENSORS = ("entropy.trellis_cdf", "entropy.trellis_lengths", "entropy.trellis_offsets", "entropy.trellis_shrink")
WIDTH = 2 * STEP / MEAN_UNIT  # of the interval around a point of one quantiser, in symbols


class Chosen(NamedTuple):
    """A pass of a batch as the trellis has it; float tensors (B, ...) of the shape of the pass, but for ``bits``.

    Attributes:
        values: what the symbols stand for, in symbols. shifts: what to add for the synthesis.
        widths: of the intervals that the quantiser has there, in symbols. bits: (B,), by the tables.
    """

    values: torch.Tensor
    shifts: torch.Tensor
    widths: torch.Tensor
    bits: torch.Tensor


class Trellis:
    """The encoder's choices for a batch, by the tables and slopes of weights that files are written with.

    Args:
        config: ModelConfig. tensors: ``{name: array}`` of a weights file.

    Raises:
        ModelError: there are no tables for dependent quantisation among the tensors.
    """

    def __init__(self, config: ModelConfig, tensors: Mapping[str, np.ndarray]) -> None:
        if not tensors.keys() >= set(TENSORS):
            raise ModelError("no tables for dependent quantisation; codec train PICTURES --fit-tables MODEL adds them")
        self._tables = Tables(*read_tables(tensors, "entropy.trellis", len(PASSES) * Dependent.levels, Y_LIMIT))
        shifts = Dequantiser(tensors, "entropy.trellis_shrink", config.anchors, Dependent.levels)
        encoder = read_slopes(tensors, config.anchors), read_channel_weights(tensors, config.anchors, config.M)
        self._quantiser = Dependent(0, shifts, self._tables, *encoder)

    def choose(self, k: int, residual: torch.Tensor, indexes: torch.Tensor, hundredths: torch.Tensor) -> Chosen:
        """Pass ``k`` of a batch.

        Args:
            residual: float (B, ...), latents less their means, in symbols. indexes: of the same shape, rows that the
                networks say. hundredths: (B,), qualities.
        """
        parts: list[Any] = []
        arrays = (t.detach().float().cpu().contiguous().numpy() for t in (residual, indexes))
        for own, rows, quality in zip(*arrays, hundredths.round().int().tolist()):
            found = self._quantiser.quantise(k, own, rows, quality)
            sent = Queue()
            self._quantiser.send(k, found, sent.push)
            bits = sum(self._tables.bits(*one).sum(dtype=np.float64) for one in zip(sent.rows, sent.symbols))
            parts.append((found.values, self._quantiser.shift(quality, found), np.float32(bits)))
        values, shifts, bits = (torch.from_numpy(np.stack(part)).to(residual.device) for part in zip(*parts))
        return Chosen(values, shifts, torch.where(indexes.detach() >= TRELLIS_FIRST, WIDTH, 1.0), bits)
