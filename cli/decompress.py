"""``codec decompress``: compressed files back to pictures."""

from __future__ import annotations

import functools
import threading
import time
from typing import Any

import click

from codec import bitstream
from codec.errors import CodecError
from codec.threads import set_product_threads

from .common import Failure, coder_options, limit_option, run, share, workers_option
from .files import COMPRESSED_SUFFIXES, STREAM, Ending, announced, batch_options, plan
from .pictures import remark, writing_options
from .progress import is_quiet, is_verbose


class Region(click.ParamType):
    """``X,Y,W,H``: four whole numbers."""

    name = "region"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int, int, int]:
        try:
            left, top, width, height = map(int, value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not X,Y,W,H: left, top, width and height in pixels", param, ctx)
        return left, top, width, height


SCALES = {"1": 1, "1/2": 1 / 2, "1/4": 1 / 4, "1/8": 1 / 8}


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="FILES...")
@click.option("-o", "--output", metavar="PATH", help="File to write, its extension chooses the format; or a folder.")
@click.option("--format", "extension", metavar="EXT", help="png, jpg, webp, tiff... where -o does not say it. [png]")
@click.option(
    "--suffix", metavar="ENDING", help="Of pictures that are named after their files: such as -back.png. [.png]"
)
@batch_options
@click.option("--model", metavar="MODEL", help="Folder of a model that is not installed, for files made with it.")
@click.option(
    "--region", type=Region(), metavar="X,Y,W,H", help="Only these pixels: no more than their tiles is decoded."
)
@click.option(
    "--scale", type=click.Choice(list(SCALES)), default="1", show_default=True,
    help="Smaller pictures. 1/8 is a preview, made without the network.",
)  # fmt: skip
@click.option("--salvage", is_flag=True, help="Of damaged files, decode what is intact; the rest is grey, and named.")
@writing_options
@limit_option
@workers_option
@coder_options
def decompress(
    inputs, output, extension, suffix, force, skip_existing, recursive, dry_run, keep_times, as_json, model, max_pixels,
    workers, device, threads, writing, depth, region, scale, salvage,
):  # fmt: skip
    """Decompress files to pictures.

    FILES are compressed files, folders of them (*.bin, *.lqc), patterns ('packed/**/*.bin') or URLs, or - for standard
    input. Each becomes a picture of the same name ending in .png (see --format and --suffix) beside it, or what -o
    says; -o - writes to standard output. {stem}, {name} and {folder} in -o stand for picture, picture.bin and its place
    below the folder that was named.

    Files in folders that are none of this codec are passed over. Nothing is written when an output exists (without
    --force or --skip-existing). When one of several files fails, the others are still decompressed and the exit
    status is 1.
    """
    from codec.image_io import DEEP_EXTENSIONS, FORMATS
    from codec.parts import Part, container_of

    ending = Ending(tuple(FORMATS)).convert(suffix, None, None) if suffix else None
    suffix = "." + (extension or (ending or "png").rpartition(".")[2]).lower().lstrip(".")
    if suffix not in FORMATS:
        raise Failure(f"--format {extension}: not a known format; known: {_names(FORMATS)}")
    if ending and not ending.lower().endswith(suffix):
        raise click.UsageError(f"--format {extension} does not agree with --suffix {ending}.")
    jobs = plan(
        inputs, output, suffix=ending or suffix, suffixes=COMPRESSED_SUFFIXES, written=FORMATS, recursive=recursive,
        force=force, skip_existing=skip_existing, magic=bitstream.MAGIC,
    )  # fmt: skip
    for job in jobs.jobs:
        if job.target is not None and job.target.suffix.lower() not in FORMATS:
            raise Failure(f"{job.target}: no picture format by that extension; known: {_names(FORMATS)}")
    if (
        extension
        and output not in (None, STREAM)
        and any(job.target is not None and job.target.suffix.lower() != suffix for job in jobs.jobs)
    ):
        raise click.UsageError(f"--format {extension} does not agree with -o {output}.")

    written = {suffix if job.target is None else job.target.suffix.lower() for job in jobs.jobs}
    if depth == 16 and not written <= set(DEEP_EXTENSIONS):
        raise Failure(f"--depth 16: only {_names(DEEP_EXTENSIONS)} are written with 16 bits")
    if dry_run:
        run(jobs, announced, verb="planning", as_json=as_json)
        return

    workers, threads = share(workers, threads, len(jobs.jobs))
    loading = threading.Lock()

    @functools.cache
    def load():
        from codec import Codec

        found = Codec(model, device=device, threads=threads, max_pixels=max_pixels)
        set_product_threads(1)
        return found

    def coder():
        with loading:
            return load()

    def work(job):
        job.check()
        started = time.perf_counter()
        place = "standard output" if job.target is None else str(job.target)
        extension = suffix if job.target is None else job.target.suffix.lower()
        part = Part(region, SCALES[scale], [] if salvage else None)
        with job.source.open() as file:
            container = container_of(file, part)  # refuses damaged files before any network is loaded
            picture, (width, height), remarks = coder().to_file(
                container, extension, depth=depth, writing=writing, name=place, part=part
            )
        job.write_bytes(picture, keep_times)
        if not is_quiet():
            for text in remarks:
                remark(place, text)
        if part.lost:
            raise CodecError(f"{job}: damaged, and written without what is lost: {'; '.join(part.lost)}")
        seconds = time.perf_counter() - started
        found = f", {len(picture):,} bytes, {seconds:.2f} s" if is_verbose() else ""
        facts = {
            "output": place, "bytes": len(picture), "width": width, "height": height,
            "mode": ("L" if container.grey else "RGB") + ("A" if container.alpha or container.stored_alpha else ""),
            "seconds": round(seconds, 3),
        }  # fmt: skip
        return f"{job} -> {place}: {width} x {height}{found}", job.source.bytes, len(picture), facts

    run(jobs, work, verb="decompressing", as_json=as_json, workers=workers)


def _names(formats) -> str:
    return ", ".join(suffix.lstrip(".") for suffix in formats)
