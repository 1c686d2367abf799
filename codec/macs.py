"""Multiply-adds per pixel and parameters of every part, from the shapes of the weights."""

from math import prod

from .graphs import weight_shapes
from .latents import networks

# Layer -> pixels per position of its output, along a side; others of g_a, g_s and h_a work at 1/16.
_SIDES = {
    "g_s.blocks8": 8, "g_s.patch": 8, "h_a.down1": 32, "h_a.depthwise2": 32, "h_a.down2": 64, "h_a.out": 64,
}  # fmt: skip


def multiply_adds(config, side=64):
    """Thousands of multiply-adds per pixel of ``g_a``, ``g_s``, ``h_a`` and ``entropy`` (h_s and contexts)."""
    counts = {}
    for name, shape in weight_shapes(config).items():
        if name.endswith(".weight"):
            part, layer = name.split(".")[0], ".".join(name.split(".")[:2])
            counts[part] = counts.get(part, 0) + prod(shape) / _SIDES.get(layer, 16) ** 2
    # Contexts of indices are a handful of additions.
    counts["entropy"] = networks.multiply_adds(config, side) if config.latents == "scalar" else 0
    return {part: total / 1e3 for part, total in counts.items()}


def parameters(config):
    """Number of parameters of ``g_a``, ``g_s``, ``h_a`` and ``entropy``; tables per quality included.

    With vector-quantised latents there is no h_a, and ``entropy`` counts the codebooks.
    """
    counts = {}
    for name, shape in weight_shapes(config).items():
        part = name.split(".")[0]
        if part in ("g_a", "g_s", "h_a"):
            counts[part] = counts.get(part, 0) + prod(shape)
    if config.latents == "vq":
        return {**counts, "entropy": config.M * config.codes * config.stages}
    specs = [spec for _, spec in networks.architecture(config).layers()]
    counts["entropy"] = sum(s.weight_shape[0] * (s.weight_shape[1] + s.anchors) for s in specs)
    return counts
