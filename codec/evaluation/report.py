"""The report: what ``codec evaluate --json`` wrote, and pictures, as one HTML page to look at.

    results (JSON) -> load -> answer in words, curves, BD-rate matrices, tables ─┬─> pages.page -> one HTML file
    pictures -> ours at a few qualities -> each anchor at that size ─────────────┘
                      the figures of the results ─> as_csv

Published curves (:mod:`codec.evaluation.published`) are drawn beside measured ones on request, and compared with
them by figures only where both are means over the same pictures.
"""

from __future__ import annotations

import bisect
import csv
import io
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from ..errors import CodecError, ImageError
from ..files import StrPath
from . import pages, published, words
from .bd_rate import BdRate, bd_rate
from .metrics import METRICS, ms_ssim_db
from .rate_distortion import BANDS

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from .rate_distortion import Coder


# Metric -> band -> test -> anchor -> [percent, low, high], or None.
Matrices: TypeAlias = dict[str, dict[str, dict[str, dict[str, "list[float] | None"]]]]


class Rival(Protocol):
    """An anchor, or the like: a Coder with a title and a ladder."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def qualities(self) -> Sequence[float]: ...
    def compress(self, image: Any, quality: float, /) -> bytes: ...
    def decompress(self, data: bytes, /) -> Image.Image: ...


T = TypeVar("T")

TITLE = "Image codec evaluation"
# A scale of so few whole numbers counts models, each with a quality of its own, and has nothing in between.
LEVELS = 10


def load(path: StrPath) -> dict[str, Any]:
    """Results as ``codec evaluate --json`` writes them: dict with conditions, means, violations, bd_rate, rows.

    Raises:
        CodecError: not such a file. OSError: it cannot be read.
    """
    with open(path, encoding="utf-8") as file:
        try:
            results: dict[str, Any] = json.load(file)
        except (ValueError, RecursionError):
            raise CodecError(f"{path}: not JSON; needed what 'codec evaluate --json' writes") from None
    try:
        _check(results)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise CodecError(f"{path}: not results as 'codec evaluate --json' writes them") from None
    return results


def _check(results: Any) -> None:
    """Raise an error of some kind where what is used later is missing, of another type, or no finite number."""
    if not results["means"] or not results["rows"]:
        raise ValueError("no results")
    for name, title in titles(results).items():
        name + title, results["means"][name][0]
    for row in results["rows"]:
        row["picture"] + row["codec"], results["means"][row["codec"]]
    for point in (*results["rows"], *(mean for curve in results["means"].values() for mean in curve)):
        numbers = [point[key] for key in ("quality", "bpp", "psnr_db", "encode_s", "decode_s")]
        numbers += [value for value in point.values() if isinstance(value, float)]
        if not all(map(math.isfinite, numbers)) or point["bpp"] <= 0:
            raise ValueError("not a usable number")
    if min(row[key] for row in results["rows"] for key in ("width", "height", "bytes")) < 1:
        raise ValueError("no picture")
    len(results["violations"])
    for name, comparison in results["bd_rate"].items():
        results["means"][name]
        for picture, figure in comparison["per_picture"].items():
            picture + "", figure is None or math.isfinite(figure["percent"])


def ours(results: dict[str, Any]) -> str:
    """The name of the codec that the evaluation was about: it stands first."""
    return str(next(iter(results["means"])))


def titles(results: dict[str, Any]) -> dict[str, str]:
    """Name -> what plots and tables call it."""
    described = results["conditions"].get("codecs", {})
    return {name: described.get(name, {}).get("title", name) for name in results["means"]}


def published_for(results: dict[str, Any], choice: str | None = "auto") -> list[published.Curve]:
    """The published curves to show beside these results: list of ``published.Curve``.

    Args:
        choice: "auto" for those of the data set that the pictures are, recognised by their names; "none"; or
            the name of a data set.
    """
    if choice == "none":
        return []
    if choice == "auto":
        choice = published.dataset_of({row["picture"] for row in results["rows"]})
    return published.load(choice) if choice else []


def worst_first(results: dict[str, Any], pictures: Iterable[tuple[str, T]]) -> list[tuple[str, T]]:
    """Pictures in the order of how many more bytes ours needs than its nearest rival's at equal PSNR, the worst first.

    The nearest rival is the one that ours saves least against. Pictures that cannot be compared come last, in their
    own order; without a rival, all of them.

    Args:
        pictures: list of (name, anything).
    """
    compared = [found for found in results["bd_rate"].values() if found.get("overall")]
    if not compared:
        return list(pictures)
    nearest = max(compared, key=lambda found: found["overall"]["percent"])["per_picture"]
    return sorted(pictures, key=lambda picture: -(nearest.get(picture[0]) or {"percent": -math.inf})["percent"])


def build(
    results: dict[str, Any], curves: Sequence[published.Curve] = (), pictures: Iterable[dict[str, Any]] = ()
) -> str:
    """The text of the page.

    Args:
        results: see :func:`load`.
        curves: ``published.Curve`` to draw beside the means; compared by BD-rate only where the pictures are
            theirs.
        pictures: for the viewer, see :func:`views`.
    """
    rows = [pages.with_decibels(row) for row in results["rows"]]
    means = {name: _with_speed(curve, name, rows) for name, curve in results["means"].items()}
    metrics = pages.metrics_of(rows)
    printed = [_printed(curve) for curve in curves]
    names = list(dict.fromkeys(row["picture"] for row in rows))
    same_pictures = published.dataset_of(names) is not None
    points = {**means, **{f"published:{curve['name']}": curve["points"] for curve in printed if same_pictures}}
    bd_rates = matrices(points, metrics)
    data = {
        "ours": ours(results),
        "answer": words.answer(results, titles(results), _against(bd_rates, ours(results))),
        "titles": titles(results),
        "conditions": results["conditions"],
        "violations": len(results["violations"]),
        "pictures": names,
        "metrics": metrics,
        "means": means,
        "rows": rows,
        "published": printed,
        "same_pictures": same_pictures,
        "bd_rate": bd_rates,
        "per_picture": {
            name: {picture: figure and figure["percent"] for picture, figure in found["per_picture"].items()}
            for name, found in results["bd_rate"].items()
        },
        "viewer": list(pictures),
        "viewer_start": "rival",
    }
    return pages.page(TITLE, "report", data, ("report", "viewer"), libraries=[pages.asset("plotly-basic.min.js")])


def answer(results: dict[str, Any]) -> words.Answer:
    """What the page begins with, for those who have no page: see ``words.answer``."""
    means = {name: [pages.with_decibels(mean) for mean in curve] for name, curve in results["means"].items()}
    figures = matrices(means, pages.metrics_of(results["rows"]))
    return words.answer(results, titles(results), _against(figures, ours(results)))


def _against(figures: Matrices, test: str) -> words.Figures:
    """Of matrices, what is about one codec: metric -> band -> anchor -> figure."""
    return {key: {band: found.get(test, {}) for band, found in bands.items()} for key, bands in figures.items()}


CSV_COLUMNS = "what,codec,against,picture,quality,range,figure,value,low,high".split(",")


def as_csv(results: dict[str, Any]) -> str:
    """Every figure of the results as CSV text, one a line, with the columns :data:`CSV_COLUMNS`.

    ``what`` is "picture" (one coding of one picture), "mean" (over the pictures; of seconds, the median), "bd_rate"
    (per cent, between means or, where ``picture`` is filled, of that picture) or "bd_psnr" (dB). ``low`` and ``high``
    are the bounds of the 95 % interval, empty where there is none.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    described = {"codec", "picture", "quality"}

    def numbers(what: str, codec: str, row: dict[str, Any]) -> None:
        place = {"what": what, "codec": codec, "picture": row.get("picture", ""), "quality": row["quality"]}
        for key, value in row.items():
            if key not in described and value is not None:
                writer.writerow({**place, "figure": key, "value": value})

    def difference(
        what: str, rival: str, value: float | None, spread: Sequence[float] | None = None, **where: str
    ) -> None:
        if value is not None:
            low, high = spread or ("", "")
            place = {"what": what, "codec": ours(results), "against": rival, "low": low, "high": high}
            writer.writerow({**place, "value": value, **where})

    for row in results["rows"]:
        numbers("picture", row["codec"], row)
    for name, curve in results["means"].items():
        for mean in curve:
            numbers("mean", name, mean)
    for rival, found in results["bd_rate"].items():
        percents = {"overall": found.get("overall"), **found.get("bands", {})}
        for band, figure in percents.items():
            spread = found.get("percent_interval", {}).get(band)
            difference("bd_rate", rival, figure and figure["percent"], spread, range=band, figure="psnr_db")
        for key, figure in found.get("by_metric", {}).items():
            spread = found.get("by_metric_interval", {}).get(key)
            column = METRICS[key].column if key in METRICS else key
            difference("bd_rate", rival, figure and figure["percent"], spread, range="overall", figure=column)
        for band, figure in found.get("bd_psnr", {}).items():
            spread = found.get("db_interval", {}).get(band)
            difference("bd_psnr", rival, figure and figure["db"], spread, range=band, figure="psnr_db")
        for picture, figure in found["per_picture"].items():
            percent = figure and figure["percent"]
            difference("bd_rate", rival, percent, picture=picture, range="overall", figure="psnr_db")
    return text.getvalue()


def matrices(curves: Mapping[str, Sequence[Mapping[str, Any]]], metrics: Iterable[Mapping[str, Any]]) -> Matrices:
    """BD-rates of every curve against every other one.

    Args:
        curves: name -> points, dicts with ``bpp`` and metrics.
        metrics: list of dicts with ``key``.

    Returns:
        dict: metric -> band ("overall" and the keys of ``rate_distortion.BANDS``, rates of the test codec)
        -> test -> anchor -> [percent, low, high] with the interval of the metric, or None. Metrics for which
        no two curves can be compared (those that fall with rate, for instance) are left out.
    """
    found = {}
    for key in (metric["key"] for metric in metrics):
        if key == "ms_ssim":
            continue  # its logarithm is compared: a mean over the linear scale would see high rates only
        points = {
            name: [(point["bpp"], point[key]) for point in curve if point.get(key) is not None]
            for name, curve in curves.items()
        }
        points = {name: curve for name, curve in points.items() if curve}
        bands = {
            band: {
                test: {
                    anchor: _figure(bd_rate(points[anchor], points[test], bounds))
                    for anchor in points
                    if anchor != test
                }
                for test in points
            }
            for band, bounds in (("overall", None), *BANDS.items())
        }
        if any(figure for test in bands["overall"].values() for figure in test.values()):
            found[key] = bands
    return found


def _figure(figure: BdRate | None) -> list[float] | None:
    """``BdRate`` of any metric: its field is named after PSNR, the most common one."""
    return None if figure is None else [round(figure.percent, 2), *(round(bound, 4) for bound in figure.psnr_db)]


def _with_speed(curve: list[dict[str, Any]], name: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means with median seconds and megapixels a second over the pictures (older results hold mean seconds)."""
    found = []
    for mean in map(pages.with_decibels, curve):
        of = [row for row in rows if row["codec"] == name and row["quality"] == mean["quality"]]
        for way in ("encode", "decode"):
            speeds = [row["width"] * row["height"] / 1e6 / row[f"{way}_s"] for row in of if row[f"{way}_s"] > 0]
            mean[f"{way}_mps"] = statistics.median(speeds) if speeds else None
            if of:
                mean[f"{way}_s"] = statistics.median(row[f"{way}_s"] for row in of)
        found.append(mean)
    return found


def _printed(curve: published.Curve) -> dict[str, Any]:
    """A published curve in the words of the measured ones."""
    points = [{"bpp": bpp, "psnr_db": psnr} for bpp, psnr in zip(curve.bpp, curve.psnr, strict=True)]
    for point, similarity in zip(points, curve.ms_ssim or ()):
        point.update(ms_ssim=similarity, ms_ssim_db=ms_ssim_db(similarity))
    keys = ("name", "title", "main", "notes", "paper", "paper_url", "source", "source_url")
    return {**{key: getattr(curve, key) for key in keys}, "points": points}


# Pictures for the viewer


def views(
    name: str,
    pixels: np.ndarray,
    coder: Coder,
    qualities: Iterable[float],
    anchors: Iterable[Rival],
    title: str = "codec",
    step: Callable[[], object] | None = None,
    failed: Callable[[Rival, ImageError], object] | None = None,
) -> dict[str, Any]:
    """One picture for the viewer: ours at some qualities, and each anchor at about the same number of bytes.

    Args:
        name: of the picture.
        pixels: uint8 (H, W, 3).
        coder: ours, with ``compress(pixels, quality)`` and ``decompress(data)``.
        anchors: ``anchors.Anchor`` or the like: ``title``, ``qualities`` and the two methods.
        step: called without arguments for each version of the picture, for a progress display.
        failed: called as ``failed(anchor, error)`` when an anchor does not take this picture, which is then
            shown without it. Without it the error is raised.

    Returns:
        dict: ``name``, ``width``, ``height``, ``src`` and ``levels``, a list with one entry a quality:
        ``label``, ``views``, see ``pages.measure``, each with its picture in ``src``, and ``rival``, the title of the
        best of the others by SSIMULACRA2 (by PSNR where the picture is too small for it), or None. Files that browsers
        show are there as they are, others decoded.
    """
    height, width = pixels.shape[:2]
    searches = [Search(anchor, pixels) for anchor in anchors]

    def version(title: str, coder: Coder, quality: float) -> dict[str, Any]:
        measured, decoded, data = pages.measure(title, coder, name, pixels, quality)
        return {**measured, "src": pages.file_uri(data) or pages.data_uri(decoded)}

    levels = []
    for quality in qualities:
        made = [version(title, coder, quality)]
        for search in searches:
            if step is not None:
                step()
            try:
                nearest = search.quality_for(made[0]["bytes"])
                made.append(version(search.coder.title, search.coder, nearest))
            except ImageError as error:
                if failed is None:
                    raise
                failed(search.coder, error)
        if step is not None:
            step()
        best = max(made[1:], key=_fidelity, default=None)
        label = f"{made[0]['bpp']:.2f} bpp (quality {quality:g})"
        levels.append({"label": label, "views": made, "rival": best and best["title"]})
    return {
        "name": name, "width": width, "height": height, "src": pages.data_uri(pixels), "levels": levels
    }  # fmt: skip


def _fidelity(view: dict[str, Any]) -> tuple[bool, float]:
    score = view.get("ssimulacra2")
    return (score is not None, score if score is not None else view["psnr_db"])


class Search:
    """The quality at which a codec makes a file of a given size from one picture; no file is made twice."""

    def __init__(self, coder: Rival, pixels: np.ndarray) -> None:
        self.coder, self.pixels = coder, pixels
        self.scale = scale(coder.qualities)
        self.sizes: dict[float, int] = {}

    def quality_for(self, size: float) -> float:
        """The highest quality whose file has at most ``size`` bytes; the lowest where even that has more."""
        fitting = bisect.bisect_right(self.scale, size, key=self._size)
        return self.scale[max(fitting - 1, 0)]

    def _size(self, quality: float) -> int:
        if quality not in self.sizes:
            self.sizes[quality] = len(self.coder.compress(self.pixels, quality))
        return self.sizes[quality]


def scale(qualities: Sequence[float]) -> list[float]:
    """Every quality to try between the ends of a ladder, rising."""
    low, high = qualities[0], qualities[-1]
    if any(quality != int(quality) for quality in qualities):  # such as rates: in steps of one per cent or so
        steps = 100 if low <= 0 else max(2, math.ceil(100 * math.log(high / low)))
        ratios = [step / steps for step in range(steps + 1)]
        return [low + (high - low) * part if low <= 0 else low * (high / low) ** part for part in ratios]
    if high <= LEVELS:
        return list(qualities)
    return list(range(int(low), int(high) + 1))
