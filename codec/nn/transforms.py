"""Analysis and synthesis transforms: g_a, g_s (picture <-> y) and h_a (y -> z), as they compress.

Nearly all arithmetic happens at 1/16 of the picture's resolution:

    x (B, 3, H, W)
      | 16x16 pixels, one matrix        started as a DCT and a Haar step, most energetic coefficients first
      | residual blocks                 (B, H/16, W/16, C)
      | one matrix                      started as the identity
    y (B, M, H/16, W/16)

    y_hat (B, M, h, w)
      | one matrix                      started as the identity
      | residual blocks                 (B, h, w, C16)
      | one matrix, pixel-shuffle 2     started as the transpose of the Haar step
      | residual blocks                 (B, 2h, 2w, C8)
      | 3x3, pixel-shuffle 8            started as the transpose of the DCT; looks at its neighbours, so no seams
    x_hat (B, 3, 16h, 16w)

These are plain layers. :mod:`codec.training.transforms` has the same networks in the parametrisation that learns, and
folds it into this one. Residual streams are (B, H, W, C): what most layers do is a matrix product over C.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from ..config import PATCH
from ..graphs import SLOPE

if TYPE_CHECKING:
    from ..config import ModelConfig


def nhwc(t: torch.Tensor) -> torch.Tensor:
    return t.permute(0, 2, 3, 1)


def nchw(t: torch.Tensor) -> torch.Tensor:
    return t.permute(0, 3, 1, 2)


def unshuffle(t: torch.Tensor, factor: int) -> torch.Tensor:
    """(B, H, W, C) -> (B, H/f, W/f, C f^2), in pixel_unshuffle's order of channels."""
    return nhwc(F.pixel_unshuffle(nchw(t), factor))


def shuffle(t: torch.Tensor, factor: int) -> torch.Tensor:
    """Inverse of :func:`unshuffle`."""
    return nhwc(F.pixel_shuffle(nchw(t), factor))


def conv3_replicated(t: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """3x3 convolution of (B, H, W, C). The border is replicated, so that a flat picture stays flat."""
    if torch.compiler.is_compiling():
        # TorchInductor assumes another layout of the padding's gradient than channels-last inputs give it.
        t = torch.cat([t[:, :1], t, t[:, -1:]], 1)
        t = torch.cat([t[:, :, :1], t, t[:, :, -1:]], 2)
        return nhwc(F.conv2d(nchw(t), weight, bias))
    return nhwc(F.conv2d(F.pad(nchw(t), (1, 1, 1, 1), mode="replicate"), weight, bias))


def compand(t: torch.Tensor) -> torch.Tensor:
    """sign(t) log(1 + |t|): magnitudes say where detail is, and log keeps a flat sky and gravel within one range."""
    return torch.sign(t) * torch.log1p(t.abs())


class QualityTable(nn.Module):
    """A learned vector for each of several anchor qualities, interpolated linearly between them.

    Args:
        initial: float (anchors, ...), the first values; anchors are spread evenly over qualities 0 to 100.
    """

    def __init__(self, initial: torch.Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(initial.clone())

    def forward(self, quality: torch.Tensor) -> torch.Tensor:
        """(B,) qualities in [0, 100] -> (B, ...) vectors."""
        return interpolate(self.table, quality)


def interpolate(table: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
    """Table (anchors, ...) at qualities (B,) in [0, 100] -> (B, ...)."""
    last = table.shape[0] - 1
    position = (quality / 100 * last).clamp(0, last)
    left = position.floor().clamp(max=last - 1).long()
    weight = (position - left).view(-1, *(1,) * (table.dim() - 1))
    return torch.lerp(table[left], table[left + 1], weight)


class Conv3(nn.Module):
    """3x3 convolution (B, H, W, C_in) -> (B, H, W, C_out) with replicated border."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels_out, channels_in, 3, 3))
        self.bias = nn.Parameter(torch.zeros(channels_out))

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        return conv3_replicated(t, self.weight, self.bias)


class Depthwise(nn.Conv2d):
    """Depthwise 3x3 convolution of (B, H, W, C) with zero padding."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1, groups=channels)

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        return nhwc(super().forward(nchw(t)))


class Block(nn.Module):
    """t + s(quality) W_2 f(conv3x3 f(W_1 t)) through C/2 channels; 3.25 C^2 multiply-adds per position."""

    reach = 1  # positions that one block looks to each side

    def __init__(self, channels: int, anchors: int) -> None:
        super().__init__()
        hidden = channels // 2
        self.mix_in = nn.Linear(channels, hidden)
        self.conv = Conv3(hidden, hidden)
        self.mix_out = nn.Linear(hidden, channels)
        self.scale = QualityTable(torch.zeros(anchors, channels))
        self.activations = nn.ModuleList(nn.LeakyReLU(SLOPE, inplace=True) for _ in range(2))

    def forward(self, t: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
        u = self.activations[0](self.mix_in(t))
        u = self.activations[1](self.conv(u))
        return torch.addcmul(t, self.scale(quality)[:, None, None], self.mix_out(u))


class Analysis(nn.Module):
    """g_a: x (B, 3, H, W) in [0, 1] -> y (B, M, H/16, W/16); H and W multiples of 16."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.analysis_width
        self.enter = nn.Linear(3 * 16**2, width)
        self.blocks = nn.ModuleList(Block(width, config.anchors) for _ in range(config.analysis_depth))
        self.out = nn.Linear(width, config.M)

    @property
    def reach(self) -> int:
        """Latent positions (1/16) to each side that can influence a latent."""
        return len(self.blocks) * Block.reach

    def forward(self, x: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
        t = self.enter(nhwc(F.pixel_unshuffle(x - 0.5, 16)))  # (B, H/16, W/16, C)
        for block in self.blocks:
            t = block(t, quality)
        return nchw(self.out(t))  # (B, M, H/16, W/16)


class Synthesis(nn.Module):
    """g_s: y_hat (B, M, h, w) -> x_hat (B, 3, 16 h, 16 w), not clamped."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.enter = nn.Linear(config.M, config.synthesis_width16)
        self.blocks16 = nn.ModuleList(
            Block(config.synthesis_width16, config.anchors) for _ in range(config.synthesis_depth16)
        )
        self.up = nn.Linear(config.synthesis_width16, 4 * config.synthesis_width8)
        self.blocks8 = nn.ModuleList(
            Block(config.synthesis_width8, config.anchors) for _ in range(config.synthesis_depth8)
        )
        self.patch = Conv3(config.synthesis_width8, 3 * PATCH**2)

    @property
    def reach(self) -> int:
        """Latent positions (1/16) to each side that can influence a pixel: layers at 1/8 count half."""
        return len(self.blocks16) * Block.reach + -(-(len(self.blocks8) * Block.reach + 1) // 2)

    def forward(self, y_hat: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
        t = self.enter(nhwc(y_hat))  # (B, h, w, C16)
        for block in self.blocks16:
            t = block(t, quality)
        t = shuffle(self.up(t), 2)  # (B, 2h, 2w, C8)
        for block in self.blocks8:
            t = block(t, quality)
        return F.pixel_shuffle(nchw(self.patch(t)), PATCH) + 0.5  # (B, 3, 16h, 16w)


class HyperAnalysis(nn.Module):
    """h_a: gained latents (B, M, h, w) -> z (B, N, h/4, w/4). Runs in the encoder alone, so floats will do."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.hyper_width
        self.enter = nn.Linear(config.M, width)
        self.depthwise1 = Depthwise(width)
        self.down1 = nn.Linear(4 * width, width)
        self.depthwise2 = Depthwise(width)
        self.down2 = nn.Linear(4 * width, width)
        self.out = nn.Linear(width, config.N)
        self.activations = nn.ModuleList(nn.LeakyReLU(SLOPE, inplace=True) for _ in range(3))

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        t = self.activations[0](self.enter(compand(nhwc(y))))
        t = self.activations[1](self.down1(unshuffle(self.depthwise1(t), 2)))
        t = self.activations[2](self.down2(unshuffle(self.depthwise2(t), 2)))
        return nchw(self.out(t))  # (B, N, h/4, w/4)


class Gained(nn.Module):
    """What transforms make of their parts ``g_a``, ``g_s``, ``h_a`` and of their gains, however those are stored."""

    config: ModelConfig
    g_a: nn.Module
    g_s: nn.Module
    h_a: nn.Module
    log_gain: nn.Module
    z_log_gain: nn.Module

    def analyse(self, x: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
        """x (B, 3, H, W) in [0, 1], quality (B,) -> y (B, M, H/16, W/16); in symbols, where latents are scalar."""
        y = self.g_a(x, quality)
        return y * self.log_gain(quality).exp()[:, :, None, None] if self.config.scalar else y

    def side_information(self, y: torch.Tensor, quality: torch.Tensor) -> torch.Tensor | None:
        """y, as :meth:`analyse` scales it -> gained z (B, N, h/4, w/4), in symbols; None where there is none."""
        if not self.config.side_information:
            return None
        if not self.config.scalar:  # h_a reads symbols
            y = y * self.log_gain(quality).exp()[:, :, None, None]
        return self.h_a(y) * self.z_log_gain(quality).exp()[:, :, None, None]

    def synthesise(self, y_hat: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
        """y_hat, as :meth:`analyse` scales it -> x_hat (B, 3, H, W), not clamped."""
        if self.config.scalar:
            y_hat = y_hat / self.log_gain(quality).exp()[:, :, None, None]
        return self.g_s(y_hat, quality)


class Transforms(Gained):
    """g_a, g_s, h_a and the gains: the float part of a model that compresses."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.g_a = Analysis(config)
        self.g_s = Synthesis(config)
        if not config.side_information:
            return  # codewords have sizes of their own, and their prior needs no side information
        self.h_a = HyperAnalysis(config)
        # One table for both ways: two of them drift apart in channels that a quality hardly uses.
        self.log_gain = QualityTable(torch.zeros(config.anchors, config.M))
        self.z_log_gain = QualityTable(torch.zeros(config.anchors, config.N))
