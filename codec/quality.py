"""Quality: hundredths of 0 to 100, the anchors that a model's tables belong to, and what lies between them.

A quality is an int in hundredths, 0 to 10000. A model has ``anchors`` tables of everything that depends on it, spread
evenly over that range; between two of them tables are mixed linearly. Where the mix falls is told by integers, so that
all engines agree on it. NumPy is loaded by what needs it alone, so that a header or a config can be read without.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Number = TypeVar("Number", float, "np.ndarray", "Tensor")

QUALITY_UNIT = 100  # hundredths in one step of the user's scale
QUALITY_MAX = 100 * QUALITY_UNIT
# In words: medium by SSIMULACRA2 (50), what is used without a word, visually lossless (90).
PRESETS = {"web": 40, "default": 50, "archive": 90}
# Of an encoder: 0 rounds, 1 looks for the best symbols, 2 decodes what it found and looks again.
EFFORT, EFFORT_MAX = 1, 2


def hundredths(quality: float | str) -> int:
    """A quality in [0, 100], or one of PRESETS, as an int in [0, 10000].

    Raises:
        ValueError: out of range, not a number, or no such word.
    """
    if isinstance(quality, str):
        if quality not in PRESETS:
            raise ValueError(f"quality {quality!r} is none of {', '.join(PRESETS)}, nor a number")
        quality = PRESETS[quality]
    if not 0 <= quality <= 100:
        raise ValueError(f"quality {quality} is not between 0 and 100")
    return round(quality * QUALITY_UNIT)


def checked_effort(effort: float) -> int:
    """An effort, 0 to EFFORT_MAX, as an int.

    Raises:
        ValueError: out of range, or no whole number.
    """
    if not 0 <= effort <= EFFORT_MAX or effort != int(effort):
        raise ValueError(f"effort {effort} is not a whole number from 0 to {EFFORT_MAX}")
    return int(effort)


def between(quality: int, anchors: int) -> tuple[int, int]:
    """``(left, weight)``: a quality lies ``weight`` / QUALITY_MAX of the way from anchor ``left`` to the next.

    Args:
        quality: int, hundredths. anchors: 2 or more.

    Returns:
        ints, 0 <= left <= anchors - 2, 0 <= weight <= QUALITY_MAX.
    """
    last = anchors - 1
    left = min(quality * last // QUALITY_MAX, last - 1)
    return left, quality * last - left * QUALITY_MAX


def position(quality: float, anchors: int) -> float:
    """Where a quality in hundredths lies between the anchors, as a float from 0 to anchors - 1."""
    return min(max(quality / QUALITY_MAX, 0.0), 1.0) * (anchors - 1)


def nearest(quality: int, anchors: int) -> int:
    """The anchor that is nearest to a quality in hundredths, the upper one of two."""
    return (quality * (anchors - 1) + QUALITY_MAX // 2) // QUALITY_MAX


def interpolate(table: np.ndarray, quality: int) -> np.ndarray:
    """Row of a float table (anchors, ...) at a quality in hundredths: float32 (...).

    ``torch.lerp`` to the last bit, where the processor has fused multiply-adds: the difference from the nearer end,
    added in one rounding.
    """
    import numpy as np

    left, weight = between(quality, len(table))
    start, end = table[left].astype(np.float32), table[left + 1].astype(np.float32)
    step, share = (end - start).astype(np.float64), np.float32(weight) / np.float32(QUALITY_MAX)
    mixed = start + step * share if share < 0.5 else end - step * (np.float32(1) - share)
    found: np.ndarray = mixed.astype(np.float32)
    return found


def interpolate_integers(table: np.ndarray, quality: int) -> np.ndarray:
    """Row of an integer table (anchors, C) at a quality in hundredths: int64 (C,), rounded floor(x + 1/2), exact."""
    if len(table) == 1:
        single: np.ndarray = table[0].astype("int64")
        return single
    left, weight = between(quality, len(table))
    mixed: np.ndarray = table[left].astype("int64") * (QUALITY_MAX - weight) + table[left + 1].astype("int64") * weight
    return (mixed + QUALITY_MAX // 2) // QUALITY_MAX


def lmbda(quality: Number, lmbda_min: float, lmbda_max: float) -> Number:
    """Rate-distortion trade-off at a quality in [0, 100] (number, array or tensor): logarithmic from min to max."""
    found: Number = lmbda_min * (lmbda_max / lmbda_min) ** (quality / 100)
    return found


def quality_of(trade_off: float, lmbda_min: float, lmbda_max: float) -> float:
    """Inverse of :func:`lmbda`, for a float."""
    return 100 * math.log(trade_off / lmbda_min) / math.log(lmbda_max / lmbda_min)
