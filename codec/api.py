"""The story, top to bottom: a picture becomes bytes, bytes become a picture."""

import functools
from concurrent.futures import ThreadPoolExecutor

from . import bitstream, image_io, weights
from .errors import CodecError, ModelError
from .model import Model
from .quality import EFFORT_MAX, checked_effort, hundredths
from .threads import set_threads


class Codec:
    """Compresses and decompresses pictures; loads the weights once.

    Args:
        model: id of an installed model or path of a model folder; None for the shipped default. With None, files
            made by any installed model are decompressed; otherwise only those of this model.
        device: "cpu"; others, such as "cuda", need the torch backend.
        threads: for the whole process, as :func:`codec.threads.set_threads` sets it; None leaves the setting alone.
        backend: what runs the transforms: "onnx" (ONNX Runtime), or "torch", which needs PyTorch. None: torch where
            the device is not the CPU. Files are of the same size and quality, and each decodes with the other.

    Raises:
        ModelError: there is no such model, or its files are damaged. CodecError: there is no such backend or device.

    Example:
        >>> codec = Codec()
        >>> data = codec.compress("picture.png", quality=40)
        >>> image = codec.decompress(data)
    """

    def __init__(self, model=None, device="cpu", threads=None, backend=None):
        if threads is not None:
            set_threads(threads)
        self.device, self.threads = str(device), threads
        self.backend = backend or ("onnx" if self.device == "cpu" else "torch")
        if self.backend not in ("onnx", "torch"):
            raise CodecError(f"backend {backend}: there are onnx and torch")
        if self.backend == "onnx" and self.device != "cpu":
            raise CodecError(f"device {device}: needs the torch backend")
        self._any_model = model is None
        folder = weights.find_model(model)
        self.model_id = weights.model_id(folder)
        self._models = {self.model_id: self._load(folder)}

    @property
    def model(self):
        """The model.Model that compresses."""
        return self._models[self.model_id]

    def compress(self, image, quality=50.0, *, exif=False, effort=EFFORT_MAX):
        """The picture as the bytes of one file.

        Args:
            image: path, PIL.Image, or uint8 array (H, W, 3); also (H, W) grey and (H, W, 4) with alpha.
            quality: 0 (smallest) to 100 (best); continuous, in hundredths.
            exif: keep EXIF metadata. The orientation is applied in any case.
            effort: 0 (fast) to 1 (small), an integer: how thoroughly to search for the best symbols. Decoding takes as
                long either way.

        Raises:
            ImageError: the picture cannot be read or is too large. ValueError: quality or effort is out of range.
        """
        return self._compress(image_io.read_picture(image), hundredths(quality), exif, checked_effort(effort))

    def decompress(self, data):
        """PIL.Image of a compressed file's bytes; mode RGB, L, RGBA or LA, as the original was.

        Raises:
            BitstreamError: the bytes are not a whole, undamaged file. ModelError: its model is not installed.
        """
        return self._decompress(bitstream.unpack(data))

    def compress_batch(self, images, quality=50.0, *, exif=False, effort=EFFORT_MAX):
        """A list of files' bytes, each the same as :meth:`compress` gives; the next picture is read meanwhile."""
        how = hundredths(quality), exif, checked_effort(effort)
        with ThreadPoolExecutor(max_workers=1) as pool:
            return [self._compress(picture, *how) for picture in pool.map(image_io.read_picture, images)]

    def decompress_batch(self, files):
        """A list of PIL.Images, each the same as :meth:`decompress` gives."""
        return [self.decompress(data) for data in files]

    def reconstruct(self, image, quality=50.0, *, effort=EFFORT_MAX):
        """What :meth:`decompress` will make of :meth:`compress`, as uint8 (H, W, 3), without the detour."""
        pixels = image_io.read_picture(image).pixels
        coded = self.model.encode(pixels, hundredths(quality), effort=checked_effort(effort))
        return self.model.decode(coded, *pixels.shape[:2], hundredths(quality))

    def _compress(self, picture, quality, exif, effort):
        height, width = picture.pixels.shape[:2]
        bitstream.check_size(width, height)
        coded = self.model.encode(picture.pixels, quality, effort=effort)
        return bitstream.pack(
            bitstream.Container(
                model_id=self.model_id,
                quality=quality,
                width=width,
                height=height,
                grey=picture.grey,
                plain=coded.plain,
                flat=coded.flat,
                dependent=coded.dependent,
                tiles=coded.tiles,
                alpha=None if picture.alpha is None else image_io.encode_alpha(picture.alpha),
                icc=picture.icc,
                exif=picture.exif if exif else None,
            )
        )

    def _decompress(self, container):
        model = self._model(container.model_id)
        height, width = container.height, container.width
        decoded = model.decode(container, height, width, container.quality)
        alpha = container.alpha and image_io.decode_alpha(container.alpha, width, height)
        return image_io.to_image(decoded, alpha, container.grey, container.icc, container.exif)

    def _model(self, model_id):
        if model_id not in self._models:
            if not self._any_model or model_id not in weights.list_models():
                have = ", ".join(sorted({*self._models, *(weights.list_models() if self._any_model else ())}))
                raise ModelError(f"the file was made with model {model_id}, which is not here (have {have})")
            folder = weights.find_model(model_id)
            weights.model_id(folder)
            self._models[model_id] = self._load(folder)
        return self._models[model_id]

    def _load(self, folder):
        return Model.from_folder(folder, self.threads, self.backend, self.device)


@functools.cache
def _shared():
    """The codec behind the module-level functions."""
    return Codec()


def compress(image, quality=50.0, *, exif=False, effort=EFFORT_MAX):
    """See :meth:`Codec.compress`; with the shipped model, on the CPU."""
    return _shared().compress(image, quality, exif=exif, effort=effort)


def decompress(data):
    """See :meth:`Codec.decompress`; with the shipped models, on the CPU."""
    return _shared().decompress(data)


def compress_batch(images, quality=50.0, *, exif=False, effort=EFFORT_MAX):
    """See :meth:`Codec.compress_batch`."""
    return _shared().compress_batch(images, quality, exif=exif, effort=effort)


def decompress_batch(files):
    """See :meth:`Codec.decompress_batch`."""
    return _shared().decompress_batch(files)
