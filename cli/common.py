"""What several commands share: which file becomes which, the run over all of them, how errors are said."""

import math
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import click

from codec.errors import CodecError

COMPRESSED_SUFFIXES = (".bin", ".lqc")  # what is taken from a folder; the first one is written unless told otherwise
STREAM = "-"


class Failure(click.ClickException):
    """The one line on stderr that a command ends with, and exit status 1."""

    def show(self, file=None):
        click.echo(f"codec: {self.format_message()}", err=True)


class Quality(click.FloatRange):
    """0 to 100. ``FloatRange`` alone lets NaN through, as every comparison with it is false."""

    name = "quality"

    def __init__(self):
        super().__init__(0, 100)

    def convert(self, value, param, ctx):
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


def describe(error) -> str:
    """An error as one line that says what is wrong, for the user who meets it."""
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror[0].lower() + error.strerror[1:]
        return f"{error.filename}: {text}" if error.filename is not None else text
    if isinstance(error, MemoryError):
        return "not enough memory"
    return " ".join(str(error).split()) or type(error).__name__


def require(extra, *modules):
    """Refuse now, in one line, what would fail half-way for want of a package.

    Args:
        extra: that brings the modules, see :mod:`codec.extras`.
        modules: top-level names.

    Raises:
        Failure: some are not installed.
    """
    from codec.extras import lacks, missing

    lacking = missing(*modules)
    if lacking:
        path = click.get_current_context().command_path
        raise Failure(lacks(path.partition(" ")[2] or path, extra, lacking))


@dataclass(frozen=True)
class Source:
    """A file to read and where it stands below the folder that was named, if one was."""

    path: Path | None  # None: standard input
    relative: Path

    def __str__(self):
        return "standard input" if self.path is None else str(self.path)

    def read_bytes(self) -> bytes:
        return sys.stdin.buffer.read() if self.path is None else self.path.read_bytes()


@dataclass(frozen=True)
class Job:
    """One file to read and the one to write."""

    source: Source
    target: Path | None  # None: standard output

    def __str__(self):
        return str(self.source)

    def write_bytes(self, data: bytes) -> None:
        """Write the output whole or not at all, making the folders above it."""
        if self.target is None:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            return
        from codec.files import write_bytes_atomic

        self.target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(self.target, data)


def expand(inputs, suffixes, recursive=False) -> list[Source]:
    """The files that the arguments of a command name, in order, each once.

    Args:
        inputs: paths of files and folders, or ``-`` alone for standard input.
        suffixes: lower-case suffixes of the files to take from a folder. A file named by itself is taken
            whatever its name, and also where it does not exist: reading it says so, beside the others'
            results.
        recursive: look into the folders below a folder too.

    Raises:
        Failure: a folder holds nothing of the kind.
        click.UsageError: ``-`` beside other inputs.
    """
    if STREAM in inputs:
        if len(inputs) > 1:
            raise click.UsageError("'-' (standard input) must be the only input.")
        return [Source(None, Path("stdin"))]

    sources = {}
    for name in inputs:
        path = Path(name)
        if not path.is_dir():
            sources.setdefault(_identity(path), Source(path, Path(path.name)))
            continue
        found = _files_below(path, suffixes, recursive)
        if not found:
            hint = "" if recursive else "; --recursive looks into the folders below it"
            raise Failure(f"{path}: no {', '.join(suffixes)} files in this folder{hint}")
        for file in found:
            sources.setdefault(_identity(file), Source(file, file.relative_to(path)))
    return list(sources.values())


def plan(inputs, output, *, suffix, suffixes, recursive=False, force=False) -> list[Job]:
    """Which file becomes which, refused as a whole where something would be lost.

    Without ``output`` each result stands beside its source under the source's name with ``suffix``. For one
    file, ``output`` is the file to write, unless it is a folder or ends in a slash. Otherwise it is a folder,
    and files found below a folder keep their place relative to it.

    Raises:
        Failure: two inputs would become one file, an output is also an input, or (without ``force``) exists.
        click.UsageError: the arguments do not go together.
    """
    sources = expand(inputs, suffixes, recursive)
    to_folder = output is not None and output != STREAM and _is_folder(inputs, output)
    if to_folder and Path(output).exists() and not Path(output).is_dir():
        raise Failure(f"{output}: is a file; several outputs need a folder")
    if output == STREAM and (len(inputs) > 1 or Path(inputs[0]).is_dir()):
        raise click.UsageError("'-o -' (standard output) goes with a single input.")

    jobs = []
    for source in sources:
        if output == STREAM or (output is None and source.path is None):
            target = None
        elif output is None:
            target = source.path.with_suffix(suffix)
        elif to_folder:
            target = Path(output) / source.relative.with_suffix(suffix)
        else:
            target = Path(output)
        jobs.append(Job(source, target))

    if jobs[0].target is None and sys.stdout.isatty():
        raise Failure("standard output is a terminal; send it to a file or a pipe, or name a file with -o")
    _refuse_losses(jobs, force)
    return jobs


def run(jobs, work, *, verb, quiet=False, prepare=None) -> None:
    """Do ``work(job)`` for every job; a failing one is named on stderr and the others go on.

    Args:
        jobs: things that print as the file they are about.
        work: returns a line for the user, or None.
        verb: what is being done, for the progress display.
        quiet: neither lines nor progress, only errors.
        prepare: called once before the first job; an error here ends the command.

    Exits with status 1 when something failed.
    """
    jobs = list(jobs)
    # Standard output may be carrying a picture; a remark in the middle of it would ruin it.
    to_stderr = any(isinstance(job, Job) and job.target is None for job in jobs)
    failed = 0
    with Progress(len(jobs), verb, hidden=quiet) as progress:
        if prepare is not None:
            progress.start(str(jobs[0]))
            prepare()
        for job in jobs:
            progress.start(str(job))
            try:
                line = work(job)
            except BrokenPipeError:
                raise
            except (CodecError, OSError, MemoryError) as error:
                failed += 1
                progress.echo(f"codec: {_about(job, error)}", err=True)
            else:
                if line is not None and not quiet:
                    progress.echo(line, err=to_stderr)
            progress.advance()
    if failed:
        if len(jobs) > 1:
            click.echo(f"codec: {failed} of {len(jobs)} files failed", err=True)
        click.get_current_context().exit(1)


class Progress:
    """A bar on stderr while files are worked on; at once for several, after a second for one.

    Only where stderr is a terminal. A thread of its own draws it, so that the clock goes on while a single
    large picture is at work.
    """

    def __init__(self, total, verb, hidden=False):
        self.total, self.verb = total, verb
        self.done, self.current = 0, ""
        self._stop = threading.Event()
        self._thread = None
        if not hidden and sys.stderr.isatty():
            self._thread = threading.Thread(target=self._draw, daemon=True)

    def __enter__(self):
        if self._thread:
            self._thread.start()
        return self

    def __exit__(self, *_):
        if self._thread:
            self._stop.set()
            self._thread.join()

    def start(self, name):
        self.current = name

    def advance(self):
        self.done += 1

    def echo(self, line, err=False):
        """Print a line without tearing the bar."""
        if not self._thread:
            click.echo(line, err=err)
            return
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr if err else sys.stdout)

    def _draw(self):
        started = time.time()
        single = self.total == 1
        if self._stop.wait(1.0 if single else 0.0):
            return
        from tqdm import tqdm

        shape = "{desc} {elapsed}" if single else None
        with tqdm(
            total=self.total,
            desc=self._label(),
            unit="file",
            leave=False,
            bar_format=shape,
            dynamic_ncols=True,
        ) as bar:
            bar.start_t = started
            while not self._stop.wait(0.2):
                bar.n = self.done
                bar.set_description_str(self._label(), refresh=False)
                bar.refresh()

    def _label(self):
        return f"{self.verb} {Path(self.current).name}"


def coder_options(command):
    """``--device`` and ``--threads``, for the commands that run the network."""
    for option in (
        click.option(
            "--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads; all cores unless given."
        ),
        click.option(
            "--device", default="cpu", metavar="DEVICE", help="Where the network runs: cpu (default), cuda..."
        ),
    ):
        command = option(command)
    return command


def _about(job, error) -> str:
    """``picture.bin: truncated: ...``, without saying the name twice where the error says it already."""
    name, text = str(job), describe(error)
    return text if text.startswith(f"{name}:") else f"{name}: {text}"


def _files_below(folder: Path, suffixes, recursive) -> list[Path]:
    """Files with one of the suffixes, sorted by name; hidden ones are left out."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in suffixes:
                found.append(Path(parent, name))
    return found


def _is_folder(inputs, output) -> bool:
    """Whether ``-o`` means a folder to write into."""
    separators = tuple(filter(None, (os.sep, os.altsep)))
    return (
        len(inputs) > 1
        or (inputs[0] != STREAM and Path(inputs[0]).is_dir())
        or output.endswith(separators)
        or Path(output).is_dir()
    )


def _refuse_losses(jobs, force) -> None:
    read = {_identity(job.source.path): job for job in jobs if job.source.path is not None}
    written = {}
    existing = []
    for job in jobs:
        if job.target is None:
            continue
        identity = _identity(job.target)
        if identity in written:
            raise Failure(f"{written[identity]} and {job} would both be written to {job.target}")
        written[identity] = job
        if identity in read:
            raise Failure(f"{job.target}: would be written over an input")
        if job.target.is_dir():
            raise Failure(f"{job.target}: is a folder")
        if job.target.is_file():  # a device such as /dev/null loses nothing
            existing.append(job.target)
    if existing and not force:
        others = f" (and {len(existing) - 1} more of the outputs)" if len(existing) > 1 else ""
        raise Failure(f"{existing[0]}: exists already{others}; --force overwrites")


def _identity(path: Path) -> str:
    """One spelling for one file: links followed, and case folded where the system ignores it (Windows)."""
    return os.path.normcase(os.path.realpath(path))
