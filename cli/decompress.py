"""``codec decompress``: compressed files back to pictures."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass, field, replace
from typing import Any

import click

from codec import bitstream
from codec.threads import Lock, set_product_threads

from .common import Failure, coder_options, limit_option, workers_option
from .files import COMPRESSED_SUFFIXES, STREAM, Ending, Job, batch_options, plan
from .pictures import writing_options
from .pipeline import Done, announced, engine_options, manifest_option, run
from .progress import is_verbose
from .shards import repacked


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
@manifest_option
@engine_options
@workers_option
@coder_options
def decompress(
    inputs, output, extension, suffix, force, skip_existing, recursive, dry_run, keep_times, as_json, model, max_pixels,
    engine, workers, device, threads, writing, depth, region, scale, salvage,
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
    from codec.parts import Part

    ending = Ending(tuple(FORMATS)).convert(suffix, None, None) if suffix else None
    suffix = "." + (extension or (ending or "png").rpartition(".")[2]).lower().lstrip(".")
    if suffix not in FORMATS:
        raise Failure(f"--format {extension}: not a known format; known: {_names(FORMATS)}")
    if ending and not ending.lower().endswith(suffix):
        raise click.UsageError(f"--format {extension} does not agree with --suffix {ending}.")
    inputs, output = engine.names(inputs, output)
    jobs = plan(
        inputs, output, suffix=ending or suffix, suffixes=COMPRESSED_SUFFIXES, written=FORMATS, recursive=recursive,
        force=force, skip_existing=skip_existing, magic=bitstream.MAGIC,
    )  # fmt: skip
    files = [job for job in jobs.jobs if not job.is_shard]
    for job in files:
        if job.target is not None and job.target.suffix.lower() not in FORMATS:
            raise Failure(f"{job.target}: no picture format by that extension; known: {_names(FORMATS)}")
    if (
        extension
        and output not in (None, STREAM)
        and any(job.target is not None and job.target.suffix.lower() != suffix for job in files)
    ):
        raise click.UsageError(f"--format {extension} does not agree with -o {output}.")

    written = {suffix if job.target is None or job.is_shard else job.target.suffix.lower() for job in jobs.jobs}
    if depth == 16 and not written <= set(DEEP_EXTENSIONS):
        raise Failure(f"--depth 16: only {_names(DEEP_EXTENSIONS)} are written with 16 bits")
    if dry_run:
        run(jobs, announced, verb="planning", as_json=as_json)
        return

    engine = engine.shared(workers, threads, len(jobs.jobs))
    settings = {"model": engine.model(model), "device": device, "threads": engine.threads, "max_pixels": max_pixels}
    part = Part(region, SCALES[scale], [] if salvage else None)
    work = Decompressing(settings, part, suffix, ending or suffix, depth, writing, keep_times, is_verbose())
    run(jobs, work, verb="decompressing", as_json=as_json, engine=engine)


@dataclass
class Decompressing:
    """The work of ``codec decompress``: a file becomes a picture.

    Attributes:
        settings: arguments of ``Codec``, which is made when the first file turns out to be whole.
        part: parts.Part, what is wanted of each; with a list as ``lost``, damaged files too.
        suffix: of what goes to standard output. ending: of members of archives.
        depth, writing: arguments of ``Codec.to_file``.
        keep_times: as the option says. verbose: tell size and time.
    """

    settings: dict[str, Any]
    part: Any
    suffix: str
    ending: str
    depth: int | None
    writing: Any
    keep_times: bool
    verbose: bool
    _loading: Lock = field(default_factory=Lock, repr=False)
    _coder: Any = field(default=None, repr=False)

    def coder(self) -> Any:
        with self._loading:
            if self._coder is None:
                from codec import Codec

                self._coder = Codec(**self.settings)
                set_product_threads(1)
        return self._coder

    def __call__(self, job: Job) -> Done:
        """Done of a files.Job."""
        job.check()
        if job.is_shard:
            return repacked(job, COMPRESSED_SUFFIXES, self.ending, self._member, self.keep_times)
        started = time.perf_counter()
        place = "standard output" if job.target is None else str(job.target)
        extension = self.suffix if job.target is None else job.target.suffix.lower()
        with job.source.open() as file:
            picture, facts, remarks, lost = self._decoded(file, extension, place)
        job.write_bytes(picture, self.keep_times)
        seconds = time.perf_counter() - started
        found = f", {len(picture):,} bytes, {seconds:.2f} s" if self.verbose else ""
        line = f"{job} -> {place}: {facts['width']} x {facts['height']}{found}"
        facts = {"output": place, "bytes": len(picture), **facts, "seconds": round(seconds, 3)}
        done = Done(line, job.source.bytes, len(picture), facts, [f"{place}: {text}" for text in remarks])
        if lost:
            error = f"{job}: damaged, and written without what is lost: {'; '.join(lost)}"
            done.line, done.problems, done.facts = None, [error], {"error": error}
        return done

    def _member(self, data):
        if not bitstream.MAGIC.startswith(data[: len(bitstream.MAGIC)]):
            return None  # of another program
        picture, facts, remarks, lost = self._decoded(io.BytesIO(data), self.suffix, "picture")
        return picture, {**facts, "remarks": remarks, **({"lost": lost} if lost else {})}

    def _decoded(self, file, extension, name):
        """``(bytes of a picture file, facts, remarks, what is lost of it)``"""
        from codec.parts import container_of

        part = replace(self.part, lost=None if self.part.lost is None else [])
        container = container_of(file, part)  # refuses damaged files before any network is loaded
        picture, (width, height), remarks = self.coder().to_file(
            container, extension, depth=self.depth, writing=self.writing, name=name, part=part
        )
        facts = {
            "width": width, "height": height, "model": container.model_id,
            "mode": ("L" if container.grey else "RGB") + ("A" if container.alpha or container.stored_alpha else ""),
        }  # fmt: skip
        return picture, facts, remarks, part.lost


def _names(formats) -> str:
    return ", ".join(suffix.lstrip(".") for suffix in formats)
