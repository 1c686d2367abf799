"""``codec compress``: pictures to compressed files."""

import time
from typing import Any

import click

from codec import bitstream, weights
from codec.quality import EFFORT_MAX
from codec.threads import set_product_threads

from .common import coder_options, limit_option, model_options, run, share, workers_option
from .files import (
    COMPRESSED_SUFFIXES,
    PICTURE_SUFFIXES,
    Ending,
    announced,
    batch_options,
    plan,
)
from .pictures import frames_of, keeping_options, remark, warn_of_picture_suffix
from .progress import is_quiet, is_verbose
from .targets import quality_options, target_among


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="PICTURES...")
@click.option("-o", "--output", metavar="PATH", help="File to write; a folder or a pattern for several pictures.")
@quality_options
@click.option(
    "--suffix", type=Ending(COMPRESSED_SUFFIXES), default=COMPRESSED_SUFFIXES[0], show_default=True, metavar="ENDING",
    help="Of files that are named after their pictures: .bin, .lqc, or such as -small.bin.",
)  # fmt: skip
@batch_options
@click.option(
    "--effort", type=click.IntRange(0, EFFORT_MAX), default=EFFORT_MAX, show_default=True,
    help="1 searches for the cheapest symbols, 0 rounds: faster, and some 5 % larger.",
)  # fmt: skip
@keeping_options
@model_options
@limit_option
@workers_option
@coder_options
def compress(
    inputs, output, quality, suffix, force, skip_existing, recursive, dry_run, keep_times, as_json, effort, keeping,
    all_frames, model, max_pixels, workers, device, threads, **targets,
):  # fmt: skip
    """Compress pictures.

    PICTURES are files, folders, patterns ('photos/**/*.jpg') or URLs, or - for standard input. Each picture becomes a
    file of the same name ending in .bin (see --suffix) beside it, or what -o says; -o - writes to standard output.
    Pictures whose names differ by their extension alone keep it: a.png.bin and a.jpg.bin. {stem}, {name} and {folder}
    in -o stand for picture, picture.png and its place below the folder that was named.

    EXIF, XMP, IPTC, resolution and ICC profile are kept. Text, drawings and pictures that have been compressed harder
    before are kept without loss where that takes fewer bytes (see --fallback).

    Nothing is written when an output exists (without --force or --skip-existing). When one of several pictures
    fails, the others are still compressed and the exit status is 1.

    With a target the quality is searched for each picture, in at most eight trials; a picture for which none meets it
    fails.
    """
    target = target_among(targets)
    warn_of_picture_suffix(output, PICTURE_SUFFIXES)
    jobs = plan(
        inputs, output, suffix=suffix, suffixes=PICTURE_SUFFIXES, written=COMPRESSED_SUFFIXES, recursive=recursive,
        force=force, skip_existing=skip_existing,
    )  # fmt: skip
    if dry_run:
        run(jobs, announced, verb="planning", as_json=as_json)
        return
    workers, threads = share(workers, threads, len(jobs.jobs))
    coder: Any = None

    def load():
        nonlocal coder
        from codec import Codec

        coder = Codec(model, device=device, threads=threads, max_pixels=max_pixels)
        set_product_threads(1)
        if not is_quiet() and not weights.is_released(coder.model_id):
            click.echo(
                f"codec: model {coder.model_id} is experimental: later versions may not read what it writes", err=True
            )

    def work(job):
        job.check()
        if not all_frames:
            return one(job, job)
        parts = job.numbered(len(frames_of(job.source)), force)
        done = [one(job, part, frame) for frame, part in enumerate(parts)]
        lines, _, written, facts = zip(*done, strict=True)
        return (
            "\n".join(lines),
            job.source.bytes,
            sum(written),
            {**facts[0], "bytes": sum(written), "frames": list(facts)},
        )

    def one(job, part, frame=None):
        size, started = job.source.bytes, time.perf_counter()
        remarks: list[str] = []
        data = coder.compress(
            job.source.readable(), quality, effort=effort, frame=frame, on_remark=remarks.append, **keeping, **target
        )
        part.write_bytes(data, keep_times)
        if not is_quiet():
            for text in remarks:
                remark(job, text)
        header, seconds = bitstream.read_header(data), time.perf_counter() - started
        place = "standard output" if part.target is None else str(part.target)
        bpp = 8 * len(data) / (header.width * header.height)
        found = f", quality {header.quality / 100:g}" if target or is_verbose() else ""
        if is_verbose():
            found += f", {header.width} x {header.height}, {seconds:.2f} s"
        facts = {
            "output": place, "bytes": len(data), "bpp": round(bpp, 4), "width": header.width, "height": header.height,
            "quality": header.quality / 100, "model": header.model_id, "seconds": round(seconds, 3),
            "stored": header.stored, "remarks": remarks,
        }  # fmt: skip
        return f"{job} -> {place}: {len(data):,} bytes, {bpp:.3f} bpp{found}", size, len(data), facts

    run(jobs, work, verb="compressing", as_json=as_json, prepare=load, workers=workers)
