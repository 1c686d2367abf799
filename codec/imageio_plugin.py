"""Compressed files in imageio, which it needs: after ``import codec.imageio_plugin``, ``imread`` and all know them.

    import codec.imageio_plugin
    import imageio.v3 as iio

    iio.imwrite("photo.bin", iio.imread("photo.jpg"), quality=60)
    pixels = iio.imread("photo.bin")
    iio.immeta("photo.bin")["quality"]

Arrays are those of :meth:`codec.Codec.compress` and ``decompress(..., as_array=True)``. A file holds one picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from imageio.config import known_extensions, known_plugins
from imageio.config.extensions import FileExtension
from imageio.config.plugins import PluginConfig
from imageio.core.request import InitializationError, IOMode, Request
from imageio.core.v3_plugin_api import ImageProperties, PluginV3
from PIL import Image

from . import bitstream, pillow_plugin

NAME = "codec"
_RETURN_BYTES = "<bytes>"  # imageio's name of a file whose contents are the result


class CodecPlugin(PluginV3):
    """Reads and writes one compressed file."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        if request.mode.io_mode == IOMode.read:
            if request.get_file().read(len(bitstream.MAGIC)) != bitstream.MAGIC:
                raise InitializationError("not a file of this codec: it does not begin with its magic")
        elif request.extension not in pillow_plugin.EXTENSIONS:
            raise InitializationError(f"names of files of this codec end in {', '.join(pillow_plugin.EXTENSIONS)}")

    def read(self, *, index: Any = None) -> np.ndarray:
        """The picture as uint8 (H, W, 3), (H, W), (H, W, 4) or (H, W, 2); with ``index=...`` as (1, H, W, 3) etc."""
        import codec

        _check_index(index)
        pixels = codec.decompress(self._file(), as_array=True)
        return pixels[None] if index is ... else pixels

    def iter(self) -> Iterator[np.ndarray]:
        """Yield the picture."""
        yield self.read()

    def write(self, ndimage: Any, **options: Any) -> bytes | None:
        """Write one picture; options are those of ``codec.compress``. Returns its bytes where those are asked for.

        Raises:
            ValueError: several pictures.
        """
        import codec

        pictures = list(ndimage) if isinstance(ndimage, (list, tuple)) else [ndimage]
        if len(pictures) == 1 and np.ndim(pictures[0]) == 4:
            pictures = list(np.asarray(pictures[0]))
        if len(pictures) != 1:
            raise ValueError(f"a file of this codec holds one picture, not {len(pictures)}")
        data = codec.compress(np.asarray(pictures[0]), **options)
        self.request.get_file().write(data)
        return data if self.request.raw_uri == _RETURN_BYTES else None

    def properties(self, index: Any = None) -> ImageProperties:
        """Shape and type of what :meth:`read` returns, from the header."""
        _check_index(index)
        header = bitstream.read_header(self._file())
        channels = (1 if header.grey else 3) + header.alpha
        shape = (header.height, header.width, channels)[: 2 if channels == 1 else 3]
        whole = index is ...
        return ImageProperties(
            shape=(1, *shape) if whole else shape,
            dtype=np.dtype(np.uint8),
            n_images=1 if whole else None,
            is_batch=whole,
        )

    def metadata(self, index: Any = None, exclude_applied: bool = True) -> dict[str, Any]:
        """``quality``, ``model_id``, and what else Pillow's ``info`` holds: ``icc_profile``, ``exif``, ``xmp`` ..."""
        _check_index(index)
        with Image.open(self._file()) as image:
            return dict(image.info)

    def _file(self) -> IO[bytes]:
        file = self.request.get_file()
        file.seek(0)
        return file


def _check_index(index: Any) -> None:
    if index not in (None, 0, ...):
        raise IndexError(f"a file of this codec holds one picture; there is no {index}")


known_plugins[NAME] = PluginConfig(name=NAME, class_name="CodecPlugin", module_name=__name__)
for _extension in pillow_plugin.EXTENSIONS:
    known_extensions[_extension] = [
        FileExtension(name="learned quantisation codec", extension=_extension, priority=[NAME]),
        *known_extensions.get(_extension, []),
    ]
