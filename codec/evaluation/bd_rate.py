"""Bjontegaard's deltas: how many per cent more bits one codec spends than another for the same PSNR, and how
many decibels more it gives for the same bits.

    BD-rate percent = 10 ^ ( mean over PSNR of [ log10 R_test(PSNR) - log10 R_anchor(PSNR) ] ) - 1
    BD-PSNR dB      = mean over log10 R of [ PSNR_test(log10 R) - PSNR_anchor(log10 R) ]

A negative BD-rate is better, and a positive BD-PSNR. The curves run through the measured points as piecewise
cubics: PCHIP, which never overshoots between points, or Akima's. The mean is taken over the range that both
curves cover; nothing is extrapolated. Over that whole range the figures are those of the library
``bjontegaard`` with the same method; this module adds the parts of the range, and confidence intervals.

Any other measure of quality that rises with the rate may stand in the place of PSNR.

Bjontegaard 2001, VCEG-M33; PCHIP instead of one cubic: common test conditions of HEVC, JCTVC-L1100; Akima:
Akima 1970, J. ACM 17(4); how much the interpolation matters: Herglotz et al. 2022, arXiv:2202.12565.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Point: TypeAlias = tuple[float, float]  # bpp, PSNR in dB

MIN_POINTS = 4  # the number that the method was defined for; fewer leave the shape of the curve to chance
METHODS = ("pchip", "akima")
CONFIDENCE = 0.95
# Of the resampled sets of pictures, the share that must have a figure before an interval is given.
MIN_DEFINED = 0.95


@dataclass(frozen=True)
class BdRate:
    """A difference in rate and where it was measured."""

    percent: float  # negative: the test codec needs fewer bits than the anchor
    psnr_db: tuple[float, float]  # the interval of the mean, in the unit of the measure if that is not PSNR
    bpp: tuple[float, float]  # the rates of the test codec at its two ends


@dataclass(frozen=True)
class BdPsnr:
    """A difference in PSNR and where it was measured."""

    db: float  # positive: the test codec is better than the anchor
    bpp: tuple[float, float]  # the interval of the mean
    psnr_db: tuple[float, float]  # of the test codec at its two ends


def bd_rate(
    anchor: Iterable[Point], test: Iterable[Point], bpp_range: tuple[float, float] | None = None, method: str = "pchip"
) -> BdRate | None:
    """:class:`BdRate` of ``test`` against ``anchor``, or None where the two cannot be compared.

    Args:
        anchor, test: points (bpp, psnr_db) in any order. Points that cost more than another one without being
            better are left out: they are no way to use the codec, and the curve has to rise.
        bpp_range: (low, high), rates of the *test* codec. Its curve turns them into a PSNR interval
            [PSNR(low), PSNR(high)]; where the curve begins above ``low`` or ends below ``high``, its end
            takes that place. The mean is then over the part of this interval that the anchor's curve covers
            too. Without it: over all PSNR that both cover.
        method: "pchip" or "akima".

    Returns:
        None when a curve has fewer than :data:`MIN_POINTS` usable points, or the intervals share no more than
        a point.
    """
    return rate_difference(rate_curve(anchor, method), rate_curve(test, method), bpp_range)


def bd_psnr(
    anchor: Iterable[Point], test: Iterable[Point], bpp_range: tuple[float, float] | None = None, method: str = "pchip"
) -> BdPsnr | None:
    """:class:`BdPsnr` of ``test`` against ``anchor``, or None where the two cannot be compared.

    Arguments and the reasons for None are those of :func:`bd_rate`, save that ``bpp_range`` is the interval
    of the mean itself, cut to what both curves cover.
    """
    return psnr_difference(psnr_curve(anchor, method), psnr_curve(test, method), bpp_range)


def rising_points(points: Iterable[Point]) -> list[Point]:
    """The points (bpp, psnr_db) by rising rate, without those that are no better than a cheaper one.

    Of several points at the same rate the best stays.
    """
    kept: list[Point] = []
    for bpp, psnr in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or psnr > kept[-1][1]:
            kept.append((bpp, psnr))
    return kept


def rate_curve(points: Iterable[Point], method: str = "pchip") -> Curve | None:
    """log10 of the rate as a function of PSNR, for :func:`rate_difference`; None for too few points."""
    points = rising_points(points)
    return Curve([(psnr, math.log10(bpp)) for bpp, psnr in points], method) if len(points) >= MIN_POINTS else None


def psnr_curve(points: Iterable[Point], method: str = "pchip") -> Curve | None:
    """PSNR as a function of log10 of the rate, for :func:`psnr_difference`; None for too few points."""
    points = rising_points(points)
    return Curve([(math.log10(bpp), psnr) for bpp, psnr in points], method) if len(points) >= MIN_POINTS else None


def rate_difference(
    anchor: Curve | None, test: Curve | None, bpp_range: tuple[float, float] | None = None
) -> BdRate | None:
    """:func:`bd_rate` of two :func:`rate_curve`, for callers that compare one curve several times."""
    if anchor is None or test is None:
        return None
    low, high = test.low, test.high
    if bpp_range is not None:
        low, high = (test.where(math.log10(bpp)) for bpp in bpp_range)
    low, high = max(low, anchor.low), min(high, anchor.high)
    if not low < high:
        return None
    difference = (test.integral(low, high) - anchor.integral(low, high)) / (high - low)
    return BdRate(100 * (10**difference - 1), (low, high), (10 ** test(low), 10 ** test(high)))


def psnr_difference(
    anchor: Curve | None, test: Curve | None, bpp_range: tuple[float, float] | None = None
) -> BdPsnr | None:
    """:func:`bd_psnr` of two :func:`psnr_curve`."""
    if anchor is None or test is None:
        return None
    low, high = max(test.low, anchor.low), min(test.high, anchor.high)
    if bpp_range is not None:
        low, high = max(low, math.log10(bpp_range[0])), min(high, math.log10(bpp_range[1]))
    if not low < high:
        return None
    difference = (test.integral(low, high) - anchor.integral(low, high)) / (high - low)
    return BdPsnr(difference, (10**low, 10**high), (test(low), test(high)))


class Curve:
    """A rising function through points (x, y) of rising x, by the interpolation ``method``."""

    def __init__(self, points: Sequence[Point], method: str = "pchip") -> None:
        from scipy.interpolate import Akima1DInterpolator, PchipInterpolator

        if method not in METHODS:
            raise ValueError(f"method {method!r} is none of {', '.join(METHODS)}")
        xs, self.ys = [x for x, _ in points], [y for _, y in points]
        self.low, self.high = xs[0], xs[-1]
        self.function: Any = {"pchip": PchipInterpolator, "akima": Akima1DInterpolator}[method](xs, self.ys)

    def __call__(self, x: float) -> float:
        return float(self.function(x))

    def integral(self, low: float, high: float) -> float:
        return float(self.function.integrate(low, high))

    def where(self, y: float) -> float:
        """The x at which the curve has this value; its nearer end outside of it."""
        if y <= self.ys[0]:
            return self.low
        if y >= self.ys[-1]:
            return self.high
        # Akima's curve may overshoot and pass a value three times: the first is as good as any.
        return float(self.function.solve(y, extrapolate=False)[0])


def interval(figures: Sequence[float | None]) -> tuple[float, float] | None:
    """The middle :data:`CONFIDENCE` of the bootstrap figures as (low, high): the percentile interval.

    Args:
        figures: one per resampling; None where the resampled curves cannot be compared.

    Returns:
        None where too many are missing, or there are none.

    Efron 1979, "Bootstrap methods: another look at the jackknife", Ann. Statist. 7(1).
    """
    import numpy as np

    defined = [figure for figure in figures if figure is not None]
    if not defined or len(defined) < MIN_DEFINED * len(figures):
        return None
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(defined, [tail, 100 - tail])
    return float(low), float(high)
