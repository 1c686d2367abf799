"""``codec info``: what a compressed file says about itself; the standard library is enough for it."""

from __future__ import annotations

import io
import json
from typing import IO, Any

import click

from codec import bitstream, weights
from codec.errors import ModelError

from .files import COMPRESSED_SUFFIXES, expand
from .pipeline import Done, run

# Part -> what a user calls it; tiles, and anything the format gains later, are shown under their own names.
LABELS = {
    "alpha": "alpha plane", "icc": "ICC profile", "packed_icc": "ICC profile", "exif": "EXIF", "packed_exif": "EXIF",
    "xmp": "XMP", "iptc": "IPTC", "stored": "picture file",
}  # fmt: skip


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="FILES...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, one line a file.")
@click.option("--recursive", is_flag=True, help="Look into the folders below a folder too.")
@click.option(
    "--verify", is_flag=True, help="Check the coded picture too: its symbols are decoded, and no pixels made."
)
def info(inputs, as_json, recursive, verify):
    """Show what compressed files hold.

    Size, quality, model, and the bytes of every part. FILES are compressed files, folders of them, or - for
    standard input. Checksums of header and metadata are verified; the picture is not decoded, save with --verify. Files
    in folders that are none of this codec are passed over.
    """
    show = _as_json if as_json else _as_text

    def describe_file(source):
        with source.open() as file:
            if verify:
                import codec

                data = bitstream.read_file(file)
                codec.verify(data)
                file = io.BytesIO(data)
            found = examine(file, str(source))
            return Done(show({**found, "verified": True} if verify else found))

    run(expand(inputs, COMPRESSED_SUFFIXES, recursive, bitstream.MAGIC), describe_file, verb="reading")


def examine(file: IO[bytes], name: str) -> dict[str, Any]:
    """Everything that ``codec info`` shows of one binary file, as plain values.

    Raises:
        BitstreamError: it is not whole and undamaged, as far as that shows without decoding.
    """
    header = bitstream.verify_file(file)
    stored = None
    if header.stored:
        file.seek(header.layout()[-1][1])
        stored = bitstream.stored_kind(file.read(16))
    size, pixels = header.file_size, header.width * header.height
    parts = header.layout()
    names = {part for part, _, _ in parts}
    return {
        "file": name,
        "bytes": size,
        "bpp": _bpp(size, pixels),
        "width": header.width,
        "height": header.height,
        "colour": "grey" if header.grey else "rgb",
        "alpha": header.alpha,
        "icc": bool(names & {"icc", "packed_icc"}),
        "exif": bool(names & {"exif", "packed_exif"}),
        "xmp": "xmp" in names,
        "iptc": "iptc" in names,
        "quality": header.quality / 100,
        "transform": "plain" if header.plain else "none" if header.flat or stored else "learned",
        "stored": stored,
        "tiles": len(header.tiles),
        "model": None if stored else header.model_id,
        **_model_state(header.model_id),
        "parts": [
            {
                "name": part,
                "offset": offset,
                "bytes": length,
                "percent": round(100 * length / size, 2),
                "bpp": _bpp(length, pixels),
            }
            for part, offset, length in parts
        ],
    }


def _model_state(model_id: str) -> dict[str, Any]:
    try:
        return {
            "model_installed": model_id in weights.list_models(),
            "model_released": weights.is_released(model_id),
            "model_tune": weights.tune_of(model_id),
        }
    except ModelError:  # no model at all
        return {"model_installed": False, "model_released": False, "model_tune": None}


def _bpp(length: int, pixels: int) -> float:
    return round(8 * length / pixels, 4)


def _as_json(found: dict[str, Any]) -> str:
    return json.dumps(found)


def _as_text(found: dict[str, Any]) -> str:
    kind = "grey" if found["colour"] == "grey" else "RGB"
    words = ("alpha", "alpha"), ("icc", "ICC profile"), ("exif", "EXIF"), ("xmp", "XMP"), ("iptc", "IPTC")
    extras = [word for key, word in words if found[key]]
    installed = "installed" if found["model_installed"] else "not installed; decompress needs --model"
    state = "released" if found["model_released"] else "experimental"
    state = f"tuned for {found['model_tune']}; {state}" if found["model_tune"] else state
    transform = {"plain": ", plain transform", "none": ", one colour a tile"}.get(found["transform"], "")
    coding = [
        f"  quality  {found['quality']:g}{transform}",
        f"  model    {found['model']} ({state}; {installed})",
    ]
    if found["stored"]:
        coding = [f"  kept     as {found['stored']}, without loss; needs no model"]
    rows = [(LABELS.get(part["name"], part["name"]), part) for part in found["parts"]]
    total = {"bytes": found["bytes"], "percent": 100.0, "bpp": found["bpp"]}
    return "\n".join(
        [
            found["file"],
            f"  picture  {found['width']} x {found['height']}, {', '.join([kind, *extras])}",
            *coding,
            "",
            f"  {'part':<22}{'bytes':>12}{'share':>9}{'bpp':>10}",
            *(_row(label, part) for label, part in [*rows, ("total", total)]),
            "",
        ]
    )


def _row(label: str, part: dict[str, Any]) -> str:
    return f"  {label:<22}{part['bytes']:>12,}{part['percent']:>8.2f}%{part['bpp']:>10.4f}"
