"""Compare candidate architectures: validation loss after equal training time, and decode time.

    python benchmarks/architecture.py TRAIN_FOLDER VALID_FOLDER --minutes 5

All candidates train in one process in turns of a few seconds, so that a machine whose speed drifts is fair to all.
Each has about the same number of multiply-adds per pixel in the decoder. Prints a Markdown table.
"""

import argparse
import json
import sys
import tempfile
import time
from statistics import median

import torch
from lightning.fabric import Fabric

from codec.training.config import TrainingConfig
from codec.training.data import validation_crops
from codec.training.loop import _Run
from codec.macs import multiply_adds

CANDIDATES = {
    "gated, 192 wide": {"block": "gated", "C8": 192, "analysis_depth8": 8, "synthesis_depth8": 8,
                        "analysis_depth16": 2, "synthesis_depth16": 2},
    "gated, 256 wide": {"block": "gated", "C8": 256, "analysis_depth8": 5, "synthesis_depth8": 5,
                        "analysis_depth16": 1, "synthesis_depth16": 1},
    "bottleneck, 256 wide": {"block": "bottleneck", "C8": 256, "analysis_depth8": 12, "synthesis_depth8": 12,
                             "analysis_depth16": 3, "synthesis_depth16": 3},
    "inverted, 256 wide": {"block": "inverted", "C8": 256, "analysis_depth8": 9, "synthesis_depth8": 9,
                           "analysis_depth16": 3, "synthesis_depth16": 3},
}  # fmt: skip
TURN = 20.0  # seconds


def decode_ms(model, precision):
    """Milliseconds of g_s for one 768 x 512 picture."""
    y_hat = torch.randn(1, model.config.M, 32, 48).contiguous(memory_format=torch.channels_last)
    quality = torch.tensor([50.0])
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        start = time.perf_counter()
        model.transforms.synthesise(y_hat, quality)
        return 1e3 * (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train")
    parser.add_argument("valid")
    parser.add_argument("--minutes", type=float, default=5.0, help="training time of each candidate")
    parser.add_argument("--crop", type=int, default=192)
    parser.add_argument("--lr", type=float, default=1e-3)
    arguments = parser.parse_args()

    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    fabric.launch()
    valid = validation_crops(arguments.valid)
    runs = {}
    for name, architecture in CANDIDATES.items():
        config = TrainingConfig(
            pictures=[arguments.train],
            output=tempfile.mkdtemp(),
            architecture=json.dumps(architecture),
            max_minutes=arguments.minutes,
            crop=arguments.crop,
            lr=arguments.lr,
            warmup=50,
            ema=0.98,
            cache_gib=2.0,
        )
        runs[name] = _Run(config, fabric)
        runs[name]._one_step()  # memory and kernels are set up outside the clock
    while any(run.done() < 1 for run in runs.values()):
        for run in runs.values():
            turn = 0.0
            while turn < TURN and run.done() < 1:
                start = time.perf_counter()
                loss = run._one_step()["loss"]
                run.step += 1
                turn += time.perf_counter() - start
                run.seconds += time.perf_counter() - start
        print({name: run.step for name, run in runs.items()}, f"last loss {loss:.3f}", file=sys.stderr)
    times = {(name, p): [] for name in runs for p in ("float32", "bf16")}
    for _ in range(9):
        for (name, precision), seen in times.items():
            seen.append(decode_ms(runs[name].bare, precision))
    print("| candidate | decoder kMAC/px | parameters | steps | loss | " +
          " | ".join(f"loss at {q}" for q in (0, 50, 100)) + " | g_s ms float32 | g_s ms bf16 |")
    print("|---|" + "---:|" * 9)
    for name, run in runs.items():
        row = run._validate(valid)
        macs = multiply_adds(run.bare.config)
        print(
            f"| {name} | {macs['g_s'] + macs['entropy']:.1f} | {sum(p.numel() for p in run.bare.parameters()) / 1e6:.1f} M "
            f"| {run.step} | {row['valid_loss']:.4f} | "
            + " | ".join(f"{row[f'valid_loss_{q}']:.4f}" for q in (0, 50, 100))
            + f" | {median(times[name, 'float32']):.0f} | {median(times[name, 'bf16']):.0f} |"
        )
        run.crops.close()


if __name__ == "__main__":
    main()
