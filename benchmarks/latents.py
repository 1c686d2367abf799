"""Milliseconds of the entropy networks (h_s and four contexts).

    python benchmarks/latents.py MODEL_FOLDER [--threads 1,2] [--sizes 768x512,3000x2000] [--rounds 7]

Latents are random, about as large as a photograph's at quality 50, so that products are cut or not as they would be.
Each number of threads is measured in a process of its own, because BLAS reads its settings when it is loaded. Prints
the least and the median of the rounds, wall and processor time, and the multiply-adds per second that the least means.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np


def latents(config, height, width, seed=0):
    """(z_hat, y) of a picture: integer-valued float32 (N, h/4, w/4) and (M, h, w)."""
    rng = np.random.default_rng(seed)
    rows, columns = -(-height // 64), -(-width // 64)
    z_hat = np.round(1.5 * rng.normal(size=(config.N, rows, columns))).astype(np.float32)
    fall = np.exp(-np.arange(config.M) / (config.M / 5))[:, None, None]  # low frequencies first
    return z_hat, np.round(40 * fall * rng.laplace(size=(config.M, 4 * rows, 4 * columns))).astype(np.float32)


def measure(folder, threads, height, width, rounds):
    """Print a line."""
    from codec.engine import read_folder
    from codec.latents.networks import exact_networks, multiply_adds
    from codec.latents.quadtree import split, walk

    config, tensors = read_folder(folder)
    networks = exact_networks(config, tensors)
    z_hat, y = latents(config, height, width)
    parts, times = split(y), []
    for number in range(rounds + 1):
        wall, processor = time.perf_counter(), time.process_time()
        walk(networks, z_hat, 5000, lambda k, means, indexes: parts[k])
        if number:  # the first one warms up
            times.append((time.perf_counter() - wall, time.process_time() - processor))
    wall, processor = (np.array(times) * 1e3).T
    rate = multiply_adds(config) * 256 * y[0].size / wall.min() / 1e6
    print(
        f"{width}x{height}  {threads} threads  wall {wall.min():7.1f} (median {np.median(wall):7.1f}) ms  "
        f"processor {processor.min():7.1f} ms  {rate:5.1f} GMAC/s",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--sizes", default="768x512,3000x2000")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for threads in arguments.threads.split(","):
        if not arguments.child:
            environment = {**os.environ, "OPENBLAS_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
            command = [sys.executable, __file__, str(arguments.model), "--threads", threads, "--child"]
            command += ["--sizes", arguments.sizes, "--rounds", str(arguments.rounds)]
            subprocess.run(command, env=environment, check=True)
            continue
        for size in arguments.sizes.split(","):
            width, height = map(int, size.split("x"))
            measure(arguments.model, int(threads), height, width, arguments.rounds)


if __name__ == "__main__":
    main()
