"""Options about what pictures are and what of them is kept, and the lines that say what was not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from .files import Source, local

if TYPE_CHECKING:
    from .common import Command


REMARK = "codec: {}: {}"


def keeping_options(command: Command) -> Command:
    """Of ``codec compress``; they arrive as ``keeping``, a dict for ``Codec.compress``, and ``all_frames``."""
    options = (
        click.option(
            "--fallback", type=click.Choice(["never", "auto", "always"]),
            help="Keep the picture's own bytes, or a lossless WebP, where that is smaller.  "
            "[auto; never with a target]",
        ),
        click.option("--lossless", is_flag=True, help="The same as --fallback always."),
        click.option("--strip", is_flag=True, help="Leave out EXIF, XMP and IPTC."),
        click.option("--strip-gps", is_flag=True, help="Leave out positions."),
        click.option("--exif", is_flag=True, hidden=True, help="Accepted; metadata is kept anyway."),
        click.option(
            "--alpha-quality", type=click.FloatRange(0, 100), default=100, metavar="Q",
            help="0 to 100; 100, the default, is lossless.",
        ),
        click.option("--allow-truncated", is_flag=True, help="Read a JPEG that ends too early as far as it goes."),
        click.option(
            "--all-frames", is_flag=True, help="Write one file for each frame or page: picture.0.bin, .1.bin..."
        ),
    )  # fmt: skip

    def gather(**given):
        names = "fallback", "strip", "strip_gps", "alpha_quality", "allow_truncated"
        keeping = {name: given.pop(name) for name in names}
        if given.pop("lossless"):
            if keeping["fallback"] not in (None, "always"):
                raise click.UsageError(f"--lossless and --fallback {keeping['fallback']} do not go together.")
            keeping["fallback"] = "always"
        if keeping["fallback"] is None:
            del keeping["fallback"]
        given.pop("exif")
        return command(**given, keeping=keeping)

    return _decorated(gather, command, options)


def writing_options(command: Command) -> Command:
    """Of ``codec decompress``; they arrive as ``writing``, an image_io.Writing, and ``depth``."""
    options = (
        click.option(
            "--depth", type=click.Choice(["8", "16"]), help="Bits a sample; 16 for png, ppm, pgm and pnm.  [8]",
        ),
        click.option("--background", metavar="COLOUR", default="white", show_default=True,
                     help="Behind transparent parts, in formats without alpha: a name or #rrggbb."),
        click.option("--output-quality", type=click.IntRange(0, 100), metavar="Q",
                     help="Of jpg, avif, webp and jxl.  [jpg 95, avif 90, the others lossless]"),
    )  # fmt: skip

    def gather(depth, background, output_quality, **given):
        from PIL import ImageColor

        from codec.image_io import Writing

        try:
            colour = ImageColor.getrgb(background)[:3]
        except ValueError:
            raise click.BadParameter(f"{background!r} is no colour.", param_hint="'--background'") from None
        return command(**given, writing=Writing(output_quality, colour), depth=depth and int(depth))

    return _decorated(gather, command, options)


def _decorated(gather, command, options):
    gather.__name__, gather.__doc__ = command.__name__, command.__doc__
    gather.__click_params__ = list(getattr(command, "__click_params__", []))
    for option in reversed(options):
        gather = option(gather)
    return gather


def remark(name: object, text: str) -> None:
    """A line on stderr about a picture."""
    click.echo(REMARK.format(name, text), err=True)


def warn_of_picture_suffix(output: str | None, suffixes: Sequence[str]) -> None:
    """Say so where what ``codec compress`` writes would look like a picture of another kind."""
    if output and output.lower().endswith(tuple(suffixes)):
        remark(output, "what is written there is a compressed file, whatever its name; other programs cannot read it")


def frames_of(source: Source) -> range:
    """Numbers of the frames of a picture file."""
    from codec.image_io import count_frames

    return range(count_frames(local(source, "--all-frames")))
