"""EXIF, XMP, IPTC, resolution, profiles: kept byte for byte, edited in place, never in the way of the picture."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms

import codec
from codec import bitstream, colour, metadata
from codec.errors import BitstreamError
from codec.image_io import FORMATS, encode_picture, read_picture, to_image

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" exif:GPSLatitude="52,30N" '
    b'dc:title="Z\xc3\xbcrich"/></x:xmpmeta>'
)
IPTC = b"\x1c\x02\x69\x00\x05Title\x1c\x02\x50\x00\x03Ada"
NAMES = "© Zoë Müller".encode()
MAKER_NOTE = b"Maker\0" + bytes(range(200, 250))


def pixels(height=24, width=40):
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 5 + columns, 200 - rows - columns, columns * 3 + 20], axis=-1).clip(0, 255).astype(np.uint8)


def camera_exif(order="<", orientation=6, thumbnail=b"\xff\xd8 thumbnail \xff\xd9"):
    """EXIF with UTF-8, a maker's note, a position and a thumbnail, as a camera lays it out."""

    def directory(entries, place, following=0):
        table, values = struct.pack(order + "H", len(entries)), b""
        place += 6 + 12 * len(entries)
        for tag, type_, count, data in entries:
            if len(data) > 4:
                where, values = struct.pack(order + "I", place + len(values)), values + data + bytes(len(data) % 2)
            else:
                where = data.ljust(4, b"\0")
            table += struct.pack(order + "HHI", tag, type_, count) + where
        return table + struct.pack(order + "I", following) + values

    short, long = (lambda n: struct.pack(order + "H", n)), (lambda n: struct.pack(order + "I", n))
    places = [0, 0, 0]  # of Exif, GPS and thumbnail: the second round knows them
    for _ in range(2):
        parts = [directory(
            [(0x010E, 2, len(NAMES) + 1, NAMES + b"\0"), (0x0112, 3, 1, short(orientation)),
             (0x8298, 2, len(NAMES) + 1, NAMES + b"\0"),
             (0x8769, 4, 1, long(places[0])), (0x8825, 4, 1, long(places[1]))], 8, places[2]),
        ]  # fmt: skip
        places[0] = 8 + len(parts[0])
        parts.append(directory([(0x8827, 3, 1, short(400)), (0x927C, 7, len(MAKER_NOTE), MAKER_NOTE)], places[0]))
        places[1] = places[0] + len(parts[1])
        parts.append(
            directory([(1, 2, 2, b"N\0"), (2, 5, 3, struct.pack(order + "6I", 52, 1, 30, 1, 7, 1))], places[1])
        )
        places[2] = places[1] + len(parts[2])
        parts.append(directory([(0x0201, 4, 1, long(places[2] + 30)), (0x0202, 4, 1, long(len(thumbnail)))], places[2]))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    return head + b"".join(parts) + thumbnail


def jpeg(exif=None, xmp=None, iptc=None, picture=None, **options):
    file = io.BytesIO()
    extra = b""
    if iptc:
        body = metadata.PHOTOSHOP + metadata.resources_of_iptc(iptc)
        extra = b"\xff\xed" + (len(body) + 2).to_bytes(2, "big") + body
    options = {"quality": 95, "subsampling": 0, **options}
    picture = pixels() if picture is None else picture
    Image.fromarray(picture).save(
        file, "JPEG", exif=metadata.PREFIX + exif if exif else b"", xmp=xmp or b"", extra=extra, **options
    )
    return file.getvalue()


def compressed(data, **options):
    return codec.compress(io.BytesIO(data), 50, **{"fallback": "never", **options})


def kept(data):
    return metadata.of_container(bitstream.unpack(data))


# EXIF


@pytest.mark.parametrize("order", "<>")
def test_exif_is_kept_byte_for_byte_but_for_orientation_and_thumbnail(order):
    exif = camera_exif(order)
    upright = metadata.upright_exif(exif)
    assert b"thumbnail" not in upright and len(upright) < len(exif)
    wanted = bytearray(exif[: len(upright)])
    place = exif.index(struct.pack(order + "HHI", 0x0112, 3, 1)) + 8
    wanted[place : place + 2] = struct.pack(order + "H", 1)
    (count,) = struct.unpack(order + "H", exif[8:10])
    wanted[10 + 12 * count : 14 + 12 * count] = bytes(4)
    assert upright == bytes(wanted)
    assert NAMES in upright and MAKER_NOTE in upright
    assert metadata.orientation(exif) == 6 and metadata.orientation(upright) == 1
    assert metadata.upright_exif(upright) == upright


def test_exif_that_is_upright_already_is_not_touched():
    exif = metadata.upright_exif(camera_exif(orientation=1))
    data = compressed(jpeg(exif))
    assert kept(data)[0].exif == exif
    with Image.open(io.BytesIO(jpeg(exif))) as source:
        assert codec.decompress(data).info["exif"] == source.info["exif"]


@pytest.mark.parametrize("order", "<>")
def test_positions_are_taken_out_on_request(order):
    bare = metadata.upright_exif(camera_exif(order), without_gps=True)
    assert (
        struct.pack(order + "6I", 52, 1, 30, 1, 7, 1) not in bare and struct.pack(order + "HH", 0x8825, 4) not in bare
    )
    found = Image.Exif()
    found.load(bare)
    assert not found.get_ifd(ExifTags.IFD.GPSInfo) and found.get_ifd(ExifTags.IFD.Exif)[0x927C] == MAKER_NOTE
    assert found[0x0112] == 1
    data = compressed(jpeg(camera_exif(order), XMP), strip_gps=True)
    assert b"GPS" not in kept(data)[0].xmp and b"title" in kept(data)[0].xmp and kept(data)[0].exif == bare


def test_strip_keeps_profile_and_resolution_alone():
    profile = colour.code_point_profile(12, 13)
    data = compressed(jpeg(camera_exif(), XMP, IPTC, dpi=(300, 300), icc_profile=profile), strip=True)
    assert kept(data) == (metadata.Metadata(dpi=(300.0, 300.0)), profile)
    assert codec.decompress(data).size == (24, 40)  # the orientation was applied all the same


def test_a_stored_source_brings_no_metadata_that_was_to_be_left_out():
    """Whatever stands in the file: also comments, and pictures behind the picture."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    source = jpeg(camera_exif(orientation=1), XMP.replace(b'"6"', b'"1"'), IPTC, noise, quality=20, comment=b"my home")
    whole, bare, nowhere = (
        codec.compress(io.BytesIO(source), 95, fallback="always", **how)
        for how in ({}, {"strip": True}, {"strip_gps": True})
    )
    assert bitstream.unpack(whole).tiles[0].data == source
    for data in (bare, nowhere):
        assert (
            b"my home" not in data and struct.pack("<6I", 52, 1, 30, 1, 7, 1) not in data and b"GPSLatitude" not in data
        )
        np.testing.assert_array_equal(np.asarray(codec.decompress(data)), np.asarray(Image.open(io.BytesIO(source))))
    assert NAMES not in bare and "exif" not in codec.decompress(bare).info
    assert NAMES in codec.decompress(nowhere).info["exif"]


@pytest.mark.parametrize(
    "exif", [b"nonsense", b"II*\0\xff\xff\xff\x7f", camera_exif()[:60], b"MM\0*\0\0\0\x08\xff\xff"]
)
def test_damaged_exif_is_left_out_with_a_remark_and_without_a_warning(exif):
    said = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = compressed(jpeg(exif), on_remark=said.append)
    assert said == ["EXIF is damaged, and left out"] and kept(data)[0].exif is None


def test_a_field_of_an_unknown_type_takes_nothing_along():
    exif = bytearray(metadata.upright_exif(camera_exif()))
    place = exif.index(struct.pack("<HHI", 0x8827, 3, 1))
    exif[place + 2 : place + 4] = struct.pack("<H", 99)
    assert metadata.upright_exif(bytes(exif)) == exif
    file, remarks = encode_picture(to_image(pixels(), exif=bytes(exif)), ".tif")
    with Image.open(io.BytesIO(file)) as image:
        assert image.getexif().get_ifd(ExifTags.IFD.Exif) == {0x927C: MAKER_NOTE} and not remarks


def test_a_damaged_thumbnail_takes_nothing_along():
    exif = bytearray(camera_exif())
    (count,) = struct.unpack("<H", exif[8:10])
    for place in (9, 26, 0xFFFF):
        exif[10 + 12 * count : 14 + 12 * count] = struct.pack("<I", place)
        upright = metadata.upright_exif(bytes(exif))
        assert upright is None or (NAMES in upright and MAKER_NOTE in upright)


@settings(derandomize=True, deadline=None, database=None, max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=4)), min_size=1, max_size=3), st.booleans()
)
def test_any_damage_of_exif_ends_in_exif_or_none(changes, without_gps):
    exif = bytearray(camera_exif())
    for place, piece in changes:
        exif[place : place + len(piece)] = piece
    exif = bytes(exif)
    assert 0 <= metadata.orientation(exif) <= 8
    found = metadata.upright_exif(exif, without_gps)
    assert found is None or (
        metadata.is_sound(found) and len(found) <= len(exif) and metadata.orientation(found) in (0, 1)
    )
    if found:
        metadata.into_tiff(encode_picture(to_image(pixels()), ".tif")[0], metadata.Metadata(found))


# XMP, IPTC, resolution


def test_all_kinds_go_through_a_file_and_into_formats_that_hold_them():
    source = jpeg(camera_exif(), XMP, IPTC, dpi=(300, 200))
    data = compressed(source)
    found, icc = kept(data)
    upright = XMP.replace(b'"6"', b'"1"')
    assert (found.xmp, found.iptc, found.dpi, icc) == (upright, IPTC, (300.0, 200.0), None)
    image = codec.decompress(data)
    assert image.size == (24, 40)
    assert image.info["xmp"] == upright and image.info["photoshop"] == {1028: IPTC} and image.info["dpi"] == (300, 200)
    for extension in (".png", ".jpg", ".tif"):
        file, remarks = encode_picture(image, extension)
        back = read_picture(io.BytesIO(file))
        assert not remarks and back.metadata.xmp == upright and back.metadata.iptc == IPTC
        np.testing.assert_allclose(back.metadata.dpi, (300, 200), atol=0.01)
        assert NAMES in back.exif and MAKER_NOTE in back.exif and back.pixels.shape == (40, 24, 3)
        with Image.open(io.BytesIO(file)) as opened:
            assert opened.getexif().get_ifd(ExifTags.IFD.Exif)[0x8827] == 400
            assert opened.getexif().get_ifd(ExifTags.IFD.GPSInfo)[2] == (52, 30, 7)


@pytest.mark.parametrize("order", "<>")
def test_tiff_takes_exif_of_either_byte_order(order):
    file, remarks = encode_picture(to_image(pixels(), exif=metadata.upright_exif(camera_exif(order))), ".tif")
    assert not remarks
    with Image.open(io.BytesIO(file)) as image:
        assert image.tag_v2[0x8298].encode("latin-1") == NAMES
        assert image.getexif().get_ifd(ExifTags.IFD.Exif) == {0x8827: 400, 0x927C: MAKER_NOTE}
        np.testing.assert_array_equal(np.asarray(image), pixels())


def test_what_a_format_has_no_room_for_costs_a_remark_and_no_picture():
    long = metadata.upright_exif(camera_exif())[:-2] + bytes(70_000)
    image = to_image(pixels(), exif=long, xmp=XMP, iptc=IPTC)
    file, remarks = encode_picture(image, ".jpg")
    assert remarks == [f"EXIF is left out: {len(long):,} bytes do not fit in a JPEG"]
    assert read_picture(io.BytesIO(file)).metadata.xmp and Image.open(io.BytesIO(file)).size == (40, 24)
    said = {
        extension: [line.split()[0] for line in encode_picture(image, extension)[1]]
        for extension in FORMATS
        if extension != ".jxl"
    }
    assert said[".bmp"] == said[".ppm"] == ["EXIF", "XMP", "IPTC"]
    assert said[".png"] == said[".tif"] == [] and said[".webp"] == said[".avif"] == ["IPTC"]


def test_profiles_and_exif_are_packed_where_that_is_smaller():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    profile = profile[:16] + b"RGB " + profile[20:] + bytes(100_000)
    noise = np.random.default_rng(0).bytes(300)
    found = metadata.sections(metadata.Metadata(exif=noise), profile)
    assert found["exif"] == noise and len(found["packed_icc"]) < 2000
    container = bitstream.Container("0" * 16, 1, 1, 1, (bitstream.Tile(bytes(3), 1, 0),), **found)
    assert metadata.of_container(bitstream.unpack(bitstream.pack(container))) == (
        metadata.Metadata(exif=noise),
        profile,
    )


def test_packed_sections_do_not_unpack_to_more_than_the_limit():
    bomb = zlib.compress(bytes(bitstream.MAX_ICC + 1), 9)
    for field, data in (
        ("packed_icc", bomb), ("xmp", bomb), ("packed_exif", bomb), ("packed_icc", b"nonsense"),
        ("xmp", zlib.compress(b"x")[:-1]),
        ("packed_icc", zlib.compress(b"")), ("packed_exif", zlib.compress(b"x") + b"more"), ("resolution", b"\0"),
        ("resolution", b"\1\1\1"), ("resolution", b"\x80"),
    ):  # fmt: skip
        container = bitstream.Container("0" * 16, 1, 1, 1, (bitstream.Tile(bytes(3), 1, 0),), **{field: data})
        with pytest.raises(BitstreamError):
            metadata.of_container(bitstream.unpack(bitstream.pack(container)))
        with pytest.raises(BitstreamError):
            codec.decompress(bitstream.pack(container))


def test_metadata_beyond_the_limits_is_left_out_with_a_remark():
    found, remarks = metadata.fitted(metadata.Metadata(xmp=bytes(bitstream.MAX_XMP + 1), iptc=IPTC))
    assert found == metadata.Metadata(iptc=IPTC) and remarks[0].startswith("XMP of 1,048,577 bytes is left out")


@pytest.mark.parametrize("dpi", [(72, 72), (300, 300), (299.9994, 72), (11811 * 0.0254, 11811 * 0.0254), (1e-4, 4e5)])
def test_resolutions_return(dpi):
    fields = metadata.sections(metadata.Metadata(dpi=dpi), None)
    container = bitstream.Container("0" * 16, 1, 1, 1, (bitstream.Tile(bytes(3), 1, 0),), **fields)
    np.testing.assert_allclose(metadata.of_container(container)[0].dpi, dpi, atol=6e-5)


# PNG chunks that are nobody's picture


def png(*chunks, after=()):
    file = io.BytesIO()
    Image.fromarray(pixels()).save(file, "PNG")
    data = file.getvalue()

    def packed(kind, body, crc=None):
        return (
            len(body).to_bytes(4, "big")
            + kind
            + body
            + (zlib.crc32(kind + body) if crc is None else crc).to_bytes(4, "big")
        )

    return (
        data[:33]
        + b"".join(packed(*chunk) for chunk in chunks)
        + data[33:-12]
        + b"".join(packed(*chunk) for chunk in after)
        + data[-12:]
    )


@pytest.mark.parametrize(
    "chunk",
    [
        (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3_000_000))),
        (b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(b"x" * 70_000_000)),
        (b"tEXt", b"Comment\0" + b"y" * 3_000_000),
        (b"tEXt", b"Comment\0damaged", 7),
        (b"zTXt", b"Comment\0\0no zlib"),
        (b"iCCP", b"name\0\0no zlib"),
        (b"gAMA", b"\0\0\0\1", 7),
        (b"eXIf", b""),
    ],
    ids=["zTXt", "iTXt", "tEXt", "crc", "no zlib", "profile", "crc of gAMA", "empty EXIF"],
)
def test_what_is_not_kept_of_a_png_costs_nothing(chunk):
    for data in (png(chunk), png(after=[chunk])):
        picture = read_picture(io.BytesIO(data))
        np.testing.assert_array_equal(picture.pixels, pixels())
        assert picture.icc is None and picture.exif is None


def test_metadata_of_png_is_found_wherever_it_stands():
    exif = metadata.upright_exif(camera_exif(orientation=1))
    text = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)
    hexadecimal = b"Raw profile type exif\0\0" + zlib.compress(
        b"\nexif\n  9\n" + (metadata.PREFIX + exif).hex().encode()
    )
    iptc = b"Raw profile type 8bim\0\0" + zlib.compress(
        b"\n8bim\n 9\n" + metadata.resources_of_iptc(IPTC).hex().encode()
    )
    for data in (
        png((b"eXIf", exif), (b"iTXt", text), (b"zTXt", iptc)),
        png(after=[(b"eXIf", exif), (b"iTXt", text), (b"zTXt", iptc)]),
        png((b"zTXt", hexadecimal), (b"iTXt", text), (b"zTXt", iptc)),
    ):
        found = read_picture(io.BytesIO(data)).metadata
        assert (found.exif, found.xmp, found.iptc) == (exif, XMP.replace(b'"6"', b'"1"'), IPTC)
