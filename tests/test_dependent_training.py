"""Training on what the trellis makes of the latents: what files hold, forward; the straight-through estimator, back."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from codec import latents
from codec.errors import ModelError
from codec.latents.coded import Queue
from codec.latents.networks import scale_table
from codec.latents.quantisers import TRELLIS_FIRST
from codec.nn.latents import place
from codec.nn.latents import take as y_of
from codec.training import loop
from codec.training.config import TrainingConfig
from codec.training.dependent import Trellis
from codec.training.loop import train
from codec.training.model import TrainableModel
from tiny import CONFIG, coding, weights_of
from tiny import training_config as config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights with tables for dependent quantisation."""
    folder = tmp_path_factory.mktemp("weights")
    coding(folder, dependent=True)
    return folder


@pytest.fixture
def model(folder):
    own, tensors = loop.read_weights(folder)
    model = TrainableModel(own)
    model.import_tensors(tensors)
    model.trellis = Trellis(own, load_file(folder / "weights.safetensors"))
    return model


def drawn(seed=0):
    """Latents of two pictures, y (2, M, 8, 8) and z (2, N, 2, 2), and their qualities."""
    rng = np.random.default_rng(seed)
    y = rng.laplace(0, 1.5, (2, CONFIG.M, 8, 8)).astype(np.float32)
    z = rng.normal(0, 2, (2, CONFIG.N, 2, 2)).astype(np.float32)
    return torch.from_numpy(y), torch.from_numpy(z), torch.tensor([25.0, 80.0])


def watched(model, monkeypatch):
    """What the trellis is asked and answers from now on: (k, residual, indexes, hundredths), Chosen."""
    seen, choose = [], model.trellis.choose

    def listening(*asked):
        seen.append((asked, choose(*asked)))
        return seen[-1][1]

    monkeypatch.setattr(model.trellis, "choose", listening)
    return seen


def test_evaluation_sees_what_a_file_holds(model, folder, monkeypatch):
    y, z, quality = drawn()
    seen = watched(model, monkeypatch)
    with torch.no_grad():
        bits, y_hat = model.eval()._walk(y, z.round(), quality, None)
    codes = latents.from_tensors(CONFIG, load_file(folder / "weights.safetensors"))
    quantiser, wanted, heard = codes.quantiser(dependent=True), np.zeros(2), 0
    for (k, residual, indexes, hundredths), found in seen:
        parts = []
        for n in range(2):
            own = quantiser.quantise(k, residual[n].numpy(), indexes[n].numpy(), int(hundredths[n]))
            np.testing.assert_array_equal(found.values[n].numpy(), own.values)
            sent = Queue()
            quantiser.send(k, own, sent.push)
            wanted[n] += sum(codes.tables.bits(*one).sum() for one in zip(sent.rows, sent.symbols))
            shift = quantiser.shift(int(hundredths[n]), own)
            parts.append(torch.from_numpy(own.values + shift) + y_of(y, k)[n] - residual[n])
        heard = heard + place(torch.stack(parts), k)
    torch.testing.assert_close(y_hat, heard, rtol=0, atol=1e-5)
    np.testing.assert_allclose(bits.numpy(), wanted, rtol=1e-5)
    assert len(seen) == 4 and (y_hat - y).abs().mean() < 1


def test_the_synthesis_passes_its_gradient_straight_through(model):
    y, z, quality = drawn()
    y.requires_grad_()
    _, y_hat = model.train()._walk(y, z.round(), quality, torch.Generator().manual_seed(0))
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((y_hat * weight).sum(), y)
    torch.testing.assert_close(gradient, weight)
    assert ((y_hat - y.round()).abs() > 0.1).float().mean() > 0.1  # it is not rounding


def test_rates_are_of_noise_as_wide_as_the_intervals(model, monkeypatch):
    y, z, quality = drawn()
    seen, asked = watched(model, monkeypatch), []
    monkeypatch.setattr(model.y_prior, "bits", lambda *arguments: asked.append(arguments) or torch.zeros(2))
    monkeypatch.setattr(model.quantiser, "for_rate", lambda residual, generator: residual + 0.25)
    monkeypatch.setattr("codec.training.model._tamed", lambda residual, scales: residual)
    model.train()._walk(y, z.round(), quality, None)
    residual, scales, coded = asked[0]
    assert coded is None and len(seen) == 4
    for ((_, own, indexes, _), _), found, scale in zip(seen, residual, scales):
        width = torch.where(indexes >= TRELLIS_FIRST, 1.25, 1.0).flatten(1)
        torch.testing.assert_close((found - 0.25) * width, own.flatten(1))
        torch.testing.assert_close(scale * width, torch.tensor(scale_table())[indexes.long()].flatten(1))
        assert {1.0, 1.25} == set(width.unique().tolist())


def test_what_is_not_chained_is_rounded(model):
    y, _, quality = drawn()
    indexes = torch.arange(64.0).repeat(2, CONFIG.M)[:, None].view(2, CONFIG.M, 8, 8)
    found = model.trellis.choose(0, y, indexes, 100 * quality)
    chained = indexes >= TRELLIS_FIRST
    assert torch.equal(found.values[~chained], found.values[~chained].round())
    fine = found.values[chained] / 0.625
    assert torch.equal(fine, fine.round()) and not torch.equal(found.values[chained], found.values[chained].round())
    assert set(found.widths[chained].tolist()) == {1.25} and set(found.widths[~chained].tolist()) == {1.0}


def test_a_run_keeps_its_tables(folder, pictures, tmp_path):
    run = tmp_path / "run"
    train(config(pictures, run, steps=2, dependent=True, resume=str(folder), valid=str(pictures)), progress=False)
    first = weights_of(run)[1]["trellis"]
    wanted = load_file(folder / "weights.safetensors")
    assert {name: t.tolist() for name, t in first.items()} == {name: wanted[name].tolist() for name in first}
    train(config(pictures, run, steps=3, dependent=True, resume=str(run)), progress=False)
    again = weights_of(run)[1]["trellis"]
    assert all(torch.equal(again[name], first[name]) for name in first) and len(again) == len(first) == 4


def test_a_run_on_the_trellis_is_another(folder, pictures, tmp_path):
    for name, dependent in (("plain", False), ("dependent", True)):
        settings = config(pictures, tmp_path / name, steps=1, dependent=dependent, resume=str(folder))
        train(settings, progress=False)
    plain, other = (weights_of(tmp_path / name)[0] for name in ("plain", "dependent"))
    assert any(not torch.equal(plain[name], other[name]) for name in plain if name.startswith("transforms.g_s."))


def test_weights_without_tables_are_refused(pictures, tmp_path):
    coding(tmp_path / "weights")
    with pytest.raises(ModelError, match="--fit-tables"):
        train(config(pictures, tmp_path / "run", dependent=True, resume=str(tmp_path / "weights")), progress=False)
    with pytest.raises(ModelError, match="exported weights"):
        train(config(pictures, tmp_path / "run", dependent=True), progress=False)
    assert not (tmp_path / "run").exists()


def test_settings_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="leave quantiser out"):
        TrainingConfig(dependent=True, quantiser="ste")
    settings = TrainingConfig(dependent=True, latents="vq")
    with pytest.raises(ModelError, match="vq latents do not look at"):
        settings.check_latents(settings.model_config())
