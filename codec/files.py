"""Writing files: whole or not at all. Standard library only.

Contents are made in memory, written to a temporary file in the target's folder, flushed to the disk, and moved into
place. Whatever happens meanwhile (a full disk, Ctrl-C, the end of the process, a power cut), under the target's name
stands the old file or the new one. What a killed process leaves is ``.codec-<16 hex digits>.tmp``, and is removed by
the first writer that comes by a day later.
"""

import contextlib
import errno
import functools
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from typing import Any, BinaryIO, TypeAlias

from .errors import CodecError

StrPath: TypeAlias = str | os.PathLike[str]
BytesLike: TypeAlias = bytes | bytearray | memoryview

LITTER_AGE = 24 * 3600  # seconds: nobody writes to one file for so long
_TEMPORARY = re.compile(r"\.codec-[0-9a-f]{16}\.tmp")


def write_bytes_atomic(path: StrPath, data: BytesLike) -> None:
    """Write a file that appears whole or not at all; a device or a pipe is just written to.

    Args:
        path: str or path-like. A symbolic link stays one: what it points to is written.
        data: bytes-like.

    Raises:
        CodecError: it cannot be written; what was there before still is.
    """
    path = os.fsdecode(path)
    try:
        _write(path, data)
    except BrokenPipeError:
        raise  # who reads has gone, which is no fault of the file
    except (OSError, ValueError) as error:  # ValueError: a name that holds a zero byte
        reason = getattr(error, "strerror", None) or str(error)
        raise CodecError(f"{path}: cannot write: {reason[:1].lower()}{reason[1:]}") from error


@contextlib.contextmanager
def atomic_file(path: StrPath) -> Iterator[BinaryIO]:
    """A binary file to write to, for ``with``: it gets that name, whole, at the end, and is gone where that raises.

    Args:
        path: str or path-like. A symbolic link stays one: what it points to is written.

    Raises:
        OSError: it cannot be written; what was there before still is.
    """
    target = os.path.realpath(path)
    # Moving a file over another one asks only the folder for permission; respect the file's, too.
    if os.path.exists(target) and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    temporary = temporary_beside(target)
    # 0o666 less the user's umask, like open(); tempfile would make files that nobody else may read.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(temporary, flags, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)  # contents before name: a power cut must not leave an empty file
        if os.path.exists(target):
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException:  # Ctrl-C included
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def renamed(place: Any, suffix: str, keep: bool) -> Any:
    """The path of a result: ``a.jpg`` -> ``a.bin``, or to keep its suffix ``a.jpg.bin``; ``a.png.bin`` -> ``a.png``.

    Args:
        place: a path as of pathlib, or RemotePath.
    """
    if keep:
        return place.with_name(place.name + suffix)
    bare = place.with_suffix("")
    return bare if bare.suffix.lower() == suffix else place.with_name(place.stem + suffix)


def temporary_beside(path: StrPath) -> str:
    """A new name in the folder of ``path`` for a file or folder that is to be moved there."""
    folder = os.path.dirname(path)
    _remove_litter(os.path.abspath(folder))
    # Of fixed length, as the name of the target may have the longest allowed.
    return os.path.join(folder, f".codec-{secrets.token_hex(8)}.tmp")


def _write(path: str, data: BytesLike) -> None:
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as file:  # a folder is refused here
            file.write(data)
        return
    with atomic_file(path) as file:
        file.write(data)


@functools.lru_cache(maxsize=1024)  # once a folder and process
def _remove_litter(folder: str) -> None:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not _TEMPORARY.fullmatch(entry.name):
                continue
            with contextlib.suppress(OSError):
                found = entry.stat(follow_symlinks=False)
                if time.time() - found.st_mtime < LITTER_AGE:
                    continue
                if stat.S_ISDIR(found.st_mode):
                    shutil.rmtree(entry.path, ignore_errors=True)
                elif stat.S_ISREG(found.st_mode):
                    os.unlink(entry.path)
