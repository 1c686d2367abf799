"""Header and strings <-> the bytes of a file. The format itself is described in BITSTREAM.md.

    magic · version · flags · model id · quality · width · height · symbols CRC · lengths      header
    z · y · [alpha] · [icc] · [exif]                                                             sections
    CRC-32 of everything before it                                                               checksum

Standard library only: the ``info`` command, the Pillow plugin and most tests need a header without loading a
network. Nothing here trusts its input. Every read goes through ``_Reader.take``, every size is compared with
a limit before it is used, and whatever the bytes, ``unpack`` ends in a ``Container`` or a ``BitstreamError``.

There is exactly one way to write a container: ``pack(unpack(data)) == data`` for everything ``unpack``
accepts.
"""

import re
import zlib
from dataclasses import dataclass

from .errors import Corrupt, NotThisFormat, TooLarge, Truncated, UnsupportedVersion

# 0x9D cannot begin a UTF-8 text, so no text file is taken for a picture. LQC: learned quantisation codec.
MAGIC = b"\x9dLQC"
VERSION = 1

MAX_SIDE = 65535
MAX_PIXELS = 2**28  # 16384 x 16384: 768 MiB of RGB, about what an ordinary machine can hold twice
MAX_ICC = 2**22  # profiles of monitors and cameras take 0.5 KiB to 1 MiB
MAX_EXIF = 2**20  # a JPEG holds at most 64 KiB; PNG, WebP and TIFF may hold more
MAX_QUALITY = 10000

MAX_VARINT_BYTES = 5
HEADER_MAX = 12 + 3 + 3 + 4 + 5 * MAX_VARINT_BYTES  # bytes; enough of a file for read_header

_GREY, _ALPHA, _ICC, _EXIF, _PLAIN = 1, 2, 4, 8, 16  # flag bits; the upper three are reserved
_KNOWN_FLAGS = _GREY | _ALPHA | _ICC | _EXIF | _PLAIN
_CRC_BYTES = 4


@dataclass(frozen=True)
class Container:
    """The contents of one compressed file.

    ``alpha``, ``icc`` and ``exif`` are None when absent, never empty.
    """

    model_id: str  # 8 lower-case hex digits: first 4 bytes of the SHA-256 of the weights file
    quality: int  # hundredths, 0 to 10000
    width: int  # of the original picture, in pixels
    height: int
    grey: bool  # the picture was grey: decode to mode "L"
    z_string: bytes
    y_string: bytes
    symbols_crc: int  # CRC-32 of the decoded symbols: reveals a decoder that disagrees with the encoder
    alpha: bytes | None = None  # lossless grey PNG of the alpha plane; None when the picture is opaque
    icc: bytes | None = None  # ICC profile
    exif: bytes | None = None  # EXIF in its TIFF form, without the "Exif" prefix of JPEG
    plain: bool = False  # the latents are those of the plain transform, not of the model's learned one


@dataclass(frozen=True)
class Header:
    """What the first bytes of a file say, before its checksum has been seen.

    ``lengths`` holds (section name, bytes) in file order for the sections that are present.
    """

    model_id: str
    quality: int
    width: int
    height: int
    grey: bool
    symbols_crc: int
    lengths: tuple[tuple[str, int], ...]
    size: int  # bytes of the header itself
    plain: bool = False

    @property
    def alpha(self) -> bool:
        return any(name == "alpha" for name, _ in self.lengths)

    @property
    def file_size(self) -> int:
        """Bytes of the whole file: header, sections and checksum."""
        return self.size + sum(length for _, length in self.lengths) + _CRC_BYTES


def pack(container: Container) -> bytes:
    """The file bytes of a container.

    Raises:
        TooLarge: picture or metadata beyond the limits above.
        Corrupt: a field holds a value that the format cannot express.
    """
    sections = _sections_of(container)
    _check_fields(container.model_id, container.quality, container.symbols_crc)
    check_size(container.width, container.height)
    for name, section in sections:
        _check_length(name, len(section), container.width, container.height)

    flags = (
        _GREY * bool(container.grey)
        | _ALPHA * (container.alpha is not None)
        | _ICC * (container.icc is not None)
        | _EXIF * (container.exif is not None)
        | _PLAIN * bool(container.plain)
    )
    body = b"".join(
        [
            MAGIC,
            bytes([VERSION, flags]),
            bytes.fromhex(container.model_id),
            container.quality.to_bytes(2, "little"),
            _varint(container.width),
            _varint(container.height),
            container.symbols_crc.to_bytes(4, "little"),
            *(_varint(len(section)) for _, section in sections),
            *(section for _, section in sections),
        ]
    )
    return body + zlib.crc32(body).to_bytes(_CRC_BYTES, "little")


def unpack(data: bytes) -> Container:
    """The container in the bytes of a file; the inverse of ``pack``.

    Args:
        data: all the bytes of the file, nothing before and nothing after. Any bytes-like object.

    Raises:
        NotThisFormat, UnsupportedVersion, Truncated, Corrupt, TooLarge: all of them ``BitstreamError``.
    """
    reader = _Reader(data)
    header = _read_verified_header(reader)
    strings = {name: reader.take(length) for name, length in header.lengths}
    return Container(
        model_id=header.model_id,
        quality=header.quality,
        width=header.width,
        height=header.height,
        grey=header.grey,
        plain=header.plain,
        z_string=strings["z"],
        y_string=strings["y"],
        symbols_crc=header.symbols_crc,
        alpha=strings.get("alpha"),
        icc=strings.get("icc"),
        exif=strings.get("exif"),
    )


def read_header(data: bytes) -> Header:
    """The header at the beginning of ``data``: size and kind of a picture without reading all of its file.

    The first ``HEADER_MAX`` bytes of a file are enough. The checksum stands at the other end of the file, so
    these values are only well-formed and within the limits; ``unpack`` is what vouches for them.

    Raises:
        NotThisFormat, UnsupportedVersion, Truncated, Corrupt, TooLarge
    """
    return _read_header(_Reader(data))


def sections(data: bytes) -> list[tuple[str, int, int]]:
    """The parts of a file as (name, offset, length), in file order and without gaps.

    Names: ``header``, ``z``, ``y``, then ``alpha``, ``icc`` and ``exif`` where present, ``checksum``. Checks
    what ``unpack`` checks and raises what it raises.
    """
    header = _read_verified_header(_Reader(data))
    parts = [("header", 0, header.size)]
    for name, length in (*header.lengths, ("checksum", _CRC_BYTES)):
        _, offset, previous = parts[-1]
        parts.append((name, offset + previous, length))
    return parts


def check_size(width: int, height: int) -> None:
    """Refuse a size that the format does not allow: ``Corrupt`` for nothing, ``TooLarge`` for too much."""
    if width < 1 or height < 1:
        raise Corrupt(f"corrupt: a picture of {width} x {height} pixels")
    if width > MAX_SIDE or height > MAX_SIDE:
        raise TooLarge(f"too large: {width} x {height} pixels; at most {MAX_SIDE} on a side")
    if width * height > MAX_PIXELS:
        raise TooLarge(f"too large: {width} x {height} pixels; at most {MAX_PIXELS} in all")


class _Reader:
    """A position in some bytes; every read is "exactly n bytes, or an error"."""

    def __init__(self, data):
        self.data = bytes(data)
        self.position = 0

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self.data):
            raise _truncated(end, len(self.data))
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def number(self, count: int) -> int:
        """An unsigned little-endian integer of ``count`` bytes."""
        return int.from_bytes(self.take(count), "little")

    def varint(self) -> int:
        """An unsigned LEB128 below 2**32: seven bits a byte, lowest first, top bit on all but the last."""
        value = 0
        for index in range(MAX_VARINT_BYTES):
            byte = self.number(1)
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                # A last byte of zero adds nothing; accepting it would give one number several spellings.
                if byte == 0 and index > 0:
                    raise Corrupt("corrupt: a number is written with more bytes than it needs")
                if value >= 2**32:
                    break
                return value
        raise Corrupt("corrupt: a number does not fit in 32 bits")


def _read_verified_header(reader: _Reader) -> Header:
    """The header, after the file's length and checksum have been compared with it."""
    header = _read_header(reader)
    found = len(reader.data)
    if found < header.file_size:
        raise _truncated(header.file_size, found)
    if found > header.file_size:
        raise Corrupt(f"corrupt: {found - header.file_size} bytes more than the header announces")
    body = memoryview(reader.data)[:-_CRC_BYTES]
    if zlib.crc32(body) != int.from_bytes(reader.data[-_CRC_BYTES:], "little"):
        raise Corrupt("corrupt: the checksum does not match the contents")
    return header


def _read_header(reader: _Reader) -> Header:
    # A beginning of the magic is a file cut short; anything else was never one of ours.
    if not reader.data.startswith(MAGIC) and not MAGIC.startswith(reader.data):
        raise NotThisFormat("not a file of this codec: it does not begin with its magic")
    reader.take(len(MAGIC))
    # Version and flags come first: a newer file may differ in everything that follows, its checksum included.
    version = reader.number(1)
    if version != VERSION:
        raise UnsupportedVersion(f"unsupported version: format {version}; this codec reads format {VERSION}")
    flags = reader.number(1)
    if flags & ~_KNOWN_FLAGS:
        raise UnsupportedVersion(f"unsupported version: unknown flags {flags & ~_KNOWN_FLAGS:#04x}")
    model_id = reader.take(4).hex()
    quality = reader.number(2)
    width = reader.varint()
    height = reader.varint()
    check_size(width, height)
    symbols_crc = reader.number(4)
    _check_fields(model_id, quality, symbols_crc)

    names = ["z", "y"]
    names += [name for bit, name in ((_ALPHA, "alpha"), (_ICC, "icc"), (_EXIF, "exif")) if flags & bit]
    lengths = tuple((name, reader.varint()) for name in names)
    for name, length in lengths:
        _check_length(name, length, width, height)
    grey, plain = bool(flags & _GREY), bool(flags & _PLAIN)
    return Header(model_id, quality, width, height, grey, symbols_crc, lengths, reader.position, plain)


def _sections_of(container: Container) -> list[tuple[str, bytes]]:
    sections = [("z", container.z_string), ("y", container.y_string)]
    optional = (("alpha", container.alpha), ("icc", container.icc), ("exif", container.exif))
    return sections + [(name, section) for name, section in optional if section is not None]


def _check_fields(model_id: str, quality: int, symbols_crc: int) -> None:
    if not re.fullmatch("[0-9a-f]{8}", model_id):
        raise Corrupt(f"corrupt: model id {model_id!r}; needed 8 lower-case hex digits")
    if not 0 <= quality <= MAX_QUALITY:
        raise Corrupt(f"corrupt: quality of {quality} hundredths; allowed 0 to {MAX_QUALITY}")
    if not 0 <= symbols_crc < 2**32:
        raise Corrupt(f"corrupt: a symbols CRC of {symbols_crc} does not fit in 32 bits")


def _check_length(name: str, length: int, width: int, height: int) -> None:
    limits = {
        "icc": MAX_ICC,
        "exif": MAX_EXIF,
        # An uncompressed grey PNG takes a byte a pixel, one a row, and some framing.
        "alpha": 3 * width * height + 1024,
    }
    limit = limits.get(name, 2**32 - 1)
    if length > limit:
        raise TooLarge(f"too large: {length} bytes of {name}; at most {limit}")
    if length == 0 and name in limits:
        raise Corrupt(f"corrupt: the {name} section is announced but empty")


def _truncated(needed: int, found: int) -> Truncated:
    return Truncated(f"truncated: needed {needed} bytes, found {found}")


def _varint(value: int) -> bytes:
    """Unsigned LEB128, as short as possible."""
    assert 0 <= value < 2**32
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
