"""Compressed files in Pillow: ``import codec.pillow_plugin``; ``Image.open`` and ``Image.save`` know them.

    import codec.pillow_plugin
    from PIL import Image

    Image.open("picture.bin").resize((400, 300)).save("small.png")
    Image.open("photo.jpg").save("photo.bin", quality=60)

Opening a file reads its header only: size and mode cost no network. Pixels, profile and EXIF arrive with the
first access to the pixels (or to ``getexif``). Errors are ``OSError``, as with any other format in Pillow.
"""

from PIL import Image, ImageFile

from . import bitstream, metadata
from .errors import BitstreamError, CodecError

FORMAT = "CODEC"
EXTENSIONS = [".bin", ".lqc"]


class CodecImageFile(ImageFile.ImageFile):
    """A compressed file; ``info`` holds ``quality`` (0 to 100) and ``model_id`` from the start."""

    format = FORMAT
    format_description = "learned quantisation codec"

    _waiting = False  # the header has been read, the pixels have not

    def _open(self):
        try:
            header = bitstream.read_header(self.fp)
        except BitstreamError as error:
            # Image.open would take a SyntaxError for "some other format" and hide what is wrong.
            raise OSError(str(error)) from error
        self._size = (header.width, header.height)
        self._mode = ("L" if header.grey else "RGB") + ("A" if header.alpha else "")
        self.info["quality"] = header.quality / 100
        self.info["model_id"] = header.model_id
        self.tile = []  # nothing for Pillow's own decoders
        self._waiting = True

    def load(self):
        if self._waiting:
            import codec  # here, as decoding loads networks and looking at a header must not

            try:
                self.fp.seek(0)
                image = codec.decompress(bitstream.read_file(self.fp))
            except CodecError as error:
                raise OSError(str(error)) from error
            assert image.mode == self.mode and image.size == self.size
            self.im = image.im
            self.info.update(image.info)
            self._waiting = False
            if self._exclusive_fp:
                self.fp.close()
            self.fp = None
        return super().load()

    def getexif(self):
        self.load()
        return super().getexif()


def _accept(prefix):
    return prefix.startswith(bitstream.MAGIC)


def _save(image, file, filename):
    """Behind ``Image.save(..., quality=50.0, exif=..., icc_profile=..., fallback="auto")``.

    As for other formats, ``icc_profile`` defaults to the image's own and EXIF is kept only where it is given.
    An orientation, given or else the image's own, is applied to the pixels: a saved picture is always upright.
    """
    import codec

    options = image.encoderinfo
    exif = options.get("exif") or b""
    exif = exif.tobytes() if isinstance(exif, Image.Exif) else exif
    given = {"icc_profile": options["icc_profile"]} if "icc_profile" in options else {}
    if metadata.orientation(exif.removeprefix(metadata.PREFIX)):
        given["exif"] = exif
    if given:
        image = image.copy()
        image.info.update(given)
    try:
        data = codec.compress(
            image, quality=options.get("quality", 50.0), exif=exif, fallback=options.get("fallback", "auto")
        )
    except CodecError as error:
        raise OSError(str(error)) from error
    file.write(data)


Image.register_open(FORMAT, CodecImageFile, _accept)
Image.register_save(FORMAT, _save)
Image.register_extensions(FORMAT, EXTENSIONS)
Image.register_mime(FORMAT, bitstream.MIME_TYPE)
