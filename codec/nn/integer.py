"""Integer layers that learn: what :mod:`codec.latents.integer` executes, by fake quantisation.

The forward pass evaluates the same expression on integer-valued floats, so that nothing is lost at export; gradients
are straight-through (:mod:`codec.quantise`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from ..latents.integer import BIAS_UNIT, MULTIPLIER_BITS, LayerSpec
from ..quality import QUALITY_MAX
from ..quantise import requantise_ste, round_half_up, round_ste, straight_through
from ..quantise.weights import (
    WEIGHT_QUANTISERS,
    binary_weights,
    clip_binary_weights_,
    initial_log_step,
    weight_quantiser,
)  # fmt: skip


class TrainableLayer(nn.Module):
    """Fake-quantised layer: integer-valued float tensors in and out, gradients by straight-through estimation."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.spec = spec
        name, self.weight_limit = layer_quantiser(spec.weight_bits)
        self._weight_quantiser = WEIGHT_QUANTISERS[name]
        fan_in = spec.weight_shape[1]
        self.weight = nn.Parameter(torch.randn(spec.weight_shape) * (2.0 / fan_in) ** 0.5)
        learned = name != "absmax"
        self.log_step = (
            nn.Parameter(initial_log_step(self.weight, self.weight_limit, name == "binary")) if learned else None
        )
        self.bias = nn.Parameter(torch.zeros(spec.anchors, spec.weight_shape[0]))
        self.clip_weights_()

    def clip_weights_(self) -> None:
        """Keep signs where they can change; for after each step of the optimiser. Nothing for other weights."""
        if self._weight_quantiser is binary_weights:
            clip_binary_weights_(self.weight, self.log_step)

    def _quantised(self):
        """``(integers, step)`` of the weights."""
        return self._weight_quantiser(self.weight, self.log_step, self.weight_limit)

    def _ratio(self, step):
        """What one unit of the accumulator is worth in output units; the forward value is m 2^-s exactly."""
        ratio = step.flatten() * (self.spec.input_step / self.spec.output_step)
        multiplier, shift = _multiplier(ratio.detach())
        exact = torch.ldexp(multiplier, -shift)
        return straight_through(ratio, exact) if ratio.requires_grad else exact

    def _biases(self):
        """(anchors, C_out) biases in output units, rounded to the grid of the exported integers."""
        return round_ste(self.bias * (BIAS_UNIT / self.spec.output_step)) / BIAS_UNIT

    def forward(self, a: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
        """(B, C_in, H, W) integers, (B,) qualities in hundredths -> (B, C_out, H, W) integers.

        Under autocast, products may be in half precision: training has noise of its own. Without it they are exact.
        """
        spec = self.spec
        weight, step = self._quantised()
        if spec.depthwise:
            total = F.conv2d(a, weight.view(-1, 1, 3, 3), padding=1, groups=spec.channels_out)
        elif spec.groups > 1:
            total = F.conv2d(a, weight[:, :, None, None], groups=spec.groups)
        else:  # faster than a convolution of 1x1, backwards above all
            total = F.linear(a.permute(0, 2, 3, 1), weight).permute(0, 3, 1, 2)
        biases = self._biases()
        if spec.anchors > 1:
            left, position = anchor_position(quality, spec.anchors)
            biases = torch.lerp(biases[left], biases[left + 1], position[:, None])
        return requantise_ste(total.float(), self._ratio(step), biases, spec.low, spec.high, spec.activation)

    @torch.no_grad()
    def integers(self) -> dict[str, torch.Tensor]:
        """The layer as integer tensors, for :class:`ExactLayer` and for the weights file."""
        weight, step = self._quantised()
        multiplier, shift = _multiplier(step.flatten() * (self.spec.input_step / self.spec.output_step))
        return {
            "weight": weight.to(torch.int8),
            "multiplier": multiplier.to(torch.int16),
            "shift": shift.to(torch.int8),
            "bias": (self._biases() * BIAS_UNIT).round().to(torch.int32),
        }

    @torch.no_grad()
    def set_integers(self, integers: Mapping[str, torch.Tensor]) -> None:
        """Continue training from exported integers."""
        spec = self.spec
        ratio = torch.ldexp(integers["multiplier"].float(), -integers["shift"].int())
        step = ratio * (spec.output_step / spec.input_step)
        self.weight.copy_(integers["weight"].float() * step[:, None])
        if self.log_step is not None:
            self.log_step.copy_(step.log())
        self.bias.copy_(integers["bias"].float() * (spec.output_step / BIAS_UNIT))


def layer_quantiser(bits: int) -> tuple[str, int]:
    """``(name, limit)`` of the weight quantiser of a layer: ranges set the step where there are levels enough."""
    name, limit = weight_quantiser(bits)
    return ("absmax", limit) if bits > 4 else (name, limit)


def _multiplier(ratio):
    """Positive float ratios -> (m, s) with m 2^-s closest to the ratio, 2^14 <= m < 2^15; both as tensors."""
    mantissa, exponent = torch.frexp(ratio.float())
    multiplier = round_half_up(mantissa * 2**MULTIPLIER_BITS).clamp(max=2**MULTIPLIER_BITS - 1)
    return multiplier, MULTIPLIER_BITS - exponent


def anchor_position(quality: torch.Tensor, anchors: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Left anchor (int64) and fraction of the way to the next (float) for (B,) qualities in hundredths."""
    position = quality * (anchors - 1)  # whole numbers up to the last step, as codec.quality has it
    left = (position / QUALITY_MAX).floor().clamp(0, max(anchors - 2, 0)).long()
    return left, ((position - left * QUALITY_MAX) / QUALITY_MAX).to(torch.float32)
