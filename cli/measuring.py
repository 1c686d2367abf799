"""What the commands that measure share: options, pictures, and words of their reports."""

from __future__ import annotations

import os
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codec.files import StrPath
from codec.remote import RemotePath

from .common import Failure, Quality, describe
from .files import PICTURE_SUFFIXES, STREAM, expand, local

if TYPE_CHECKING:
    from codec.evaluation.anchors import X265, Anchor, OwnModel
    from codec.evaluation.zoo import Zoo


OURS = "codec"  # our name in tables and files
WIDTH = 110  # of what is printed


class Qualities(click.ParamType):
    """Numbers from 0 to 100 between commas, as a rising tuple without repetitions."""

    name = "qualities"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        numbers = {Quality().convert(part.strip(), param, ctx) for part in value.split(",")}
        return tuple(int(number) if number == int(number) else number for number in sorted(numbers))


class Names(click.ParamType):
    """Names between commas as a tuple, each once; ``none`` is the empty tuple."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(dict.fromkeys(part.strip() for part in value.split(",")))
        return () if names == ("none",) else names


def count(number: int, noun: str) -> str:
    """``1 picture``, ``2 pictures``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def settings_line(anchor: Anchor | X265 | OwnModel | Zoo) -> str:
    """What an anchor is and how it is set, in lines of WIDTH."""

    def flat(options):
        for name, value in options.items():
            yield from flat(value) if isinstance(value, dict) else [f"{name}={value}"]

    text = f"{anchor.name}: {anchor.title} ({', '.join([anchor.writer, *flat(anchor.options)])})"
    return "\n".join(textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_long_words=False))


def find_pictures(inputs: Sequence[str], recursive: bool) -> list[tuple[str, Path]]:
    """Pairs (name, path): the file's name, or its place below the folder; its path where two are equal."""
    return [(name, path) for name, path in find_sources(inputs, recursive) if isinstance(path, Path)]


def find_sources(inputs: Sequence[str], recursive: bool, urls: bool = False) -> list[tuple[str, Path | RemotePath]]:
    """The same as :func:`find_pictures`, and with ``urls`` of URLs, too."""
    if STREAM in inputs:
        raise click.UsageError("pictures are read from files, not from standard input.")
    found = expand(inputs, PICTURE_SUFFIXES, recursive)
    if found.unreadable:  # figures over the rest would be those of something else
        raise Failure(describe(found.unreadable[0]))
    sources = found.files
    paths = []
    for source in sources:
        path = source.path if urls and isinstance(source.path, RemotePath) else local(source, "measuring")
        if isinstance(path, Path) and not path.exists():
            raise Failure(f"{path}: no such file or folder")
        paths.append((source.relative, path))
    uses = Counter(relative for relative, _ in paths)
    return [((relative if uses[relative] == 1 else path).as_posix(), path) for relative, path in paths]


def check_writable(file: StrPath) -> None:
    """Refuse now what would otherwise be refused when the measuring is done."""
    path = Path(file)
    if path.is_dir():
        raise Failure(f"{path}: is a folder")
    if not path.absolute().parent.is_dir():
        raise Failure(f"{path}: the folder {path.parent} does not exist")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise Failure(f"{path}: permission denied")
