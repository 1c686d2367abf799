"""Random crops from a folder of pictures that may grow while they are read."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from ..errors import ImageError
from ..files import StrPath
from ..image_io import read_picture
from .drawings import draw

if TYPE_CHECKING:
    from .config import TrainingConfig


EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm"}


def find_pictures(paths: Iterable[StrPath]) -> list[Path]:
    """Picture files named by, or anywhere below, the paths; sorted.

    Raises:
        ImageError: a path does not exist.
    """
    found: set[Path] = set()
    for path in map(Path, paths):
        if path.is_dir():
            found.update(p for p in path.rglob("*") if p.suffix.lower() in EXTENSIONS)
        elif path.exists():
            found.add(path)
        else:
            raise ImageError(f"{path}: no such file or folder")
    return sorted(found)


class Crops:
    """Batches of random crops, prepared ahead in threads.

    Batch number n depends on the seed, the rank, n and the list of pictures alone, so that a resumed run sees what
    an uninterrupted one would have seen.

    Args:
        config: TrainingConfig.
        rank: number of this process.
    """

    def __init__(self, config: TrainingConfig, rank: int = 0) -> None:
        self.config, self.rank = config, rank
        self._pictures: list[Path] = []
        self._skipped: set[Path] = set()
        self._cache: OrderedDict[Path, np.ndarray] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1))
        self._pending: dict[int, Any] = {}
        self.rescan()

    def rescan(self) -> int:
        """Look for new pictures; returns how many there are now.

        Raises:
            ImageError: there is none.
        """
        pictures = [p for p in find_pictures(self.config.pictures) if p not in self._skipped]
        if not pictures:
            raise ImageError(f"no usable pictures of at least {self.config.crop} pixels in {self.config.pictures}")
        self._pictures = pictures
        return len(pictures)

    def batch(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 tensor (B, 3, crop, crop), and bool (B,), which of them are drawings.

        The next batches are prepared in the background.
        """
        for n in range(number, number + 3):
            if n not in self._pending:
                self._pending[n] = [self._pool.submit(self._crop, n, i) for i in range(self.config.batch)]
        crops, drawn = zip(*(future.result() for future in self._pending.pop(number)))
        return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2), torch.tensor(drawn)

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _crop(self, number, index):
        rng = np.random.default_rng([self.config.seed, self.rank, number, index])
        if rng.random() < self.config.drawn:
            return draw(rng, self.config.crop), True
        pictures = self._pictures
        while pictures:
            path = pictures[rng.integers(len(pictures))]
            pixels = self._read(path)
            if pixels is not None:
                return _random_crop(pixels, self.config.crop, self.config.downscale, rng), False
            pictures = [p for p in self._pictures if p not in self._skipped]
        raise ImageError(f"no usable pictures of at least {self.config.crop} pixels in {self.config.pictures}")

    def _read(self, path):
        """Decoded pixels, from the cache when they are there; None for files that are no use, now and later."""
        with self._lock:
            if path in self._cache:
                self._cache.move_to_end(path)
                return self._cache[path]
        try:
            pixels = read_picture(path).pixels
        except ImageError:
            pixels = None
        if pixels is None or min(pixels.shape[:2]) < self.config.crop:
            self._skipped.add(path)
            return None
        with self._lock:
            if path not in self._cache:
                self._cache[path] = pixels
                self._cached_bytes += pixels.nbytes
            while self._cached_bytes > self.config.cache_gib * 2**30 and len(self._cache) > 1:
                _, old = self._cache.popitem(last=False)
                self._cached_bytes -= old.nbytes
        return pixels


def _random_crop(pixels, side, downscale, rng):
    """(side, side, 3): a random window, perhaps downscaled by up to 2, flipped and transposed at random."""
    height, width = pixels.shape[:2]
    window = side
    if rng.random() < downscale:
        window = int(side * min(rng.uniform(1, 2), height / side, width / side))
    top, left = rng.integers(height - window + 1), rng.integers(width - window + 1)
    crop = pixels[top : top + window, left : left + window]
    if window != side:
        crop = np.asarray(Image.fromarray(crop).resize((side, side), Image.Resampling.LANCZOS))
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    if rng.random() < 0.5:
        crop = crop.transpose(1, 0, 2)
    return np.ascontiguousarray(crop)


def validation_crops(folder: StrPath, side: int = 256) -> torch.Tensor:
    """Centre crops of every picture in a folder that is large enough: uint8 (n, 3, side, side)."""
    crops = []
    for path in find_pictures([folder]):
        pixels = read_picture(path).pixels
        height, width = pixels.shape[:2]
        if min(height, width) >= side:
            top, left = (height - side) // 2, (width - side) // 2
            crops.append(pixels[top : top + side, left : left + side].transpose(2, 0, 1))
    if not crops:
        raise ImageError(f"{folder}: no validation pictures of at least {side} pixels")
    return torch.from_numpy(np.stack(crops))
