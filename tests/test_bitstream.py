"""The container: literal bytes, and the promise that unpack ends in a Container or a BitstreamError."""

import dataclasses
import random
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from codec import bitstream
from codec.bitstream import Container, pack, read_header, sections, unpack
from codec.errors import BitstreamError, Corrupt, NotThisFormat, TooLarge, Truncated, UnsupportedVersion

DOCUMENT = Path(bitstream.__file__).with_name("BITSTREAM.md")

PLAIN = Container(
    model_id="0123abcd",
    quality=5000,
    width=768,
    height=512,
    grey=False,
    z_string=b"side",
    y_string=b"latents",
    symbols_crc=0x01020304,
)
PLAIN_BYTES = bytes.fromhex(
    "9d4c5143 01 00 0123abcd 8813 8006 8004 04030201 04 07"  # header
    "73696465 6c6174656e7473"  # "side", "latents"
    "af026ad0"  # checksum
)
FULL = dataclasses.replace(PLAIN, grey=True, alpha=b"\x89PNG", icc=b"profile", exif=b"II*\0")


def with_checksum(body):
    """A file whose checksum fits whatever its contents are."""
    return bytes(body) + zlib.crc32(body).to_bytes(4, "little")


def plain_with(offset, replacement, length=None):
    """PLAIN with some header bytes replaced, the checksum repaired."""
    body = bytearray(PLAIN_BYTES[:-4])
    body[offset : offset + (len(replacement) if length is None else length)] = replacement
    return with_checksum(body)


def documented_dump():
    """(bytes, what they are) of the lines of the example in BITSTREAM.md."""
    block = re.search(r"```hexdump\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)[1]
    lines = [line.split("|") for line in block.splitlines()]
    return [(bytes.fromhex(hexadecimal), text.strip()) for hexadecimal, text in lines]


# --- Literal bytes ------------------------------------------------------------------------------------------


def test_literal_bytes_of_a_plain_file():
    assert pack(PLAIN).hex(" ") == PLAIN_BYTES.hex(" ")
    assert unpack(PLAIN_BYTES) == PLAIN


def test_documented_example_packs_and_unpacks_to_itself():
    lines = documented_dump()
    data = b"".join(part for part, _ in lines)
    alpha = b"".join(part for part, text in lines if text.startswith("alpha: "))
    example = Container(
        model_id="1f2e3d4c",
        quality=4250,
        width=300,
        height=2,
        grey=False,
        z_string=bytes([1, 2, 3]),
        y_string=bytes(range(0x10, 0x18)),
        symbols_crc=0xCAFEF00D,
        alpha=alpha,
        exif=bytes.fromhex("49492a0008000000 000000000000"),
    )
    assert unpack(data) == example
    assert pack(example) == data


def test_documented_example_annotates_the_parts_where_they_are():
    lines = documented_dump()
    header = [text.split()[0] for _, text in lines[:12]]
    assert header == "magic version flags: model quality width height symbols z y alpha EXIF".split()
    assert [text.split(":")[0].split()[0] for _, text in lines[12:]] == ["z", "y"] + ["alpha"] * 8 + [
        "EXIF",
        "EXIF",
        "checksum",
    ]
    size = {}
    for part, text in lines[12:]:
        name = text.split(":")[0].split()[0].lower()
        size[name] = size.get(name, 0) + len(part)
    data = b"".join(part for part, _ in lines)
    assert [(name, length) for name, _, length in sections(data)][1:] == list(size.items())


def test_documented_limits_are_those_of_the_program():
    table = re.findall(r"^\| `(MAX_\w+)` \| (\d+) \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name, _ in table] == ["MAX_SIDE", "MAX_PIXELS", "MAX_QUALITY", "MAX_ICC", "MAX_EXIF"]
    for name, limit in table:
        assert int(limit) == getattr(bitstream, name)


# --- There and back -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("alpha", [None, b"\x89PNG"])
@pytest.mark.parametrize("icc", [None, b"profile"])
@pytest.mark.parametrize("exif", [None, b"II*\0"])
def test_every_combination_of_sections_returns(grey, alpha, icc, exif):
    container = dataclasses.replace(PLAIN, grey=grey, alpha=alpha, icc=icc, exif=exif)
    assert unpack(pack(container)) == container


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 1, "height": 1},
        {"width": 127, "height": 128},
        {"width": 65535, "height": 1},
        {"width": 2**14, "height": 2**14},
        {"quality": 0},
        {"quality": 10000},
        {"symbols_crc": 0},
        {"symbols_crc": 2**32 - 1},
        {"z_string": b"", "y_string": b""},
        {"y_string": bytes(20000)},
        {"alpha": bytes(3 * 768 * 512 + 1024)},
        {"icc": bytes(bitstream.MAX_ICC)},
        {"exif": bytes(bitstream.MAX_EXIF)},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_extreme_values_return(changes):
    container = dataclasses.replace(PLAIN, **changes)
    assert unpack(pack(container)) == container


def test_overhead_of_a_photograph_is_small():
    def overhead(width, height, z_bytes, y_bytes):
        container = dataclasses.replace(
            PLAIN, width=width, height=height, z_string=bytes(z_bytes), y_string=bytes(y_bytes)
        )
        return len(pack(container)) - z_bytes - y_bytes

    assert overhead(1, 1, 10, 10) == 24
    assert overhead(768, 512, 300, 20_000) == 29
    assert overhead(4096, 4096, 40_000, 2_000_000) == 30
    assert overhead(16384, 16384, 400_000, 2**22) == 33


def test_any_bytes_like_object_unpacks():
    assert unpack(bytearray(PLAIN_BYTES)) == unpack(memoryview(PLAIN_BYTES)) == PLAIN


def test_sections_cover_every_byte_once():
    assert sections(PLAIN_BYTES) == [("header", 0, 22), ("z", 22, 4), ("y", 26, 7), ("checksum", 33, 4)]
    data = pack(FULL)
    parts = sections(data)
    assert [name for name, _, _ in parts] == ["header", "z", "y", "alpha", "icc", "exif", "checksum"]
    assert sum(length for _, _, length in parts) == len(data)
    for (_, offset, length), (_, following, _) in zip(parts, parts[1:]):
        assert offset + length == following
    where = {name: data[offset : offset + length] for name, offset, length in parts}
    assert (where["z"], where["alpha"], where["exif"]) == (FULL.z_string, FULL.alpha, FULL.exif)


def test_header_needs_only_the_beginning_of_a_file():
    for container in (PLAIN, FULL):
        data = pack(container)
        header = read_header(data[: bitstream.HEADER_MAX])
        for name in ("model_id", "quality", "width", "height", "grey", "symbols_crc"):
            assert getattr(header, name) == getattr(container, name)
        assert header.alpha == (container.alpha is not None)
        assert header.file_size == len(data)
        assert read_header(data[: header.size]) == header


def test_longest_header_fits_in_header_max():
    widest = Container("ffffffff", 10000, 65535, 4096, True, b"", b"", 2**32 - 1, b"a", b"i", b"e")
    header = read_header(pack(widest))
    # The five lengths took a byte each; the limits allow five at most.
    assert header.size - 5 + 5 * bitstream.MAX_VARINT_BYTES <= bitstream.HEADER_MAX


# --- Damage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", [PLAIN, FULL], ids=["plain", "full"])
def test_every_truncation_is_refused(container):
    data = pack(container)
    for length in range(len(data)):
        with pytest.raises(Truncated, match=f"found {length}$"):
            unpack(data[:length])


def test_truncation_says_how_much_is_missing():
    with pytest.raises(Truncated, match="^truncated: needed 37 bytes, found 30$"):
        unpack(PLAIN_BYTES[:30])


@pytest.mark.parametrize("container", [PLAIN, FULL], ids=["plain", "full"])
def test_every_flipped_bit_is_refused(container):
    data = pack(container)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BitstreamError):
            unpack(flipped)
        with pytest.raises(BitstreamError):
            sections(flipped)


def test_trailing_bytes_are_refused():
    for extra in (b"\0", b"\n", PLAIN_BYTES):
        with pytest.raises(Corrupt, match=f"{len(extra)} bytes more"):
            unpack(PLAIN_BYTES + extra)
        with pytest.raises(Corrupt, match=f"{len(extra)} bytes more"):
            unpack(with_checksum(PLAIN_BYTES + extra)[: len(PLAIN_BYTES + extra)])


@pytest.mark.parametrize("data", [b"\x89PNG", b"text", b"\x9dLQX" + PLAIN_BYTES[4:], b"\x9dL\0", bytes(99)])
def test_other_files_are_not_this_format(data):
    with pytest.raises(NotThisFormat):
        unpack(data)


def test_unknown_versions_are_named():
    for version in (0, 2, 255):
        with pytest.raises(UnsupportedVersion, match=f"format {version};"):
            unpack(plain_with(4, bytes([version])))


def test_unknown_flags_are_refused_as_a_newer_version():
    for bit in (5, 6, 7):
        with pytest.raises(UnsupportedVersion, match="flags"):
            unpack(plain_with(5, bytes([1 << bit])))


def test_the_plain_transform_is_one_flag():
    container = dataclasses.replace(PLAIN, plain=True)
    data = pack(container)
    assert data[5] == PLAIN_BYTES[5] | 16 and len(data) == len(PLAIN_BYTES)
    assert unpack(data) == container and read_header(data).plain and not read_header(PLAIN_BYTES).plain


def test_a_newer_version_is_recognised_whatever_follows():
    with pytest.raises(UnsupportedVersion):
        unpack(b"\x9dLQC\x02")
    with pytest.raises(UnsupportedVersion):
        unpack(b"\x9dLQC\x01\x80 laid out differently")


def test_overlong_varints_are_refused():
    assert unpack(plain_with(12, b"\x01\x01", 4)).height == 1
    for spelling in ("8100", "818000", "81808000", "8180808000"):
        with pytest.raises(Corrupt, match="more bytes than it needs"):
            unpack(plain_with(12, b"\x01" + bytes.fromhex(spelling), 4))


@pytest.mark.parametrize("spelling", ["8080808010", "ffffffff1f", "ffffffffff01", "ffffffffffffffffff01"])
def test_varints_beyond_32_bits_are_refused(spelling):
    with pytest.raises(Corrupt, match="32 bits"):
        unpack(plain_with(12, bytes.fromhex(spelling), 2))


def test_the_largest_varint_is_read():
    with pytest.raises(Truncated, match=str(2**32 - 1 + 7 + 26 + 4)):
        unpack(plain_with(20, bytes.fromhex("ffffffff0f"), 1))


def test_reserved_quality_is_refused():
    with pytest.raises(Corrupt, match="10001"):
        unpack(plain_with(10, (10001).to_bytes(2, "little")))


# --- Limits -------------------------------------------------------------------------------------------------


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
    sizes = bitstream._varint(width) + bitstream._varint(height)
    with pytest.raises(error):
        unpack(plain_with(12, sizes, 4))


def test_too_large_is_raised_before_anything_else_is_read():
    with pytest.raises(TooLarge):
        unpack(PLAIN_BYTES[:12] + bitstream._varint(65535) + bitstream._varint(65535))


@pytest.mark.parametrize(
    ("name", "limit"),
    [("icc", bitstream.MAX_ICC), ("exif", bitstream.MAX_EXIF), ("alpha", 3 * 768 * 512 + 1024)],
)
def test_metadata_beyond_the_limits_is_refused_both_ways(name, limit):
    with pytest.raises(TooLarge, match=name):
        pack(dataclasses.replace(PLAIN, **{name: bytes(limit + 1)}))
    flag = {"alpha": 2, "icc": 4, "exif": 8}[name]
    header = bytearray(PLAIN_BYTES[:22])
    header[5] = flag
    with pytest.raises(TooLarge, match=name):
        unpack(bytes(header) + bitstream._varint(limit + 1))


@pytest.mark.parametrize("name", ["alpha", "icc", "exif"])
def test_metadata_is_absent_or_not_empty(name):
    with pytest.raises(Corrupt, match="empty"):
        pack(dataclasses.replace(PLAIN, **{name: b""}))
    header = bytearray(PLAIN_BYTES[:22]) + b"\0"
    header[5] = {"alpha": 2, "icc": 4, "exif": 8}[name]
    with pytest.raises(Corrupt, match="empty"):
        unpack(with_checksum(bytes(header) + PLAIN_BYTES[22:-4]))


@pytest.mark.parametrize(
    "changes",
    [
        {"model_id": "0123ABCD"},
        {"model_id": "0123abc"},
        {"model_id": "../../.."},
        {"quality": -1},
        {"quality": 10001},
        {"symbols_crc": -1},
        {"symbols_crc": 2**32},
    ],
    ids=str,
)
def test_fields_that_the_format_cannot_express_are_not_packed(changes):
    with pytest.raises(Corrupt):
        pack(dataclasses.replace(PLAIN, **changes))


# --- Whatever the bytes -------------------------------------------------------------------------------------


def mutations(count):
    """Files with damage that their checksum does not show: the parser itself has to cope."""
    random_bytes = random.Random(20)
    for index in range(count):
        if index % 5 == 0:
            body = bytearray(random_bytes.randbytes(random_bytes.randrange(64)))
            body[: random_bytes.choice((0, 4, 6))] = PLAIN_BYTES[: random_bytes.choice((0, 4, 6))]
        else:
            body = bytearray(pack(random_bytes.choice((PLAIN, FULL)))[:-4])
            for _ in range(random_bytes.randrange(1, 4)):
                position = random_bytes.randrange(4, len(body))
                kind = random_bytes.randrange(3)
                if kind == 0:
                    body[position] = random_bytes.randrange(256)
                elif kind == 1:
                    body.insert(position, random_bytes.choice((0, 1, 0x7F, 0x80, 0xFF)))
                elif len(body) > 5:
                    del body[position]
        yield with_checksum(body)


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


def test_bitstream_needs_only_the_standard_library():
    code = (
        "import codec.bitstream, codec.errors, sys;"
        "sys.exit(bool({'torch', 'numpy', 'PIL', 'compressai'} & set(sys.modules)))"
    )
    root = Path(bitstream.__file__).resolve().parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
