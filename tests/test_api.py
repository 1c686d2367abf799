"""The promises to users, with the shipped model."""

import zlib

import numpy as np
import pytest
import torch
from PIL import Image

import codec
from codec import bitstream
from codec.weights import list_models


@pytest.fixture(scope="module")
def shipped():
    return codec.Codec()


def psnr_db(a, b):
    with np.errstate(divide="ignore"):  # a picture of one pixel may come back as it was
        return 10 * np.log10(255**2 / np.mean((np.asarray(a, float) - np.asarray(b, float)) ** 2))


@pytest.mark.parametrize("size", [(1, 1), (1, 65), (63, 64), (64, 63), (65, 65)])
def test_every_size_comes_back(shipped, photo, size):
    pixels = np.ascontiguousarray(photo[: size[0], : size[1]])
    image = shipped.decompress(shipped.compress(pixels, 80))
    assert (image.height, image.width) == size and image.mode == "RGB"
    assert psnr_db(image, pixels) > 25


def test_quality_buys_fidelity(shipped, photo):
    sizes, fidelities = [], []
    for quality in (0, 25, 50, 75, 100):
        data = shipped.compress(photo, quality)
        sizes.append(len(data))
        fidelities.append(psnr_db(shipped.decompress(data), photo))
    assert sizes == sorted(set(sizes)) and fidelities == sorted(set(fidelities))
    assert fidelities[-1] > 38


@pytest.mark.parametrize("name", list_models())
def test_files_of_every_shipped_model_name_it_and_come_back(shipped, photo, name):
    coder = codec.Codec(name)
    low, high = (coder.compress(photo, quality) for quality in (5, 60))
    assert len(low) < len(high)
    assert bitstream.read_header(low).model_id == name
    assert psnr_db(shipped.decompress(low), photo) < psnr_db(shipped.decompress(high), photo)
    assert np.array_equal(np.asarray(shipped.decompress(high)), coder.reconstruct(photo, 60))


def test_decoder_reproduces_the_encoders_reconstruction(shipped, photo):
    for quality in (10, 55.55, 100):
        decoded = np.asarray(shipped.decompress(shipped.compress(photo, quality)))
        assert np.array_equal(decoded, shipped.reconstruct(photo, quality))


def test_bytes_do_not_depend_on_the_batch(shipped, photo):
    images = [photo, photo[:64, :64].copy(), photo[::-1].copy()]
    batch = shipped.compress_batch(images, 40)
    assert batch == [shipped.compress(image, 40) for image in images]
    for image, data in zip(shipped.decompress_batch(batch), batch):
        assert np.array_equal(np.asarray(image), np.asarray(shipped.decompress(data)))


def test_pixels_decode_the_same_with_any_number_of_threads(shipped, photo):
    data = shipped.compress(photo, 60)
    threads = torch.get_num_threads()
    try:
        decoded = []
        for count in (1, 2):
            torch.set_num_threads(count)
            decoded.append(np.asarray(shipped.decompress(data)).astype(int))
    finally:
        torch.set_num_threads(threads)
    assert np.abs(decoded[0] - decoded[1]).max() <= 1


def test_modes_come_back(shipped, photo):
    grey = Image.fromarray(photo).convert("L")
    assert shipped.decompress(shipped.compress(grey, 50)).mode == "L"
    alpha = np.tile(np.linspace(0, 255, photo.shape[1]).astype(np.uint8), (photo.shape[0], 1))
    decoded = shipped.decompress(shipped.compress(np.dstack([photo, alpha]), 50))
    assert decoded.mode == "RGBA" and np.array_equal(np.asarray(decoded)[..., 3], alpha)


def test_overhead_is_under_40_bytes(shipped, photo):
    data = shipped.compress(photo, 50)
    container = bitstream.unpack(data)
    assert len(data) - sum(len(tile.data) for tile in container.tiles) < 40
    assert container.model_id == shipped.model_id and container.quality == 5000


def test_flipped_bits_and_truncations_are_refused(shipped, photo):
    data = shipped.compress(photo[:64, :64].copy(), 20)
    rng = np.random.default_rng(0)
    for position in rng.integers(0, 8 * len(data), 200):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(codec.BitstreamError):
            shipped.decompress(bytes(damaged))
    for length in range(len(data)):
        with pytest.raises(codec.BitstreamError):
            shipped.decompress(data[:length])


def test_forged_files_with_a_valid_checksum_are_harmless(shipped, photo):
    """The checksum guards against accidents, not against malice: then the symbols' own checksum refuses."""
    data = shipped.compress(photo[:64, :64].copy(), 50)
    rng = np.random.default_rng(1)
    for _ in range(40):
        forged = bytearray(data)
        for _ in range(rng.integers(1, 20)):
            forged[rng.integers(len(forged))] = rng.integers(256)
        header = bitstream.read_header(data).size - 4
        forged[header : header + 4] = zlib.crc32(forged[:header]).to_bytes(4, "little")
        try:
            shipped.decompress(bytes(forged))
        except codec.CodecError:
            continue
        raise AssertionError("a forged file was accepted")


def test_files_of_unknown_models_are_refused(shipped, photo):
    container = bitstream.unpack(shipped.compress(photo[:64, :64].copy(), 50))
    forged = bitstream.pack(bitstream.Container(**{**vars(container), "model_id": "0" * 16}))
    with pytest.raises(codec.ModelError, match="00000000"):
        shipped.decompress(forged)


@pytest.mark.parametrize("quality", [-1, 100.01, float("nan")])
def test_bad_qualities_are_refused(shipped, photo, quality):
    with pytest.raises(ValueError, match="quality"):
        shipped.compress(photo, quality)


def test_module_functions_are_the_shipped_codec(shipped, photo):
    data = codec.compress(photo, quality=30)
    assert data == shipped.compress(photo, 30) == codec.compress_batch([photo], quality=30)[0]
    assert np.array_equal(np.asarray(codec.decompress(data)), np.asarray(codec.decompress_batch([data])[0]))
