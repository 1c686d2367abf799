"""Hard attention: each query reads the value at one position, and learns as if it had read them all."""

from .estimators import argmax_straight_through, gumbel_noise, softmax_relaxation


def hard_attention(queries, keys, values, temperature=1.0, sample=False, mask=None, soft=False, generator=None):
    """The value at the position whose key fits best: ``(result, weights)``, (..., Q, E) and (..., Q, K).

    Args:
        queries: float (..., Q, D).
        keys: float (..., K, D).
        values: float (..., K, E).
        temperature: T of the softmax that carries the gradient.
        sample: draw the position from the softmax of the scores (Gumbel noise) rather than take the best.
        mask: bool (..., Q, K), True where a query may look; at least one position for each.
        soft: read the relaxed mixture instead; ordinary attention where T = 1 and nothing is drawn.
        generator: source of the Gumbel noise.

    ``weights`` are one-hot. With scores ``s = q k^T / sqrt(D)`` and the gradient ``g`` of the result, the scores
    receive the gradient of ``softmax(s / T)`` under ``g v^T`` (straight-through; with ``sample`` the
    straight-through Gumbel-softmax, arXiv:1611.01144), and the value that was read receives ``g``. Hard attention:
    Xu et al. 2015, arXiv:1502.03044, who train it by the score function.
    """
    scores = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5  # (..., Q, K)
    if sample:
        scores = scores + gumbel_noise(scores.shape, scores.dtype, scores.device, generator)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = (softmax_relaxation if soft else argmax_straight_through)(scores, temperature)
    return weights @ values, weights
