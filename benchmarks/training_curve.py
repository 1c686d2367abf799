"""Validation loss over training time, from the logs of runs that followed each other.

    python benchmarks/training_curve.py runs/first/log.csv runs/second/log.csv --output docs/training_curve.png

Each log counts minutes from its own beginning; the curves stand one after the other.
"""

import argparse
import csv

from matplotlib.figure import Figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logs", nargs="+")
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    start = 0.0
    for path in arguments.logs:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        points = [(start + float(r["minutes"]), float(r["value"])) for r in rows if r["name"] == "valid_loss"]
        axes.plot(*zip(*points), marker="o", markersize=3)
        axes.axvline(start, color="0.85", linewidth=1, zorder=0)
        start += max(float(r["minutes"]) for r in rows)
    axes.set_xlabel("minutes of training")
    axes.set_ylabel("validation loss")
    axes.grid(alpha=0.3)
    figure.savefig(arguments.output, dpi=150)


if __name__ == "__main__":
    main()
