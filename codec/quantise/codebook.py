"""Quantisers with a codebook: vector, residual, hierarchical, SimVQ, finite scalar, and categorical codes.

Latents are (B, D, ...), channels second as everywhere in this codec: each position holds one vector of D numbers.
All modules return a :class:`Quantised`; its ``z_q`` has the dtype of z, and codebooks, searches and losses are float32
(float64 for float64 latents), under autocast too.

:class:`Codebook` is what they are made of, and what a codec builds its own scheme from: G codebooks side by side.

A codebook that learns by moving averages does so in two steps (:class:`Deferred`). In training mode a forward pass only
notes what it saw; :func:`commit_codebooks` takes it over. A trainer calls it after a step of the optimiser whose
gradients were finite, and :func:`discard_codebooks` where they were not, so that a batch that the weights do not learn
from leaves no trace in the codebooks either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import distributed, nn

from .estimators import categorical_kl, gumbel_softmax
from .ste import nearest, rotation_trick, round_ste, surrogate_gradient


class Quantised(NamedTuple):
    """What a quantiser says of latents z (B, D, ...).

    Attributes:
        z_q: (B, D, ...) quantised, in the dtype of z; the gradient reaches z as the quantiser says.
        indices: int64 (B, ...); (stages, B, ...) from a residual quantiser.
        loss: scalar to add to the training loss; zero where there is nothing to add.
        perplexity: exp of the entropy of the indices in this batch: how many entries are in use, 1 to K; one for
            each stage of a residual quantiser.
    """

    z_q: torch.Tensor
    indices: torch.Tensor
    loss: torch.Tensor
    perplexity: torch.Tensor


# Codebooks


class Deferred(nn.Module):
    """A module whose state follows what its forward passes saw, but only when the trainer says so.

    Forward passes in training mode note what they see; ``commit`` learns from it, ``discard`` forgets it.
    """

    def commit(self) -> None:
        raise NotImplementedError

    def discard(self) -> None:
        raise NotImplementedError


class Codebook(Deferred):
    """G codebooks of K entries of D numbers, which follow the vectors that choose them.

    Args:
        groups, codes, dim: G, K, D.
        decay: of the moving averages, in [0, 1).
        restart_below: an entry that is chosen less often than this fraction of an even share, 1 / K, is dead, and
            restarts at a vector of the batch (Dhariwal et al. 2020, arXiv:2005.00341). The first batch then sets all
            entries. 0: neither.
        restart_every: look for dead entries at every n-th commit.
        zero_first: entry 0 is the zero vector and stays it.
        learned: the entries are parameters of the optimiser, and the averages serve the restarts alone.
        generator: chooses the vectors to start and restart at; methods take another one.

    Attributes:
        entries: float (G, K, D).
        shares: float (G, K), moving averages of the share of the vectors that chose each entry. A share does not depend
            on how many vectors a batch has; every batch counts alike. Below 1e-4 / K, averages no longer move an entry.
        sums: float (G, K, D), moving averages of the sum of those vectors, per vector of the batch.
        commits: int64, number of :meth:`commit`.

    Use: ``start``, ``choose``, ``lookup``, ``observe``, and after the optimiser's step ``commit``. With
    torch.distributed, commit sums over processes and hence must be called by all of them; vectors to start and restart
    at are those of process 0. Exponential moving averages: van den Oord, Vinyals, Kavukcuoglu 2017, arXiv:1711.00937,
    appendix A.1.

    Raises:
        ValueError: an argument is out of its range.
    """

    shares: torch.Tensor
    sums: torch.Tensor
    commits: torch.Tensor
    entries: torch.Tensor
    _first: torch.Tensor | None
    _seen: tuple[torch.Tensor, torch.Tensor] | None
    _fresh: tuple[torch.Tensor, torch.Tensor] | None

    def __init__(
        self,
        groups: int,
        codes: int,
        dim: int,
        decay: float = 0.99,
        restart_below: float = 0.05,
        restart_every: int = 1,
        zero_first: bool = False,
        learned: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("groups", groups), ("codes", codes), ("dim", dim), ("restart_every", restart_every)):
            if value < 1:
                raise ValueError(f"a codebook needs {name} of 1 or more, not {value}")
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of an average is in [0, 1), not {decay}")
        if not 0 <= restart_below < 1:
            raise ValueError(f"restart_below is a fraction of an even share, in [0, 1), not {restart_below}")
        self.decay, self.zero_first, self.learned, self.generator = decay, zero_first, learned, generator
        self.restart_below, self.restart_every = restart_below, restart_every
        entries = (2 * torch.rand(groups, codes, dim, generator=generator) - 1) / codes
        if zero_first:
            entries[:, 0] = 0
        if learned:
            self.entries = nn.Parameter(entries)
        else:
            self.register_buffer("entries", entries)
        # As if every entry had had its even share so far: averages that start at zero would call all of them dead.
        self.register_buffer("shares", torch.full((groups, codes), 1 / codes))
        self.register_buffer("sums", entries.detach().clone() / codes)
        self.register_buffer("commits", torch.zeros((), dtype=torch.int64))
        self.discard()

    @property
    def codes(self) -> int:
        """K, number of entries."""
        return self.entries.shape[1]

    def current(self) -> torch.Tensor:
        """Entries (G, K, D) to quantise with: those drawn from the first batch before they are committed."""
        if not self.training or self._first is None:
            return self.entries
        return surrogate_gradient(self._first, self.entries) if self.learned else self._first

    def choose(self, vectors: torch.Tensor, penalty: torch.Tensor | None = None) -> torch.Tensor:
        """Index of each vector's best entry: float (G, n, D) -> int64 (G, n). ``penalty`` as of :func:`nearest`."""
        return nearest(vectors, self.current(), penalty)

    def lookup(self, indices: torch.Tensor) -> torch.Tensor:
        """The entries: int64 (G, n) -> float (G, n, D)."""
        entries = self.current()
        return entries.gather(1, indices[..., None].expand(-1, -1, entries.shape[2]))

    @torch.no_grad()
    def start(
        self, vectors: torch.Tensor, weight: torch.Tensor | None = None, generator: torch.Generator | None = None
    ) -> None:
        """Set all entries to random vectors of the first batch; does nothing later, or in evaluation mode.

        Args: as of :meth:`observe`. The entries are used at once, and stay if the step is committed.
        """
        if not self.training or not self.restart_below or self._first is not None or self.commits > 0:
            return
        drawn, found = self._draw(vectors, weight, generator)
        first = torch.where(found[:, None, None], drawn, self.entries)
        if self.zero_first:
            first[:, 0] = 0
        self._first = first

    @torch.no_grad()
    def observe(
        self,
        vectors: torch.Tensor,
        indices: torch.Tensor,
        weight: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Note what chose what; changes nothing until :meth:`commit`. Several passes before it add up.

        Args:
            vectors: float (G, n, D); those that are not finite are left out.
            indices: int64 (G, n), from :meth:`choose`.
            weight: float or bool (G, n), how much each vector counts, 0 or more; 1 unless given. A group all of
                whose weights are zero stays as it is.
            generator: source of the vectors to restart at.
        """
        vectors = vectors.detach().to(self.sums.dtype)
        weight = self._weight(vectors, weight)
        vectors = torch.where(weight[..., None] > 0, vectors, 0.0)
        counts = torch.zeros_like(self.shares).scatter_add_(1, indices, weight)
        sums = torch.zeros_like(self.sums)
        sums.scatter_add_(1, indices[..., None].expand_as(vectors), vectors * weight[..., None])
        if self._seen is not None:
            counts, sums = counts + self._seen[0], sums + self._seen[1]
        self._seen = counts, sums
        if self.restart_below and (self.commits + 1) % self.restart_every == 0:
            self._fresh = self._draw(vectors, weight, generator)

    @torch.no_grad()
    def commit(self) -> None:
        """Learn from what was observed: move the entries to the means of their vectors, restart the dead ones."""
        if self._first is not None:
            self.entries.copy_(self._first)
        if self.commits == 0:  # entries may have been set by hand
            self.sums.copy_(self.entries / self.codes)
        if self._seen is not None:
            self._follow(*(sum_over_processes(t) for t in self._seen))
        if self.zero_first:
            self.entries[:, 0] = 0
        self.commits += 1
        self.discard()

    def discard(self) -> None:
        """Forget what was observed: the step was not taken."""
        # None of it is part of the state: a checkpoint is written between steps.
        self._first = self._seen = self._fresh = None

    @torch.no_grad()
    def load(self, entries: torch.Tensor, shares: torch.Tensor | None = None) -> None:
        """Go on from entries (G, K, D) of a weights file, and their shares (G, K), even ones unless given."""
        self.entries.copy_(entries)
        self.shares.fill_(1 / self.codes) if shares is None else self.shares.copy_(shares)
        self.sums.copy_(self.entries * self.shares[..., None])
        self.commits.clamp_(min=1)  # no batch sets the entries any more
        self.discard()

    def perplexity(self) -> torch.Tensor:
        """exp of the entropy of the shares (G,): how many entries have been in use lately, 1 to K."""
        return _perplexity(self.shares / self.shares.sum(1, keepdim=True))

    def _follow(self, counts, sums):
        total = counts.sum(1, keepdim=True)  # (G, 1)
        heard = (total > 0) & sums.isfinite().flatten(1).all(1, keepdim=True)
        share, mean = counts / total.clamp_min(1e-12), sums / total.clamp_min(1e-12)[..., None]
        for average, value in ((self.shares, share), (self.sums, mean)):
            value = average.lerp(value, 1 - self.decay)
            average.copy_(torch.where(heard.view(-1, *(1,) * (value.dim() - 1)), value, average))
        if not self.learned:
            # A share that has faded away leaves its entry where it is.
            known = heard & (self.shares > 1e-4 / self.codes)
            mean = self.sums / self.shares.clamp_min(1e-12)[..., None]
            self.entries.copy_(torch.where(known[..., None], mean, self.entries))
        if self._fresh is not None:
            fresh, found = self._fresh
            dead = (self.shares < self.restart_below / self.codes) & found[:, None]
            if self.zero_first:
                dead[:, 0] = False
            self.entries.copy_(torch.where(dead[..., None], fresh, self.entries))
            self.sums.copy_(torch.where(dead[..., None], fresh / self.codes, self.sums))
            self.shares.masked_fill_(dead, 1 / self.codes)

    def _weight(self, vectors, weight):
        finite = vectors.isfinite().all(-1)
        if weight is None:
            return finite.to(self.shares.dtype)
        return torch.where(finite, weight.to(self.shares.dtype), 0.0)

    def _draw(self, vectors, weight, generator):
        """``(drawn, found)``: K vectors of each group (G, K, D), each once where there are enough, and bool (G,).

        Only finite vectors whose weight is not zero; a group without any is not ``found``.
        """
        vectors = vectors.detach().to(self.sums.dtype)
        usable = self._weight(vectors, weight) > 0
        generator = generator if generator is not None else self.generator
        device = generator.device if generator is not None else vectors.device
        order = torch.rand(usable.shape, generator=generator, device=device).to(vectors.device)
        order = torch.where(usable, order, -1.0)
        best = order.topk(min(self.codes, order.shape[1]), 1).indices  # the usable ones first
        count = usable.sum(1, keepdim=True).clamp(1, best.shape[1])
        which = best.gather(1, torch.arange(self.codes, device=vectors.device).expand(len(best), -1) % count)
        drawn = vectors.gather(1, which[..., None].expand(-1, -1, vectors.shape[2]))
        found = usable.any(1)
        drawn = torch.where(found[:, None, None], drawn, 0.0)
        return _from_first_process(drawn), _from_first_process(found)


def commit_codebooks(model: nn.Module) -> None:
    """``commit`` every :class:`Deferred` in ``model``: the optimiser took a step with finite gradients."""
    for module in model.modules():
        if isinstance(module, Deferred):
            module.commit()


def discard_codebooks(model: nn.Module) -> None:
    """``discard`` in every :class:`Deferred` in ``model``: the step was not taken."""
    for module in model.modules():
        if isinstance(module, Deferred):
            module.discard()


def sum_over_processes(t: torch.Tensor) -> torch.Tensor:
    """A tensor summed over the processes of torch.distributed; itself where there is one."""
    if distributed.is_available() and distributed.is_initialized():
        t = t.clone()
        distributed.all_reduce(t)
    return t


def _from_first_process(t):
    if distributed.is_available() and distributed.is_initialized():
        t = t.contiguous()
        distributed.broadcast(t, 0)
    return t


# Vector quantisation

GRADIENTS = {"ste": lambda z, z_q: surrogate_gradient(z_q.to(z.dtype), z), "rotation": rotation_trick}


class VectorQuantiser(nn.Module):
    """Nearest entry of a learned codebook (VQ-VAE: van den Oord, Vinyals, Kavukcuoglu 2017, arXiv:1711.00937).

    Args:
        codes: K, number of entries.
        dim: D.
        update: how the codebook learns: ``"ema"``, moving averages of the vectors that chose each entry (appendix
            A.1), or ``"loss"``, the codebook loss ``mean((sg[z] - e)^2)`` and the optimiser.
        decay, restart_below, generator: as of :class:`Codebook`.
        commitment: beta of the commitment loss ``beta * mean((z - sg[e])^2)``.
        gradient: what reaches z from z_q: ``"ste"``, all of it (``dz = g``), or ``"rotation"``,
            :func:`~codec.quantise.ste.rotation_trick`.

    In training mode the codebook learns at :func:`commit_codebooks`.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        codes: int,
        dim: int,
        update: str = "ema",
        decay: float = 0.99,
        commitment: float = 0.25,
        restart_below: float = 0.05,
        gradient: str = "ste",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if update not in ("ema", "loss"):
            raise ValueError(f"the codebook learns by 'ema' or 'loss', not {update!r}")
        _check(commitment, gradient)
        self.update, self.commitment, self.gradient = update, commitment, gradient
        self.book = Codebook(1, codes, dim, decay, restart_below, learned=update == "loss", generator=generator)

    @property
    def codebook(self) -> torch.Tensor:
        """The entries, float (K, D)."""
        return self.book.entries[0]

    def forward(self, z: torch.Tensor) -> Quantised:
        """Float (B, D, ...) -> :class:`Quantised`."""
        vectors = _vectors(z, self.codebook.shape[1])  # (n, D)
        with torch.autocast(z.device.type, enabled=False):
            self.book.start(vectors[None])
            indices = self.book.choose(vectors[None])
            entries = self.book.lookup(indices)[0].to(vectors.dtype)
            loss = self.commitment * F.mse_loss(vectors, entries.detach())
            if self.update == "loss":
                loss = loss + F.mse_loss(entries, vectors.detach())
            if self.training:
                self.book.observe(vectors[None], indices)
        return _quantised(z, entries, indices[0], loss, self.gradient)

    def decode(self, indices: torch.Tensor) -> torch.Tensor:
        """int64 (B, ...) -> float (B, D, ...): the entries."""
        return self.codebook[indices].movedim(-1, 1)


class SimVQ(nn.Module):
    """Vector quantisation with a codebook of which a linear layer alone is learned.

    Args:
        codes, dim: K and D.
        commitment: beta of the commitment loss.
        gradient: as of :class:`VectorQuantiser`.
        generator: source of the frozen basis.

    The entries are ``e_k = W c_k`` with a random basis c (K, D) that is never trained. A step of W moves all of them,
    also those that nothing chose, so that none dies. Trained by the codebook loss ``mean((sg[z] - e)^2)``. Zhu et al.
    2024, arXiv:2411.02038.
    """

    basis: torch.Tensor

    def __init__(
        self,
        codes: int,
        dim: int,
        commitment: float = 0.25,
        gradient: str = "ste",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if codes < 1 or dim < 1:
            raise ValueError(f"a codebook needs codes and dim of 1 or more, not {codes} and {dim}")
        _check(commitment, gradient)
        self.commitment, self.gradient = commitment, gradient
        self.register_buffer("basis", torch.randn(codes, dim, generator=generator) * dim**-0.5)
        self.projection = nn.Linear(dim, dim, bias=False)
        with torch.no_grad():
            self.projection.weight.copy_(torch.eye(dim))

    @property
    def codebook(self) -> torch.Tensor:
        """The entries, float (K, D); differentiable."""
        return self.basis @ self.projection.weight.T

    def forward(self, z: torch.Tensor) -> Quantised:
        """Float (B, D, ...) -> :class:`Quantised`."""
        vectors = _vectors(z, self.basis.shape[1])
        with torch.autocast(z.device.type, enabled=False):
            codebook = self.codebook
            indices = nearest(vectors, codebook)
            entries = codebook[indices].to(vectors.dtype)
            loss = F.mse_loss(entries, vectors.detach()) + self.commitment * F.mse_loss(vectors, entries.detach())
        return _quantised(z, entries, indices, loss, self.gradient)

    def decode(self, indices: torch.Tensor) -> torch.Tensor:
        """int64 (B, ...) -> float (B, D, ...): the entries."""
        return self.codebook[indices].movedim(-1, 1)


class ResidualVectorQuantiser(nn.Module):
    """Stages of :class:`VectorQuantiser`, each for what the ones before left over.

    Args:
        stages: number of codebooks; a decoder may be given the first few alone, at a lower rate.
        codes, dim, options: of each stage.

    SoundStream: Zeghidour et al. 2021, arXiv:2107.03312. The loss is the sum over stages; the gradient reaches z
    once.

    Raises:
        ValueError: no stage, or an argument of a stage is out of its range.
    """

    def __init__(self, stages: int, codes: int, dim: int, **options: Any) -> None:
        super().__init__()
        if stages < 1:
            raise ValueError(f"residual quantisation needs 1 stage or more, not {stages}")
        self.stages: Any = nn.ModuleList(VectorQuantiser(codes, dim, **options) for _ in range(stages))

    def forward(self, z: torch.Tensor) -> Quantised:
        """Float (B, D, ...) -> :class:`Quantised` with indices (stages, B, ...), perplexity (stages,)."""
        residual = z.to(_working_dtype(z))
        total, parts = torch.zeros_like(residual), []
        for stage in self.stages:
            parts.append(stage(residual))
            z_q = parts[-1].z_q.detach()
            residual, total = residual - z_q, total + z_q
        # Rotations turn whole vectors, whose numbers are in the second dimension.
        z_q = GRADIENTS[self.stages[0].gradient](z.movedim(1, -1), total.movedim(1, -1)).movedim(-1, 1)
        indices, perplexity = (torch.stack([part[i] for part in parts]) for i in (1, 3))
        return Quantised(z_q, indices, sum(part.loss for part in parts), perplexity)

    def decode(self, indices: torch.Tensor) -> torch.Tensor:
        """int64 (n, B, ...) of the first n stages, 1 or more -> float (B, D, ...)."""
        if not 1 <= len(indices) <= len(self.stages):
            raise ValueError(f"indices of 1 to {len(self.stages)} stages, found {len(indices)}")
        found: Any = sum(stage.decode(index) for stage, index in zip(self.stages, indices))
        return found


class HierarchicalVectorQuantiser(nn.Module):
    """Levels of codes at falling resolution, each conditioned on the ones above (VQ-VAE-2).

    Args:
        codes: entries of each level, coarsest level first.
        dim: D, of all levels.
        factor: from one level to the next finer one, in each direction.
        options: of each level's :class:`VectorQuantiser`.

    Level 0 is quantised as it stands. For each finer one, what the levels above say is brought to its resolution,
    joined to its latents and projected to the D numbers that are quantised: a level spends its codes on what those
    above cannot know. The synthesis wants :meth:`join` of all levels. Razavi, van den Oord, Vinyals 2019,
    arXiv:1906.00446.

    Raises:
        ValueError: no level, or an argument of a level is out of its range.
    """

    def __init__(self, codes: Sequence[int], dim: int, factor: int = 2, **options: Any) -> None:
        super().__init__()
        if not codes or factor < 1:
            raise ValueError(f"a hierarchy has one level or more and a factor of 1 or more, not {codes} and {factor}")
        self.levels: Any = nn.ModuleList(VectorQuantiser(k, dim, **options) for k in codes)
        finer = range(1, len(codes))
        self.upsample = nn.ModuleList(nn.ConvTranspose2d(i * dim, i * dim, factor, factor) for i in finer)
        self.condition = nn.ModuleList(nn.Conv2d((i + 1) * dim, dim, 1) for i in finer)

    def forward(self, latents: Sequence[torch.Tensor]) -> list[Quantised]:
        """Latents (B, D, h_i, w_i), coarsest first -> list of a :class:`Quantised` for each level."""
        if len(latents) != len(self.levels):
            raise ValueError(f"latents of {len(self.levels)} levels, found {len(latents)}")
        parts, above = [], None
        for i, (level, z) in enumerate(zip(self.levels, latents)):
            if i:
                above = self.upsample[i - 1](above)
                z = self.condition[i - 1](torch.cat([above, z], 1))
            parts.append(level(z))
            above = parts[-1].z_q if above is None else torch.cat([above, parts[-1].z_q.to(above.dtype)], 1)
        return parts

    def join(self, z_q: Sequence[torch.Tensor]) -> torch.Tensor:
        """What the synthesis sees: the levels' z_q, coarsest first -> (B, levels D, h, w) at the finest resolution."""
        above = z_q[0]
        for upsample, part in zip(self.upsample, z_q[1:]):
            above = torch.cat([upsample(above), part], 1)
        return above

    def decode(self, indices: Sequence[torch.Tensor]) -> torch.Tensor:
        """:meth:`join` of the entries: int64 (B, h_i, w_i), coarsest first -> float (B, levels D, h, w)."""
        return self.join([level.decode(index) for level, index in zip(self.levels, indices)])


# Without a codebook to search


class FiniteScalarQuantiser(nn.Module):
    """Each of D numbers squashed and rounded to a few levels: a codebook that is a grid, with nothing to learn.

    Args:
        levels: number of levels of each dimension, 2 to 1000; the codebook has their product, less than 2^63. The
            paper suggests (8, 6, 5) for 240 entries, (8, 5, 5, 5) for 1000, (7, 5, 5, 5, 5) for 4375.

    z_q is in [-1, 1], at multiples of ``1 / (levels // 2)``. ``dz`` is ``g`` times the derivative of the squashing.
    Mentzer, Minnen, Agustsson, Tschannen 2023, arXiv:2309.15505. Loss is zero: nothing needs to be kept near an
    entry.

    Raises:
        ValueError: levels out of range.
    """

    levels: torch.Tensor
    half_width: torch.Tensor
    places: torch.Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        if not levels or min(levels) < 2:
            raise ValueError(f"every dimension needs two levels or more, found {tuple(levels)}")
        if max(levels) > 1000:  # beyond, the margin of the squashing reaches the next level
            raise ValueError(f"a dimension has 1000 levels at most, found {max(levels)}")
        if math.prod(levels) >= 2**63:
            raise ValueError(f"the indices of {math.prod(levels)} entries do not fit into 63 bits")
        numbers = torch.tensor(levels)
        self.register_buffer("levels", numbers, persistent=False)
        self.register_buffer("half_width", numbers // 2, persistent=False)
        places = torch.cumprod(torch.cat([torch.ones(1, dtype=torch.int64), numbers[:-1]]), 0)
        self.register_buffer("places", places, persistent=False)

    @property
    def codes(self) -> int:
        """Number of entries of the implied codebook."""
        return int(self.levels.prod())

    def forward(self, z: torch.Tensor) -> Quantised:
        """Float (B, D, ...) -> :class:`Quantised`."""
        vectors = _vectors(z, len(self.levels))
        with torch.autocast(z.device.type, enabled=False):
            integers = round_ste(self._squash(vectors))
            indices = ((integers.detach().long() + self.half_width) * self.places).sum(-1)
            z_q = integers / self.half_width
        share = indices.unique(return_counts=True)[1] / indices.numel()
        z_q, indices = _shaped(z_q, z), indices.view(_positions(z))
        return Quantised(z_q.to(z.dtype), indices, vectors.new_zeros(()), _perplexity(share))

    def decode(self, indices: torch.Tensor) -> torch.Tensor:
        """int64 (B, ...) -> float32 (B, D, ...)."""
        integers = indices[..., None] // self.places % self.levels - self.half_width
        return (integers / self.half_width).movedim(-1, 1)

    def _squash(self, z):
        """Into the open interval that rounds to the levels; an even number of them is not symmetric."""
        reach = (self.levels - 1) * (1 + 1e-3) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        return torch.tanh(z + torch.atanh(offset / reach)) * reach - offset


class CategoricalQuantiser(nn.Module):
    """Codes that are drawn from a distribution over K entries which the encoder says: the discrete VAE.

    Args:
        codes, dim: K, and D of the entries, which are parameters.
        kl_weight: of the KL divergence from the uniform prior.
        hard: draw one-hot in training, with the gradient of the relaxed draw.

    Training mixes entries with a Gumbel-softmax draw (Jang, Gu, Poole 2017, arXiv:1611.01144), whose temperature falls
    by a schedule such as :func:`~codec.quantise.estimators.exponential_temperature`; evaluation takes the likeliest.
    The loss is ``kl_weight`` times the mean KL divergence per position, in nats. DALL-E's dVAE: Ramesh et al. 2021,
    arXiv:2102.12092.
    """

    def __init__(
        self, codes: int, dim: int, kl_weight: float = 1.0, hard: bool = False, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        if codes < 1 or dim < 1:
            raise ValueError(f"a codebook needs codes and dim of 1 or more, not {codes} and {dim}")
        self.kl_weight, self.hard = kl_weight, hard
        self.codebook = nn.Parameter(torch.randn(codes, dim, generator=generator) * dim**-0.5)

    def forward(
        self, logits: torch.Tensor, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Quantised:
        """Logits (B, K, ...), any real numbers -> :class:`Quantised` with z_q (B, D, ...)."""
        vectors = _vectors(logits, len(self.codebook))  # (n, K)
        with torch.autocast(logits.device.type, enabled=False):
            indices = vectors.argmax(-1)
            if self.training:
                weights = gumbel_softmax(vectors, temperature, self.hard, generator)
            else:
                weights = F.one_hot(indices, len(self.codebook)).to(vectors.dtype)
            z_q = weights @ self.codebook.to(vectors.dtype)
            loss = self.kl_weight * categorical_kl(vectors).mean()
        share = indices.unique(return_counts=True)[1] / indices.numel()
        z_q = _shaped(z_q, logits).to(logits.dtype)
        return Quantised(z_q, indices.view(_positions(logits)), loss, _perplexity(share))

    def decode(self, indices: torch.Tensor) -> torch.Tensor:
        """int64 (B, ...) -> float (B, D, ...): the entries."""
        return self.codebook[indices].movedim(-1, 1)


# What they share


def _check(commitment, gradient):
    if not commitment >= 0:
        raise ValueError(f"the commitment weight is 0 or more, not {commitment}")
    if gradient not in GRADIENTS:
        raise ValueError(f"the gradient is {' or '.join(map(repr, GRADIENTS))}, not {gradient!r}")


def _working_dtype(z):
    return torch.promote_types(z.dtype, torch.float32)


def _positions(z):
    return (z.shape[0], *z.shape[2:])


def _vectors(z, dim):
    """(B, D, ...) -> (n, D) in the working dtype; refuses what cannot be quantised."""
    if z.dim() < 2 or z.shape[1] != dim:
        raise ValueError(f"latents of shape (B, {dim}, ...), found {tuple(z.shape)}")
    if not z.numel():
        raise ValueError(f"no vectors: latents of shape {tuple(z.shape)}")
    return z.movedim(1, -1).reshape(-1, dim).to(_working_dtype(z))


def _shaped(vectors, z):
    """(n, E) -> (B, E, ...) at the positions of z."""
    return vectors.view(*_positions(z), vectors.shape[-1]).movedim(-1, 1)


def _quantised(z, entries, indices, loss, gradient):
    """:class:`Quantised` of z from the entries (n, D) and indices (n,) chosen for its vectors."""
    places = z.movedim(1, -1)
    z_q = GRADIENTS[gradient](places, entries.detach().view_as(places)).movedim(-1, 1)
    share = indices.unique(return_counts=True)[1] / indices.numel()
    return Quantised(z_q, indices.view(_positions(z)), loss, _perplexity(share))


def _perplexity(share):
    """exp of the entropy of probabilities (..., K)."""
    return torch.exp(torch.special.entr(share).sum(-1))
