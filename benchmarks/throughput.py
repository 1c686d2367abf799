"""Seconds a megapixel over sizes of pictures, and pictures a second by loops and by batches.

    python benchmarks/throughput.py PICTURE [--sides 1,2,4] [--quality 43] [--count 24]

The picture stands beside itself so many times each way; least of three runs. Then ``count`` times the picture itself: a
loop with one thread, a loop with two, and two workers with a thread each.
"""

import argparse
import time

import numpy as np

from codec import Codec
from codec.image_io import read_picture


def seconds(work, runs=3):
    """``(least seconds, result)`` of some runs."""
    found = []
    for _ in range(runs):
        begun = time.perf_counter()
        result = work()
        found.append(time.perf_counter() - begun)
    return min(found), result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture")
    parser.add_argument("--sides", default="1,2,4")
    parser.add_argument("--quality", type=float, default=43)
    parser.add_argument("--count", type=int, default=24)
    arguments = parser.parse_args()
    pixels, quality = read_picture(arguments.picture).pixels, arguments.quality
    coder = Codec(threads=2, fallback="never")
    coder.decompress(coder.compress(pixels, quality))
    for side in map(int, arguments.sides.split(",")):
        tiled = np.tile(pixels, (side, side, 1))
        megapixels = tiled[..., 0].size / 1e6
        encode, data = seconds(lambda tiled=tiled: coder.compress(tiled, quality))
        decode, _ = seconds(lambda data=data: coder.decompress(data))
        print(f"{megapixels:.1f} MP: {encode / megapixels:.3f} and {decode / megapixels:.3f} s a megapixel", flush=True)
    pictures = [pixels] * arguments.count
    for threads, workers in ((1, 1), (2, 1), (1, 2)):
        coder = Codec(threads=threads, fallback="never")
        encode, files = seconds(lambda: coder.compress_batch(pictures, quality, workers=workers))  # noqa: B023
        decode, _ = seconds(lambda: coder.decompress_batch(files, workers=workers))  # noqa: B023
        rates = f"{len(pictures) / encode:.2f} encoded, {len(pictures) / decode:.2f} decoded a second"
        print(f"{workers} workers of {threads} threads: {rates}", flush=True)


if __name__ == "__main__":
    main()
