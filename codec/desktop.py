"""What tells a freedesktop system of the codec's files: their type, how to know them, and how to draw their thumbnails.

    mime/packages/lqc.xml         shared MIME-info: image/x-lqc, by its magic and by *.lqc
    thumbnailers/lqc.thumbnailer  what file managers call for a thumbnail
    lqc/magic                     for file(1): file -m

All of them below the user's data folder, ``$XDG_DATA_HOME`` or ``~/.local/share``. Standard library only, save for
:func:`write_thumbnail`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .bitstream import MAGIC, MIME_TYPE
from .errors import CodecError
from .files import StrPath, write_bytes_atomic

THUMBNAIL_PIXELS = 2**26  # of a picture that gets a thumbnail; larger ones would keep a file manager waiting
MAX_THUMBNAIL = 1024  # pixels a side; "xx-large" of the thumbnail specification

# The four bytes as C and file(1) write them.
_ESCAPED = "".join(chr(byte) if 32 < byte < 127 else f"\\x{byte:02x}" for byte in MAGIC)

MIME_XML = f"""<?xml version="1.0" encoding="UTF-8"?>
<mime-info xmlns="http://www.freedesktop.org/standards/shared-mime-info">
  <mime-type type="{MIME_TYPE}">
    <comment>LQC image</comment>
    <comment xml:lang="de">LQC-Bild</comment>
    <acronym>LQC</acronym>
    <expanded-acronym>learned quantisation codec</expanded-acronym>
    <generic-icon name="image-x-generic"/>
    <magic priority="60">
      <match type="string" offset="0" value="{_ESCAPED}"/>
    </magic>
    <glob pattern="*.lqc"/>
  </mime-type>
</mime-info>
"""

# Offsets: codec/BITSTREAM.md. Width and height are varints, which file(1) has no type for.
FILE_MAGIC = f"""# LQC, a neural image codec
0\tstring\t{_ESCAPED}\tLQC image data
!:mime\t{MIME_TYPE}
!:ext\tlqc/bin
>4\tubyte\tx\t\\b, version %u
>4\tubyte\t2
>>5\tubyte&1\t1\t\\b, grey
>>5\tubyte&32\t32\t\\b, kept without loss
>>5\tubyte&32\t0
>>>14\tuleshort\tx\t\\b, quality %u/10000
>>>6\tubequad\tx\t\\b, model %016llx
"""


def thumbnailer(command: Sequence[str] | None = None) -> str:
    """The text of the thumbnailer entry.

    Args:
        command: list of words that start the codec; None for the interpreter that runs.
    """
    command = command or [sys.executable, "-m", "codec"]
    words = " ".join(map(_quoted, command))
    return (
        f"[Thumbnailer Entry]\nTryExec={_escaped(command[0])}\n"
        f"Exec={words} desktop --thumbnail %i %o %s\nMimeType={MIME_TYPE};\n"
    )


def _quoted(word: str) -> str:
    """A word of an Exec line, by the rules of the Desktop Entry Specification."""
    text = "".join(f"\\{char}" if char in '"`$\\' else char for char in word)
    return _escaped(text if re.fullmatch(r"[\w./-]+", word) else f'"{text}"').replace("%", "%%")


def _escaped(text: str) -> str:
    """A string value of a desktop entry."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")


def data_folder() -> Path:
    """The user's data folder; relative values of ``$XDG_DATA_HOME`` count as none, as the specification wants it."""
    named = os.environ.get("XDG_DATA_HOME", "")
    return Path(named) if os.path.isabs(named) else Path.home() / ".local" / "share"


def files(folder: Path | None = None) -> dict[Path, str]:
    """What is installed: path -> text."""
    folder = folder or data_folder()
    return {
        folder / "mime" / "packages" / "lqc.xml": MIME_XML,
        folder / "thumbnailers" / "lqc.thumbnailer": thumbnailer(),
        folder / "lqc" / "magic": FILE_MAGIC,
    }


def install(folder: Path | None = None) -> list[Path]:
    """Write the files, and bring the database of types up to date; list of paths."""
    folder = folder or data_folder()
    for path, text in files(folder).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(path, text.encode("utf-8"))
    _update(folder)
    return list(files(folder))


def uninstall(folder: Path | None = None) -> list[Path]:
    """Remove the files, wherever they are there; list of the paths that were."""
    folder = folder or data_folder()
    removed = []
    for path in files(folder):
        if path.is_file():
            path.unlink()
            removed.append(path)
    if (folder / "lqc").is_dir() and not any((folder / "lqc").iterdir()):
        (folder / "lqc").rmdir()
    if removed:
        _update(folder)
    return removed


def _update(folder: Path) -> None:
    """Make the caches that programs read; a system without the tool makes them itself, or has none."""
    tool = shutil.which("update-mime-database")
    if tool and (folder / "mime").is_dir():
        result = subprocess.run([tool, str(folder / "mime")], capture_output=True, text=True)
        if result.returncode:
            lines = result.stderr.strip().splitlines() or ["no reason was given"]
            raise CodecError(f"update-mime-database: {lines[-1]}")


def write_thumbnail(source: StrPath, target: StrPath, size: int) -> None:
    """Decode a compressed file and write a PNG file of at most ``size`` x ``size`` pixels, whole or not at all.

    Raises:
        BitstreamError, ModelError: it cannot be decoded, or has more than :data:`THUMBNAIL_PIXELS` pixels.
    """
    import io

    from . import Codec

    image = Codec(max_pixels=THUMBNAIL_PIXELS).decompress(Path(source))
    image.thumbnail((size, size))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_bytes_atomic(target, buffer.getvalue())
