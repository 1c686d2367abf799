"""The four passes over the latents: positions, and the walk.

Latents are coded in four passes over a quadtree of positions and channel groups (Li, Li, Lu 2023, arXiv:2302.14402):

    pass    position (even, even)  (even, odd)  (odd, even)  (odd, odd)
    0                  group 0        group 1      group 2     group 3       hyperprior only
    1                  group 3        group 2      group 1     group 0       + pass 0
    2                  group 1        group 0      group 3     group 2       + passes 0, 1
    3                  group 2        group 3      group 0     group 1       + passes 0, 1, 2

Group g holds the channels c with c mod 4 = g. Each pass knows every position in one more channel group, and each group
at the diagonal neighbours before the direct ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

GROUPS = 4
# At pass k, the position with parity bits p = 2 * (row % 2) + column % 2 belongs to group p ^ PASSES[k].
PASSES = (0, 3, 1, 2)
MEAN_UNIT = 16  # means are integers in 1/16 of a symbol


class Networks(Protocol):
    """h_s and the contexts, as :func:`walk` wants them; arrays are of the engine."""

    def begin(self, z_hat: Any, quality: Any, /) -> Any:
        """What is known before the first pass."""

    def predict(self, k: int, known: Any, quality: Any, /) -> tuple[Any, Any]:
        """Means in 1/16 of a symbol and table rows of pass k."""

    def learn(self, k: int, known: Any, part: Any, /) -> Any:
        """What is known after pass k."""


def positions(k: int) -> list[tuple[int, int]]:
    """(row, column) offsets of groups 0 to 3 at pass k."""
    return [divmod(group ^ PASSES[k], 2) for group in range(GROUPS)]


def take(y: np.ndarray, k: int) -> np.ndarray:
    """Pass k of latents (M, h, w), h and w even: (4, M/4, h/2, w/2), with the groups first."""
    return np.stack([y[g::GROUPS, i::2, j::2] for g, (i, j) in enumerate(positions(k))])


def place(part: np.ndarray, k: int, into: np.ndarray | None = None) -> np.ndarray:
    """Inverse of :func:`take`: (M, h, w), zero where other passes belong; or written into such an array."""
    _, channels, height, width = part.shape
    if into is None:
        into = np.zeros((GROUPS * channels, 2 * height, 2 * width), part.dtype)
    for g, (i, j) in enumerate(positions(k)):
        into[g::GROUPS, i::2, j::2] = part[g]
    return into


def split(y: np.ndarray) -> list[np.ndarray]:
    """The four passes of latents (M, h, w)."""
    return [take(y, k) for k in range(len(PASSES))]


def merge(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Inverse of :func:`split`."""
    y = place(parts[0], 0)
    for k, part in enumerate(parts[1:], 1):
        place(part, k, y)
    return y


def gather(features: np.ndarray, k: int) -> np.ndarray:
    """(C, h, w) -> (4, C, h/2, w/2): the features at the positions of groups 0 to 3 at pass k."""
    return np.stack([features[:, i::2, j::2] for i, j in positions(k)])


def walk(
    networks: Networks, z_hat: Any, quality: Any, symbols_of: Callable[[int, Any, Any], Any], lattice: bool = False
) -> list[Any]:
    """The latents, pass by pass; whoever walks says what the symbols of a pass are.

    Args:
        networks: h_s and the contexts, of any engine: ``begin(z_hat, quality)`` gives what is known before the first
            pass, ``predict(k, known, quality)`` means in 1/16 of a symbol and table rows of pass k, and
            ``learn(k, known, part)`` what is known after it.
        z_hat: side information, integers, as the networks of the engine take it.
        quality: hundredths.
        symbols_of: ``symbols_of(k, means, indexes) -> symbols`` of pass k, all of one shape. The encoder quantises
            and queues them, the decoder pulls them from the coder, the estimator sums bits, a counter returns zeros.
        lattice: means are whole symbols.

    Returns:
        list of the four passes of y_hat, in 1/16 of a symbol.

    The one place that knows the order of passes: encoder and decoder cannot differ in it.
    """
    known = networks.begin(z_hat, quality)
    parts = []
    for k in range(len(PASSES)):
        means, indexes = networks.predict(k, known, quality)
        if lattice:
            means = MEAN_UNIT * ((means + MEAN_UNIT // 2) // MEAN_UNIT)
        parts.append(symbols_of(k, means, indexes) * MEAN_UNIT + means)
        if k + 1 < len(PASSES):
            known = networks.learn(k, known, parts[k])
    return parts
