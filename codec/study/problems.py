"""Small problems of which the gradient through a quantiser is known.

All have the form ``J(theta) = E loss(q(theta + noise))`` (:mod:`codec.quantise.estimators`). The derivative of
``loss(q(.))`` itself is zero wherever it exists, so it can be no target; J is smooth, because the noise carries
theta over the steps of q with probabilities that change smoothly (uniform noise: but for kinks). Each problem
states J in closed form, up to a quadrature in one case, as a function that autograd differentiates: its gradient is
what is called the truth. Central differences of the closed form, and Monte Carlo means of the loss, referee it in
tests.

A problem consists of several instances side by side (dimension G), drawn once from a seed; its gradient is that of
the sum over instances, so that figures do not hang on the accident of one point. Everything is float64.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..quantise import estimators as est
from ..quantise.rounding import LATENT_QUANTISERS, soft_round
from ..quantise.ste import (
    argmax_ste,
    nearest,
    nearest_ste,
    one_hot_argmax,
    rotation_trick,
    round_half_up,
    sign,
    sign_ste,
    stochastic_binary_ste,
    stochastic_round_ste,
    surrogate_gradient,
)

DTYPE = torch.float64
INSTANCES = 32
TEMPERATURES = (0.05, 0.1, 0.2, 0.5, 1.0)
CATEGORICAL_TEMPERATURES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
WIDTHS = (0.05, 0.25)  # of finite differences


@dataclass(frozen=True)
class Estimator:
    """One estimator of the gradient, with its setting.

    Attributes:
        name: of the estimator.
        losses: (loss, theta, noise, generator) -> (R, S, G), for ``theta`` and ``noise`` (R, S, G, P): R estimates
            from S samples each. The gradient of their sum with respect to theta is that of every sample.
        symbol, value: of the setting: T, a temperature; h, the width of differences; beta, a commitment; or none.
        least: smallest S. joint: samples of one estimate depend on each other.
    """

    name: str
    losses: Callable
    symbol: str = ""
    value: float | None = None
    least: int = 1
    joint: bool = False

    @property
    def setting(self) -> str:
        return "" if self.value is None else f"{self.symbol} = {self.value:g}"


class Problem:
    """One problem with one kind of noise.

    Attributes:
        name: of the family, and of its page in the table.
        noise: what the expectation is over, in words; :attr:`sigma` its width where it has one.
        theta: float64 (G, P), the point at which gradients are taken.
    """

    name = noise = ""
    sigma: float | None = None
    theta: torch.Tensor
    loss: est.Loss

    def expected_loss(self, theta: torch.Tensor) -> torch.Tensor:
        """J(theta), summed over instances: scalar, differentiable."""
        raise NotImplementedError

    def sample_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        """(*shape, G, P)."""
        raise NotImplementedError

    def sample_loss(self, shape: tuple[int, ...], generator: torch.Generator) -> est.Loss | None:
        """The loss (..., G, Q) -> (..., G) of draws of this shape; with its own data where it has some."""
        return self.loss

    def quantise(self, z: torch.Tensor, /) -> torch.Tensor:
        """The hard quantiser."""
        raise NotImplementedError

    def score(self, noise: torch.Tensor) -> torch.Tensor | None:
        """Gradient of the log-probability of a draw, as of :func:`score_function`; None where there is none."""
        return est.gaussian_score(noise, self.sigma) if self.sigma else None

    def stand_ins(self) -> list[Estimator]:
        """The pathwise estimators, a list of :class:`Estimator`."""
        raise NotImplementedError

    @torch.enable_grad()
    def truth(self) -> torch.Tensor:
        """Gradient of the expected loss, float64 (G, P)."""
        theta = self.theta.clone().requires_grad_()
        return torch.autograd.grad(self.expected_loss(theta), theta)[0]

    def estimators(self) -> list[Estimator]:
        """All that apply to the problem, a list of :class:`Estimator`."""
        return [Estimator("autograd", self._pathwise(self.quantise)), *self.stand_ins(), *self._referees()]

    def _referees(self):
        """Those that ask only for values of the loss."""
        found = []
        if self.score(torch.zeros_like(self.theta)) is not None:
            plain, lower = (functools.partial(self._score_function, b) for b in (None, _leave_one_out))
            found.append(Estimator("score function", plain))
            found.append(Estimator("score function, baseline", lower, least=2, joint=True))
        for width in WIDTHS:
            found.append(Estimator("finite differences", functools.partial(self._differences, width), "h", width))
        return found

    def _pathwise(self, quantise):
        return lambda loss, theta, noise, generator: est.pathwise(loss, quantise, theta, noise)

    def _at_temperatures(self, name, quantise, temperatures):
        return [
            Estimator(name, self._pathwise(functools.partial(quantise, temperature=t)), "T", t) for t in temperatures
        ]

    def _score_function(self, baseline, loss, theta, noise, generator):
        score = self.score(noise)
        assert score is not None  # or it is not asked for
        return est.score_function(loss, self.quantise, theta, noise, score, baseline)

    def _differences(self, width, loss, theta, noise, generator):
        return est.finite_differences(loss, self.quantise, theta, noise, width)


def _leave_one_out(losses):
    return est.leave_one_out(losses, dim=1)  # (R, S, G)


def _normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=DTYPE)


# Rounded latents


class Quadratic:
    """``|q - t|^2`` of latents (..., G, P) to fixed targets; no rate."""

    name = "latents, quadratic"

    def __init__(self, generator: torch.Generator, y: torch.Tensor) -> None:
        self.target = y + 0.6 * _normal(generator, *y.shape)

    def distortion(self, q: torch.Tensor) -> torch.Tensor:
        return (q - self.target).square().sum(-1)

    def rate(self, q: torch.Tensor) -> torch.Tensor:
        return q.new_zeros(())


class Decoder:
    """``4 |x - g(q)|^2`` + bits of q: a small codec, with 6 outputs ``g(q) = W2 tanh(W1 q)``.

    The bits are those of integers under a normal prior of deviation 1.5, continued to all real q as in training:
    ``-log2(Phi((q + 1/2) / 1.5) - Phi((q - 1/2) / 1.5))``.
    """

    name = "latents, decoder and rate"

    def __init__(self, generator: torch.Generator, y: torch.Tensor) -> None:
        groups, latents = y.shape
        self.w1 = 0.5 * _normal(generator, groups, 8, latents)
        self.w2 = _normal(generator, groups, 6, 8) / 8**0.5
        self.x = self._g(y + 0.6 * _normal(generator, *y.shape))

    def _g(self, q):
        hidden = torch.tanh(torch.einsum("ghp,...gp->...gh", self.w1, q))
        return torch.einsum("goh,...gh->...go", self.w2, hidden)

    def distortion(self, q: torch.Tensor) -> torch.Tensor:
        return 4 * (self.x - self._g(q)).square().sum(-1)

    def rate(self, q: torch.Tensor) -> torch.Tensor:
        tail = -q.abs()  # differences of small numbers: no cancellation
        mass = torch.special.ndtr((tail + 0.5) / 1.5) - torch.special.ndtr((tail - 0.5) / 1.5)
        return -mass.clamp_min(1e-300).log2().sum(-1)


class Latents(Problem):
    """Three latents, rounded: noise is the spread of the data, normal or uniform.

    J by enumeration: the coordinates are independent, integer k has the probability
    ``F(k + 1/2 - y) - F(k - 1/2 - y)``, and all triples within eight deviations of y are summed.
    """

    LATENTS = 3

    def __init__(
        self,
        objective: type[Quadratic] | type[Decoder],
        sigma: float | None = None,
        seed: int = 0,
        instances: int = INSTANCES,
    ) -> None:
        """``sigma``: deviation of normal noise; None: uniform noise in [-1/2, 1/2)."""
        generator = torch.Generator().manual_seed(seed)
        self.theta = 1.5 * _normal(generator, instances, self.LATENTS)
        self.objective = objective(generator, self.theta)
        self.name, self.sigma = objective.name, sigma
        self.noise = f"normal, sigma = {sigma:g}" if sigma else "uniform, width 1"

    quantise = staticmethod(round_half_up)

    def loss(self, q: torch.Tensor) -> torch.Tensor:
        return self.objective.rate(q) + self.objective.distortion(q)

    def sample_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        if self.sigma:
            return self.sigma * _normal(generator, *shape, *self.theta.shape)
        return torch.rand(*shape, *self.theta.shape, generator=generator, dtype=DTYPE) - 0.5

    def _cdf(self, x):
        return torch.special.ndtr(x / self.sigma) if self.sigma else (x + 0.5).clamp(0, 1)

    def expected_loss(self, theta: torch.Tensor) -> torch.Tensor:
        reach = math.ceil(8 * self.sigma if self.sigma else 0.5) + 1
        k = torch.arange(-reach, reach + 1, dtype=DTYPE) + round_half_up(theta.detach())[..., None]  # (G, P, K)
        edge = theta[..., None]
        p = self._cdf(k + 0.5 - edge) - self._cdf(k - 0.5 - edge)
        total = theta.new_zeros(())
        for i in range(k.shape[-1]):  # one slab at a time bounds the memory
            q = torch.stack(
                [part.expand(len(k), k.shape[-1], k.shape[-1]) for part in
                 (k[:, 0, i, None, None], k[:, 1, :, None], k[:, 2, None, :])], -1,
            )  # (G, K, K, 3)  # fmt: skip
            losses = self.loss(q.permute(1, 2, 0, 3))  # (K, K, G)
            total = total + torch.einsum("g,gj,gk,jkg->", p[:, 0, i], p[:, 1], p[:, 2], losses)
        return total

    def stand_ins(self) -> list[Estimator]:
        found = []
        for name, kind in LATENT_QUANTISERS.items():
            if isinstance(self.objective, Quadratic) and name == "mixed":
                continue  # without a rate it is the STE
            for temperature in TEMPERATURES if kind.temperatures else (None,):
                found.append(Estimator(name, functools.partial(self._latents, kind, temperature), "T", temperature))
        found.append(Estimator("stochastic rounding", self._stochastic_rounding))
        found += self._at_temperatures("soft, without noise", soft_round, TEMPERATURES)
        found.append(Estimator("normal noise", self._normal_noise))
        return found

    def _normal_noise(self, loss, theta, noise, generator):
        return est.pathwise(loss, functools.partial(est.gaussian_noise, generator=generator), theta, noise)

    def _stochastic_rounding(self, loss, theta, noise, generator):
        # Uniform noise is what makes rounding stochastic: there the draw is the problem's own, not a second one.
        y = theta + noise if self.sigma else theta
        return loss(stochastic_round_ste(y, generator))

    def _latents(self, kind, temperature, loss, theta, noise, generator):
        quantiser, y = kind(), theta + noise
        quantiser.temperature = temperature
        rate = self.objective.rate(quantiser.for_rate(y, generator))
        return rate + self.objective.distortion(quantiser.for_synthesis(y, generator))


# A choice among K


class Choice(Problem):
    """One of eight codebook entries, drawn from softmax(logits), through a decoder: ``|x - W2 tanh(W1 e)|^2``.

    Noise is Gumbel noise on the logits, q the one-hot argmax. J = sum_k softmax(logits)_k loss_k, exactly.
    """

    name, noise = "choice among 8", "Gumbel"

    def __init__(self, seed: int = 0, instances: int = INSTANCES, codes: int = 8, dim: int = 4) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.theta = _normal(generator, instances, codes)
        self.entries = _normal(generator, instances, codes, dim)
        self.w1 = _normal(generator, instances, 8, dim) / dim**0.5
        self.w2 = _normal(generator, instances, 6, 8) / 8**0.5
        self.x = self._decode(F.one_hot(torch.randint(codes, (instances,), generator=generator), codes).to(DTYPE))

    quantise = staticmethod(one_hot_argmax)

    def _decode(self, weights):
        e = torch.einsum("...gk,gkd->...gd", weights, self.entries)
        hidden = torch.tanh(torch.einsum("ghd,...gd->...gh", self.w1, e))
        return torch.einsum("goh,...gh->...go", self.w2, hidden)

    def loss(self, weights: torch.Tensor) -> torch.Tensor:
        return (self.x - self._decode(weights)).square().sum(-1)

    def sample_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        return est.gumbel_noise((*shape, *self.theta.shape), DTYPE, generator=generator)

    def score(self, noise: torch.Tensor) -> torch.Tensor:
        return est.categorical_score(self.theta, self.quantise(self.theta + noise))

    def expected_loss(self, theta: torch.Tensor) -> torch.Tensor:
        corners = torch.eye(theta.shape[-1], dtype=DTYPE)[:, None].expand(-1, len(theta), -1)
        return (torch.softmax(theta, -1) * self.loss(corners).T).sum()

    def stand_ins(self) -> list[Estimator]:
        return [
            Estimator("STE, identity", self._pathwise(argmax_ste)),
            Estimator("STE, softmax", self._softmax_ste),
            *self._at_temperatures("Gumbel-softmax", est.softmax_relaxation, CATEGORICAL_TEMPERATURES),
            *self._at_temperatures("Gumbel-softmax, STE", est.argmax_straight_through, CATEGORICAL_TEMPERATURES),
            *(Estimator("ReinMax", functools.partial(self._reinmax, t), "T", t) for t in (1.0, 2.0)),
        ]

    def _reinmax(self, temperature, loss, theta, noise, generator):
        return loss(est.reinmax(theta, temperature, self.quantise(theta + noise)))

    def _softmax_ste(self, loss, theta, noise, generator):
        """A hard draw with the gradient of softmax(logits), which does not depend on the draw."""
        return loss(surrogate_gradient(self.quantise(theta + noise), torch.softmax(theta, -1).expand_as(noise)))


# Binary neurons


class BinaryNeurons(Problem):
    """Six stochastic binary neurons through a decoder: ``|x - W2 tanh(W1 b)|^2``, b_i = 1 with P = sigmoid(logit_i).

    Noise is logistic, q the step at zero: ``logit + noise > 0`` has that probability. J by enumeration of the 64
    states, exactly. The problem of Bengio, Leonard, Courville 2013, arXiv:1308.3432.
    """

    name, noise = "binary neurons", "logistic"
    NEURONS = 6

    def __init__(self, seed: int = 0, instances: int = INSTANCES) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.theta = _normal(generator, instances, self.NEURONS)
        self.w1 = _normal(generator, instances, 8, self.NEURONS) / self.NEURONS**0.5
        self.w2 = _normal(generator, instances, 6, 8) / 8**0.5
        self.x = self._decode(self.quantise(_normal(generator, instances, self.NEURONS)))

    @staticmethod
    def quantise(z: torch.Tensor) -> torch.Tensor:
        return (z > 0).to(z.dtype)

    def _decode(self, b):
        hidden = torch.tanh(torch.einsum("ghp,...gp->...gh", self.w1, b))
        return torch.einsum("goh,...gh->...go", self.w2, hidden)

    def loss(self, b: torch.Tensor) -> torch.Tensor:
        return (self.x - self._decode(b)).square().sum(-1)

    def sample_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        up, down = (est.gumbel_noise((*shape, *self.theta.shape), DTYPE, generator=generator) for _ in range(2))
        return up - down

    def score(self, noise: torch.Tensor) -> torch.Tensor:
        return self.quantise(self.theta + noise) - torch.sigmoid(self.theta)

    def expected_loss(self, theta: torch.Tensor) -> torch.Tensor:
        states = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=DTYPE)] * self.NEURONS)[:, None]  # (64, 1, P)
        up = torch.sigmoid(theta)
        probability = torch.where(states > 0, up, 1 - up).prod(-1)  # (64, G)
        return (probability * self.loss(states.expand(-1, len(theta), -1))).sum()

    def stand_ins(self) -> list[Estimator]:
        found = [Estimator("STE, deterministic", self._deterministic)]
        for slope in ("identity", "sigmoid"):
            found.append(Estimator(f"STE, {slope}", functools.partial(self._neurons, slope)))
        found += self._at_temperatures("concrete", _logistic, CATEGORICAL_TEMPERATURES)
        found += self._at_temperatures("concrete, STE", self._concrete_ste, CATEGORICAL_TEMPERATURES)
        found.append(Estimator("ReinMax", self._reinmax, "T", 1.0))
        return found

    def _deterministic(self, loss, theta, noise, generator):
        """The likelier state, which knows nothing of the noise, with the gradient of the identity."""
        return loss(surrogate_gradient(self.quantise(theta), theta))

    def _neurons(self, slope, loss, theta, noise, generator):
        return loss(stochastic_binary_ste(theta, slope, generator))

    def _concrete_ste(self, scores, temperature):
        return surrogate_gradient(self.quantise(scores), _logistic(scores, temperature))

    def _reinmax(self, loss, theta, noise, generator):
        """A choice between two, with the logits of the neuron and of zero."""
        up = self.quantise(theta + noise)
        logits = torch.stack([theta, torch.zeros_like(theta)], -1)
        return loss(est.reinmax(logits, choice=torch.stack([up, 1 - up], -1))[..., 0])


def _logistic(scores, temperature):
    """``sigmoid(scores / T)``: with logistic noise in the scores, the concrete distribution of two states."""
    return torch.sigmoid(scores / temperature)


# Binary weights


class BinaryWeights(Problem):
    """A linear unit with six binary weights: ``(sign(w + noise) x - w* x)^2`` over correlated normal inputs x.

    The noise is the jitter of the weights while they are trained. With b = sign(w + noise), E b = m =
    2 Phi(w / sigma) - 1 and C = E x x^T: J = (m - w*)^T C (m - w*) + sum_i C_ii (1 - m_i^2), exactly.
    """

    name = "binary weights"
    WEIGHTS = 6

    def __init__(self, sigma: float, seed: int = 0, instances: int = INSTANCES) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.sigma, self.noise = sigma, f"normal, sigma = {sigma:g}"
        self.theta = 0.7 * _normal(generator, instances, self.WEIGHTS)
        self.teacher = 0.7 * _normal(generator, instances, self.WEIGHTS)
        self.factor = _normal(generator, instances, self.WEIGHTS, self.WEIGHTS) / self.WEIGHTS**0.5
        self.covariance = self.factor @ self.factor.transpose(-1, -2)

    quantise = staticmethod(sign)

    def sample_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        return self.sigma * _normal(generator, *shape, *self.theta.shape)

    def sample_loss(self, shape: tuple[int, ...], generator: torch.Generator) -> est.Loss:
        x = torch.einsum("gij,...gj->...gi", self.factor, _normal(generator, *shape, *self.theta.shape))
        return lambda b: ((b - self.teacher) * x).sum(-1).square()

    def expected_loss(self, theta: torch.Tensor) -> torch.Tensor:
        assert self.sigma is not None
        m = 2 * torch.special.ndtr(theta / self.sigma) - 1
        error = (m - self.teacher)[..., None]
        variance = torch.diagonal(self.covariance, dim1=-2, dim2=-1) * (1 - m.square())
        return (error.transpose(-1, -2) @ self.covariance @ error).sum() + variance.sum()

    def stand_ins(self) -> list[Estimator]:
        return [
            Estimator("STE, identity", self._pathwise(sign_ste)),
            Estimator("STE, clipped", self._pathwise(functools.partial(sign_ste, clip=1.0))),
            *self._at_temperatures("STE, tanh", est.sign_straight_through, TEMPERATURES),
            *self._at_temperatures("tanh", est.tanh_relaxation, TEMPERATURES),
        ]


# Codebooks


class Regions:
    """Probabilities and means of normal vectors in the plane by their nearest codebook entry.

    For a fixed second coordinate the entries' regions are intervals of the first, known exactly; over the second
    coordinate the trapezoidal rule is used, with a step of 0.0035 deviations. The integrand has kinks, so that the
    error is of the order of the squared step.
    """

    def __init__(self, sigma: float, steps: int = 4001, reach: float = 7.0) -> None:
        self.sigma = sigma
        self.t = torch.linspace(-reach, reach, steps, dtype=DTYPE)

    def __call__(self, mean: torch.Tensor, codebook: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``(probability, first_moment)``: (G, K), and (G, K, 2) the integral of z over each region.

        mean: (G, 2), the codebook: (K, 2). Probabilities are differentiable with respect to the mean.
        """
        # Nodes are constants: moving the mean moves the density over them.
        v = mean.detach()[:, 1, None] + self.sigma * self.t  # (G, n)
        with torch.no_grad():
            low, high = self._intervals(v, codebook)  # (G, n, K)
        a, b = ((edge - mean[:, None, :1]) / self.sigma for edge in (low, high))
        inside = (high > low).to(DTYPE)
        across = (torch.special.ndtr(b) - torch.special.ndtr(a)) * inside
        density = torch.exp(-0.5 * a.square()) - torch.exp(-0.5 * b.square())
        along = mean[:, None, :1] * across + self.sigma * density * inside / math.sqrt(2 * math.pi)
        weight = torch.exp(-0.5 * ((v - mean[:, 1:]) / self.sigma).square()) / math.sqrt(2 * math.pi)
        weight = weight * (self.t[1] - self.t[0])
        probability = torch.einsum("gn,gnk->gk", weight, across)
        moment = torch.stack(
            [torch.einsum("gn,gnk->gk", weight, along), torch.einsum("gn,gnk->gk", weight * v, across)], -1
        )
        return probability, moment

    @staticmethod
    def _intervals(v, codebook):
        """Where on the line of a second coordinate an entry is nearest: two bounds (G, n, K); low >= high: nowhere."""
        # Entry k is nearer than j where 2 u (e_j - e_k)_1 < (|e_j|^2 - 2 v e_j2) - (|e_k|^2 - 2 v e_k2).
        offset = codebook.square().sum(1) - 2 * v[..., None] * codebook[:, 1]  # (G, n, K)
        slope = 2 * (codebook[None, :, 0] - codebook[:, None, 0])  # (k, j)
        low, high = torch.full_like(offset, -1e3), torch.full_like(offset, 1e3)
        for k in range(len(codebook)):
            for j in range(len(codebook)):
                if j == k:
                    continue
                edge = (offset[..., j] - offset[..., k]) / slope[k, j]
                side, choose = (high, torch.minimum) if slope[k, j] > 0 else (low, torch.maximum)
                side[..., k] = choose(side[..., k], edge)
        return low, high


class NearestEntry(Problem):
    """The encoder's side of VQ-VAE: a vector in the plane, replaced by the nearest of eight entries: ``|e - t|^2``.

    J = sum_k P(nearest = k) loss_k by :class:`Regions`. The commitment loss is no part of the objective: with it
    the estimator has another one in mind, and the table shows how much that costs.
    """

    name = "nearest codebook entry"

    def __init__(self, sigma: float, seed: int = 0, instances: int = INSTANCES, codes: int = 8) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.sigma, self.noise = sigma, f"normal, sigma = {sigma:g}"
        self.codebook = _normal(generator, codes, 2)
        self.theta = _normal(generator, instances, 2)
        self.target = self.theta + 0.6 * _normal(generator, instances, 2)
        self.regions = Regions(sigma)

    def quantise(self, z: torch.Tensor) -> torch.Tensor:
        return self.codebook[nearest(z, self.codebook)]

    def loss(self, e: torch.Tensor) -> torch.Tensor:
        return (e - self.target).square().sum(-1)

    def sample_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        return self.sigma * _normal(generator, *shape, *self.theta.shape)

    def expected_loss(self, theta: torch.Tensor) -> torch.Tensor:
        probability, _ = self.regions(theta, self.codebook)
        return (probability * self.loss(self.codebook[:, None]).T).sum()

    def stand_ins(self) -> list[Estimator]:
        found = [Estimator("STE", self._pathwise(lambda z: nearest_ste(z, self.codebook)[0]))]
        for beta in (0.25, 1.0):
            found.append(Estimator("STE, commitment", functools.partial(self._committed, beta), "beta", beta))
        found.append(Estimator("rotation trick", self._pathwise(self._rotated)))
        return found

    def _rotated(self, z):
        return rotation_trick(z, self.quantise(z))

    def _committed(self, beta, loss, theta, noise, generator):
        z = theta + noise
        z_q, _ = nearest_ste(z, self.codebook)
        return loss(z_q) + beta * (z - z_q.detach()).square().sum(-1)


class CodebookEntries(Problem):
    """The codebook's side of VQ-VAE: ``J(e) = E |z - nearest(z)|^2`` over 32 normal clouds in the plane.

    J and its gradient ``2 (P_k e_k - E[z; nearest = k])`` by :class:`Regions`; that the regions move with the
    entries adds nothing, since on their borders two entries are equally far. One instance: the codebook.
    """

    name = "codebook entries"

    def __init__(self, sigma: float = 0.3, seed: int = 0, clouds: int = INSTANCES, codes: int = 8) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.spread, self.noise = sigma, f"clouds, sigma = {sigma:g}"
        self.theta = _normal(generator, codes, 2).view(1, -1)
        self.means = _normal(generator, clouds, 2)
        self.regions = Regions(sigma)

    def expected_loss(self, theta: torch.Tensor) -> torch.Tensor:
        codebook = theta.view(-1, 2)
        probability, moment = self.regions(self.means, codebook)
        share, moment = probability.mean(0), moment.mean(0)
        energy = self.means.square().sum(1).mean() + 2 * self.spread**2
        return energy + (share * codebook.square().sum(1)).sum() - 2 * (moment * codebook).sum()

    def sample_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        """The data themselves: (*shape, 1, 2)."""
        cloud = torch.randint(len(self.means), (*shape, 1), generator=generator)
        return self.means[cloud] + self.spread * _normal(generator, *shape, 1, 2)

    def sample_loss(self, shape: tuple[int, ...], generator: torch.Generator) -> None:
        return None  # the data are the noise here

    def estimators(self) -> list[Estimator]:
        found = [
            Estimator("codebook loss", self._codebook_loss),
            Estimator("EMA update", self._ema, joint=True),
            Estimator("SimVQ", self._simvq),
        ]
        for width in WIDTHS:
            found.append(Estimator("finite differences", functools.partial(self._differences, width), "h", width))
        return found

    def _codebook_loss(self, loss, theta, data, generator):
        return self._error(theta, data)

    def _simvq(self, loss, theta, data, generator):
        """How the entries move when the codebook loss moves a linear layer W alone, ``e_k = W c_k``, with W = 1 now.

        An entry then feels the gradients of all others, by ``c_j . c_k``. As a gradient it is made as long as the
        codebook loss's is on average over directions.
        """
        basis = self.theta.view(-1, 2)
        mixing = basis @ basis.T  # (K, K)
        mixing = mixing * (len(basis) / mixing.trace())
        with torch.enable_grad():
            entries = theta.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self._error(entries, data).sum(), entries)
        moved = torch.einsum("jk,...kd->...jd", mixing, gradient.unflatten(-1, (-1, 2))).flatten(-2)
        return est.with_gradient(self._error(theta, data), theta, moved)

    def _error(self, theta, data):
        """Squared distance to the nearest entry: theta (..., 1, 2 K), data (..., 1, 2) -> (..., 1)."""
        entries = theta.unflatten(-1, (-1, 2))
        return (data[..., None, :] - entries).square().sum(-1).amin(-1)

    def _ema(self, loss, theta, data, generator):
        """What the moving averages do without memory: each chosen entry moves to the mean of its vectors.

        As a gradient, ``(2 / K) (e - mean)``: the factor makes it the codebook loss's where all entries are used
        evenly.
        """
        with torch.no_grad():
            codebook = self.theta.view(-1, 2)
            chosen = F.one_hot(nearest(data[..., 0, :], codebook), len(codebook)).to(DTYPE)  # (R, S, K)
            counts = chosen.sum(1)[..., None]
            sums = chosen.transpose(1, 2) @ data[..., 0, :]
            step = torch.where(counts > 0, codebook - sums / counts.clamp_min(1), 0.0) * (2 / len(codebook))
            gradient = step.flatten(1)[:, None, None].expand(*data.shape[:2], 1, -1)
        return est.with_gradient(self._error(theta, data), theta, gradient)

    def _differences(self, width, loss, theta, data, generator):
        zero = torch.zeros(*data.shape[:-1], theta.shape[-1], dtype=DTYPE)
        return est.finite_differences(lambda e: self._error(e, data), lambda e: e, theta, zero, width)


def all_problems(seed: int = 0, quick: bool = False) -> list[Problem]:
    """The problems of the study, in the order of its table; ``quick``: a small one of each family."""
    size = {"seed": seed, "instances": 4 if quick else INSTANCES}
    sigmas = (0.5,) if quick else (0.1, 0.2, 0.5, 1.0)
    problems: list[Problem] = [
        Latents(kind, sigma, **size) for kind in (Quadratic, Decoder) for sigma in (*sigmas, None)
    ]
    problems += [Choice(**size), BinaryNeurons(**size)]
    problems += [BinaryWeights(sigma, **size) for sigma in sigmas]
    problems += [NearestEntry(sigma, **size) for sigma in sigmas]
    problems.append(CodebookEntries(seed=seed))
    return problems
