"""What becomes of pictures that are no photographs: flat fields, text, line art, dither, checkerboards, noise.

    python benchmarks/drawings.py [--model MODEL] [--qualities 0,30,60,100] [--save FOLDER]

Draws one picture of each kind, codes it as the codec would, with the learned transforms alone, and with plain DCT
coding (the same coefficients and steps, without an entropy coder), and prints bits per pixel and PSNR. These pictures
have seeds and parameters of their own; training draws others (codec/training/drawings.py).
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from codec.engine import PlainTransforms
from codec.model import Model
from codec.quality import hundredths
from codec.weights import find_model

SIDE = 128


def pictures(side=SIDE):
    """{name: uint8 (side, side, 3)}, the same every time."""
    i, j = np.mgrid[:side, :side]
    rng = np.random.default_rng(20)

    def grey(mask):
        """A mask in [0, 1] as a grey picture."""
        return np.repeat(np.round(255 * mask)[..., None], 3, axis=2)

    def pen(strokes):
        picture = Image.new("L", (side, side), 255)
        strokes(ImageDraw.Draw(picture))
        return np.asarray(picture) / 255

    def write(pen):
        for line in range(side // 12):
            pen.text((3, 12 * line), "Sphinx of black quartz 0123456789", fill=0)

    def sketch(pen):
        for k in range(12):
            pen.line((0, 11 * k, side, side - 17 * k), fill=0)
            pen.ellipse((9 * k, 5 * k, 9 * k + 20, 5 * k + 30), outline=0)

    text, zone = pen(write), 0.5 + 0.5 * np.sin((i**2 + j**2) * np.pi / side / 1.2)
    found = {
        "white": grey(np.ones((side, side))),
        "black": grey(np.zeros((side, side))),
        "grey": grey(np.full((side, side), 0.5)),
        "red": np.broadcast_to([255, 0, 0], (side, side, 3)),
        "blue": np.broadcast_to([0, 0, 255], (side, side, 3)),
        "checkerboard, 1 pixel": grey((i + j) % 2),
        "checkerboard, 2 pixels": grey((i // 2 + j // 2) % 2),
        "stripes, 1 pixel": grey(j % 2),
        "stripes, diagonal": grey((i + 2 * j) // 3 % 2),
        "moire": grey(zone),
        "dither": grey(rng.random((side, side)) < j / side),
        "grey noise": np.clip(grey(0.5 + 0.15 * rng.standard_normal((side, side))), 0, 255),
        "colour noise": np.clip(128 + 40 * rng.standard_normal((side, side, 3)), 0, 255),
        "text": grey(text),
        "red text": np.where(text[..., None] < 0.5, 0, [255, 0, 0]),
        "line art": grey(pen(sketch)),
        "green ramp": np.stack([0 * j, 255 * j / side, 0 * j], axis=2),
    }
    return {name: np.ascontiguousarray(np.round(p).astype(np.uint8)) for name, p in found.items()}


def psnr_db(pixels, decoded):
    """PSNR of 8-bit pictures; 99 for equal ones."""
    error = np.square(decoded.astype(np.float64) - pixels).mean()
    return 10 * np.log10(255**2 / error) if error else 99.0


def dct_psnr_db(pixels, config, quality):
    """PSNR of plain DCT coding: M coefficients, each rounded to whole steps of this quality (0 to 100)."""
    plain, decoded = PlainTransforms(config), np.empty_like(pixels)
    y = plain.analyse(pixels.transpose(2, 0, 1), hundredths(quality))
    plain.synthesise_into(decoded, np.floor(y + np.float32(0.5)), hundredths(quality))
    return psnr_db(pixels, decoded)


def cost(bpp, psnr_db, config, quality):
    """Rate and distortion of a picture, in bits per pixel: bpp + lambda * MSE."""
    return bpp + config.lmbda(quality) * 255**2 / 10 ** (psnr_db / 10)


def coded(pixels, model, quality, plain=None):
    """``(bpp, PSNR, how it was coded)``: learned, plain or flat; bits of the tiles, header excluded."""
    found = model.encode(pixels, hundredths(quality), plain)
    decoded = model.decode(found, *pixels.shape[:2], hundredths(quality))
    kind = "flat" if found.flat else "plain" if found.plain else "learned"
    return found.bits / pixels.shape[0] / pixels.shape[1], psnr_db(pixels, decoded), kind


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--qualities", default="0,30,60,100")
    parser.add_argument("--save", metavar="FOLDER", help="write the pictures as PNG")
    arguments = parser.parse_args()
    model = Model.from_folder(find_model(arguments.model))
    qualities = [float(q) for q in arguments.qualities.split(",")]
    heads = " | ".join(f"q {q:g}: codec; learned; DCT" for q in qualities)
    print(f"| picture | {heads} |\n|---|{'---|' * len(qualities)}")
    for name, pixels in pictures().items():
        if arguments.save:
            Path(arguments.save).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(Path(arguments.save) / f"{name.replace(' ', '_').replace(',', '')}.png")
        cells = []
        for quality in qualities:
            bpp, decibels, kind = coded(pixels, model, quality)
            cell = f"{bpp:.2f} bpp {decibels:.1f} dB {kind}"
            bpp, decibels, _ = coded(pixels, model, quality, plain=False)
            cells.append(
                f"{cell}; {bpp:.2f} bpp {decibels:.1f} dB; {dct_psnr_db(pixels, model.config, quality):.1f} dB"
            )
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
