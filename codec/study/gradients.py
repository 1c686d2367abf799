"""Estimators of the gradient through a quantiser against the truth: bias, variance and cosine.

For the true gradient t of a problem (:mod:`codec.study.problems`) and estimates g of it, each the mean over S
samples:

    bias                |E g - t| / |t|
    variance            E |g - E g|^2 / |t|^2
    cosine              E cos(g, t): how well one estimate points; what a step of descent has
    cosine_of_mean      cos(E g, t): how well they point when the noise is averaged out

The mean over R estimates is off E g by noise of the squared length ``variance / R``. Lengths of means have that taken
out: ``bias^2 = |mean - t|^2 - variance / R``, which is unbiased, and likewise |E g|^2.
"""

from __future__ import annotations

import csv
import io
import json
import platform
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import torch

from .. import __version__
from ..files import StrPath, write_bytes_atomic
from ..quantise.reference import commitment_loss, straight_through_quantise

if TYPE_CHECKING:
    from .problems import Estimator, Problem


GROUPS = 16  # of the jackknife


@dataclass(frozen=True)
class Row:
    """One estimator, with one setting and number of samples, on one problem.

    ``bias_low`` and ``bias_high`` bound an interval that holds the true bias in 95 of 100 runs or more; ``bias`` is
    zero where the noise of the mean accounts for the whole distance. ``bias_floor`` is that noise, on quadratic
    average. ``_se`` are standard errors, that of ``cosine_of_mean`` by a jackknife over 16 groups of estimates.
    """

    problem: str
    noise: str
    sigma: float | None  # of the noise, where it has one
    estimator: str
    symbol: str  # of the setting: T, h, beta
    value: float | None  # of the setting
    samples: int  # S
    estimates: int
    truth_norm: float  # |t|
    bias: float
    bias_low: float
    bias_high: float
    bias_floor: float
    variance: float
    variance_se: float
    cosine: float
    cosine_se: float
    cosine_of_mean: float
    cosine_of_mean_se: float

    @property
    def setting(self) -> str:
        return "" if self.value is None else f"{self.symbol} = {self.value:g}"

    @property
    def biased(self) -> bool:
        """Whether the bias can be told from zero."""
        return self.bias_low > 0


def study(
    problems: Iterable[Problem],
    samples: Sequence[int] = (1, 16),
    draws: int = 4096,
    seed: int = 0,
    step: Callable[[str], object] | None = None,
) -> list[Row]:
    """Measure every estimator on every problem.

    Args:
        problems: list of :class:`~codec.study.problems.Problem`.
        samples: numbers S of samples that an estimate is the mean of.
        draws: samples in all for each row, so that there are ``draws // S`` estimates; 16 S at least.
        seed: of the draws. Each estimator has a stream of its own: a row does not depend on the others.
        step: called as ``step(text)`` after each estimator, for a progress display.

    Returns:
        List of :class:`Row`, by problem, estimator, samples.
    """
    if draws < GROUPS * max(samples):
        raise ValueError(f"{draws} draws are too few for {max(samples)} samples an estimate")
    rows = []
    for problem in problems:
        truth = problem.truth().flatten()
        for estimator in problem.estimators():
            rows += measure(problem, estimator, truth, samples, draws, seed)
            if step is not None:
                step(f"{problem.name}: {estimator.name}")
    return rows


def measure(
    problem: Problem, estimator: Estimator, truth: torch.Tensor, samples: Sequence[int], draws: int, seed: int
) -> list[Row]:
    """:class:`Row` for each number of samples that the estimator can do with."""
    # torch's CPU generator takes no more than 32 bits of a seed.
    stream = f"{seed}|{problem.name}|{problem.noise}|{estimator.name}|{estimator.setting}"
    generator = torch.Generator().manual_seed(zlib.crc32(stream.encode()))
    rows, single = [], None
    for count in samples:
        if count < estimator.least:
            continue
        repetitions = draws // count
        if estimator.joint:
            estimates = gradients(problem, estimator, (repetitions, count), generator).mean(1)
        else:
            if single is None:
                single = gradients(problem, estimator, (draws, 1), generator)[:, 0]
            estimates = single[: repetitions * count].unflatten(0, (repetitions, count)).mean(1)
        rows.append(
            Row(
                problem.name, problem.noise, problem.sigma, estimator.name, estimator.symbol, estimator.value,
                count, repetitions, truth.norm().item(), **compare(estimates, truth),
            )
        )  # fmt: skip
    return rows


def gradients(
    problem: Problem, estimator: Estimator, shape: tuple[int, int], generator: torch.Generator
) -> torch.Tensor:
    """The estimator's gradient for every sample: float64 (*shape, G P); ``shape`` is (R, S)."""
    noise = problem.sample_noise(shape, generator)
    loss = problem.sample_loss(shape, generator)
    theta = problem.theta.expand(*shape, *problem.theta.shape).clone().requires_grad_()
    losses = estimator.losses(loss, theta, noise, generator)
    if not losses.requires_grad:  # a quantiser without any gradient
        return torch.zeros_like(theta).flatten(2)
    (gradient,) = torch.autograd.grad(losses.sum(), theta, materialize_grads=True)
    return gradient.flatten(2)


def compare(estimates: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    """The figures of a :class:`Row` as a dict: estimates (R, D) of the vector truth (D,)."""
    scale = truth.norm()
    estimates, truth = estimates / scale, truth / scale
    repetitions = len(estimates)
    mean = estimates.mean(0)
    # Bessel's correction, as the mean is that of the same estimates.
    squares = (estimates - mean).square().sum(1) * (repetitions / (repetitions - 1))
    variance = squares.mean().item()
    low, bias, high = (max(0.0, square) ** 0.5 for square in _squared_bias(estimates, mean - truth))

    groups = estimates[: repetitions // GROUPS * GROUPS].unflatten(0, (GROUPS, -1)).mean(1)
    means = [(groups.sum(0) - group) / (GROUPS - 1) for group in groups]
    others = torch.stack([_cosine_of_mean(m, variance / repetitions * GROUPS / (GROUPS - 1), truth) for m in means])
    jackknife = ((GROUPS - 1) * others.var(0, unbiased=False)).sqrt()
    cosines = _cosine(estimates, truth)
    return {
        "bias": bias,
        "bias_low": low,
        "bias_high": high,
        "bias_floor": (variance / repetitions) ** 0.5,
        "variance": variance,
        "variance_se": squares.std().item() / repetitions**0.5,
        "cosine": cosines.mean().item(),
        "cosine_se": cosines.std().item() / repetitions**0.5,
        "cosine_of_mean": _cosine_of_mean(mean, variance / repetitions, truth).item(),
        "cosine_of_mean_se": jackknife.item(),
    }


def _squared_bias(estimates, distance):
    """Square of the bias, between the bounds of its interval: (low, square, high).

    Args:
        estimates: (R, D). distance: (D,), their mean less the truth.

    With C the covariance of the mean, |distance|^2 - tr C has the mean b^2 and, nearly normal, the variance
    ``4 b^2 v + 2 tr C^2``, v being that of the mean along the bias. The interval holds every b^2 from which what was
    found is no more than two of its own deviations away (as Wilson's does for shares): with the deviation at what was
    found instead, low ones would have intervals that are too short.
    """
    repetitions, dimensions = estimates.shape
    covariance = torch.cov(estimates.T).view(dimensions, dimensions) / repetitions
    length = distance.square().sum()
    square = (length - covariance.trace()).item()
    along = (distance @ covariance @ distance / length.clamp_min(1e-300)).item()
    noise = 2 * covariance.square().sum().item()
    # Noise can make the square negative. That is no reason for a bound below what so many draws can tell from zero.
    middle = max(0.0, square)
    reach = (16 * middle * along + 64 * along**2 + 4 * noise) ** 0.5
    return middle + 8 * along - reach, square, middle + 8 * along + reach


def _cosine_of_mean(mean, noise, truth):
    """Cosine of E g with a vector of length 1, given the mean of estimates and the squared length of its noise."""
    square = mean.square().sum() - noise
    return torch.where(square > noise, (mean @ truth / square.clamp_min(1e-300).sqrt()).clamp(-1, 1), 0.0)


def _cosine(vectors, truth):
    """Cosine with a vector of length 1; zero for a vector without direction."""
    length = vectors.norm(dim=-1)
    return torch.where(length > 0, vectors @ truth / length.clamp_min(1e-300), 0.0)


def commitment_drift(beta: float, steps: int = 400, rate: float = 0.05, target: float = 1.5) -> list[float]:
    """Path of an encoder output that is trained straight through, list of ``steps + 1`` numbers.

    One number z, the codebook {-1, +1} and the loss ``(z_q - target)^2`` with a target beyond the codebook: the
    straight-through gradient ``2 (z_q - target)`` is the same at every step, and z drifts off at a constant speed.
    The commitment loss ``beta (z - z_q)^2`` stops it where both gradients cancel,
    at ``z = 1 + (target - 1) / beta``.
    """
    codebook = [[-1.0], [1.0]]
    path = [0.5]
    for _ in range(steps):
        z_q, _ = straight_through_quantise([path[-1]], codebook)
        _, pull = commitment_loss([path[-1]], z_q, beta)
        path.append(float(path[-1] - rate * (2 * (z_q[0] - target) + pull[0])))
    return path


# Output


def table(rows: Sequence[Row]) -> str:
    """The rows as text: a block for each problem, a line for each estimator, columns for each number of samples.

    A bias is that of the row with the fewest samples an estimate, and so the most estimates; the numbers behind it
    bound its interval. One that cannot be told from zero is printed as the upper bound. Standard errors of variances
    are in the CSV file.
    """
    samples = sorted({row.samples for row in rows})
    blocks: dict[tuple[str, str], dict[tuple[str, str], dict[int, Row]]] = {}
    for row in rows:
        lines = blocks.setdefault((row.problem, row.noise), {})
        lines.setdefault((row.estimator, row.setting), {})[row.samples] = row
    heading = "".join(f"{f'variance, S={s}':>16}{f'cosine, S={s}':>18}" for s in samples)
    text = []
    for (problem, noise), lines in blocks.items():
        norm = next(iter(next(iter(lines.values())).values())).truth_norm
        text.append(f"{problem}; noise: {noise}; true gradient of length {norm:.4g}")
        text.append(f"  {'estimator':<24}  {'setting':<11}{'bias':>21}{heading}")
        for (estimator, setting), by_samples in lines.items():
            cells = [f"  {estimator:<24}  {setting:<11}{bias_text(by_samples[min(by_samples)]):>21}"]
            for s in samples:
                of = by_samples.get(s)
                cells.append(f"{of.variance:>16.3g}{_figure(of.cosine, of.cosine_se):>18}" if of else " " * 34)
            text.append("".join(cells).rstrip())
        text.append("")
    return "\n".join(text)


def _figure(value, error):
    return f"{value:.3f} +- {error:.3f}"


def bias_text(row: Row) -> str:
    """The bias with its interval, or a limit."""
    if not row.biased:
        return f"< {row.bias_high:.3f}"
    return f"{row.bias:.3f} [{row.bias_low:.3f}, {row.bias_high:.3f}]"


def write_csv(path: StrPath, rows: Iterable[Row]) -> None:
    """One line per row under a line of names; numbers in full. The file appears whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_bytes_atomic(path, text.getvalue().encode("utf-8"))


def conditions(seed: int, samples: Sequence[int], draws: int, seconds: float) -> dict[str, Any]:
    """What the figures depend on, as a dict."""
    return {
        "command": "codec study gradients",
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seed": seed,
        "samples": list(samples),
        "draws": draws,
        "versions": {"codec": __version__, "python": platform.python_version(), "torch": torch.__version__},
        "threads": torch.get_num_threads(),
        "seconds": round(seconds, 1),
    }


def write_json(path: StrPath, contents: Any) -> None:
    """A JSON file, whole or not at all."""
    write_bytes_atomic(path, (json.dumps(contents, indent=1) + "\n").encode("utf-8"))
