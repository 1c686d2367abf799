"""Pictures that are no photographs, drawn at random: what photographs do not hold, a codec trained on them forgets."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw


def draw(rng: np.random.Generator, side: int) -> np.ndarray:
    """uint8 (side, side, 3): one of KINDS in two colours; in a third of all cases a second one beside it."""
    picture = _coloured(rng, side)
    if rng.random() < 0.3:
        edge = rng.integers(side)
        picture[:, edge:] = _coloured(rng, side)[:, edge:]
    return picture


def _coloured(rng, side):
    dark, light = _colours(rng)
    mask = KINDS[rng.integers(len(KINDS))](rng, side)[..., None]
    return np.round(dark + (light - dark) * mask).astype(np.uint8)


def _colours(rng):
    """Two colours: black and white, one channel alone, two greys, or any."""
    kind = rng.integers(4)
    pair: Any
    if kind == 0:
        pair = [(0, 0, 0), (255, 255, 255)]
    elif kind == 1:
        pair = [255 * np.eye(3)[rng.integers(3)], np.full(3, 255 * rng.integers(2))]
    elif kind == 2:
        pair = np.repeat(rng.integers(0, 256, (2, 1)), 3, axis=1)
    else:
        pair = rng.integers(0, 256, (2, 3))
    return rng.permutation(np.asarray(pair, np.float64))


# Each kind is a mask: float (side, side) in [0, 1], from one colour to the other.


def flat(rng: np.random.Generator, side: int) -> np.ndarray:
    return np.full((side, side), rng.random())


def checkerboard(rng: np.random.Generator, side: int) -> np.ndarray:
    i, j = np.mgrid[:side, :side]
    cell = np.repeat(rng.choice((1, 1, 2, 3, 4, 8)), 2) if rng.random() < 0.5 else rng.integers(1, 9, 2)
    return ((i + rng.integers(16)) // cell[0] + (j + rng.integers(16)) // cell[1]) % 2.0


def stripes(rng: np.random.Generator, side: int) -> np.ndarray:
    i, j = np.mgrid[:side, :side]
    return (i * rng.integers(-2, 3) + j * rng.integers(1, 3)) // rng.integers(1, 6) % 2.0


def grating(rng: np.random.Generator, side: int) -> np.ndarray:
    """A sine wave, or a zone plate: rings that grow finer outwards."""
    i, j = np.mgrid[:side, :side] - side * rng.random(2)[:, None, None]
    fi, fj = rng.uniform(0, np.pi, 2)
    phase = fi * i + fj * j if rng.random() < 0.5 else (i * i + j * j) * rng.uniform(0.3, 1) * np.pi / side
    return 0.5 + 0.5 * np.sin(phase)


def noise(rng: np.random.Generator, side: int) -> np.ndarray:
    return np.clip(rng.random() + rng.normal(0, rng.uniform(0.01, 0.3), (side, side)), 0, 1)


def dither(rng: np.random.Generator, side: int) -> np.ndarray:
    """A ramp in black and white dots."""
    i, j = np.mgrid[:side, :side] / side
    slope = rng.uniform(-1, 1, 2)
    return (rng.random((side, side)) < 0.5 + slope[0] * (i - 0.5) + slope[1] * (j - 0.5)) * 1.0


def text(rng: np.random.Generator, side: int) -> np.ndarray:
    picture = Image.new("L", (side, side))
    pen = ImageDraw.Draw(picture)
    letters = "".join(map(chr, rng.integers(32, 127, 4000)))
    size = int(rng.integers(9, 24))
    for top in range(0, side, int(size * 1.2)):
        first = rng.integers(3900)
        pen.text((int(rng.integers(-8, 8)), top), letters[first : first + 80], fill=255, font_size=size)
    return np.asarray(picture) / 255.0


def line_art(rng: np.random.Generator, side: int) -> np.ndarray:
    picture = Image.new("L", (side, side))
    pen = ImageDraw.Draw(picture)
    for _ in range(rng.integers(4, 40)):
        ends = rng.integers(-side // 4, 5 * side // 4, (2, 2))
        width, shape = int(rng.integers(1, 4)), rng.integers(3)
        if shape == 0:
            pen.line(ends.flatten().tolist(), fill=255, width=width)
        else:
            box = [*ends.min(0).tolist(), *ends.max(0).tolist()]
            fill = int(rng.integers(256)) if rng.random() < 0.2 else None
            (pen.rectangle if shape == 1 else pen.ellipse)(box, outline=255, fill=fill, width=width)
    return np.asarray(picture) / 255.0


KINDS = (flat, checkerboard, checkerboard, stripes, grating, noise, dither, text, text, line_art)
