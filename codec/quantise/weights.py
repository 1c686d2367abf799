"""Weights and activations of few bits: functions with one interface, layers, and requantisation.

A weight quantiser is a function

    quantise(weight, log_step, limit) -> (integers, step)

with ``weight`` (C_out, ...), the float parameters that the optimiser sees; ``log_step`` (C_out,), natural
logarithm of the step of each output channel, where that is learned; integer-valued ``integers`` in [-limit, limit]
of the shape of ``weight``; and ``step``, which broadcasts against them. ``integers * step`` is the quantised
weight, and the gradient of that product is what each docstring states. :data:`WEIGHT_QUANTISERS` has them by name:

    name       integers        step
    lsq        n bits          learned                      Esser et al. 2020, arXiv:1902.08153
    absmax     n bits          largest weight / limit       Jacob et al. 2018, arXiv:1712.05877
    ternary    -1, 0, 1        mean of the large weights    Li, Liu 2016, arXiv:1605.04711
    binary     -1, 1           learned                      Courbariaux, Bengio, David 2015, arXiv:1511.00363
    xnor       -1, 1           mean magnitude               Rastegari et al. 2016, arXiv:1603.05279
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .ste import clipped_round_ste, lsq, round_ste, scale_gradient, sign_ste, ternary_ste


def quantise_weights(weight: torch.Tensor, log_step: torch.Tensor, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Integer-valued weights with a learned step size per output channel (LSQ).

    Args:
        weight: float (C_out, ...), the parameters that the optimiser sees.
        log_step: float (C_out,), natural logarithm of the step; learned.
        limit: the integers lie in [-limit, limit]; 127 for 8 bits.

    Returns:
        ``(integers, step)``: integer-valued float tensor of the shape of ``weight``, and ``exp(log_step)`` shaped
        to broadcast against it. ``integers * step`` is the quantised weight. The gradient of that product is the
        STE's for ``weight`` (zero where clipped) and LSQ's for the step, scaled by 1 / sqrt(fan-in * limit) as in
        the paper. The factor is for SGD: Adam divides it out again, so that there a group with a learning rate of its
        own is what sets the speed of the steps.
    """
    if limit < 1:
        raise ValueError(f"integers up to a limit of 1 or more, not {limit}")
    scale = (weight[0].numel() * limit) ** -0.5
    step = scale_gradient(log_step.exp(), scale).view(_per_channel(weight))
    integers = clipped_round_ste(weight / step, -limit, limit)
    return integers, step


def initial_log_step(weight: torch.Tensor, limit: int, signs: bool = False) -> torch.Tensor:
    """Starting value for :func:`quantise_weights`: float (C_out,).

    The largest weight of each output channel maps to ``limit``; where that would leave most weights at zero, because
    there are few levels, the step is that of the LSQ paper, ``2 mean|w| / sqrt(limit)``. For ``signs``, which have no
    zero, it is the mean magnitude.
    """
    magnitude = weight.detach().abs().flatten(1).clamp_min(1e-6)
    if signs:
        return magnitude.mean(1).log()
    return torch.minimum(magnitude.amax(1) / limit, 2 * magnitude.mean(1) / limit**0.5).log()


# Two and three levels


def binary_weights(weight: torch.Tensor, log_step: torch.Tensor, limit: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Signs, and the learned step ``exp(log_step)``.

    BinaryConnect with a scale per output channel. Gradient of the product with the step: ``g`` for weights within
    [-step, step], zero outside; ``g * sign`` for the step, which is its true one, scaled as in
    :func:`quantise_weights`. A weight outside would never return: BinaryConnect clips them after each step of the
    optimiser, which here :func:`clip_binary_weights_` does.
    """
    _check_limit(limit)
    step = scale_gradient(log_step.exp(), weight[0].numel() ** -0.5).view(_per_channel(weight))
    return sign_ste(weight / step.detach(), clip=1.0), step  # a sign does not depend on the step


def xnor_weights(
    weight: torch.Tensor, log_step: torch.Tensor | None = None, limit: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Signs, and the mean magnitude of each output channel as step: the best one in least squares.

    ``log_step`` is not used. XNOR-Net: the weights receive ``g * step`` through the sign where ``|weight| <= 1``
    and the true gradient of the mean through the step.
    """
    _check_limit(limit)
    step = weight.abs().flatten(1).mean(1).view(_per_channel(weight))
    return sign_ste(weight, clip=1.0), step


def ternary_weights(
    weight: torch.Tensor, log_step: torch.Tensor | None = None, limit: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """-1, 0, +1, and the mean magnitude of the weights that are not zero as step; per output channel.

    ``log_step`` is not used. A weight is zero up to 0.7 times the mean magnitude, the paper's approximation to the
    best threshold. Gradient: ``g * step`` through the integers, for all weights, and the true one of the mean
    through the step. For a learned step use :func:`quantise_weights` with ``limit=1``.
    """
    _check_limit(limit)
    shape = _per_channel(weight)
    magnitude = weight.abs()
    threshold = 0.7 * magnitude.detach().flatten(1).mean(1).view(shape)
    integers = ternary_ste(weight, threshold)
    used = integers.detach().abs()
    step = (magnitude * used).flatten(1).sum(1) / used.flatten(1).sum(1).clamp_min(1)
    return integers, step.view(shape)


def absmax_weights(
    weight: torch.Tensor, log_step: torch.Tensor | None = None, limit: int = 127
) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers in [-limit, limit], and the step that maps the largest weight of each output channel to ``limit``.

    ``log_step`` is not used. Nothing is ever clipped, so that no weight is without a gradient, which is ``g`` for the
    product with the step; that the step moves with the largest weight is left out of it. For 5 bits or more: with
    few levels most weights would be zero. Jacob et al. 2018, arXiv:1712.05877.
    """
    step = weight.detach().abs().flatten(1).amax(1).clamp_min(1e-8).div(limit).view(_per_channel(weight))
    return round_ste(weight / step), step


@torch.no_grad()
def clip_binary_weights_(weight: torch.Tensor, log_step: torch.Tensor | None = None) -> torch.Tensor:
    """``weight`` (C_out, ...), clipped in place to where the sign has a gradient: [-step, step].

    Args:
        weight: the parameters of :func:`binary_weights`, with their ``log_step`` (C_out,), or, without it, those of
            :func:`xnor_weights`, whose range is [-1, 1].

    For after each step of the optimiser: algorithm 1 of BinaryConnect (Courbariaux, Bengio, David 2015,
    arXiv:1511.00363). Otherwise a weight that leaves the range keeps its sign for good, and of normally distributed
    ones with their mean magnitude as step 43 % lie outside from the start.
    """
    if log_step is None:
        return weight.clamp_(-1.0, 1.0)
    step = log_step.exp().view(_per_channel(weight))
    return weight.copy_(torch.minimum(torch.maximum(weight, -step), step))


def clip_weights_(model: nn.Module) -> None:
    """:func:`clip_binary_weights_` for every layer of signs in ``model``; a trainer calls it after each step."""
    for module in model.modules():
        if isinstance(module, _QuantisedWeights):
            module.clip_weights_()


WEIGHT_QUANTISERS: dict[str, Callable[..., tuple[torch.Tensor, torch.Tensor]]] = {
    "lsq": quantise_weights,
    "absmax": absmax_weights,
    "ternary": ternary_weights,
    "binary": binary_weights,
    "xnor": xnor_weights,
}


def weight_quantiser(bits: int) -> tuple[str, int]:
    """``(name, limit)`` for weights of 1 to 16 bits: signs for 1; ``lsq`` up to ``2^(bits - 1) - 1`` for more.

    Raises:
        ValueError: bits out of range.
    """
    if not 1 <= bits <= 16:
        raise ValueError(f"weights have 1 to 16 bits, not {bits}")
    return ("binary", 1) if bits == 1 else ("lsq", 2 ** (bits - 1) - 1)


def _per_channel(weight):
    return (-1,) + (1,) * (weight.dim() - 1)


def _check_limit(limit):
    if limit != 1:
        raise ValueError(f"weights of two or three levels have the limit 1, not {limit}")


# Activations


class ActivationQuantiser(nn.Module):
    """Activations of n bits with one learned step (LSQ, arXiv:1902.08153).

    Args:
        bits: 1 to 16. 1 bit: ``step * sign(x)`` with the clipped straight-through gradient (as in XNOR-Net).
        signed: integers in [-2^(n-1), 2^(n-1) - 1]; otherwise, after a ReLU, in [0, 2^n - 1]. 1 bit is signed.

    The first finite batch in training mode sets the step: ``2 mean|x| / sqrt(limit)`` as in the paper, ``mean|x|`` for
    1 bit. The gradient of the step is scaled as in :func:`quantise_weights`.
    """

    started: torch.Tensor

    low: int
    high: int

    def __init__(self, bits: int, signed: bool = True) -> None:
        super().__init__()
        if not 1 <= bits <= 16:
            raise ValueError(f"activations have 1 to 16 bits, not {bits}")
        self.bits = bits
        self.low, self.high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        if bits == 1:
            self.low, self.high = -1, 1
        self.log_step = nn.Parameter(torch.zeros(()))
        self.register_buffer("started", torch.tensor(False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Float (B, ...) -> quantised, of the same shape and dtype; B may be 0 once there is a step."""
        if self.training and not self.started:
            self._start(x.detach())
        scale = (x.shape[1:].numel() * self.high) ** -0.5
        step = self.log_step.exp().to(x.dtype)
        if self.bits > 1:
            return lsq(x, step, self.low, self.high, scale)
        step = scale_gradient(step, scale)
        return sign_ste(x / step.detach(), clip=1.0) * step

    @torch.no_grad()
    def _start(self, x):
        mean = x.float().abs().mean()
        if not mean.isfinite():  # no vector at all, or not a number among them: the step would never recover
            return
        factor = 1.0 if self.bits == 1 else 2.0 / self.high**0.5
        self.log_step.copy_((factor * mean).clamp_min(1e-6).log())
        self.started.fill_(True)


# Layers


class _QuantisedWeights:
    """What the layers below add to their parents: ``quantiser``, a name, ``limit`` and the learned ``log_step``."""

    weight: Any  # the Parameter of the layer

    def _quantise(self, quantiser: str, limit: int) -> None:
        if quantiser not in WEIGHT_QUANTISERS:
            raise ValueError(f"no weight quantiser {quantiser!r}; there are {', '.join(WEIGHT_QUANTISERS)}")
        self.quantiser, self.limit = quantiser, limit
        start = initial_log_step(self.weight, limit, signs=quantiser == "binary")
        learned = quantiser in ("lsq", "binary")
        self.log_step = nn.Parameter(start) if learned else None
        self.clip_weights_()

    def clip_weights_(self) -> None:
        """Signs alone: :func:`clip_binary_weights_`, for after each step of the optimiser."""
        if self.quantiser in ("binary", "xnor"):
            clip_binary_weights_(self.weight, self.log_step)

    def quantised_weight(self) -> torch.Tensor:
        """The weight that the layer computes with; differentiable."""
        integers, step = WEIGHT_QUANTISERS[self.quantiser](self.weight, self.log_step, self.limit)
        return integers * step


class QuantisedLinear(_QuantisedWeights, nn.Linear):
    """``nn.Linear`` with quantised weights; biases stay as they are.

    Args:
        quantiser: name in :data:`WEIGHT_QUANTISERS`.
        limit: largest integer; 1 for the binary and ternary ones. :func:`weight_quantiser` gives both for n bits.

    Layers of signs want :func:`clip_weights_` after each step of the optimiser.
    """

    def __init__(
        self, in_features: int, out_features: int, quantiser: str = "lsq", limit: int = 127, **options: Any
    ) -> None:
        super().__init__(in_features, out_features, **options)
        self._quantise(quantiser, limit)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.quantised_weight(), self.bias)


class QuantisedConv2d(_QuantisedWeights, nn.Conv2d):
    """``nn.Conv2d`` with quantised weights; arguments as of :class:`QuantisedLinear`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        quantiser: str = "lsq",
        limit: int = 127,
        **options: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, **options)
        self._quantise(quantiser, limit)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(x, self.quantised_weight(), self.bias)


# Accumulators


def requantise_ste(
    total: torch.Tensor, ratio: torch.Tensor, bias: torch.Tensor, low: int, high: int, activation: str = "none"
) -> torch.Tensor:
    """``clamp(floor(f(ratio * total + bias) + 1/2), low, high)``: an accumulator on the grid of the next layer.

    Args:
        total: float (B, C, H, W), integer-valued accumulators.
        ratio: float (C,), bias: float (B, C), or (1, C) for all of the batch.
        low, high: range of the result.
        activation: f: "none"; "relu", where the lower bound is a ReLU with its gradient, zero below; "leaky", a leaky
            ReLU of slope 1/8.

    The gradient is the straight-through one for the rounding. A plain clamp has no gradient outside its range, so a
    saturated unit could never return; here it passes when descending it leads back towards the range.

    One function with its own backward pass, because the entropy networks are small and spend as long on
    elementwise operations as on products.
    """
    return _Requantise.apply(total, ratio, bias, low, high, activation)


class _Requantise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, total, ratio, bias, low, high, activation):
        value = torch.addcmul(bias[:, :, None, None], total, ratio[:, None, None])
        if activation == "leaky":
            value = F.leaky_relu_(value, 0.125)
        ctx.save_for_backward(total if ctx.needs_input_grad[1] else None, ratio, value)
        ctx.low, ctx.high, ctx.activation, ctx.shared = low, high, activation, len(bias) == 1
        return torch.floor(value + 0.5).clamp_(low, high)

    @staticmethod
    def backward(ctx, grad_output):
        total, ratio, value = ctx.saved_tensors
        grad = grad_output
        if ctx.activation == "relu":
            grad = torch.ops.aten.threshold_backward(grad, value, ctx.low)
            grad = towards_range(grad, (value - ctx.high).clamp_min_(0))
        else:
            grad = towards_range(grad, value - value.clamp(ctx.low, ctx.high))
        if ctx.activation == "leaky":
            grad = torch.ops.aten.leaky_relu_backward(grad, value, 0.125, True)
        to_ratio = (grad * total).sum((0, 2, 3)) if total is not None else None
        to_bias = grad.sum((2, 3))
        to_bias = to_bias.sum(0, keepdim=True) if ctx.shared else to_bias
        return grad * ratio[:, None, None], to_ratio, to_bias, None, None, None


def towards_range(grad: torch.Tensor, excess: torch.Tensor) -> torch.Tensor:
    """``grad`` without what would move values further out of their range.

    Descent moves a value by -grad: above the range (``excess > 0``) only grad > 0 leads back, below it only grad < 0.
    Comparisons and masks cost a CPU ten times as much as products, hence the form.
    """
    return torch.ops.aten.threshold_backward(grad, excess * grad, -1e-30)
