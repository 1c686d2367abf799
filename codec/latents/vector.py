"""Vector-quantised latents: y  <->  indices of codewords.

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
(codec.quantise.codebook.ResidualVectorQuantiser).
"""

import numpy as np

from ..errors import Corrupt, ModelError
from ..quality import QUALITY_UNIT
from .coded import Encoded, Queue, Source
from .rans import TOTAL, Tables

HISTORIES = 4  # classes of what came before at the same position
NEIGHBOURHOODS = 4  # classes of the four neighbours
# First half: a row per history. Second half: a row per neighbourhood and for quiet and busy histories.
CONTEXTS = HISTORIES + 2 * NEIGHBOURHOODS
MAGNITUDES = 4


class VectorLatents:
    """Codebooks and tables of a model with vector-quantised latents.

    Args:
        config: ModelConfig with ``latents`` "vq".
        tensors: ``{name: array}`` of a weights file.

    Attributes:
        tables: rans.Tables for the coder: CONTEXTS of each pair, stage by stage.

    Raises:
        ModelError: a tensor is missing, damaged, or does not fit the config.
    """

    def __init__(self, config, tensors):
        self.config = config
        pairs = (config.stages, config.M // config.code_dim)
        codes, dim = config.codes, config.code_dim
        self.codebooks = _floats(tensors, "codebooks", (*pairs, codes, dim))
        self.bits = _floats(tensors, "bits", (*pairs, codes))
        self.magnitudes = _integers(tensors, "magnitudes", np.int8, (*pairs, codes), 0, MAGNITUDES - 1)
        self.first_quality = _integers(tensors, "first_quality", np.int32, pairs, 0, None)
        frequencies = _integers(tensors, "frequencies", np.int16, (*pairs, CONTEXTS, codes + 1), None, None)
        self.tables = _tables(frequencies.reshape(-1, codes + 1))

    def pairs(self, quality):
        """(stage, group) of every pair in use at a quality in hundredths, in the order of the file."""
        return [(s, g) for s, g in np.ndindex(self.first_quality.shape) if self.first_quality[s, g] <= quality]

    dependent = False  # as ScalarLatents has it

    def encode(self, z, y, quality, lattice=False, dependent=False, effort=None):
        """Indices of one picture or tile, and what the decoder will make of them.

        Args:
            z: None; there is no side information. lattice: False; there is no plain transform.
            dependent: False; vectors are not quantised by a trellis. effort: makes no difference.
            y: float32 (M, h, w).
            quality: int, hundredths.

        Returns:
            Encoded, with z_hat None.
        """
        assert z is None and not (lattice or dependent), "vectors have no side information, no lattice and no trellis"
        height, width = y.shape[1:]
        chosen = self._choose(to_groups(y, self.config.code_dim), quality)
        queue = Queue()

        def indices_of(s, g, half, rows):
            indices = chosen[s, g].reshape(height, width)[half]
            queue.push(rows, indices)
            return indices

        known = self._walk(height, width, quality, indices_of)
        return Encoded(None, self._reconstruct(known, height, width), queue.rows, queue.symbols, queue.crc)

    def decode(self, coder, height, width, quality, lattice=False, crc=None, dependent=False):
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
        if lattice or dependent:
            raise Corrupt(f"corrupt: {'a plain transform' if lattice else 'a trellis'}, where this model has none")
        source = Source(coder)
        last = self.config.codes - 1
        known = self._walk(height, width, quality, lambda s, g, half, rows: source.pull(rows, 0, last))
        source.finish(crc)
        return self._reconstruct(known, height, width)

    def estimate(self, z, y, quality, lattice=False):
        """Bits of :meth:`encode`'s indices by the tables, without the coder's few bytes for its states: float."""
        return self.encode(z, y, quality, lattice).bits(self.tables)

    def _choose(self, residual, quality):
        """``{(stage, group): int64 (n,)}``, the best codewords for vectors (G, n, code_dim), which change in place."""
        worth = np.float32(squared_error_per_bit(self.config.lmbda(quality / QUALITY_UNIT)))
        chosen = {}
        for s, g in self.pairs(quality):
            codebook = self.codebooks[s, g]
            cost = np.square(codebook).sum(1) + worth * self.bits[s, g]
            chosen[s, g] = (cost - 2 * (residual[g] @ codebook.T)).argmin(1)
            residual[g] -= codebook[chosen[s, g]]
        return chosen

    def _walk(self, height, width, quality, indices_of):
        """The indices (h, w) of all pairs, pair by pair, each in two halves: ``{(stage, group): int64 (h, w)}``.

        Args:
            indices_of: ``indices_of(s, g, half, rows) -> indices`` at the positions ``half``, bool (h, w), of a pair,
                given the rows of their tables. The encoder queues them, the decoder pulls them.
        """
        first = checkerboard(height, width)
        nothing = np.zeros((height, width), np.int64)
        known, magnitudes = {}, {}
        for s, g in self.pairs(quality):
            earlier = [magnitudes.get((s, g - i), nothing) for i in (1, 2, 3)]
            history = histories(earlier, magnitudes.get((s - 1, g), nothing))
            start = (s * self.first_quality.shape[1] + g) * CONTEXTS
            index = np.zeros((height, width), np.int64)
            for half in (first, ~first):
                # Rows of the first half do not look at the pair's own magnitudes, those of the second at its first.
                rows = start + contexts(history, self.magnitudes[s, g][index])[half]
                index[half] = indices_of(s, g, half, rows.astype(np.int32))
            known[s, g], magnitudes[s, g] = index, self.magnitudes[s, g][index].astype(np.int64)
        return known

    def _reconstruct(self, indices, height, width):
        """Sum of the codewords (M, h, w); one function, so that both sides add in the same order."""
        vectors = np.zeros((self.codebooks.shape[1], height * width, self.config.code_dim), np.float32)
        for (s, g), index in indices.items():
            vectors[g] += self.codebooks[s, g][index.ravel()]
        return from_groups(vectors, height, width)


def to_groups(y, code_dim):
    """(M, h, w) -> (M / code_dim, h w, code_dim): the vectors that are quantised; a copy."""
    vectors = y.reshape(len(y) // code_dim, code_dim, -1).transpose(0, 2, 1)
    return np.array(vectors, np.float32, order="C")


def from_groups(vectors, height, width):
    """Inverse of :func:`to_groups`."""
    return np.ascontiguousarray(vectors.transpose(0, 2, 1)).reshape(-1, height, width)


def squared_error_per_bit(lmbda):
    """What one bit is worth as squared error of y, where g_s is orthonormal: lmbda 255^2 / 3 per squared error."""
    return 3 / (255**2 * lmbda)


def histories(earlier, stage_before):
    """Classes 0 to HISTORIES - 1 of what is known at a position before its own pair.

    Args:
        earlier: list of up to three int arrays, magnitudes of the groups before, in the same stage.
        stage_before: int array, magnitudes of the same group in the stage before; zero for the first.
    """
    activity = 2 * stage_before + sum(earlier)
    return (activity >= 1).astype(np.int64) + (activity >= 4) + (activity >= 8)


def contexts(history, magnitude):
    """Rows of the pair's table (h, w), given its magnitudes (h, w), for both halves of the checkerboard.

    The first half does not look at ``magnitude``; the second looks at its first half alone.
    """
    first = checkerboard(*magnitude.shape)
    around = np.pad(magnitude * first, 1).astype(np.int64)
    total = around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:]
    neighbourhood = (total >= 1).astype(np.int64) + (total >= 3) + (total >= 6)
    return np.where(first, history, HISTORIES + NEIGHBOURHOODS * (history >= 2) + neighbourhood)


def checkerboard(height, width):
    """bool (h, w): the half that is coded first."""
    return (np.arange(height)[:, None] + np.arange(width)) % 2 == 0


# --- The weights file ----------------------------------------------------------------------------------------------


def _tensor(tensors, key, shape):
    name = f"entropy.vq.{key}"
    if name not in tensors:
        raise ModelError(f"the weights lack {name}")
    if tensors[name].shape != shape:
        raise ModelError(f"{name} is {tensors[name].shape}, not {shape}")
    return name, tensors[name]


def _floats(tensors, key, shape):
    """A tensor of finite floats, as float32."""
    name, tensor = _tensor(tensors, key, shape)
    if tensor.dtype.kind != "f" or not np.isfinite(tensor).all():
        raise ModelError(f"{name} is not made of finite floats")
    return tensor.astype(np.float32)


def _integers(tensors, key, dtype, shape, low, high):
    """A tensor of integers of a dtype within limits, where there are any."""
    name, tensor = _tensor(tensors, key, shape)
    if tensor.dtype != dtype:
        raise ModelError(f"{name} is {tensor.dtype}, not {np.dtype(dtype)}")
    if (low is not None and tensor.min() < low) or (high is not None and tensor.max() > high):
        raise ModelError(f"{name} holds {tensor.min()} to {tensor.max()}; it must be {low} to {high}")
    return tensor


def _tables(frequencies):
    """Tables of 16-bit frequencies, less one and wrapped to int16, (rows, K + 1) with the escape."""
    steps = 1 + (frequencies.astype(np.int64) & 0xFFFF)
    if (steps.sum(1) != TOTAL).any():
        raise ModelError("a table of the vector-quantised latents does not add up")
    cdf = np.pad(steps.cumsum(1), ((0, 0), (1, 0))).astype(np.int32)
    return Tables(cdf.ravel(), np.full(len(cdf), cdf.shape[1], np.int32), np.zeros(len(cdf), np.int32))
