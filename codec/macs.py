"""Multiply-adds per pixel and parameters of every part, from the shapes of the weights."""

from math import prod

from .config import ModelConfig
from .graphs import weight_shapes
from .latents import hierarchy, networks

# Layer -> pixels per position of its output, along a side; others of g_a, g_s and h_a work at 1/16.
_SIDES = {
    "g_s.blocks8": 8, "g_s.patch": 8, "h_a.down1": 32, "h_a.depthwise2": 32, "h_a.down2": 64, "h_a.out": 64,
}  # fmt: skip


def multiply_adds(config: ModelConfig, side: int = 64) -> dict[str, float]:
    """Thousands of multiply-adds per pixel of ``g_a``, ``g_s``, ``h_a`` and ``entropy`` (h_s and contexts)."""
    counts: dict[str, float] = {}
    for name, shape in weight_shapes(config).items():
        if name.endswith(".weight"):
            part, layer = name.split(".")[0], ".".join(name.split(".")[:2])
            counts[part] = counts.get(part, 0) + prod(shape) / _SIDES.get(layer, 16) ** 2
    if config.scalar:
        counts["entropy"] = networks.multiply_adds(config, side)
    else:  # contexts of indices are a handful of additions
        counts["entropy"] = sum(prod(spec.weight_shape) / pixels**2 for spec, pixels in _condition(config))
    return {part: total / 1e3 for part, total in counts.items()}


def parameters(config: ModelConfig) -> dict[str, int]:
    """Number of parameters of ``g_a``, ``g_s``, ``h_a`` and ``entropy``; tables per quality included.

    With latents made of codes ``entropy`` counts the codebooks, and the networks of two levels.
    """
    counts: dict[str, int] = {}
    for name, shape in weight_shapes(config).items():
        part = name.split(".")[0]
        if part in ("g_a", "g_s", "h_a"):
            counts[part] = counts.get(part, 0) + prod(shape)
    specs = [spec for _, spec in networks.architecture(config).layers()] if config.scalar else []
    specs += [spec for spec, _ in _condition(config)]
    counts["entropy"] = sum(s.weight_shape[0] * (s.weight_shape[1] + s.anchors) for s in specs)
    if not config.scalar:
        upper = config.N * hierarchy.UPPER_STAGES if config.side_information else 0
        counts["entropy"] += config.codes * (config.M * config.stages + upper)
    return counts


def _condition(config):
    """``(LayerSpec, pixels per position, along a side)`` of the networks between two levels of codes."""
    if config.scalar or not config.side_information:
        return
    pixels = 64
    for step in networks.hyper_synthesis(config):
        if isinstance(step, int):
            pixels //= step
        else:
            yield step, pixels
    yield from ((spec, pixels) for spec in hierarchy.heads(config).values())
