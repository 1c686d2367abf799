"""Our MS-SSIM beside that of the library pytorch_msssim, and what every metric costs.

    python benchmarks/metrics.py [--threads 1] [--rounds 9] [--size 768x512] PICTURES...

Each picture is coded as JPEG at three qualities; printed is how far the two values are apart, then the milliseconds of
a metric on one picture cut to the size: wall-clock and processor time, the metrics in turns, medians over the rounds.
Needs the extra "test".
"""

import argparse
import io
import statistics
import time

import numpy as np
import pytorch_msssim
import torch
from PIL import Image

from codec.evaluation.metrics import METRICS, ms_ssim
from codec.evaluation.stages import fit
from codec.image_io import read_picture
from codec.threads import set_threads

QUALITIES = (10, 50, 90)


def library(original, decoded):
    """MS-SSIM as this project took it from the library: channel by channel, float32."""

    def plane(pixels, channel):
        return torch.from_numpy(np.ascontiguousarray(pixels[:, :, channel], np.float32))[None, None]

    with torch.inference_mode():
        planes = ((plane(original, channel), plane(decoded, channel)) for channel in range(3))
        values = [pytorch_msssim.ms_ssim(*pair, data_range=255).item() for pair in planes]
    return min(sum(values) / 3, 1.0)


def as_jpeg(pixels, quality):
    """What JPEG makes of a picture, uint8 (H, W, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--size", default="768x512")
    options = parser.parse_args()
    set_threads(options.threads)

    apart = []
    for path in options.pictures:
        pixels = read_picture(path).pixels
        for quality in QUALITIES:
            decoded = as_jpeg(pixels, quality)
            apart.append(abs(ms_ssim(pixels, decoded) - library(pixels, decoded)))
    print(f"MS-SSIM, {len(apart)} pairs: apart by {max(apart):.1e} at most, {statistics.mean(apart):.1e} on average")

    original = fit(pixels, *map(int, options.size.split("x")))
    decoded = as_jpeg(original, 50)
    functions = {metric.title: metric.function for metric in METRICS.values()}
    functions["MS-SSIM by pytorch_msssim"] = library
    times = {title: [] for title in functions}
    for _ in range(options.rounds):
        for title, function in functions.items():
            wall, processor = time.perf_counter(), time.process_time()
            function(original, decoded)
            times[title].append((time.perf_counter() - wall, time.process_time() - processor))
    print(f"{options.size}, {options.threads} thread(s): wall-clock ms, processor ms")
    for title, seconds in times.items():
        wall, processor = (1e3 * statistics.median(column) for column in zip(*seconds))
        print(f"{title:<28}{wall:>8.1f}{processor:>8.1f}")


if __name__ == "__main__":
    main()
