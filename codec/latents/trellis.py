"""Dependent quantisation: the trellis that says which quantiser comes next, its encoder and its decoder.

    quantiser 0   ...  -4   -2    0    2    4  ...      in steps; index k stands for 2 k
    quantiser 1   ... -3  -1      0      1   3 ...      index k stands for 2 k - sign(k)

Both have about the density of one plain quantiser of twice the step, but together they cover all multiples of the step.
A state machine, driven by the parity of each index, says which of them is next: so the encoder may reach the nearer
points of the finer grid, by way of what it chose before. It looks for the cheapest way, distortion and rate together,
by the algorithm of Viterbi.

Trellis-coded quantisation: Marcellin, Fischer 1990, IEEE Trans. Communications 38(1); with entropy coding and these
quantisers: Schwarz, Nguyen, Marpe, Wiegand 2019, "Hybrid video coding with trellis-coded quantization" (VVC).
The symbols of a pass form chains that start in state 0 and do not know of each other: array code goes along all of
them side by side. Symbol n of N belongs to chain n mod C, where C = ceil(N / CHAIN), so that the order of symbols in
the stream is the same as without chains.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .quadtree import MEAN_UNIT
from .rans import Tables

CHAIN = 64  # most symbols of a chain
STEP = 10  # in 1/16 of a symbol
STEP_SYMBOLS = np.float32(STEP / MEAN_UNIT)


# ``bits(quantiser, k)``: what each index would cost, float (n,); k integers (n,), or 0 for all.
Bits: TypeAlias = Callable[[int, Any], np.ndarray]
Slope: TypeAlias = "float | np.floating[Any] | np.ndarray"


class Machine(NamedTuple):
    """States and what drives them.

    Attributes:
        next_state: (states, 2): the state after an even and after an odd index.
        quantiser: (states,): 0 or 1.
    """

    next_state: np.ndarray
    quantiser: np.ndarray

    def sources(self) -> np.ndarray:
        """The two branches that lead to each state: their states and parities, both (2, states)."""
        found = [np.argwhere(self.next_state == state) for state in range(len(self.quantiser))]
        return np.array(found).transpose(2, 1, 0)


FOUR = Machine(np.array([[0, 2], [2, 0], [1, 3], [3, 1]]), np.array([0, 0, 1, 1]))
EIGHT = Machine(
    np.array([[0, 1], [3, 2], [5, 4], [7, 6], [1, 0], [2, 3], [4, 5], [6, 7]]), np.array([0, 1, 0, 1, 0, 1, 0, 1])
)


class Rates:
    """What indices cost, from the tables of a pass; at hand for small ones, as an encoder asks for many.

    Args:
        tables: rans.Tables. start: the first row of the pass: that of quantiser 0, index 0. levels: rows of a
            quantiser.
    """

    REACH = 127  # largest magnitude at hand

    def __init__(self, tables: Tables, start: int, levels: int) -> None:
        self._tables, self._start, self._levels = tables, start, levels
        rows = np.arange(start, start + 2 * levels)[:, None]
        self._dense = tables.bits(rows, np.arange(-self.REACH, self.REACH + 1)[None])
        self._none = np.ascontiguousarray(self._dense[:, self.REACH])

    def of(self, rows: np.ndarray) -> Bits:
        """``bits(quantiser, k)`` of symbols of these rows, (n,), as :func:`choose` takes it."""
        flat = rows * self._dense.shape[1] + self.REACH

        def bits(quantiser, k):
            if np.isscalar(k):
                return self._none[self._levels * quantiser :].take(rows)
            found = self._dense[self._levels * quantiser :].ravel().take(flat + k, mode="clip")
            far = np.flatnonzero(np.abs(k) > self.REACH)
            if far.size:
                found[far] = self._tables.bits(rows[far] + (self._start + self._levels * quantiser), k[far])
            return found

        return bits


def chains(count: int) -> int:
    """How many chains ``count`` symbols form."""
    return -(-count // CHAIN)


def reconstruct(k: np.ndarray, quantiser: np.ndarray) -> np.ndarray:
    """What indices stand for, in steps: 2 k, or 2 k - sign(k) by quantiser 1."""
    return 2 * k - quantiser * np.sign(k)


def walk(
    rows: np.ndarray, pull: Callable[[np.ndarray, np.ndarray], np.ndarray], machine: Machine = EIGHT
) -> tuple[np.ndarray, np.ndarray]:
    """Indices and quantisers of symbols, in the order of the stream: the decoder's side.

    Args:
        rows: integers (n,): the table row of each symbol by quantiser 0.
        pull: ``pull(rows, quantisers) -> indices`` of the next symbols.

    Returns:
        ``(k, quantisers)``: int32 (n,) and int64 (n,).
    """
    width = chains(rows.size)
    state = np.zeros(width, np.intp)
    following = machine.next_state.ravel()
    k, quantiser = np.empty(rows.size, np.int32), np.empty(rows.size, np.int64)
    for start in range(0, rows.size, width or 1):
        step = slice(start, start + width)
        here = state[: rows.size - start]
        machine.quantiser.take(here, out=quantiser[step])
        k[step] = pull(rows[step], quantiser[step])
        state = following[2 * here + (k[step] & 1)]
    return k, quantiser


def choose(
    residual: np.ndarray, bits: Bits, slope: Slope, limit: int, machine: Machine = EIGHT
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of symbols and their quantisers: the encoder's side.

    Args:
        residual: float32 (n,), latents less their means, in symbols, in the order of the stream.
        bits: ``bits(quantiser, k) -> float`` (n,), what each index would cost; k integers (n,), or 0 for all.
        slope: what a bit is worth, in squared symbols; of all symbols, or of each (n,).
        limit: largest magnitude of an index.

    Returns:
        ``(k, quantisers)``, int64 (n,), that minimise squared error + slope * bits.
    """
    width = chains(residual.size)
    if not width:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    length = -(-residual.size // width)
    cost, index = branches(residual, bits, slope, limit)
    # Chains that end a symbol earlier get one that costs nothing.
    spare = length * width - residual.size
    cost, index = (np.pad(a, ((0, 0), (0, spare))).reshape(4, length, width).swapaxes(0, 1) for a in (cost, index))
    branch = _viterbi(cost, machine)  # (length, width)
    k = np.take_along_axis(index, branch[:, None], 1)[:, 0]
    return k.ravel()[: residual.size].astype(np.int64), (branch >> 1).ravel()[: residual.size]


def branches(residual: np.ndarray, bits: Bits, slope: Slope, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Cost and index of the best choice for each quantiser and parity: float32, int32, (4, n), at 2 quantiser + parity.

    Of each parity the nearest point, and 0, which may be so much cheaper.
    """
    magnitude = np.abs(residual) * (1 / STEP_SYMBOLS)
    cost, index = np.empty((4, residual.size), np.float32), np.empty((4, residual.size), np.int32)
    for quantiser in (0, 1):
        nothing = residual * residual + slope * bits(quantiser, 0)
        for parity in (0, 1):
            # Points of one parity are four steps apart.
            near = np.floor(magnitude * 0.25 + np.float32(0.25 * quantiser - 0.5 * parity + 0.5)) * 2 + parity
            np.clip(near, parity, limit - 1 + parity, out=near)
            error = magnitude - 2 * near
            if quantiser:
                error += near > 0
            error *= STEP_SYMBOLS
            own, chosen = cost[2 * quantiser + parity], index[2 * quantiser + parity]
            chosen[:] = np.copysign(near, residual)
            np.add(error * error, slope * bits(quantiser, chosen), out=own)
            if not parity:
                chosen[nothing < own] = 0
                np.minimum(own, nothing, out=own)
    return cost, index


def _viterbi(cost, machine):
    """The branches of the cheapest way of each chain."""
    length, _, width = cost.shape
    states, parities = machine.sources()
    into = 2 * machine.quantiser[states] + parities  # (2, states): the branch that leads there
    total = np.full((len(machine.quantiser), width), np.inf, np.float32)
    total[0] = 0
    second = np.empty((length, *total.shape), bool)
    for t in range(length):
        here = cost[t]
        ways = [total.take(states[way], 0) + here.take(into[way], 0) for way in (0, 1)]
        np.less(ways[1], ways[0], out=second[t])
        total = np.minimum(*ways)
    state, lanes = total.argmin(0), np.arange(width)
    branch = np.empty((length, width), np.int64)
    for t in range(length - 1, -1, -1):
        way = second[t][state, lanes].view(np.int8)
        branch[t] = into[way, state]
        state = states[way, state]
    return branch
