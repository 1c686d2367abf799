"""What several commands share: how errors are said, progress over files, options."""

from __future__ import annotations

import functools
import math
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, TypeAlias

import click

from codec import weights
from codec.bitstream import MAX_PIXELS
from codec.quality import EFFORT, EFFORT_MAX
from codec.threads import cores

from .progress import INTERVAL, every, line, on_terminal

Command: TypeAlias = Callable[..., Any]  # the function of a command, or the command


class Failure(click.ClickException):
    """The one line on stderr that a command ends with, and exit status 1."""

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"codec: {self.format_message()}", err=True)


class Quality(click.FloatRange):
    """0 to 100. ``FloatRange`` alone lets NaN through, as every comparison with it is false."""

    name = "quality"

    def __init__(self) -> None:
        super().__init__(0, 100)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


class Counts(click.ParamType):
    """Whole numbers from 1 up between commas, as a rising tuple without repetitions."""

    name = "counts"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        count = click.IntRange(min=1)
        return tuple(sorted({count.convert(part.strip(), param, ctx) for part in value.split(",")}))


def describe(error: BaseException) -> str:
    """An error as one line that says what is wrong, for the user who meets it."""
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror[0].lower() + error.strerror[1:]
        return f"{error.filename}: {text}" if error.filename is not None else text
    if isinstance(error, MemoryError):
        return "not enough memory"
    return " ".join(str(error).split()) or type(error).__name__


def require(extra: str, *modules: str) -> None:
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


def size_in_words(count: float) -> str:
    """Bytes with two or three digits that matter: 940 bytes, 240 MB, 3.1 GB."""
    if count < 1000:
        return f"{count} bytes"
    for unit in ("kB", "MB", "GB", "TB"):  # noqa: B007  used below
        count /= 1000
        if count < 999.5:
            break
    return f"{count:.1f} {unit}" if count < 9.95 else f"{count:.0f} {unit}"


class Progress:
    """What stands on stderr while files are worked on: a bar on a terminal, elsewhere a line every ten seconds.

    The bar is there at once for several files, after a second for one. A thread of its own draws it, so that the clock
    goes on while a single large picture is at work.
    """

    def __init__(self, total: int, verb: str, hidden: bool = False) -> None:
        self.total, self.verb = total, verb
        self.done, self.current = 0, ""
        self._hidden = hidden
        self._started = time.monotonic()
        self._stop = threading.Event()
        self._thread = None
        self._stack = ExitStack()
        if not hidden and on_terminal():
            self._thread = threading.Thread(target=self._draw, daemon=True)

    def __enter__(self) -> Progress:
        if self._thread:
            self._thread.start()
        elif not self._hidden:
            self._stack.enter_context(every(INTERVAL, self._say))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        if self._thread:
            self._stop.set()
            self._thread.join()

    def start(self, name: str) -> None:
        self.current = name

    def advance(self) -> None:
        self.done += 1

    def echo(self, line: str, err: bool = False) -> None:
        """Print a line without tearing the bar."""
        if not self._thread:
            click.echo(line, err=err)
            return
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr if err else sys.stdout)

    def _say(self):
        done = line(self._label(), self.done, self.total, "file", time.monotonic() - self._started)
        click.echo(f"codec: {done}", err=True)

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


def limit_option(command: Command) -> Command:
    """``--max-pixels``, for the commands that take files of strangers."""
    return click.option(
        "--max-pixels", type=click.IntRange(1, MAX_PIXELS), default=MAX_PIXELS, metavar="N",
        help="Refuse larger pictures before memory is asked for.  [268435456]",
    )(command)  # fmt: skip


def model_options(command: Command) -> Command:
    """``--model`` and ``--tune``, for the commands that compress; as ``model``."""

    @functools.wraps(command)
    def with_model(*args, model, tune, **others):
        if tune and model:
            raise click.UsageError("--tune names a model, as --model does: one of them is enough.")
        return command(*args, model=weights.tuned_model_id(tune) if tune else model, **others)

    for option in (
        click.option(
            "--tune", type=click.Choice(weights.TUNES),
            help="The shipped model that is trained for eyes (SSIMULACRA2) or for psnr (squared error).",
        ),
        click.option("--model", metavar="MODEL", help="Id or folder of a model; 'codec models' lists what there is."),
    ):  # fmt: skip
        with_model = option(with_model)
    return with_model


def effort_option(command: Command) -> Command:
    """``--effort``, for the commands that compress."""
    return click.option(
        "--effort", type=click.IntRange(0, EFFORT_MAX), default=EFFORT, show_default=True,
        help="1 searches for the cheapest symbols; 0 rounds: faster, and some 5 % larger; 2 decodes and searches "
        "again, in four times the time: a little larger, and better by more; 1 to 2 % smaller at equal PSNR.",
    )(command)  # fmt: skip


def workers_option(command: Command) -> Command:
    """``--workers``, for the commands that go through folders."""
    return click.option(
        "--workers", type=click.IntRange(min=1), metavar="N",
        help="Files at work at a time, with one thread each unless --threads says more. [one for each core]",
    )(command)  # fmt: skip


def share(workers: int | None, threads: int | None, jobs: int) -> tuple[int, int | None]:
    """``(workers, threads of each)`` for so many jobs: with one thread each, cores do not wait for each other."""
    if jobs < 2:
        return 1, threads
    if workers is None:
        workers = max(1, cores() // (threads or 1))
    workers = min(workers, jobs)
    return workers, threads or (1 if workers > 1 else None)


def coder_options(command: Command) -> Command:
    """``--device`` and ``--threads``, for the commands that run the network."""
    for option in (
        click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads; all cores unless given."),
        click.option(
            "--device", default="cpu", metavar="DEVICE", help="Where the network runs: cpu (default), cuda..."
        ),
    ):
        command = option(command)
    return command
