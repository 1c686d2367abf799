"""Latents without torch, against the torch engine and against plain integers."""

import dataclasses
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from codec import latents
from codec.errors import Corrupt, ModelError
from codec.latents import integer, networks, quadtree, rans
from codec.latents.integer import ExactLayer, LayerSpec
from codec.latents.scalar import ScalarLatents
from codec.latents.vector import VectorLatents, squared_error_per_bit
from codec.latents.vector import to_groups as vector_groups
from codec.nn import latents as entropy
from codec.nn.vector import to_groups
from codec.quality import interpolate_integers
from codec.quantise import nearest
from codec.training.loop import export
from test_integer import SPECS, random_input, random_layer, reference, run
from test_vector_entropy import CONFIGS, VQ_CONFIG
from test_vector_entropy import trainable as trainable_vq
from tiny import CONFIG, coding

QUALITIES = (0, 4321, 10000)


class ListCoder:
    """Stands in for the entropy coder, and insists on rows in the order in which they were written."""

    def __init__(self):
        self.pushed = []

    def push(self, rows, symbols):
        self.pushed.append((rows, symbols))

    def pull(self, rows):
        expected, symbols = self.pushed.pop(0)
        assert np.array_equal(rows, expected)
        return symbols


def through_coder(codes, encoded, quality, lattice=False, **options):
    """y_hat as a decoder makes it of what an encoder wrote; the decoder reads all of it."""
    coder = ListCoder()
    encoded.write(coder)
    y_hat = codes.decode(coder, *encoded.y_hat.shape[1:], quality, lattice, **options)
    assert not coder.pushed
    return y_hat


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    coding(folder)
    return folder


@pytest.fixture(scope="module")
def tensors(folder):
    return load_file(folder / "weights.safetensors")


@pytest.fixture(scope="module")
def scalar(tensors):
    return ScalarLatents(CONFIG, tensors)


@pytest.fixture(scope="module")
def vq_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vq")
    export(trainable_vq(), folder)
    return folder


@pytest.fixture(scope="module")
def vector(vq_folder):
    return VectorLatents(VQ_CONFIG, load_file(vq_folder / "weights.safetensors"))


def random_latents(height=8, width=12, seed=0):
    rng = np.random.default_rng(seed)
    z = 2 * rng.normal(size=(CONFIG.N, height // 4, width // 4))
    y = 6 * rng.normal(size=(CONFIG.M, height, width))
    return z.astype(np.float32), y.astype(np.float32)


# Quadtree


def test_passes_are_those_of_the_torch_engine():
    y = np.arange(8 * 4 * 6, dtype=np.float32).reshape(8, 4, 6)
    t = torch.from_numpy(y)[None]
    for k, part in enumerate(quadtree.split(y)):
        assert np.array_equal(part, entropy.take(t, k)[0])
        assert np.array_equal(quadtree.place(part, k), entropy.place(entropy.take(t, k), k)[0])
        assert np.array_equal(quadtree.gather(y, k).reshape(32, 2, 3), entropy.gather(t, k)[0])
    assert np.array_equal(quadtree.merge(quadtree.split(y)), y)


def test_one_place_knows_the_order_of_passes(scalar, monkeypatch):
    z, y = random_latents()
    before = scalar.encode(z, y, 5000)
    monkeypatch.setattr(quadtree, "PASSES", (2, 1, 0, 3))
    encoded = scalar.encode(z, y, 5000)
    assert encoded.crc != before.crc
    assert np.array_equal(through_coder(scalar, encoded, 5000), encoded.y_hat)


def test_a_pass_sees_what_the_passes_before_it_said_and_no_more(scalar):
    z, y = random_latents()
    z_hat, parts = np.round(z), quadtree.split(np.round(y))

    def predictions(symbols_of):
        seen = []
        quadtree.walk(scalar.networks, z_hat, 5000, lambda k, *what: seen.append(what) or symbols_of(k))
        return seen

    truth = predictions(lambda k: parts[k])
    for changed in range(4):
        other = predictions(lambda k: parts[k] + 9 * (k >= changed))
        same = [all(map(np.array_equal, a, b)) for a, b in zip(truth, other)]
        assert same == [k <= changed for k in range(4)]


# Exact layers


@pytest.mark.parametrize(
    "large, cuts", [(255, None), (2040, None), (2300, 2), (4000, 2), (8000, 4), (65000, 0), ("one", 1)]
)
def test_products_of_any_size_are_exact(large, cuts, monkeypatch):
    """From inputs that one float32 product holds to some that need several, or float64 (0); sums that cancel."""
    spec = LayerSpec(64, 8, -16383, 16383, 65535, 1, 1, activation="leaky")
    rng = np.random.default_rng(0)
    integers = {
        "weight": ((127 - rng.integers(0, 2, (8, 64))) * np.resize([1, -1], 64)).astype(np.int8),
        "multiplier": np.full(8, 2**14, np.int16),
        "shift": np.full(8, 16 if large == 65000 else 14, np.int8),
        "bias": rng.integers(-1000, 1000, (1, 8)).astype(np.int32),
    }
    a = rng.integers(0, 9, (4, 4, 64)).astype(np.float32)
    if large == "one":  # channel alone
        a[:, :, 5] += 65000
        integers["weight"][:, 5] = rng.integers(-1, 2, 8)
        integers["shift"][:] = 17
    else:
        a += large
    a[0, 0] *= -1
    seen, original = [], integer._cuts
    monkeypatch.setattr(integer, "_cuts", lambda *x: seen.append(original(*x)) or seen[-1])
    out = ExactLayer(spec, integers)(a, 0).transpose(2, 0, 1)
    assert [len(parts or ()) for parts in seen] == ([] if cuts is None else [cuts])
    as_torch = {name: torch.from_numpy(t) for name, t in integers.items()}
    truth = reference(spec, as_torch, torch.from_numpy(a.transpose(2, 0, 1))[None], 0)
    assert np.array_equal(out, truth) and len(np.unique(truth)) > 50


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", SPECS)
def test_layers_without_weights_say_their_bias(name):
    spec = SPECS[name]
    layer = random_layer(spec)
    layer = ExactLayer(spec, {k: t.numpy() * (k != "weight") for k, t in layer.integers().items()})
    out = run(layer, random_input(spec), 0)
    assert (out == out[:, :1, :1]).all() and len(np.unique(out)) > 1


def test_layers_round_halves_upwards_on_both_sides_of_zero():
    spec = LayerSpec(1, 1, -100, 100, 1023, 1, 1)
    leaky = dataclasses.replace(spec, activation="leaky")
    half = {
        "weight": np.ones((1, 1), np.int8),
        "multiplier": np.full(1, 2**14, np.int16),
        "shift": np.full(1, 15, np.int8),
        "bias": np.zeros((1, 1), np.int32),
    }
    a = np.arange(-9, 10, dtype=np.float32).reshape(1, 19, 1)  # the layer halves it
    assert ExactLayer(spec, half)(a, 0).ravel().tolist() == [np.floor(v / 2 + 0.5) for v in range(-9, 10)]
    a = np.arange(-24, 3, dtype=np.float32).reshape(1, 27, 1)
    expected = [np.floor((v / 2 if v > 0 else v / 16) + 0.5) for v in range(-24, 3)]
    assert ExactLayer(leaky, half)(a, 0).ravel().tolist() == expected


class IntegerLayer:
    """A layer in int64: the referee of whole networks."""

    def __init__(self, tensors):
        self._tensors = tensors

    def __call__(self, spec, name):
        weight, multiplier, shift, bias = (
            self._tensors[f"entropy.{name}.{key}"].astype(np.int64) for key in spec.integers
        )

        def forward(a, quality):
            height, width, _ = a.shape
            a = a.astype(np.int64)
            if spec.depthwise:
                padded = np.pad(a, ((1, 1), (1, 1), (0, 0)))
                total = sum(
                    padded[i : i + height, j : j + width] * weight[:, 3 * i + j] for i in range(3) for j in range(3)
                )
            else:
                groups = np.split(a, spec.groups, 2)
                total = np.concatenate([g @ w.T for g, w in zip(groups, np.split(weight, spec.groups))], 2)
            # floor(f(m total / 2^s + b / 256) + 1/2) on the common denominator 2^(s + 11)
            value = (multiplier * total * 256 + (interpolate_integers(bias, quality) << shift)) * 8
            if spec.activation == "leaky":
                value = np.where(value < 0, value // 8, value)
            rounded = (value + (1 << (shift + 10))) >> (shift + 11)
            return np.clip(rounded, spec.low, spec.high).astype(np.float32)

        return forward


def predictions(nets, z, y, quality):
    """All means and rows of a picture, given its latents."""
    seen, parts = [], quadtree.split(np.round(y))

    def symbols_of(k, means, indexes):
        seen.extend((means, indexes))
        return parts[k] - np.round(means / 16)

    quadtree.walk(nets, np.round(z), quality, symbols_of)
    return seen


@pytest.mark.parametrize("quality", QUALITIES)
def test_networks_equal_integer_arithmetic(tensors, quality):
    z, y = random_latents(16, 24)
    truth = predictions(
        networks.EntropyNetworks(CONFIG, IntegerLayer(tensors), tensors["entropy.compand"]), z, y, quality
    )
    assert len(np.unique(truth[1])) > 10 and len(np.unique(truth[0])) > 100
    for dtype in (None, np.float64):
        for a, b in zip(truth, predictions(networks.exact_networks(CONFIG, tensors, dtype), z, y, quality)):
            assert np.array_equal(a, b)


CHILD = """
import sys
import numpy as np
from codec.config import ModelConfig
from codec.latents.scalar import ScalarLatents
data = dict(np.load(sys.argv[1]))
z, y = data.pop("z"), data.pop("y")
codes = ScalarLatents(ModelConfig(**eval(sys.argv[2])), data)
print([(e.crc, sum(map(len, e.rows)), e.y_hat.sum()) for e in (codes.encode(z, y, q) for q in (0, 4321, 10000))])
sys.exit("torch" in sys.modules)
"""


def test_symbols_do_not_depend_on_threads_or_kernels(root, tensors, tmp_path):
    """In processes of their own, since BLAS reads its settings when it is loaded; also without torch."""
    z, y = random_latents(32, 48)
    np.savez(tmp_path / "all.npz", z=z, y=y, **{k: v for k, v in tensors.items() if k.startswith("entropy.")})
    settings = [("1", ""), ("2", ""), ("8", ""), ("2", "HASWELL"), ("1", "SKYLAKEX"), ("2", "NEHALEM"), ("2", "ZEN")]
    children = []
    for threads, kernel in settings:
        environment = {
            **os.environ,
            "PYTHONPATH": str(root),
            "OPENBLAS_NUM_THREADS": threads,
            "OMP_NUM_THREADS": threads,
        }
        if kernel:
            environment["OPENBLAS_CORETYPE"] = kernel
        command = [sys.executable, "-c", CHILD, str(tmp_path / "all.npz"), repr(dataclasses.asdict(CONFIG))]
        children.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    outputs = [child.communicate(timeout=120)[0] for child in children]
    assert [child.returncode for child in children] == [0] * len(children)
    assert len(set(outputs)) == 1 and outputs[0].count("(") >= 3


def test_tiles_may_share_one_model_among_threads(scalar):
    tiles = [random_latents(16, 16, seed) for seed in range(8)]
    alone = [scalar.encode(*tile, 5000).crc for tile in tiles]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda tile: scalar.encode(*tile, 5000).crc, tiles))
    assert together == alone


@pytest.mark.parametrize("module", ["", ".quadtree", ".integer", ".networks", ".rans", ".scalar", ".vector"])
def test_latents_need_no_torch(root, module):
    code = f"import codec.latents{module}, sys; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(root)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_multiply_adds_are_those_of_the_layers():
    counts = {}
    for name, spec in networks.architecture(CONFIG).layers():
        rows, columns = spec.weight_shape
        # Positions per 64 x 64 pixels: h_s climbs from z to y; heads have the four groups at a quarter of them.
        climbing = {"h_s.layers.0": 1, "h_s.layers.1": 4, "h_s.layers.2": 4}
        positions = climbing.get(name, 4 if name.endswith(("mean", "index")) else 16)
        counts[name] = rows * columns * positions
    assert networks.multiply_adds(CONFIG) == sum(counts.values()) / 64**2
    assert networks.multiply_adds(CONFIG, 128) == networks.multiply_adds(CONFIG)


# Scalar latents


@pytest.mark.parametrize("lattice", [False, True])
@pytest.mark.parametrize("quality", QUALITIES)
def test_decoders_see_what_encoders_saw_whatever_the_values(scalar, quality, lattice):
    z, y = random_latents(16, 12)
    y[:, 0, 0] = np.linspace(-2500, 2500, CONFIG.M)  # beyond tables and limits
    z[:, 0, 0] = 300
    encoded = scalar.encode(z, y, quality, lattice)
    assert np.array_equal(through_coder(scalar, encoded, quality, lattice, crc=encoded.crc), encoded.y_hat)
    coder = rans.Encoder(scalar.tables)
    encoded.write(coder)
    lanes, data = coder.flush()
    assert 8 * len(data) == pytest.approx(scalar.estimate(z, y, quality, lattice), rel=0.001, abs=32 * lanes)
    decoder = rans.Decoder(scalar.tables, data, lanes)
    decoded = scalar.decode(decoder, 16, 12, quality, lattice, encoded.crc)
    decoder.finish()
    assert np.array_equal(decoded, encoded.y_hat)


def test_the_dequantiser_changes_what_is_seen_and_not_what_is_written(scalar, tensors):
    z, y = random_latents()
    plain = ScalarLatents(CONFIG, {**tensors, "entropy.shrink": 0 * tensors["entropy.shrink"]})
    moved, middle = scalar.encode(z, y, 5000), plain.encode(z, y, 5000)
    assert moved.crc == middle.crc and all(map(np.array_equal, moved.rows, middle.rows))
    assert (16 * middle.y_hat == np.round(16 * middle.y_hat)).all()  # means and symbols are multiples of 1/16
    distance = np.abs(moved.y_hat - middle.y_hat)
    assert 0 < distance.max() <= 0.31 and (distance > 0).mean() > 0.2


def test_symbols_of_row_0_are_coded_in_a_lattice_alone(scalar):
    z, y = random_latents()
    plain, lattice = scalar.encode(z, y, 5000), scalar.encode(z, y, 5000, lattice=True)
    first = CONFIG.anchors * CONFIG.N
    zero = {first + networks.LEVELS * k for k in range(4)}
    assert not zero & set(np.concatenate(plain.rows)) and zero & set(np.concatenate(lattice.rows))
    assert sum(map(len, lattice.rows)) == z.size + y.size > sum(map(len, plain.rows))
    assert np.array_equal(lattice.y_hat, np.round(lattice.y_hat))
    assert np.abs(lattice.y_hat - y).max() <= 0.5


def test_wrong_symbols_are_refused(scalar):
    encoded = scalar.encode(*random_latents(), 5000)
    with pytest.raises(Corrupt, match="checksum"):
        through_coder(scalar, encoded, 5000, crc=encoded.crc ^ 1)

    class Hostile:
        def __init__(self, value, dtype):
            self.value, self.dtype = value, dtype

        def pull(self, rows):
            return np.full(len(rows), self.value, self.dtype)

    for value in (256, -256, 70000, 2**40):
        with pytest.raises(Corrupt, match="range"):
            scalar.decode(Hostile(value, np.int64), 8, 12, 5000)
    assert np.isfinite(scalar.decode(Hostile(255, np.int32), 8, 12, 5000)).all()


# Vector-quantised latents


@pytest.mark.parametrize("quality", QUALITIES)
def test_decoders_see_the_codewords_that_encoders_chose(vector, quality):
    y = (0.4 * np.random.default_rng(0).normal(size=(VQ_CONFIG.M, 8, 12))).astype(np.float32)
    encoded = vector.encode(None, y, quality)
    assert encoded.z_hat is None
    assert np.array_equal(through_coder(vector, encoded, quality, crc=encoded.crc), encoded.y_hat)


def test_vector_codewords_and_contexts_are_those_of_training(vq_folder, vector):
    y = (0.4 * np.random.default_rng(0).normal(size=(VQ_CONFIG.M, 8, 12))).astype(np.float32)
    graph = trainable_vq().eval()
    graph.import_tensors(
        {name: torch.from_numpy(t) for name, t in load_file(vq_folder / "weights.safetensors").items()}
    )
    for quality in (0, 6000, 10000):
        groups = torch.from_numpy(y)[None]
        slope = squared_error_per_bit(VQ_CONFIG.lmbda(quality / 100))
        chosen = vector.level.choose(vector_groups(y, VQ_CONFIG.code_dim), quality, slope)
        residual = to_groups(groups, VQ_CONFIG.code_dim)
        for (s, g), indices in chosen.items():
            codebook = torch.from_numpy(vector.level.codebooks[s, g])[None]
            penalty = torch.from_numpy(vector.level.bits[s, g])[None, None] * slope
            best = nearest(residual[g][None], codebook, penalty)[0]
            assert np.array_equal(best.numpy(), indices)
            residual[g] -= codebook[0][best]


def test_wrong_indices_are_refused(vector):
    y = np.zeros((VQ_CONFIG.M, 4, 4), np.float32)
    encoded = vector.encode(None, y, 10000)
    with pytest.raises(Corrupt, match="checksum"):
        through_coder(vector, encoded, 10000, crc=encoded.crc ^ 1)
    with pytest.raises(Corrupt, match="plain"):
        vector.decode(ListCoder(), 4, 4, 10000, lattice=True)
    for value in (-1, VQ_CONFIG.codes):
        coder = ListCoder()
        for rows, symbols in zip(encoded.rows, encoded.symbols):
            coder.push(rows, np.full(len(symbols), value))
        with pytest.raises(Corrupt, match="range"):
            vector.decode(coder, 4, 4, 10000)


# Damaged weights


def changed(name, function):
    """Damage: the tensor ``name`` with ``function`` applied to a copy; one that returns None removes it."""

    def damage(tensors):
        tensors = dict(tensors)
        new = function(tensors.pop(name).copy())
        return tensors if new is None else {**tensors, name: new}

    return damage


def put(where, value):
    def function(tensor):
        tensor[where] = value
        return tensor

    return function


def nan(tensor):
    tensor.flat[-1] = np.nan
    return tensor


LAYER = "entropy.contexts.1.trunk.layers.0"
SCALAR_DAMAGE = {
    "layer missing": (changed(f"{LAYER}.weight", lambda t: None), f"lack {LAYER}.weight"),
    "weights cut": (changed(f"{LAYER}.weight", lambda t: t[:-1]), "not int8"),
    "weights transposed": (changed(f"{LAYER}.weight", lambda t: t.T.copy()), "not int8"),
    "weights as floats": (changed(f"{LAYER}.weight", lambda t: t.astype(np.float32)), "float32"),
    "weight -128": (changed(f"{LAYER}.weight", put((0, 0), -128)), "holds 128"),
    "multiplier zero": (changed(f"{LAYER}.multiplier", put(0, 0)), "multiplier holds 0"),
    "multiplier negative": (changed(f"{LAYER}.multiplier", put(0, -20000)), "multiplier holds -20000"),
    "shift negative": (changed(f"{LAYER}.shift", put(0, -1)), "shift holds -1"),
    "shift large": (changed(f"{LAYER}.shift", put(0, 127)), "127"),
    "bias large": (changed(f"{LAYER}.bias", lambda t: np.full_like(t, 2**31 - 1)), None),
    "bias of too few anchors": (changed(f"{LAYER}.bias", lambda t: t[1:]), "bias is"),
    "bias that float64 cannot hold": (
        lambda t: changed(f"{LAYER}.shift", put(0, 40))(changed(f"{LAYER}.bias", put((0, 0), -(2**31)))(t)),
        "not exact",
    ),
    "compand missing": (changed("entropy.compand", lambda t: None), "lack entropy.compand"),
    "compand cut": (changed("entropy.compand", lambda t: t[:-1]), "compand is"),
    "compand falls": (changed("entropy.compand", put(100, 0)), "does not rise"),
    "compand large": (changed("entropy.compand", put(-1, 32767)), "does not rise"),
    "compand negative": (changed("entropy.compand", put(0, -1)), "does not rise"),
    "shrink missing": (changed("entropy.shrink", lambda t: None), "lack entropy.shrink"),
    "shrink NaN": (changed("entropy.shrink", nan), "more than 1"),
    "shrink infinite": (changed("entropy.shrink", put((0, 0, 0), np.inf)), "more than 1"),
    "shrink cut": (changed("entropy.shrink", lambda t: t[:, :-1]), "shrink is"),
    "shrink of integers": (changed("entropy.shrink", lambda t: t.astype(np.int32)), "int32"),
}
for _which in ("z", "y"):
    SCALAR_DAMAGE |= {
        f"{_which} cdf missing": (changed(f"entropy.{_which}_cdf", lambda t: None), "lack"),
        f"{_which} cdf cut": (changed(f"entropy.{_which}_cdf", lambda t: t[:-3]), "entries together"),
        f"{_which} cdf empty": (changed(f"entropy.{_which}_cdf", lambda t: t[:0]), "entries together"),
        f"{_which} cdf negative": (changed(f"entropy.{_which}_cdf", lambda t: -t), "begin at 0"),
        f"{_which} cdf zero": (changed(f"entropy.{_which}_cdf", lambda t: 0 * t), "begin at 0"),
        f"{_which} cdf random": (
            changed(f"entropy.{_which}_cdf", lambda t: np.random.default_rng(0).integers(0, 65537, t.shape, np.int32)),
            "begin at 0",
        ),
        f"{_which} cdf flat": (changed(f"entropy.{_which}_cdf", put(1, 0)), "rise strictly"),
        f"{_which} cdf as int64": (changed(f"entropy.{_which}_cdf", lambda t: t.astype(np.int64)), "int64"),
        f"{_which} lengths cut": (changed(f"entropy.{_which}_lengths", lambda t: t[:-1]), "for"),
        f"{_which} lengths zero": (changed(f"entropy.{_which}_lengths", lambda t: 0 * t), "entries"),
        f"{_which} lengths negative": (changed(f"entropy.{_which}_lengths", lambda t: -t), "entries"),
        f"{_which} lengths huge": (changed(f"entropy.{_which}_lengths", put(0, 2**31 - 1)), "entries"),
        f"{_which} lengths shifted": (
            changed(
                f"entropy.{_which}_lengths",
                lambda t: t + np.eye(1, len(t), 0, np.int32)[0] - np.eye(1, len(t), 1, np.int32)[0],
            ),
            "begin at 0",
        ),
        f"{_which} offsets cut": (changed(f"entropy.{_which}_offsets", lambda t: t[:-1]), "offsets"),
        f"{_which} offsets huge": (changed(f"entropy.{_which}_offsets", put(0, 2**31 - 1)), "magnitude|beyond"),
        f"{_which} offsets small": (changed(f"entropy.{_which}_offsets", put(-1, -(2**31))), "magnitude|beyond"),
    }
VECTOR_DAMAGE = {
    "codebooks NaN": (changed("entropy.vq.codebooks", nan), "finite"),
    "codebooks cut": (changed("entropy.vq.codebooks", lambda t: t[:-1]), "codebooks is"),
    "bits infinite": (changed("entropy.vq.bits", put((0, 0, 0), np.inf)), "finite"),
    "magnitudes large": (changed("entropy.vq.magnitudes", put((0, 0, 0), 4)), "magnitudes holds"),
    "magnitudes negative": (changed("entropy.vq.magnitudes", put((0, 0, 0), -1)), "magnitudes holds"),
    "magnitudes as int64": (changed("entropy.vq.magnitudes", lambda t: t.astype(np.int64)), "int64"),
    "first quality negative": (changed("entropy.vq.first_quality", put((0, 0), -5)), "first_quality holds"),
    "frequencies missing": (changed("entropy.vq.frequencies", lambda t: None), "lack"),
    "frequencies cut": (changed("entropy.vq.frequencies", lambda t: t[..., :-1]), "frequencies is"),
    "frequencies changed": (
        changed("entropy.vq.frequencies", lambda t: t + np.eye(1, t.shape[-1], 0, np.int16)[0]),
        "add up",
    ),
    "frequencies zero": (changed("entropy.vq.frequencies", lambda t: 0 * t), "add up"),
}


CODES_DAMAGE = {
    "logits missing": ("dvae", changed("entropy.vq.logits_weight", lambda t: None), "lack"),
    "logits NaN": ("dvae", changed("entropy.vq.logits_weight", nan), "finite"),
    "logits cut": ("dvae", changed("entropy.vq.logits_bias", lambda t: t[:-1]), "logits_bias is"),
    "fractions": ("hvq", changed("entropy.upper.codebooks", lambda t: t + np.float16(0.5)), "whole numbers"),
    "upper missing": ("hvq", changed("entropy.upper.codebooks", lambda t: None), "lack entropy.upper.codebooks"),
    "classes cut": ("hvq", changed("entropy.vq.frequencies", lambda t: t[:, :, :3]), "frequencies is"),
    "head missing": ("hvq", changed("entropy.lower.index.weight", lambda t: None), "lack entropy.lower.index.weight"),
    "head cut": ("hvq", changed("entropy.lower.mean.weight", lambda t: t[:-1]), "lower.mean.weight is"),
    "h_s shift": ("hvq", changed("entropy.h_s.layers.0.shift", lambda t: t - 100), "shift"),
    "unit missing": ("hvq", changed("entropy.lower.unit", lambda t: None), "lack entropy.lower.unit"),
    "unit infinite": ("hvq", changed("entropy.lower.unit", put(0, np.inf)), "unit is"),
}


@pytest.mark.parametrize("name", CODES_DAMAGE)
def test_damaged_weights_of_other_codes_are_refused(name):
    kind, damage, reason = CODES_DAMAGE[name]
    tensors = {key: tensor.numpy() for key, tensor in trainable_vq(kind).export_tensors().items()}
    with pytest.raises(ModelError, match=reason):
        latents.from_tensors(CONFIGS[kind], damage(tensors))


def test_two_levels_decode_to_what_was_encoded_and_damage_is_noticed():
    tensors = {key: tensor.numpy() for key, tensor in trainable_vq("hvq").export_tensors().items()}
    codes = latents.from_tensors(CONFIGS["hvq"], tensors)
    z, y = random_latents()
    for quality in QUALITIES:
        encoded = codes.encode(z, y, quality)
        assert np.array_equal(through_coder(codes, encoded, quality, crc=encoded.crc), encoded.y_hat)
        assert codes.estimate(z, y, quality) == pytest.approx(encoded.bits(codes.tables))
    with pytest.raises(Corrupt, match="checksum"):
        through_coder(codes, encoded, quality, crc=encoded.crc ^ 1)
    with pytest.raises(Corrupt, match="plain"):
        codes.decode(ListCoder(), 8, 12, quality, lattice=True)
    # However large the codewords, h_s reads what its sums are exact for.
    huge = {**tensors, "entropy.upper.codebooks": tensors["entropy.upper.codebooks"] * np.float16(100)}
    encoded = latents.from_tensors(CONFIGS["hvq"], huge).encode(100 * z, y, 5000)
    assert np.abs(encoded.z_hat).max() == 255


@pytest.mark.parametrize("name", SCALAR_DAMAGE)
def test_damaged_scalar_weights_are_refused(tensors, name):
    damage, reason = SCALAR_DAMAGE[name]
    damaged = damage(tensors)
    if reason is None:  # odd, and harmless
        assert ScalarLatents(CONFIG, damaged).encode(*random_latents(), 5000)
        return
    with pytest.raises(ModelError, match=reason):
        latents.from_tensors(CONFIG, damaged)


@pytest.mark.parametrize("name", VECTOR_DAMAGE)
def test_damaged_vector_weights_are_refused(vq_folder, name):
    damage, reason = VECTOR_DAMAGE[name]
    with pytest.raises(ModelError, match=reason):
        latents.from_tensors(VQ_CONFIG, damage(load_file(vq_folder / "weights.safetensors")))


def test_weights_of_another_architecture_are_refused(tensors):
    for change in ({"M": 16}, {"N": 16}, {"entropy_width": 24}, {"anchors": 4}, {"entropy_bits": 4}, {"latents": "vq"}):
        with pytest.raises(ModelError):
            latents.from_tensors(dataclasses.replace(CONFIG, **change), tensors)


@pytest.mark.parametrize("seed", range(30))
def test_flipped_bits_in_weights_are_refused_or_harmless(tensors, seed):
    """Whatever the numbers: a reason, or a model whose decoder follows its encoder."""
    rng = np.random.default_rng(seed)
    names = sorted(name for name in tensors if name.startswith("entropy.") and "prior" not in name)
    name = names[rng.integers(len(names))]
    damaged = tensors[name].copy()
    damaged.view(np.uint8).ravel()[rng.integers(damaged.nbytes, size=3)] ^= np.uint8(1 << rng.integers(8))
    try:
        codes = latents.from_tensors(CONFIG, {**tensors, name: damaged})
    except ModelError as error:
        assert "entropy" in str(error)
        return
    encoded = codes.encode(*random_latents(), 5000)
    assert np.array_equal(through_coder(codes, encoded, 5000), encoded.y_hat)
