"""A crop of the original, of this codec, and of another one at no fewer bytes, side by side.

    python benchmarks/pair.py sample_images/osprey.png --quality 15 --box 400 120 320 320 --output docs/pair.png

The whole picture is compressed; the other codec, with the settings of ``codec evaluate``, gets the lowest quality whose
file is at least as large as ours.
"""

import argparse

import numpy as np
from PIL import Image

import codec
from codec.evaluation.anchors import ANCHORS
from codec.evaluation.metrics import psnr_db


def at_least(image, anchor, size):
    """The smallest file of an anchor that is not smaller than ``size`` bytes."""
    for quality in range(1, 96):
        data = anchor.compress(image, quality)
        if len(data) >= size:
            break
    return data


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture")
    parser.add_argument("--quality", type=float, default=15)
    parser.add_argument("--box", type=int, nargs=4, metavar=("LEFT", "TOP", "WIDTH", "HEIGHT"), required=True)
    parser.add_argument("--against", choices=("jpeg", "webp", "avif444"), default="jpeg")
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()
    image = Image.fromarray(np.asarray(Image.open(arguments.picture).convert("RGB")))  # without metadata
    ours = codec.compress(image, arguments.quality)
    anchor = ANCHORS[arguments.against]
    other = at_least(image, anchor, len(ours))
    left, top, width, height = arguments.box
    sheet = Image.new("RGB", (3 * width + 16, height), "white")
    shown = (
        ("original", None, image),
        ("ours", ours, codec.decompress(ours)),
        (anchor.title, other, anchor.decompress(other)),
    )
    for i, (name, data, picture) in enumerate(shown):
        sheet.paste(picture.convert("RGB").crop((left, top, left + width, top + height)), (i * (width + 8), 0))
        if data:
            db = psnr_db(np.asarray(image), np.asarray(picture.convert("RGB")))
            print(f"{name}: {len(data)} bytes, {8 * len(data) / (image.width * image.height):.3f} bpp, {db:.2f} dB")
    sheet.save(arguments.output, optimize=True)


if __name__ == "__main__":
    main()
