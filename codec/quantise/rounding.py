"""Quantisers of latents: what stands for rounding while a codec is trained.

At evaluation all of them round (:func:`~codec.quantise.ste.round_half_up`, the rule of the bitstream). In training
the rate term and the synthesis may see different stand-ins, hence the two methods of :class:`LatentQuantiser`:

    name        for the rate             for the synthesis           temperature
    noise       y + u                    y + u                                       Balle et al. 2017
    ste         round(y), STE            round(y), STE                               Theis et al. 2017
    mixed       y + u                    round(y), STE                               Minnen, Singh 2020
    soft        s(y) + u                 r(s(y) + u)                 annealed        Agustsson, Theis 2020
    universal   y + u                    round(y - u) + u, STE                       Agustsson, Theis 2020
    sga         floor or ceil, relaxed   floor or ceil, relaxed      annealed        Yang, Bamler, Mandt 2020

u is uniform in [-1/2, 1/2). The two methods draw independently: the loss is the sum of a rate and a distortion, so
its expectation, and the gradient of that, is the same as with one common draw.
"""

from __future__ import annotations

from typing import Any

import torch

from .estimators import gumbel_noise
from .ste import positive_temperature, round_half_up, round_ste, straight_through


def add_uniform_noise(x: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """``x + u`` with ``u`` uniform in [-1/2, 1/2): the differentiable stand-in for rounding in the rate term."""
    noise = torch.rand(x.shape, dtype=x.dtype, device=x.device, generator=generator)
    return x + (noise - 0.5)


def soft_round(y: torch.Tensor, temperature: float) -> torch.Tensor:
    """Rounding that a temperature makes smooth: a staircase with sloping steps.

        s(y) = floor(y) + 1/2 + tanh(r / T) / (2 tanh(1 / (2 T))),   r = y - floor(y) - 1/2

    Args:
        y: float tensor.
        temperature: T > 0. Tends to rounding as T -> 0 and to the identity as T grows.

    Equal to y at integers and half-integers; continuous and rising, with the true gradient
    ``1 / (2 T tanh(1 / (2 T)) cosh(r / T)^2)``. Agustsson, Theis 2020, arXiv:2006.09952 (their alpha is 1 / T).
    """
    alpha = 1 / positive_temperature(temperature)
    base = torch.floor(y)
    scale = 2 * torch.tanh(torch.as_tensor(alpha / 2, dtype=y.dtype, device=y.device))
    return base + 0.5 + torch.tanh(alpha * (y - base - 0.5)) / scale


def soft_round_inverse(s: torch.Tensor, temperature: float) -> torch.Tensor:
    """The y for which :func:`soft_round` gives ``s``; gradient by the inverse function theorem.

    Where the steps are steeper than the dtype can tell, the result stays in its cell but is no exact inverse.
    """
    alpha = 1 / positive_temperature(temperature)
    base = torch.floor(s)
    scale = torch.tanh(torch.as_tensor(alpha / 2, dtype=s.dtype, device=s.device))
    limit = 1 - torch.finfo(s.dtype).eps
    inner = ((2 * (s - base) - 1) * scale).clamp(-limit, limit)
    return base + 0.5 + (torch.atanh(inner) / alpha).clamp(-0.5, 0.5)


def soft_round_mean(noisy: torch.Tensor, temperature: float) -> torch.Tensor:
    """About the mean of y given ``noisy = soft_round(y) + u``: what a synthesis should see of it.

    ``soft_round_inverse(noisy - 1/2) + 1/2``, exact for y uniform over the unit interval that ``noisy`` leaves it.
    """
    return soft_round_inverse(noisy - 0.5, temperature) + 0.5


def universal_round(y: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Dithered rounding ``round(y - u) + u``; ``dy = g`` (STE).

    Distributed exactly as ``y + u``, so that what training saw can be had at coding time, with a dither that
    encoder and decoder share (Ziv 1985; Agustsson, Theis 2020, arXiv:2006.09952).
    """
    dither = torch.rand(y.shape, dtype=y.dtype, device=y.device, generator=generator) - 0.5
    return straight_through(y, round_half_up(y - dither) + dither)


def gumbel_round(y: torch.Tensor, temperature: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """Between floor(y) and floor(y) + 1, at random: stochastic Gumbel annealing.

    A Gumbel-softmax of temperature T over the two neighbours with logits ``-atanh(distance) / T``: the nearer one
    is likelier, and both weights harden as T -> 0. The gradient is the true one of the drawn relaxation; near the
    integers the logits grow steep, and from T = 1/2 upwards only a clamp bounds the variance of the gradient. Yang,
    Bamler, Mandt 2020, arXiv:2006.04240.
    """
    temperature = positive_temperature(temperature)
    base = torch.floor(y)
    up = y - base
    distance = torch.stack([up, 1 - up]).clamp(max=1 - 1e-5)  # as in the authors' code: atanh(1) is infinite
    logits = -torch.atanh(distance) / temperature
    noise = gumbel_noise(distance.shape, y.dtype, y.device, generator)
    weights = torch.softmax((logits + noise) / temperature, dim=0)
    return base + weights[1]


class LatentQuantiser:
    """Base of what stands in :data:`LATENT_QUANTISERS`: elementwise, any shape, no parameters.

    Attributes:
        temperatures: (first, last) of the annealing, None for quantisers without a temperature.
        temperature: the present one; set by :meth:`anneal` or by hand.
        rounds: :meth:`for_synthesis` is round_ste, so that what has been rounded already need not be done again.
    """

    temperatures: tuple[float, float] | None = None
    rounds = False

    def __init__(self) -> None:
        self.temperature: Any = self.temperatures[0] if self.temperatures else None  # a float, or None

    def anneal(self, progress: float) -> None:
        """Set the temperature for ``progress`` in [0, 1] of the training: geometric between first and last."""
        if self.temperatures:
            first, last = self.temperatures
            self.temperature = first * (last / first) ** min(max(progress, 0.0), 1.0)

    def for_rate(self, y: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """What the likelihoods are taken at; differentiable."""
        raise NotImplementedError

    def for_synthesis(self, y: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """What the synthesis and the entropy networks see; differentiable."""
        raise NotImplementedError

    def at_evaluation(self, y: torch.Tensor) -> torch.Tensor:
        """What a file holds."""
        return round_half_up(y)


class UniformNoise(LatentQuantiser):
    """Noise for both. ``dy = g``. Balle, Laparra, Simoncelli 2017, arXiv:1611.01704."""

    def for_rate(self, y: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        return add_uniform_noise(y, generator)

    for_synthesis = for_rate


class StraightThrough(LatentQuantiser):
    """Rounding for both. ``dy = g``. Theis, Shi, Cunningham, Huszar 2017, arXiv:1703.00395."""

    rounds = True

    def for_rate(self, y: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        return round_ste(y)

    for_synthesis = for_rate


class Mixed(LatentQuantiser):
    """Noise for the rate, rounding for the synthesis. ``dy = g``. Minnen, Singh 2020, arXiv:2007.08739."""

    rounds = True

    def for_rate(self, y: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        return add_uniform_noise(y, generator)

    def for_synthesis(self, y: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        return round_ste(y)


class SoftRounding(LatentQuantiser):
    """Soft rounding and noise, true gradients throughout. Agustsson, Theis 2020, arXiv:2006.09952.

    Nearly noise alone at high temperature, nearly rounding with noise at low temperature.
    """

    temperatures = (1.0, 0.2)  # below, few and huge gradients: see the variances in docs/experiments/quantisation.md

    def for_rate(self, y: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        return add_uniform_noise(soft_round(y, self.temperature), generator)

    def for_synthesis(self, y: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        return soft_round_mean(self.for_rate(y, generator), self.temperature)


class Universal(LatentQuantiser):
    """Noise for the rate, dithered rounding for the synthesis. ``dy = g``. arXiv:2006.09952.

    The bitstream of this codec has no dither: at evaluation latents are rounded, as with all others.
    """

    def for_rate(self, y: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        return add_uniform_noise(y, generator)

    def for_synthesis(self, y: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        return universal_round(y, generator)


class GumbelAnnealing(LatentQuantiser):
    """Stochastic Gumbel annealing for both (:func:`gumbel_round`). Meant for refining the latents of one picture."""

    temperatures = (0.5, 0.1)

    def for_rate(self, y: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        return gumbel_round(y, self.temperature, generator)

    for_synthesis = for_rate


LATENT_QUANTISERS = {
    "noise": UniformNoise,
    "ste": StraightThrough,
    "mixed": Mixed,
    "soft": SoftRounding,
    "universal": Universal,
    "sga": GumbelAnnealing,
}


def latent_quantiser(name: str) -> LatentQuantiser:
    """A new :class:`LatentQuantiser` by its name.

    Raises:
        ValueError: no such name; the message lists those there are.
    """
    if name not in LATENT_QUANTISERS:
        raise ValueError(f"no quantiser {name!r}; there are {', '.join(LATENT_QUANTISERS)}")
    return LATENT_QUANTISERS[name]()
