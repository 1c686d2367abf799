"""CDF tables: their checks, and what symbols cost by them.

A row is a list of 16-bit cumulative frequencies, from 0 to 65536 and strictly rising; row r stands for the symbols from
``offsets[r]`` on, one for each step but the last, which is the escape for symbols outside. All rows of a model follow
one another in one array: those of z first, then those of each pass of y.
"""

from typing import NamedTuple

import numpy as np

from ..errors import ModelError

PRECISION = 16
TOTAL = 1 << PRECISION
LENGTH_MIN, LENGTH_MAX = 3, 1 << 13  # entries of a row: one symbol, the escape; far more than any symbol range needs


class Rows(NamedTuple):
    """CDF rows.

    Attributes:
        cdf: int32 (total,), all rows one after the other.
        lengths: int32 (rows,), entries of each row, 0 and 65536 included.
        offsets: int32 (rows,), value of each row's first symbol.
    """

    cdf: np.ndarray
    lengths: np.ndarray
    offsets: np.ndarray


def read_rows(tensors, prefix, number, limit):
    """Rows of a weights file: ``<prefix>_cdf``, ``_lengths`` and ``_offsets``.

    Args:
        number: of rows. limit: largest magnitude of a symbol.

    Raises:
        ModelError: something is missing, or they are no such rows.
    """
    names = [f"{prefix}_{key}" for key in Rows._fields]
    for name in names:
        if name not in tensors:
            raise ModelError(f"the weights lack {name}")
        if tensors[name].dtype != np.int32 or tensors[name].ndim != 1:
            raise ModelError(f"{name} is {tensors[name].dtype} {tensors[name].shape}, not a list of int32")
    rows = Rows(*(tensors[name] for name in names))
    if not len(rows.lengths) == len(rows.offsets) == number:
        raise ModelError(f"{prefix}: {len(rows.lengths)} lengths, {len(rows.offsets)} offsets for {number} rows")
    check(rows, prefix)
    last = rows.offsets.astype(np.int64) + rows.lengths - LENGTH_MIN
    if rows.offsets.min() < -limit or last.max() > limit:
        raise ModelError(f"{prefix}: symbols {rows.offsets.min()} to {last.max()}, beyond {limit}")
    return rows


def check(rows, name):
    """ModelError where Rows are not strictly rising from 0 to 65536."""
    lengths = rows.lengths.astype(np.int64)
    if not len(lengths) or lengths.min() < LENGTH_MIN or lengths.max() > LENGTH_MAX:
        raise ModelError(f"{name}: a row must have {LENGTH_MIN} to {LENGTH_MAX} entries")
    if lengths.sum() != len(rows.cdf):
        raise ModelError(f"{name}: rows of {lengths.sum()} entries in all, in a table of {len(rows.cdf)}")
    ends = np.cumsum(lengths)
    if (rows.cdf[ends - lengths] != 0).any() or (rows.cdf[ends - 1] != TOTAL).any():
        raise ModelError(f"{name}: a row does not go from 0 to {TOTAL}")
    rising = np.diff(rows.cdf.astype(np.int64)) > 0
    rising[ends[:-1] - 1] = True  # from a row to the next
    if not rising.all():
        raise ModelError(f"{name}: a row does not rise strictly")


def join(*several):
    """Rows of several tables, one after the other."""
    return Rows(*(np.concatenate(parts) for parts in zip(*several)))


class Costs:
    """What symbols cost by Rows, in bits."""

    def __init__(self, rows):
        ends = np.cumsum(rows.lengths.astype(np.int64))
        self._starts = ends - rows.lengths
        self._last = rows.lengths.astype(np.int64) - 2  # the escape
        self._offsets = rows.offsets.astype(np.int64)
        frequencies = np.diff(rows.cdf.astype(np.int64), append=0).astype(np.float64)
        frequencies[ends - 1] = TOTAL  # no step
        self._bits = PRECISION - np.log2(frequencies)

    def __call__(self, rows, symbols):
        """float64, of the shape of ``rows`` and ``symbols``; an escaped symbol as nibbles, after their number."""
        value = symbols - self._offsets[rows]
        last = self._last[rows]
        outside = (value < 0) | (value >= last)
        bits = self._bits[self._starts[rows] + np.where(outside, last, value)]
        if outside.any():
            beyond = np.where(value < 0, -2 * value - 1, 2 * (value - last))[outside]
            nibbles = np.ceil(np.log2(beyond + 1.0) / 4)
            bits[outside] += 4 * (nibbles + 1)
        return bits
