import dataclasses
import json

import numpy as np
import pytest
import torch

from codec import engine
from codec.bitstream import Tile
from codec.config import ModelConfig
from codec.errors import Corrupt, ModelError, Truncated
from codec.macs import multiply_adds, parameters
from codec.model import Model
from codec.nn.pixels import to_tensor
from codec.training.loop import read_weights
from codec.training.model import TrainableModel
from codec.weights import find_model
from tiny import CONFIG, coding, trainable


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("model")


@pytest.fixture(scope="module")
def model(folder):
    return coding(folder)


def image(height=128, width=192, seed=0):
    """Smooth noise, uint8 (H, W, 3): like a photograph in that neighbours resemble each other."""
    noise = torch.rand(1, 3, -(-height // 8), -(-width // 8), generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(noise, scale_factor=8, mode="bicubic").clamp(0, 1)
    return (255 * smooth[0, :, :height, :width].permute(1, 2, 0)).round().byte().numpy().copy()


@pytest.mark.parametrize("quality", [0, 2718, 10000])
@pytest.mark.parametrize("plain", [False, True])
def test_the_same_pixels_whichever_engine_decodes(model, folder, quality, plain):
    pixels = image(100, 190)
    coded = model.encode(pixels, quality, plain)
    decoded = model.decode(coded, 100, 190, quality)
    assert coded.plain is plain and decoded.shape == pixels.shape and decoded.dtype == np.uint8
    other = Model.from_folder(folder, backend="torch")
    assert np.abs(other.decode(coded, 100, 190, quality).astype(int) - decoded).max() <= 1
    assert np.array_equal(model.decode(other.encode(pixels, quality, plain), 100, 190, quality).shape, decoded.shape)


def test_global_settings_of_pytorch_change_no_symbol_and_stay(model, folder):
    pixels = image(100, 190)
    coded = model.encode(pixels, 5000, False)
    decoded = model.decode(coded, 100, 190, 5000)
    torch.set_float32_matmul_precision("medium")
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert model.encode(pixels, 5000, False) == coded
            other = Model.from_folder(folder, backend="torch")
            seen = other.decode(coded, 100, 190, 5000)  # its symbols are checked by their CRC
            assert np.abs(seen.astype(int) - decoded).max() <= 1
            again = other.encode(pixels, 5000, False)
        assert torch.get_float32_matmul_precision() == "medium" and torch.get_default_dtype() == torch.float64
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.set_default_dtype(torch.float32)
    assert np.abs(model.decode(again, 100, 190, 5000).astype(int) - decoded).mean() < 0.5


def test_estimated_rate_is_the_rate_of_the_tiles(photo):
    """The shipped model in the training graph, which rounds, against the integer networks and the coder."""
    config, tensors = read_weights(find_model())
    graph = TrainableModel(config).eval()
    graph.import_tensors(tensors)
    model = Model.from_folder(find_model())
    x = to_tensor(photo)
    estimated = written = 0.0
    for quality in (30, 60, 90):
        with torch.no_grad():
            figures = graph(x, torch.tensor([float(quality)]))
        estimated += (figures["y_bpp"] + figures["z_bpp"]).item() * x.shape[2] * x.shape[3]
        written += model.encode(photo, 100 * quality, plain=False, dependent=False).bits
    assert written == pytest.approx(estimated, rel=0.01)


@pytest.mark.parametrize("plain", [False, True])
def test_tiles_and_pieces_leave_no_seams(model, monkeypatch, plain):
    """The pixels of one piece of a synthesis in pieces, whatever the tiles; odd sizes."""
    pixels = image(1111, 1301)
    coded = model.encode(pixels, 5000, plain)
    assert len(coded.tiles) == 4
    decoded = model.decode(coded, 1111, 1301, 5000)
    monkeypatch.setattr(engine, "PIECE", 64)
    assert np.abs(model.decode(coded, 1111, 1301, 5000).astype(int) - decoded).max() <= 1
    monkeypatch.setattr(engine, "PIECE", 128)
    for threads in (1, 3):
        model.threads, before = threads, model.threads
        again = model.encode(pixels, 5000, plain)
        assert again == coded and np.array_equal(model.decode(again, 1111, 1301, 5000), decoded)
        model.threads = before


def test_damage_stays_in_its_tile(model):
    pixels = image(64, 2100)
    coded = model.encode(pixels, 3000, False)
    tile = coded.tiles[1]
    damaged = Tile(tile.data[:-1] + bytes([tile.data[-1] ^ 1]), tile.lanes, tile.symbols_crc)
    with pytest.raises((Corrupt, Truncated)):
        model.decode(coded._replace(tiles=(coded.tiles[0], damaged, coded.tiles[2])), 64, 2100, 3000)
    swapped = coded._replace(tiles=(coded.tiles[1], coded.tiles[0], coded.tiles[2]))
    seen = model.decode(swapped, 64, 2100, 3000)  # tiles do not know each other
    assert np.array_equal(seen[:, 2080:], model.decode(coded, 64, 2100, 3000)[:, 2080:])


def test_tiles_of_one_colour_are_that_colour(model):
    pixels = np.full((70, 2100, 3), (255, 0, 7), np.uint8)
    pixels[:, 1024:] = 9
    coded = model.encode(pixels, 50)
    assert coded.flat and coded.bits == 3 * 3 * 8
    assert np.array_equal(model.decode(coded, 70, 2100, 50), pixels)
    wrong = coded._replace(tiles=(Tile(b"abc", 1, coded.tiles[0].symbols_crc), *coded.tiles[1:]))
    with pytest.raises(Corrupt, match="colour"):
        model.decode(wrong, 70, 2100, 50)
    pixels[3, 5, 1] ^= 1
    assert not model.encode(pixels, 50).flat


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


@pytest.mark.parametrize(
    "bad",
    [{"M": 30}, {"M": 640}, {"synthesis_width8": 100}, {"analysis_width": 770}, {"anchors": 1}, {"lmbda_min": 2.0}],
)
def test_architectures_that_cannot_be_built_are_refused(bad):
    with pytest.raises(ModelError):
        ModelConfig(**bad)


def test_weights_that_do_not_fit_their_config_are_refused(folder, model, tmp_path):
    values = dataclasses.asdict(dataclasses.replace(CONFIG, M=16))
    (tmp_path / "config.json").write_text(json.dumps({"architecture": values}))
    (tmp_path / "weights.safetensors").write_bytes((folder / "weights.safetensors").read_bytes())
    with pytest.raises(ModelError, match="config.json asks for|not int8"):
        Model.from_folder(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "truncated", "not json"])
def test_damaged_model_folders_are_refused(folder, model, tmp_path, damage):
    config = (folder / "config.json").read_text()
    weights = (folder / "weights.safetensors").read_bytes()
    (tmp_path / "config.json").write_text("{" if damage == "not json" else config)
    if damage != "missing":
        (tmp_path / "weights.safetensors").write_bytes(weights[:1000] if damage == "truncated" else weights)
    with pytest.raises(ModelError):
        Model.from_folder(tmp_path)
