"""Latents made of codes: y  <->  indices of codewords.

The channels of y (M, h, w) form G = M / code_dim groups, lowest frequencies first. Each group is coded by residual
vector quantisation: the codeword of stage s approximates what the stages before it left over. Every (stage, group)
pair has a codebook of its own and the quality from which on it is used, so that a higher quality refines the same
description: one model for every rate.

    r = group of y
    for each stage in use:   k = argmin ||r - e_k||^2 + bits_k / slope        (encoder alone)
                             r = r - e_k
    y_hat = sum of the codewords

Indices are coded with categorical distributions. Which one is chosen by integers alone, the magnitude classes (0 to 3)
of codewords that the decoder knows already: those of the stage before and of the three groups before at the same
position and, in the second half of a checkerboard, of the four neighbours. Integers are exact on every machine.

Residual vector quantisation: Juang, Gray 1982; entropy-constrained choice of codewords: Chou, Lookabaugh, Gray 1989;
learned with the transforms: van den Oord et al. 2017, arXiv:1711.00937; Zeghidour et al. 2021, arXiv:2107.03312
(codec.quantise.codebook.ResidualVectorQuantiser). Of a discrete VAE (Ramesh et al. 2021, arXiv:2102.12092) the encoder
chooses the likeliest codeword by its logits, a linear function of r, instead:

    for each stage in use:   k = argmax (r W + b)                             (encoder alone)
                             r = r - e_k

A second level of codes that this one is conditioned on: :mod:`codec.latents.hierarchy`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..config import ModelConfig
from ..errors import Corrupt, ModelError, tensor
from ..quality import QUALITY_UNIT, Number
from .coded import Encoded, Pulls, Queue, Source
from .rans import TOTAL, Tables

HISTORIES = 4  # classes of what came before at the same position
NEIGHBOURHOODS = 4  # classes of the four neighbours
# First half: a row per history. Second half: a row per neighbourhood and for quiet and busy histories.
CONTEXTS = HISTORIES + 2 * NEIGHBOURHOODS
MAGNITUDES = 4


class ResidualCodes:
    """Codebooks and tables of one level of codes: latents (channels, h, w) <-> indices.

    Args:
        tensors: ``{name: array}`` of a weights file.
        prefix: of the level's tensors, such as "entropy.vq".
        pairs: (stages, groups).
        codes, dim: codewords of a codebook, channels of a codeword.
        classes: tables of each context, among which someone who knows more chooses; None: one, without a choice.
        choice: how an encoder chooses: "bits", the least squared error plus what the bits are worth; or "logits", the
            likeliest by a linear layer.

    Attributes:
        tables: rans.Tables for the coder: CONTEXTS of each class of each pair, stage by stage.

    Raises:
        ModelError: a tensor is missing, damaged, or of another shape.
    """

    def __init__(
        self,
        tensors: Mapping[str, np.ndarray],
        prefix: str,
        pairs: tuple[int, int],
        codes: int,
        dim: int,
        classes: int | None = None,
        choice: str = "bits",
    ) -> None:
        self._prefix, self._dim, self._codes = prefix, dim, codes
        self._classes = classes or 1
        self.codebooks = _floats(tensors, f"{prefix}.codebooks", (*pairs, codes, dim))
        if choice == "bits":
            self.bits, self.logits = _floats(tensors, f"{prefix}.bits", (*pairs, codes)), None
        else:
            weight = _floats(tensors, f"{prefix}.logits_weight", (*pairs, dim, codes))
            self.bits, self.logits = None, (weight, _floats(tensors, f"{prefix}.logits_bias", (*pairs, codes)))
        self.magnitudes = _integers(tensors, f"{prefix}.magnitudes", np.int8, (*pairs, codes), 0, MAGNITUDES - 1)
        self.first_quality = _integers(tensors, f"{prefix}.first_quality", np.int32, pairs, 0, None)
        rows = (classes, CONTEXTS) if classes else (CONTEXTS,)
        frequencies = _integers(tensors, f"{prefix}.frequencies", np.int16, (*pairs, *rows, codes + 1), None, None)
        self.tables = _tables(frequencies.reshape(-1, codes + 1), prefix)

    def pairs(self, quality: int) -> list[tuple[int, int]]:
        """(stage, group) of every pair in use at a quality in hundredths, in the order of the file."""
        return [(s, g) for s, g in np.ndindex(self.first_quality.shape) if self.first_quality[s, g] <= quality]

    def encode(
        self, queue: Queue, y: np.ndarray, quality: int, worth: float, classes: np.ndarray | None = None, start: int = 0
    ) -> np.ndarray:
        """Queue the indices of latents (channels, h, w) and return what the decoder will see of them.

        Args:
            queue: coded.Queue.
            worth: squared error per bit, for the choice.
            classes: of the tables, integers (stages, groups, h, w). start: first of the tables' rows in the coder's.
        """
        height, width = y.shape[1:]
        chosen = self.choose(to_groups(y, self._dim), quality, worth)

        def indices_of(s, g, half, rows):
            indices = chosen[s, g].reshape(height, width)[half]
            queue.push(rows, indices)
            return indices

        return self._walk(height, width, quality, indices_of, classes, start)

    def decode(
        self, source: Source, height: int, width: int, quality: int, classes: np.ndarray | None = None, start: int = 0
    ) -> np.ndarray:
        """Inverse of :meth:`encode`: the same latents from a coded.Source, bit for bit."""
        last = self._codes - 1
        pull = lambda s, g, half, rows: source.pull(rows, 0, last)  # noqa: E731
        return self._walk(height, width, quality, pull, classes, start)

    def choose(self, residual: np.ndarray, quality: int, worth: float) -> dict[tuple[int, int], np.ndarray]:
        """``{(stage, group): int64 (n,)}``, the best codewords for vectors (G, n, dim), which change in place."""
        chosen = {}
        for s, g in self.pairs(quality):
            codebook = self.codebooks[s, g]
            if self.logits is None:
                cost = np.square(codebook).sum(1) + np.float32(worth) * self.bits[s, g]
                chosen[s, g] = (cost - 2 * (residual[g] @ codebook.T)).argmin(1)
            else:
                weight, bias = self.logits
                chosen[s, g] = (residual[g] @ weight[s, g] + bias[s, g]).argmax(1)
            residual[g] -= codebook[chosen[s, g]]
        return chosen

    def _walk(self, height, width, quality, indices_of, classes, start):
        """The indices of all pairs, pair by pair, each in two halves; the sum of their codewords (channels, h, w).

        Args:
            indices_of: ``indices_of(s, g, half, rows) -> indices`` at the positions ``half``, bool (h, w), of a pair,
                given the rows of their tables. The encoder queues them, the decoder pulls them.
        """
        first = checkerboard(height, width)
        nothing = np.zeros((height, width), np.int64)
        magnitudes: dict[tuple[int, int], np.ndarray] = {}
        vectors = np.zeros((self.codebooks.shape[1], height * width, self._dim), np.float32)
        for s, g in self.pairs(quality):
            earlier = [magnitudes.get((s, g - i), nothing) for i in (1, 2, 3)]
            history = histories(earlier, magnitudes.get((s - 1, g), nothing))
            table = (s * self.first_quality.shape[1] + g) * self._classes + (0 if classes is None else classes[s, g])
            index = np.zeros((height, width), np.int64)
            for half in (first, ~first):
                # Rows of the first half do not look at the pair's own magnitudes, those of the second at its first.
                rows = start + table * CONTEXTS + contexts(history, self.magnitudes[s, g][index])
                index[half] = indices_of(s, g, half, rows[half].astype(np.int32))
            magnitudes[s, g] = self.magnitudes[s, g][index].astype(np.int64)
            vectors[g] += self.codebooks[s, g][index.ravel()]
        return from_groups(vectors, height, width)


class VectorLatents:
    """One level of codes.

    Args:
        config: ModelConfig with ``latents`` "vq" or "dvae", which differ in how the encoder chooses.
        tensors: ``{name: array}`` of a weights file.

    Attributes:
        level: ResidualCodes. tables: its own.

    Raises:
        ModelError: a tensor is missing, damaged, or does not fit the config.
    """

    def __init__(self, config: ModelConfig, tensors: Mapping[str, np.ndarray]) -> None:
        self.config = config
        pairs = (config.stages, config.M // config.code_dim)
        choice = "logits" if config.latents == "dvae" else "bits"
        self.level = ResidualCodes(tensors, "entropy.vq", pairs, config.codes, config.code_dim, choice=choice)
        self.tables = self.level.tables

    dependent = False  # as ScalarLatents has it

    def encode(
        self, z: np.ndarray | None, y: np.ndarray, quality: int, lattice: bool = False, dependent: bool = False
    ) -> Encoded:
        """Indices of one picture or tile, and what the decoder will make of them.

        Args:
            z: None; there is no side information. lattice: False; there is no plain transform.
            dependent: False; vectors are not quantised by a trellis.
            y: float32 (M, h, w).
            quality: int, hundredths.

        Returns:
            Encoded, with z_hat None.
        """
        assert z is None and not (lattice or dependent), "latents of one level of codes have nothing but codes"
        queue = Queue()
        worth = squared_error_per_bit(self.config.lmbda(quality / QUALITY_UNIT))
        y_hat = self.level.encode(queue, y, quality, worth)
        return Encoded(None, y_hat, queue.rows, queue.symbols, queue.crc)

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
            crc: CRC-32 that the indices must have; None: any.
            lattice, dependent: False, or the tile is corrupt.

        Returns:
            y_hat float32 (M, height, width), the encoder's, bit for bit.

        Raises:
            Corrupt: the indices are not those of an encoder, or belong to a plain transform.
        """
        refuse_others(lattice, dependent)
        source = Source(coder)
        y_hat = self.level.decode(source, height, width, quality)
        source.finish(crc)
        return y_hat

    def estimate(self, z: np.ndarray | None, y: np.ndarray, quality: int, lattice: bool = False) -> float:
        """Bits of :meth:`encode`'s indices by the tables, without the coder's few bytes for its states: float."""
        return self.encode(z, y, quality, lattice).bits(self.tables)


def refuse_others(lattice: bool, dependent: bool) -> None:
    """Corrupt for a tile of a plain transform, or of a trellis: latents made of codes have neither."""
    if lattice or dependent:
        raise Corrupt(f"corrupt: {'a plain transform' if lattice else 'a trellis'}, where this model has none")


def to_groups(y: np.ndarray, code_dim: int) -> np.ndarray:
    """(M, h, w) -> (M / code_dim, h w, code_dim): the vectors that are quantised; a copy."""
    vectors = y.reshape(len(y) // code_dim, code_dim, -1).transpose(0, 2, 1)
    return np.array(vectors, np.float32, order="C")


def from_groups(vectors: np.ndarray, height: int, width: int) -> np.ndarray:
    """Inverse of :func:`to_groups`."""
    return np.ascontiguousarray(vectors.transpose(0, 2, 1)).reshape(-1, height, width)


def squared_error_per_bit(lmbda: Number) -> Number:
    """What one bit is worth as squared error of y, where g_s is orthonormal: lmbda 255^2 / 3 per squared error."""
    return 3 / (255**2 * lmbda)


def histories(earlier: Sequence[np.ndarray], stage_before: np.ndarray) -> np.ndarray:
    """Classes 0 to HISTORIES - 1 of what is known at a position before its own pair.

    Args:
        earlier: list of up to three int arrays, magnitudes of the groups before, in the same stage.
        stage_before: int array, magnitudes of the same group in the stage before; zero for the first.
    """
    activity: np.ndarray = 2 * stage_before + sum(earlier)
    return (activity >= 1).astype(np.int64) + (activity >= 4) + (activity >= 8)


def contexts(history: np.ndarray, magnitude: np.ndarray) -> np.ndarray:
    """Rows of the pair's table (h, w), given its magnitudes (h, w), for both halves of the checkerboard.

    The first half does not look at ``magnitude``; the second looks at its first half alone.
    """
    first = checkerboard(*magnitude.shape)
    around = np.pad(magnitude * first, 1).astype(np.int64)
    total = around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:]
    neighbourhood = (total >= 1).astype(np.int64) + (total >= 3) + (total >= 6)
    return np.where(first, history, HISTORIES + NEIGHBOURHOODS * (history >= 2) + neighbourhood)


def checkerboard(height: int, width: int) -> np.ndarray:
    """bool (h, w): the half that is coded first."""
    return (np.arange(height)[:, None] + np.arange(width)) % 2 == 0


# The weights file


def _tensor(tensors, name, shape):
    found = tensor(tensors, name)
    if found.shape != shape:
        raise ModelError(f"{name} is {found.shape}, not {shape}")
    return found


def _floats(tensors, name, shape):
    """A tensor of finite floats, as float32."""
    tensor = _tensor(tensors, name, shape)
    if tensor.dtype.kind != "f" or not np.isfinite(tensor).all():
        raise ModelError(f"{name} is not made of finite floats")
    return tensor.astype(np.float32)


def _integers(tensors, name, dtype, shape, low, high):
    """A tensor of integers of a dtype within limits, where there are any."""
    tensor = _tensor(tensors, name, shape)
    if tensor.dtype != dtype:
        raise ModelError(f"{name} is {tensor.dtype}, not {np.dtype(dtype)}")
    if (low is not None and tensor.min() < low) or (high is not None and tensor.max() > high):
        raise ModelError(f"{name} holds {tensor.min()} to {tensor.max()}; it must be {low} to {high}")
    return tensor


def _tables(frequencies, prefix):
    """Tables of 16-bit frequencies, less one and wrapped to int16, (rows, K + 1) with the escape."""
    steps = 1 + (frequencies.astype(np.int64) & 0xFFFF)
    if (steps.sum(1) != TOTAL).any():
        raise ModelError(f"a table of {prefix}.frequencies does not add up")
    cdf = np.pad(steps.cumsum(1), ((0, 0), (1, 0))).astype(np.int32)
    return Tables(cdf.ravel(), np.full(len(cdf), cdf.shape[1], np.int32), np.zeros(len(cdf), np.int32))
