"""What a picture file says besides its pixels, from files, edited, into sections: EXIF, XMP, IPTC, resolution, ICC.

Kept byte for byte but for four things. The orientation is set to 1, as the pixels are turned upright. The thumbnail of
EXIF is taken out: it shows the picture as it was, sideways or before it was cropped. Of a TIFF file, whose EXIF
describes the file too, only what describes the picture is copied. And GPS positions are taken out on request. EXIF is
edited where it stands, so that nothing moves and the notes of camera makers, which point into it, stay readable.

The structure of EXIF is that of TIFF 6.0 (1992), with the tags of CIPA DC-008. Everything comes from strangers: every
offset is checked, and what is damaged is left out, never guessed at.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from dataclasses import dataclass, field
from typing import IO, Protocol

from . import bitstream
from .errors import Corrupt
from .files import BytesLike

PREFIX = b"Exif\x00\x00"  # stands before the TIFF structure in JPEG, and in Pillow's info["exif"]

ORIENTATION, XMP_TAG, IPTC_TAG, EXIF_IFD, GPS_IFD, INTEROP_IFD = 0x0112, 700, 33723, 0x8769, 0x8825, 0xA005
_THUMBNAIL, _THUMBNAIL_BYTES = 0x0201, 0x0202
# What somebody said about the picture, in the first directory of a TIFF file: ImageDescription, Make, Model,
# XResolution, YResolution, ResolutionUnit, Software, DateTime, Artist, HostComputer, Rating, RatingPercent, Copyright,
# XPTitle to XPSubject. The rest says how the file stores its pixels.
_DESCRIPTIVE = frozenset(
    [270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 0x4746, 0x4749, 33432, *range(40091, 40096)]
)
_DIRECTORIES = (EXIF_IFD, GPS_IFD)  # that the first directory points to
_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    129: 1,
}  # type -> bytes of a value
_UNITS = {5: 4, 10: 4}  # types of two numbers -> bytes of one
_MAX_ENTRIES = 2000  # of one directory; cameras write up to 60


@dataclass(frozen=True)
class Metadata:
    """All of it; None where there is nothing. ``dpi``: pixels per inch, across and down."""

    exif: bytes | None = field(default=None, repr=False)  # TIFF structure without the "Exif" prefix; upright
    xmp: bytes | None = field(default=None, repr=False)
    iptc: bytes | None = field(default=None, repr=False)  # IPTC-IIM records
    dpi: tuple[float, float] | None = None


class Sections(Protocol):
    """The metadata sections of a file: a bitstream.Container, or what has its fields."""

    @property
    def exif(self) -> bytes | None: ...
    @property
    def icc(self) -> bytes | None: ...
    @property
    def xmp(self) -> bytes | None: ...
    @property
    def iptc(self) -> bytes | None: ...
    @property
    def resolution(self) -> bytes | None: ...
    @property
    def packed_exif(self) -> bytes | None: ...
    @property
    def packed_icc(self) -> bytes | None: ...


# EXIF


@dataclass(frozen=True)
class Entry:
    """One field of a directory."""

    tag: int
    type: int
    count: int
    data: bytes  # its values, in the byte order of the file
    place: int  # where in the file the entry itself is
    offset: int  # and its values


class Directories:
    """The directories of a TIFF structure.

    Args:
        file: a binary file, seekable; the structure begins where it begins.

    Raises:
        ValueError: it does not begin like one.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        start = self._at(0, 8)
        if start[:4] not in (b"II*\0", b"MM\0*"):
            raise ValueError("no TIFF structure")
        self.order = "<" if start[:2] == b"II" else ">"
        self.first = self._number(start[4:8])

    def entries(self, offset: int) -> tuple[list[Entry], int]:
        """(entries of the directory there, offset of the next one); ValueError where it is damaged."""
        (count,) = struct.unpack(self.order + "H", self._at(offset, 2))
        if count > _MAX_ENTRIES:
            raise ValueError(f"a directory of {count} entries")
        table = self._at(offset + 2, 12 * count + 4)
        return [self._entry(table[n : n + 12], offset + 2 + n) for n in range(0, 12 * count, 12)], self._number(
            table[-4:]
        )

    def _entry(self, raw, place):
        tag, type_, count = struct.unpack(self.order + "HHI", raw[:8])
        size = _SIZES.get(type_, 0) * count  # what is of no known type has no values that could be read
        offset = place + 8 if size <= 4 else self._number(raw[8:])
        return Entry(tag, type_, count, self._at(offset, size), place, offset)

    def _at(self, offset, count):
        if count > bitstream.MAX_SKIPPED:
            raise ValueError("too long")
        self._file.seek(offset)
        found = self._file.read(count)
        if len(found) < count:
            raise ValueError("cut short")
        return found

    def _number(self, data):
        return struct.unpack(self.order + "I", data)[0]

    def value(self, entry: Entry) -> int:
        """The first number of an entry of short or long integers."""
        return int.from_bytes(entry.data[: _SIZES.get(entry.type, 0)], "little" if self.order == "<" else "big")


def orientation(exif: bytes) -> int:
    """1 to 8; 0 where EXIF says nothing about it, or is damaged before it comes to that."""
    try:
        found = Directories(io.BytesIO(exif))
        (count,) = struct.unpack(found.order + "H", exif[found.first : found.first + 2])
        for place in range(found.first + 2, found.first + 2 + 12 * min(count, _MAX_ENTRIES), 12):
            tag, type_, _, value, _ = struct.unpack(found.order + "HHIHH", exif[place : place + 12])
            if (tag, type_) == (ORIENTATION, 3):
                return value if 1 <= value <= 8 else 1
    except (ValueError, struct.error):
        pass
    return 0


def is_sound(exif: bytes) -> bool:
    """Whether all directories of EXIF can be read."""
    try:
        found = Directories(io.BytesIO(exif))
        _walk(found)
        return True
    except ValueError:
        return False


def _walk(found):
    """{0, EXIF_IFD, GPS_IFD: entries} of those that are there, and the place of the pointer to the thumbnail's."""
    first, following = found.entries(found.first)
    directories = {0: first}
    for entry in first:
        if entry.tag in _DIRECTORIES and entry.count == 1 and entry.type in (4, 13):
            directories[entry.tag] = found.entries(found.value(entry))[0]
    for entry in directories.get(EXIF_IFD, ()):
        if entry.tag == INTEROP_IFD and entry.count == 1 and entry.type in (4, 13):
            found.entries(found.value(entry))
    return directories, following


def upright_exif(exif: bytes, without_gps: bool = False) -> bytes | None:
    """EXIF in the TIFF form, its orientation set to 1, without thumbnail and perhaps positions.

    None where it is damaged, or says nothing else.
    """
    try:
        found = Directories(io.BytesIO(exif))
        directories, following = _walk(found)
    except ValueError:
        return None
    if all(entry.tag == ORIENTATION for entry in directories[0]):
        return None
    edited = bytearray(exif)
    for entry in directories[0]:
        if entry.tag == ORIENTATION and entry.type == 3:
            struct.pack_into(found.order + "H", edited, entry.offset, 1)
    end = len(edited)
    if following:
        end = _without_thumbnail(found, edited, following)
        place = found.first + 2 + 12 * len(directories[0])
        edited[place : place + 4] = bytes(4)
    if without_gps and GPS_IFD in directories:
        _without_positions(found, edited, directories)
    upright = bytes(edited[:end])
    try:
        left = _walk(Directories(io.BytesIO(upright)))[0][0]
    except ValueError:
        return None
    return upright if left else None


def _without_thumbnail(found, edited, following):
    """Blank the directory of the thumbnail and its picture; returns where EXIF may end then."""
    try:
        entries, _ = found.entries(following)
    except ValueError:  # which nothing leads to any more
        return len(edited)
    spans = [(following, following + 6 + 12 * len(entries))]
    spans += [(entry.offset, entry.offset + len(entry.data)) for entry in entries]
    by_tag = {entry.tag: found.value(entry) for entry in entries if entry.type in (3, 4)}
    if _THUMBNAIL in by_tag and _THUMBNAIL_BYTES in by_tag:
        start = by_tag[_THUMBNAIL]
        spans.append((start, start + by_tag[_THUMBNAIL_BYTES]))
    # Nothing of what stays may be touched, whatever a damaged directory says.
    kept = _spans(found)
    end = len(edited)
    for start, stop in sorted(((start, min(stop, end)) for start, stop in spans), reverse=True):
        if start < 8 or stop <= start or any(start < to and at < stop for at, to in kept):
            continue
        edited[start:stop] = bytes(stop - start)
        if end - stop <= 1:  # values begin at even places
            end = start
    return max([end, *(to for _, to in kept)])


def _spans(found):
    """(start, stop) of everything that the first directory leads to."""
    spans = [(0, 8)]
    for tag, entries in _walk(found)[0].items():
        if not entries:
            continue
        start = entries[0].place - 2
        spans.append((start, start + 6 + 12 * len(entries)))
        spans += [(entry.offset, entry.offset + len(entry.data)) for entry in entries]
        for entry in entries if tag == EXIF_IFD else ():
            if entry.tag == INTEROP_IFD:
                inner, _ = found.entries(found.value(entry))
                if not inner:
                    continue
                spans.append((inner[0].place - 2, inner[0].place + 4 + 12 * len(inner)))
                spans += [(each.offset, each.offset + len(each.data)) for each in inner]
    return spans


def _without_positions(found, edited, directories):
    """Take the entry that leads to the positions out of the first directory, and blank them."""
    positions = directories[GPS_IFD]
    for entry in positions:
        edited[entry.offset : entry.offset + len(entry.data)] = bytes(len(entry.data))
    if positions:
        start = positions[0].place - 2
        edited[start : start + 6 + 12 * len(positions)] = bytes(6 + 12 * len(positions))
    first = directories[0]
    rest = b"".join(bytes(edited[entry.place : entry.place + 12]) for entry in first if entry.tag != GPS_IFD)
    count = len(rest) // 12
    start = found.first
    table = struct.pack(found.order + "H", count) + rest + bytes(4)  # no further directory: the thumbnail has gone
    edited[start : start + 6 + 12 * len(first)] = table.ljust(6 + 12 * len(first), b"\0")


def of_tiff(file: IO[bytes]) -> tuple[Metadata, int]:
    """(metadata, orientation) of a TIFF file: what its first directory says of the picture, and those of EXIF, GPS."""
    try:
        found = Directories(file)
        directories, _ = _walk(found)
    except ValueError:
        return Metadata(), 0
    by_tag = {entry.tag: entry for entry in directories[0]}
    turned = by_tag.get(ORIENTATION)
    turned = found.value(turned) if turned and turned.type == 3 else 0
    xmp, iptc = (by_tag[tag].data if tag in by_tag else None for tag in (XMP_TAG, IPTC_TAG))
    directories[0] = [entry for entry in directories[0] if entry.tag in _DESCRIPTIVE or entry.tag in directories]
    if EXIF_IFD in directories:
        directories[EXIF_IFD] = [entry for entry in directories[EXIF_IFD] if entry.tag != INTEROP_IFD]
    start = (b"II*\0" if found.order == "<" else b"MM\0*") + struct.pack(found.order + "I", 8)
    exif = start + _written(directories, found.order, 8) if directories[0] else None
    return Metadata(exif, xmp, iptc), turned if 1 <= turned <= 8 else 0


def into_tiff(tiff: BytesLike, metadata: Metadata) -> bytes:
    """A TIFF file, as Pillow writes it, with metadata; ValueError where EXIF is damaged."""
    target = Directories(io.BytesIO(tiff))
    own, following = target.entries(target.first)
    taken = {entry.tag for entry in own}
    added: dict[int, list[Entry]] = {0: []}
    if metadata.exif:
        source = Directories(io.BytesIO(metadata.exif))
        directories, _ = _walk(source)
        for tag, entries in directories.items():
            entries = [entry for entry in entries if tag or entry.tag in _DESCRIPTIVE or entry.tag in directories]
            entries = [entry for entry in entries if entry.tag != INTEROP_IFD and entry.type in _SIZES]
            added[tag] = [_swapped(entry, source.order != target.order) for entry in entries]
    for tag, data in ((XMP_TAG, metadata.xmp), (IPTC_TAG, metadata.iptc)):
        if data:
            added[0].append(Entry(tag, 7, len(data), data, 0, 0))
    added[0] = [entry for entry in added[0] if entry.tag not in taken] + own
    padded = bytes(tiff) + bytes(len(tiff) % 2)
    data = padded + _written(added, target.order, len(padded), following)
    return data[:4] + struct.pack(target.order + "I", len(padded)) + data[8:]


def _swapped(entry, needed):
    """The entry with its numbers in the other byte order."""
    if not needed:
        return entry
    unit = _UNITS.get(entry.type, _SIZES[entry.type])
    data = b"".join(entry.data[n : n + unit][::-1] for n in range(0, len(entry.data), unit)) if unit > 1 else entry.data
    return Entry(entry.tag, entry.type, entry.count, data, entry.place, entry.offset)


def _written(directories, order, offset, following=0):
    """Bytes at ``offset`` of a file: the first directory and those that it points to, each followed by its values."""
    parts, pointers = [], {}
    first_size = _size_of(directories[0])
    position = offset + first_size
    for tag, entries in directories.items():
        if tag and entries:
            pointers[tag] = position
            parts.append(_directory(entries, order, position, {}, 0))
            position += len(parts[-1])
    return _directory(directories[0], order, offset, pointers, following) + b"".join(parts)


def _size_of(entries):
    return (
        6 + 12 * len(entries) + sum(len(entry.data) + len(entry.data) % 2 for entry in entries if len(entry.data) > 4)
    )


def _directory(entries, order, offset, pointers, following):
    table, values = [struct.pack(order + "H", len(entries))], []
    position = offset + 6 + 12 * len(entries)
    for entry in sorted(entries, key=lambda entry: entry.tag):
        data = entry.data
        if entry.tag in pointers:
            data = struct.pack(order + "I", pointers[entry.tag])
        place = data.ljust(4, b"\0")
        if len(data) > 4:
            place = struct.pack(order + "I", position)
            values.append(data + bytes(len(data) % 2))
            position += len(values[-1])
        table.append(struct.pack(order + "HHI", entry.tag, entry.type, entry.count) + place)
    return b"".join([*table, struct.pack(order + "I", following), *values])


# XMP and IPTC


def xmp_orientation(xmp: bytes | None) -> int:
    """1 to 8; 0 where XMP says nothing about it."""
    found = re.search(rb"tiff:Orientation(?:=[\"']|>)([1-8])\b", xmp or b"")
    return int(found[1]) if found else 0


def upright_xmp(xmp: bytes, without_gps: bool = False) -> bytes | None:
    """An XMP packet whose orientation is 1, perhaps without positions."""
    xmp = re.sub(rb"(tiff:Orientation(?:=[\"']|>))[0-9]", rb"\g<1>1", xmp)
    if without_gps:
        xmp = re.sub(rb"\s+exif:GPS\w+\s*=\s*(?:\"[^\"]*\"|'[^']*')", b"", xmp)
        xmp = re.sub(rb"<(exif:GPS\w+)\b[^>]*(?:/>|>.*?</\1\s*>)", b"", xmp, flags=re.DOTALL)
    return xmp.rstrip(b"\0") or None


IPTC_RESOURCE = 1028
PHOTOSHOP = b"Photoshop 3.0\0"  # how the segment of JPEG that holds resources begins


def iptc_of_resources(data: bytes) -> bytes | None:
    """The IPTC records among Photoshop's image resources (Adobe Photoshop File Formats, "Image Resource Blocks")."""
    position = 0
    while data[position : position + 4] == b"8BIM" and position + 12 <= len(data):
        number = int.from_bytes(data[position + 4 : position + 6], "big")
        named = 1 + data[position + 6]
        start = position + 6 + named + named % 2
        size = int.from_bytes(data[start : start + 4], "big")
        contents = data[start + 4 : start + 4 + size]
        if number == IPTC_RESOURCE and len(contents) == size:
            return contents or None
        position = start + 4 + size + size % 2
    return None


def resources_of_iptc(iptc: bytes) -> bytes:
    """Inverse of :func:`iptc_of_resources`."""
    head = b"8BIM" + IPTC_RESOURCE.to_bytes(2, "big") + b"\0\0" + len(iptc).to_bytes(4, "big")
    return head + iptc + bytes(len(iptc) % 2)


# Sections


def sections(metadata: Metadata, icc: bytes | None) -> dict[str, bytes]:
    """Fields of a bitstream.Container."""
    found = {"xmp": metadata.xmp and zlib.compress(metadata.xmp, 9), "iptc": metadata.iptc}
    for name, data in (("icc", icc), ("exif", metadata.exif)):
        packed = data and zlib.compress(data, 9)
        shorter = data is not None and packed is not None and len(packed) < len(data)
        found[f"packed_{name}" if shorter else name] = packed if shorter else data
    if metadata.dpi:
        across, down = (round(10000 * number) for number in metadata.dpi)
        numbers = (across,) if across == down else (across, down)
        if all(0 < number < 2**32 for number in numbers):
            found["resolution"] = b"".join(bitstream.varint_bytes(number) for number in numbers)
    return {name: data for name, data in found.items() if data}


def of_container(container: Sections) -> tuple[Metadata, bytes | None]:
    """(metadata, ICC profile) of a bitstream.Container; Corrupt where they cannot be unpacked."""
    dpi = None
    if container.resolution:
        numbers = bitstream.varints(container.resolution)
        if len(numbers) not in (1, 2) or 0 in numbers:
            raise Corrupt("corrupt: a resolution that is none")
        dpi = numbers[0] / 10000, numbers[-1] / 10000
    exif = container.exif or _unpacked("exif", container.packed_exif, bitstream.MAX_EXIF)
    icc = container.icc or _unpacked("icc", container.packed_icc, bitstream.MAX_ICC)
    xmp = _unpacked("xmp", container.xmp, bitstream.MAX_XMP)
    return Metadata(exif, xmp, container.iptc, dpi), icc


def _unpacked(name, data, limit):
    """The contents of a zlib stream, asking for no more memory than the limit."""
    if data is None:
        return None
    inflater = zlib.decompressobj()
    try:
        contents = inflater.decompress(data, limit + 1)
    except zlib.error:
        raise Corrupt(f"corrupt: {name} cannot be unpacked") from None
    if len(contents) > limit or not inflater.eof or inflater.unused_data or not contents:
        raise Corrupt(f"corrupt: {name} does not unpack to at most {limit} bytes")
    return contents


def without_positions(metadata: Metadata) -> Metadata:
    """The metadata without GPS positions."""
    return Metadata(
        metadata.exif and upright_exif(metadata.exif, without_gps=True),
        metadata.xmp and upright_xmp(metadata.xmp, without_gps=True),
        metadata.iptc,
        metadata.dpi,
    )


def fitted(metadata: Metadata) -> tuple[Metadata, list[str]]:
    """(what of it a file may hold, a remark for each part that is too long)."""
    remarks, kept = [], {}
    limits = {"exif": bitstream.MAX_EXIF, "xmp": bitstream.MAX_XMP, "iptc": bitstream.MAX_IPTC}
    for name, limit in limits.items():
        data = getattr(metadata, name)
        if data and len(data) > limit:
            remarks.append(f"{name.upper()} of {len(data):,} bytes is left out; a file holds {limit:,}")
            data = None
        kept[name] = data
    return Metadata(**kept, dpi=metadata.dpi), remarks
