"""The straight-through estimator in NumPy, without autograd: the plain statement of the idea.

Forward: replace each vector by the nearest codebook entry. Backward: hand the gradient on as if nothing had
happened. The PyTorch versions in :mod:`codec.quantise.ste` and :mod:`codec.quantise.codebook` agree with these in
tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def straight_through_quantise(z_e: ArrayLike, codebook: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Nearest codebook entries: ``(z_q, indices)``, (..., D) and int64 (...).

    Args:
        z_e: (..., D) what the encoder says.
        codebook: (K, D).

    The first of several entries at the same distance is taken.
    """
    z_e, codebook = np.asarray(z_e), np.asarray(codebook)
    least = np.full(z_e.shape[:-1], np.inf)
    indices = np.zeros(z_e.shape[:-1], np.int64)
    for k, entry in enumerate(codebook):  # all differences at once would take K times the memory of z_e
        distance = np.square(z_e - entry).sum(-1)
        nearer = distance < least
        least, indices = np.where(nearer, distance, least), np.where(nearer, k, indices)
    return codebook[indices], indices


def ste_backward(grad_output: np.ndarray) -> np.ndarray:
    """Gradient with respect to z_e, given that with respect to z_q: the same."""
    return grad_output


def clipped_ste_backward(grad_output: np.ndarray, x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Gradient with respect to x of ``clip(round(x), low, high)``: the same inside [low, high], zero outside."""
    return np.where((x >= low) & (x <= high), grad_output, 0.0)


def round_half_up(x: np.ndarray) -> np.ndarray:
    """Nearest integer, halves upwards; also where the dtype has no halves for ``x + 1/2``."""
    below = np.floor(x)
    return below + (x - below >= 0.5)


def commitment_loss(z_e: ArrayLike, z_q: np.ndarray, beta: float = 0.25) -> tuple[float, np.ndarray]:
    """``beta * mean((z_e - z_q)^2)`` and its gradient with respect to z_e; z_q is taken as constant.

    It pulls the encoder's vectors towards their entries; without it nothing keeps them near.
    """
    error = np.asarray(z_e) - z_q
    return beta * np.square(error).mean(), 2 * beta * error / error.size


def codebook_loss(z_e: np.ndarray, codebook: np.ndarray, indices: np.ndarray) -> tuple[float, np.ndarray]:
    """``mean((e - z_e)^2)`` over the chosen entries e, and its gradient with respect to the codebook (K, D).

    z_e is taken as constant: a step of gradient descent moves each entry towards the vectors that chose it.
    """
    error = codebook[indices] - z_e
    grad = np.zeros_like(codebook)
    np.add.at(grad, indices, 2 * error / error.size)
    return np.square(error).mean(), grad


def ema_update(
    codebook: np.ndarray,
    counts: np.ndarray,
    sums: np.ndarray,
    z_e: np.ndarray,
    indices: np.ndarray,
    decay: float = 0.99,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Moving averages in place of the codebook loss: new ``(codebook, counts, sums)``.

    Args:
        codebook: (K, D). counts: (K,) uses of each entry. sums: (K, D) of the vectors that chose it.
        z_e: (N, D). indices: (N,).

    Each entry becomes the average of the vectors that chose it (van den Oord et al. 2017, appendix A.1).
    """
    chosen = np.eye(len(codebook))[indices]  # (N, K)
    counts = decay * counts + (1 - decay) * chosen.sum(0)
    sums = decay * sums + (1 - decay) * chosen.T @ z_e
    return np.where(counts[:, None] > 0, sums / np.maximum(counts, 1e-12)[:, None], codebook), counts, sums
