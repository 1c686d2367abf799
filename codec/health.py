"""Is a network alive? Networks die quietly: they train on for hours with every unit of a layer switched off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .nn.integer import TrainableLayer

if TYPE_CHECKING:
    from .files import StrPath
    from .training.model import TrainableModel
    from .training.vector_model import TrainableVectorModel


PARTS = ("encoder", "entropy", "decoder")
RARE = 1e-3  # a unit that is positive less often than this counts as dead
DEAD_SHARE = 0.15  # of a part; more is a defect
Z_SHARE = 5e-4  # of the bits; less means that nothing reads the side information


@contextmanager
def watched(model: nn.Module) -> Iterator[dict[str, list[float]]]:
    """Collects, while the model runs, the share of dead units of each activation: {part: [shares]}."""
    shares: dict[str, list[float]] = {part: [] for part in PARTS}
    handles = []
    for name, module in model.named_modules():
        integer = isinstance(module, TrainableLayer) and module.spec.activation != "none"
        if integer or isinstance(module, nn.LeakyReLU):
            # h_a is the encoder's, but its units carry z: they count as entropy networks.
            part = {"g_a": "encoder", "g_s": "decoder"}.get(name.split(".")[1], "entropy")
            channels = 1 if integer else -1

            def hook(module, inputs, output, part=part, channels=channels):
                positive = (output > 0).float().movedim(channels, 0).flatten(1).mean(1)
                shares[part].append((positive < RARE).float().mean().item())

            handles.append(module.register_forward_hook(hook))
    try:
        yield shares
    finally:
        for handle in handles:
            handle.remove()


def mean_dead(shares: dict[str, list[float]]) -> dict[str, float]:
    """{"dead_encoder": share of dead units, ...} from what :func:`watched` collected, for parts that ran."""
    return {f"dead_{part}": sum(v) / len(v) for part, v in shares.items() if v}


@torch.no_grad()
def health(model: TrainableModel | TrainableVectorModel, x: torch.Tensor, quality: float = 60.0) -> dict[str, float]:
    """Share of z in the bits, and of dead units by part, of a trainable model: {"z_share", "dead_encoder", ...}.

    Args:
        model: TrainableModel or TrainableVectorModel, which may have no z.
        x: float (B, 3, H, W) in [0, 1]; at least 1000 positions of y, or rare is not rare.
        quality: in [0, 100].
    """
    training = model.training
    model.eval()
    with watched(model) as shares:
        figures = model(x, torch.full((len(x),), float(quality), device=x.device))
    model.train(training)
    result = mean_dead(shares)
    if model.config.side_information:
        z, y = figures["z_bpp"].sum().item(), figures["y_bpp"].sum().item()
        result = {"z_share": z / max(z + y, 1e-12), **result}
    return result


def complaints(figures: dict[str, Any]) -> dict[str, str]:
    """What is wrong with figures of :func:`health`: {part: sentence}, empty for a living network."""
    found = {}
    if figures.get("z_share", 1.0) < Z_SHARE:
        found["z"] = f"side information is dead: {figures['z_share']:.5f} of the bits"
    for part in PARTS:
        if figures.get(f"dead_{part}", 0.0) > DEAD_SHARE:
            found[part] = f"{figures[f'dead_{part}']:.0%} of the units in {part} are dead"
    return found


def check(name: StrPath | None, pictures: Iterable[StrPath], quality: float = 60.0) -> dict[str, Any]:
    """Figures of :func:`health` for a model that compresses, over pictures. Needs what training needs.

    Args:
        name: id or folder of the model.
        pictures: paths.
        quality: 0 to 100.

    Returns:
        dict: ``dead_...`` by part, ``z_share`` where there is side information, and ``complaints``, sentences.
    """
    from .image_io import read_picture
    from .nn.pixels import to_tensor
    from .training.loop import read_weights, trainable_model
    from .weights import find_model

    config, tensors = read_weights(find_model(name))
    model = trainable_model(config)
    model.import_tensors(tensors)
    model.eval()
    z = y = 0.0
    shares: dict[str, list[float]] = {part: [] for part in PARTS}
    for picture in pictures:
        x = to_tensor(read_picture(picture).pixels)
        with watched(model) as seen, torch.inference_mode():
            figures = model(x, torch.tensor([float(quality)]))
        for part in PARTS:
            shares[part] += seen[part]
        if config.side_information:
            z, y = z + figures["z_bpp"].item(), y + figures["y_bpp"].item()
    found = mean_dead(shares)
    if config.side_information:
        found["z_share"] = z / (z + y)
    return {**found, "complaints": list(complaints(found).values())}
