"""Coded tiles and metadata <-> the bytes of a file. The format itself, version 2, is described in BITSTREAM.md.

    magic · version · flags · model id · quality · width · height      what the picture is
    tiles: length · lanes · symbols CRC, of each                        what follows, and where
    sections: count; type · length · CRC, of each
    CRC-32 of everything before it                                      header checksum
    sections: [alpha] · [EXIF] · [ICC] · ...
    tiles

Standard library only: the ``info`` command, the Pillow plugin and most tests need a header without loading a network.
Nothing here trusts its input. Every read goes through ``_Reader.take``, every size is compared with a limit before it
is used, and whatever the bytes, ``unpack`` ends in a ``Container`` or a ``BitstreamError``. Nothing is allocated that
is not in the file.

There is exactly one way to write a container: ``pack(unpack(data)) == data`` for everything ``unpack`` accepts.
"""

import io
import itertools
import math
import os
import re
import zlib
from dataclasses import dataclass

from .errors import Corrupt, NotThisFormat, TooLarge, Truncated, UnsupportedVersion

# 0x9D cannot begin a UTF-8 text, so no text file is taken for a picture. LQC: learned quantisation codec.
MAGIC = b"\x9dLQC"
VERSION = 2
MIME_TYPE = "image/x-lqc"

_PADDING = 64  # pixels: pictures are padded to multiples of it
TILE_SIDE = 1024  # pixels; tiles of the last column and row may be smaller
MAX_SIDE = 65535
MAX_PIXELS = 2**28  # 16384 x 16384: 768 MiB of RGB, about what an ordinary machine can hold twice
MAX_TILES = 320  # follows from the two: 4097 x 65519 pixels are 5 x 64 tiles
MAX_QUALITY = 10000
MAX_LANES = 4096
LANE_BYTES = 3  # that each lane takes at least, in the stream of its tile
MAX_SECTIONS = 32
MAX_ICC = 2**22  # profiles of monitors and cameras take 0.5 KiB to 1 MiB
MAX_EXIF = 2**20  # a JPEG holds at most 64 KiB; PNG, WebP and TIFF may hold more
MAX_SKIPPED = 2**28  # a section that this reader does not know
# Bytes of a tile per pixel, besides 3 a lane: 768 channels at 1/16 and 1024 at 1/64 of the resolution are 3.25 symbols a
# pixel, of at most 6 bytes each; the rest is room for other kinds of latents.
MAX_TILE_RATE = 64

ALPHA, EXIF, ICC = 1, 2, 3  # types of sections
REQUIRED = 1  # bit of a type: a reader that does not know the section must not go on without it
_NAMES = {ALPHA: "alpha", EXIF: "exif", ICC: "icc"}

_GREY, _PLAIN, _FLAT, _DEPENDENT = 1, 2, 4, 8  # flag bits; the others are reserved
_KNOWN_FLAGS = _GREY | _PLAIN | _FLAT | _DEPENDENT
_COLOUR_BYTES = 3  # of a tile of a flat picture
_CRC_BYTES = 4
_MAX_VARINT_BYTES = 5
_BLOCK = 2**20  # bytes read at once
_TILE_ENTRY = (1 + 1 + _CRC_BYTES, _MAX_VARINT_BYTES + 2 + _CRC_BYTES)  # bytes in the header: at least, at most
_SECTION_ENTRY_MAX = 1 + _MAX_VARINT_BYTES + _CRC_BYTES
HEADER_MAX = 16 + 3 + 3 + MAX_TILES * _TILE_ENTRY[1] + 1 + MAX_SECTIONS * _SECTION_ENTRY_MAX + _CRC_BYTES


@dataclass(frozen=True)
class Tile:
    """One entropy-coded tile: at most TILE_SIDE x TILE_SIDE pixels of the picture."""

    data: bytes  # its stream
    lanes: int  # of that stream, 1 to MAX_LANES
    symbols_crc: int  # CRC-32 of the decoded symbols: reveals damage, and a decoder that disagrees with the encoder


@dataclass(frozen=True)
class Container:
    """The contents of one compressed file.

    ``alpha``, ``icc`` and ``exif`` are None when absent, never empty.
    """

    model_id: str  # 16 lower-case hex digits: first 8 bytes of a SHA-256 over weights, tables and architecture
    quality: int  # hundredths, 0 to 10000
    width: int  # of the original picture, in pixels
    height: int
    tiles: tuple[Tile, ...]  # in raster order, as many as tile_grid says
    grey: bool = False  # the picture was grey: decode to mode "L"
    plain: bool = False  # the latents are those of the plain transform, not of the model's learned one
    flat: bool = False  # each tile has one colour: its data are R, G, B, its lanes 1, its CRC that of these bytes
    dependent: bool = False  # the latents were quantised by a trellis
    alpha: bytes | None = None  # lossless grey PNG of the alpha plane; None when the picture is opaque
    icc: bytes | None = None  # ICC profile
    exif: bytes | None = None  # EXIF in its TIFF form, without the "Exif" prefix of JPEG
    extra: tuple[tuple[int, bytes], ...] = ()  # (type, contents) of sections that this reader skips, types rising


@dataclass(frozen=True)
class TileEntry:
    length: int
    lanes: int
    symbols_crc: int


@dataclass(frozen=True)
class SectionEntry:
    type: int
    length: int
    crc: int


@dataclass(frozen=True)
class Header:
    """What the first bytes of a file say, confirmed by their checksum."""

    model_id: str
    quality: int
    width: int
    height: int
    grey: bool
    plain: bool
    flat: bool
    dependent: bool
    tiles: tuple[TileEntry, ...]
    sections: tuple[SectionEntry, ...]
    size: int  # bytes of the header itself

    @property
    def alpha(self) -> bool:
        return any(section.type == ALPHA for section in self.sections)

    @property
    def file_size(self) -> int:
        """Bytes of the whole file: header, sections and tiles."""
        return self.size + sum(entry.length for entry in (*self.sections, *self.tiles))

    def layout(self) -> list[tuple[str, int, int]]:
        """The parts of the file as (name, offset, length), in file order and without gaps.

        Names: ``header``; ``alpha``, ``exif``, ``icc``, or ``section 8`` for one that this reader skips; ``tile 0``,
        ``tile 1`` ...
        """
        parts = [("header", 0, self.size)]
        named = [(_NAMES.get(section.type, f"section {section.type}"), section.length) for section in self.sections]
        named += [(f"tile {index}", tile.length) for index, tile in enumerate(self.tiles)]
        for name, length in named:
            _, offset, previous = parts[-1]
            parts.append((name, offset + previous, length))
        return parts


def pack(container: Container) -> bytes:
    """The file bytes of a container.

    Raises:
        TooLarge: picture or metadata beyond the limits above.
        Corrupt: a field holds a value that the format cannot express.
    """
    check_size(container.width, container.height)
    _check_fields(container.model_id, container.quality)
    columns, rows = tile_grid(container.width, container.height)
    if len(container.tiles) != columns * rows:
        raise Corrupt(f"corrupt: {len(container.tiles)} tiles; needed {columns} x {rows}")
    _check_kind(container.plain, container.flat, container.dependent)
    for index, tile in enumerate(container.tiles):
        _check_tile(index, len(tile.data), tile.lanes, container.flat, container.width, container.height)
        if not 0 <= tile.symbols_crc < 2**32:
            raise Corrupt(f"corrupt: a symbols CRC of {tile.symbols_crc} does not fit in 32 bits")
    sections = _sections_of(container)
    _check_section_types([type_ for type_, _ in sections])
    for type_, section in sections:
        _check_section(type_, len(section), container.width, container.height)

    bits = (container.grey, _GREY), (container.plain, _PLAIN), (container.flat, _FLAT), (container.dependent, _DEPENDENT)
    flags = sum(bit for is_set, bit in bits if is_set)
    header = b"".join(
        [
            MAGIC,
            bytes([VERSION, flags]),
            bytes.fromhex(container.model_id),
            container.quality.to_bytes(2, "little"),
            _varint(container.width),
            _varint(container.height),
            *(
                _varint(len(tile.data)) + _varint(tile.lanes) + tile.symbols_crc.to_bytes(_CRC_BYTES, "little")
                for tile in container.tiles
            ),
            bytes([len(sections)]),
            *(bytes([type_]) + _varint(len(section)) + _crc(section) for type_, section in sections),
        ]
    )
    contents = [section for _, section in sections] + [tile.data for tile in container.tiles]
    return b"".join([header, _crc(header), *contents])


def unpack(data: bytes) -> Container:
    """The container in the bytes of a file; the inverse of ``pack``.

    Header and sections are verified here; tiles by their symbols CRCs, when they are decoded.

    Args:
        data: all the bytes of the file, nothing before and nothing after. Any bytes-like object.

    Raises:
        NotThisFormat, UnsupportedVersion, Truncated, Corrupt, TooLarge: all of them ``BitstreamError``.
    """
    reader = _Reader(data)
    header = _read_header(reader)
    _check_length(header, len(reader.data))
    sections = {}
    for entry in header.sections:
        sections[entry.type] = reader.take(entry.length)
        _check_crc(entry, zlib.crc32(sections[entry.type]))
    return Container(
        model_id=header.model_id,
        quality=header.quality,
        width=header.width,
        height=header.height,
        grey=header.grey,
        plain=header.plain,
        flat=header.flat,
        dependent=header.dependent,
        alpha=sections.pop(ALPHA, None),
        icc=sections.pop(ICC, None),
        exif=sections.pop(EXIF, None),
        extra=tuple(sections.items()),
        tiles=tuple(Tile(reader.take(tile.length), tile.lanes, tile.symbols_crc) for tile in header.tiles),
    )


def read_file(file) -> bytes:
    """The bytes of a compressed file, for :func:`unpack`: no more than its header announces, and one, which reveals more.

    Memory grows with what is there, not with what is announced.

    Args:
        file: a binary file, read from its position on.

    Raises:
        NotThisFormat, UnsupportedVersion, Truncated, Corrupt, TooLarge: of the header.
    """
    start = _read_up_to(file, HEADER_MAX)
    return start + _read_up_to(file, read_header(start).file_size + 1 - len(start))


def verify_file(file) -> Header:
    """The header of a file of which all that :func:`unpack` checks has been checked, tiles unread.

    Args:
        file: a binary file, read from its position on.

    Raises:
        NotThisFormat, UnsupportedVersion, Truncated, Corrupt, TooLarge
    """
    if not file.seekable():
        file = io.BytesIO(read_file(file))
    start = file.tell()
    header = read_header(file)
    _check_length(header, file.seek(0, os.SEEK_END) - start)
    file.seek(start + header.size)
    for entry in header.sections:
        crc, missing = 0, entry.length
        while missing and (block := file.read(min(missing, _BLOCK))):
            crc, missing = zlib.crc32(block, crc), missing - len(block)
        _check_crc(entry, crc)
    return header


def read_header(source) -> Header:
    """The header at the beginning of a file: what is in it and where, without reading all of it.

    Args:
        source: the first bytes of a file, HEADER_MAX are enough for any; or a binary file, read from its position on.

    Raises:
        NotThisFormat, UnsupportedVersion, Truncated, Corrupt, TooLarge
    """
    return _read_header(_Reader(_read_up_to(source, HEADER_MAX) if hasattr(source, "read") else source))


def read_metadata(file) -> tuple[Header, dict]:
    """The header of a file, and ``{"exif": bytes, "icc": bytes}`` as far as they are there and undamaged; no tiles are read.

    Args:
        file: a binary file that can seek, read from its position on.

    Raises:
        NotThisFormat, UnsupportedVersion, Truncated, Corrupt, TooLarge: of the header.
    """
    start = file.tell()
    header = read_header(file)
    found, offset = {}, header.size
    for entry in header.sections:
        if entry.type in (EXIF, ICC):
            file.seek(start + offset)
            section = _read_up_to(file, entry.length)
            if zlib.crc32(section) == entry.crc:
                found[_NAMES[entry.type]] = section
        offset += entry.length
    return header, found


def tile_grid(width: int, height: int) -> tuple[int, int]:
    """(columns, rows) of the tiles of a picture."""
    return -(-width // TILE_SIDE), -(-height // TILE_SIDE)


def check_size(width: int, height: int, max_pixels: int = MAX_PIXELS) -> None:
    """Refuse a size that the format does not allow: ``Corrupt`` for nothing, ``TooLarge`` for too much.

    Args:
        max_pixels: a lower limit than the format's own.
    """
    if width < 1 or height < 1:
        raise Corrupt(f"corrupt: a picture of {width} x {height} pixels")
    if width > MAX_SIDE or height > MAX_SIDE:
        raise TooLarge(f"too large: {width} x {height} pixels; at most {MAX_SIDE} on a side")
    limit = min(max_pixels, MAX_PIXELS)
    if width * height > limit:
        raise TooLarge(f"too large: {width} x {height} pixels; at most {limit} in all")


def _read_up_to(file, count):
    """So many bytes of a file, or as many as there are."""
    blocks = []
    while count > 0 and (block := file.read(min(count, _BLOCK))):
        blocks.append(block)
        count -= len(block)
    return b"".join(blocks)


class _Reader:
    """A position in some bytes; every read is "exactly n bytes, or an error"."""

    def __init__(self, data):
        self.data = bytes(data)
        self.position = 0

    def need(self, count: int) -> None:
        """Raise ``Truncated`` unless ``count`` more bytes are there."""
        if self.position + count > len(self.data):
            raise _truncated(self.position + count, len(self.data))

    def take(self, count: int) -> bytes:
        self.need(count)
        self.position += count
        return self.data[self.position - count : self.position]

    def number(self, count: int) -> int:
        """An unsigned little-endian integer of ``count`` bytes."""
        return int.from_bytes(self.take(count), "little")

    def varint(self) -> int:
        """An unsigned LEB128 below 2**32: seven bits a byte, lowest first, top bit on all but the last."""
        value = 0
        for index in range(_MAX_VARINT_BYTES):
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


def _read_header(reader: _Reader) -> Header:
    # A beginning of the magic is a file cut short; anything else was never one of ours.
    if not reader.data.startswith(MAGIC) and not MAGIC.startswith(reader.data):
        raise NotThisFormat("not a file of this codec: it does not begin with its magic")
    reader.take(len(MAGIC))
    # Version and flags come first: a newer file may differ in everything that follows, its checksum included.
    version = reader.number(1)
    if version == 1:
        raise UnsupportedVersion("unsupported version: format 1 is no longer read; it was experimental")
    if version != VERSION:
        raise UnsupportedVersion(f"unsupported version: format {version}; this codec reads format {VERSION}")
    flags = reader.number(1)
    if flags & ~_KNOWN_FLAGS:
        raise UnsupportedVersion(f"unsupported version: unknown flags {flags & ~_KNOWN_FLAGS:#04x}")
    plain, flat, dependent = (bool(flags & bit) for bit in (_PLAIN, _FLAT, _DEPENDENT))
    _check_kind(plain, flat, dependent)
    model_id = reader.take(8).hex()
    quality = reader.number(2)
    _check_fields(model_id, quality)
    width = reader.varint()
    height = reader.varint()
    check_size(width, height)

    columns, rows = tile_grid(width, height)
    # A few bytes that claim a huge picture end here, before the first of its tiles.
    reader.need(columns * rows * _TILE_ENTRY[0] + 1 + _CRC_BYTES)
    tiles = []
    for index in range(columns * rows):
        length, lanes = reader.varint(), reader.varint()
        _check_tile(index, length, lanes, flat, width, height)
        tiles.append(TileEntry(length, lanes, reader.number(_CRC_BYTES)))

    sections = []
    count = reader.number(1)
    if count > MAX_SECTIONS:
        raise TooLarge(f"too large: {count} sections; at most {MAX_SECTIONS}")
    for _ in range(count):
        type_, length = reader.number(1), reader.varint()
        _check_section(type_, length, width, height)
        sections.append(SectionEntry(type_, length, reader.number(_CRC_BYTES)))
    _check_section_types([section.type for section in sections])

    computed = zlib.crc32(memoryview(reader.data)[: reader.position])
    if computed != reader.number(_CRC_BYTES):
        raise Corrupt("corrupt: the checksum of the header does not match its contents")
    # Not before the checksum has spoken: a damaged type is no newer version.
    for section in sections:
        if section.type & REQUIRED and section.type not in _NAMES:
            raise UnsupportedVersion(f"unsupported version: it cannot be read without section {section.type}")
    return Header(
        model_id=model_id,
        quality=quality,
        width=width,
        height=height,
        grey=bool(flags & _GREY),
        plain=plain,
        flat=flat,
        dependent=dependent,
        tiles=tuple(tiles),
        sections=tuple(sections),
        size=reader.position,
    )


def _sections_of(container: Container) -> list[tuple[int, bytes]]:
    """(type, contents) in file order: by type."""
    known = ((ALPHA, container.alpha), (EXIF, container.exif), (ICC, container.icc))
    sections = [(type_, section) for type_, section in known if section is not None]
    for type_, section in container.extra:
        if type_ in _NAMES or not 0 <= type_ < 256 or type_ & REQUIRED:
            raise Corrupt(f"corrupt: section {type_} is none that a reader may skip")
        sections.append((type_, section))
    return sorted(sections, key=lambda section: section[0])


def _check_fields(model_id: str, quality: int) -> None:
    if not re.fullmatch("[0-9a-f]{16}", model_id):
        raise Corrupt(f"corrupt: model id {model_id!r}; needed 16 lower-case hex digits")
    if not 0 <= quality <= MAX_QUALITY:
        raise Corrupt(f"corrupt: quality of {quality} hundredths; allowed 0 to {MAX_QUALITY}")


def _check_kind(plain: bool, flat: bool, dependent: bool) -> None:
    if flat and (plain or dependent):
        raise Corrupt("corrupt: a picture of flat tiles has no latents, plain or not")
    if plain and dependent:
        raise Corrupt("corrupt: latents of the plain transform are not quantised by a trellis")


def _check_length(header: Header, found: int) -> None:
    if found < header.file_size:
        raise _truncated(header.file_size, found)
    if found > header.file_size:
        raise Corrupt("corrupt: the file is longer than its header announces")


def _check_crc(entry: SectionEntry, crc: int) -> None:
    if crc != entry.crc:
        name = _NAMES.get(entry.type, f"section {entry.type}")
        raise Corrupt(f"corrupt: the checksum of {name} does not match its contents")


def _check_tile(index: int, length: int, lanes: int, flat: bool, width: int, height: int) -> None:
    if flat and (length, lanes) != (_COLOUR_BYTES, 1):
        raise Corrupt(f"corrupt: tile {index} of a flat picture has {length} bytes and {lanes} lanes")
    if not 1 <= lanes <= MAX_LANES:
        raise Corrupt(f"corrupt: tile {index} has {lanes} lanes; allowed 1 to {MAX_LANES}")
    if length < LANE_BYTES * lanes:
        raise Corrupt(f"corrupt: tile {index} has {length} bytes; {lanes} lanes need {LANE_BYTES * lanes}")
    padded = (min(TILE_SIDE, -(-side // _PADDING) * _PADDING) for side in (width, height))
    limit = MAX_TILE_RATE * math.prod(padded) + LANE_BYTES * lanes
    if length > limit:
        raise TooLarge(f"too large: tile {index} has {length} bytes; at most {limit}")


def _check_section_types(types: list[int]) -> None:
    if len(types) > MAX_SECTIONS:
        raise TooLarge(f"too large: {len(types)} sections; at most {MAX_SECTIONS}")
    if any(following <= type_ for type_, following in itertools.pairwise(types)):
        raise Corrupt("corrupt: the types of the sections do not rise")


def _check_section(type_: int, length: int, width: int, height: int) -> None:
    limits = {
        ICC: MAX_ICC,
        EXIF: MAX_EXIF,
        # An uncompressed grey PNG takes a byte a pixel, one a row, and some framing.
        ALPHA: 3 * width * height + 1024,
    }
    limit = limits.get(type_, MAX_SKIPPED)
    if length > limit:
        raise TooLarge(f"too large: {length} bytes of {_NAMES.get(type_, f'section {type_}')}; at most {limit}")
    if length == 0 and type_ in _NAMES:
        raise Corrupt(f"corrupt: the {_NAMES[type_]} section is announced but empty")


def _truncated(needed: int, found: int) -> Truncated:
    return Truncated(f"truncated: needed {needed} bytes, found {found}")


def _crc(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(_CRC_BYTES, "little")


def _varint(value: int) -> bytes:
    """Unsigned LEB128, as short as possible."""
    assert 0 <= value < 2**32
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
