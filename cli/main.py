"""The group of commands, each imported when it is named."""

import importlib

import click

from codec import __version__
from codec.errors import CodecError

from .common import Failure, describe

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
    "study": ("study", "study"),
    "demo": ("demo", "demo"),
}


class LazyGroup(click.Group):
    """A group that imports a command's module when it looks the command up, and says errors in one line."""

    def list_commands(self, ctx):
        return list(COMMANDS)

    def get_command(self, ctx, cmd_name):
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name]
        return getattr(importlib.import_module(f".{module}", __package__), attribute)

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # click ends quietly: the reader of our output has gone, as with ``| head``
        except (CodecError, OSError, MemoryError) as error:
            raise Failure(describe(error)) from error
        except KeyboardInterrupt:
            raise Interrupted() from None


class Interrupted(Failure):
    """Ctrl-C: one line, and the status that shells give to a program ended by SIGINT."""

    exit_code = 130

    def __init__(self):
        super().__init__("interrupted")


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, message="codec %(version)s")
def codec():
    """A neural image codec: pictures to small files and back.

    \b
    codec compress img.png         writes img.bin
    codec decompress img.bin       writes img.png
    codec COMMAND --help           says more
    """


def main():
    """What the ``codec`` script calls."""
    codec.main(prog_name="codec")
