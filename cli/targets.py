"""Options that say what a file is to be, where ``--quality`` says how it is made."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from codec.quality import PRESETS

from .common import Quality

if TYPE_CHECKING:
    from .common import Command


class QualityOrWord(Quality):
    """0 to 100, or one of the presets."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if value in PRESETS:
            return PRESETS[value]
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            self.fail(f"{error.message.rstrip('.')}, nor one of {', '.join(PRESETS)}.", param, ctx)


class Size(click.ParamType):
    """Bytes as an int, from text such as 200kB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from codec.targets import parse_size

        try:
            return value if isinstance(value, int) else parse_size(value)
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


class Finite(click.FloatRange):
    """A number; neither NaN nor infinite, which ``FloatRange`` may let through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


TARGETS = ("target_size", "target_bpp", "target_psnr", "target_ssimulacra2")


def quality_options(command: Command) -> Command:
    """``--quality`` and the targets that may stand in its place; :func:`target_among` reads the latter."""
    for option in (
        click.option(
            "--target-ssimulacra2", type=Finite(max=100), metavar="S",
            help="SSIMULACRA2 to meet within 0.5: 70 high, 90 lossless.",
        ),
        click.option(
            "--target-psnr", type=Finite(min=0, min_open=True), metavar="DB", help="PSNR in dB to meet within 0.1."
        ),
        click.option(
            "--target-bpp", type=Finite(min=0, min_open=True), metavar="N", help="As --target-size, in bits per pixel."
        ),
        click.option(
            "--target-size", type=Size(), metavar="SIZE",
            help="Size of each file, such as 200kB: 99 to 100 % of it, never more.",
        ),
        click.option(
            "-q", "--quality", type=QualityOrWord(), default=50, show_default=True, metavar="Q",
            help="0 (small) to 100 (faithful), or "
            f"{', '.join(f'{word} ({number})' for word, number in PRESETS.items())}.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def target_among(options: dict[str, Any]) -> dict[str, Any]:
    """The target among a command's options, as a keyword for ``Codec.compress``; empty without one.

    Raises:
        click.UsageError: two of them, or one beside ``--quality``.
    """
    given = {name: options[name] for name in TARGETS if options[name] is not None}
    context = click.get_current_context()
    names = [f"--{name.replace('_', '-')}" for name in given]
    if given and context.get_parameter_source("quality") is not ParameterSource.DEFAULT:
        names = ["--quality", *names]
    if len(names) > 1:
        raise click.UsageError(f"{' and '.join(names)} do not go together.")
    return given
