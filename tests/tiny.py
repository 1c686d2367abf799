"""A model small enough for tests, with weights that use the whole range of everything."""

import json
from dataclasses import asdict

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from codec.config import ModelConfig
from codec.model import Model
from codec.nn.integer import TrainableLayer
from codec.training.config import TrainingConfig
from codec.training.loop import export
from codec.training.model import TrainableModel

CONFIG = ModelConfig(
    M=32, N=8, analysis_width=32, analysis_depth=2, synthesis_width16=32, synthesis_depth16=1, synthesis_width8=192,
    synthesis_depth8=1, hyper_width=16, entropy_width=16, context_width=24, anchors=3, lmbda_max=0.5,
)  # fmt: skip


def trainable(seed=0):
    """TrainableModel with random, lively entropy networks: no constant means, no constant indexes."""
    torch.manual_seed(seed)
    model = TrainableModel(CONFIG)
    with torch.no_grad():
        for _, layer in model.networks.layers():
            assert isinstance(layer, TrainableLayer)
            layer.bias.add_(0.3 * torch.randn_like(layer.bias))
            layer.weight.mul_((0.3 * torch.randn(len(layer.weight), 1)).exp())
        for net in model.networks.contexts:
            for head, factor in (("mean", 7.0), ("index", 3.0)):
                net[head].weight.mul_(factor)
                net[head].bias.mul_(factor)
        model.transforms.z_log_gain.table.add_(2.0)
        model.y_prior.log_ratio.add_(0.2 * torch.randn_like(model.y_prior.log_ratio))
        model.dequantiser.shrink.uniform_(0, 0.3)
    return model


def coding(folder, seed=0, dependent=False):
    """Model of :func:`trainable`, through a weights file in ``folder``; or with tables for dependent quantisation."""
    export(trainable(seed).eval(), folder)
    if dependent:
        path = folder / "weights.safetensors"
        tensors = load_file(path)
        save_file({**tensors, **trellis_tensors(tensors)}, path)
    return Model.from_folder(folder)


def trellis_tensors(tensors, seed=0):
    """Tables and shifts for dependent quantisation, made up: rows of the plain tables in another order."""
    rng = np.random.default_rng(seed)
    cdf, lengths, offsets = (tensors[f"entropy.y_{key}"] for key in ("cdf", "lengths", "offsets"))
    order = np.concatenate([64 * k + np.clip(np.arange(64) + off, 0, 63) for k in range(4) for off in (-5, -8)])
    rows = np.split(cdf, np.cumsum(lengths)[:-1])
    return {
        "entropy.trellis_cdf": np.concatenate([rows[n] for n in order]),
        "entropy.trellis_lengths": lengths[order],
        "entropy.trellis_offsets": offsets[order],
        "entropy.trellis_shrink": rng.uniform(-0.3, 0.3, (CONFIG.anchors, 128, 3)).astype(np.float16),
    }


def training_config(pictures, output, architecture=CONFIG, **changes):
    """TrainingConfig of a short run of a small model."""
    settings = dict(
        pictures=[str(pictures)], output=str(output), architecture=json.dumps(asdict(architecture)),
        steps=6, batch=2, crop=64, warmup=2, drawn=0.0, fit_crops=0, precision="float32", device="cpu",
    )  # fmt: skip
    return TrainingConfig(**{**settings, **changes})


def weights_of(path):
    """``(weights and their average, everything else)`` of a run's checkpoint."""
    state = torch.load(path / "checkpoint.pt", weights_only=True)
    return {**state["model"], **{f"ema.{k}": v for k, v in state["ema"].items()}}, state
