"""Coded tiles and metadata <-> the bytes of a file. The format itself, version 2, is described in BITSTREAM.md.

    magic · version · flags · model id · quality · width · height      what the picture is
    tiles: length · lanes · symbols CRC, of each                        what follows, and where
    sections: count; type · length · CRC, of each
    CRC-32 of everything before it                                      header checksum
    sections: [alpha] · [EXIF] · [ICC] · ...
    tiles, or a picture file as it is

Standard library only: the ``info`` command, the Pillow plugin and most tests need a header without loading a network.
Nothing here trusts its input. Every read goes through ``_Reader.take``, every size is compared with a limit before it
is used, and whatever the bytes, ``unpack`` ends in a ``Container`` or a ``BitstreamError``. Nothing is allocated that
is not in the file.

There is exactly one way to write a container: ``pack(unpack(data)) == data`` for everything ``unpack`` accepts.
"""

from __future__ import annotations

import io
import itertools
import math
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any, cast

from .errors import Corrupt, NotThisFormat, TooLarge, Truncated, UnsupportedVersion
from .files import BytesLike

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
MAX_XMP = 2**20
MAX_IPTC = 2**20
MAX_RESOLUTION = 10  # two varints
MAX_BACKGROUND = 1024  # besides a bit a block
MAX_SKIPPED = 2**28  # a section that this reader does not know
# Bytes of a tile per pixel, besides 3 a lane: 768 channels at 1/16 and 1024 at 1/64 of the resolution are 3.25 symbols
# a pixel, of at most 6 bytes each; the rest is room for other kinds of latents.
MAX_TILE_RATE = 64
# Bytes of a stored picture file per pixel (of 16 bits and four channels: 8), besides 16 MiB of what it says about
# itself.
MAX_STORED_RATE = 16
_STORED_SLACK = 2**24

ALPHA, EXIF, ICC, XMP, PACKED_ICC, IPTC, PACKED_EXIF, RESOLUTION = 1, 2, 3, 4, 5, 6, 8, 10  # types of sections
BACKGROUND = 12
REQUIRED = 1  # bit of a type: a reader that does not know the section must not go on without it
# Type -> the container's field.
_NAMES = {
    ALPHA: "alpha", EXIF: "exif", ICC: "icc", XMP: "xmp", PACKED_ICC: "packed_icc", IPTC: "iptc",
    PACKED_EXIF: "packed_exif", RESOLUTION: "resolution", BACKGROUND: "background",
}  # fmt: skip

# What a stored picture file may be -> how its first bytes look; a dot is any byte.
STORED_KINDS = {
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "JPEG": rb"\xff\xd8\xff",
    "WEBP": rb"RIFF....WEBP",
    "GIF": rb"GIF8[79]a",
    "AVIF": rb"....ftypavi[fs]",
    "JPEG2000": rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
    "TIFF": rb"II\*\x00|MM\x00\*",
}
# Of a stored picture, which no model made.
NO_MODEL, LOSSLESS = "0" * 16, MAX_QUALITY

# Flag bits, as fields of the container; the last one is reserved.
_FLAGS = {"grey": 1, "plain": 2, "flat": 4, "dependent": 8, "equal": 16, "stored": 32, "stored_alpha": 64}
_COLOUR_BYTES = 3  # of a tile of a flat picture
_CRC_BYTES = 4
_MAX_VARINT_BYTES = 5
_BLOCK = 2**20  # bytes read at once
_STORED_PREFIX = 16  # bytes that tell the format of a stored picture
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

    Sections are None when absent, never empty; XMP and what is packed are zlib streams.
    """

    model_id: str  # 16 lower-case hex digits: first 8 bytes of a SHA-256 over weights, tables and architecture
    quality: int  # hundredths, 0 to 10000
    width: int  # of the original picture, in pixels
    height: int
    # In raster order, as many as tile_grid says; one where the picture is stored. None: of a damaged file, cut off.
    tiles: Sequence[Tile | None]
    grey: bool = False  # the picture was grey: decode to mode "L"
    plain: bool = False  # the latents are those of the plain transform, not of the model's learned one
    flat: bool = False  # each tile has one colour: its data are R, G, B, its lanes 1, its CRC that of these bytes
    dependent: bool = False  # the latents were quantised by a trellis
    equal: bool = False  # the three channels were equal, in a picture that was not of one channel
    stored: bool = False  # the one tile is a picture file: its lanes are 1, its CRC that of these bytes
    stored_alpha: bool = False  # and that picture has alpha
    alpha: bytes | None = None  # lossless grey PNG of the alpha plane; None when the picture is opaque
    icc: bytes | None = None  # ICC profile
    exif: bytes | None = None  # EXIF in its TIFF form, without the "Exif" prefix of JPEG
    xmp: bytes | None = None
    packed_icc: bytes | None = None
    iptc: bytes | None = None  # IPTC-IIM records
    packed_exif: bytes | None = None
    resolution: bytes | None = None  # pixels per inch in units of 1/10000, across and, where it differs, down: varints
    background: bytes | None = None  # blocks that have one colour, see codec/background.py
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
class _Start:
    """The fields of a header before its tables."""

    model_id: str
    quality: int
    width: int
    height: int
    grey: bool
    plain: bool
    flat: bool
    dependent: bool
    equal: bool
    stored: bool
    stored_alpha: bool


@dataclass(frozen=True)
class Header(_Start):
    """What the first bytes of a file say, confirmed by their checksum."""

    tiles: tuple[TileEntry, ...]
    sections: tuple[SectionEntry, ...]
    size: int  # bytes of the header itself

    @property
    def alpha(self) -> bool:
        return self.stored_alpha or any(section.type == ALPHA for section in self.sections)

    @property
    def file_size(self) -> int:
        """Bytes of the whole file: header, sections and tiles."""
        return self.size + sum(section.length for section in self.sections) + sum(tile.length for tile in self.tiles)

    def layout(self) -> list[tuple[str, int, int]]:
        """The parts of the file as (name, offset, length), in file order and without gaps.

        Names: ``header``; ``alpha``, ``exif``, ``icc``... or ``section 64`` for one that this reader skips; ``tile 0``,
        ``tile 1``... or ``stored``.
        """
        parts = [("header", 0, self.size)]
        named = [(_NAMES.get(section.type, f"section {section.type}"), section.length) for section in self.sections]
        named += [("stored" if self.stored else f"tile {n}", tile.length) for n, tile in enumerate(self.tiles)]
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
    _check_kind(container)
    count = tile_count(container)
    if len(container.tiles) != count:
        raise Corrupt(f"corrupt: {len(container.tiles)} tiles; needed {count}")
    tiles = []
    for index, tile in enumerate(container.tiles):
        if tile is None:
            raise Corrupt(f"corrupt: tile {index} is lost")
        _check_tile(index, len(tile.data), tile.lanes, container)
        if not 0 <= tile.symbols_crc < 2**32:
            raise Corrupt(f"corrupt: a symbols CRC of {tile.symbols_crc} does not fit in 32 bits")
        tiles.append(tile)
    if container.stored:
        _check_stored(tiles[0])
    sections = _sections_of(container)
    _check_section_types([type_ for type_, _ in sections], container)
    for type_, section in sections:
        _check_section(type_, len(section), container.width, container.height)

    flags = sum(bit for name, bit in _FLAGS.items() if getattr(container, name))
    header = b"".join(
        [
            MAGIC,
            bytes([VERSION, flags]),
            bytes.fromhex(container.model_id),
            container.quality.to_bytes(2, "little"),
            varint_bytes(container.width),
            varint_bytes(container.height),
            *(
                varint_bytes(len(tile.data))
                + varint_bytes(tile.lanes)
                + tile.symbols_crc.to_bytes(_CRC_BYTES, "little")
                for tile in tiles
            ),
            bytes([len(sections)]),
            *(bytes([type_]) + varint_bytes(len(section)) + _crc(section) for type_, section in sections),
        ]
    )
    contents = [section for _, section in sections] + [tile.data for tile in tiles]
    return b"".join([header, _crc(header), *contents])


def unpack(data: BytesLike) -> Container:
    """The container in the bytes of a file; the inverse of ``pack``.

    Header, sections and stored pictures are verified here; tiles by their symbols CRCs, when they are decoded.

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
    tiles = tuple(Tile(reader.take(tile.length), tile.lanes, tile.symbols_crc) for tile in header.tiles)
    if header.stored:
        _check_stored(tiles[0])
    return _container(header, tiles, sections)


def unpack_partly(file: IO[bytes]) -> Container:
    """The container of a file whose tiles are read when they are asked for.

    What :func:`unpack` verifies is verified here as well.

    Args:
        file: a binary file, read from its position on; if it can seek, no more of it is read than is asked for. It must
            stay open for as long as tiles are taken from the container, by one thread.

    Raises:
        NotThisFormat, UnsupportedVersion, Truncated, Corrupt, TooLarge
    """
    if not file.seekable():
        return unpack(read_file(file))
    begin = file.tell()
    header = read_header(file)
    if header.stored:
        file.seek(begin)
        return unpack(read_file(file))
    _check_length(header, file.seek(0, os.SEEK_END) - begin)
    file.seek(begin + header.size)
    sections = {}
    for entry in header.sections:
        sections[entry.type] = _read_up_to(file, entry.length)
        _check_crc(entry, zlib.crc32(sections[entry.type]))
    return _container(header, _TilesInFile(file, begin, header), sections)


class _TilesInFile(Sequence[Tile]):
    """The tiles of a file, read one by one."""

    def __init__(self, file: IO[bytes], begin: int, header: Header) -> None:
        self._file, self._entries = file, header.tiles
        parts = header.layout()[-len(header.tiles) :]
        self._starts = [begin + offset for _, offset, _ in parts]

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, number: Any) -> Any:  # slices nobody asks for
        entry = self._entries[number]
        self._file.seek(self._starts[number])
        data = _read_up_to(self._file, entry.length)
        if len(data) < entry.length:  # it has changed since
            raise _truncated(entry.length, len(data))
        return Tile(data, entry.lanes, entry.symbols_crc)


def unpack_damaged(data: BytesLike) -> tuple[Container, list[str]]:
    """What can be had of a file whose header is whole: its container, and names of the sections that are lost.

    Tiles that are cut off are None; damage within tiles shows when they are decoded. Bytes after the end are passed
    over.

    Raises:
        NotThisFormat, UnsupportedVersion, Truncated, Corrupt, TooLarge: of the header, or of a stored picture.
    """
    header = read_header(data)
    if header.stored:
        return unpack(data), []
    parts = [bytes(data[offset : offset + length]) for _, offset, length in header.layout()[1:]]
    count, lost, sections = len(header.sections), [], {}
    for entry, part in zip(header.sections, parts):
        if len(part) == entry.length and zlib.crc32(part) == entry.crc:
            sections[entry.type] = part
        else:
            lost.append(_NAMES.get(entry.type, f"section {entry.type}"))
    tiles = tuple(
        Tile(part, entry.lanes, entry.symbols_crc) if len(part) == entry.length else None
        for entry, part in zip(header.tiles, parts[count:])
    )
    return _container(header, tiles, sections), lost


def _container(header: Header, tiles: Sequence[Tile | None], sections: dict[int, bytes]) -> Container:
    fields: dict[str, Any] = {name: getattr(header, name) for name in _FLAGS}
    fields |= {name: sections.get(type_) for type_, name in _NAMES.items()}
    return Container(
        model_id=header.model_id,
        quality=header.quality,
        width=header.width,
        height=header.height,
        tiles=tiles,
        extra=tuple((type_, data) for type_, data in sections.items() if type_ not in _NAMES),
        **fields,
    )


def read_file(file: IO[bytes]) -> bytes:
    """The bytes of a compressed file, for :func:`unpack`: no more than its header announces, and one that tells more.

    Memory grows with what is there, not with what is announced.

    Args:
        file: a binary file, read from its position on.

    Raises:
        NotThisFormat, UnsupportedVersion, Truncated, Corrupt, TooLarge: of the header.
    """
    start = _read_up_to(file, HEADER_MAX)
    return start + _read_up_to(file, read_header(start).file_size + 1 - len(start))


def verify_file(file: IO[bytes]) -> Header:
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
        _check_crc(entry, _crc_of_next(file, entry.length))
    if header.stored:
        place = file.tell()
        _check_stored_crc(header.tiles[0], _crc_of_next(file, header.tiles[0].length))
        file.seek(place)
        stored_kind(file.read(_STORED_PREFIX))
    return header


def _crc_of_next(file: IO[bytes], count: int) -> int:
    """CRC-32 of so many bytes of a file, or as many as there are."""
    crc = 0
    while count and (block := file.read(min(count, _BLOCK))):
        crc, count = zlib.crc32(block, crc), count - len(block)
    return crc


def stored_kind(data: bytes) -> str:
    """Pillow's name of the format of a stored picture that begins like this, one of STORED_KINDS; else Corrupt."""
    for kind, start in STORED_KINDS.items():
        if re.match(start, data[:_STORED_PREFIX], re.DOTALL):
            return kind
    raise Corrupt("corrupt: the stored picture is of no format that may be stored")


def stored_file(container: Container) -> bytes:
    """The picture file that a container with ``stored`` carries."""
    (tile,) = container.tiles
    assert container.stored and tile is not None
    return tile.data


def read_header(source: IO[bytes] | BytesLike) -> Header:
    """The header at the beginning of a file: what is in it and where, without reading all of it.

    Args:
        source: the first bytes of a file, HEADER_MAX are enough for any; or a binary file, read from its position on.

    Raises:
        NotThisFormat, UnsupportedVersion, Truncated, Corrupt, TooLarge
    """
    if hasattr(source, "read"):
        return _read_header(_Reader(_read_up_to(cast("IO[bytes]", source), HEADER_MAX)))
    return _read_header(_Reader(source))


def read_metadata(file: IO[bytes]) -> tuple[Header, dict[str, bytes | None]]:
    """The header of a file, and ``{name: bytes}`` of its sections but alpha, as Container names them; None: not there.

    What is damaged counts as not there. No tiles are read, but that of a stored picture, which comes as ``stored``.

    Args:
        file: a binary file that can seek, read from its position on.

    Raises:
        NotThisFormat, UnsupportedVersion, Truncated, Corrupt, TooLarge: of the header.
    """
    start = file.tell()
    header = read_header(file)
    found = {**dict.fromkeys(name for type_, name in _NAMES.items() if type_ != ALPHA), "stored": None}
    parts = [(_NAMES.get(entry.type), entry.length, entry.crc) for entry in header.sections]
    parts += [("stored", tile.length, tile.symbols_crc) for tile in header.tiles if header.stored]
    offset = start + header.size
    for name, length, crc in parts:
        if name in found:
            file.seek(offset)
            contents = _read_up_to(file, length)
            if zlib.crc32(contents) == crc:
                found[name] = contents
        offset += length
    return header, found


def tile_grid(width: int, height: int) -> tuple[int, int]:
    """(columns, rows) of the tiles of a picture."""
    return -(-width // TILE_SIDE), -(-height // TILE_SIDE)


def tile_count(header: _Start | Container) -> int:
    """Tiles of a file with this Header or Container."""
    columns, rows = tile_grid(header.width, header.height)
    return 1 if header.stored else columns * rows


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


def _read_up_to(file: IO[bytes], count: int) -> bytes:
    """So many bytes of a file, or as many as there are."""
    blocks = []
    while count > 0 and (block := file.read(min(count, _BLOCK))):
        blocks.append(block)
        count -= len(block)
    return b"".join(blocks)


class _Reader:
    """A position in some bytes; every read is "exactly n bytes, or an error"."""

    def __init__(self, data: BytesLike) -> None:
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
    unknown = flags & ~sum(_FLAGS.values())
    if unknown:
        raise UnsupportedVersion(f"unsupported version: unknown flags {unknown:#04x}")
    model_id = reader.take(8).hex()
    quality = reader.number(2)
    _check_fields(model_id, quality)
    width = reader.varint()
    height = reader.varint()
    check_size(width, height)
    start = _Start(model_id, quality, width, height, **{name: bool(flags & bit) for name, bit in _FLAGS.items()})
    _check_kind(start)

    count = tile_count(start)
    # A few bytes that claim a huge picture end here, before the first of its tiles.
    reader.need(count * _TILE_ENTRY[0] + 1 + _CRC_BYTES)
    tiles = []
    for index in range(count):
        length, lanes = reader.varint(), reader.varint()
        _check_tile(index, length, lanes, start)
        tiles.append(TileEntry(length, lanes, reader.number(_CRC_BYTES)))

    sections = []
    count = reader.number(1)
    if count > MAX_SECTIONS:
        raise TooLarge(f"too large: {count} sections; at most {MAX_SECTIONS}")
    for _ in range(count):
        type_, length = reader.number(1), reader.varint()
        _check_section(type_, length, width, height)
        sections.append(SectionEntry(type_, length, reader.number(_CRC_BYTES)))
    _check_section_types([section.type for section in sections], start)

    computed = zlib.crc32(memoryview(reader.data)[: reader.position])
    if computed != reader.number(_CRC_BYTES):
        raise Corrupt("corrupt: the checksum of the header does not match its contents")
    # Not before the checksum has spoken: a damaged type is no newer version.
    for section in sections:
        if section.type & REQUIRED and section.type not in _NAMES:
            raise UnsupportedVersion(f"unsupported version: it cannot be read without section {section.type}")
    return Header(**vars(start), tiles=tuple(tiles), sections=tuple(sections), size=reader.position)


def _sections_of(container: Container) -> list[tuple[int, bytes]]:
    """(type, contents) in file order: by type."""
    known = ((type_, getattr(container, name)) for type_, name in _NAMES.items())
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


def _check_kind(start: _Start | Container) -> None:
    """Corrupt where the flags of a _Start or a Container contradict each other."""
    if start.flat and (start.plain or start.dependent):
        raise Corrupt("corrupt: a picture of flat tiles has no latents, plain or not")
    if start.plain and start.dependent:
        raise Corrupt("corrupt: latents of the plain transform are not quantised by a trellis")
    if start.equal and (start.grey or start.stored):
        raise Corrupt("corrupt: the channels of a grey or stored picture need not be said to be equal")
    if start.stored and (start.plain or start.flat or start.dependent):
        raise Corrupt("corrupt: a stored picture has no latents")
    if start.stored_alpha and not start.stored:
        raise Corrupt("corrupt: alpha of a stored picture, where none is stored")
    if start.stored and (start.model_id, start.quality) != (NO_MODEL, LOSSLESS):
        raise Corrupt("corrupt: a stored picture of a model, or with loss")


def _check_stored(tile: Tile) -> None:
    _check_stored_crc(tile, zlib.crc32(tile.data))
    stored_kind(tile.data)


def _check_stored_crc(tile: Tile | TileEntry, crc: int) -> None:
    if crc != tile.symbols_crc:
        raise Corrupt("corrupt: the checksum of the stored picture does not match its contents")


def _check_length(header: Header, found: int) -> None:
    if found < header.file_size:
        raise _truncated(header.file_size, found)
    if found > header.file_size:
        raise Corrupt("corrupt: the file is longer than its header announces")


def _check_crc(entry: SectionEntry, crc: int) -> None:
    if crc != entry.crc:
        name = _NAMES.get(entry.type, f"section {entry.type}")
        raise Corrupt(f"corrupt: the checksum of {name} does not match its contents")


def _check_tile(index: int, length: int, lanes: int, start: _Start | Container) -> None:
    """Refuse what the tiles of a picture with this _Start or Container cannot be."""
    if start.flat and (length, lanes) != (_COLOUR_BYTES, 1):
        raise Corrupt(f"corrupt: tile {index} of a flat picture has {length} bytes and {lanes} lanes")
    if start.stored and lanes != 1:
        raise Corrupt(f"corrupt: a stored picture has {lanes} lanes")
    if not 1 <= lanes <= MAX_LANES:
        raise Corrupt(f"corrupt: tile {index} has {lanes} lanes; allowed 1 to {MAX_LANES}")
    if length < LANE_BYTES * lanes:
        raise Corrupt(f"corrupt: tile {index} has {length} bytes; {lanes} lanes need {LANE_BYTES * lanes}")
    if start.stored:
        limit = MAX_STORED_RATE * start.width * start.height + _STORED_SLACK
    else:
        padded = (min(TILE_SIDE, -(-side // _PADDING) * _PADDING) for side in (start.width, start.height))
        limit = MAX_TILE_RATE * math.prod(padded) + LANE_BYTES * lanes
    if length > limit:
        raise TooLarge(f"too large: tile {index} has {length} bytes; at most {limit}")


def _check_section_types(types: list[int], start: _Start | Container) -> None:
    """Refuse what the sections of a file with this _Start or Container cannot be."""
    if len(types) > MAX_SECTIONS:
        raise TooLarge(f"too large: {len(types)} sections; at most {MAX_SECTIONS}")
    if any(following <= type_ for type_, following in itertools.pairwise(types)):
        raise Corrupt("corrupt: the types of the sections do not rise")
    for one, other in ((EXIF, PACKED_EXIF), (ICC, PACKED_ICC)):
        if one in types and other in types:
            raise Corrupt(f"corrupt: {_NAMES[one]} is there twice")
    if start.stored and ALPHA in types:
        raise Corrupt("corrupt: an alpha plane beside a stored picture")
    if (start.stored or start.flat) and BACKGROUND in types:
        raise Corrupt("corrupt: a background, where no latents are")


def _check_section(type_: int, length: int, width: int, height: int) -> None:
    limits = {
        ICC: MAX_ICC,
        PACKED_ICC: MAX_ICC,
        EXIF: MAX_EXIF,
        PACKED_EXIF: MAX_EXIF,
        XMP: MAX_XMP,
        IPTC: MAX_IPTC,
        RESOLUTION: MAX_RESOLUTION,
        # A colour, a bit a block, and zlib's framing.
        BACKGROUND: -(-height // 8) * -(-width // 64) + MAX_BACKGROUND,
        # An uncompressed grey PNG takes a byte a pixel, one a row, and some framing.
        ALPHA: 3 * width * height + 1024,
    }
    limit = limits.get(type_, MAX_SKIPPED)
    if length > limit:
        raise TooLarge(f"too large: {length} bytes of {_NAMES.get(type_, f'section {type_}')}; at most {limit}")
    if length == 0 and type_ in _NAMES:
        raise Corrupt(f"corrupt: the {_NAMES[type_]} section is announced but empty")


def varints(data: bytes) -> list[int]:
    """The varints that some bytes consist of."""
    reader, found = _Reader(data), []
    while reader.position < len(reader.data):
        found.append(reader.varint())
    return found


def _truncated(needed: int, found: int) -> Truncated:
    return Truncated(f"truncated: needed {needed} bytes, found {found}")


def _crc(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(_CRC_BYTES, "little")


def varint_bytes(value: int) -> bytes:
    """Unsigned LEB128, as short as possible."""
    assert 0 <= value < 2**32
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
