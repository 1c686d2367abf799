"""Tables and dequantisers fitted to what an encoder really writes: the last step of a model's training.

    crops at qualities spread over the scale -> y, z
    plain rounding      -> counts -> entropy.y_*;                     gradients of the picture's error -> entropy.shrink
    dependent, 3 times  -> counts -> entropy.trellis_*, in the end    gradients -> entropy.trellis_shrink
    dependent, files of several weights and slopes at each anchor     -> trellis_weights, trellis_slopes of config.json

Counts are by pass, row and symbol. The scale mixture of training smooths them where they are few. Dependent
quantisation weighs distortion against what its own tables say of the rate, hence the rounds. Shifts start at the
centroids of the latents. What is best for the picture is a third less or so, as the synthesis has seen many a latent
and knows better; Newton's method finds it.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from safetensors.numpy import save
from tqdm import tqdm

from .. import latents
from ..config import ModelConfig
from ..engine import Engine, float_weights, read_folder
from ..errors import ImageError, ModelError, tensor
from ..evaluation.metrics import METRICS
from ..files import StrPath, write_bytes_atomic
from ..image_io import read_picture
from ..latents.networks import LEVELS, Y_LIMIT, Z_LIMIT, scale_table
from ..latents.quadtree import MEAN_UNIT, PASSES, merge, split, walk
from ..latents.quantisers import SLOPES, WEIGHTS, Dequantiser
from ..latents.trellis import STEP
from ..model import Model
from ..nn.transforms import Transforms
from ..quality import QUALITY_MAX, QUALITY_UNIT, between, interpolate
from ..quantise.reference import round_half_up
from .card import write_card
from .data import find_pictures
from .scale_mixture import ScaleMixture, coder_rows

if TYPE_CHECKING:
    from ..config import ModelConfig


ROUNDS = 3  # of dependent quantisation
STEPS = 2  # of Newton's method
CROPS, SIDE = 256, 256
PRIOR = 50.0  # symbols, that the mixture counts as in each row
STILL = 100.0  # symbols, that the shift of all qualities together counts as at each of them
FACTORS = (0.5, 0.65, 0.8, 1.0, 1.25, 1.6)  # of SLOPE, that are tried
EXPONENTS = (-1.5, -0.75, 0.0, 0.75, 1.5)  # of the channels' sensitivities, that are tried
WIDEST = 4.0  # factor between a sensitivity and their mean
SLOPE_CROPS = 24  # each is coded 13 times at each anchor
SENSITIVITY_CROPS, PROBES = 8, 2  # of these, how many say how sensitive a channel is, and how often
NEAR = 400  # hundredths of quality
PROBE = 0.1  # in symbols: by how much latents are moved to see what that does to the picture


def fit_tables(
    config: ModelConfig,
    tensors: Mapping[str, np.ndarray],
    pictures: Iterable[StrPath],
    seed: int = 0,
    crops: int = CROPS,
    side: int = SIDE,
    progress: bool = True,
) -> dict[str, np.ndarray]:
    """The tensors of a model with tables and shifts fitted to pictures, for plain and for dependent quantisation.

    The same for the same arguments and pictures, with the same number of threads.

    Args:
        config: ModelConfig with scalar latents. tensors: ``{name: array}`` of an exported model.
        pictures: paths of files and folders.
        crops: how many crops, of ``side`` x ``side`` pixels at most, each of a picture drawn at random.
        progress: show a bar on stderr.

    Raises:
        ModelError: the model has no such latents. ImageError: no pictures.
    """
    if config.latents != "scalar":
        raise ModelError("there are no tables to fit: the latents are not scalar")
    mixture = _mixture(tensors)
    tensors = {**tensors, **_start(config, mixture)}
    paths = find_pictures(pictures)
    with tqdm(total=crops * (2 + ROUNDS + 2 * STEPS), unit="crop", disable=not progress) as bar:
        bar.set_description_str("analysing")
        engine, samples = Engine(config, float_weights(config, tensors)), []
        for pixels, quality in _crops(paths, seed, crops, side):
            y = engine.analyse(pixels.transpose(2, 0, 1), quality)
            z = engine.side_information(y, quality)
            assert z is not None  # as scalar latents have it
            samples.append(_Sample(pixels, quality, y, z))
            bar.update()
        synthesis = _synthesis(config, tensors)
        for dependent in (False, True):
            bar.set_description_str("dependent quantisation" if dependent else "plain rounding")
            prior = _prior(mixture, dependent)
            for _ in range(ROUNDS if dependent else 1):
                counts, observed = _Counts(dependent), []
                observe = functools.partial(_observe, latents.from_tensors(config, tensors), dependent)
                for seen in _map(observe, samples):
                    counts.add(seen)
                    observed.append((seen.value, seen.cell))
                    bar.update()
                tensors.update(counts.tensors(prior))
            tensors.update(_fit_shifts(config, dependent, synthesis, samples, observed, bar))
    return tensors


class _Sample(NamedTuple):
    """A crop, uint8 (h, w, 3), its quality in hundredths, its latents and side information."""

    pixels: np.ndarray
    quality: int
    y: np.ndarray
    z: np.ndarray


class _Observed(NamedTuple):
    """What became of a sample.

    Attributes:
        rows, symbols: lists of int16 arrays, of each pass what is coded.
        value: int32 (M, h, w), in 1/16 of a symbol, before the shift. cell: int16 (M, h, w), number of each symbol's
            shift by Dequantiser.cells, with the sign of the symbol; 0 where there is none.
    """

    rows: list
    symbols: list
    value: np.ndarray
    cell: np.ndarray


def _crops(paths, seed, number, side):
    """Yield ``number`` times (uint8 (h, w, 3), quality in hundredths): windows of pictures, sides multiples of 64."""
    rng = np.random.default_rng(seed)
    strata = (rng.permutation(number) + rng.random(number)) / number
    for quality in strata:
        while True:
            if not paths:
                raise ImageError("no usable pictures of at least 64 x 64 pixels to fit tables to")
            path = paths[rng.integers(len(paths))]
            try:
                pixels = read_picture(path).pixels
                if min(pixels.shape[:2]) >= 64:
                    break
            except ImageError:
                pass
            paths = [other for other in paths if other != path]
        height, width = (min(side, n // 64 * 64) for n in pixels.shape[:2])
        top, left = (rng.integers(n - own + 1) for n, own in zip(pixels.shape, (height, width)))
        yield pixels[top : top + height, left : left + width], round(QUALITY_MAX * quality)


def _map(function, items):
    """``map`` on all processors; results in order, few of them waiting."""
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        waiting = []
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * workers:
                yield waiting.pop(0).result()
        yield from (future.result() for future in waiting)


def _observe(codes, dependent, sample):
    """The _Observed of a sample."""
    quantiser, passes, rows, symbols, cells = codes.quantiser(dependent=dependent), split(sample.y), [], [], []

    def symbols_of(k, means, indexes):
        found = quantiser.quantise(k, passes[k] - means / np.float32(MEAN_UNIT), indexes, sample.quality)
        rows.append(found.rows.ravel()[found.order].astype(np.int16))
        symbols.append(found.symbols.ravel()[found.order].astype(np.int16))
        cells.append((np.sign(found.symbols) * Dequantiser.cells(found.symbols, found.rows)).astype(np.int16))
        return found.values

    z_hat = np.clip(round_half_up(sample.z), -Z_LIMIT, Z_LIMIT)
    parts = walk(codes.networks, z_hat, sample.quality, symbols_of)
    return _Observed(rows, symbols, merge(parts).astype(np.int32), merge(cells))


class _Counts:
    """How often each symbol was coded with each row."""

    def __init__(self, dependent):
        self.dependent = dependent
        self.counts = np.zeros((len(PASSES), LEVELS * (1 + dependent), 2 * Y_LIMIT + 1), np.int64)

    def add(self, seen):
        for counts, rows, symbols in zip(self.counts, seen.rows, seen.symbols):
            np.add.at(counts, (rows.astype(np.intp), symbols.astype(np.intp) + Y_LIMIT), 1)

    def tensors(self, prior):
        """The tables, as they stand in a weights file."""
        pmf = self.counts + PRIOR * prior
        pmf /= pmf.sum(2, keepdims=True)
        return _tables("trellis" if self.dependent else "y", pmf)


def _fit_shifts(config, dependent, synthesis, samples, observed, bar):
    """The shifts of one kind of quantisation, as they stand in a weights file.

    The error of a picture is about a quadratic in its latents, the same in each: an orthonormal transform's. By its
    gradient every symbol says which shift it would like; least squares find what suits all with one shift in common.
    """
    levels = LEVELS * (1 + dependent)
    shifts = np.zeros((config.anchors, levels, Dequantiser.MAGNITUDES), np.float32)
    for step in range(STEPS + 1):
        problem = _LeastSquares(config.anchors, levels)
        for sample, (value, cell) in zip(samples, observed):
            if step == 0:
                wanted = np.sign(cell) * (value.astype(np.float32) / MEAN_UNIT - sample.y)
            else:
                wanted = _wanted(synthesis, sample, value, cell, shifts)
                bar.update()
            problem.add(sample.quality, np.abs(cell), wanted)
        shifts = problem.solve()
    return {"entropy.trellis_shrink" if dependent else "entropy.shrink": shifts.astype(np.float16)}


def _wanted(synthesis, sample, value, cell, shifts):
    """Shift that each latent would like, in symbols, towards its mean: float32 (M, h, w)."""
    table = np.pad(interpolate(shifts, sample.quality), ((0, 0), (1, 0))).ravel()
    sign, now = np.sign(cell).astype(np.float32), table[np.abs(cell)]
    y_hat = torch.from_numpy(value.astype(np.float32) / MEAN_UNIT - sign * now)[None]
    y_hat = y_hat.contiguous(memory_format=torch.channels_last).requires_grad_()
    quality = torch.tensor([sample.quality / QUALITY_UNIT])
    x = torch.from_numpy(sample.pixels.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    x_hat = synthesis.synthesise(y_hat, quality)
    (gradient,) = torch.autograd.grad((x_hat - x).square().sum(), y_hat)
    # How much error a latent that is off by one brings: from moving all of those to be shifted, at random.
    random = np.random.default_rng(sample.quality).choice(np.array([-PROBE, PROBE], np.float32), sign.shape) * np.abs(
        sign
    )
    with torch.no_grad():
        moved = synthesis.synthesise(y_hat + torch.from_numpy(random), quality) - x_hat
    curvature = moved.double().square().sum().item() / max(np.square(random).sum(dtype=np.float64), PROBE**2)
    return now + sign * gradient[0].numpy() / (2 * max(curvature, 1e-12))


class _LeastSquares:
    """Shifts, piecewise linear over the quality, that are nearest to what the symbols would like."""

    def __init__(self, anchors, levels):
        cells = levels * (Dequantiser.MAGNITUDES + 1)
        self._anchors, self._levels = anchors, levels
        self._normal, self._wanted = np.zeros((cells, anchors, anchors)), np.zeros((cells, anchors))

    def add(self, quality, cell, wanted):
        number = np.bincount(cell.ravel(), minlength=len(self._wanted))
        total = np.bincount(cell.ravel(), wanted.ravel(), minlength=len(self._wanted))
        left, share = between(quality, self._anchors)
        hat = np.zeros(self._anchors)
        hat[left : left + 2] = 1 - share / QUALITY_MAX, share / QUALITY_MAX
        self._normal += number[:, None, None] * np.outer(hat, hat)
        self._wanted += total[:, None] * hat

    def solve(self):
        """float32 (anchors, levels, MAGNITUDES), held near what suits all qualities together, and that near 0."""
        common = self._wanted.sum(1) / (self._normal.sum((1, 2)) + STILL)
        right = self._wanted + STILL * common[:, None]
        shifts = np.linalg.solve(self._normal + STILL * np.eye(self._anchors), right[:, :, None])[:, :, 0]
        shifts = shifts.reshape(self._levels, -1, self._anchors)[:, 1:].transpose(2, 0, 1)
        return np.ascontiguousarray(np.clip(shifts, -1, 1), np.float32)


def _mixture(tensors):
    """The ScaleMixture of an exported model."""
    mixture = ScaleMixture(len(PASSES))
    for name, parameter in mixture.named_parameters():
        parameter.data.copy_(torch.from_numpy(tensor(tensors, f"entropy.y_prior.{name}")))
    return mixture


@torch.no_grad()
def _prior(mixture, dependent):
    """Probability of each symbol by the mixture: float64 (passes, rows, 2 Y_LIMIT + 1)."""
    symbols = torch.arange(-Y_LIMIT, Y_LIMIT + 1.0)
    if dependent:
        size, sign = symbols.abs(), symbols.sign()
        # Cells reach half-way to the neighbours: of quantiser 1, the 0 is nearer to them than they are to each other.
        low = torch.where(size == 1, 0.5, 2 * size - 2)
        odd_centre, odd_width = (low + 2 * size) / 2, 2 * size - low
        odd_centre[size == 0], odd_width[size == 0] = 0.0, 1.0
        cells = [(2 * symbols, torch.full_like(symbols, 2.0)), (sign * odd_centre, odd_width)]
        cells = [(centre * STEP / MEAN_UNIT, width * STEP / MEAN_UNIT) for centre, width in cells]
    else:
        cells = [(symbols, torch.ones_like(symbols))]
    scales = torch.tensor(scale_table())[:, None]
    rows = [
        mixture.likelihood((centre / width).expand(LEVELS, -1), scales / width, k)
        for k, (centre, width) in itertools.product(range(len(PASSES)), cells)
    ]
    return torch.stack(rows).double().view(len(PASSES), -1, len(symbols)).numpy()


def _start(config, mixture):
    """Tensors for the first round of dependent quantisation."""
    shifts = np.zeros((config.anchors, 2 * LEVELS, Dequantiser.MAGNITUDES), np.float16)
    return {**_tables("trellis", _prior(mixture, True)), "entropy.trellis_shrink": shifts}


def _tables(name, pmf):
    """Tables of distributions (passes, rows, 2 Y_LIMIT + 1), as they stand in a weights file."""
    arrays = coder_rows(torch.from_numpy(pmf.reshape(-1, pmf.shape[2])), Y_LIMIT)
    return {f"entropy.{name}_{key}": array.numpy() for key, array in zip(("cdf", "lengths", "offsets"), arrays)}


def fit_slopes(
    config: ModelConfig,
    tensors: Mapping[str, np.ndarray],
    pictures: Iterable[StrPath],
    measure: str = "psnr",
    seed: int = 0,
    crops: int = SLOPE_CROPS,
    side: int = SIDE,
    progress: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """What a bit should be worth to dependent quantisation, and an error in each channel; see Dependent.

    How much squared error in the picture a channel's error makes differs twofold between channels at low rates, more
    for those that are often not zero. What suits squared error is that; what suits eyes may be the reverse. So weights
    are the sensitivities to a power, first found of EXPONENTS at every anchor, and then the slope of FACTORS. The best
    is where the rate is least at an equal measure: what a choice changes in log rate, less what it changes in the
    measure over its slope between two near qualities. Of a polynomial through these, as they are noisy, and with half
    of its weight on the two qualities beside.

    Args:
        config, tensors, pictures, seed, side, progress: as of :func:`fit_tables`, the tables being fitted.
        measure: a key of METRICS, what equal quality means: what the model was trained for.
        crops: how many.

    Returns:
        ``(slopes, weights)``: float32 (anchors,) and (anchors, M).

    Raises:
        ModelError: the model has no dependent quantisation. ImageError: no pictures.
    """
    model = Model(config, {name: array for name, array in tensors.items() if name not in (SLOPES, WEIGHTS)})
    if not config.scalar or not model.latents.dependent:
        raise ModelError("there is no trellis to fit slopes of: the model has no dependent quantisation")
    latents: Any = model.latents  # scalar
    quantiser = latents.quantiser(dependent=True)
    pixels = [crop for crop, _ in _crops(find_pictures(pictures), seed, crops, side)]
    qualities = [QUALITY_MAX * anchor // (config.anchors - 1) for anchor in range(config.anchors)]

    def measured(quality, weights=None, factor=1.0):
        """Means over crops: natural logarithm of bits, and the measure."""
        quantiser.weights, quantiser.slopes = weights, np.full(config.anchors, factor, np.float32)
        found = []
        for crop in pixels:
            coded = model.encode(crop, quality, plain=False, dependent=True)
            decoded = model.decode(coded, crop.shape[0], crop.shape[1], quality)
            value: Any = METRICS[measure].function(crop, decoded)  # no crop is too small
            found.append((np.log(coded.bits), value))
            bar.update()
        return np.mean(found, 0)

    def best(tried, degree, points_of):
        """Of the numbers tried, at each anchor, or between them."""
        fine, found = np.linspace(tried[0], tried[-1], 201), []
        for quality, exchange in zip(qualities, exchanges):
            points = np.array([points_of(quality, number) for number in tried])
            cost = points[:, 0] - points[:, 1] * exchange
            found.append(fine[np.polyval(np.polyfit(tried, cost, degree), fine).argmin()])
        # Neighbouring qualities want about the same, and the rest is noise.
        padded = np.pad(found, 1, mode="edge")
        return padded[:-2] / 4 + padded[1:-1] / 2 + padded[2:] / 4

    total = config.anchors * (2 + len(EXPONENTS) + len(FACTORS)) * crops
    with tqdm(total=total, desc="dependent quantisation", unit="crop", disable=not progress) as bar:
        exchanges = []
        for quality in qualities:
            near = [measured(min(max(quality + step, 0), QUALITY_MAX)) for step in (-NEAR, NEAR)]
            rate, value = near[1] - near[0]
            exchanges.append(rate / value)
        logs = _log_sensitivities(config, tensors, model, pixels[:SENSITIVITY_CROPS], qualities)
        exponents = best(EXPONENTS, 2, lambda quality, number: measured(quality, np.exp(number * logs)))
        weights = np.exp(exponents[:, None] * logs).astype(np.float32)
        slopes = best(np.log(FACTORS), 3, lambda quality, number: measured(quality, weights, np.exp(number)))
    return np.exp(slopes).astype(np.float32), weights


def _log_sensitivities(config, tensors, model, pixels, qualities):
    """Squared error in the picture by that in each channel, at decoded latents, as a logarithm: (anchors, M).

    The diagonal of J^T J, J the Jacobian of g_s, is the mean square of J^T v over random signs v (Hutchinson 1990). 0
    is the mean over symbols other than zero; no channel is further from that than WIDEST.
    """
    synthesis, random = _synthesis(config, tensors), torch.Generator().manual_seed(0)
    found = []
    for quality in qualities:
        square, active = np.zeros(config.M), np.full(config.M, 1e-9)
        for crop in pixels:
            y = model.engine.analyse(crop.transpose(2, 0, 1), quality)
            z = model.engine.side_information(y, quality)
            y_hat = model.latents.encode(z, y, quality, dependent=True).y_hat
            t = torch.from_numpy(y_hat[None]).contiguous(memory_format=torch.channels_last).requires_grad_()
            x_hat = synthesis.synthesise(t, torch.tensor([quality / QUALITY_UNIT]))
            for _ in range(PROBES):
                signs = 2.0 * torch.randint(0, 2, x_hat.shape, generator=random) - 1
                (gradient,) = torch.autograd.grad(x_hat, t, signs, retain_graph=True)
                square += gradient[0].square().mean((1, 2)).numpy()
            active += (np.abs(y_hat) > 0.5).mean((1, 2))
        logs = np.log(np.maximum(square, 1e-30))
        logs -= (logs * active).sum() / active.sum()
        found.append(np.clip(logs, -np.log(WIDEST), np.log(WIDEST)))
    return np.array(found)


def _synthesis(config, tensors):
    """The transforms of an exported model, to be differentiated by what they are given."""
    transforms = Transforms(config).float().eval().requires_grad_(False)
    transforms.load_state_dict(
        {name: torch.from_numpy(a.astype(np.float32)) for name, a in float_weights(config, tensors).items()}
    )
    return transforms.to(memory_format=torch.channels_last)


def fit_folder(
    source: StrPath, folder: StrPath, pictures: Iterable[StrPath], seed: int = 0, progress: bool = True, **sizes: int
) -> None:
    """Fit the tables of an exported model and write it, with a card, to ``folder``, which may be where it came from.

    Args:
        source: folder of an exported model. pictures, seed, progress, sizes: as of :func:`fit_tables`.

    Raises:
        ModelError, ImageError: as :func:`fit_tables`; nothing is written then.
    """
    config, tensors = read_folder(source)
    tensors = fit_tables(config, tensors, pictures, seed, progress=progress, **sizes)
    weights = save({name: tensors[name] for name in sorted(tensors.keys() - {SLOPES, WEIGHTS})})
    _write(source, folder, weights, {})


def fit_slopes_folder(
    source: StrPath,
    folder: StrPath,
    pictures: Iterable[StrPath],
    measure: str = "psnr",
    seed: int = 0,
    progress: bool = True,
    **sizes: int,
) -> None:
    """Fit slopes and weights of an exported model and write it, with a card, to ``folder``, maybe where it came from.

    The weights are the same to the last bit, and so is the id: what decodes the one's files decodes the other's.

    Args:
        source: folder of an exported model. pictures, measure, seed, progress, sizes: as of :func:`fit_slopes`.

    Raises:
        ModelError, ImageError: as :func:`fit_slopes`; nothing is written then.
    """
    config, tensors = read_folder(source)
    slopes, weights = fit_slopes(config, tensors, pictures, measure, seed, progress=progress, **sizes)
    encoder = {
        SLOPES.removeprefix("entropy."): [round(float(slope), 3) for slope in slopes],
        WEIGHTS.removeprefix("entropy."): [[round(float(weight), 2) for weight in row] for row in weights],
    }
    _write(source, folder, (Path(source) / "weights.safetensors").read_bytes(), {"encoder": encoder})


def _write(source, folder, weights, facts):
    """A model's folder: the source's config.json with other facts, weights, and a card."""
    facts = {**json.loads((Path(source) / "config.json").read_text(encoding="utf-8")), **facts}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(folder / "weights.safetensors", weights)
    # Long lists of numbers on a line.
    text = re.sub(r"\[[-+.\de,\s]*\]", lambda found: " ".join(found[0].split()), json.dumps(facts, indent=2))
    write_bytes_atomic(folder / "config.json", (text + "\n").encode())
    config = ModelConfig.from_dict(facts["architecture"])
    write_card(folder, config, facts.get("training", {}))
