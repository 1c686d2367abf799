"""``codec bench``: speed beside other codecs, the time of every stage, and the share of what the machine can do."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import progress
from .common import Counts, Quality, model_options, require
from .files import STREAM
from .measuring import OURS, Names, check_writable, count, find_pictures, settings_line

if TYPE_CHECKING:
    from codec.evaluation.bench import MachinePeak, Part, Share, Speed, Summary
    from codec.evaluation.stages import Stages, Work


RIVALS = ("jpeg", "webp", "avif", "jxl", "compressai:mbt2018-mean")  # unless asked otherwise, those that are here
SIZES = {False: "256x256,768x512,1920x1280", True: "1152x896,4000x3000"}  # --profile
ENGINES = {"onnxruntime": "ONNX Runtime", "torch": "PyTorch", "numpy": "NumPy"}


class Sizes(click.ParamType):
    """WIDTHxHEIGHT between commas, as pairs by rising area without repetitions."""

    name = "sizes"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[tuple[int, int], ...]:
        if isinstance(value, tuple):
            return value
        found = set()
        for part in value.split(","):
            match = re.fullmatch(r"([1-9][0-9]*)x([1-9][0-9]*)", part.strip())
            if match is None:
                self.fail(f"{part.strip()!r} is not a size such as 768x512", param, ctx)
            found.add((int(match[1]), int(match[2])))
        return tuple(sorted(found, key=lambda size: (size[0] * size[1], size)))


@click.command()
@click.argument("inputs", nargs=-1, metavar="[PICTURES]...")
@click.option(
    "--sizes", type=Sizes(), metavar="WxH,...",
    help=f"Sizes to cut the pictures to. [{SIZES[False]}; with --profile {SIZES[True]}]",
)  # fmt: skip
@click.option("--threads", type=Counts(), metavar="N,N,...", help="CPU threads. [1 and all cores]")
@click.option("-q", "--quality", type=Quality(), default=50, show_default=True, help="Ours.")
@click.option(
    "--against", type=Names(), metavar="NAME,...",
    help="Codecs to compare with, as for 'codec evaluate'; or none. CompressAI's models whose weights are not here "
    f"run with random ones. [of {','.join(RIVALS)} those that are installed]",
)  # fmt: skip
@click.option(
    "--repeats", type=click.IntRange(min=1), default=5, show_default=True, metavar="N", help="Rounds to measure."
)
@click.option(
    "--max-minutes", type=click.FloatRange(min=0, min_open=True), metavar="N",
    help="Begin no round that would probably end later; one is always measured.",
)  # fmt: skip
@click.option(
    "--profile", is_flag=True,
    help="In place of all that: which shares of our own work are networks, entropy coding, conversions, files.",
)  # fmt: skip
@click.option(
    "--json", "json_file", metavar="FILE",
    help="Write conditions, figures and every single time; - prints them in place of tables.",
)  # fmt: skip
@model_options
@click.option("--device", default="cpu", metavar="DEVICE", help="Where the networks run: cpu (default), cuda...")
def bench(inputs, sizes, threads, quality, against, repeats, max_minutes, profile, json_file, model, device):
    """Measure speed.

    PICTURES are files or folders, by default those of sample_images; each round codes the next of them. They are
    cut to each size, and continued by their mirror image where they are too small.

    In every round, with every number of threads and at every size, each codec codes the same picture once, in an order
    drawn anew, after a round that does not count. Ratios are of a codec's time to ours in the same round: 2 means
    that it took twice as long. In brackets: between which values half of the rounds lie. Others code at the quality
    whose file of the first picture is nearest to ours without being larger.

    Prints Markdown. docs/experiments/performance.md explains the tables.
    """
    require("eval", "scipy")
    if json_file not in (None, STREAM):
        check_writable(json_file)
    if profile and against:
        raise click.UsageError("--profile is of our own work; --against is for measuring without it.")
    pictures = _chosen(inputs)
    sizes = sizes or Sizes().convert(SIZES[profile], None, None)

    from codec import bitstream

    for width, height in sizes:
        bitstream.check_size(width, height)
    anchors = [] if profile else _anchors(against, device)

    from codec import Codec
    from codec.evaluation import bench as measuring
    from codec.evaluation.rate_distortion import conditions
    from codec.threads import cores

    if not pictures:
        pictures = [("made up", measuring.made_up_picture(*sizes[-1]))]
    threads = threads or tuple(sorted({1, cores()}))
    coder = Codec(model, device=device, fallback="never")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # before we are a load ourselves
    total = measuring.steps(anchors, sizes, threads, repeats, profile)
    with progress.bar(total, "step") as bar:

        def step(text):
            bar.set_description_str(text, refresh=False)
            bar.update()

        measured = measuring.bench(
            coder, anchors, pictures, sizes, threads, quality, repeats, max_minutes, step, profile=profile
        )
    untrained = [anchor.name for anchor in anchors if not getattr(anchor, "trained", True)]
    summary = measuring.summarise(measured, coder.model.config, untrained)
    codecs = {OURS: {"model": coder.model_id, "device": device}, **{a.name: a.settings() for a in anchors}}
    about = {
        **conditions(), "threads": threads, "load": load, "codecs": codecs, "untrained": untrained,
        "repeats": repeats, "batch": measuring.BATCH, "seed": measuring.SEED,
    }  # fmt: skip
    if json_file == STREAM:
        click.echo(measuring.as_json(about, summary, measured))
        return
    if json_file is not None:
        measuring.write_json(json_file, about, summary, measured)

    date, cpu, number = about["date"], about["cpu"], count(about["cores"], "core")
    busy = "" if load is None else f", load {load:.2f} at the start"
    versions = about["versions"]
    engines = ", ".join(f"{title} {versions[name]}" for name, title in ENGINES.items() if name in versions)
    click.echo(f"{date}; {cpu}, {number}{busy}; {engines}")
    rounds = f"{measured.rounds} of {count(repeats, 'round')}"
    used = count(min(len(pictures), measured.rounds), "picture")
    click.echo(f"codec: model {coder.model_id}, {device}; {rounds}, {used}")
    for anchor in anchors:
        click.echo(settings_line(anchor))
    click.echo("\n" + tables(summary, {anchor.name: anchor.title for anchor in anchors}))


def tables(summary: Summary, titles: Mapping[str, str]) -> str:
    """All tables, in Markdown, each under a heading.

    Args:
        summary: codec.evaluation.bench.Summary.
        titles: of the codecs that are not called by their names.
    """
    sections = {"Parts of the model": parts_table(summary.parts)} if summary.parts else {}
    for threads in dict.fromkeys(speed.threads for speed in summary.speeds):
        speeds = [speed for speed in summary.speeds if speed.threads == threads]
        sections[f"Speed, {count(threads, 'thread')}"] = speeds_table(speeds, titles)
    for direction in dict.fromkeys(row.direction for row in summary.stages):
        rows = [row for row in summary.stages if row.direction == direction]
        sections[f"Stages of {direction}, milliseconds"] = stages_table(rows)
    for direction in dict.fromkeys(row.direction for row in summary.work):
        work = [row for row in summary.work if row.direction == direction]
        sections[f"Shares of {direction}, %"] = work_table(work)
    if summary.peaks:
        sections["Matrix products"] = peaks_table(summary.peaks)
    if summary.shares:
        sections["Share of the matrix products"] = shares_table(summary.shares)
    return "\n\n".join(f"### {title}\n\n{text}" for title, text in sections.items())


def parts_table(parts: Iterable[Part]) -> str:
    """Multiply-adds and parameters."""
    rows = [(p.part, p.runs_in, f"{p.kmac_px:.2f}", f"{p.parameters / 1e6:.2f} M") for p in parts]
    return _markdown(("part", "runs in", "kMAC/px", "parameters"), rows, left=2)


def speeds_table(speeds: Iterable[Speed], titles: Mapping[str, str]) -> str:
    """Times, megapixels per second and ratios."""
    heads = ("size", "codec", "quality", "bpp", "encode ms", "Mpx/s", "ratio", "decode ms", "Mpx/s", "ratio")
    rows = []
    for speed in speeds:
        bpp = "-" if speed.bpp is None else f"{speed.bpp:.3f}"
        row = [_size(speed), titles.get(speed.codec, speed.codec), f"{speed.quality:g}", bpp]
        for direction in ("encode", "decode"):
            seconds, rate, ratio = (getattr(speed, f"{direction}_{field}") for field in ("s", "mpx_s", "ratio"))
            own = speed.codec == OURS
            row += [_digits(1e3 * seconds.median), _spread(rate), "1" if own else _spread(ratio)]
        rows.append(row)
    return _markdown(heads, rows, left=2)


def stages_table(rows: list[Stages]) -> str:
    """Milliseconds of every stage of one direction, in the round whose whole is the median."""
    names = list(rows[0].seconds)
    cells = []
    for row in rows:
        times = (*row.seconds.values(), row.whole_s)
        cells.append((str(row.threads), _size(row), *(_digits(1e3 * seconds) for seconds in times)))
    return _markdown(("threads", "size", *names, "whole"), cells, left=2)


def work_table(rows: list[Work]) -> str:
    """Shares of every stage in the work of one direction, in %, and what they say of all that is no network."""
    names = list(rows[0].shares)
    cells = []
    for row in rows:
        shares = (_digits(100 * share.median) for share in row.shares.values())
        rest = (_spread(share, 100) for share in (row.rest, row.rest_in_memory))
        cells.append((str(row.threads), _size(row), *shares, *rest, _spread(row.whole_s, 1e3)))
    heads = ("threads", "size", *names, "no network", "in memory", "whole ms")
    return _markdown(heads, cells, left=2)


def peaks_table(peaks: list[MachinePeak]) -> str:
    """What the machine could do."""
    kinds = list(peaks[0].gflops)
    rows = [(str(peak.threads), *(_spread(peak.gflops[kind]) for kind in kinds)) for peak in peaks]
    return _markdown(("threads", *(f"{kind} GFLOP/s" for kind in kinds)), rows, left=1)


def shares_table(shares: list[Share]) -> str:
    """What the parts made of it."""
    kinds = list(shares[0].of_peak)
    rows = [
        (
            str(share.threads), _size(share), share.part, _spread(share.gflops),
            *(_spread(share.of_peak[kind], 100, " %") for kind in kinds),
        )
        for share in shares
    ]  # fmt: skip
    return _markdown(("threads", "size", "part", "GFLOP/s", *(f"of {kind}" for kind in kinds)), rows, left=3)


def _anchors(names, device):
    """The codecs of these names; without names, those of RIVALS that are here."""
    from codec.errors import CodecError
    from codec.evaluation.anchors import find_anchors

    if names is not None:
        return find_anchors(names, device=device, random_weights=True)
    found = []
    for name in RIVALS:
        with suppress(CodecError):
            found += find_anchors([name], device=device, random_weights=True)
    return found


def _chosen(inputs):
    """Pairs (name, path): those named, else sample_images where this is a checkout; else none."""
    if inputs:
        return find_pictures(inputs, recursive=False)
    import codec

    samples = Path(codec.__file__).resolve().parents[1] / "sample_images"
    return find_pictures([str(samples)], recursive=False) if samples.is_dir() else []


def _markdown(heads, rows, left) -> str:
    """A table whose columns are as wide as they must be; the first ``left`` are aligned to the left."""
    widths = [max(map(len, column)) for column in zip(heads, *rows)]

    def line(cells):
        places = (cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths)))
        return f"| {' | '.join(places)} |"

    rule = ("-" * (w + 2) if i < left else "-" * (w + 1) + ":" for i, w in enumerate(widths))
    return "\n".join([line(heads), f"|{'|'.join(rule)}|", *map(line, rows)])


def _size(row) -> str:
    return f"{row.width}x{row.height}"


def _digits(value) -> str:
    """Three digits, or all those before the point."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value > 0 else "0"


def _spread(figure, factor=1, unit="") -> str:
    median, low, high = (_digits(factor * value) for value in (figure.median, figure.low, figure.high))
    return f"{median}{unit} ({low}-{high})"
