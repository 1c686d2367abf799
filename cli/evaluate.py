"""``codec evaluate``: rate, distortion and time on pictures of the user's choice, beside JPEG and WebP."""

import sys
from collections import Counter
from pathlib import Path

import click

from .common import STREAM, Failure, Quality, coder_options, expand
from .compress import PICTURE_SUFFIXES

OURS = "codec"  # our name in tables and files
SHOWN_VIOLATIONS = 20  # the JSON file has all


class Qualities(click.ParamType):
    """Numbers from 0 to 100 between commas, as a rising tuple without repetitions."""

    name = "qualities"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        numbers = {Quality().convert(part.strip(), param, ctx) for part in value.split(",")}
        return tuple(int(number) if number == int(number) else number for number in sorted(numbers))


class Names(click.ParamType):
    """Names between commas as a tuple, each once; ``none`` is the empty tuple."""

    name = "names"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        names = tuple(dict.fromkeys(part.strip() for part in value.split(",")))
        return () if names == ("none",) else names


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="PICTURES...")
@click.option(
    "--qualities", type=Qualities(), default="0,10,20,30,40,50,60,70,80,90,100", show_default=True,
    metavar="Q,Q,...", help="Our qualities to measure; BD-rates need four.",
)  # fmt: skip
@click.option(
    "--against", type=Names(), default="jpeg,webp", show_default=True, metavar="NAME,...",
    help="Codecs to compare with: jpeg (4:2:0), jpeg444, webp; or none.",
)  # fmt: skip
@click.option("--recursive", is_flag=True, help="Take folders with the folders below them.")
@click.option("--model", metavar="MODEL", help="Id or folder of a model; 'codec models' lists what there is.")
@click.option("--csv", "csv_file", metavar="FILE", help="Write one row per picture, codec and quality.")
@click.option("--json", "json_file", metavar="FILE", help="Write conditions, means, BD-rates and rows.")
@coder_options
def evaluate(inputs, qualities, against, recursive, model, csv_file, json_file, device, threads):
    """Measure rate, distortion and time on pictures.

    PICTURES are files or folders. Each picture is compressed and decompressed at every quality, by this codec
    and by those of --against at a dozen qualities of their own.

    Rate is the size of the real file, headers included. PSNR and MS-SSIM are over RGB, rounded to 8 bits.
    Means are over pictures. Seconds are for one picture, without reading or writing files and without loading
    the model. Alpha, colour profiles and metadata are left out; grey pictures count as RGB.

    BD-rate is the mean difference in rate at equal PSNR, over the PSNR interval printed beside it: that which
    both mean curves cover and, in the columns named after rates, where this codec's own rate is within them.

    A picture that cannot be used is named on stderr and left out; the exit status is then 1.
    """
    _require("pytorch_msssim", "scipy")
    pictures = _pictures(inputs, recursive)
    for file in (csv_file, json_file):
        if file is not None:
            _check_writable(file)

    from codec.evaluation.anchors import find_anchors

    anchors = find_anchors(against)

    import torch
    from tqdm import tqdm

    from codec import Codec
    from codec.evaluation import rate_distortion as rd

    if threads is not None:
        torch.set_num_threads(threads)  # for MS-SSIM too
    coder = Codec(model, device=device, threads=threads)
    entrants = [rd.Entrant(OURS, coder, qualities)]
    entrants += [rd.Entrant(anchor.name, anchor, anchor.qualities) for anchor in anchors]
    conditions = rd.conditions()
    conditions["codecs"] = {OURS: {"model": coder.model_id, "device": str(device), "qualities": qualities}}
    for anchor in anchors:
        settings = {"title": anchor.title, "options": anchor.options, "qualities": anchor.qualities}
        conditions["codecs"][anchor.name] = settings

    steps = sum(len(entrant.qualities) for entrant in entrants)
    failures = []
    total = steps * len(pictures)
    # disable=None: no bar unless stderr is a terminal.
    with tqdm(total=total, unit="coding", leave=False, dynamic_ncols=True, disable=None) as bar:

        def step(row):
            bar.set_description_str(f"{row.picture} {row.codec}", refresh=False)
            bar.update()

        def failed(name, error):
            failures.append(name)
            bar.write(f"codec: {error}", file=sys.stderr)
            bar.total -= steps

        rows = rd.evaluate(pictures, entrants, step, failed)
    if not rows:
        raise Failure("none of the pictures could be used")
    summary = rd.summarise(rows, OURS, [anchor.name for anchor in anchors])

    if csv_file is not None:
        rd.write_csv(csv_file, rows)
    if json_file is not None:
        rd.write_json(json_file, conditions, summary, rows)

    measured = len(pictures) - len(failures)
    threads = _count(conditions["threads"], "thread")
    click.echo(f"{_count(measured, 'picture')}; {conditions['cpu']}, {threads}")
    titles = {OURS: f"codec, model {coder.model_id}, {device}"}
    titles.update((anchor.name, _settings(anchor)) for anchor in anchors)
    for name, curve in summary.means.items():
        click.echo(f"\n{titles[name]}\n{means_table(curve)}")
    click.echo(f"\n{monotony(summary.violations, measured)}")
    if anchors:
        click.echo(f"\n{bd_rate_table(summary.bd_rate, {anchor.name: anchor.title for anchor in anchors})}")
    if failures:
        click.echo(f"codec: {len(failures)} of {len(pictures)} pictures left out", err=True)
        click.get_current_context().exit(1)


def means_table(curve) -> str:
    """The means of one codec, a line per quality."""
    columns = ("quality", "bpp", "PSNR dB", "MS-SSIM", "MS-SSIM dB", "encode s", "decode s")
    widths = (8, 9, 9, 9, 12, 10, 10)
    lines = [columns]
    for mean in curve:
        similarity = ("-", "-")  # every picture is too small for it
        if mean.ms_ssim is not None:
            similarity = (f"{mean.ms_ssim:.4f}", f"{mean.ms_ssim_db:.2f}")
        seconds = (f"{mean.encode_s:.3f}", f"{mean.decode_s:.3f}")
        lines.append((f"{mean.quality:g}", f"{mean.bpp:.4f}", f"{mean.psnr_db:.2f}", *similarity, *seconds))
    return "\n".join("".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines)


def monotony(violations, pictures) -> str:
    """Whether more quality always brought more bits and a higher PSNR, and where it did not."""
    if not violations:
        return f"codec: rate and PSNR are monotone on all {_count(pictures, 'picture')}"
    names = {violation.picture for violation in violations}
    lines = [f"codec: rate and PSNR are NOT monotone on {len(names)} of {_count(pictures, 'picture')}"]
    lines += [f"  {violation}" for violation in violations[:SHOWN_VIOLATIONS]]
    if len(violations) > SHOWN_VIOLATIONS:
        lines.append(f"  and {len(violations) - SHOWN_VIOLATIONS} more")
    return "\n".join(lines)


def bd_rate_table(comparisons, titles) -> str:
    """The BD-rates against every anchor, each with its PSNR interval."""
    rows = []
    for name, comparison in comparisons.items():
        figures = {"overall": comparison.overall, **comparison.bands}
        rows.append((titles[name], {key: _figure(figure) for key, figure in figures.items()}))
    lines = ["BD-rate of codec by PSNR, negative where it needs fewer bits"]
    lines.append(f"{'against':<12}" + "".join(f"{key:>26}" for key in rows[0][1]))
    for title, figures in rows:
        lines.append(f"{title:<12}" + "".join(f"{figure:>26}" for figure in figures.values()))
    if any("n/a" in figures.values() for _, figures in rows):
        lines.append("n/a: under four usable points on a curve, or no PSNR in common")
    return "\n".join(lines)


def _figure(figure) -> str:
    if figure is None:
        return "n/a"
    low, high = figure.psnr_db
    return f"{figure.percent:+.1f} % ({low:.1f}-{high:.1f} dB)"


def _count(number, noun) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _settings(anchor) -> str:
    options = ", ".join(f"{name}={value}" for name, value in anchor.options.items())
    return f"{anchor.name}: {anchor.title} (Pillow, {options})"


def _pictures(inputs, recursive):
    """Pairs (name, path): the file's name, or its place below the folder; its path where two are equal."""
    if STREAM in inputs:
        raise click.UsageError("pictures are read from files, not from standard input.")
    sources = expand(inputs, PICTURE_SUFFIXES, recursive)
    for source in sources:
        if not source.path.exists():
            raise Failure(f"{source.path}: no such file or folder")
    uses = Counter(source.relative for source in sources)
    return [
        ((source.relative if uses[source.relative] == 1 else source.path).as_posix(), source.path)
        for source in sources
    ]


def _check_writable(file):
    """Refuse now what would otherwise be refused when the measuring is done."""
    path = Path(file)
    if path.is_dir():
        raise Failure(f"{path}: is a folder")
    if not path.absolute().parent.is_dir():
        raise Failure(f"{path}: the folder {path.parent} does not exist")


def _require(*modules):
    """Name the extra that is missing, rather than fail half-way."""
    from importlib.util import find_spec

    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise Failure(f"evaluate needs {', '.join(missing)}: pip install 'neural-image-codec[eval]'")
