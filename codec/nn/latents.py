"""The torch side of :mod:`codec.latents`: the quadtree, the entropy networks and the dequantiser, differentiable.

The networks are integer networks (:mod:`codec.nn.integer`). Their inputs are symbols; they return a mean in 1/16 of a
symbol and the index of a CDF row. The tables are built once, when a model is exported, from CompressAI's
EntropyBottleneck and GaussianConditional, and travel in the weights file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from ..latents.integer import LayerSpec
from ..latents.networks import COMPAND_LIMIT, LEVELS, architecture, compand_table
from ..latents.quadtree import GROUPS, MEAN_UNIT, PASSES, positions
from .integer import anchor_position

if TYPE_CHECKING:
    from ..config import ModelConfig


# Quadtree


def take(y: torch.Tensor, k: int) -> torch.Tensor:
    """Pass k of latents (B, M, h, w): (B, 4, M/4, h/2, w/2), with the groups along dimension 1."""
    return _Take.apply(y, k)


def place(part: torch.Tensor, k: int) -> torch.Tensor:
    """Inverse of :func:`take`: (B, M, h, w), zero where other passes belong."""
    return _Place.apply(part, k)


def split(y: torch.Tensor) -> list[torch.Tensor]:
    """The four passes of latents (B, M, h, w)."""
    return [take(y, k) for k in range(len(PASSES))]


class _Take(torch.autograd.Function):
    """take and place are each other's gradient; slice assignments alone would cost autograd a copy each."""

    @staticmethod
    def forward(ctx, y, k):
        ctx.k = k
        return torch.stack([y[:, g::GROUPS, i::2, j::2] for g, (i, j) in enumerate(positions(k))], dim=1)

    @staticmethod
    def backward(ctx, grad):
        return _Place.forward(ctx, grad, ctx.k), None


class _Place(torch.autograd.Function):
    @staticmethod
    def forward(ctx, part, k):
        ctx.k = k
        batch, _, channels, height, width = part.shape
        y = part.new_zeros(batch, GROUPS * channels, 2 * height, 2 * width)
        for g, (i, j) in enumerate(positions(k)):
            y[:, g::GROUPS, i::2, j::2] = part[:, g]
        return y

    @staticmethod
    def backward(ctx, grad):
        return _Take.forward(ctx, grad, ctx.k), None


def gather(features: torch.Tensor, k: int) -> torch.Tensor:
    """(B, C, h, w) -> (B, 4 C, h/2, w/2): the features at the positions of groups 0 to 3 at pass k."""
    return torch.cat([features[:, :, i::2, j::2] for i, j in positions(k)], dim=1)


# Networks


class Chain(nn.Module):
    """Layers in sequence; the integers 2 in between are pixel shuffles."""

    def __init__(self, *steps: nn.Module | int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(s for s in steps if isinstance(s, nn.Module))
        self._order = [s if isinstance(s, int) else None for s in steps]

    def forward(self, a: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
        layers = iter(self.layers)
        for factor in self._order:
            a = F.pixel_shuffle(a, factor) if factor else next(layers)(a, quality)
        return a


class EntropyNetworks(nn.Module):
    """h_s and the four context networks.

    Args:
        config: ModelConfig.
        layer: LayerSpec -> layer.
    """

    compand: torch.Tensor

    def __init__(self, config: ModelConfig, layer: Callable[[LayerSpec], nn.Module]) -> None:
        super().__init__()
        self.config = config
        plan = architecture(config)

        def chain(steps):
            return Chain(*(step if isinstance(step, int) else layer(step) for step in steps))

        self.h_s = chain(plan.h_s)
        self.contexts = nn.ModuleList(
            nn.ModuleDict({"trunk": chain(c.trunk), "mean": layer(c.mean), "index": layer(c.index)})
            for c in plan.contexts
        )
        compand = torch.from_numpy(compand_table(config.activation_bits))
        self.register_buffer("compand", compand.float(), persistent=False)

    # As :func:`codec.latents.quadtree.walk` wants it; what is known is (features, y_hat in 1/16 of a symbol).

    def begin(self, z_hat: torch.Tensor, quality: torch.Tensor) -> tuple[torch.Tensor, Any]:
        return self.features(z_hat, quality), 0.0

    def predict(
        self, k: int, known: tuple[torch.Tensor, Any], quality: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.context(k, *known, quality)

    def learn(self, k: int, known: tuple[torch.Tensor, Any], part: torch.Tensor) -> tuple[torch.Tensor, Any]:
        features, latents = known
        return features, latents + place(part, k)

    def features(self, z_hat: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
        """Integer z_hat (B, N, h/4, w/4) -> integer features (B, C, h, w)."""
        return self.h_s(z_hat, quality)

    def context(
        self, k: int, features: torch.Tensor, known: Any, quality: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Means (in 1/16) and CDF indexes of pass k, both (B, 4, M/4, h/2, w/2) integers.

        Args:
            k: pass, 0 to 3.
            features: from :meth:`features`.
            known: y_hat (B, M, h, w) in 1/16 of a symbol, zero where it is not known yet; not read at pass 0.
        """
        net: Any = self.contexts[k]
        if k:
            features = torch.cat([features, self.context_input(known)], dim=1)
        hidden = gather(net["trunk"](features, quality), k)
        shape = (hidden.shape[0], GROUPS, self.config.M // GROUPS, *hidden.shape[-2:])
        return net["mean"](hidden, quality).view(shape), net["index"](hidden, quality).view(shape)

    def context_input(self, known: torch.Tensor) -> torch.Tensor:
        """Latents (in 1/16) as the context networks read them: integers, companded by a table."""
        return _Compand.apply(known, self.compand)

    def layers(self) -> Iterator[tuple[str, Any]]:
        """(name, layer) of every integer layer."""
        for name, module in self.named_modules():
            if hasattr(module, "set_integers"):
                yield name, module


class _Compand(torch.autograd.Function):
    """Table look-up with the gradient of what the table stands for."""

    @staticmethod
    def forward(ctx, known, table):
        magnitude = known.abs()
        ctx.save_for_backward(magnitude, table)
        return table[magnitude.clamp(max=COMPAND_LIMIT).long()] * known.sign()

    @staticmethod
    def backward(ctx, grad):
        magnitude, table = ctx.saved_tensors
        unit = table[-1].item() / math.log1p(COMPAND_LIMIT / MEAN_UNIT)
        return grad * (unit / (MEAN_UNIT + magnitude)) * (magnitude <= COMPAND_LIMIT), None


class Dequantiser(nn.Module):
    """Where in its interval a symbol is reconstructed for the synthesis, learned for each row of the table.

    Small predicted deviations mean that most of what was rounded to 1 lies near 1/2. The entropy networks know the
    deviation, the synthesis does not. What they read themselves stays in the middle of the interval, and exact. Each
    anchor quality has a table of its own: one for all gained at high rates and cost at low ones.

    Args:
        anchors: number of anchor qualities.
    """

    MAGNITUDES = 3  # 1, 2, and all from 3 on have a value of their own

    def __init__(self, anchors: int) -> None:
        super().__init__()
        self.shrink = nn.Parameter(torch.zeros(anchors, LEVELS, self.MAGNITUDES))

    def within(self) -> torch.Tensor:
        """The shifts, at most 1 in magnitude: what a weights file may hold; float (anchors, LEVELS, MAGNITUDES)."""
        return self.shrink.clamp(-1, 1)

    def forward(self, symbols: torch.Tensor, indexes: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
        """Shift of each latent towards its mean, in symbols.

        Args:
            symbols, indexes: integer-valued floats (B, ...), of one shape, which the result has too.
            quality: hundredths; (B,), or one for all.
        """
        quality = torch.as_tensor(quality, dtype=torch.float32, device=self.shrink.device).expand(len(symbols))
        left, position = anchor_position(quality, len(self.shrink))
        shrink = self.within()
        table = torch.lerp(shrink[left], shrink[left + 1], position[:, None, None])
        magnitude = symbols.detach().abs().clamp(1, self.MAGNITUDES)
        cell = (indexes.detach() * self.MAGNITUDES + magnitude - 1).long()
        shift = table.flatten(1).gather(1, cell.flatten(1)).view_as(symbols)
        return -symbols.detach().sign() * shift
