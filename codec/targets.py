"""A size or a fidelity instead of a quality: the quality that meets it, found in a few trials.

A trial compresses the picture at some quality, and for a fidelity decompresses it too. The logarithm of the size, PSNR
and SSIMULACRA2 are nearly straight over quality, so that a parabola through the last trials, read backwards, meets them
after three to five; where it does not fit, a bracket is closed by straight lines. The answer is the file of one of the
trials: what compressing at its quality gives.

The analysis transform has scales of its own for every quality, which is why it runs in each trial.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from .errors import CodecError
from .quality import QUALITY_MAX, QUALITY_UNIT

if TYPE_CHECKING:
    import numpy as np


TRIALS = 8  # at most
SMALLEST = 0.99  # share of a size that is filled, at least, where some quality does so
_TOLERANCES = {"psnr": 0.1, "ssimulacra2": 0.5}  # dB, points
# What a hundredth of quality is worth, for the step from the first trial to the second.
_SLOPES = {"size": 4.5e-4, "bpp": 4.5e-4, "psnr": 2.3e-3, "ssimulacra2": 8e-3}
_MARGIN = 0.9  # of a tolerance: other programs may measure a little differently
_UNITS = {"": 1, "b": 1, "kb": 10**3, "k": 10**3, "mb": 10**6, "m": 10**6, "gb": 10**9, "g": 10**9}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30}


@dataclass(frozen=True)
class Target:
    """What a file is to be.

    Attributes:
        kind: "size" (bytes), "bpp" (bits a pixel of the whole file), "psnr" (dB over RGB) or "ssimulacra2".
        value: size and bpp are upper limits, of which 99 % or more are used; PSNR is met within 0.1 dB, SSIMULACRA2
            within 0.5.
    """

    kind: str
    value: float

    def __str__(self) -> str:
        return {
            "size": f"{self.value:,.0f} bytes",
            "bpp": f"{self.value:g} bpp",
            "psnr": f"PSNR {self.value:g} dB",
            "ssimulacra2": f"SSIMULACRA2 {self.value:g}",
        }[self.kind]


def target_of(
    target_size: float | str | None = None,
    target_bpp: float | None = None,
    target_psnr: float | None = None,
    target_ssimulacra2: float | None = None,
) -> Target | None:
    """The one Target that is given, or None.

    Args:
        target_size: bytes, or text such as "200kB".

    Raises:
        ValueError: more than one of them, or a value that makes no sense.
    """
    size = parse_size(target_size) if isinstance(target_size, str) else target_size
    values = {"size": size, "bpp": target_bpp, "psnr": target_psnr, "ssimulacra2": target_ssimulacra2}
    given = {kind: value for kind, value in values.items() if value is not None}
    if not given:
        return None
    if len(given) > 1:
        raise ValueError("a picture can have one target: " + " or ".join(f"target_{kind}" for kind in given))
    ((kind, value),) = given.items()
    if not math.isfinite(value) or (kind != "ssimulacra2" and value <= 0) or (kind == "ssimulacra2" and value > 100):
        raise ValueError(f"target_{kind} of {value} makes no sense")
    return Target(kind, value)


def parse_size(text: str) -> int:
    """Bytes that a text means: ``200kB``, ``1.5 MB``, ``64KiB``, ``5000``; k is 1000, Ki is 1024.

    Raises:
        ValueError: it means none.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)\s*", text, re.IGNORECASE)
    if not found or found[2].lower() not in _UNITS or (size := int(float(found[1]) * _UNITS[found[2].lower()])) < 1:
        raise ValueError(f"{text!r} is no size such as 200kB, 1.5MB, 64KiB or 5000")
    return size


class Trial(NamedTuple):
    """What came of one quality.

    Attributes:
        quality: in hundredths.
        distance: from the target, 0 at it and rising with quality: a logarithm of a ratio, dB or points.
        reached: bytes, dB or points.
        data: the file.
    """

    quality: int
    distance: float
    reached: float
    data: bytes


def reach(
    target: Target, pixels: np.ndarray, compress: Callable[[int], bytes], decompress: Callable[[bytes], np.ndarray]
) -> bytes:
    """The file of a picture that meets a target.

    Args:
        target: Target.
        pixels: uint8 (H, W, 3), what fidelity is measured against.
        compress: quality in hundredths -> bytes of the file.
        decompress: such bytes -> uint8 (H, W, 3).

    Raises:
        CodecError: no quality meets it; says which comes nearest.
    """
    measure = functools.partial(_trial, target, pixels, compress, decompress)
    trials: dict[int, Trial] = {}
    quality: int | None = QUALITY_MAX // 2
    while quality is not None:
        trial = trials[quality] = measure(quality)
        if _meets(target, pixels, trial.reached):
            return trial.data
        quality = _next(target, list(trials.values())) if len(trials) < TRIALS else None
    return _nearest(target, pixels, list(trials.values()))


def _trial(
    target: Target,
    pixels: np.ndarray,
    compress: Callable[[int], bytes],
    decompress: Callable[[bytes], np.ndarray],
    quality: int,
) -> Trial:
    data = compress(quality)
    if target.kind in ("size", "bpp"):
        aim = (1 + SMALLEST) / 2 * _limit(target, pixels)
        return Trial(quality, math.log(len(data) / aim), len(data), data)
    reached = _metric(target)(pixels, decompress(data))
    if reached is None:
        raise CodecError("the picture is too small for SSIMULACRA2")
    return Trial(quality, reached - target.value, reached, data)


def _metric(target: Target) -> Callable[[np.ndarray, np.ndarray], float | None]:
    from .evaluation import metrics

    return metrics.psnr_db if target.kind == "psnr" else metrics.ssimulacra2


def _limit(target: Target, pixels: np.ndarray) -> float:
    """Bytes that a file may have."""
    height, width = pixels.shape[:2]
    return target.value if target.kind == "size" else target.value * height * width / 8


def _meets(target: Target, pixels: np.ndarray, reached: float) -> bool:
    if target.kind in ("size", "bpp"):
        return SMALLEST * _limit(target, pixels) <= reached <= _limit(target, pixels)
    return abs(reached - target.value) <= _MARGIN * _TOLERANCES[target.kind]


def _next(target: Target, trials: list[Trial]) -> int | None:
    """Quality of the next trial in hundredths, between those that are known to be too low and too high.

    None where there is none.
    """
    low = max((trial for trial in trials if trial.distance < 0), default=None)
    high = min((trial for trial in trials if trial.distance >= 0), default=None)
    bottom, top = (-1 if low is None else low.quality), (QUALITY_MAX + 1 if high is None else high.quality)
    if top - bottom < 2:
        return None
    near = sorted(trials, key=lambda trial: abs(trial.distance))[:3]
    if low is None or high is None:
        guess = _at_zero(near[:2])
        if guess is None:
            guess = near[0].quality - near[0].distance / _SLOPES[target.kind]
    else:
        guess = _between(low, high, trials)
        parabola = _at_zero(near) if len(near) == 3 else None
        if parabola is not None and abs(parabola - guess) < (top - bottom) / 4:  # else the curve is none, here
            guess = parabola
    return round(min(max(guess, bottom + 1, 0), top - 1, QUALITY_MAX))


def _between(low: Trial, high: Trial, trials: list[Trial]) -> float:
    """Where the line between two trials passes distance 0, an end that stays being drawn nearer (Illinois method).

    Dowell, Jarratt 1971, "A modified regula falsi method for computing the root of an equation".
    """
    side = trials[-1].distance < 0
    repeated = next((n for n, trial in enumerate(reversed(trials)) if (trial.distance < 0) != side), len(trials))
    weight = 0.5 ** max(repeated - 1, 0)
    under, over = (low.distance, high.distance * weight) if side else (low.distance * weight, high.distance)
    return low.quality + (high.quality - low.quality) * under / (under - over)


def _at_zero(trials: list[Trial]) -> float | None:
    """Where the polynomial through trials, quality over distance, passes distance 0; None where it tells nothing."""
    rising = sorted(trials)
    if len(trials) < 2 or any(one.distance >= two.distance for one, two in itertools.pairwise(rising)):
        return None
    guess = 0.0
    for one in trials:
        others = [other for other in trials if other is not one]
        guess += one.quality * math.prod(other.distance / (other.distance - one.distance) for other in others)
    return guess


def _nearest(target: Target, pixels: np.ndarray, trials: list[Trial]) -> bytes:
    """What to do where no trial has met the target: the largest file below a limit, if no quality comes nearer."""
    best = min(trials, key=lambda trial: abs(trial.distance))
    if target.kind in ("size", "bpp"):
        below = [trial for trial in trials if trial.reached <= _limit(target, pixels)]
        if below and max(below).quality < QUALITY_MAX:
            return max(below).data
        reached = f"takes {best.reached:,} bytes"
        if target.kind == "bpp":
            reached = f"takes {8 * best.reached / (pixels.shape[0] * pixels.shape[1]):.4g} bpp"
    elif abs(best.distance) <= _TOLERANCES[target.kind]:
        return best.data
    else:
        reached = f"has {best.reached:.2f}"
    raise CodecError(f"{target} cannot be reached: quality {best.quality / QUALITY_UNIT:g} {reached}")
