"""Speed: codecs in turns on the same pictures, the time of every stage of ours, and what the machine could do.

How everything is measured:

* **Rounds.** In every round, at every number of threads and every size, each codec codes the same picture once,
  in an order that is drawn anew. Whatever slows a shared machine down for a while slows all of them down alike, and
  a ratio is taken between times of the same round. Ratios are of a codec's time to ours. Before the first round
  each codec codes a picture that does not count, at every number of threads and every size.
* **Times** go from the pixels in memory to the bytes and back, as in :mod:`codec.evaluation.rate_distortion`, and
  so without loading a model. Medians over the rounds, with the quartiles as spread.
* **Batches** are PNG files given to ``compress_batch``, and what it made of them given to ``decompress_batch``;
  times are per picture.
* **Qualities.** Each codec codes at the highest quality of its scale whose file of the first picture, at the
  middle size, is not larger than ours. Models with random weights have no rate to compare.
* **Stages** go from file to file (:mod:`codec.evaluation.stages`). Where several threads work on tiles, the time of a
  part is that of all of them.
* **Share of peak.** Twice the multiply-adds of a part over its time, against the fastest product of two square
  matrices in the same round with the same number of threads: NumPy's in float32, and PyTorch's in bfloat16 where
  PyTorch is installed; on a GPU all of them are PyTorch's. Multiply-adds are those of the padded picture; the work
  that pieces of a large one repeat at their borders is not counted, nor what Winograd's algorithm saves.
"""

from __future__ import annotations

import functools
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import ModelConfig, padded_size
from ..extras import installed
from ..files import StrPath, write_bytes_atomic
from ..image_io import read_picture
from ..macs import multiply_adds, parameters
from ..threads import restored, set_product_threads, set_threads
from .rate_distortion import Entrant, measure
from .report import Search
from .stages import Spread, Stages, Work, clock_stages, cut_files, divided, is_gpu, spread, synchronise

if TYPE_CHECKING:
    from ..api import Codec
    from ..image_io import Readable
    from .report import Rival


OURS = "codec"
BATCH = 4  # pictures
BATCHED = f"{OURS}, {BATCH} files at once"
STAGED = f"{OURS}, stage by stage"
SEED = 0  # of the order of turns
# Part -> who runs it.
PARTS = {"g_a": "encoder", "h_a": "encoder", "entropy": "both", "g_s": "decoder"}
# The direction in which a part is timed for its share of the peak.
TIMED_IN = {"g_a": "compress", "h_a": "compress", "entropy": "decompress", "g_s": "decompress"}
LARGEST_PRODUCT = 8192  # rows


@dataclass(frozen=True)
class Coding:
    """One picture, there and back."""

    round: int  # from 1
    threads: int
    width: int
    height: int
    turn: int  # place in the order of this round, from 0
    codec: str
    picture: str
    quality: float
    bytes: int
    encode_s: float
    decode_s: float


@dataclass(frozen=True)
class Peak:
    """The fastest matrix products in one round."""

    round: int
    threads: int
    gflops: dict[str, float]  # by precision


@dataclass(frozen=True)
class Measured:
    """All that was timed."""

    rounds: int
    qualities: dict[str, float]  # by codec
    codings: list[Coding]
    stages: list[Stages]
    peaks: list[Peak]


@dataclass(frozen=True)
class Part:
    """What a part of the model costs."""

    part: str
    runs_in: str  # encoder, decoder or both
    kmac_px: float  # thousands of multiply-adds per pixel
    parameters: int


@dataclass(frozen=True)
class Speed:
    """One codec with one number of threads at one size."""

    codec: str
    threads: int
    width: int
    height: int
    quality: float
    bpp: float | None  # mean over the rounds; None: of random weights
    encode_s: Spread
    decode_s: Spread
    encode_mpx_s: Spread  # megapixels per second
    decode_mpx_s: Spread
    encode_ratio: Spread  # of its time to ours in the same round
    decode_ratio: Spread


@dataclass(frozen=True)
class MachinePeak:
    """What the machine could do with one number of threads."""

    threads: int
    gflops: dict[str, Spread]  # by precision


@dataclass(frozen=True)
class Share:
    """What a part of the model made of that."""

    part: str
    threads: int
    width: int
    height: int
    gflops: Spread
    of_peak: dict[str, Spread]  # by precision, 0 to 1


@dataclass(frozen=True)
class Summary:
    """What follows from the times."""

    parts: list[Part]
    speeds: list[Speed]
    stages: list[Stages]  # of the round whose whole is the median
    work: list[Work]
    peaks: list[MachinePeak]
    shares: list[Share]


# Measuring


def bench(
    coder: Codec,
    anchors: Sequence[Rival],
    pictures: Sequence[tuple[str, Readable]],
    sizes: Sequence[tuple[int, int]],
    threads: Sequence[int],
    quality: float,
    repeats: int,
    max_minutes: float | None = None,
    step: Callable[[str], object] = lambda text: None,
    *,
    profile: bool = False,
) -> Measured:
    """Time our codec and the anchors in turns.

    Args:
        coder: ``codec.Codec``. One with a method ``set_threads`` is told the number of threads, beside the process.
        anchors: list of ``anchors.Anchor`` or the like. Those with a field ``threads`` are told the number.
        pictures: pairs (name, what ``read_picture`` takes); each round codes the next of them.
        sizes: pairs (width, height) by rising area.
        threads: numbers of threads, rising.
        quality: ours.
        repeats: rounds at most.
        max_minutes: no round is begun that would probably end later; one always is. None: no limit.
        step: called as ``step(text)`` before each of :func:`steps` pieces of work, for a progress display.
        profile: time nothing but the stages of our own work; ``anchors`` is empty then.

    Raises:
        CodecError: a picture cannot be read, or a codec does not take a size or fails on its own bytes.
    """
    started, longest = time.monotonic(), 0.0
    _load_torch()
    with restored(), tempfile.TemporaryDirectory() as folder:
        run = _Run(coder, anchors, pictures[:repeats], sizes, threads, quality, folder, step, profile)
        run.round(0)
        for number in range(1, repeats + 1):
            begun = time.monotonic()
            if max_minutes is not None and number > 1 and begun - started + longest > 60 * max_minutes:
                break
            run.round(number)
            rounds, longest = number, max(longest, time.monotonic() - begun)
    kept = ([row for row in rows if row.round > 0] for rows in (run.codings, run.stages, run.peaks))
    return Measured(rounds, run.qualities, *kept)


def steps(
    anchors: Sequence[Rival],
    sizes: Sequence[tuple[int, int]],
    threads: Sequence[int],
    repeats: int,
    profile: bool = False,
) -> int:
    """How often :func:`bench` calls ``step`` if no limit of time ends it."""
    if profile:
        return len(threads) * len(sizes) * (1 + repeats)
    warm_up = 1 + len(sizes) * (1 + len(anchors))
    return len(anchors) + len(threads) * (warm_up + repeats * (warm_up + 2 * len(sizes)))


def made_up_picture(width: int, height: int) -> np.ndarray:
    """uint8 (height, width, 3): noise with the spectrum of photographs, for where there are none."""
    noise = np.random.default_rng(SEED).standard_normal((3, height, width))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf  # the mean is chosen below
    # 1.4: the rates of JPEG and WebP are then about those of the pictures in sample_images/.
    planes = np.fft.irfft2(np.fft.rfft2(noise) / frequency**1.4, (height, width))
    luma, *chroma = planes / planes.std(axis=(1, 2), keepdims=True)
    red, blue = (luma + 0.3 * difference for difference in chroma)
    return (128 + 45 * np.stack([red, luma, blue], axis=2)).clip(0, 255).astype(np.uint8)


def matrix_peak(kind: str = "float32", device: str = "cpu", seconds: float = 0.2) -> float:
    """GFLOP/s of the fastest product of two square matrices: larger and larger ones, then one after the other.

    Args:
        kind: "float32", on a CPU NumPy's; "tf32" or "bfloat16", PyTorch's.
        seconds: how long to go on, about.
    """
    product = _numpy_product if kind == "float32" and not is_gpu(device) else _torch_product(kind, device)
    rows, best, started = 256, 0.0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        multiply = product(rows)
        synchronise(device)
        begun = time.perf_counter()
        multiply()
        synchronise(device)
        took = time.perf_counter() - begun
        best = max(best, 2 * rows**3 / took / 1e9)
        if took < seconds / 10 and rows < LARGEST_PRODUCT:
            rows *= 2
    return best


def _numpy_product(rows):
    """() -> None that multiplies two matrices of so many rows, made now."""
    a, b = np.random.default_rng(SEED).random((2, rows, rows), np.float32)
    return functools.partial(np.matmul, a, b, out=np.empty_like(a))


def _torch_product(kind, device):
    """rows -> the same in PyTorch."""
    import torch

    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    # What PyTorch's convolutions use on a GPU unless told otherwise is "high".
    precision = "high" if kind == "tf32" else "highest"

    def product(rows):
        a, b = (torch.rand(rows, rows, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)

        def multiply():
            before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision(precision)
            try:
                torch.mm(a, b, out=out)
            finally:
                torch.set_float32_matmul_precision(before)

        return multiply

    return product


def _load_torch():
    """PyTorch, or None where it is not installed. Loaded before any number of threads is set, it has the same."""
    if not installed("torch"):
        return None
    import torch

    return torch


class _Run:
    """What lasts from one round to the next. The arguments are those of :func:`bench`."""

    def __init__(self, coder, anchors, pictures, sizes, threads, quality, folder, step, profile):
        self.coder, self.anchors, self.quality = coder, anchors, quality
        self.sizes, self.threads = sizes, threads
        self.folder, self.step, self.profile = folder, step, profile
        self.draw = random.Random(SEED)
        self.codings, self.stages, self.peaks = [], [], []
        self.files = cut_files(pictures, sizes, folder)
        self._use(threads[-1])
        self.qualities = self._qualities()

    def round(self, number):
        """Measure everything once; round 0 warms up, and knows nothing of batches and stages."""
        name, files = self.files[max(number - 1, 0) % len(self.files)]
        for threads in self.threads:
            self._use(threads)
            if not self.profile:
                self.step("matrix products")
                set_product_threads(threads)
                self.peaks.append(Peak(number, threads, _machine_peak(self.coder.device)))
                set_product_threads(1)
            coders = {OURS: self.coder}
            for anchor in self.anchors:
                told = hasattr(anchor, "threads")
                coders[anchor.name] = replace(anchor, threads=threads) if told else anchor
            for size in self.sizes:
                self._cell((number, threads, *size), coders, name, files[size])

    def _use(self, threads):
        """Work with so many threads from now on, as ``codec compress`` does."""
        set_threads(threads)
        set_product_threads(1)
        if hasattr(self.coder, "set_threads"):
            self.coder.set_threads(threads)

    def _cell(self, place: tuple[int, int, int, int], coders, name, path):
        """Every codec's turn; ``place`` is round, threads, width and height."""
        pixels = read_picture(path).pixels
        measured = [STAGED] if self.profile else [*coders, BATCHED, STAGED]
        turns = measured if place[0] else list(coders)
        self.draw.shuffle(turns)
        for turn, codec in enumerate(turns):
            self.step(f"{place[2]}x{place[3]} {codec}")
            if codec == STAGED:
                for direction, clock in clock_stages(self.coder, path, self.quality, self.folder).items():
                    self.stages.append(Stages(*place, direction, clock.seconds, clock.whole_s, clock.beside_s))
                continue
            quality = self.qualities[codec]
            if codec == BATCHED:
                figures = _batch(self.coder, path, quality)
            else:
                row = measure(Entrant(codec, coders[codec], (quality,)), name, pixels, quality, ())
                figures = row.bytes, row.encode_s, row.decode_s
            self.codings.append(Coding(*place, turn, codec, name, quality, *figures))

    def _qualities(self):
        """The quality of every codec, by name."""
        found = {OURS: self.quality, BATCHED: self.quality}
        if not self.anchors:
            return found
        pixels = read_picture(self.files[0][1][self.sizes[len(self.sizes) // 2]]).pixels
        size = len(self.coder.compress(pixels, self.quality))
        for anchor in self.anchors:
            self.step(f"quality of {anchor.name}")
            single = len(anchor.qualities) == 1
            found[anchor.name] = anchor.qualities[0] if single else Search(anchor, pixels).quality_for(size)
        return found


def _batch(coder, path, quality) -> tuple[int, float, float]:
    """Bytes, and seconds there and back, per picture."""
    started = time.perf_counter()
    files = coder.compress_batch([path] * BATCH, quality)
    encoded = time.perf_counter()
    coder.decompress_batch(files)
    finished = time.perf_counter()
    return len(files[0]), (encoded - started) / BATCH, (finished - encoded) / BATCH


def _machine_peak(device):
    """GFLOP/s by precision."""
    kinds = ["float32"]
    if is_gpu(device):
        kinds.append("tf32")
    if _load_torch() is not None:
        kinds.append("bfloat16")
    return {kind: matrix_peak(kind, device) for kind in kinds}


# What follows


def summarise(measured: Measured, config: ModelConfig, untrained: Iterable[str] = ()) -> Summary:
    """:class:`Summary` of what was measured with a model of this ModelConfig.

    Args:
        untrained: names of the codecs with random weights.
    """
    parts = _parts(config)
    middle = []
    for rows in _by(measured.stages, "threads", "width", "height", "direction").values():
        middle.append(sorted(rows, key=lambda row: row.whole_s)[(len(rows) - 1) // 2])
    peaks = [
        MachinePeak(threads, {kind: spread([row.gflops[kind] for row in rows]) for kind in rows[0].gflops})
        for (threads,), rows in _by(measured.peaks, "threads").items()
    ]
    shares = _shares(measured, parts) if peaks else []
    return Summary(parts, _speeds(measured, untrained), middle, divided(measured.stages), peaks, shares)


def as_json(conditions: dict[str, Any], summary: Summary, measured: Measured) -> str:
    """``conditions``, the fields of ``summary`` and all of ``measured`` as one JSON object."""
    contents = {"conditions": conditions, **asdict(summary), "measured": asdict(measured)}
    return json.dumps(contents, indent=1, ensure_ascii=False, allow_nan=False)


def write_json(path: StrPath, *contents: Any) -> None:
    """What :func:`as_json` says, in a file; whole or not at all."""
    write_bytes_atomic(path, (as_json(*contents) + "\n").encode("utf-8"))


def _parts(config):
    """List of :class:`Part`: those of the model, then encoder and decoder as a whole."""
    macs, counts = multiply_adds(config), parameters(config)
    found = [Part(part, where, macs[part], counts[part]) for part, where in PARTS.items() if part in macs]
    for whole in ("encoder", "decoder"):
        own = [part for part in found if part.runs_in in (whole, "both")]
        found.append(Part(whole, "", sum(p.kmac_px for p in own), sum(p.parameters for p in own)))
    return found


def _speeds(measured, untrained):
    """List of :class:`Speed` by threads and size: ours, and the others in the order in which they were named."""
    found = []
    for (threads, width, height), cell in _by(measured.codings, "threads", "width", "height").items():
        by_codec = _by(cell, "codec")
        ours = {row.round: row for row in by_codec[OURS,]}
        area = width * height
        for codec, quality in measured.qualities.items():
            rows = by_codec[codec,]
            encode_s, decode_s = (spread([getattr(row, field) for row in rows]) for field in ("encode_s", "decode_s"))
            found.append(
                Speed(
                    codec, threads, width, height, quality,
                    None if codec in untrained else 8 * sum(row.bytes for row in rows) / (len(rows) * area),
                    encode_s, decode_s,
                    spread([area / row.encode_s / 1e6 for row in rows]),
                    spread([area / row.decode_s / 1e6 for row in rows]),
                    spread([row.encode_s / ours[row.round].encode_s for row in rows]),
                    spread([row.decode_s / ours[row.round].decode_s for row in rows]),
                )
            )  # fmt: skip
    return found


def _shares(measured, parts):
    """List of :class:`Share` by threads, size and part."""
    peaks = {(row.round, row.threads): row.gflops for row in measured.peaks}
    found = []
    for (threads, width, height), cell in _by(measured.stages, "threads", "width", "height").items():
        padded_height, padded_width = padded_size(height, width)
        for part in parts:
            if part.part not in TIMED_IN or not part.kmac_px:
                continue
            flop = 2e3 * part.kmac_px * padded_height * padded_width
            rows = [row for row in cell if row.direction == TIMED_IN[part.part]]
            gflops = {row.round: flop / row.seconds[part.part] / 1e9 for row in rows}
            of_peak = {
                kind: spread([rate / peaks[number, threads][kind] for number, rate in gflops.items()])
                for kind in peaks[rows[0].round, threads]
            }
            found.append(Share(part.part, threads, width, height, spread(list(gflops.values())), of_peak))
    return found


def _by(rows, *fields):
    """Values of the fields -> the rows that have them; both in the order in which they first came."""
    found: dict[tuple[Any, ...], list[Any]] = {}
    for row in rows:
        found.setdefault(tuple(getattr(row, field) for field in fields), []).append(row)
    return found
