"""Pages as a scanner sees them, drawn at random: the pictures of docs/guide/your-own-model.md.

    python benchmarks/scans.py scans [--pages 160,12,8,8] [--size 640x896] [--seed 0]

writes ``scans/train``, ``scans/valid``, ``scans/test`` and ``scans/other``, PNG, 150 dots per inch. The first three, to
train on, to watch the training with and to measure with, are letters, books, tables and forms in DejaVu Sans, Serif and
Mono, black or blue on white. Pages of ``other`` share nothing with them but the alphabet: other layouts (invoice,
newspaper, minutes, slide), typefaces (STIX and Pillow's own), papers, inks and syllables. All are turned a little,
softened by the lens and covered by the noise of a sensor. Matplotlib's fonts are used (extra "eval" or "train").
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from tqdm import tqdm

USUAL_FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSansMono",
)
OTHER_FONTS = ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "")  # "": Pillow's own
USUAL_SYLLABLES = "the re in on at en er ing ti es or te of ed is it al ar st to nt ha ve le co me se ou de hi"
OTHER_SYLLABLES = "gra vo ki lum bea pfu zan schi dro qua ney wix jo pel tug sma yr fli cob hav"
# (paper, how far each channel may be darker), (inks)
USUAL_COLOURS = ((252, 251, 248), 8, ((25, 25, 28), (40, 40, 44), (25, 40, 110)))
OTHER_COLOURS = ((243, 234, 214), 14, ((48, 36, 30), (15, 60, 45), (130, 25, 30)))


class Page:
    """A sheet, and what is at hand to fill it."""

    def __init__(self, rng, size, other):
        self.rng, self.width, self.height = rng, *size
        self._fonts = OTHER_FONTS if other else USUAL_FONTS
        self._syllables = (OTHER_SYLLABLES if other else USUAL_SYLLABLES).split()
        paper, spread, inks = OTHER_COLOURS if other else USUAL_COLOURS
        self.paper = tuple(int(c - rng.integers(spread + 1)) for c in paper)
        self.ink = inks[rng.integers(len(inks))]
        self.other_ink = inks[rng.integers(len(inks))]
        self.image = Image.new("RGB", size, self.paper)
        self.pen = ImageDraw.Draw(self.image)
        self.margin = int(rng.integers(36, 72))

    def font(self, size, name=None):
        name = self._fonts[self.rng.integers(len(self._fonts))] if name is None else name
        if not name:
            return ImageFont.load_default(size)
        import matplotlib

        return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf")), size)

    def word(self):
        if self.rng.random() < 0.06:
            return f"{self.rng.integers(1, 5000):,}"
        word = "".join(self.rng.choice(self._syllables, self.rng.integers(1, 5)))
        return (word.capitalize() if self.rng.random() < 0.12 else word) + self.rng.choice(
            ["", "", "", "", "", ",", "."]
        )

    def words(self, number):
        return " ".join(self.word() for _ in range(number))

    def paragraph(self, left, top, right, bottom, font, indent=0):
        """Text from ``top`` on, no further than ``bottom``; returns where it ends."""
        height = int(1.3 * font.size)
        line, lines = "", int(self.rng.integers(3, 12))
        while lines and top + height < bottom:
            word = self.word()
            if line and left + indent + font.getlength(f"{line} {word}") > right:
                self.pen.text((left + indent, top), line, self.ink, font)
                line, top, lines, indent = "", top + height, lines - 1, 0
            line = f"{line} {word}".strip()
        return top

    def text(self, left, top, right, bottom, font, indent=0):
        """Paragraphs down to ``bottom``."""
        while top + 4 * font.size < bottom:
            top = self.paragraph(left, top, right, bottom, font, indent) + int(0.6 * font.size)

    def money(self):
        return f"{self.rng.integers(1, 9000)}.{self.rng.integers(100):02d}"


# Layouts of usual pages.


def letter(page):
    font, margin = page.font(int(page.rng.integers(16, 24))), page.margin
    for row in range(4):
        page.pen.text((margin, margin + row * 1.3 * font.size), page.words(2), page.ink, font)
    page.pen.text((page.width - margin - 150, margin + 5 * font.size), page.money(), page.ink, font)
    page.text(margin, margin + 9 * font.size, page.width - margin, page.height - margin, font)


def book(page):
    font, margin = page.font(int(page.rng.integers(15, 22))), page.margin
    if page.rng.random() < 0.5:
        page.pen.text((margin, margin), page.words(3), page.ink, page.font(34))
    columns = int(page.rng.integers(1, 3))
    width = (page.width - 2 * margin) // columns
    for column in range(columns):
        left = margin + column * width
        page.text(left, margin + 60, left + width - 16, page.height - margin, font, indent=20)
    page.pen.text((page.width // 2, page.height - margin + 6), str(page.rng.integers(400)), page.ink, font)


def table(page):
    font, margin = page.font(int(page.rng.integers(14, 20))), page.margin
    columns, height = int(page.rng.integers(3, 6)), int(page.rng.integers(26, 38))
    width = (page.width - 2 * margin) / columns
    for row, top in enumerate(range(margin, page.height - margin - height, height)):
        if row % 2 and page.rng.random() < 0.6:
            shade = tuple(int(0.93 * c) for c in page.paper)
            page.pen.rectangle((margin, top, page.width - margin, top + height), shade)
        page.pen.line((margin, top, page.width - margin, top), page.ink, 1)
        for column in range(columns):
            said = page.words(1) if column == 0 else page.money()
            page.pen.text((margin + column * width + 6, top + 4), said[: int(width / font.size * 1.6)], page.ink, font)
    for column in range(columns + 1):
        page.pen.line((margin + column * width, margin, margin + column * width, top), page.ink, 1)


def form(page):
    font, margin = page.font(int(page.rng.integers(14, 20))), page.margin
    top = margin
    while top < page.height - margin - 60:
        page.pen.text((margin, top), page.words(2)[:30], page.ink, font)
        page.pen.rectangle((margin + 240, top - 4, page.width - margin, top + 26), outline=page.ink)
        if page.rng.random() < 0.7:
            page.pen.text((margin + 250, top), page.words(2)[:24], page.other_ink, page.font(18))
        top += int(page.rng.integers(36, 60))


# Layouts of the other pages.


def invoice(page):
    font, bold, margin = page.font(18), page.font(30), page.margin
    page.pen.rectangle((0, 0, page.width, margin), page.other_ink)
    page.pen.text((margin, margin + 16), page.words(2), page.ink, bold)
    for row in range(int(page.rng.integers(8, 16))):
        top = margin + 120 + 34 * row
        page.pen.text((margin, top), page.words(3)[:34], page.ink, font)
        page.pen.text((page.width - margin, top), page.money(), page.ink, font, anchor="ra")
    page.pen.line((page.width - margin - 140, top + 30, page.width - margin, top + 30), page.ink, 3)
    page.pen.text((page.width - margin, top + 40), page.money(), page.ink, bold, anchor="ra")
    page.text(margin, top + 100, page.width - margin, page.height - margin, page.font(14))


def newspaper(page):
    font, margin = page.font(int(page.rng.integers(14, 17))), page.margin // 2
    page.pen.text((page.width // 2, margin), page.words(2), page.ink, page.font(44), anchor="ma")
    page.pen.line((margin, margin + 64, page.width - margin, margin + 64), page.ink, 2)
    width = (page.width - 2 * margin) // 3
    for column in range(3):
        left, top = margin + column * width, margin + 80
        page.pen.multiline_text(
            (left, top), "\n".join((page.words(2)[:18], page.words(2)[:18])), page.ink, page.font(22)
        )
        page.text(left, top + 70, left + width - 14, page.height - margin, font)


def minutes(page):
    font, margin = page.font(int(page.rng.integers(17, 23))), page.margin
    page.pen.text((margin, margin), page.words(4), page.ink, page.font(28))
    top = margin + 60
    while top < page.height - margin - 60:
        page.pen.ellipse((margin, top + 8, margin + 8, top + 16), page.other_ink)
        top = page.paragraph(margin + 26, top, page.width - margin, page.height - margin, font) + 14


def slide(page):
    margin = page.margin
    page.pen.text((margin, margin), page.words(2), page.other_ink, page.font(46))
    base = page.height * 2 // 3
    for bar in range(8):
        left = margin + bar * (page.width - 2 * margin) // 8
        page.pen.rectangle((left, base - page.rng.integers(20, 340), left + 40, base), page.other_ink, page.ink)
        page.pen.text((left + 20, base + 8), str(page.rng.integers(100)), page.ink, page.font(16), anchor="ma")
    page.pen.line((margin, base, page.width - margin, base), page.ink, 2)
    page.text(margin, base + 50, page.width - margin, page.height - margin, page.font(24))


PARTS = ("train", "valid", "test", "other")
USUAL, OTHER = (letter, book, table, form), (invoice, newspaper, minutes, slide)


def scanned(image, paper, rng):
    """uint8 (H, W, 3): a drawn page as it comes from a scanner."""
    image = image.rotate(rng.uniform(-1.2, 1.2), Image.Resampling.BICUBIC, fillcolor=paper)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 0.9)))
    height, width = image.height, image.width
    light = 1 - rng.uniform(0, 0.06) * np.linspace(0, 1, width)[:, None] - rng.uniform(0, 0.04) * rng.random()
    fibres = Image.fromarray(rng.normal(0, 1, (height // 4, width // 4)).astype(np.float32))
    fibres = np.asarray(fibres.resize((width, height), Image.Resampling.BICUBIC))[..., None]
    noise = rng.normal(0, rng.uniform(0.6, 1.6), (height, width, 1)) + rng.normal(0, 0.5, (height, width, 3))
    pixels = np.asarray(image, np.float32) * light + rng.uniform(0.3, 1.2) * fibres + noise
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


def page(seed, number, size, other=False):
    """Page ``number`` of a set: uint8 (H, W, 3), the same every time."""
    rng = np.random.default_rng([seed, number, other])
    layouts = OTHER if other else USUAL
    sheet = Page(rng, size, other)
    layouts[number % len(layouts)](sheet)
    return scanned(sheet.image, sheet.paper, rng)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pages", default="160,12,8,8", metavar="N,N,N,N", help="of each part")
    parser.add_argument("--size", default="640x896", metavar="WIDTHxHEIGHT")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    size = tuple(map(int, arguments.size.split("x")))
    pages = list(map(int, arguments.pages.split(",")))
    if len(pages) != len(PARTS):
        parser.error(f"--pages needs {len(PARTS)} numbers")
    for index, part in enumerate(PARTS):
        folder = arguments.folder / part
        folder.mkdir(parents=True, exist_ok=True)
        first = 10**6 * index if part != "other" else 0
        for number in tqdm(range(pages[index]), part, unit="page"):
            pixels = page(arguments.seed, first + number, size, part == "other")
            Image.fromarray(pixels).save(folder / f"{number:03}.png")


if __name__ == "__main__":
    main()
