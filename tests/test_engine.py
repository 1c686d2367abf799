import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

from codec import engine as engine_module
from codec import graphs, winograd
from codec.config import ModelConfig
from codec.engine import Engine, PlainTransforms, float_weights, read_folder
from codec.errors import ModelError
from codec.nn.dct import coarse_deviation, coarse_to_pixels, haar_matrix, quantisation_step
from codec.nn.transforms import Transforms, interpolate
from tiny import CONFIG

CONFIGS = [
    CONFIG,
    replace(CONFIG, M=36, analysis_width=50, synthesis_width16=38, synthesis_depth16=2, synthesis_width8=194, N=5),
    replace(CONFIG, analysis_depth=0, synthesis_depth16=0, synthesis_depth8=0, anchors=2),
    replace(CONFIG, latents="vq", code_dim=4, codes=8, stages=2),
    replace(CONFIG, latents="hvq", code_dim=4, codes=8, stages=2),
]


def lively_weights(config, seed=0):
    """Random float16 weights, of sizes that keep every layer's output near 1."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in graphs.weight_shapes(config).items():
        spread = 0.3 if len(shape) == 1 or "table" in name else np.prod(shape[1:]) ** -0.5
        weights[name] = (spread * rng.standard_normal(shape)).astype(np.float16)
    return weights


def torch_transforms(config, weights):
    transforms = Transforms(config).eval().requires_grad_(False)
    transforms.load_state_dict({name: torch.from_numpy(array).float() for name, array in weights.items()})
    return transforms


def picture(height, width, seed=0):
    """float32 (3, H, W) in [0, 1]: noise, smoothed."""
    noise = torch.rand(1, 3, height + 4, width + 4, generator=torch.Generator().manual_seed(seed))
    return ((F.avg_pool2d(noise, 5, 1)[0] - 0.5) * 3 + 0.5).clamp(0, 1).numpy()


def eight_bits(x):
    """(3, H, W) in [0, 1] -> uint8 (H, W, 3)."""
    return np.floor(x * 255 + 0.5).clip(0, 255).astype(np.uint8).transpose(1, 2, 0).copy()


def assert_near(ours, theirs, tolerance):
    """Differences at most ``tolerance`` of the largest value."""
    assert ours.shape == theirs.shape and ours.dtype == np.float32
    assert np.abs(ours - theirs).max() <= tolerance * max(1.0, np.abs(theirs).max())


@pytest.fixture(scope="module")
def tiny():
    weights = lively_weights(CONFIG)
    return Engine(CONFIG, weights, threads=2)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_engine_computes_what_the_torch_modules_do(config):
    weights = lively_weights(config)
    engine, transforms = Engine(config, weights, threads=2), torch_transforms(config, weights)
    x = picture(128, 192)
    for quality in (0, 3333, 10000):
        q = torch.tensor([quality / 100])
        y = transforms.analyse(torch.from_numpy(x)[None], q)
        assert_near(engine.analyse(x, quality), y[0].numpy(), 1e-4)
        z = transforms.side_information(y, q)
        if z is None:
            assert engine.side_information(y[0].numpy(), quality) is None
        else:
            assert_near(engine.side_information(y[0].numpy(), quality), z[0].numpy(), 1e-4)
        x_hat = transforms.synthesise(y.round(), q)[0].numpy()
        assert_near(engine.synthesise(y[0].round().numpy(), quality), x_hat, 1e-4)


@pytest.mark.parametrize("latents", [(4, 4), (4, 40), (20, 24), (1, 1), (3, 7)])
def test_pieces_are_the_whole(tiny, monkeypatch, latents):
    h, w = latents
    x = picture(16 * h, 16 * w)
    y_hat = np.random.default_rng(1).integers(-3, 4, (CONFIG.M, h, w))
    if h % 4 == 0:
        y = tiny.analyse(x, 4000)
    x_hat = tiny.synthesise(y_hat, 4000)
    monkeypatch.setattr(engine_module, "PIECE", 8)
    if h % 4 == 0:
        assert_near(tiny.analyse(x, 4000), y, 1e-5)
    np.testing.assert_allclose(tiny.synthesise(y_hat, 4000), x_hat, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (63, 65), (100, 300)])
def test_pictures_of_any_size_are_padded_by_their_border(tiny, monkeypatch, size):
    height, width = size
    pixels = eight_bits(picture(*size))
    padded = np.pad(pixels, ((0, -height % 64), (0, -width % 64), (0, 0)), mode="edge")
    monkeypatch.setattr(engine_module, "PIECE", 8)
    found = list(tiny.analyse_pieces(pixels, 5000))
    for (piece, ours), (same, theirs) in zip(found, tiny.analyse_pieces(padded, 5000), strict=True):
        assert piece == same
        np.testing.assert_array_equal(ours, theirs)
    assert sum(part[0].size for _, part in found) == padded.shape[0] * padded.shape[1] // 256


def test_eight_bits_in_and_out(tiny):
    pixels = eight_bits(picture(64, 128))
    x = (pixels.transpose(2, 0, 1) / 255).astype(np.float32)
    assert_near(tiny.analyse(pixels.transpose(2, 0, 1), 100), tiny.analyse(x, 100), 1e-5)
    y_hat = tiny.analyse(x, 9000).round()
    out = np.zeros((50, 101, 3), np.uint8)
    tiny.synthesise_into(out, y_hat, 9000)
    whole = eight_bits(tiny.synthesise(y_hat, 9000))
    assert whole.min() == 0 and whole.max() == 255  # clamped
    assert np.abs(out.astype(int) - whole[:50, :101]).max() <= 1
    exact = tiny.synthesise(y_hat, 9000).transpose(1, 2, 0)[:50, :101] * 255
    assert np.abs(out - exact.clip(0, 255)).max() < 0.502


WIDE = replace(CONFIG, analysis_width=512, synthesis_width16=512)  # more channels than a small picture has positions


@pytest.mark.parametrize("config", [CONFIGS[1], WIDE])
def test_the_same_bytes_for_any_number_of_threads(config):
    weights = lively_weights(config)
    results = []
    for threads in (1, 2, 3, 8):
        engine = Engine(config, weights, threads)
        for height, width in ((64, 64), (192, 320)):
            y = engine.analyse(picture(height, width), 2500)
            results.append((y, engine.side_information(y, 2500), engine.synthesise(y.round(), 2500)))
    for number, result in enumerate(results):
        for ours, first in zip(result, results[number % 2], strict=True):
            np.testing.assert_array_equal(ours, first)


def test_calls_from_several_threads_do_not_disturb_each_other(tiny):
    from concurrent.futures import ThreadPoolExecutor

    x = picture(64, 128)
    qualities = [0, 5000, 10000] * 4
    alone = {quality: tiny.analyse(x, quality) for quality in set(qualities)}
    with ThreadPoolExecutor(4) as pool:
        for quality, y in zip(qualities, pool.map(lambda quality: tiny.analyse(x, quality), qualities), strict=True):
            np.testing.assert_array_equal(y, alone[quality])


def test_winograd_is_a_convolution_with_replicated_border():
    rng = np.random.default_rng(0)
    weight, t = rng.standard_normal((5, 3, 3, 3)), rng.standard_normal((6, 9, 3))
    layout = winograd.Layout(6, 9, 100)
    stream = t.reshape(-1, 3)[layout.raster]
    kernels = (winograd.KERNELS @ winograd.taps(weight)).reshape(36, 3, 5)
    v = (winograd.FORWARD @ stream[layout.neighbours].reshape(36, -1)).reshape(36, -1, 3)
    ours = (winograd.BACKWARD @ (v @ kernels).reshape(36, -1)).reshape(-1, 5)[layout.stream]
    padded = F.pad(torch.from_numpy(t).permute(2, 0, 1)[None], (1, 1, 1, 1), mode="replicate")
    theirs = F.conv2d(padded, torch.from_numpy(weight))[0].permute(1, 2, 0).reshape(-1, 5).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert layout.rows >= 100 and (layout.raster[layout.stream] == np.arange(54)).all()


def test_the_plain_transform_is_that_of_torch(monkeypatch):
    config = replace(CONFIG, M=128, analysis_width=128, synthesis_width16=128)
    ours, matrix = PlainTransforms(config), coarse_to_pixels(haar_matrix(config.M))
    x = picture(128, 192)
    monkeypatch.setattr(engine_module, "PIECE", 5)
    coefficients = F.conv2d(F.pixel_unshuffle(torch.from_numpy(x)[None] - 0.5, 16), matrix[:, :, None, None])
    for quality in (0, 1234, 10000):
        step = interpolate(quantisation_step(config).log(), torch.tensor([quality / 100])).exp()
        y = coefficients / step
        assert_near(ours.analyse(x, quality), y[0].numpy(), 1e-5)
        x_hat = F.pixel_shuffle(F.conv2d(y.round() * step, matrix.T[:, :, None, None]), 16)[0].numpy() + 0.5
        assert_near(ours.synthesise(y[0].round().numpy(), quality), x_hat, 1e-5)
        out = np.zeros((100, 190, 3), np.uint8)
        ours.synthesise_into(out, y[0].round().numpy(), quality)
        assert np.abs(out.astype(int) - eight_bits(x_hat)[:100, :190]).max() <= 1
    fine = coefficients[:, engine_module.LOW :] / coarse_deviation(config.M)[engine_module.LOW :, None, None]
    assert ours.strangeness(x.transpose(1, 2, 0)) == pytest.approx(fine.square().mean().item(), rel=1e-4)


def test_graphs_are_small_and_use_few_operators(tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.safetensors").touch()  # onnx's checker looks for what external initialisers name
    for graph in (
        graphs.analysis_graph(ModelConfig(), eight_bits=True),
        graphs.synthesis_graph(ModelConfig(), rounded=True),
        graphs.hyper_graph(ModelConfig()),
    ):
        data = graph.serialise()
        model = onnx.load_model_from_string(data)
        onnx.checker.check_model(model)
        assert len(data) < 16384
        assert {node.op_type for node in model.graph.node} <= {
            "Abs", "Add", "Cast", "Clip", "Concat", "Conv", "Div", "Gather", "Gemm", "Identity", "LeakyRelu", "Log",
            "MatMul",
            "Mul", "Reshape", "Sign",
        }  # fmt: skip


# Loading


@pytest.fixture
def folder(tmp_path):
    save_file(lively_weights(CONFIG), tmp_path / "weights.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": asdict(CONFIG)}))
    return tmp_path


def test_an_engine_from_a_folder(folder, tiny):
    (folder / "analysis.onnx").write_bytes(b"graphs are not read")
    x = picture(64, 64)
    np.testing.assert_array_equal(Engine.from_folder(folder).analyse(x, 5000), tiny.analyse(x, 5000))


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", "nothing", '{"architecture": {"M": 1e9}}', '{"architecture": {"M": 4}}',
        '{"architecture": 5}', '{"architecture": {"analysis_depth": 1000000000}}', '{"architecture": {"N": "8"}}',
        '{"architecture": {"lmbda_max": NaN}}', '{"architecture": {"hyper_width": -1}}', '{"architecture": {"x": 1}}',
        '{"architecture": {"latents": null}}', '{"architecture": {"anchors": true}}', '{"architecture": {}}',
        '{"architecture": {"C8": 1}}', "[" * 100000, '{"architecture": {"anchors": 100000000000000000000000000}}',
    ],
)  # fmt: skip
def test_a_damaged_config_is_a_model_error(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError):
        Engine.from_folder(folder)


def damaged(change):
    weights = lively_weights(CONFIG)
    change(weights)
    return weights


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda w: w.pop("g_s.up.bias"), "lack g_s.up.bias"),
        (lambda w: w.update({"g_a.more": w["g_s.up.bias"]}), "g_a.more, which config.json does not ask for"),
        (lambda w: w.update({"g_a.out.weight": w["g_a.out.weight"][:-1].copy()}), "asks for"),
        (lambda w: w.update({"g_a.out.bias": w["g_a.out.bias"].astype(np.float64)}), "float64"),
        (lambda w: w.update({"g_a.out.bias": np.zeros(32, np.int8)}), "int8"),
        (lambda w: w["g_s.patch.weight"].__setitem__((3, 2, 1, 0), np.nan), "NaN"),
        (lambda w: w["log_gain.table"].__setitem__((0, 0), np.inf), "infinities"),
    ],
)
def test_damaged_weights_are_a_model_error(folder, change, reason):
    save_file(damaged(change), folder / "weights.safetensors")
    with pytest.raises(ModelError, match=reason):
        Engine.from_folder(folder)


def test_a_damaged_weights_file_is_a_model_error(folder):
    path = folder / "weights.safetensors"
    good = path.read_bytes()
    for data in (b"", b"\xff" * 100, good[:1000], good[:-1], (1 << 60).to_bytes(8, "little") + good[8:]):
        path.write_bytes(data)
        with pytest.raises(ModelError):
            Engine.from_folder(folder)
    path.unlink()
    with pytest.raises(ModelError, match=r"no weights\.safetensors"):
        Engine.from_folder(folder)
    shutil.rmtree(folder)
    with pytest.raises(ModelError, match=r"no config\.json"):
        Engine.from_folder(folder)


def test_tensors_of_the_entropy_networks_are_no_business_of_the_engine():
    weights = lively_weights(CONFIG)
    assert float_weights(CONFIG, {**weights, "entropy.y_cdf": np.zeros(3, np.int32)}).keys() == weights.keys()


def test_the_engine_runs_without_torch(root, folder):
    code = (
        "import sys, numpy as np; sys.modules['torch'] = None\n"  # an import of it fails
        "import codec.engine; assert 'onnxruntime' not in sys.modules\n"
        "e = codec.engine.Engine.from_folder(sys.argv[1], 1)\n"
        "y = e.analyse(np.zeros((3, 64, 64), np.uint8), 5000); e.side_information(y, 5000); e.synthesise(y, 5000)\n"
        "assert 'onnx' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(root)}
    result = subprocess.run([sys.executable, "-c", code, str(folder)], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_read_folder_returns_all_tensors(folder):
    config, tensors = read_folder(folder)
    assert config == CONFIG and tensors.keys() == graphs.weight_shapes(CONFIG).keys()
