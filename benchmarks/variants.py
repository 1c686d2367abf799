"""Compare settings of training: validation loss after equal time, from the same start.

    python benchmarks/variants.py TRAIN_FOLDER VALID_FOLDER --minutes 5 --set crop=192 \
        --variant "batch of 8:" --variant "batch of 4: batch=4" --variant "twice the rate: lr=2e-3"

A variant is a name, a colon, and settings of ``codec train --set`` separated by semicolons, none for the settings that
all have. All variants train in one process in turns of a few seconds, so that a machine whose speed drifts is fair to
all. With --set resume=MODEL they start from its weights. Prints a Markdown table; with --decode also multiply-adds and
the time of g_s, for variants of the architecture.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from lightning.fabric import Fabric

from codec.macs import multiply_adds
from codec.training.config import TrainingConfig
from codec.training.data import validation_crops
from codec.training.loop import VALIDATION_LMBDAS, _Run

TURN = 15.0  # seconds


def decode_ms(model, precision):
    """Milliseconds of g_s for one 768 x 512 picture."""
    y_hat = torch.randn(1, model.config.M, 32, 48).contiguous(memory_format=torch.channels_last)
    quality = torch.tensor([50.0])
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        start = time.perf_counter()
        model.transforms.synthesise(y_hat, quality)
        return 1e3 * (time.perf_counter() - start)


def train_in_turns(runs):
    """Every run until it is over."""
    for run in runs.values():
        run._one_step()  # memory and kernels are set up outside the clock
    while any(run.done() < 1 for run in runs.values()):
        for run in runs.values():
            start = time.perf_counter()
            begun = run.seconds
            while run.seconds - begun < TURN and run.done() < 1:
                run._one_step()
                run.step += 1
                run.seconds = begun + time.perf_counter() - start
        print({name: run.step for name, run in runs.items()}, file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train")
    parser.add_argument("valid")
    parser.add_argument("--minutes", type=float, default=5.0, help="training time of each variant")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="settings of all variants")
    parser.add_argument("--variant", action="append", required=True, metavar="NAME: KEY=VALUE; ...")
    parser.add_argument("--decode", action="store_true", help="multiply-adds and decode times too")
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from cli.train import build_config

    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    fabric.launch()
    runs = {}
    for variant in arguments.variant:
        name, _, settings = variant.partition(":")
        own = [setting.strip() for setting in settings.split(";") if setting.strip()]
        common = ["warmup=50", "ema=0.98", "cache_gib=2", *arguments.set]  # short runs; --set overrides
        fixed = {"pictures": [arguments.train], "output": tempfile.mkdtemp(), "max_minutes": arguments.minutes}
        runs[name] = _Run(build_config(TrainingConfig, {}, [*common, *own], fixed), fabric)
    train_in_turns(runs)

    times = {(name, p): [] for name in runs for p in ("float32", "bf16")}
    for _ in range(9 if arguments.decode else 0):
        for (name, precision), seen in times.items():
            seen.append(decode_ms(runs[name].bare, precision))
    heads = ["variant", "steps", "loss", *(f"loss at {q}" for q in VALIDATION_LMBDAS)]
    if arguments.decode:
        heads += ["decoder kMAC/px", "parameters", "g_s ms float32", "g_s ms bf16"]
    print(f"| {' | '.join(heads)} |\n|---|{'---:|' * (len(heads) - 1)}")
    valid = validation_crops(arguments.valid)
    for name, run in runs.items():
        row = run._validate(valid)
        losses = [row["valid_loss"], *(row[f"valid_loss_{q}"] for q in VALIDATION_LMBDAS)]
        cells = [name, str(run.step), *(f"{loss:.4f}" for loss in losses)]
        if arguments.decode:
            macs = multiply_adds(run.bare.config)
            cells += [
                f"{macs['g_s'] + macs['entropy']:.1f}", f"{sum(p.numel() for p in run.bare.parameters()) / 1e6:.1f} M",
                f"{median(times[name, 'float32']):.0f}", f"{median(times[name, 'bf16']):.0f}",
            ]  # fmt: skip
        print(f"| {' | '.join(cells)} |")
        run.crops.close()


if __name__ == "__main__":
    main()
