"""``codec study``: measurements of the theory behind the codec."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import click

from . import progress
from .common import Counts, Failure, require

QUANTISERS_NEED = ("torch", "compressai", "lightning", "matplotlib", "scipy")


@click.group()
def study():
    """Measure the theory that the codec stands on."""


@study.command()
@click.option("-o", "--output", metavar="DIR", help="Write gradients.csv, gradients.json and pictures (PNG, SVG).")
@click.option("--problem", metavar="TEXT", help="Only problems with this in their name, such as latents or binary.")
@click.option(
    "--samples", type=Counts(), default="1,16", show_default=True, metavar="S,S,...",
    help="Samples that an estimate is the mean of.",
)  # fmt: skip
@click.option(
    "--draws", type=click.IntRange(min=1), metavar="N",
    help="Samples in all for each line: 16 times the largest S or more; 16384, with --quick 512.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, metavar="N")
@click.option("--quick", is_flag=True, help="Small problems, few draws: seconds, and large errors.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads; all cores unless given.")
@click.option("--json", "as_json", is_flag=True, help="A JSON array of rows in the place of the table.")
def gradients(output, problem, samples, draws, seed, quick, threads, as_json):
    """Measure estimators of the gradient through a quantiser.

    Rounded latents, a choice among codebook entries, binary neurons and weights, nearest codebook entries and the
    entries themselves: small problems of which the true gradient of the expected loss is known. Every estimator,
    straight-through, noise, soft rounding, Gumbel-softmax, ReinMax, score function, finite differences, is compared
    with it.

    Bias and cosine are relative to the true gradient, variance to its squared length; +- is one standard error. The
    bias comes with an interval of two deviations; one that cannot be told from zero is printed as its upper bound.
    docs/experiments/quantisation.md explains the figures.
    """
    draws = draws or (512 if quick else 16384)
    if draws < 16 * samples[-1]:
        raise click.UsageError(f"--draws {draws} is too few for --samples {samples[-1]}: 16 estimates are needed.")
    require("study", "torch", *(["matplotlib"] if output is not None else []))
    if output is not None:
        folder = Path(output)
        folder.mkdir(parents=True, exist_ok=True)

    import torch

    from codec.study import gradients as measurement
    from codec.study.problems import all_problems

    if threads is not None:
        torch.set_num_threads(threads)
    problems = all_problems(seed, quick)
    names = dict.fromkeys(one.name for one in problems)
    if problem is not None:
        problems = [one for one in problems if problem.lower() in one.name.lower()]
        if not problems:
            raise Failure(f"--problem {problem}: none of {'; '.join(names)}")

    started = time.perf_counter()
    total = sum(len(one.estimators()) for one in problems)
    with progress.bar(total, "line") as bar:

        def step(text):
            bar.set_description_str(text, refresh=False)
            bar.update()

        rows = measurement.study(problems, samples, draws, seed, step)
    conditions = measurement.conditions(seed, samples, draws, time.perf_counter() - started)
    _print(measurement.table, rows, as_json)
    versions = ", ".join(f"{name} {version}" for name, version in conditions["versions"].items())
    threads = conditions["threads"]
    click.echo(
        f"seed {seed}, {draws} draws a line, {conditions['seconds']} s, "
        f"{threads} thread{'s' if threads > 1 else ''}; {versions}",
        err=as_json,
    )
    if output is not None:
        from codec.study import plots

        measurement.write_csv(folder / "gradients.csv", rows)
        measurement.write_json(folder / "gradients.json", {**conditions, "quick": quick, "problem": problem})
        plots.write_all(folder, rows)


class QuantiserNames(click.ParamType):
    """Quantisers by name between commas, each once."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        require("study", *QUANTISERS_NEED)
        from codec.study.quantisers import NAMES

        names = tuple(dict.fromkeys(part.strip() for part in value.split(",")))
        for name in names:
            if name not in NAMES:
                self.fail(f"no quantiser {name!r}; there are {', '.join(NAMES)}", param, ctx)
        return names


@study.command()
@click.argument("pictures", nargs=-1, required=True, metavar="PICTURES...")
@click.option("--valid", required=True, metavar="DIR", help="Pictures to measure on.")
@click.option("-o", "--output", required=True, metavar="DIR", help="Runs and results; a study goes on where it was.")
@click.option(
    "--quantisers", type=QuantiserNames(), default="mixed,noise,ste,soft,universal,sga,vq,vq-loss,hvq,dvae",
    show_default=True, metavar="NAME,...", help="What to compare; BD-rates are against mixed.",
)  # fmt: skip
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, metavar="N", help="Runs of each.")
@click.option("--steps", type=click.IntRange(min=1), default=1000, show_default=True, metavar="N", help="Of each run.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads; all cores unless given.")
@click.option("--no-progress", is_flag=True, help="No progress display.")
@click.option("--json", "as_json", is_flag=True, help="A JSON array of rows in the place of the table.")
def quantisers(pictures, valid, output, quantisers, seeds, steps, threads, no_progress, as_json):
    """Train the same small codec with each quantiser of latents and compare.

    Every run has the same budget of steps, the same pictures in the same order and the same first weights; each seed
    has others. Rates are bytes of the coded strings on crops of the validation pictures. Writes quantisers.csv,
    quantisers.json, quantisers.png and quantisers.svg.
    """
    require("study", *QUANTISERS_NEED)
    import torch

    from codec.study import quantisers as measurement

    if threads is not None:
        torch.set_num_threads(threads)
    folder, seeds = Path(output), range(seeds)
    settings = measurement.Settings(pictures=list(pictures), valid=valid, steps=steps)
    points = measurement.study(
        settings,
        quantisers,
        seeds,
        folder,
        progress=not (no_progress or progress.is_quiet()),
        say=lambda text: click.echo(text, err=True),
    )
    results = measurement.compare(points)
    minutes = measurement.training_minutes(folder, quantisers, seeds)
    measurement.write_results(folder, settings, points, results, minutes)
    _print(measurement.table, results, as_json)
    click.echo(f"{steps} steps a run, {len(seeds)} seeds, {minutes:.1f} minutes of training in all", err=as_json)


@study.command()
@click.option("--samples", type=click.IntRange(min=1000), default=100_000, show_default=True, metavar="N")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N")
@click.option("--drawing", metavar="FILE", help="Also draw the trellis, as .svg or .png.")
@click.option("--no-progress", is_flag=True, help="No progress display.")
@click.option("--json", "as_json", is_flag=True, help="A JSON array of rows in the place of the table.")
def dependent(samples, seed, drawing, no_progress, as_json):
    """Measure quantisers against the rate-distortion bound.

    Scalar quantisation, the same with decisions that count the bits, and dependent quantisation with 4 and 8 states,
    of independent Gaussian and Laplacian samples. docs/experiments/quantisation.md explains the figures.
    """
    from codec.study import dependent as measurement

    total = len(measurement.SOURCES) * len(measurement.STEPS) * len(measurement.METHODS)
    with progress.bar(total, "line", hidden=no_progress) as bar:

        def step(text):
            bar.set_description_str(text, refresh=False)
            bar.update()

        rows = measurement.study(samples, seed, step)
    _print(measurement.table, rows, as_json)
    click.echo(f"seed {seed}, {samples} samples", err=as_json)
    if drawing:
        require("study", "matplotlib")
        measurement.draw_trellis(drawing)


def _print(table, rows, as_json):
    """Rows, dataclasses or named tuples, as a table or in JSON."""
    if as_json:
        contents = [row._asdict() if hasattr(row, "_asdict") else dataclasses.asdict(row) for row in rows]
        click.echo(json.dumps(contents))
    else:
        click.echo(table(rows))
