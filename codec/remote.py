"""Files behind URLs (``s3://``, ``gs://``, ``https://``, ``memory://`` ...), through fsspec: the extra ``remote``.

What a scheme needs besides (s3fs, gcsfs, aiohttp ...) fsspec names where it is missing. Standard library only, until a
URL is opened.
"""

from __future__ import annotations

import contextlib
import functools
import re
from pathlib import PurePath, PurePosixPath
from typing import IO, Any

from .errors import CodecError
from .extras import installed, lacks
from .files import BytesLike


def is_url(name: object) -> bool:
    """Whether a text is a URL, perhaps one of fsspec's chains (``simplecache::s3://...``), and not a path."""
    return (
        isinstance(name, str) and re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+::)*[a-zA-Z][a-zA-Z0-9+.-]+://", name) is not None
    )


class RemotePath:
    """As much of ``pathlib.Path`` as a file behind a URL can have."""

    def __init__(self, url: str) -> None:
        self._scheme, self._separator, path = url.partition("://")
        self._path = PurePosixPath(path)

    def __str__(self) -> str:
        return f"{self._scheme}{self._separator}{self._path}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __truediv__(self, relative: PurePath) -> RemotePath:
        return self.joinpath(*relative.parts)

    def _with(self, path: PurePosixPath) -> RemotePath:
        return RemotePath(f"{self._scheme}{self._separator}{path}")

    as_posix = __str__

    def __reduce__(self) -> tuple[Any, ...]:
        return RemotePath, (str(self),)  # the file system is opened anew

    def joinpath(self, *names: str) -> RemotePath:
        return self._with(self._path.joinpath(*names))

    name = property(lambda self: self._path.name)
    parent = property(lambda self: self._with(self._path.parent))
    stem = property(lambda self: self._path.stem)
    suffix = property(lambda self: self._path.suffix)

    def with_name(self, name: str) -> RemotePath:
        return self._with(self._path.with_name(name))

    def with_suffix(self, suffix: str) -> RemotePath:
        return self._with(self._path.with_suffix(suffix))

    def relative_to(self, folder: RemotePath) -> PurePosixPath:
        return self._path.relative_to(folder._path)

    def is_dir(self) -> bool:
        with _one_line(self):
            return self._fresh.isdir(self._inside)

    def is_file(self) -> bool:
        with _one_line(self):
            return self._fresh.isfile(self._inside)

    def size(self) -> int:
        """Bytes; 0 where the other side does not say."""
        with _one_line(self):
            return self._system.size(self._inside) or 0

    def open(self) -> IO[bytes]:
        """A binary file to read, to be closed."""
        with _one_line(self):
            return self._system.open(self._inside, "rb")

    def write_bytes(self, data: BytesLike) -> None:
        """Write the object in one go; most stores show it whole or not at all."""
        with _one_line(self):
            self._system.pipe_file(self._inside, bytes(data))

    def files_below(self, recursive: bool) -> list[RemotePath]:
        """RemotePath of the files in a folder, sorted."""
        with _one_line(self):
            found = self._fresh.find(self._inside, maxdepth=None if recursive else 1)
        return [self._absolute(name) for name in sorted(found)]

    def put(self, file: PurePath) -> None:
        """Write the object from a file of this machine, given by its path, in one go."""
        with _one_line(self):
            self._system.put_file(str(file), self._inside)

    def kinds(self) -> dict[str, str | None]:
        """Name -> "file" or "folder" of all that is in a folder; empty where there is none."""
        with _one_line(self):
            try:
                found = self._fresh.ls(self._inside, detail=True)
            except FileNotFoundError:
                return {}
        kinds = {"file": "file", "directory": "folder"}
        return {PurePosixPath(each["name"]).name: kinds.get(each["type"]) for each in found}

    def glob(self) -> list[RemotePath]:
        """RemotePath of what matches the URL as a pattern, sorted."""
        with _one_line(self):
            found = self._fresh.glob(self._inside)
        return [self._absolute(name) for name in sorted(found)]

    def _absolute(self, name):
        scheme, separator, path = self._system.unstrip_protocol(name).partition("://")
        return RemotePath(scheme + separator + (path if self._path.is_absolute() else path.lstrip("/")))

    @functools.cached_property
    def _opened(self) -> tuple[Any, str]:
        if not installed("fsspec"):
            raise CodecError(lacks(self._scheme, "remote", ["fsspec"]))
        from fsspec.core import url_to_fs

        return url_to_fs(str(self))

    @property
    def _fresh(self):
        """The file system without what it remembers of this place: others write there too."""
        self._system.invalidate_cache(self._inside)
        return self._system

    _system = property(lambda self: self._opened[0])
    _inside = property(lambda self: self._opened[1])


@contextlib.contextmanager
def _one_line(path):
    """Whatever a store raises becomes one of our errors."""
    try:
        yield
    except (CodecError, MemoryError):
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, FileNotFoundError):
            reason = "no such file"
        raise CodecError(f"{path}: {' '.join(str(reason).split())}") from error
