"""Milliseconds of g_a, h_a and g_s in ONNX Runtime and in PyTorch, on one and two threads, in one run.

    python benchmarks/engine.py [MODEL_FOLDER] [--sizes 768x512,3072x2048] [--rounds 9] [--threads 1,2]

All variants take turns, so that what else the machine does hits all alike; the table has the least and the median of
the rounds, and the least time of the processors, which a busy machine changes little. Pictures are smoothed noise; all
goes from 8-bit pixels to latents and back.
"""

import argparse
import statistics
import time
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from codec.engine import Engine, float_weights, read_folder
from codec.nn.engine import TorchEngine
from codec.weights import find_model

QUALITY = 5000


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--sizes", default="768x512,3072x2048")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    folder = find_model(options.model)
    config, tensors = read_folder(folder)
    in_torch = TorchEngine(config, float_weights(config, tensors))
    threads = [int(n) for n in options.threads.split(",")]
    engines = {n: Engine.from_folder(folder, n) for n in threads}
    print("size        part  engine        threads  least ms  median ms  least CPU ms")
    for size in options.sizes.split(","):
        width, height = map(int, size.split("x"))
        for part, calls in variants(in_torch, engines, picture(height, width)).items():
            for (engine, n), rounds in in_turns(calls, options.rounds).items():
                wall, busy = zip(*rounds, strict=True)
                least, median, cpu = 1e3 * min(wall), 1e3 * statistics.median(wall), 1e3 * min(busy)
                print(f"{size:11} {part:5} {engine:13} {n:7} {least:9.1f} {median:10.1f} {cpu:13.1f}", flush=True)


def picture(height, width):
    """uint8 (H, W, 3): noise, smoothed."""
    noise = torch.rand(1, 3, height + 8, width + 8, generator=torch.Generator().manual_seed(0))
    smooth = ((F.avg_pool2d(noise, 9, 1) - 0.5) * 4 + 0.5).clamp(0, 1)
    return (smooth[0] * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def variants(in_torch, engines, pixels):
    """{part: {(engine, threads): call}}."""
    y = next(iter(engines.values())).analyse(pixels.transpose(2, 0, 1), QUALITY)
    y_hat, out = y.round(), np.empty_like(pixels)
    calls = {
        "g_a": lambda engine: list(engine.analyse_pieces(pixels, QUALITY)),
        "h_a": lambda engine: engine.side_information(y, QUALITY),
        "g_s": lambda engine: engine.synthesise_into(out, y_hat, QUALITY),
    }
    return {
        part: {
            **{("onnx", n): partial(call, engine) for n, engine in engines.items()},
            **{("torch", n): partial(_with_threads, n, call, in_torch) for n in engines},
        }
        for part, call in calls.items()
    }


def _with_threads(threads, call, engine):
    torch.set_num_threads(threads)
    call(engine)


def in_turns(calls, rounds):
    """{name: (seconds, seconds of the processors) of each round}, after one round that does not count."""
    found = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            begun, busy = time.perf_counter(), time.process_time()
            call()
            if number:
                found[name].append((time.perf_counter() - begun, time.process_time() - busy))
    return found


if __name__ == "__main__":
    main()
