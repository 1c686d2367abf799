import numpy as np
import pytest
import torch

from codec import quality as scale
from codec.config import ModelConfig
from codec.nn.integer import anchor_position
from codec.nn.transforms import interpolate as torch_floats

QUALITIES = [0, 1, 1249, 1250, 1251, 4321, 5000, 9999, 10000]


def test_hundredths_of_the_users_scale():
    assert [scale.hundredths(q) for q in (0, 0.004, 43.21, 100)] == [0, 0, 4321, 10000]
    for bad in (-0.01, 100.01, float("nan")):
        with pytest.raises(ValueError):
            scale.hundredths(bad)


@pytest.mark.parametrize("anchors", [2, 3, 9])
def test_anchors_lie_evenly_and_the_mix_between_them_is_linear(anchors):
    ramp = np.arange(anchors)[:, None]
    for quality in QUALITIES:
        left, weight = scale.between(quality, anchors)
        assert 0 <= left <= anchors - 2 and 0 <= weight <= scale.QUALITY_MAX
        assert left * scale.QUALITY_MAX + weight == quality * (anchors - 1)
        place = quality * (anchors - 1) / scale.QUALITY_MAX
        assert scale.interpolate(ramp, quality)[0] == pytest.approx(place, abs=1e-6)
        assert abs(scale.nearest(quality, anchors) - place) <= 0.5
        assert scale.interpolate_integers(10000 * ramp, quality)[0] == quality * (anchors - 1)


def test_floats_are_mixed_as_by_torch():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(9, 40)).astype(np.float32)
    t = torch.from_numpy(table)
    for quality in range(0, 10001, 7):
        mixed = scale.interpolate(table, quality)
        assert mixed.dtype == np.float32
        left, weight = anchor_position(torch.tensor([float(quality)]), 9)
        lerp = torch.lerp(t[left], t[left + 1], weight[:, None])[0].numpy()
        np.testing.assert_allclose(mixed, lerp, rtol=0, atol=3e-7)  # a rounding, without fused multiply-adds
        np.testing.assert_allclose(mixed, torch_floats(t, torch.tensor([quality / 100]))[0], rtol=0, atol=1e-5)


def test_lmbda_and_its_inverse():
    config = ModelConfig()
    for quality in (0.0, 33.0, 100.0):
        assert config.quality(config.lmbda(quality)) == pytest.approx(quality)
    assert torch.equal(config.lmbda(torch.tensor([100.0])), torch.tensor([config.lmbda_max]))


def test_the_step_of_the_quantiser_follows_lmbda():
    config = ModelConfig()
    steps = np.array(config.quantisation_step())
    assert len(steps) == config.anchors and (np.diff(steps) < 0).all()
    np.testing.assert_allclose(steps[0] / steps[-1], (config.lmbda_max / config.lmbda_min) ** 0.5)
