"""The main plot, PSNR against rate, as a file for a README or a paper (needs matplotlib)."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from typing import Any

from ..errors import CodecError
from ..files import StrPath
from .bd_rate import bd_rate
from .published import Curve, dataset_of
from .report import ours, titles

SUFFIXES = (".png", ".svg", ".pdf")
SIZE = (8, 4.8)  # inches; at 200 dots each twice as sharp as the 800 pixels that a README gives it
DPI = 200
# Okabe and Ito's colours, which differ for colour-blind eyes too; ours takes the first. Yellow is left out.
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
DASHES = ((5, 2), (1, 1.2), (5, 1.5, 1, 1.5), (9, 3), (2.5, 1), (3, 3), (8, 2, 1, 2, 1, 2), (1, 3))
TICKS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5)


def check_suffix(path: StrPath) -> None:
    """Raise CodecError unless the name of the file says one of the kinds that can be written."""
    if not str(path).lower().endswith(SUFFIXES):
        raise CodecError(f"{path}: a plot ends in {', '.join(SUFFIXES)}")


def draw(results: dict[str, Any], curves: Iterable[Curve], suffix: str) -> bytes:
    """The bytes of a plot of the means: measured codecs solid, the main ones of the published curves dashed.

    Args:
        results: see ``report.load``.
        curves: list of ``published.Curve``.
        suffix: ".png", ".svg" or ".pdf".
    """
    # Not pyplot: it would choose a window system, and keep the figure for the rest of the process.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    measured: dict[str, list[tuple[float, float]]] = {
        name: [(mean["bpp"], mean["psnr_db"]) for mean in curve] for name, curve in results["means"].items()
    }
    test, called = ours(results), titles(results)
    low, high, floor = _limits(measured[test])

    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.set_prop_cycle(color=COLOURS)
    for name, points in measured.items():
        label = called[name] + _against(points, measured[test]) * (name != test)
        own: dict[str, Any] = {"linewidth": 2.6, "marker": "o", "markersize": 5, "zorder": 5} if name == test else {}
        axes.plot(*zip(*points), label=label, **{"linewidth": 1.6, "marker": "o", "markersize": 3, **own})
    pictures = {row["picture"] for row in results["rows"]}
    printed = [(curve.title, list(zip(curve.bpp, curve.psnr))) for curve in curves if curve.main]
    printed.sort(key=lambda curve: -_percent(curve[1], measured[test]))  # the best first, as in the plot
    for number, (title, points) in enumerate(printed):
        # A BD-rate between other pictures would be a figure about the pictures.
        label = title + _against(points, measured[test]) * (dataset_of(pictures) is not None)
        axes.plot(
            *zip(*points), label=label, color=("0.35", "0.6")[number % 2], linewidth=1.1,
            dashes=DASHES[number % len(DASHES)], zorder=1.5,
        )  # fmt: skip

    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(bottom=floor)
    ticks = [tick for tick in TICKS if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("bits per pixel")
    axes.set_ylabel("PSNR over RGB, dB")
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(_about(pictures), fontsize=11)
    note = f"BD-rate of {called[test]} against each"
    if printed:
        note += "\n(dashed: as published, " + ("not measured)" if dataset_of(pictures) else "of Kodak)")
    figure.legend(title=note, fontsize=8, title_fontsize=8, loc="outside right upper", alignment="left", frameon=False)

    buffer = io.BytesIO()
    # No date in SVG and PDF, and no random names in SVG: the same results give the same file.
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(suffix.lower())
    with rc_context({"svg.hashsalt": "codec"}):
        figure.savefig(buffer, format=suffix.lower().lstrip("."), dpi=DPI, metadata=metadata)
    return buffer.getvalue()


def _about(pictures):
    dataset = dataset_of(pictures)
    count = f"{len(pictures)} pictures, means" if len(pictures) > 1 else "1 picture"
    return f"{dataset.capitalize()}, {count}" if dataset else count


def _limits(points):
    """The part of the plane that ours covers, with a little room: rates, and the PSNR to begin at."""
    rates, psnrs = zip(*points)
    return min(rates) / 1.15, max(rates) * 1.15, math.floor(min(psnrs)) - 1


def _against(anchor, test):
    figure = bd_rate(anchor, test)
    return f": {figure.percent:+.1f} %" if figure else ""


def _percent(anchor, test):
    figure = bd_rate(anchor, test)
    return figure.percent if figure else -100
