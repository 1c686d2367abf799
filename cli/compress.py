"""``codec compress``: pictures to compressed files."""

import click

from codec import bitstream, weights
from codec.quality import EFFORT_MAX

from .common import coder_options, limit_option, run
from .files import COMPRESSED_SUFFIXES, PICTURE_SUFFIXES, plan
from .targets import quality_options, target_among


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="PICTURES...")
@click.option("-o", "--output", metavar="PATH", help="File to write; a folder for several pictures.")
@quality_options
@click.option(
    "--suffix", type=click.Choice(COMPRESSED_SUFFIXES), default=COMPRESSED_SUFFIXES[0], show_default=True,
    help="Of files that are named after their pictures.",
)  # fmt: skip
@click.option("-f", "--force", is_flag=True, help="Overwrite existing files.")
@click.option("--skip-existing", is_flag=True, help="Leave out pictures whose file exists: go on where a run ended.")
@click.option(
    "--recursive", is_flag=True, help="Take folders with the folders below them; -o mirrors the tree."
)
@click.option(
    "--effort", type=click.IntRange(0, EFFORT_MAX), default=EFFORT_MAX, show_default=True,
    help="1 searches for the cheapest symbols, 0 rounds: faster, and some 5 % larger.",
)  # fmt: skip
@click.option("--exif", is_flag=True, help="Keep EXIF metadata, which may tell place and time.")
@click.option(
    "--model", metavar="MODEL", help="Id or folder of a model; 'codec models' lists those installed."
)
@limit_option
@coder_options
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def compress(
    inputs, output, quality, suffix, force, skip_existing, recursive, effort, exif, model, max_pixels, device, threads,
    quiet, **targets,
):  # fmt: skip
    """Compress pictures.

    PICTURES are files or folders, or - for standard input. Each picture becomes a file of the same name
    ending in .bin (see --suffix) beside it, or what -o says; -o - writes to standard output. Pictures whose
    names differ by their extension alone keep it: a.png.bin and a.jpg.bin.

    Nothing is written when an output exists (without --force or --skip-existing). When one of several pictures
    fails, the others are still compressed and the exit status is 1.

    With a target the quality is searched for each picture, in at most eight trials; a picture for which none meets it
    fails.
    """
    target = target_among(targets)
    jobs = plan(
        inputs, output, suffix=suffix, suffixes=PICTURE_SUFFIXES, written=COMPRESSED_SUFFIXES, recursive=recursive,
        force=force, skip_existing=skip_existing,
    )  # fmt: skip
    coder = None

    def load():
        nonlocal coder
        from codec import Codec

        coder = Codec(model, device=device, threads=threads, max_pixels=max_pixels)
        if not quiet and not weights.is_released(coder.model_id):
            click.echo(
                f"codec: model {coder.model_id} is experimental: later versions may not read what it writes", err=True
            )

    def work(job):
        job.check()
        size = job.source.bytes
        data = coder.compress(job.source.path or job.source.open(), quality, exif=exif, effort=effort, **target)
        job.write_bytes(data)
        header = bitstream.read_header(data)
        place = "standard output" if job.target is None else job.target
        bpp = 8 * len(data) / (header.width * header.height)
        found = f", quality {header.quality / 100:g}" if target else ""
        return f"{job} -> {place}: {len(data):,} bytes, {bpp:.3f} bpp{found}", size, len(data)

    run(jobs, work, verb="compressing", quiet=quiet, prepare=load)
