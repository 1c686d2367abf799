"""PNG and JPEG files as chunks and segments: what they say besides the pixels, and a file that Pillow just reads.

Pillow refuses a PNG for a long comment, or for a damaged one, warns about EXIF that it does not need, and refuses a
JPEG without its last two bytes. So metadata is taken out here, and Pillow sees what is left: the pixels, and what gives
them their meaning.

PNG: W3C, Portable Network Graphics, third edition. JPEG: ITU-T T.81, annex B.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO

import numpy as np
from PIL import Image

from . import bitstream, metadata
from .files import BytesLike

PNG_START = b"\x89PNG\r\n\x1a\n"
_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_XMP_KEYWORD = b"XML:com.adobe.xmp"
_RAW_PROFILE = b"Raw profile type "  # followed by exif, iptc, xmp...: hexadecimal, as ImageMagick writes it
_XMP_SEGMENT = b"http://ns.adobe.com/xap/1.0/\0"
_END = b"\xff\xd9"


@dataclass
class Opened:
    """A picture file taken apart.

    Attributes:
        data: the file without metadata, bytes-like; what Pillow reads.
        exif, xmp, iptc, icc: bytes, or None.
        cicp: four bytes of the PNG chunk of that name, or None.
        whole: False: a JPEG whose end marker is missing; ``data`` has one.
    """

    data: BytesLike
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    icc: bytes | None = None
    cicp: bytes | None = None
    whole: bool = True


# PNG


def open_png(data: bytes) -> Opened:
    """The parts of a PNG file. Ancillary chunks with a wrong checksum are dropped."""
    found = Opened(data)
    kept, position, start = [], 8, 0
    view = memoryview(data)
    while position + 12 <= len(data):
        (length,) = struct.unpack(">I", data[position : position + 4])
        kind = bytes(data[position + 4 : position + 8])
        stop = position + 12 + length
        if stop > len(data):
            break
        if kind[:1].islower():
            body = view[position + 8 : stop - 4]
            sound = zlib.crc32(view[position + 4 : stop - 4]) == int.from_bytes(data[stop - 4 : stop], "big")
            if not sound or _taken(found, kind, body):
                kept.append(view[start:position])
                start = stop
        position = stop
    if kept:
        found.data = b"".join([*kept, view[start:]])
    return found


def _taken(found, kind, body):
    """Whether Pillow need not see a chunk; what it says is noted."""
    if kind == b"eXIf":
        found.exif = found.exif or bytes(body).removeprefix(metadata.PREFIX) or None
    elif kind == b"iCCP":
        found.icc = found.icc or _inflated(bytes(body).partition(b"\0")[2][1:], bitstream.MAX_SKIPPED)
    elif kind == b"cICP":
        found.cicp = bytes(body) if len(body) == 4 else None
    elif kind in _TEXT:
        _note_text(found, kind, bytes(body))
    else:
        return False
    return True


def _note_text(found, kind, body):
    keyword, _, rest = body.partition(b"\0")
    if keyword != _XMP_KEYWORD and not keyword.startswith(_RAW_PROFILE):
        return
    packed = kind == b"zTXt"
    if packed:
        rest = rest[1:]
    if kind == b"iTXt":
        packed, rest = rest[:1] == b"\1", rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    text = _inflated(rest, 4 * bitstream.MAX_XMP) if packed else rest
    if not text:
        return
    if keyword == _XMP_KEYWORD:
        found.xmp = found.xmp or text
        return
    name = keyword.removeprefix(_RAW_PROFILE).lower()
    try:
        raw = bytes.fromhex("".join(text.decode("ascii").split()[2:]))
    except ValueError:
        return
    if name in (b"exif", b"app1") and raw.startswith(metadata.PREFIX):
        found.exif = found.exif or raw.removeprefix(metadata.PREFIX)
    elif name in (b"xmp", b"app1"):
        found.xmp = found.xmp or raw.removeprefix(_XMP_SEGMENT)
    elif name in (b"iptc", b"8bim"):
        found.iptc = found.iptc or metadata.iptc_of_resources(raw.removeprefix(metadata.PHOTOSHOP)) or raw


def _inflated(data, limit):
    """The contents of a zlib stream; None where it is damaged or too long."""
    inflater = zlib.decompressobj()
    try:
        contents = inflater.decompress(data, limit)
    except zlib.error:
        return None
    return contents if inflater.eof else None


def iptc_text(iptc: bytes) -> str:
    """IPTC records as the text of a PNG chunk that :func:`open_png` understands."""
    resources = metadata.resources_of_iptc(iptc).hex()
    lines = [resources[n : n + 72] for n in range(0, len(resources), 72)]
    return "\n".join(["", "8bim", f"{len(resources) // 2:8}", *lines, ""])


IPTC_KEYWORD = (_RAW_PROFILE + b"8bim").decode()


def write_png16(samples: np.ndarray, chunks: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """A PNG of 16 bits a sample.

    Args:
        samples: uint16 (H, W, C): 1 grey, 2 with alpha, 3 colours, 4 with alpha.
        chunks: pairs (type, contents) of ancillary chunks.
    """
    height, width, channels = samples.shape
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    deflater, body = zlib.compressobj(6), []
    above = np.zeros(2 * width * channels, np.uint8)
    for row in samples:
        line = np.frombuffer(row.astype(">u2").tobytes(), np.uint8)
        body.append(deflater.compress(b"\2" + (line - above).tobytes()))  # filter "up"
        above = line
    body.append(deflater.flush())
    parts = [(b"IHDR", head), *chunks, (b"IDAT", b"".join(body)), (b"IEND", b"")]
    return PNG_START + b"".join(map(_chunk, parts))


def _chunk(part):
    kind, contents = part
    crc = zlib.crc32(contents, zlib.crc32(kind))
    return len(contents).to_bytes(4, "big") + kind + contents + crc.to_bytes(4, "big")


def png_chunks(
    icc: bytes | None, exif: bytes | None, xmp: bytes | None, dpi: tuple[float, float] | None
) -> list[tuple[bytes, bytes]]:
    """The ancillary chunks for :func:`write_png16` of a profile, EXIF, XMP and pixels per inch, where there are any."""
    found = []
    if icc:
        found.append((b"iCCP", b"icc\0\0" + zlib.compress(icc, 9)))
    if dpi:
        found.append((b"pHYs", struct.pack(">IIB", *(min(round(n / 0.0254), 2**31 - 1) for n in dpi), 1)))
    if exif:
        found.append((b"eXIf", exif))
    if xmp:
        found.append((b"iTXt", _XMP_KEYWORD + bytes(5) + xmp))
    return found


# WebP


def webp_size(start: bytes) -> tuple[int, int] | None:
    """(width, height) in the first 30 bytes of a WebP file, or None (RFC 9649)."""
    kind, body = start[12:16], start[20:30]
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    if kind == b"VP8L" and body[:1] == b"\x2f":
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    return None


def open_large_webp(file: IO[bytes]) -> Image.Image:
    """A PIL.Image of a WebP file whose size is beyond Pillow's limit: its reader knows no other."""
    from PIL import _webp

    decoder = _webp.WebPAnimDecoder(file.read())
    size, _, _, _, layout = decoder.get_info()
    mode = "RGB" if layout == "RGBX" else layout
    image = Image.frombytes(mode, size, decoder.get_next()[0], "raw", layout)
    image.format = "WEBP"
    for word, name in (("icc_profile", "ICCP"), ("exif", "EXIF"), ("xmp", "XMP ")):
        if value := decoder.get_chunk(name):
            image.info[word] = value
    return image


# JPEG


def open_jpeg(data: bytes) -> Opened:
    """The parts of a JPEG file: of several pictures in one, the first."""
    found = Opened(data)
    view = memoryview(data)
    kept, exif, start, position = [], [], 0, 2
    resources = []
    while position + 4 <= len(data) and data[position] == 0xFF:
        kind = data[position + 1]
        if kind == 0xFF:  # fill
            position += 1
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        stop = position + 2 + length
        if kind in (0xDA, 0xD9) or 0xD0 <= kind <= 0xD8 or length < 2 or stop > len(data):
            break
        body = view[position + 4 : stop]
        if kind == 0xE1 or kind in (0xED, 0xFE) or (kind == 0xE2 and body[:4] == b"MPF\0"):
            if kind == 0xE1 and body[:6] == metadata.PREFIX:
                exif.append(bytes(body[6:]))
            elif kind == 0xE1 and body[: len(_XMP_SEGMENT)] == _XMP_SEGMENT:
                found.xmp = found.xmp or bytes(body[len(_XMP_SEGMENT) :])
            elif kind == 0xED and body[: len(metadata.PHOTOSHOP)] == metadata.PHOTOSHOP:
                resources.append(bytes(body[len(metadata.PHOTOSHOP) :]))
            kept.append(view[start:position])
            start = stop
        position = stop
    found.exif = b"".join(exif) or None
    found.iptc = metadata.iptc_of_resources(b"".join(resources))
    found.whole = data.find(_END, position) >= 0
    tail: BytesLike = view[start:]
    if not found.whole:
        # A cut between the two bytes of a marker must not leave the first of them.
        tail = bytes(tail).rstrip(b"\xff") + _END
    if kept or not found.whole:
        found.data = b"".join([*kept, tail])
    return found


def with_tail(data: BytesLike, junk: bytes) -> bytes:
    """A JPEG that :func:`open_jpeg` gave an end marker, with other bytes before it."""
    return bytes(data[: -len(_END)]) + junk + _END


def has_all_scans(data: bytes) -> bool:
    """Whether the scans of a JPEG bring every coefficient of every component, to its last bit."""
    wanted, missing = None, {}
    position = 2
    while (position := data.find(b"\xff", position)) >= 0 and position + 4 <= len(data):
        kind = data[position + 1]
        if kind in (0x00, 0xFF) or 0xD0 <= kind <= 0xD9:  # within a scan, or without contents
            position += 1 if kind == 0xFF else 2
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        body = data[position + 4 : position + 2 + length]
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC) and len(body) >= 6:
            missing = {body[6 + 3 * n]: set(range(64)) for n in range((len(body) - 6) // 3)}
            wanted = kind in (0xC2, 0xC6, 0xCA, 0xCE)  # progressive
        elif kind == 0xDA and body and len(body) >= 4 + 2 * body[0]:
            first, last, bits = body[-3:]
            if not wanted:
                first, last, bits = 0, 63, 0
            for n in range(body[0]):
                if bits & 15 == 0:
                    missing.get(body[1 + 2 * n], set()).difference_update(range(first, last + 1))
        position += 2 + length
    return wanted is not None and not any(missing.values())
