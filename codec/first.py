"""The first architecture, for models 78ba27da and 2fe94663 alone: it reads what they wrote and does not train.

It leaves with version 1 of the file format, which was experimental.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .config import FirstConfig  # noqa: F401
from .transforms import QualityTable

PATCH = 8


class Pointwise(nn.Module):
    """1x1 convolution (B, C_in, H, W) -> (B, C_out, H, W).

    The weight is kept as a matrix (C_out, C_in): that is what it is, and matrix optimisers want it so.
    """

    def __init__(self, channels_in, channels_out):
        super().__init__()
        bound = channels_in**-0.5
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(channels_out))

    def forward(self, x):
        return F.conv2d(x, self.weight[:, :, None, None], self.bias)


class Depthwise(nn.Conv2d):
    """Depthwise 3x3 convolution with zero padding."""

    def __init__(self, channels):
        super().__init__(channels, channels, 3, padding=1, groups=channels)


class BottleneckBlock(nn.Module):
    """x + s * W_2 relu(conv3x3(relu(W_1 x))) through C/2 channels; 3.25 C^2 multiply-adds per position."""

    def __init__(self, channels):
        super().__init__()
        self.mix_in = Pointwise(channels, channels // 2)
        self.conv = nn.Conv2d(channels // 2, channels // 2, 3, padding=1)
        self.mix_out = Pointwise(channels // 2, channels)

    def forward(self, x, scale):
        return x + scale * self.mix_out(F.relu(self.conv(F.relu(self.mix_in(x)))))


class Stack(nn.Module):
    """Residual blocks whose branches are scaled per channel and quality."""

    def __init__(self, channels, depth, anchors):
        super().__init__()
        self.reach = depth
        self.blocks = nn.ModuleList(BottleneckBlock(channels) for _ in range(depth))
        self.scales = QualityTable(torch.zeros(anchors, depth, 1, channels))

    def forward(self, x, quality):
        scales = self.scales(quality)[..., None, None]  # (B, depth, 1, C, 1, 1)
        for i, stage in enumerate(self.blocks):
            x = stage(x, scales[:, i, 0])
        return x


class Analysis(nn.Module):
    """g_a: x (B, 3, H, W) in [0, 1] -> y (B, M, H/16, W/16); H and W multiples of 16."""

    def __init__(self, config):
        super().__init__()
        self.patch = Pointwise(3 * PATCH**2, config.C8)
        self.stack8 = Stack(config.C8, config.analysis_depth8, config.anchors)
        self.down = Pointwise(4 * config.C8, config.C16)
        self.stack16 = Stack(config.C16, config.analysis_depth16, config.anchors)
        self.out = Pointwise(config.C16, config.M)

    @property
    def reach(self):
        """Latent positions (1/16) to each side that can influence a latent: 1/8-level blocks count half."""
        return self.stack16.reach + math.ceil(self.stack8.reach / 2)

    def forward(self, x, quality):
        # The residual stream is float32 under autocast too: bfloat16 is coarser than the finest quantisation step.
        with torch.autocast(x.device.type, enabled=False):
            t = self.patch(F.pixel_unshuffle(x.float() - 0.5, PATCH))  # (B, C8, H/8, W/8)
        t = self.stack8(t, quality)
        with torch.autocast(x.device.type, enabled=False):
            t = self.down(F.pixel_unshuffle(t.float(), 2))  # (B, C16, H/16, W/16)
        t = self.stack16(t, quality)
        with torch.autocast(x.device.type, enabled=False):
            return self.out(t.float())  # (B, M, H/16, W/16)


class Synthesis(nn.Module):
    """g_s: y_hat (B, M, h, w) -> x_hat (B, 3, 16 h, 16 w), not clamped."""

    def __init__(self, config):
        super().__init__()
        self.enter = Pointwise(config.M, config.C16)
        self.stack16 = Stack(config.C16, config.synthesis_depth16, config.anchors)
        self.up = Pointwise(config.C16, 4 * config.C8)
        self.stack8 = Stack(config.C8, config.synthesis_depth8, config.anchors)
        self.patch = Pointwise(config.C8, 3 * PATCH**2)

    @property
    def reach(self):
        """Latent positions (1/16) to each side that can influence a pixel: 1/8-level blocks count half."""
        return self.stack16.reach + math.ceil(self.stack8.reach / 2)

    def forward(self, y_hat, quality):
        with torch.autocast(y_hat.device.type, enabled=False):
            t = self.enter(y_hat.float())  # (B, C16, h, w)
        t = self.stack16(t, quality)
        with torch.autocast(y_hat.device.type, enabled=False):
            t = F.pixel_shuffle(self.up(t.float()), 2)  # (B, C8, 2h, 2w)
        t = self.stack8(t, quality)
        with torch.autocast(y_hat.device.type, enabled=False):
            return F.pixel_shuffle(self.patch(t.float()), PATCH) + 0.5  # (B, 3, 16h, 16w)


class HyperAnalysis(nn.Module):
    """h_a: gained latents (B, M, h, w) -> z (B, N, h/4, w/4). Runs in the encoder alone, so floats will do."""

    def __init__(self, config):
        super().__init__()
        width = config.hyper_width
        self.enter = Pointwise(config.M, width)
        self.depthwise1 = Depthwise(width)
        self.down1 = Pointwise(4 * width, width)
        self.depthwise2 = Depthwise(width)
        self.down2 = Pointwise(4 * width, width)
        self.out = Pointwise(width, config.N)

    def forward(self, y):
        # Magnitudes say where there is detail; log keeps a flat sky and a gravel path within one range.
        t = torch.sign(y) * torch.log1p(y.abs())
        t = F.relu(self.enter(t))
        t = F.relu(self.down1(F.pixel_unshuffle(self.depthwise1(t), 2)))
        t = F.relu(self.down2(F.pixel_unshuffle(self.depthwise2(t), 2)))
        return self.out(t).float()  # (B, N, h/4, w/4)


class FirstTransforms(nn.Module):
    """g_a, g_s, h_a and the gains, with the interface of model.Transforms."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.g_a = Analysis(config)
        self.g_s = Synthesis(config)
        if config.latents == "vq":
            return
        self.h_a = HyperAnalysis(config)
        self.log_gain = QualityTable(torch.zeros(config.anchors, config.M))
        self.log_inverse_gain = QualityTable(torch.zeros(config.anchors, config.M))
        self.z_log_gain = QualityTable(torch.zeros(config.anchors, config.N))

    def analyse(self, x, quality):
        y = self.g_a(x, quality)
        return y if self.config.latents == "vq" else y * self.log_gain(quality).exp()[:, :, None, None]

    def side_information(self, y, quality):
        if self.config.latents == "vq":
            return None
        return self.h_a(y) * self.z_log_gain(quality).exp()[:, :, None, None]

    def synthesise(self, y_hat, quality):
        if self.config.latents == "scalar":
            y_hat = y_hat * self.log_inverse_gain(quality).exp()[:, :, None, None]
        return self.g_s(y_hat, quality)
