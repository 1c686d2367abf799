"""How far a command is: a bar on a terminal, and elsewhere a line every ten seconds.

Every command has ``--quiet`` and ``--verbose``; what they say is kept in the context of click (:func:`speech_options`).
"""

from __future__ import annotations

import _thread
import contextlib
import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import click

INTERVAL = 10.0  # seconds between lines where there is no terminal
_QUIET, _VERBOSE = "codec.quiet", "codec.verbose"


def speech_options(command: click.Command) -> click.Command:
    """Give a command, or all those of a group, ``--quiet`` and ``--verbose``; once."""
    if isinstance(command, click.Group):
        for each in command.commands.values():
            speech_options(each)
    elif not any(parameter.name == "verbose" for parameter in command.params):
        for key, option, text in (
            (_QUIET, "--quiet", "Print nothing but errors and results."),
            (_VERBOSE, "--verbose", "Print more, and at the end what it took."),
        ):
            command.params.append(
                click.Option([option], is_flag=True, help=text, expose_value=False, callback=_noting(key))
            )
    return command


def _noting(key):
    def note(context, _, value):
        context.meta[key] = value
        if context.meta.get(_QUIET) and context.meta.get(_VERBOSE):
            raise click.UsageError("--quiet and --verbose do not go together.")

    return note


def is_quiet() -> bool:
    """Whether the running command was told to be."""
    return _said(_QUIET)


def is_verbose() -> bool:
    """Whether the running command was told to be."""
    return _said(_VERBOSE)


def _said(key) -> bool:
    context = click.get_current_context(silent=True)
    return bool(context and context.meta.get(key))


def on_terminal() -> bool:
    """Whether standard error is one."""
    return sys.stderr is not None and sys.stderr.isatty()


@contextlib.contextmanager
def every(seconds: float, action: Callable[[], object]) -> Iterator[None]:
    """Call ``action()`` so often, in a thread of its own, while the block runs."""
    stop, still = threading.Event(), threading.Lock()

    def work():
        while not stop.wait(seconds):
            with still:
                if not stop.is_set():
                    action()

    # Not a threading.Thread, whose start waits for ever for one that memory does not suffice for.
    with contextlib.suppress(RuntimeError, MemoryError):
        _thread.start_new_thread(work, ())
    try:
        yield
    finally:
        with still:
            stop.set()


@contextlib.contextmanager
def bar(total: int, unit: str, desc: str = "", hidden: bool = False) -> Iterator[Any]:
    """A ``tqdm`` of ``total`` steps; without a terminal it draws nothing, and lines on stderr tell what it knows.

    Args:
        hidden: show nothing.
    """
    from tqdm import tqdm

    hidden, terminal = hidden or is_quiet(), on_terminal()
    started = time.monotonic()
    options = {"desc": desc, "unit": unit, "leave": False, "dynamic_ncols": terminal, "disable": hidden}
    options |= {"file": sys.stderr, "mininterval": 0.1} if terminal else {"file": io.StringIO(), "mininterval": 1e9}
    with tqdm(total=total, **options) as steps:

        def say():
            what = steps.desc.removesuffix(": ")
            click.echo(f"codec: {line(what, steps.n, steps.total, unit, time.monotonic() - started)}", err=True)

        with contextlib.nullcontext() if terminal or hidden else every(INTERVAL, say):
            yield steps


def line(what: str, done: int, total: int, unit: str, seconds: float) -> str:
    """``dog.png jpeg: 12 of 340 steps, 1:20``"""
    count = f"{done} of {total} {unit}{'s' if total != 1 else ''}, {clock(seconds)}"
    return f"{what}: {count}" if what else count


def clock(seconds: float) -> str:
    """``0:07``, ``12:05``, ``3:02:00``."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
