"""The straight-through estimator (STE) and its variants.

All have the value of a quantiser q(z) and the gradient of something smooth: of the identity (Bengio, Leonard,
Courville 2013, arXiv:1308.3432; earlier Hinton 2012), or of a clipped identity. In the docstrings, ``g`` is the
gradient with respect to the result and ``dz`` that which reaches ``z``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F


def straight_through(z: torch.Tensor, z_q: torch.Tensor) -> torch.Tensor:
    """``z_q`` in the forward pass, the gradient of ``z`` in the backward pass. ``dz = g``.

    The estimator as it is usually written. The sum can miss the last bit of ``z_q`` where ``z`` is far from it; it
    is exact for the rounding of ``z``, and whenever ``z / 2 <= z_q <= 2 z``. :func:`surrogate_gradient` always is.

    Raises:
        ValueError: the shapes differ. Broadcasting would add up gradients that belong to different values.
    """
    _same_shape(z, z_q)
    return z + (z_q - z).detach()


def surrogate_gradient(value: torch.Tensor, carrier: torch.Tensor) -> torch.Tensor:
    """``value`` in the forward pass, to the last bit, and the gradient of ``carrier`` in the backward pass.

    Args:
        value: float tensor; its own gradient is cut.
        carrier: float tensor of the same shape, finite. With ``carrier = z`` this is the STE.

    Raises:
        ValueError: the shapes differ.
    """
    _same_shape(carrier, value)
    return value.detach() + (carrier - carrier.detach())


def _same_shape(a: torch.Tensor, b: torch.Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"shapes must agree, found {tuple(a.shape)} and {tuple(b.shape)}")


def positive_temperature(temperature: float) -> float:
    """``temperature`` as a float.

    Raises:
        ValueError: it is not a number above zero, or infinite.
    """
    if not 0 < temperature < float("inf"):
        raise ValueError(f"the temperature must be positive and finite, found {temperature}")
    return float(temperature)


@contextmanager
def full_precision(device_type: str) -> Iterator[None]:
    """Matrix products of float32 as float32: no autocast, no TF32. For searches, whose result is a whole number."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


# Rounding


def round_half_up(x: torch.Tensor) -> torch.Tensor:
    """Nearest integer, halves upwards: ``floor(x + 1/2)`` of the exact sum.

    The rule of the bitstream. ``torch.round`` takes halves to the even neighbour; an integer implementation by
    shift and add does not, and the two must agree. The sum itself is not formed: where the dtype has no halves, from
    128 upwards in bfloat16 and from 2^23 in float32, it would round to a neighbour of ``x``. Differences ``x -
    floor(x)`` lose nothing there.
    """
    below = torch.floor(x)
    return below + (x - below >= 0.5).to(x.dtype)


def round_ste(x: torch.Tensor) -> torch.Tensor:
    """:func:`round_half_up` with the gradient of the identity."""
    return straight_through(x, round_half_up(x))


def stochastic_round_ste(x: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """floor(x) or floor(x) + 1, the upper one with the probability ``x - floor(x)``. ``dx = g``.

    Unbiased, ``E = x``: the identity is the true gradient of the expected value, and the estimator is off for losses
    that are not linear alone. Sampling forward, straight through backward: Bengio, Leonard, Courville 2013,
    arXiv:1308.3432; as rounding: Gupta et al. 2015, arXiv:1502.02551.

    Args:
        x: float tensor.
        generator: source of the draws.
    """
    below = torch.floor(x.detach())
    up = _uniform(x, generator) < x.detach() - below
    return surrogate_gradient(below + up.to(x.dtype), x)


def clipped_round_ste(x: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Nearest integer in [low, high]. ``dx = g`` where ``low <= x <= high``, zero outside."""
    return round_ste(clip(x, low, high))


def clip(x: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """``x`` in [low, high]. ``dx = g`` where ``low <= x <= high``, zero outside.

    Releases of PyTorch differ on whether ``torch.clamp`` passes the gradient at the bounds themselves. Weights that are
    clipped to the bounds after each step would learn with one release and stand still with another.
    """
    return torch.where((x >= low) & (x <= high), x, x.detach().clamp(low, high))


def lsq(x: torch.Tensor, step: torch.Tensor, low: int, high: int, gradient_scale: float = 1.0) -> torch.Tensor:
    """``step * clamp(round(x / step), low, high)``: a grid with a learned step (LSQ, arXiv:1902.08153).

    Args:
        x: float tensor.
        step: positive float tensor that broadcasts against ``x``; learned.
        low, high: whole numbers, the range of the integers.
        gradient_scale: factor on the gradient of the step; the paper takes 1 / sqrt(elements * high), for SGD. Adam
            divides it out again: there only a bound on the gradient's norm notices the factor.

    ``dx = g`` inside the range, zero outside. The step receives ``g`` times ``round(x / step) - x / step`` inside,
    ``low`` below and ``high`` above.
    """
    step = scale_gradient(step, gradient_scale)
    return clipped_round_ste(x / step, low, high) * step


def scale_gradient(x: torch.Tensor, factor: float) -> torch.Tensor:
    """``x``, to the last bit, with its gradient multiplied by ``factor``."""
    return surrogate_gradient(x, x * factor)


# Two and three levels


def sign_ste(x: torch.Tensor, clip: float | None = None) -> torch.Tensor:
    """-1 where x < 0, else +1. ``dx = g``; with ``clip``, zero where ``|x| > clip``.

    Identity: BinaryConnect (Courbariaux, Bengio, David 2015, arXiv:1511.00363). ``clip=1``: binarised activations
    (Hubara et al. 2016, arXiv:1602.02830), whose gradient is that of hard tanh.
    """
    return surrogate_gradient(sign(x), _clip(x, clip))


def ternary_ste(x: torch.Tensor, threshold: float | torch.Tensor = 0.5, clip: float | None = None) -> torch.Tensor:
    """-1, 0 or +1; 0 where ``|x| <= threshold``. Gradient as that of :func:`sign_ste`.

    Args:
        threshold: number or tensor that broadcasts against ``x``; has no gradient.

    Ternary weight networks: Li, Liu 2016, arXiv:1605.04711.
    """
    return surrogate_gradient(torch.where(x.abs() > threshold, sign(x), torch.zeros_like(x)), _clip(x, clip))


def stochastic_sign_ste(x: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """-1 or +1, the latter with the probability ``(clamp(x, -1, 1) + 1) / 2``. ``dx = g`` where ``|x| <= 1``, else 0.

    ``E = clamp(x, -1, 1)``, whose true gradient this is. Stochastic binarisation of BinaryConnect: Courbariaux,
    Bengio, David 2015, arXiv:1511.00363; :func:`sign_ste` is the deterministic one.
    """
    mean = clip(x, -1, 1)
    up = 2 * _uniform(x, generator) < mean.detach() + 1
    return surrogate_gradient(torch.where(up, 1.0, -1.0).to(x.dtype), mean)


def stochastic_binary_ste(
    logits: torch.Tensor, slope: str = "sigmoid", generator: torch.Generator | None = None
) -> torch.Tensor:
    """Stochastic binary neuron: 1 with the probability ``sigmoid(logits)``, else 0.

    Args:
        logits: float tensor.
        slope: ``"identity"``, ``dlogits = g``: the straight-through estimator of Bengio, Leonard, Courville 2013,
            arXiv:1308.3432; ``"sigmoid"``, ``dlogits = g p (1 - p)``: their variant with the slope of the mean.
        generator: source of the draws.

    Raises:
        ValueError: no such slope.
    """
    if slope not in ("identity", "sigmoid"):
        raise ValueError(f"the slope is that of the 'identity' or of the 'sigmoid', not {slope!r}")
    p = torch.sigmoid(logits)
    value = (_uniform(logits, generator) < p.detach()).to(logits.dtype)
    return surrogate_gradient(value, p if slope == "sigmoid" else logits)


def sign(x: torch.Tensor) -> torch.Tensor:
    """-1 where x < 0, else +1: unlike ``torch.sign`` never 0. No gradient."""
    return torch.where(x < 0, -torch.ones_like(x), torch.ones_like(x))


def _clip(x, bound):
    return x if bound is None else clip(x, -bound, bound)


def _uniform(x, generator):
    """Uniform draws in [0, 1), in float32 or finer: those of half precision are too coarse for small probabilities."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.rand(x.shape, dtype=dtype, device=x.device, generator=generator)


# Choices


def nearest(z: torch.Tensor, codebook: torch.Tensor, penalty: torch.Tensor | None = None) -> torch.Tensor:
    """Index of the entry at the smallest squared distance plus penalty, the first of several: int64 (...).

    Args:
        z: float (..., D); with G codebooks (G, ..., D).
        codebook: float (K, D); (G, K, D) for one codebook per group.
        penalty: float, broadcastable to (..., K): what the choice of an entry costs beside its squared distance, such
            as its bits over the slope of rate and distortion (Chou, Lookabaugh, Gray 1989, entropy-constrained VQ).

    In float32, or float64 where one of the inputs is; TF32 and autocast do not reach it. The offset that codebook and
    vectors have in common is taken away before, as it would drown the differences.
    """
    with torch.no_grad(), full_precision(z.device.type):
        dtype = torch.promote_types(torch.promote_types(z.dtype, codebook.dtype), torch.float32)
        z, codebook = z.to(dtype), codebook.to(dtype)
        if codebook.dim() == 2:
            z, codebook, grouped = z[None], codebook[None], False
        else:
            grouped = True
        centre = _centre(codebook)
        shape = z.shape[1:-1]
        z, codebook = z.reshape(len(z), math.prod(shape), z.shape[-1]) - centre, codebook - centre
        # |z - e|^2 without |z|^2, which does not depend on the entry: one matrix product.
        cost = codebook.square().sum(2)[:, None]  # (G, 1, K)
        if penalty is not None:
            penalty = torch.as_tensor(penalty, dtype=dtype, device=z.device)
            penalty = penalty.expand(*((len(z),) if grouped else ()), *shape, codebook.shape[1])
            cost = cost + penalty.reshape(len(z), math.prod(shape), codebook.shape[1])
        cost = cost.expand(len(z), z.shape[1], -1)
        index = torch.baddbmm(cost, z, codebook.mT, alpha=-2).argmin(2).unflatten(1, shape or (1,))
        index = index if shape else index[:, 0]
        return index if grouped else index[0]


def _centre(codebook):
    """Where most of a codebook (G, K, D) lies: (G, 1, D), whole multiples of a power of two.

    Medians of values and deviations, as single entries may be far away; such multiples, so that subtracting them is
    exact and codebooks around zero stay as they are.
    """
    median = codebook.median(1, keepdim=True).values
    spread = (codebook - median).abs().median(1, keepdim=True).values
    unit = torch.exp2(torch.ceil(torch.log2(spread)))
    centre = unit * torch.round(median / unit)
    return torch.where(centre.isfinite(), centre, median)  # of no spread: not a number


def nearest_ste(z: torch.Tensor, codebook: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Nearest codebook entry: ``(z_q, indices)``, float (..., D) and int64 (...). ``dz = g``.

    Args: as of :func:`nearest`, one codebook (K, D). ``z_q`` has the dtype of z. The codebook receives no gradient: it
    learns from a loss of its own or by moving averages (:mod:`codec.quantise.codebook`). VQ-VAE: van den Oord,
    Vinyals, Kavukcuoglu 2017, arXiv:1711.00937.
    """
    indices = nearest(z, codebook)
    return surrogate_gradient(codebook[indices].to(z.dtype), z), indices


def rotation_trick(z: torch.Tensor, z_q: torch.Tensor) -> torch.Tensor:
    """``z_q`` in the forward pass; backward, the rotation and scaling that takes z to z_q, held constant.

    Args:
        z: float (..., D), what the encoder says.
        z_q: float (..., D), the entries; receive no gradient.

    ``z_q = lambda R z`` with ``lambda = |z_q| / |z|`` and the rotation R in the plane of both; ``dz = lambda R^T g``.
    The angle between gradient and vector is kept, so that vectors of one region are pushed apart or together, where
    the STE moves all of them alike. Where z or z_q is zero, or they are opposite, there is no such rotation: ``dz =
    g``. Fifty et al. 2024, arXiv:2410.06424.

    Raises:
        ValueError: the shapes differ.
    """
    _same_shape(z, z_q)
    with torch.no_grad():
        dtype = torch.promote_types(z.dtype, torch.float32)
        source, target = z.to(dtype), z_q.to(dtype)
        lengths = [v.norm(dim=-1, keepdim=True) for v in (source, target)]
        least = torch.finfo(dtype).tiny ** 0.5
        e, q = (v / length.clamp_min(least) for v, length in zip((source, target), lengths))
        middle = e + q
        there = (lengths[0] > least) & (lengths[1] > least) & (middle.norm(dim=-1, keepdim=True) > 1e-3)
        r = F.normalize(middle, dim=-1)
        scale = lengths[1] / lengths[0].clamp_min(least)
    x = z.to(dtype)
    # R x = x - 2 r (r . x) + 2 q (e . x): the Householder form, without a matrix.
    turned = x - 2 * r * (r * x).sum(-1, keepdim=True) + 2 * q * (e * x).sum(-1, keepdim=True)
    return surrogate_gradient(z_q.to(z.dtype), torch.where(there, scale * turned, x).to(z.dtype))


def argmax_ste(scores: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """One-hot vector of the largest score along ``dim``, the first of several. ``dscores = g``.

    :func:`codec.quantise.estimators.argmax_straight_through` has the gradient of the softmax instead.
    """
    return surrogate_gradient(one_hot_argmax(scores, dim), scores)


def one_hot_argmax(scores: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """1 at the largest entry along ``dim``, 0 elsewhere; shape and dtype of ``scores``; no gradient."""
    index = scores.argmax(dim)
    return F.one_hot(index, scores.shape[dim]).movedim(-1, dim).to(scores.dtype)
