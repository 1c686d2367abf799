"""Multiply-adds per pixel and parameters of every part of a model, as a Markdown table.

    python benchmarks/parts.py                 the default architecture
    python benchmarks/parts.py MODEL           an installed model's id, or a model folder
"""

import json
import sys

from codec.macs import multiply_adds, parameters
from codec.model import ModelConfig
from codec.weights import find_model

USED_BY = {"g_a": "encoder", "h_a": "encoder", "entropy": "both", "g_s": "decoder"}


def main():
    config = ModelConfig()
    if len(sys.argv) > 1:
        text = (find_model(sys.argv[1]) / "config.json").read_text(encoding="utf-8")
        config = ModelConfig.from_dict(json.loads(text)["architecture"])
    macs, counts = multiply_adds(config), parameters(config)
    print("| part | runs in | kMAC/px | parameters |\n|---|---|---:|---:|")
    for part, where in USED_BY.items():
        print(f"| {part} | {where} | {macs[part]:.2f} | {counts[part] / 1e6:.2f} M |")
    for name, other in (("encoder", "decoder"), ("decoder", "encoder")):
        parts = [part for part, where in USED_BY.items() if where != other]
        print(f"| {name} | | {sum(macs[p] for p in parts):.2f} | {sum(counts[p] for p in parts) / 1e6:.2f} M |")


if __name__ == "__main__":
    main()
