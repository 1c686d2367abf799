"""The trainable model: the transforms of :mod:`codec.model` around fake-quantised entropy networks."""

import copy
import math

import torch
import torch.nn.functional as F
from compressai.entropy_models import EntropyBottleneck
from torch import nn

from ..entropy import LEVELS, LOG_SCALE_STEP, MEAN_UNIT, PASSES, SCALE_MIN, Y_LIMIT, Z_LIMIT
from ..entropy import Dequantiser, EntropyNetworks, place, scale_table, split
from ..integer import QUALITY_UNIT, TrainableLayer
from ..model import Transforms
from ..quantise import latent_quantiser, round_half_up, round_ste
from ..transforms import coarse_deviation
from .scale_mixture import ScaleMixture

LIKELIHOOD_MIN = 1e-9
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

    def __init__(self, config, quantiser="mixed"):
        super().__init__()
        self.config = config
        self.quantiser = latent_quantiser(quantiser)
        self.transforms = Transforms(config)
        self.networks = EntropyNetworks(config, TrainableLayer)
        # One prior of z per anchor quality, so that a small z_hat is cheap where z is small.
        self.z_prior = EntropyBottleneck(config.anchors * config.N, init_scale=1.5)
        self.z_prior.quantiles.requires_grad_(False)  # set when tables are built
        self.y_prior = ScaleMixture(len(PASSES))
        self.dequantiser = Dequantiser(config.anchors).requires_grad_(self.quantiser.rounds)
        self._start_scales()

    @torch.no_grad()
    def _start_scales(self):
        """Start the predicted scales at the deviations that the DCT of photographs has."""
        deviation = coarse_deviation(self.config)[: self.config.M]
        gain = self.transforms.log_gain.table  # (anchors, M)
        log_scale = (gain + deviation.log() - math.log(SCALE_MIN)).clamp(0, LOG_SCALE_STEP * (LEVELS - 1))
        by_group = log_scale.view(len(log_scale), -1, 4).transpose(1, 2).flatten(1)
        for net in self.networks.contexts:
            net["index"].bias.copy_(by_group)
            for head in ("index", "mean"):
                if self.config.entropy_bits > 2:
                    # The steps stay: small weights must have room to grow, as clipped ones have no gradient.
                    net[head].weight.mul_(0.1)
                else:  # of so few levels none is small
                    net[head].log_gain.sub_(math.log(10))
                    net[head].bias.mul_(10)

    def forward(self, x, quality, generator=None):
        """Bits and squared error per picture.

        Args:
            x: float (B, 3, H, W) in [0, 1]; H and W multiples of 64.
            quality: float (B,) in [0, 100].
            generator: source of the quantisation noise.

        Returns:
            dict of float tensors (B,): ``y_bpp`` and ``z_bpp`` in bits per pixel, ``mse`` on the scale of 0 to 255.
        """
        batch, _, height, width = x.shape
        y = self.transforms.analyse(x, quality)
        with torch.autocast(x.device.type, enabled=False):
            # The integer networks run in float32: bfloat16 holds 8 bits.
            z = self.transforms.side_information(y, quality)
            z_likelihood = self._z_likelihood(self._for_rate(z, generator), quality)
            hundredths = quality * QUALITY_UNIT
            z_hat = round_ste(z).clamp(-Z_LIMIT, Z_LIMIT)
            features = self.networks.features(z_hat, hundredths)
            known, shift, y_hat, y_bits = 0.0, 0.0, 0.0, 0.0
            for k, part in enumerate(split(y)):
                means, indexes = self.networks.context(k, features, known, hundredths)
                means = means / MEAN_UNIT
                scales = SCALE_MIN * torch.exp(LOG_SCALE_STEP * indexes)
                residual = self._for_rate(part - means, generator)
                residual = _tamed(residual, scales * self.y_prior.widest(k).detach())
                likelihood = self.y_prior.likelihood(residual, scales, k)
                y_bits = y_bits - likelihood.log2().flatten(1).sum(1)
                symbols = round_ste(part - means)
                known = known + place((symbols + means) * MEAN_UNIT, k)
                shift = shift + place(self.dequantiser(symbols, indexes, hundredths), k)
                if self.training and not self.quantiser.rounds:
                    y_hat = y_hat + place(self.quantiser.for_synthesis(part - means, generator) + means, k)
            if not self.training or self.quantiser.rounds:
                y_hat = known / MEAN_UNIT + shift
        x_hat = self.transforms.synthesise(y_hat, quality)
        pixels = height * width
        return {
            "y_bpp": y_bits / pixels,
            "z_bpp": -z_likelihood.log2().flatten(1).sum(1) / pixels,
            "mse": 255**2 * (x_hat - x).square().flatten(1).mean(1),
        }

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

    # --- Weights files ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def export_tensors(self):
        """Everything that a weights file holds: half-precision transforms, integer networks, CDF tables."""
        tensors = {name: t.to(torch.float16) for name, t in self.transforms.state_dict().items()}
        for name, layer in self.networks.layers():
            tensors.update({f"entropy.{name}.{key}": t for key, t in layer.integers().items()})
        # On a copy: tables are buffers, and would change size under the optimiser's feet.
        z_prior = copy.deepcopy(self.z_prior)
        _fit_support(z_prior)
        z_prior.update(force=True)
        lengths = z_prior._cdf_length.int()
        z_rows = torch.cat([row[:n] for row, n in zip(z_prior._quantized_cdf, lengths.tolist())]).int()
        tensors["entropy.shrink"] = self.dequantiser.shrink.to(torch.float16)
        tables = {"z": (z_rows, lengths, z_prior._offset.int()), "y": self.y_prior.tables(scale_table(), Y_LIMIT)}
        for which, parts in tables.items():
            tensors.update(zip((f"entropy.{which}_{key}" for key in ("cdf", "lengths", "offsets")), parts))
        for which, prior in (("z", self.z_prior), ("y", self.y_prior)):  # lets training continue
            tensors.update({f"entropy.{which}_prior.{name}": t.to(torch.float16) for name, t in prior.named_parameters()})
        return {name: t.detach().cpu().contiguous() for name, t in tensors.items()}

    @torch.no_grad()
    def import_tensors(self, tensors, config=None):
        """Take the weights of a file, whose ModelConfig is ``config`` where it is not this model's."""
        floats = {k: v.float() for k, v in tensors.items() if not k.startswith("entropy.")}
        self.transforms.load_state_dict(with_new_blocks(self.transforms.state_dict(), floats))
        # The parameters are in real units: they do not depend on how many bits the activations have.
        networks = EntropyNetworks(config or self.config, TrainableLayer)
        for name, layer in networks.layers():
            prefix = f"entropy.{name}."
            layer.set_integers({k[len(prefix) :]: t for k, t in tensors.items() if k.startswith(prefix)})
        self.networks.load_state_dict(networks.state_dict())
        for name, parameter in self.z_prior.named_parameters():
            parameter.copy_(tensors[f"entropy.z_prior.{name}"])
        if "entropy.shrink" in tensors:  # early models have a plain Gaussian for y, and no dequantiser
            self.dequantiser.shrink.copy_(tensors["entropy.shrink"])
            for name, parameter in self.y_prior.named_parameters():
                parameter.copy_(tensors[f"entropy.y_prior.{name}"])

    def make_room(self):
        """Let saturated weights of the entropy networks move again, before training continues from a file."""
        for _, layer in self.networks.layers():
            layer.make_room()


def with_new_blocks(own, tensors):
    """Weights of transforms, completed for deeper ones whose additional blocks do nothing yet.

    Args:
        own: state dict of the deeper transforms, as they start.
        tensors: state dict of the shallower ones.

    Returns:
        state dict for the deeper ones. A new block keeps its random weights, and the scale of its branches is zero:
        the identity, with a gradient.
    """
    complete = {name: t for name, t in own.items() if ".blocks." in name} | tensors
    for name, t in complete.items():
        if name.endswith("scales.table"):  # (anchors, depth, branches, C)
            complete[name] = F.pad(t, (0, 0, 0, 0, 0, own[name].shape[1] - t.shape[1]))
    return complete


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
