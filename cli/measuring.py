"""What the commands that measure share: options, pictures, and words of their reports."""

import os
import textwrap
from collections import Counter
from pathlib import Path

import click

from .common import Failure, Quality, describe
from .files import PICTURE_SUFFIXES, STREAM, expand

OURS = "codec"  # our name in tables and files
WIDTH = 110  # of what is printed


class Qualities(click.ParamType):
    """Numbers from 0 to 100 between commas, as a rising tuple without repetitions."""

    name = "qualities"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        numbers = {Quality().convert(part.strip(), param, ctx) for part in value.split(",")}
        return tuple(int(number) if number == int(number) else number for number in sorted(numbers))


class Names(click.ParamType):
    """Names between commas as a tuple, each once; ``none`` is the empty tuple."""

    name = "names"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        names = tuple(dict.fromkeys(part.strip() for part in value.split(",")))
        return () if names == ("none",) else names


def count(number, noun) -> str:
    """``1 picture``, ``2 pictures``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def settings_line(anchor) -> str:
    """What an anchor is and how it is set, in lines of WIDTH."""

    def flat(options):
        for name, value in options.items():
            yield from flat(value) if isinstance(value, dict) else [f"{name}={value}"]

    text = f"{anchor.name}: {anchor.title} ({', '.join([anchor.writer, *flat(anchor.options)])})"
    return "\n".join(textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_long_words=False))


def find_pictures(inputs, recursive, urls=False):
    """Pairs (name, path): the file's name, or its place below the folder; its path where two are equal.

    Args:
        urls: take them too, as RemotePath.
    """
    if STREAM in inputs:
        raise click.UsageError("pictures are read from files, not from standard input.")
    found = expand(inputs, PICTURE_SUFFIXES, recursive)
    if found.unreadable:  # figures over the rest would be those of something else
        raise Failure(describe(found.unreadable[0]))
    sources = found.files
    for source in sources:
        if not isinstance(source.path, Path):
            if urls:
                continue
            raise Failure(f"{source.path}: URLs are for compress, decompress, info and evaluate; this needs files")
        if not source.path.exists():
            raise Failure(f"{source.path}: no such file or folder")
    uses = Counter(source.relative for source in sources)
    return [
        (source.relative.as_posix() if uses[source.relative] == 1 else source.path.as_posix(), source.path)
        for source in sources
    ]


def check_writable(file):
    """Refuse now what would otherwise be refused when the measuring is done."""
    path = Path(file)
    if path.is_dir():
        raise Failure(f"{path}: is a folder")
    if not path.absolute().parent.is_dir():
        raise Failure(f"{path}: the folder {path.parent} does not exist")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise Failure(f"{path}: permission denied")
