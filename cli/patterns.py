"""Braces in names: ``shard-{000..123}.tar``, ``{train,valid}/*.png``."""

from __future__ import annotations

import math
import re

from .common import Failure

MOST = 10_000_000  # names: more than any list of files
_INNERMOST = re.compile(r"\{([^{}]*)\}")


def braces(name: str) -> list[str]:
    """The names that one with braces stands for, in order; the name itself where it has none.

    ``{000..123}`` counts, upwards or downwards, in as many digits as its ends have; ``{a,b}`` lists. Several multiply,
    and may stand within each other. Braces that are neither stay.

    Raises:
        Failure: there are too many.
    """
    lists = [(match, words) for match in _INNERMOST.finditer(name) if (words := _listed(match[1]))]
    if not lists:
        return [name]
    if math.prod(len(words) for _, words in lists) > MOST:
        raise Failure(f"{name}: stands for more than {MOST:,} names")
    match, words = lists[0]
    return [each for word in words for each in braces(name[: match.start()] + word + name[match.end() :])]


def _listed(text):
    """What stands between two braces, as a sequence of words; empty where that is no list."""
    counted = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    if not counted:
        return text.split(",") if "," in text else ()
    first, last = int(counted[1]), int(counted[2])
    if abs(last - first) >= MOST:
        raise Failure(f"{{{text}}}: stands for more than {MOST:,} names")
    width = max(map(len, counted.groups())) if text.startswith("0") or counted[2].startswith("0") else 0
    step = 1 if last >= first else -1
    return [f"{number:0{width}}" for number in range(first, last + step, step)]
