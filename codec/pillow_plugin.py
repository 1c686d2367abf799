"""Compressed files in Pillow: ``import codec.pillow_plugin``; ``Image.open`` and ``Image.save`` know them.

    import codec.pillow_plugin
    from PIL import Image

    Image.open("picture.bin").resize((400, 300)).save("small.png")
    Image.open("photo.jpg").save("photo.bin", quality=60)

Opening a file reads its header and metadata only: size, mode, profile and EXIF cost no network; pixels arrive with the first
access to them. ``verify`` checks all checksums, and makes no pixels. Errors are ``OSError``, as with any other format in Pillow.
"""

from PIL import ExifTags, Image, ImageFile, ImageOps

from . import bitstream
from .errors import BitstreamError, CodecError

FORMAT = "CODEC"
EXTENSIONS = [".bin", ".lqc"]
OPTIONS = (
    "quality", "effort", "exif", "icc_profile", "target_size", "target_bpp", "target_psnr", "target_ssimulacra2"
)  # fmt: skip
_EXIF_PREFIX = b"Exif\x00\x00"


class CodecImageFile(ImageFile.ImageFile):
    """A compressed file; ``info`` holds ``quality`` (0 to 100), ``model_id``, and profile and EXIF, from the start."""

    format = FORMAT
    format_description = "learned quantisation codec"

    _waiting = False  # the header has been read, the pixels have not

    def _open(self):
        try:
            header, metadata = bitstream.read_metadata(self.fp)
        except BitstreamError as error:
            # Image.open would take a SyntaxError for "some other format" and hide what is wrong.
            raise OSError(str(error)) from error
        self._size = (header.width, header.height)
        self._mode = ("L" if header.grey else "RGB") + ("A" if header.alpha else "")
        self.info["quality"] = header.quality / 100
        self.info["model_id"] = header.model_id
        if "icc" in metadata:
            self.info["icc_profile"] = metadata["icc"]
        if "exif" in metadata and _is_readable(metadata["exif"]):
            self.info["exif"] = _EXIF_PREFIX + metadata["exif"]
        self.tile = []  # nothing for Pillow's own decoders
        self._waiting = True

    def load(self):
        if self._waiting:
            import codec  # here, as decoding loads networks and looking at a header must not

            image = self._with_file(codec.decompress)
            assert image.mode == self.mode and image.size == self.size
            self.im = image.im
            self.info.update(image.info)
            self._waiting = False
            self._close()
        return super().load()

    def verify(self):
        """Raise OSError where a checksum says that the file is damaged. It is closed; open it anew to load it."""
        if self._waiting:
            import codec

            self._with_file(codec.verify)
        self._close()

    def _with_file(self, work):
        """What ``work`` makes of the file's bytes."""
        if self.fp is None:
            raise OSError("the file has been closed, by verify perhaps; open it again")
        try:
            self.fp.seek(0)
            return work(bitstream.read_file(self.fp))
        except CodecError as error:
            raise OSError(str(error)) from error

    def _close(self):
        if self._exclusive_fp and self.fp is not None:
            self.fp.close()
        self.fp = None


def _is_readable(exif):
    """Whether Pillow can read EXIF in its TIFF form; ``getexif`` would raise."""
    try:
        Image.Exif().load(exif)
    except Exception:  # Pillow raises errors of many kinds on damaged EXIF
        return False
    return True


def _accept(prefix):
    return prefix.startswith(bitstream.MAGIC)


def _save(image, file, filename):
    """Behind ``Image.save(..., quality=50.0, exif=..., icc_profile=..., effort=1, target_size=...)``.

    As for other formats, ``icc_profile`` defaults to the image's own and EXIF is kept only where it is given.
    An orientation, given or the image's own, is applied to the pixels: a saved picture is always upright.
    """
    import codec

    options = dict(image.encoderinfo)
    unknown = sorted(options.keys() - set(OPTIONS))
    if unknown:
        raise TypeError(f"{FORMAT} has no option {unknown[0]!r}; there are {', '.join(OPTIONS)}")
    keep_exif = False
    if "exif" in options:
        exif = options.pop("exif") or b""
        exif = exif.tobytes() if isinstance(exif, Image.Exif) else exif
        keep_exif = bool(exif)
        image = _described(image, exif)
    if "icc_profile" in options:
        image = image.copy()
        image.info["icc_profile"] = options.pop("icc_profile")
    try:
        data = codec.compress(image, **{"quality": 50.0, **options}, exif=keep_exif)
    except CodecError as error:
        raise OSError(str(error)) from error
    file.write(data)


def _described(image, exif):
    """The image with other EXIF, which speaks of the pixels as they are; where it names no orientation, upright."""
    upright = image if ExifTags.Base.Orientation in _read(exif) else ImageOps.exif_transpose(image)
    described = upright.copy()  # which has read no EXIF yet
    described.info["exif"] = exif
    return described


def _read(exif):
    """``Image.Exif`` of some bytes; empty where they are damaged."""
    found = Image.Exif()
    if exif and _is_readable(exif):
        found.load(exif)
    return found


def _save_all(image, file, filename):
    raise OSError(f"a {FORMAT} file holds one picture: save each frame to a file of its own")


Image.register_open(FORMAT, CodecImageFile, _accept)
Image.register_save(FORMAT, _save)
Image.register_save_all(FORMAT, _save_all)
Image.register_extensions(FORMAT, EXTENSIONS)
Image.register_mime(FORMAT, bitstream.MIME_TYPE)
