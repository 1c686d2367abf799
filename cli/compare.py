"""``codec compare``: how far other versions of a picture are from it, as a table and as a page."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any

import click

from . import progress
from .common import coder_options, require
from .files import check_output


@click.command()
@click.argument("original")
@click.argument("others", nargs=-1, required=True, metavar="OTHER...")
@click.option("--html", "output", metavar="FILE", help="Write a page that shows them side by side.")
@click.option("-f", "--force", is_flag=True, help="Overwrite an existing page.")
@click.option("--model", metavar="MODEL", help="Folder of a model that is not installed, for .bin files made with it.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object in the place of the table.")
@coder_options
def compare(original, others, output, force, model, as_json, device, threads):
    """Compare versions of a picture.

    ORIGINAL is a picture, each OTHER a compressed file of this codec or a picture in any format that Pillow
    reads, of the same size. Prints bytes, bits per pixel and metrics.

    The page is a single file, to be opened in a browser: slider, flicker, zoom to pixels, difference map.

    Metrics are over RGB, rounded to 8 bits; alpha and colour profiles are left out.
    """
    if "-" in (original, *others):
        raise click.UsageError("files are read by name, not from standard input.")
    require("eval", "scipy")
    if output is not None:
        check_output(output, force, original, *others)

    from codec.evaluation import compare as comparing
    from codec.files import write_bytes_atomic

    if threads is not None:
        from codec.threads import set_threads

        set_threads(threads)

    @functools.cache
    def coder():
        from codec import Codec

        return Codec(model, device=device, threads=threads, fallback="never")

    with progress.bar(len(others), "file") as bar:

        def step(path):
            bar.set_description_str(str(path), refresh=False)
            bar.update()

        found = comparing.compare(
            original, others, lambda data: coder().decompress(data), pictures=output is not None, step=step
        )
    if as_json:
        plain = [{key: value for key, value in view.items() if is_plain(value)} for view in found["views"]]
        click.echo(json.dumps({**{key: value for key, value in found.items() if is_plain(value)}, "views": plain}))
    else:
        _print_table(original, found)
    if output is not None:
        page = comparing.build(found).encode("utf-8")
        write_bytes_atomic(output, page)
        click.echo(f"\n{output}: {len(page) / 1e6:.1f} MB", err=as_json)


def is_plain(value: object) -> bool:
    """Whether JSON holds a value as it is: text and numbers, no pictures."""
    return value is None or isinstance(value, (str, int, float))


def _print_table(original, found):
    size = f"{found['width']} x {found['height']}, {found['bytes']:,} bytes, {found['bpp']:.3f} bpp"
    click.echo(f"{original}: {size}\n\n{table(found['views'])}")


def table(views: Sequence[dict[str, Any]]) -> str:
    """One line a file; metrics that none of them has are left out."""
    from codec.evaluation.pages import metrics_of

    metrics = metrics_of(views)
    labels = (metric["label"].replace(",", "") for metric in metrics)
    lines = [("file", "quality", "bytes", "bpp", *labels)]
    for view in views:
        values = [(view[metric["key"]], metric["digits"]) for metric in metrics]
        cells = ("-" if value is None else f"{value:.{digits}f}" for value, digits in values)
        quality = "-" if view["quality"] is None else f"{view['quality']:g}"
        lines.append((view["title"], quality, f"{view['bytes']:,}", f"{view['bpp']:.4f}", *cells))
    first, *others = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join((name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, others))))
        for name, *cells in lines
    )
