"""A neural image codec: one model for every rate, decoding bit for bit the same everywhere.

    >>> import codec
    >>> data = codec.compress("picture.png", quality=40)
    >>> image = codec.decompress(data)

Names are loaded on first use, so that ``import codec`` costs nothing.
"""

import importlib
import typing

if typing.TYPE_CHECKING:
    from .api import Codec, compress, compress_batch, decompress, decompress_batch, verify
    from .errors import (
        BitstreamError,
        CodecError,
        Corrupt,
        ImageError,
        ModelError,
        NotThisFormat,
        TooLarge,
        Truncated,
        UnsupportedVersion,
    )

__version__ = "0.2.0"

_HOMES = {
    "Codec": "api",
    "compress": "api",
    "compress_batch": "api",
    "decompress": "api",
    "decompress_batch": "api",
    "verify": "api",
    "BitstreamError": "errors",
    "CodecError": "errors",
    "Corrupt": "errors",
    "ImageError": "errors",
    "ModelError": "errors",
    "NotThisFormat": "errors",
    "TooLarge": "errors",
    "Truncated": "errors",
    "UnsupportedVersion": "errors",
}

__all__ = [
    "BitstreamError",
    "Codec",
    "CodecError",
    "Corrupt",
    "ImageError",
    "ModelError",
    "NotThisFormat",
    "TooLarge",
    "Truncated",
    "UnsupportedVersion",
    "compress",
    "compress_batch",
    "decompress",
    "decompress_batch",
    "verify",
]


if not typing.TYPE_CHECKING:  # which would take any name to be there

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'codec' has no attribute '{name}'")
        value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
