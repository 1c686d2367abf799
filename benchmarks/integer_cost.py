"""What it costs in rate that the entropy networks are integer functions, and that their weights have few bits.

    python benchmarks/integer_cost.py TRAIN_FOLDER VALID_FOLDER --minutes 4 [--bits 8,4,2,1] [--model MODEL]

All start from the weights of a model and train the entropy networks for the same time, in turns, as float32 networks
without any rounding and as integers with weights of each of the numbers of bits; everything else stays. Prints bits per
pixel on the validation pictures.
"""

import argparse
import tempfile
from dataclasses import replace

import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from variants import train_in_turns

from codec.entropy import EntropyNetworks
from codec.integer import TrainableLayer, anchor_position
from codec.quantise.weights import WEIGHT_QUANTISERS, initial_log_step, weight_quantiser
from codec.training.config import TrainingConfig
from codec.training.data import validation_crops
from codec.training.loop import VALIDATION_QUALITIES, _Run
from codec.weights import find_model


class FloatLayer(TrainableLayer):
    """The function that a TrainableLayer approximates with integers, same parameters, same range."""

    def forward(self, a, quality):
        spec = self.spec
        weight = self.weight * (self.log_gain.exp() * (spec.input_step / spec.output_step))[:, None]
        if spec.depthwise:
            total = F.conv2d(a, weight.view(-1, 1, 3, 3), padding=1, groups=spec.channels_out)
        else:
            total = F.conv2d(a, weight[:, :, None, None], groups=spec.groups)
        left, position = anchor_position(quality, spec.anchors)
        biases = self.bias * self.log_gain.exp() / spec.output_step
        bias = biases[left].lerp(biases[(left + 1).clamp(max=spec.anchors - 1)], position[:, None])
        return (total + bias[:, :, None, None]).clamp(spec.low, spec.high)


class FloatNetworks(EntropyNetworks):
    """Reads latents as they are."""

    def context_input(self, known):
        return (known * self.context_scale).clamp(-self.hidden_limit, self.hidden_limit)


def make_float(networks):
    """Turn entropy networks into float ones, in place."""
    for _, layer in networks.layers():
        layer.__class__ = FloatLayer
    networks.__class__ = FloatNetworks


@torch.no_grad()
def set_weight_bits(networks, bits):
    """Go on with integer weights of this many bits, from the same real ones, in place."""
    name, limit = weight_quantiser(bits)
    for _, layer in networks.layers():
        if layer.spec.weight_bits != bits:
            layer.spec = replace(layer.spec, weight_bits=bits)
            layer.weight_limit, layer._weight_quantiser = limit, WEIGHT_QUANTISERS[name]
            layer.log_step.copy_(initial_log_step(layer.weight, limit, name == "binary"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train")
    parser.add_argument("valid")
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--bits", type=lambda text: [int(bits) for bits in text.split(",")], default=[8])
    parser.add_argument("--model")
    arguments = parser.parse_args()
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    fabric.launch()
    runs = {}
    for bits in (None, *arguments.bits):
        config = TrainingConfig(
            pictures=[arguments.train], output=tempfile.mkdtemp(), max_minutes=arguments.minutes, batch=4, crop=192,
            resume=str(find_model(arguments.model)), freeze="transforms,dequantiser", lr=3e-4, warmup=20, ema=0.98, cache_gib=1,
        )  # fmt: skip
        run = runs["floats" if bits is None else f"{bits} bits"] = _Run(config, fabric)
        for networks in (run.bare.networks, run.ema.module.networks):
            make_float(networks) if bits is None else set_weight_bits(networks, bits)
    train_in_turns(runs)
    valid = validation_crops(arguments.valid)
    bpp = {name: [run._validate(valid)[f"valid_bpp_{q}"] for q in VALIDATION_QUALITIES] for name, run in runs.items()}
    print(f"steps: {', '.join(f'{name} {run.step}' for name, run in runs.items())}\n")
    print(f"| quality | {' | '.join(runs)} |\n|---:{'|---:' * len(runs)}|")
    for i, q in enumerate(VALIDATION_QUALITIES):
        floats = bpp["floats"][i]
        costs = [f"{own[i]:.4f} ({100 * (own[i] / floats - 1):+.2f} %)" for name, own in bpp.items() if name != "floats"]
        print(f"| {q} | {floats:.4f} | {' | '.join(costs)} |")
    for run in runs.values():
        run.crops.close()


if __name__ == "__main__":
    main()
