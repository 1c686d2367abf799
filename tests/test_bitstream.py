import dataclasses
import io
import os
import re
import subprocess
import sys
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec import bitstream as format2
from codec.bitstream import Container, Tile, pack, read_header, tile_grid, unpack, unpack_damaged
from codec.errors import BitstreamError, Corrupt, NotThisFormat, TooLarge, Truncated, UnsupportedVersion
from codec.latents import rans

DOCUMENT = Path(format2.__file__).with_name("BITSTREAM.md").read_text(encoding="utf-8")

PLAIN = Container(
    model_id="0123abcd4567ef89",
    quality=5000,
    width=768,
    height=512,
    tiles=(Tile(b"latents", 2, 0x01020304),),
)
PLAIN_BYTES = bytes.fromhex(
    "9d4c5143 02 00 0123abcd4567ef89 8813 8006 8004"  # the picture
    "07 02 04030201"  # its tile
    "00 e0e6dbd6"  # no sections, checksum
    "6c6174656e7473"  # "latents"
)
FULL = Container(
    model_id="ffffffffffffffff",
    quality=0,
    width=1025,
    height=2049,
    tiles=tuple(Tile(bytes([65 + i] * (3 + i)), 1, 2**32 - 1 - i) for i in range(6)),
    grey=True,
    plain=True,
    alpha=b"\x89PNG",
    icc=b"profile",
    exif=b"II*\0",
    xmp=b"xmp",
    iptc=b"iptc",
    resolution=b"\x01",
    extra=((64, b""), (254, b"of the future")),
)
STORED = Container(
    model_id=format2.NO_MODEL,
    quality=format2.LOSSLESS,
    width=1500,
    height=1100,
    tiles=(Tile(b"GIF89a...", 1, zlib.crc32(b"GIF89a...")),),
    stored=True,
    stored_alpha=True,
    packed_icc=b"profile",
    packed_exif=b"exif",
)

deterministic = settings(derandomize=True, deadline=None, database=None)


def with_checksum(header):
    """A header whose checksum fits whatever its contents are."""
    return bytes(header) + zlib.crc32(header).to_bytes(4, "little")


def plain_with(offset, replacement, length=None):
    """PLAIN with some header bytes replaced, the checksum repaired."""
    header = bytearray(PLAIN_BYTES[:27])
    header[offset : offset + (len(replacement) if length is None else length)] = replacement
    return with_checksum(header) + b"latents"


def with_sections(*entries):
    """PLAIN with sections (type, contents), in any order and of any type."""
    header = PLAIN_BYTES[:26] + bytes([len(entries)])
    for type_, contents in entries:
        header += bytes([type_]) + format2.varint_bytes(len(contents)) + format2._crc(contents)
    return with_checksum(header) + b"".join(contents for _, contents in entries) + b"latents"


def documented_dump():
    """(bytes, what they are) of the lines of the example in BITSTREAM.md."""
    block = re.search(r"```hexdump\n(.*?)```", DOCUMENT, re.DOTALL)[1]
    lines = [line.split("|") for line in block.splitlines()]
    return [(bytes.fromhex(hexadecimal), text.strip()) for hexadecimal, text in lines]


# Literal bytes


def test_literal_bytes_of_a_plain_file():
    assert pack(PLAIN).hex(" ") == PLAIN_BYTES.hex(" ")
    assert unpack(PLAIN_BYTES) == PLAIN


def test_documented_example_packs_and_unpacks_to_itself():
    lines = documented_dump()
    data = b"".join(part for part, _ in lines)
    contents = {
        name: b"".join(part for part, text in lines if text.startswith(f"{name}: "))
        for name in ("alpha", "EXIF", "unknown", "tile")
    }
    symbols = np.array([0, 1, -1, 0, -9, 1, 0, 0, 200, -1, 1, 1, 0, 1, 0, 0, -1, 1], "<i2")  # those of RANS.md
    example = Container(
        model_id="1f2e3d4c5b6a7988",
        quality=4250,
        width=300,
        height=2,
        tiles=(Tile(contents["tile"], 2, zlib.crc32(symbols.tobytes())),),
        alpha=contents["alpha"],
        exif=contents["EXIF"],
        extra=((192, b"note"),),
    )
    assert unpack(data) == example
    assert pack(example).hex(" ") == data.hex(" ")


def test_documented_example_annotates_the_parts_where_they_are():
    size = {}
    for part, text in documented_dump():
        name = text.split(":")[0] if text.split(":")[0] in ("alpha", "EXIF", "unknown", "tile") else "header"
        size[name] = size.get(name, 0) + len(part)
    layout = read_header(b"".join(part for part, _ in documented_dump())).layout()
    assert [name for name, _, _ in layout] == ["header", "alpha", "exif", "section 192", "tile 0"]
    assert [length for _, _, length in layout] == list(size.values())
    fields = [text.split()[0] for _, text in documented_dump()[:11]]
    assert fields == ["magic", "version", "flags:", "model", "quality", "width", "height", *["tile"] * 3, "sections:"]


def test_documented_stream_is_that_of_the_coder():
    coder = Path(rans.__file__).with_name("RANS.md").read_text(encoding="utf-8")
    dump = re.search(r"```hexdump\n(.*?)```", coder, re.DOTALL)[1]
    stream = b"".join(bytes.fromhex(line.split("|")[0]) for line in dump.splitlines())
    assert stream == b"".join(part for part, text in documented_dump() if text.startswith("tile: "))


def test_documented_limits_are_those_of_the_program():
    table = re.findall(r"^\| `(MAX_\w+)` \| (\d+) \|", DOCUMENT, re.MULTILINE)
    assert [name for name, _ in table] == [
        "MAX_SIDE", "MAX_PIXELS", "MAX_QUALITY", "MAX_LANES", "MAX_SECTIONS", "MAX_EXIF", "MAX_ICC", "MAX_XMP",
        "MAX_IPTC", "MAX_RESOLUTION", "MAX_SKIPPED", "MAX_BACKGROUND", "MAX_TILE_RATE", "MAX_STORED_RATE",
    ]  # fmt: skip
    for name, limit in table:
        assert int(limit) == getattr(format2, name)
    assert format2.MIME_TYPE in DOCUMENT
    types = re.findall(r"^\| (\d+) \| ([A-Za-z ]+) \|", DOCUMENT, re.MULTILINE)
    assert [(int(number), name.lower().replace(" ", "_")) for number, name in types] == sorted(format2._NAMES.items())


def test_limits_of_tiles_are_those_of_the_coder():
    assert format2.MAX_LANES == rans.MAX_LANES and format2.LANE_BYTES == rans.STATE_BYTES


# There and back


@st.composite
def containers(draw):
    side = st.sampled_from([1, 2, 127, 128, 1023, 1024, 1025, 3000, 16384])
    width, height = draw(side), draw(side)
    columns, rows = tile_grid(width, height)
    lanes = draw(st.sampled_from([1, 2, 127, 128, 300]))
    crc = draw(st.integers(0, 2**32 - 1))
    streams = draw(st.lists(st.binary(max_size=200), min_size=1, max_size=4))
    tiles = (Tile(bytes(3 * lanes) + streams[i % len(streams)], lanes, crc ^ i) for i in range(columns * rows))
    section = st.none() | st.binary(min_size=1, max_size=300)
    return Container(
        model_id=draw(st.binary(min_size=8, max_size=8)).hex(),
        quality=draw(st.integers(0, 10000)),
        width=width,
        height=height,
        tiles=tuple(tiles),
        grey=draw(st.booleans()),
        plain=draw(st.booleans()),
        alpha=draw(section),
        icc=draw(section),
        exif=draw(section),
        xmp=draw(section),
        iptc=draw(section),
        extra=tuple(
            sorted(draw(st.dictionaries(st.integers(32, 127).map(lambda n: 2 * n), st.binary(max_size=9))).items())
        ),
    )


@deterministic
@given(containers())
def test_every_container_returns(container):
    data = pack(container)
    assert unpack(data) == container
    header = read_header(data[: format2.HEADER_MAX])
    assert header.file_size == len(data)
    for name in ("model_id", "quality", "width", "height", "grey", "plain"):
        assert getattr(header, name) == getattr(container, name)
    assert header.alpha == (container.alpha is not None)

    layout = header.layout()
    position = 0
    for _, offset, length in layout:
        assert offset == position
        position += length
    assert position == len(data)
    part = {name: data[offset : offset + length] for name, offset, length in layout}
    for name in ("alpha", "exif", "icc", "xmp", "iptc"):
        assert part.get(name) == getattr(container, name)
    assert [part[f"tile {i}"] for i in range(len(container.tiles))] == [tile.data for tile in container.tiles]


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 1, "height": 1},
        {"quality": 10000},
        {"tiles": (Tile(bytes(3), 1, 0),)},
        {"tiles": (Tile(bytes(3 * 4096), 4096, 2**32 - 1),)},
        {"tiles": (Tile(bytes(2**21), 1024, 0),)},
        {"width": 65535, "height": 1, "tiles": (Tile(bytes(3), 1, 0),) * 64},
        {"width": 4097, "height": 65519, "tiles": (Tile(bytes(3), 1, 0),) * 320},
        {"alpha": bytes(3 * 768 * 512 + 1024)},
        {"icc": bytes(format2.MAX_ICC)},
        {"exif": bytes(format2.MAX_EXIF)},
    ],
    ids=str,
)
def test_extreme_values_return(changes):
    container = dataclasses.replace(PLAIN, **changes)
    assert unpack(pack(container)) == container


def test_tiles_cover_the_picture():
    assert tile_grid(1, 1) == tile_grid(1024, 1024) == (1, 1)
    assert tile_grid(1025, 1024) == (2, 1) and tile_grid(1024, 1025) == (1, 2)
    assert tile_grid(16384, 16384) == (16, 16) and tile_grid(65535, 1) == (64, 1)


def test_no_size_within_the_limits_has_more_tiles_than_said():
    most = 0
    for columns in range(1, 65):
        narrowest = 1024 * (columns - 1) + 1
        tallest = min(format2.MAX_PIXELS // narrowest, format2.MAX_SIDE)
        most = max(most, columns * tile_grid(narrowest, tallest)[1])
    assert most == format2.MAX_TILES


def test_longest_header_fits_in_header_max():
    tiles = (Tile(bytes(3 * 128), 128, 0),) * format2.MAX_TILES
    extra = tuple((2 * n, b"") for n in range(64, 96))
    header = read_header(pack(Container("f" * 16, 10000, 4097, 65519, tiles, extra=extra)))
    # Lengths took 2 bytes in tiles and 1 in sections, where the limits allow 5; so did the width, which may take 3.
    assert header.size + 3 * len(tiles) + 4 * len(extra) + 1 == format2.HEADER_MAX <= 4096


def test_overhead_of_a_photograph_is_small():
    def overhead(width, height, size, lanes):
        container = dataclasses.replace(PLAIN, width=width, height=height, tiles=(Tile(bytes(size), lanes, 0),))
        return len(pack(container)) - size

    assert overhead(1, 1, 10, 1) == 29
    assert overhead(768, 512, 300, 1) == 32
    assert overhead(768, 512, 20_000, 33) == 33
    assert overhead(1024, 1024, 400_000, 666) == 34
    assert overhead(1024, 1024, 2**22, 1024) == 35


def test_any_bytes_like_object_unpacks():
    assert unpack(bytearray(PLAIN_BYTES)) == unpack(memoryview(PLAIN_BYTES)) == PLAIN


def test_header_needs_only_the_beginning_of_a_file():
    for container in (PLAIN, FULL):
        data = pack(container)
        header = read_header(data)
        assert read_header(data[: header.size]) == header
        file = io.BytesIO(b"before" + data)
        file.seek(6)
        assert read_header(file) == header
        with pytest.raises(Truncated):
            read_header(data[: header.size - 1])


# Files


class Counted(io.BytesIO):
    """A file that says how much of it was read; one that cannot be wound, as a pipe, if so wanted."""

    def __init__(self, data, pipe=False):
        super().__init__(data)
        self.count, self.pipe = 0, pipe

    def seekable(self):
        return not self.pipe

    def read(self, size=-1):
        assert 0 <= size <= 2**20
        data = super().read(min(size, 100) if self.pipe else size)
        self.count += len(data)
        return data


@pytest.mark.parametrize("pipe", [False, True])
def test_files_are_read_as_far_as_their_header_says(pipe):
    tile = Tile(bytes(50_000), 1, 0)
    data = pack(dataclasses.replace(FULL, tiles=(tile,) * len(FULL.tiles)))
    header = read_header(data)
    for read in (format2.read_file, format2.verify_file):
        file = Counted(data + bytes(10**6), pipe)
        if read is format2.read_file:
            assert read(file) == data + b"\0"
        else:
            with pytest.raises(Corrupt, match="longer than its header announces"):
                read(file)
        assert file.count <= len(data) + 1
    file = Counted(b"before" + data, pipe)
    file.read(6)
    assert format2.read_file(file) == data
    file = Counted(b"before" + data, pipe)
    file.read(6)
    assert format2.verify_file(file) == header
    assert pipe or file.count < 6 + format2.HEADER_MAX + header.size + 1000  # tiles were not read
    for cut in range(0, len(data), 997):
        assert format2.read_file(Counted(data[:cut], pipe)) == data[:cut] if cut >= header.size else True
        with pytest.raises(Truncated):
            format2.verify_file(Counted(data[:cut], pipe))
    for length in (0, 3, header.size - 1):
        with pytest.raises(Truncated):
            format2.read_file(Counted(data[:length], pipe))
    damaged = bytearray(data)
    damaged[header.size] ^= 1
    with pytest.raises(Corrupt, match="checksum of alpha"):
        format2.verify_file(Counted(damaged, pipe))


def test_foreign_and_lying_files_cost_no_memory(tmp_path):
    path = tmp_path / "large.bin"
    lying = plain_with(20, format2.varint_bytes(20_000_000), 1)
    for start, errors in ((b"", NotThisFormat), (PLAIN_BYTES, Corrupt), (lying, Truncated)):
        path.write_bytes(start)
        if start != lying:
            os.truncate(path, 3 * 2**30)  # sparse
        for read in (format2.read_file, format2.verify_file):
            tracemalloc.start()
            with open(path, "rb") as file, pytest.raises(errors):
                unpack(read(file))
            assert tracemalloc.get_traced_memory()[1] < 2_000_000
            tracemalloc.stop()


# Damage


@pytest.mark.parametrize("container", [PLAIN, FULL], ids=["plain", "full"])
def test_every_truncation_is_refused(container):
    data = pack(container)
    for length in range(len(data)):
        with pytest.raises(Truncated, match=f"found {length}$"):
            unpack(data[:length])


def test_truncation_says_how_much_is_missing():
    with pytest.raises(Truncated, match="^truncated: needed 38 bytes, found 33$"):
        unpack(PLAIN_BYTES[:33])


def test_a_container_that_has_lost_a_tile_is_not_packed():
    found, lost = unpack_damaged(pack(PLAIN)[:-1])
    assert found.tiles == (None,) and not lost
    with pytest.raises(Corrupt, match="tile 0 is lost"):
        pack(found)


@pytest.mark.parametrize("container", [PLAIN, FULL], ids=["plain", "full"])
def test_every_damaged_byte_is_refused_or_stays_in_its_tile(container):
    data = pack(container)
    parts = read_header(data).layout()
    first = next(offset for name, offset, _ in parts if name == "tile 0")
    for position in range(len(data)):
        for change in (0x01, 0x80, 0xFF, 0x55):
            damaged = bytearray(data)
            damaged[position] ^= change
            if position < first:
                with pytest.raises(BitstreamError):
                    unpack(damaged)
                continue
            found = unpack(damaged)
            hit = [was.data != now.data for was, now in zip(container.tiles, found.tiles, strict=True)]
            assert hit.count(True) == 1
            assert dataclasses.replace(found, tiles=container.tiles) == container


def test_every_damaged_byte_of_a_tile_is_found_by_decoding_it():
    tables = rans.Tables(
        np.array([0, 20000, 50000, 65000, 65536, 0, 64000, 65500, 65536], np.int32),
        np.array([5, 4], np.int32),
        np.array([-1, 0], np.int32),
    )
    random = np.random.default_rng(0)
    rows, symbols = random.integers(0, 2, 600), random.integers(-1, 2, 600)
    symbols[::100] = 300
    encoder = rans.Encoder(tables)
    encoder.push(rows, symbols)
    lanes, stream = encoder.flush(4)
    crc = zlib.crc32(symbols.astype("<i2").tobytes())
    container = dataclasses.replace(PLAIN, tiles=(Tile(stream, lanes, crc),))
    data = pack(container)

    def decodes(data):
        try:
            tile = unpack(data).tiles[0]
            decoder = rans.Decoder(tables, tile.data, tile.lanes)
            found = decoder.pull(rows)
            decoder.finish()
        except BitstreamError:
            return False
        return zlib.crc32(found.astype("<i2").tobytes()) == tile.symbols_crc

    assert decodes(data)
    for position in range(len(data)):
        for change in (0x01, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[position] ^= change
            assert not decodes(damaged)


def test_trailing_bytes_are_refused():
    for extra in (b"\0", b"\n", PLAIN_BYTES):
        with pytest.raises(Corrupt, match="longer than its header announces"):
            unpack(PLAIN_BYTES + extra)


@pytest.mark.parametrize("data", [b"\x89PNG", b"text", b"\x9dLQX" + PLAIN_BYTES[4:], b"\x9dL\0", bytes(99)])
def test_other_files_are_not_this_format(data):
    with pytest.raises(NotThisFormat):
        unpack(data)


def test_unknown_versions_are_named():
    for version in (0, 3, 255):
        with pytest.raises(UnsupportedVersion, match=f"format {version};"):
            unpack(plain_with(4, bytes([version])))
    with pytest.raises(UnsupportedVersion, match="format 3;"):
        unpack(b"\x9dLQC\x03")


def test_format_1_is_refused_with_a_line_of_its_own():
    old = bytes.fromhex("9d4c514301000123abcd881380068004040302010407736964656c6174656e7473af026ad0")
    for data in (old, old[:5]):
        with pytest.raises(UnsupportedVersion, match="format 1 is no longer read; it was experimental"):
            unpack(data)
        with pytest.raises(UnsupportedVersion, match="format 1"):
            read_header(data)


def test_unknown_flags_are_refused_as_a_newer_version():
    with pytest.raises(UnsupportedVersion, match="flags"):
        unpack(plain_with(5, bytes([128])))


@pytest.mark.parametrize(
    "changes",
    [
        {"flat": True}, {"plain": True}, {"dependent": True}, {"equal": True}, {"model_id": PLAIN.model_id},
        {"quality": 5000},
        {"alpha": b"alpha"}, {"tiles": STORED.tiles * 4}, {"tiles": (Tile(b"GIF89a...", 1, 7),)}, {"stored": False},
        {"tiles": (Tile(b"GIF89a...", 2, STORED.tiles[0].symbols_crc),)},
        {"tiles": (Tile(b"BM anything", 1, zlib.crc32(b"BM anything")),)},
        {"icc": b"twice"}, {"exif": b"twice"},
    ],
    ids=str,
)  # fmt: skip
def test_stored_pictures_are_of_known_formats_and_nothing_else(changes):
    with pytest.raises(Corrupt):
        pack(dataclasses.replace(STORED, **changes))


def test_a_stored_picture_is_verified_without_decoding():
    data = pack(STORED)
    assert unpack(data) == STORED and pack(unpack(data)) == data
    header = format2.verify_file(io.BytesIO(data))
    assert header.stored and header.alpha and header.layout()[-1] == ("stored", len(data) - 9, 9)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x40
        for check in (unpack, lambda damaged: format2.verify_file(io.BytesIO(damaged))):
            with pytest.raises(BitstreamError):
                check(damaged)


def test_stored_pictures_are_bounded_before_they_are_read():
    limit = format2.MAX_STORED_RATE * STORED.width * STORED.height + 2**24
    tiny = dataclasses.replace(STORED, width=1, height=1, tiles=(Tile(b"GIF89a" + bytes(2**24 + 11), 1, 0),))
    with pytest.raises(TooLarge):
        pack(tiny)
    start = pack(dataclasses.replace(STORED, packed_icc=None, packed_exif=None))[:20]
    for length, error in ((limit, Corrupt), (limit + 1, TooLarge)):
        with pytest.raises(error):
            unpack(start + format2.varint_bytes(length) + b"\1" + bytes(20))


def test_equal_channels_are_said_once():
    assert unpack(pack(dataclasses.replace(PLAIN, equal=True))).equal
    with pytest.raises(Corrupt, match="equal"):
        pack(dataclasses.replace(PLAIN, equal=True, grey=True))


def test_flat_tiles_are_three_bytes_and_never_plain():
    tiles = tuple(Tile(bytes([n, 2, 3]), 1, 7) for n in range(2))
    flat = dataclasses.replace(PLAIN, width=1025, tiles=tiles, flat=True)
    assert unpack(pack(flat)) == flat and read_header(pack(flat)).flat
    assert len(pack(dataclasses.replace(flat, width=1024, tiles=tiles[:1]))) <= 36
    for wrong in (Tile(b"four", 1, 7), Tile(b"rgb" * 2, 2, 7)):
        with pytest.raises(Corrupt, match="flat"):
            pack(dataclasses.replace(flat, tiles=(wrong, tiles[1])))
    with pytest.raises(Corrupt, match="plain"):
        pack(dataclasses.replace(flat, plain=True))
    data = bytearray(pack(flat))
    data[5] |= 2
    with pytest.raises(Corrupt, match="plain"):
        unpack(bytes(data))


def test_overlong_varints_are_refused():
    assert unpack(plain_with(16, b"\x01\x01", 4)).height == 1
    for spelling in ("8100", "818000", "81808000", "8180808000"):
        with pytest.raises(Corrupt, match="more bytes than it needs"):
            unpack(plain_with(16, b"\x01" + bytes.fromhex(spelling), 4))


@pytest.mark.parametrize("spelling", ["8080808010", "ffffffff1f", "ffffffffff01", "ffffffffffffffffff01"])
def test_varints_beyond_32_bits_are_refused(spelling):
    with pytest.raises(Corrupt, match="32 bits"):
        unpack(plain_with(16, bytes.fromhex(spelling), 2))


def test_the_largest_varint_is_read():
    with pytest.raises(TooLarge, match=f"tile 0 has {2**32 - 1} bytes"):
        unpack(plain_with(20, bytes.fromhex("ffffffff0f"), 1))


# Sections


def test_a_section_of_the_future_is_skipped_and_kept():
    data = with_sections((2, b"II*\0"), (64, b"later"), (254, b""))
    container = unpack(data)
    assert container == dataclasses.replace(PLAIN, exif=b"II*\0", extra=((64, b"later"), (254, b"")))
    assert pack(container) == data
    assert read_header(data).layout()[2] == ("section 64", read_header(data).size + 4, 5)


@pytest.mark.parametrize("type_", [7, 65, 255])
def test_a_section_that_must_be_understood_is_refused_as_a_newer_version(type_):
    for entries in ([(type_, b"later")], [(2, b"II*\0"), (6, b"IPTC"), (type_, b"")]):
        with pytest.raises(UnsupportedVersion, match=f"without section {type_}$"):
            unpack(with_sections(*entries))
        with pytest.raises(UnsupportedVersion, match=f"without section {type_}$"):
            read_header(with_sections(*entries))
        # Damage does not pass for a newer version.
        damaged = bytearray(with_sections(*entries))
        damaged[10] ^= 1
        with pytest.raises(Corrupt, match="checksum"):
            unpack(damaged)
    with pytest.raises(Corrupt, match=f"section {type_}"):
        pack(dataclasses.replace(PLAIN, extra=((type_, b""),)))


@pytest.mark.parametrize("types", [(2, 1), (2, 2), (4, 4), (8, 6), (1, 2, 3, 3)])
def test_sections_come_once_and_in_order(types):
    with pytest.raises(Corrupt, match="rise"):
        unpack(with_sections(*((type_, b"contents") for type_ in types)))


@pytest.mark.parametrize("extra", [((2, b"x"),), ((3, b"x"),), ((-2, b"x"),), ((256, b"x"),), ((64, b""), (64, b""))])
def test_sections_that_a_reader_would_not_skip_are_not_packed_as_extra(extra):
    with pytest.raises(Corrupt):
        pack(dataclasses.replace(PLAIN, extra=extra))


def test_too_many_sections_are_refused_both_ways():
    extra = tuple((2 * n, b"") for n in range(64, 97))
    assert unpack(pack(dataclasses.replace(PLAIN, extra=extra[1:]))).extra == extra[1:]
    with pytest.raises(TooLarge, match="33 sections"):
        pack(dataclasses.replace(PLAIN, extra=extra))
    with pytest.raises(TooLarge, match="33 sections"):
        unpack(with_sections(*extra))


@pytest.mark.parametrize(("name", "type_"), [(name, type_) for type_, name in format2._NAMES.items()])
def test_metadata_is_bounded_and_not_empty_both_ways(name, type_):
    bare = name.removeprefix("packed_").upper()
    limit = 3 * 768 * 512 + 1024 if name == "alpha" else getattr(format2, f"MAX_{bare}")
    limit += 96 * 64 // 8 if name == "background" else 0  # a bit for each of 96 x 64 blocks
    with pytest.raises(TooLarge, match=name):
        pack(dataclasses.replace(PLAIN, **{name: bytes(limit + 1)}))
    with pytest.raises(TooLarge, match=name):  # before any of it has been seen
        unpack(PLAIN_BYTES[:26] + bytes([1, type_]) + format2.varint_bytes(limit + 1) + bytes(4))
    with pytest.raises(Corrupt, match=f"{name} section is announced but empty"):
        pack(dataclasses.replace(PLAIN, **{name: b""}))
    with pytest.raises(Corrupt, match=f"{name} section is announced but empty"):
        unpack(with_sections((type_, b"")))
    data = bytearray(with_sections((type_, b"contents")))
    data[-10] ^= 1
    with pytest.raises(Corrupt, match=f"checksum of {name}"):
        unpack(data)


# Limits


@pytest.mark.parametrize(
    ("width", "height", "error"),
    [
        (0, 1, Corrupt),
        (1, 0, Corrupt),
        (65536, 1, TooLarge),
        (1, 65536, TooLarge),
        (16384, 16385, TooLarge),
        (65535, 65535, TooLarge),
        (2**32 - 1, 2**32 - 1, TooLarge),
    ],
)
def test_sizes_beyond_the_limits_are_refused_both_ways(width, height, error):
    with pytest.raises(error):
        pack(dataclasses.replace(PLAIN, width=width, height=height))
    sizes = format2.varint_bytes(width) + format2.varint_bytes(height)
    with pytest.raises(error):
        unpack(plain_with(16, sizes, 4))
    with pytest.raises(error):  # before anything else is read
        unpack(PLAIN_BYTES[:16] + sizes)


@pytest.mark.parametrize("size", [(16384, 16384), (4097, 65519), (65535, 4096), (65535, 1), (2048, 1024)])
def test_a_few_bytes_that_claim_a_huge_picture_are_refused_at_once(size):
    sizes = format2.varint_bytes(size[0]) + format2.varint_bytes(size[1])
    columns, rows = tile_grid(*size)
    for data in ((PLAIN_BYTES[:16] + sizes + bytes(26))[:26], plain_with(16, sizes, 4)):
        tracemalloc.start()
        started = time.process_time()
        with pytest.raises(Truncated, match=f"needed {16 + len(sizes) + 6 * columns * rows + 5} bytes, found"):
            unpack(data[:30])
        with pytest.raises(Truncated):
            read_header(data[:30])
        assert time.process_time() - started < 0.1
        assert tracemalloc.get_traced_memory()[1] < 100_000
        tracemalloc.stop()


@pytest.mark.parametrize(("width", "height", "pixels"), [(1, 1, 64**2), (65, 64, 128 * 64), (3000, 200, 1024 * 256)])
def test_tiles_are_bounded_by_their_pixels_both_ways(width, height, pixels):
    limit = 64 * pixels + 3 * 2
    tiles = (Tile(bytes(limit), 2, 0),) + (Tile(bytes(3), 1, 0),) * ((width - 1) // 1024)
    container = dataclasses.replace(PLAIN, width=width, height=height, tiles=tiles)
    assert unpack(pack(container)) == container
    with pytest.raises(TooLarge, match=f"tile 0 has {limit + 1} bytes; at most {limit}"):
        pack(dataclasses.replace(container, tiles=(Tile(bytes(limit + 1), 2, 0), *tiles[1:])))
    forged = (
        pack(container)[:16]
        + format2.varint_bytes(width)
        + format2.varint_bytes(height)
        + format2.varint_bytes(limit + 1)
    )
    with pytest.raises(TooLarge, match=f"tile 0 has {limit + 1} bytes; at most {limit}"):
        unpack(forged + bytes([2]) + bytes(9 * len(tiles)))


def test_a_section_of_the_future_is_bounded():
    announced = bytes([1, 254]) + format2.varint_bytes(2**28 + 1)
    with pytest.raises(TooLarge, match="section 254; at most 268435456"):
        unpack(PLAIN_BYTES[:26] + announced)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("07 00", "0 lanes"),
        ("07 03", "7 bytes; 3 lanes need 9"),
        ("00 01", "0 bytes; 1 lanes need 3"),
        ("ffffffff0f 8120", "4097 lanes"),
        ("ffffffff0f ffffffff0f", "4294967295 lanes"),
    ],
)
def test_tiles_that_cannot_be_are_refused(entry, reason):
    with pytest.raises(Corrupt, match=f"tile 0 has {reason}"):
        unpack(plain_with(20, bytes.fromhex(entry), 2))


@pytest.mark.parametrize(
    "changes",
    [
        {"model_id": "0123ABCD4567EF89"},
        {"model_id": "0123abcd"},
        {"model_id": "../../../../../.."},
        {"quality": -1},
        {"quality": 10001},
        {"tiles": ()},
        {"tiles": PLAIN.tiles * 2},
        {"tiles": (Tile(b"latents", 0, 0),)},
        {"tiles": (Tile(b"latents", 3, 0),)},
        {"tiles": (Tile(bytes(3 * 4097), 4097, 0),)},
        {"tiles": (Tile(b"latents", 1, -1),)},
        {"tiles": (Tile(b"latents", 1, 2**32),)},
    ],
    ids=str,
)
def test_fields_that_the_format_cannot_express_are_not_packed(changes):
    with pytest.raises(Corrupt):
        pack(dataclasses.replace(PLAIN, **changes))


def test_reserved_quality_is_refused():
    with pytest.raises(Corrupt, match="10001"):
        unpack(plain_with(14, (10001).to_bytes(2, "little")))


# Whatever the bytes


def mutations(count):
    """Files with damage that the header checksum does not show: the parser itself has to cope."""
    random = np.random.default_rng(20)
    for index in range(count):
        if index % 5 == 0:
            header = bytearray(random.bytes(random.integers(64)))
            kept = random.choice((0, 4, 6))
            header[:kept] = PLAIN_BYTES[:kept]
            rest = random.bytes(random.integers(9))
        else:
            data = (pack(PLAIN), pack(FULL))[random.integers(2)]
            size = read_header(data).size
            header, rest = bytearray(data[: size - 4]), data[size:]
            for _ in range(random.integers(1, 4)):
                position, kind = random.integers(4, len(header)), random.integers(3)
                if kind == 0:
                    header[position] = random.integers(256)
                elif kind == 1:
                    header.insert(position, random.choice((0, 1, 0x7F, 0x80, 0xFF)))
                elif len(header) > 5:
                    del header[position]
        yield with_checksum(header) + rest


def test_mutated_files_end_in_a_container_or_a_bitstream_error():
    outcomes = {"container": 0}
    for data in mutations(2000):
        try:
            container = unpack(data)
        except BitstreamError as error:
            outcomes[type(error).__name__] = outcomes.get(type(error).__name__, 0) + 1
            assert "\n" not in str(error)
        else:
            outcomes["container"] += 1
            # One spelling only: what unpacks, packs to the same bytes.
            assert pack(container) == data
    # Every way out has been taken, else this test does not look where it says.
    errors = (NotThisFormat, UnsupportedVersion, Truncated, Corrupt, TooLarge)
    assert set(outcomes) == {"container", *(error.__name__ for error in errors)}
    assert outcomes["container"] >= 100


def test_container_needs_only_the_standard_library():
    code = (
        "import codec.bitstream, codec.errors, sys;"
        "sys.exit(bool({'torch', 'numpy', 'PIL', 'compressai'} & set(sys.modules)))"
    )
    root = Path(format2.__file__).resolve().parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
