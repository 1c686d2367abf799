"""The transforms of a model in PyTorch, for GPUs: what :class:`codec.engine.Engine` is in ONNX Runtime.

Symbols decode to the same numbers with either, as the entropy networks are NumPy's; an encoder's latents, and pixels,
may differ by a rounding step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from .. import engine
from ..config import STEP, ModelConfig, padded_size
from ..engine import Piece, Sliced, in_pixels, pieces
from ..errors import CodecError
from ..quality import QUALITY_UNIT
from ..threads import Lock
from .transforms import Transforms


class TorchEngine(engine.Transforms):
    """g_a, h_a and g_s of one model on a device of PyTorch; methods and arrays as :class:`codec.engine.Engine`'s.

    Global settings of PyTorch (default dtype, autocast, precision of products) do not matter, and are as before after
    each call.

    Args:
        config: ModelConfig.
        weights: name -> float array of all float weights.
        device: "cpu", "cuda", ...

    Raises:
        CodecError: PyTorch cannot use the device.
    """

    def __init__(self, config: ModelConfig, weights: Mapping[str, np.ndarray], device: str = "cpu") -> None:
        self.config = config
        try:
            self.device = torch.device(device)
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise CodecError(f"device {device}: {str(error).splitlines()[0]}") from None
        self._transforms: Any = Transforms(config).float().eval().requires_grad_(False)
        tensors = {name: torch.from_numpy(array.astype(np.float32)) for name, array in weights.items()}
        self._transforms.load_state_dict(tensors)
        self._transforms.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def analyse_pieces(self, pixels: Sliced, quality: int) -> Iterator[tuple[Piece, np.ndarray]]:
        """Yield (Piece, y float32 (M, piece's height, piece's width)) for all pieces of pixels (H, W, 3)."""
        height, width = (n // STEP for n in padded_size(*pixels.shape[:2]))
        for piece in pieces(height, width):
            outer = piece.grown(self._transforms.g_a.reach, height, width)
            part = np.asarray(pixels[in_pixels(outer)])
            missing = [STEP * n - have for n, have in zip(outer.size, part.shape)]
            part = np.pad(part, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
            x = torch.from_numpy(part).to(self.device, torch.float32).permute(2, 0, 1)[None]
            y = self._run(self._transforms.analyse, x / 255 if part.dtype == np.uint8 else x, quality)
            yield piece, _inside(y, piece, outer, 1)

    def side_information(self, y: np.ndarray, quality: int) -> np.ndarray | None:
        """y (M, h, w), h and w multiples of 4 -> gained z float32 (N, h/4, w/4); None where there is none."""
        if not self.config.side_information:
            return None
        t = torch.from_numpy(np.ascontiguousarray(y[None], np.float32)).to(self.device)
        return self._run(self._transforms.side_information, t, quality)

    def synthesise(self, y_hat: Sliced, quality: int) -> np.ndarray:
        """y_hat (M, h, w) -> x_hat float32 (3, 16 h, 16 w), not clamped."""
        x_hat = np.empty((3, STEP * y_hat.shape[1], STEP * y_hat.shape[2]), np.float32)
        for piece, part in self._synthesise_pieces(y_hat, quality):
            rows, columns = in_pixels(piece)
            x_hat[:, rows, columns] = part
        return x_hat

    def synthesise_pieces(
        self, y_hat: Sliced, quality: int, within: Piece | None = None
    ) -> Iterator[tuple[Piece, np.ndarray]]:
        """As :meth:`codec.engine.Engine.synthesise_pieces`."""
        for piece, part in self._synthesise_pieces(y_hat, quality, within):
            yield piece, np.clip(part.transpose(1, 2, 0) * 255 + np.float32(0.5), 0, 255).astype(np.uint8)

    def synthesise_float_pieces(
        self, y_hat: Sliced, quality: int, within: Piece | None = None
    ) -> Iterator[tuple[Piece, np.ndarray]]:
        """As :meth:`codec.engine.Engine.synthesise_float_pieces`."""
        for piece, part in self._synthesise_pieces(y_hat, quality, within):
            yield piece, part.transpose(1, 2, 0)

    def _synthesise_pieces(self, y_hat, quality, within=None):
        _, height, width = y_hat.shape
        for piece in pieces(height, width, within):
            outer = piece.grown(self._transforms.g_s.reach, height, width)
            y = np.asarray(y_hat[:, outer.top : outer.bottom, outer.left : outer.right])
            t = torch.from_numpy(np.ascontiguousarray(y[None], np.float32)).to(self.device)
            yield piece, _inside(self._run(self._transforms.synthesise, t, quality), piece, outer, STEP)

    def _run(self, function, t, quality):
        """``function(t (1, ...), quality (1,))`` as a NumPy array without the first dimension."""
        quality = torch.tensor([quality / QUALITY_UNIT], dtype=torch.float32, device=self.device)
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False), _full_precision():
            return function(t.contiguous(memory_format=torch.channels_last), quality)[0].cpu().numpy()


def _inside(array, piece, outer, scale):
    """What belongs to a piece of a result (C, ...) for the outer piece, at ``scale`` samples per latent position."""
    top, left = scale * (piece.top - outer.top), scale * (piece.left - outer.left)
    height, width = (scale * n for n in piece.size)
    return array[:, top : top + height, left : left + width]


_precision = Lock()  # the settings are the process's


@contextmanager
def _full_precision():
    """Products of float32 in float32: neither bfloat16 nor TF32, whatever the caller has chosen."""
    with _precision:
        products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(products)
            torch.backends.cudnn.allow_tf32 = convolutions
