"""The straight-through estimator (STE) and its variants.

All have the value of a quantiser q(z) and the gradient of something smooth: of the identity (Bengio, Leonard,
Courville 2013, arXiv:1308.3432; earlier Hinton 2012), or of a clipped identity. In the docstrings, ``g`` is the
gradient with respect to the result and ``dz`` that which reaches ``z``.
"""

import torch
import torch.nn.functional as F


def straight_through(z, z_q):
    """``z_q`` in the forward pass, the gradient of ``z`` in the backward pass; shapes must agree. ``dz = g``.

    The estimator as it is usually written. The sum can miss the last bit of ``z_q`` where ``z`` is far from it; it
    is exact for the rounding of ``z``, and whenever ``z / 2 <= z_q <= 2 z``. :func:`surrogate_gradient` always is.
    """
    return z + (z_q - z).detach()


def surrogate_gradient(value, carrier):
    """``value`` in the forward pass, to the last bit, and the gradient of ``carrier`` in the backward pass.

    Args:
        value: float tensor; its own gradient is cut.
        carrier: float tensor of the same shape, finite. With ``carrier = z`` this is the STE.
    """
    return value.detach() + (carrier - carrier.detach())


# --- Rounding ------------------------------------------------------------------------------------------------------


def round_half_up(x):
    """Nearest integer, halves upwards: ``floor(x + 0.5)``.

    The rule of the bitstream. ``torch.round`` takes halves to the even neighbour; an integer implementation by
    shift and add does not, and the two must agree.
    """
    return torch.floor(x + 0.5)


def round_ste(x):
    """:func:`round_half_up` with the gradient of the identity."""
    return straight_through(x, round_half_up(x))


def clipped_round_ste(x, low, high):
    """Nearest integer in [low, high]. ``dx = g`` where ``low <= x <= high``, zero outside."""
    return round_ste(x.clamp(low, high))


def lsq(x, step, low, high, gradient_scale=1.0):
    """``step * clamp(round(x / step), low, high)``: a grid with a learned step (LSQ, arXiv:1902.08153).

    Args:
        x: float tensor.
        step: positive float tensor that broadcasts against ``x``; learned.
        low, high: whole numbers, the range of the integers.
        gradient_scale: factor on the gradient of the step; the paper takes 1 / sqrt(elements * high).

    ``dx = g`` inside the range, zero outside. The step receives ``g`` times ``round(x / step) - x / step`` inside,
    ``low`` below and ``high`` above.
    """
    step = scale_gradient(step, gradient_scale)
    return clipped_round_ste(x / step, low, high) * step


def scale_gradient(x, factor):
    """``x``, with its gradient multiplied by ``factor``."""
    return (x * factor) + (x - x * factor).detach()


# --- Two and three levels ------------------------------------------------------------------------------------------


def sign_ste(x, clip=None):
    """-1 where x < 0, else +1. ``dx = g``; with ``clip``, zero where ``|x| > clip``.

    Identity: BinaryConnect (Courbariaux, Bengio, David 2015, arXiv:1511.00363). ``clip=1``: binarised activations
    (Hubara et al. 2016, arXiv:1602.02830), whose gradient is that of hard tanh.
    """
    return surrogate_gradient(sign(x), _clip(x, clip))


def ternary_ste(x, threshold=0.5, clip=None):
    """-1, 0 or +1; 0 where ``|x| <= threshold``. Gradient as that of :func:`sign_ste`.

    Args:
        threshold: number or tensor that broadcasts against ``x``; has no gradient.

    Ternary weight networks: Li, Liu 2016, arXiv:1605.04711.
    """
    return surrogate_gradient(torch.where(x.abs() > threshold, sign(x), torch.zeros_like(x)), _clip(x, clip))


def sign(x):
    """-1 where x < 0, else +1: unlike ``torch.sign`` never 0. No gradient."""
    return torch.where(x < 0, -torch.ones_like(x), torch.ones_like(x))


def _clip(x, clip):
    return x if clip is None else x.clamp(-clip, clip)


# --- Choices -------------------------------------------------------------------------------------------------------


def nearest(z, codebook):
    """Index of the entry at the smallest Euclidean distance, the first of several: int64 (...).

    Args:
        z: float (..., D).
        codebook: float (K, D).
    """
    with torch.no_grad():
        # |z - e|^2 without |z|^2, which does not depend on the entry: one matrix product.
        return (codebook.square().sum(1) - 2 * z @ codebook.T).argmin(-1)


def nearest_ste(z, codebook):
    """Nearest codebook entry: ``(z_q, indices)``, float (..., D) and int64 (...). ``dz = g``.

    Args: as of :func:`nearest`. The codebook receives no gradient: it learns from a loss of its own or by moving
    averages (:mod:`codec.quantise.vector`). VQ-VAE: van den Oord, Vinyals, Kavukcuoglu 2017, arXiv:1711.00937.
    """
    indices = nearest(z, codebook)
    return surrogate_gradient(codebook[indices], z), indices


def argmax_ste(scores, dim=-1):
    """One-hot vector of the largest score along ``dim``, the first of several. ``dscores = g``.

    :func:`codec.quantise.estimators.argmax_straight_through` has the gradient of the softmax instead.
    """
    return surrogate_gradient(one_hot_argmax(scores, dim), scores)


def one_hot_argmax(scores, dim=-1):
    """1 at the largest entry along ``dim``, 0 elsewhere; shape and dtype of ``scores``; no gradient."""
    index = scores.argmax(dim)
    return F.one_hot(index, scores.shape[dim]).movedim(-1, dim).to(scores.dtype)
