"""What a model is like: the architecture that stands in its config.json. Standard library alone.

:class:`ModelConfig` says everything that decides the shapes of the weights; it is stored beside them, and checked
before anything is built or allocated.
"""

import math
from dataclasses import dataclass, fields
from typing import Any

from . import quality as scale
from .errors import ModelError

PATCH = 8  # pixels per position of the fine level
FINE = 3 * PATCH**2  # channels of the DCT, at 1/8 of the resolution
COARSE = 4 * FINE  # channels of the whole 16x16 transform, at 1/16
STEP = 2 * PATCH  # pixels per latent position
STRIDE = 4 * STEP  # pixels per position of z; pictures are padded to a multiple of it


# The largest numbers of a config.json that we agree to build: beyond them a damaged or hostile file asks for memory.
BOUNDS = {"N": 1024, "anchors": 101, "stages": 32, "code_dim": COARSE}
WIDTH_MAX, DEPTH_MAX = 4096, 64

LATENTS = ("scalar", "vq", "hvq", "dvae")
_INTEGER_NETWORKS = {"entropy_width", "entropy_bits", "activation_bits"}
_SIDE_INFORMATION = {"N", "hyper_width"}
_CODES = {"code_dim", "codes", "stages"}


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
        entropy_bits: of the weights of the integer networks: 8, or fewer at a cost in rate
            (docs/experiments/quantisation.md).
        activation_bits: of their activations, besides the sign.
        anchors: qualities with gains of their own, spread evenly over 0 to 100.
        lmbda_min, lmbda_max: rate-distortion trade-off at quality 0 and 100; logarithmic in between.
        latents: "scalar" (rounded, with a hyperprior and context), "vq" (residual vector quantisation), "dvae" (the
            same codes, drawn from a distribution in training) or "hvq" (two levels: codes at 1/64 as well, which those
            at 1/16 are conditioned on). See :attr:`unused` for what does not matter with each.
        code_dim, codes, stages: of latents made of codes: channels of a codeword, codewords of a codebook, stages of
            refinement at most.
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

    def __post_init__(self) -> None:
        """ModelError for architectures that cannot be built, or that are larger than any that we would train."""
        _check_fields(self)
        for name in ("analysis_width", "synthesis_width16"):
            width = getattr(self, name)
            if not self.M <= width <= COARSE or width % 2:
                raise ModelError(f"{name} is {width}; it must be even, at least M = {self.M} and at most {COARSE}")
        if self.M % 4:
            raise ModelError(f"M is {self.M}; it must be a positive multiple of 4")
        if self.synthesis_width8 < FINE or self.synthesis_width8 % 2:
            raise ModelError(f"synthesis_width8 is {self.synthesis_width8}; it must be even, and the DCT needs {FINE}")
        if self.anchors < 2 or not 0 < self.lmbda_min < self.lmbda_max:
            raise ModelError("needs two anchor qualities or more, and 0 < lmbda_min < lmbda_max")
        if self.entropy_bits > 8:
            raise ModelError(f"entropy_bits is {self.entropy_bits}; weights have 1 to 8 bits")
        if not 8 <= self.activation_bits <= 15:
            raise ModelError(f"activation_bits is {self.activation_bits}; activations have 8 to 15 bits")
        if self.latents not in LATENTS:
            raise ModelError(f"latents is {self.latents!r}; there are {', '.join(LATENTS)}")
        if not self.scalar:
            for name in ("M", "N") if self.side_information else ("M",):
                if getattr(self, name) % self.code_dim:
                    raise ModelError(f"code_dim is {self.code_dim}; it must divide {name} = {getattr(self, name)}")
            if not 2 <= self.codes <= 4096:
                raise ModelError(f"codes is {self.codes}; latents made of codes need 2 to 4096 of them")

    @property
    def scalar(self) -> bool:
        """Whether latents are rounded numbers, in symbols, rather than codes."""
        return self.latents == "scalar"

    @property
    def side_information(self) -> bool:
        """Whether there are z and an h_s that reads it."""
        return self.latents in ("scalar", "hvq")

    @property
    def unused(self) -> set[str]:
        """Names of the fields that this kind of latents does not look at: a set."""
        return {
            "scalar": _CODES,
            "vq": _SIDE_INFORMATION | _INTEGER_NETWORKS | {"context_width"},
            "dvae": _SIDE_INFORMATION | _INTEGER_NETWORKS | {"context_width"},
            "hvq": {"context_width"},
        }[self.latents]

    @classmethod
    def from_dict(cls, values: object) -> "ModelConfig":
        """The ModelConfig of a config.json's "architecture"; ModelError for what is none."""
        if not isinstance(values, dict):
            raise ModelError(f"the model's config.json describes its architecture by {type(values).__name__}")
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ModelError(f"unknown fields in the model's config.json: {', '.join(unknown)}")
        return cls(**values)

    def lmbda(self, quality: scale.Number) -> scale.Number:
        """Trade-off at a quality in [0, 100] (float or tensor)."""
        return scale.lmbda(quality, self.lmbda_min, self.lmbda_max)

    def quality(self, lmbda: float) -> float:
        """Inverse of :meth:`lmbda`, for a float."""
        return scale.quality_of(lmbda, self.lmbda_min, self.lmbda_max)

    def quantisation_step(self) -> list[float]:
        """Step of uniform quantisation of an orthonormal transform of [0, 1] at each anchor quality: list of floats.

        Step s costs s^2 / 12 of distortion per coefficient; balancing its slope against 3 colours at 1 / (2 ln 2) bit
        per coefficient and pixel gives the step at which rate and lmbda agree.
        """
        qualities = (100 * anchor / (self.anchors - 1) for anchor in range(self.anchors))
        return [math.sqrt(12 * 3 / (2 * math.log(2)) / self.lmbda(quality)) / 255 for quality in qualities]


def padded_size(height: int, width: int) -> tuple[int, int]:
    """The next multiples of STRIDE, in pixels."""
    return -(-height // STRIDE) * STRIDE, -(-width // STRIDE) * STRIDE


def _check_fields(config: ModelConfig) -> None:
    """ModelError where a field of a config has another type than its default, or is out of all bounds."""
    for field in fields(config):
        value: Any = getattr(config, field.name)
        kind = field.type  # the class itself, as annotations are evaluated in this module
        assert isinstance(kind, type)
        wanted: Any = (int, float) if kind is float else kind
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise ModelError(f"{field.name} is {value!r}, not {kind.__name__}")
        if kind is int:
            most = BOUNDS.get(field.name, DEPTH_MAX if "depth" in field.name else WIDTH_MAX)
            least = 0 if "depth" in field.name else 1
            if not least <= value <= most:
                raise ModelError(f"{field.name} is {value}; it must be {least} to {most}")
        elif kind is not str and not math.isfinite(value):
            raise ModelError(f"{field.name} is {value}; it must be finite")
