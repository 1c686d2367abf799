"""Vector-quantised latents: y  <->  indices  <->  byte string.

The channels of y (B, M, h, w) form G = M / code_dim groups, lowest frequencies first. Each group is coded by residual
vector quantisation: the codeword of stage s approximates what the stages before it left over. Every (group, stage)
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
learned with the transforms: van den Oord et al. 2017, arXiv:1711.00937; Zeghidour et al. 2021, arXiv:2107.03312.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .entropy import Tables, _ans, _checked, _checksum, _padded
from .errors import Corrupt, ModelError
from .latents.tables import TOTAL
from .latents.vector import CONTEXTS, HISTORIES, NEIGHBOURHOODS, squared_error_per_bit


def to_groups(y, code_dim):
    """(B, M, h, w) -> (M / code_dim, B h w, code_dim): the vectors that are quantised, batch first."""
    batch, channels, height, width = y.shape
    groups = channels // code_dim
    vectors = y.view(batch, groups, code_dim, height, width).permute(1, 0, 3, 4, 2)
    return vectors.reshape(groups, batch * height * width, code_dim)


def from_groups(vectors, batch, height, width):
    """Inverse of :func:`to_groups`."""
    groups, _, code_dim = vectors.shape
    vectors = vectors.view(groups, batch, height, width, code_dim).permute(1, 0, 4, 2, 3)
    return vectors.reshape(batch, groups * code_dim, height, width)


def choose(residual, codebooks, penalty):
    """Index of the best codeword for each vector.

    Args:
        residual: float (G, n, d). codebooks: float (G, K, d).
        penalty: float, broadcastable to (G, n, K): what a codeword's bits are worth as squared error.

    Returns:
        int64 (G, n).
    """
    cost = codebooks.square().sum(2)[:, None] + penalty
    return torch.baddbmm(cost.expand(*residual.shape[:2], -1), residual, codebooks.mT, alpha=-2).argmin(2)


def histories(earlier, stage_before):
    """Classes 0 to HISTORIES - 1 of what is known at a position before its own pair.

    Args:
        earlier: list of up to three int tensors, magnitudes of the groups before, in the same stage.
        stage_before: int tensor, magnitudes of the same group in the stage before; zero for the first.
    """
    activity = 2 * stage_before + sum(earlier)
    return (activity >= 1).long() + (activity >= 4) + (activity >= 8)


def contexts(history, magnitude):
    """Rows of the pair's table (..., h, w), given its magnitudes (..., h, w), for both halves of the checkerboard.

    The first half does not look at ``magnitude``; the second looks at its first half alone.
    """
    first = checkerboard(*magnitude.shape[-2:], device=magnitude.device)
    around = F.pad(magnitude * first, (1, 1, 1, 1))
    total = around[..., :-2, 1:-1] + around[..., 2:, 1:-1] + around[..., 1:-1, :-2] + around[..., 1:-1, 2:]
    neighbourhood = (total >= 1).long() + (total >= 3) + (total >= 6)
    second = HISTORIES + NEIGHBOURHOODS * (history >= 2) + neighbourhood
    return torch.where(first, history, second)


def checkerboard(height, width, device=None):
    """bool (h, w): the half that is coded first."""
    rows = torch.arange(height, device=device)[:, None]
    return (rows + torch.arange(width, device=device)) % 2 == 0


class VectorCoder(nn.Module):
    """Codebooks and tables of a model with vector-quantised latents; has the methods of entropy.EntropyCoder."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        groups, stages = config.M // config.code_dim, config.stages
        self.register_buffer("codebooks", torch.zeros(stages, groups, config.codes, config.code_dim))
        self.register_buffer("magnitudes", torch.zeros(stages, groups, config.codes, dtype=torch.int64))
        self.register_buffer("bits", torch.zeros(stages, groups, config.codes))
        self.first_quality = [[0] * groups for _ in range(stages)]
        self.tables = []

    def load(self, tensors):
        """Fill codebooks and tables from the tensors of a weights file."""
        for name, buffer in (("codebooks", self.codebooks), ("magnitudes", self.magnitudes), ("bits", self.bits)):
            buffer.copy_(tensors[f"entropy.vq.{name}"])
        self.first_quality = tensors["entropy.vq.first_quality"].tolist()
        frequencies = 1 + (tensors["entropy.vq.frequencies"].int() & 0xFFFF)  # (S, G, CONTEXTS, K + 1)
        if not (frequencies.sum(-1) == TOTAL).all():
            raise ModelError("a table of the vector-quantised latents does not add up")
        cdf = F.pad(frequencies.cumsum(-1), (1, 0)).int()
        lengths = torch.full((CONTEXTS,), cdf.shape[-1], dtype=torch.int32)
        offsets = torch.zeros(CONTEXTS, dtype=torch.int32)
        self.tables = [[Tables(pair.flatten(), lengths, offsets) for pair in stage] for stage in cdf]

    def pairs(self, quality):
        """(stage, group) of every pair in use at a quality in hundredths, in the order of the file."""
        for s, stage in enumerate(self.first_quality):
            for g, first in enumerate(stage):
                if first <= quality:
                    yield s, g

    @torch.no_grad()
    def encode(self, z, y, quality):
        """Byte strings of one image, and what the decoder will make of them.

        Args:
            z: None; there is no side information.
            y: float (1, M, h, w).
            quality: int, hundredths.

        Returns:
            ``(z_string, y_string, y_hat, crc)``; z_string is empty; y_hat float32 (1, M, h, w); crc is the CRC-32 of
            all indices.
        """
        height, width = y.shape[-2:]
        residual = to_groups(y, self.config.code_dim).contiguous()
        worth = squared_error_per_bit(self.config.lmbda(quality / 100))
        indices = {}
        for s, g in self.pairs(quality):
            here = slice(g, g + 1)
            penalty = worth * self.bits[s, here, None]
            chosen = choose(residual[here], self.codebooks[s, here], penalty)[0]
            residual[g] -= self.codebooks[s, g][chosen]
            indices[s, g] = chosen.view(height, width).cpu()

        coder = _ans().BufferedRansEncoder()
        crc = 0
        walk = _Walk(self, height, width)
        for s, g in self.pairs(quality):
            rows = walk.rows(s, g, self.magnitudes[s, g].cpu()[indices[s, g]])
            walk.done(s, g, indices[s, g])
            for half in walk.halves:
                symbols = indices[s, g][half].to(torch.int16).numpy()
                coder.encode_with_indexes(symbols.tolist(), rows[half].tolist(), *self.tables[s][g].select(0, CONTEXTS))
                crc = _checksum(symbols, crc)
        return b"", coder.flush(), self._reconstruct(indices, height, width, y.device), crc

    @torch.no_grad()
    def decode(self, z_string, y_string, height, width, quality, crc, device="cpu"):
        """Inverse of :meth:`encode` for latents of size (height, width): y_hat (1, M, height, width).

        Raises:
            Corrupt: the string does not decode to the indices whose checksum is ``crc``.
        """
        if z_string:
            raise Corrupt("side information, where this model has none")
        coder = _ans().RansDecoder()
        coder.set_stream(_padded(y_string, self.config.M * self.config.stages * height * width))
        indices, found = {}, 0
        walk = _Walk(self, height, width)
        for s, g in self.pairs(quality):
            index = torch.zeros(height, width, dtype=torch.int64)
            magnitudes = self.magnitudes[s, g].cpu()
            for half in walk.halves:
                rows = walk.rows(s, g, magnitudes[index])[half]
                symbols = _checked(
                    coder.decode_stream(rows.tolist(), *self.tables[s][g].select(0, CONTEXTS)), self.config.codes - 1
                )
                if symbols.size and symbols.min() < 0:
                    raise Corrupt("a coded symbol is out of range")
                found = _checksum(symbols, found)
                index[half] = torch.from_numpy(symbols).long()
            walk.done(s, g, index)
            indices[s, g] = index
        if found != crc:
            raise Corrupt("the coded symbols do not match their checksum")
        return self._reconstruct(indices, height, width, device)

    def _reconstruct(self, indices, height, width, device):
        """Sum of the codewords (1, M, h, w); one function, so that both sides add in the same order."""
        groups = self.codebooks.shape[1]
        vectors = torch.zeros(groups, height * width, self.config.code_dim, device=device)
        for (s, g), index in indices.items():
            vectors[g] += self.codebooks[s, g][index.flatten().to(device)]
        return from_groups(vectors, 1, height, width)


class _Walk:
    """What the decoder knows while it goes from pair to pair: magnitudes (h, w) by stage and group."""

    def __init__(self, coder, height, width):
        self._magnitudes = coder.magnitudes.cpu()
        self._nothing = torch.zeros(height, width, dtype=torch.int64)
        self._known = {}
        first = checkerboard(height, width)
        self.halves = (first, ~first)

    def rows(self, s, g, magnitude):
        """Table rows of pair (s, g); only the first half of ``magnitude`` matters, for the second half's rows."""
        earlier = [self._known.get((s, g - i), self._nothing) for i in (1, 2, 3)]
        return contexts(histories(earlier, self._known.get((s - 1, g), self._nothing)), magnitude)

    def done(self, s, g, index):
        self._known[s, g] = self._magnitudes[s, g][index]
