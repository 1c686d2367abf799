"""What became of every picture of a run: JSON lines beside the results.

A run writes files of its own, ``<UTC time>-<8 random hex digits>-<part>.jsonl``, so that a rerun and two runs at once
do not touch each other's, and names sort by time. On a file system there is one part, and a line is there as soon as
it is written. Object stores do not append: there a part is a single put, after ``LINES`` lines or ``SECONDS``,
whichever is first.
Standard library only.
"""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path
from typing import IO, Any

from .remote import RemotePath

LINES = 10_000
SECONDS = 60.0


class Manifest:
    """The manifest of one run; for ``with``, which writes what is left.

    Args:
        folder: pathlib.Path or RemotePath, made where it is not there.

    Raises:
        OSError, CodecError: it cannot be written.
    """

    def __init__(self, folder: Path | RemotePath) -> None:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self._folder, self._run = folder, f"{stamp}-{secrets.token_hex(4)}"
        self._part, self._since = 0, time.monotonic()
        self._waiting: list[bytes] = []
        self._file: IO[bytes] | None = None
        if not isinstance(folder, RemotePath):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = open(folder / self._name(), "xb", buffering=0)  # noqa: SIM115  closed by __exit__

    def add(self, **facts: Any) -> None:
        """One line: anything that JSON can hold."""
        line = json.dumps(facts, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n"
        if self._file:
            self._file.write(line)
            return
        self._waiting.append(line)
        if len(self._waiting) >= LINES or time.monotonic() - self._since >= SECONDS:
            self._put()

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()
        elif self._waiting:
            self._put()

    def _put(self):
        self._folder.joinpath(self._name()).write_bytes(b"".join(self._waiting))
        self._part, self._waiting, self._since = self._part + 1, [], time.monotonic()

    def _name(self):
        return f"{self._run}-{self._part:05}.jsonl"
