"""Compressed files in Pillow: ``import codec.pillow_plugin``; ``Image.open`` and ``Image.save`` know them.

    import codec.pillow_plugin
    from PIL import Image

    Image.open("picture.bin").resize((400, 300)).save("small.png")
    Image.open("photo.jpg").save("photo.bin", quality=60)

Opening a file reads its header and metadata only: size, mode, profile and EXIF cost no network; pixels arrive with the
first access to them. ``verify`` checks all checksums, and makes no pixels. Errors are ``OSError``, as with any other
format in Pillow.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import IO, Any, TypeVar

from PIL import Image, ImageFile, ImageOps

from . import bitstream, metadata
from .errors import BitstreamError, CodecError

T = TypeVar("T")

FORMAT = "LQC"
EXTENSIONS = [".bin", ".lqc"]
_INFO = ("exif", "xmp", "icc_profile", "dpi")  # options that take the place of what the image's ``info`` holds
OPTIONS = (
    "quality", "effort", *_INFO, "target_size", "target_bpp", "target_psnr", "target_ssimulacra2", "fallback",
    "strip_gps",
    "alpha_quality",
)  # fmt: skip


class CodecImageFile(ImageFile.ImageFile):
    """A compressed file; ``info`` holds ``quality`` (0 to 100), ``model_id``, and profile and EXIF, from the start."""

    format = FORMAT
    format_description = "learned quantisation codec"

    _waiting = False  # the header has been read, the pixels have not
    _scale: float = 1  # that draft has chosen

    def _open(self) -> None:
        assert self.fp is not None
        try:
            header, sections = bitstream.read_metadata(self.fp)
        except BitstreamError as error:
            # Image.open would take a SyntaxError for "some other format" and hide what is wrong.
            raise OSError(str(error)) from error
        self._size = (header.width, header.height)
        self._mode = ("L" if header.grey else "RGB") + ("A" if header.alpha else "")
        self.info["quality"] = header.quality / 100
        self.info["model_id"] = header.model_id
        if any(sections.values()):
            self.info.update(_info(sections, header.grey))
        self.tile = []  # nothing for Pillow's own decoders
        self._waiting = True

    def load(self) -> Any:
        if self._waiting:
            import codec  # here, as decoding loads networks and looking at a header must not

            image = self._with_file(functools.partial(codec.decompress, scale=self._scale))
            assert image.mode == self.mode and image.size == self.size
            self.im = image.im
            self.info.update(image.info)
            self._waiting = False
            self._close()
        return super().load()

    def draft(self, mode: str | None, size: tuple[int, int] | None) -> tuple[str, tuple[int, int, float, float]] | None:
        """Before the pixels are there: half, a quarter or an eighth of the size, if that is still at least ``size``.

        ``thumbnail`` calls it. The mode stays. Returns None where nothing changes, otherwise mode and box as for JPEG.
        """
        if not self._waiting or self._scale != 1 or not size:
            return None
        room = min(own // max(wanted, 1) for own, wanted in zip(self.size, size))
        reduce = next(step for step in (8, 4, 2, 1) if room >= step or step == 1)
        if reduce == 1:
            return None
        width, height = self.size
        self._scale, self._size = 1 / reduce, (-(-width // reduce), -(-height // reduce))
        return self.mode, (0, 0, width / reduce, height / reduce)

    def verify(self) -> None:
        """Raise OSError where a checksum says that the file is damaged. It is closed; open it anew to load it."""
        if self._waiting:
            import codec

            self._with_file(codec.verify)
        self._close()

    def _with_file(self, work: Callable[[bytes], T]) -> T:
        """What ``work`` makes of the file's bytes."""
        if self.fp is None:
            raise OSError("the file has been closed, by verify perhaps; open it again")
        try:
            self.fp.seek(0)
            return work(bitstream.read_file(self.fp))
        except CodecError as error:
            raise OSError(str(error)) from error

    def _close(self) -> None:
        if self._exclusive_fp and self.fp is not None:
            self.fp.close()
        self.fp = None


def _info(sections: dict[str, bytes | None], grey: bool) -> dict[str, Any]:
    """What the metadata of a file is called in the ``info`` of an image; what is damaged is left to ``load``."""
    from . import image_io

    info = {}
    with contextlib.suppress(CodecError):
        if sections["stored"]:
            found, icc = image_io.metadata_of_stored(sections["stored"], grey)
            info = image_io.info_of(icc, found.exif, found.xmp, found.iptc, found.dpi)
    with contextlib.suppress(CodecError):
        found, icc = metadata.of_container(SimpleNamespace(**sections))
        info |= image_io.info_of(icc, found.exif, found.xmp, found.iptc, found.dpi)
    return info


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(bitstream.MAGIC)


def _save(image: Image.Image, file: IO[bytes], filename: str | bytes) -> None:
    """Behind ``Image.save(..., quality=50.0, exif=..., icc_profile=..., effort=1, target_size=...)``; see OPTIONS.

    As for other formats, profile and resolution default to the image's own, and EXIF and XMP are kept only where they
    are given. An orientation, given or the image's own, is applied to the pixels: a saved picture is always upright.
    """
    import codec

    options = dict(image.encoderinfo)
    unknown = sorted(options.keys() - set(OPTIONS))
    if unknown:
        raise TypeError(f"{FORMAT} has no option {unknown[0]!r}; there are {', '.join(OPTIONS)}")
    given = {name: options.pop(name) or b"" for name in _INFO if name in options}
    if given:
        image = _described(image, given)
    options["strip"] = not (given.get("exif") or given.get("xmp"))
    try:
        data = codec.compress(image, **{"quality": 50.0, **options})
    except CodecError as error:
        raise OSError(str(error)) from error
    file.write(data)


def _described(image: Image.Image, given: dict[str, Any]) -> Image.Image:
    """The image with other metadata; EXIF that names an orientation speaks of the pixels as they are."""
    exif = given.get("exif", b"")
    given["exif"] = exif = exif.tobytes() if isinstance(exif, Image.Exif) else bytes(exif)
    if metadata.orientation(exif.removeprefix(metadata.PREFIX)) == 0:
        image = ImageOps.exif_transpose(image)
    described = image.copy()  # which has read no EXIF yet
    for name in ("xmp", "XML:com.adobe.xmp", "photoshop"):
        described.info.pop(name, None)
    described.info.update(given)
    return described


def _save_all(image: Image.Image, file: IO[bytes], filename: str | bytes) -> None:
    raise OSError(f"a {FORMAT} file holds one picture: save each frame to a file of its own")


Image.register_open(FORMAT, CodecImageFile, _accept)
Image.register_save(FORMAT, _save)
Image.register_save_all(FORMAT, _save_all)
Image.register_extensions(FORMAT, EXTENSIONS)
Image.register_mime(FORMAT, bitstream.MIME_TYPE)
