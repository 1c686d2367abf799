import dataclasses

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from PIL import Image

from codec.health import check, complaints, health
from codec.model import Model
from codec.training import loop
from codec.training.model import TrainableModel
from tiny import CONFIG, training_config

X = torch.rand(8, 3, 192, 192, generator=torch.Generator().manual_seed(0))


def test_a_new_network_is_alive():
    torch.manual_seed(0)
    figures = health(TrainableModel(CONFIG), X)
    assert set(figures) == {"z_share", "dead_encoder", "dead_entropy", "dead_decoder"}
    assert figures["dead_encoder"] == figures["dead_decoder"] == 0


def test_dead_units_and_dead_side_information_are_noticed():
    torch.manual_seed(0)
    model = TrainableModel(CONFIG)
    with torch.no_grad():
        for block in model.transforms.g_a.blocks:
            block.centres[1].mean.fill_(100.0)  # the second of two activations is always negative
        for _, layer in model.networks.layers():
            layer.bias.fill_(-20.0)
        model.transforms.z_log_gain.table.fill_(-20.0)
    figures = health(model, X)
    assert figures["dead_encoder"] == pytest.approx(0.5, abs=0.05)
    assert figures["dead_entropy"] > 0.5
    said = complaints({**figures, "z_share": 0.0})
    # With every scale in row 0 nothing is coded, so that the decoder sees nothing and counts as dead as well.
    assert set(said) == {"z", "encoder", "entropy", "decoder"} and "50%" in said["encoder"]
    assert complaints({"z_share": 0.003, "dead_encoder": 0.1}) == {}


def test_units_count_by_channel_not_by_position():
    """Half of the units of every second layer off everywhere, not all of them off at some positions."""
    torch.manual_seed(0)
    model = TrainableModel(CONFIG)
    with torch.no_grad():
        for block in [*model.transforms.g_s.blocks16, *model.transforms.g_s.blocks8]:
            block.centres[1].mean[::2] = 100.0
    assert health(model, X)["dead_decoder"] == pytest.approx(0.25, abs=0.02)


def test_looking_changes_nothing():
    torch.manual_seed(0)
    model = TrainableModel(CONFIG).train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    health(model, X[:2])
    assert model.training and all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert not [m for m in model.modules() if m._forward_hooks]


def patchwork(folder):
    """Pictures whose busyness changes from one 64 x 64 square to the next: what side information is for."""
    rng = np.random.default_rng(0)
    for n in range(4):
        amplitude = rng.choice([0, 3, 20, 80], (6, 6)).repeat(64, 0).repeat(64, 1)[..., None]
        pixels = 128 + amplitude * rng.standard_normal((384, 384, 1))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8).repeat(3, 2)).save(folder / f"{n}.png")
    return folder


@pytest.mark.slow
def test_two_hundred_steps_leave_living_units_and_a_z_that_carries_bits(tmp_path):
    settings = training_config(patchwork(tmp_path), tmp_path / "run", steps=200, batch=2, crop=128, warmup=20, ema=0.9)
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    fabric.launch()
    run = loop._Run(settings, fabric)
    before = torch.cat([p.detach().flatten() for p in run.bare.parameters()])
    run.loop(progress=False)
    x = torch.cat([run._inputs(n)[0] for n in range(200, 206)])
    figures = health(run._averaged(), x, quality=60.0)
    run.crops.close()
    assert figures["z_share"] > 0.0005 and complaints(figures) == {}, figures
    assert not torch.allclose(before, torch.cat([p.detach().flatten() for p in run.bare.parameters()]), atol=0.01)


def test_a_model_that_compresses_is_examined_by_coding_pictures(pictures, tmp_path):
    export = loop.train(training_config(pictures, tmp_path, steps=1), progress=False)
    figures = check(str(export), sorted(pictures.glob("*.png"))[:2])
    assert 0 < figures["z_share"] < 1 and {"dead_encoder", "dead_entropy", "dead_decoder", "complaints"} <= set(figures)
    vq = dataclasses.replace(CONFIG, latents="vq", code_dim=4, codes=16, stages=2)
    export = loop.train(training_config(pictures, tmp_path / "vq", architecture=vq, steps=1), progress=False)
    figures = check(str(export), sorted(pictures.glob("*.png"))[:1])
    assert "z_share" not in figures and "dead_entropy" not in figures and figures["dead_encoder"] < 1
    assert Model.from_folder(export).config.latents == "vq"
