import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from compressai.entropy_models import GaussianConditional
from PIL import Image
from safetensors.torch import load_file
from tiny import CONFIG, weights_of
from tiny import training_config as config

from codec.errors import ImageError, ModelError
from codec.model import CodecModel, ModelConfig
from codec.quantise import LATENT_QUANTISERS
from codec.training.config import TrainingConfig
from codec.training.data import Crops, find_pictures, validation_crops
from codec.training.loop import ENCODER, ema_update, learning_rate, train
from codec.training.model import TrainableModel, _tamed

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
    assert CodecModel.from_folder(export).config == CONFIG
    assert json.loads((export / "config.json").read_text())["training"]["steps"] == 50


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
    again = train(
        config(pictures, tmp_path / "second", resume=str(export), steps=1, lr=0.0, ema=0.0), progress=False
    )
    first, second = CodecModel.from_folder(export), CodecModel.from_folder(again)
    x = torch.rand(1, 3, 64, 64)
    y, y_again = (m.transforms.analyse(x, torch.tensor([50.0])) for m in (first, second))
    torch.testing.assert_close(y, y_again)
    for (name, a), (_, b) in zip(first.entropy.networks.layers(), second.entropy.networks.layers()):
        assert torch.equal(a.weight, b.weight), name


def test_architecture_is_the_weights_own_when_resuming(pictures, tmp_path):
    export = train(config(pictures, tmp_path / "first", steps=1), progress=False)
    settings = dataclasses.replace(config(pictures, tmp_path / "second", resume=str(export), steps=1), architecture="{}")
    assert CodecModel.from_folder(train(settings, progress=False)).config == CONFIG
    for resume, change in ((export, {"C8": 256}), (export, {"analysis_depth8": 0}), (tmp_path / "first", {"analysis_depth8": 2})):
        settings = config(pictures, tmp_path / "third", resume=str(resume), architecture=dataclasses.replace(CONFIG, **change))
        with pytest.raises(ModelError, match=f"{next(iter(change))} of the weights is"):
            train(settings, progress=False)
    assert not (tmp_path / "third").exists()


def test_deeper_transforms_start_as_the_shallower_ones_and_learn(pictures, tmp_path):
    export = train(config(pictures, tmp_path / "first"), progress=False)
    deeper = dataclasses.replace(CONFIG, analysis_depth8=3, analysis_depth16=2, synthesis_depth16=2)
    settings = dict(resume=str(export), architecture=deeper, ema=0.0)
    still = train(config(pictures, tmp_path / "still", steps=1, lr=0.0, **settings), progress=False)
    first, same = CodecModel.from_folder(export), CodecModel.from_folder(still)
    assert same.config == deeper
    x, quality = torch.rand(1, 3, 128, 64), torch.tensor([50.0])
    y = first.transforms.analyse(x, quality)
    torch.testing.assert_close(same.transforms.analyse(x, quality), y)
    torch.testing.assert_close(same.transforms.synthesise(y, quality), first.transforms.synthesise(y, quality))
    learnt = CodecModel.from_folder(train(config(pictures, tmp_path / "learnt", steps=3, **settings), progress=False))
    assert learnt.transforms.g_a.stack8.scales.table[:, 1:].abs().max() > 0
    assert learnt.transforms.g_s.stack16.scales.table[:, 1:].abs().max() > 0


def test_finer_activations_compute_the_same_but_for_rounding(pictures, tmp_path):
    coarse = dataclasses.replace(CONFIG, activation_bits=10)
    first = train(config(pictures, tmp_path / "first", architecture=coarse), progress=False)
    settings = dict(resume=str(first), steps=1, lr=0.0, ema=0.0)
    second = train(config(pictures, tmp_path / "second", architecture=CONFIG, **settings), progress=False)
    before, after = (CodecModel.from_folder(folder) for folder in (first, second))
    assert (before.config.activation_bits, after.config.activation_bits) == (10, 14)
    z_hat = torch.randint(-20, 20, (1, CONFIG.N, 4, 4), generator=torch.Generator().manual_seed(0)).float()
    # Each of five layers rounds to a coarse unit in one model, and to a sixteenth of it in the other.
    features, finer = (model.entropy.networks.features(z_hat, 5000) for model in (before, after))
    assert features.max() > 20
    torch.testing.assert_close(finer / 16, features, rtol=0.1, atol=4)
    assert not torch.equal(finer, 16 * features)
    with pytest.raises(ModelError, match="activation_bits of the weights is 14, not 10"):
        train(config(pictures, tmp_path / "third", resume=str(second), architecture=coarse), progress=False)


def test_weights_files_that_do_not_say_have_ten_bits(pictures, tmp_path):
    export = train(config(pictures, tmp_path, architecture=dataclasses.replace(CONFIG, activation_bits=10)), progress=False)
    contents = json.loads((export / "config.json").read_text())
    del contents["architecture"]["activation_bits"]
    (export / "config.json").write_text(json.dumps(contents))
    assert CodecModel.from_folder(export).config.activation_bits == 10


def test_frozen_parameters_stay_and_the_others_learn(pictures, tmp_path):
    first = train(config(pictures, tmp_path / "first"), progress=False)
    settings = dict(resume=str(first), steps=3, quantiser="ste", ema=0.0, freeze="encoder, y_prior.log_ratio")
    second = train(config(pictures, tmp_path / "second", **settings), progress=False)
    before, after = (load_file(folder / "weights.safetensors") for folder in (first, second))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not [name for name in changed if f"transforms.{name}".startswith(ENCODER)]
    assert "entropy.y_prior.log_ratio" not in changed and "entropy.y_prior.log_weight" in changed
    assert {"g_s.patch.weight", "g_s.stack8.scales.table", "log_inverse_gain.table", "entropy.shrink"} <= changed
    with pytest.raises(ModelError, match="no parameter begins with 'decoder'"):
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


@pytest.mark.parametrize("name", sorted(LATENT_QUANTISERS))
def test_every_quantiser_trains_and_none_matters_at_evaluation(name):
    x, quality = torch.rand(1, 3, 64, 64), torch.tensor([60.0])
    model = TrainableModel(CONFIG, name)
    rounded = TrainableModel(CONFIG)
    rounded.load_state_dict(model.state_dict())
    with torch.no_grad():
        for figure, expected in zip(model.eval()(x, quality).values(), rounded.eval()(x, quality).values()):
            assert torch.equal(figure, expected)
    figures = model.train()(x, quality, torch.Generator().manual_seed(0))
    (figures["y_bpp"] + figures["mse"]).sum().backward()
    gradient = model.transforms.g_a.patch.weight.grad
    assert torch.isfinite(gradient).all() and gradient.abs().max() > 0


@pytest.mark.parametrize("bits, levels", [(8, 255), (4, 15), (2, 3), (1, 2)])
def test_entropy_networks_of_fewer_bits_are_exported_and_executed(pictures, tmp_path, bits, levels):
    export = train(config(pictures, tmp_path, steps=1, architecture=dataclasses.replace(CONFIG, entropy_bits=bits)), progress=False)
    model = CodecModel.from_folder(export)
    for name, layer in model.entropy.networks.layers():
        values = layer.weight.unique()
        assert len(values) <= levels and values.abs().max() <= max(levels // 2, 1), name
        assert bits > 1 or 0 not in values, name
    z_string, y_string, crc, y_hat = model.encode(torch.rand(1, 3, 64, 64), 5000)
    assert torch.equal(model.decode(z_string, y_string, crc, 64, 64, 5000), model.reconstruct(y_hat, 5000))


def test_learning_rate_warms_up_and_falls_to_its_end():
    settings = TrainingConfig(lr=1.0, lr_end=0.1, warmup=10)
    assert learning_rate(settings, 0, 0.0) == pytest.approx(0.1)
    rates = [learning_rate(settings, 100, done) for done in np.linspace(0, 1, 11)]
    assert rates[0] == pytest.approx(1.0) and rates[-1] == pytest.approx(0.1)
    assert rates == sorted(rates, reverse=True)
    held = dataclasses.replace(settings, hold=0.6)
    rates = [learning_rate(held, 100, done) for done in (0.0, 0.6, 0.8, 1.0)]
    assert rates == pytest.approx([1.0, 1.0, 0.55, 0.1])


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


def test_average_forgets_the_beginning():
    averaged, current = [torch.zeros(1)], [torch.ones(1)]
    for n in range(200):
        ema_update(0.999)(averaged, current, torch.tensor(n))
    assert averaged[0] > 0.99


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
    batch = crops.batch(0)
    assert batch.shape == (4, 3, 64, 64) and batch.dtype == torch.uint8
    colours = set()
    for path in find_pictures([pictures]):
        colours |= {tuple(c) for c in np.asarray(Image.open(path)).reshape(-1, 3)}
    assert {tuple(c) for c in batch.permute(0, 2, 3, 1).reshape(-1, 3).numpy()} <= colours
    again = Crops(config(pictures, tmp_path, downscale=0.0, batch=4))
    assert torch.equal(again.batch(0), batch) and not torch.equal(again.batch(1), batch)
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
    assert crops.batch(0).shape == (2, 3, 64, 64)
    crops.close()


@pytest.mark.parametrize("bad", [{"crop": 100}, {"crop": 0}, {"batch": 0}, {"devices": 0}, {"precision": "bf17"}, {"quantiser": "coin"}])
def test_settings_that_cannot_work_are_refused(bad):
    with pytest.raises(ValueError):
        TrainingConfig(**bad)


def test_missing_inputs_are_clear_errors(pictures, tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        train(config(tmp_path / "nowhere", tmp_path / "run"), progress=False)
    with pytest.raises(ModelError, match="nothing to resume"):
        train(config(pictures, tmp_path / "run", resume=str(tmp_path / "nowhere")), progress=False)
    (tmp_path / "bad.pt").write_bytes(b"junk")
    with pytest.raises(ModelError, match="not a checkpoint"):
        train(config(pictures, tmp_path / "run", resume=str(tmp_path / "bad.pt")), progress=False)
    with pytest.raises(ImageError, match="no validation pictures"):
        validation_crops(pictures, side=4096)
