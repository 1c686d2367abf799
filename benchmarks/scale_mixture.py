"""What the Gaussian scale mixture is worth: bits of the same symbols under the mixture and under one Gaussian.

    python benchmarks/scale_mixture.py VALID_FOLDER [MODEL]

The Gaussian is given the best of a few factors on the predicted scales, at each quality, found on these very pictures.
"""

import copy
import math
import sys
from pathlib import Path

import torch

from codec.image_io import read_picture
from codec.nn import pixels
from codec.training.data import find_pictures
from codec.training.loop import read_weights
from codec.training.model import TrainableModel
from codec.weights import find_model

QUALITIES = (5, 20, 40, 60, 80)
FACTORS = (0.9, 1.0, 1.1, 1.2)


def single(mixture, factor):
    """A mixture of which one component is left, with this factor on the scale."""
    gaussian = copy.deepcopy(mixture)
    with torch.no_grad():
        gaussian.log_weight.fill_(-1e4)[:, 0] = 0.0
        gaussian.log_ratio.fill_(math.log(factor))
    return gaussian


def main():
    config, tensors = read_weights(Path(find_model(sys.argv[2] if len(sys.argv) > 2 else None)))
    graph = TrainableModel(config).eval()
    graph.import_tensors(tensors)
    priors = {"mixture": graph.y_prior, **{factor: single(graph.y_prior, factor) for factor in FACTORS}}
    totals = {(quality, name): 0.0 for quality in QUALITIES for name in priors}
    paths = find_pictures(sys.argv[1:2])
    for path in paths:
        x = pixels.to_tensor(read_picture(path).pixels)
        for quality, name in totals:
            graph.y_prior = priors[name]
            with torch.inference_mode():
                totals[quality, name] += graph(x, torch.tensor([float(quality)]))["y_bpp"].item() / len(paths)
    print("| quality | one Gaussian, bpp | factor | mixture, bpp | difference |\n|---:|---:|---:|---:|---:|")
    for quality in QUALITIES:
        factor = min(FACTORS, key=lambda f: totals[quality, f])
        one, mixture = totals[quality, factor], totals[quality, "mixture"]
        print(f"| {quality} | {one:.4f} | {factor} | {mixture:.4f} | {100 * (mixture / one - 1):+.2f} % |")


if __name__ == "__main__":
    main()
