"""``codec evaluate``: rate, distortion and time on pictures of the user's choice, beside other codecs."""

from __future__ import annotations

import functools
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from . import progress
from .common import coder_options, effort_option, model_options, require
from .files import STREAM
from .measuring import OURS, WIDTH, Names, Qualities, check_writable, count, find_sources, settings_line
from .pipeline import engine_options

if TYPE_CHECKING:
    from codec.evaluation.process import Cold
    from codec.evaluation.rate_distortion import Comparison, Mean, Violation


SHOWN_VIOLATIONS, SHOWN_WORST = 20, 5  # the JSON file has all
DEFAULT_METRICS = "psnr,psnr_y,ms_ssim,ssimulacra2"
MIB = 2**20


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="PICTURES...")
@click.option(
    "--qualities", type=Qualities(), default="0,10,20,30,40,50,60,70,80,90,100", show_default=True,
    metavar="Q,Q,...", help="Our qualities to measure; BD-rates need four.",
)  # fmt: skip
@click.option(
    "--against", type=Names(), default="jpeg,webp", show_default=True, metavar="NAME,...",
    help="Codecs to compare with: jpeg (4:2:0), jpeg444, webp, avif (4:2:0), avif444, jpeg2000, jxl, x265, "
    "compressai:MODEL[=FOLDER], model:MODEL (our own with another model: eyes, psnr, an id, a folder); or none.",
)  # fmt: skip
@click.option(
    "--metrics", type=Names(), default=DEFAULT_METRICS, show_default=True, metavar="NAME,...",
    help="What to measure; psnr is always there.",
)  # fmt: skip
@click.option("--recursive", is_flag=True, help="Take folders with the folders below them.")
@effort_option
@model_options
@click.option("--csv", "csv_file", metavar="FILE", help="Write one row per picture, codec and quality.")
@click.option(
    "--json",
    "json_file",
    metavar="FILE",
    help="Write conditions, means, BD-rates and rows; - prints them in place of tables.",
)
@click.option(
    "--resume", "journal_file", metavar="FILE",
    help="Keep every row in FILE as it comes; take from there what was measured before under the same settings.",
)  # fmt: skip
@click.option(
    "--workers", type=click.IntRange(min=1), metavar="N",
    help="Processes that share the work, and the threads. With several, times are not shown.  [1; all of a cluster]",
)  # fmt: skip
@engine_options
@click.option("--cold", is_flag=True, help="Also time fresh processes, with their peak memory; one picture.")
@click.option(
    "--bootstrap", type=click.IntRange(min=0), default=1000, show_default=True, metavar="N",
    help="Resamplings of the pictures for the 95 % intervals of BD-rates; 0 for none.",
)  # fmt: skip
@click.option(
    "--interpolation", type=click.Choice(["pchip", "akima"]), default="pchip", show_default=True,
    help="Of the curves between their points.",
)  # fmt: skip
@coder_options
def evaluate(
    inputs, qualities, against, metrics, recursive, effort, model, csv_file, json_file, journal_file, workers, engine,
    cold, bootstrap, interpolation, device, threads,
):  # fmt: skip
    """Measure rate, distortion and time on pictures.

    PICTURES are files or folders. Each picture is compressed and decompressed at every quality, by this codec
    and by those of --against at a dozen qualities of their own.

    Rate is the size of the real file, headers included. PSNR and MS-SSIM are over RGB, PSNR-Y over BT.601 luma,
    all from pixels rounded to 8 bits. Means are over pictures. Seconds are for one picture, without reading or
    writing files and without loading the model; --cold is the whole of that. Alpha, colour profiles and
    metadata are left out; grey pictures count as RGB.

    BD-rate is the mean difference in rate at equal PSNR, over the PSNR interval printed beside it: that which
    both mean curves cover and, in the columns named after rates, where this codec's own rate is within them.
    BD-PSNR is the mean difference in PSNR at equal rate. In brackets: where 95 of 100 other sets of pictures like
    these would put the figure; from eight pictures on, as fewer do not tell. Seconds are medians over pictures.

    A picture that cannot be used is named on stderr and left out; the exit status is then 1.
    """
    require("eval", "scipy")
    inputs, _ = engine.names(inputs, None)
    model = engine.model(model)
    pictures = find_sources(inputs, recursive, urls=True)
    for file in (csv_file, json_file, journal_file):
        if file not in (None, STREAM):
            check_writable(file)

    from codec.evaluation import rate_distortion as rd
    from codec.evaluation.run import evaluate as measure

    spread = None
    if engine.remote:
        from codec.cluster import spread as on_cluster

        spread = functools.partial(
            on_cluster, address=engine.address, workers=workers, threads=threads or 1, together=1
        )
    failures = []
    counts: Counter[str] = Counter()
    steps = 0  # of a picture
    with ExitStack() as bars:
        bar: Any = None

        def start(phase, items):
            nonlocal bar, steps
            bars.close()
            if phase == "coding":
                steps = sum(len(entrant.qualities) for entrant in items)
                bar = bars.enter_context(progress.bar(steps * len(pictures), "coding"))
            else:
                bar = bars.enter_context(progress.bar(len(items), "codec", phase))

        def step(row):
            bar.update()
            if row is None:
                return
            counts[row.picture] += 1
            bar.set_description_str(f"{row.picture} {row.codec}", refresh=False)
            if progress.is_verbose():
                said = f"{row.picture} {row.codec} {row.quality:g}: {row.bytes:,} bytes, {row.psnr_db:.2f} dB"
                bar.write(f"codec: {said}", file=sys.stderr)

        def failed(name, error):
            failures.append(name)
            bar.write(f"codec: {error}", file=sys.stderr)
            bar.total -= steps
            bar.n -= counts.pop(name, 0)

        found = measure(
            pictures, qualities=qualities, against=against, metrics=metrics, model=model, effort=effort, device=device,
            threads=threads, workers=workers or 1, journal=journal_file, resamples=bootstrap,
            interpolation=interpolation, start=start, step=step, failed=failed, spread=spread,
        )  # fmt: skip
    rows, summary, conditions = found.rows, found.summary, found.conditions
    if cold:
        summary = _add_cold(summary, found.entrants, rows[0].picture, dict(pictures))

    if csv_file is not None:
        rd.write_csv(csv_file, rows)
    if json_file == STREAM:
        click.echo(rd.as_json(conditions, summary, rows))
    else:
        if json_file is not None:
            rd.write_json(json_file, conditions, summary, rows)
        _print_tables(found, summary, len(pictures) - len(failures), journal_file)
    if failures:
        click.echo(f"codec: {len(failures)} of {len(pictures)} pictures left out", err=True)
        click.get_current_context().exit(1)


def _print_tables(found, summary, measured, journal_file):
    """What the command says where nobody asked for JSON."""
    conditions, anchors = found.conditions, [entrant.coder for entrant in found.entrants[1:]]
    times, ours = conditions["times_comparable"], conditions["codecs"][OURS]
    line = f"{count(measured, 'picture')}; {conditions['cpu']}, {count(conditions['threads'], 'thread')}"
    where = "Ray" if conditions["workers"] == 1 else f"{conditions['workers']} workers"
    click.echo(line if times else f"{line}, {where} (times are not comparable, and not shown)")
    if found.found:
        click.echo(f"{found.found} of {len(found.rows)} rows from {journal_file}")
    effort = f", effort {ours['effort']}" if "effort" in ours else ""
    titles = {OURS: f"codec, model {ours['model']}, {ours['device']}{effort}"}
    titles.update((anchor.name, settings_line(anchor)) for anchor in anchors)
    for name, curve in summary.means.items():
        click.echo(f"\n{titles[name]}\n{means_table(curve, times, conditions['metrics'])}")
    click.echo(f"\n{monotony(summary.violations, measured)}")
    if anchors:
        titles = {anchor.name: anchor.title for anchor in anchors}
        click.echo(f"\n{bd_rate_table(summary.bd_rate, titles)}")
        if any(any(comparison.bd_psnr.values()) for comparison in summary.bd_rate.values()):
            click.echo(f"\n{bd_psnr_table(summary.bd_rate, titles)}")
        if any(any(comparison.by_metric.values()) for comparison in summary.bd_rate.values()):
            click.echo(f"\n{by_metric_table(summary.bd_rate, titles)}")
        if measured > 1 and any(
            comparison.per_picture_mean_percent is not None for comparison in summary.bd_rate.values()
        ):
            click.echo(f"\n{picture_table(summary.bd_rate, titles)}")
    if summary.cold:
        click.echo(f"\n{cold_table(summary.cold)}")


def means_table(curve: Sequence[Mean], times: bool = True, metrics: Sequence[str] = ("psnr", "ms_ssim")) -> str:
    """The means of one codec, a line per quality; the columns of what was measured."""
    columns = [("quality", 8, lambda mean: f"{mean.quality:g}")]
    for title, width, field, form in (
        ("bpp", 9, "bpp", ".4f"), ("PSNR dB", 9, "psnr_db", ".2f"), ("PSNR-Y dB", 11, "psnr_y_db", ".2f"),
        ("MS-SSIM", 9, "ms_ssim", ".4f"), ("MS-SSIM dB", 12, "ms_ssim_db", ".2f"),
        ("SSIMULACRA2", 13, "ssimulacra2", ".2f"), ("encode s", 10, "encode_s", ".3f"),
        ("decode s", 10, "decode_s", ".3f"),
    ):  # fmt: skip
        metric = {"psnr_y_db": "psnr_y", "ms_ssim_db": "ms_ssim"}.get(field, field)
        wanted = metric in metrics if metric in DEFAULT_METRICS.split(",") else times or not field.endswith("_s")
        if wanted:
            columns.append((title, width, functools.partial(_cell, field=field, form=form)))
    lines = ["".join(title.rjust(width) for title, width, _ in columns)]
    lines += ["".join(cell(mean).rjust(width) for _, width, cell in columns) for mean in curve]
    return "\n".join(lines)


def _cell(mean, field, form) -> str:
    value = getattr(mean, field)
    return "-" if value is None else format(value, form)  # every picture is too small for it


def monotony(violations: Sequence[Violation], pictures: int) -> str:
    """Whether more quality always brought more bits and a higher PSNR, and where it did not."""
    if not violations:
        return f"codec: rate and PSNR are monotone on all {count(pictures, 'picture')}"
    names = {violation.picture for violation in violations}
    lines = [f"codec: rate and PSNR are NOT monotone on {len(names)} of {count(pictures, 'picture')}"]
    lines += [f"  {violation}" for violation in violations[:SHOWN_VIOLATIONS]]
    if len(violations) > SHOWN_VIOLATIONS:
        lines.append(f"  and {len(violations) - SHOWN_VIOLATIONS} more")
    return "\n".join(lines)


def bd_rate_table(comparisons: Mapping[str, Comparison], titles: Mapping[str, str]) -> str:
    """The BD-rates against every anchor, each with its PSNR interval and, below, its confidence interval."""
    cells = {
        name: [
            (_figure(figure), _interval(comparison.percent_interval.get(key)))
            for key, figure in {"overall": comparison.overall, **comparison.bands}.items()
        ]
        for name, comparison in comparisons.items()
    }
    heads = ["overall", *next(iter(comparisons.values())).bands]
    lines = _table("BD-rate of codec by PSNR, negative where it needs fewer bits", heads, cells, titles, 28)
    if any(figure == "n/a" for row in cells.values() for figure, _ in row):
        lines.append("n/a: under four usable points on a curve, or no PSNR in common")
    return "\n".join(lines)


def picture_table(comparisons: Mapping[str, Comparison], titles: Mapping[str, str]) -> str:
    """The mean of the pictures' own BD-rates, and the pictures on which they are worst."""
    label = max(12, *(len(titles[name]) for name in comparisons))
    lines = ["BD-rate of codec by PSNR, picture by picture", f"{'against':<{label}}{'mean':>10}  worst"]
    for name, comparison in comparisons.items():
        percents = {picture: found.percent for picture, found in comparison.per_picture.items() if found is not None}
        if not percents:
            continue
        worst = sorted(percents, key=lambda picture: percents[picture], reverse=True)[:SHOWN_WORST]
        text = ", ".join(f"{picture}\0{percents[picture]:+.1f}" for picture in worst)
        first, *more = textwrap.wrap(text, WIDTH - label - 12, break_long_words=False, break_on_hyphens=False)
        lines.append(f"{titles[name]:<{label}}{comparison.per_picture_mean_percent:>+8.1f} %  {first}")
        lines += [" " * (label + 12) + line for line in more]
    return "\n".join(lines).replace("\0", " ")


def bd_psnr_table(comparisons: Mapping[str, Comparison], titles: Mapping[str, str]) -> str:
    """The BD-PSNRs against every anchor, each with its interval of rates and of confidence."""
    cells = {
        name: [
            (
                "n/a" if figure is None else f"{figure.db:+.2f} dB ({figure.bpp[0]:.2f}-{figure.bpp[1]:.2f} bpp)",
                _interval(comparison.db_interval.get(key), 2),
            )
            for key, figure in comparison.bd_psnr.items()
        ]
        for name, comparison in comparisons.items()
    }
    heads = list(next(iter(comparisons.values())).bd_psnr)
    return "\n".join(_table("BD-PSNR of codec, positive where it is better", heads, cells, titles, 28))


def by_metric_table(comparisons: Mapping[str, Comparison], titles: Mapping[str, str]) -> str:
    """The overall BD-rates by the metrics other than PSNR."""
    from codec.evaluation.metrics import METRICS

    keys = list(dict.fromkeys(key for comparison in comparisons.values() for key in comparison.by_metric))
    cells: dict[str, list[Any]] = {name: [] for name in comparisons}
    for name, comparison in comparisons.items():
        for key in keys:
            figure = comparison.by_metric.get(key)
            text = "n/a" if figure is None else f"{figure.percent:+.1f} %"
            cells[name].append((text, _interval(comparison.by_metric_interval.get(key))))
    heads = [METRICS[key].title for key in keys]
    return "\n".join(_table("BD-rate of codec by other metrics, overall", heads, cells, titles, 28))


def cold_table(cold: Mapping[str, Cold]) -> str:
    """Times and memory of fresh processes."""
    first = next(iter(cold.values()))
    lines = [
        f"A fresh process for one picture ({first.picture}, {first.width} x {first.height}), with the start of "
        "Python, imports and",
        f"weights; median of {first.runs}",
        f"{'':<24}{'quality':>8}{'encode s':>10}{'decode s':>10}{'encode MiB':>12}{'decode MiB':>12}",
    ]
    for name, figure in cold.items():
        peaks = (figure.encode_peak_bytes, figure.decode_peak_bytes)
        encode, decode = ("-" if peak is None else f"{peak / MIB:.0f}" for peak in peaks)
        times = f"{figure.encode_s:>10.2f}{figure.decode_s:>10.2f}"
        lines.append(f"{name:<24}{figure.quality:>8g}{times}{encode:>12}{decode:>12}")
    return "\n".join(lines)


def _table(caption, heads, cells, titles, width) -> list[str]:
    """Lines of a table whose cells are (figure, interval); a second line per row where there are intervals."""
    label = max(12, *(len(titles[name]) for name in cells))
    width = min(width, (WIDTH - label) // len(heads))
    lines = [caption, f"{'against':<{label}}" + "".join(f"{head:>{width}}" for head in heads)]
    for name, row in cells.items():
        lines.append(f"{titles[name]:<{label}}" + "".join(f"{figure:>{width}}" for figure, _ in row))
        if any(spread for _, spread in row):
            lines.append(" " * label + "".join(f"{spread:>{width}}" for _, spread in row))
    return lines


def _figure(figure) -> str:
    if figure is None:
        return "n/a"
    low, high = figure.psnr_db
    return f"{figure.percent:+.1f} % ({low:.1f}-{high:.1f} dB)"


def _interval(spread, digits=1) -> str:
    return "" if spread is None else f"[{spread[0]:+.{digits}f}, {spread[1]:+.{digits}f}]"


def _add_cold(summary, entrants, picture, paths):
    """The summary with the figures of fresh processes, on one picture, at the middle of every ladder."""
    from dataclasses import replace

    from codec.evaluation.process import cold
    from codec.evaluation.rate_distortion import pixels_of

    pixels = pixels_of(paths[picture])
    found = {}
    with progress.bar(len(entrants), "codec", "fresh processes") as bar:
        for entrant in entrants:
            quality = entrant.qualities[len(entrant.qualities) // 2]
            found[entrant.name] = cold(entrant, picture, pixels, quality)
            bar.update()
    return replace(summary, cold=found)
