"""Self-contained HTML pages with decoded pictures in them: what ``codec report`` and ``codec compare`` share.

A page is one file: style, scripts, data and pictures are inside, and its Content-Security-Policy forbids it to
fetch anything. It needs a browser with WebP (any since 2020) and works from ``file://``.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, features

from . import rate_distortion as rd
from .metrics import METRICS, ms_ssim_db

if TYPE_CHECKING:
    from .rate_distortion import Coder


ASSETS = files(__package__) / "assets"
WEBP_MAX_SIDE = 16383

# What rows hold beside metrics: everything else that is a number is taken as one, so that a metric which the
# evaluation learns later appears here without being named.
NOT_METRICS = frozenset("codec picture pictures width height quality bytes bpp encode_s decode_s".split())
# Metric -> label and decimals; others are shown under their own names.
LABELS = {
    "psnr_db": ("PSNR, dB", 2),
    "ms_ssim": ("MS-SSIM", 4),
    "ms_ssim_db": ("MS-SSIM, dB", 2),
    "psnr_y_db": ("PSNR-Y, dB", 2),
    "ssimulacra2": ("SSIMULACRA2", 2),
}


def metrics_of(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The metrics that occur in rows, as a list of dicts ``key``, ``label``, ``digits``; in the rows' order.

    Args:
        rows: dicts with the fields of ``rate_distortion.Row``, and perhaps more.
    """
    keys: dict[str, None] = {}
    for row in rows:
        for key, value in row.items():
            if key not in NOT_METRICS and isinstance(value, (int, float)) and not isinstance(value, bool):
                keys[key] = None
    found = []
    for key in keys:
        label, digits = LABELS.get(key, (key.replace("_", " "), 3))
        found.append({"key": key, "label": label, "digits": digits})
    return found


def with_decibels(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row or mean as a dict, with ``ms_ssim_db`` after ``ms_ssim`` where it is missing: linear MS-SSIM
    crowds every codec of today into its last few hundredths."""
    found = {}
    for key, value in row.items():
        found[key] = value
        if key == "ms_ssim" and "ms_ssim_db" not in row:
            found["ms_ssim_db"] = ms_ssim_db(value)
    return found


class Recorder:
    """A coder for ``rate_distortion.measure`` that keeps the bytes it made and the pixels it gave back."""

    def __init__(self, coder: Coder) -> None:
        self.coder = coder
        self.data: bytes | None = None  # of the latest picture
        self.pixels: np.ndarray | None = None  # uint8 (H, W, 3)

    def compress(self, image: np.ndarray, quality: float) -> bytes:
        data = self.data = self.coder.compress(image, quality)
        return data

    def decompress(self, data: bytes) -> Image.Image:
        image = self.coder.decompress(data).convert("RGB")
        self.pixels = np.asarray(image)
        return image


def measure(
    title: str, coder: Coder, name: str, pixels: np.ndarray, quality: Any
) -> tuple[dict[str, Any], np.ndarray, bytes]:
    """One coded version of a picture, measured as ``codec evaluate`` does.

    Args:
        coder: with ``compress(pixels, quality)`` and ``decompress(data)``.
        pixels: uint8 (H, W, 3), the original.
        quality: a float, or whatever the coder takes.

    Returns:
        (dict, its uint8 (H, W, 3) pixels, the bytes of its file). The dict has ``title``, ``quality``, ``bytes``,
        ``bpp`` and the metrics.
    """
    recorder = Recorder(coder)
    row = asdict(rd.measure(rd.Entrant(title, recorder, (quality,)), name, pixels, quality, tuple(METRICS)))
    assert recorder.pixels is not None and recorder.data is not None
    return {"title": title, **with_decibels(row)}, recorder.pixels, recorder.data


def data_uri(pixels: np.ndarray) -> str:
    """A picture without loss as a ``data:`` URI."""
    data, kind = lossless(pixels)
    return _uri(kind, data)


def lossless(pixels: np.ndarray) -> tuple[bytes, str]:
    """A picture file without loss, (bytes, MIME type): WebP, a third smaller than PNG, where its size allows.

    Args:
        pixels: uint8 (H, W, 3).
    """
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    if max(image.size) <= WEBP_MAX_SIDE and features.check("webp"):
        # method 2: 5 % larger than the slowest, in a tenth of the time.
        image.save(buffer, "WEBP", lossless=True, method=2, quality=60)
        return buffer.getvalue(), "image/webp"
    image.save(buffer, "PNG")
    return buffer.getvalue(), "image/png"


def file_uri(data: bytes) -> str | None:
    """A file as it is as a ``data:`` URI, or None where it is of no format that every browser shows today."""
    if data.startswith(b"\xff\xd8\xff"):
        return _uri("image/jpeg", data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _uri("image/webp", data)
    if data[4:12] == b"ftypavif":
        return _uri("image/avif", data)
    return None


def _uri(kind, data):
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def page(
    title: str, body: str, data: Any, scripts: Iterable[str], libraries: Iterable[str] = (), connect: str = "'none'"
) -> str:
    """The text of a page.

    Args:
        body: name of the asset with its contents, without ``.html``.
        data: what the scripts find in ``data``; anything JSON can hold.
        scripts: names of assets, without ``.js``.
        libraries: JavaScript that goes before them.
        connect: where the scripts may fetch from, in the words of a Content-Security-Policy.
    """
    # No "<" in the JSON: a picture may be called "</script>".
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    code = [*libraries, *(asset(f"{name}.js") for name in ("common", *scripts))]
    return Template(asset("page.html")).substitute(
        title=html.escape(title),
        connect=connect,
        style=asset("style.css"),
        body=Template(asset(f"{body}.html")).substitute(title=html.escape(title), viewer=asset("viewer.html")),
        data=text,
        scripts="\n".join(f"<script>\n{script}\n</script>" for script in code),
    )


def asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")
