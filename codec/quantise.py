"""Learned quantisation: everything in this codec that rounds, in one place.

Rounding is a staircase: its derivative is zero almost everywhere, so gradient descent learns nothing through it.
Two replacements are used, and both keep the forward value honest:

* the straight-through estimator (STE; Bengio, Leonard, Courville 2013, arXiv:1308.3432): the forward value is the
  rounded one, the backward pass pretends that rounding was the identity;
* additive uniform noise (Balle, Laparra, Simoncelli 2017, arXiv:1611.01704): the density of ``y + U(-1/2, 1/2)``
  at the integers is the probability of the rounded ``y``, so that the rate has a true gradient.

The latents use both at once ("mixed": Minnen, Singh 2020, arXiv:2007.08739): noise for the rate, STE for what the
synthesis and the entropy networks see. The weights and activations of the integer entropy networks use the STE with
learned step sizes (LSQ: Esser et al. 2020, arXiv:1902.08153).
"""

import torch


def straight_through(z, z_q):
    """``z_q`` in the forward pass, the gradient of ``z`` in the backward pass; shapes must agree."""
    return z + (z_q - z).detach()


def round_half_up(x):
    """Nearest integer, halves upwards: ``floor(x + 0.5)``.

    The rule of the bitstream. ``torch.round`` takes halves to the even neighbour; an integer implementation by
    shift and add does not, and the two must agree.
    """
    return torch.floor(x + 0.5)


def round_ste(x):
    """:func:`round_half_up` with the gradient of the identity."""
    return straight_through(x, round_half_up(x))


def add_uniform_noise(x, generator=None):
    """``x + u`` with ``u`` uniform in [-1/2, 1/2): the differentiable stand-in for rounding in the rate term."""
    noise = torch.rand(x.shape, dtype=x.dtype, device=x.device, generator=generator)
    return x + (noise - 0.5)


def requantise_ste(total, ratio, bias, low, high, relu=False):
    """``clamp(floor(ratio * total + bias + 1/2), low, high)``: an accumulator on the grid of the next layer.

    Args:
        total: float (B, C, H, W), integer-valued accumulators.
        ratio: float (C,), bias: float (B, C).
        low, high: range of the result.
        relu: the lower bound is a ReLU, with its gradient: zero below.

    The gradient is the straight-through one for the rounding. A plain clamp has no gradient outside its range, so a
    saturated unit could never return; here it passes when descending it leads back towards the range.

    One function with its own backward pass, because the entropy networks are small and spend as long on
    elementwise operations as on products.
    """
    return _Requantise.apply(total, ratio, bias, low, high, relu)


class _Requantise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, total, ratio, bias, low, high, relu):
        value = torch.addcmul(bias[:, :, None, None], total, ratio[:, None, None])
        ctx.save_for_backward(total, ratio, value)
        ctx.low, ctx.high, ctx.relu = low, high, relu
        return torch.floor(value + 0.5).clamp_(low, high)

    @staticmethod
    def backward(ctx, grad):
        total, ratio, value = ctx.saved_tensors
        # Descent moves the value by -grad: above the range only grad > 0 leads back, below it only grad < 0.
        blocked = (value > ctx.high) & (grad < 0)
        blocked |= (value < ctx.low) if ctx.relu else (value < ctx.low) & (grad > 0)
        grad = grad.masked_fill(blocked, 0.0)
        return grad * ratio[:, None, None], (grad * total).sum((0, 2, 3)), grad.sum((2, 3)), None, None, None


def quantise_weights(weight, log_step, limit):
    """Integer-valued weights with a learned step size per output channel (LSQ).

    Args:
        weight: float (C_out, ...), the parameters that the optimiser sees.
        log_step: float (C_out,), natural logarithm of the step; learned.
        limit: the integers lie in [-limit, limit]; 127 for 8 bits.

    Returns:
        ``(integers, step)``: integer-valued float tensor of the shape of ``weight``, and ``exp(log_step)`` shaped
        to broadcast against it. ``integers * step`` is the quantised weight. The gradient of that product is the
        STE's for ``weight`` (zero where clipped) and LSQ's for the step, scaled by 1 / sqrt(fan-in * limit) as in the
        paper so that step and weights learn at comparable speed.
    """
    shape = (-1,) + (1,) * (weight.dim() - 1)
    scale = (weight[0].numel() * limit) ** -0.5
    step = _scale_gradient(log_step.exp(), scale).view(shape)
    integers = round_ste((weight / step).clamp(-limit, limit))
    return integers, step


def initial_log_step(weight, limit):
    """Starting value for :func:`quantise_weights`: the largest weight of each output channel maps to ``limit``."""
    largest = weight.detach().abs().flatten(1).amax(1).clamp_min(1e-6)
    return (largest / limit).log()


def _scale_gradient(x, factor):
    """``x``, with its gradient multiplied by ``factor``."""
    return (x * factor) + (x - x * factor).detach()
