"""Tar archives of pictures, such as WebDataset's shards: pictures become files of this codec and back, the rest stays.

    000.jpg 000.json 001.jpg 001.json   ->   000.lqc 000.json 001.lqc 001.json

An archive is read and written once from front to back, without seeking, and one member at a time is in memory. Order,
dates, permissions and what is no picture are kept as they are. A picture that cannot be done stays as it is, too, so
that no sample loses a part. WebDataset: Aizman, Maltby, Breuel 2019, arXiv:2001.01858. Standard library only.
"""

from __future__ import annotations

import contextlib
import copy
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any

from .errors import CodecError
from .files import renamed

MAX_MEMBER = 2**31 - 1  # bytes of a picture in an archive: what is larger stays
_BROKEN = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError)


@dataclass(frozen=True)
class Change:
    """What became of a picture in an archive.

    Attributes:
        name, target: of the member, in the old archive and in the new one; the same where it stays as it is.
        read, written: bytes.
        facts: what the work says about it.
        error: why it stays; None: it was changed.
    """

    name: str
    target: str
    read: int
    written: int
    facts: dict[str, Any]
    error: CodecError | None = None


def is_shard(path: Any) -> bool:
    """Whether a path names a tar archive."""
    return path is not None and path.suffix.lower() == ".tar"


def repack(
    source: IO[bytes],
    target: IO[bytes],
    suffixes: Collection[str],
    suffix: str,
    work: Callable[[bytes], tuple[bytes, dict[str, Any]] | None],
) -> Iterator[Change]:
    """Copy a tar archive and change the pictures in it; yields a Change for each.

    Args:
        source, target: binary files; neither needs to seek.
        suffixes: lower-case, of members to be changed.
        suffix: of what they become. A name that is there already keeps its own suffix before it: a.jpg.lqc.
        work: bytes -> (bytes, facts), or None for a member that stays though it is named like the others.

    Raises:
        CodecError: the source is damaged, or no tar archive.
    """
    names, moved = set(), {}
    with _reading(source) as old, tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as new:
        for member in _headers(old):
            change = data = None
            place = PurePosixPath(member.name)
            wanted = place.suffix.lower() in suffixes and place.name != place.suffix
            if wanted and member.isfile() and member.size <= MAX_MEMBER:
                found = old.extractfile(member).read()
                try:
                    data, facts = work(found) or (found, None)
                except CodecError as error:
                    change, data = Change(member.name, member.name, len(found), len(found), {}, error), found
                else:
                    if facts is not None:
                        name = renamed(place, suffix, False)
                        name = str(name if str(name) not in names else renamed(place, suffix, True))
                        moved[member.name] = name
                        change = Change(member.name, name, len(found), len(data), facts)
            elif wanted and member.islnk() and member.linkname in moved:
                moved[member.name] = str(renamed(place, suffix, False))
            copied = _copy(member, moved, data)
            if copied.name in names and (change or copied.name in moved.values()):
                raise CodecError(f"{member.name}: there would be two {copied.name} in the archive")
            names.add(copied.name)
            if data is None and member.isfile():
                new.addfile(copied, old.extractfile(member))
            else:
                new.addfile(copied, None if data is None else io.BytesIO(data))
            if change:
                yield change


def _copy(member, moved, data):
    """The TarInfo of a member in the new archive."""
    copied = copy.copy(member)
    copied.name = moved.get(member.name, member.name)
    if member.islnk():
        copied.linkname = moved.get(member.linkname, member.linkname)
    elif member.isfile():
        copied.type, copied.size = tarfile.REGTYPE, member.size if data is None else len(data)  # holes are filled
    kept = {key: text for key, text in member.pax_headers.items() if not key.startswith("GNU.sparse.")}
    copied.pax_headers = {key: kept[key] for key in kept if key not in ("path", "linkpath", "size")}
    return copied


def members(source: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield ``(name, bytes)`` of the files in a tar archive, in order, from a binary file.

    Raises:
        CodecError: it is damaged, or no tar archive.
    """
    with _reading(source) as archive:
        for member in _headers(archive):
            if member.isfile():
                yield member.name, archive.extractfile(member).read()


def sample_of(name: str) -> tuple[str, str]:
    """``(key, extension)`` as WebDataset splits a name: at the first point of its last part."""
    folder, slash, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return folder + slash + stem, extension


@contextlib.contextmanager
def _reading(source):
    """The archive in a binary file, to be read to its end."""
    try:
        with tarfile.open(fileobj=source, mode="r|*", tarinfo=_Member) as archive:
            yield archive
            if not getattr(archive, "complete", False):
                raise CodecError("truncated: the tar archive has no end")
    except _BROKEN as error:
        raise CodecError(f"no tar archive, or a damaged one: {error}") from error


def _headers(archive):
    """The members of an archive, to its end."""
    while True:
        try:
            member = archive.next()
        except (ValueError, OverflowError) as error:  # numbers and names that are none
            raise CodecError(f"a damaged tar archive: {error}") from error
        if member is None:
            return
        yield member
        archive.members.clear()  # which would all be kept otherwise


class _Member(tarfile.TarInfo):
    """Notes that the archive has come to the end that its writer gave it; tarfile takes any for one."""

    @classmethod
    def fromtarfile(cls, archive):
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # of all Pythons, and documented by none
            archive.complete = True
            raise
