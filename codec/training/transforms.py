"""The transforms in the parametrisation that learns, and how it folds into the plain layers of codec.nn.transforms.

Adam moves every weight by about the learning rate, and the channels of a DCT differ 100-fold in deviation. Hence:

* **Whitened coordinates.** The DCT and Haar matrices stay constants; what is learned is added in coordinates in which
  every input channel has deviation 1: ``W = W0 + 0.03 dW diag(1 / deviation)``. Layers that read a residual stream
  learn W in ``W diag(1 / deviation)``.
* **Means before activations are removed** (:class:`Centre`), and activations are leaky: a dead ReLU never comes back.
* **Branches start at 3 % of the quality's quantisation step**, or of the channel's deviation where that is smaller, so
  that noise shrinks where quality is high and does not grow from block to block where it is low.
* **One gain table, used both ways**, within a factor of e^1.5 of what quantisation theory says.

Each part has ``folded()``, the state dict of its plain counterpart, and ``unfold(tensors)``, which takes one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from ..nn.dct import (
    FINE,
    coarse_deviation,
    coarse_from_pixels,
    coarse_to_pixels,
    dct_matrix,
    fine_deviation,
    haar_matrix,
    quantisation_step,
)
from ..nn.transforms import (
    SLOPE,
    Depthwise,
    Gained,
    QualityTable,
    compand,
    conv3_replicated,
    interpolate,
    nchw,
    nhwc,
    shuffle,
    unshuffle,
)

if TYPE_CHECKING:
    from ..config import ModelConfig


LEARNED_SHARE = 0.03  # of a skeleton: how far a step of the optimiser moves it, in deviations of its inputs
SHARE_UNIT = 0.1  # of a branch's output scale: a step of Adam moves it by 1 % of what it starts with
SHARE_START = 0.3
GAIN_REACH = 1.5  # how far a gain may move, as a logarithm
Z_GAIN_START = 1.5  # smaller starts shrink z until it rounds to zero, and nothing ever reads it


def stream_dtype(t: torch.Tensor) -> torch.dtype:
    """What residual streams are kept in: autocast's dtype where it is on, float32 elsewhere."""
    kind = t.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32


def exact_linear(t: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Matrix product over the last dimension in float32, whatever autocast says: skeletons hold the finest steps."""
    with torch.autocast(t.device.type, enabled=False):
        return F.linear(t.float(), weight, bias)


class Centre(nn.Module):
    """Subtracts the mean of each channel of (B, H, W, C) over the batch; at evaluation a constant, folded into a bias.

    The inputs of a layer after an activation are mostly positive, so that one common direction of its weights shifts
    all of its outputs, and off is the quickest way to less noise. Mean-only batch normalisation: Salimans, Kingma 2016,
    arXiv:1602.07868.
    """

    mean: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.weight = 0.0  # of a batch in the mean: set while calibrate() runs
        self.frozen = False  # where the layers around it do not learn, the mean stays as well

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        if not self.training or self.frozen:
            return t - self.mean.to(t.dtype)
        mean = t.float().mean((0, 1, 2))
        if self.weight:
            self.mean.lerp_(mean.detach(), self.weight)
        return t - mean.to(t.dtype)


def he_linear(channels_in: int, channels_out: int) -> nn.Linear:
    """nn.Linear with He bounds; nn.Linear's own shrink z until it rounds to zero."""
    layer = nn.Linear(channels_in, channels_out)
    bound = (6 / channels_in) ** 0.5
    nn.init.uniform_(layer.weight, -bound, bound)
    nn.init.zeros_(layer.bias)
    return layer


class Skeleton(nn.Module):
    """A constant matrix and what is learned beside it, in whitened coordinates.

    Args:
        start: float (C_out, C_in).
        deviation: float (C_in,), of the inputs.
        neighbours: learn a 3x3 convolution around the constant matrix, with replicated border.
    """

    start: torch.Tensor
    whiten: torch.Tensor

    def __init__(self, start: torch.Tensor, deviation: torch.Tensor, neighbours: bool = False) -> None:
        super().__init__()
        shape = (*start.shape, 3, 3) if neighbours else start.shape
        whiten = LEARNED_SHARE / deviation
        self.register_buffer("start", start.clone(), persistent=False)
        self.register_buffer("whiten", whiten[:, None, None] if neighbours else whiten, persistent=False)
        self.weight, self.bias = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(len(start)))

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C_in) -> float32 (B, H, W, C_out)."""
        if self.weight.dim() == 2:
            return exact_linear(t, self.start + self.weight * self.whiten, LEARNED_SHARE * self.bias)
        learned = conv3_replicated(t, self.weight * self.whiten, LEARNED_SHARE * self.bias)
        return exact_linear(t, self.start) + learned.float()

    def folded(self) -> dict[str, torch.Tensor]:
        weight = self.weight * self.whiten
        if weight.dim() == 2:
            weight = weight + self.start
        else:
            weight[:, :, 1, 1] += self.start
        return {"weight": weight, "bias": LEARNED_SHARE * self.bias}

    def unfold(self, tensors: Mapping[str, torch.Tensor]) -> None:
        weight = tensors["weight"].clone()
        if weight.dim() == 2:
            weight -= self.start
        else:
            weight[:, :, 1, 1] -= self.start
        self.weight.copy_(weight / self.whiten)
        self.bias.copy_(tensors["bias"] / LEARNED_SHARE)


class Block(nn.Module):
    """Bottleneck with a residual connection; reads the stream whitened, adds to it in units of the quantisation step.

    Args:
        channels: width of the stream; half of it inside.
        deviation: float (channels,), of the stream.
        step: float (anchors,), quantisation step of each anchor quality.
    """

    unit: torch.Tensor
    whiten: torch.Tensor
    conv: Any  # Conv2d, which may lack a bias elsewhere

    def __init__(self, channels: int, deviation: torch.Tensor, step: torch.Tensor) -> None:
        super().__init__()
        hidden = channels // 2
        self.mix_in, self.mix_out = he_linear(channels, hidden), he_linear(hidden, channels)
        self.conv = nn.Conv2d(hidden, hidden, 3)
        nn.init.normal_(self.conv.weight, std=(2 / (9 * hidden)) ** 0.5)
        nn.init.zeros_(self.conv.bias)
        self.centres: Any = nn.ModuleList(Centre(hidden) for _ in range(2))
        self.activations = nn.ModuleList(nn.LeakyReLU(SLOPE) for _ in range(2))
        self.share = nn.Parameter(torch.full((len(step), channels), SHARE_START))
        self.register_buffer("unit", SHARE_UNIT * torch.minimum(step[:, None], deviation), persistent=False)
        self.register_buffer("whiten", 1 / deviation, persistent=False)

    def forward(self, t: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
        u = F.linear(t, self.mix_in.weight * self.whiten, self.mix_in.bias)
        u = self.activations[0](self.centres[0](u))
        u = self.activations[1](self.centres[1](conv3_replicated(u, self.conv.weight, self.conv.bias)))
        u = self.mix_out(u)
        scale = interpolate(self.unit * self.share, quality)
        return torch.addcmul(t, scale[:, None, None].to(t.dtype), u.to(t.dtype))

    def folded(self) -> dict[str, torch.Tensor]:
        return {
            "mix_in.weight": self.mix_in.weight * self.whiten,
            "mix_in.bias": self.mix_in.bias - self.centres[0].mean,
            "conv.weight": self.conv.weight,
            "conv.bias": self.conv.bias - self.centres[1].mean,
            "mix_out.weight": self.mix_out.weight,
            "mix_out.bias": self.mix_out.bias,
            "scale.table": self.unit * self.share,
        }

    def unfold(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.mix_in.weight.copy_(tensors["mix_in.weight"] / self.whiten)
        self.conv.weight.copy_(tensors["conv.weight"])
        for layer, centre, name in zip((self.mix_in, self.conv), self.centres, ("mix_in", "conv")):
            layer.bias.copy_(tensors[f"{name}.bias"])
            centre.mean.zero_()
        self.mix_out.weight.copy_(tensors["mix_out.weight"])
        self.mix_out.bias.copy_(tensors["mix_out.bias"])
        self.share.copy_(tensors["scale.table"] / self.unit)


class Analysis(nn.Module):
    """g_a: x (B, 3, H, W) in [0, 1] -> y (B, M, H/16, W/16); H and W multiples of 16."""

    dct: torch.Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, step = config.analysis_width, quantisation_step(config)
        coarse = coarse_deviation(width)
        self.register_buffer("dct", dct_matrix(), persistent=False)
        self.enter = Skeleton(haar_matrix(width), fine_deviation().repeat_interleave(4))
        self.blocks = nn.ModuleList(Block(width, coarse, step) for _ in range(config.analysis_depth))
        self.out = Skeleton(torch.eye(config.M, width), coarse)

    def forward(self, x: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
        t = self._coarse(x).to(stream_dtype(x))  # (B, H/16, W/16, C)
        for block in self.blocks:
            t = block(t, quality)
        return nchw(self.out(t))  # (B, M, H/16, W/16)

    def _coarse(self, x):
        fine = exact_linear(nhwc(F.pixel_unshuffle(x - 0.5, 8)), self.dct)
        return self.enter(unshuffle(fine, 2))

    def skeleton(self, x: torch.Tensor) -> torch.Tensor:
        """The linear part alone: as :meth:`forward` without blocks."""
        return nchw(self.out(self._coarse(x)))

    def folded(self) -> dict[str, torch.Tensor]:
        enter = self.enter.folded()
        enter["weight"] = coarse_to_pixels(enter["weight"])
        return _named(enter=enter, blocks=self.blocks, out=self.out)

    def unfold(self, tensors: Mapping[str, torch.Tensor]) -> None:
        parts = _parted(tensors)
        parts["enter"] = {**parts["enter"], "weight": coarse_from_pixels(parts["enter"]["weight"])}
        _unfold(self, parts)


class Synthesis(nn.Module):
    """g_s: y_hat (B, M, h, w) -> x_hat (B, 3, 16 h, 16 w), not clamped."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width16, width8, step = config.synthesis_width16, config.synthesis_width8, quantisation_step(config)
        coarse = coarse_deviation(width16)
        fine = F.pad(fine_deviation(), (0, width8 - FINE), value=0.1)
        self.enter = Skeleton(torch.eye(width16, config.M), coarse[: config.M])
        self.blocks16 = nn.ModuleList(Block(width16, coarse, step) for _ in range(config.synthesis_depth16))
        self.up = Skeleton(F.pad(haar_matrix(width16).T, (0, 0, 0, 4 * (width8 - FINE))), coarse)
        self.blocks8 = nn.ModuleList(Block(width8, fine, step) for _ in range(config.synthesis_depth8))
        self.patch = Skeleton(F.pad(dct_matrix().T, (0, width8 - FINE)), fine, neighbours=True)

    def forward(self, y_hat: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
        t = self.enter(nhwc(y_hat)).to(stream_dtype(y_hat))  # (B, h, w, C16)
        for block in self.blocks16:
            t = block(t, quality)
        t = shuffle(self.up(t).to(t.dtype), 2)  # (B, 2h, 2w, C8)
        for block in self.blocks8:
            t = block(t, quality)
        return F.pixel_shuffle(nchw(self.patch(t)), 8) + 0.5

    def skeleton(self, y: torch.Tensor) -> torch.Tensor:
        """The linear part alone: as :meth:`forward` without blocks."""
        return F.pixel_shuffle(nchw(self.patch(shuffle(self.up(self.enter(nhwc(y))), 2))), 8) + 0.5

    def folded(self) -> dict[str, torch.Tensor]:
        return _named(enter=self.enter, blocks16=self.blocks16, up=self.up, blocks8=self.blocks8, patch=self.patch)

    def unfold(self, tensors: Mapping[str, torch.Tensor]) -> None:
        _unfold(self, _parted(tensors))


class HyperAnalysis(nn.Module):
    """h_a: gained latents (B, M, h, w) -> z (B, N, h/4, w/4)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.hyper_width
        self.enter = he_linear(config.M, width)
        self.depthwise1, self.depthwise2 = Depthwise(width), Depthwise(width)
        self.down1, self.down2 = he_linear(4 * width, width), he_linear(4 * width, width)
        self.out = he_linear(width, config.N)
        self.centres: Any = nn.ModuleList(Centre(width) for _ in range(3))
        self.activations = nn.ModuleList(nn.LeakyReLU(SLOPE) for _ in range(3))

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        t = self.activations[0](self.centres[0](self.enter(compand(nhwc(y)))))
        t = self.activations[1](self.centres[1](self.down1(unshuffle(self.depthwise1(t), 2))))
        t = self.activations[2](self.centres[2](self.down2(unshuffle(self.depthwise2(t), 2))))
        return nchw(self.out(t)).float()  # (B, N, h/4, w/4)

    def folded(self) -> dict[str, torch.Tensor]:
        tensors = {name: t for name, t in self.state_dict().items() if not name.startswith("centres")}
        for centre, name in zip(self.centres, ("enter", "down1", "down2")):
            tensors[f"{name}.bias"] = tensors[f"{name}.bias"] - centre.mean
        return tensors

    def unfold(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.load_state_dict(
            {**tensors, **{f"centres.{i}.mean": torch.zeros_like(c.mean) for i, c in enumerate(self.centres)}}
        )


class Gain(nn.Module):
    """Logarithm of the gain of each channel, within GAIN_REACH of where it starts.

    Args:
        start: float (anchors, C).
    """

    start: torch.Tensor

    def __init__(self, start: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("start", start.clone(), persistent=False)
        self.change = nn.Parameter(torch.zeros_like(start))

    @property
    def table(self) -> torch.Tensor:
        return self.start + GAIN_REACH * torch.tanh(self.change / GAIN_REACH)

    def forward(self, quality: torch.Tensor) -> torch.Tensor:
        return interpolate(self.table, quality)

    def folded(self) -> dict[str, torch.Tensor]:
        return {"table": self.table}

    def unfold(self, tensors: Mapping[str, torch.Tensor]) -> None:
        moved = (tensors["table"] - self.start) / GAIN_REACH
        self.change.copy_(GAIN_REACH * torch.atanh(moved.clamp(-0.999, 0.999)))


class TrainableTransforms(Gained):
    """g_a, g_s, h_a and the gains, with the interface of model.Transforms."""

    g_a: Analysis
    g_s: Synthesis
    log_gain: Gain

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.g_a, self.g_s = Analysis(config), Synthesis(config)
        if not config.side_information:
            return
        self.h_a = HyperAnalysis(config)
        self.log_gain = Gain(-quantisation_step(config).log()[:, None].expand(-1, config.M))
        self.z_log_gain = QualityTable(torch.full((config.anchors, config.N), Z_GAIN_START))

    def skeleton(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, 3, H, W) through the linear parts of g_a and g_s alone."""
        return self.g_s.skeleton(self.g_a.skeleton(x))

    @torch.no_grad()
    def folded(self) -> dict[str, torch.Tensor]:
        """State dict of model.Transforms."""
        return _named(**dict(self.named_children()))

    @torch.no_grad()
    def unfold(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take the weights of a state dict of model.Transforms."""
        _unfold(self, _parted(tensors))


@torch.no_grad()
def calibrate(model: nn.Module, batches: Iterable[tuple[Any, ...]]) -> None:
    """Set the means that evaluation removes to those of ``batches``, an iterable of arguments of ``model``.

    A running mean would belong to weights that have moved since, or to others than their average.
    """
    centres = [layer for layer in model.modules() if isinstance(layer, Centre) and not layer.frozen]
    training = model.training
    model.train()
    for k, arguments in enumerate(batches, 1):
        for layer in centres:
            layer.weight = 1 / k
        model(*arguments)
    for layer in centres:
        layer.weight = 0.0
    model.train(training)


def _named(**parts: Any) -> dict[str, torch.Tensor]:
    """State dict of parts: modules with ``folded()`` or a state dict, lists of them, or dicts."""
    tensors: dict[str, torch.Tensor] = {}
    for name, part in parts.items():
        if isinstance(part, nn.ModuleList):
            part = _named(**{str(i): p for i, p in enumerate(part)})
        elif isinstance(part, nn.Module):
            part = getattr(part, "folded", part.state_dict)()
        tensors.update({f"{name}.{key}": t for key, t in part.items()})
    return tensors


def _parted(tensors):
    """Inverse of :func:`_named`, one level: {name: state dict}."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, t in tensors.items():
        name, _, rest = key.partition(".")
        parts.setdefault(name, {})[rest] = t
    return parts


def _unfold(module, parts):
    """Give each child of a module its part, and each of a list of children its own."""
    if set(parts) != {name for name, child in module.named_children() if list(child.parameters())}:
        raise KeyError(f"weights of {', '.join(sorted(parts))} for {', '.join(n for n, _ in module.named_children())}")
    for name, part in parts.items():
        child = getattr(module, name)
        if isinstance(child, nn.ModuleList):
            _unfold(child, _parted(part))
        elif hasattr(child, "unfold"):
            child.unfold(part)
        else:
            child.load_state_dict(part)
