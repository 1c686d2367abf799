"""Make the golden files of the shipped models anew: ``python tests/golden/make.py``. See README.md beside this.

Files of experimental models that are no longer installed are deleted. Those of released models stay as they are.
"""

import dataclasses
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent.parent
# Three letters in their rows of pixels: the same with every version of every library, unlike fonts.
LETTERS = (
    "01110100011000010000100000100010111",
    "11110100011000110001100011000111110",
    "11111100001111010000100001000011111",
)


def crop(name, left, top, width, height):
    """uint8 (height, width, 3) of a sample picture."""
    with Image.open(ROOT / "sample_images" / f"{name}.png") as picture:
        return np.asarray(picture.convert("RGB"))[top : top + height, left : left + width].copy()


def photo():
    return crop("guitar", 250, 180, 72, 56)


def grey():
    return crop("dog", 260, 190, 61, 47)[:, :, 1].copy()


def cut_out():
    """A disc of a photograph with a soft edge."""
    pixels = crop("spices", 300, 200, 70, 50)
    y, x = np.mgrid[-24.5:25, -34.5:35]
    alpha = np.clip(8 * (24 - np.hypot(y, x)), 0, 255).astype(np.uint8)
    return np.dstack([pixels, alpha])


def drawing():
    """Letters in black and red on white."""
    pixels = np.full((44, 80, 3), 255, np.uint8)
    for number in range(16):
        row, column = divmod(number, 8)
        letter = np.array([int(bit) for bit in LETTERS[number % 3]], bool).reshape(7, 5)
        letter = letter.repeat(1 + (row == 1), 0)
        part = pixels[4 + 20 * row : 4 + 20 * row + len(letter), 4 + 9 * column : 9 + 9 * column]
        part[letter] = (200, 0, 0) if row == 1 else (0, 0, 0)
    return pixels


def flat():
    return np.full((45, 33, 3), (18, 52, 86), np.uint8)


# Name -> how it is made, the qualities, whether by the plain transform, and whether by dependent quantisation (None: as
# the codec chooses).
PICTURES = {
    "photo": (photo, (10, 50, 90), False, None),
    "rounded": (photo, (50,), False, False),
    "grey": (grey, (50, 90), False, None),
    "cut-out": (cut_out, (50,), False, None),
    "drawing": (drawing, (50,), True, None),
    "flat": (flat, (50,), None, None),
}


def encoded(coder, picture, quality, plain, dependent):
    """The bytes of a file, by one transform or the other whatever suits the picture."""
    from codec import bitstream, image_io
    from codec.quality import hundredths

    container = bitstream.unpack(coder.compress(picture, quality))
    if plain is None:
        return bitstream.pack(container)
    coded = coder.model.encode(image_io.read_picture(picture).pixels, hundredths(quality), plain, dependent)
    return bitstream.pack(dataclasses.replace(container, **coded._asdict()))


def main():
    from codec import Codec, weights

    for folder in (path for path in FOLDER.iterdir() if path.is_dir() and path.name != "__pycache__"):
        if folder.name not in weights.list_models() and not weights.is_released(folder.name):
            shutil.rmtree(folder)
            print(f"deleted {folder.name}: not installed")
    for tune in weights.TUNES:
        make(Codec(tune=tune, fallback="never"))


def make(coder):
    """The files of one model."""
    from codec import weights

    folder = FOLDER / coder.model_id
    if folder.exists() and weights.is_released(coder.model_id):
        print(f"{coder.model_id} is released: its files stay as they are")
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, (picture, qualities, *how) in PICTURES.items():
        for quality in qualities:
            data = encoded(coder, picture(), quality, *how)
            path = folder / f"{name}-{quality}.bin"
            path.write_bytes(data)
            coder.decompress(data).save(path.with_suffix(".png"), optimize=True)
            print(f"{path.relative_to(ROOT)}: {len(data)} bytes, pixels {path.with_suffix('.png').stat().st_size}")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
