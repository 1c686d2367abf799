import dataclasses

import numpy as np
import pytest
import torch
from tiny import CONFIG

from codec import Codec
from codec.errors import Corrupt, ModelError
from codec.latents.tables import TOTAL
from codec.latents.vector import CONTEXTS
from codec.model import CodecModel, ModelConfig, read_folder
from codec.training.loop import export
from codec.training.vector_model import TrainableVectorModel
from codec.vector_entropy import checkerboard, choose, contexts, from_groups, histories, to_groups
from codec.vector_entropy import VectorCoder

VQ_CONFIG = dataclasses.replace(CONFIG, latents="vq", codes=16, stages=3)
QUALITIES = (0, 2500, 6000, 10000)


def trainable(seed=0):
    """A model with random codebooks of falling size and a lively prior; pairs begin at many qualities."""
    torch.manual_seed(seed)
    model = TrainableVectorModel(VQ_CONFIG)
    with torch.no_grad():
        size = 0.3 * 0.5 ** torch.arange(VQ_CONFIG.stages).view(-1, 1, 1, 1)
        model.codebooks.copy_(size * torch.randn(model.codebooks.shape))
        model.codebooks[:, :, 0] = 0
        model.log_prior.copy_(torch.randn(model.log_prior.shape))
        model.sharpness.copy_(2 * torch.randn(model.sharpness.shape))
        model.counts.fill_(1 / VQ_CONFIG.codes)
        model.sums.copy_(model.codebooks * model.counts[..., None])
        model.seen.fill_(1)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vq")
    export(trainable(), folder)
    return folder


@pytest.fixture(scope="module")
def coder(folder):
    coder = VectorCoder(VQ_CONFIG)
    coder.load(read_folder(folder)[1])
    return coder


def latents(height=8, width=12, seed=0):
    return 0.4 * torch.randn(1, VQ_CONFIG.M, height, width, generator=torch.Generator().manual_seed(seed))


def test_groups_are_neighbouring_channels_and_come_back():
    y = torch.randn(2, 12, 3, 5)
    vectors = to_groups(y, 4)
    assert vectors.shape == (3, 30, 4)
    assert torch.equal(vectors[1, 15 + 5 * 2 + 3], y[1, 4:8, 2, 3])
    assert torch.equal(from_groups(vectors, 2, 3, 5), y)


def test_the_choice_is_the_cheapest_codeword():
    residual, codebooks, penalty = torch.randn(3, 40, 4), torch.randn(3, 7, 4), torch.rand(3, 40, 7)
    cost = (residual[:, :, None] - codebooks[:, None]).square().sum(-1) + penalty
    assert torch.equal(choose(residual, codebooks, penalty), cost.argmin(-1))


def test_contexts_depend_on_nothing_that_the_decoder_does_not_know():
    generator = torch.Generator().manual_seed(0)
    magnitude = torch.randint(4, (9, 10), generator=generator)
    history = histories([torch.randint(4, (9, 10), generator=generator)], torch.zeros(9, 10, dtype=torch.int64))
    first = checkerboard(9, 10)
    rows = contexts(history, magnitude)
    assert rows.min() >= 0 and rows.max() < CONTEXTS
    other_second = torch.where(first, magnitude, 3 - magnitude)
    assert torch.equal(contexts(history, other_second), rows)
    other_first = torch.where(first, 3 - magnitude, magnitude)
    changed = contexts(history, other_first) != rows
    assert not changed[first].any() and changed[~first].any()


@pytest.mark.parametrize("quality", QUALITIES)
def test_decoding_gives_what_the_encoder_reconstructed(coder, quality):
    y = latents()
    z_string, y_string, y_hat, crc = coder.encode(None, y, quality)
    assert z_string == b""
    assert torch.equal(coder.decode(z_string, y_string, 8, 12, quality, crc), y_hat)


def test_a_higher_quality_refines_the_same_description(coder):
    used = [set(coder.pairs(quality)) for quality in QUALITIES]
    assert used[0] and all(low <= high for low, high in zip(used, used[1:])) and len(used[-1]) > len(used[0])
    assert all((s - 1, g) in pairs for pairs in used for s, g in pairs if s)
    y = latents()
    errors, sizes = [], []
    for quality in QUALITIES:
        _, y_string, y_hat, _ = coder.encode(None, y, quality)
        errors.append((y - y_hat).square().mean().item())
        sizes.append(len(y_string))
    assert errors == sorted(errors, reverse=True) and sizes == sorted(sizes)


def test_the_estimated_rate_is_that_of_the_string(folder):
    model, graph = CodecModel.from_folder(folder), trainable().eval()
    graph.import_tensors(read_folder(folder)[1])
    x = torch.rand(1, 3, 192, 256, generator=torch.Generator().manual_seed(0))
    for quality in (40, 100):
        with torch.no_grad():
            estimated = graph(x, torch.tensor([float(quality)]))["y_bpp"].item() * 192 * 256
        written = 8 * len(model.encode(x, 100 * quality)[1])
        assert written == pytest.approx(estimated, rel=0.02)


def test_the_same_bytes_with_any_number_of_threads(folder, photo):
    codec = Codec(folder)
    threads = torch.get_num_threads()
    try:
        files = []
        for number in (1, 2):
            torch.set_num_threads(number)
            files.append(codec.compress(photo, 70))
            decoded = np.asarray(codec.decompress(files[0]))
            assert np.array_equal(decoded, codec.reconstruct(photo, 70))
    finally:
        torch.set_num_threads(threads)
    assert files[0] == files[1]


@pytest.mark.parametrize("size", [(1, 1), (63, 65), (64, 64)])
def test_every_size_comes_back_through_a_file(folder, photo, size):
    codec = Codec(folder)
    image = codec.decompress(codec.compress(np.ascontiguousarray(photo[: size[0], : size[1]]), 50))
    assert (image.height, image.width) == size


def test_damaged_strings_are_refused(coder):
    _, y_string, _, crc = coder.encode(None, latents(), 6000)
    with pytest.raises(Corrupt, match="checksum"):
        coder.decode(b"", y_string, 8, 12, 6000, crc ^ 1)
    with pytest.raises(Corrupt, match="side information"):
        coder.decode(b"x", y_string, 8, 12, 6000, crc)
    for i in range(0, len(y_string), 7):
        damaged = y_string[:i] + bytes([y_string[i] ^ 0x55]) + y_string[i + 1 :]
        try:
            coder.decode(b"", damaged, 8, 12, 6000, crc)
        except Corrupt:
            continue
        pytest.fail(f"byte {i} was changed and nobody noticed")


def test_tables_are_whole_and_wrong_ones_refused(folder):
    tensors = read_folder(folder)[1]
    frequencies = 1 + (tensors["entropy.vq.frequencies"].int() & 0xFFFF)
    assert frequencies.min() >= 1 and frequencies.sum(-1).eq(TOTAL).all()
    tensors["entropy.vq.frequencies"][0, 0, 0, 0] += 1
    with pytest.raises(ModelError, match="does not add up"):
        VectorCoder(VQ_CONFIG).load(tensors)


@pytest.mark.parametrize("bad", [{"latents": "cubes"}, {"code_dim": 7}, {"codes": 1}, {"stages": 0}])
def test_architectures_that_cannot_be_built_are_refused(bad):
    with pytest.raises(ModelError):
        ModelConfig(**{"latents": "vq", **bad})
