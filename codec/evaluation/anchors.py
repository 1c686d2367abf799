"""The codecs that ours is compared with: Pillow's and its plugins', x265, CompressAI's, and ours with other models.

An :class:`Anchor` has the two methods of ``codec.Codec``, so that one loop measures them all. Whatever else
has these two methods can be measured in the same way.

Settings are those that spend the fewest bits at a PSNR within ordinary patience, so that no anchor is a weak
one: AVIF and x265 are told to aim at PSNR (their defaults aim at viewers; AVIF's
needs 4 to 7 % more bits by this measure, on five crops of Kodak pictures), JPEG 2000 is given its colour transform
(Pillow's default leaves it out, which costs about 3 dB).
"""

from __future__ import annotations

import functools
import io
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, features

from .. import __version__
from ..errors import CodecError, ImageError
from ..extras import how_to_install, lacks, missing

if TYPE_CHECKING:
    from ..api import Codec
    from .zoo import Zoo


# Dense where one step of the setting changes the rate most, so that a curve through the points is smooth
# over the whole range, which is 0.05 to 3 bpp on photographs as far as the format goes there.
JPEG_QUALITIES = (5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 95)
WEBP_QUALITIES = (0, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95)
AVIF_QUALITIES = (0, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95)
JPEG2000_BPP = (0.05, 0.1, 0.15, 0.25, 0.4, 0.6, 0.85, 1.2, 1.6, 2.1, 2.7, 3.4)
JXL_QUALITIES = (0, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95)
X265_QUALITIES = (5, 8, 11, 14, 17, 20, 23, 26, 29, 32, 36, 40)
OWN_QUALITIES = (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)


@dataclass(frozen=True)
class Anchor:
    """One format of Pillow with fixed settings; only the quality varies."""

    name: str  # on the command line and in the tables
    title: str
    format: str  # as Pillow calls it
    feature: str  # the library that Pillow must have been built with
    max_side: int  # of the format, in pixels
    qualities: tuple[float, ...]
    options: dict[str, Any] = field(default_factory=dict)
    threads: int | None = None  # for the formats that use several; None leaves the choice to the library

    writer = "Pillow"
    min_side = 1

    def compress(self, image: Image.Image | np.ndarray, quality: float) -> bytes:
        """The bytes of a whole file, headers included.

        Args:
            image: PIL.Image or uint8 array (H, W, 3).
            quality: on the anchor's own scale, that of ``qualities``; more is better.

        Raises:
            ImageError: the format cannot hold a picture of this size.
        """
        if not isinstance(image, Image.Image):
            image = Image.fromarray(image)
        check_size(self, *image.size)
        buffer = io.BytesIO()
        image.save(buffer, self.format, **self._quality(quality), **self.options, **self._threading())
        return buffer.getvalue()

    def decompress(self, data: bytes) -> Image.Image:
        """PIL.Image, decoded."""
        image = Image.open(io.BytesIO(data), formats=[self.format])
        image.load()  # open() alone reads the header
        return image

    def check(self) -> None:
        """CodecError when the library that writes the format is not here."""
        if not features.check(self.feature):
            raise CodecError(f"{self.title}: this Pillow was built without the library for it")

    def settings(self) -> dict[str, Any]:
        """What the figures depend on, for the JSON file and for telling one run from another."""
        return settings_of(self)

    def version(self) -> str | None:
        """Of the library that writes the format."""
        # Of the two libraries that write JPEG files, the newer one says more than the compatibility level.
        return (self.feature == "jpg" and features.version("libjpeg_turbo")) or features.version(self.feature)

    def _quality(self, quality: float) -> dict[str, Any]:
        return {"quality": int(quality)}

    def _threading(self) -> dict[str, Any]:
        return {}


class Avif(Anchor):
    """AVIF by libaom, through Pillow 11.3 or newer."""

    def check(self) -> None:
        if self.feature not in features.modules:
            raise CodecError(f"{self.title}: needs Pillow 11.3 or newer: {how_to_install('eval')}")
        super().check()

    def decompress(self, data: bytes) -> Image.Image:
        from PIL import AvifImagePlugin

        # The only place where Pillow lets a caller limit the threads of the decoder.
        before = AvifImagePlugin.DEFAULT_MAX_THREADS
        AvifImagePlugin.DEFAULT_MAX_THREADS = self.threads or before
        try:
            return super().decompress(data)
        finally:
            AvifImagePlugin.DEFAULT_MAX_THREADS = before

    def _threading(self) -> dict[str, Any]:
        return {"max_threads": self.threads} if self.threads else {}


class Jpeg2000(Anchor):
    """JPEG 2000 by OpenJPEG; its quality is the rate in bits per pixel that the encoder is to reach."""

    def _quality(self, quality: float) -> dict[str, Any]:
        return {"quality_layers": [24 / quality]}  # a compression ratio, of 24 bits to the pixel


class JpegXl(Anchor):
    """JPEG XL by libjxl, through the plugin pillow-jxl-plugin."""

    package = "pillow-jxl-plugin"
    writer = f"Pillow with {package}"

    def check(self) -> None:
        lacking = missing("pillow_jxl")
        if lacking:
            raise CodecError(lacks(f"{self.title}:", "eval", lacking))

    def compress(self, image: Image.Image | np.ndarray, quality: float) -> bytes:
        import pillow_jxl.JpegXLImagePlugin  # noqa: F401  registers the format

        return super().compress(image, quality)

    def decompress(self, data: bytes) -> Image.Image:
        from pillow_jxl import JpegXLImagePlugin  # registers the format

        before = JpegXLImagePlugin.DECODE_THREADS
        JpegXLImagePlugin.DECODE_THREADS = self.threads or before
        try:
            return super().decompress(data)
        finally:
            JpegXLImagePlugin.DECODE_THREADS = before

    def version(self) -> str | None:
        try:
            return version(self.package)
        except PackageNotFoundError:
            return None

    def _threading(self) -> dict[str, Any]:
        return {"num_threads": self.threads} if self.threads else {}


@dataclass(frozen=True)
class X265:
    """One HEVC intra frame by x265, through the program ffmpeg; the file is the bare bitstream.

    The pixels become Y'CbCr (BT.709, full range, 4:4:4) of 10 bits a sample, so that the conversion there and
    back costs less than rounding to 8 bits does. Starting ffmpeg is part of the times, about 0.1 s.
    """

    name: str = "x265"
    title: str = "HEVC 4:4:4"
    qualities: tuple[float, ...] = X265_QUALITIES  # 51 - CRF
    options: dict[str, Any] = field(
        default_factory=lambda: {"preset": "slow", "tune": "psnr", "pix_fmt": "yuv444p10le"}
    )
    max_side: int = 8192
    threads: int | None = None  # of the decoder; one picture without wavefronts is encoded by one thread

    writer = "ffmpeg with libx265"
    min_side = 16  # of x265; it refuses less
    _flags = "flags=accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"

    def compress(self, image: Image.Image | np.ndarray, quality: float) -> bytes:
        """The bytes of the HEVC bitstream. Arguments and errors: :meth:`Anchor.compress`."""
        pixels = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
        height, width, _ = pixels.shape
        check_size(self, width, height)
        # Wavefronts end the entropy coder's adaptation at each row of blocks: they buy threads with bits.
        params = "log-level=none:info=0:wpp=0:pools=none:frame-threads=1:range=full:colormatrix=bt709"
        return self._ffmpeg(
            "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-i", "-",
            "-vf", f"scale=in_range=full:out_range=full:out_color_matrix=bt709:{self._flags}",
            "-pix_fmt", self.options["pix_fmt"], "-c:v", "libx265", "-preset", self.options["preset"],
            "-tune", self.options["tune"], "-crf", f"{51 - quality:g}", "-x265-params", params, "-f", "hevc", "-",
            data=np.ascontiguousarray(pixels).tobytes(),
        )  # fmt: skip

    def decompress(self, data: bytes) -> Image.Image:
        """PIL.Image, decoded by ffmpeg's own HEVC decoder."""
        threads = ("-threads", str(self.threads)) if self.threads else ()
        ppm = self._ffmpeg(
            *threads, "-f", "hevc", "-i", "-",
            "-vf", f"scale=in_color_matrix=bt709:in_range=full:out_range=full:{self._flags}",
            "-pix_fmt", "rgb24", "-f", "image2pipe", "-c:v", "ppm", "-",
            data=data,
        )  # fmt: skip
        image = Image.open(io.BytesIO(ppm), formats=["PPM"])
        image.load()
        return image

    def check(self) -> None:
        """CodecError when there is no ffmpeg, or one without x265."""
        if shutil.which("ffmpeg") is None:
            raise CodecError(f"{self.title}: needs the program ffmpeg, with libx265, in the PATH")
        if " libx265 " not in _output("ffmpeg", "-hide_banner", "-encoders"):
            raise CodecError(f"{self.title}: this ffmpeg was built without libx265")

    def settings(self) -> dict[str, Any]:
        """As of :meth:`Anchor.settings`."""
        return settings_of(self)

    def version(self) -> str:
        """Of ffmpeg; it does not tell that of the library."""
        return " ".join(_output("ffmpeg", "-version").split()[:3])

    @staticmethod
    def _ffmpeg(*arguments: str, data: bytes) -> bytes:
        result = subprocess.run(["ffmpeg", "-v", "error", *arguments], input=data, capture_output=True)
        if result.returncode != 0 or not result.stdout:
            lines = result.stderr.decode(errors="replace").split("\n")
            raise CodecError(f"ffmpeg: {lines[0].strip() or 'no output'}")
        return result.stdout


@functools.cache
def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout


@dataclass(frozen=True)
class OwnModel:
    """This codec with a model other than the one that is measured; as there, nothing stands in for its own coding."""

    name: str
    title: str
    coder: Codec
    options: dict[str, Any]

    writer = "this codec"
    qualities = OWN_QUALITIES
    min_side, max_side = 1, 65535

    @classmethod
    def find(cls, name: str, threads: int | None = None, device: str = "cpu") -> OwnModel:
        """The anchor of a model, named as :func:`codec.weights.find_model` wants it.

        Raises:
            ModelError: there is no such model, or its files are damaged.
        """
        from .. import Codec
        from ..weights import encoder_settings, find_model, tune_of

        coder = Codec(name, device, threads, fallback="never")
        tune = tune_of(coder.model_id)
        title = f"model {coder.model_id}" + (f" ({tune})" if tune else "")
        options = {"model": coder.model_id, **encoder_settings(find_model(name)), "device": str(device)}
        return cls(f"{MODEL}{name}", title, coder, options)

    def compress(self, image: Image.Image | np.ndarray, quality: float) -> bytes:
        """The bytes of a whole file. Arguments and errors: :meth:`Anchor.compress`."""
        return self.coder.compress(image, quality)

    def decompress(self, data: bytes) -> Image.Image:
        """PIL.Image, decoded."""
        return self.coder.decompress(data)

    def check(self) -> None:
        """Nothing more is needed once :meth:`find` has found the model."""

    def settings(self) -> dict[str, Any]:
        """As of :meth:`Anchor.settings`."""
        return settings_of(self)

    def version(self) -> str:
        """Of this package."""
        return __version__


def settings_of(anchor: Anchor | X265 | OwnModel | Zoo) -> dict[str, Any]:
    """What the figures of an anchor depend on; see :meth:`Anchor.settings`."""
    return {
        "title": anchor.title, "options": anchor.options, "qualities": anchor.qualities,
        "writer": anchor.writer, "version": anchor.version(),
    }  # fmt: skip


def check_size(anchor: Anchor | X265 | OwnModel | Zoo, width: int, height: int) -> None:
    """ImageError when a picture of this size is beyond the format of the anchor."""
    if max(width, height) > anchor.max_side:
        raise ImageError(f"{anchor.title}: {width} x {height} pixels; at most {anchor.max_side} a side")
    if min(width, height) < anchor.min_side:
        raise ImageError(f"{anchor.title}: {width} x {height} pixels; at least {anchor.min_side} a side")


def _jpeg(name: str, subsampling: str) -> Anchor:
    # optimize: Huffman tables made for the picture, as anyone who cares for bytes would ask for.
    options = {"optimize": True, "subsampling": subsampling}
    return Anchor(name, f"JPEG {subsampling}", "JPEG", "jpg", 65500, JPEG_QUALITIES, options)


def _avif(name: str, subsampling: str) -> Avif:
    # speed 4: 6, the default, needs 5 % more bits. row-mt 0: otherwise two threads write other bytes than one, and
    # figures would depend on the machine; the encoder may lose a second thread's
    # speed, and sizes change by under 1 %.
    advanced = {"tune": "psnr", "row-mt": "0"}
    options = {"codec": "aom", "speed": 4, "subsampling": subsampling, "advanced": advanced}
    return Avif(name, f"AVIF {subsampling}", "AVIF", "avif", 65535, AVIF_QUALITIES, options)


ANCHORS = {
    anchor.name: anchor
    for anchor in (
        _jpeg("jpeg", "4:2:0"),
        _jpeg("jpeg444", "4:4:4"),
        # method 6: the encoder's slowest and best search.
        Anchor("webp", "WebP", "WEBP", "webp", 16383, WEBP_QUALITIES, {"method": 6}),
        _avif("avif", "4:2:0"),
        _avif("avif444", "4:4:4"),
        Jpeg2000(
            "jpeg2000",
            "JPEG 2000",
            "JPEG2000",
            "jpg_2000",
            65535,
            JPEG2000_BPP,
            {"quality_mode": "rates", "irreversible": True, "mct": 1},
        ),
        JpegXl("jxl", "JPEG XL", "JXL", "jxl", 65535, JXL_QUALITIES, {"effort": 7}),
        X265(),
    )
}
ZOO, MODEL = "compressai:", "model:"


def find_anchors(
    names: Iterable[str], threads: int | None = None, device: str = "cpu", random_weights: bool = False
) -> list[Anchor | X265 | OwnModel | Zoo]:
    """The anchors of these names, in this order.

    Args:
        names: keys of :data:`ANCHORS`; ``compressai:MODEL`` or ``compressai:MODEL=FOLDER``, see
            :mod:`codec.evaluation.zoo`; ``model:MODEL``, see :class:`OwnModel`.
        threads: for the formats that use several; None leaves the choice to their libraries.
        device: of CompressAI's models and our own.
        random_weights: for those of CompressAI's models whose weights are not here, where only times matter.

    Raises:
        CodecError: a name is unknown, or what the anchor needs is not installed. ModelError: there is no such model.
    """
    found: list[Anchor | X265 | OwnModel | Zoo] = []
    for name in names:
        anchor: Anchor | X265 | OwnModel | Zoo
        if name.startswith(ZOO):
            lacking = missing("torch", "compressai")
            if lacking:
                raise CodecError(lacks(name, "train", lacking))
            from .zoo import Zoo

            anchor = Zoo.find(name.removeprefix(ZOO), device, random_weights)
        elif name.startswith(MODEL):
            anchor = OwnModel.find(name.removeprefix(MODEL), threads, device)
        elif name in ANCHORS:
            anchor = replace(ANCHORS[name], threads=threads)
        else:
            known = f"{', '.join(ANCHORS)}, {ZOO}MODEL, {MODEL}MODEL"
            raise CodecError(f"no anchor is called {name!r}; there are {known}")
        anchor.check()
        found.append(anchor)
    return found
