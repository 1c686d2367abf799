"""Seconds a megapixel over sizes of pictures, and pictures a second by loops and by batches.

    python benchmarks/throughput.py PICTURES... [--sides 1,2,4] [--quality 43] [--count 24] [--rounds 3]

The first picture stands beside itself so many times each way; least of three runs. Then ``count`` files, the pictures
over and over, in turns: a loop over single calls with one thread, a loop with two, and a batch with two workers of a
thread each. Files are read; what is decoded stays in memory. Medians over the rounds, and the ratio to each loop in the
same round, with the least and the largest.
"""

import argparse
import itertools
import statistics
import time

import numpy as np

from codec import Codec
from codec.image_io import read_picture
from codec.threads import set_threads

WAYS = {"a loop, 1 thread": (1, 1), "a loop, 2 threads": (2, 1), "2 workers of 1 thread": (1, 2)}  # threads, workers


def seconds(work, runs=3):
    """``(least seconds, result)`` of some runs."""
    found = []
    for _ in range(runs):
        begun = time.perf_counter()
        result = work()
        found.append(time.perf_counter() - begun)
    return min(found), result


def large(pixels, sides, quality):
    """Print seconds a megapixel of larger and larger pictures, with two threads."""
    coder = Codec(threads=2, fallback="never")
    coder.decompress(coder.compress(pixels, quality))
    for side in sides:
        tiled = np.tile(pixels, (side, side, 1))
        megapixels = tiled[..., 0].size / 1e6
        encode, data = seconds(lambda tiled=tiled: coder.compress(tiled, quality))
        decode, _ = seconds(lambda data=data: coder.decompress(data))
        print(f"{megapixels:.1f} MP: {encode / megapixels:.3f} and {decode / megapixels:.3f} s a megapixel", flush=True)


def many(paths, quality, rounds):
    """Print pictures a second of WAYS, after a round over one of them that does not count."""
    coders = {way: Codec(threads=threads, fallback="never") for way, (threads, _) in WAYS.items()}
    times = {"encoded": {way: [] for way in WAYS}, "decoded": {way: [] for way in WAYS}}
    for number in range(rounds + 1):
        for way, (threads, workers) in WAYS.items():
            set_threads(threads)  # what a Codec sets is the process's
            coder, some = coders[way], paths if number else paths[:1]
            if workers == 1:
                encode, files = seconds(lambda: [coder.compress(path, quality) for path in some], 1)  # noqa: B023
                decode, _ = seconds(lambda: [coder.decompress(file) for file in files], 1)  # noqa: B023
            else:
                encode, files = seconds(lambda: coder.compress_batch(some, quality, workers=workers), 1)  # noqa: B023
                decode, _ = seconds(lambda: coder.decompress_batch(files, workers=workers), 1)  # noqa: B023
            if number:
                times["encoded"][way].append(encode)
                times["decoded"][way].append(decode)
                print(f"round {number}, {way}: {encode:.2f} and {decode:.2f} s", flush=True)
    loops = list(WAYS)[:2]
    for what, of_ways in times.items():
        for way, own in of_ways.items():
            line = f"{what}, {way}: {len(paths) / statistics.median(own):.3f} a second"
            for loop in loops:
                ratios = [theirs / mine for theirs, mine in zip(of_ways[loop], own)]
                line += f"; {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) of {loop}"
            print(line, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--sides", default="1,2,4", help="none to leave this out")
    parser.add_argument("--quality", type=float, default=43)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.sides != "none":
        sides = map(int, arguments.sides.split(","))
        large(read_picture(arguments.pictures[0]).pixels, sides, arguments.quality)
    paths = list(itertools.islice(itertools.cycle(arguments.pictures), arguments.count))
    many(paths, arguments.quality, arguments.rounds)


if __name__ == "__main__":
    main()
