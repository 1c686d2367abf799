"""The model: one picture's tensors -> strings -> tensors, and the weights file.

    x -> g_a -> y -> gain(quality) -> round -> y_string          (entropy.EntropyCoder)
                 \\-> h_a -> z -> gain(quality) -> round -> z_string
    y_hat -> inverse gain(quality) -> g_s -> x_hat

:class:`CodecModel` compresses; :class:`codec.training.model.TrainableModel` has the same transforms and learns.
"""

import json
import math
from dataclasses import asdict, dataclass, fields

import torch
from torch import nn

from .entropy import EntropyCoder
from .errors import ModelError
from .integer import QUALITY_UNIT
from .transforms import BLOCKS, PATCH, Analysis, HyperAnalysis, QualityTable, Synthesis
from .vector_entropy import VectorCoder

TILE = 96  # side of the tiles that large pictures are transformed in, in latent positions (16 pixels)


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of a model; stored beside its weights.

    Attributes:
        M, N: channels of the latents y and of the side information z.
        C8, C16: widths of the transforms at 1/8 and 1/16 of the resolution; C16 >= M, C8 >= 192.
        block: residual block, a name in transforms.BLOCKS.
        analysis_depth8, analysis_depth16, synthesis_depth8, synthesis_depth16: numbers of blocks.
        hyper_width: width of h_a.
        entropy_width, context_width: widths of the integer networks: h_s and context features, context trunks.
        entropy_bits: of the weights of the integer networks: 8, or fewer at a cost in rate (docs/quantisation.md).
        activation_bits: of their activations, besides the sign; weights files that do not say have 10.
        anchors: qualities with gains of their own, spread evenly over 0 to 100.
        lmbda_min, lmbda_max: rate-distortion trade-off at quality 0 and 100; logarithmic in between.
        latents: "scalar" (rounded, with a hyperprior and context) or "vq" (residual vector quantisation, see
            vector_entropy.py; N and the widths of the entropy networks do not matter then).
        code_dim, codes, stages: of vector-quantised latents: channels of a codeword, codewords of a codebook,
            stages of refinement at most.
    """

    M: int = 320
    N: int = 128
    C8: int = 256
    C16: int = 320
    block: str = "bottleneck"
    analysis_depth8: int = 12
    analysis_depth16: int = 3
    synthesis_depth8: int = 12
    synthesis_depth16: int = 3
    hyper_width: int = 160
    entropy_width: int = 192
    context_width: int = 256
    entropy_bits: int = 8
    activation_bits: int = 14
    anchors: int = 9
    lmbda_min: float = 0.0004
    lmbda_max: float = 0.5
    latents: str = "scalar"
    code_dim: int = 4
    codes: int = 64
    stages: int = 6

    def __post_init__(self):
        """ModelError for architectures that cannot be built."""
        if self.block not in BLOCKS:
            raise ModelError(f"block is {self.block!r}; there are {', '.join(BLOCKS)}")
        if self.M % 4 or not 0 < self.M <= min(self.C16, 12 * PATCH**2):
            raise ModelError(f"M is {self.M}; it must be a multiple of 4, at most C16 = {self.C16} and at most 768")
        if self.C8 < 3 * PATCH**2:
            raise ModelError(f"C8 is {self.C8}; the DCT needs {3 * PATCH**2}")
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
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ModelError(f"unknown fields in the model's config.json: {', '.join(unknown)}")
        return cls(**values)

    def lmbda(self, quality):
        """Trade-off at a quality in [0, 100] (float or tensor)."""
        return self.lmbda_min * (self.lmbda_max / self.lmbda_min) ** (quality / 100)


class Transforms(nn.Module):
    """g_a, g_s, h_a and the gains: the float part, shared by training and coding."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.g_a = Analysis(config)
        self.g_s = Synthesis(config)
        if config.latents == "vq":
            return  # codewords have sizes of their own, and their prior needs no side information
        self.h_a = HyperAnalysis(config)
        # Uniform quantisation with step s costs s^2 / 12 of distortion per coefficient; balancing its slope against
        # 3 colours at 1 / (2 ln 2) bit per coefficient and pixel gives the step at which rate and lmbda agree.
        qualities = torch.linspace(0, 100, config.anchors, dtype=torch.float64)
        step = (12 * 3 / (2 * math.log(2)) / config.lmbda(qualities)).sqrt() / 255
        log_gain = -step.log().float()[:, None].expand(-1, config.M)
        self.log_gain = QualityTable(log_gain)
        self.log_inverse_gain = QualityTable(-log_gain)
        self.z_log_gain = QualityTable(torch.zeros(config.anchors, config.N))

    def analyse(self, x, quality):
        """x (B, 3, H, W) in [0, 1], quality (B,) -> y (B, M, H/16, W/16); in symbols, where latents are scalar."""
        y = self.g_a(x, quality)
        return y if self.config.latents == "vq" else y * self.log_gain(quality).exp()[:, :, None, None]

    def side_information(self, y, quality):
        """Gained y -> gained z (B, N, h/4, w/4), in symbols; None where there is none."""
        if self.config.latents == "vq":
            return None
        return self.h_a(y) * self.z_log_gain(quality).exp()[:, :, None, None]

    def synthesise(self, y_hat, quality):
        """y_hat, as :meth:`analyse` scales it -> x_hat (B, 3, H, W), not clamped."""
        if self.config.latents == "scalar":
            y_hat = y_hat * self.log_inverse_gain(quality).exp()[:, :, None, None]
        return self.g_s(y_hat, quality)


class CodecModel(nn.Module):
    """Trained model for compression and decompression, one image at a time.

    Batches would not be exact: a float matrix product may sum in another order when its shape changes, and a latent
    that falls on the other side of a rounding threshold changes the file.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.transforms = Transforms(config)
        self.entropy = VectorCoder(config) if config.latents == "vq" else EntropyCoder(config)

    @classmethod
    def from_folder(cls, folder):
        """Model from ``config.json`` and ``weights.safetensors`` in a folder.

        Raises:
            ModelError: a file is missing, damaged, or does not fit the other.
        """
        config, tensors = read_folder(folder)
        model = cls(config)
        try:
            model.entropy.load(tensors)
            floats = {k: v.float() for k, v in tensors.items() if not k.startswith("entropy.")}
            model.transforms.load_state_dict(floats)
        except (KeyError, RuntimeError, ValueError) as error:
            raise ModelError(f"{folder}: the weights do not fit config.json ({error})") from None
        return model.eval().requires_grad_(False)

    def to(self, device):
        self.device = torch.device(device)
        return super().to(device)

    device = torch.device("cpu")

    @torch.inference_mode()
    def encode(self, x, quality):
        """One image as byte strings.

        Args:
            x: float32 (1, 3, H, W) in [0, 1]; H and W are multiples of STRIDE.
            quality: int, hundredths in [0, 10000].

        Returns:
            ``(z_string, y_string, crc, y_hat)``. The strings' total length times 8 is the rate in bits, header
            excluded; y_hat (1, M, H/16, W/16) is what the decoder will see.
        """
        q = torch.tensor([quality / QUALITY_UNIT], device=x.device)
        halo = self.transforms.g_a.reach
        y = _tiled(lambda t: self.transforms.analyse(t, q), x, 16, 1, halo)
        z = self.transforms.side_information(y, q)
        z_string, y_string, y_hat, crc = self.entropy.encode(z, y, quality)
        return z_string, y_string, crc, y_hat

    @torch.inference_mode()
    def decode(self, z_string, y_string, crc, height, width, quality):
        """Inverse of :meth:`encode` up to quantisation: x_hat (1, 3, height, width), not clamped.

        Raises:
            Corrupt: the strings do not decode to the symbols that the encoder wrote.
        """
        y_hat = self.entropy.decode(z_string, y_string, height // 16, width // 16, quality, crc, self.device)
        return self.reconstruct(y_hat, quality)

    @torch.inference_mode()
    def reconstruct(self, y_hat, quality):
        """y_hat (1, M, h, w) in symbols -> x_hat (1, 3, 16 h, 16 w), not clamped."""
        q = torch.tensor([quality / QUALITY_UNIT], device=y_hat.device)
        return _tiled(lambda t: self.transforms.synthesise(t, q), y_hat, 1, 16, self.transforms.g_s.reach)


def _tiled(function, x, step_in, step_out, halo):
    """``function(x)``, tile by tile when x is large, so that memory stays bounded.

    Args:
        function: (1, C, s_in h, s_in w) -> (1, D, s_out h, s_out w), with finite reach.
        step_in, step_out: samples of input and output per latent position.
        halo: latent positions to each side that an output depends on.
    """
    height, width = x.shape[2] // step_in, x.shape[3] // step_in
    if height * width <= (TILE + 2 * halo) ** 2:
        return function(x.contiguous(memory_format=torch.channels_last))
    out = None
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            bottom, right = min(top + TILE, height), min(left + TILE, width)
            # The halo stops at the picture's border: there the layers' own zero padding is the truth.
            t, l = max(top - halo, 0), max(left - halo, 0)
            b, r = min(bottom + halo, height), min(right + halo, width)
            tile = x[:, :, step_in * t : step_in * b, step_in * l : step_in * r]
            tile = function(tile.contiguous(memory_format=torch.channels_last))
            if out is None:
                out = tile.new_empty(1, tile.shape[1], step_out * height, step_out * width)
            s = step_out
            out[:, :, s * top : s * bottom, s * left : s * right] = tile[
                :, :, s * (top - t) : s * (bottom - t), s * (left - l) : s * (right - l)
            ]
    return out


# --- The weights file ----------------------------------------------------------------------------------------------


def read_folder(folder):
    """``(ModelConfig, tensors)`` of a model folder; ModelError when something is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "weights.safetensors")
    except FileNotFoundError as error:
        raise ModelError(f"{folder}: no {error.filename or 'weights.safetensors'}") from None
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{folder}: {error}") from None
    return ModelConfig.from_dict({"activation_bits": 10, **values["architecture"]}), tensors


def config_dict(config, **more):
    """Contents of config.json."""
    return {"architecture": asdict(config), **more}


