"""CompressAI's pre-trained models as anchors, from weights that are on this machine; nothing is downloaded.

``compressai:mbt2018-mean`` is the zoo's model of this name at every quality level whose weights are found: in
the folder where torch.hub keeps what CompressAI downloaded (``torch.hub.get_dir()/checkpoints``), or with
``compressai:mbt2018-mean=FOLDER`` in another one, under the file names of the zoo.

Pictures are padded, cropped and rounded as for our own codec. The file that counts as the rate holds what a
decoder needs beside the weights:

    1 byte   quality level
    2 x 2    height and width of the picture, big-endian
    2 x 2    height and width of the innermost latent
    1 byte   number of strings
    n x 4    their lengths
    ...      the strings, as the model's ``compress`` gives them

18 bytes of header for a model with a hyperprior, 14 for one without: 0.0004 bpp on a Kodak picture.

Begaint, Racape, Feltman, Pushparaja 2020, "CompressAI", arXiv:2011.03029.
"""

from __future__ import annotations

import hashlib
import pickle
import struct
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import CodecError, Corrupt, Truncated
from .anchors import check_size, settings_of

STRIDE = 64  # pixels: the largest of the zoo's models
HEADER = struct.Struct(">BHHHHB")


@dataclass
class Zoo:
    """One architecture of CompressAI's zoo; its quality levels are models of their own."""

    model: str  # CompressAI's name of the architecture
    weights: dict[int, Path | None]  # quality level -> file; None: random weights
    device: str = "cpu"
    digests: dict[int, str] = field(init=False)  # first digits of SHA-256, as in the zoo's file names
    _models: dict = field(init=False, default_factory=dict, repr=False, compare=False)

    writer = "CompressAI"
    min_side, max_side = 1, 65535

    def __post_init__(self) -> None:
        self.digests = {
            level: "random" if path is None else hashlib.sha256(path.read_bytes()).hexdigest()[:8]
            for level, path in self.weights.items()
        }

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_models": {}}  # another process loads them from their files

    @classmethod
    def find(cls, name: str, device: str = "cpu", random_weights: bool = False) -> Zoo:
        """The anchor called ``MODEL`` or ``MODEL=FOLDER``.

        Args:
            random_weights: where ``MODEL`` has no weights here, take random ones, at its middle quality level.
                The networks take as long as trained ones, the entropy coder less: all its symbols are zero. Rates
                and pictures mean nothing.

        Raises:
            CodecError: CompressAI knows no such model, or no weights of it are there.
        """
        architectures, model_urls = _zoo()
        model, _, folder = name.partition("=")
        known = sorted(set(architectures) & set(model_urls))
        if model not in known:
            raise CodecError(f"CompressAI has no model {model!r}; there are {', '.join(known)}")
        random_weights = random_weights and not folder
        place = Path(folder) if folder else Path(torch.hub.get_dir(), "checkpoints")
        files = {level: place / Path(url).name for level, url in sorted(model_urls[model]["mse"].items())}
        present: dict[int, Path | None] = {level: path for level, path in files.items() if path.is_file()}
        if not present and random_weights:
            present = {list(files)[len(files) // 2]: None}
        if not present:
            example = next(iter(files.values())).name
            raise CodecError(f"no weights of CompressAI's {model} in {place} (files like {example})")
        return cls(model, present, device)

    @property
    def name(self) -> str:
        return f"compressai:{self.model}"

    @property
    def title(self) -> str:
        return self.model if self.trained else f"{self.model}, random weights"

    @property
    def trained(self) -> bool:
        """Whether rates and pictures mean something: no weights are random."""
        return None not in self.weights.values()

    @property
    def qualities(self) -> tuple[float, ...]:
        return tuple(self.weights)

    @property
    def options(self) -> dict[str, Any]:
        return {"optimised for": "mse", "weights": self.digests}

    def settings(self) -> dict[str, Any]:
        """As of :meth:`codec.evaluation.anchors.Anchor.settings`."""
        return settings_of(self)

    def check(self) -> None:
        """Nothing more is needed once :meth:`find` has found weights."""

    def version(self) -> str:
        """Of CompressAI."""
        from importlib.metadata import version

        return version("compressai")

    def load(self) -> None:
        """Load the models of all levels, so that no coding has to wait for one."""
        for level in self.weights:
            self._model(level)

    def compress(self, image: Image.Image | np.ndarray, quality: float) -> bytes:
        """The bytes of a whole file, see the module's docstring.

        Args:
            image: PIL.Image or uint8 array (H, W, 3).
            quality: a level that is among ``qualities``.

        Raises:
            ImageError: a side has more than 65535 pixels.
        """
        if isinstance(image, Image.Image):
            image = np.array(image.convert("RGB"))
        height, width, _ = image.shape
        check_size(self, width, height)
        x = _to_tensor(image).to(self.device)
        with torch.inference_mode():
            out = self._model(int(quality)).compress(x)
        strings = [string for (string,) in out["strings"]]  # each a batch of one
        header = HEADER.pack(int(quality), height, width, *out["shape"], len(strings))
        return header + struct.pack(f">{len(strings)}I", *map(len, strings)) + b"".join(strings)

    def decompress(self, data: bytes) -> Image.Image:
        """PIL.Image, cropped, clamped and rounded to 8 bits.

        Raises:
            Truncated: the bytes end early. Corrupt: there are no weights for the quality level in them.
        """
        try:
            level, height, width, *shape, count = HEADER.unpack_from(data)
            lengths = struct.unpack_from(f">{count}I", data, HEADER.size)
        except struct.error:
            raise Truncated("truncated within the header") from None
        start = HEADER.size + 4 * count
        if len(data) != start + sum(lengths):
            raise Truncated(f"needed {start + sum(lengths)} bytes, found {len(data)}")
        if level not in self.weights:
            raise Corrupt(f"quality level {level} of {self.model} is not here")
        strings = []
        for length in lengths:
            strings.append([data[start : start + length]])
            start += length
        with torch.inference_mode():
            x_hat = self._model(level).decompress(strings, tuple(shape))["x_hat"]
        return Image.fromarray(_to_uint8(x_hat, height, width))

    def _model(self, level):
        if level not in self._models:
            path = self.weights[level]
            model = self._random(level) if path is None else self._read(path)
            model.update()
            self._models[level] = model.eval().to(self.device)
        return self._models[level]

    def _read(self, path):
        architectures, _ = _zoo()
        from compressai.zoo.pretrained import load_pretrained

        try:
            state = load_pretrained(torch.load(path, map_location="cpu", weights_only=True))
            return architectures[self.model].from_state_dict(state)
        except (OSError, EOFError, RuntimeError, KeyError, ValueError, pickle.UnpicklingError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise CodecError(f"{path}: not the weights of {self.model}: {reason}") from None

    def _random(self, level):
        architectures, _ = _zoo()
        from compressai.zoo.image import cfgs

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return architectures[self.model](*cfgs[self.model][level])


def _to_tensor(image):
    """uint8 (H, W, 3) -> float32 (1, 3, H', W') in [0, 1]; last row and column repeated up to multiples of STRIDE."""
    padding = [(0, -side % STRIDE) for side in image.shape[:2]]
    padded = np.pad(image, [*padding, (0, 0)], mode="edge")
    return torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 255


def _to_uint8(x_hat, height, width):
    """(1, 3, H', W') -> uint8 (height, width, 3): crop the padding, clamp to [0, 1], round to 8 bits."""
    x_hat = x_hat[0, :, :height, :width].permute(1, 2, 0)
    return (x_hat * 255 + 0.5).floor().clamp(0, 255).to(torch.uint8).cpu().contiguous().numpy()


def _zoo():
    """CompressAI's tables: architecture -> class, and architecture -> metric -> level -> address of the weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a library below it uses what PyTorch has come to deprecate
        from compressai.zoo.image import model_architectures, model_urls
    return model_architectures, model_urls
