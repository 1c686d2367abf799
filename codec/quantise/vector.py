"""Quantisers with a codebook: vector, residual and finite scalar quantisation.

Latents are (B, D, ...), channels second as everywhere in this codec: each position holds one vector of D numbers.
All pass the gradient straight through to the encoder (``dz = g``), and return a :class:`Quantised`.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from .ste import nearest_ste, round_ste, straight_through


class Quantised(NamedTuple):
    """What a quantiser says of latents z (B, D, ...).

    Attributes:
        z_q: (B, D, ...) quantised; the gradient reaches z straight through.
        indices: int64 (B, ...); (stages, B, ...) from a residual quantiser.
        loss: scalar to add to the training loss; zero where there is nothing to add.
        perplexity: exp of the entropy of the indices in this batch: how many entries are in use, 1 to K; one for
            each stage of a residual quantiser.
    """

    z_q: torch.Tensor
    indices: torch.Tensor
    loss: torch.Tensor
    perplexity: torch.Tensor


class VectorQuantiser(nn.Module):
    """Nearest entry of a learned codebook (VQ-VAE: van den Oord, Vinyals, Kavukcuoglu 2017, arXiv:1711.00937).

    Args:
        codes: K, number of entries.
        dim: D.
        update: how the codebook learns: ``"ema"``, moving averages of the vectors that chose each entry (appendix
            A.1), or ``"loss"``, the codebook loss ``mean((sg[z] - e)^2)`` and the optimiser.
        decay: of the moving averages.
        commitment: beta of the commitment loss ``beta * mean((z - sg[e])^2)``.
        restart_below: an entry used less than this fraction of an even share is dead, and restarts at a vector of
            the batch (Dhariwal et al. 2020, arXiv:2005.00341). The first batch then sets the whole codebook. 0:
            never.
        generator: chooses the vectors to restart at.

    Codebook and averages change in training mode alone. They are those of one process.
    """

    def __init__(
        self, codes, dim, update="ema", decay=0.99, commitment=0.25, restart_below=0.05, generator=None
    ):
        super().__init__()
        if update not in ("ema", "loss"):
            raise ValueError(f"the codebook learns by 'ema' or 'loss', not {update!r}")
        self.update, self.decay, self.commitment = update, decay, commitment
        self.restart_below, self.generator = restart_below, generator
        codebook = (2 * torch.rand(codes, dim, generator=generator) - 1) / codes
        if update == "loss":
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", codebook)
        self.register_buffer("counts", torch.zeros(codes))  # moving averages of uses per batch, and
        self.register_buffer("sums", torch.zeros(codes, dim))  # of the sum of the vectors that chose each entry
        self.register_buffer("started", torch.tensor(False))

    def forward(self, z):
        """Float (B, D, ...) -> :class:`Quantised`. In training mode the codebook learns afterwards."""
        vectors = z.movedim(1, -1)  # (B, ..., D)
        if self.training and not self.started:
            self._start(vectors.detach().flatten(0, -2))
        z_q, indices = nearest_ste(vectors, self.codebook)
        entries = self.codebook[indices]
        loss = self.commitment * F.mse_loss(vectors, entries.detach())
        if self.update == "loss":
            loss = loss + F.mse_loss(entries, vectors.detach())
        share = F.one_hot(indices.flatten(), len(self.codebook)).to(vectors.dtype).mean(0)
        if self.training:
            self._learn(vectors.detach().flatten(0, -2), indices.flatten())
        return Quantised(z_q.movedim(-1, 1), indices, loss, _perplexity(share))

    def decode(self, indices):
        """int64 (B, ...) -> float (B, D, ...): the entries."""
        return self.codebook[indices].movedim(-1, 1)

    @torch.no_grad()
    def _start(self, vectors):
        if self.restart_below:
            self.codebook.copy_(self._draw(vectors, len(self.codebook)))
        # As if every entry had had its even share so far: averages that start at zero would call all of them dead.
        self.counts.fill_(len(vectors) / len(self.counts))
        self.sums.copy_(self.codebook * self.counts[:, None])
        self.started.fill_(True)

    @torch.no_grad()
    def _learn(self, vectors, indices):
        """Moving averages of uses and sums; the codebook from them; restart of dead entries."""
        chosen = F.one_hot(indices, len(self.codebook)).to(vectors.dtype)  # (N, K)
        self.counts.lerp_(chosen.sum(0), 1 - self.decay)
        self.sums.lerp_(chosen.T @ vectors, 1 - self.decay)
        if self.update == "ema":
            # A count that has faded away leaves its entry where it is.
            used = self.counts > 1e-6
            self.codebook[used] = self.sums[used] / self.counts[used, None]
        even = len(vectors) / len(self.counts)
        dead = (self.counts < self.restart_below * even).nonzero().flatten()
        if len(dead):
            self.codebook[dead] = self._draw(vectors, len(dead))
            self.counts[dead] = even
            self.sums[dead] = self.codebook[dead] * even

    def _draw(self, vectors, count):
        """``count`` of the vectors, each at most once where there are enough."""
        order = torch.randperm(len(vectors), generator=self.generator).to(vectors.device)
        return vectors[order.repeat(-(-count // len(order)))[:count]]


class ResidualVectorQuantiser(nn.Module):
    """Stages of :class:`VectorQuantiser`, each for what the ones before left over.

    Args:
        stages: number of codebooks; a decoder may be given the first few alone, at a lower rate.
        codes, dim, options: of each stage.

    SoundStream: Zeghidour et al. 2021, arXiv:2107.03312. The loss is the sum over stages; the gradient reaches z
    once.
    """

    def __init__(self, stages, codes, dim, **options):
        super().__init__()
        self.stages = nn.ModuleList(VectorQuantiser(codes, dim, **options) for _ in range(stages))

    def forward(self, z):
        """Float (B, D, ...) -> :class:`Quantised` with indices (stages, B, ...), perplexity (stages,)."""
        residual, parts = z, []
        for stage in self.stages:
            parts.append(stage(residual))
            residual = residual - parts[-1].z_q.detach()
        z_q = straight_through(z, sum(part.z_q.detach() for part in parts))
        indices, perplexity = (torch.stack([part[i] for part in parts]) for i in (1, 3))
        return Quantised(z_q, indices, sum(part.loss for part in parts), perplexity)

    def decode(self, indices):
        """int64 (n, B, ...) of the first n stages -> float (B, D, ...)."""
        return sum(stage.decode(index) for stage, index in zip(self.stages, indices))


class FiniteScalarQuantiser(nn.Module):
    """Each of D numbers squashed and rounded to a few levels: a codebook that is a grid, with nothing to learn.

    Args:
        levels: number of levels of each dimension, 2 or more; the codebook has their product. The paper suggests
            (8, 6, 5) for 240 entries, (8, 5, 5, 5) for 1000, (7, 5, 5, 5, 5) for 4375.

    z_q is in [-1, 1], at multiples of ``1 / (levels // 2)``. ``dz`` is ``g`` times the derivative of the squashing.
    Mentzer, Minnen, Agustsson, Tschannen 2023, arXiv:2309.15505. Loss is zero: nothing needs to be kept near an
    entry.
    """

    def __init__(self, levels):
        super().__init__()
        if not levels or min(levels) < 2:
            raise ValueError(f"every dimension needs two levels or more, found {tuple(levels)}")
        levels = torch.tensor(levels)
        self.register_buffer("levels", levels, persistent=False)
        self.register_buffer("half_width", levels // 2, persistent=False)
        places = torch.cumprod(torch.cat([torch.ones(1, dtype=torch.int64), levels[:-1]]), 0)
        self.register_buffer("places", places, persistent=False)

    @property
    def codes(self):
        """Number of entries of the implied codebook."""
        return int(self.levels.prod())

    def forward(self, z):
        """Float (B, D, ...) -> :class:`Quantised`."""
        integers = round_ste(self._squash(z.movedim(1, -1)))
        indices = ((integers.detach().long() + self.half_width) * self.places).sum(-1)
        share = torch.bincount(indices.flatten(), minlength=self.codes).to(z.dtype) / indices.numel()
        return Quantised((integers / self.half_width).movedim(-1, 1), indices, z.new_zeros(()), _perplexity(share))

    def decode(self, indices):
        """int64 (B, ...) -> float (B, D, ...)."""
        integers = indices[..., None] // self.places % self.levels - self.half_width
        return (integers / self.half_width).movedim(-1, 1)

    def _squash(self, z):
        """Into the open interval that rounds to the levels; an even number of them is not symmetric."""
        reach = (self.levels - 1) * (1 + 1e-3) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        return torch.tanh(z + torch.atanh(offset / reach)) * reach - offset


def _perplexity(share):
    return torch.exp(torch.special.entr(share).sum())
