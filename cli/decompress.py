"""``codec decompress``: compressed files back to pictures."""

import functools
import tempfile
from pathlib import Path

import click

from codec import bitstream

from .common import COMPRESSED_SUFFIXES, STREAM, Failure, coder_options, plan, run


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="FILES...")
@click.option(
    "-o", "--output", metavar="PATH", help="File to write, its extension chooses the format; or a folder."
)
@click.option(
    "--format", "extension", metavar="EXT", help="png, jpg, webp, tiff... where -o does not say it. [png]"
)
@click.option("-f", "--force", is_flag=True, help="Overwrite existing files.")
@click.option(
    "--recursive", is_flag=True, help="Take folders with the folders below them; -o mirrors the tree."
)
@click.option(
    "--model", metavar="MODEL", help="Folder of a model that is not installed, for files made with it."
)
@coder_options
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def decompress(inputs, output, extension, force, recursive, model, device, threads, quiet):
    """Decompress files to pictures.

    FILES are compressed files or folders of them (*.bin, *.lqc), or - for standard input. Each becomes a picture of
    the same name ending in .png (see --format) beside it, or what -o says; -o - writes to standard output.

    Nothing is written when an output exists (without --force) or two inputs would become one file. When one
    of several files fails, the others are still decompressed and the exit status is 1.
    """
    from codec.image_io import FORMATS, save_picture

    suffix = "." + (extension or "png").lower().lstrip(".")
    if suffix not in FORMATS:
        raise Failure(f"--format {extension}: not a known format; known: {_names(FORMATS)}")
    jobs = plan(
        inputs, output, suffix=suffix, suffixes=COMPRESSED_SUFFIXES, recursive=recursive, force=force
    )
    for job in jobs:
        if job.target is not None and job.target.suffix.lower() not in FORMATS:
            raise Failure(f"{job.target}: no picture format by that extension; known: {_names(FORMATS)}")
    if extension and output not in (None, STREAM) and jobs[0].target.suffix.lower() != suffix:
        raise click.UsageError(f"--format {extension} does not agree with -o {output}.")

    @functools.cache
    def coder():
        from codec import Codec

        return Codec(model, device=device, threads=threads)

    def work(job):
        data = job.source.read_bytes()
        bitstream.unpack(data)  # refuses damaged files before any network is loaded
        image = coder().decompress(data)
        if job.target is None:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, f"picture{suffix}")
                save_picture(image, path)
                job.write_bytes(path.read_bytes())
        else:
            job.target.parent.mkdir(parents=True, exist_ok=True)
            save_picture(image, job.target)
        target = "standard output" if job.target is None else job.target
        return f"{job} -> {target}: {image.width} x {image.height}"

    run(jobs, work, verb="decompressing", quiet=quiet)


def _names(formats) -> str:
    return ", ".join(suffix.lstrip(".") for suffix in formats)
