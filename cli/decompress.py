"""``codec decompress``: compressed files back to pictures."""

import functools

import click

from codec import bitstream

from .common import Failure, coder_options, limit_option, run
from .files import COMPRESSED_SUFFIXES, STREAM, plan
from .pictures import remark, writing_options


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="FILES...")
@click.option(
    "-o", "--output", metavar="PATH", help="File to write, its extension chooses the format; or a folder."
)
@click.option(
    "--format", "extension", metavar="EXT", help="png, jpg, webp, tiff... where -o does not say it. [png]"
)
@click.option("-f", "--force", is_flag=True, help="Overwrite existing files.")
@click.option("--skip-existing", is_flag=True, help="Leave out files whose picture exists: go on where a run ended.")
@click.option(
    "--recursive", is_flag=True, help="Take folders with the folders below them; -o mirrors the tree."
)
@click.option(
    "--model", metavar="MODEL", help="Folder of a model that is not installed, for files made with it."
)
@writing_options
@limit_option
@coder_options
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def decompress(
    inputs, output, extension, force, skip_existing, recursive, model, max_pixels, device, threads, quiet, writing,
    depth,
):  # fmt: skip
    """Decompress files to pictures.

    FILES are compressed files or folders of them (*.bin, *.lqc), or - for standard input. Each becomes a picture of
    the same name ending in .png (see --format) beside it, or what -o says; -o - writes to standard output.

    Files in folders that are none of this codec are passed over. Nothing is written when an output exists (without
    --force or --skip-existing). When one of several files fails, the others are still decompressed and the exit
    status is 1.
    """
    from codec.image_io import DEEP_EXTENSIONS, FORMATS

    suffix = "." + (extension or "png").lower().lstrip(".")
    if suffix not in FORMATS:
        raise Failure(f"--format {extension}: not a known format; known: {_names(FORMATS)}")
    jobs = plan(
        inputs, output, suffix=suffix, suffixes=COMPRESSED_SUFFIXES, written=FORMATS, recursive=recursive, force=force,
        skip_existing=skip_existing, magic=bitstream.MAGIC,
    )  # fmt: skip
    for job in jobs.jobs:
        if job.target is not None and job.target.suffix.lower() not in FORMATS:
            raise Failure(f"{job.target}: no picture format by that extension; known: {_names(FORMATS)}")
    if extension and output not in (None, STREAM) and any(job.target.suffix.lower() != suffix for job in jobs.jobs):
        raise click.UsageError(f"--format {extension} does not agree with -o {output}.")

    written = {suffix if job.target is None else job.target.suffix.lower() for job in jobs.jobs}
    if depth == 16 and not written <= set(DEEP_EXTENSIONS):
        raise Failure(f"--depth 16: only {_names(DEEP_EXTENSIONS)} are written with 16 bits")

    @functools.cache
    def coder():
        from codec import Codec

        return Codec(model, device=device, threads=threads, max_pixels=max_pixels)

    def work(job):
        job.check()
        with job.source.open() as file:
            data = bitstream.read_file(file)
        container = bitstream.unpack(data)  # refuses damaged files before any network is loaded
        target = "standard output" if job.target is None else job.target
        extension = suffix if job.target is None else job.target.suffix.lower()
        picture, remarks = coder().to_file(data, extension, depth=depth, writing=writing, name=target)
        job.write_bytes(picture)
        if not quiet:
            for text in remarks:
                remark(target, text)
        return f"{job} -> {target}: {container.width} x {container.height}", len(data), len(picture)

    run(jobs, work, verb="decompressing", quiet=quiet)


def _names(formats) -> str:
    return ", ".join(suffix.lstrip(".") for suffix in formats)
