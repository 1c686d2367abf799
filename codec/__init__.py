"""A neural image codec: one model for every rate, decoding bit for bit the same everywhere.

    >>> import codec
    >>> data = codec.compress("picture.png", quality=40)
    >>> image = codec.decompress(data)

Names are loaded on first use, so that ``import codec`` costs nothing.
"""

import importlib

__version__ = "0.1.0"

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

__all__ = sorted(_HOMES)


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module 'codec' has no attribute '{name}'")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})
