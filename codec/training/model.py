"""The trainable model: the transforms of :mod:`codec.training.transforms` around fake-quantised entropy networks."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from compressai.entropy_models import EntropyBottleneck
from torch import nn

from ..errors import ModelError
from ..latents.networks import CODED_FIRST, LEVELS, LOG_SCALE_STEP, SCALE_MIN, Y_LIMIT, Z_LIMIT, scale_table
from ..latents.quadtree import MEAN_UNIT, PASSES, walk
from ..nn.dct import coarse_deviation
from ..nn.integer import TrainableLayer
from ..nn.latents import Dequantiser, EntropyNetworks, place, split
from ..quality import QUALITY_UNIT
from ..quantise import latent_quantiser, round_half_up, round_ste, surrogate_gradient
from .scale_mixture import LIKELIHOOD_MIN, ScaleMixture
from .transforms import TrainableTransforms

if TYPE_CHECKING:
    from ..config import ModelConfig
    from .dependent import Trellis
    from .eyes import Eyes
    from .vector_model import TrainableVectorModel


# Outliers count as if this many standard deviations away: 18 bits, about what the coder's escapes take. A plain
# floor under the likelihood would cost more than the file does, and leave no gradient to widen the scale with.
OUTLIER = 4.5


class TrainableModel(nn.Module):
    """Rate and distortion of a batch, differentiable.

    The quantiser says what stands for rounding where the rate is estimated and where the synthesis looks; the entropy
    networks, made of integers, see latents rounded by the straight-through estimator. In eval mode everything is
    rounded: what a file would hold.

    Args:
        config: ModelConfig.
        quantiser: name in quantise.LATENT_QUANTISERS.
    """

    def __init__(self, config: ModelConfig, quantiser: str = "mixed") -> None:
        super().__init__()
        self.config = config
        self.quantiser = latent_quantiser(quantiser)
        self.transforms = TrainableTransforms(config)
        self.networks = EntropyNetworks(config, TrainableLayer)
        # One prior of z per anchor quality, so that a small z_hat is cheap where z is small.
        self.z_prior = EntropyBottleneck(config.anchors * config.N, init_scale=1.5)
        self.z_prior.quantiles.requires_grad_(False)  # set when tables are built
        self.y_prior = ScaleMixture(len(PASSES))
        self.dequantiser = Dequantiser(config.anchors).requires_grad_(self.quantiser.rounds)
        self._start_scales()
        self.eyes: Eyes | None = None  # or an Eyes: part of the distortion
        self.trellis: Trellis | None = None  # or a Trellis: what quantises in the place of rounding

    @torch.no_grad()
    def _start_scales(self):
        """Start the predicted scales at the deviations that the DCT of photographs has."""
        deviation = coarse_deviation(self.config.M)
        gain = self.transforms.log_gain.table  # (anchors, M)
        log_scale = (gain + deviation.log() - math.log(SCALE_MIN)).clamp(0, LOG_SCALE_STEP * (LEVELS - 1))
        by_group = log_scale.view(len(log_scale), -1, 4).transpose(1, 2).flatten(1)
        net: Any
        for net in self.networks.contexts:
            net["index"].bias.copy_(by_group)
            for head in ("index", "mean"):
                net[head].weight.mul_(0.1)
                if net[head].log_step is not None:
                    net[head].log_step.sub_(math.log(10))

    def anneal(self, progress: float) -> None:
        """Set the quantiser's temperature, if it has one, for ``progress`` in [0, 1] of the training."""
        self.quantiser.anneal(progress)

    def forward(
        self, x: torch.Tensor, quality: torch.Tensor, generator: torch.Generator | None = None
    ) -> dict[str, torch.Tensor]:
        """Bits and squared error per picture.

        Args:
            x: float (B, 3, H, W) in [0, 1]; H and W multiples of 64.
            quality: float (B,) in [0, 100].
            generator: source of the quantisation noise.

        Returns:
            dict of float tensors (B,): ``y_bpp`` and ``z_bpp`` in bits per pixel, ``mse`` on the scale of 0 to 255, and
            with ``eyes`` what they add.
        """
        x_hat, figures = self.reconstruct(x, quality, generator)
        if self.eyes is not None:
            figures.update(self.eyes(x, x_hat, figures["mse"], quality))
        return figures

    def reconstruct(
        self, x: torch.Tensor, quality: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """``(x_hat, figures)`` of :meth:`forward`'s arguments, without eyes; x_hat is not clamped."""
        pixels = x.shape[2] * x.shape[3]
        y = self.transforms.analyse(x, quality)
        z = self.transforms.side_information(y, quality)
        assert z is not None  # as scalar latents have it
        with torch.autocast(x.device.type, enabled=False):
            z_likelihood = self._z_likelihood(self._for_rate(z, generator), quality)
        y_bits, y_hat = self._walk(y, round_ste(z).clamp(-Z_LIMIT, Z_LIMIT), quality, generator)
        x_hat = self.transforms.synthesise(y_hat, quality)
        return x_hat, {
            "y_bpp": y_bits / pixels,
            "z_bpp": -z_likelihood.log2().flatten(1).sum(1) / pixels,
            "mse": 255**2 * (x_hat - x).square().flatten(1).mean(1),
        }

    def _walk(self, y, z_hat, quality, generator):
        """The four passes over y (B, M, h, w): bits (B,) and y_hat for the synthesis.

        Symbols of rows below CODED_FIRST are not coded: the decoder takes them to be zero, so that networks and
        synthesis see the mean here as well. In training their bits are paid all the same. They are few, and without
        them nothing would lift the scale of a latent out of them again.

        With a trellis, rates in training are those of noise as wide as the intervals of one of its quantisers.
        """
        hundredths = quality * QUALITY_UNIT
        passes, heard, residuals, symbols, rows, chosen = split(y), [], [], [], [], []

        def symbols_of(k, means, indexes):
            residual = passes[k] - means / MEAN_UNIT
            rows.append(indexes)
            if self.trellis is not None:
                chosen.append(self.trellis.choose(k, residual, indexes, hundredths))
                residuals.append((residual / chosen[k].widths).flatten(1))
                return surrogate_gradient(chosen[k].values, residual)
            symbol = surrogate_gradient(round_half_up(residual.detach()) * (indexes.detach() >= CODED_FIRST), residual)
            if self.training and not self.quantiser.rounds:
                heard.append(self.quantiser.for_synthesis(residual, generator) + means / MEAN_UNIT)
            residuals.append(residual.flatten(1))
            symbols.append(symbol)
            return symbol

        parts = walk(self.networks, z_hat, hundredths, symbols_of)
        if chosen and not self.training:
            bits = sum(found.bits for found in chosen)
        else:
            indexes = torch.stack([r.flatten(1) for r in rows])  # (passes, B, n)
            scales = SCALE_MIN * torch.exp(LOG_SCALE_STEP * indexes)
            if chosen:
                scales = scales / torch.stack([found.widths.flatten(1) for found in chosen])
            residual = self._for_rate(torch.stack(residuals), generator)
            residual = _tamed(residual, scales * self.y_prior.widest().detach()[:, None, None])
            bits = self.y_prior.bits(residual, scales, None if self.training else indexes >= CODED_FIRST)
        if not heard:
            shifts = [found.shifts for found in chosen] or [
                self.dequantiser(symbol, index, hundredths) for symbol, index in zip(symbols, rows)
            ]
            heard = [part / MEAN_UNIT + shift for part, shift in zip(parts, shifts)]
        return bits, sum(place(part, k) for k, part in enumerate(heard))

    def _for_rate(self, latents, generator):
        return self.quantiser.for_rate(latents, generator) if self.training else round_half_up(latents)

    def _z_likelihood(self, z, quality):
        """Probability of each element of z (B, N, h, w) under the prior of its picture's nearest anchor."""
        batch, N, height, width = z.shape
        anchors = self.config.anchors
        values = z.permute(1, 0, 2, 3).reshape(1, N, -1).expand(anchors, -1, -1).reshape(anchors * N, 1, -1)
        likelihood, _, _ = self.z_prior._likelihood(values)
        likelihood = likelihood.view(anchors, N, batch, height * width)
        anchor = (quality / 100 * (anchors - 1) + 0.5).floor().long()
        chosen = likelihood.permute(2, 0, 1, 3)[torch.arange(batch, device=z.device), anchor]
        return chosen.clamp_min(LIKELIHOOD_MIN)

    # Weights files

    @torch.no_grad()
    def export_tensors(self) -> dict[str, torch.Tensor]:
        """Everything that a weights file holds: half-precision transforms, integer networks, CDF tables."""
        tensors = {name: t.to(torch.float16) for name, t in self.transforms.folded().items()}
        for name, layer in self.networks.layers():
            tensors.update({f"entropy.{name}.{key}": t for key, t in layer.integers().items()})
        tensors["entropy.compand"] = self.networks.compand.to(torch.int16)
        tensors["entropy.shrink"] = self.dequantiser.within().to(torch.float16)
        # On a copy: tables are buffers, and would change size under the optimiser's feet.
        z_prior = copy.deepcopy(self.z_prior)
        _fit_support(z_prior)
        z_prior.update(force=True)
        lengths = z_prior._cdf_length.int()
        z_rows = torch.cat([row[:n] for row, n in zip(z_prior._quantized_cdf, lengths.tolist())]).int()
        tables = {"z": (z_rows, lengths, z_prior._offset.int()), "y": self.y_prior.tables(scale_table(), Y_LIMIT)}
        for which, parts in tables.items():
            tensors.update(zip((f"entropy.{which}_{key}" for key in ("cdf", "lengths", "offsets")), parts))
        for which, prior in (("z", self.z_prior), ("y", self.y_prior)):  # lets training continue
            tensors.update(
                {f"entropy.{which}_prior.{name}": t.to(torch.float16) for name, t in prior.named_parameters()}
            )
        return {name: t.detach().cpu().contiguous() for name, t in tensors.items()}

    @torch.no_grad()
    def import_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take the weights of a file with this model's architecture: the inverse of :meth:`export_tensors`."""
        self.transforms.unfold({k: v.float() for k, v in tensors.items() if not k.startswith("entropy.")})
        for name, layer in self.networks.layers():
            prefix = f"entropy.{name}."
            layer.set_integers({k[len(prefix) :]: t for k, t in tensors.items() if k.startswith(prefix)})
        self.dequantiser.shrink.copy_(tensors["entropy.shrink"])
        for which, prior in (("z", self.z_prior), ("y", self.y_prior)):
            for name, parameter in prior.named_parameters():
                parameter.copy_(tensors[f"entropy.{which}_prior.{name}"])


@torch.no_grad()
def grow(model: TrainableModel | TrainableVectorModel, small: TrainableModel | TrainableVectorModel) -> None:
    """Give a trainable model the weights of a smaller one, so that it computes the same.

    New blocks are the identity: the scale of their branches is zero. New units of a layer start as they would in a new
    model, and what reads them starts with zeros. For scalar and vector-quantised latents alike.

    Args:
        model: as it starts. small: of the same kind, nowhere deeper or wider.

    Raises:
        ModelError: ``small`` is larger somewhere, or differs in what cannot grow.
    """
    may_grow = ("depth", "width", "activation_bits")
    for name, value in asdict(small.config).items():
        wanted = getattr(model.config, name)
        if wanted != value and not (any(part in name for part in may_grow) and wanted > value):
            raise ModelError(
                f"architecture: {name} of the weights is {value}, not {wanted}; depths and widths may grow"
            )
    tensors = small.state_dict()
    features, more = small.config.entropy_width, model.config.entropy_width - small.config.entropy_width
    for name, own in model.state_dict().items():
        old = tensors.get(name)
        if old is None:  # of a new block
            if name.endswith(".share"):
                own.zero_()
            continue
        if more and name.endswith("trunk.layers.0.weight") and old.shape[1] > features:
            # Latents follow the features among the inputs: make room for more of these in between.
            old = torch.cat([old[:, :features], old.new_zeros(len(old), more), old[:, features:]], 1)
        here = tuple(slice(n) for n in old.shape)
        if old.dim() > 1 and name.endswith("weight"):
            own[: old.shape[0]] = 0
        own[here] = old


def _tamed(residual, scales):
    """Residuals of y with the magnitude limited to OUTLIER standard deviations beyond the zero bin.

    The limit is a factor without a gradient of its own, so that outliers pull at means and scales as they would
    at the limit.
    """
    limit = (0.5 + OUTLIER * scales) / residual.abs().clamp_min(0.5)
    return residual * limit.detach().clamp(max=1)


def _fit_support(prior):
    """Choose each prior's table: symmetric about zero, wide enough that the tails are rare.

    CompressAI centres its tables on the median; z is rounded to plain integers here, because the exact networks
    read the symbols themselves.
    """
    values = torch.arange(0.0, Z_LIMIT + 1, device=prior.quantiles.device).expand(prior.channels, 1, -1)
    upper_tail = torch.sigmoid(-prior._logits_cumulative(values + 0.5, stop_gradient=True))[:, 0]
    lower_tail = torch.sigmoid(prior._logits_cumulative(-values - 0.5, stop_gradient=True))[:, 0]
    prior.quantiles[:, 0, 0] = -(lower_tail > 1e-6).sum(1).float()
    prior.quantiles[:, 0, 1] = 0.0
    prior.quantiles[:, 0, 2] = (upper_tail > 1e-6).sum(1).float()
