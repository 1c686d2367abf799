"""What a typed program says to this package, for `make lint` alone: mypy reads it as strictly as the package itself.

An error that is expected has a ``type: ignore``, which is an error where it is not needed.
"""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

import codec
import codec.pillow_plugin
from codec.api import Codec
from codec.bitstream import Container, Header, Tile, read_header, unpack
from codec.errors import CodecError, ImageError
from codec.evaluation import evaluate
from codec.evaluation.bd_rate import BdRate, bd_rate
from codec.evaluation.metrics import psnr_db, ssimulacra2
from codec.evaluation.run import Evaluation
from codec.image_io import Picture, read_picture
from codec.quality import hundredths
from codec.targets import Target, target_of
from codec.weights import find_model, list_models

if TYPE_CHECKING:
    import torch
    from typing_extensions import assert_type

    def files(array: np.ndarray, tensor: torch.Tensor) -> None:
        data = codec.compress("a.png", 40)
        assert_type(data, bytes)
        for picture in (Path("a.png"), b"...", array, Image.new("L", (8, 8)), BytesIO()):
            codec.compress(picture, "web", exif=b"", effort=0)
        codec.compress(tensor, target_size="200kB", strip=True, frame=None, on_remark=print)
        assert_type(codec.decompress(data), Image.Image)
        assert_type(codec.decompress(Path("a.bin"), as_array=True, region=(0, 0, 8, 8), scale=0.5), np.ndarray)
        codec.verify(data)

    def batches(coder: codec.Codec) -> None:
        assert_type(codec.compress_batch(["a.png", b"..."]), list[bytes])
        assert_type(codec.compress_batch(["a.png"], on_error="return", strip=True), list[bytes | CodecError])
        assert_type(codec.decompress_batch([b"..."]), list[Image.Image])
        assert_type(codec.decompress_batch([b"..."], as_array=True), list[np.ndarray])
        assert_type(coder.decompress_batch([b"..."], on_error="return"), list[Image.Image | CodecError])
        assert_type(coder.decompress_picture(b"...", 16), Picture)
        assert_type(Codec(find_model(list_models()[0]), threads=1, tune=None).reconstruct("a.png"), np.ndarray)

    def parts(data: bytes) -> None:
        assert_type(read_header(data), Header)
        assert_type(unpack(data), Container)
        assert_type(unpack(data).tiles[0], Tile | None)
        assert_type(read_picture("a.png", frame=1).alpha, np.ndarray | None)
        assert_type(hundredths(40), int)
        assert_type(target_of(target_psnr=38), Target | None)
        assert_type(bd_rate([(0.1, 30.0)], [(0.1, 31.0)]), BdRate | None)

    def figures(one: np.ndarray, two: np.ndarray) -> None:
        assert_type(psnr_db(one, two), float)
        assert_type(ssimulacra2(one, two), float | None)
        found = evaluate(["a.png", ("b", Path("b.png"))], against=["webp"], failed=lambda name, error: print(name))
        assert_type(found, Evaluation)
        assert_type(found.answer()["needs"], list[str])
        assert_type(found.rows[0].psnr_db, float)
        assert issubclass(ImageError, CodecError)

    def mistakes(data: bytes) -> None:
        codec.compres("a.png")  # type: ignore[attr-defined]
        codec.compress(7)  # type: ignore[arg-type]
        codec.compress("a.png", target_sice=100)  # type: ignore[call-arg]
        codec.decompress(data, as_array="yes")  # type: ignore[call-overload]
        codec.decompress_batch([data], on_error="ignore")  # type: ignore[call-overload]
        codec.evaluation.evaluat([])  # type: ignore[attr-defined]
