"""Bjontegaard's delta rate: how many per cent more bits one codec spends than another for the same PSNR.

    percent = 10 ^ ( mean over PSNR of [ log10 R_test(PSNR) - log10 R_anchor(PSNR) ] ) - 1

Negative is better. ``log10 R(PSNR)`` runs through the measured points as a piecewise cubic Hermite polynomial
(PCHIP: it never overshoots between points, which a single cubic does). The mean is taken over the PSNR
range that both curves cover; nothing is extrapolated. Over that whole range the figure is that of the
library ``bjontegaard`` (method "pchip"); this module adds the parts of the range.

Bjontegaard 2001, VCEG-M33; PCHIP instead of one cubic: common test conditions of HEVC, JCTVC-L1100; how
much the interpolation matters: Herglotz et al. 2022, arXiv:2202.12565.
"""

import math
from dataclasses import dataclass

MIN_POINTS = 4  # the number that the method was defined for; fewer leave the shape of the curve to chance


@dataclass(frozen=True)
class BdRate:
    """A difference in rate and where it was measured."""

    percent: float  # negative: the test codec needs fewer bits than the anchor
    psnr_db: tuple[float, float]  # the interval of the mean
    bpp: tuple[float, float]  # the rates of the test codec at its two ends


def bd_rate(anchor, test, bpp_range=None):
    """:class:`BdRate` of ``test`` against ``anchor``, or None where the two cannot be compared.

    Args:
        anchor, test: points (bpp, psnr_db) in any order. Points that cost more than another one without being
            better are left out: they are no way to use the codec, and the curve has to rise.
        bpp_range: (low, high), rates of the *test* codec. Its curve turns them into a PSNR interval
            [PSNR(low), PSNR(high)]; where the curve begins above ``low`` or ends below ``high``, its end
            takes that place. The mean is then over the part of this interval that the anchor's curve covers
            too. Without it: over all PSNR that both cover.

    Returns:
        None when a curve has fewer than :data:`MIN_POINTS` usable points, or the intervals share no more than
        a point.
    """
    anchor, test = _Curve.through(anchor), _Curve.through(test)
    if anchor is None or test is None:
        return None
    low, high = test.psnr_low, test.psnr_high
    if bpp_range is not None:
        low, high = (test.psnr_at(bpp) for bpp in bpp_range)
    low, high = max(low, anchor.psnr_low), min(high, anchor.psnr_high)
    if not low < high:
        return None
    difference = (test.integral(low, high) - anchor.integral(low, high)) / (high - low)
    return BdRate(100 * (10**difference - 1), (low, high), (test.bpp_at(low), test.bpp_at(high)))


def rising_points(points):
    """The points (bpp, psnr_db) by rising rate, without those that are no better than a cheaper one.

    Of several points at the same rate the best stays.
    """
    kept = []
    for bpp, psnr in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or psnr > kept[-1][1]:
            kept.append((bpp, psnr))
    return kept


class _Curve:
    """log10 of the rate as a function of PSNR."""

    def __init__(self, points):
        from scipy.interpolate import PchipInterpolator

        self.points = points
        self.psnr_low, self.psnr_high = points[0][1], points[-1][1]
        psnrs, log_rates = zip(*((psnr, math.log10(bpp)) for bpp, psnr in points))
        self.log_rate = PchipInterpolator(psnrs, log_rates)

    @classmethod
    def through(cls, points):
        points = rising_points(points)
        return cls(points) if len(points) >= MIN_POINTS else None

    def integral(self, low, high):
        return float(self.log_rate.integrate(low, high))

    def bpp_at(self, psnr):
        return 10 ** float(self.log_rate(psnr))

    def psnr_at(self, bpp):
        """PSNR where the curve has this rate; its nearer end outside of it."""
        from scipy.optimize import brentq

        if bpp <= self.points[0][0]:
            return self.psnr_low
        if bpp >= self.points[-1][0]:
            return self.psnr_high
        log_rate = math.log10(bpp)
        return brentq(lambda psnr: float(self.log_rate(psnr)) - log_rate, self.psnr_low, self.psnr_high)
