"""Files, Pillow images and arrays <-> 8-bit RGB pixels: the border between the codec and everyone's pictures.

What is kept of a picture, and why:

**Depth.** Eight bits, or 16 where the caller asks for them and the file has more than 8: PNG, TIFF and grey pictures of
any kind. To 8 bits they are divided by 257 and rounded, so that white stays white. Mode
"I" is taken as 16 bits, mode "F" as 0 to 1 if nothing exceeds 1.5 and otherwise as 0 to 255; floats outside by at
most half of the range are clipped, other values are refused rather than guessed at. TIFF files say how many bits
a sample has, and whether 0 is white.

**Grey.** A picture whose mode is grey ("1", "L", "LA", 16 bit, float, an (H, W) array) is coded as RGB with
three equal channels and comes back grey. An RGB picture comes back as RGB even where all of it happens to be
grey, so that the shape of a result never depends on the contents.

**Alpha** is kept without loss: as a grey PNG in a section of its own, of one bit a pixel where that is
enough. It is neither composited (the background is not ours to choose) nor coded with the colours (a soft
edge that rings is visible on any background). Nobody sees the colour under fully transparent pixels, so it is
replaced by a smooth continuation of the visible colours. Against filling with the mean colour this changed the
bytes of JPEG and WebP by -2 to +1 % on cut-outs from sample_images, and gained 0.1 to 0.4 dB on what is visible, as
nothing rings across the edge.

**Colour.** ICC profiles are kept, except those that act like sRGB to within one level: a picture without a profile is
sRGB. Pictures in CMYK are converted to sRGB through their profile, which is then dropped with the inks it
describes. Primaries and transfer functions that a file states in other words (cICP, cHRM, ``nclx``, tags of TIFF)
become a profile, gAMA alone is applied; PQ and HLG are refused, as 8 bits of sRGB cannot hold what they mean.

**EXIF, XMP, IPTC and the resolution** are kept (:mod:`codec.metadata`). The orientation is applied to the pixels and
set to upright. Other metadata is not kept, and never in the way.

**A JPEG without its end marker** is read where all of its pixels are there; otherwise only on request.

**Animations and pages** are reduced to their first frame, or the one that the caller asks for. A Pillow image that was
moved to another frame is taken as it stands.

**What is opened** is what :data:`READABLE` names, and TGA by its name: Pillow has formats whose readers start other
programs. Pillow's limit on the number of pixels, which belongs to the whole process, has no say; ``max_pixels`` has.

Files are encoded in memory and appear whole or not at all (:mod:`codec.files`).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import math
import os
import struct
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import IO, Any, TypeAlias, cast

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageFile, PngImagePlugin

from . import bitstream, colour, metadata, picture_files
from .errors import (
    BitstreamError,
    CodecError,
    Corrupt,
    ImageError,
    is_memory,
    not_enough_memory,
)
from .files import BytesLike, StrPath, write_bytes_atomic
from .metadata import Metadata

Readable: TypeAlias = StrPath | IO[bytes] | Image.Image | np.ndarray  # what read_picture takes
_Image: TypeAlias = Any  # a PIL.Image.Image with what its format adds: tile, fp, tag_v2
_Again: TypeAlias = Callable[[], _Image]  # opens the file of an image once more
_Convert: TypeAlias = Callable[[Image.Image], Image.Image]

# Pillow's names of the formats that are read, in the order in which they are tried; the last two come with packages of
# their own. Each looks at the first bytes before anything else.
READABLE = (
    "PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "JPEG2000", "QOI", "ICO", "PCX", "SGI", "JXL", "HEIF"
)  # fmt: skip
# Has no first bytes of its own, so its name must say it.
_TGA_SUFFIXES = (".tga", ".vda", ".icb", ".vst")
# Pillow's name -> module, package, and how files of the format begin.
_PLUGINS = {
    "JXL": ("pillow_jxl", "pillow-jxl-plugin", (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")),
    "HEIF": (
        "pillow_heif",
        "pillow-heif",
        tuple(b"ftyp" + b for b in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")),
    ),
}

_SPACES = {"L": "GRAY", "RGB": "RGB ", "CMYK": "CMYK"}  # mode: what profiles for it call their colour space
_GREY_MODES = frozenset(["1", "L", "LA", "La"])
_SHALLOW_GREY = {"L;2": 2, "L;4": 4}  # of PNG -> bits a sample
_DEEP_MODES = frozenset(["I", "F"])  # and those that begin with "I;16"
# Pillow reads colours of 16 bits as 8, but by these names of its own it finds the other byte as well.
_WIDE_LAYOUTS = frozenset(f"{name};16{order}" for name in ("RGB", "RGBA", "RGBX") for order in "BLN")
_WIDE_GREY = "LA;16B"

_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_POINT, _PRIMARIES = 258, 262, 318, 319  # tags of TIFF
_COLOUR_MODES = frozenset(["RGB", "RGBA", "RGBX", "P", "PA"])
_BOXES = 2**16  # bytes at the beginning of an AVIF or HEIF file among which its colours are looked for
# Filters leave floats a little outside of their range: as a share of it, what is clipped; more has no agreed meaning.
_OVERSHOOT = 0.5

# Pixels converted at a time: bounds the temporaries beside the picture itself to a few tens of MiB.
_STRIP_PIXELS = 2**20
# A block of the smooth fill: fine enough to follow the edge of a mask, coarse enough to be cheap.
_FILL_BLOCK = 8
_EITHER_BRANDS = (b"mif1", b"msf1")  # of files that may be HEIF or AVIF


@dataclass(frozen=True)
class Source:
    """A picture file of a kind that a compressed file may carry, as it was."""

    data: bytes = field(repr=False)
    bare: bytes | None = field(default=None, repr=False)  # the same picture without metadata, where that can be had


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as the codec sees it. Sizes are those after the EXIF orientation has been applied."""

    pixels: np.ndarray = field(repr=False)  # uint8 or uint16 (H, W, 3), C-contiguous; channels equal where grey
    alpha: np.ndarray | None = field(default=None, repr=False)  # uint8 (H, W); None when fully opaque
    grey: bool = False
    icc: bytes | None = field(default=None, repr=False)  # None means sRGB
    metadata: Metadata = field(default_factory=Metadata)
    remarks: tuple[str, ...] = ()  # what of the file was left out or guessed, each a line for its owner
    size: int = 0  # bytes of the file, where it was one
    source: Source | None = field(default=None, repr=False)

    @property
    def exif(self) -> bytes | None:
        """TIFF structure without the "Exif" prefix; upright."""
        return self.metadata.exif


@dataclass(frozen=True)
class Reading:
    """How a picture is read.

    Attributes:
        max_pixels: larger pictures are refused before memory is asked for; at most ``bitstream.MAX_PIXELS``.
        deep: pixels are uint16 where the file has more than 8 bits a sample.
        exact: colours under fully transparent pixels are left as they are, not replaced by a smooth fill.
        frame: which one of an animation, or page; None: the first, with a remark where there are more.
        allow_truncated: a JPEG that ends too early is read as far as it goes.
        keep_source: ``Picture.source`` is set where the file is of a kind that may be stored, and takes at most so many
            bytes a pixel.
    """

    max_pixels: int = bitstream.MAX_PIXELS
    deep: bool = False
    exact: bool = False
    frame: int | None = None
    allow_truncated: bool = False
    keep_source: float = 0.0


def read_picture(image: Readable, max_pixels: int = bitstream.MAX_PIXELS, **how: Any) -> Picture:
    """The pixels of a picture, and what belongs to them; see the module's docstring for what is kept.

    Args:
        image: a path (str or path-like), a binary file at its beginning, a ``PIL.Image.Image``, or an array of shape
            (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), grey, RGB or RGBA: uint8, bool, uint16 (white is 65535), or float
            from 0 to 1, then also (1, H, W), (3, H, W) or (4, H, W). None of them is changed; the result may share an
            array's memory.
        max_pixels, how: fields of Reading.

    Raises:
        ImageError: missing, unreadable, truncated, empty or too large; a type or shape not listed above.
        CodecError: not enough memory for it.
    """
    reading = Reading(max_pixels, **how)
    if hasattr(image, "read"):
        file = cast("IO[bytes]", image)
        image = file if file.seekable() else io.BytesIO(_all_of(file))
    try:
        return _read(image, reading)
    except Warning:
        # The program has made warnings errors, and Pillow warns about what does not matter to the picture.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _read(image, reading)


def count_frames(path: StrPath) -> int:
    """Frames or pages of a picture file; 1 where it cannot be read."""
    try:
        with open(path, "rb") as file, _opened(file, os.fsdecode(path), Reading())[0] as image:
            return _frames_of(image)
    except (CodecError, OSError):
        return 1


def _read(image: Readable, how: Reading) -> Picture:
    if isinstance(image, (str, os.PathLike)):
        path = os.fsdecode(image)
        with _one_line_errors(f"{path}: cannot read"), open(path, "rb") as file:
            return _read_file(file, path, how)
    if hasattr(image, "read"):
        with _one_line_errors("cannot read"):
            return _read_file(cast("IO[bytes]", image), "", how)
    if isinstance(image, Image.Image):
        name = os.fsdecode(getattr(image, "filename", "") or "picture")
        with _one_line_errors(f"{name}: cannot read"):
            return _read_pillow(image, name, how)
    if isinstance(image, np.ndarray):
        return _read_array(image, how)
    raise ImageError(f"not a picture: {type(image).__name__}; needed a path, a file, a PIL image or a uint8 array")


def to_image(
    pixels: np.ndarray,
    alpha: np.ndarray | None = None,
    grey: bool = False,
    icc: bytes | None = None,
    exif: bytes | None = None,
    *,
    xmp: bytes | None = None,
    iptc: bytes | None = None,
    dpi: tuple[float, float] | None = None,
) -> Image.Image:
    """The parts of a ``Picture`` as a Pillow image of mode L, LA, RGB or RGBA.

    Metadata is in ``info``, under the names that Pillow's own readers use: ``icc_profile``, ``exif`` (only where Pillow
    can read it: ``getexif`` would raise), ``xmp``, ``photoshop`` and ``dpi``. Grey pictures take the rounded mean of
    the three channels: decoded channels may differ by a level or so.
    """
    height, width = pixels.shape[:2]
    assert pixels.shape == (height, width, 3) and pixels.dtype == np.uint8
    image = Image.fromarray(mean_channel(pixels) if grey else np.ascontiguousarray(pixels))
    if alpha is not None:
        assert alpha.shape == (height, width) and alpha.dtype == np.uint8
        image.putalpha(Image.fromarray(np.ascontiguousarray(alpha)))
    image.info.update(info_of(icc, exif, xmp, iptc, dpi))
    return image


def info_of(
    icc: bytes | None = None,
    exif: bytes | None = None,
    xmp: bytes | None = None,
    iptc: bytes | None = None,
    dpi: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """What is there of a picture's profile and metadata as the ``info`` of a Pillow image; see :func:`to_image`."""
    found = {
        "icc_profile": icc,
        "exif": metadata.PREFIX + exif if exif and _is_readable(exif) else None,
        "xmp": xmp,
        "photoshop": {metadata.IPTC_RESOURCE: iptc} if iptc else None,
        "dpi": dpi,
    }
    return {name: value for name, value in found.items() if value}


def mean_channel(pixels: np.ndarray) -> np.ndarray:
    """(H, W), the rounded mean of the channels of pixels (H, W, 3), of the same type."""
    height, width = pixels.shape[:2]
    single = np.empty((height, width), pixels.dtype)
    for rows in _row_bands(height, width):
        single[rows] = (pixels[rows].sum(axis=2, dtype=np.uint32) + 1) // 3
    return single


def has_equal_channels(pixels: np.ndarray) -> bool:
    """Whether all of pixels (H, W, 3) are grey."""
    bands = (pixels[rows] for rows in _row_bands(*pixels.shape[:2]))
    return all((band[..., 0] == band[..., 1]).all() and (band[..., 0] == band[..., 2]).all() for band in bands)


def to_eight_bits(pixels: np.ndarray) -> np.ndarray:
    """uint8 of uint8 or uint16 samples, rounded."""
    if pixels.dtype == np.uint8:
        return pixels
    small = np.empty(pixels.shape, np.uint8)
    for rows in _row_bands(*pixels.shape[:2]):
        small[rows] = (pixels[rows].astype(np.uint32) + 128) // 257
    return small


def metadata_of_stored(data: bytes, grey: bool = False) -> tuple[Metadata, bytes | None]:
    """(metadata, ICC profile) of a stored picture file, without decoding pixels; Corrupt where it is damaged.

    Args:
        grey: of the header of the file that carries it.
    """
    bitstream.stored_kind(data)
    try:
        with _one_line_errors("the stored picture"):
            image, opened, again = _opened(io.BytesIO(data), "", Reading())
            with image:
                found = _metadata_of(image, opened, again, [])[1]
                _settle_colours(image, "", opened)
                return found, _profile_to_keep(image, "L" if grey and image.mode in _GREY_MODES else "RGB")
    except ImageError as error:
        raise Corrupt(f"corrupt: {error}") from error


# Reading


def _read_file(file: IO[bytes], name: str, how: Reading) -> Picture:
    if not file.seekable():
        file = io.BytesIO(_all_of(file))
    image, opened, again = _opened(file, name, how)
    with image:
        picture = _read_pillow(image, name, how, opened, again)
        size = file.seek(0, os.SEEK_END)
        if opened and not opened.whole:
            return replace(picture, size=size)
        return replace(picture, size=size, source=_source_of(image, file, picture, how, opened))


def _source_of(
    image: ImageFile.ImageFile, file: IO[bytes], picture: Picture, how: Reading, opened: picture_files.Opened | None
) -> Source | None:
    """Source of a file of one frame, or None."""
    if how.frame or _frames_of(image) > 1 or image.format not in bitstream.STORED_KINDS:
        return None
    if file.seek(0, os.SEEK_END) > how.keep_source * image.width * image.height:
        return None
    file.seek(0)
    data, bare = file.read(), None
    with contextlib.suppress(Corrupt):
        bitstream.stored_kind(data)  # some that Pillow reads begin in other ways
        if opened and not opened.cicp and opened.icc is None:
            turned = max(metadata.orientation(opened.exif or b""), metadata.xmp_orientation(opened.xmp))
            bare = bytes(opened.data) if turned <= 1 else None
        return Source(data, bare)
    return None


def _opened(file: IO[bytes], name: str, how: Reading) -> tuple[_Image, picture_files.Opened | None, _Again]:
    """(Pillow's image of a picture file, picture_files.Opened or None, a function that opens it once more).

    No pixels have been decoded, and of most formats only the header has been read.
    """
    prefix = file.read(32)
    if not prefix:
        raise ImageError(_about(name, "the file is empty"))
    if prefix.startswith(bitstream.MAGIC):
        # With codec.pillow_plugin, Pillow could open it. Losing quality twice is hardly ever meant.
        raise ImageError(_about(name, "already compressed by this codec"))
    opened = None
    if prefix.startswith(picture_files.PNG_START) and prefix[12:16] == b"IHDR":
        width, height = (int.from_bytes(prefix[n : n + 4], "big") for n in (16, 20))
        _check_size(width, height, name, how.max_pixels)
        opened = picture_files.open_png(prefix + file.read())
    elif prefix.startswith(b"RIFF") and (size := picture_files.webp_size(prefix)):
        _check_size(*size, name, how.max_pixels)
    elif prefix.startswith(b"\xff\xd8\xff"):
        opened = picture_files.open_jpeg(prefix + file.read())

    def again() -> _Image:
        # As Image.open does, but for Pillow's limit, which is global and would stand in the middle of ours.
        for make in _readers(prefix, name):
            if opened is None:
                file.seek(0)
            with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):
                try:
                    return make(io.BytesIO(opened.data) if opened else file, name)
                except Image.DecompressionBombError:
                    if not prefix.startswith(b"RIFF"):
                        raise
                file.seek(0)
                return picture_files.open_large_webp(file)
        raise ImageError(_about(name, "not a picture of a known kind, or damaged at its beginning"))

    return again(), opened, again


def _readers(prefix: bytes, name: str = "") -> list[Callable[[IO[bytes], str | bytes], ImageFile.ImageFile]]:
    """What makes images of files that begin with these bytes, of the formats that we name."""
    Image.preinit()
    if not all(form in Image.OPEN for form in READABLE[:-2]):
        Image.init()
    for form, (module, package, starts) in _PLUGINS.items():
        if form not in Image.OPEN and (prefix.startswith(starts) or prefix[4:].startswith(starts)):
            _load_plugin(form, module, package, name, quietly=prefix[8:12] in _EITHER_BRANDS)
    found = (Image.OPEN[form] for form in READABLE if form in Image.OPEN)
    makers = [make for make, accept in found if accept is not None and accept(prefix[:16]) is True]
    if not makers and os.path.splitext(name)[1].lower() in _TGA_SUFFIXES:
        makers = [Image.OPEN["TGA"][0]]
    return makers


def _load_plugin(form: str, module: str, package: str, name: str, quietly: bool = False) -> None:
    try:
        plugin = importlib.import_module(module)
    except ImportError:
        if quietly:
            return
        raise ImageError(_about(name, f"{form} needs the package {package}: pip install {package}")) from None
    if form == "HEIF":
        plugin.register_heif_opener()


def _frames_of(image: Image.Image) -> int:
    with _damage_ignored():
        return getattr(image, "n_frames", 1) or 1
    return 1


def _all_of(file: IO[bytes]) -> bytes:
    """The bytes of a file that cannot be wound back: those of a pipe; not all of it where it is no picture anyway."""
    start = file.read(32)
    return start + file.read() if _readers(start) else start


def _read_array(array: np.ndarray, how: Reading) -> Picture:
    array = _samples(array, how.deep)
    height, width = array.shape[:2]
    _check_size(width, height, "array", how.max_pixels)
    grey = array.ndim == 2
    if grey:
        return Picture(np.repeat(array[..., None], 3, axis=2), grey=True)
    if array.shape[2] == 4:
        alpha = to_eight_bits(np.array(array[..., 3], order="C"))
        return _finish(Picture(np.array(array[..., :3], order="C"), alpha), how)
    # Writable, as torch.from_numpy asks for; copied only where it is not.
    return Picture(np.require(array, requirements=["C", "W"]))


def _samples(array: np.ndarray, deep: bool) -> np.ndarray:
    """An array of any kind that is taken as (H, W), (H, W, 3) or (H, W, 4), uint8, or uint16 where it is deep."""
    wrong = ImageError(
        "array: needed bool, uint8 or uint16 of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), or floats from 0 to 1 "
        f"of those shapes or (1, H, W), (3, H, W), (4, H, W); found {array.dtype} {array.shape}"
    )
    floats = array.dtype.kind == "f"
    if not (floats or array.dtype in (np.bool_, np.uint8, np.uint16)):
        raise wrong
    if floats and array.ndim == 3 and array.shape[0] in (1, 3, 4):
        array = array.transpose(1, 2, 0)  # as networks have it
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise wrong
    if array.dtype == np.bool_:
        levels: np.ndarray = array.astype(np.uint8) * np.uint8(255)
        return levels
    if floats:
        if array.size and not (-_OVERSHOOT <= array.min() and array.max() <= 1 + _OVERSHOOT):  # NaN, too
            raise ImageError(f"array: floats from {array.min():g} to {array.max():g}; needed 0 to 1")
        array = np.floor(65535 * np.clip(array.astype(np.float32), 0, 1) + np.float32(0.5)).astype(np.uint16)
    return array if deep or not array.size else to_eight_bits(array)


def _read_pillow(
    image: Image.Image, name: str, how: Reading, opened: picture_files.Opened | None = None, again: _Again | None = None
) -> Picture:
    _check_size(*image.size, name, how.max_pixels)  # before load() allocates anything
    try:
        return _picture_of(image, name, how, opened, again)
    except Exception as error:
        if not is_memory(error):
            raise
    raise not_enough_memory(*image.size, name)


def _picture_of(
    image: Image.Image, name: str, how: Reading, opened: picture_files.Opened | None, again: _Again | None
) -> Picture:
    remarks = []
    frames = _frames_of(image) if again else 1
    if how.frame:
        image.seek(how.frame)
        _check_size(*image.size, name, how.max_pixels)
    elif frames > 1 and how.frame is None:
        remarks.append(f"only the first of {frames} frames is kept; --all-frames writes one file each")
    if opened and not opened.whole and not _is_whole(opened):
        if not how.allow_truncated:
            raise ImageError(
                _about(name, "truncated: some of its pixels are missing; --allow-truncated takes the others")
            )
        remarks.append("truncated: pixels that are missing are grey")

    orientation, found = _metadata_of(image, opened, again, remarks)
    _settle_colours(image, name, opened)
    samples = _stored_as(image)
    wide = not how.frame and (samples in _WIDE_LAYOUTS or samples == _WIDE_GREY)
    top = _ppm_top(image) if again else None
    icc = image.info.get("icc_profile")
    if again and samples and wide and not (icc and len(icc) > bitstream.MAX_ICC):
        grey = samples == _WIDE_GREY
        pixels, alpha = _wide_planes(image, again, samples)
        icc = _profile_to_keep(image, "L" if grey else "RGB")
    elif top:
        grey, icc = False, None
        pixels, alpha = _ppm_plane(image, top), None
    elif _is_deep(image.mode):
        image.load()
        grey, icc = True, _profile_to_keep(image, "L")
        pixels, alpha = _deep_planes(image, name)
    else:
        image.load()  # truncated files end here; PNG metadata may follow the pixels
        image = _with_sample_alpha(image, samples)
        convert, grey, icc = _colour_plan(image)
        pixels, alpha = _planes(image, convert)
        if image.format in ("BMP", "TGA") and alpha is not None and not alpha.any():
            alpha = None  # a fourth byte that nobody filled in; viewers show such files as opaque
    levels = _srgb_levels(image.info, 255 if pixels.dtype == np.uint8 else 65535)
    if levels is not None:
        pixels = levels[pixels]
    if not how.deep:
        pixels = to_eight_bits(pixels)
    if alpha is not None:
        alpha = _turn_upright(alpha, orientation)
    return _finish(Picture(_turn_upright(pixels, orientation), alpha, grey, icc, found, tuple(remarks)), how)


def _is_deep(mode: str) -> bool:
    return mode in _DEEP_MODES or mode.startswith("I;16")


def _with_sample_alpha(image: Image.Image, samples: str | None) -> Image.Image:
    """The image, its one see-through sample at the others' depth: in a grey PNG of 2 or 4 bits it is at the file's."""
    transparent = image.info.get("transparency")
    if samples in _SHALLOW_GREY and isinstance(transparent, int):
        depth = _SHALLOW_GREY[samples]
        image = image.copy()
        image.info["transparency"] = transparent % 2**depth * 255 // (2**depth - 1)
    return image


def _is_whole(opened: picture_files.Opened) -> bool:
    """Whether all pixels of a JPEG without an end marker are there: then it does not matter what follows."""
    if not picture_files.has_all_scans(bytes(opened.data)):
        return False
    found = set()
    for junk in (b"\0" * 64, b"\x5a\xc3" * 32):
        with Image.OPEN["JPEG"][0](io.BytesIO(picture_files.with_tail(opened.data, junk)), "") as image:
            found.add(image.tobytes())
    return len(found) == 1


def _stored_as(image: Image.Image) -> str | None:
    """Pillow's name of how the file stores samples, as long as they have not been loaded; else None."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else None
    if isinstance(arguments, tuple) and arguments:
        arguments = arguments[0]
    return arguments if isinstance(arguments, str) else None


def _finish(picture: Picture, how: Reading) -> Picture:
    """The picture without an alpha plane that says nothing, and perhaps filled; its pixels must be ours to change."""
    if picture.alpha is not None and picture.alpha.min() == 255:
        picture = replace(picture, alpha=None)
    return picture if how.exact else filled(picture)


def filled(picture: Picture) -> Picture:
    """The picture, colours under its transparent pixels replaced by a smooth fill, in place."""
    if picture.alpha is not None:
        _fill_transparent(picture.pixels, picture.alpha)
    return picture


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ImageError(_about(name, f"an empty picture of {width} x {height} pixels"))
    try:
        bitstream.check_size(width, height, max_pixels)
    except BitstreamError as error:
        raise ImageError(_about(name, error)) from None


def _about(name: str, text: object) -> str:
    return f"{name}: {text}" if name else str(text)


def _row_bands(height: int, width: int) -> list[slice]:
    """Slices of rows: bands of a picture of about ``_STRIP_PIXELS``, in multiples of ``_FILL_BLOCK`` rows."""
    rows = max(1, _STRIP_PIXELS // width // _FILL_BLOCK) * _FILL_BLOCK
    return [slice(top, min(top + rows, height)) for top in range(0, height, rows)]


def _strips(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """(rows, part of the image) from top to bottom."""
    for rows in _row_bands(image.height, image.width):
        yield rows, image.crop((0, rows.start, image.width, rows.stop))


def _planes(image: Image.Image, convert: _Convert) -> tuple[np.ndarray, np.ndarray | None]:
    """uint8 (H, W, 3) and alpha (H, W) or None; ``convert`` maps parts of the image to L, LA, RGB or RGBA."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    alpha = None
    for rows, strip in _strips(image):
        strip = convert(strip)
        samples = np.asarray(strip)
        if strip.mode == "L":
            samples = samples[..., None]
        if strip.mode in ("LA", "RGBA"):
            if alpha is None:
                alpha = np.empty((image.height, image.width), np.uint8)
            alpha[rows] = samples[..., -1]
            samples = samples[..., :-1]
        pixels[rows] = samples  # one grey channel broadcasts to three
    return pixels, alpha


def _wide_planes(image: _Image, again: _Again, samples: str) -> tuple[np.ndarray, np.ndarray | None]:
    """uint16 (H, W, 3) and alpha uint8 (H, W) or None of colours, or grey with alpha, of 16 bits."""
    transparent = image.info.get("transparency")
    if samples == _WIDE_GREY:
        image.tile = [_relaid(tile, "RGBA") for tile in image.tile]  # as many bits: high and low byte of both channels
        image.load()
        halves: list[tuple[_Image, tuple[int, ...]]] = [(image, (0, 2)), (image, (1, 3))]
    else:
        layout, order = samples[:-1], samples[-1]
        first, second = image, again()
        for part, byte in ((first, "B"), (second, "L")):
            part.tile = [_relaid(tile, layout + byte) for tile in part.tile]
            part.load()
        channels = tuple(range(len(image.getbands())))
        halves = [(first, channels), (second, channels)]
        if order == "L" or (order == "N" and sys.byteorder == "little"):
            halves = halves[::-1]

    (high, high_bands), (low, low_bands) = halves
    pixels = np.empty((image.height, image.width, 3), np.uint16)
    alpha = None
    if len(high_bands) != 3 or isinstance(transparent, tuple):
        alpha = np.empty((image.height, image.width), np.uint8)
    for (rows, top), (_, bottom) in zip(_strips(high), _strips(low), strict=True):
        part = np.asarray(top)[..., high_bands].astype(np.uint16) << 8 | np.asarray(bottom)[..., low_bands]
        if alpha is not None and len(high_bands) != 3:
            alpha[rows] = (part[..., -1].astype(np.uint32) + 128) // 257
            part = part[..., :-1]
        elif alpha is not None:
            alpha[rows] = np.where((part == transparent).all(axis=2), 0, 255)
        pixels[rows] = part  # one grey channel broadcasts to three
    return pixels, alpha


def _ppm_top(image: _Image) -> int | None:
    """The highest sample of a binary PPM of colours of more than 8 bits; else None. Pillow makes 8 of them."""
    if image.format == "PPM" and image.mode == "RGB" and image.tile and image.tile[0][0] == "ppm":
        top = image.tile[0][3][1]
        return top if top > 255 else None
    return None


def _ppm_plane(image: _Image, top: int) -> np.ndarray:
    """uint16 (H, W, 3) of a PPM file with samples of two bytes, high byte first."""
    image.fp.seek(image.tile[0][2])
    pixels = np.empty((image.height, image.width, 3), np.uint16)
    for rows in _row_bands(*pixels.shape[:2]):
        band = pixels[rows]
        data = image.fp.read(band.nbytes)
        if len(data) < band.nbytes:
            raise OSError("the file is truncated")
        samples = np.frombuffer(data, ">u2").reshape(band.shape)
        band[:] = np.floor(np.minimum(samples, top) * (65535 / top) + 0.5)
    return pixels


def _relaid(tile: Any, layout: str) -> Any:
    """A tile of Pillow's whose samples are unpacked in another way."""
    arguments = layout if isinstance(tile[3], str) else (layout, *tile[3][1:])
    parts = *tile[:3], arguments
    return tile._make(parts) if hasattr(tile, "_make") else parts


def _deep_planes(image: _Image, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Like ``_planes`` for one channel of more than 8 bits; uint16."""
    extrema = [(strip.min(), strip.max()) for strip in (np.asarray(part) for _, part in _strips(image))]
    low, high = np.array(extrema).T
    low, high = low.min(), high.max()  # NaN if there is one, unlike Pillow's getextrema
    scale: float
    slack: float
    if image.mode == "F":
        scale, limit = (65535, 1) if high <= 1 + _OVERSHOOT else (257, 255)
        slack = _OVERSHOOT * limit
    else:
        bits = _tiff_bits(image)
        limit, slack = 65535 if bits is None else 2**bits - 1, 0
        scale = 65535 / limit
    if not -slack <= low <= high <= limit + slack:  # also where either is NaN
        raise ImageError(_about(name, f"samples from {low:g} to {high:g}; needed 0 to {limit}"))

    white_is_zero = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0
    transparent = image.info.get("transparency")  # the one sample value that is see-through, if any
    pixels = np.empty((image.height, image.width, 3), np.uint16)
    alpha = None
    if isinstance(transparent, int):
        alpha = np.empty((image.height, image.width), np.uint8)
    for rows, strip in _strips(image):
        samples = np.asarray(strip)
        if alpha is not None:
            alpha[rows] = np.where(samples == transparent, 0, 255)
        if slack:
            samples = samples.clip(0, limit)
        if white_is_zero:
            samples = limit - samples
        pixels[rows] = np.floor(samples * np.float64(scale) + 0.5)[..., None]
    return pixels, alpha


def _tiff_bits(image: _Image) -> int | None:
    """Bits a sample that a TIFF of 9 to 15 says it has; Pillow leaves their values as they are."""
    bits = image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0] if image.format == "TIFF" else 16
    return bits if 8 < bits < 16 else None


def _turn_upright(plane: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, ...) as the camera meant it; EXIF 2.32, section 4.6.5.1. Unknown values mean upright."""
    ways: dict[int, Callable[[], np.ndarray]] = {
        2: lambda: plane[:, ::-1],
        3: lambda: plane[::-1, ::-1],
        4: lambda: plane[::-1],
        5: lambda: plane.swapaxes(0, 1),
        6: lambda: np.rot90(plane, -1),
        7: lambda: plane.swapaxes(0, 1)[::-1, ::-1],
        8: lambda: np.rot90(plane),
    }
    return np.ascontiguousarray(ways.get(orientation, lambda: plane)())


def _metadata_of(
    image: _Image, opened: picture_files.Opened | None, again: _Again | None, remarks: list[str]
) -> tuple[int, Metadata]:
    """(orientation, Metadata) of an image: upright, and what is damaged or too long is left out with a remark."""
    turned = 0
    if opened:
        found = Metadata(opened.exif, opened.xmp, opened.iptc)
    elif image.format == "TIFF" and again:
        place = image.fp.tell()
        found, turned = metadata.of_tiff(image.fp)
        image.fp.seek(place)
    else:
        xmp = image.info.get("xmp")
        xmp = xmp.encode() if isinstance(xmp, str) else xmp
        resources = image.info.get("photoshop")
        iptc = resources.get(metadata.IPTC_RESOURCE) if isinstance(resources, dict) else None
        xmp, iptc = (data if isinstance(data, bytes) else None for data in (xmp, iptc))
        found = Metadata(_exif_of(image), xmp, iptc)
    turned = turned or metadata.orientation(found.exif or b"") or metadata.xmp_orientation(found.xmp) or 1
    if image.format == "JXL" and not getattr(image, "jpeg", False):
        turned = 1  # its reader turns the picture
    exif = found.exif and metadata.upright_exif(found.exif)
    if found.exif and not metadata.is_sound(found.exif):
        remarks.append("EXIF is damaged, and left out")
    xmp = found.xmp and metadata.upright_xmp(found.xmp)
    found, too_long = metadata.fitted(Metadata(exif, xmp, found.iptc, _resolution_of(image)))
    remarks += too_long
    return turned, found


def _exif_of(image: _Image) -> bytes | None:
    """EXIF of a Pillow image in its TIFF form: as it was read, unless it has been changed since; or None."""
    raw = image.info.get("exif")
    raw = raw.removeprefix(metadata.PREFIX) if isinstance(raw, bytes) else None
    if raw and not metadata.is_sound(raw):
        return raw  # for its orientation
    with _damage_ignored():
        exif, stored = image.getexif(), Image.Exif()
        if raw:
            stored.load(raw)
            inner = metadata.EXIF_IFD, metadata.GPS_IFD
            if dict(exif) == dict(stored) and all(exif.get_ifd(tag) == stored.get_ifd(tag) for tag in inner):
                return raw
        if len(exif):
            data = exif.tobytes().removeprefix(metadata.PREFIX)
            return metadata.of_tiff(io.BytesIO(data))[0].exif if image.format == "TIFF" else data
    return None


def _resolution_of(image: Image.Image) -> tuple[float, float] | None:
    """Pixels per inch, across and down, or None."""
    with contextlib.suppress(KeyError, TypeError, ValueError, ZeroDivisionError):
        across, down = (float(number) for number in image.info["dpi"])
        if all(math.isfinite(number) and 1e-4 <= number < 4e5 for number in (across, down)):
            return across, down
    return None


def _is_readable(exif: bytes) -> bool:
    """Whether Pillow can read all of EXIF in its TIFF form, values included."""
    if not metadata.is_sound(exif):  # of which Pillow would warn
        return False
    with contextlib.suppress(
        Exception
    ):  # a warning too, where the program has made them errors: then getexif raises it
        found = Image.Exif()
        found.load(exif)
        found.tobytes()
        for directory in (found, *map(found.get_ifd, ExifTags.IFD)):
            dict(directory)
        return True
    return False


@contextlib.contextmanager
def _damage_ignored() -> Iterator[None]:
    """Pillow raises errors of many kinds on damaged EXIF. The pixels are worth having anyway."""
    try:
        yield
    except (Warning, MemoryError):
        raise
    except Exception:
        pass


# Colour


def _settle_colours(image: _Image, name: str, opened: picture_files.Opened | None) -> None:
    """Give an image that was opened here the profile that its file means, however said; ImageError for PQ and HLG."""
    info, code = image.info, None
    if opened and image.format == "PNG":
        info["icc_profile"] = opened.icc
        code = opened.cicp and (opened.cicp[0], opened.cicp[1])
    elif image.format in ("AVIF", "HEIF") and getattr(image, "fp", None):
        code = _nclx(image.fp)
    if code:
        hdr = colour.hdr_name(code[1])
        if hdr:
            raise ImageError(
                _about(name, f"its colours are {hdr} (HDR), which is not supported; convert it to sRGB first")
            )
        if image.format == "PNG" or not info.get("icc_profile"):
            info["icc_profile"] = colour.code_point_profile(*code)
            for word in ("gamma", "chromaticity", "srgb"):
                info.pop(word, None)
    chromaticities = info.get("chromaticity")
    if image.format == "TIFF" and image.tag_v2.get(_PRIMARIES):
        chromaticities = (*image.tag_v2.get(_WHITE_POINT, colour.SRGB[0]), *image.tag_v2[_PRIMARIES])
    stated = info.get("icc_profile") or info.get("srgb") is not None
    if chromaticities and len(chromaticities) == 8 and not stated and image.mode in _COLOUR_MODES:
        profile = colour.chromaticity_profile([float(number) for number in chromaticities], info.get("gamma") or None)
        if profile:
            info["icc_profile"] = profile
            info.pop("gamma", None)


def _nclx(file: IO[bytes]) -> tuple[int, int] | None:
    """(primaries, transfer) of H.273 in the colour box of an AVIF or HEIF file, or None."""
    place = file.tell()
    file.seek(0)
    start = file.read(_BOXES)
    file.seek(place)
    position = start.find(b"colrnclx")
    if position < 0 or position + 12 > len(start):
        return None
    return struct.unpack(">HH", start[position + 8 : position + 12])


def _colour_plan(image: Image.Image) -> tuple[_Convert, bool, bytes | None]:
    """(convert, grey, icc): how parts of an 8-bit image become L, LA, RGB or RGBA, and their profile then."""
    icc = image.info.get("icc_profile")
    if image.mode == "CMYK":
        to_srgb = _srgb_transform(icc, "CMYK") if icc else None
        return to_srgb or (lambda strip: strip.convert("RGB")), False, None
    if image.mode == "LAB":
        return lambda strip: strip.convert("RGB"), False, None  # through lcms, to sRGB

    grey = image.mode in _GREY_MODES
    if grey and _profile_to_keep(image, "RGB"):
        grey = False  # L with an RGB profile: against the rules, but clear enough
    icc = _profile_to_keep(image, "L" if grey else "RGB")
    mode = ("L" if grey else "RGB") + ("A" if image.has_transparency_data else "")

    if icc and len(icc) > bitstream.MAX_ICC:
        return lambda strip: _in_srgb(strip.convert(mode), icc), grey, None
    return lambda strip: strip.convert(mode), grey, icc


def _profile_to_keep(image: Image.Image, mode: str) -> bytes | None:
    """The image's profile, if it is one for pixels of ``mode`` (L, RGB) and does not just act like sRGB."""
    icc: bytes | None = image.info.get("icc_profile")
    if not icc or _profile_space(icc) != _SPACES[mode] or _acts_like_srgb(icc, mode):
        return None
    return icc


def _profile_space(icc: bytes) -> str:
    """The colour space field of a profile's header; ICC.1:2010, section 7.2.6."""
    return icc[16:20].decode("latin-1")


@functools.lru_cache(maxsize=16)
def _acts_like_srgb(icc: bytes, mode: str) -> bool:
    """Whether a profile maps a lattice of colours to sRGB with errors of at most one level.

    Measured, not looked up: profiles named sRGB differ in bytes, and some only claim to be.
    """
    to_srgb = _srgb_transform(icc, mode)
    if to_srgb is None:
        return False
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    if mode == "L":
        image = Image.fromarray(levels[None])
    else:
        image = Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3))
    wanted = np.asarray(image.convert("RGB")).astype(int)
    return bool(np.abs(np.asarray(to_srgb(image)) - wanted).max() <= 1)


def _srgb_transform(icc: bytes, mode: str) -> _Convert | None:
    """A function from images of ``mode`` (L, RGB, CMYK) in a profile to RGB in sRGB; None if unusable."""
    if _profile_space(icc) != _SPACES[mode]:
        return None
    # Profiles come from anywhere; a damaged one must not cost the picture.
    with contextlib.suppress(Exception):
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")
        return lambda image: cast("Image.Image", ImageCms.applyTransform(image, transform))  # not in place
    return None


def _srgb_levels(info: dict[Any, Any], top: int) -> np.ndarray | None:
    """The sRGB level of each level of a PNG that states gAMA and nothing that outranks it; None where none changes."""
    exponent = info.get("gamma")
    if not exponent or info.get("srgb") is not None or info.get("icc_profile") or colour.means_srgb(exponent):
        return None
    return colour.srgb_levels(exponent, top)


# Stored pictures


def read_stored(container: bitstream.Container, deep: bool = False) -> Picture:
    """The picture that a bitstream.Container carries as a file.

    Raises:
        Corrupt: not a picture of the kind that it says, or of another size, or with other channels.
    """
    data = bitstream.stored_file(container)
    kind = bitstream.stored_kind(data)
    try:
        with _one_line_errors("the stored picture"):
            image, opened, again = _opened(io.BytesIO(data), "", Reading())
            with image:
                # No other reader has a say, and no other size is decoded.
                if image.format != kind:
                    raise Corrupt(f"corrupt: the stored picture is {image.format}, not {kind}")
                if sorted(image.size) != sorted((container.width, container.height)):
                    raise Corrupt(f"corrupt: the stored picture has {image.width} x {image.height} pixels")
                picture = _read_pillow(image, "", Reading(deep=deep, exact=True), opened, again)
    except ImageError as error:
        raise Corrupt(f"corrupt: {error}") from error
    if container.grey and not picture.grey and has_equal_channels(picture.pixels):
        picture = replace(picture, grey=True)  # WebP has no grey
    found = picture.pixels.shape[1::-1], picture.grey, picture.alpha is not None
    if found != ((container.width, container.height), container.grey, container.stored_alpha):
        raise Corrupt("corrupt: the stored picture is not the one that the header announces")
    return picture


# Alpha


def encode_alpha(alpha: np.ndarray, quality: float = 100) -> bytes:
    """A uint8 (H, W) plane as a grey PNG; 1 bit a pixel if it holds only 0 and 255.

    Args:
        quality: 100: without loss; below, of fewer levels, 2 at 0. What is fully transparent or opaque stays so.
    """
    assert alpha.ndim == 2 and alpha.dtype == np.uint8
    if quality < 100:
        steps = 1 + int(62 * quality / 100)
        levels = np.floor(np.floor(np.arange(256) * steps / 255 + 0.5) * 255 / steps + 0.5)
        alpha = levels.astype(np.uint8)[alpha]
    binary = not ((alpha != 0) & (alpha != 255)).any()
    file = io.BytesIO()
    Image.fromarray(alpha == 255 if binary else np.ascontiguousarray(alpha)).save(file, "PNG", optimize=True)
    return file.getvalue()


def decode_alpha(data: bytes, width: int, height: int) -> np.ndarray:
    """The uint8 (height, width) plane that ``encode_alpha`` wrote.

    Raises:
        Corrupt: anything but a grey PNG of that size, without interlacing and without further chunks. The
            size is compared before anything is decoded, so that a small file cannot ask for much memory.
    """
    wrong = Corrupt(f"corrupt: the alpha section is not a plain grey PNG of {width} x {height} pixels")
    start = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big")
    depth, layout = data[24:25], data[25:29]  # layout: colour type, compression, filter, interlace
    if data[:24] != start or depth not in (b"\x01", b"\x08") or layout != bytes(4):
        raise wrong
    kinds = _png_chunks(data)
    if kinds[:1] + kinds[-1:] != [b"IHDR", b"IEND"] or set(kinds[1:-1]) != {b"IDAT"}:
        raise wrong
    try:
        # The PNG reader itself, not Image.open: no other format has a say, and pictures that we compressed
        # ourselves must not trip over Pillow's limit for unknown ones.
        with PngImagePlugin.PngImageFile(io.BytesIO(data)) as image:
            return np.array(image.convert("L"))
    except MemoryError:
        raise
    except Exception:  # Pillow's readers raise errors of many kinds on damaged files
        raise wrong from None


def _png_chunks(data: bytes) -> list[bytes]:
    """The chunk types of a PNG in order; empty if the chunks do not fill the file exactly."""
    kinds, position = [], 8
    while position < len(data):
        kinds.append(data[position + 4 : position + 8])
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    return kinds if position == len(data) else []


def _fill_transparent(pixels: np.ndarray, alpha: np.ndarray) -> None:
    """Replace, in place, the colour of fully transparent pixels by a smooth continuation of the visible ones.

    Blocks of 8 x 8 pixels take the mean of their visible colours, blocks without any are interpolated from a
    pyramid of ever coarser blocks ("push-pull": Gortler et al. 1996, The Lumigraph), pixels are interpolated
    from blocks.
    """
    if not alpha.any():
        return  # whoever stored colours of which nothing at all is visible may have meant them
    bands = [rows for rows in _row_bands(*alpha.shape) if not alpha[rows].all()]
    if not bands:
        return
    unit = 1 if pixels.dtype == np.uint8 else 257
    sums, weights = [], []
    for rows in _row_bands(*alpha.shape):
        weight = alpha[rows].astype(np.float32)[..., None]
        sums.append(_pool(pixels[rows] * (weight / np.float32(unit)), _FILL_BLOCK))
        weights.append(_pool(weight, _FILL_BLOCK))
    blocks = _fill_blocks(np.concatenate(sums), np.concatenate(weights))
    small = Image.fromarray(np.floor(blocks + 0.5).clip(0, 255).astype(np.uint8))
    width = alpha.shape[1]
    for rows in bands:
        box = (0, rows.start / _FILL_BLOCK, width / _FILL_BLOCK, rows.stop / _FILL_BLOCK)
        fill = np.asarray(small.resize((width, rows.stop - rows.start), Image.Resampling.BILINEAR, box=box))
        hidden = alpha[rows] == 0
        pixels[rows][hidden] = fill[hidden] * pixels.dtype.type(unit)


def _fill_blocks(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Colours (h, w, 3) from weighted sums (h, w, 3) and weights (h, w, 1), not all of them zero."""
    colours: np.ndarray = sums / np.maximum(weights, 1)  # weights are whole numbers
    empty = weights[..., 0] == 0
    if empty.any():
        coarse = _fill_blocks(_pool(sums, 2), _pool(weights, 2))
        height, width = empty.shape
        for channel in range(3):
            plane = Image.fromarray(np.ascontiguousarray(coarse[..., channel]))
            box = (0, 0, width / 2, height / 2)
            plane = plane.resize((width, height), Image.Resampling.BILINEAR, box=box)
            colours[empty, channel] = np.asarray(plane)[empty]
    return colours


def _pool(values: np.ndarray, size: int) -> np.ndarray:
    """Sums over blocks of size x size, those at the lower and right edge as far as they go."""
    for axis in (0, 1):
        values = np.add.reduceat(values, np.arange(0, values.shape[axis], size), axis=axis)
    return values


# Writing


@dataclass(frozen=True)
class _Format:
    name: str  # Pillow's
    modes: tuple[str, ...] = ("L", "LA", "RGB", "RGBA")  # that it holds
    icc: bool = True
    metadata: tuple[str, ...] = ()  # of exif, xmp, iptc, dpi: what it holds
    lossy: bool = False  # with Writing.quality or without
    options: tuple[tuple[str, Any], ...] = ()


_OPAQUE = ("L", "RGB")
_PNG = _Format("PNG", metadata=("exif", "xmp", "iptc", "dpi"))
_JPEG = _Format(
    "JPEG",
    _OPAQUE,
    metadata=("exif", "xmp", "iptc", "dpi"),
    lossy=True,
    options=(("subsampling", 0), ("optimize", True)),
)
_WEBP = _Format("WEBP", ("RGB", "RGBA"), metadata=("exif", "xmp"))
_AVIF = _Format("AVIF", ("RGB", "RGBA"), metadata=("exif", "xmp"), lossy=True, options=(("subsampling", "4:4:4"),))
_JXL = _Format("JXL", icc=False, metadata=("exif", "xmp"))
_TIFF = _Format("TIFF", metadata=("exif", "xmp", "iptc", "dpi"), options=(("compression", "tiff_adobe_deflate"),))
_BMP = _Format("BMP", _OPAQUE, icc=False, metadata=("dpi",))
_PPM, _PGM, _PNM = (_Format("PPM", modes, icc=False) for modes in (("RGB",), ("L",), _OPAQUE))
FORMATS = {
    ".png": _PNG,
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": _WEBP,
    ".avif": _AVIF,
    ".jxl": _JXL,
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".bmp": _BMP,
    ".ppm": _PPM,
    ".pgm": _PGM,
    ".pnm": _PNM,
}
DEEP_EXTENSIONS = (".png", ".ppm", ".pgm", ".pnm")  # of formats that are written with 16 bits a sample
_LOSSY_QUALITY = {"JPEG": 95, "AVIF": 90}  # where nobody has said otherwise
_JPEG_SEGMENT = 65533  # bytes of a segment's contents
# Rows of each of three bands on which the strategy for a PNG is tried, at least, and how much larger it may be.
_BAND, _RUNS_COST = 8, 1.05
_WORDS = {"exif": "EXIF", "xmp": "XMP", "iptc": "IPTC"}


@dataclass(frozen=True)
class Writing:
    """How a picture is written.

    Attributes:
        quality: of lossy formats, 0 to 100; None: without loss where the format can, else near to it.
        background: (red, green, blue) behind transparent parts in formats without alpha.
    """

    quality: int | None = None
    background: tuple[int, int, int] = (255, 255, 255)


def save_picture(image: Image.Image | Picture, path: StrPath, how: Writing = Writing()) -> list[str]:
    """Write an image of mode L, LA, RGB or RGBA; the extension, one of ``FORMATS``, chooses the format.

    The file appears whole or not at all; for what is written and returned, see :func:`encode_picture`.

    Raises:
        ImageError: unknown extension, or a picture that the format cannot hold. CodecError: the file cannot be written.
    """
    path = os.fsdecode(path)
    data, remarks = encode_picture(image, _extension_of(path), path, how)
    write_bytes_atomic(path, data)
    return remarks


def encode_picture(
    image: Image.Image | Picture, extension: str, name: str = "picture", how: Writing = Writing()
) -> tuple[BytesLike, list[str]]:
    """The bytes of a picture file, and remarks.

    Without loss, except for JPEG (quality 95, full chroma) and AVIF (90, full chroma), unless ``how`` asks for loss.
    Formats without alpha get the picture on white, as paper and browsers show it: who asks for a JPEG of a cut-out
    wants a picture, not a refusal. Formats that cannot carry a profile get sRGB. Metadata that the format has no room
    for is left out.

    Args:
        image: of mode L, LA, RGB or RGBA; or a Picture of 16 bits, for one of ``DEEP_EXTENSIONS``.
        extension: one of ``FORMATS``.
        name: for messages.
        how: Writing.

    Returns:
        (a bytes-like object, a list of lines that say what was left out).

    Raises:
        ImageError: a picture that the format cannot hold. CodecError: not enough memory.
    """
    form = FORMATS[extension]
    if not isinstance(image, Picture) and image.mode not in ("L", "LA", "RGB", "RGBA"):
        raise ImageError(f"{name}: cannot write mode {image.mode}; needed L, LA, RGB or RGBA")
    if form.name == "JXL" and "JXL" not in Image.SAVE:
        _load_plugin("JXL", *_PLUGINS["JXL"][:2], name)
    Image.preinit()
    if form.name not in Image.SAVE:
        Image.init()
    if form.name not in Image.SAVE:
        raise ImageError(f"{name}: this Pillow cannot write {form.name}")
    try:
        with _one_line_errors(f"{name}: cannot write"):
            return _encode_deep(image, form, how) if isinstance(image, Picture) else _encode(image, form, how)
    except CodecError as error:
        if not is_memory(error.__cause__):
            raise
    width, height = image.pixels.shape[1::-1] if isinstance(image, Picture) else image.size
    raise not_enough_memory(width, height, name)


def _encode(image: Image.Image, form: _Format, how: Writing) -> tuple[BytesLike, list[str]]:
    icc, found = image.info.get("icc_profile"), _written_metadata(image.info)
    image, icc, remarks = _fitted_modes(image, icc, form, how)
    found, left_out = _with_room(found, form)
    options = dict(form.options)
    if form.icc:
        # Always named: Pillow would otherwise add what it finds in info, for some formats only.
        options["icc_profile"] = icc or b""
    if form.lossy:
        options["quality"] = _LOSSY_QUALITY[form.name] if how.quality is None else how.quality
    elif form.name in ("WEBP", "JXL"):
        options.update({"lossless": True, "exact": True} if how.quality is None else {"quality": how.quality})
    image.info = {}  # Pillow adds what it finds there, in some formats
    if form.name == "PNG":
        options["compress_type"] = _png_strategy(image)
    data: BytesLike = _saved(image, form.name, **options, **_metadata_options(found, form))
    if form.name == "TIFF" and (found.exif or found.xmp or found.iptc):
        data = metadata.into_tiff(data, found)
    return data, [*remarks, *left_out]


def _png_strategy(image: Image.Image) -> int:
    """zlib's strategy for a PNG: runs alone where they are hardly larger, as of photographs, in a fifth of the time."""
    height = max(_BAND, image.height // (8 * _BAND))
    if image.height < 4 * height:
        return zlib.Z_FILTERED
    sizes = {zlib.Z_FILTERED: 0, zlib.Z_RLE: 0}
    for top in (image.height * place // 4 for place in (1, 2, 3)):
        # Not crop(), which calls a band a bomb where the process has a small limit for pictures of strangers.
        extent = (0, top, image.width, top + height)
        band = image.transform((image.width, height), Image.Transform.EXTENT, extent)
        for strategy in sizes:
            sizes[strategy] += len(_saved(band, "PNG", compress_type=strategy))
    return zlib.Z_RLE if sizes[zlib.Z_RLE] <= _RUNS_COST * sizes[zlib.Z_FILTERED] else zlib.Z_FILTERED


def _written_metadata(info: dict[Any, Any]) -> Metadata:
    """Metadata of a Pillow image's info; EXIF only where it can be read again."""
    exif = info.get("exif")
    exif = exif.removeprefix(metadata.PREFIX) if isinstance(exif, bytes) else None
    iptc = (info.get("photoshop") or {}).get(metadata.IPTC_RESOURCE)
    return Metadata(exif if exif and metadata.is_sound(exif) else None, info.get("xmp"), iptc, info.get("dpi"))


def _fitted_modes(
    image: Image.Image, icc: bytes | None, form: _Format, how: Writing
) -> tuple[Image.Image, bytes | None, list[str]]:
    """(image of a mode that the format holds, its profile or None, remarks)."""
    image, remarks = image.copy(), []
    if image.mode in ("LA", "RGBA") and not any(mode in form.modes for mode in ("LA", "RGBA")):
        image = _on_background(image, how.background)
    grey = "L" in form.modes or "LA" in form.modes
    if icc and not (form.icc and (grey or _profile_space(icc) != "GRAY")):
        image, icc = _in_srgb(image, icc), None
    if image.mode not in form.modes:
        bare = "L" if "RGB" not in form.modes else "RGB"
        if bare == "L":
            remarks.append("the colours are left out: the format holds grey pictures only")
        image = image.convert(bare + ("A" if image.mode.endswith("A") else ""))
    return image, icc, remarks


def _with_room(found: Metadata, form: _Format) -> tuple[Metadata, list[str]]:
    """(what of the metadata the format holds, remarks about the rest)."""
    remarks = []
    for name, word in _WORDS.items():
        data = getattr(found, name)
        if not data:
            continue
        limit = _JPEG_SEGMENT - {"exif": 6, "xmp": 29, "iptc": 26}[name]
        if name not in form.metadata:
            reason = f"{form.name} files have no room for it"
        elif form.name == "JPEG" and len(data) > limit:
            reason = f"{len(data):,} bytes do not fit in a JPEG"
        else:
            continue
        remarks.append(f"{word} is left out: {reason}")
        found = replace(found, **{name: None})
    return found, remarks


def _metadata_options(found: Metadata, form: _Format) -> dict[str, Any]:
    """Options of Pillow's for metadata; TIFF gets most of it afterwards."""
    options: dict[str, Any] = {}
    if found.dpi and "dpi" in form.metadata:
        options["dpi"] = found.dpi
    if form.name == "TIFF":
        return options
    if found.exif:
        options["exif"] = metadata.PREFIX + found.exif
    if form.name == "PNG":
        texts = PngImagePlugin.PngInfo()
        if found.xmp:
            texts.add(b"iTXt", picture_files.png_chunks(None, None, found.xmp, None)[0][1])
        if found.iptc:
            texts.add_text(picture_files.IPTC_KEYWORD, picture_files.iptc_text(found.iptc), zip=True)
        return {**options, "pnginfo": texts}
    if found.xmp:
        options["xmp"] = found.xmp
    if found.iptc:
        contents = metadata.PHOTOSHOP + metadata.resources_of_iptc(found.iptc)
        options["extra"] = b"\xff\xed" + (len(contents) + 2).to_bytes(2, "big") + contents
    return options


def _encode_deep(picture: Picture, form: _Format, how: Writing) -> tuple[bytes, list[str]]:
    """The bytes of a PNG or PNM file of 16 bits a sample, and remarks."""
    samples, alpha, icc, remarks = picture.pixels, picture.alpha, picture.icc, []
    if picture.grey:
        samples = mean_channel(samples)[..., None]
    deep_alpha = None if alpha is None else alpha[..., None].astype(np.uint16) * 257
    if form.name == "PNG":
        if alpha is not None:
            samples = np.concatenate([samples, deep_alpha], axis=2)
        found = picture.metadata
        chunks = picture_files.png_chunks(icc, found.exif, found.xmp, found.dpi)
        if found.iptc:
            remarks.append("IPTC is left out of PNG files of 16 bits")
        return picture_files.write_png16(samples, chunks), remarks
    if alpha is not None:
        ground = np.array(how.background, np.uint16) * np.uint16(257)
        share = alpha[..., None] / 255
        samples = np.floor(samples * share + ground[: samples.shape[2]] * (1 - share) + 0.5).astype(np.uint16)
    if samples.shape[2] == 3 and "RGB" not in form.modes:
        luma = samples @ np.array([0.299, 0.587, 0.114])  # as Pillow does
        samples = np.floor(luma + 0.5).astype(np.uint16)[..., None]
        remarks.append("the colours are left out: the format holds grey pictures only")
    if samples.shape[2] == 1 and "L" not in form.modes:
        samples = np.repeat(samples, 3, axis=2)
    if icc:
        remarks.append(
            "the ICC profile is left out: PPM files have no room for it, and 16 bits are not converted to sRGB"
        )
    remarks += _with_room(picture.metadata, form)[1]
    height, width, channels = samples.shape
    head = f"P{6 if channels == 3 else 5}\n{width} {height}\n65535\n".encode()
    return head + samples.astype(">u2").tobytes(), remarks


def _saved(image: Image.Image, form: str, **options: Any) -> memoryview:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getbuffer()


def _extension_of(path: str) -> str:
    extension = os.path.splitext(path)[1].lower()
    if extension not in FORMATS:
        named = f"the extension {extension}" if extension else "a name without extension"
        raise ImageError(f"{path}: no picture format for {named}; known: {' '.join(FORMATS)}")
    return extension


def _on_background(image: Image.Image, ground: tuple[int, int, int]) -> Image.Image:
    opaque = image.mode[:-1]
    if opaque == "L" and len(set(ground)) > 1:
        return _on_background(image.convert("RGBA"), ground)
    paper = Image.new(opaque, image.size, ground[0] if opaque == "L" else ground)
    paper.paste(image.convert(opaque), mask=image.getchannel("A"))
    paper.info = dict(image.info)
    return paper


def _in_srgb(image: Image.Image, icc: bytes) -> Image.Image:
    """The image in sRGB, its alpha kept; unchanged if its profile is unusable."""
    colour = image.convert("L" if image.mode in ("L", "LA") else "RGB")
    to_srgb = _srgb_transform(icc, colour.mode)
    if to_srgb is None:
        return image
    converted = to_srgb(colour)
    if colour.mode == "L":
        converted = converted.convert("L")
    if image.mode in ("LA", "RGBA"):
        converted.putalpha(image.getchannel("A"))
    return converted


@contextlib.contextmanager
def _one_line_errors(what: str) -> Iterator[None]:
    """Whatever Pillow or the system raises inside becomes an ``ImageError`` of one line, ``what`` first."""
    try:
        yield
    except (CodecError, Warning):
        raise
    except MemoryError as error:
        raise CodecError(f"{what}: not enough memory") from error
    except Exception as error:  # Pillow's readers and writers raise errors of many kinds
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError(f"{what}: {' '.join(str(reason).split())}") from error
