"""Pictures of the study of gradients, each as PNG and SVG. Needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import torch
from matplotlib.figure import Figure

from ..files import write_bytes_atomic
from ..quantise.rounding import soft_round
from ..quantise.ste import round_half_up
from .gradients import commitment_drift

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .gradients import Row


# Text stays text, and equal figures give equal files: no date, no random ids.
STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "codec", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "legend.fontsize": 8,
}  # fmt: skip

# Problem -> estimators to show where several settings of the noise were measured: name and value of the setting.
AGAINST_NOISE = {
    "latents, quadratic": [
        ("ste", None), ("noise", None), ("stochastic rounding", None), ("soft", 0.2), ("sga", 0.2),
        ("score function, baseline", None), ("finite differences", 0.05), ("finite differences", 0.25),
    ],
    "latents, decoder and rate": [
        ("ste", None), ("noise", None), ("mixed", None), ("soft", 0.2), ("sga", 0.2),
        ("score function, baseline", None), ("finite differences", 0.05),
    ],
    "binary weights": [
        ("STE, identity", None), ("STE, clipped", None), ("STE, tanh", 0.5), ("tanh", 0.5),
        ("score function, baseline", None), ("finite differences", 0.25),
    ],
    "nearest codebook entry": [
        ("STE", None), ("STE, commitment", 0.25), ("STE, commitment", 1.0), ("rotation trick", None),
        ("score function, baseline", None), ("finite differences", 0.25),
    ],
}  # fmt: skip
# Problem -> width of its noise, estimators with a temperature, and those without to compare with.
AGAINST_TEMPERATURE = {
    "choice among 8": (None, ("Gumbel-softmax", "Gumbel-softmax, STE", "ReinMax"), ("STE, softmax", "score function")),
    "binary neurons": (None, ("concrete", "concrete, STE"), ("STE, sigmoid", "score function")),
    "latents, decoder and rate": (0.5, ("soft", "soft, without noise", "sga"), ("mixed", "score function")),
    "binary weights": (0.5, ("tanh", "STE, tanh"), ("STE, clipped", "score function")),
}


def write_all(folder: Path, rows: Sequence[Row]) -> list[Path]:
    """Every picture that the rows suffice for, into ``folder``; list of the paths."""
    with matplotlib.rc_context(STYLE):
        figures = {
            "staircase": staircase(),
            "drift": drift(),
            "against_noise": against_noise(rows),
            "against_temperature": against_temperature(rows),
        }
        paths = []
        for name, figure in figures.items():
            if figure is None:
                continue
            for suffix, options in (("png", {"dpi": 110}), ("svg", {"metadata": {"Date": None}})):
                data = io.BytesIO()
                figure.savefig(data, format=suffix, **options)
                paths.append(folder / f"{name}.{suffix}")
                write_bytes_atomic(paths[-1], data.getvalue())
    return paths


def staircase() -> Figure:
    """Rounding and its stand-ins; the derivative of the smoothed staircase."""
    y = torch.linspace(-2.2, 2.2, 1761, dtype=torch.float64)
    figure, [left, right] = _figure(2)
    left.plot(y, round_half_up(y), color="black", lw=1.8, label="round(y)")
    left.plot(y, y, color="tab:red", ls="--", label="STE: pretended in the backward pass")
    for temperature, color in ((0.2, "tab:blue"), (0.5, "tab:cyan")):
        left.plot(y, soft_round(y, temperature), color=color, lw=1, label=f"soft rounding, T = {temperature:g}")
    left.set(title="value", xlabel="y")
    k = torch.arange(-30.5, 31.0, dtype=torch.float64)
    for sigma, color in ((0.1, "tab:purple"), (0.2, "tab:orange"), (0.5, "tab:green")):
        density = torch.exp(-0.5 * ((k - y[:, None]) / sigma).square()).sum(1) / (sigma * (2 * torch.pi) ** 0.5)
        right.plot(y, density, color=color, label=f"E round(y + noise), sigma = {sigma:g}")
    right.axhline(0, color="black", lw=1.8, label="round(y), between its steps")
    right.axhline(1, color="tab:red", ls="--", label="STE")
    right.set(title="derivative", xlabel="y", ylim=(-0.2, 4.3))
    return _finish(figure, left, right)


def drift() -> Figure:
    """Where a straight-through trained encoder output goes, with and without commitment."""
    figure, [axes] = _figure(1)
    for beta, color in ((0.0, "tab:red"), (0.1, "tab:orange"), (0.25, "tab:green"), (1.0, "tab:blue")):
        axes.plot(commitment_drift(beta), color=color, label=f"beta = {beta:g}")
    axes.axhline(1, color="black", lw=1, label="nearest entry")
    axes.axhline(1.5, color="grey", lw=1, ls="--", label="target")
    axes.set(xlabel="steps", ylabel="encoder output z", ylim=(0, 12))
    return _finish(figure, axes)


def against_noise(rows: Sequence[Row]) -> Figure | None:
    """Cosine of one estimate, with the largest number of samples, against the width of the noise."""
    samples = max(row.samples for row in rows)
    panels: dict[str, list[Any]] = {}
    for problem, wanted in AGAINST_NOISE.items():
        for name, value in wanted:
            line = sorted(
                (row.sigma, row.cosine, row.cosine_se)
                for row in rows
                if row.problem == problem and row.estimator == name and row.value == value
                and row.samples == samples and row.sigma
            )  # fmt: skip
            if len(line) > 1:
                setting = "" if value is None else f", {_symbol(name)} = {value:g}"
                panels.setdefault(problem, []).append((name + setting, line))
    if not panels:
        return None
    figure, axes = _figure(len(panels))
    for place, (problem, lines) in zip(axes, panels.items()):
        for label, line in lines:
            sigma, cosine, error = zip(*line)
            place.errorbar(sigma, cosine, error, marker=".", lw=1, label=label, color=_color(label))
        place.set(title=problem, xlabel="sigma of the noise", xscale="log", ylim=(-0.05, 1.05))
        place.set_xticks(sigma, [f"{s:g}" for s in sigma], minor=False)
        place.minorticks_off()
    for place in axes[::2]:
        place.set_ylabel(f"cosine with the true gradient, S = {samples}")
    return _finish(figure, *axes)


def against_temperature(rows: Sequence[Row]) -> Figure | None:
    """Bias and standard deviation of single samples against the temperature."""
    panels: dict[str, Any] = {}
    for problem, (sigma, named, level) in AGAINST_TEMPERATURE.items():
        found = [row for row in rows if row.problem == problem and row.sigma == sigma and row.samples == 1]
        lines = [
            (name, sorted((r for r in found if r.estimator == name), key=lambda r: r.value or 0.0)) for name in named
        ]
        if found and all(len(line) > 1 for _, line in lines):
            panels[problem] = lines, [row for row in found if row.estimator in level]
    if not panels:
        return None
    figure, axes = _figure(len(panels))
    for place, (problem, (lines, level)) in zip(axes, panels.items()):
        for i, (name, line) in enumerate(lines):
            color, t = f"C{i}", [row.value for row in line]
            told = [(r.value, r.bias, r.bias - r.bias_low, r.bias_high - r.bias) for r in line if r.biased]
            if told:
                x, bias, *error = zip(*told)
                place.errorbar(x, bias, error, color=color, marker=".", label=f"{name}: bias")
            place.plot(t, [row.variance**0.5 for row in line], color=color, ls="--", label=f"{name}: deviation")
        for i, row in enumerate(level, len(lines)):
            place.axhline(row.variance**0.5, color=f"C{i}", ls=":", label=f"{row.estimator}: deviation")
        sigma = AGAINST_TEMPERATURE[problem][0]
        title = f"{problem}, sigma = {sigma:g}" if sigma else problem
        place.set(title=title, xlabel="temperature", xscale="log", yscale="log")
    axes[0].set_ylabel("in lengths of the true gradient, S = 1")
    return _finish(figure, *axes)


def _symbol(estimator):
    return {"finite differences": "h", "STE, commitment": "beta"}.get(estimator, "T")


def _color(label):
    """One color for the same kind of estimator in every panel."""
    kinds = {
        "ste": "tab:red", "STE": "tab:red", "STE, identity": "tab:red", "noise": "tab:orange", "mixed": "tab:brown",
        "STE, clipped": "tab:orange", "STE, commitment, beta = 0.25": "tab:orange", "STE, tanh, T = 0.5": "tab:brown",
        "STE, commitment, beta = 1": "tab:brown", "rotation trick": "tab:blue", "stochastic rounding": "tab:purple",
        "soft, T = 0.2": "tab:blue", "tanh, T = 0.5": "tab:blue",
        "sga, T = 0.2": "tab:cyan", "score function, baseline": "tab:green", "finite differences, h = 0.05": "tab:gray",
        "finite differences, h = 0.25": "black",
    }  # fmt: skip
    return kinds.get(label)


def _figure(panels):
    """Panels side by side, four of them two by two; the place below each is for its legend."""
    rows = 2 if panels == 4 else 1
    columns = -(-panels // rows)
    figure = Figure(figsize=(1.2 + 3.6 * columns, 4.4 * rows), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _finish(figure, *axes):
    """Legends under the panels, where they cover nothing."""
    for place in axes:
        place.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16))
    return figure
