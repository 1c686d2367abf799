"""Datasets for PyTorch's DataLoader, which decode as they are asked: files, and tar archives of samples.

    dataset = codec.torch_data.Pictures(["a.lqc", "s3://bucket/b.lqc"])
    samples = codec.torch_data.Shards(["shards/000.tar", "shards/001.tar"], shuffle=1000, seed=7)

Workers may be forked or spawned: each loads the model once, and computes with one thread. Needs PyTorch.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from . import bitstream
from .errors import CodecError
from .files import StrPath
from .remote import RemotePath, is_url
from .shards import members, sample_of

MODES = ("RGB", "L")


class _Decoder:
    """Compressed bytes to a tensor; loads its model where it is first used, once a process."""

    def __init__(self, mode, scale, model):
        if mode not in MODES:
            raise ValueError(f"mode {mode!r}: there are {', '.join(MODES)}")
        self.mode, self.scale, self.model = mode, scale, model
        self._coder: Any = None
        self._process: int | None = None

    def __call__(self, data):
        if self._process != os.getpid():  # also in a child that was forked after use
            from .api import Codec

            # Workers are one for each core; a program of one process keeps its own setting.
            self._coder, self._process = Codec(self.model, threads=1 if get_worker_info() else None), os.getpid()
        image = self._coder.decompress(data, scale=self.scale).convert(self.mode)
        pixels = np.array(image).reshape(image.height, image.width, -1)
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    def __getstate__(self):
        return {**vars(self), "_coder": None, "_process": None}


class Pictures(Dataset):
    """Compressed files as tensors.

    Args:
        files: paths, and URLs (extra ``remote``).
        transform: what is made of each tensor, uint8 (3, H, W), or (1, H, W) for mode "L".
        mode: "RGB" or "L"; alpha is left out.
        scale: 1, 1/2, 1/4 or 1/8: smaller pictures, see :meth:`codec.Codec.decompress`; 1/8 takes no network.
        model: as for :class:`codec.Codec`.

    Items raise what :meth:`codec.Codec.decompress` raises.
    """

    def __init__(
        self,
        files: Iterable[StrPath],
        transform: Callable[[torch.Tensor], Any] | None = None,
        *,
        mode: str = "RGB",
        scale: float = 1,
        model: str | None = None,
    ) -> None:
        self.files, self.transform = list(files), transform
        self._decode = _Decoder(mode, scale, model)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        picture = self._decode(self.files[index])
        return picture if self.transform is None else self.transform(picture)


class Shards(IterableDataset):
    """Samples of tar archives, as WebDataset has them: members that share a name up to its first point, side by side.

    Each is a dict: ``"__key__"``, the name, and by extension the contents: tensors uint8 (3, H, W) of compressed
    pictures, bytes of anything else. Archives are read from front to back; a sample is in memory at a time, or
    ``shuffle`` of them. They are dealt out among the workers, and among the processes of torch.distributed where it is
    initialised: ``shards`` should be many more than those.

    Args:
        shards: paths and URLs (extra ``remote``) of archives.
        transform: what is made of each dict.
        shuffle: samples among which the next one is drawn, before they are decoded; 0 keeps the order.
        seed: of archives' and samples' order; with ``set_epoch`` another order each time.
        mode, scale, model: as for :class:`Pictures`.
        on_error: called with each CodecError of a picture, whose sample is then left out; None: it is raised.

    Raises:
        CodecError: an archive is damaged.

    WebDataset: Aizman, Maltby, Breuel 2019, arXiv:2001.01858.
    """

    def __init__(
        self,
        shards: Iterable[StrPath],
        transform: Callable[[dict[str, Any]], Any] | None = None,
        *,
        shuffle: int = 0,
        seed: int = 0,
        mode: str = "RGB",
        scale: float = 1,
        model: str | None = None,
        on_error: Callable[[CodecError], object] | None = None,
    ) -> None:
        self.shards, self.transform = list(shards), transform
        self.shuffle, self.seed, self.epoch, self.on_error = shuffle, seed, 0, on_error
        self._decode = _Decoder(mode, scale, model)

    def set_epoch(self, epoch: int) -> None:
        """Draw another order from the next iteration on; before workers are started."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        dice = random.Random(f"{self.seed} {self.epoch}")
        shards = list(self.shards)
        if self.shuffle:
            dice.shuffle(shards)  # the same in all workers, before they take theirs
        number, count = _place()
        for sample in self._drawn(self._samples(shards[number::count]), dice):
            try:
                decoded = {name: self._content(data) for name, data in sample.items()}
            except CodecError as error:
                if self.on_error is None:
                    raise type(error)(f"{sample['__key__']}: {error}") from error
                self.on_error(error)
                continue
            yield decoded if self.transform is None else self.transform(decoded)

    def _samples(self, shards):
        """Dicts of bytes, in order."""
        for shard in shards:
            sample: dict[str, Any] = {}
            with RemotePath(shard).open() if is_url(shard) else Path(shard).open("rb") as file:
                try:
                    for name, data in members(file):
                        key, extension = sample_of(name)
                        if sample and sample["__key__"] != key:
                            yield sample
                            sample = {}
                        sample["__key__"] = key
                        sample[extension.lower()] = data
                except CodecError as error:
                    raise type(error)(f"{shard}: {error}") from error
            if sample:
                yield sample

    def _drawn(self, samples, dice):
        waiting: list[dict[str, Any]] = []
        for sample in samples:
            if len(waiting) < self.shuffle:
                waiting.append(sample)
            elif not self.shuffle:
                yield sample
            else:
                index = dice.randrange(len(waiting))
                waiting[index], sample = sample, waiting[index]
                yield sample
        dice.shuffle(waiting)
        yield from waiting

    def _content(self, data):
        is_picture = isinstance(data, bytes) and data.startswith(bitstream.MAGIC)
        return self._decode(data) if is_picture else data


def _place():
    """``(number, count)`` of this worker among all of this program."""
    worker = get_worker_info()
    number, count = (worker.id, worker.num_workers) if worker else (0, 1)
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        number += distributed.get_rank() * count
        count *= distributed.get_world_size()
    return number, count
