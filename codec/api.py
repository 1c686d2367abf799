"""The story, top to bottom: a picture becomes bytes, bytes become a picture."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import math
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, TypedDict, TypeVar, overload

import numpy as np
from PIL import Image

from . import background, bitstream, image_io, metadata, targets, weights
from .errors import BitstreamError, CodecError, ModelError, is_memory, not_enough_memory
from .fallback import MODES, Stored, stored_instead
from .files import BytesLike, StrPath
from .model import Model
from .parts import Part, container_of, in_words
from .quality import EFFORT, checked_effort, hundredths
from .remote import RemotePath, is_url
from .threads import Lock, set_threads

if TYPE_CHECKING:
    from typing_extensions import Unpack


T = TypeVar("T")
Result = TypeVar("Result")
Region: TypeAlias = tuple[int, int, int, int]  # left, top, width, height, in pixels


class SupportsArray(Protocol):
    """What numpy.asarray takes, such as a tensor on the CPU."""

    def __array__(self, *arguments: Any, **options: Any) -> Any: ...


FileLike: TypeAlias = StrPath | IO[bytes] | BytesLike  # a name may be a URL
PictureLike: TypeAlias = image_io.Readable | BytesLike | SupportsArray

# Bytes a pixel of a source file that may be smaller than what we make of it: noise takes 1.5 at quality 100.
_SOURCE_RATE = 2.0


@dataclass(frozen=True)
class Keeping:
    """What of a picture is kept, and in which form: the options of :meth:`Codec.compress` beside the quality.

    Attributes:
        fallback: "auto": where the file would not be smaller than the source, or for text and drawings that a lossless
            coder holds in fewer bytes, it carries the source's own bytes or a lossless WebP. "always": in any case, so
            that nothing is lost. "never".
        strip: leave out EXIF, XMP and IPTC; the ICC profile and the resolution stay.
        strip_gps: leave out positions.
        alpha_quality: 0 to 100; 100 is lossless.
        allow_truncated: read a JPEG that ends too early as far as it goes.
        frame: which one of an animation, or page; None: the first, with a remark where there are more.
        on_remark: called with each line that the picture's owner should read.
    """

    fallback: str = "auto"
    strip: bool = False
    strip_gps: bool = False
    alpha_quality: float = 100
    allow_truncated: bool = False
    frame: int | None = None
    on_remark: Callable[[str], object] = str

    def __post_init__(self) -> None:
        if self.fallback not in MODES:
            raise ValueError(f"fallback {self.fallback!r}: there are {', '.join(MODES)}")
        if not 0 <= self.alpha_quality <= 100:
            raise ValueError(f"alpha_quality {self.alpha_quality} is not between 0 and 100")

    def reading(self) -> dict[str, Any]:
        """Fields of image_io.Reading."""
        return {
            "deep": True, "exact": True, "frame": self.frame, "allow_truncated": self.allow_truncated,
            "keep_source": {"never": 0.0, "auto": _SOURCE_RATE, "always": math.inf}[self.fallback],
        }  # fmt: skip


class Options(TypedDict, total=False):
    """What :meth:`Codec.compress` takes besides: one target in the place of a quality, and fields of Keeping."""

    target_size: float | str | None
    target_bpp: float | None
    target_psnr: float | None
    target_ssimulacra2: float | None
    fallback: str
    strip: bool
    strip_gps: bool
    alpha_quality: float
    allow_truncated: bool
    frame: int | None
    on_remark: Callable[[str], object]


class _How(NamedTuple):
    """How one picture is compressed."""

    quality: int  # hundredths
    exif: bytes | bool | None
    effort: int
    target: targets.Target | None
    keeping: Keeping


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
        fallback: of :class:`Keeping`, where a call does not say it; "never" to measure the codec itself.
        effort: of :meth:`compress`, where a call does not say it.
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
        self,
        model: StrPath | None = None,
        device: str = "cpu",
        threads: int | None = None,
        backend: str | None = None,
        max_pixels: int = bitstream.MAX_PIXELS,
        *,
        tune: str | None = None,
        fallback: str = "auto",
        effort: int = EFFORT,
    ) -> None:
        if model is not None and tune is not None:
            raise ValueError("a model or a tune, not both: a tune is one of the shipped models")
        if threads is not None:
            set_threads(threads)
        self.device, self.threads = str(device), threads
        self.backend = backend or ("onnx" if self.device == "cpu" else "torch")
        self.max_pixels = max_pixels
        self.fallback, self.effort = Keeping(fallback).fallback, checked_effort(effort)
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

    def __copy__(self) -> Codec:
        twin = object.__new__(Codec)
        vars(twin).update(vars(self), _models=dict(self._models))  # models never change
        return twin

    def __deepcopy__(self, memo: Any) -> Codec:
        return copy.copy(self)

    def __reduce__(self) -> tuple[Any, ...]:
        model = None if self._any_model else self._folder
        settings = self.device, self.threads, self.backend, self.max_pixels
        return _opened, (model, self._tune, self.fallback, self.effort, self.model_id, *settings)

    @property
    def model(self) -> Model:
        """The model.Model that compresses."""
        return self._models[self.model_id]

    def compress(
        self,
        image: PictureLike,
        quality: float | str = 50.0,
        *,
        exif: bytes | bool | None = None,
        effort: int | None = None,
        **options: Unpack[Options],
    ) -> bytes:
        """The picture as the bytes of one file.

        Args:
            image: path, URL (with the extra ``remote``), binary file, the bytes of one, PIL.Image, or array: uint8,
                bool or uint16 (H, W, 3), also (H, W) or (H, W, 1) grey and (H, W, 4) with alpha; floats from 0 to 1 of
                those shapes or (3, H, W). What numpy.asarray takes, such as a tensor on the CPU, counts as an array.
            quality: 0 (smallest) to 100 (best); continuous, in hundredths; or "web", "default", "archive".
            exif: bytes that take the place of the picture's own EXIF; otherwise without effect. Metadata is kept unless
                ``strip`` is given; the orientation is applied in any case.
            effort: 0, 1 or 2; None: the codec's. 1 quantises by a trellis, where the model has tables for it, and looks
                for the cheapest way through it; 0 rounds, which is a little faster on both sides. 2 decodes what it
                has found and quantises again with a view to that: a little larger at one quality, and better by more,
                1 to 2 % fewer bits at equal PSNR, in four times the time; decoding takes what it took.
            options: one of ``target_size`` (bytes, or text such as "200kB"), ``target_bpp``, ``target_psnr`` (dB) and
                ``target_ssimulacra2``, in the place of a quality, which is then searched: see :mod:`codec.targets`.
                And fields of :class:`Keeping`: ``fallback`` ("never" where there is a target), ``strip``,
                ``strip_gps``, ``alpha_quality``, ``allow_truncated``, ``frame``, ``on_remark``.

        Raises:
            ImageError: the picture cannot be read or is too large. CodecError: not enough memory for it, or no quality
            meets the target. ValueError: quality, effort or target is out of range.
        """
        how = self._how(quality, exif, effort, options)
        return self._compress(self._read(image, how.keeping), how)

    @overload
    def decompress(
        self,
        data: FileLike,
        *,
        as_array: Literal[False] = False,
        region: Region | None = None,
        scale: float = 1,
        lost: list[str] | None = None,
    ) -> Image.Image: ...
    @overload
    def decompress(
        self,
        data: FileLike,
        *,
        as_array: Literal[True],
        region: Region | None = None,
        scale: float = 1,
        lost: list[str] | None = None,
    ) -> np.ndarray: ...
    def decompress(
        self,
        data: FileLike,
        *,
        as_array: bool = False,
        region: Region | None = None,
        scale: float = 1,
        lost: list[str] | None = None,
    ) -> Image.Image | np.ndarray:
        """PIL.Image of a compressed file; mode RGB, L, RGBA or LA, as the original was.

        Args:
            data: the file's bytes, its path, its URL (with the extra ``remote``), or a binary file, read from its
                position.
            as_array: return uint8 (H, W, 3), (H, W), (H, W, 4) or (H, W, 2), writable, in the place of an image.
            region: (left, top, width, height) in pixels: no more than its tiles is read, of a file, and decoded. It is
                the same as that cut of the whole picture.
            scale: 1, 1/2, 1/4 or 1/8 of the size. 1/8 takes no network and is a preview.
            lost: a list: what is damaged is left grey, and lines that name it are added to the list, in the place of
                errors. The header must be whole.

        Its ``info`` holds the metadata that was kept, under Pillow's names.

        Raises:
            BitstreamError: the bytes are not a whole, undamaged file. ModelError: its model is not installed.
            CodecError: it cannot be read, or not enough memory for it. TypeError: none of these.
        """
        image = _image_of(self.decompress_picture(data, region=region, scale=scale, lost=lost))
        return np.array(image) if as_array else image

    def decompress_picture(
        self,
        data: FileLike,
        depth: int = 8,
        *,
        region: Region | None = None,
        scale: float = 1,
        lost: list[str] | None = None,
    ) -> image_io.Picture:
        """image_io.Picture of a compressed file's bytes: pixels, alpha and metadata apart.

        Args:
            data, region, scale, lost: as for :meth:`decompress`, with the same errors.
            depth: 8: pixels are uint8; 16: uint16, at the precision of the model, whatever the depth of the original.
        """
        if depth not in (8, 16):
            raise ValueError(f"depth {depth}: there are 8 and 16")
        part = Part(region, scale, lost)
        with _container(data, part) as container:
            return self._decompress(container, depth, part)

    def verify(self, data: FileLike) -> None:
        """Check a compressed file by all its checksums: header, metadata, the symbols of every tile; makes no pixels.

        Args:
            data: as for :meth:`decompress`.

        Raises:
            BitstreamError: it is damaged. ModelError: its model is not installed. CodecError: as of :meth:`decompress`.
        """
        with _container(data, Part()) as container:
            pass
        height, width = container.height, container.width
        bitstream.check_size(width, height, self.max_pixels)

        def work() -> None:
            if container.stored:
                image_io.read_stored(container)
                return
            self._model(container.model_id).verify(container, height, width, container.quality)
            if container.alpha:
                image_io.decode_alpha(container.alpha, width, height)

        _within_memory(work, width, height)

    def to_file(
        self,
        data: FileLike | bitstream.Container,
        extension: str,
        *,
        depth: int | None = None,
        writing: image_io.Writing = image_io.Writing(),
        name: str = "picture",
        part: Part = Part(),
    ) -> tuple[BytesLike, tuple[int, int], list[str]]:
        """A compressed file's bytes as the bytes of a picture file.

        A lossy picture that was kept as it was comes back as it was, where its format is asked for.

        Args:
            data: as for :meth:`decompress`, with the same errors; or a bitstream.Container.
            extension: one of ``image_io.FORMATS``.
            depth: as for :meth:`decompress_picture`; 16 for ``image_io.DEEP_EXTENSIONS``. None: 8, but 16 for what was
                kept without loss and has them, where the format does.
            writing: image_io.Writing.
            name: for messages.
            part: parts.Part, what is wanted of the picture.

        Returns:
            (the bytes, (width, height) of the picture, a list of lines that say what was left out).

        Raises:
            ImageError: the picture does not fit the format.
        """
        with _container(data, part) as container:
            return self._to_file(container, extension, depth, writing, name, part)

    def _to_file(
        self,
        container: bitstream.Container,
        extension: str,
        depth: int | None,
        writing: image_io.Writing,
        name: str,
        part: Part,
    ) -> tuple[BytesLike, tuple[int, int], list[str]]:
        form = image_io.FORMATS[extension].name
        if container.stored and writing.quality is None and depth != 16 and part.whole:
            bitstream.check_size(container.width, container.height, self.max_pixels)
            kept = bitstream.stored_file(container)
            bare = metadata.of_container(container) == (metadata.Metadata(), None)
            if bare and bitstream.stored_kind(kept) == form and form in ("JPEG", "WEBP", "AVIF"):
                image_io.read_stored(container)  # what is damaged, or lies about its size, is no picture
                return kept, (container.width, container.height), []
        if container.stored and depth is None and extension in image_io.DEEP_EXTENSIONS:
            depth = 16 if image_io.read_stored(container, deep=True).pixels.dtype == np.uint16 else 8
        picture = self._decompress(container, depth or 8, part)
        height, width = picture.pixels.shape[:2]
        shown = picture if depth == 16 else _image_of(picture)
        file, remarks = image_io.encode_picture(shown, extension, name, writing)
        return file, (width, height), remarks

    @overload
    def compress_batch(
        self,
        images: Iterable[PictureLike],
        quality: float | str = 50.0,
        *,
        exif: bytes | bool | None = None,
        effort: int | None = None,
        on_error: Literal["raise"] = "raise",
        workers: int = 1,
        **options: Unpack[Options],
    ) -> list[bytes]: ...
    @overload
    def compress_batch(
        self,
        images: Iterable[PictureLike],
        quality: float | str = 50.0,
        *,
        exif: bytes | bool | None = None,
        effort: int | None = None,
        on_error: Literal["return"],
        workers: int = 1,
        **options: Unpack[Options],
    ) -> list[bytes | CodecError]: ...
    def compress_batch(
        self,
        images: Iterable[PictureLike],
        quality: float | str = 50.0,
        *,
        exif: bytes | bool | None = None,
        effort: int | None = None,
        on_error: Literal["raise", "return"] = "raise",
        workers: int = 1,
        **options: Unpack[Options],
    ) -> list[bytes] | list[bytes | CodecError]:
        """A list of files' bytes, each the same as :meth:`compress` gives.

        Args:
            images: an iterable of pictures, as :meth:`compress` takes them; the next one is read while those before are
                coded, so that ``workers + 1`` are held at a time. Also an array: uint8 (N, H, W, 3), float
                (N, 3, H, W).
            quality, exif, effort, options: as for :meth:`compress`.
            on_error: "raise", or "return": then a CodecError stands in the place of a picture that has failed.
            workers: pictures that are coded at a time. As many as there are cores pay for a Codec with ``threads=1``.

        Raises:
            TypeError: a single picture or its name in the place of several.
        """
        _check_batch("compress", images, on_error)
        how = self._how(quality, exif, effort, options)

        def reading(images: Iterable[PictureLike]) -> Iterator[image_io.Picture | CodecError]:
            for image in images:
                image = _readable(image)
                # The iterable may make the next picture in the memory of this one.
                image = image.copy() if isinstance(image, np.ndarray) else image
                try:
                    yield self._read(image, how.keeping)
                except CodecError as error:
                    yield error

        def finish(picture: image_io.Picture | CodecError) -> bytes:
            if isinstance(picture, CodecError):
                raise picture
            return self._compress(picture, how)

        return _batch(reading(images), functools.partial(_outcome, on_error, finish), workers)

    @overload
    def decompress_batch(
        self,
        files: Iterable[FileLike],
        *,
        on_error: Literal["raise"] = "raise",
        as_array: Literal[False] = False,
        workers: int = 1,
    ) -> list[Image.Image]: ...
    @overload
    def decompress_batch(
        self,
        files: Iterable[FileLike],
        *,
        on_error: Literal["return"],
        as_array: Literal[False] = False,
        workers: int = 1,
    ) -> list[Image.Image | CodecError]: ...
    @overload
    def decompress_batch(
        self,
        files: Iterable[FileLike],
        *,
        on_error: Literal["raise"] = "raise",
        as_array: Literal[True],
        workers: int = 1,
    ) -> list[np.ndarray]: ...
    @overload
    def decompress_batch(
        self, files: Iterable[FileLike], *, on_error: Literal["return"], as_array: Literal[True], workers: int = 1
    ) -> list[np.ndarray | CodecError]: ...
    def decompress_batch(
        self,
        files: Iterable[FileLike],
        *,
        on_error: Literal["raise", "return"] = "raise",
        as_array: bool = False,
        workers: int = 1,
    ) -> list[Any]:
        """A list of PIL.Images, each the same as :meth:`decompress` gives.

        Args:
            files: an iterable of files, as :meth:`decompress` takes them, asked for one at a time.
            as_array: as for :meth:`decompress`.
            on_error: "raise", or "return": then a CodecError stands in the place of a file that has failed.
            workers: as for :meth:`compress_batch`.

        Raises:
            TypeError: a single file or its name in the place of several.
        """
        _check_batch("decompress", files, on_error)
        work = functools.partial(_outcome, on_error, functools.partial(self.decompress, as_array=as_array))
        return _batch(files, work, workers)

    def reconstruct(self, image: PictureLike, quality: float | str = 50.0, *, effort: int | None = None) -> np.ndarray:
        """What :meth:`decompress` will make of :meth:`compress`, as uint8 (H, W, 3), without the detour."""
        data = self.compress(image, quality, effort=effort, fallback="never")
        return self._decompress(bitstream.unpack(data)).pixels

    def _how(self, quality: float | str, exif: bytes | bool | None, effort: int | None, options: Options) -> _How:
        """How a picture is compressed: what the arguments of :meth:`compress` say."""
        named: dict[str, Any] = dict(options)
        target = targets.target_of(**{name: named.pop(name) for name in options if name.startswith("target_")})
        keeping = Keeping(**{"fallback": "never" if target else self.fallback, **named})
        if target and keeping.fallback == "always":
            raise ValueError("a target is for what is coded; with fallback 'always' nothing is")
        effort = self.effort if effort is None else checked_effort(effort)
        return _How(hundredths(quality), exif, effort, target, keeping)

    def _read(self, image: PictureLike, keeping: Keeping) -> image_io.Picture:
        with np.errstate(all="ignore"):
            return image_io.read_picture(_readable(image), self.max_pixels, **keeping.reading())

    def _compress(self, picture: image_io.Picture, how: _How) -> bytes:
        height, width = picture.pixels.shape[:2]
        keeping = how.keeping

        def work() -> bytes:
            kept = _kept(picture, how.exif, keeping)
            changed = kept.metadata != picture.metadata or keeping.strip or keeping.strip_gps
            coded = None if keeping.fallback == "always" else self._coded(kept, how)
            stored = stored_instead(kept, keeping.fallback, None if coded is None else len(coded), bare=changed)
            if stored is not None:
                keeping.on_remark(stored.remark)
                return _stored(kept, stored)
            assert coded is not None  # with "always" something is stored
            if picture.size and len(coded) > picture.size:
                keeping.on_remark(
                    f"the file is larger than the picture: {len(coded):,} bytes instead of {picture.size:,}"
                )
            return coded

        for remark in picture.remarks:
            keeping.on_remark(remark)
        return _within_memory(work, width, height)

    def _coded(self, picture: image_io.Picture, how: _How) -> bytes:
        """The bytes of a file of a picture, coded."""
        height, width = picture.pixels.shape[:2]
        pixels = picture.pixels
        if picture.alpha is not None and how.keeping.fallback != "never":
            pixels = pixels.copy()  # a lossless file keeps what is not visible
        pixels = image_io.filled(replace(picture, pixels=pixels)).pixels
        alpha = None if picture.alpha is None else image_io.encode_alpha(picture.alpha, how.keeping.alpha_quality)
        equal = not picture.grey and image_io.has_equal_channels(pixels)
        sections: dict[str, Any] = dict(metadata.sections(picture.metadata, picture.icc))
        behind = background.find(pixels)

        def pack(quality: int) -> bytes:
            coded = self.model.encode(pixels, quality, dependent=None if how.effort else False, refine=how.effort > 1)
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
                    equal=equal,
                    tiles=coded.tiles,
                    alpha=alpha,
                    background=None if coded.flat else background.worth(behind, quality, coded.bits // 8),
                    **sections,
                )
            )

        def shown(data: bytes) -> np.ndarray:
            return np.asarray(_image_of(self._decompress(bitstream.unpack(data))).convert("RGB"))

        if how.target:
            return targets.reach(how.target, image_io.to_eight_bits(pixels), pack, shown)
        return pack(how.quality)

    def _decompress(self, container: bitstream.Container, depth: int = 8, part: Part = Part()) -> image_io.Picture:
        height, width = container.height, container.width
        view = part.view(width, height)
        if container.stored or container.alpha:
            bitstream.check_size(width, height, self.max_pixels)
        else:
            bitstream.check_size(view.width, view.height, self.max_pixels)
        found, icc = metadata.of_container(container)

        def decode() -> image_io.Picture:
            if container.stored:
                picture = image_io.read_stored(container, deep=depth == 16)
                alpha = picture.alpha if picture.alpha is None else part.of(picture.alpha)
                picture = replace(picture, pixels=part.of(picture.pixels), alpha=alpha)
                given = {name: data for name, data in vars(found).items() if data}
                picture = replace(picture, icc=icc or picture.icc, metadata=replace(picture.metadata, **given))
            else:
                model = self._model(container.model_id)
                dtype = np.uint8 if depth == 8 else np.uint16
                tiles: list[int] | None = None if part.lost is None else []
                pixels = model.decode(container, height, width, container.quality, dtype, view, tiles)
                if part.lost is not None and tiles:
                    part.lost.extend(in_words(container, tiles))
                if container.background:
                    background.fill(pixels, background.unpack(container.background, width, height), view)
                if container.equal:
                    pixels = np.repeat(image_io.mean_channel(pixels)[..., None], 3, axis=2)
                alpha = None
                if container.alpha is not None:
                    alpha = part.of(image_io.decode_alpha(container.alpha, width, height))
                picture = image_io.Picture(pixels, alpha, container.grey, icc, found)
            if depth == 16 and picture.pixels.dtype == np.uint8:
                picture = replace(picture, pixels=picture.pixels.astype(np.uint16) * np.uint16(257))
            return picture

        return _within_memory(decode, width, height)

    def _model(self, model_id: str) -> Model:
        with self._lock:
            if model_id not in self._models:
                if not self._any_model or model_id not in weights.list_models():
                    have = ", ".join(sorted({*self._models, *(weights.list_models() if self._any_model else ())}))
                    raise ModelError(f"the file was made with model {model_id}, which is not here (have {have})")
                folder = weights.find_model(model_id)
                weights.model_id(folder)
                self._models[model_id] = self._load(folder)
            return self._models[model_id]

    def _load(self, folder: Path) -> Model:
        return Model.from_folder(folder, self.threads, self.backend, self.device)


def _readable(image: PictureLike) -> image_io.Readable:
    """What :func:`image_io.read_picture` takes, of what users have."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        return io.BytesIO(image)
    if isinstance(image, str) and is_url(image):
        return RemotePath(image).open()
    if hasattr(image, "__array__") and not isinstance(image, (np.ndarray, Image.Image)):
        return np.asarray(image)
    return image


@contextlib.contextmanager
def _container(data: FileLike | bitstream.Container, part: Part) -> Iterator[bitstream.Container]:
    """The container of a compressed file that is given by its contents, its name, or itself, while it is open."""
    with contextlib.ExitStack() as stack:
        if isinstance(data, bitstream.Container):
            found = data
        elif isinstance(data, (str, os.PathLike)):
            name = os.fsdecode(data)
            with _named(name):
                opened = RemotePath(name).open() if is_url(name) else open(name, "rb")  # noqa: SIM115  in the stack
                file = stack.enter_context(opened)
                found = container_of(file, part)
        else:
            found = container_of(data, part)
        yield found


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Errors of reading a file begin with its name."""
    try:
        yield
    except BitstreamError as error:
        raise type(error)(f"{path}: {error}") from None
    except (OSError, ValueError) as error:  # ValueError: a name that holds a zero byte
        raise CodecError(f"{path}: cannot read: {getattr(error, 'strerror', None) or error}") from error


def _image_of(picture: image_io.Picture) -> Image.Image:
    """PIL.Image of a Picture of 8 bits."""
    found = picture.metadata
    return image_io.to_image(
        picture.pixels,
        picture.alpha,
        picture.grey,
        picture.icc,
        found.exif,
        xmp=found.xmp,
        iptc=found.iptc,
        dpi=found.dpi,
    )


def _kept(picture: image_io.Picture, exif: bytes | bool | None, keeping: Keeping) -> image_io.Picture:
    """The picture with the metadata that is to be kept."""
    found = picture.metadata
    if isinstance(exif, (bytes, bytearray)):
        given = bytes(exif).removeprefix(metadata.PREFIX)
        found = replace(found, exif=metadata.upright_exif(given) if given else None)
    if keeping.strip:
        found = replace(found, exif=None, xmp=None, iptc=None)
    elif keeping.strip_gps:
        found = metadata.without_positions(found)
    return replace(picture, metadata=found)


def _stored(picture: image_io.Picture, stored: Stored) -> bytes:
    """The bytes of a file that carries a picture file."""
    height, width = picture.pixels.shape[:2]
    said: dict[str, Any] = {} if stored.complete else dict(metadata.sections(picture.metadata, picture.icc))
    return bitstream.pack(
        bitstream.Container(
            model_id=bitstream.NO_MODEL,
            quality=bitstream.LOSSLESS,
            width=width,
            height=height,
            grey=picture.grey,
            stored=True,
            stored_alpha=picture.alpha is not None,
            tiles=(bitstream.Tile(stored.data, 1, zlib.crc32(stored.data)),),
            **said,
        )
    )


def _within_memory(work: Callable[[], T], width: int, height: int) -> T:
    """``work()`` on a picture, the same whatever NumPy is told about underflow; CodecError where memory runs out."""
    try:
        with np.errstate(all="ignore"):
            return work()
    except Exception as error:
        if not is_memory(error):
            raise
    # Out here, as an error keeps what it was raised in the middle of, and that holds the arrays that are too many.
    raise not_enough_memory(width, height)


def _outcome(on_error: str, work: Callable[..., T], *arguments: Any) -> T | CodecError:
    """What ``work`` returns, or the CodecError that it ends in, if that is to be returned."""
    try:
        return work(*arguments)
    except CodecError as error:
        if on_error == "raise":
            raise
        # Where it comes from would hold the picture for as long as the error is kept.
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)


def _batch(items: Iterable[T], work: Callable[[T], Result], workers: int) -> list[Result]:
    """``[work(item) for item in items]``, up to ``workers`` of them at a time, while the next item is asked for."""
    futures: list[Future[Result]] = []
    running: set[Future[Result]] = set()
    with ThreadPoolExecutor(checked_workers(workers)) as pool:
        try:
            for item in items:
                if len(running) == workers:  # whichever is first: others may take much longer
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()  # an error ends the batch
                futures.append(pool.submit(work, item))
                running.add(futures[-1])
                del item  # or it would be held while the next one is made
            return [future.result() for future in futures]
        finally:
            pool.shutdown(cancel_futures=True)


def checked_workers(workers: int) -> int:
    """A number of workers; ValueError for less than one."""
    if workers != int(workers) or workers < 1:
        raise ValueError(f"workers is {workers}; it must be a whole number from 1 on")
    return int(workers)


def _check_batch(verb: str, items: object, on_error: str) -> None:
    single = isinstance(items, (str, os.PathLike, bytes, bytearray, memoryview)) or hasattr(items, "read")
    if single or getattr(items, "ndim", 4) < 4 or not hasattr(items, "__iter__"):
        what = {"compress": "pictures", "decompress": "files"}[verb]
        raise TypeError(
            f"{verb}_batch needs an iterable of {what}, not a {type(items).__name__}; {verb} takes a single one"
        )
    if on_error not in ("raise", "return"):
        raise ValueError(f"on_error is {on_error!r}; there are 'raise' and 'return'")


@functools.lru_cache(maxsize=2)  # for those who send a codec with every task
def _opened(model: str | None, tune: str | None, fallback: str, effort: int, model_id: str, *settings: Any) -> Codec:
    """The Codec that was pickled."""
    codec = Codec(model, *settings, tune=tune, fallback=fallback, effort=effort)
    if codec.model_id != model_id:
        raise ModelError(f"the codec was sent here with model {model_id}; what is installed here is {codec.model_id}")
    return codec


_loading = Lock()


@functools.cache
def _loaded() -> Codec:
    return Codec()


def _shared() -> Codec:
    """The codec behind the module-level functions."""
    with _loading:
        return _loaded()


def compress(
    image: PictureLike,
    quality: float | str = 50.0,
    *,
    exif: bytes | bool | None = None,
    effort: int | None = None,
    **options: Unpack[Options],
) -> bytes:
    """See :meth:`Codec.compress`; with the default model, on the CPU."""
    return _shared().compress(image, quality, exif=exif, effort=effort, **options)


@overload
def decompress(
    data: FileLike,
    *,
    as_array: Literal[False] = False,
    region: Region | None = None,
    scale: float = 1,
    lost: list[str] | None = None,
) -> Image.Image: ...
@overload
def decompress(
    data: FileLike,
    *,
    as_array: Literal[True],
    region: Region | None = None,
    scale: float = 1,
    lost: list[str] | None = None,
) -> np.ndarray: ...
def decompress(
    data: FileLike,
    *,
    as_array: bool = False,
    region: Region | None = None,
    scale: float = 1,
    lost: list[str] | None = None,
) -> Image.Image | np.ndarray:
    """See :meth:`Codec.decompress`; with the installed models, on the CPU."""
    decompress: Any = _shared().decompress  # overloads take the two values of as_array apart
    found: Image.Image | np.ndarray = decompress(data, as_array=as_array, region=region, scale=scale, lost=lost)
    return found


def verify(data: FileLike) -> None:
    """See :meth:`Codec.verify`."""
    _shared().verify(data)


@overload
def compress_batch(
    images: Iterable[PictureLike],
    quality: float | str = 50.0,
    *,
    exif: bytes | bool | None = None,
    effort: int | None = None,
    on_error: Literal["raise"] = "raise",
    workers: int = 1,
    **options: Unpack[Options],
) -> list[bytes]: ...
@overload
def compress_batch(
    images: Iterable[PictureLike],
    quality: float | str = 50.0,
    *,
    exif: bytes | bool | None = None,
    effort: int | None = None,
    on_error: Literal["return"],
    workers: int = 1,
    **options: Unpack[Options],
) -> list[bytes | CodecError]: ...
def compress_batch(
    images: Iterable[PictureLike],
    quality: float | str = 50.0,
    *,
    exif: bytes | bool | None = None,
    effort: int | None = None,
    on_error: Literal["raise", "return"] = "raise",
    workers: int = 1,
    **options: Unpack[Options],
) -> list[bytes] | list[bytes | CodecError]:
    """See :meth:`Codec.compress_batch`."""
    return _shared().compress_batch(
        images, quality, exif=exif, effort=effort, on_error=on_error, workers=workers, **options
    )


@overload
def decompress_batch(
    files: Iterable[FileLike],
    *,
    on_error: Literal["raise"] = "raise",
    as_array: Literal[False] = False,
    workers: int = 1,
) -> list[Image.Image]: ...
@overload
def decompress_batch(
    files: Iterable[FileLike], *, on_error: Literal["return"], as_array: Literal[False] = False, workers: int = 1
) -> list[Image.Image | CodecError]: ...
@overload
def decompress_batch(
    files: Iterable[FileLike], *, on_error: Literal["raise"] = "raise", as_array: Literal[True], workers: int = 1
) -> list[np.ndarray]: ...
@overload
def decompress_batch(
    files: Iterable[FileLike], *, on_error: Literal["return"], as_array: Literal[True], workers: int = 1
) -> list[np.ndarray | CodecError]: ...
def decompress_batch(
    files: Iterable[FileLike],
    *,
    on_error: Literal["raise", "return"] = "raise",
    as_array: bool = False,
    workers: int = 1,
) -> list[Any]:
    """See :meth:`Codec.decompress_batch`."""
    decompress_batch: Any = _shared().decompress_batch
    found: list[Any] = decompress_batch(files, on_error=on_error, as_array=as_array, workers=workers)
    return found
