"""What it costs in rate that the entropy networks are integer functions.

    python benchmarks/integer_cost.py TRAIN_FOLDER VALID_FOLDER --minutes 4 [--model MODEL]

Both start from the weights of a model and train the entropy networks for the same time, in turns, as integers and as
float32 networks without any rounding; everything else stays. Prints bits per pixel on the validation pictures.
"""

import argparse
import tempfile

import torch.nn.functional as F
from lightning.fabric import Fabric
from variants import train_in_turns

from codec.entropy import HIDDEN_LIMIT, EntropyNetworks
from codec.integer import TrainableLayer, anchor_position
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

    def coarse(self, known):
        return (known / 4).clamp(-HIDDEN_LIMIT, HIDDEN_LIMIT)


def make_float(networks):
    """Turn entropy networks into float ones, in place."""
    for _, layer in networks.layers():
        layer.__class__ = FloatLayer
    networks.__class__ = FloatNetworks


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train")
    parser.add_argument("valid")
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--model")
    arguments = parser.parse_args()
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    fabric.launch()
    runs = {}
    for name in ("integers", "floats"):
        config = TrainingConfig(
            pictures=[arguments.train], output=tempfile.mkdtemp(), max_minutes=arguments.minutes, batch=4, crop=192,
            resume=str(find_model(arguments.model)), freeze="transforms,dequantiser", lr=3e-4, warmup=20, ema=0.98, cache_gib=2,
        )  # fmt: skip
        runs[name] = _Run(config, fabric)
    make_float(runs["floats"].bare.networks)
    make_float(runs["floats"].ema.module.networks)
    train_in_turns(runs)
    valid = validation_crops(arguments.valid)
    bpp = {name: [run._validate(valid)[f"valid_bpp_{q}"] for q in VALIDATION_QUALITIES] for name, run in runs.items()}
    print(f"steps: {', '.join(f'{name} {run.step}' for name, run in runs.items())}\n")
    print("| quality | floats bpp | integers bpp | difference |\n|---:|---:|---:|---:|")
    for q, floats, integers in zip(VALIDATION_QUALITIES, bpp["floats"], bpp["integers"]):
        print(f"| {q} | {floats:.4f} | {integers:.4f} | {100 * (integers / floats - 1):+.2f} % |")
    for run in runs.values():
        run.crops.close()


if __name__ == "__main__":
    main()
