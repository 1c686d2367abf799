"""``codec view``: a local page with pictures and what the codec makes of them, while one turns the quality."""

import contextlib
import sys
import webbrowser

import click

from . import progress
from .common import coder_options, describe, model_options
from .files import COMPRESSED_SUFFIXES, PICTURE_SUFFIXES, STREAM, expand, local
from .targets import QualityOrWord


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="FILES...")
@click.option("-q", "--quality", type=QualityOrWord(), default=50, show_default=True, help="That the page begins with.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, metavar="N", help="Of the page; any that is free unless given."
)
@click.option("--browser/--no-browser", default=True, help="Open a browser, where there is a terminal.")
@model_options
@coder_options
def view(inputs, quality, port, browser, model, device, threads):
    """Look at pictures and what the codec makes of them.

    FILES are pictures, compressed files, or folders of them. Prints the address of a page and serves it until Ctrl-C:
    the original under a slider, and the quality, with the size and the PSNR of the file that 'codec compress' would
    write.

    The page is for browsers on this machine alone: it listens on the loopback interface, and its address holds a word
    that is new each time. Only FILES are shown, and nothing is written.
    """
    if STREAM in inputs:
        raise click.UsageError("pictures are read from files, not from standard input.")
    paths = [local(source, "view") for source in expand(inputs, (*PICTURE_SUFFIXES, *COMPRESSED_SUFFIXES)).files]

    from codec import Codec
    from codec.view import Pictures, Server

    coder = Codec(model, device=device, threads=threads)
    with progress.bar(len(paths), "file", "reading") as bar:

        def failed(path, error):
            said = describe(error)
            bar.write(f"codec: {said if str(path) in said else f'{path}: {said}'}", file=sys.stderr)

        pictures = Pictures(paths, coder, bar.update, failed if len(paths) > 1 else None)
    with Server(pictures, quality, port) as server:
        click.echo(server.url)
        if not progress.is_quiet():
            click.echo("codec: Ctrl-C ends it", err=True)
        if browser and sys.stdout.isatty():
            webbrowser.open(server.url)
        with contextlib.suppress(KeyboardInterrupt):  # as announced
            server.serve_forever()
