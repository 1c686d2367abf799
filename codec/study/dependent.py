"""How far quantisers are from the rate-distortion bound: scalar ones, and dependent ones with 4 and 8 states.

Samples are independent, rates are entropies of what is chosen, tables are fitted to it in rounds, reconstruction points
are centroids. The bound comes from the algorithm of Blahut (1972, IEEE Trans. Information Theory 18(4)).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from ..files import StrPath
from ..latents import trellis

SOURCES = ("Gaussian", "Laplacian")
METHODS = ("scalar", "scalar, by rate too", "dependent, 4 states", "dependent, 8 states")
STEPS = (2.0, 1.0, 0.5)  # of plain rounding, in deviations of the source
ROUNDS = 5
LIMIT = 255
SLOPE = 0.6 * 2 * np.log(2) / 12  # what a bit is worth where it is weighed, in squares of that step


class Row(NamedTuple):
    """A method at a step.

    Attributes:
        bits: of a sample. snr_db: of the result. distance_db: by which the bound is better at these bits.
    """

    source: str
    method: str
    step: float
    bits: float
    snr_db: float
    distance_db: float


def study(samples: int, seed: int, step: Callable[[str], object] = lambda text: None) -> list[Row]:
    """Every method on every source at every step: list of Row; ``step`` hears of each."""
    rng, rows = np.random.default_rng(seed), []
    for source in SOURCES:
        x = draw(source, samples, rng)
        curve = bound(source)
        for size in STEPS:
            for method in METHODS:
                step(f"{source}, {method}")
                bits, error = measure(x / size, method)
                distortion = error * size**2
                least = np.exp(np.interp(bits, curve[0], np.log(curve[1])))
                db = (10 * np.log10(ratio) for ratio in (1 / distortion, distortion / least))
                rows.append(Row(source, method, size, bits, *db))
    return rows


def draw(source: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """Independent samples of deviation 1: float32 (count,)."""
    if source == "Gaussian":
        return rng.standard_normal(count, np.float32)
    return rng.laplace(0, 0.5**0.5, count).astype(np.float32)


@functools.cache
def bound(source: str, reach: float = 12.0, spacing: float = 0.06, rounds: int = 400) -> np.ndarray:
    """Points of the rate-distortion function of a source of deviation 1: bits, rising, and mean squared errors."""
    x = np.arange(-reach, reach + spacing / 2, spacing)
    density = np.exp(-(x**2) / 2) if source == "Gaussian" else np.exp(-np.abs(x) * 2**0.5)
    p, error = density / density.sum(), np.square(x[:, None] - x)
    found = [(0.0, float(p @ x**2))]
    for slope in np.geomspace(0.51, 60, 24):
        kernel = np.exp(-slope * error)
        q = p.copy()
        for _ in range(rounds):
            q *= (p / (kernel @ q)) @ kernel
        total = kernel @ q
        joint = p[:, None] * kernel * q / total[:, None]
        distortion = (joint * error).sum()
        found.append((float(-(p @ np.log2(total)) - slope * distortion / np.log(2)), float(distortion)))
    return np.array(sorted(found)).T


def measure(residual: np.ndarray, method: str) -> tuple[float, float]:
    """``(bits, mean squared error)`` of a sample, of residuals in steps."""
    choose = {
        "scalar": lambda bits: (np.rint(residual).astype(int), np.zeros(residual.size, int)),
        "scalar, by rate too": lambda bits: _by_rate(residual, bits),
        "dependent, 4 states": lambda bits: trellis.choose(residual, bits, np.float32(SLOPE), LIMIT, trellis.FOUR),
        "dependent, 8 states": lambda bits: trellis.choose(residual, bits, np.float32(SLOPE), LIMIT, trellis.EIGHT),
    }[method]
    table = np.tile(3 + 0.5 * np.abs(np.arange(-LIMIT, LIMIT + 1)), (2, 1)).astype(np.float32)
    for _ in range(ROUNDS):
        k, quantiser = choose(lambda q, k, table=table: table[q, np.asarray(k) + LIMIT])
        cells = quantiser * table.shape[1] + k + LIMIT
        count = np.bincount(cells, minlength=table.size).reshape(table.shape)
        smooth = count + 0.01
        table = -np.log2(smooth / smooth.sum(1, keepdims=True)).astype(np.float32)
    centroid = np.bincount(cells, residual, minlength=table.size) / np.maximum(count.ravel(), 1)
    return float(table.ravel()[cells].mean()), float(np.square(residual - centroid[cells]).mean())


def _by_rate(residual, bits):
    near = np.rint(residual).astype(int)
    options = np.stack([near, near - np.sign(near)])
    costs = np.square(residual - options) + SLOPE * bits(0, options)
    return np.take_along_axis(options, costs.argmin(0)[None], 0)[0], np.zeros(residual.size, int)


def table(rows: Iterable[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| source | quantiser | step | bits | SNR dB | from the bound dB |", "|---|---|---:|---:|---:|---:|"]
    for row in rows:
        lines.append(
            f"| {row.source} | {row.method} | {row.step:g} | {row.bits:.3f} "
            f"| {row.snr_db:.2f} | {row.distance_db:.2f} |"
        )
    return "\n".join(lines)


def draw_trellis(path: StrPath, samples: int = 7, machine: trellis.Machine = trellis.EIGHT, seed: int = 1) -> None:
    """Write a picture of a trellis, and in it the way of a few Gaussian samples that Viterbi's algorithm finds.

    Args:
        path: of an image that Matplotlib writes, such as an SVG.
    """
    import matplotlib.pyplot as plt

    residual = 1.5 * np.random.default_rng(seed).standard_normal(samples).astype(np.float32)
    k, quantiser = trellis.choose(residual, lambda q, k: 1.5 + np.abs(k), np.float32(SLOPE), LIMIT, machine)
    states = len(machine.quantiser)
    figure, axes = plt.subplots(figsize=(1.3 * samples, 0.45 * states + 1))
    for t in range(samples):
        for state in range(states):
            for parity, style in ((0, "-"), (1, "--")):
                axes.plot([t, t + 1], [state, machine.next_state[state, parity]], style, color="0.8", linewidth=0.8)
    state = 0
    for t, (r, index, q) in enumerate(zip(residual, k, quantiser)):
        following = machine.next_state[state, index & 1]
        axes.plot([t, t + 1], [state, following], "--" if index & 1 else "-", color="C3", linewidth=2)
        value = trellis.reconstruct(index, q) * trellis.STEP_SYMBOLS
        axes.text(t + 0.5, -1.1, f"{r:.2f}\nk = {index}\n{value:.3f}", ha="center", va="bottom", fontsize=8)
        state = following
    for state in range(states):
        axes.text(-0.15, state, f"{state} (Q{machine.quantiser[state]})", ha="right", va="center", fontsize=8)
    axes.text(-0.15, -1.1, "latent\nindex\nvalue", ha="right", va="bottom", fontsize=8)
    axes.invert_yaxis()
    axes.set_axis_off()
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None} if str(path).endswith(".svg") else None)
    plt.close(figure)
