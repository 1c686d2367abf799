"""How far the comparison with AVIF depends on what AVIF's encoder is told to aim at.

    python benchmarks/avif_tunes.py PICTURES... [--model MODEL] [--tunes psnr,ssim,iq]

BD-rate of this codec against AVIF 4:4:4 (libaom by Pillow, speed 4), for each of libaom's tunes, by SSIMULACRA2 and by
PSNR; curves of the pictures' mean rate and quality. Elsewhere AVIF is told ``tune=psnr``.
"""

import argparse
import io

import numpy as np
from PIL import Image
from tqdm import tqdm

from codec import Codec
from codec.errors import CodecError
from codec.evaluation.bd_rate import bd_rate
from codec.evaluation.ssimulacra2 import ssimulacra2
from codec.image_io import read_picture
from codec.training.data import find_pictures

OURS, AVIF = (5, 20, 35, 50, 65, 80, 95), (15, 30, 45, 60, 75, 88)


def avif(pixels, quality, tune):
    """``(bytes, decoded)`` of AVIF."""
    file = io.BytesIO()
    options = {"codec": "aom", "speed": 4, "subsampling": "4:4:4", "advanced": {"tune": tune, "row-mt": "0"}}
    Image.fromarray(pixels).save(file, "AVIF", quality=quality, **options)
    with Image.open(file) as image:
        return len(file.getvalue()), np.asarray(image.convert("RGB"))


def curve(pictures, code, qualities, bar):
    """``[(bpp, SSIMULACRA2, PSNR)]``, means over the pictures; ``code(pixels, quality)`` gives bytes and pixels."""
    points = []
    for quality in qualities:
        found = []
        for pixels in pictures:
            size, decoded = code(pixels, quality)
            error = np.square(decoded.astype(float) - pixels).mean()
            found.append((8 * size / pixels[..., 0].size, ssimulacra2(pixels, decoded), 10 * np.log10(255**2 / error)))
            bar.update()
        points.append(tuple(np.mean(found, 0)))
    return points


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--model")
    parser.add_argument("--tunes", default="psnr,ssim,iq")
    arguments = parser.parse_args()
    coder = Codec(arguments.model, fallback="never")
    pictures = [read_picture(path).pixels for path in find_pictures(arguments.pictures)]
    tunes = arguments.tunes.split(",")

    def ours(pixels, quality):
        data = coder.compress(pixels, quality)
        return len(data), coder.decompress(data, as_array=True)

    with tqdm(total=len(pictures) * (len(OURS) + len(tunes) * len(AVIF)), unit="file") as bar:
        own = curve(pictures, ours, OURS, bar)
        found = {tune: curve(pictures, lambda p, q, tune=tune: avif(p, q, tune), AVIF, bar) for tune in tunes}
    for tune, points in found.items():
        by = [
            bd_rate([(bpp, values[i]) for bpp, *values in points], [(bpp, values[i]) for bpp, *values in own]).percent
            for i in (0, 1)
        ]
        print(f"AVIF, tune={tune}: {by[0]:+.1f} % by SSIMULACRA2, {by[1]:+.1f} % by PSNR")


if __name__ == "__main__":
    try:
        main()
    except CodecError as error:
        raise SystemExit(f"avif_tunes: {error}") from None
