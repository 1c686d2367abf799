"""Seconds of g_a, h_a and g_s in the runtime engine and in the torch modules, on one and two threads, in one run.

    python benchmarks/engine.py [MODEL_FOLDER] [--sizes 768x512,3072x2048] [--rounds 9] [--threads 1,2]

All variants take turns, so that what else the machine does hits all alike; the table has the least and the median of
the rounds, and the least time of the processors, which a busy machine changes little. Pictures are smoothed noise. The runtime's figures include all work from 8-bit pixels to latents and back,
those of torch go from float to float in the layout that it likes best.
"""

import argparse
import statistics
import time
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from codec.engine import Engine
from codec.model import Model
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
    model = Model.from_folder(folder)
    threads = [int(n) for n in options.threads.split(",")]
    engines = {n: Engine.from_folder(folder, n) for n in threads}
    print("size        part  engine        threads  least ms  median ms  least CPU ms")
    for size in options.sizes.split(","):
        width, height = map(int, size.split("x"))
        for part, calls in variants(model, engines, picture(height, width)).items():
            for (engine, n), rounds in in_turns(calls, options.rounds).items():
                wall, busy = zip(*rounds, strict=True)
                least, median, cpu = 1e3 * min(wall), 1e3 * statistics.median(wall), 1e3 * min(busy)
                print(f"{size:11} {part:5} {engine:13} {n:7} {least:9.1f} {median:10.1f} {cpu:13.1f}", flush=True)


def picture(height, width):
    """uint8 (H, W, 3): noise, smoothed."""
    noise = torch.rand(1, 3, height + 8, width + 8, generator=torch.Generator().manual_seed(0))
    smooth = ((F.avg_pool2d(noise, 9, 1) - 0.5) * 4 + 0.5).clamp(0, 1)
    return (smooth[0] * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def variants(model, engines, pixels):
    """{part: {(engine, threads): call}}."""
    quality, transforms = torch.tensor([QUALITY / 100]), model.transforms
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float().div(255).contiguous(memory_format=torch.channels_last)
    y = next(iter(engines.values())).analyse(pixels.transpose(2, 0, 1), QUALITY)
    y_tensor = torch.from_numpy(y)[None].contiguous(memory_format=torch.channels_last)
    y_hat, y_hat_tensor, out = y.round(), y_tensor.round(), np.empty_like(pixels)
    runtime = {
        "g_a": lambda engine: list(engine.analyse_pieces(pixels, QUALITY)),
        "h_a": lambda engine: engine.side_information(y, QUALITY),
        "g_s": lambda engine: engine.synthesise_into(out, y_hat, QUALITY),
    }
    in_torch = {
        "g_a": lambda: transforms.analyse(x, quality),
        "h_a": lambda: transforms.side_information(y_tensor, quality),
        # In one piece up to 3 megapixels or so, in tiles beyond: Model's own way.
        "g_s": lambda: model.reconstruct(y_hat_tensor, QUALITY),
    }
    return {
        part: {
            **{("runtime", n): partial(call, engine) for n, engine in engines.items()},
            **{("torch", n): partial(_with_threads, n, in_torch[part]) for n in engines},
        }
        for part, call in runtime.items()
    }


def _with_threads(threads, call):
    torch.set_num_threads(threads)
    with torch.inference_mode():
        call()


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
