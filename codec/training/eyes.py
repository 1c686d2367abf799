"""Distortion as eyes see it: SSIMULACRA2 (:mod:`codec.evaluation.ssimulacra2`), differentiable, and its price in MSE.

Trained for mean squared error, a codec spends bits where the error is large and not where it is seen. SSIMULACRA2
follows people's opinions better than any other measure without learned features, and all of its parts have a
gradient: XYB, means and variances under a window at six scales, maps of similarity and of edges, norms.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ..errors import ModelError
from ..evaluation.ssimulacra2 import ABSORBANCE, BIAS, C2, FACTOR, MIN_SIDE, POLYNOMIAL, POWER, SCALES, WEIGHTS, window

if TYPE_CHECKING:
    from .model import TrainableModel


NEGLIGIBLE = 0.01  # channels with smaller weights at a scale are passed over: 0.01 of the score, half of the time


def ssimulacra2_loss(x: torch.Tensor, x_hat: torch.Tensor) -> torch.Tensor:
    """100 less the score of each picture: 0 for identical ones, 10 visually lossless, 30 high quality, 70 low.

    Args:
        x, x_hat: float (B, 3, H, W), nominally in [0, 1], sRGB; what is beyond is clipped. H and W multiples of 32
            and at least 32, as in a crop of training.

    Returns:
        float (B,), differentiable with respect to ``x_hat``; the reference's to 0.05, but for the rounding to 8 bits.
    """
    if x.shape != x_hat.shape or x.shape[2] % 2 ** (SCALES - 1) or x.shape[3] % 2 ** (SCALES - 1):
        raise ValueError(f"{tuple(x.shape)} and {tuple(x_hat.shape)}: one shape, and sides that are multiples of 32")
    with torch.autocast(x.device.type, enabled=False):
        one, two = (_linear(t.to(torch.promote_types(t.dtype, torch.float32))) for t in (x, x_hat))
        distance: Any = 0.0
        for scale, weights in enumerate(_weights(*x.shape[2:])):
            if scale:
                one, two = (nn.functional.avg_pool2d(t, 2) for t in (one, two))
            channels = [c for c in range(3) if weights[c].max() > NEGLIGIBLE]
            norms = _norms(*(_positive_xyb(t)[:, channels] for t in (one, two)))  # (B, channel, norm, map)
            distance = distance + FACTOR * (norms * torch.from_numpy(weights[channels]).to(norms)).sum((1, 2, 3))
        a, b, c = POLYNOMIAL
        distance = ((a * distance + b) * distance + c) * distance
        # The power has an infinite slope at 0, where pictures are identical.
        return 10 * distance.clamp_min(1e-6) ** POWER


class Eyes:
    """Distortion of which a share is SSIMULACRA2, in units of squared error, so that lambda means what it meant.

    What a point of the score is worth depends on the quality: here as much squared error as the model, as it is, gives
    up for it between one quality and the next. Rates then stay about where they were.

    Args:
        share: of the distortion, 0 to 1; the rest is mean squared error.
        price: float (knots,), squared error (on the scale of 0 to 255) of a point, at evenly spaced qualities from 0
            to 100.
    """

    def __init__(self, share: float, price: np.ndarray | torch.Tensor) -> None:
        self.share, self.price = share, torch.as_tensor(price, dtype=torch.float32)

    @classmethod
    def measured(cls, share: float, model: TrainableModel, x: torch.Tensor, knots: int = 9) -> Eyes:
        """Eyes with the prices of a trainable model on the pictures x (B, 3, H, W).

        Raises:
            ModelError: a higher quality is not better for eyes; such a model is to be trained for squared error first.
        """
        training = model.training
        model.eval()
        points = []
        with torch.no_grad():
            for quality in np.linspace(0, 100, knots).tolist():
                mse, loss = 0.0, 0.0
                for part in x.split(8):
                    x_hat, figures = model.reconstruct(part, torch.full((len(part),), quality, device=x.device))
                    mse += figures["mse"].sum().item() / len(x)
                    loss += ssimulacra2_loss(part, x_hat).sum().item() / len(x)
                points.append((mse, loss))
        model.train(training)
        errors, losses = np.array(points).T
        if (np.diff(losses) >= 0).any() or (np.diff(errors) >= 0).any():
            raise ModelError(
                "these weights are too young for eyes: a higher quality must look better; train without first"
            )
        return cls(share, np.gradient(errors) / np.gradient(losses))

    def __call__(
        self, x: torch.Tensor, x_hat: torch.Tensor, mse: torch.Tensor, quality: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """What belongs to the figures of a batch beside ``mse`` (B,): dict of float tensors (B,).

        ``ssimulacra2``, the score, and ``extra_mse``, what the distortion is beyond ``mse``.
        """
        loss = ssimulacra2_loss(x, x_hat)
        position = quality / 100 * (len(self.price) - 1)
        left = position.floor().clamp(max=len(self.price) - 2)
        log_price = self.price.to(x.device).log()
        price = torch.lerp(log_price[left.long()], log_price[left.long() + 1], position - left).exp()
        return {"ssimulacra2": 100 - loss, "extra_mse": self.share * (price * loss - mse)}


def _weights(height, width):
    """For each scale that a picture has: (channel, norm, map)."""
    scales = 1
    while scales < SCALES and min(height, width) >> (scales - 1) >= MIN_SIDE:
        scales += 1
    # In the reference's order, in which pictures with fewer scales use its first weights.
    return list(WEIGHTS.ravel()[: 18 * scales].reshape(3, scales, 2, 3).swapaxes(0, 1))


def _linear(x):
    """sRGB in [0, 1] -> linear light."""
    x = x.clamp(0, 1)
    return torch.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def _positive_xyb(linear):
    """(B, 3, H, W), shifted and stretched as the reference has it."""
    matrix = torch.from_numpy(ABSORBANCE).to(linear)
    cones = (torch.einsum("ij,bjhw->bihw", matrix, linear) + BIAS) ** (1 / 3) - BIAS ** (1 / 3)
    long, middle, short = cones.unbind(1)
    y = (long + middle) / 2
    return torch.stack([7 * (long - middle) + 0.42, y + 0.01, short - y + 0.55], 1)


def _norms(one, two):
    """(B, 3, 2, 3): channel, norm and map."""
    blurred = _blur(torch.stack([one, two, one * two, one * one, two * two]))
    mean1, mean2, product, square1, square2 = blurred.unbind(0)
    covariance = product - mean1 * mean2
    variances = (square1 - mean1 * mean1) + (square2 - mean2 * mean2)
    similarity = (1 - (mean1 - mean2) ** 2) * (2 * covariance + C2) / (variances + C2)
    edges = (1 + (two - mean2).abs()) / (1 + (one - mean1).abs()) - 1
    maps = torch.stack([1 - similarity, edges, -edges], 2).clamp_min(0)  # (B, 3, map, H, W)
    fourth = (maps**4).mean((3, 4))
    # Where nothing differs the root has no slope.
    return torch.stack([maps.mean((3, 4)), (fourth + 1e-28) ** 0.25], 2)


def _blur(t):
    """(..., H, W) under the window, zero beyond the border: two products with band matrices, fastest on a CPU."""
    return _band(t.shape[-2]).to(t) @ t @ _band(t.shape[-1]).to(t).T


@functools.cache
def _band(side):
    """(side, side): row i has the window around column i."""
    taps = window()
    matrix = np.zeros((side, side + len(taps) - 1))
    for i in range(side):
        matrix[i, i : i + len(taps)] = taps
    reach = len(taps) // 2
    return torch.from_numpy(matrix[:, reach : reach + side].copy())
