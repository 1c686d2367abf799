"""Interleaved rANS in array code: symbols <-> bytes. The stream is specified to the last bit in RANS.md.

    encoder     push(rows, symbols) ... flush()  ->  (lanes, data)
    decoder     pull(rows) -> symbols, pull(rows) -> symbols, ... finish()

A symbol's row names the table that it is coded with. Encoder and decoder go through the symbols in the same order, but
how they are cut into calls is free, and the row of a symbol may depend on every symbol pulled before.

Range asymmetric numeral systems: Duda 2013, arXiv:1311.2540; interleaved over lanes that share one stream of words:
Giesen 2014, arXiv:1402.3392. Symbol n belongs to lane n mod lanes, so ``lanes`` successive symbols are independent and
one step of array code decodes them all. A step costs about 5 microseconds whatever its width, up to some hundred
lanes; below SCALAR_LANES a loop over Python integers is faster and does the same.

NumPy and standard library only.
"""

from __future__ import annotations

import bisect
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import Corrupt, ModelError, Truncated
from ..files import BytesLike
from ..threads import Lock

if TYPE_CHECKING:
    pass


PRECISION = 16  # bits of a frequency, and of a word
TOTAL = 1 << PRECISION  # of the frequencies of a row
LEAST = 1 << 18  # smallest normalised state, and every lane's last one; 2^16 would cost 0.07 to 0.16 % of the stream
STATE_BYTES = 3  # of a lane's first state, as stored
STORED_LEAST = 1 << 8  # smallest first state as stored: with one word read it is 2^24, which takes four bytes
MAX_LANES = 4096
SYMBOL_LIMIT = 1 << 20  # largest magnitude of a symbol
ESCAPE_BYTES = 4  # longest escape: 28 bits, where 22 would do for any symbol and table

LANE_SHARE = 200  # lanes are as many as fit into 1/200 of the stream,
MOST_LANES = 1024  # no more than that (wider steps gain little),
SCALAR_LANES = 16  # and one where they would be fewer than this

MAX_ROWS = 1 << 14
MAX_ENTRIES = 1 << 22  # of all rows together; model 1 has 49 thousand
MAX_LOOKUPS = 512  # rows that may have a look-up table by slot: 64 KiB each
LOOKUP_PRICE = 400  # symbols decoded by searching, after which a row's look-up table (30 us) would have paid for itself

_BLOCK = 1 << 14  # symbols handled at once: bounds memory; larger arrays come from the system anew each time


class Tables:
    """Frequencies of all symbols in every row, checked.

    The last bin of a row is its escape: a symbol outside of the row's range is coded as an escape, followed by its
    distance (see RANS.md).

    Args:
        cdf: int32 (total,), all rows one after the other. Each row rises strictly from 0 to 65536 and has 3 entries
            or more: cumulative frequencies of its bins.
        lengths: int32 (rows,), entries of each row.
        offsets: int32 (rows,), the symbol of each row's first bin.

    Raises:
        ModelError: anything else; these arrays come from a file.
    """

    def __init__(self, cdf: np.ndarray, lengths: np.ndarray, offsets: np.ndarray) -> None:
        check_tables(cdf, lengths, offsets)
        self.cdf, self.lengths, self.offsets = (_frozen(array.copy()) for array in (cdf, lengths, offsets))
        ends = np.cumsum(lengths, dtype=np.int64)
        # Bins of all rows are numbered in one sequence; a row has one bin less than entries.
        is_bin = np.ones(len(cdf), bool)
        is_bin[ends - 1] = False
        self._first = ends - lengths - np.arange(len(lengths), dtype=np.int64)  # (rows,) number of the first bin
        self._escape = self._first + lengths - 2  # (rows,) and of the last one
        self._to_symbol = offsets - self._first  # (rows,) symbol = bin + this
        # Side by side, as a decoder asks for both: frequency, and the sum of those before it.
        self._bins_of = np.stack([np.diff(cdf, append=0)[is_bin], cdf[is_bin]], 1).astype(np.int64)  # (bins, 2)
        self._frequency, self._cumulative = self._bins_of.T
        # Row and slot as one number, rising over all bins: where each bin ends. A binary search finds any row's bin.
        row = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths - 1)  # (bins,)
        self._bin_ends = (row << PRECISION) + self._cumulative + self._frequency
        self._bits: Any = None
        self._row_lists = _RowLists(self.cdf, self.lengths)
        self._lock = Lock()
        self._lookup: Any = None  # uint8 (places, 65536): bin of a slot, counted from the row's first
        # Where in it a row is; -1: nowhere yet. Rows too wide for bytes are always searched; their place says nothing.
        self._wide = lengths - 1 > 1 << 8  # (rows,)
        self._place = np.where(self._wide, 0, -1)  # (rows,)
        self._places = 0
        self._credit = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def __reduce__(self) -> tuple[Any, ...]:  # for other processes: the rest is made of these
        return Tables, (self.cdf, self.lengths, self.offsets)

    @classmethod
    def join(cls, *tables: Tables) -> Tables:
        """One Tables with the rows of several, in order: row r of the second becomes ``len(first) + r``."""
        arrays = [(t.cdf, t.lengths, t.offsets) for t in tables]
        return cls(*(np.concatenate(parts) for parts in zip(*arrays, strict=True)))

    def bits(self, rows: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        """What symbols cost: float32 bits, escapes included; the stream is that long, but for rounding and lanes.

        Args:
            rows, symbols: integer arrays that broadcast against each other, to the shape of the result.
        """
        if self._bits is None:
            self._bits = (PRECISION - np.log2(self._frequency)).astype(np.float32)
        rows, symbols = np.broadcast_arrays(rows, symbols)
        shape = rows.shape
        rows, symbols = rows.ravel(), symbols.ravel()
        bins = self._bins(rows, symbols)
        cost = self._bits[bins]
        escaped = np.flatnonzero(bins == self._escape[rows])
        if escaped.size:
            cost[escaped] += 8 * _escape_lengths(self._distances(rows[escaped], symbols[escaped]))
        return cost.reshape(shape)

    def _bins(self, rows, symbols):
        """Number of the bin of each symbol, int64; the row's last one for symbols out of its range."""
        first, escape = self._first[rows], self._escape[rows]
        bins = symbols - self._to_symbol[rows]
        return np.where((bins < first) | (bins > escape), escape, bins)

    def _distances(self, rows, symbols):
        """Non-negative number of each symbol out of its row's range: even from the upper end on, odd below."""
        index = symbols - self.offsets[rows]
        above = index - (self.lengths[rows] - 2)
        return np.where(index < 0, -2 * index - 1, 2 * above)

    def _from_distances(self, rows, distances):
        """Inverse of :meth:`_distances`: int64 symbols."""
        above = (distances >> 1) + self.lengths[rows] - 2
        return np.where(distances & 1, -(distances + 1 >> 1), above) + self.offsets[rows]

    def _find_lookups(self, rows):
        """Places of the rows' look-up tables (as rows), or None where searching is cheaper still.

        A table is made when the symbols that were searched for would have paid for it. Small pictures never get
        there for most of the rows; in large ones all that matter have one.
        """
        places = self._place[rows]
        if self._lookup is not None and places.min() >= 0:
            return places
        with self._lock:
            missing = _distinct(rows[self._place[rows] < 0])
            self._credit += rows.size
            if LOOKUP_PRICE * len(missing) > self._credit or self._places + len(missing) > MAX_LOOKUPS:
                return None
            self._credit -= LOOKUP_PRICE * len(missing)
            if self._lookup is None:  # memory is taken when it is written to, not here
                self._lookup = np.empty((min(len(self), MAX_LOOKUPS), TOTAL), np.uint8)
            for row in missing:
                first, escape = self._first[row], self._escape[row]
                numbers = np.arange(escape - first + 1, dtype=np.uint8)
                # Another process may be forked between any two lines, and go on from there.
                place, self._places = self._places, self._places + 1
                self._lookup[place] = np.repeat(numbers, self._frequency[first : escape + 1])
                self._place[row] = place
        return self._place[rows]


class _RowLists(dict):
    """Row -> ``(low, high, bin, cdf)``, for loops over Python integers; made when asked for.

    The likeliest bin and its limits, as most symbols are in it, and the whole row as a list. Bins count from 1 here.
    """

    def __init__(self, cdf, lengths):
        super().__init__()
        self._rows = cdf, lengths, np.cumsum(lengths, dtype=np.int64)

    def __missing__(self, row):
        cdf, lengths, ends = self._rows
        cdf = cdf[ends[row] - lengths[row] : ends[row]]
        bin_ = int(np.diff(cdf).argmax()) + 1
        cdf = cdf.tolist()
        self[row] = found = cdf[bin_ - 1], cdf[bin_], bin_, cdf
        return found


class Encoder:
    """Symbols -> one stream. Single use: :meth:`flush` ends it.

    Args:
        tables: Tables.
    """

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self._pushed: list[np.ndarray] = []  # int32 arrays of bin numbers, in order
        self._escapes: list[bytes] = []  # bytes, in order

    def push(self, rows: np.ndarray, symbols: np.ndarray) -> None:
        """Append symbols, in the order in which the decoder will ask for them.

        Args:
            rows: integers (...), 0 to ``len(tables) - 1``.
            symbols: integers of the same shape, -SYMBOL_LIMIT to SYMBOL_LIMIT; several dimensions count in C order.

        Raises:
            ValueError: shapes differ, or a row or a symbol is out of range.
        """
        rows, symbols = _rows_of(self.tables, rows), np.asarray(symbols).ravel()
        if rows.shape != symbols.shape:
            raise ValueError(f"{rows.size} rows for {symbols.size} symbols")
        if not rows.size:
            return
        if symbols.dtype.kind not in "iu" or symbols.min() < -SYMBOL_LIMIT or symbols.max() > SYMBOL_LIMIT:
            raise ValueError(f"symbols must be integers of magnitude {SYMBOL_LIMIT} at most")
        tables = self.tables
        symbols = symbols.astype(np.int64, copy=False)
        bins = tables._bins(rows, symbols)
        escaped = np.flatnonzero(bins == tables._escape[rows])
        if escaped.size:
            self._escapes.append(_pack_escapes(tables._distances(rows[escaped], symbols[escaped])))
        self._pushed.append(bins.astype(np.int32))

    def flush(self, lanes: int | None = None) -> tuple[int, bytes]:
        """The stream of all that was pushed.

        Args:
            lanes: 1 to MAX_LANES, or None for :func:`lanes_for` the size.

        Returns:
            ``(lanes, data)``: what :class:`Decoder` needs.
        """
        bins = np.concatenate(self._pushed) if self._pushed else np.empty(0, np.int32)
        escapes = b"".join(self._escapes)
        del self._pushed, self._escapes
        if lanes is None:
            used = np.bincount(bins, minlength=1)
            coded = np.dot(used, PRECISION - np.log2(self.tables._frequency[: len(used)])) / 8
            lanes = lanes_for(coded + len(escapes))
        if not 1 <= lanes <= MAX_LANES:
            raise ValueError(f"{lanes} lanes; allowed 1 to {MAX_LANES}")
        encode = _encode_scalar if lanes < SCALAR_LANES else _encode_steps
        states, words = encode(self.tables, bins, lanes)
        stored = np.asarray(states, "<u4").view(np.uint8).reshape(lanes, 4)[:, :STATE_BYTES]
        return lanes, stored.tobytes() + words + escapes[::-1]


class Decoder:
    """One stream -> symbols; the inverse of :class:`Encoder`.

    Args:
        tables: Tables, equal to the encoder's.
        data: the stream, nothing before and nothing after. Any bytes-like object.
        lanes: what the encoder returned.

    Raises:
        Truncated, Corrupt: here, in :meth:`pull` and in :meth:`finish`; no more is to be pulled then. Whatever the
            bytes, every pull takes time and memory in proportion to the symbols asked for, and returns symbols that an
            encoder can have pushed.
    """

    def __init__(self, tables: Tables, data: BytesLike, lanes: int) -> None:
        data = memoryview(data).cast("B")
        if not 1 <= lanes <= MAX_LANES:
            raise Corrupt(f"corrupt: {lanes} lanes; allowed 1 to {MAX_LANES}")
        if len(data) < STATE_BYTES * lanes:
            raise Truncated(f"truncated: {lanes} lanes need {STATE_BYTES * lanes} bytes, found {len(data)}")
        self.tables, self.lanes = tables, lanes
        stored = np.frombuffer(data[: STATE_BYTES * lanes], np.uint8).reshape(lanes, STATE_BYTES)
        # States, int64 (lanes,), the lane of the next symbol first.
        self._x = stored @ np.array([1, 1 << 8, 1 << 16], np.int64)
        if self._x.min() < STORED_LEAST:
            raise Corrupt("corrupt: the state of a lane is too small")

        # Words are read from the front, escapes from the back. A step may look at one word a lane beyond the end
        # before it notices.
        self._tail = data[STATE_BYTES * lanes :]
        self._word = 0
        self._word_end = len(self._tail) // 2
        self._words = np.zeros(self._word_end + lanes, np.uint16)
        self._words[: self._word_end] = np.frombuffer(self._tail[: 2 * self._word_end], "<u2")
        self._escapes = np.frombuffer(self._tail, np.uint8)[::-1]
        self._escape = 0

        short = np.flatnonzero(self._x < LEAST)
        self._x[short] = self._x[short] << PRECISION | self._words[: short.size]
        self._word = short.size
        self._check_end()

        # The states, their limbs, and room for what is in between, for _step.
        room = [
            np.empty(lanes, np.int64),
            np.empty((lanes, 2), np.int64),
            np.empty(lanes, np.uint8),
            np.empty(lanes, bool),
        ]
        constants = [np.full(lanes, value, np.int64) for value in (TOTAL - 1, PRECISION, LEAST)]
        self._scratch = [self._x, *_limbs(self._x), *room, *constants]

    def pull(self, rows: np.ndarray) -> np.ndarray:
        """The next symbols: int32, of the shape of ``rows``.

        Args:
            rows: integers (...), 0 to ``len(tables) - 1``, in C order the rows that the encoder pushed them with.

        Raises:
            Truncated: the stream ends before them.
            Corrupt: an escape that no encoder writes.
            ValueError: a row is out of range, which no stream can bring about.
        """
        flat = _rows_of(self.tables, rows)
        symbols = np.empty(flat.size, np.int32)
        # Whole steps only, but for the last block.
        block = max(_BLOCK // self.lanes, 1) * self.lanes
        decode = self._decode_scalar if self.lanes < SCALAR_LANES else self._decode_steps
        for start in range(0, flat.size, block):
            part = flat[start : start + block]
            bins = decode(part)
            self._check_end()
            found = bins + self.tables._to_symbol[part]
            escaped = np.flatnonzero(bins == self.tables._escape[part])
            if escaped.size:
                found[escaped] = self._read_escapes(part[escaped])
            symbols[start : start + block] = found
        return symbols.reshape(np.shape(rows))

    def finish(self) -> None:
        """Check that the stream ends here: everything read, every lane back at the state where the encoder began."""
        if 2 * self._word + self._escape != len(self._tail):
            raise Corrupt("corrupt: coded data is left over after the last symbol")
        if (self._x != LEAST).any():
            raise Corrupt("corrupt: a lane does not end in its known state")

    def _check_end(self):
        if 2 * self._word + self._escape > len(self._tail):
            raise _truncated()

    def _decode_steps(self, rows):
        """Bins (n,) of rows (n,): steps of all lanes, then one of the first of them."""
        places = self.tables._find_lookups(rows)
        keys = (rows if places is None else places) << PRECISION
        first = self.tables._first[rows]
        bins = np.empty(rows.size, np.int64)
        searched = [None] * -(-rows.size // self.lanes) if places is None else self._searched(rows)
        rest = rows.size % self.lanes
        whole = rows.size - rest
        for start, stop, width in ((0, whole, self.lanes), (whole, rows.size, rest)):
            if start < stop:
                key, base, bin_ = (a[start:stop].reshape(-1, width) for a in (keys, first, bins))
                self._step(width, key, base, bin_, searched[start // self.lanes :], by_search=places is None)
        if rest:
            self._x[:] = np.concatenate((self._x[rest:], self._x[:rest]))
        return bins

    def _searched(self, rows):
        """For each step of rows (n,) that have look-up tables: lanes whose rows are too wide, and their keys."""
        searched: list[Any] = [None] * -(-rows.size // self.lanes)
        wide = np.flatnonzero(self.tables._wide[rows])
        if wide.size:
            step, lane = np.divmod(wide, self.lanes)
            steps, starts = np.unique(step, return_index=True)
            for at, *found in zip(steps, np.split(lane, starts[1:]), np.split(rows[wide] << PRECISION, starts[1:])):
                searched[at] = found
        return searched

    def _step(self, width, keys, bases, bins, searched, by_search):
        """Decode (steps, width) bins with the first ``width`` states.

        Every call below has arrays of one size and type on all sides: turning a Python number into an array, casting
        or allocating would cost as much again as the arithmetic.
        """
        tables, words, word, word_end = self.tables, self._words, self._word, self._word_end
        x, first, second, third, slot, both, number, short, mask, shift, least = (a[:width] for a in self._scratch)
        frequency, cumulative = both.T
        bitwise_and, add, subtract, multiply = np.bitwise_and, np.add, np.subtract, np.multiply
        right_shift, less = np.right_shift, np.less
        take = tables._bins_of.take
        search = tables._bin_ends.searchsorted
        lookup: Any = None if by_search else tables._lookup.reshape(-1).take
        for key, base, bin_, wide in zip(keys, bases, bins, searched):
            bitwise_and(x, mask, slot)
            add(key, slot, key)
            if by_search:
                bin_[:] = search(key, "right")
            else:
                lookup(key, None, number, "clip")  # "clip" only because "raise" would buffer the result
                add(base, number, bin_)
                if wide is not None:
                    lanes, key = wide
                    bin_[lanes] = search(key + slot[lanes], "right")
            # x = frequency (x >> 16) + slot - cumulative
            take(bin_, 0, both, "clip")
            right_shift(x, shift, x)
            multiply(x, frequency, x)
            add(x, slot, x)
            subtract(x, cumulative, x)
            # A state below 2^18 takes in a word: x = x << 16 | word, limb by limb.
            less(x, least, short)
            lanes = short.nonzero()[0]
            if lanes.size:
                third[lanes] = second[lanes]
                second[lanes] = first[lanes]
                first[lanes] = words[word : word + lanes.size]
                word += lanes.size
                if word > word_end:
                    raise _truncated()
        self._word = word

    def _decode_scalar(self, rows):
        """The same as :meth:`_decode_steps`, symbol by symbol."""
        row_list, find = self.tables._row_lists.__getitem__, bisect.bisect_right
        # A symbol takes one word at most. None stands for what is not there.
        end = min(self._word + rows.size, self._word_end)
        upcoming = iter([*self._words[self._word : end].tolist(), None])
        states, lanes, lane, taken, bins = self._x.tolist(), self.lanes, 0, 0, []
        for low, high, bin_, cdf in map(row_list, rows.tolist()):
            x = states[lane]
            slot = x & 0xFFFF
            if not low <= slot < high:
                bin_ = find(cdf, slot)
                low, high = cdf[bin_ - 1], cdf[bin_]
            x = (high - low) * (x >> 16) + slot - low
            if x < 0x40000:  # LEAST; a constant is faster than a global name
                word = next(upcoming)
                if word is None:
                    raise _truncated()
                x = x << 16 | word
                taken += 1
            states[lane] = x
            lane += 1
            if lane == lanes:
                lane = 0
            bins.append(bin_)
        self._x[:] = states[lane:] + states[:lane]
        self._word += taken
        return np.array(bins, np.int64) + (self.tables._first[rows] - 1)

    def _read_escapes(self, rows):
        """int64 symbols of escapes (k,) in the rows (k,)."""
        # What words have not taken; a hostile stream may announce more escapes than it has bytes.
        free = min(self._escape + ESCAPE_BYTES * rows.size, len(self._tail) - 2 * self._word)
        window = self._escapes[self._escape : free]
        ends = np.flatnonzero(window < 0x80)[: rows.size] + 1
        if ends.size < rows.size:
            # Either the bytes end, or there are ESCAPE_BYTES for each and some are longer.
            if window.size < ESCAPE_BYTES * rows.size:
                raise _truncated()
            raise Corrupt("corrupt: an escape is too long")
        starts = np.concatenate(([0], ends[:-1]))
        lengths = ends - starts
        if lengths.max() > ESCAPE_BYTES:
            raise Corrupt("corrupt: an escape is too long")
        distances = np.zeros(rows.size, np.int64)
        for index in range(lengths.max()):
            more = lengths > index
            distances[more] |= (window[starts[more] + index].astype(np.int64) & 0x7F) << 7 * index
        symbols = self.tables._from_distances(rows, distances)
        # One spelling only, and no symbol that an encoder refuses.
        if (_escape_lengths(distances) != lengths).any() or np.abs(symbols).max() > SYMBOL_LIMIT:
            raise Corrupt("corrupt: an escape that no encoder writes")
        self._escape += int(ends[-1])
        return symbols


def lanes_for(size: float) -> int:
    """Number of lanes for a stream of about ``size`` bytes (a float will do).

    Their states take at most 1/LANE_SHARE of it, or STATE_BYTES. Where that leaves less than SCALAR_LANES, one is as
    fast, and the smallest.
    """
    lanes = min(int(size) // (LANE_SHARE * STATE_BYTES), MOST_LANES)
    return lanes if lanes >= SCALAR_LANES else 1


# Encoding
# rANS is a stack: what is to be decoded first is encoded last, and the words come out from back to front.


def _encode_steps(tables, bins, lanes):
    """First states (lanes,) of the decoder, and the words as bytes."""
    words = np.empty(bins.size + lanes, "<u2")  # a symbol gives one at most; so do the states in the end
    word = words.size
    x = np.full(lanes, LEAST, np.int64)
    rest = bins.size % lanes
    if rest:  # the decoder's last step
        word = _step_back(tables, x[:rest], bins[bins.size - rest :][None], words, word)
    block = max(_BLOCK // lanes, 1) * lanes
    for end in range(bins.size - rest, 0, -block):
        part = bins[max(end - block, 0) : end].reshape(-1, lanes)
        word = _step_back(tables, x, part, words, word)
    large = np.flatnonzero(x >= STORED_LEAST << PRECISION)
    words[word - large.size : word] = x[large] & (TOTAL - 1)
    word -= large.size
    x[large] >>= PRECISION
    return x, words[word:].tobytes()


def _step_back(tables, x, bins, words, word):
    """Encode bins (steps, width) from the last step to the first: changes x (width,) and words, returns ``word``."""
    first, second, third = _limbs(x)
    quotient, large = np.empty_like(x), np.empty(x.size, bool)
    greater_equal, floor_divide, multiply, add = np.greater_equal, np.floor_divide, np.multiply, np.add
    frequency, start = tables._frequency[bins], tables._cumulative[bins]
    steps = (frequency, frequency * LEAST, TOTAL - frequency, start)
    for f, limit, gap, c in zip(*(a[::-1] for a in steps), strict=True):
        # Make room: from f 2^18 on, the new state would be 2^34 or more.
        greater_equal(x, limit, large)
        lanes = large.nonzero()[0]
        if lanes.size:
            words[word - lanes.size : word] = first[lanes]
            word -= lanes.size
            first[lanes] = second[lanes]
            second[lanes] = third[lanes]
            third[lanes] = 0
        # x = (x // f << 16) + x % f + c, with x % f = x - f (x // f)
        floor_divide(x, f, quotient)
        multiply(quotient, gap, quotient)
        add(x, quotient, x)
        add(x, c, x)
    return word


def _encode_scalar(tables, bins, lanes):
    """The same as :func:`_encode_steps`, symbol by symbol."""
    states, words = [LEAST] * lanes, []
    lane = bins.size % lanes
    backwards = bins[::-1]
    pairs = zip(tables._frequency[backwards].tolist(), tables._cumulative[backwards].tolist(), strict=True)
    for f, c in pairs:
        lane = (lane or lanes) - 1
        x = states[lane]
        if x >= f * LEAST:
            words.append(x & 0xFFFF)
            x >>= 16
        states[lane] = (x // f << 16) + x % f + c
    for lane in range(lanes - 1, -1, -1):
        if states[lane] >= STORED_LEAST << PRECISION:
            words.append(states[lane] & 0xFFFF)
            states[lane] >>= 16
    return states, np.array(words[::-1], "<u2").tobytes()


# Escapes


def _escape_lengths(distances):
    """Bytes that each distance takes as LEB128, int64."""
    return 1 + (distances >= 1 << 7) + (distances >= 1 << 14).astype(np.int64) + (distances >= 1 << 21)


def _pack_escapes(distances):
    """Distances (k,) as LEB128, one after the other: seven bits a byte, lowest first, top bit on all but the last."""
    index = np.arange(ESCAPE_BYTES)
    lengths = _escape_lengths(distances)[:, None]
    groups = (distances[:, None] >> 7 * index & 0x7F) | np.where(index < lengths - 1, 0x80, 0)
    return groups[index < lengths].astype(np.uint8).tobytes()


# Checks


def check_tables(cdf: np.ndarray, lengths: np.ndarray, offsets: np.ndarray) -> None:
    """ModelError unless these are arrays as :class:`Tables` wants them."""
    for name, array in (("cdf", cdf), ("lengths", lengths), ("offsets", offsets)):
        if not isinstance(array, np.ndarray) or array.dtype != np.int32 or array.ndim != 1:
            kind = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise ModelError(f"entropy tables: {name} must be int32 of one dimension, not {kind}")
    if not 1 <= len(lengths) <= MAX_ROWS or len(cdf) > MAX_ENTRIES:
        limits = f"allowed 1 to {MAX_ROWS} rows, {MAX_ENTRIES} entries"
        raise ModelError(f"entropy tables: {len(lengths)} rows of {len(cdf)} entries; {limits}")
    if len(offsets) != len(lengths):
        raise ModelError(f"entropy tables: {len(offsets)} offsets for {len(lengths)} rows")
    if lengths.min() < 3:
        raise ModelError(f"entropy tables: a row of {lengths.min()} entries; needed 3 or more")
    if lengths.sum(dtype=np.int64) != len(cdf):
        raise ModelError(f"entropy tables: rows of {lengths.sum(dtype=np.int64)} entries together, found {len(cdf)}")
    lowest, highest = offsets.min(), (offsets.astype(np.int64) + lengths).max()
    if lowest < -SYMBOL_LIMIT or highest > SYMBOL_LIMIT:
        raise ModelError(f"entropy tables: symbols from {lowest} to {highest}; at most {SYMBOL_LIMIT} in magnitude")
    ends = np.cumsum(lengths, dtype=np.int64)
    if (cdf[ends - lengths] != 0).any() or (cdf[ends - 1] != TOTAL).any():
        raise ModelError(f"entropy tables: a row does not begin at 0 or does not end at {TOTAL}")
    rising = np.diff(cdf.astype(np.int64)) > 0
    rising[ends[:-1] - 1] = True  # from row to row
    if not rising.all():
        raise ModelError("entropy tables: a row does not rise strictly")


def _truncated():
    return Truncated("truncated: the coded data ends before the last symbol")


def _rows_of(tables, rows):
    """Rows as int64 (n,), checked."""
    rows = np.asarray(rows)
    if rows.size and rows.dtype.kind not in "iu":
        raise ValueError(f"rows must be integers, not {rows.dtype}")
    rows = rows.astype(np.int64, copy=False).ravel()
    if rows.size and rows.view(np.uint64).max() >= len(tables):  # negative ones are large then
        raise ValueError(f"rows must be from 0 to {len(tables) - 1}")
    return rows


def _distinct(rows):
    """List of the rows that occur, without sorting them."""
    return np.flatnonzero(np.bincount(rows)).tolist()


def _frozen(array):
    array.flags.writeable = False
    return array


def _limbs(x):
    """Bits 0 to 15, 16 to 31 and 32 to 47 of int64 (n,), as three views (n,) that may be written to."""
    limbs = x.view(np.uint16).reshape(x.size, 4)
    return limbs.T[:3] if sys.byteorder == "little" else limbs.T[:0:-1]
