"""``codec compress``: pictures to compressed files."""

import click

from codec import bitstream, weights
from codec.quality import EFFORT_MAX

from .common import Quality, coder_options, limit_option, run
from .files import COMPRESSED_SUFFIXES, PICTURE_SUFFIXES, plan
from .pictures import frames_of, keeping_options, remark, warn_of_picture_suffix


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="PICTURES...")
@click.option("-o", "--output", metavar="PATH", help="File to write; a folder for several pictures.")
@click.option(
    "-q", "--quality", type=Quality(), default=50, show_default=True, help="0 (small) to 100 (faithful)."
)
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
@keeping_options
@click.option(
    "--model", metavar="MODEL", help="Id or folder of a model; 'codec models' lists those installed."
)
@limit_option
@coder_options
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def compress(
    inputs, output, quality, suffix, force, skip_existing, recursive, effort, keeping, all_frames, model, max_pixels,
    device, threads, quiet,
):  # fmt: skip
    """Compress pictures.

    PICTURES are files or folders, or - for standard input. Each picture becomes a file of the same name
    ending in .bin (see --suffix) beside it, or what -o says; -o - writes to standard output. Pictures whose
    names differ by their extension alone keep it: a.png.bin and a.jpg.bin.

    EXIF, XMP, IPTC, resolution and ICC profile are kept. Text, drawings and pictures that have been compressed harder
    before are kept without loss where that takes fewer bytes (see --fallback).

    Nothing is written when an output exists (without --force or --skip-existing). When one of several pictures
    fails, the others are still compressed and the exit status is 1.
    """
    warn_of_picture_suffix(output, PICTURE_SUFFIXES)
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
        if not all_frames:
            return one(job, job)
        done = [one(job, part, frame) for frame, part in enumerate(job.numbered(len(frames_of(job.source))))]
        lines, _, written = zip(*done, strict=True)
        return "\n".join(lines), job.source.bytes, sum(written)

    def one(job, part, frame=0):
        size = job.source.bytes

        def on_remark(text):
            if not quiet:
                remark(job, text)

        source = job.source.path or job.source.open()
        data = coder.compress(source, quality, effort=effort, frame=frame, on_remark=on_remark, **keeping)
        part.write_bytes(data)
        header = bitstream.read_header(data)
        target = "standard output" if part.target is None else part.target
        bpp = 8 * len(data) / (header.width * header.height)
        return f"{job} -> {target}: {len(data):,} bytes, {bpp:.3f} bpp", size, len(data)

    run(jobs, work, verb="compressing", quiet=quiet, prepare=load)
