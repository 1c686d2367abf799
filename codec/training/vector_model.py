"""The trainable models with latents made of codes: g_a, codes, g_s.

    vq      residual vector quantisation; the gradient passes the choice by the straight-through estimator, a commitment
            loss keeps the analysis near the codewords (van den Oord et al. 2017, arXiv:1711.00937)
    hvq     two levels of it, the lower one conditioned on the upper one (Razavi et al. 2019, arXiv:1906.00446)
    dvae    a discrete VAE: codewords mixed by a Gumbel-softmax draw whose temperature falls, and the KL divergence from
            the uniform prior as the rate (Ramesh et al. 2021, arXiv:2102.12092; Jang et al. 2017, arXiv:1611.01144)

Codebooks are :class:`codec.quantise.codebook.Codebook`'s.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from compressai._CXX import pmf_to_quantized_cdf
from torch import nn

from ..latents.hierarchy import CLASS_STEP, CLASSES, UPPER_STAGES, UPPER_WORTH, heads
from ..latents.networks import Z_LIMIT, hyper_synthesis
from ..latents.quadtree import MEAN_UNIT
from ..latents.vector import CONTEXTS, MAGNITUDES, squared_error_per_bit
from ..nn.dct import coarse_deviation
from ..nn.integer import TrainableLayer
from ..nn.latents import Chain
from ..nn.vector import contexts, from_groups, histories, to_groups
from ..quality import QUALITY_UNIT
from ..quantise import (
    Codebook,
    Deferred,
    categorical_kl,
    exponential_temperature,
    gumbel_softmax,
    round_half_up,
    straight_through,
    surrogate_gradient,
)  # fmt: skip
from ..quantise.codebook import sum_over_processes
from .transforms import TrainableTransforms

if TYPE_CHECKING:
    from ..config import ModelConfig
    from .eyes import Eyes


COMMITMENT = 0.25  # weight beside the distortion; 0.25 in the VQ-VAE paper
CODEBOOK_DECAY = 0.98  # of the averages behind the codebooks
STATISTICS_DECAY = 0.99  # of what a pair gains and costs
DEAD = 0.02  # codewords chosen less often than this, as a share of 1 / codes, are restarted
RESTART_EVERY = 20
MARGIN = 10.0  # codebooks learn from pictures down to this much below the quality from which on they are used
NEVER = 200.0
HOT, COLD = 1.0, 1 / 16  # temperature of the discrete VAE's draws, first and last: those of DALL-E's
COOL = 0.8  # share of the run after which it is cold
KL_WEIGHT = 1.0  # the rate as it is: bits
START_PRECISION = 4.0  # of the logits: -4 r^2 at first, which draws within a cell of 64 codewords of 4 numbers


class Chosen(NamedTuple):
    """What a level makes of vectors (G, n, d).

    Attributes:
        total: (G, n, d), sum of the codewords in use; differentiable in the discrete VAE alone.
        bits: (G, n), of the indices in use, by the prior.
        soft_bits: (G, n), the same as expected by a soft choice, differentiable by the vectors; None unless asked for.
        codebook: (G, n), squared error of the codewords towards their vectors; zero unless they learn by it.
        kl: (G, n), bits of the divergence from the uniform prior; zero but in the discrete VAE.
    """

    total: torch.Tensor
    bits: torch.Tensor
    soft_bits: torch.Tensor | None
    codebook: torch.Tensor
    kl: torch.Tensor


class Level(Deferred):
    """One level of residual codes: the torch side of latents.vector.ResidualCodes.

    Args:
        groups, stages, codes, dim: of the codebooks.
        size: float (stages, groups), powers of two: about how large the numbers of a codeword are. Codebooks hold
            codewords in that unit, so that a step of an optimiser is worth the same for all.
        classes: tables of each context among which someone who knows more chooses.
        learned: codewords are parameters, moved by the codebook loss rather than by moving averages.
        categorical: codewords are parameters, drawn with logits that fall with their distance: a discrete VAE.

    What pairs gain and cost are averages that follow what was seen when the trainer commits.
    """

    size: torch.Tensor
    gained: torch.Tensor
    cost: torch.Tensor

    def __init__(
        self,
        groups: int,
        stages: int,
        codes: int,
        dim: int,
        size: torch.Tensor,
        classes: int = 1,
        learned: bool = False,
        categorical: bool = False,
    ) -> None:
        super().__init__()
        self.classes, self.learned, self.categorical = classes, learned and not categorical, categorical
        self.register_buffer("size", size, persistent=False)
        self.books: Any = nn.ModuleList(
            Codebook(
                groups, codes, dim, CODEBOOK_DECAY, DEAD, RESTART_EVERY, zero_first=True, learned=learned or categorical
            )
            for _ in range(stages)
        )
        pairs = (stages, groups)
        # Prior: logits = base + sharpness * how large the codeword is, with a sharpness per context.
        self.log_prior = nn.Parameter(torch.zeros(*pairs, codes))
        self.sharpness = nn.Parameter(torch.zeros(*pairs, CONTEXTS))
        if categorical:
            # logits = base - precision * squared distance
            self.log_precision = nn.Parameter(torch.full(pairs, math.log(START_PRECISION)))
            self.logits_base = nn.Parameter(torch.zeros(*pairs, codes))
        self.register_buffer("gained", torch.zeros(pairs))  # squared error per vector that a pair takes away
        self.register_buffer("cost", torch.zeros(pairs))  # its bits per vector
        # Before they are measured: as if each stage took away three quarters.
        self.gained += 0.75 * dim * size.square()
        self.cost += 0.5 * math.log2(codes)
        self.temperature = HOT
        self.discard()

    @property
    def codebooks(self) -> torch.Tensor:
        """Codewords (stages, G, K, d), in the unit of the latents."""
        return torch.stack([book.entries for book in self.books]) * self.size[..., None, None]

    def forward(
        self,
        vectors: torch.Tensor,
        shape: tuple[int, int, int],
        used: torch.Tensor,
        near: torch.Tensor,
        worth: torch.Tensor,
        offset: torch.Tensor | None = None,
        soft: bool = False,
        generator: torch.Generator | None = None,
    ) -> Chosen:
        """:class:`Chosen` for vectors (G, n, d), in the order batch, row, column.

        Args:
            shape: (batch, height, width); n is their product.
            used: bool (stages, G, n), whose codewords count. near: bool (stages, G, n), who learns.
            worth: float (n, 1), squared error per bit, for the choice.
            offset: float (stages, G, n), added to the sharpness of the prior; None: nothing.
            soft: also expect bits by a soft choice.
        """
        batch, height, width = shape
        residual = vectors
        total, nothing = torch.zeros_like(vectors), vectors.new_zeros(vectors.shape[:2])
        bits, soft_bits, codebook, kl = nothing, nothing, nothing, nothing
        magnitude = torch.zeros(len(vectors), *shape, dtype=torch.int64, device=vectors.device)
        for s, book in enumerate(self.books):
            unit = self.size[s][:, None, None]
            inner = residual / unit
            base_bits = -F.log_softmax(self.log_prior[s], -1) / math.log(2)  # (G, K)
            book.start(inner, near[s], generator)
            if self.categorical:
                weight, bias = self._logits(s)
                logits = torch.baddbmm(bias[:, None], inner, weight)  # (G, n, K)
                index = logits.argmax(2)
                if self.training:
                    codeword = gumbel_softmax(logits, self.temperature, generator=generator) @ book.current() * unit
                    kl = kl + categorical_kl(logits) / math.log(2) * used[s]
                else:
                    codeword = book.lookup(index) * unit
            else:
                index = book.choose(inner, base_bits.detach()[:, None] * (worth / unit.square()))
                codeword = book.lookup(index) * unit
            taken = (residual.square() - (residual - book.lookup(index) * unit).square()).sum(2).detach()
            if self.learned:
                codebook = codebook + (codeword - residual.detach()).square().sum(2) * near[s]
                codeword = codeword.detach()

            before, magnitude = magnitude, self._magnitudes(s).gather(1, index) * used[s]
            magnitude = magnitude.view(-1, batch, height, width)
            earlier = [F.pad(magnitude, (0,) * 6 + (i, 0))[: len(magnitude)] for i in (1, 2, 3)]
            row = contexts(histories(earlier, before), magnitude).flatten(1)  # (G, n)
            sharpness = self.sharpness[s].gather(1, row)
            log2_prior = self._log2_prior(s, sharpness if offset is None else sharpness + offset[s])  # (G, n, K)
            index_bits = -log2_prior.gather(2, index[..., None])[..., 0]
            bits = bits + index_bits * used[s]
            if soft:
                distance = (inner[:, :, None] - book.current().detach()[:, None]).square().sum(3) * unit.square()
                choice = torch.softmax(-(distance / worth + base_bits.detach()[:, None]) * math.log(2), 2)
                soft_bits = soft_bits - (choice * log2_prior.detach()).sum(2) * used[s]

            if self.training:
                book.observe(inner, index, near[s], generator)
                self._measure(s, taken, index_bits.detach(), near[s])
            step = codeword * used[s][..., None]
            residual, total = residual - step, total + step
        return Chosen(total, bits, soft_bits if soft else None, codebook, kl)

    def _logits(self, s):
        """Weight (G, d, K) and bias (G, K) of the logits of stage s; what all logits of a vector share is left out."""
        precision, entries = self.log_precision[s].exp(), self.books[s].current()
        weight = 2 * precision[:, None, None] * entries.mT
        return weight, self.logits_base[s] - precision[:, None] * entries.square().sum(2)

    def _magnitudes(self, s):
        """Classes (G, K) of the codewords of stage s, by length relative to the codebook's rms."""
        length = self.books[s].current().detach().norm(dim=2)
        usual = length.square().mean(1, keepdim=True).sqrt().clamp_min(1e-12)
        return sum((length > factor * usual).long() for factor in (0.25, 0.75, 1.25)[: MAGNITUDES - 1])

    def _log2_prior(self, s, sharpness):
        """log2 of the probabilities (G, m, K) of stage s for sharpnesses (G, m)."""
        length = self.books[s].current().detach().norm(dim=2)
        length = length / length.amax(1, keepdim=True).clamp_min(1e-12)
        return F.log_softmax(self.log_prior[s][:, None] + sharpness[..., None] * length[:, None], -1) / math.log(2)

    def perplexity(self) -> torch.Tensor:
        """How many codewords of each codebook have been in use lately: (stages, G)."""
        return torch.stack([book.perplexity() for book in self.books])

    # What pairs gain and cost

    @torch.no_grad()
    def _measure(self, s, taken, bits, near):
        near = near & taken.isfinite() & bits.isfinite()
        sums = [torch.where(near, values, 0.0).sum(1) for values in (taken, bits)]
        self._seen[s] = torch.stack([*sums, near.sum(1).to(taken.dtype)])  # (3, G)

    @torch.no_grad()
    def commit(self) -> None:
        for s, seen in self._seen.items():
            taken, bits, count = sum_over_processes(seen)
            for average, total in ((self.gained, taken), (self.cost, bits)):
                mean = average[s].lerp(total / count.clamp_min(1), 1 - STATISTICS_DECAY)
                average[s] = torch.where(count > 0, mean, average[s])
        self.discard()

    def discard(self) -> None:
        self._seen: dict[int, Any] = {}

    # Weights files

    @torch.no_grad()
    def export_tensors(self, first_quality: torch.Tensor, whole: bool = False) -> dict[str, torch.Tensor]:
        """Tensors of a weights file: half-precision codebooks, or of whole numbers, and integer tables.

        Args:
            first_quality: float (stages, G), in [0, 100].
        """
        rounded = copy.deepcopy(self).eval()  # so that magnitudes and lengths are those of the file
        codebooks = round_half_up(self.codebooks).clamp(-Z_LIMIT, Z_LIMIT) if whole else self.codebooks
        codebooks = codebooks.half()
        rounded._set_codebooks(codebooks.float())
        pairs, stages = self.gained.shape, range(len(self.books))
        sharpness = self.sharpness[:, :, None] + class_offsets(self.classes, self.sharpness.device)[:, None]
        log2_prior = torch.stack([rounded._log2_prior(s, sharpness[s].flatten(1)) for s in stages])
        rows = (*pairs, CONTEXTS, -1) if self.classes == 1 else (*pairs, self.classes, CONTEXTS, -1)
        tensors = {
            "codebooks": codebooks,
            "magnitudes": torch.stack([rounded._magnitudes(s) for s in stages]).to(torch.int8),
            "first_quality": (100 * first_quality).ceil().int(),
            "frequencies": _frequencies(log2_prior.cpu()).view(rows),
            # The rest lets training continue.
            "log_prior": self.log_prior.half(),
            "sharpness": self.sharpness.half(),
            "gained": self.gained.clone(),
            "cost": self.cost.clone(),
        }
        if self.categorical:
            weight, bias = (torch.stack(parts) for parts in zip(*(rounded._logits(s) for s in stages)))
            # Of latents in their own unit; in single precision, since it is differences of large ones that count.
            tensors["logits_weight"], tensors["logits_bias"] = weight / self.size[..., None, None], bias
            tensors["logits_base"], tensors["log_precision"] = self.logits_base.half(), self.log_precision.clone()
        else:
            tensors["bits"] = (-F.log_softmax(self.log_prior, -1) / math.log(2)).half()
        tensors["counts"] = torch.stack([book.shares for book in self.books]).half()
        return tensors

    @torch.no_grad()
    def import_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take what :meth:`export_tensors` made."""
        own = ("logits_base", "log_precision") if self.categorical else ()
        for name in ("gained", "cost", "log_prior", "sharpness", *own):
            getattr(self, name).copy_(tensors[name])
        self._set_codebooks(tensors["codebooks"].float(), tensors["counts"])

    def _set_codebooks(self, codebooks, shares=None):
        for s, book in enumerate(self.books):
            book.load(codebooks[s] / self.size[s][:, None, None], None if shares is None else shares[s].float())


class TrainableVectorModel(nn.Module):
    """Rate and distortion of a batch, differentiable; same interface as training.model.TrainableModel.

    Args:
        config: ModelConfig with latents made of codes.
        codebook: "ema": codewords follow by moving averages; "loss": by the codebook loss. Those of a discrete VAE are
            parameters of the decoder anyway.

    Raises:
        ValueError: no such way for codebooks to learn.
    """

    heads: Any  # ModuleDict of TrainableLayer
    eyes: Eyes | None = None  # as TrainableModel has it

    unit: torch.Tensor

    def __init__(self, config: ModelConfig, codebook: str = "ema") -> None:
        super().__init__()
        if codebook not in ("ema", "loss"):
            raise ValueError(f"codebooks learn by 'ema' or 'loss', not {codebook!r}")
        self.config = config
        self.transforms = TrainableTransforms(config)
        dim, learned = config.code_dim, codebook == "loss"
        groups = config.M // dim
        deviation = coarse_deviation(config.M)
        # The root mean square of a group, and half of that for what each stage leaves over.
        energy = deviation.square().view(groups, dim).mean(1) * 0.25 ** torch.arange(config.stages)[:, None]
        size = torch.exp2(energy.log2().div(2).round())
        two = config.side_information
        self.lower = Level(
            groups, config.stages, config.codes, dim, size, CLASSES if two else 1, learned, config.latents == "dvae"
        )
        self.upper: Level | None = None
        if two:
            ones = torch.ones(UPPER_STAGES, config.N // dim)
            self.upper = Level(config.N // dim, UPPER_STAGES, config.codes, dim, ones, learned=learned)
            self.h_s = Chain(
                *(step if isinstance(step, int) else TrainableLayer(step) for step in hyper_synthesis(config))
            )
            self.heads = nn.ModuleDict({name: TrainableLayer(spec) for name, spec in heads(config).items()})
            self.register_buffer("unit", deviation.half().float(), persistent=False)  # of the mean
            with torch.no_grad():
                self.heads["index"].bias.fill_(CLASS_STEP * (CLASSES - 1) / 2)
                for head in self.heads.values():
                    head.weight.mul_(0.1)
                    if head.log_step is not None:
                        head.log_step.sub_(math.log(10))

    def anneal(self, progress: float) -> None:
        """Set the temperature of the discrete VAE's draws for ``progress`` in [0, 1] of the training."""
        self.lower.temperature = exponential_temperature(progress, math.log(HOT / COLD) / COOL, COLD, HOT)

    def first_quality(self) -> torch.Tensor:
        """Quality (stages, groups) from which on each pair is worth its bits; never falling with the stage."""
        config = self.config
        # The lmbda at which gain equals cost.
        worth_while = 3 * self.lower.cost / (255**2 * self.lower.gained.clamp_min(1e-9))
        quality = 100 * torch.log(worth_while / config.lmbda_min) / math.log(config.lmbda_max / config.lmbda_min)
        quality = quality.cummax(0).values.clamp(0, NEVER)
        quality[0, 0] = 0  # the lowest frequencies are always there
        return quality

    def perplexity(self) -> torch.Tensor:
        """How many codewords of each codebook have been in use lately: (stages, groups)."""
        return self.lower.perplexity()

    def forward(
        self, x: torch.Tensor, quality: torch.Tensor, generator: torch.Generator | None = None
    ) -> dict[str, torch.Tensor]:
        """Bits and squared error per picture.

        Args:
            x: float (B, 3, H, W) in [0, 1]; H and W multiples of 64.
            quality: float (B,) in [0, 100].
            generator: source of restarts and draws.

        Returns:
            dict of float tensors (B,): ``y_bpp`` and ``z_bpp`` in bits per pixel, ``mse`` on the scale of 0 to 255; in
            training also ``extra_mse`` and ``extra_bpp``, what is added to distortion and rate in the loss: commitment
            and codebook loss, KL divergence and what the upper level should learn.
        """
        pixels = x.shape[2] * x.shape[3]
        y = self.transforms.analyse(x, quality).float()
        z_bits = torch.zeros_like(quality)
        mean: Any = 0.0
        upper_bits: Any = 0.0
        offset: Any = None
        if self.upper is not None:
            z = self.transforms.side_information(y, quality)
            assert z is not None  # as there are two levels
            z = z.float()
            with torch.autocast(x.device.type, enabled=False):
                z_hat, z_bits, upper_bits = self._upper(z, generator)
            mean, offset = self._condition(z_hat, quality)
        with torch.autocast(x.device.type, enabled=False):
            y_hat, chosen = self._lower(y, mean, offset, quality, generator)
            extra_bits = (upper_bits + per_picture(KL_WEIGHT * chosen.kl, len(x))).expand(len(x))
            if self.upper is not None:
                step = _quantisation_step(self.config.lmbda(quality))[:, None, None, None]
                # Bits of a residual of this size in steps: what the mean is to save.
                wrong = torch.log2(1 + ((y.detach() - mean) / step).square()) / 2
                extra_bits = extra_bits + wrong.flatten(1).sum(1)
            extra_error = per_picture(chosen.codebook, len(x))
            if self.config.latents != "dvae":
                extra_error = extra_error + COMMITMENT * (y - y_hat.detach()).square().flatten(1).sum(1)
                y_hat = straight_through(y, y_hat.detach())
        x_hat = self.transforms.synthesise(y_hat, quality)
        figures = {
            "y_bpp": per_picture(chosen.bits, len(x)) / pixels,
            "z_bpp": z_bits / pixels,
            "mse": 255**2 * (x_hat - x).square().flatten(1).mean(1),
        }
        if self.training:
            figures["extra_mse"] = 255**2 * extra_error / (3 * pixels)
            figures["extra_bpp"] = extra_bits / pixels
        return figures

    def _lower(self, y, mean, offset, quality, generator):
        """``(y_hat, Chosen)`` of latents (B, M, h, w), their mean, and offsets of the prior's sharpness."""
        batch, _, height, width = y.shape
        categorical = self.config.latents == "dvae"
        vectors = to_groups(y - mean if categorical else (y - mean).detach(), self.config.code_dim).contiguous()
        first = self.first_quality()[..., None]
        per_vector = quality.repeat_interleave(height * width)
        worth = squared_error_per_bit(self.config.lmbda(per_vector))[:, None]
        used, near = first <= per_vector, first - MARGIN <= per_vector  # (stages, G, n)
        chosen = self.lower(vectors, (batch, height, width), used, near, worth, offset, generator=generator)
        return mean + from_groups(chosen.total, batch, height, width), chosen

    def _upper(self, z, generator):
        """``(z_hat, bits, extra bits)``: integers with the gradient of z, and per picture."""
        batch, _, height, width = z.shape
        vectors = to_groups(z, self.config.code_dim).contiguous()
        all_of_them = torch.ones(UPPER_STAGES, *vectors.shape[:2], dtype=torch.bool, device=z.device)
        worth = torch.full((vectors.shape[1], 1), UPPER_WORTH, device=z.device)
        assert self.upper is not None
        chosen = self.upper(
            vectors, (batch, height, width), all_of_them, all_of_them, worth, soft=True, generator=generator
        )
        z_hat = round_half_up(from_groups(chosen.total.detach(), batch, height, width)).clamp(-Z_LIMIT, Z_LIMIT)
        # A choice has no gradient: that of its rate is that of a soft choice.
        bits = per_picture(surrogate_gradient(torch.zeros_like(chosen.soft_bits), chosen.soft_bits), batch)
        bits = bits + per_picture(chosen.bits, batch)
        held = COMMITMENT * (z - z_hat).square().flatten(1).sum(1) + per_picture(chosen.codebook, batch)
        return surrogate_gradient(z_hat, z), bits, held

    def _condition(self, z_hat, quality):
        """Mean of y (B, M, h, w) and offsets (stages, G, n) of the prior's sharpness that z_hat says."""
        hundredths = quality * QUALITY_UNIT
        features = self.h_s(z_hat, hundredths)
        mean, index = (self.heads[name](features, hundredths) for name in ("mean", "index"))
        index = index.unflatten(1, (self.config.stages, -1)).permute(1, 2, 0, 3, 4).flatten(2)
        offset = CLASS_STEP * (index - (CLASSES - 1) / 2)
        return mean * (self.unit / MEAN_UNIT)[:, None, None], offset

    # Weights files

    def _parts(self):
        """``(prefix in the weights file, module)`` of integer layers."""
        if self.upper is not None:
            yield from ((f"entropy.h_s.layers.{i}.", layer) for i, layer in enumerate(self.h_s.layers))
            yield from ((f"entropy.lower.{name}.", layer) for name, layer in self.heads.items())

    @torch.no_grad()
    def export_tensors(self) -> dict[str, torch.Tensor]:
        """Everything that a weights file holds: half-precision transforms and codebooks, integer tables."""
        tensors = {name: t.to(torch.float16) for name, t in self.transforms.folded().items()}
        levels = {"vq": self.lower.export_tensors(self.first_quality())}
        if self.upper is not None:
            levels["upper"] = self.upper.export_tensors(torch.zeros_like(self.upper.gained), whole=True)
            levels["lower"] = {"unit": self.unit.half()}
        for level, named in levels.items():
            tensors.update({f"entropy.{level}.{name}": t for name, t in named.items()})
        for prefix, layer in self._parts():
            tensors.update({prefix + name: t for name, t in layer.integers().items()})
        return {name: t.detach().cpu().contiguous() for name, t in tensors.items()}

    @torch.no_grad()
    def import_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take the weights of a file with this model's architecture."""
        self.transforms.unfold({k: v.float() for k, v in tensors.items() if not k.startswith("entropy.")})
        self.lower.import_tensors(_below("entropy.vq.", tensors))
        if self.upper is not None:
            self.upper.import_tensors(_below("entropy.upper.", tensors))
        for prefix, layer in self._parts():
            layer.set_integers(_below(prefix, tensors))


def class_offsets(classes: int, device: torch.device | str | None = None) -> torch.Tensor:
    """What each class adds to the sharpness of the prior: float (classes,), symmetric about zero."""
    return CLASS_STEP * (torch.arange(classes, device=device) - (classes - 1) / 2)


def per_picture(values: torch.Tensor, batch: int) -> torch.Tensor:
    """Sums over groups and positions of (G, batch h w): float (batch,)."""
    return values.view(len(values), batch, -1).sum((0, 2))


def _quantisation_step(lmbda):
    """As ModelConfig.quantisation_step, for a tensor."""
    return torch.sqrt(12 * 3 / (2 * math.log(2)) / lmbda) / 255


def _below(prefix, tensors):
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _frequencies(log2_prior):
    """16-bit frequencies, less one and wrapped to int16, of (..., K) probabilities and an unused tail: (..., K + 1)."""
    rows = log2_prior.double().exp2().flatten(0, -2)
    table = torch.empty(len(rows), rows.shape[1] + 1, dtype=torch.int32)
    for i, row in enumerate(rows.tolist()):
        table[i] = torch.tensor(pmf_to_quantized_cdf([*row, 0.0], 16), dtype=torch.int32).diff()
    return (table - 1).to(torch.int16).view(*log2_prior.shape[:-1], -1)
