"""Times of two versions of the codec at the same rate, each in processes of its own, in turns.

    python benchmarks/versions.py OLD_CHECKOUT OLD_PYTHON NEW_CHECKOUT NEW_PYTHON PICTURES... [--rounds 5]

The old version codes at quality 50, the new one at the quality that gives the same bits a pixel. Prints bits a pixel,
PSNR, and medians and quartiles of the ratios of new to old.
"""

import argparse
import os
import statistics
import subprocess
from pathlib import Path

# Lines "quality path" in, lines "bpp, seconds to encode, to decode, PSNR" out.
SERVER = """
import sys, time
import numpy as np
from PIL import Image
from codec import Codec
coder, pictures = Codec(threads=2), {}
for line in sys.stdin:
    quality, path = line.rstrip().split(" ", 1)
    if path not in pictures:
        pictures[path] = np.asarray(Image.open(path).convert("RGB"))
    pixels, begun = pictures[path], time.perf_counter()
    data = coder.compress(pixels, float(quality))
    encoded = time.perf_counter()
    decoded = np.asarray(coder.decompress(data))
    ended = time.perf_counter()
    error = np.square(decoded.astype(float) - pixels).mean()
    bpp = 8 * len(data) / (pixels.shape[0] * pixels.shape[1])
    print(bpp, encoded - begun, ended - encoded, 10 * np.log10(255**2 / error), flush=True)
"""
QUALITY = 50


class Version:
    """A process that codes pictures with the codec of a checkout."""

    def __init__(self, checkout, python):
        # Python looks in the working folder first, in PYTHONPATH next.
        folder = Path(checkout).resolve()
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        command = [str(Path(python).absolute()), "-W", "ignore", "-c", SERVER]
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, quality, path):
        """``(bpp, seconds to encode, seconds to decode, PSNR)``."""
        self.process.stdin.write(f"{quality} {Path(path).resolve()}\n")
        self.process.stdin.flush()
        return [float(value) for value in self.process.stdout.readline().split()]


def same_rate(new, target, pictures):
    """Quality at which the mean rate is ``target`` bits a pixel, about."""
    low, high = 0.0, 100.0
    for _ in range(9):
        middle = (low + high) / 2
        rate = statistics.mean(new(middle, path)[0] for path in pictures)
        low, high = (middle, high) if rate < target else (low, middle)
    return (low + high) / 2


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("old_checkout", "old_python", "new_checkout", "new_python"):
        parser.add_argument(name)
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.rounds * len(arguments.pictures) < 2:
        parser.error("quartiles need two rounds or two pictures at least")
    old = Version(arguments.old_checkout, arguments.old_python)
    new = Version(arguments.new_checkout, arguments.new_python)
    target = statistics.mean(old(QUALITY, path)[0] for path in arguments.pictures)
    quality = same_rate(new, target, arguments.pictures)
    pairs = [(old(QUALITY, path), new(quality, path)) for _ in range(arguments.rounds) for path in arguments.pictures]
    print(f"quality {QUALITY} and {quality:.2f}")
    for index, name in ((0, "bpp"), (3, "PSNR dB")):
        before, after = (statistics.mean(pair[k][index] for pair in pairs) for k in (0, 1))
        print(f"{name}: {before:.3f}, {after:.3f}")
    for index, name in ((1, "encode"), (2, "decode")):
        before, after = (statistics.median(pair[k][index] for pair in pairs) for k in (0, 1))
        low, middle, high = statistics.quantiles((b[index] / a[index] for a, b in pairs), n=4)
        print(f"{name}: {1e3 * before:.0f} ms, {1e3 * after:.0f} ms, ratio {middle:.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
