"""What a model is like: the "architecture" of its config.json."""

import math
from dataclasses import dataclass, fields

import numpy as np

from .dct import COARSE, FINE
from .errors import ModelError

# Generous: what is beyond is a damaged file, and would ask for memory or time before that is noticed.
_BOUNDS = (
    ("N", 1, 1024), ("analysis_depth", 0, 64), ("synthesis_width8", 1, 1024), ("synthesis_depth16", 0, 64),
    ("synthesis_depth8", 0, 64), ("hyper_width", 1, 1024), ("entropy_width", 1, 1024), ("context_width", 1, 1024),
    ("anchors", 2, 256), ("lmbda_max", 0.0, 1e6), ("code_dim", 1, 1024), ("stages", 1, 64),
)  # fmt: skip


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of a model; stored beside its weights.

    Attributes:
        M, N: channels of the latents y and of the side information z.
        analysis_width, analysis_depth: of g_a, at 1/16 of the resolution; from M to 768 wide, number of blocks.
        synthesis_width16, synthesis_depth16: of g_s at 1/16; from M to 768 wide.
        synthesis_width8, synthesis_depth8: of g_s at 1/8; 192 wide or more.
        hyper_width: width of h_a.
        entropy_width, context_width: widths of the integer networks: h_s and context features, context trunks.
        entropy_bits: of the weights of the integer networks: 8, or fewer at a cost in rate (docs/quantisation.md).
        activation_bits: of their activations, besides the sign.
        anchors: qualities with gains of their own, spread evenly over 0 to 100.
        lmbda_min, lmbda_max: rate-distortion trade-off at quality 0 and 100; logarithmic in between.
        latents: "scalar" (rounded, with a hyperprior and context) or "vq" (residual vector quantisation, see
            vector_entropy.py; N and the widths of the entropy networks do not matter then).
        code_dim, codes, stages: of vector-quantised latents: channels of a codeword, codewords of a codebook,
            stages of refinement at most.
    """

    M: int = 384
    N: int = 128
    analysis_width: int = 512
    analysis_depth: int = 5
    synthesis_width16: int = 512
    synthesis_depth16: int = 3
    synthesis_width8: int = 192
    synthesis_depth8: int = 3
    hyper_width: int = 160
    entropy_width: int = 192
    context_width: int = 256
    entropy_bits: int = 8
    activation_bits: int = 14
    anchors: int = 9
    lmbda_min: float = 0.0004
    lmbda_max: float = 2.0
    latents: str = "scalar"
    code_dim: int = 4
    codes: int = 64
    stages: int = 6

    def __post_init__(self):
        """ModelError for architectures that cannot be built, or that nobody would."""
        for field in fields(self):
            value = getattr(self, field.name)
            kinds = (int, float) if field.type is float else field.type
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise ModelError(f"{field.name} is {value!r}; it must be of type {field.type.__name__}")
        for name, least, most in _BOUNDS:
            if not least <= getattr(self, name) <= most:
                raise ModelError(f"{name} is {getattr(self, name)}; it must be from {least} to {most}")
        for name in ("analysis_width", "synthesis_width16"):
            width = getattr(self, name)
            if not self.M <= width <= COARSE or width % 2:
                raise ModelError(f"{name} is {width}; it must be even, at least M = {self.M} and at most {COARSE}")
        if self.M % 4 or self.M <= 0:
            raise ModelError(f"M is {self.M}; it must be a positive multiple of 4")
        if self.synthesis_width8 < FINE or self.synthesis_width8 % 2:
            raise ModelError(f"synthesis_width8 is {self.synthesis_width8}; it must be even, and the DCT needs {FINE}")
        if self.anchors < 2 or not 0 < self.lmbda_min < self.lmbda_max:
            raise ModelError("needs two anchor qualities or more, and 0 < lmbda_min < lmbda_max")
        if not 1 <= self.entropy_bits <= 8:
            raise ModelError(f"entropy_bits is {self.entropy_bits}; weights have 1 to 8 bits")
        if not 8 <= self.activation_bits <= 15:
            raise ModelError(f"activation_bits is {self.activation_bits}; activations have 8 to 15 bits")
        if self.latents not in ("scalar", "vq"):
            raise ModelError(f"latents is {self.latents!r}; there are scalar and vq")
        if self.latents == "vq" and (self.code_dim < 1 or self.M % self.code_dim):
            raise ModelError(f"code_dim is {self.code_dim}; it must divide M = {self.M}")
        if self.latents == "vq" and not (2 <= self.codes <= 4096 and self.stages >= 1):
            raise ModelError("vector-quantised latents need 2 to 4096 codes and a stage or more")

    @classmethod
    def from_dict(cls, values):
        """The ModelConfig, or FirstConfig, of a config.json's "architecture"; ModelError for what cannot be one."""
        if not isinstance(values, dict):
            raise ModelError("the architecture in the model's config.json is no object")
        kind = cls
        if "C8" in values:
            from .first import FirstConfig as kind  # needs torch
        known = {field.name for field in fields(kind)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ModelError(f"unknown fields in the model's config.json: {', '.join(unknown)}")
        return kind(**values)

    def lmbda(self, quality):
        """Trade-off at a quality in [0, 100] (float or tensor)."""
        return self.lmbda_min * (self.lmbda_max / self.lmbda_min) ** (quality / 100)

    def quality(self, lmbda):
        """Inverse of :meth:`lmbda`, for a float."""
        return 100 * math.log(lmbda / self.lmbda_min) / math.log(self.lmbda_max / self.lmbda_min)

    def quantisation_step(self):
        """Step of uniform quantisation of an orthonormal transform of [0, 1] at each anchor quality: float32 (anchors,).

        Step s costs s^2 / 12 of distortion per coefficient; balancing its slope against 3 colours at 1 / (2 ln 2) bit
        per coefficient and pixel gives the step at which rate and lmbda agree.
        """
        quality = np.linspace(0, 100, self.anchors)
        return (np.sqrt(12 * 3 / (2 * math.log(2)) / self.lmbda(quality)) / 255).astype(np.float32)

    def entropy_plan(self, step):
        """What the entropy networks are like; ``step`` is the real value of one unit of an activation."""
        from .entropy import EntropyPlan  # needs torch

        return EntropyPlan("leaky", z_step=1.0, depthwise_step=step / 4, companded=True)
