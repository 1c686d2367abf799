"""The same small codec, trained for an equal budget with each quantiser of latents, compared by real bytes.

Every quantiser sees the same pictures, in the same order, from the same first weights; a seed changes all of these.
All scalar ones reconstruct latents in the middle of their cells: the learned offsets of the shipped models need rounded
latents in training, which some quantisers do not have, and would be ranked with those that do.

At evaluation all of them round, so that what differs is what training made of them; but ``universal``, whose point is
that files hold what training saw, has its dither.
"""

from __future__ import annotations

import csv
import io
import json
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING

import torch

from .. import __version__
from ..config import ModelConfig
from ..errors import CodecError
from ..evaluation.bd_rate import bd_rate
from ..evaluation.metrics import psnr_db
from ..files import write_bytes_atomic
from ..model import Model
from ..nn.pixels import to_tensor, to_uint8
from ..quantise import LATENT_QUANTISERS
from ..training.config import TrainingConfig
from ..training.data import validation_crops
from ..training.loop import read_weights, train
from ..training.model import TrainableModel
from ..training.transforms import Centre

if TYPE_CHECKING:
    from ..training.model import TrainableModel


REFERENCE = "mixed"
DITHERED = "universal"
# Not ways to round, but latents made of codes, with priors of their own: name -> (latents, how codebooks learn).
CODES = {"vq": ("vq", "ema"), "vq-loss": ("vq", "loss"), "hvq": ("hvq", "ema"), "dvae": ("dvae", "ema")}
NAMES = (*LATENT_QUANTISERS, *CODES)
QUALITIES = (0, 15, 30, 45, 60, 75, 90, 100)
# About 16 kMAC/px in all: small enough that a run takes minutes on one core.
SMALL = ModelConfig(
    M=192, N=64, analysis_width=192, analysis_depth=3, synthesis_width16=192, synthesis_depth16=2, synthesis_depth8=1,
    hyper_width=96, entropy_width=96, context_width=128, anchors=5, lmbda_max=0.1,
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What all runs of a study share; a study goes on only with the settings that it began with."""

    pictures: list
    valid: str
    steps: int
    batch: int = 4
    crop: int = 128
    lr: float = 1e-3
    side: int = 256  # of the validation crops


@dataclass(frozen=True)
class Point:
    """Means over the validation crops at one quality.

    ``bpp`` counts the bytes of the coded strings; with a dither, which files of this codec do not have, the ideal code
    length.
    """

    quantiser: str
    seed: int
    quality: int
    bpp: float
    psnr_db: float


@dataclass(frozen=True)
class Result:
    """BD-rate in per cent against REFERENCE with the same seed; negative is better. None where curves do not meet."""

    quantiser: str
    by_seed: dict
    mean: float | None
    deviation: float | None  # between seeds; None for one seed


def study(
    settings: Settings,
    names: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    architecture: ModelConfig = SMALL,
    progress: bool = True,
    say: Callable[[str], object] = lambda text: None,
) -> list[Point]:
    """Train and measure what is not done yet: list of :class:`Point`, in order.

    Args:
        settings: Settings.
        names: quantisers, of NAMES.
        seeds: ints.
        folder: Path; one folder per run in it. A run that was cut off goes on from its checkpoint.
        architecture: ModelConfig of the scalar models; in those with codes the latents alone differ.
        progress: show a bar for each training run.
        say: called with a line of text before each run.

    Raises:
        CodecError: the folder holds a study with other settings.
        KeyboardInterrupt: a run was interrupted; it has been saved.
    """
    protocol = {"architecture": asdict(architecture), "reconstruction": "middle", "dithered": DITHERED}
    _check_settings(folder / "settings.json", {**asdict(settings), **protocol})
    runs = [(name, seed) for seed in seeds for name in names]
    points = []
    for number, (name, seed) in enumerate(runs, 1):
        run = folder / f"{name}-{seed}"
        done = run / "points.json"
        if not done.exists():
            say(f"run {number} of {len(runs)}: {name}, seed {seed}")
            latents, codebook = CODES.get(name, ("scalar", "ema"))
            config = TrainingConfig(
                pictures=settings.pictures,
                output=str(run),
                resume=str(run) if (run / "checkpoint.pt").exists() else "",
                architecture=json.dumps({**asdict(architecture), "latents": latents}),
                quantiser=REFERENCE if name in CODES else name,
                codebook=codebook,
                freeze="" if name in CODES else "dequantiser",
                steps=settings.steps,
                batch=settings.batch,
                crop=settings.crop,
                lr=settings.lr,
                warmup=min(100, settings.steps // 10),
                ema=0.99,
                fit_crops=0,  # shifts would be fitted as well
                device="cpu",
                seed=seed,
            )
            export = train(config, progress=progress)
            if json.loads((export / "config.json").read_text())["training"]["steps"] < settings.steps:
                raise KeyboardInterrupt
            crops = validation_crops(settings.valid, settings.side)
            if name == DITHERED:
                found = measure_with_dither(export, crops, name, seed)
            else:
                found = measure(Model.from_folder(export), crops, name, seed)
            write_bytes_atomic(done, json.dumps([asdict(point) for point in found]).encode())
        points += [Point(**values) for values in json.loads(done.read_text())]
    return points


def _points(crops, name, seed, code):
    """:class:`Point` at each of QUALITIES, means over crops; ``code(pixels, quality) -> (bpp, decoded pixels)``."""
    points = []
    for quality in QUALITIES:
        rates, fidelities = [], []
        for crop in crops:
            pixels = crop.permute(1, 2, 0).numpy()
            bpp, decoded = code(pixels, quality)
            rates.append(bpp)
            fidelities.append(psnr_db(pixels, decoded))
        points.append(Point(name, seed, quality, mean(rates), mean(fidelities)))
    return points


def measure(model: Model, crops: torch.Tensor, name: str, seed: int) -> list[Point]:
    """:class:`Point` of a model at each of QUALITIES over uint8 crops (n, 3, side, side): coded, decoded, compared."""

    def code(pixels, quality):
        height, width = pixels.shape[:2]
        coded = model.encode(pixels, 100 * quality, plain=False)
        return coded.bits / (height * width), model.decode(coded, height, width, 100 * quality)

    return _points(crops, name, seed, code)


@torch.no_grad()
def measure_with_dither(folder: Path, crops: torch.Tensor, name: str, seed: int) -> list[Point]:
    """:func:`measure` of exported weights as universal quantisation would code them, with a dither drawn from ``seed``.

    ``round(r - u) + u`` of a residual r, with u known to both sides, is distributed as r + u (Ziv 1985), so that its
    ideal code length is what the rate term of training says. The synthesis sees it. The contexts go on to read r
    rounded without the dither, as in training.
    """
    config, tensors = read_weights(folder)
    model = TrainableModel(config, name)
    model.import_tensors(tensors)
    model.train()
    for layer in model.modules():
        if isinstance(layer, Centre):
            layer.frozen = True  # noise as in training, means as at evaluation
    generator = torch.Generator().manual_seed(seed)
    pictures, synthesise = [], model.transforms.synthesise

    def kept(y_hat, quality):
        pictures.append(synthesise(y_hat, quality))
        return pictures[-1]

    model.transforms.synthesise = kept  # type: ignore[method-assign]

    def code(pixels, quality):
        figures = model(to_tensor(pixels), torch.tensor([float(quality)]), generator)
        bpp = (figures["y_bpp"] + figures["z_bpp"]).item()
        return bpp, to_uint8(pictures.pop(), *pixels.shape[:2])

    return _points(crops, name, seed, code)


def compare(points: Iterable[Point]) -> list[Result]:
    """A :class:`Result` per quantiser in the order of first appearance."""
    curves: dict[str, dict[int, list[tuple[float, float]]]] = {}
    for point in points:
        curves.setdefault(point.quantiser, {}).setdefault(point.seed, []).append((point.bpp, point.psnr_db))
    results = []
    for name, by_seed in curves.items():
        percents = {}
        for seed, curve in by_seed.items():
            reference = curves.get(REFERENCE, {}).get(seed)
            figure = reference and bd_rate(reference, curve)
            percents[seed] = figure.percent if figure else None
        known = [percent for percent in percents.values() if percent is not None]
        results.append(Result(name, percents, mean(known) if known else None, stdev(known) if len(known) > 1 else None))
    return results


def table(results: Sequence[Result]) -> str:
    """Markdown: a line per quantiser, best first."""
    lines = ["| quantiser | BD-rate against mixed | deviation between seeds | seeds |", "|---|---:|---:|---|"]
    for result in sorted(results, key=lambda r: (r.mean is None, r.mean)):
        figure = "n/a" if result.mean is None else f"{result.mean:+.2f} %"
        deviation = "" if result.deviation is None else f"{result.deviation:.2f} %"
        seeds = ", ".join("n/a" if p is None else f"{p:+.2f}" for p in result.by_seed.values())
        lines.append(f"| {result.quantiser} | {figure} | {deviation} | {seeds} |")
    return "\n".join(lines)


def write_results(
    folder: Path, settings: Settings, points: Sequence[Point], results: Sequence[Result], minutes: float
) -> None:
    """``quantisers.csv`` (all points), ``quantisers.json`` (conditions, results), ``quantisers.png`` and ``.svg``."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(asdict(points[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(point) for point in points)
    write_bytes_atomic(folder / "quantisers.csv", text.getvalue().encode())
    contents = {
        "settings": {k: v for k, v in asdict(settings).items() if k not in ("pictures", "valid")},
        "training_minutes": minutes,
        "versions": {"codec": __version__, "python": platform.python_version(), "torch": torch.__version__},
        "results": [asdict(result) for result in results],
    }
    write_bytes_atomic(folder / "quantisers.json", (json.dumps(contents, indent=1) + "\n").encode())
    _plot(folder, points, results)


def training_minutes(folder: Path, names: Iterable[str], seeds: Iterable[int]) -> float:
    """Minutes that the runs of a study took to train, summed."""
    exports = [folder / f"{name}-{seed}" / "export" / "config.json" for name in names for seed in seeds]
    return sum(json.loads(path.read_text())["training"]["minutes"] for path in exports)


def _check_settings(path, settings):
    if path.exists():
        if json.loads(path.read_text()) != settings:
            raise CodecError(f"{path.parent}: holds a study with other settings; choose another folder")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(path, json.dumps(settings, indent=1).encode())


def _plot(folder, points, results):
    """Rate-distortion curves, means over seeds, and the difference to the reference at equal rate."""
    import matplotlib

    matplotlib.use("Agg")
    import numpy as np
    from matplotlib import pyplot
    from scipy.interpolate import PchipInterpolator

    curves: dict[str, list[tuple[float, float]]] = {}
    for result in results:
        own = [p for p in points if p.quantiser == result.quantiser]
        by_quality = [[p for p in own if p.quality == q] for q in QUALITIES]
        curves[result.quantiser] = [(mean(p.bpp for p in g), mean(p.psnr_db for p in g)) for g in by_quality]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), constrained_layout=True)
    for result in results:
        bpp, psnr = zip(*curves[result.quantiser])
        label = result.quantiser if result.mean is None else f"{result.quantiser} ({result.mean:+.1f} %)"
        (line,) = left.plot(bpp, psnr, marker=".", label=label)
        if REFERENCE in curves and result.quantiser != REFERENCE:
            reference = np.array(curves[REFERENCE])
            at = np.linspace(max(bpp[0], reference[0, 0]), min(bpp[-1], reference[-1, 0]), 100)
            if at[0] < at[-1] and (np.diff(bpp) > 0).all() and (np.diff(reference[:, 0]) > 0).all():
                gain = PchipInterpolator(bpp, psnr)(at) - PchipInterpolator(*reference.T)(at)
                right.plot(at, gain, color=line.get_color(), label=result.quantiser)
    left.set(xlabel="bits per pixel", ylabel="PSNR, dB", title=f"BD-rate against {REFERENCE}, mean over seeds")
    right.set(xlabel="bits per pixel", ylabel="dB", title=f"PSNR above {REFERENCE} at equal rate")
    right.axhline(0, color="black", linewidth=0.8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    left.legend()
    for suffix in ("png", "svg"):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, dpi=110)
        write_bytes_atomic(folder / f"quantisers.{suffix}", buffer.getvalue())
    pyplot.close(figure)
