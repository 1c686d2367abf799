"""Layers of the integer entropy networks in NumPy: the reference of what every engine computes.

What these networks say decides which CDF row a symbol is coded with, so encoder and decoder must agree on it to the
last bit, whatever the machine. They are therefore integer functions:

    v  = m[c] 2^-s[c] (W a)[c] + b[c] / 256
    a' = clamp(floor(f(v) + 1/2), low, high)

with integer inputs ``a``, weights ``W`` (8 bits), multipliers ``m`` (15 bits), shifts ``s`` and biases ``b``; ``f`` is
the identity or a leaky ReLU, which shifts by 3 more where v is negative.

Integers are kept in float32, because that is what matrix products are fast in. Such a product is exact, in any order
of summation and with or without fused multiply-adds, while every partial sum stays below 2^24: that is, while
``sum |W[c, i]| max |a[i]|`` does, with the largest magnitude of each channel of the input at hand. Where it does not,
the product is cut into two or four over the input channels, or is made in float64, whose limit of 2^53 is checked when
a layer is loaded. Requantisation is float64: an integer below 2^38 times a power of two is exact in it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ModelError
from ..quality import interpolate_integers

BIAS_UNIT = 256  # biases are kept in 1/256 of an output step
MULTIPLIER_BITS = 15
LEAK = 2.0**-3  # slope of leaky ReLU below zero: exact, and in integers a shift
SHIFT_MAX = 40
SINGLE, DOUBLE = 2**24, 2**53  # integers up to here are exact in float32 and float64
SAFE = SINGLE * (1 - 2.0**-8)  # for bounds that are themselves sums in float32, of at most 2^12 terms
CUTS = (1, 2, 4)  # parts that a product over the input channels may be cut into
BLOCK = 1 << 15  # elements that are requantised at a time: two float64 arrays that stay in the cache


@dataclass(frozen=True)
class LayerSpec:
    """One integer layer.

    Attributes:
        channels_in, channels_out: per group.
        groups: 1, or the number of independent channel groups of a pointwise layer.
        depthwise: 3x3 depthwise instead of 1x1; channels_in == channels_out.
        low, high: range of the output integers.
        input_limit: largest magnitude of the input integers.
        input_step, output_step: real value of one unit, at the start of training; ``output_step`` is then learned.
        anchors: number of anchor qualities of the bias; 1 means that the layer does not see the quality.
        activation: "none"; "relu", whose lower bound is ``low`` = 0; "leaky", a leaky ReLU of slope 1/8.
        weight_bits: 8 or fewer; 2 are the three levels -1, 0, 1, and 1 the signs.
    """

    channels_in: int
    channels_out: int
    low: int
    high: int
    input_limit: int
    input_step: float
    output_step: float
    groups: int = 1
    depthwise: bool = False
    anchors: int = 1
    activation: str = "none"
    weight_bits: int = 8

    @property
    def weight_shape(self) -> tuple[int, int]:
        if self.depthwise:
            return (self.channels_out, 9)
        return (self.groups * self.channels_out, self.channels_in)

    @property
    def integers(self) -> dict[str, tuple[type[np.signedinteger[Any]], tuple[int, ...]]]:
        """``{name: (dtype, shape)}`` of the integers of a layer in the weights file."""
        rows = self.weight_shape[0]
        return {
            "weight": (np.int8, self.weight_shape),
            "multiplier": (np.int16, (rows,)),
            "shift": (np.int8, (rows,)),
            "bias": (np.int32, (self.anchors, rows)),
        }


class ExactLayer:
    """Exact execution of a layer on integer-valued float32 arrays (h, w, C) of one image.

    Args:
        spec: the layer's LayerSpec.
        integers: ``{"weight", "multiplier", "shift", "bias"}``, arrays as ``spec.integers`` says.
        name: of the layer, for error messages.
        dtype: None picks float32 where it is exact for the input at hand and float64 elsewhere; a dtype forces one
            (tests).

    Raises:
        ModelError: the integers do not fit the spec, or their sums are not exact in float64.
    """

    def __init__(
        self,
        spec: LayerSpec,
        integers: Mapping[str, np.ndarray],
        name: str = "layer",
        dtype: type[np.floating[Any]] | None = None,
    ) -> None:
        _check(spec, integers, name)
        self.spec, self.dtype = spec, dtype
        weight = integers["weight"].astype(np.float32)
        self._largest_sum = max(1.0, float(np.abs(weight).sum(1).max()))  # for inputs of magnitude 1; exact, below 2^24
        # (3, 3, C), or (groups, C_in, C_out): what (positions, C_in) is multiplied by.
        shape = (3, 3, 1, -1) if spec.depthwise else (spec.channels_in, spec.groups, spec.channels_out)
        weight = weight.T.reshape(shape)
        self.weight = np.ascontiguousarray(weight[:, :, 0] if spec.depthwise else weight.transpose(1, 0, 2))
        self.bias = integers["bias"]
        self.ratio = np.ldexp(integers["multiplier"].astype(np.float64), -integers["shift"].astype(np.int32))

    def __call__(self, a: np.ndarray, quality: int) -> np.ndarray:
        """Integers (h, w, C_in) in float32, quality in hundredths -> integers (h, w, C_out) in float32.

        Groups of channels are parts of C_in and C_out, one after the other.
        """
        total = self._depthwise(a) if self.spec.depthwise else self._pointwise(a)
        bias = interpolate_integers(self.bias, quality) / BIAS_UNIT
        return self._requantise(total, bias).reshape(*a.shape[:2], -1)

    def _pointwise(self, a):
        """W a: integers (h w, C_out) in float32 or float64."""
        groups, channels, _ = self.weight.shape
        a = a.reshape(-1, groups * channels)
        parts = [self._product(a[:, g * channels : (g + 1) * channels], self.weight[g]) for g in range(groups)]
        return parts[0] if groups == 1 else np.concatenate(parts, 1)

    def _product(self, a, weight):
        """(n, C_in) @ (C_in, C_out), exact, in float32 or float64."""
        if self.dtype is not None:
            return a.astype(self.dtype) @ weight.astype(self.dtype)
        if self._single(a):
            return a @ weight
        parts = _cuts(np.abs(weight), np.maximum(a.max(0), -a.min(0)))
        if parts is None:
            return a.astype(np.float64) @ weight.astype(np.float64)
        total = a[:, parts[0]] @ weight[parts[0]]
        for part in parts[1:]:
            total = np.add(total, a[:, part] @ weight[part], dtype=np.float64)
        return total

    def _depthwise(self, a):
        """3x3 sums of each channel, zero outside the picture: integers (h, w, C) in float32 or float64."""
        height, width, channels = a.shape
        dtype = self.dtype or (np.float32 if self._single(a) else np.float64)
        padded = np.zeros((height + 2, width + 2, channels), dtype)
        padded[1:-1, 1:-1] = a
        row, column, channel = padded.strides
        nine = np.lib.stride_tricks.as_strided(
            padded, (3, 3, height, width, channels), (row, column, row, column, channel), writeable=False
        )
        return np.einsum("ijhwc,ijc->hwc", nine, self.weight.astype(dtype, copy=False))

    def _single(self, a):
        """Whether the sums over ``a`` are below 2^24, by its range: the quick test."""
        limit = SAFE / self._largest_sum
        return self.spec.input_limit < limit or max(a.max(), -a.min()) < limit

    def _requantise(self, total, bias):
        """clamp(floor(f(v) + 1/2), low, high) with v = ratio * total + bias: float32 (n, C_out).

        A leaky ReLU needs no more than g = floor(2 v), a small integer where it is not clamped:
        floor(f(v) + 1/2) = floor(max(g / 2, g / 16) + 1/2). So float64 ends there; its passes cost most.
        """
        spec, leaky = self.spec, self.spec.activation == "leaky"
        scale, extra = (2, 0.0) if leaky else (1, 0.5)
        out = np.empty((total.size // len(bias), len(bias)), np.float32)
        # Several positions make one long row, because loops over the channels alone would be short.
        together = math.gcd(len(out), 16)
        ratio, bias = np.tile(scale * self.ratio, together), np.tile(scale * bias + extra, together)
        long_out, long_total = out.reshape(-1, len(bias)), total.reshape(-1, len(bias))
        rows = max(1, BLOCK // len(bias))
        value = np.empty((min(rows, len(long_total)), len(bias)))
        other = np.empty(value.shape, np.float32)
        half, leak, low, high = (np.float32(number) for number in (0.5, LEAK, spec.low, spec.high))
        for start in range(0, len(long_total), rows):
            part, here = long_total[start : start + rows], long_out[start : start + rows]
            v = value[: len(part)]
            np.copyto(v, part)
            np.multiply(v, ratio, out=v)
            np.add(v, bias, out=v)
            np.floor(v, out=v)
            np.copyto(here, v, casting="same_kind")  # beyond 2^24 it is rounded, and then clamped
            if leaky:
                u = other[: len(part)]
                np.multiply(here, leak, out=u)
                np.maximum(here, u, out=here)
                np.multiply(here, half, out=here)
                np.add(here, half, out=here)
                np.floor(here, out=here)
            np.maximum(here, low, out=here)
            np.minimum(here, high, out=here)
        return out


def _cuts(weight, magnitude):
    """The coarsest cut of the input channels whose products are exact in float32: slices, or None.

    Args:
        weight: float32 (C_in, C_out), magnitudes. magnitude: float32 (C_in,), the largest of each input channel.
    """
    for number in CUTS:
        edges = [len(weight) * i // number for i in range(number + 1)]
        parts = [slice(*edge) for edge in itertools.pairwise(edges)]
        # Not a BLAS product: so small a one takes longer to share among threads than to do.
        if max(np.einsum("i,ij->j", magnitude[part], weight[part]).max() for part in parts) < SAFE:
            return parts
    return None


def _check(spec, integers, name):
    """ModelError where the integers of a layer are not what the spec says or what the arithmetic holds."""
    for key, (dtype, shape) in spec.integers.items():
        found = integers[key]
        if found.dtype != dtype or found.shape != shape:
            raise ModelError(f"{name}.{key} is {found.dtype} {found.shape}, not {np.dtype(dtype)} {shape}")
    weight, multiplier, shift, bias = (integers[key].astype(np.int64) for key in spec.integers)
    limit = max(1, 2 ** (spec.weight_bits - 1) - 1)
    if np.abs(weight).max() > limit:
        raise ModelError(f"{name}.weight holds {np.abs(weight).max()}, where {spec.weight_bits} bits end at {limit}")
    if multiplier.min() < 2 ** (MULTIPLIER_BITS - 1):  # int16 ends below 2^15
        raise ModelError(f"{name}.multiplier holds {multiplier.min()}; multipliers have {MULTIPLIER_BITS} bits")
    if shift.min() < 0 or shift.max() > SHIFT_MAX:
        raise ModelError(f"{name}.shift holds {shift.min()} to {shift.max()}; shifts are 0 to {SHIFT_MAX}")
    # 2 v and v + 1/2 in units of 2^-s, and some room: Python integers, since damaged numbers would overflow.
    sums = np.abs(weight).sum(1) * spec.input_limit
    for total, m, s, b in zip(sums.tolist(), multiplier.tolist(), shift.tolist(), np.abs(bias).max(0).tolist()):
        if (m * total << 3) + (b << max(s - 5, 0)) + (1 << s + 2) >= DOUBLE:
            raise ModelError(f"{name}: sums up to {total} times {m} 2^-{s} plus {b} / 256 are not exact in float64")
