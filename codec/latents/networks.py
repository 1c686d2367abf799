"""h_s and the four context networks: what z and the known latents say about the next pass.

    z_hat --h_s--> features                          z_hat at 1/64 of the picture, features at 1/16
    features, known y_hat --trunk k--> hidden
    hidden at the positions of pass k --heads--> mean in 1/16 of a symbol, row of the table

:func:`architecture` lists their layers, for every engine: exact layers in NumPy here, trainable and exact ones in torch
in :mod:`codec.nn.latents`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..config import ModelConfig
from ..errors import ModelError, tensor
from .integer import ExactLayer, LayerSpec
from .quadtree import GROUPS, MEAN_UNIT, PASSES, positions, walk

MEAN_LIMIT = 4095
Y_LIMIT = 2047  # largest magnitude of a symbol of y, and
Z_LIMIT = 255  # of z
COMPAND_LIMIT = 16383  # of the companding table, in 1/16 of a symbol: 1024 symbols
LEVELS = 64  # rows of the table, of each pass
# First row that is coded: symbols of the rows before it are taken to be zero. They are a third of all and one of them
# in 30 thousand is not zero; leaving them out costs 0.03 % in rate at the same PSNR.
CODED_FIRST = 5
SCALE_MIN, SCALE_MAX = 0.11, 256.0  # CompressAI's table: logarithmic between these standard deviations
LOG_SCALE_STEP = math.log(SCALE_MAX / SCALE_MIN) / (LEVELS - 1)


Layer: TypeAlias = Callable[[Any, int], Any]  # integers (h, w, C_in), quality in hundredths -> integers (h, w, C_out)


class Context(NamedTuple):
    """Layers of one context network: steps of its trunk, and the LayerSpecs of its two heads."""

    trunk: list[LayerSpec | int]
    mean: LayerSpec
    index: LayerSpec  # type: ignore[assignment]  # which a tuple has as a method


class Architecture(NamedTuple):
    """All layers of the entropy networks.

    Attributes:
        h_s: steps: LayerSpecs, and the factors of pixel shuffles between them. contexts: Context of each pass.
    """

    h_s: list[LayerSpec | int]
    contexts: list[Context]

    def layers(self) -> Iterator[tuple[str, LayerSpec]]:
        """``(name, LayerSpec)`` of every layer, named as in the weights file."""
        chains = {"h_s": self.h_s, **{f"contexts.{k}.trunk": c.trunk for k, c in enumerate(self.contexts)}}
        for name, steps in chains.items():
            yield from (step for step in named(name, steps) if not isinstance(step, int))
        for k, context in enumerate(self.contexts):
            yield f"contexts.{k}.mean", context.mean
            yield f"contexts.{k}.index", context.index


def named(name: str, steps: Sequence[LayerSpec | int]) -> list[tuple[str, LayerSpec] | int]:
    """Steps of the chain ``name``, with ``(name of the layer, spec)`` in place of each LayerSpec."""
    number = itertools.count()
    return [step if isinstance(step, int) else (f"{name}.layers.{next(number)}", step) for step in steps]


def _layers(config):
    """``(pointwise, depthwise, step, fine)``: makers of LayerSpecs, and the steps of what they give.

    Activations range to 64, whatever the number of their bits. What depthwise layers give is smaller.
    """
    bits, limit, step = config.entropy_bits, 2**config.activation_bits - 1, 64 / 2**config.activation_bits
    fine = step / 4

    def pointwise(c_in, c_out, in_step, quality=False, in_limit=limit):
        return LayerSpec(
            c_in, c_out, -limit, limit, in_limit, in_step, step,
            anchors=config.anchors if quality else 1, activation="leaky", weight_bits=bits,
        )  # fmt: skip

    def depthwise(c):
        return LayerSpec(c, c, -limit, limit, limit, step, fine, depthwise=True, weight_bits=bits)

    return pointwise, depthwise, step, fine


def hyper_synthesis(config: ModelConfig) -> list[LayerSpec | int]:
    """Steps of h_s: LayerSpecs, and the factors of pixel shuffles between them."""
    pointwise, depthwise, _, fine = _layers(config)
    width, N = config.entropy_width, config.N
    return [
        pointwise(N, 4 * N, 1.0, quality=True, in_limit=Z_LIMIT), 2,
        depthwise(N), pointwise(N, 4 * width, fine), 2,
        depthwise(width), pointwise(width, width, fine),
    ]  # fmt: skip


def architecture(config: ModelConfig) -> Architecture:
    """The Architecture that a ModelConfig with scalar latents means."""
    width, hidden, M = config.entropy_width, config.context_width, config.M
    bits, anchors = config.entropy_bits, config.anchors
    pointwise, depthwise, step, fine = _layers(config)
    limit = 2**config.activation_bits - 1

    def head(c, low, high, out_step):
        return LayerSpec(
            c, M // GROUPS, low, high, limit, step, out_step, groups=GROUPS, anchors=anchors, weight_bits=bits
        )

    contexts = [
        Context(
            trunk=[
                pointwise(width + (M if k else 0), hidden, step, quality=True),
                depthwise(hidden), pointwise(hidden, hidden, fine),
                depthwise(hidden), pointwise(hidden, width, fine),
            ],
            mean=head(width, -MEAN_LIMIT, MEAN_LIMIT, 1 / MEAN_UNIT),
            index=head(width, 0, LEVELS - 1, LOG_SCALE_STEP),
        )
        for k in range(len(PASSES))
    ]  # fmt: skip
    return Architecture(hyper_synthesis(config), contexts)


def scale_table() -> list[float]:
    """The standard deviations of the LEVELS rows."""
    return [SCALE_MIN * math.exp(i * LOG_SCALE_STEP) for i in range(LEVELS)]


def compand_table(activation_bits: int) -> np.ndarray:
    """``round(log(1 + v / 16) 2^bits / 64)`` for v = 0 to COMPAND_LIMIT: int16, part of the weights file.

    Context networks read sign(v) log(1 + |v|) of what they know: latents of quality 100 are thousands of times
    those of quality 0, and one range of integers must hold both.
    """
    v = np.arange(COMPAND_LIMIT + 1) / MEAN_UNIT
    return np.floor(np.log1p(v) * (2**activation_bits / 64) + 0.5).astype(np.int16)


class EntropyNetworks:
    """The networks as :func:`codec.latents.quadtree.walk` wants them, of one image.

    Args:
        config: ModelConfig. layer: ``layer(spec, name) -> layer``, which maps integers (h, w, C_in) and a quality in
            hundredths to integers (h, w, C_out), in float32.
        compand: int16 (COMPAND_LIMIT + 1,), from the weights file.

    Inside, arrays are (h, w, C): products, depthwise sums and per-channel constants run along C.
    """

    def __init__(self, config: ModelConfig, layer: Callable[[LayerSpec, str], Layer], compand: np.ndarray) -> None:
        made = architecture(config)
        self.config, self.compand = config, compand.astype(np.float32)

        def chain(name, steps):
            return [step if isinstance(step, int) else layer(step[1], step[0]) for step in named(name, steps)]

        self.h_s = chain("h_s", made.h_s)
        self.trunks = [chain(f"contexts.{k}.trunk", c.trunk) for k, c in enumerate(made.contexts)]
        self.heads = [
            (layer(c.mean, f"contexts.{k}.mean"), layer(c.index, f"contexts.{k}.index"))
            for k, c in enumerate(made.contexts)
        ]

    def begin(self, z_hat: np.ndarray, quality: int) -> np.ndarray:
        """Integers z_hat (N, h/4, w/4) -> what context networks read: float32 (h, w, C + M), features first.

        The rest, what is known of y, is zero.
        """
        features = run(self.h_s, np.ascontiguousarray(z_hat.transpose(1, 2, 0), np.float32), quality)
        height, width, channels = features.shape
        known = np.zeros((height, width, channels + self.config.M), np.float32)
        known[:, :, :channels] = features
        return known

    def predict(self, k: int, known: np.ndarray, quality: int) -> tuple[np.ndarray, np.ndarray]:
        """Means in 1/16 of a symbol and table rows of pass ``k``: integers (4, M/4, h/2, w/2) in float32."""
        read = known if k else np.ascontiguousarray(known[:, :, : -self.config.M])
        hidden = run(self.trunks[k], read, quality)
        hidden = np.concatenate([hidden[i::2, j::2] for i, j in positions(k)], 2)  # (h/2, w/2, 4 C)
        shape = (GROUPS, self.config.M // GROUPS, *hidden.shape[:2])
        mean, index = (head(hidden, quality).transpose(2, 0, 1) for head in self.heads[k])
        return np.ascontiguousarray(mean).reshape(shape), np.ascontiguousarray(index).reshape(shape)

    def learn(self, k: int, known: np.ndarray, part: np.ndarray) -> np.ndarray:
        """``known`` with the latents (4, M/4, h/2, w/2), in 1/16 of a symbol, of pass ``k``; changed in place."""
        rows = np.minimum(np.abs(part), COMPAND_LIMIT).astype(np.intp)
        values = np.copysign(self.compand[rows], part)
        latents = known[:, :, -self.config.M :]
        for g, (i, j) in enumerate(positions(k)):
            latents[i::2, j::2, g::GROUPS] = values[g].transpose(1, 2, 0)
        return known


def exact_networks(
    config: ModelConfig, tensors: Mapping[str, np.ndarray], dtype: type[np.floating[Any]] | None = None
) -> EntropyNetworks:
    """EntropyNetworks of the tensors of a weights file: ``{"entropy.<layer>.<integers>": array}``.

    Raises:
        ModelError: a tensor is missing or not what it should be.
    """

    def layer(spec, name):
        return exact_layer(spec, name, tensors, dtype)

    return EntropyNetworks(config, layer, _checked_compand(tensor(tensors, "entropy.compand"), config.activation_bits))


def exact_layer(
    spec: LayerSpec, name: str, tensors: Mapping[str, np.ndarray], dtype: type[np.floating[Any]] | None = None
) -> ExactLayer:
    """ExactLayer of the tensors ``entropy.<name>.<integers>`` of a weights file; ModelError as above."""
    keys = {key: f"entropy.{name}.{key}" for key in spec.integers}
    return ExactLayer(spec, {key: tensor(tensors, whole) for key, whole in keys.items()}, f"entropy.{name}", dtype)


def multiply_adds(config: ModelConfig, side: int = 64) -> float:
    """Multiply-adds per pixel of a picture of ``side`` x ``side`` pixels, a multiple of 64."""
    total = 0

    class Counter:
        def __init__(self, spec, name):
            self.spec = spec

        def __call__(self, a, quality):
            nonlocal total
            rows, columns = self.spec.weight_shape
            total += rows * columns * a.shape[0] * a.shape[1]
            return np.zeros((*a.shape[:2], rows), np.float32)

    networks = EntropyNetworks(config, Counter, compand_table(config.activation_bits))
    z_hat = np.zeros((config.N, side // 64, side // 64), np.float32)
    walk(networks, z_hat, 0, lambda k, means, indexes: np.zeros_like(means))
    return total / side**2


def run(steps: Sequence[Layer | int], a: np.ndarray, quality: int) -> np.ndarray:
    """Integers (h, w, C) through layers and, where a step is a number, pixel shuffles by it."""
    for step in steps:
        a = shuffle(a, step) if isinstance(step, int) else step(a, quality)
    return a


def shuffle(a: np.ndarray, factor: int) -> np.ndarray:
    """(h, w, C f^2) -> (h f, w f, C), in the order of channels of torch's pixel_shuffle."""
    height, width, channels = a.shape
    a = a.reshape(height, width, channels // factor**2, factor, factor).transpose(0, 3, 1, 4, 2)
    return a.reshape(height * factor, width * factor, -1)


def _checked_compand(table, bits):
    """The companding table of a weights file; ModelError where it is none."""
    if table.dtype != np.int16 or table.shape != (COMPAND_LIMIT + 1,):
        raise ModelError(f"entropy.compand is {table.dtype} {table.shape}, not int16 ({COMPAND_LIMIT + 1},)")
    if table[0] != 0 or table[-1] > 2**bits - 1 or (np.diff(table.astype(np.int32)) < 0).any():
        raise ModelError("entropy.compand does not rise from 0 to the largest activation")
    return table
