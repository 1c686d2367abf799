"""uint8 pixels <-> the float tensor that the model sees. Padding, cropping and rounding happen nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ..config import padded_size

if TYPE_CHECKING:
    import numpy as np


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """uint8 (H, W, 3) -> float32 (1, 3, H', W') in [0, 1], the last row and column repeated up to padded_size."""
    height, width = pixels.shape[:2]
    padded_height, padded_width = padded_size(height, width)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    return F.pad(x, (0, padded_width - width, 0, padded_height - height), mode="replicate")


def to_uint8(x_hat: torch.Tensor, height: int, width: int) -> np.ndarray:
    """Decoded (1, 3, H', W') -> uint8 array (height, width, 3): crop the padding, clamp to [0, 1], round to 8 bits."""
    x_hat = x_hat[0, :, :height, :width].permute(1, 2, 0)
    return (x_hat * 255 + 0.5).floor().clamp(0, 255).to(torch.uint8).cpu().contiguous().numpy()
