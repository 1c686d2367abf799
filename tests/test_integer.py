import numpy as np
import pytest
import torch

from codec.latents.integer import ExactLayer, LayerSpec
from codec.nn.integer import TrainableLayer
from codec.quality import QUALITY_MAX, interpolate_integers

SPECS = {
    "pointwise": LayerSpec(24, 40, 0, 1023, 1023, 1 / 16, 1 / 16, anchors=3, activation="relu"),
    "depthwise": LayerSpec(16, 16, -1023, 1023, 1023, 1 / 16, 1 / 16, depthwise=True),
    "grouped head": LayerSpec(12, 10, -4095, 4095, 1023, 1 / 16, 1 / 16, groups=4, anchors=3),
    "leaky": LayerSpec(24, 40, -1023, 1023, 1023, 1 / 16, 1 / 16, anchors=3, activation="leaky"),
    "wide": LayerSpec(512, 16, 0, 1023, 1023, 1 / 16, 1 / 16, activation="relu"),
}


def random_layer(spec, seed=0):
    torch.manual_seed(seed)
    layer = TrainableLayer(spec)
    with torch.no_grad():
        layer.bias.add_(torch.randn_like(layer.bias))
        layer.weight.mul_((0.5 * torch.randn(len(layer.weight), 1)).exp())
    return layer


def exact_layer(layer, dtype=None):
    return ExactLayer(layer.spec, {name: t.numpy() for name, t in layer.integers().items()}, dtype=dtype)


def run(layer, a, quality):
    """An exact layer on a tensor (1, C, h, w): array (C, h, w)."""
    return layer(np.ascontiguousarray(a[0].permute(1, 2, 0).numpy()), quality).transpose(2, 0, 1)


def random_input(spec, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (1, spec.channels_in * (1 if spec.depthwise else spec.groups), 6, 8)
    return torch.randint(-spec.input_limit, spec.input_limit + 1, shape, generator=generator).float()


def reference(spec, integers, a, quality, margins=False):
    """The layer in unbounded Python integers, with no floating point anywhere.

    With ``margins`` also how far each value is from where it would round to another integer, and its size: floats.
    """
    weight = integers["weight"].numpy().astype(object)
    a = a[0].numpy().astype(np.int64).astype(object)
    height, width = a.shape[1:]
    if spec.depthwise:
        padded = np.zeros((a.shape[0], height + 2, width + 2), dtype=object)
        padded[:, 1:-1, 1:-1] = a
        total = sum(
            padded[:, i : i + height, j : j + width] * weight[:, 3 * i + j, None, None]
            for i in range(3)
            for j in range(3)
        )
    else:
        groups = np.split(a.reshape(a.shape[0], -1), spec.groups)
        total = np.concatenate([w.dot(part) for w, part in zip(np.split(weight, spec.groups), groups)])
        total = total.reshape(-1, height, width)
    table = integers["bias"].tolist()
    out = np.empty(total.shape, dtype=np.int64)
    margin, size = np.empty(total.shape), np.empty(total.shape)
    for c in range(len(total)):
        m, s = int(integers["multiplier"][c]), int(integers["shift"][c])
        last = len(table) - 1
        left = min(quality * last // QUALITY_MAX, last - 1) if last else 0
        far = quality * last - left * QUALITY_MAX
        right = min(left + 1, last)
        b = (table[left][c] * (QUALITY_MAX - far) + table[right][c] * far + QUALITY_MAX // 2) // QUALITY_MAX
        # floor(f(m total / 2^s + b / 256) + 1 / 2), on the common denominator 2^(s + 11)
        value = (m * total[c] * 2**8 + b * 2**s) * 2**3
        if spec.activation == "leaky":
            value = np.where(value < 0, value // 2**3, value)
        out[c] = np.clip((value + 2 ** (s + 10)) // 2 ** (s + 11), spec.low, spec.high)
        beyond = ((value + 2 ** (s + 10)) % 2 ** (s + 11)).astype(float) / 2 ** (s + 11)
        margin[c], size[c] = np.minimum(beyond, 1 - beyond), np.abs(value.astype(float)) / 2 ** (s + 11)
    return (out, margin, size) if margins else out


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("quality", [0, 3333, 10000])
def test_float_execution_equals_integer_arithmetic(name, quality):
    spec = SPECS[name]
    layer, a = random_layer(spec), random_input(spec)
    truth = reference(spec, layer.integers(), a, quality)
    for dtype in (None, np.float64):
        assert np.array_equal(run(exact_layer(layer, dtype), a, quality), truth)
    assert len(np.unique(truth)) > 20


@pytest.mark.parametrize("name", SPECS)
def test_training_forward_equals_execution(name):
    spec = SPECS[name]
    layer, a = random_layer(spec), random_input(spec)
    trained = layer(a, torch.tensor([5000.0]))[0].detach().numpy()
    exact, margin, size = reference(spec, layer.integers(), a, 5000, margins=True)
    # float32 rounds product and sum, each by 2^-24 of its size: only a value that near to a threshold may go the other
    # way. Biases interpolated between anchors are off by half a unit of 1/256 more.
    anywhere = margin <= 2**-22 * (1 + size) + (0.5 / 256 if spec.anchors > 1 else 0)
    assert np.array_equal(trained[~anywhere], exact[~anywhere]) and anywhere.mean() < 0.02
    assert np.abs(trained - exact).max() <= 1


def test_integers_survive_a_return_to_training():
    layer = random_layer(SPECS["pointwise"], seed=1)
    again = random_layer(SPECS["pointwise"], seed=2)
    again.set_integers(layer.integers())
    a = random_input(SPECS["pointwise"])
    for quality in (0, 7777, 10000):
        assert np.array_equal(run(exact_layer(layer), a, quality), run(exact_layer(again), a, quality))


def test_interpolation_is_exact_at_anchors_and_monotone_between():
    table = np.array([[-700], [100], [900000]], np.int32)
    values = [interpolate_integers(table, q).item() for q in range(0, QUALITY_MAX + 1, 50)]
    assert values[0] == -700 and values[100] == 100 and values[-1] == 900000
    assert values == sorted(values)
