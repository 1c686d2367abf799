"""What an evaluation says, in words: how many of the others' bytes ours needs at equal quality, and where it loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypedDict

from .metrics import METRICS
from .rate_distortion import BANDS, MIN_PICTURES

# Metric's column -> range -> rival -> [percent, low, high], or None.
Figures: TypeAlias = Mapping[str, Mapping[str, Mapping[str, "list[float] | None"]]]


class Answer(TypedDict):
    """See :func:`answer`."""

    needs: list[str]
    loses: list[str]
    notes: list[str]
    metrics: list[dict[str, str]]
    table: list[dict[str, Any]]


ASKED = ("psnr", "psnr_y", "ssimulacra2")  # keys of METRICS


def answer(results: dict[str, Any], titles: dict[str, str], figures: Figures) -> Answer:
    """The answer as text and as a table.

    Args:
        results: see ``report.load``; the first of its means is ours.
        titles: name of a codec -> what texts call it.
        figures: BD-rates of ours, metric's column -> range (keys of ``rate_distortion.RANGES``) -> rival's name ->
            [percent, ...] or None; see ``report.matrices``.

    Returns:
        dict: ``needs``, a sentence a metric; ``loses``, sentences on where ours needs more bytes, or one that says
        that it does so nowhere; ``notes``; and ``table``, a list with a dict a rival: ``title``, and by column of the
        metric [per cent of the rival's bytes, low, high], the latter two None where there are fewer than
        ``MIN_PICTURES`` pictures, or None where the curves cannot be compared.
    """
    ours, *rivals = results["means"]
    pictures = len({row["picture"] for row in results["rows"]})
    shares = {}  # (metric, rival) -> [share, low, high]
    for key in ASKED:
        overall = figures.get(METRICS[key].column, {}).get("overall", {})
        for rival in rivals:
            if (figure := overall.get(rival)) is not None:
                spread = _interval(results["bd_rate"].get(rival, {}), key) if pictures >= MIN_PICTURES else None
                shares[key, rival] = [100 + percent for percent in (figure[0], *(spread or ()))]
    asked = [key for key in ASKED if any((key, rival) in shares for rival in rivals)]
    needs = []
    for key in asked:
        parts = [f"{_percent(shares[key, r][0])} of {titles[r]}'s" for r in rivals if (key, r) in shares]
        needs.append(f"At equal {METRICS[key].title}, {titles[ours]} needs {_listed(parts)} bytes.")
    notes = []
    if rivals and pictures < MIN_PICTURES:
        notes.append(f"Fewer than {MIN_PICTURES} pictures say little about others: no intervals are given.")
    lacking = [titles[rival] for rival in rivals if not any((key, rival) in shares for key in asked)]
    if lacking:
        notes.append(f"Not comparable (under four points, or no quality in common): {', '.join(lacking)}.")
    return {
        "needs": needs,
        "loses": _losses(results, titles, figures, shares, rivals, asked, pictures) if needs else [],
        "notes": notes,
        "metrics": [{"key": METRICS[key].column, "label": METRICS[key].title} for key in asked],
        "table": [
            {
                "title": titles[rival],
                **{METRICS[key].column: _padded(shares.get((key, rival))) for key in asked},
            }
            for rival in rivals
        ],
    }


def _interval(comparison: dict[str, Any], key: str) -> Sequence[float] | None:
    by_range, by_metric = comparison.get("percent_interval", {}), comparison.get("by_metric_interval", {})
    spread: Sequence[float] | None = by_range.get("overall") if key == "psnr" else by_metric.get(key)
    return spread


def _losses(
    results: dict[str, Any],
    titles: dict[str, str],
    figures: Figures,
    shares: dict[tuple[str, str], list[float]],
    rivals: list[str],
    asked: list[str],
    pictures: int,
) -> list[str]:
    """Sentences on rivals that need fewer bytes than ours: by a metric, at some rates, on some pictures."""
    found = []
    for rival in rivals:
        behind = [key for key in asked if shares.get((key, rival), [0])[0] > 100]
        lost = [f"{_percent(shares[key, rival][0])} of its by {METRICS[key].title}" for key in behind]
        if lost:
            found.append(f"{titles[rival]} needs fewer bytes: ours are {_listed(lost)}.")
        else:
            bands = []
            for key in asked:
                for band in BANDS:
                    figure = figures[METRICS[key].column].get(band, {}).get(rival)
                    if figure is not None and figure[0] > 0:
                        bands.append(f"at {band} by {METRICS[key].title} ({_percent(100 + figure[0])})")
            if bands:
                found.append(f"{titles[rival]} needs fewer bytes {_listed(bands)}.")
        worse = {
            picture: figure["percent"]
            for picture, figure in results["bd_rate"].get(rival, {}).get("per_picture", {}).items()
            if figure is not None and figure["percent"] > 0
        }
        if worse and pictures > 1:
            worst = max(worse, key=lambda picture: worse[picture])
            found.append(
                f"By PSNR, {titles[rival]} needs fewer bytes on {len(worse)} of {pictures} pictures, "
                f"most of all on {worst} (ours: {_percent(100 + worse[worst])} of its)."
            )
    return found or [f"No rival here needs fewer bytes than {titles[next(iter(results['means']))]}."]


def _percent(value: float) -> str:
    return f"{value:.0f} %" if round(value) != 100 else f"{value:.1f} %"


def _listed(parts: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _padded(share: list[float] | None) -> list[float | None] | None:
    return None if share is None else [*share, None, None][:3]
