"""Validation loss over training time, from the table of a model's card.

    python benchmarks/training_curve.py models/ID/CARD.md --output docs/experiments/training_curve.png

The table's rows begin with run, step, minutes and loss. Each run counts minutes from its own beginning; the curves
stand one after the other.
"""

import argparse
import re
from pathlib import Path

from matplotlib.figure import Figure

ROW = re.compile(r"^\| (\d+) \| (\d+) \| ([\d.]+) \| ([\d.]+) \|", re.MULTILINE)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("card")
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()
    runs = {}
    for run, _, minutes, loss in ROW.findall(Path(arguments.card).read_text(encoding="utf-8")):
        runs.setdefault(int(run), []).append((float(minutes), float(loss)))
    if not runs:
        parser.error(f"{arguments.card}: no table of validation losses")
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    start = 0.0
    for run, points in runs.items():
        axes.plot([start + minutes for minutes, _ in points], [loss for _, loss in points], marker="o", markersize=3)
        axes.axvline(start, color="0.85", linewidth=1, zorder=0)
        axes.text(start, 0.98, f" {run}", color="0.5", va="top", transform=axes.get_xaxis_transform())
        start += points[-1][0]
    axes.set_xlabel("minutes of training")
    axes.set_ylabel("validation loss")
    axes.grid(alpha=0.3)
    figure.savefig(arguments.output, dpi=150)


if __name__ == "__main__":
    main()
