"""The model: one picture's tensors -> strings -> tensors, and the weights file.

    x -> g_a -> y -> times gain(quality) -> round -> y_string          (entropy.EntropyCoder)
                 \\-> h_a -> z -> times gain(quality) -> round -> z_string
    y_hat -> divided by gain(quality) -> g_s -> x_hat

:class:`CodecModel` compresses; :class:`codec.training.model.TrainableModel` learns, and folds its networks into these.
"""

import json
from dataclasses import asdict
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from .config import FirstConfig, ModelConfig
from .entropy import EntropyCoder
from .errors import Corrupt, ModelError
from .first import FirstTransforms
from .integer import QUALITY_UNIT
from .nn.dct import coarse_deviation, coarse_to_pixels, haar_matrix, quantisation_step
from .transforms import Analysis, HyperAnalysis, QualityTable, Synthesis, interpolate, nchw, nhwc
from .vector_entropy import VectorCoder

LOW = 64  # coefficients of the lowest frequencies, whose energy says little about what a picture is
FLAT, STRANGE = 0.02, 4.0  # a picture whose strangeness is not between these is hardly a photograph
TILE = 96  # side of the tiles that large pictures are transformed in, in latent positions (16 pixels)


class Transforms(nn.Module):
    """g_a, g_s, h_a and the gains: the float part of a model that compresses."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.g_a = Analysis(config)
        self.g_s = Synthesis(config)
        if config.latents == "vq":
            return  # codewords have sizes of their own, and their prior needs no side information
        self.h_a = HyperAnalysis(config)
        # One table for both ways: two of them drift apart in channels that a quality hardly uses.
        self.log_gain = QualityTable(torch.zeros(config.anchors, config.M))
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
            y_hat = y_hat / self.log_gain(quality).exp()[:, :, None, None]
        return self.g_s(y_hat, quality)


class PlainTransforms(nn.Module):
    """The transform codec that training starts from, as it is: M coefficients of a 16x16 transform, one step for all.

    What photographs do not hold (text, line art, dither, checkerboards) the learned transforms reproduce badly, at
    whatever rate. This one treats all pictures alike.
    """

    reach = 0

    def __init__(self, config):
        super().__init__()
        self.register_buffer("matrix", coarse_to_pixels(haar_matrix(config.M)), persistent=False)
        self.register_buffer("deviation", coarse_deviation(config.M), persistent=False)
        self.register_buffer("log_step", quantisation_step(config).log(), persistent=False)

    def coefficients(self, x):
        """x (B, 3, H, W) in [0, 1] -> (B, M, H/16, W/16), orthonormal."""
        return nchw(F.linear(nhwc(F.pixel_unshuffle(x - 0.5, 16)), self.matrix))

    def analyse(self, x, quality):
        """x (1, 3, H, W) -> y (1, M, H/16, W/16), in symbols."""
        return self.coefficients(x) / interpolate(self.log_step, quality).exp()

    def synthesise(self, y_hat, quality):
        """y_hat (1, M, h, w) in symbols -> x_hat (1, 3, 16 h, 16 w), not clamped."""
        t = F.linear(nhwc(y_hat * interpolate(self.log_step, quality).exp()), self.matrix.T)
        return F.pixel_shuffle(nchw(t), 16) + 0.5

    def strangeness(self, x):
        """Energy of x beyond the lowest frequencies, relative to that of photographs, which have 0.3 to 2."""
        return (self.coefficients(x)[:, LOW:] / self.deviation[LOW:, None, None]).square().mean().item()


class Coded(NamedTuple):
    """What :meth:`CodecModel.encode` makes of a picture.

    Attributes:
        z_string, y_string: byte strings; their length times 8 is the rate in bits, header excluded.
        crc: CRC-32 of all symbols.
        y_hat: (1, M, H/16, W/16), what the decoder will see.
        plain: whether y_hat is of :class:`PlainTransforms`.
    """

    z_string: bytes
    y_string: bytes
    crc: int
    y_hat: torch.Tensor
    plain: bool


class CodecModel(nn.Module):
    """Trained model for compression and decompression, one image at a time.

    Batches would not be exact: a float matrix product may sum in another order when its shape changes, and a latent
    that falls on the other side of a rounding threshold changes the file.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.transforms = (FirstTransforms if isinstance(config, FirstConfig) else Transforms)(config)
        self.entropy = VectorCoder(config) if config.latents == "vq" else EntropyCoder(config)
        scalar = isinstance(config, ModelConfig) and config.latents == "scalar"
        self.plain = PlainTransforms(config) if scalar else None

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
    def encode(self, x, quality, plain=None):
        """One image as byte strings.

        Args:
            x: float32 (1, 3, H, W) in [0, 1]; H and W are multiples of STRIDE.
            quality: int, hundredths in [0, 10000].
            plain: whether to use the plain transform; None: for a picture that is hardly a photograph, where it costs
                less in rate and distortion, and for flat ones, which take few bits either way, where it is nearer.

        Returns:
            Coded.
        """
        if plain is not None:
            return self._encode(x, quality, plain)
        learned = self._encode(x, quality, False)
        strangeness = self.plain.strangeness(x) if self.plain else 1.0
        if FLAT <= strangeness < STRANGE:
            return learned
        worth = 0.0 if strangeness < FLAT else 1.0
        return min(learned, self._encode(x, quality, True), key=lambda coded: self._cost(x, quality, coded, worth))

    def _encode(self, x, quality, plain):
        q = torch.tensor([quality / QUALITY_UNIT], device=x.device)
        transforms = self.plain if plain else self.transforms
        y = _tiled(lambda t: transforms.analyse(t, q), x, 16, 1, 0 if plain else self.transforms.g_a.reach)
        z = self.transforms.side_information(y, q)
        z_string, y_string, y_hat, crc = self.entropy.encode(z, y, quality, **{"lattice": True} if plain else {})
        return Coded(z_string, y_string, crc, y_hat, plain)

    def _cost(self, x, quality, coded, worth):
        """Bits, times ``worth``, + lmbda * squared error, of all pixels."""
        error = (self.reconstruct(coded.y_hat, quality, coded.plain).clamp(0, 1) - x).square().sum().item() / 3
        bits = 8 * (len(coded.z_string) + len(coded.y_string))
        return worth * bits + self.config.lmbda(quality / QUALITY_UNIT) * 255**2 * error

    @torch.inference_mode()
    def decode(self, z_string, y_string, crc, height, width, quality, plain=False):
        """Inverse of :meth:`encode` up to quantisation: x_hat (1, 3, height, width), not clamped.

        Raises:
            Corrupt: the strings do not decode to the symbols that the encoder wrote, or this model has no plain
                transform.
        """
        if plain and self.plain is None:
            raise Corrupt("corrupt: a plain transform, where this model has none")
        size = (height // 16, width // 16)
        options = {"lattice": True} if plain else {}
        y_hat = self.entropy.decode(z_string, y_string, *size, quality, crc, self.device, **options)
        return self.reconstruct(y_hat, quality, plain)

    @torch.inference_mode()
    def reconstruct(self, y_hat, quality, plain=False):
        """y_hat (1, M, h, w) in symbols -> x_hat (1, 3, 16 h, 16 w), not clamped."""
        q = torch.tensor([quality / QUALITY_UNIT], device=y_hat.device)
        transforms = self.plain if plain else self.transforms
        return _tiled(lambda t: transforms.synthesise(t, q), y_hat, 1, 16, 0 if plain else self.transforms.g_s.reach)


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
    return ModelConfig.from_dict(values["architecture"]), tensors


def config_dict(config, **more):
    """Contents of config.json."""
    return {"architecture": asdict(config), **more}
