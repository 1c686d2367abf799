"""What dependent quantisation saves, and what it takes: the same weights, with and without it.

    python benchmarks/dependent.py PICTURES... [--model MODEL] [--qualities 10,30,50,70,90] [--timed PICTURE]
        [--rounds 7]

Real files on both sides, PSNR of decoded pictures; BD-rate of the mean curve against plain rounding. With --timed the
seconds of one picture, in turns: the least and the median of the rounds.
"""

import argparse
import statistics
import time

import numpy as np
from tqdm import tqdm

from codec import Codec, bitstream
from codec.evaluation.bd_rate import bd_rate
from codec.image_io import read_picture
from codec.quality import hundredths
from codec.training.data import find_pictures

KINDS = {
    "plain rounding": {"dependent": False},
    "dependent": {"dependent": True},
}


def compressed(coder, pixels, quality, how):
    """The bytes of a file by the learned transform."""
    height, width = pixels.shape[:2]
    coded = coder.model.encode(pixels, hundredths(quality), plain=False, **how)
    return bitstream.pack(
        bitstream.Container(
            model_id=coder.model_id, quality=hundredths(quality), width=width, height=height,
            tiles=coded.tiles, dependent=coded.dependent,
        )
    )  # fmt: skip


def curves(coder, paths, qualities):
    """Print points and BD-rates."""
    points = {kind: [] for kind in KINDS}
    with tqdm(total=len(KINDS) * len(qualities) * len(paths), unit="file") as bar:
        for quality in qualities:
            figures = {kind: [] for kind in KINDS}
            for path in paths:
                pixels = read_picture(path).pixels
                for kind, how in KINDS.items():
                    data = compressed(coder, pixels, quality, how)
                    error = np.square(np.asarray(coder.decompress(data)).astype(float) - pixels).mean()
                    figures[kind].append((8 * len(data) / pixels[..., 0].size, 10 * np.log10(255**2 / error)))
                    bar.update()
            for kind, found in figures.items():
                points[kind].append(tuple(np.mean(found, 0)))
    for kind, found in points.items():
        print(f"{kind:15s}", "  ".join(f"{bpp:.4f} bpp {psnr:.3f} dB" for bpp, psnr in found))
    for kind in list(KINDS)[1:]:
        print(f"{kind}: BD-rate {bd_rate(points['plain rounding'], points[kind]).percent:+.2f} %")


def times(coder, path, quality, rounds):
    """Print seconds to encode and decode one picture."""
    pixels = read_picture(path).pixels
    encoding, decoding = ({kind: [] for kind in KINDS} for _ in range(2))
    for number in range(rounds + 1):
        for kind, how in KINDS.items():
            begun = time.perf_counter()
            data = compressed(coder, pixels, quality, how)
            encoded = time.perf_counter()
            coder.decompress(data)
            if number:  # the first one warms up
                encoding[kind].append(encoded - begun)
                decoding[kind].append(time.perf_counter() - encoded)
    print(f"{pixels.shape[1]} x {pixels.shape[0]} at quality {quality}: least (median) seconds")
    for kind in KINDS:
        parts = (f"{name} {min(t[kind]):.3f} ({statistics.median(t[kind]):.3f})" for name, t in
                 (("encode", encoding), ("decode", decoding)))  # fmt: skip
        print(f"{kind:15s}", ", ".join(parts))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", nargs="*")
    parser.add_argument("--model")
    parser.add_argument("--qualities", default="10,30,50,70,90")
    parser.add_argument("--timed", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    coder = Codec(arguments.model, threads=arguments.threads, fallback="never")
    qualities = [float(quality) for quality in arguments.qualities.split(",")]
    if arguments.pictures:
        curves(coder, find_pictures(arguments.pictures), qualities)
    for path in arguments.timed:
        times(coder, path, qualities[len(qualities) // 2], arguments.rounds)


if __name__ == "__main__":
    main()
