"""Scalar latents: y and z  <->  symbols.

    z -> round -> symbols of z                     rows: one per channel, of the nearest anchor quality
    z_hat -> walk: means, rows of each pass        rows: LEVELS for each pass and quantiser, from narrow to wide
    y -> less mean, quantise -> symbols of y       those of rows below CODED_FIRST are zero and not coded

Latents y are coded as Gaussian scale mixtures whose mean and scale come from the side information z and from the part
of y that is already known (mean-scale hyperprior: Minnen, Balle, Toderici 2018, arXiv:1809.02736), in the passes of
:mod:`codec.latents.quadtree`.
Symbols of z stand in the order channel, row, column; those of a pass in the order of
:func:`codec.latents.quadtree.take`: group, channel within it, row, column.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import quality as scale
from ..config import ModelConfig
from ..errors import Corrupt, ModelError, tensor
from ..quantise.reference import round_half_up
from .coded import Encoded, Pulls, Queue, Source
from .networks import LEVELS, Y_LIMIT, Z_LIMIT, exact_networks
from .quadtree import MEAN_UNIT, PASSES, merge, split, walk
from .quantisers import Dependent, Dequantiser, Rounding, read_channel_weights, read_slopes
from .rans import Tables, check_tables


class ScalarLatents:
    """Exact entropy networks, CDF tables and dequantiser: what encoder and decoder must agree on.

    Args:
        config: ModelConfig with scalar latents.
        tensors: ``{name: array}`` of a weights file.
        dtype: for tests: of all products, float32 or float64.

    Attributes:
        tables: rans.Tables for the coder: those of z, of y pass by pass, and of y by dependent quantisation.
        dependent: whether there are tables for dependent quantisation.

    Raises:
        ModelError: a tensor is missing, damaged, or does not fit the config.
    """

    def __init__(
        self, config: ModelConfig, tensors: Mapping[str, np.ndarray], dtype: type[np.floating[Any]] | None = None
    ) -> None:
        self.config = config
        self.networks = exact_networks(config, tensors, dtype)
        start, anchors = config.anchors * config.N, config.anchors
        tables = [
            read_tables(tensors, "entropy.z", start, Z_LIMIT),
            read_tables(tensors, "entropy.y", len(PASSES) * LEVELS, Y_LIMIT),
        ]
        self.dependent = any(name.startswith("entropy.trellis_") for name in tensors)
        if self.dependent:
            tables.append(read_tables(tensors, "entropy.trellis", len(PASSES) * Dependent.levels, Y_LIMIT))
        self.tables = Tables(*(np.concatenate(parts) for parts in zip(*tables)))
        shifts = Dequantiser(tensors, "entropy.shrink", anchors, LEVELS)
        self._rounding, self._lattice = Rounding(start, shifts), Rounding(start, shifts, lattice=True)
        if self.dependent:
            shifts = Dequantiser(tensors, "entropy.trellis_shrink", anchors, Dependent.levels)
            first = start + len(PASSES) * LEVELS
            encoder = read_slopes(tensors, anchors), read_channel_weights(tensors, anchors, config.M)
            self._trellis = Dependent(first, shifts, self.tables, *encoder)

    def quantiser(self, lattice: bool = False, dependent: bool = False) -> Rounding:
        """What turns residuals into symbols, of :mod:`codec.latents.quantisers`.

        Raises:
            Corrupt: dependent, where the model has no tables for it, or for a lattice.
        """
        if dependent and (lattice or not self.dependent):
            raise Corrupt("corrupt: dependent quantisation, where there is none")
        return self._trellis if dependent else self._lattice if lattice else self._rounding

    def encode(
        self, z: np.ndarray, y: np.ndarray, quality: int, lattice: bool = False, dependent: bool = False
    ) -> Encoded:
        """Symbols of one picture or tile, and what the decoder will make of them.

        Args:
            z: float32 (N, h/4, w/4), side information before rounding.
            y: float32 (M, h, w), gained latents before rounding, in symbols; h and w multiples of 4.
            quality: int, hundredths.
            lattice: y_hat is made of whole numbers, and symbols of all rows are coded: for latents of the plain
                transform, which the networks predict less well.
            dependent: quantise by the trellis, which needs tables of its own, and no lattice.

        Returns:
            Encoded.
        """
        channels, rows, columns = z.shape
        assert channels == self.config.N and y.shape == (self.config.M, 4 * rows, 4 * columns)
        queue = Queue()
        z_hat = np.clip(round_half_up(z), -Z_LIMIT, Z_LIMIT)
        queue.push(self._z_rows(z_hat.shape, quality), z_hat.ravel())
        quantiser, shifts, passes = self.quantiser(lattice, dependent), [], split(y)

        def symbols_of(k, means, indexes):
            found = quantiser.quantise(k, passes[k] - means / np.float32(MEAN_UNIT), indexes, quality)
            quantiser.send(k, found, queue.push)
            shifts.append(quantiser.shift(quality, found))
            return found.values

        parts = walk(self.networks, z_hat, quality, symbols_of, lattice)
        return Encoded(z_hat, _y_hat(parts, shifts), queue.rows, queue.symbols, queue.crc)

    def decode(
        self,
        coder: Pulls,
        height: int,
        width: int,
        quality: int,
        lattice: bool = False,
        crc: int | None = None,
        dependent: bool = False,
    ) -> np.ndarray:
        """Inverse of :meth:`encode` for latents of size (height, width).

        Args:
            coder: has ``pull(rows) -> symbols``.
            crc: CRC-32 that the symbols must have; None: any.
            lattice, dependent: the encoder's.

        Returns:
            y_hat float32 (M, height, width), the encoder's, bit for bit.

        Raises:
            Corrupt: the symbols are not those of an encoder.
        """
        quantiser, shifts, source = self.quantiser(lattice, dependent), [], Source(coder)
        shape = (self.config.N, height // 4, width // 4)
        z_hat = source.pull(self._z_rows(shape, quality), -Z_LIMIT, Z_LIMIT).astype(np.float32).reshape(shape)

        def symbols_of(k, means, indexes):
            found = quantiser.receive(k, indexes, source)
            shifts.append(quantiser.shift(quality, found))
            return found.values

        parts = walk(self.networks, z_hat, quality, symbols_of, lattice)
        source.finish(crc)
        return _y_hat(parts, shifts)

    def estimate(self, *arguments: Any, **options: Any) -> float:
        """Bits of :meth:`encode`'s symbols by the tables, without the coder's few bytes for its states: float."""
        return self.encode(*arguments, **options).bits(self.tables)

    def _z_rows(self, shape, quality):
        """Row of each symbol of z: that of its channel, of the nearest anchor quality; int32 (n,)."""
        channels, height, width = shape
        start = scale.nearest(quality, self.config.anchors) * channels
        return np.repeat(np.arange(start, start + channels, dtype=np.int32), height * width)


def _y_hat(parts, shifts):
    """Passes in 1/16 of a symbol and their shifts -> latents (M, h, w) in symbols."""
    return merge([part / np.float32(MEAN_UNIT) + shift for part, shift in zip(parts, shifts)])


def read_tables(
    tensors: Mapping[str, np.ndarray], prefix: str, number: int, limit: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Arrays of rans.Tables, from a weights file: ``<prefix>_cdf``, ``_lengths`` and ``_offsets``.

    Args:
        number: of rows. limit: largest magnitude of a symbol.

    Raises:
        ModelError: something is missing, or they are no such tables.
    """
    cdf, lengths, offsets = (tensor(tensors, f"{prefix}_{key}") for key in ("cdf", "lengths", "offsets"))
    try:
        check_tables(cdf, lengths, offsets)
    except ModelError as error:
        raise ModelError(f"{prefix}: {error}") from None
    if len(lengths) != number:
        raise ModelError(f"{prefix}: {len(lengths)} rows; needed {number}")
    last = offsets.astype(np.int64) + lengths - 3
    if offsets.min() < -limit or last.max() > limit:
        raise ModelError(f"{prefix}: symbols {offsets.min()} to {last.max()}, beyond {limit}")
    return cdf, lengths, offsets
