"""What encoders of latents return, and the checksum of symbols."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from ..errors import Corrupt

if TYPE_CHECKING:
    from .rans import Tables


class Pushes(Protocol):
    """A coder that takes symbols and the rows of their tables: rans.Encoder, or a Queue."""

    def push(self, rows: np.ndarray, symbols: np.ndarray) -> object: ...


class Pulls(Protocol):
    """A coder that gives symbols: rans.Decoder."""

    def pull(self, rows: np.ndarray) -> np.ndarray: ...


class Latents(Protocol):
    """What every kind of latents can do; arguments and results are described at ScalarLatents."""

    tables: Tables

    @property
    def dependent(self) -> bool:
        """Whether there are tables for dependent quantisation."""

    def encode(self, z: Any, y: np.ndarray, quality: int, lattice: bool = False, dependent: bool = False) -> Encoded:
        """Symbols of one picture or tile."""

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
        """Inverse of :meth:`encode`."""

    def estimate(self, z: Any, y: np.ndarray, quality: int, lattice: bool = False) -> float:
        """Bits of :meth:`encode`'s symbols."""


class Encoded(NamedTuple):
    """A picture's latents as symbols, in the order of the file.

    Attributes:
        z_hat: side information as the decoder will see it, float32 (N, h/4, w/4); None where there is none.
        y_hat: latents as the synthesis will see them, float32 (M, h, w).
        rows, symbols: lists of int32 and int16 arrays of one length each: what belongs to each step of the decoder.
        crc: CRC-32 of all symbols.
    """

    z_hat: np.ndarray | None
    y_hat: np.ndarray
    rows: list[np.ndarray]
    symbols: list[np.ndarray]
    crc: int

    def bits(self, tables: Tables) -> float:
        """What the symbols cost by the tables, without the coder's few bytes for its states: float."""
        return float(sum(tables.bits(*pair).sum() for pair in zip(self.rows, self.symbols)))

    def write(self, coder: Pushes) -> None:
        """Hand everything to a coder that has ``push(rows, symbols)``."""
        for rows, symbols in zip(self.rows, self.symbols):
            coder.push(rows, symbols)


class Queue:
    """Collects what is to be coded: the encoder's side of a walk."""

    def __init__(self) -> None:
        self.rows: list[np.ndarray] = []
        self.symbols: list[np.ndarray] = []
        self.crc = 0

    def push(self, rows: np.ndarray, symbols: np.ndarray) -> None:
        symbols = symbols.astype(np.int16)
        self.rows.append(rows)
        self.symbols.append(symbols)
        self.crc = checksum(symbols, self.crc)


class Source:
    """Reads symbols from a coder and checks them: the decoder's side of a walk.

    Args:
        coder: has ``pull(rows) -> symbols``, integers of the length of ``rows``.
    """

    def __init__(self, coder: Pulls) -> None:
        self._coder, self.crc = coder, 0

    def pull(self, rows: np.ndarray, low: int, high: int) -> np.ndarray:
        """int16 symbols for ``rows``; Corrupt for values that no encoder writes."""
        return self.accept(self.take(rows), low, high)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Symbols for ``rows``, for :meth:`accept`."""
        return self._coder.pull(rows)

    def accept(self, symbols: np.ndarray, low: int, high: int) -> np.ndarray:
        """Symbols that were taken, as int16; Corrupt for values that no encoder writes."""
        symbols = np.asarray(symbols)
        if symbols.size and not low <= symbols.min() <= symbols.max() <= high:
            raise Corrupt("a coded symbol is out of range")
        symbols = symbols.astype(np.int16)
        self.crc = checksum(symbols, self.crc)
        return symbols

    def finish(self, crc: int | None) -> None:
        """Corrupt where the symbols' checksum is not ``crc``; None is not checked."""
        if crc is not None and crc != self.crc:
            raise Corrupt("the coded symbols do not match their checksum")


def checksum(symbols: np.ndarray, start: int = 0) -> int:
    """CRC-32 over int16 symbols as little-endian bytes, continuing from ``start``."""
    return zlib.crc32(symbols.astype("<i2", copy=False).tobytes(), start)
