import dataclasses
import itertools

import numpy as np
import pytest
import torch

from codec import Codec
from codec.config import ModelConfig
from codec.engine import read_folder
from codec.errors import ModelError
from codec.latents.vector import CONTEXTS, VectorLatents
from codec.model import Model
from codec.nn.integer import TrainableLayer
from codec.nn.pixels import to_tensor
from codec.nn.vector import checkerboard, contexts, from_groups, histories, to_groups
from codec.training.loop import export, read_weights
from codec.training.vector_model import TrainableVectorModel
from tiny import CONFIG

VQ_CONFIG = dataclasses.replace(CONFIG, latents="vq", codes=16, stages=3)
CONFIGS = {kind: dataclasses.replace(VQ_CONFIG, latents=kind) for kind in ("vq", "hvq", "dvae")}
QUALITIES = (0, 2500, 6000, 10000)


def trainable(kind="vq", seed=0, config=None):
    """A model with random codebooks of falling size and a lively prior; pairs begin at many qualities."""
    torch.manual_seed(seed)
    model = TrainableVectorModel(config or CONFIGS[kind])
    with torch.no_grad():
        levels = [(model.lower, 0.3)] + ([(model.upper, 3.0)] if model.upper else [])
        for level, size in levels:
            for s, book in enumerate(level.books):
                codebook = size * 0.5**s * torch.randn(book.entries.shape)
                codebook[:, 0] = 0
                book.load(codebook / level.size[s][:, None, None])
            level.log_prior.copy_(torch.randn(level.log_prior.shape))
            level.sharpness.copy_(2 * torch.randn(level.sharpness.shape))
            if level.categorical:
                level.logits_base.copy_(torch.randn(level.logits_base.shape))
                level.log_precision.add_(torch.randn(level.log_precision.shape))
        for layer in model.modules():
            if isinstance(layer, TrainableLayer):
                layer.bias.add_(0.3 * torch.randn_like(layer.bias))
        if model.upper:
            model.heads["mean"].weight.mul_(20)
            model.heads["index"].weight.mul_(20)
    return model


@pytest.fixture(scope="module", params=CONFIGS)
def folder(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp(request.param)
    export(trainable(request.param), folder)
    return folder


@pytest.fixture(scope="module")
def coder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vq")
    export(trainable(), folder)
    return VectorLatents(VQ_CONFIG, read_folder(folder)[1])


def latents(height=8, width=12, seed=0):
    return 0.4 * np.random.default_rng(seed).standard_normal((VQ_CONFIG.M, height, width), np.float32)


def test_groups_are_neighbouring_channels_and_come_back():
    y = torch.randn(2, 12, 3, 5)
    vectors = to_groups(y, 4)
    assert vectors.shape == (3, 30, 4)
    assert torch.equal(vectors[1, 15 + 5 * 2 + 3], y[1, 4:8, 2, 3])
    assert torch.equal(from_groups(vectors, 2, 3, 5), y)


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


def test_a_higher_quality_refines_the_same_description(coder):
    used = [set(coder.level.pairs(quality)) for quality in QUALITIES]
    assert used[0] and all(low <= high for low, high in itertools.pairwise(used)) and len(used[-1]) > len(used[0])
    assert all((s - 1, g) in pairs for pairs in used for s, g in pairs if s)
    y = latents()
    errors, sizes = [], []
    for quality in QUALITIES:
        errors.append(np.square(y - coder.encode(None, y, quality).y_hat).mean())
        sizes.append(coder.estimate(None, y, quality))
    assert errors == sorted(errors, reverse=True) and sizes == sorted(sizes)


def test_the_estimated_rate_is_that_of_the_string(folder):
    model = Model.from_folder(folder)
    graph = TrainableVectorModel(model.config).eval()
    graph.import_tensors(read_weights(folder)[1])
    pixels = np.random.default_rng(0).integers(0, 256, (192, 256, 3), np.uint8)
    x = to_tensor(pixels)
    for quality in (40, 100):
        with torch.no_grad():
            figures = graph(x, torch.tensor([float(quality)]))
        estimated = (figures["y_bpp"] + figures["z_bpp"]).item() * 192 * 256
        assert model.encode(pixels, 100 * quality).bits == pytest.approx(estimated, rel=0.02)


def test_the_same_bytes_with_any_number_of_threads(folder, photo):
    files = []
    for number in (1, 2):
        codec = Codec(folder, threads=number)
        files.append(codec.compress(photo, 70))
        assert np.array_equal(np.asarray(codec.decompress(files[0])), codec.reconstruct(photo, 70))
    assert files[0] == files[1]


@pytest.mark.parametrize("size", [(1, 1), (63, 65), (64, 64)])
def test_every_size_comes_back_through_a_file(folder, photo, size):
    codec = Codec(folder)
    image = codec.decompress(codec.compress(np.ascontiguousarray(photo[: size[0], : size[1]]), 50))
    assert (image.height, image.width) == size


@pytest.mark.parametrize(
    "bad",
    [{"latents": "cubes"}, {"code_dim": 7}, {"codes": 1}, {"stages": 0}, {"latents": "hvq", "N": 6}],
)
def test_architectures_that_cannot_be_built_are_refused(bad):
    with pytest.raises(ModelError):
        ModelConfig(**{"latents": "vq", **bad})
