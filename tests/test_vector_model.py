import numpy as np
import pytest
import torch
from test_vector_entropy import VQ_CONFIG, trainable
from tiny import training_config, weights_of

from codec.engine import read_folder
from codec.model import Model
from codec.training.loop import train
from codec.training.vector_model import TrainableVectorModel


def vq(pictures, output, **changes):
    return training_config(pictures, output, architecture=VQ_CONFIG, **changes)


def test_codebooks_move_to_the_mean_of_what_chose_them():
    model = trainable()
    residual = torch.randn(8, 50, 4)
    index = torch.full((8, 50), 3)
    for _ in range(600):
        model._follow(0, residual, index, torch.ones(8, 50, dtype=torch.bool), None)
    torch.testing.assert_close(model.codebooks[0, :, 3], residual.mean(1), atol=1e-3, rtol=1e-3)
    assert model.codebooks[0, :, 0].eq(0).all()
    torch.testing.assert_close(model.perplexity()[0], torch.ones(8), atol=0.2, rtol=0)


def test_codewords_that_nobody_chooses_are_restarted_on_the_batch():
    model = trainable()
    residual = torch.randn(8, 50, 4)
    model.counts[0, :, 5] = 0
    model.seen.fill_(19)
    model._follow(0, residual, torch.ones(8, 50, dtype=torch.int64), torch.ones(8, 50, dtype=torch.bool), None)
    restarted = model.codebooks[0, :, 5]
    assert all((residual[g] == restarted[g]).all(1).any() for g in range(8))


def test_the_gradient_passes_the_codewords_and_commitment_pulls_towards_them():
    model = trainable()
    quality = torch.tensor([90.0, 90.0])
    y = torch.randn(2, VQ_CONFIG.M, 4, 4)
    captured = {}
    model.transforms.analyse = lambda x, q: captured.setdefault("y", y.clone().requires_grad_())
    model.transforms.synthesise = lambda y_hat, q: captured.setdefault("y_hat", y_hat).mean((1, 2, 3)).view(-1, 1, 1, 1)
    x = torch.zeros(2, 3, 64, 64)
    figures = model.eval()(x, quality)
    gradient = torch.autograd.grad(figures["mse"].sum(), captured["y"], retain_graph=True)[0]
    mean = captured["y_hat"].mean((1, 2, 3)).detach()
    # The identity's: d mean(y)^2 / dy, as if nothing had been quantised.
    torch.testing.assert_close(gradient, (255**2 * 2 * mean / y[0].numel()).view(-1, 1, 1, 1).expand_as(y))
    pull = torch.autograd.grad(figures["commitment"].sum(), captured["y"])[0]
    expected = 255**2 * 0.25 * 2 * (y - captured["y_hat"].detach()) / (3 * 64 * 64)
    torch.testing.assert_close(pull, expected)


def test_refinements_begin_no_earlier_than_what_they_refine():
    model = TrainableVectorModel(VQ_CONFIG)
    gains = torch.rand(model.gained.shape, generator=torch.Generator().manual_seed(0)) + 0.01
    gains[1] = 4 * gains[0]  # a second stage that is worth more than the first all the same has to wait for it
    model.gained.copy_(gains)
    first = model.first_quality()
    assert first[1, 1:].gt(0).any() and torch.equal(first[1, 1:], first[0, 1:])
    assert (first.diff(dim=0) >= 0).all() and first[0, 0] == 0
    # Twice the gain is worth twice the bits.
    model.gained[0, 1], model.cost[0, 1] = 0.02, 5.0
    alone = model.first_quality()[0, 1]
    model.gained[0, 1], model.cost[0, 1] = 0.04, 10.0
    torch.testing.assert_close(model.first_quality()[0, 1], alone)


def test_training_learns_and_what_it_exports_compresses(pictures, tmp_path):
    losses = []
    for steps in (2, 60):
        export = train(vq(pictures, tmp_path / str(steps), steps=steps, valid=str(pictures), ema=0.5), progress=False)
        rows = (tmp_path / str(steps) / "log.csv").read_text().splitlines()
        losses += [float(row.split(",")[3]) for row in rows if row.split(",")[2] == "valid_loss"]
    assert len(losses) == 2 and losses[1] < 0.8 * losses[0]
    last = {row.split(",")[2]: float(row.split(",")[3]) for row in rows[1:]}
    assert 1 < last["perplexity_1"] <= 16
    model = Model.from_folder(export)
    assert model.config.latents == "vq"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8)
    assert model.decode(model.encode(pixels, 5000), 64, 128, 5000).shape == pixels.shape


def test_resumed_training_equals_uninterrupted(pictures, tmp_path):
    train(vq(pictures, tmp_path / "whole", steps=4, decay=0.0), progress=False)
    train(vq(pictures, tmp_path / "parts", steps=2, decay=0.0), progress=False)
    train(vq(pictures, tmp_path / "parts", steps=4, decay=0.0, resume=str(tmp_path / "parts")), progress=False)
    whole, parts = weights_of(tmp_path / "whole")[0], weights_of(tmp_path / "parts")[0]
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []


def test_training_continues_from_exported_weights(pictures, tmp_path):
    export = train(vq(pictures, tmp_path / "first"), progress=False)
    again = train(vq(pictures, tmp_path / "second", resume=str(export), steps=1, lr=0.0, ema=0.0), progress=False)
    first, second = (read_folder(folder)[1] for folder in (export, again))
    moved = np.abs(first["entropy.vq.codebooks"] - second["entropy.vq.codebooks"]).max()
    assert moved < 0.2 * np.abs(first["entropy.vq.codebooks"]).max()
    for name, a in first.items():
        if not name.startswith("entropy.") and not name.endswith("bias"):  # these follow the means of other batches
            np.testing.assert_allclose(a, second[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_latents_are_chosen_by_name():
    from codec.training.config import TrainingConfig

    assert TrainingConfig(latents="vq").model_config().latents == "vq"
    assert TrainingConfig().model_config().latents == "scalar"
    with pytest.raises(Exception, match="there are scalar and vq"):
        TrainingConfig(latents="cubes").model_config()
