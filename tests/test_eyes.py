"""The differentiable SSIMULACRA2 against the reference, and its gradient against finite differences."""

import numpy as np
import pytest
import torch
from PIL import Image

from codec.errors import ModelError
from codec.evaluation.ssimulacra2 import ssimulacra2
from codec.training import loop
from codec.training.config import TrainingConfig
from codec.training.eyes import Eyes, ssimulacra2_loss
from codec.training.loop import picture_losses, train
from codec.training.model import TrainableModel
from tiny import CONFIG, weights_of
from tiny import training_config as config


def tensor(*pictures):
    """uint8 (H, W, 3) -> float32 (B, 3, H, W) in [0, 1]."""
    return torch.stack([torch.from_numpy(p.copy()).permute(2, 0, 1) for p in pictures]).float() / 255


@pytest.fixture
def pair(photo):
    """Two crops and their damaged versions: noise on one, blur on the other."""
    crops = photo[:128, :64], photo[:128, 96:160]
    noisy = np.clip(crops[0] + np.random.default_rng(1).normal(0, 9, crops[0].shape), 0, 255).astype(np.uint8)
    small = Image.fromarray(crops[1]).resize((24, 48))
    return crops, (noisy, np.asarray(small.resize((64, 128))))


def test_scores_are_those_of_the_reference(pair):
    originals, damaged = pair
    found = ssimulacra2_loss(tensor(*originals), tensor(*damaged))
    expected = [100 - ssimulacra2(*pictures) for pictures in zip(originals, damaged)]
    assert found.tolist() == pytest.approx(expected, abs=0.05)


def test_small_crops_have_fewer_scales_as_in_the_reference(photo):
    one, two = photo[:32, :32], photo[32:64, :32]
    assert ssimulacra2_loss(tensor(one), tensor(two)).item() == pytest.approx(100 - ssimulacra2(one, two), abs=0.05)


def test_its_gradient_is_that_of_finite_differences(pair):
    (one, _), (two, _) = pair
    x, x_hat = (tensor(p[:32, :32]).double() for p in (one, two))
    x_hat = x_hat.clamp(0.1, 0.9).requires_grad_()
    (gradient,) = torch.autograd.grad(ssimulacra2_loss(x, x_hat).sum(), x_hat)
    direction = torch.randn(x_hat.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ahead, behind = (ssimulacra2_loss(x, x_hat + step * direction).item() for step in (1e-6, -1e-6))
    assert (gradient * direction).sum().item() == pytest.approx((ahead - behind) / 2e-6, rel=1e-4)


def test_identical_pictures_and_flat_ones_have_a_finite_gradient(photo):
    for picture in (photo[:64, :64], np.full((64, 64, 3), 255, np.uint8)):
        x_hat = tensor(picture).requires_grad_()
        loss = ssimulacra2_loss(tensor(picture), x_hat)
        loss.sum().backward()
        assert loss.item() < 0.1 and torch.isfinite(x_hat.grad).all()


def test_descent_raises_the_score(pair):
    originals, damaged = pair
    x, x_hat = tensor(*originals), tensor(*damaged).requires_grad_()
    before = ssimulacra2_loss(x, x_hat)
    (gradient,) = torch.autograd.grad(before.sum(), x_hat)
    largest = gradient.abs().amax((1, 2, 3), keepdim=True)
    after = ssimulacra2_loss(x, x_hat - 0.01 * gradient / largest)
    assert (after < before - 0.2).all()


def test_autocast_changes_nothing(pair):
    originals, damaged = (tensor(*pictures) for pictures in pair)
    with torch.autocast("cpu", torch.bfloat16):
        inside = ssimulacra2_loss(originals, damaged)
    assert torch.equal(inside, ssimulacra2_loss(originals, damaged))


def test_shapes_that_no_crop_has_are_refused():
    with pytest.raises(ValueError, match="multiples of 32"):
        ssimulacra2_loss(torch.zeros(1, 3, 40, 64), torch.zeros(1, 3, 40, 64))
    with pytest.raises(ValueError, match="one shape"):
        ssimulacra2_loss(torch.zeros(1, 3, 64, 64), torch.zeros(2, 3, 64, 64))


# In training


@pytest.fixture(scope="module")
def model():
    """A model as training begins: its transforms are the constant ones, and more quality is better."""
    torch.manual_seed(0)
    return TrainableModel(CONFIG)


def figures(model, x, quality, eyes):
    model.eyes = eyes
    model.eval()
    try:
        with torch.no_grad():
            return model(x, torch.full((len(x),), quality))
    finally:
        model.eyes = None


def test_a_point_is_worth_the_squared_error_that_the_model_gives_up_for_it(model, photo):
    x = tensor(photo[:64, :64], photo[64:, 64:128])
    price = Eyes.measured(0.3, model, x, knots=3).price
    at = [figures(model, x, quality, Eyes(1.0, [1.0, 1.0])) for quality in (0.0, 50.0, 100.0)]
    mse = [f["mse"].mean().item() for f in at]
    lost = [100 - f["ssimulacra2"].mean().item() for f in at]
    assert price[0].item() == pytest.approx((mse[0] - mse[1]) / (lost[0] - lost[1]), rel=1e-3)
    assert price[1].item() == pytest.approx((mse[0] - mse[2]) / (lost[0] - lost[2]), rel=1e-3)
    assert price[0] > price[1] > price[2] > 0


def test_a_share_of_the_distortion_is_the_score(model, photo):
    x = tensor(photo[:64, :64], photo[64:, 64:128])
    plain = figures(model, x, 25.0, None)
    assert "extra_mse" not in plain
    found = figures(model, x, 25.0, Eyes(0.25, [4.0, 1.0]))
    price = 4.0**0.75
    lost = 100 - found["ssimulacra2"]
    torch.testing.assert_close(found["mse"] + found["extra_mse"], 0.75 * plain["mse"] + 0.25 * price * lost)
    one = torch.full((2,), 1.0)
    with_eyes, without = picture_losses(found, one, 0.0), picture_losses(plain, one, 0.0)
    torch.testing.assert_close(with_eyes - without, found["extra_mse"])


def test_weights_whose_quality_does_nothing_are_too_young(model, photo, monkeypatch):
    x = tensor(photo[:64, :64])
    same = model.reconstruct(x, torch.tensor([50.0]))
    monkeypatch.setattr(model, "reconstruct", lambda *_: same)
    with pytest.raises(ModelError, match="too young"):
        Eyes.measured(0.3, model, x)


def test_a_run_keeps_its_prices_and_logs_the_score(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "EYES_CROPS", 2)
    # So young a model takes much for zero that is not, and higher qualities are hardly better.
    monkeypatch.setattr("codec.training.model.CODED_FIRST", 1)
    folder = tmp_path / "run"
    train(config(pictures, folder, steps=2, eyes=0.5, crop=64, valid=str(pictures)), progress=False)
    first = weights_of(folder)[1]["price"]
    assert len(first) == 9 and min(first) > 0
    train(config(pictures, folder, steps=3, eyes=0.5, resume=str(folder)), progress=False)
    assert weights_of(folder)[1]["price"] == first
    text = (folder / "log.csv").read_text()
    assert "valid_ssimulacra2_0.5," in text


def test_eyes_are_for_scalar_latents():
    settings = TrainingConfig(eyes=0.5, latents="vq")
    with pytest.raises(ModelError, match="vq latents do not look at"):
        settings.check_latents(settings.model_config())
    with pytest.raises(ValueError, match="between 0 and 1"):
        TrainingConfig(eyes=1.5)
