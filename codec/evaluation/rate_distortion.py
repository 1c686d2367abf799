"""Pictures x codecs x qualities -> rate, distortion and time, and what follows from them.

How everything is measured:

* **Pictures** are the RGB pixels that ``codec.image_io.read_picture`` gives: upright, 8 bits. Every codec
  gets these pixels and nothing else, so alpha, profiles and metadata weigh on nobody's rate, and grey
  pictures are coded as RGB.
* **Rate** is the length of a whole file, headers included: ``bpp = 8 * bytes / (H * W)``.
* **Distortion** is that of the picture decoded from these very bytes, see :mod:`codec.evaluation.metrics`.
* **Time** goes from the pixels in memory to the bytes, and from the bytes to the pixels in memory. Before
  anything counts, each codec codes the first picture once: loading weights and libraries is left out.
* **Means** are over pictures, each with the same weight: mean of bpp, mean of dB. BD-rates compare the
  curves of means.
"""

import csv
import io
import json
import math
import os
import platform
import time
from dataclasses import asdict, dataclass, fields

import numpy as np

from .. import __version__
from ..errors import CodecError, ImageError
from ..image_io import read_picture, write_bytes_atomic
from .bd_rate import BdRate, bd_rate
from .metrics import CAP_DB, ms_ssim, ms_ssim_db, psnr_db

# Rates of the test codec, in bits per pixel, that get a BD-rate of their own; see bd_rate.py.
BANDS = {"0.1-0.5 bpp": (0.1, 0.5), "0.5-1.5 bpp": (0.5, 1.5)}


@dataclass(frozen=True)
class Entrant:
    """One codec to measure."""

    name: str  # in tables and files
    coder: object  # has compress(pixels, quality) -> bytes and decompress(bytes) -> PIL.Image
    qualities: tuple[float, ...]  # rising, on the codec's own scale


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


@dataclass(frozen=True)
class Mean:
    """Means over the pictures at one quality of one codec."""

    quality: float
    pictures: int
    bpp: float
    psnr_db: float
    ms_ssim: float | None  # over the pictures that have one
    ms_ssim_db: float | None  # of the mean, not the mean of decibels
    encode_s: float
    decode_s: float


@dataclass(frozen=True)
class Violation:
    """A picture on which a higher quality brought no higher rate, or no higher PSNR."""

    picture: str
    quality: tuple[float, float]  # neighbours on the ladder
    bpp: tuple[float, float]
    psnr_db: tuple[float, float]

    def __str__(self):
        def step(values, form):
            return " -> ".join(format(value, form) for value in values)

        return (
            f"{self.picture}: quality {step(self.quality, 'g')}: "
            f"bpp {step(self.bpp, '.4f')}, PSNR {step(self.psnr_db, '.3f')} dB"
        )


@dataclass(frozen=True)
class Comparison:
    """BD-rates of the test codec against one anchor; None where the curves cannot be compared."""

    overall: BdRate | None  # between the curves of means, as are the bands
    bands: dict[str, BdRate | None]  # keys of BANDS
    per_picture: dict[str, BdRate | None]  # overall, on each picture by itself
    per_picture_mean_percent: float | None  # over the pictures that have one


@dataclass(frozen=True)
class Summary:
    """What follows from the rows."""

    means: dict[str, list[Mean]]  # by codec
    violations: list[Violation]  # of the test codec
    bd_rate: dict[str, Comparison]  # by anchor


def evaluate(pictures, entrants, step=None, failed=None):
    """Code every picture with every codec at every quality of its ladder.

    One picture is held at a time, so a folder of any size can be evaluated.

    Args:
        pictures: pairs (name, path); names must differ, as they tell the rows apart.
        entrants: list of :class:`Entrant`.
        step: called as ``step(row)`` after each coding, for a progress display.
        failed: called as ``failed(name, error)`` when a picture cannot be read or is none that all codecs
            take. It is then left out for all of them, so that means stay comparable. Without it the error
            is raised.

    Returns:
        List of :class:`Row`, by picture, then codec, then quality.

    Raises:
        CodecError: a codec fails on its own bytes, which is never the picture's fault.
    """
    rows = []
    warm = False
    for name, path in pictures:
        of_picture = []
        try:
            pixels = read_picture(path).pixels
            for entrant in entrants:
                if not warm:
                    measure(entrant, name, pixels, entrant.qualities[len(entrant.qualities) // 2])
                for quality in entrant.qualities:
                    of_picture.append(measure(entrant, name, pixels, quality))
                    if step is not None:
                        step(of_picture[-1])
        except ImageError as error:
            if failed is None:
                raise
            failed(name, error)
            continue
        warm = True
        rows += of_picture
    return rows


def measure(entrant, name, pixels, quality):
    """:class:`Row` of one picture coded once.

    Args:
        pixels: uint8 (H, W, 3).

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
    return Row(
        codec=entrant.name,
        picture=name,
        width=width,
        height=height,
        quality=quality,
        bytes=len(data),
        bpp=8 * len(data) / (height * width),
        psnr_db=psnr_db(pixels, decoded),
        ms_ssim=ms_ssim(pixels, decoded),
        encode_s=encoded - started,
        decode_s=finished - encoded,
    )


def mean_curve(rows):
    """Means over pictures of the rows of one codec: list of :class:`Mean` by rising quality."""
    by_quality = {}
    for row in rows:
        by_quality.setdefault(row.quality, []).append(row)
    return [_mean(quality, by_quality[quality]) for quality in sorted(by_quality)]


def violations(rows):
    """Where rate and PSNR of one codec fail to rise with the quality: list of :class:`Violation`.

    Both must rise strictly between neighbours on the ladder, on every picture. Only a picture that comes back
    identical (``CAP_DB``) cannot be asked to get better.
    """
    found = []
    for name, curve in _by_picture(rows).items():
        for low, high in zip(curve, curve[1:]):
            better = high.psnr_db > low.psnr_db or low.psnr_db == high.psnr_db == CAP_DB
            if not (high.bpp > low.bpp and better):
                qualities, rates = (low.quality, high.quality), (low.bpp, high.bpp)
                found.append(Violation(name, qualities, rates, (low.psnr_db, high.psnr_db)))
    return found


def compare(anchor_rows, test_rows):
    """:class:`Comparison` of one codec with an anchor on the same pictures."""
    anchor, test = _points(mean_curve(anchor_rows)), _points(mean_curve(test_rows))
    anchors, tests = _by_picture(anchor_rows), _by_picture(test_rows)
    per_picture = {name: bd_rate(_points(anchors[name]), _points(tests[name])) for name in tests}
    percents = [figure.percent for figure in per_picture.values() if figure is not None]
    return Comparison(
        overall=bd_rate(anchor, test),
        bands={name: bd_rate(anchor, test, band) for name, band in BANDS.items()},
        per_picture=per_picture,
        per_picture_mean_percent=_mean_of(percents) if percents else None,
    )


def summarise(rows, test, anchors):
    """:class:`Summary` of all rows; ``test`` names the codec that is compared with each of ``anchors``."""
    of = {name: [row for row in rows if row.codec == name] for name in (test, *anchors)}
    return Summary(
        means={name: mean_curve(of[name]) for name in of},
        violations=violations(of[test]),
        bd_rate={name: compare(of[name], of[test]) for name in anchors},
    )


def conditions():
    """What else the figures depend on: versions, processor, threads, date. Needs torch."""
    from importlib.metadata import version

    import PIL
    import torch
    from PIL import features

    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {
            "codec": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "pillow": PIL.__version__,
            "libjpeg-turbo": features.version_feature("libjpeg_turbo"),
            "libwebp": features.version("webp"),
            "pytorch-msssim": version("pytorch-msssim"),
            "scipy": version("scipy"),
        },
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def cpu_name():
    """The processor's name as its maker writes it, where the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine() or "unknown"


def write_csv(path, rows):
    """One line per row under a line of names; numbers in full, nothing where there is no MS-SSIM.

    The file appears whole or not at all.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_bytes_atomic(path, text.getvalue().encode("utf-8"))


def write_json(path, conditions, summary, rows):
    """``conditions``, the fields of ``summary`` and ``rows`` as one JSON object; whole or not at all."""
    contents = {"conditions": conditions, **asdict(summary), "rows": [asdict(row) for row in rows]}
    text = json.dumps(contents, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes_atomic(path, (text + "\n").encode("utf-8"))


def _mean(quality, rows):
    similarities = [row.ms_ssim for row in rows if row.ms_ssim is not None]
    similarity = _mean_of(similarities) if similarities else None
    return Mean(
        quality=quality,
        pictures=len(rows),
        bpp=_mean_of([row.bpp for row in rows]),
        psnr_db=_mean_of([row.psnr_db for row in rows]),
        ms_ssim=similarity,
        ms_ssim_db=ms_ssim_db(similarity),
        encode_s=_mean_of([row.encode_s for row in rows]),
        decode_s=_mean_of([row.decode_s for row in rows]),
    )


def _mean_of(values):
    return math.fsum(values) / len(values)


def _by_picture(rows):
    """Picture name -> its rows by rising quality."""
    curves = {}
    for row in sorted(rows, key=lambda row: row.quality):
        curves.setdefault(row.picture, []).append(row)
    return curves


def _points(curve):
    return [(point.bpp, point.psnr_db) for point in curve]
