"""The report: what ``codec evaluate --json`` wrote, and pictures, as one HTML page to look at.

    results (JSON) -> load -> curves, BD-rate matrices, tables ─────────┐
    pictures -> ours at a few qualities -> each anchor at that size ────┴─> pages.page -> one HTML file

Published curves (:mod:`codec.evaluation.published`) are drawn beside measured ones on request, and compared with
them by figures only where both are means over the same pictures.
"""

import bisect
import json
import math

from ..errors import CodecError, ImageError
from . import pages, published
from .bd_rate import bd_rate
from .metrics import ms_ssim_db
from .rate_distortion import BANDS

TITLE = "Image codec evaluation"
# A scale of so few whole numbers counts models, each with a quality of its own, and has nothing in between.
LEVELS = 10


def load(path):
    """Results as ``codec evaluate --json`` writes them: dict with conditions, means, violations, bd_rate, rows.

    Raises:
        CodecError: not such a file. OSError: it cannot be read.
    """
    with open(path, encoding="utf-8") as file:
        try:
            results = json.load(file)
        except (ValueError, RecursionError):
            raise CodecError(f"{path}: not JSON; needed what 'codec evaluate --json' writes") from None
    try:
        _check(results)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise CodecError(f"{path}: not results as 'codec evaluate --json' writes them") from None
    return results


def _check(results):
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


def ours(results):
    """The name of the codec that the evaluation was about: it stands first."""
    return next(iter(results["means"]))


def titles(results):
    """Name -> what plots and tables call it."""
    described = results["conditions"].get("codecs", {})
    return {name: described.get(name, {}).get("title", name) for name in results["means"]}


def published_for(results, choice="auto"):
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


def build(results, curves=(), pictures=()):
    """The text of the page.

    Args:
        results: see :func:`load`.
        curves: ``published.Curve`` to draw beside the means; compared by BD-rate only where the pictures are
            theirs.
        pictures: for the viewer, see :func:`views`.
    """
    from plotly.offline import get_plotlyjs

    rows = [pages.with_decibels(row) for row in results["rows"]]
    means = {name: _with_speed(curve, name, rows) for name, curve in results["means"].items()}
    metrics = pages.metrics_of(rows)
    printed = [_printed(curve) for curve in curves]
    names = list(dict.fromkeys(row["picture"] for row in rows))
    same_pictures = published.dataset_of(names) is not None
    points = {**means, **{f"published:{curve['name']}": curve["points"] for curve in printed if same_pictures}}
    data = {
        "ours": ours(results),
        "titles": titles(results),
        "conditions": results["conditions"],
        "violations": len(results["violations"]),
        "pictures": names,
        "metrics": metrics,
        "means": means,
        "rows": rows,
        "published": printed,
        "same_pictures": same_pictures,
        "bd_rate": matrices(points, metrics),
        "per_picture": {
            name: {picture: figure and figure["percent"] for picture, figure in found["per_picture"].items()}
            for name, found in results["bd_rate"].items()
        },
        "viewer": list(pictures),
    }
    return pages.page(TITLE, "report", data, ("report", "viewer"), libraries=[get_plotlyjs()])


def matrices(curves, metrics):
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


def _figure(figure):
    """``BdRate`` of any metric: its field is named after PSNR, the most common one."""
    return figure and [round(figure.percent, 2), *(round(bound, 4) for bound in figure.psnr_db)]


def _with_speed(curve, name, rows):
    """Means with megapixels a second: pixels of all pictures over seconds of all pictures."""
    found = []
    for mean in map(pages.with_decibels, curve):
        of = [row for row in rows if row["codec"] == name and row["quality"] == mean["quality"]]
        megapixels = sum(row["width"] * row["height"] for row in of) / 1e6
        for way in ("encode", "decode"):
            seconds = sum(row[f"{way}_s"] for row in of)
            mean[f"{way}_mps"] = megapixels / seconds if seconds > 0 else None
        found.append(mean)
    return found


def _printed(curve):
    """A published curve in the words of the measured ones."""
    points = [{"bpp": bpp, "psnr_db": psnr} for bpp, psnr in zip(curve.bpp, curve.psnr, strict=True)]
    for point, similarity in zip(points, curve.ms_ssim or ()):
        point.update(ms_ssim=similarity, ms_ssim_db=ms_ssim_db(similarity))
    keys = ("name", "title", "main", "notes", "paper", "paper_url", "source", "source_url")
    return {**{key: getattr(curve, key) for key in keys}, "points": points}


# Pictures for the viewer ------------------------------------------------------------------------------------


def views(name, pixels, coder, qualities, anchors, title="codec", step=None, failed=None):
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
        ``label`` and ``views``, see ``pages.measure``, each with its picture in ``src``.
    """
    height, width = pixels.shape[:2]
    searches = [Search(anchor, pixels) for anchor in anchors]

    def version(title, coder, quality):
        measured, decoded = pages.measure(title, coder, name, pixels, quality)
        return {**measured, "src": pages.data_uri(decoded)}

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
        levels.append({"label": f"{made[0]['bpp']:.2f} bpp (quality {quality:g})", "views": made})
    return {
        "name": name, "width": width, "height": height, "src": pages.data_uri(pixels), "levels": levels
    }  # fmt: skip


class Search:
    """The quality at which a codec makes a file of a given size from one picture; no file is made twice."""

    def __init__(self, coder, pixels):
        self.coder, self.pixels = coder, pixels
        self.scale = scale(coder.qualities)
        self.sizes = {}

    def quality_for(self, size):
        """The highest quality whose file has at most ``size`` bytes; the lowest where even that has more."""
        fitting = bisect.bisect_right(self.scale, size, key=self._size)
        return self.scale[max(fitting - 1, 0)]

    def _size(self, quality):
        if quality not in self.sizes:
            self.sizes[quality] = len(self.coder.compress(self.pixels, quality))
        return self.sizes[quality]


def scale(qualities):
    """Every quality to try between the ends of a ladder, rising."""
    low, high = qualities[0], qualities[-1]
    if any(quality != int(quality) for quality in qualities):  # such as rates: in steps of one per cent or so
        steps = 100 if low <= 0 else max(2, math.ceil(100 * math.log(high / low)))
        ratios = [step / steps for step in range(steps + 1)]
        return [low + (high - low) * part if low <= 0 else low * (high / low) ** part for part in ratios]
    if high <= LEVELS:
        return list(qualities)
    return list(range(int(low), int(high) + 1))
