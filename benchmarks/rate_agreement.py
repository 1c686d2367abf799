"""Rate as the training graph estimates it against the bytes that are written, on real pictures.

    python benchmarks/rate_agreement.py VALID_FOLDER [MODEL]

The exported model is put back into the training graph (fake-quantised networks, likelihoods); the same picture is
compressed by the integer networks and the rANS coder. Prints both in bits per pixel, without the file's header.
"""

import sys
from pathlib import Path

import torch

from codec.image_io import read_picture
from codec.model import Model
from codec.nn import pixels
from codec.quality import QUALITY_UNIT
from codec.training.data import find_pictures
from codec.training.loop import read_weights
from codec.training.model import TrainableModel
from codec.weights import find_model

QUALITIES = (0, 25, 50, 75, 100)


def main():
    folder = find_model(sys.argv[2] if len(sys.argv) > 2 else None)
    config, tensors = read_weights(Path(folder))
    graph = TrainableModel(config).eval()
    graph.import_tensors(tensors)
    model = Model.from_folder(Path(folder))
    totals = {quality: [0.0, 0.0] for quality in QUALITIES}
    paths = find_pictures(sys.argv[1:2])
    for path in paths:
        picture = read_picture(path)
        x = pixels.to_tensor(picture.pixels)
        for quality, total in totals.items():
            with torch.inference_mode():
                figures = graph(x, torch.tensor([float(quality)]))
            total[0] += (figures["y_bpp"] + figures["z_bpp"]).item()
            coded = model.encode(picture.pixels, QUALITY_UNIT * quality, plain=False)
            total[1] += coded.bits / (x.shape[2] * x.shape[3])
    print("| quality | estimated bpp | written bpp | difference |\n|---:|---:|---:|---:|")
    for quality, (estimated, written) in totals.items():
        n = len(paths)
        print(f"| {quality} | {estimated / n:.4f} | {written / n:.4f} | {100 * (written / estimated - 1):+.2f} % |")


if __name__ == "__main__":
    main()
