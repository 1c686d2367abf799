"""``codec report``: what ``codec evaluate --json`` wrote as one HTML page, as a plot, and as a table of all figures."""

import json
import sys
from pathlib import Path

import click

from . import progress
from .common import coder_options, require
from .files import check_output
from .measuring import Names, Qualities, find_pictures


@click.command()
@click.argument("results_file", metavar="RESULTS.json")
@click.argument("inputs", nargs=-1, metavar="[PICTURES]...")
@click.option("-o", "--output", metavar="FILE", help="The page to write, .html.")
@click.option("--plot", metavar="FILE", help="Also, or only, the main plot as .png, .svg or .pdf.")
@click.option("--csv", "csv_file", metavar="FILE", help="Also, or only, every figure, one a line.")
@click.option(
    "--published", default="auto", show_default=True, type=click.Choice(["auto", "kodak", "none"]),
    help="Published curves to draw; auto: Kodak's where the results are of its 24 pictures.",
)  # fmt: skip
@click.option(
    "--qualities", type=Qualities(), default="15,40,70", show_default=True, metavar="Q,Q,...",
    help="Ours, of the pictures in the viewer.",
)  # fmt: skip
@click.option(
    "--against", type=Names(), metavar="NAME,...",
    help="Codecs to show beside ours, at the same size, or none. [those of the results]",
)  # fmt: skip
@click.option(
    "--limit", type=click.IntRange(min=1), default=4, show_default=True, metavar="N",
    help="Pictures in the viewer at most; each takes a few megabytes of the page.",
)  # fmt: skip
@click.option("--model", metavar="MODEL", help="Id or folder of a model. [that of the results]")
@click.option("-f", "--force", is_flag=True, help="Overwrite existing files.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, one line a file that was written.")
@coder_options
def report(
    results_file, inputs, output, plot, csv_file, published, qualities, against, limit, model, force, as_json, device,
    threads,
):  # fmt: skip
    """Make a page of an evaluation.

    RESULTS.json is what 'codec evaluate --json' wrote. The page is a single file that needs no network. It begins with
    the answer in words: how many of the others' bytes this codec needs at equal quality, and where it loses. Then
    rate-distortion plots, BD-rates of every codec against every other, speed, and tables.

    PICTURES are files or folders, usually those evaluated. They are compressed again, by this codec at
    --qualities and by each other codec at the quality whose file comes nearest to ours without being larger,
    and go into a viewer, where there are more than --limit those that ours is worst on, by bytes at equal PSNR against
    the nearest of the others. It begins with the best of the others beside ours, pixel for pixel; with a slider,
    flicker, zoom and a difference map. JPEG, WebP and AVIF are shown from the very files, whose decoder is then the
    browser's.

    Published curves are drawn as published, dashed. They were not measured here.
    """
    if output is None and plot is None and csv_file is None:
        raise click.UsageError(
            "say what to write: --output page.html, --plot plot.png, --csv figures.csv, or all of them."
        )
    if inputs and output is None:
        raise click.UsageError("PICTURES are for the page; name it with --output.")
    require("eval", "scipy", *(["matplotlib"] if plot else []))
    for file in (output, plot, csv_file):
        if file is not None:
            check_output(file, force, results_file, *inputs)

    from codec.evaluation import report as making
    from codec.files import write_bytes_atomic

    if plot is not None:
        from codec.evaluation import plot as plotting

        plotting.check_suffix(plot)
    results = making.load(results_file)
    curves = making.published_for(results, published)

    shown = []
    if inputs:
        found = find_pictures(inputs, recursive=False)
        if len(found) > limit:
            note = f"the {limit} of {len(found)} pictures that ours is worst on are shown; --limit N for more"
            click.echo(f"codec: {note}", err=True)
            found = making.worst_first(results, found)[:limit]
        shown = _views(results, found, qualities, against, model, device, threads)

    if csv_file is not None:
        write_bytes_atomic(csv_file, making.as_csv(results).encode("utf-8"))
        _written(csv_file, as_json)
    if plot is not None:
        write_bytes_atomic(plot, plotting.draw(results, curves, Path(plot).suffix))
        _written(plot, as_json)
    if output is not None:
        page = making.build(results, curves, shown).encode("utf-8")
        write_bytes_atomic(output, page)
        _written(output, as_json)


def _written(file, as_json):
    size = Path(file).stat().st_size
    click.echo(json.dumps({"output": file, "bytes": size}) if as_json else f"{file}: {size:,} bytes")


def _views(results, pictures, qualities, against, model, device, threads):
    """The pictures for the viewer; a codec of the results that cannot be run here is named and left out."""
    from codec import Codec
    from codec.errors import CodecError
    from codec.evaluation import report as making
    from codec.evaluation.anchors import find_anchors
    from codec.image_io import read_picture

    name = making.ours(results)
    if against is None:
        anchors = []
        for other in results["means"]:
            try:
                anchors += find_anchors([other]) if other != name else []
            except CodecError as error:
                click.echo(f"codec: not in the viewer: {error}", err=True)
    else:
        anchors = find_anchors(against)
    described = results["conditions"].get("codecs", {}).get(name, {})
    coder = Codec(model or described.get("model"), device=device, threads=threads, fallback="never")

    def failed(anchor, error):
        bar.write(f"codec: {anchor.title} left out: {error}", file=sys.stderr)

    title = making.titles(results)[name]
    total = len(pictures) * len(qualities) * (1 + len(anchors))
    found = []
    with progress.bar(total, "picture") as bar:
        for picture, path in pictures:
            bar.set_description_str(picture, refresh=True)
            pixels = read_picture(path).pixels
            found.append(making.views(picture, pixels, coder, qualities, anchors, title, bar.update, failed))
    return found
