"""Results of an evaluation that never took place, and a codec in the place of ours: JPEG."""

import io
import json
import math

from PIL import Image

from codec.evaluation import rate_distortion as rd

KODAK = [f"kodim{number:02d}.png" for number in range(1, 25)]
LADDER = {10: 0.2, 30: 0.6, 60: 1.2, 90: 2.4}  # quality -> bpp of the anchor


class Coder:
    """The methods of ``codec.Codec`` that a report uses."""

    model_id = "0badcafe"

    def __init__(self, model=None, device="cpu", threads=None, fallback="auto"):
        self.model = model

    def compress(self, image, quality):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=max(1, round(quality)), subsampling=0)
        return buffer.getvalue()

    def decompress(self, data):
        return Image.open(io.BytesIO(data))


def row(codec, picture, quality, factor=1.0):
    bpp = factor * LADDER[quality]
    psnr_db = 36 + 3 * math.log2(LADDER[quality])
    return rd.Row(
        codec=codec, picture=picture, width=100, height=80, quality=quality, bytes=round(1000 * bpp), bpp=bpp,
        psnr_db=psnr_db, ms_ssim=0.9 + quality / 1000, encode_s=0.2, decode_s=0.1,
    )  # fmt: skip


def results(folder, pictures=("a.png", "b.png")):
    """Path of a results file: our codec at 80 % of the rate of JPEG, at the same qualities."""
    rows = [row("codec", picture, quality, 0.8) for picture in pictures for quality in LADDER]
    rows += [row("jpeg", picture, quality) for picture in pictures for quality in LADDER]
    conditions = {
        "date": "2024-01-01T00:00:00Z", "cpu": "abacus", "threads": 2, "versions": {"codec": "0.1"},
        "codecs": {"codec": {"model": "0badcafe"}, "jpeg": {"title": "JPEG 4:2:0", "options": {"optimize": True}}},
    }  # fmt: skip
    path = folder / "results.json"
    rd.write_json(path, conditions, rd.summarise(rows, "codec", ["jpeg"]), rows)
    return path


def edit(path, change):
    """Let ``change`` alter the contents of a JSON file."""
    contents = json.loads(path.read_text(encoding="utf-8"))
    change(contents)
    path.write_text(json.dumps(contents), encoding="utf-8")
