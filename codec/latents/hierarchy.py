"""Two levels of codes: z, at 1/64 of the picture, and y at 1/16, which is conditioned on it.

    z -> indices of the upper level -> z_hat, integers
    z_hat -> h_s -> mean of y, and which table each index of the lower level has
    y - mean -> indices of the lower level
    y_hat = mean + codewords

The upper level says what a region is like, in few codes; the lower one spends its own on what cannot be known from
that. VQ-VAE-2: Razavi, van den Oord, Vinyals 2019, arXiv:1906.00446, who condition the lower codes on the upper ones in
the encoder and in the prior, as here; residual stages and contexts of both levels are those of
:mod:`codec.latents.vector`.

What chooses a table must be exact, so h_s and its two heads are integer networks (:mod:`codec.latents.integer`), and
codewords of the upper level are made of integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..config import ModelConfig
from ..errors import ModelError, tensor
from ..quality import QUALITY_UNIT
from .coded import Encoded, Pulls, Queue, Source
from .integer import LayerSpec
from .networks import MEAN_LIMIT, Z_LIMIT, exact_layer, hyper_synthesis, named, run
from .quadtree import MEAN_UNIT
from .rans import Tables
from .vector import ResidualCodes, refuse_others, squared_error_per_bit

CLASSES = 4  # tables among which the upper level chooses
CLASS_STEP = 3.0  # between their sharpnesses: natural logarithms, for the longest codeword of a pair
UPPER_WORTH = 0.5  # what a bit of the upper level is worth as squared error of z, in the encoder's choice
UPPER_STAGES = 1


def heads(config: ModelConfig) -> dict[str, LayerSpec]:
    """LayerSpecs by name of what reads the features of h_s: "mean" and "index"."""
    limit, step = 2**config.activation_bits - 1, 64 / 2**config.activation_bits
    shared: dict[str, Any] = dict(anchors=config.anchors, weight_bits=config.entropy_bits)
    pairs = config.stages * (config.M // config.code_dim)
    return {
        "mean": LayerSpec(
            config.entropy_width, config.M, -MEAN_LIMIT, MEAN_LIMIT, limit, step, 1 / MEAN_UNIT, **shared
        ),
        "index": LayerSpec(config.entropy_width, pairs, 0, CLASSES - 1, limit, step, CLASS_STEP, **shared),
    }


class Condition:
    """What the upper level says about the lower one.

    Args:
        config: ModelConfig. tensors: ``{name: array}`` of a weights file.

    Raises:
        ModelError: a tensor is missing or not what it should be.
    """

    def __init__(self, config: ModelConfig, tensors: Mapping[str, np.ndarray]) -> None:
        self._pairs = (config.stages, config.M // config.code_dim)
        self._h_s = [
            step if isinstance(step, int) else exact_layer(step[1], step[0], tensors)
            for step in named("h_s", hyper_synthesis(config))
        ]
        self._heads = {name: exact_layer(spec, f"lower.{name}", tensors) for name, spec in heads(config).items()}
        unit = tensor(tensors, "entropy.lower.unit")
        if unit.dtype.kind != "f" or unit.shape != (config.M,) or not np.isfinite(unit).all():
            raise ModelError(f"entropy.lower.unit is {unit.dtype} {unit.shape}, not finite floats {(config.M,)}")
        self._unit = unit.astype(np.float32) / np.float32(MEAN_UNIT)

    def __call__(self, z_hat: np.ndarray, quality: int) -> tuple[np.ndarray, np.ndarray]:
        """Integers z_hat (N, h/4, w/4) -> mean of y float32 (M, h, w), classes int64 (stages, groups, h, w)."""
        features = run(self._h_s, np.ascontiguousarray(z_hat.transpose(1, 2, 0), np.float32), quality)
        mean, index = (self._heads[name](features, quality).transpose(2, 0, 1) for name in ("mean", "index"))
        return mean * self._unit[:, None, None], index.astype(np.int64).reshape(*self._pairs, *index.shape[1:])


class HierarchicalLatents:
    """Two levels of codes, behind the contract of all latents.

    Args:
        config: ModelConfig with ``latents`` "hvq".
        tensors: ``{name: array}`` of a weights file.

    Attributes:
        upper, lower: ResidualCodes.
        condition: Condition.
        tables: rans.Tables for the coder: those of the upper level, then those of the lower one.

    Raises:
        ModelError: a tensor is missing, damaged, or does not fit the config.
    """

    def __init__(self, config: ModelConfig, tensors: Mapping[str, np.ndarray]) -> None:
        self.config = config
        codes, dim = config.codes, config.code_dim
        self.upper = ResidualCodes(tensors, "entropy.upper", (UPPER_STAGES, config.N // dim), codes, dim)
        if (self.upper.codebooks != np.floor(self.upper.codebooks)).any():
            raise ModelError("entropy.upper.codebooks is not made of whole numbers")
        self.lower = ResidualCodes(tensors, "entropy.vq", (config.stages, config.M // dim), codes, dim, classes=CLASSES)
        self.condition = Condition(config, tensors)
        self.tables = Tables.join(self.upper.tables, self.lower.tables)

    dependent = False  # as ScalarLatents has it

    def encode(
        self, z: np.ndarray, y: np.ndarray, quality: int, lattice: bool = False, dependent: bool = False
    ) -> Encoded:
        """Indices of one picture or tile, and what the decoder will make of them.

        Args:
            z: float32 (N, h/4, w/4), gained. y: float32 (M, h, w), h and w multiples of 4.
            quality: int, hundredths.
            lattice: False; there is no plain transform.

        Returns:
            Encoded.
        """
        assert not (lattice or dependent), "latents made of codes have neither a lattice nor a trellis"
        queue = Queue()
        z_hat = _limited(self.upper.encode(queue, z, quality, UPPER_WORTH))
        mean, classes = self.condition(z_hat, quality)
        worth = squared_error_per_bit(self.config.lmbda(quality / QUALITY_UNIT))
        y_hat = mean + self.lower.encode(queue, y - mean, quality, worth, classes, len(self.upper.tables))
        return Encoded(z_hat, y_hat, queue.rows, queue.symbols, queue.crc)

    def decode(
        self,
        coder: Pulls,
        height: int,
        width: int,
        quality: int,
        lattice: bool = False,
        crc: int | None = None,
        dependent: bool = False,
    ) -> np.ndarray:
        """Inverse of :meth:`encode`; arguments, result and errors as of VectorLatents.decode."""
        refuse_others(lattice, dependent)
        source = Source(coder)
        z_hat = _limited(self.upper.decode(source, height // 4, width // 4, quality))
        mean, classes = self.condition(z_hat, quality)
        y_hat = mean + self.lower.decode(source, height, width, quality, classes, len(self.upper.tables))
        source.finish(crc)
        return y_hat

    def estimate(self, z: np.ndarray, y: np.ndarray, quality: int, lattice: bool = False) -> float:
        """Bits of :meth:`encode`'s indices by the tables, without the coder's few bytes for its states: float."""
        return self.encode(z, y, quality, lattice).bits(self.tables)


def _limited(z_hat):
    """What h_s reads of the codewords: no larger than its sums are exact for."""
    return np.clip(z_hat, -Z_LIMIT, Z_LIMIT)
