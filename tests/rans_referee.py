"""A decoder of the streams of codec/latents/RANS.md, written from that page: Python integers, one symbol at a time.

It shares no code with codec/latents/rans.py, needs no NumPy, and is slow. Any fault of a stream is a ``ValueError``.
"""


class RefereeDecoder:
    """Symbols of one stream.

    Args:
        rows: list of (cdf, offset): cumulative frequencies of a row, 0 to 65536, and the symbol of its first bin.
        data: bytes of the stream.
        lanes: their number.
    """

    def __init__(self, rows, data, lanes):
        self.rows, self.lanes, self.trace = rows, lanes, []
        self.data, self.front, self.back = data, 0, len(data)
        self.states = [self.from_front(3) for _ in range(lanes)]
        for lane, x in enumerate(self.states):
            if x < 2**8:
                raise ValueError("state")
            self.states[lane] = self.normalised(x)
        self.n = 0

    def from_front(self, count):
        if self.front + count > self.back:
            raise ValueError("end")
        self.front += count
        return int.from_bytes(self.data[self.front - count : self.front], "little")

    def from_back(self):
        if self.front == self.back:
            raise ValueError("end")
        self.back -= 1
        return self.data[self.back]

    def normalised(self, x):
        return x * 2**16 + self.from_front(2) if x < 2**18 else x

    def pull(self, row):
        """The next symbol, which is of that row."""
        cdf, offset = self.rows[row]
        lane = self.n % self.lanes
        x = self.states[lane]
        slot = x % 2**16
        b = max(i for i in range(len(cdf) - 1) if cdf[i] <= slot)
        after = (cdf[b + 1] - cdf[b]) * (x // 2**16) + slot - cdf[b]
        self.states[lane] = self.normalised(after)
        escape = len(cdf) - 2
        symbol = offset + (b if b < escape else self.escaped(escape))
        self.trace.append((self.n, lane, row, x, slot, b, symbol, after))
        self.n += 1
        return symbol

    def escaped(self, escape):
        """Index of a symbol that has no bin: below 0, or from ``escape`` on."""
        d = 0
        for i in range(4):
            byte = self.from_back()
            d += byte % 128 * 128**i
            if byte < 128:
                break
        else:
            raise ValueError("escape of more than four bytes")
        if i and byte == 0:
            raise ValueError("escape longer than it needs to be")
        return -(d + 1) // 2 if d % 2 else escape + d // 2

    def finish(self):
        if self.front != self.back:
            raise ValueError("left over")
        if self.states != [2**18] * self.lanes:
            raise ValueError("final states")
