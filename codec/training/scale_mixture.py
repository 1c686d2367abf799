"""The distribution of a latent whose scale was predicted, imperfectly: a Gaussian scale mixture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from compressai.entropy_models import GaussianConditional
from torch import nn

from ..latents.networks import SCALE_MIN
from ..quantise.weights import towards_range

# Measured on latents of a model that was trained with a plain Gaussian; a start, learned from there.
WEIGHTS, RATIOS = (0.24, 0.70, 0.06), (0.40, 1.0, 2.2)
# Rarer symbols than this are left to the tail bin of their row. It is the coder's smallest frequency: many symbols
# below it would take that much from the others, and the detour by the tail costs hardly more.
RAREST = 2.0**-16
LIKELIHOOD_MIN = 1e-9


class ScaleMixture(nn.Module):
    """p(r | sigma) = sum over j of w_j N(r; 0, (c_j sigma)^2), integrated over the unit interval around r.

    A network that predicts the scale of a latent is now too high and now too low, and a Gaussian, whose scale is taken
    at its word, pays for that. Weights w and ratios c are learned, for each context pass. They live in the CDF
    tables alone: coding costs the same as with one Gaussian.

    Wainwright, Simoncelli 1999, "Scale mixtures of Gaussians and the statistics of natural images"; the components
    are CompressAI's GaussianConditional (Balle et al. 2018, arXiv:1802.01436).

    Args:
        passes: number of context passes, each with a mixture of its own.
    """

    def __init__(self, passes: int) -> None:
        super().__init__()
        self.gaussian = GaussianConditional(None)
        self.log_weight = nn.Parameter(torch.tensor(WEIGHTS).log().repeat(passes, 1))
        self.log_ratio = nn.Parameter(torch.tensor(RATIOS).log().repeat(passes, 1))

    def widest(self) -> torch.Tensor:
        """Ratio of the widest component of each pass: float (passes,)."""
        return self.log_ratio.amax(1).exp()

    def bits(self, residual: torch.Tensor, scales: torch.Tensor, coded: torch.Tensor | None = None) -> torch.Tensor:
        """Bits of each picture, all passes in one call, with the gradient in closed form.

        Args:
            residual: float (passes, B, n), latents less their means, in symbols.
            scales: float of the same shape, the predicted sigma.
            coded: bool of the same shape, which elements count; None for all.

        Returns:
            float (B,).
        """
        return _MixtureBits.apply(residual, scales, self.log_weight.softmax(1), self.log_ratio.exp(), coded)

    def likelihood(self, residual: torch.Tensor, scales: torch.Tensor, k: int) -> torch.Tensor:
        """Probability of residuals at pass ``k``: float, the shape of ``residual``; from CompressAI, for the tables.

        Args:
            residual: float tensor, latents less their means, in symbols.
            scales: float tensor of the same shape, the predicted sigma.
        """
        weights, ratios = self.log_weight[k].softmax(0), self.log_ratio[k].exp()
        return sum(w * self.gaussian._likelihood(residual, c * scales) for w, c in zip(weights, ratios))

    @torch.no_grad()
    def tables(self, scales: Sequence[float], limit: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """CDF rows for CompressAI's coder, a row for each scale of pass 0, then of pass 1, and so on.

        Args:
            scales: list of predicted scales.
            limit: no row reaches beyond this magnitude.

        Returns:
            ``(cdf, lengths, offsets)``, int32, as :class:`codec.latents.rans.Tables` takes them.
        """
        device = self.log_ratio.device
        column = torch.tensor(scales, device=device)[:, None]
        symbols = torch.arange(-limit, limit + 1.0, device=device)[None]
        wide = symbols.expand(len(column), -1), column.expand(-1, 2 * limit + 1)
        return coder_rows(torch.cat([self.likelihood(*wide, k).double() for k in range(len(self.log_ratio))]), limit)


@torch.no_grad()
def coder_rows(pmf: torch.Tensor, limit: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """CDF rows of distributions.

    Args:
        pmf: float64 (rows, 2 limit + 1), probabilities of the symbols -limit to limit.

    Returns:
        ``(cdf, lengths, offsets)``, int32, as :class:`codec.latents.rans.Tables` takes them.
    """
    rows, lengths, offsets = [], [], []
    gaussian = GaussianConditional(None)
    last = (torch.maximum(pmf[:, limit + 1 :], pmf[:, :limit].flip(1)) > RAREST).cumsum(1).argmax(1) + 1
    for row, n in zip(pmf, last.tolist()):
        row = row[limit - n : limit + n + 1]
        tail = (1 - row.sum()).clamp_min(0)
        cdf = gaussian._pmf_to_cdf(row[None].float(), tail[None, None].float(), [2 * n + 1], 2 * n + 1)
        rows.append(cdf[0])
        lengths.append(2 * n + 3)
        offsets.append(-n)
    return torch.cat(rows).int(), torch.tensor(lengths, dtype=torch.int32), torch.tensor(offsets, dtype=torch.int32)


class _MixtureBits(torch.autograd.Function):
    """Autograd through the mixture keeps a dozen tensors of the size of y for each component; this keeps two.

    Scales below SCALE_MIN count as that, and pass the gradient where it would raise them, as CompressAI's LowerBound.
    """

    @staticmethod
    def forward(ctx, residual, scales, weights, ratios, coded):
        a = residual.abs()
        total, to_a, to_scale = torch.zeros_like(a), torch.zeros_like(a), torch.zeros_like(a)
        parts = []
        for j in range(weights.shape[1]):
            w, c = weights[:, j, None, None], ratios[:, j, None, None]
            wanted = scales * c
            s = wanted.clamp_min(SCALE_MIN)
            upper, lower = (a - 0.5) / s, (a + 0.5) / s
            p = 0.5 * (torch.erfc(upper * 0.5**0.5) - torch.erfc(lower * 0.5**0.5))
            density_u = (-0.5 * upper.square()).exp_().mul_((2 * math.pi) ** -0.5)
            density_l = (-0.5 * lower.square()).exp_().mul_((2 * math.pi) ** -0.5)
            to_s = (density_u * upper - density_l * lower) / s
            to_s = towards_range(to_s, s - wanted)
            total.addcmul_(p, w)
            to_a.add_((density_l - density_u) / s * w)
            to_scale.addcmul_(to_s, w * c)
            parts.append((p, to_s * scales * w))
        total.clamp_min_(LIKELIHOOD_MIN)
        if coded is not None:
            total = torch.where(coded, total, 1.0)
        factor = -1 / (math.log(2) * total)
        if coded is not None:
            factor = torch.where(coded, factor, 0.0)
        to_weights = torch.stack([(factor * p).sum(2) for p, _ in parts], 2)  # (P, B, J)
        to_ratios = torch.stack([(factor * t).sum(2) for _, t in parts], 2)
        ctx.save_for_backward(factor * to_a * residual.sign(), factor * to_scale, to_weights, to_ratios)
        return -total.log2_().sum((0, 2))

    @staticmethod
    def backward(ctx, grad):
        to_residual, to_scales, to_weights, to_ratios = ctx.saved_tensors
        g = grad[None, :, None]
        return to_residual * g, to_scales * g, (to_weights * g).sum(1), (to_ratios * g).sum(1), None
