"""Analysis and synthesis transforms: g_a, g_s (picture <-> y) and h_a (y -> z).

Nearly all arithmetic happens at 1/8 of the picture's resolution, as large matrix products (1x1 convolutions) with
cheap depthwise 3x3 convolutions between them: the DCVC-RT family (Jia et al. 2025, arXiv:2502.20762).

    x (B, 3, H, W)
      | pixel-unshuffle 8, 1x1          starts as the 8x8 DCT of a luma/chroma rotation
      | residual blocks                 (B, C8, H/8, W/8)
      | pixel-unshuffle 2, 1x1          starts as a 2x2 Haar step that keeps the M lowest frequencies
      | residual blocks                 (B, C16, H/16, W/16)
      | 1x1                             starts as the identity
    y (B, M, H/16, W/16)

The synthesis is the mirror image and starts as the transpose, so that the pair is a truncated orthonormal transform
before the first training step. The residual branches start near zero.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

PATCH = 8  # pixels per position of the fine level
STRIDE = 64  # pixels per position of z; pictures are padded to a multiple of it


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


class GatedBlock(nn.Module):
    """Spatial mixing, then a gated feed-forward part; 8 C^2 + 9 C multiply-adds per position.

    x + s_0 * W_2 dw3x3(relu(W_1 x)), then x + s_1 * W_4 (u * relu(v)) with (u, v) = W_3 x.
    """

    branches = 2
    reach = 1  # positions that one block looks to each side

    def __init__(self, channels):
        super().__init__()
        self.mix_in = Pointwise(channels, channels)
        self.depthwise = Depthwise(channels)
        self.mix_out = Pointwise(channels, channels)
        self.expand = Pointwise(channels, 4 * channels)
        self.project = Pointwise(2 * channels, channels)

    def inputs(self):
        """Layers that read the residual stream."""
        return self.mix_in, self.expand

    def forward(self, x, scale):
        mixed = self.mix_out(self.depthwise(F.relu(self.mix_in(x))))
        x = x + scale[0] * mixed
        u, v = self.expand(x).chunk(2, dim=1)
        return x + scale[1] * self.project(u * F.relu(v))


class BottleneckBlock(nn.Module):
    """x + s * W_2 relu(conv3x3(relu(W_1 x))) through C/2 channels; 3.25 C^2 multiply-adds per position."""

    branches = 1
    reach = 1

    def __init__(self, channels):
        super().__init__()
        self.mix_in = Pointwise(channels, channels // 2)
        self.conv = nn.Conv2d(channels // 2, channels // 2, 3, padding=1)
        self.mix_out = Pointwise(channels // 2, channels)

    def inputs(self):
        return (self.mix_in,)

    def forward(self, x, scale):
        return x + scale[0] * self.mix_out(F.relu(self.conv(F.relu(self.mix_in(x)))))


class InvertedBlock(nn.Module):
    """x + s * W_2 relu(W_1 dw3x3(x)) through 2C channels; 4 C^2 + 9 C multiply-adds per position."""

    branches = 1
    reach = 1

    def __init__(self, channels):
        super().__init__()
        self.depthwise = Depthwise(channels)
        self.expand = Pointwise(channels, 2 * channels)
        self.project = Pointwise(2 * channels, channels)

    def inputs(self):
        return (self.depthwise,)

    def forward(self, x, scale):
        return x + scale[0] * self.project(F.relu(self.expand(self.depthwise(x))))


BLOCKS = {"gated": GatedBlock, "bottleneck": BottleneckBlock, "inverted": InvertedBlock}


class QualityTable(nn.Module):
    """A learned vector for each of several anchor qualities, interpolated linearly between them.

    Args:
        initial: float (anchors, ...), the first values; anchors are spread evenly over qualities 0 to 100.
    """

    def __init__(self, initial):
        super().__init__()
        self.table = nn.Parameter(initial.clone())

    def forward(self, quality):
        """(B,) qualities in [0, 100] -> (B, ...) vectors."""
        last = self.table.shape[0] - 1
        position = (quality / 100 * last).clamp(0, last)
        left = position.floor().clamp(max=last - 1).long()
        weight = (position - left).view(-1, *(1,) * (self.table.dim() - 1))
        return torch.lerp(self.table[left], self.table[left + 1], weight)


class Stack(nn.Module):
    """Residual blocks whose branches are scaled per channel and quality.

    Args:
        channels: width C of the residual stream.
        depth: number of blocks.
        block: a name in BLOCKS.
        anchors: number of anchor qualities.
        deviation: float (C,), expected standard deviation of each channel of the stream. The branches start on
            whitened inputs and with outputs small in proportion: a DCT's channels differ by a factor of 100, and
            unscaled the branches would see nothing but the lowest frequencies.
    """

    def __init__(self, channels, depth, block, anchors, deviation):
        super().__init__()
        kind = BLOCKS[block]
        self.reach = depth * kind.reach  # positions that the stack looks to each side
        self.blocks = nn.ModuleList(kind(channels) for _ in range(depth))
        initial = 0.1 * deviation.expand(anchors, depth, kind.branches, channels)
        self.scales = QualityTable(initial)
        with torch.no_grad():
            for stage in self.blocks:
                for layer in stage.inputs():
                    if isinstance(layer, Depthwise):
                        layer.weight.div_(deviation.view(-1, 1, 1, 1))
                    else:
                        layer.weight.div_(deviation)

    def forward(self, x, quality):
        scales = self.scales(quality)[..., None, None]  # (B, depth, branches, C, 1, 1)
        for i, stage in enumerate(self.blocks):
            x = stage(x, scales[:, i].unbind(1))
        return x


class Analysis(nn.Module):
    """g_a: x (B, 3, H, W) in [0, 1] -> y (B, M, H/16, W/16); H and W multiples of 16."""

    def __init__(self, config):
        super().__init__()
        fine, coarse = fine_deviation(config), coarse_deviation(config)
        self.patch = Pointwise(3 * PATCH**2, config.C8)
        self.stack8 = Stack(config.C8, config.analysis_depth8, config.block, config.anchors, fine)
        self.down = Pointwise(4 * config.C8, config.C16)
        self.stack16 = Stack(config.C16, config.analysis_depth16, config.block, config.anchors, coarse)
        self.out = Pointwise(config.C16, config.M)
        with torch.no_grad():
            _start_as(self.patch, _dct_matrix())
            _start_as(self.down, _haar_matrix(config))
            _start_as(self.out, torch.eye(config.M))

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
        fine, coarse = fine_deviation(config), coarse_deviation(config)
        self.enter = Pointwise(config.M, config.C16)
        self.stack16 = Stack(config.C16, config.synthesis_depth16, config.block, config.anchors, coarse)
        self.up = Pointwise(config.C16, 4 * config.C8)
        self.stack8 = Stack(config.C8, config.synthesis_depth8, config.block, config.anchors, fine)
        self.patch = Pointwise(config.C8, 3 * PATCH**2)
        with torch.no_grad():
            _start_as(self.enter, torch.eye(config.M))
            _start_as(self.up, _haar_matrix(config).T)
            _start_as(self.patch, _dct_matrix().T)

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


# --- The transform codec that training starts from -----------------------------------------------------------------

# Orthonormal luma/chroma rotation: rows are (R+G+B), (R-B), (R-2G+B), normalised.
_ROTATION = ((3**-0.5,) * 3, (2**-0.5, 0.0, -(2**-0.5)), (6**-0.5, -2 * 6**-0.5, 6**-0.5))
_CHROMA = (1.0, 0.32, 0.22)  # standard deviations of the rotated channels of photographs, relative to luma


def _start_as(layer, matrix):
    """Put ``matrix`` in the upper left of the layer's weight; the rest starts at zero (spare channels of the stream)."""
    layer.weight.zero_()
    layer.weight[: matrix.shape[0], : matrix.shape[1]] = matrix


def _dct_matrix():
    """(192, 192): pixels of an 8x8 RGB patch, in pixel_unshuffle's order, to orthonormal DCT coefficients."""
    n = torch.arange(PATCH, dtype=torch.float64)
    dct = torch.cos(math.pi / PATCH * n[:, None] * (n[None, :] + 0.5)) * (2 / PATCH) ** 0.5
    dct[0] *= 0.5**0.5
    rotation = torch.tensor(_ROTATION, dtype=torch.float64)
    return torch.kron(torch.kron(rotation, dct), dct).float()


def _frequencies():
    """Vertical and horizontal frequency (192,) and expected deviation (192,) of each DCT coefficient."""
    u = torch.arange(PATCH).repeat_interleave(PATCH).repeat(3).double()
    v = torch.arange(PATCH).repeat(PATCH * 3).double()
    chroma = torch.tensor(_CHROMA, dtype=torch.float64).repeat_interleave(PATCH**2)
    frequency = (u**2 + v**2).sqrt()
    # Amplitudes of photographs fall as about 1/f; the mean stands out by far. Measured on photographs in [0, 1].
    return u, v, chroma * torch.where(frequency == 0, 2.4, 0.3 / (0.5 + frequency))


def _haar_rows(config):
    """For each of the M kept coefficients: (DCT channel, vertical bit, horizontal bit), most energy first."""
    u, v, _ = _frequencies()
    chroma = torch.tensor(_CHROMA, dtype=torch.float64).repeat_interleave(PATCH**2)
    rows = []
    for k in (0, 1):
        for l in (0, 1):
            # Odd DCT functions flip their sign from block to block in a smooth signal, so that for them the
            # difference of neighbours is the lower frequency.
            fu = 2 * u + torch.where(u % 2 == 0, float(k), float(1 - k))
            fv = 2 * v + torch.where(v % 2 == 0, float(l), float(1 - l))
            energy = (chroma / (1 + (fu**2 + fv**2).sqrt())).tolist()
            rows += [(-e, c, k, l) for c, e in enumerate(energy)]
    rows.sort()
    return [(c, k, l, -e) for e, c, k, l in rows[: config.M]]


def _haar_matrix(config):
    """(M, 4 C8): a 2x2 Haar step on the DCT channels after pixel_unshuffle(2), truncated to the M lowest frequencies."""
    matrix = torch.zeros(config.M, 4 * config.C8)
    for row, (c, k, l, _) in enumerate(_haar_rows(config)):
        for i in (0, 1):
            for j in (0, 1):
                matrix[row, 4 * c + 2 * i + j] = 0.5 * (-1) ** (k * i + l * j)
    return matrix


def fine_deviation(config):
    """Expected standard deviation of each channel of the stream at 1/8: float (C8,)."""
    deviation = torch.full((config.C8,), 0.1)
    deviation[: 3 * PATCH**2] = _frequencies()[2].clamp_min(0.05).float()
    return deviation


def coarse_deviation(config):
    """Expected standard deviation of each channel of the stream at 1/16: float (C16,); the first M are those of y."""
    deviation = torch.full((config.C16,), 0.1)
    energy = torch.tensor([e for *_, e in _haar_rows(config)])
    deviation[: config.M] = torch.where(energy == 1, 4.8, 0.5 * energy).clamp_min(0.05)  # 1: the luma mean
    return deviation
