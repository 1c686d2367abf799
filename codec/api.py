"""The story, top to bottom: a picture becomes bytes, bytes become a picture."""

import copy
import functools
import os
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np

from . import bitstream, image_io, targets, weights
from .errors import CodecError, ModelError, is_memory, not_enough_memory
from .model import Model
from .quality import EFFORT_MAX, checked_effort, hundredths
from .threads import Lock, set_threads


class Codec:
    """Compresses and decompresses pictures; loads the weights once.

    May be shared by threads, and be used in forked children; a copy or a pickle is as good (a pickle names the model,
    which is loaded where it is opened). No call reads or changes a setting of the process.

    Args:
        model: id of an installed model or path of a model folder; None for the default. With None, files
            made by any installed model are decompressed; otherwise only those of this model.
        device: "cpu"; others, such as "cuda", need the torch backend.
        threads: for the whole process, as :func:`codec.threads.set_threads` sets it; None leaves the setting alone.
        backend: what runs the transforms: "onnx" (ONNX Runtime), or "torch", which needs PyTorch. None: torch where
            the device is not the CPU. Files are of the same size and quality, and each decodes with the other.
        max_pixels: larger pictures are refused, both ways, before memory is asked for.
        tune: instead of a model: "eyes" or "psnr", the shipped model that is trained for SSIMULACRA2 or for squared
            error. As with None, files of any installed model are decompressed.

    Raises:
        ModelError: there is no such model, or its files are damaged. CodecError: there is no such backend or device.

    Example:
        >>> codec = Codec()
        >>> data = codec.compress("picture.png", quality=40)
        >>> image = codec.decompress(data)
    """

    def __init__(
        self, model=None, device="cpu", threads=None, backend=None, max_pixels=bitstream.MAX_PIXELS, *, tune=None
    ):
        if model is not None and tune is not None:
            raise ValueError("a model or a tune, not both: a tune is one of the shipped models")
        if threads is not None:
            set_threads(threads)
        self.device, self.threads = str(device), threads
        self.backend = backend or ("onnx" if self.device == "cpu" else "torch")
        self.max_pixels = max_pixels
        if self.backend not in ("onnx", "torch"):
            raise CodecError(f"backend {backend}: there are onnx and torch")
        if self.backend == "onnx" and self.device != "cpu":
            raise CodecError(f"device {device}: needs the torch backend")
        self._any_model, self._tune = model is None, tune
        folder = weights.find_model(model if tune is None else weights.tuned_model_id(tune))
        self.model_id = weights.model_id(folder)
        self._folder = os.path.abspath(folder)
        self._models = {self.model_id: self._load(folder)}
        self._lock = Lock()

    def __copy__(self):
        twin = object.__new__(Codec)
        vars(twin).update(vars(self), _models=dict(self._models))  # models never change
        return twin

    def __deepcopy__(self, memo):
        return copy.copy(self)

    def __reduce__(self):
        model = None if self._any_model else self._folder
        return _opened, (model, self._tune, self.model_id, self.device, self.threads, self.backend, self.max_pixels)

    @property
    def model(self):
        """The model.Model that compresses."""
        return self._models[self.model_id]

    def compress(self, image, quality=50.0, *, exif=False, effort=EFFORT_MAX, **target):
        """The picture as the bytes of one file.

        Args:
            image: path, binary file, PIL.Image, or uint8 array (H, W, 3); also (H, W) grey and (H, W, 4) with alpha.
            quality: 0 (smallest) to 100 (best); continuous, in hundredths; or "web", "default", "archive".
            exif: keep EXIF metadata. The orientation is applied in any case.
            effort: 0 or 1. 1 quantises by a trellis, where the model has tables for it, and looks for the cheapest
                way through it; 0 rounds, which is a little faster on both sides.
            target: one of ``target_size`` (bytes, or text such as "200kB"), ``target_bpp``, ``target_psnr`` (dB) and
                ``target_ssimulacra2``, in the place of a quality, which is then searched: see :mod:`codec.targets`.

        Raises:
            ImageError: the picture cannot be read or is too large. CodecError: not enough memory for it, or no quality
            meets the target. ValueError: quality, effort or target is out of range.
        """
        how = hundredths(quality), exif, _dependent(effort), targets.target_of(**target)
        return self._compress(self._read(image), *how)

    def decompress(self, data):
        """PIL.Image of a compressed file's bytes; mode RGB, L, RGBA or LA, as the original was.

        Raises:
            BitstreamError: the bytes are not a whole, undamaged file. ModelError: its model is not installed.
            CodecError: not enough memory for it. TypeError: something else than bytes.
        """
        if isinstance(data, (str, os.PathLike)):
            cure = f"pathlib.Path({str(data)!r}).read_bytes()"
            raise TypeError(f"decompress needs the bytes of a file, not its name: {cure}")
        return self._decompress(bitstream.unpack(data if isinstance(data, bytes) else memoryview(data)))

    def compress_batch(self, images, quality=50.0, *, exif=False, effort=EFFORT_MAX, on_error="raise", **target):
        """A list of files' bytes, each the same as :meth:`compress` gives.

        Args:
            images: an iterable of pictures, as :meth:`compress` takes them; asked for the next one when the one before
                has been read, so that two are held at a time.
            quality, exif, effort, target: as for :meth:`compress`.
            on_error: "raise", or "return": then a CodecError stands in the place of a picture that has failed.

        Raises:
            TypeError: a single picture or its name in the place of several.
        """
        _check_batch("compress", images, on_error)
        how = hundredths(quality), exif, _dependent(effort), targets.target_of(**target)

        def read(image):
            return self._read(image.copy() if isinstance(image, np.ndarray) else image)

        def finish(reading):
            return self._compress(reading.result(), *how)

        done, before = [], None
        with ThreadPoolExecutor(max_workers=1) as pool:
            for image in images:
                reading = pool.submit(read, image)
                if before is not None:
                    done.append(_outcome(on_error, finish, before))  # while the next one is read
                wait([reading])  # the iterable may make the next picture in the memory of this one
                before = reading
            if before is not None:
                done.append(_outcome(on_error, finish, before))
        return done

    def decompress_batch(self, files, *, on_error="raise"):
        """A list of PIL.Images, each the same as :meth:`decompress` gives.

        Args:
            files: an iterable of files' bytes, asked for one at a time.
            on_error: "raise", or "return": then a CodecError stands in the place of a file that has failed.

        Raises:
            TypeError: a single file or its name in the place of several.
        """
        _check_batch("decompress", files, on_error)
        return [_outcome(on_error, self.decompress, data) for data in files]

    def reconstruct(self, image, quality=50.0, *, effort=EFFORT_MAX):
        """What :meth:`decompress` will make of :meth:`compress`, as uint8 (H, W, 3), without the detour."""
        pixels = self._read(image).pixels
        coded = self.model.encode(pixels, hundredths(quality), dependent=_dependent(effort))
        return self.model.decode(coded, *pixels.shape[:2], hundredths(quality))

    def _read(self, image):
        with np.errstate(all="ignore"):
            return image_io.read_picture(image, self.max_pixels)

    def _compress(self, picture, quality, exif, dependent, target=None):
        height, width = picture.pixels.shape[:2]

        def pack(quality):
            coded = self.model.encode(picture.pixels, quality, dependent=dependent)
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

        def shown(data):
            return np.asarray(self._decompress(bitstream.unpack(data)).convert("RGB"))

        def work():
            return targets.reach(target, picture.pixels, pack, shown) if target else pack(quality)

        return _within_memory(work, width, height)

    def _decompress(self, container):
        height, width = container.height, container.width
        bitstream.check_size(width, height, self.max_pixels)

        def decode():
            decoded = self._model(container.model_id).decode(container, height, width, container.quality)
            alpha = container.alpha and image_io.decode_alpha(container.alpha, width, height)
            return image_io.to_image(decoded, alpha, container.grey, container.icc, container.exif)

        return _within_memory(decode, width, height)

    def _model(self, model_id):
        with self._lock:
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


def _dependent(effort):
    """What an effort means to :meth:`Model.encode`."""
    return None if checked_effort(effort) else False


def _within_memory(work, width, height):
    """``work()`` on a picture, the same whatever NumPy is told to do about underflow; CodecError where memory runs out."""
    try:
        with np.errstate(all="ignore"):
            return work()
    except Exception as error:
        if not is_memory(error):
            raise
    # Out here, as an error keeps what it was raised in the middle of, and that holds the arrays that are too many.
    raise not_enough_memory(width, height)


def _outcome(on_error, work, *arguments):
    """What ``work`` returns, or the CodecError that it ends in, if that is to be returned."""
    try:
        return work(*arguments)
    except CodecError as error:
        if on_error == "raise":
            raise
        # Where it comes from would hold the picture for as long as the error is kept.
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)


def _check_batch(verb, items, on_error):
    single = isinstance(items, (str, os.PathLike, bytes, bytearray, memoryview)) or hasattr(items, "read")
    if single or getattr(items, "ndim", 4) < 4 or not hasattr(items, "__iter__"):
        what = {"compress": "pictures", "decompress": "files' bytes"}[verb]
        raise TypeError(f"{verb}_batch needs an iterable of {what}, not a {type(items).__name__}; {verb} takes a single one")
    if on_error not in ("raise", "return"):
        raise ValueError(f"on_error is {on_error!r}; there are 'raise' and 'return'")


@functools.lru_cache(maxsize=2)  # for those who send a codec with every task
def _opened(model, tune, model_id, *settings):
    """The Codec that was pickled."""
    codec = Codec(model, *settings, tune=tune)
    if codec.model_id != model_id:
        raise ModelError(f"the codec was sent here with model {model_id}; what is installed here is {codec.model_id}")
    return codec


_loading = Lock()


@functools.cache
def _loaded():
    return Codec()


def _shared():
    """The codec behind the module-level functions."""
    with _loading:
        return _loaded()


def compress(image, quality=50.0, *, exif=False, effort=EFFORT_MAX, **target):
    """See :meth:`Codec.compress`; with the default model, on the CPU."""
    return _shared().compress(image, quality, exif=exif, effort=effort, **target)


def decompress(data):
    """See :meth:`Codec.decompress`; with the installed models, on the CPU."""
    return _shared().decompress(data)


def compress_batch(images, quality=50.0, *, exif=False, effort=EFFORT_MAX, on_error="raise", **target):
    """See :meth:`Codec.compress_batch`."""
    return _shared().compress_batch(images, quality, exif=exif, effort=effort, on_error=on_error, **target)


def decompress_batch(files, *, on_error="raise"):
    """See :meth:`Codec.decompress_batch`."""
    return _shared().decompress_batch(files, on_error=on_error)
