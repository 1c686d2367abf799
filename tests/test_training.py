import csv
import dataclasses
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from compressai.entropy_models import GaussianConditional
from lightning.fabric import Fabric
from PIL import Image
from safetensors.torch import load_file

from codec.errors import ImageError, ModelError
from codec.health import health
from codec.model import Model
from codec.nn.dct import coarse_deviation
from codec.nn.latents import place
from codec.quantise import LATENT_QUANTISERS, latent_quantiser
from codec.training import loop
from codec.training.config import TrainingConfig
from codec.training.data import Crops, find_pictures, validation_crops
from codec.training.fitting import fit_folder
from codec.training.loop import (
    ENCODER,
    average_decay,
    bf16_pays,
    learning_rate,
    matrix_names,
    picture_losses,
    read_weights,
    train,
)  # fmt: skip
from codec.training.model import TrainableModel, _tamed, grow
from tiny import CONFIG, trainable, weights_of
from tiny import training_config as config


def logged(folder, name):
    """Values of a figure in a run's log, in order."""
    with open(folder / "log.csv", newline="") as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["name"] == name]


def one_process():
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    fabric.launch()
    return fabric


def test_resumed_training_equals_uninterrupted(pictures, tmp_path):
    train(config(pictures, tmp_path / "whole"), progress=False)
    # The schedule is that of the whole run: only the process ends early.
    code = (
        "import sys, codec.training.loop as loop; from codec.training.config import TrainingConfig; import json;"
        "import torch; torch.set_num_threads(2); one = loop._Run._one_step;"
        "loop._Run._one_step = lambda run: (setattr(run, 'stopping', run.step == 2), one(run))[1];"
        "loop.train(TrainingConfig(**json.loads(sys.argv[1])), progress=False)"
    )
    settings = json.dumps(dataclasses.asdict(config(pictures, tmp_path / "parts")))
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, settings], check=True)
    assert weights_of(tmp_path / "parts")[1]["step"] == 3
    train(config(pictures, tmp_path / "parts", resume=str(tmp_path / "parts")), progress=False)
    whole, parts = weights_of(tmp_path / "whole")[0], weights_of(tmp_path / "parts")[0]
    assert whole.keys() == parts.keys()
    different = [name for name in whole if not torch.equal(whole[name], parts[name])]
    assert different == []


def test_same_seed_same_weights_other_seed_other_weights(pictures, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(config(pictures, tmp_path / name, steps=2, seed=seed), progress=False)
    a, b, c = (weights_of(tmp_path / name)[0] for name in "abc")
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert any(not torch.equal(a[k], c[k]) for k in a)


def test_training_learns_and_logs(pictures, tmp_path):
    losses = []
    for steps in (1, 50):
        settings = config(pictures, tmp_path / str(steps), steps=steps, valid=str(pictures), ema=0.0)
        export = train(settings, progress=False)
        with open(tmp_path / str(steps) / "log.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        losses += [float(row["value"]) for row in rows if row["name"] == "valid_loss"]
    assert len(losses) == 2 and losses[1] < 0.95 * losses[0]
    assert {"loss", "bpp", "psnr_db", "lr"} <= {row["name"] for row in rows}
    assert Model.from_folder(export).config == CONFIG
    assert json.loads((export / "config.json").read_text())["training"]["steps"] == 50


def test_a_run_that_has_ended_fits_the_tables_of_its_export(pictures, tmp_path, monkeypatch):
    """As the command does it for a model that exists; those of ``hold/`` stay, and so do those of a run cut short."""
    settings = dict(steps=2, decay=0.0, seed=3)
    plain = train(config(pictures, tmp_path / "plain", **settings), progress=False)
    fitted = train(config(pictures, tmp_path / "fitted", fit_crops=2, **settings), progress=False)
    by_hand = tmp_path / "by_hand"
    fit_folder(plain, by_hand, [str(pictures)], seed=3, progress=False, crops=2)
    assert (fitted / "weights.safetensors").read_bytes() == (by_hand / "weights.safetensors").read_bytes()
    before, after = (load_file(folder / "weights.safetensors") for folder in (plain, fitted))
    assert "entropy.trellis_cdf" in after.keys() - before.keys()
    held = load_file(tmp_path / "fitted" / "hold" / "weights.safetensors")
    assert held.keys() == before.keys()

    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    model = Model.from_folder(fitted)
    coded = model.encode(pixels, 5000, plain=False)
    assert coded.dependent and model.decode(coded, 64, 64, 5000).shape == pixels.shape

    step = loop._Run._one_step
    monkeypatch.setattr(loop._Run, "_one_step", lambda run: (setattr(run, "stopping", True), step(run))[1])
    stopped = train(config(pictures, tmp_path / "stopped", fit_crops=2, **settings), progress=False)
    assert "entropy.trellis_cdf" not in load_file(stopped / "weights.safetensors")


def test_saving_and_validating_on_the_way_change_nothing(pictures, tmp_path):
    train(config(pictures, tmp_path / "quiet", steps=3), progress=False)
    busy = config(
        pictures, tmp_path / "busy", steps=3, valid=str(pictures), checkpoint_minutes=0.0, validate_minutes=0.0
    )
    train(busy, progress=False)
    quiet, other = weights_of(tmp_path / "quiet")[0], weights_of(tmp_path / "busy")[0]
    assert quiet.keys() == other.keys() and all(torch.equal(quiet[name], other[name]) for name in quiet)
    with open(tmp_path / "busy" / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len([row for row in rows if row["name"] == "valid_loss"]) >= 2


def test_training_continues_from_exported_weights(pictures, tmp_path):
    export = train(config(pictures, tmp_path / "first"), progress=False)
    again = train(config(pictures, tmp_path / "second", resume=str(export), steps=1, lr=0.0, ema=0.0), progress=False)
    first, second = read_weights(export)[1], read_weights(again)[1]
    assert first.keys() == second.keys()
    for name, a in first.items():
        if name.startswith("entropy.") and a.dtype == torch.int8:
            assert torch.equal(a, second[name]), name
        elif not name.startswith("entropy.") and not name.endswith("bias"):  # these follow the means of other batches
            torch.testing.assert_close(a, second[name], rtol=1e-3, atol=1e-4, msg=name)


def test_an_unfolded_export_has_the_loss_of_the_run(pictures, tmp_path):
    """Exports hold half precision and folded layers; going on from one must not begin with a step back."""
    settings = dict(steps=30, valid=str(pictures), ema=0.9)
    export = train(config(pictures, tmp_path, **settings), progress=False)
    run = loop._Run(config(pictures, tmp_path / "second", resume=str(export), **settings), one_process())
    run._averaged = lambda: run.ema  # nothing has been learned that means would have to follow
    again = run._validate(validation_crops(pictures))["valid_loss"]
    assert again == pytest.approx(logged(tmp_path, "valid_loss")[-1], abs=1e-3)
    run.crops.close()


def test_architecture_is_the_weights_own_when_resuming(pictures, tmp_path):
    export = train(config(pictures, tmp_path / "first", steps=1), progress=False)
    settings = dataclasses.replace(
        config(pictures, tmp_path / "second", resume=str(export), steps=1), architecture="{}"
    )
    assert Model.from_folder(train(settings, progress=False)).config == CONFIG
    for change in ({"N": 12}, {"analysis_depth": 1}, {"context_width": 16}):
        settings = config(
            pictures, tmp_path / "third", resume=str(export), architecture=dataclasses.replace(CONFIG, **change)
        )
        with pytest.raises(ModelError, match=f"{next(iter(change))} of the weights is"):
            train(settings, progress=False)
    deeper = dataclasses.replace(CONFIG, analysis_depth=3)
    with pytest.raises(ModelError, match="a checkpoint keeps its architecture"):
        train(config(pictures, tmp_path / "third", resume=str(tmp_path / "first"), architecture=deeper), progress=False)
    assert not (tmp_path / "third").exists()


GROWN = dict(
    analysis_width=40, analysis_depth=3, synthesis_width16=36, synthesis_depth16=3, synthesis_width8=200,
    synthesis_depth8=2,
    hyper_width=20, entropy_width=24, context_width=32, activation_bits=15,
)  # fmt: skip


@pytest.mark.parametrize("name", [*GROWN, "all"])
def test_grown_networks_compute_the_same_and_learn(name):
    torch.manual_seed(0)
    small = trainable().eval()
    change = GROWN if name == "all" else {name: GROWN[name]}
    large = TrainableModel(dataclasses.replace(CONFIG, **change)).eval()
    grow(large, small)
    x, quality = torch.rand(2, 3, 128, 64), torch.tensor([30.0, 80.0])
    with torch.no_grad():
        before, after = small(x, quality), large(x, quality)
    for figure in before:
        # Wider rows may move the step of 8-bit weights, and finer activations round less.
        torch.testing.assert_close(
            after[figure], before[figure], rtol=0.03 if name in ("activation_bits", "all") else 1e-3, atol=1e-4
        )
    figures = large.train()(x, quality, torch.Generator().manual_seed(0))
    sum(f.sum() for f in figures.values()).backward()
    # What reads new units has a gradient where it was zero, so that they come into use; so has a new block's share.
    learning = []
    for parameter_name, parameter in large.named_parameters():
        old = dict(small.named_parameters()).get(parameter_name)
        if old is None:
            learning += [parameter.grad.any()] if parameter_name.endswith(".share") else []
        elif old.dim() > 1 and parameter.shape[1] > old.shape[1]:
            learning.append(parameter.grad[: old.shape[0], old.shape[1] :].any())
    assert any(learning) or name == "activation_bits"


def test_what_is_new_in_a_grown_network_starts_as_in_a_new_one():
    """But for what reads new units, which starts at zero."""
    small, config_ = trainable(), dataclasses.replace(CONFIG, **GROWN)
    torch.manual_seed(7)
    new = TrainableModel(config_).state_dict()
    torch.manual_seed(7)
    grown = TrainableModel(config_)
    grow(grown, small)
    compared = 0
    for name, own in grown.state_dict().items():
        old = small.state_dict().get(name)
        if old is None or old.dim() == 0 or name.endswith("trunk.layers.0.weight"):  # of inputs in another order
            continue
        assert torch.equal(own[tuple(map(slice, old.shape))], old), name
        if name.endswith("weight") and old.dim() > 1:
            assert torch.equal(own[len(old) :], new[name][len(old) :]) and own[: len(old), old.shape[1] :].eq(0).all()
        else:
            outside = torch.ones(own.shape, dtype=torch.bool)
            outside[tuple(map(slice, old.shape))] = False
            assert torch.equal(own[outside], new[name][outside]), name
            compared += outside.sum().item()
    assert compared > 100


@pytest.mark.slow
def test_networks_grow_on_the_way_from_exported_weights(pictures, tmp_path):
    export = train(config(pictures, tmp_path / "first"), progress=False)
    larger = dataclasses.replace(CONFIG, analysis_depth=3, context_width=32)
    settings = dict(resume=str(export), architecture=larger, ema=0.0)
    still = train(config(pictures, tmp_path / "still", steps=1, lr=0.0, **settings), progress=False)
    first, (same_config, same) = read_weights(export)[1], read_weights(still)
    assert same_config == larger and Model.from_folder(still).config == larger
    torch.testing.assert_close(same["g_a.blocks.0.mix_in.weight"], first["g_a.blocks.0.mix_in.weight"])
    assert not same["g_a.blocks.2.scale.table"].any()
    learnt = train(config(pictures, tmp_path / "learnt", steps=3, **settings), progress=False)
    assert read_weights(learnt)[1]["g_a.blocks.2.scale.table"].abs().max() > 0


def test_frozen_parameters_stay_and_the_others_learn(pictures, tmp_path):
    first = train(config(pictures, tmp_path / "first"), progress=False)
    settings = dict(resume=str(first), steps=3, quantiser="ste", ema=0.0, freeze="encoder, y_prior.log_ratio")
    second = train(config(pictures, tmp_path / "second", **settings), progress=False)
    before, after = (load_file(folder / "weights.safetensors") for folder in (first, second))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not [name for name in changed if f"transforms.{name}".startswith(ENCODER)]
    assert "entropy.y_prior.log_ratio" not in changed and "entropy.y_prior.log_weight" in changed
    assert {
        "g_s.patch.weight",
        "g_s.blocks8.0.scale.table",
        "entropy.contexts.1.mean.bias",
        "entropy.shrink",
    } <= changed
    with pytest.raises(
        ModelError, match="no parameter begins with 'decoder'; there are encoder, transforms, networks,"
    ):
        train(config(pictures, tmp_path / "third", freeze="decoder"), progress=False)


def test_wall_clock_limit_ends_the_run_with_everything_saved(pictures, tmp_path):
    train(config(pictures, tmp_path / "run", steps=0, max_minutes=0.05), progress=False)
    state = weights_of(tmp_path / "run")[1]
    assert state["step"] > 0 and state["seconds"] >= 3
    assert not list((tmp_path / "run").glob("*.part"))


def test_interrupted_run_saves_before_it_ends(pictures, tmp_path):
    settings = json.dumps(dataclasses.asdict(config(pictures, tmp_path / "run", steps=10**6)))
    code = (
        "import sys, json; from codec.training.loop import train; from codec.training.config import TrainingConfig;"
        "train(TrainingConfig(**json.loads(sys.argv[1])), progress=False)"
    )
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, settings])
    deadline = time.monotonic() + 600
    log = tmp_path / "run" / "log.csv"
    while time.monotonic() < deadline and not (log.exists() and "loss" in log.read_text()):
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(timeout=600) == 0
    assert weights_of(tmp_path / "run")[1]["step"] >= 50
    assert (tmp_path / "run" / "export" / "weights.safetensors").exists()


def test_two_processes_train_one_model(pictures, tmp_path):
    settings = json.dumps(dataclasses.asdict(config(pictures, tmp_path / "run", steps=2, devices=2, threads=1)))
    script = tmp_path / "two.py"
    script.write_text(
        "import sys, json; from codec.training.loop import train; from codec.training.config import TrainingConfig\n"
        "train(TrainingConfig(**json.loads(sys.argv[1])), progress=False)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    subprocess.run([sys.executable, "-W", "ignore", str(script), settings], check=True, timeout=900, env=environment)
    assert weights_of(tmp_path / "run")[1]["step"] == 2


def seen_by_the_synthesis(model, seed=0, pixels=128):
    """``(y_bpp, y_hat)`` of a model in training mode, for draws with a seed."""
    x = torch.rand(1, 3, pixels, pixels, generator=torch.Generator().manual_seed(9))
    seen, synthesise = [], model.transforms.synthesise
    model.transforms.synthesise = lambda y_hat, q: (seen.append(y_hat), synthesise(y_hat, q))[1]
    figures = model(x, torch.tensor([60.0]), torch.Generator().manual_seed(seed))
    model.transforms.synthesise = synthesise
    return figures["y_bpp"], seen[0]


DRAWS = {  # what each quantiser draws anew in every step: for the rate, for the synthesis
    "noise": (True, True), "ste": (False, False), "mixed": (True, False), "soft": (True, True),
    "universal": (True, True), "sga": (True, True),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(LATENT_QUANTISERS))
def test_rate_and_synthesis_see_what_the_quantiser_says(name):
    model = trainable()
    model.quantiser = latent_quantiser(name)
    model.dequantiser.shrink.data.zero_()
    (rate, y_hat), (other_rate, other_y_hat) = (seen_by_the_synthesis(model, seed) for seed in (0, 1))
    assert (not torch.equal(rate, other_rate), not torch.equal(y_hat, other_y_hat)) == DRAWS[name]
    # Against the same residuals rounded: by no more than the quantiser moves them.
    model.quantiser = latent_quantiser("ste")
    rounded_rate, rounded = seen_by_the_synthesis(model)
    moved = (y_hat - rounded).abs()
    if name in ("ste", "mixed"):
        assert torch.equal(y_hat, rounded)
    else:
        # Where the prior is so narrow that nothing is coded, rounding means zero; elsewhere it stays near.
        assert 0.02 < moved.median() < 0.6 and (moved <= 1.5).float().mean() > 0.8
    assert torch.equal(rate, rounded_rate) == (name == "ste")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # of PyTorch's compiler
def test_compiled_transforms_have_the_same_gradients(photo):
    x = torch.from_numpy(photo[None, :64, :128].copy()).permute(0, 3, 1, 2).float().div(255)
    x, found = x.contiguous(memory_format=torch.channels_last), []
    for compiled in (False, True):
        model = trainable().to(memory_format=torch.channels_last).transforms
        if compiled:
            model.g_a.compile()
            model.g_s.compile()
        quality = torch.tensor([60.0])
        x_hat = model.synthesise(model.analyse(x, quality), quality)
        (x_hat - x).square().mean().backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    plain, other = found
    assert plain.keys() == other.keys() and any(name.endswith("conv.weight") for name in plain)
    for name in plain:
        assert (other[name] - plain[name]).norm() <= 1e-3 * plain[name].norm() + 1e-9, name


def test_noise_for_the_rate_is_drawn_over_a_whole_cell():
    """A residual r and uniform noise u: bits of the prior at r + u, not at round(r)."""
    model, drawn = trainable(), []
    rate = model.quantiser.for_rate
    model.quantiser.for_rate = lambda y, generator: (drawn.append((y, rate(y, generator))), drawn[-1][1])[1]
    seen_by_the_synthesis(model)
    for residual, heard in drawn[:2]:  # of z, of y
        noise = (heard - residual).detach()
        assert noise.abs().max() <= 0.5 and noise.std().item() == pytest.approx(12**-0.5, rel=0.1)
    assert len(drawn) == 2


@pytest.mark.parametrize("name", sorted(LATENT_QUANTISERS))
def test_every_quantiser_trains_and_none_matters_at_evaluation(name):
    x, quality = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)), torch.tensor([60.0])
    model = TrainableModel(CONFIG, name)
    rounded = TrainableModel(CONFIG)
    rounded.load_state_dict(model.state_dict())
    with torch.no_grad():
        for figure, expected in zip(model.eval()(x, quality).values(), rounded.eval()(x, quality).values()):
            assert torch.equal(figure, expected)
    gradients = []
    for part in ("y_bpp", "mse"):
        model.zero_grad()
        model.train()(x, quality, torch.Generator().manual_seed(0))[part].sum().backward()
        gradients.append(model.transforms.g_a.enter.weight.grad.clone())
        assert gradients[-1].isfinite().all() and gradients[-1].abs().max() > 0
    assert not torch.allclose(*gradients)


def test_the_quantiser_of_the_settings_is_the_one_that_trains(pictures, tmp_path):
    weights = {}
    for name in LATENT_QUANTISERS:
        run = loop._Run(config(pictures, tmp_path / name, steps=5, warmup=1, quantiser=name), one_process())
        assert type(run.bare.quantiser) is LATENT_QUANTISERS[name]
        run._one_step()
        weights[name] = run.bare.transforms.g_a.out.weight.detach()
        run.crops.close()
    for a, b in itertools.combinations(weights, 2):
        assert not torch.equal(weights[a], weights[b]), (a, b)


@pytest.mark.parametrize("name, first, last", [("soft", 1.0, 0.2), ("sga", 0.5, 0.1)])
def test_temperatures_fall_as_a_run_goes_on(pictures, tmp_path, name, first, last):
    run = loop._Run(config(pictures, tmp_path, steps=5, quantiser=name), one_process())
    for run.step in (0, 3):
        run._one_step()
        assert run.bare.quantiser.temperature == pytest.approx(first * (last / first) ** (run.step / 5))
    run.crops.close()


@pytest.mark.parametrize("bits, levels", [(8, 255), (4, 15), (2, 3), (1, 2)])
def test_entropy_networks_of_fewer_bits_are_exported_and_executed(pictures, tmp_path, bits, levels):
    export = train(
        config(pictures, tmp_path, steps=1, architecture=dataclasses.replace(CONFIG, entropy_bits=bits)), progress=False
    )
    layers = {
        name: t for name, t in read_weights(export)[1].items() if t.dtype == torch.int8 and name.endswith("weight")
    }
    assert len(layers) > 20
    for name, weight in layers.items():
        values = weight.unique().int()
        assert len(values) <= levels and values.abs().max() <= max(levels // 2, 1), name
        assert bits > 1 or 0 not in values, name
    model, pixels = Model.from_folder(export), np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert model.decode(model.encode(pixels, 5000, plain=False), 64, 64, 5000).shape == pixels.shape


def test_learning_rate_warms_up_holds_and_falls_to_zero():
    settings = TrainingConfig(lr=1.0, warmup=10, decay=0.25)
    assert [learning_rate(settings, step, 0.0) for step in (0, 4, 9, 50)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    rates = [learning_rate(settings, 100, done) for done in (0.0, 0.75, 0.875, 1.0)]
    assert rates == pytest.approx([1.0, 1.0, 0.5, 0.0])
    assert learning_rate(dataclasses.replace(settings, decay=0.0), 100, 1.0) == 1.0


def test_the_average_is_short_at_first_and_when_the_rate_falls():
    settings = TrainingConfig(lr=1.0, warmup=10, ema=0.999)
    assert average_decay(settings, 0, 0.1, anew=True) == pytest.approx(0.1)  # a new run forgets its beginning
    assert average_decay(settings, 0, 0.1, anew=False) == pytest.approx(0.999)  # averaged weights are a good one
    assert average_decay(settings, 10**6, 1.0, anew=True) == pytest.approx(0.999)
    assert average_decay(settings, 10**6, 0.1, anew=True) == pytest.approx(0.999**10)
    assert average_decay(settings, 10**6, 0.0, anew=True) == pytest.approx(0.999**10)


@pytest.mark.parametrize("steps", [20, 300, 700, 3000])
def test_a_run_of_any_length_forgets_the_weights_that_it_began_with(steps):
    settings, share = TrainingConfig(warmup=0, decay=0.2), 1.0
    for step in range(steps):
        done = step / steps
        share *= average_decay(settings, step, learning_rate(settings, step, done), anew=False, done=done)
    assert share < 0.05
    assert average_decay(settings, 10**5, settings.lr, anew=False, done=0.5) == settings.ema  # long runs as ever


@pytest.mark.slow
def test_weights_before_the_decay_are_kept_beside_those_after(pictures, tmp_path):
    settings = config(pictures, tmp_path, steps=10, decay=0.5, checkpoint_minutes=0.0)
    export = train(settings, progress=False)
    held = json.loads((tmp_path / "hold" / "config.json").read_text())["training"]
    assert held["steps"] == 5 and json.loads((export / "config.json").read_text())["training"]["steps"] == 10
    assert held["megapixels"] == pytest.approx(5 * 2 * 64 * 64 / 1e6, abs=0.05)
    train(config(pictures, tmp_path / "next", steps=2, resume=str(tmp_path / "hold")), progress=False)
    assert json.loads((tmp_path / "next" / "export" / "config.json").read_text())["training"]["steps"] == 7


def test_products_are_in_whatever_is_faster_here(monkeypatch):
    assert bf16_pays() in (True, False)
    times = iter([0.0, 1.0, 1.0, 3.0])
    monkeypatch.setattr("codec.training.loop.time.monotonic", lambda: next(times))
    assert not bf16_pays()


def test_loss_is_rate_plus_lmbda_distortion_and_qualities_weigh_alike():
    figures = {"y_bpp": torch.tensor([0.5, 2.0]), "z_bpp": torch.tensor([0.01, 0.0]), "mse": torch.tensor([100.0, 4.0])}
    losses = picture_losses(figures, torch.tensor([0.0035, 0.014]), 0.5)
    assert losses.tolist() == pytest.approx([2 * (0.51 + 0.35), 2.0 + 0.056])


def test_matrices_inside_networks_are_muons_and_nothing_else():
    names = set(matrix_names(trainable()))
    assert {
        "transforms.g_a.blocks.0.conv.weight",
        "transforms.h_a.down1.weight",
        "networks.h_s.layers.0.weight",
    } <= names
    assert "networks.contexts.2.trunk.layers.4.weight" in names
    for other in ("g_a.enter", "g_s.patch", "h_a.depthwise1", "h_s.layers.1", "contexts.0.mean", "contexts.0.index"):
        assert not [name for name in names if other in name], other


def test_rates_of_the_parts_of_a_network(pictures, tmp_path):
    """Priors at a rate of their own; linear parts at one that falls with the root of all steps, once they are many."""
    settings = config(pictures, tmp_path, steps=100, warmup=0, decay=0.0, lr=0.01, prior_lr=3.0, skeleton_steps=4)
    run = loop._Run(settings, one_process())
    run.before, run.step = {"steps": 10}, 5  # 16 with the one to come
    parts = {
        "y_prior.log_weight": 3.0, "transforms.z_log_gain.table": 3.0,
        "transforms.g_a.out.weight": 0.5, "transforms.g_s.patch.weight": 0.5,
        "transforms.g_a.blocks.0.conv.weight": 1.0, "networks.contexts.0.mean.bias": 1.0,
    }  # fmt: skip
    groups = [group for optimiser in run.optimisers for group in optimiser.param_groups]
    members = [id(p) for group in groups for p in group["params"]]
    assert sorted(members) == sorted(id(p) for p in run.bare.parameters() if p.requires_grad)  # each once
    for run.config.skeleton_steps, skeletons in ((4, 0.5), (16, 1.0), (17, 1.0)):
        run._one_step()
        rates = {id(p): group["lr"] for group in groups for p in group["params"]}
        for name, factor in parts.items():
            wanted = 0.01 * (skeletons if factor == 0.5 else factor)
            assert rates[id(run.bare.get_parameter(name))] == pytest.approx(wanted), name
    run.crops.close()


def test_what_happens_every_so_often(pictures, tmp_path, monkeypatch):
    """By a clock of 25 seconds a step: folders searched after a minute, validation after 1.5, checkpoints after 2."""
    settings = config(
        pictures, tmp_path, steps=20, valid=str(pictures), checkpoint_minutes=2.0, validate_minutes=1.5
    )  # fmt: skip
    run, clock, happened = loop._Run(settings, one_process()), itertools.count(0, 25), {}
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(run, "_one_step", lambda: {"loss": torch.ones(()), "bpp": torch.ones(())})
    run.seconds = begun = 3600.0  # of the run that it resumes
    for owner, name in ((run, "_save"), (run, "_report"), (run.crops, "rescan")):
        monkeypatch.setattr(owner, name, lambda *_, name=name: happened.setdefault(name, []).append(run.step))
    run.loop(progress=False)
    assert happened["rescan"] == [3, 6, 9, 12, 15, 18]
    assert happened["_report"] == [4, 8, 12, 16, 20, 20] and happened["_save"] == [5, 10, 15, 20, 20]  # and at the end
    assert run.seconds == begun + 500 and run.facts()["minutes"] == round(4100 / 60, 1)
    run.crops.close()


def test_a_network_that_dies_is_said_once_and_not_before_it_could_live(pictures, tmp_path, monkeypatch, capsys):
    run = loop._Run(config(pictures, tmp_path, steps=200), one_process())
    run.before = {"steps": 100}  # logged after 150, 200, 250 and 300 steps in all
    row = {"loss": 1.0, "bpp": 1.0, "z_share": 0.0, "dead_encoder": 0.3}
    said = []

    def step():
        said.append(capsys.readouterr().out)
        return {name: torch.tensor(value) for name, value in row.items()}

    monkeypatch.setattr(run, "_one_step", step)
    monkeypatch.setattr(run, "_save", lambda: None)
    run.loop(progress=False)
    assert [number for number, text in enumerate(said) if text] == [150]
    assert "side information is dead" in said[150] and "30% of the units in encoder are dead" in said[150]
    run.crops.close()


def test_validation_is_the_loss_of_the_average_in_the_range_from_0_to_1(pictures, tmp_path):
    run = loop._Run(config(pictures, tmp_path), one_process())
    crops = validation_crops(pictures, 128)
    row = run._validate(crops)
    x = crops.float() / 255
    losses = []
    for lmbda in (0.0004, 0.00237841, 0.01414214, 0.08408964, 0.5):  # the ends and steps of equal ratio
        with torch.no_grad():
            found = run.ema(x, torch.full((len(x),), CONFIG.quality(lmbda)))
        bpp = found["y_bpp"] + found["z_bpp"]
        losses.append(((bpp + lmbda * found["mse"]) * (lmbda / 0.014) ** -0.5).mean().item())
        assert row[f"valid_loss_{lmbda}"] == pytest.approx(losses[-1], rel=1e-5)
        assert row[f"valid_bpp_{lmbda}"] == pytest.approx(bpp.mean().item(), rel=1e-5)
        psnr = 10 * torch.log10(255**2 / found["mse"])
        assert row[f"valid_psnr_db_{lmbda}"] == pytest.approx(psnr.mean().item(), rel=1e-5)
    assert row["valid_loss"] == pytest.approx(sum(losses) / 5)
    wanted = health(run.ema, x[:8])
    assert {name: row[name] for name in wanted} == pytest.approx(wanted)
    run.crops.close()


def test_a_drawing_weighs_as_much_as_a_photograph(pictures, tmp_path, monkeypatch):
    """The gradient of a batch with a drawing whose loss is large must not be the drawing's alone."""
    run = loop._Run(config(pictures, tmp_path, batch=3, white=0.0), one_process())
    seen = {}
    figures = {
        "y_bpp": torch.tensor([1.0, 2.0, 300.0], requires_grad=True),
        "z_bpp": torch.zeros(3),
        "mse": torch.ones(3),
    }
    monkeypatch.setattr(run, "model", lambda *a: figures)
    inputs = run._inputs(0)
    monkeypatch.setattr(run, "_inputs", lambda step: (*inputs[:2], torch.tensor([False, False, True]), inputs[3]))
    monkeypatch.setattr(run.fabric, "backward", lambda total: seen.update(total=total))
    run._one_step()
    gradient = torch.autograd.grad(seen["total"], figures["y_bpp"])[0]
    lmbda = CONFIG.lmbda(inputs[1])
    losses = picture_losses(figures, lmbda, 0.5).detach()
    weight = (lmbda / 0.014) ** -0.5
    expected = (
        weight
        / 3
        * torch.tensor([1.0, 1.0, 1.0]).where(torch.tensor([True, True, False]), losses[:2].mean() / losses[2])
    )
    torch.testing.assert_close(gradient, expected)
    run.crops.close()


def test_white_noise_counts_only_beyond_what_the_dct_makes_of_it(pictures, tmp_path):
    run = loop._Run(config(pictures, tmp_path), one_process())
    assert run._white_noise_error().item() < 1e-8
    with torch.no_grad():
        run.bare.transforms.g_a.out.weight.add_(1.0)
    error = run._white_noise_error()
    assert error.item() > 1e-4
    error.backward()
    assert run.bare.transforms.g_s.patch.weight.grad.abs().max() > 0
    assert run.bare.transforms.g_a.blocks[0].mix_in.weight.grad is None  # the linear parts alone
    run.bare.transforms.skeleton = lambda noise: run._plain.skeleton(noise) - 0.5
    assert run._white_noise_error().item() == pytest.approx(0.25)
    run.crops.close()


def test_the_log_tells_health_speed_and_what_is_left(pictures, tmp_path):
    train(config(pictures, tmp_path, steps=50, valid=str(pictures)), progress=False)
    for name in ("z_share", "dead_encoder", "dead_entropy", "dead_decoder"):
        assert all(0 <= value <= 1 for value in logged(tmp_path, name)) and len(logged(tmp_path, name)) == 2, name
    steps, megapixels = logged(tmp_path, "steps_per_second")[0], logged(tmp_path, "megapixels_per_second")[0]
    assert megapixels == pytest.approx(steps * 2 * 64 * 64 / 1e6, rel=1e-3) and logged(tmp_path, "minutes_left") == [
        0.0
    ]
    assert not list(tmp_path.glob("events*"))  # unless asked for


def test_figures_go_to_tensorboard_where_asked_for(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = loop._Log(tmp_path, tensorboard=True)
    log.write(7, 90.0, {"loss": 0.25})
    log.close()
    events = accumulator.EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    assert logged(tmp_path, "loss") == [0.25] and [(event.step, event.value) for event in events] == [(7, 0.25)]


def test_an_outlier_costs_about_what_its_escape_takes_and_pulls_at_mean_and_scale():
    scales = torch.tensor([0.11, 1.0, 30.0], requires_grad=True)
    residual = torch.tensor([40.0, -40.0, 900.0], requires_grad=True)
    likelihood = GaussianConditional(None)._likelihood(_tamed(residual, scales), scales)
    bits = -likelihood.log2()
    bits.sum().backward()
    assert 17 < bits.min() and bits.max() < 25
    assert torch.equal(residual.grad.sign(), residual.detach().sign()) and (scales.grad < 0).all()
    common = torch.tensor([0.3, -4.0, 60.0])
    assert torch.equal(_tamed(common, scales.detach()), common)


def test_the_limit_of_an_outlier_is_four_and_a_half_deviations_beyond_the_zero_bin():
    scales = torch.tensor([0.2, 2.0, 2.0, 0.01])
    residual = torch.tensor([5.0, -9.4, -9.6, 0.4], requires_grad=True)
    tamed = _tamed(residual, scales)
    assert tamed.tolist() == pytest.approx([0.5 + 4.5 * 0.2, -9.4, -9.5, 0.4])
    tamed.sum().backward()  # the limit itself is a constant factor
    assert residual.grad.tolist() == pytest.approx([1.4 / 5, 1.0, 9.5 / 9.6, 1.0])


@pytest.mark.parametrize("anchor", range(3))
def test_the_first_scales_are_the_deviations_of_the_dct_of_photographs(anchor):
    """Times the gain of the quality, within 0.11 and 256, to the nearest of 64 rows."""
    torch.manual_seed(0)
    model, seen = TrainableModel(CONFIG).eval(), []
    with torch.no_grad():
        gain = model.transforms.log_gain
        gain.start = gain.start + 4 * torch.randn(3, CONFIG.M)  # enough to reach both ends
        model._start_scales()
        for net in model.networks.contexts:
            net["index"].weight.zero_()
        bits = model.y_prior.bits
        model.y_prior.bits = lambda residual, scales, coded: (seen.append(scales), bits(residual, scales, coded))[1]
        x = torch.rand(1, 3, 64, 64)
        model(x, torch.tensor([50.0 * anchor]))
        found = sum(place(part.view(1, 4, CONFIG.M // 4, 2, 2), k) for k, part in enumerate(seen[0]))
    wanted = coarse_deviation(CONFIG.M) * gain.table[anchor].exp().detach()
    off = (found[0] / wanted.clamp(0.11, 256)[:, None, None]).log().abs()
    assert off.max() < 0.51 * math.log(256 / 0.11) / 63
    assert (wanted < 0.11).any() and (wanted > 256).any()


def test_side_information_is_paid_for_by_the_prior_of_the_nearest_anchor():
    """Three anchors, at qualities 0, 50 and 100; a price for each channel, and no less than 1e-9 as a probability."""
    model = trainable()
    z = torch.randint(-3, 4, (8, CONFIG.N, 2, 3), generator=torch.Generator().manual_seed(0)).float()
    quality = torch.tensor([0.0, 24.9, 25.0, 50.0, 74.9, 75.0, 99.0, 100.0])
    z[0, 0] = 10_000.0
    found = model._z_likelihood(z, quality).view(8, CONFIG.N, 2, 3)
    for picture, anchor in enumerate([0, 0, 1, 1, 1, 2, 2, 2]):
        every = torch.zeros(3, CONFIG.N, 6)
        every[anchor] = z[picture].flatten(1)
        wanted = model.z_prior._likelihood(every.view(-1, 1, 6))[0].view(3, CONFIG.N, 2, 3)[anchor]
        torch.testing.assert_close(found[picture], wanted.clamp_min(1e-9))
    assert found[0, 0].eq(1e-9).all()


def test_new_pictures_are_found_while_it_runs(pictures, tmp_path):
    folder = tmp_path / "growing"
    folder.mkdir()
    (folder / "0.png").write_bytes((pictures / "0.png").read_bytes())
    crops = Crops(config(folder, tmp_path / "run"))
    assert crops.rescan() == 1
    (folder / "1.png").write_bytes((pictures / "1.png").read_bytes())
    assert crops.rescan() == 2
    crops.close()


def test_crops_are_windows_of_the_pictures(pictures, tmp_path):
    crops = Crops(config(pictures, tmp_path, downscale=0.0, batch=4))
    batch, drawn = crops.batch(0)
    assert not drawn.any()
    assert batch.shape == (4, 3, 64, 64) and batch.dtype == torch.uint8
    colours = set()
    for path in find_pictures([pictures]):
        colours |= {tuple(c) for c in np.asarray(Image.open(path)).reshape(-1, 3)}
    assert {tuple(c) for c in batch.permute(0, 2, 3, 1).reshape(-1, 3).numpy()} <= colours
    again = Crops(config(pictures, tmp_path, downscale=0.0, batch=4))
    assert torch.equal(again.batch(0)[0], batch) and not torch.equal(again.batch(1)[0], batch)
    crops.close(), again.close()


def test_unusable_pictures_are_passed_over(pictures, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    crops = Crops(config(tmp_path, tmp_path / "run"))
    with pytest.raises(ImageError, match="no usable pictures"):
        crops.batch(0)
    crops.close()
    (tmp_path / "good.png").write_bytes((pictures / "0.png").read_bytes())
    crops = Crops(config(tmp_path, tmp_path / "run"))
    assert crops.batch(0)[0].shape == (2, 3, 64, 64)
    crops.close()


@pytest.mark.parametrize(
    "bad", [{"crop": 100}, {"crop": 0}, {"batch": 0}, {"devices": 0}, {"precision": "bf17"}, {"quantiser": "coin"}]
)
def test_settings_that_cannot_work_are_refused(bad):
    with pytest.raises(ValueError):
        TrainingConfig(**bad)


def test_missing_inputs_are_clear_errors(pictures, tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        train(config(tmp_path / "nowhere", tmp_path / "run"), progress=False)
    with pytest.raises(ModelError, match="nowhere: nothing to resume from; .*installed: "):
        train(config(pictures, tmp_path / "run", resume=str(tmp_path / "nowhere")), progress=False)
    (tmp_path / "bad.pt").write_bytes(b"junk")
    with pytest.raises(ModelError, match="not a checkpoint"):
        train(config(pictures, tmp_path / "run", resume=str(tmp_path / "bad.pt")), progress=False)
    with pytest.raises(ImageError, match="no validation pictures"):
        validation_crops(pictures, side=4096)
