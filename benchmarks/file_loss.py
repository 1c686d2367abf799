"""Rate-distortion loss of real files, header and all: which of several models is the better one.

    python benchmarks/file_loss.py VALID_FOLDER MODEL [MODEL ...]

Codes the centre crops of a folder of pictures with each model (id or folder) at fixed lambdas, whatever its quality
scale, and prints (bpp + lambda mse) (lambda / 0.014)^-0.5: bits of whole files, mse of decoded 8-bit pictures.
"""

import sys

import numpy as np

from codec.api import Codec
from codec.training.data import validation_crops
from codec.training.loop import LMBDA_MIDDLE, VALIDATION_LMBDAS

LMBDAS = VALIDATION_LMBDAS[:4]  # the last is beyond the scale of the first models


def file_loss(coder, pixels, lmbda):
    """Loss of one picture, uint8 (H, W, 3)."""
    data = coder.compress(pixels, coder.model.config.quality(lmbda))
    difference = np.asarray(coder.decompress(data), np.float64) - pixels
    bpp = 8 * len(data) / (pixels.shape[0] * pixels.shape[1])
    return (bpp + lmbda * np.square(difference).mean()) * (lmbda / LMBDA_MIDDLE) ** -0.5


def main():
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    folder, models = sys.argv[1], sys.argv[2:]
    pictures = [crop.permute(1, 2, 0).contiguous().numpy() for crop in validation_crops(folder)]
    print(f"| model | mean | {' | '.join(f'lambda {lmbda:.4g}' for lmbda in LMBDAS)} |")
    print(f"|---|{'---:|' * (len(LMBDAS) + 1)}")
    for model in models:
        coder = Codec(model, fallback="never")
        losses = [np.mean([file_loss(coder, pixels, lmbda) for pixels in pictures]) for lmbda in LMBDAS]
        print(f"| {model} | {np.mean(losses):.4f} | {' | '.join(f'{loss:.4f}' for loss in losses)} |", flush=True)


if __name__ == "__main__":
    main()
