"""Stand-ins for ``codec.Codec``, quick to import for the processes that tests start."""

import io
import os

import numpy as np
from PIL import Image

from codec.errors import ImageError


class JpegCoder:
    """The methods of ``codec.Codec`` that evaluation uses, with JPEG 4:4:4 behind them."""

    model_id = "0badcafe"
    decoded_size = None  # set to give back another one
    limit = 65535  # pixels a side

    def __init__(self, model=None, device="cpu", threads=None, fallback="auto", effort=1):
        self.model, self.device, self.threads = model, device, threads
        self.calls = []

    def compress(self, image, quality=50.0):
        assert isinstance(image, np.ndarray) and image.dtype == np.uint8
        if max(image.shape) > self.limit:
            raise ImageError("too large for this coder")
        self.calls.append(quality)
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=max(1, round(0.95 * quality)), subsampling=0)
        return buffer.getvalue()

    def decompress(self, data):
        image = Image.open(io.BytesIO(data))
        return image.resize(self.decoded_size) if self.decoded_size else image


class Dying(JpegCoder):
    """Takes its process with it."""

    def compress(self, image, quality=50.0):
        os._exit(1)


class Greedy(JpegCoder):
    """Needs 200 MB to compress, and nothing to decompress."""

    def compress(self, image, quality=50.0):
        ballast = np.ones(200_000_000, np.uint8)
        return super().compress(image, quality) + bytes(ballast[:0])
