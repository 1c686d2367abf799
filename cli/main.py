"""The group of commands, each imported when it is named."""

from __future__ import annotations

import codecs
import difflib
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
import time
from typing import Any

import click

from codec import __version__, weights
from codec.errors import CodecError, ModelError
from codec.extras import TITLES

from .common import Failure, describe, size_in_words
from .progress import clock, is_verbose, speech_options

# Name on the command line -> module, beside this one, and attribute. Listed in the order of ``codec --help``.
COMMANDS = {
    "compress": ("compress", "compress"),
    "decompress": ("decompress", "decompress"),
    "info": ("info", "info"),
    "models": ("models", "models"),
    "train": ("train", "train"),
    "evaluate": ("evaluate", "evaluate"),
    "bench": ("bench", "bench"),
    "report": ("report", "report"),
    "compare": ("compare", "compare"),
    "view": ("view", "view"),
    "study": ("study", "study"),
    "demo": ("demo", "demo"),
    "desktop": ("desktop", "desktop"),
    "man": ("man", "man"),
}
# What decides the bytes or the time, besides ourselves; those that are installed stand in ``codec --version``.
ENGINES = ("onnxruntime", "numpy", "pillow", "torch")


class LazyGroup(click.Group):
    """A group that imports a command's module when it looks the command up, and says errors in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name]
        return speech_options(getattr(importlib.import_module(f".{module}", __package__), attribute))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            guess = f" Did you mean {close[0]}?" if close else ""
            ctx.fail(f"No such command {args[0]!r}.{guess}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        started = time.monotonic()
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # click ends quietly: the reader of our output has gone, as with ``| head``
        except (CodecError, OSError, MemoryError) as error:
            raise Failure(describe(error)) from error
        except KeyboardInterrupt:
            raise Interrupted() from None
        finally:
            if is_verbose():
                click.echo(f"codec: {_cost(time.monotonic() - started)}", err=True)


def _cost(seconds) -> str:
    """``0:12, 20 s of CPU time, 310 MB of memory at most``."""
    parts = [clock(seconds), f"{time.process_time():.1f} s of CPU time"]
    if importlib.util.find_spec("resource"):  # of POSIX
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        peak = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        parts.append(f"{size_in_words(peak)} of memory at most")
    return ", ".join(parts)


class Interrupted(Failure):
    """Ctrl-C: one line, and the status that shells give to a program ended by SIGINT."""

    exit_code = 130

    def __init__(self) -> None:
        super().__init__("interrupted")


def _versions(context, _, asked):
    """``codec --version``."""
    if not asked or context.resilient_parsing:
        return
    click.echo(f"codec {__version__}")
    try:
        for model_id in weights.list_models():
            state = "released" if weights.is_released(model_id) else "experimental"
            default = ", default" if model_id == weights.default_model_id() else ""
            click.echo(f"model {model_id} ({state}{default})")
    except ModelError as error:
        click.echo(f"no models: {error}")
    engines = [
        f"{TITLES.get(name, name)} {importlib.metadata.version(name)}" for name in ENGINES if _is_distributed(name)
    ]
    click.echo(", ".join([f"Python {platform.python_version()}", *engines]))
    context.exit()


def _is_distributed(name) -> bool:
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 all was done; 1 something failed, and is named on stderr; 2 the arguments make no sense; "
    "130 interrupted. docs/guide/command-line.md says more, also on completion in the shell.",
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_versions,
    help="Show the versions of the codec, of what runs it, and the ids of the models.",
)  # fmt: skip
def codec() -> None:
    """A neural image codec: pictures to small files and back.

    \b
    codec compress img.png         writes img.bin
    codec decompress img.bin       writes img.png
    codec COMMAND --help           says more
    """


def main() -> None:
    """What the ``codec`` script calls."""
    _open_closed_streams()
    _write_any_name()
    codec.main(prog_name="codec")


def _open_closed_streams():
    """Make the numbers of closed standard streams nobody's.

    The next file that is opened would get one, and with it what some library prints. Standard error, which everything
    writes to, leads nowhere then.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  to the end of the process


def _write_any_name():
    """Let names that are not of the terminal's encoding through: as the bytes that they are, or in escapes."""
    codecs.register_error("names", _as_it_is)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="names")


def _as_it_is(error):
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)
