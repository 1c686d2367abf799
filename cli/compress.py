"""``codec compress``: pictures to compressed files."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import click

from codec import bitstream, weights
from codec.threads import set_product_threads

from .common import coder_options, effort_option, limit_option, model_options, workers_option
from .files import (
    COMPRESSED_SUFFIXES,
    PICTURE_SUFFIXES,
    Ending,
    Job,
    batch_options,
    plan,
)
from .pictures import frames_of, keeping_options, warn_of_picture_suffix
from .pipeline import Done, announced, engine_options, manifest_option, run
from .progress import is_quiet, is_verbose
from .shards import repacked
from .targets import quality_options, target_among


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="PICTURES...")
@click.option("-o", "--output", metavar="PATH", help="File to write; a folder or a pattern for several pictures.")
@quality_options
@click.option(
    "--suffix", type=Ending(COMPRESSED_SUFFIXES), metavar="ENDING",
    help="Of files that are named after their pictures: .bin, .lqc, or such as -small.bin.  [.bin; .lqc in archives]",
)  # fmt: skip
@batch_options
@effort_option
@keeping_options
@model_options
@limit_option
@manifest_option
@engine_options
@workers_option
@coder_options
def compress(
    inputs, output, quality, suffix, force, skip_existing, recursive, dry_run, keep_times, as_json, effort, keeping,
    all_frames, model, max_pixels, engine, workers, device, threads, **targets,
):  # fmt: skip
    """Compress pictures.

    PICTURES are files, folders, patterns ('photos/**/*.jpg') or URLs, or - for standard input. Each picture becomes a
    file of the same name ending in .bin (see --suffix) beside it, or what -o says; -o - writes to standard output.
    Pictures whose names differ by their extension alone keep it: a.png.bin and a.jpg.bin. {stem}, {name} and {folder}
    in -o stand for picture, picture.png and its place below the folder that was named.

    Tar archives, such as WebDataset's shards ('shards/{000..123}.tar'), become archives of the same names in the folder
    -o; their pictures become .lqc members, and the others stay.

    EXIF, XMP, IPTC, resolution and ICC profile are kept. Text, drawings and pictures that have been compressed harder
    before are kept without loss where that takes fewer bytes (see --fallback).

    Nothing is written when an output exists (without --force or --skip-existing). When one of several pictures
    fails, the others are still compressed and the exit status is 1.

    With a target the quality is searched for each picture, in at most eight trials; a picture for which none meets it
    fails.
    """
    target = target_among(targets)
    warn_of_picture_suffix(output, PICTURE_SUFFIXES)
    inputs, output = engine.names(inputs, output)
    jobs = plan(
        inputs, output, suffix=suffix or ".bin", suffixes=PICTURE_SUFFIXES, written=COMPRESSED_SUFFIXES,
        recursive=recursive, force=force, skip_existing=skip_existing,
    )  # fmt: skip
    if dry_run:
        run(jobs, announced, verb="planning", as_json=as_json)
        return
    if all_frames and any(job.is_shard for job in jobs.jobs):
        raise click.UsageError("--all-frames is for pictures, not for archives of them.")
    engine = engine.shared(workers, threads, len(jobs.jobs))
    settings = {"quality": quality, "effort": effort, **keeping, **target}
    work = Compressing(
        settings, all_frames, force, keep_times, suffix or ".lqc", bool(target) or is_verbose(), is_verbose()
    )

    def load():
        from codec import Codec

        work.coder = Codec(model, device=device, threads=engine.threads, max_pixels=max_pixels)
        set_product_threads(1)
        if not is_quiet() and not weights.is_released(work.coder.model_id):
            click.echo(
                f"codec: model {work.coder.model_id} is experimental: later versions may not read what it writes",
                err=True,
            )

    run(jobs, work, verb="compressing", as_json=as_json, prepare=load, engine=engine)


@dataclass
class Compressing:
    """The work of ``codec compress``: a picture becomes a file, or several for its frames.

    Attributes:
        settings: arguments of ``Codec.compress``.
        all_frames, force, keep_times: as the options say.
        suffix: of members of archives.
        found: tell the quality, which may have been searched. verbose: and size and time.
        coder: codec.Codec; a pickle names its model, and loads it where it is opened.
    """

    settings: dict[str, Any]
    all_frames: bool
    force: bool
    keep_times: bool
    suffix: str
    found: bool
    verbose: bool
    coder: Any = None

    def __call__(self, job: Job) -> Done:
        """Done of a files.Job."""
        job.check()
        if job.is_shard:
            return repacked(job, PICTURE_SUFFIXES, self.suffix, self._member, self.keep_times)
        if not self.all_frames:
            return self._one(job, job)
        parts = job.numbered(len(frames_of(job.source)), self.force)
        done = [self._one(job, part, frame) for frame, part in enumerate(parts)]
        written, facts = sum(each.written for each in done), [each.facts for each in done]
        return Done(
            "\n".join(each.line for each in done),
            done[0].read,
            written,
            {**facts[0], "bytes": written, "frames": facts},
            [remark for each in done for remark in each.remarks],
        )

    def _one(self, job, part, frame=None):
        size, started = job.source.bytes, time.perf_counter()
        data, facts = self._coded(job.source.readable(), frame)
        part.write_bytes(data, self.keep_times)
        seconds = time.perf_counter() - started
        place = "standard output" if part.target is None else str(part.target)
        line = f"{job} -> {place}: {len(data):,} bytes, {8 * len(data) / (facts['width'] * facts['height']):.3f} bpp"
        if self.found:
            line += f", quality {facts['quality']:g}"
        if self.verbose:
            line += f", {facts['width']} x {facts['height']}, {seconds:.2f} s"
        facts = {"output": place, "bytes": len(data), **facts, "seconds": round(seconds, 3)}
        return Done(line, size, len(data), facts, [f"{job}: {text}" for text in facts["remarks"]])

    def _member(self, data):
        return self._coded(data)

    def _coded(self, picture, frame=None):
        """The bytes of a file, and what there is to say about them."""
        remarks: list[str] = []
        data = self.coder.compress(picture, frame=frame, on_remark=remarks.append, **self.settings)
        header = bitstream.read_header(data)
        return data, {
            "bpp": round(8 * len(data) / (header.width * header.height), 4), "width": header.width,
            "height": header.height, "quality": header.quality / 100, "model": header.model_id, "stored": header.stored,
            "remarks": remarks,
        }  # fmt: skip
