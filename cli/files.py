"""Which file becomes which, and how both are opened."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from codec.errors import CodecError
from codec.files import BytesLike, StrPath, atomic_file, renamed, write_bytes_atomic
from codec.remote import RemotePath, is_url
from codec.shards import is_shard

from .common import Failure
from .patterns import braces

if TYPE_CHECKING:
    from .common import Command


# What is taken from a folder; a file named by itself may be anything that is readable.
PICTURE_SUFFIXES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif",
    ".ppm", ".pgm", ".pnm", ".pbm", ".pfm", ".avif", ".jp2", ".j2k", ".jpx", ".jpf", ".qoi", ".tga", ".pcx", ".sgi",
    ".jxl", ".heic", ".heif",
)  # fmt: skip
COMPRESSED_SUFFIXES = (".bin", ".lqc")  # what is taken from a folder; the first one is written unless told otherwise
STREAM = "-"
FIELDS = ("{stem}", "{name}", "{folder}")  # of a pattern given to -o


@dataclass(frozen=True)
class Source:
    """A file to read and where it stands below the folder that was named, if one was."""

    path: Path | RemotePath | None  # None: standard input
    relative: Path

    def __str__(self) -> str:
        return "standard input" if self.path is None else str(self.path)

    def open(self) -> IO[bytes]:
        """A binary file, to be closed."""
        if self.path is None:
            if sys.stdin is None:
                raise CodecError("standard input is closed")
            return sys.stdin.buffer
        return self.path.open() if isinstance(self.path, RemotePath) else open(self.path, "rb")

    def readable(self) -> Path | IO[bytes]:
        """What ``Codec.compress`` takes: the path of a local file, otherwise a binary file."""
        return self.path if isinstance(self.path, Path) else self.open()

    @property
    def bytes(self) -> int:
        """Of the file; 0 where that cannot be known without reading it."""
        if isinstance(self.path, RemotePath):
            return self.path.size()
        return self.path.stat().st_size if self.path is not None and self.path.is_file() else 0


def local(source: Source, who: str) -> Path:
    """The path of a file that can be opened by its name.

    Raises:
        CodecError: the source is standard input or a URL; ``who`` says what needs a file.
    """
    if source.path is None:
        raise CodecError(f"{who} needs files, not standard input")
    if not isinstance(source.path, Path):
        raise CodecError(f"{source.path}: URLs are for compress, decompress, info and evaluate; {who} needs files")
    return source.path


@dataclass
class Sources:
    """What the arguments of a command name.

    Attributes:
        files: Source, in order.
        unreadable: OSError of the folders below them that could not be looked into.
        passed_over: what was left out of folders -> how many.
    """

    files: list[Source] = field(default_factory=list)
    unreadable: list[OSError] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Job:
    """One file to read and the one to write."""

    source: Source
    target: Path | RemotePath | None  # None: standard output
    problem: str = ""  # why it cannot be done

    def __str__(self) -> str:
        return str(self.source)

    @property
    def is_shard(self) -> bool:
        """Whether the source is a tar archive, whose pictures are worked on."""
        return is_shard(self.source.path)

    def check(self) -> None:
        """CodecError where the job cannot be done."""
        if self.problem:
            raise CodecError(self.problem)

    def numbered(self, count: int, force: bool = False) -> list[Job]:
        """Jobs that write the parts of the source beside each other: ``a.bin`` becomes ``a.0.bin``, ``a.1.bin``...

        Raises:
            CodecError: there is no room for several, or without ``force`` one of them exists.
        """
        if count == 1:
            return [self]
        if self.target is None:
            raise CodecError("standard output holds one picture, not all frames")
        digits = len(str(count - 1))
        names = (f"{self.target.stem}.{number:0{digits}}{self.target.suffix}" for number in range(count))
        jobs = [Job(self.source, self.target.with_name(name)) for name in names]
        for job in jobs:
            if not force and isinstance(job.target, Path) and job.target.exists():
                raise CodecError(f"{job.target}: exists already; --force overwrites")
        return jobs

    def write_bytes(self, data: BytesLike, keep_times: bool = False) -> None:
        """Write the output whole or not at all, making the folders above it.

        Args:
            keep_times: give it the dates and permissions of the source, where both are files.
        """
        if self.target is None:
            write_stdout(data)
            return
        if isinstance(self.target, RemotePath):
            self.target.write_bytes(data)
            return
        self.target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(self.target, data)
        if keep_times:
            self._keep_times()

    @contextlib.contextmanager
    def open_target(self, keep_times: bool = False) -> Iterator[IO[bytes]]:
        """A binary file for an output of any size, for ``with``; the output appears at its end, whole or not at all."""
        if isinstance(self.target, RemotePath):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, self.target.name)
                with path.open("wb") as file:
                    yield file
                self.target.put(path)
            return
        assert self.target is not None, "an archive goes to a file"
        self.target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.target) as file:
            yield file
        if keep_times:
            self._keep_times()

    def _keep_times(self):
        if isinstance(self.source.path, Path) and isinstance(self.target, Path) and self.target.is_file():
            found = self.source.path.stat()
            shutil.copymode(self.source.path, self.target)
            os.utime(self.target, ns=(found.st_atime_ns, found.st_mtime_ns))


@dataclass
class Plan:
    """Jobs in order, and what else a summary tells.

    Attributes:
        skipped: jobs that were left out because their output exists.
        place: the folder of the results, Path or RemotePath; None: each stands beside its source.
    """

    jobs: list[Job]
    sources: Sources
    skipped: list = field(default_factory=list)
    place: Path | RemotePath | None = None


def write_stdout(data: BytesLike) -> None:
    """Write to standard output; an error is raised here and not when Python exits."""
    if sys.stdout is None:
        raise CodecError("standard output is closed")
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError:
        # What could not be written would be tried again at the exit, and end in a message of Python's.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def expand(
    inputs: Sequence[str], suffixes: Sequence[str], recursive: bool = False, magic: bytes | None = None
) -> Sources:
    """The files that the arguments of a command name, in order, each once.

    Args:
        inputs: paths of files and folders, or ``-`` alone for standard input.
        suffixes: lower-case suffixes of the files to take from a folder. A file named by itself is taken
            whatever its name, and also where it does not exist: reading it says so, beside the others'
            results.
        recursive: look into the folders below a folder too.
        magic: how files of a folder begin; those that begin otherwise are passed over.

    Raises:
        Failure: a folder holds nothing of the kind.
        click.UsageError: ``-`` beside other inputs.
    """
    if STREAM in inputs:
        if len(inputs) > 1:
            raise click.UsageError("'-' (standard input) must be the only input.")
        return Sources([Source(None, Path("stdin"))])

    found, seen = Sources(), set()

    def take(source):
        name = _spelling(source.path)
        if name not in seen:
            seen.add(name)
            found.files.append(source)

    for name in inputs:
        for path, place in _matches(name):
            if not path.is_dir():
                take(Source(path, place))
                continue
            before = len(found.files), len(found.unreadable)
            for file in _files_below(path, recursive, found.unreadable.append):
                suffix = file.suffix.lower()
                if suffix not in suffixes:
                    if magic is None and suffix not in COMPRESSED_SUFFIXES:  # which may be results of before
                        found.passed_over[suffix or "no suffix"] += 1
                    continue
                kind = _kind(file, magic)
                if kind is None:
                    below = Path(file.relative_to(path))
                    take(Source(file, below if place == Path(path.name) else place / below))
                else:
                    found.passed_over[kind] += 1
            if before == (len(found.files), len(found.unreadable)):
                hint = "" if recursive else "; --recursive looks into the folders below it"
                others = f" ({in_words(found.passed_over)})" if found.passed_over else ""
                raise Failure(f"{path}: no {', '.join(suffixes)} files in this folder{others}{hint}")
    return found


def _matches(name):
    """Pairs of a path that an argument means, and its place: below the part of a pattern that is none.

    A pattern reaches us in quotes, or where the shell does not expand it; a file of that very name comes first. Braces
    mean every name that they list, there or not: ``{000..123}``, ``{a,b}``.

    Raises:
        Failure: it is a pattern that nothing matches, or braces list too many names.
    """
    path = as_path(name)
    if isinstance(path, Path) and os.path.lexists(path):
        return [(path, Path(path.name))]
    return [match for each in braces(name) for match in _globbed(each)]


def _globbed(name):
    path = as_path(name)
    if not glob.has_magic(name) or (isinstance(path, Path) and os.path.lexists(path)):
        return [(path, Path(path.name))]
    found = (
        path.glob()
        if isinstance(path, RemotePath)
        else [Path(each) for each in sorted(glob.glob(name, recursive=True))]
    )
    if not found:
        raise Failure(f"{name}: nothing matches this pattern")
    fixed = name
    while glob.has_magic(fixed):
        fixed = fixed.rpartition("/")[0] if isinstance(path, RemotePath) else os.path.dirname(fixed)
    folder: Any = as_path(fixed) if fixed else Path()
    return [(each, Path(each.relative_to(folder))) for each in found]


def as_path(name: str) -> Path | RemotePath:
    """Path of a file here, RemotePath of a URL."""
    for scheme in ("file://", "local://"):
        if name.startswith(scheme):
            return Path(name.removeprefix(scheme))  # which is written whole or not at all
    return RemotePath(name) if is_url(name) else Path(name)


def plan(
    inputs: Sequence[str],
    output: str | None,
    *,
    suffix: str,
    suffixes: Sequence[str],
    written: Iterable[str],
    recursive: bool = False,
    force: bool = False,
    skip_existing: bool = False,
    magic: bytes | None = None,
) -> Plan:
    """Which file becomes which.

    Without ``output`` each result stands beside its source under the source's name with ``suffix``. For one
    file, ``output`` is the file to write, unless it is a folder or ends in a slash. Otherwise it is a folder,
    and files found below a folder keep their place relative to it. Where several sources would get one name,
    each keeps its own suffix before the new one: ``a.png.bin`` and ``a.jpg.bin``. An ``output`` with ``{stem}``
    (picture), ``{name}`` (picture.png) or ``{folder}`` (its place below the folder that was named) is a name for each.

    Args:
        suffix: of results that are named after their sources; such as ``-small.bin``, too.
        suffixes, recursive, magic: see :func:`expand`.
        written: suffixes of files that the command writes; an ``output`` that ends in one is no folder to be made.
        force: existing files are overwritten. skip_existing: their jobs are left out.

    Raises:
        Failure: an output exists, and neither ``force`` nor ``skip_existing`` is given.
        click.UsageError: the arguments do not go together.
    """
    if force and skip_existing:
        raise click.UsageError("--force and --skip-existing do not go together.")
    if output == STREAM and (len(inputs) > 1 or (inputs[0] != STREAM and not _is_single(inputs[0]))):
        raise click.UsageError("'-o -' (standard output) goes with a single input.")
    pattern = output is not None and any(each in output for each in FIELDS)
    to_folder = output is not None and output != STREAM and not pattern and _is_folder(inputs, output, written)
    sources = expand(inputs, suffixes, recursive, magic)

    if output == STREAM or (output is None and sources.files and sources.files[0].path is None):
        if sys.stdout is not None and sys.stdout.isatty():
            raise Failure("standard output is a terminal; send it to a file or a pipe, or name a file with -o")
        jobs = [Job(source, None) for source in sources.files]
    elif pattern:
        jobs = [Job(source, _filled(output, source)) for source in sources.files]
    elif output is not None and not to_folder:
        jobs = [Job(source, as_path(output)) for source in sources.files]
    else:
        folder = as_path(output) if output is not None and to_folder else None
        places = [each.path if folder is None else folder / each.relative for each in sources.files]
        jobs = [Job(*pair) for pair in zip(sources.files, _targets(places, suffix), strict=True)]
    for job in jobs:
        if job.is_shard and output is None:
            raise Failure(f"{job}: becomes an archive of the same name: -o names its folder")
        if job.is_shard and not is_shard(job.target):
            raise Failure(f"{job}: becomes an archive: -o names a .tar, or a folder, with / at its end")
    found = _checked(jobs, sources, force, skip_existing)
    if pattern and output is not None:
        found.place = as_path(os.path.dirname(output.partition("{")[0]))
    elif output not in (None, STREAM):
        found.place = as_path(output) if to_folder else as_path(output).parent
    return found


def _filled(pattern, source):
    """The path that a pattern means for a source."""
    place = source.relative
    for name, text in zip(FIELDS, (place.stem, place.name, place.parent.as_posix())):
        pattern = pattern.replace(name, text)
    return as_path(pattern)


def in_words(counts: Counter[str]) -> str:
    """``3 no regular files, 2 of other programs``"""
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def _targets(places, suffix):
    """A path for each source path: its suffix replaced, or followed by ``suffix`` where others would get the same.

    Archives keep their names.
    """
    whole = [False] * len(places)
    while True:
        targets = [
            place if is_shard(place) else renamed(place, suffix, keep)
            for place, keep in zip(places, whole, strict=True)
        ]
        count = Counter(map(_identity, targets))
        clashing = [count[_identity(target)] > 1 for target in targets]
        longer = [keep or clash for keep, clash in zip(whole, clashing, strict=True)]
        if longer == whole:
            return targets
        whole = longer


def _checked(jobs, sources, force, skip_existing):
    """Plan of jobs of which each writes what no other reads or writes."""
    read = {_identity(job.source.path) for job in jobs if job.source.path is not None}
    written: dict[str, Job] = {}
    kept: list[Job] = []
    existing: list[Any] = []
    skipped: list[Job] = []
    kind_of = _Kinds([job.target for job in jobs if job.target is not None])
    for job in jobs:
        target = job.target
        identity = target and _identity(target)
        if target is None:
            kept.append(job)
        elif identity in read:
            kept.append(Job(job.source, target, f"{target}: would be written over an input"))
        elif identity in written:
            other = written[identity].source
            if _identity(job.source.path) != _identity(other.path):  # else: two ways to one file and one result
                kept.append(Job(job.source, target, f"{job}: {target} is written for {other}"))
        elif (kind := kind_of(target)) == "folder":
            kept.append(Job(job.source, target, f"{target}: is a folder"))
        else:
            written[identity] = job
            if kind != "file":  # a device such as /dev/null loses nothing
                kept.append(job)
            elif skip_existing:
                skipped.append(job)
            else:
                kept.append(job)
                existing.append(target)
    if existing and not force:
        others = f" (and {len(existing) - 1} more of the outputs)" if len(existing) > 1 else ""
        hint = "--force overwrites" + (", --skip-existing leaves out" if len(jobs) > 1 else "")
        raise Failure(f"{existing[0]}: exists already{others}; {hint}")
    return Plan(kept, sources, skipped)


class _Kinds:
    """What stands where results go: "file", "folder" or None. Folders behind URLs that get many are listed, once."""

    MANY = 8

    def __init__(self, targets: Sequence[Any]) -> None:
        folders = Counter(target.parent for target in targets if isinstance(target, RemotePath))
        self._many = {folder for folder, count in folders.items() if count >= self.MANY}
        self._listed: dict[RemotePath, dict[str, str | None]] = {}

    def __call__(self, path: Any) -> str | None:
        if path.parent not in self._many:
            return "folder" if path.is_dir() else "file" if path.is_file() else None
        if path.parent not in self._listed:
            self._listed[path.parent] = path.parent.kinds()
        return self._listed[path.parent].get(path.name)


def _files_below(folder: Path, recursive, unreadable) -> list[Path]:
    """Files, sorted by name; hidden ones are left out."""
    if isinstance(folder, RemotePath):
        return list(folder.files_below(recursive))
    found = []
    for parent, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                found.append(Path(parent, name))
    return found


def _kind(path, magic):
    """What is wrong with a file of a folder, so that it is passed over; None: nothing, or reading it will say."""
    remote = isinstance(path, RemotePath)
    try:
        if not remote and not stat.S_ISREG(path.stat().st_mode):
            return "no regular files"  # which may wait for a writer for ever
        if magic is not None:
            with path.open() if remote else open(path, "rb") as file:
                start = file.read(len(magic))
            if not magic.startswith(start):  # what is cut short, or empty, may have been one of ours
                return "of other programs"
    except OSError:
        pass
    return None


def _is_folder(inputs, output, written) -> bool:
    """Whether ``-o`` means a folder to write into."""
    separators = tuple(filter(None, (os.sep, os.altsep, "/" if is_url(output) else None)))
    path = as_path(output)
    if output.endswith(separators) or path.is_dir():
        return True
    if len(inputs) == 1 and (inputs[0] == STREAM or _is_single(inputs[0])):
        return False
    if path.is_file() or (isinstance(path, Path) and path.exists()):
        raise Failure(f"{output}: is a file; several outputs need a folder")
    if path.suffix.lower() in written:
        raise Failure(
            f"{output}: several outputs need a folder; if it is to be one of that name, write {output}{separators[-1]}"
        )
    return True


def _is_single(name) -> bool:
    """Whether an argument means one file, whether that exists or not."""
    found = _matches(name)
    return len(found) == 1 and not found[0][0].is_dir()


def _spelling(path) -> str:
    """One spelling for the ways to write one path."""
    return str(path) if isinstance(path, RemotePath) else os.path.normcase(os.path.abspath(path))


def _identity(path) -> str:
    """One spelling for one file: links followed, and case folded where the system ignores it (Windows)."""
    return str(path) if isinstance(path, RemotePath) else os.path.normcase(os.path.realpath(path))


def check_output(file: StrPath, force: bool, *inputs: StrPath) -> None:
    """Refuse now what would be refused, or lost, when all the work is done."""
    path = Path(file)
    if path.is_dir():
        raise Failure(f"{path}: is a folder")
    if not path.absolute().parent.is_dir():
        raise Failure(f"{path}: the folder {path.parent} does not exist")
    if any(path.resolve() == Path(name).resolve() for name in inputs):
        raise Failure(f"{path}: would be written over an input")
    if path.is_file() and not force:
        raise Failure(f"{path}: exists already; --force overwrites")


def batch_options(command: Command) -> Command:
    """Options of the commands that make a file of each file."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="One JSON object a line, one line a file."),
        click.option(
            "--keep-times", is_flag=True, help="Give each output the dates and permissions of its input."
        ),
        click.option("--dry-run", is_flag=True, help="Say what would be written, and write nothing."),
        click.option(
            "--recursive", is_flag=True, help="Take folders with the folders below them; -o mirrors the tree."
        ),
        click.option(
            "--skip-existing", is_flag=True, help="Leave out inputs whose output exists: go on where a run ended."
        ),
        click.option("-f", "--force", is_flag=True, help="Overwrite existing files."),
    ):  # fmt: skip
        command = option(command)
    return command


class Ending(click.ParamType):
    """What is put after the stem of a name: an extension, perhaps with something before it (-small.bin)."""

    name = "ending"

    def __init__(self, suffixes: Sequence[str]) -> None:
        self.suffixes = suffixes

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if os.path.basename(value) != value or Path(f"x{value}").suffix.lower() not in self.suffixes:
            self.fail(f"{value!r} does not end in one of {', '.join(self.suffixes)}.", param, ctx)
        return value
