"""PNG files of decoded pictures: milliseconds and bytes, as we write them and as Pillow does unless told otherwise.

    python benchmarks/png.py PICTURES... [--qualities 20,70] [--model MODEL]

Seconds of the processor, least of five.
"""

import argparse
import io
import time

from codec import Codec
from codec.image_io import encode_picture


def least(work):
    """``(least seconds, result)`` of five runs."""
    found = []
    for _ in range(5):
        begun = time.process_time()
        result = work()
        found.append(time.process_time() - begun)
    return min(found), result


def pillows(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--qualities", default="20,70")
    parser.add_argument("--model")
    arguments = parser.parse_args()
    coder = Codec(arguments.model, fallback="never")
    for path in arguments.pictures:
        for quality in map(float, arguments.qualities.split(",")):
            image = coder.decompress(coder.compress(path, quality))
            image.info = {}
            before, theirs = least(lambda: pillows(image))  # noqa: B023
            after, (ours, _) = least(lambda: encode_picture(image, ".png"))  # noqa: B023
            times = f"{1e3 * after:.0f} of {1e3 * before:.0f} ms ({after / before:.2f})"
            size = f"{len(ours):,} of {len(theirs):,} bytes ({100 * (len(ours) / len(theirs) - 1):+.1f} %)"
            print(f"{path}, quality {quality:g}, {image.width}x{image.height}: {times}, {size}", flush=True)


if __name__ == "__main__":
    main()
