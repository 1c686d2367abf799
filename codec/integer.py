"""Layers of the integer entropy networks, in two forms that compute the same numbers.

What these networks say decides which CDF row a symbol is coded with, so encoder and decoder must agree on it to the
last bit, whatever the machine. They are therefore integer functions:

    v  = m[c] 2^-s[c] (W a)[c] + b[c] / 256
    a' = clamp(floor(f(v) + 1/2), low, high)

with integer inputs ``a``, weights ``W`` (8 bits), multipliers ``m`` (15 bits), shifts ``s`` and biases ``b``; ``f`` is
the identity or a leaky ReLU, which shifts by 3 more where v is negative.
Integer-valued float32 arithmetic is exact, in any order of summation, while every partial sum stays below 2^24. That
is checked for each layer when it is loaded (sum |W| * max |a| < 2^24); a layer that fails runs in float64.

:class:`TrainableLayer` learns such a function by fake quantisation (straight-through, learned step sizes);
:class:`ExactLayer` executes it. The training forward pass evaluates the same expression on integer-valued floats.
"""

from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from .latents.integer import BIAS_UNIT, LEAK, MULTIPLIER_BITS, LayerSpec  # noqa: F401
from .quality import QUALITY_MAX, QUALITY_UNIT  # noqa: F401
from .quantise import requantise_ste, round_half_up, round_ste, straight_through
from .quantise.weights import (
    WEIGHT_QUANTISERS, binary_weights, clip_binary_weights_, initial_log_step, weight_quantiser,
)  # fmt: skip

@contextmanager
def exact_arithmetic(device):
    """Full float32 products, whatever the caller has chosen: no TF32 or bfloat16 in matrix products, no autocast."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(torch.device(device).type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


class TrainableLayer(nn.Module):
    """Fake-quantised layer: integer-valued float tensors in and out, gradients by straight-through estimation."""

    def __init__(self, spec):
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

    def clip_weights_(self):
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

    def forward(self, a, quality):
        """(B, C_in, H, W) integers, (B,) qualities in hundredths -> (B, C_out, H, W) integers.

        Under autocast, products may be in half precision: training has noise of its own. Without it they are exact.
        """
        spec = self.spec
        weight, step = self._quantised()
        if spec.depthwise:
            total = F.conv2d(a, weight.view(-1, 1, 3, 3), padding=1, groups=spec.channels_out)
        else:
            total = F.conv2d(a, weight[:, :, None, None], groups=spec.groups)
        biases = self._biases()
        if spec.anchors > 1:
            left, position = anchor_position(quality, spec.anchors)
            biases = torch.lerp(biases[left], biases[left + 1], position[:, None])
        return requantise_ste(total.float(), self._ratio(step), biases, spec.low, spec.high, spec.activation)

    @torch.no_grad()
    def integers(self):
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
    def set_integers(self, integers):
        """Continue training from exported integers."""
        spec = self.spec
        ratio = torch.ldexp(integers["multiplier"].float(), -integers["shift"].int())
        step = ratio * (spec.output_step / spec.input_step)
        self.weight.copy_(integers["weight"].float() * step[:, None])
        if self.log_step is not None:
            self.log_step.copy_(step.log())
        self.bias.copy_(integers["bias"].float() * (spec.output_step / BIAS_UNIT))


def layer_quantiser(bits):
    """``(name, limit)`` of the weight quantiser of a layer: ranges set the step where there are levels enough."""
    name, limit = weight_quantiser(bits)
    return ("absmax", limit) if bits > 4 else (name, limit)


class ExactLayer(nn.Module):
    """Exact execution of an exported layer on integer-valued float32 tensors of one image.

    Args:
        spec: the layer's LayerSpec.
        dtype: None picks float32 where it is provably exact and float64 elsewhere; a dtype forces one (tests).
    """

    def __init__(self, spec, dtype=None):
        super().__init__()
        self.spec, self.dtype = spec, dtype
        rows = spec.weight_shape[0]
        self.register_buffer("weight", torch.zeros(spec.weight_shape, dtype=torch.int8))
        self.register_buffer("multiplier", torch.zeros(rows, dtype=torch.int16))
        self.register_buffer("shift", torch.zeros(rows, dtype=torch.int8))
        self.register_buffer("bias", torch.zeros(spec.anchors, rows, dtype=torch.int32))
        self._ready = None

    def integers(self):
        return {name: getattr(self, name) for name in ("weight", "multiplier", "shift", "bias")}

    def set_integers(self, integers):
        for name, buffer in self.integers().items():
            buffer.copy_(integers[name])
        self._ready = None

    def _apply(self, fn, recurse=True):
        self._ready = None  # made for another device or memory format
        return super()._apply(fn, recurse)

    def largest_sum(self):
        """Bound on every partial sum of the accumulator, over output channels."""
        return int(self.weight.long().abs().sum(1).max()) * self.spec.input_limit

    def _prepare(self):
        if self._ready is None:
            dtype = self.dtype or (torch.float32 if self.largest_sum() < 2**24 else torch.float64)
            weight = self.weight.to(dtype)
            if not self.spec.depthwise:
                weight = weight.view(self.spec.groups, self.spec.channels_out, self.spec.channels_in)
            # A 15-bit integer times a power of two: exact in float64, and so is its product with a 24-bit sum.
            ratio = torch.ldexp(self.multiplier.double(), -self.shift.int())
            self._ready = weight, ratio[:, None]
        return self._ready

    def forward(self, a, quality):
        """(1, C_in, H, W) integers in float32, quality an int in hundredths -> (1, C_out, H, W) in float32."""
        spec = self.spec
        weight, ratio = self._prepare()
        a = a.to(weight.dtype)
        height, width = a.shape[-2:]
        if spec.depthwise:
            total = _depthwise(a[0], weight)
        else:
            # A matrix product, not a convolution: no Winograd or FFT kernel can be chosen behind our back.
            total = torch.bmm(weight, a.reshape(spec.groups, spec.channels_in, height * width))
        total = total.reshape(-1, height * width).double()
        bias = interpolate_integers(self.bias, quality).double() / BIAS_UNIT
        value = torch.addcmul(bias[:, None].to(total.device), total, ratio)
        if spec.activation == "leaky":
            value = torch.maximum(value, value * LEAK)
        return value.add_(0.5).floor_().clamp_(spec.low, spec.high).float().view(1, -1, height, width)


def _depthwise(a, weight):
    """(C, H, W), (C, 9) -> (C, H, W): nine shifted products, zero outside the picture."""
    height, width = a.shape[1:]
    padded = F.pad(a, (1, 1, 1, 1))
    total = torch.zeros_like(a)
    for i in range(3):
        for j in range(3):
            total.addcmul_(padded[:, i : i + height, j : j + width], weight[:, 3 * i + j, None, None])
    return total


def _multiplier(ratio):
    """Positive float ratios -> (m, s) with m 2^-s closest to the ratio, 2^14 <= m < 2^15; both as tensors."""
    mantissa, exponent = torch.frexp(ratio.float())
    multiplier = round_half_up(mantissa * 2**MULTIPLIER_BITS).clamp(max=2**MULTIPLIER_BITS - 1)
    return multiplier, MULTIPLIER_BITS - exponent


def anchor_position(quality, anchors):
    """Left anchor (int64) and fraction of the way to the next (float) for (B,) qualities in hundredths."""
    position = quality * (anchors - 1)  # whole numbers up to the last step, as codec.quality has it
    left = (position / QUALITY_MAX).floor().clamp(0, max(anchors - 2, 0)).long()
    return left, ((position - left * QUALITY_MAX) / QUALITY_MAX).to(torch.float32)


def interpolate_integers(table, quality):
    """Row of an integer table (anchors, C) at a quality in hundredths: linear between anchors, rounded, exact."""
    last = table.shape[0] - 1
    if last == 0:
        return table[0].long()
    left = min(quality * last // QUALITY_MAX, last - 1)
    weight = quality * last - left * QUALITY_MAX
    mixed = table[left].long() * (QUALITY_MAX - weight) + table[left + 1].long() * weight
    return torch.div(mixed + QUALITY_MAX // 2, QUALITY_MAX, rounding_mode="floor")
