"""Pictures x codecs x qualities -> rate, distortion and time, and what follows from them.

How everything is measured:

* **Pictures** are the RGB pixels that ``codec.image_io.read_picture`` gives: upright, 8 bits. Every codec
  gets these pixels and nothing else, so alpha, profiles and metadata weigh on nobody's rate, and grey
  pictures are coded as RGB.
* **Rate** is the length of a whole file, headers included: ``bpp = 8 * bytes / (H * W)``.
* **Distortion** is that of the picture decoded from these very bytes, see :mod:`codec.evaluation.metrics`.
* **Time** goes from the pixels in memory to the bytes, and from the bytes to the pixels in memory. Before
  anything counts, each codec codes the first picture once: loading weights and libraries is left out. What
  they cost is measured by :mod:`codec.evaluation.process`. Several workers share the processor: their times are
  in the rows, but are no measure of any codec.
* **Means** are over pictures, each with the same weight: mean of bpp, mean of dB. Seconds are medians, which a
  machine that was busy for a moment does not move. BD-rates and BD-PSNRs compare the curves of means. Their
  confidence intervals come from resampling the pictures, eight or more: how far the figure would move with other
  pictures of the same kind.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import math
import multiprocessing
import os
import platform
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from .. import __version__
from ..cluster import Lost
from ..errors import CodecError, ImageError
from ..files import StrPath, write_bytes_atomic
from ..image_io import read_picture
from ..remote import RemotePath
from ..threads import current_threads, set_threads
from .bd_rate import BdPsnr, BdRate, Curve, interval, psnr_curve, psnr_difference, rate_curve, rate_difference
from .journal import Journal, digest
from .metrics import CAP_DB, METRICS, Metric, ms_ssim_db
from .process import Cold

if TYPE_CHECKING:
    from PIL import Image


Place: TypeAlias = "StrPath | RemotePath"  # of a picture
# Does tasks elsewhere: work, tasks -> (task, result or exception, where), as codec.cluster.spread.
Spread: TypeAlias = Callable[[Callable[[Any], Any], list[Any]], Iterable[tuple[Any, Any, Any]]]
_Task: TypeAlias = tuple[str, Place, int, float]  # name, path, index of the entrant, quality
_Outcomes: TypeAlias = Generator["tuple[_Task, Row | ImageError]", None, None]

# Rates of the test codec, in bits per pixel, that get a BD-rate of their own; see bd_rate.py.
BANDS = {"0.1-0.5 bpp": (0.1, 0.5), "0.5-1.5 bpp": (0.5, 1.5)}
RANGES: dict[str, tuple[float, float] | None] = {"overall": None, **BANDS}
DEFAULT_METRICS = ("psnr", "psnr_y", "ms_ssim")
RESAMPLES = 1000  # of the pictures, for confidence intervals
MIN_PICTURES = 8  # for an interval: fewer, drawn anew, are the same ones over and over, and the interval is too narrow
SEED = 0  # of the resampling: the same pictures always give the same intervals


class Coder(Protocol):
    """What can be measured: codec.Codec, an anchor, or anything with these two methods."""

    def compress(self, image: Any, quality: float, /) -> bytes:
        """The bytes of a whole file of uint8 (H, W, 3)."""

    def decompress(self, data: bytes, /) -> Image.Image:
        """The picture in them."""


@dataclass(frozen=True)
class Entrant:
    """One codec to measure."""

    name: str  # in tables and files
    coder: Any  # a Coder; None: what ``make`` builds
    qualities: tuple[float, ...]  # rising, on the codec's own scale
    make: Callable[[], Coder] | None = (
        None  # builds the coder in another process, () -> coder; None: the coder can be pickled
    )
    settings: dict[str, Any] = field(default_factory=dict, hash=False)  # what its rows depend on, see journal.py


@dataclass(frozen=True)
class Row:
    """One picture, coded once. The names of the fields are the columns of the CSV file."""

    codec: str
    picture: str
    width: int
    height: int
    quality: float
    bytes: int
    bpp: float
    psnr_db: float
    ms_ssim: float | None  # None: the picture is too small for it
    encode_s: float
    decode_s: float
    psnr_y_db: float | None = None  # None: not asked for
    ssimulacra2: float | None = None  # the same, or the picture is too small


@dataclass(frozen=True)
class Mean:
    """Means over the pictures at one quality of one codec; of seconds, medians."""

    quality: float
    pictures: int
    bpp: float
    psnr_db: float
    ms_ssim: float | None  # over the pictures that have one
    ms_ssim_db: float | None  # of the mean, not the mean of decibels
    encode_s: float
    decode_s: float
    psnr_y_db: float | None = None
    ssimulacra2: float | None = None


@dataclass(frozen=True)
class Violation:
    """A picture on which a higher quality brought no higher rate, or no higher PSNR."""

    picture: str
    quality: tuple[float, float]  # neighbours on the ladder
    bpp: tuple[float, float]
    psnr_db: tuple[float, float]

    def __str__(self) -> str:
        def step(values: tuple[float, float], form: str) -> str:
            return " -> ".join(format(value, form) for value in values)

        return (
            f"{self.picture}: quality {step(self.quality, 'g')}: "
            f"bpp {step(self.bpp, '.4f')}, PSNR {step(self.psnr_db, '.3f')} dB"
        )


@dataclass(frozen=True)
class Comparison:
    """The test codec against one anchor; None where the curves cannot be compared.

    Intervals are (low, high) of 95 % confidence, None where there is no basis for one: fewer than
    :data:`MIN_PICTURES` pictures, or no resampling.
    """

    overall: BdRate | None  # between the curves of means, as are the bands
    bands: dict[str, BdRate | None]  # keys of BANDS
    per_picture: dict[str, BdRate | None]  # overall, on each picture by itself
    per_picture_mean_percent: float | None  # over the pictures that have one
    percent_interval: dict[str, tuple[float, float] | None] = field(default_factory=dict)  # keys of RANGES
    bd_psnr: dict[str, BdPsnr | None] = field(default_factory=dict)  # keys of RANGES
    db_interval: dict[str, tuple[float, float] | None] = field(default_factory=dict)  # keys of RANGES
    # BD-rates by the other metrics that all rows have; "psnr_db" is then in that metric's unit (MS-SSIM: dB).
    by_metric: dict[str, BdRate | None] = field(default_factory=dict)
    by_metric_interval: dict[str, tuple[float, float] | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """What follows from the rows."""

    means: dict[str, list[Mean]]  # by codec
    violations: list[Violation]  # of the test codec
    bd_rate: dict[str, Comparison]  # by anchor
    cold: dict[str, Cold] = field(default_factory=dict)  # by codec; empty unless asked for


def evaluate(
    pictures: Iterable[tuple[str, Place]],
    entrants: Sequence[Entrant],
    step: Callable[[Row], object] | None = None,
    failed: Callable[[str, ImageError], object] | None = None,
    *,
    metrics: Collection[str] = DEFAULT_METRICS,
    workers: int = 1,
    threads: int | None = None,
    journal: Journal | None = None,
    spread: Spread | None = None,
) -> list[Row]:
    """Code every picture with every codec at every quality of its ladder.

    A process holds one picture at a time, so a folder of any size can be evaluated.

    Args:
        pictures: pairs (name, path), or RemotePath; names must differ, as they tell the rows apart.
        entrants: list of :class:`Entrant`; their names must differ too.
        step: called as ``step(row)`` after each coding, for a progress display.
        failed: called as ``failed(name, error)`` when a picture cannot be read or is none that all codecs
            take. It is then left out for all of them, so that means stay comparable. Without it the error
            is raised.
        metrics: keys of ``metrics.METRICS``; PSNR is always there.
        workers: processes that share the codings. Rows do not depend on their number, save for the times.
        threads: of each worker, if there are several; None leaves the setting alone.
        journal: :class:`codec.evaluation.journal.Journal` that keeps the rows, and may have some already.
        spread: does the codings elsewhere: :func:`codec.cluster.spread`, or a partial of it.

    Returns:
        List of :class:`Row`, by picture, then codec, then quality.

    Raises:
        CodecError: a codec fails on its own bytes, which is never the picture's fault, or a worker is killed.
    """
    rows: dict[_Task, Row | None] = {}  # None: still to be measured
    digests: dict[str, str | None] = {}
    tasks: list[_Task] = []
    for name, path in pictures:
        digests[name] = digest(path) if journal else None
        for index, entrant in enumerate(entrants):
            for quality in entrant.qualities:
                task = (name, path, index, quality)
                row = journal.find(digests[name], entrant, quality, metrics) if journal else None
                row = rows[task] = row and replace(row, picture=name, quality=quality)
                if row is None:
                    tasks.append(task)
                elif step is not None:
                    step(row)

    bad: set[str] = set()
    run = _run_here(tasks, entrants, metrics, bad)
    if spread is not None:
        run = _run_elsewhere(tasks, entrants, metrics, bad, spread)
    elif workers > 1:
        run = _run_in_workers(tasks, entrants, metrics, bad, workers, threads)
    for task, result in run:
        name, _, index, _ = task
        if isinstance(result, ImageError):
            if failed is None:
                run.close()
                raise result
            if name not in bad:
                bad.add(name)
                failed(name, result)
            continue
        rows[task] = result
        if journal is not None:
            journal.add(digests[name], entrants[index], result, metrics)
        if step is not None:
            step(result)
    return [row for task, row in rows.items() if row is not None and task[0] not in bad]


class _Bench:
    """Does tasks (name, path, index of the entrant, quality); holds what lasts from one to the next."""

    def __init__(self, entrants: Sequence[Entrant], metrics: Collection[str]) -> None:
        self.entrants, self.metrics = entrants, metrics
        self.path: Place | None = None
        self.pixels = np.empty((0, 0, 3), np.uint8)
        self.warm: dict[int, Entrant] = {}  # index -> entrant that has coded a picture

    def __call__(self, name: str, path: Place, index: int, quality: float) -> Row:
        if path != self.path:
            self.path = None
            self.pixels = self.pixels[:0, :0].copy()  # the old picture's memory goes before the new one needs it
            self.pixels = pixels_of(path)
            self.path = path
        if index not in self.warm:
            entrant = self.entrants[index]
            if entrant.coder is None and entrant.make:
                entrant = replace(entrant, coder=entrant.make())
            if hasattr(entrant.coder, "load"):
                entrant.coder.load()
            measure(entrant, name, self.pixels, entrant.qualities[len(entrant.qualities) // 2], ())
            self.warm[index] = entrant
        return measure(self.warm[index], name, self.pixels, quality, self.metrics)


def _run_here(tasks: list[_Task], entrants: Sequence[Entrant], metrics: Collection[str], bad: set[str]) -> _Outcomes:
    """Pairs (task, Row or ImageError), in order; tasks of pictures that have become bad are passed over."""
    bench = _Bench(entrants, metrics)
    for task in tasks:
        if task[0] in bad:
            continue
        result: Row | ImageError
        try:
            result = bench(*task)
        except ImageError as error:
            result = error
        yield task, result


def _run_elsewhere(
    tasks: list[_Task], entrants: Sequence[Entrant], metrics: Collection[str], bad: set[str], spread: Spread
) -> _Outcomes:
    """The same from a cluster, which is given the codings of a picture by a codec at a time."""
    groups: dict[tuple[str, int], list[_Task]] = {}
    for task in tasks:
        groups.setdefault((task[0], task[2]), []).append(task)
    for group, results, _ in spread(_Group(_sent(entrants), metrics), list(groups.values())):
        name = group[0][0]
        if name in bad:
            continue
        if isinstance(results, Lost):
            results = ImageError(f"{name}: {results}")
        if isinstance(results, ImageError):
            yield group[0], results
        elif isinstance(results, Exception):
            raise results
        else:
            yield from zip(group, results, strict=True)


class _Group:
    """The work of a cluster's process: tasks of one picture and one codec to rows."""

    def __init__(self, entrants: Sequence[Entrant], metrics: Collection[str]) -> None:
        self.bench = _Bench(entrants, metrics)

    def __call__(self, tasks: list[_Task]) -> list[Row]:
        return [self.bench(*task) for task in tasks]


def _sent(entrants: Sequence[Entrant]) -> list[Entrant]:
    """Entrants that can be pickled."""
    return [replace(entrant, coder=None) if entrant.make else entrant for entrant in entrants]


def _run_in_workers(
    tasks: list[_Task],
    entrants: Sequence[Entrant],
    metrics: Collection[str],
    bad: set[str],
    workers: int,
    threads: int | None,
) -> _Outcomes:
    """The same from several processes, as they come."""
    # Spawned, not forked: a forked process inherits locks of threads (PyTorch's, BLAS's) which it does not have.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker, (_sent(entrants), metrics, threads))
    try:
        with _deaf_to_interrupts():
            futures = {pool.submit(_work, task): task for task in tasks}
        for future in as_completed(futures):
            task = futures[future]
            if task[0] in bad:
                future.cancel()
            elif not future.cancelled():
                result: Row | ImageError
                try:
                    result = future.result()
                except ImageError as error:
                    result = error
                    for other, (name, *_) in futures.items():
                        if name == task[0]:
                            other.cancel()
                yield task, result
    except BrokenProcessPool:
        raise CodecError("a worker process was killed; with fewer --workers each has more memory") from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes that are started in here never see Ctrl-C, not even while Python starts: the parent ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers, and only it is interrupted
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


_bench: _Bench  # of a worker process


def _start_worker(entrants: Sequence[Entrant], metrics: Collection[str], threads: int | None) -> None:
    global _bench
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Windows, where it is not inherited
    if threads is not None:
        set_threads(threads)
    _bench = _Bench(entrants, metrics)


def _work(task: _Task) -> Row:
    return _bench(*task)


def pixels_of(path: Place) -> np.ndarray:
    """uint8 (H, W, 3) of a picture file, given by its path or RemotePath."""
    if not isinstance(path, RemotePath):
        return read_picture(path).pixels
    try:
        with path.open() as file:
            return read_picture(file).pixels
    except CodecError as error:
        text = str(error)
        raise ImageError(text if text.startswith(f"{path}: ") else f"{path}: {text}") from error


def measure(
    entrant: Entrant, name: str, pixels: np.ndarray, quality: float, metrics: Collection[str] = DEFAULT_METRICS
) -> Row:
    """:class:`Row` of one picture coded once.

    Args:
        pixels: uint8 (H, W, 3).
        metrics: keys of ``metrics.METRICS``; PSNR is always there.

    Raises:
        ImageError: the codec does not take this picture.
        CodecError: the picture comes back in another size.
    """
    height, width, _ = pixels.shape
    started = time.perf_counter()
    try:
        data = entrant.coder.compress(pixels, quality)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error
    encoded = time.perf_counter()
    # The conversion counts: Pillow decodes when somebody asks for the pixels.
    decoded = np.asarray(entrant.coder.decompress(data).convert("RGB"))
    finished = time.perf_counter()
    if decoded.shape != pixels.shape:
        found = f"{decoded.shape[1]} x {decoded.shape[0]}"
        raise CodecError(f"{name}: {entrant.name} gave back {found} pixels for {width} x {height}")
    figures: dict[str, Any] = {
        METRICS[key].column: METRICS[key].function(pixels, decoded) for key in {"psnr", *metrics}
    }
    return Row(
        codec=entrant.name,
        picture=name,
        width=width,
        height=height,
        quality=quality,
        bytes=len(data),
        bpp=8 * len(data) / (height * width),
        encode_s=encoded - started,
        decode_s=finished - encoded,
        **{"ms_ssim": None, **figures},
    )


def mean_curve(rows: Sequence[Row]) -> list[Mean]:
    """Means over pictures of the rows of one codec: list of :class:`Mean` by rising quality."""
    by_quality: dict[float, list[Row]] = {}
    for row in rows:
        by_quality.setdefault(row.quality, []).append(row)
    return [_mean(quality, by_quality[quality]) for quality in sorted(by_quality)]


def violations(rows: Sequence[Row]) -> list[Violation]:
    """Where rate and PSNR of one codec fail to rise with the quality: list of :class:`Violation`.

    Both must rise strictly between neighbours on the ladder, on every picture. Only a picture that comes back
    identical (``CAP_DB``) cannot be asked to get better.
    """
    found = []
    for name, curve in _by_picture(rows).items():
        for low, high in itertools.pairwise(curve):
            better = high.psnr_db > low.psnr_db or low.psnr_db == high.psnr_db == CAP_DB
            if not (high.bpp > low.bpp and better):
                qualities, rates = (low.quality, high.quality), (low.bpp, high.bpp)
                found.append(Violation(name, qualities, rates, (low.psnr_db, high.psnr_db)))
    return found


def compare(
    anchor_rows: Sequence[Row], test_rows: Sequence[Row], resamples: int = 0, method: str = "pchip"
) -> Comparison:
    """:class:`Comparison` of one codec with an anchor on the same pictures.

    Args:
        resamples: how often the pictures are drawn anew for the confidence intervals; 0 for none.
        method: of interpolation, "pchip" or "akima".
    """
    return _compare(*(_Curves(rows, resamples, method) for rows in (anchor_rows, test_rows)))


def summarise(
    rows: Sequence[Row],
    test: str,
    anchors: Iterable[str],
    resamples: int = 0,
    method: str = "pchip",
    step: Callable[[], object] | None = None,
) -> Summary:
    """:class:`Summary` of all rows; ``test`` names the codec that is compared with each of ``anchors``.

    Args:
        resamples, method: see :func:`compare`.
        step: called without arguments after each anchor: a thousand resamples take a few seconds for each.
    """
    of = {name: [row for row in rows if row.codec == name] for name in (test, *anchors)}
    ours = _Curves(of[test], resamples, method)
    comparisons = {}
    for name in anchors:
        comparisons[name] = _compare(_Curves(of[name], resamples, method), ours)
        if step is not None:
            step()
    return Summary(
        means={name: mean_curve(of[name]) for name in of}, violations=violations(of[test]), bd_rate=comparisons
    )


class _Curves:
    """The curves of one codec: of the means, of each picture, and of the means over resampled pictures."""

    def __init__(self, rows: Sequence[Row], resamples: int, method: str) -> None:
        self.method = method
        self.pictures = _by_picture(rows)
        self.means = mean_curve(rows)
        every = {key for key, metric in METRICS.items() if all(_column(row, metric) is not None for row in rows)}
        self.metrics = [key for key in METRICS if key in every and key != "psnr"]
        self.resampled = list(self._resample(resamples))

    def points(self, metric: str = "psnr", means: Sequence[Any] | None = None) -> list[tuple[float, float]]:
        """[(bpp, quality)] of means, or of rows, by the metric on the scale of its BD-rates."""
        found = METRICS[metric]
        scale: Callable[[Any], Any] = found.scale or (lambda value: value)
        return [(point.bpp, scale(_column(point, found))) for point in (self.means if means is None else means)]

    def rate(self, metric: str = "psnr", means: Sequence[Any] | None = None) -> Curve | None:
        return rate_curve(self.points(metric, means), self.method)

    def psnr(self, means: Sequence[Any] | None = None) -> Curve | None:
        return psnr_curve(self.points("psnr", means), self.method)

    def _resample(self, resamples: int) -> Iterator[dict[str, Curve | None]]:
        """For each resampling a dict: "psnr curve", and by metric the rate curve."""
        ladders = [[row.quality for row in curve] for curve in self.pictures.values()]
        if len(ladders) < MIN_PICTURES or any(ladder != ladders[0] for ladder in ladders):
            return  # pictures with gaps cannot be averaged
        draw = np.random.default_rng(SEED)
        names = sorted(self.pictures)  # the same draws for every codec
        columns = ["bpp", *(METRICS[key].column for key in ("psnr", *self.metrics))]
        table = np.array(
            [[[getattr(row, column) for column in columns] for row in self.pictures[name]] for name in names]
        )  # (pictures, qualities, columns)
        for _ in range(resamples):
            chosen = draw.integers(len(names), size=len(names))
            means = [_Point(**dict(zip(columns, values))) for values in table[chosen].mean(axis=0).tolist()]
            curves = {key: self.rate(key, means) for key in ("psnr", *self.metrics)}
            yield {"psnr curve": self.psnr(means), **curves}


class _Point:
    """A point of a resampled curve: the columns of a row that curves are made of."""

    def __init__(self, **columns: float) -> None:
        self.__dict__.update(columns)


def _column(point: object, metric: Metric) -> Any:
    return getattr(point, metric.column)


def _compare(anchor: _Curves, test: _Curves) -> Comparison:
    """:class:`Comparison` of two :class:`_Curves`."""
    per_picture = {}
    for name, curve in test.pictures.items():
        ours = test.rate(means=curve)
        per_picture[name] = rate_difference(anchor.rate(means=anchor.pictures[name]), ours)
    percents = [figure.percent for figure in per_picture.values() if figure is not None]
    metrics = [key for key in test.metrics if key in anchor.metrics]
    pairs = list(zip(anchor.resampled, test.resampled))

    def rates(
        metric: str = "psnr", band: tuple[float, float] | None = None
    ) -> tuple[BdRate | None, tuple[float, float] | None]:
        """BD-rate between the curves of means, and its interval."""
        figures = (rate_difference(theirs[metric], ours[metric], band) for theirs, ours in pairs)
        spread = interval([None if figure is None else figure.percent for figure in figures])
        return rate_difference(anchor.rate(metric), test.rate(metric), band), spread

    def decibels(band: tuple[float, float] | None = None) -> tuple[BdPsnr | None, tuple[float, float] | None]:
        """BD-PSNR, and its interval."""
        key = "psnr curve"
        figures = (psnr_difference(theirs[key], ours[key], band) for theirs, ours in pairs)
        spread = interval([None if figure is None else figure.db for figure in figures])
        return psnr_difference(anchor.psnr(), test.psnr(), band), spread

    by_range = {name: rates(band=band) for name, band in RANGES.items()}
    in_db = {name: decibels(band) for name, band in RANGES.items()}
    by_metric = {key: rates(key) for key in metrics}
    return Comparison(
        overall=by_range["overall"][0],
        bands={name: by_range[name][0] for name in BANDS},
        per_picture=per_picture,
        per_picture_mean_percent=_mean_of(percents) if percents else None,
        percent_interval={name: spread for name, (_, spread) in by_range.items()},
        bd_psnr={name: figure for name, (figure, _) in in_db.items()},
        db_interval={name: spread for name, (_, spread) in in_db.items()},
        by_metric={name: figure for name, (figure, _) in by_metric.items()},
        by_metric_interval={name: spread for name, (_, spread) in by_metric.items()},
    )


def conditions() -> dict[str, Any]:
    """What else the figures depend on: versions, processor, threads, date.

    Call it when the codecs are made: of the engines, those count that have been loaded.
    """
    import PIL
    from PIL import features

    engines = {name: sys.modules[name].__version__ for name in ("onnxruntime", "torch") if name in sys.modules}

    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {
            "codec": __version__,
            "python": platform.python_version(),
            **engines,
            "numpy": np.__version__,
            "pillow": PIL.__version__,
            "libjpeg-turbo": features.version_feature("libjpeg_turbo"),
            "libwebp": features.version("webp"),
            "openjpeg": features.version("jpg_2000"),
            "scipy": version("scipy"),
        },
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": current_threads(),
    }


def cpu_name() -> str:
    """The processor's name as its maker writes it, where the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine() or "unknown"


def write_csv(path: StrPath, rows: Iterable[Row]) -> None:
    """One line per row under a line of names; numbers in full, nothing where there is no figure.

    The file appears whole or not at all.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_bytes_atomic(path, text.getvalue().encode("utf-8"))


def as_json(conditions: dict[str, Any], summary: Summary, rows: Iterable[Row]) -> str:
    """``conditions``, the fields of ``summary`` and ``rows`` as one JSON object."""
    contents = {"conditions": conditions, **asdict(summary), "rows": [asdict(row) for row in rows]}
    return json.dumps(contents, indent=1, ensure_ascii=False, allow_nan=False)


def write_json(path: StrPath, *contents: Any) -> None:
    """What :func:`as_json` says, in a file; whole or not at all."""
    write_bytes_atomic(path, (as_json(*contents) + "\n").encode("utf-8"))


def _mean_of(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _mean(quality: float, rows: list[Row]) -> Mean:
    def mean(column: str, of: Callable[[list[float]], float] = _mean_of) -> Any:
        """Over the rows that have one."""
        values = [value for row in rows if (value := getattr(row, column)) is not None]
        return of(values) if values else None

    return Mean(
        quality=quality,
        pictures=len(rows),
        bpp=mean("bpp"),
        psnr_db=mean("psnr_db"),
        ms_ssim=mean("ms_ssim"),
        ms_ssim_db=ms_ssim_db(mean("ms_ssim")),
        encode_s=mean("encode_s", statistics.median),
        decode_s=mean("decode_s", statistics.median),
        psnr_y_db=mean("psnr_y_db"),
        ssimulacra2=mean("ssimulacra2"),
    )


def _by_picture(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Picture name -> its rows by rising quality."""
    curves: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.quality):
        curves.setdefault(row.picture, []).append(row)
    return curves
