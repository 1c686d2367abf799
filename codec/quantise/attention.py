"""Hard attention: each query reads the value at one position, and learns as if it had read them all."""

from __future__ import annotations

import torch

from .estimators import argmax_straight_through, gumbel_noise, softmax_relaxation


def hard_attention(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    temperature: float = 1.0,
    sample: bool = False,
    mask: torch.Tensor | None = None,
    soft: bool = False,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The value at the position whose key fits best: ``(result, weights)``, (..., Q, E) and (..., Q, K).

    Args:
        queries: float (..., Q, D).
        keys: float (..., K, D).
        values: float (..., K, E).
        temperature: T > 0 of the softmax that carries the gradient.
        sample: draw the position from the softmax of the scores (Gumbel noise) rather than take the best.
        mask: bool (..., Q, K), True where a query may look; at least one position for each.
        soft: read the relaxed mixture instead; ordinary attention where T = 1 and nothing is drawn.
        generator: source of the Gumbel noise.

    ``weights`` are one-hot. With scores ``s = q k^T / sqrt(D)`` and the gradient ``g`` of the result, the scores
    receive the gradient of ``softmax(s / T)`` under ``g v^T`` (straight-through; with ``sample`` the
    straight-through Gumbel-softmax, arXiv:1611.01144), and the value that was read receives ``g``. Hard attention:
    Xu et al. 2015, arXiv:1502.03044, who train it by the score function.

    A value that is not read is not in the result, not even as NaN times zero. Keys and values where no query may look,
    such as padding, may hold anything; the gradient of the scores asks for all others.

    Raises:
        ValueError: a query may look nowhere, or the temperature is not positive.
    """
    if mask is not None:
        if not mask.any(-1).all():
            raise ValueError("hard attention: a query may look at no position")
        nowhere = ~mask.any(-2)[..., None]  # (..., K, 1)
        keys, values = (torch.where(nowhere, torch.zeros_like(t), t) for t in (keys, values))
    scores = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5  # (..., Q, K)
    if sample:
        scores = scores + gumbel_noise(scores.shape, scores.dtype, scores.device, generator)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    if soft:
        weights = softmax_relaxation(scores, temperature)
        return weights @ values, weights
    weights = argmax_straight_through(scores, temperature)
    return _Read.apply(weights, values, mask), weights


class _Read(torch.autograd.Function):
    """``weights @ values`` for one-hot weights, by index: what is not read does not matter."""

    @staticmethod
    def forward(ctx, weights, values, mask):
        ctx.save_for_backward(weights, values, mask)
        leading = torch.broadcast_shapes(weights.shape[:-2], values.shape[:-2])
        index = weights.argmax(-1, keepdim=True)  # (..., Q, 1)
        index = index.expand(*leading, -1, values.shape[-1])
        return values.expand(*leading, -1, -1).gather(-2, index)

    @staticmethod
    def backward(ctx, grad_output):
        weights, values, mask = ctx.saved_tensors
        grad_weights = (grad_output @ values.transpose(-1, -2)).sum_to_size(weights.shape)
        if mask is not None:
            grad_weights = grad_weights.masked_fill(~mask, 0.0)
        grad_values = weights.transpose(-1, -2) @ grad_output
        return grad_weights, grad_values.sum_to_size(values.shape), None
