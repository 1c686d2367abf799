"""Estimators of the gradient through a quantiser, all with one interface.

Every problem has the form

    J(theta) = E loss(q(theta + noise))

with a hard quantiser q and noise whose density does not depend on theta: the spread of the data, a dither, or
Gumbel noise, with which ``argmax(logits + noise)`` is a draw from the softmax of the logits. An estimator is a
function

    estimator(loss, quantise, theta, noise, **settings) -> losses (...)

with ``loss``: (..., Q) -> (...); ``quantise``: (..., P) -> (..., Q); ``theta`` and ``noise``: (..., P), of which
``theta`` may lack leading dimensions. The result has the value of the loss, draw by draw, and its gradient with
respect to theta, from ``losses.mean().backward()``, is the estimate of the gradient of J.

    pathwise              differentiates loss and quantiser: straight-through and relaxed quantisers, noise
    score_function        REINFORCE: asks only for values of the loss; unbiased
    finite_differences    two values of the loss per parameter; the referee

:mod:`codec.quantise.ste` and :mod:`codec.quantise.rounding` hold quantisers for the first; those of a choice among
K are here. ``codec study gradients`` measures all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch

from .ste import one_hot_argmax, positive_temperature, sign, surrogate_gradient

Loss: TypeAlias = Callable[[torch.Tensor], torch.Tensor]  # (..., P) -> (...)
Quantise: TypeAlias = Callable[[torch.Tensor], torch.Tensor]  # of one shape


def pathwise(loss: Loss, quantise: Quantise, theta: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """``loss(quantise(theta + noise))``, differentiated as it stands.

    The gradient is that of the stand-in which ``quantise`` is: unbiased for the stand-in's own expected loss where
    it is a true function (uniform noise, soft rounding, Gumbel-softmax), a heuristic for a straight-through one.
    Through a hard quantiser it is zero.
    """
    return loss(quantise(theta + noise))


def score_function(
    loss: Loss,
    quantise: Quantise,
    theta: torch.Tensor,
    noise: torch.Tensor,
    score: torch.Tensor,
    baseline: Callable[[torch.Tensor], torch.Tensor | float] | None = None,
) -> torch.Tensor:
    """REINFORCE (Williams 1992): the loss times the gradient of the log-probability of the draw.

    Args:
        quantise: the hard quantiser; nothing is differentiated.
        score: (..., P), gradient with respect to theta of the log-density of ``theta + noise``, or of the
            log-probability of its quantised value: ``noise / sigma^2`` (:func:`gaussian_score`) or
            ``one_hot - softmax(logits)`` (:func:`categorical_score`).
        baseline: None, or losses (...) -> something to subtract from them that does not depend on the draw itself:
            :func:`leave_one_out`, or a :class:`MovingAverage`. It leaves the expectation alone and lowers the
            variance.

    The gradient is ``(loss - baseline) * score``: unbiased, also where the loss has no derivative.
    """
    with torch.no_grad():
        losses = loss(quantise(theta + noise))
        advantage = losses - (0.0 if baseline is None else baseline(losses))
    return with_gradient(losses, theta, advantage[..., None] * score)


def finite_differences(
    loss: Loss, quantise: Quantise, theta: torch.Tensor, noise: torch.Tensor, width: float
) -> torch.Tensor:
    """Central differences with common random numbers: both sides see the same noise.

    Args:
        quantise: the hard quantiser; nothing is differentiated.
        width: h > 0, the distance to either side.

    Raises:
        ValueError: the width is not positive.

    Entry i of the gradient is ``(loss(q(theta + h e_i + noise)) - loss(q(theta - h e_i + noise))) / 2 h``. Its
    expectation is the central difference of J, off by O(h^2); its variance grows as 1 / h, as a step of the
    staircase is met with a probability of order h and then counts 1 / h.
    """
    if not width > 0:
        raise ValueError(f"the width of differences must be positive, found {width}")
    with torch.no_grad():
        losses = loss(quantise(theta + noise))
        columns = []
        for i in range(noise.shape[-1]):
            shift = torch.zeros_like(noise)
            shift[..., i] = width
            up, down = (loss(quantise(theta + noise + sign * shift)) for sign in (1, -1))
            columns.append((up - down) / (2 * width))
    return with_gradient(losses, theta, torch.stack(columns, -1))


ESTIMATORS = {
    "pathwise": pathwise,
    "score_function": score_function,
    "finite_differences": finite_differences,
}


def with_gradient(losses: torch.Tensor, theta: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """``losses`` (...), with ``gradient`` (..., P) as their gradient with respect to ``theta``."""
    return losses.detach() + (gradient.detach() * (theta - theta.detach())).sum(-1)


# Scores and baselines


def gaussian_score(noise: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gradient of log N(z; theta, sigma^2) with respect to theta at ``z = theta + noise``."""
    return noise / sigma**2


def categorical_score(logits: torch.Tensor, choice: torch.Tensor) -> torch.Tensor:
    """Gradient of ``log softmax(logits)[k]`` with respect to the logits; ``choice`` is the one-hot k. (..., K)."""
    return choice - torch.softmax(logits, -1)


def leave_one_out(losses: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """For each draw, the mean loss of the others along ``dim``, which must hold two or more.

    Kool, van Hoof, Welling 2019, "Buy 4 REINFORCE samples, get a baseline for free!".
    """
    count = losses.shape[dim]
    if count < 2:
        raise ValueError("leave_one_out needs two draws or more")
    return (losses.sum(dim, keepdim=True) - losses) / (count - 1)


class MovingAverage:
    """Baseline from earlier calls: an exponential moving average of the mean loss; zero at the first call."""

    def __init__(self, decay: float = 0.99) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of an average is in [0, 1), not {decay}")
        self.decay, self.value, self.weight = decay, 0.0, 0.0

    def __call__(self, losses: torch.Tensor) -> float:
        before = self.value / self.weight if self.weight else 0.0
        self.value = self.decay * self.value + (1 - self.decay) * losses.detach().mean().item()
        self.weight = self.decay * self.weight + (1 - self.decay)
        return before


# Noise


def gaussian_noise(y: torch.Tensor, std: float = 12**-0.5, generator: torch.Generator | None = None) -> torch.Tensor:
    """``y + std * N(0, 1)``, reparameterised: ``dy = g``, and ``std`` may be a learned tensor.

    Kingma, Welling 2014, arXiv:1312.6114. The default has the variance of uniform noise of width 1.
    """
    return y + std * torch.randn(y.shape, dtype=y.dtype, device=y.device, generator=generator)


def gumbel_noise(
    shape: Sequence[int],
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Standard Gumbel noise: ``argmax(logits + noise)`` is a draw from softmax(logits)."""
    uniform = torch.rand(shape, dtype=dtype, device=device, generator=generator)
    limits = torch.finfo(uniform.dtype)
    return -torch.log(-torch.log(uniform.clamp(limits.tiny, 1 - limits.eps)))


# Choices among K


def softmax_relaxation(scores: torch.Tensor, temperature: float) -> torch.Tensor:
    """``softmax(scores / T)`` (..., K): a point inside the simplex for a corner of it.

    With scores that are logits plus Gumbel noise, the Gumbel-softmax or concrete distribution.
    """
    return torch.softmax(scores / positive_temperature(temperature), -1)


def argmax_straight_through(scores: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """One-hot argmax (..., K) with the gradient of ``softmax(scores / T)``.

    With scores that are logits plus Gumbel noise, the straight-through Gumbel-softmax.
    """
    return surrogate_gradient(one_hot_argmax(scores), softmax_relaxation(scores, temperature))


def gumbel_softmax(
    logits: torch.Tensor, temperature: float = 1.0, hard: bool = False, generator: torch.Generator | None = None
) -> torch.Tensor:
    """A relaxed draw (..., K) from softmax(logits); with ``hard`` a one-hot one that has its gradient.

    Jang, Gu, Poole 2017, arXiv:1611.01144; Maddison, Mnih, Teh 2017, arXiv:1611.00712. The gradient of the relaxed
    draw is the true one of its own expected loss, which tends to that of the hard draw as T -> 0 while the variance
    grows.
    """
    scores = logits + gumbel_noise(logits.shape, logits.dtype, logits.device, generator)
    return (argmax_straight_through if hard else softmax_relaxation)(scores, temperature)


def reinmax(
    logits: torch.Tensor,
    temperature: float = 1.0,
    choice: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """A one-hot draw (..., K) from softmax(logits) with a gradient of second order (Heun's method).

    Args:
        logits: float (..., K).
        temperature: T of the softmax that is averaged with the draw; 1 is the method of the paper, above it the
            variance is lower.
        choice: (..., K), a one-hot draw made elsewhere; drawn here unless given.
        generator: source of the draw.

    With p = softmax(logits), the draw D and m = (D + softmax(logits / T)) / 2, each as a distribution of which
    ``J(p) = diag(p) - p p^T`` is the Jacobian of the softmax: ``dlogits = 2 J(m) g - J(p) g / 2``. The
    straight-through estimator, J(p) g, is exact on average for losses that are linear in D, this one (T = 1) for
    quadratic ones as well. ReinMax: Liu et al. 2023, arXiv:2304.08612.
    """
    temperature = positive_temperature(temperature)
    if choice is None:
        choice = one_hot_argmax(logits + gumbel_noise(logits.shape, logits.dtype, logits.device, generator))
    p = torch.softmax(logits, -1)
    with torch.no_grad():
        middle = (choice + torch.softmax(logits / temperature, -1)) / 2
    # log(middle) as a constant, with the gradient of the logits: its softmax is middle, with the Jacobian there.
    shifted = torch.softmax((middle.log() - logits).detach() + logits, -1)
    return surrogate_gradient(choice, 2 * shifted - p / 2)


def categorical_kl(logits: torch.Tensor) -> torch.Tensor:
    """KL divergence of softmax(logits) from the uniform distribution over K entries, in nats: (..., K) -> (...).

    Between 0 and log K; the rate term of a discrete VAE with a uniform prior (Ramesh et al. 2021, arXiv:2102.12092).
    """
    log_p = torch.log_softmax(logits, -1)
    return (log_p.exp() * log_p).sum(-1) + math.log(logits.shape[-1])


def exponential_temperature(step: float, rate: float = 1e-4, lowest: float = 0.5, highest: float = 1.0) -> float:
    """Schedule of Jang et al. 2017: ``max(lowest, highest * exp(-rate * step))``.

    Raises:
        ValueError: ``lowest`` is not positive or above ``highest``, or ``rate`` negative.
    """
    if not 0 < lowest <= highest or not rate >= 0:
        raise ValueError(f"a schedule falls to a temperature above zero, not from {highest} to {lowest} at {rate}")
    return max(lowest, highest * math.exp(-rate * step))


# Signs


def tanh_relaxation(x: torch.Tensor, temperature: float) -> torch.Tensor:
    """``tanh(x / T)``: a smooth sign."""
    return torch.tanh(x / positive_temperature(temperature))


def sign_straight_through(x: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """-1 or +1 with the gradient of ``tanh(x / T)``."""
    return surrogate_gradient(sign(x), tanh_relaxation(x, temperature))
