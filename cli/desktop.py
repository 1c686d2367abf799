"""``codec desktop``: compressed files as pictures among others in file managers, and for file(1)."""

import sys

import click

from codec import desktop as files
from codec.errors import CodecError


@click.command()
@click.option("--install", "action", flag_value="install", help="Write them to the user's data folder.")
@click.option("--uninstall", "action", flag_value="uninstall", help="Remove them.")
@click.option("--print", "action", flag_value="print", help="Show them, with their places.")
@click.option(
    "--thumbnail", nargs=3, type=(str, str, click.IntRange(1, files.MAX_THUMBNAIL)), metavar="FILE PNG SIZE",
    help="What file managers call: write a picture of at most SIZE x SIZE pixels.",
)  # fmt: skip
def desktop(action, thumbnail):
    """Make the desktop know compressed files.

    Installs, for the user alone, the type image/x-lqc with its magic and the extension .lqc, a thumbnailer, and a
    magic file for file(1). For freedesktop systems (Linux, BSD): $XDG_DATA_HOME, or ~/.local/share. The thumbnailer
    calls the Python that runs now. File managers that run thumbnailers in a sandbox find it only where it is installed
    for all users.
    """
    if (action is None) == (thumbnail is None):
        raise click.UsageError("say one of --install, --uninstall, --print, --thumbnail.")
    if thumbnail is not None:
        files.write_thumbnail(*thumbnail)
        return
    if action == "print":
        click.echo("\n".join(f"# {path}\n{text}" for path, text in files.files().items()), nl=False)
        return
    if sys.platform in ("darwin", "win32"):
        raise CodecError("this system keeps its types of files in another way; --print shows ours")
    paths = files.install() if action == "install" else files.uninstall()
    for path in paths:
        click.echo(path if action == "install" else f"{path}: removed")
    if action == "install":
        click.echo(f"codec: for file(1): file -m '{paths[-1]}' picture.bin", err=True)
