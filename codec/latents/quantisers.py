"""Residuals of a pass  <->  symbols: plain rounding and dependent quantisation, behind one contract.

encoder     quantise(k, residual, indexes, quality) -> Quantised,  send(k, quantised, push)
decoder     receive(k, indexes, source)    -> Quantised
both        shift(quality, quantised): where the synthesis sees the symbols
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from .. import quality as scale
from ..errors import ModelError, tensor
from ..quantise.reference import round_half_up
from .coded import Source
from .networks import CODED_FIRST, LEVELS, Y_LIMIT
from .quadtree import GROUPS, PASSES
from .rans import Tables
from .trellis import STEP_SYMBOLS, Rates, choose, reconstruct, walk

TRELLIS_FIRST = 10  # first row with a trellis: deviations from 0.38 symbols on; below, it loses to plain rounding
# What a bit is worth, in squared symbols: 0.6 of what it is to a plain quantiser of step 1 at high rates. A model may
# say by how much more or less at each quality, see Dependent.
SLOPE = np.float32(0.6 * 2 * np.log(2) / 12)

# Where the tensors of a model have those factors, and what an error weighs in each channel. In a file, config.json has
# them.
SLOPES, WEIGHTS = "entropy.trellis_slopes", "entropy.trellis_weights"


class Quantised(NamedTuple):
    """A pass as symbols; arrays of the shape of the pass, but for ``order``.

    Attributes:
        values: float32, what they stand for before any shift, in symbols: multiples of 1/16.
        symbols: float32, integers; 0 where nothing is coded. rows: float32, integers: tables, counted from the pass's
            first.
        order: (n,), flat places of what is coded, in the order of the stream.
    """

    values: np.ndarray
    symbols: np.ndarray
    rows: np.ndarray
    order: np.ndarray


class Rounding:
    """Plain rounding to whole symbols.

    Args:
        start: number of the first table row of pass 0. dequantiser: Dequantiser.
        lattice: symbols of all rows are coded, and none are shifted.
    """

    levels = LEVELS  # rows of a pass

    def __init__(self, start: int, dequantiser: Dequantiser, lattice: bool = False) -> None:
        self._start, self._dequantiser, self._lattice = start, dequantiser, lattice

    def quantise(self, k: int, residual: np.ndarray, indexes: np.ndarray, quality: int) -> Quantised:
        """Quantised of pass ``k``.

        Args:
            residual: float32, latents less their means, in symbols. indexes: float32, rows that the networks say.
            quality: hundredths.
        """
        symbols = np.clip(round_half_up(residual), -Y_LIMIT, Y_LIMIT)
        symbols = symbols if self._lattice else np.where(indexes >= CODED_FIRST, symbols, np.float32(0))
        return Quantised(symbols, symbols, indexes, self._order(indexes))

    def send(self, k: int, quantised: Quantised, push: Callable[[np.ndarray, np.ndarray], object]) -> None:
        """Hand what is coded to ``push(rows, symbols)``."""
        order = quantised.order
        push(self._table(k, quantised.rows.ravel()[order]), quantised.symbols.ravel()[order])

    def receive(self, k: int, indexes: np.ndarray, source: Source) -> Quantised:
        """Quantised of pass ``k``, from a coded.Source: the inverse of :meth:`send`."""
        order = self._order(indexes)
        symbols = np.zeros(indexes.shape, np.float32)
        symbols.ravel()[order] = source.pull(self._table(k, indexes.ravel()[order]), -Y_LIMIT, Y_LIMIT)
        return Quantised(symbols, symbols, indexes, order)

    def shift(self, quality: int, quantised: Quantised) -> np.ndarray | np.float32:
        """What to add to the values for the synthesis, in symbols."""
        return np.float32(0) if self._lattice else self._dequantiser.shift(quality, quantised.symbols, quantised.rows)

    def _order(self, indexes):
        return np.flatnonzero(np.ones(indexes.shape, bool) if self._lattice else indexes >= CODED_FIRST)

    def _table(self, k, rows):
        return rows.astype(np.int32) + np.int32(self._start + k * self.levels)


class Dependent(Rounding):
    """Two quantisers and a trellis between them (:mod:`codec.latents.trellis`); rows below TRELLIS_FIRST are rounded.

    The encoder weighs distortion against what the tables say of the rate. Rows from LEVELS on are those of quantiser 1.

    Args:
        start, dequantiser: as of Rounding. tables: rans.Tables, all of them.
        slopes: float (anchors,), what a bit is worth at each anchor quality, in units of SLOPE.
        weights: float (anchors, M), what a squared error weighs in each channel; None: 1.
    """

    levels = 2 * LEVELS

    def __init__(
        self,
        start: int,
        dequantiser: Dequantiser,
        tables: Tables,
        slopes: np.ndarray,
        weights: np.ndarray | None = None,
    ) -> None:
        super().__init__(start, dequantiser)
        self.slopes, self.weights = slopes, weights
        self._rates = [Rates(tables, start + k * self.levels, LEVELS) for k in range(len(PASSES))]

    def quantise(self, k: int, residual: np.ndarray, indexes: np.ndarray, quality: int) -> Quantised:
        """As :meth:`Rounding.quantise`."""
        rounded, chained = self._orders(indexes)
        residual, rows = residual.ravel(), indexes.ravel().astype(np.intp)
        slope = self._slope(indexes.shape, quality)
        low = _cheaper_rounding(residual[rounded], self._rates[k].of(rows[rounded]), slope[rounded])
        high, quantisers = choose(residual[chained], self._rates[k].of(rows[chained]), slope[chained], Y_LIMIT)
        return _assemble(indexes, rounded, low, chained, high, quantisers)

    def receive(self, k: int, indexes: np.ndarray, source: Source) -> Quantised:
        """As :meth:`Rounding.receive`."""
        rounded, chained = self._orders(indexes)
        rows = self._table(k, indexes.ravel())
        low = source.pull(rows[rounded], -Y_LIMIT, Y_LIMIT)
        high, quantisers = walk(rows[chained], lambda row, quantiser: source.take(row + LEVELS * quantiser))
        return _assemble(indexes, rounded, low, chained, source.accept(high, -Y_LIMIT, Y_LIMIT), quantisers)

    def _slope(self, shape, quality):
        """What a bit is worth at each place of a pass (4, M / 4, h, w), in squared symbols: float32 (n,)."""
        slope = SLOPE * np.float32(scale.interpolate(self.slopes, quality))
        if self.weights is not None:
            by_group = scale.interpolate(self.weights, quality).reshape(-1, GROUPS).T
            slope = slope / by_group[:, :, None, None].astype(np.float32)
        return np.broadcast_to(slope, shape).reshape(-1)

    def _orders(self, indexes):
        """Places of what is rounded, which comes first, and of what goes through the trellis."""
        coded = indexes >= CODED_FIRST
        chained = indexes >= TRELLIS_FIRST
        return np.flatnonzero(coded & ~chained), np.flatnonzero(chained)


def _cheaper_rounding(residual, bits, slope):
    """Whole symbols (n,): the nearest one or its neighbour towards 0, whichever costs less."""
    near = np.clip(round_half_up(residual), -Y_LIMIT, Y_LIMIT)
    less = near - np.sign(near)
    costs = [np.square(residual - s) + slope * bits(0, s.astype(np.intp)) for s in (near, less)]
    return np.where(costs[1] < costs[0], less, near)


def _assemble(indexes, rounded, low, chained, high, quantisers):
    values, symbols = (np.zeros(indexes.size, np.float32) for _ in range(2))
    rows = indexes.flatten()
    values[rounded] = symbols[rounded] = low
    symbols[chained] = high
    values[chained] = reconstruct(symbols[chained], quantisers) * STEP_SYMBOLS
    rows[chained] += (LEVELS * quantisers).astype(np.float32)
    values, symbols, rows = (array.reshape(indexes.shape) for array in (values, symbols, rows))
    return Quantised(values, symbols, rows, np.concatenate((rounded, chained)))


def read_slopes(tensors: Mapping[str, np.ndarray], anchors: int) -> np.ndarray:
    """What a bit is worth to the encoder of a model at each anchor quality, in units of SLOPE: float32 (anchors,).

    Raises:
        ModelError: they are no such numbers, from 0.01 to 100.
    """
    slopes = tensors.get(SLOPES, np.ones(anchors, np.float32))
    if slopes.shape != (anchors,) or not ((slopes >= 0.01) & (slopes <= 100)).all():
        raise ModelError(f"trellis_slopes of config.json are not {anchors} numbers from 0.01 to 100")
    return slopes.astype(np.float32)


def read_channel_weights(tensors: Mapping[str, np.ndarray], anchors: int, channels: int) -> np.ndarray | None:
    """What a squared error weighs in each channel at each anchor quality: float32 (anchors, channels); None: the same.

    Raises:
        ModelError: they are no such numbers, from 0.01 to 100.
    """
    weights = tensors.get(WEIGHTS)
    if weights is None:
        return None
    if weights.shape != (anchors, channels) or not ((weights >= 0.01) & (weights <= 100)).all():
        raise ModelError(f"trellis_weights of config.json are not {anchors} x {channels} numbers from 0.01 to 100")
    return weights.astype(np.float32)


class Dequantiser:
    """Where in its interval a symbol is reconstructed for the synthesis, by row of the table and quality.

    Small predicted deviations mean that most of what was rounded to 1 lies near 1/2. What the entropy networks read
    themselves stays in the middle of the interval, and exact.

    Args:
        tensors: ``{name: array}`` of a weights file. key: of the shifts towards the mean in symbols, float (anchors,
            levels, MAGNITUDES), among them. levels: rows of a pass.

    Raises:
        ModelError: there are no such shifts.
    """

    MAGNITUDES = 3  # 1, 2, and all from 3 on have a value of their own

    def __init__(self, tensors: Mapping[str, np.ndarray], key: str, anchors: int, levels: int) -> None:
        shape, shrink = (anchors, levels, self.MAGNITUDES), tensor(tensors, key)
        if shrink.dtype.kind != "f" or shrink.shape != shape:
            raise ModelError(f"{key} is {shrink.dtype} {shrink.shape}, not float {shape}")
        if not (np.abs(shrink) <= 1).all():  # not for NaN either
            raise ModelError(f"{key} moves a symbol by more than 1")
        self._shrink = shrink.astype(np.float32)

    def shift(self, quality: int, symbols: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """What to add to each latent, in symbols; float32, of the shape of ``symbols``."""
        return -np.sign(symbols) * self._table(quality)[self.cells(symbols, rows)]

    @classmethod
    def cells(cls, symbols: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Number of each symbol's shift: row (MAGNITUDES + 1) + magnitude, where magnitude 0 has none."""
        magnitude = np.minimum(np.abs(symbols), np.float32(cls.MAGNITUDES))
        return (rows * np.float32(cls.MAGNITUDES + 1) + magnitude).astype(np.intp)

    def _table(self, quality):
        """Shifts at a quality: float32 (levels (MAGNITUDES + 1),)."""
        return np.pad(scale.interpolate(self._shrink, quality), ((0, 0), (1, 0))).ravel()
