import dataclasses
import json

import pytest
import torch
from tiny import CONFIG, coding, trainable

from codec import model as model_module
from codec.errors import ModelError
from codec.macs import multiply_adds, parameters
from codec.model import CodecModel, ModelConfig, read_folder
from codec.pixels import to_tensor
from codec.training.model import TrainableModel
from codec.weights import find_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("model")


@pytest.fixture(scope="module")
def model(folder):
    return coding(folder)


def image(height=128, width=192, seed=0):
    """Smooth noise: like a photograph in that neighbours resemble each other."""
    noise = torch.rand(1, 3, height // 8, width // 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, size=(height, width), mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("quality", [0, 2718, 10000])
def test_decoder_reproduces_the_encoders_reconstruction(model, quality):
    for plain in (False, True):
        coded = model.encode(image(), quality, plain)
        decoded = model.decode(coded.z_string, coded.y_string, coded.crc, 128, 192, quality, plain)
        assert coded.plain is plain and torch.equal(decoded, model.reconstruct(coded.y_hat, quality, plain))
        assert decoded.shape == (1, 3, 128, 192)


def test_estimated_rate_is_the_rate_of_the_strings(photo):
    """The shipped model in the training graph, against the integer networks and the coder."""
    config, tensors = read_folder(find_model())
    graph = TrainableModel(config).eval()
    graph.import_tensors(tensors)
    model = CodecModel.from_folder(find_model())
    x = to_tensor(photo)
    estimated = written = 0.0
    for quality in (30, 60, 90):
        with torch.no_grad():
            figures = graph(x, torch.tensor([float(quality)]))
        estimated += (figures["y_bpp"] + figures["z_bpp"]).item() * x.shape[2] * x.shape[3] / 8
        coded = model.encode(x, 100 * quality, plain=False)
        written += len(coded.z_string) + len(coded.y_string)
    assert written == pytest.approx(estimated, rel=0.01)


def test_large_pictures_are_tiled_without_seams(model, monkeypatch):
    x = image(640, 448)
    quality = torch.tensor([50.0])
    whole_y = model.transforms.analyse(x, quality)
    whole_x = model.transforms.synthesise(whole_y, quality)
    monkeypatch.setattr(model_module, "TILE", 8)
    halo = model.transforms.g_a.reach
    y = model_module._tiled(lambda t: model.transforms.analyse(t, quality), x, 16, 1, halo)
    x_hat = model_module._tiled(lambda t: model.transforms.synthesise(t, quality), y, 1, 16, halo)
    torch.testing.assert_close(y, whole_y, atol=2e-3, rtol=1e-4)
    torch.testing.assert_close(x_hat, whole_x, atol=1e-4, rtol=1e-4)


def test_lmbda_is_logarithmic_in_quality():
    config = ModelConfig()
    assert config.lmbda(0) == pytest.approx(config.lmbda_min)
    assert config.lmbda(100) == pytest.approx(config.lmbda_max)
    assert config.lmbda(50) ** 2 == pytest.approx(config.lmbda_min * config.lmbda_max)


def test_decoder_stays_within_its_budget():
    counts = multiply_adds(ModelConfig())
    assert counts["g_s"] + counts["entropy"] <= 30
    assert counts["g_a"] + counts["h_a"] + counts["entropy"] <= 30


def test_counts_agree_with_the_modules():
    trained = trainable()
    counts = parameters(CONFIG)
    for part in ("g_a", "g_s", "h_a"):
        folded = [t for name, t in trained.transforms.folded().items() if name.startswith(f"{part}.")]
        assert counts[part] == sum(t.numel() for t in folded)
    assert counts["entropy"] == sum(p.numel() for p in trained.networks.parameters())


def test_unknown_config_fields_are_refused():
    with pytest.raises(ModelError, match="widht"):
        ModelConfig.from_dict({"widht": 3})


@pytest.mark.parametrize("bad", [{"M": 30}, {"M": 640}, {"synthesis_width8": 100}, {"analysis_width": 770}, {"anchors": 1}, {"lmbda_min": 2.0}])
def test_architectures_that_cannot_be_built_are_refused(bad):
    with pytest.raises(ModelError):
        ModelConfig(**bad)


def test_weights_that_do_not_fit_their_config_are_refused(folder, model, tmp_path):
    values = dataclasses.asdict(dataclasses.replace(CONFIG, M=16))
    (tmp_path / "config.json").write_text(json.dumps({"architecture": values}))
    (tmp_path / "weights.safetensors").write_bytes((folder / "weights.safetensors").read_bytes())
    with pytest.raises(ModelError, match="do not fit"):
        CodecModel.from_folder(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "truncated", "not json"])
def test_damaged_model_folders_are_refused(folder, model, tmp_path, damage):
    config = (folder / "config.json").read_text()
    weights = (folder / "weights.safetensors").read_bytes()
    (tmp_path / "config.json").write_text("{" if damage == "not json" else config)
    if damage != "missing":
        (tmp_path / "weights.safetensors").write_bytes(weights[:1000] if damage == "truncated" else weights)
    with pytest.raises(ModelError):
        CodecModel.from_folder(tmp_path)
