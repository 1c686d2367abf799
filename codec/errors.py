"""Everything that this package raises on purpose, as one small tree.

    CodecError                    catch this one to catch them all; by itself: a file that cannot be written, memory
    ├── BitstreamError            the compressed file is at fault
    │   ├── NotThisFormat         it does not begin like one of our files
    │   ├── UnsupportedVersion    it comes from a newer version of the codec
    │   ├── Truncated             it ends too early
    │   ├── Corrupt               its contents contradict themselves or their checksum
    │   └── TooLarge              it describes more than this reader agrees to allocate
    ├── ModelError                the weights are missing, damaged, or not those the file asks for
    └── ImageError                a picture cannot be read, used or written

Every message is one line in the user's terms, fit to follow ``codec: picture.bin:``. Anything else that
escapes from the package (``TypeError``, ``AssertionError``, ...) is a mistake in a program, not in a file.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


class CodecError(Exception):
    """Whatever went wrong with a file, a picture or a model; the message is one clear line."""


class BitstreamError(CodecError):
    """A compressed file cannot be decoded."""


class NotThisFormat(BitstreamError):
    """The bytes do not begin with the magic of this format."""


class UnsupportedVersion(BitstreamError):
    """The file needs a newer version of the codec: unknown format version or unknown flags."""


class Truncated(BitstreamError):
    """The bytes end before the file does."""


class Corrupt(BitstreamError):
    """A checksum fails, or a field holds a value that the format does not allow."""


class TooLarge(BitstreamError):
    """A size is beyond the limits of the format; raised before anything of that size is allocated."""


class ModelError(CodecError):
    """The weights cannot be found, do not match their description, or are not the ones a file needs."""


class ImageError(CodecError):
    """A picture cannot be read, does not have a usable shape or type, or cannot be written."""


def tensor(tensors: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """The array of this name among a weights file's; ModelError where it is missing."""
    if name not in tensors:
        raise ModelError(f"the weights lack {name}")
    return tensors[name]


# What libraries say that have no MemoryError: ONNX Runtime, C++, Pillow's decoders and encoders, Python's threads.
_MEMORY_WORDS = (
    "Failed to allocate memory", "bad_alloc", "bad allocation", "out of memory", "encoder error -9", "start new thread",
    "failed to map segment",
)  # fmt: skip


def is_memory(error: BaseException | None) -> bool:
    """Whether an exception that is not one of ours means that memory has run out."""
    if isinstance(error, (MemoryError, CodecError)):
        return isinstance(error, MemoryError)
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.ENOMEM
    return any(words in str(error) for words in _MEMORY_WORDS)


def not_enough_memory(width: int, height: int, name: str = "") -> CodecError:
    """The error for a picture that is too large for this machine, now."""
    text = f"not enough memory for {width * height / 1e6:.3g} megapixels"
    return CodecError(f"{name}: {text}" if name else text)
