"""Multiply-adds per pixel and parameters of every part, counted from the layers themselves."""

import torch
from torch import nn

from .latents import networks
from .model import Transforms
from .transforms import Conv3


def multiply_adds(config, side=64):
    """Thousands of multiply-adds per pixel of ``g_a``, ``g_s``, ``h_a`` and ``entropy`` (h_s and contexts)."""
    with torch.no_grad():
        transforms = Transforms(config)
        counts = {}

        def count(part, per_position):
            """Hook on a layer whose output is (B, H, W, C)."""

            def hook(module, inputs, output):
                counts[part] = counts.get(part, 0) + per_position * output.shape[1] * output.shape[2]

            return hook

        scalar = config.latents == "scalar"
        for part in ("g_a", "g_s", "h_a") if scalar else ("g_a", "g_s"):
            for module in getattr(transforms, part).modules():
                if isinstance(module, (nn.Linear, Conv3, nn.Conv2d)):
                    module.register_forward_hook(count(part, module.weight.numel()))
        quality = torch.zeros(1)
        y = transforms.analyse(torch.zeros(1, 3, side, side), quality)
        if scalar:
            transforms.side_information(y, quality)
        transforms.synthesise(y, quality)
    # Contexts of indices are a handful of additions.
    counts["entropy"] = networks.multiply_adds(config, side) * side**2 if scalar else 0
    return {part: total / side**2 / 1e3 for part, total in counts.items()}


def parameters(config):
    """Number of parameters of ``g_a``, ``g_s``, ``h_a`` and ``entropy``; tables per quality included.

    With vector-quantised latents there is no h_a, and ``entropy`` counts the codebooks.
    """
    transforms = Transforms(config)
    if config.latents == "vq":
        counts = {part: sum(p.numel() for p in getattr(transforms, part).parameters()) for part in ("g_a", "g_s")}
        return {**counts, "entropy": config.M * config.codes * config.stages}
    counts = {part: sum(p.numel() for p in getattr(transforms, part).parameters()) for part in ("g_a", "g_s", "h_a")}
    specs = [spec for _, spec in networks.architecture(config).layers()]
    counts["entropy"] = sum(s.weight_shape[0] * (s.weight_shape[1] + s.anchors) for s in specs)
    return counts
