"""How far a decoded picture is from its original: uint8 (H, W, 3) twice -> one number.

All of them look at the pixels that a viewer would get, after rounding to 8 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import overload

import numpy as np

from .ms_ssim import ms_ssim as multi_scale_similarity

PEAK = 255
LUMA = (299, 587, 114)  # thousandths of red, green and blue in luma, ITU-R BT.601 as in JPEG files
CAP_DB = 99.99  # stands for "identical"; larger values are cut to it as well, so that it stays the largest


def mse(original: np.ndarray, decoded: np.ndarray) -> float:
    """Mean squared error over pixels and RGB channels in squared 8-bit steps; exact up to the final division.

    Args:
        original, decoded: uint8 (H, W, 3) of equal shape.

    Raises:
        ValueError: shapes differ, or the arrays are not uint8 RGB.
    """
    _check(original, decoded)
    difference = original.astype(np.int32) - decoded
    return float(int(np.sum(np.square(difference, out=difference), dtype=np.int64)) / difference.size)


def psnr_db(original: np.ndarray, decoded: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB over RGB, ``10 log10(255^2 / mse)``, at most :data:`CAP_DB`.

    Identical pictures would give infinity, which neither a mean nor JSON can hold: they give ``CAP_DB``.
    """
    error = mse(original, decoded)
    return CAP_DB if error == 0 else min(10 * math.log10(PEAK**2 / error), CAP_DB)


def psnr_y_db(original: np.ndarray, decoded: np.ndarray) -> float:
    """PSNR of luma in dB, at most :data:`CAP_DB`: Y = 0.299 R + 0.587 G + 0.114 B, from 0 to 255, not rounded.

    Rounding Y to 8 bits first, as tools for Y'CbCr files have to, would lower a figure of 44 dB by 0.3 dB.
    """
    _check(original, decoded)
    difference = (original.astype(np.int32) - decoded) @ np.array(LUMA, np.int32)  # thousandths of a step
    error = int(np.sum(np.square(difference, dtype=np.int64))) / difference.size / sum(LUMA) ** 2
    return CAP_DB if error == 0 else min(10 * math.log10(PEAK**2 / error), CAP_DB)


def ms_ssim(original: np.ndarray, decoded: np.ndarray) -> float | None:
    """Multi-scale structural similarity, mean over the RGB channels, at most 1. See the module of that name.

    None for a picture whose shorter side is under ``ms_ssim.MIN_SIDE`` pixels: it has no fifth scale.
    """
    _check(original, decoded)
    return multi_scale_similarity(original, decoded)


@overload
def ms_ssim_db(value: float) -> float: ...
@overload
def ms_ssim_db(value: float | None) -> float | None: ...
def ms_ssim_db(value: float | None) -> float | None:
    """MS-SSIM on a logarithmic scale, ``-10 log10(1 - value)``, at most :data:`CAP_DB`; None stays None."""
    if value is None:
        return None
    return CAP_DB if value >= 1 else min(-10 * math.log10(1 - value), CAP_DB)


def ssimulacra2(original: np.ndarray, decoded: np.ndarray) -> float | None:
    """SSIMULACRA2 score, at most 100; None for a picture with a side under 8 pixels. See the module of that name."""
    _check(original, decoded)
    from .ssimulacra2 import ssimulacra2 as score

    return score(original, decoded)


@dataclass(frozen=True)
class Metric:
    """One measure of quality, and how tables show it."""

    column: str  # field of a row that holds it
    title: str
    function: Callable[[np.ndarray, np.ndarray], float | None]  # (original, decoded) -> float or None
    scale: Callable[[float | None], float | None] | None = (
        None  # what BD-rates use in its place, where it is not linear enough by itself
    )


METRICS = {
    "psnr": Metric("psnr_db", "PSNR", psnr_db),
    "psnr_y": Metric("psnr_y_db", "PSNR-Y", psnr_y_db),
    "ms_ssim": Metric("ms_ssim", "MS-SSIM", ms_ssim, ms_ssim_db),
    "ssimulacra2": Metric("ssimulacra2", "SSIMULACRA2", ssimulacra2),
}


def _check(original: np.ndarray, decoded: np.ndarray) -> None:
    for pixels in (original, decoded):
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(f"expected uint8 (H, W, 3), found {pixels.dtype} {pixels.shape}")
    if original.shape != decoded.shape:
        raise ValueError(f"sizes differ: {original.shape[:2]} and {decoded.shape[:2]}")
