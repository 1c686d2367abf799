"""``codec demo``, for ``make demo``: the pictures of a folder there and back at a few qualities."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import click

from .common import Failure, Quality, coder_options
from .files import PICTURE_SUFFIXES, expand, local


@click.command(hidden=True)
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.option("-o", "--output", metavar="DIR", default="demo_output", show_default=True, help="Folder to write into.")
@click.option(
    "-q",
    "--quality",
    "qualities",
    multiple=True,
    type=Quality(),
    default=(10, 30, 50, 70, 90),
    show_default=True,
)
@coder_options
def demo(folder, output, qualities, device, threads):
    """Compress and decompress the pictures of FOLDER and print bytes, bpp and PSNR.

    Bits per pixel count the whole file. PSNR is over the three channels, after rounding to 8 bits. Times are
    those of this machine, reading and writing of pictures included.
    """
    paths = [local(source, "demo") for source in expand([folder], PICTURE_SUFFIXES).files]
    uses = Counter(path.stem for path in paths)

    import numpy as np

    from codec import Codec
    from codec.evaluation.metrics import psnr_db as psnr_db_of
    from codec.files import write_bytes_atomic
    from codec.image_io import read_picture, save_picture

    coder = Codec(device=device, threads=threads, fallback="never")
    output = Path(output)
    if output.exists() and not output.is_dir():
        raise Failure(f"{output}: is a file; the demo writes into a folder")
    output.mkdir(parents=True, exist_ok=True)

    click.echo(f"model {coder.model_id}; files go to {output}/\n")
    click.echo(
        f"{'picture':<20}{'size':>12}{'quality':>9}{'bytes':>12}{'bpp':>8}{'PSNR dB':>9}{'there s':>9}{'back s':>8}"
    )
    totals: dict[float, list[Any]] = {quality: [] for quality in qualities}
    for path in paths:
        x = read_picture(path).pixels
        height, width, _ = x.shape
        for quality in qualities:
            name = path.stem if uses[path.stem] == 1 else path.name
            stem = output / f"{name}-q{quality:g}"
            started = time.perf_counter()
            data = coder.compress(path, quality)
            write_bytes_atomic(stem.with_name(stem.name + ".bin"), data)
            there = time.perf_counter() - started

            started = time.perf_counter()
            image = coder.decompress(data)
            save_picture(image, stem.with_name(stem.name + ".png"))
            back = time.perf_counter() - started

            bpp, psnr_db = 8 * len(data) / (height * width), psnr_db_of(x, np.asarray(image.convert("RGB")))
            totals[quality].append((bpp, psnr_db))
            click.echo(
                f"{path.name:<20}{f'{width}x{height}':>12}{quality:>9g}{len(data):>12,}"
                f"{bpp:>8.3f}{psnr_db:>9.2f}{there:>9.2f}{back:>8.2f}"
            )
    click.echo("")
    for quality, rows in totals.items():
        bpp, psnr_db = (sum(column) / len(rows) for column in zip(*rows, strict=True))
        click.echo(f"{'mean':<20}{'':>12}{quality:>9g}{'':>12}{bpp:>8.3f}{psnr_db:>9.2f}")
