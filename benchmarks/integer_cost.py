"""What it costs in rate that the entropy networks are integer functions, and that their weights have few bits.

    python benchmarks/integer_cost.py TRAIN_FOLDER VALID_FOLDER [--steps 240 | --minutes 4] [--bits 8,4,2,1]
        [--model MODEL]

All start from the weights of a model and train the entropy networks for as long, in turns, as float32 networks
without any rounding and as integers with weights of each of the numbers of bits; everything else stays. Prints the
loss on the validation pictures, at the start and after training, and bits per pixel.
"""

import argparse
import tempfile
from dataclasses import replace

import torch
import torch.nn.functional as F
from lightning.fabric import Fabric

from codec.latents.integer import LEAK
from codec.latents.quadtree import MEAN_UNIT
from codec.nn.integer import TrainableLayer, anchor_position, layer_quantiser
from codec.nn.latents import EntropyNetworks
from codec.quantise.weights import WEIGHT_QUANTISERS, initial_log_step
from codec.training.config import TrainingConfig
from codec.training.data import validation_crops
from codec.training.loop import VALIDATION_LMBDAS, _Run, optimisers
from codec.weights import find_model
from variants import train_in_turns


class FloatLayer(TrainableLayer):
    """The function that a TrainableLayer approximates with integers, same parameters, same range."""

    def forward(self, a, quality):
        spec = self.spec
        weight = self.weight * (spec.input_step / spec.output_step)
        if spec.depthwise:
            total = F.conv2d(a, weight.view(-1, 1, 3, 3), padding=1, groups=spec.channels_out)
        else:
            total = F.conv2d(a, weight[:, :, None, None], groups=spec.groups)
        left, position = anchor_position(quality, spec.anchors)
        biases = self.bias / spec.output_step
        bias = biases[left].lerp(biases[(left + 1).clamp(max=spec.anchors - 1)], position[:, None])
        value = total + bias[:, :, None, None]
        if spec.activation == "leaky":
            value = F.leaky_relu(value, LEAK)
        return value.clamp(spec.low, spec.high)


class FloatNetworks(EntropyNetworks):
    """Reads latents as they are, companded."""

    def context_input(self, known):
        unit = 2**self.config.activation_bits / 64
        return known.sign() * (known.abs() / MEAN_UNIT).log1p() * unit


def make_float(networks):
    """Turn entropy networks into float ones, in place."""
    for _, layer in networks.layers():
        layer.__class__ = FloatLayer
    networks.__class__ = FloatNetworks


@torch.no_grad()
def set_weight_bits(networks, bits):
    """Go on with integer weights of this many bits, from the same real ones, in place."""
    for _, layer in networks.layers():
        if layer.spec.weight_bits != bits:
            layer.spec = replace(layer.spec, weight_bits=bits)
            name, layer.weight_limit = layer_quantiser(bits)
            layer._weight_quantiser = WEIGHT_QUANTISERS[name]
            if name != "absmax":
                step = initial_log_step(layer.weight, layer.weight_limit, name == "binary")
                layer.log_step = torch.nn.Parameter(step)
            layer.clip_weights_()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train")
    parser.add_argument("valid")
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--bits", type=lambda text: [int(bits) for bits in text.split(",")], default=[8])
    parser.add_argument("--model")
    arguments = parser.parse_args()
    if not (arguments.steps or arguments.minutes):
        parser.error("needs --steps or --minutes")
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    fabric.launch()
    runs = {}
    for bits in (None, *arguments.bits):
        config = TrainingConfig(
            pictures=[arguments.train], output=tempfile.mkdtemp(), steps=arguments.steps,
            max_minutes=arguments.minutes, batch=4, crop=192, resume=str(find_model(arguments.model)),
            freeze="transforms,dequantiser", lr=1e-3, warmup=20, ema=0.98, cache_gib=1, drawn=0.0, white=0.0,
        )  # fmt: skip
        run = runs["floats" if bits is None else f"{bits} bits"] = _Run(config, fabric)
        for networks in (run.bare.networks, run.ema.networks):
            make_float(networks) if bits is None else set_weight_bits(networks, bits)
        # Steps of few-bit weights are parameters that were not there before.
        run.ema.requires_grad_(False)
        run.model, *run.optimisers = fabric.setup(run.bare, *optimisers(run.bare, config, run.half))
    valid = validation_crops(arguments.valid)
    start = {name: run._validate(valid)["valid_loss"] for name, run in runs.items()}
    train_in_turns(runs)
    rows = {name: run._validate(valid) for name, run in runs.items()}
    print(f"steps: {', '.join(f'{name} {run.step}' for name, run in runs.items())}\n")
    print(f"| | {' | '.join(runs)} |\n|---|{'---:|' * len(runs)}")
    table = {"loss at the start": start, "loss": {name: row["valid_loss"] for name, row in rows.items()}}
    for lmbda in VALIDATION_LMBDAS:
        table[f"bpp at lambda {lmbda}"] = {name: row[f"valid_bpp_{lmbda}"] for name, row in rows.items()}
    for what, values in table.items():
        floats = values.pop("floats")
        cells = [f"{value:.4f} ({100 * (value / floats - 1):+.2f} %)" for value in values.values()]
        print(f"| {what} | {floats:.4f} | {' | '.join(cells)} |")
    for run in runs.values():
        run.crops.close()


if __name__ == "__main__":
    main()
