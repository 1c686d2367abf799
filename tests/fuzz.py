"""Hostile bytes: what each target does with any bytes must end, in a result or in one of our errors.

    python tests/fuzz.py container -max_total_time=3600 work/      coverage-guided, with atheris (pip install atheris)
    python tests/fuzz.py seed                                      writes the first inputs of tests/corpus/

New inputs go to the first folder that is named; tests/corpus/TARGET is read as well. tests/test_fuzz.py runs every
target over its corpus. Options are libFuzzer's.
"""

import io
import json
import struct
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
CORPUS = Path(__file__).resolve().parent / "corpus"


def container(data):
    """A compressed file: header, whole, and read from a file agree; what unpacks packs to the same bytes."""
    from codec import bitstream
    from codec.errors import BitstreamError

    def outcome(function, *arguments):
        try:
            return function(*arguments)
        except BitstreamError as error:
            assert "\n" not in str(error)
            return type(error), str(error)

    unpacked = outcome(bitstream.unpack, data)
    verified = outcome(bitstream.verify_file, io.BytesIO(data))
    whole = outcome(lambda: bitstream.unpack(bitstream.read_file(io.BytesIO(data))))
    assert whole == unpacked
    if isinstance(unpacked, bitstream.Container):
        assert bitstream.pack(unpacked) == data and verified == bitstream.read_header(data)
        assert sum(length for _, _, length in verified.layout()) == len(data)
    else:
        assert verified == unpacked


def coder(data):
    """A stream, and tables for it: symbols of an encoder, which encode to the same stream again, or an error."""
    from codec.errors import BitstreamError, ModelError
    from codec.latents import rans

    if len(data) < 8:
        return
    count, lanes, rows, entries = struct.unpack("<HHBB", data[:6])
    entries, rows, count = 3 + entries % 6, 1 + rows % 4, count % 2048
    size = rows * (entries - 2) * 2
    inner = np.sort(
        np.frombuffer(data[6 : 6 + size].ljust(size, b"\0"), "<u2").reshape(rows, -1).astype(np.int32), axis=1
    )
    cdf = np.pad(inner, ((0, 0), (1, 1)), constant_values=(0, rans.TOTAL)).astype(np.int32)
    cdf[:, -1] = rans.TOTAL
    cdf[:, 0] = 0
    lengths, offsets = np.full(rows, entries, np.int32), np.arange(rows, dtype=np.int32) * 7 - 9
    try:
        tables = rans.Tables(cdf.ravel(), lengths, offsets)
    except ModelError:
        return
    wanted = np.arange(count) % rows
    stream = data[6 + size :]
    try:
        decoder = rans.Decoder(tables, stream, lanes)
        symbols = [decoder.pull(part) for part in np.array_split(wanted, 3)]
        decoder.finish()
    except BitstreamError as error:
        assert "\n" not in str(error)
        return
    encoder = rans.Encoder(tables)
    encoder.push(wanted, np.concatenate(symbols))
    assert encoder.flush(lanes) == (lanes, stream)


def model(data):
    """A model's folder: config.json and weights.safetensors, told apart by the length of the first."""
    from codec import weights
    from codec.errors import ModelError

    size = int.from_bytes(data[:4], "little")
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        folder = Path(folder)
        (folder / "config.json").write_bytes(data[4 : 4 + size])
        (folder / "weights.safetensors").write_bytes(data[4 + size :])
        for work in (weights.model_id, _read):
            try:
                work(folder)
            except ModelError as error:
                assert str(error)


def _read(folder):
    from codec import engine, latents

    config, tensors = engine.read_folder(folder)
    engine.float_weights(config, tensors)
    latents.from_tensors(config, tensors)


def exif(data):
    """EXIF of a picture: never an error, never the picture, before and after compression."""
    from PIL import Image

    from codec.image_io import read_picture, to_image

    data = data[:60_000]
    pixels = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    png = file.getvalue()
    chunk = b"eXIf" + data
    chunk = len(data).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    jpeg = file.getvalue()
    segment = b"\xff\xe1" + (len(data) + 8).to_bytes(2, "big") + b"Exif\0\0" + data
    for whole in (png[:33] + chunk + png[33:], jpeg[:2] + segment + jpeg[2:]):
        picture = read_picture(io.BytesIO(whole))
        assert sorted(picture.pixels.shape) == [3, 8, 12]
        if picture.exif is not None:
            dict(to_image(pixels, exif=picture.exif).getexif())
    dict(to_image(pixels, exif=data).getexif())


def alpha(data):
    """The alpha section of a picture of 5 x 3 pixels."""
    from codec.errors import Corrupt
    from codec.image_io import decode_alpha

    try:
        plane = decode_alpha(data, 5, 3)
    except Corrupt:
        return
    assert plane.shape == (3, 5) and plane.dtype == np.uint8


def background(data):
    """The background section of a picture of 71 x 41 pixels: what is read is what is written, and fills that alone."""
    from codec import background
    from codec.errors import Corrupt
    from codec.model import View

    try:
        found = background.unpack(data, 71, 41)
    except Corrupt:
        return
    again = background.unpack(background.pack(found), 71, 41)
    assert np.array_equal(found.colour, again.colour) and np.array_equal(found.blocks, again.blocks)
    pixels = np.zeros((41, 71, 3), np.uint16)
    background.fill(pixels, found, View(0, 0, 71, 41))
    inside = found.blocks.repeat(8, 0).repeat(8, 1)[:41, :71]
    assert (pixels[inside] == found.colour).all() and not pixels[~inside].any()


TARGETS = {target.__name__: target for target in (container, coder, model, exif, alpha, background)}


# Seeds


def seeds():
    """Yield (target, name, bytes): small inputs that reach far."""
    import safetensors.numpy
    from PIL import Image

    from codec import bitstream
    from codec.background import find as find_background
    from codec.background import pack as pack_background
    from codec.image_io import encode_alpha
    from codec.latents import rans

    tile = bitstream.Tile(b"latents", 1, 7)
    plain = bitstream.Container("0123456789abcdef", 5000, 300, 200, (tile,))
    yield "container", "plain", bitstream.pack(plain)
    full = {**vars(plain), "width": 1100, "tiles": (tile, tile), "alpha": b"a", "icc": b"i", "exif": b"e", "grey": True,
            "extra": ((64, b"later"), (66, b""))}  # fmt: skip
    yield "container", "full", bitstream.pack(bitstream.Container(**full))
    flat = {**vars(plain), "tiles": (bitstream.Tile(b"rgb", 1, 7),), "flat": True}
    yield "container", "flat", bitstream.pack(bitstream.Container(**flat))
    stored = bitstream.Tile(b"GIF89a", 1, zlib.crc32(b"GIF89a"))
    whole = bitstream.Container(
        bitstream.NO_MODEL, bitstream.LOSSLESS, 300, 200, (stored,), stored=True, xmp=b"x", resolution=b"r"
    )
    yield "container", "stored", bitstream.pack(whole)

    for name, lanes, count in (("scalar", 1, 40), ("steps", 16, 300)):
        inner = np.array([[9000, 30000, 60000], [100, 200, 65000]], np.int32)
        cdf = np.pad(inner, ((0, 0), (1, 1)))
        cdf[:, -1] = rans.TOTAL
        tables = rans.Tables(cdf.ravel(), np.full(2, 5, np.int32), np.array([-9, -2], np.int32))
        rows = np.arange(count) % 2
        encoder = rans.Encoder(tables)
        encoder.push(rows, rows * 5 - 8 + (np.arange(count) % 7 == 0) * 300)
        stream = encoder.flush(lanes)[1]
        yield "coder", name, struct.pack("<HHBB", count, lanes, 1, 2) + inner.astype("<u2").tobytes() + stream

    small = {"M": 4, "N": 4, "analysis_width": 4, "synthesis_width16": 4, "analysis_depth": 0, "synthesis_depth16": 0,
             "synthesis_depth8": 0, "hyper_width": 1, "entropy_width": 1, "context_width": 1, "anchors": 2}  # fmt: skip
    tensors = {"g_a.enter.weight": np.zeros((4, 8), np.float16), "entropy.y_lengths": np.zeros(3, np.int32)}
    for name, architecture in (("small", small), ("vq", {**small, "latents": "vq"}), ("default", {})):
        config = json.dumps({"architecture": architecture}).encode()
        yield "model", name, len(config).to_bytes(4, "little") + config + safetensors.numpy.save(tensors)

    found = Image.Exif()
    found[0x0112], found[0x010E], found[0x011A] = 6, "a dog", 72.0
    found.get_ifd(0x8825)[1] = "N"
    yield "exif", "little", found.tobytes().removeprefix(b"Exif\0\0")
    found.endian = ">"
    yield "exif", "big", found.tobytes().removeprefix(b"Exif\0\0")
    yield "alpha", "soft", encode_alpha(np.arange(15, dtype=np.uint8).reshape(3, 5))
    for name, colour in (("white", 255), ("dark", 1)):
        pixels = np.full((41, 71, 3), colour, np.uint8)
        pixels[8:20, 30:50] = np.arange(20)[:, None]
        yield "background", name, pack_background(find_background(pixels))
    yield "alpha", "hard", encode_alpha(np.eye(3, 5, dtype=np.uint8) * 255)


def main():
    """Fuzz the target that the command line names."""
    sys.path.insert(0, str(ROOT))
    if sys.argv[1:] == ["seed"]:
        for name, file, data in seeds():
            (CORPUS / name).mkdir(parents=True, exist_ok=True)
            (CORPUS / name / file).write_bytes(data)
        return
    import warnings

    import atheris

    warnings.simplefilter("ignore")  # Pillow's, about the damage
    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=["codec"]):
        import codec.background
        import codec.bitstream
        import codec.engine
        import codec.image_io
        import codec.latents.rans
        import codec.weights  # noqa: F401
    atheris.Setup([*sys.argv, str(CORPUS / name)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
