"""Multiply-adds per pixel and parameters of every part, counted from the layers themselves."""

import torch
from torch import nn

from .entropy import EntropyNetworks
from .model import Transforms
from .transforms import Conv3


class _SpecLayer(nn.Module):
    """Stands in for an integer layer: counts, and passes on zeros of the right shape."""

    def __init__(self, spec):
        super().__init__()
        self.spec = spec

    def set_integers(self, integers):
        raise AssertionError("a counting layer holds no integers")

    def forward(self, a, quality):
        return a.new_zeros(a.shape[0], self.spec.weight_shape[0], *a.shape[2:])


def multiply_adds(config, side=64):
    """Thousands of multiply-adds per pixel of ``g_a``, ``g_s``, ``h_a`` and ``entropy`` (h_s and contexts)."""
    with torch.no_grad():
        transforms = Transforms(config)
        networks = EntropyNetworks(config, _SpecLayer)
        counts = {}

        def count(part, per_position, height):
            """Hook on a layer whose output has ``height`` and width at dimensions ``height`` and ``height + 1``."""

            def hook(module, inputs, output):
                counts[part] = counts.get(part, 0) + per_position * output.shape[height] * output.shape[height + 1]

            return hook

        scalar = config.latents == "scalar"
        for part in ("g_a", "g_s", "h_a") if scalar else ("g_a", "g_s"):
            for module in getattr(transforms, part).modules():
                if isinstance(module, (nn.Linear, Conv3, nn.Conv2d)):
                    module.register_forward_hook(count(part, module.weight.numel(), 1))
        for _, layer in networks.layers():
            rows, columns = layer.spec.weight_shape
            layer.register_forward_hook(count("entropy", rows * columns, 2))
        quality = torch.zeros(1)
        y = transforms.analyse(torch.zeros(1, 3, side, side), quality)
        if scalar:
            z = transforms.side_information(y, quality)
            features = networks.features(z, quality)
            for k in range(4):
                networks.context(k, features, y, quality)
        else:
            counts["entropy"] = 0  # contexts of indices are a handful of additions
        transforms.synthesise(y, quality)
    return {part: total / side**2 / 1e3 for part, total in counts.items()}


def parameters(config):
    """Number of parameters of ``g_a``, ``g_s``, ``h_a`` and ``entropy``; tables per quality included.

    With vector-quantised latents there is no h_a, and ``entropy`` counts the codebooks.
    """
    transforms, networks = Transforms(config), EntropyNetworks(config, _SpecLayer)
    if config.latents == "vq":
        counts = {part: sum(p.numel() for p in getattr(transforms, part).parameters()) for part in ("g_a", "g_s")}
        return {**counts, "entropy": config.M * config.codes * config.stages}
    counts = {part: sum(p.numel() for p in getattr(transforms, part).parameters()) for part in ("g_a", "g_s", "h_a")}
    specs = [layer.spec for _, layer in networks.layers()]
    counts["entropy"] = sum(s.weight_shape[0] * (s.weight_shape[1] + s.anchors) for s in specs)
    return counts
