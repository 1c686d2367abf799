"""Rows on disk as they are measured, so that a run that was stopped goes on where it was.

A file of JSON lines: one that says what the file is, then one per row, with a key. The key is a SHA-256 of
everything that the row depends on: the picture's bytes, the codec with its settings, version and weights, the
quality, the metrics, the machine and its threads. A row is taken from the file only under its own key, so one
file may serve any number of runs, and figures of different settings are never mixed.

A line is written by one call, at the end of the file. Whatever stops the program, at most the row in flight is
lost; half a line is passed over when the file is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..errors import CodecError
from ..files import StrPath
from ..remote import RemotePath

if TYPE_CHECKING:
    from .rate_distortion import Entrant, Row


HEADER = b'{"format": "rows of codec evaluate", "version": 1}\n'


class Journal:
    """The rows in one file, and those to come.

    Args:
        path: of the file; made where there is none.
        row: the class of the rows, made from the fields by name.
        common: what all rows of this run depend on; anything that JSON can hold.

    Raises:
        CodecError: there is a file, and it is something else.
    """

    def __init__(self, path: StrPath, row: Callable[..., Row], common: Any = None) -> None:
        self.common = common
        self.found = 0  # rows that were taken from the file
        self._rows = {}
        try:
            with open(path, "rb") as file:
                contents = file.read()
        except FileNotFoundError:
            contents = b""
        if HEADER.startswith(contents) and contents != HEADER:
            contents = b""  # new, or stopped while the first line was written
        elif not contents.startswith(HEADER):
            raise CodecError(f"{path}: holds no rows of codec evaluate; name another file")
        for line in contents.split(b"\n")[1:]:
            try:
                entry = json.loads(line)
                self._rows[entry["key"]] = row(**entry["row"])
            except (ValueError, TypeError, KeyError):
                pass  # half a line, or none
        self._file = open(path, "ab" if contents else "wb", buffering=0)  # noqa: SIM115  closed by __exit__()
        self._file.write(HEADER if not contents else b"" if contents.endswith(b"\n") else b"\n")

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def find(self, digest: str | None, entrant: Entrant, quality: float, metrics: Collection[str]) -> Row | None:
        """The row of a picture under these settings, or None."""
        row = self._rows.get(self._key(digest, entrant, quality, metrics))
        self.found += row is not None
        return row

    def add(self, digest: str | None, entrant: Entrant, row: Row, metrics: Collection[str]) -> None:
        """Write a row that has just been measured."""
        entry = {"key": self._key(digest, entrant, row.quality, metrics), "row": asdict(row)}
        self._file.write(json.dumps(entry, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n")

    def _key(self, digest: str | None, entrant: Entrant, quality: float, metrics: Collection[str]) -> str:
        # The other qualities of the ladder have no say in this one's row.
        settings = {name: value for name, value in entrant.settings.items() if name != "qualities"}
        parts = [self.common, digest, entrant.name, settings, float(quality), sorted(metrics)]
        text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()


def digest(path: StrPath | RemotePath) -> str | None:
    """SHA-256 of a file, or None where it cannot be read: somebody else will say so."""
    try:
        with path.open() if isinstance(path, RemotePath) else open(path, "rb") as file:
            found = hashlib.sha256()
            while block := file.read(1 << 20):
                found.update(block)
    except (OSError, CodecError):
        return None
    return found.hexdigest()
