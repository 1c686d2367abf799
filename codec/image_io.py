"""Files, Pillow images and arrays <-> 8-bit RGB pixels: the border between the codec and everyone's pictures.

What is kept of a picture, and why:

**Depth.** Eight bits. Pictures of 16 bits a sample are divided by 257 and rounded, so that white stays white
(Pillow would clip them). Pillow itself reads 16-bit *colour* PNG files as 8 bits, dropping the low byte. Mode
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

**ICC profiles** are kept, except those that act like sRGB to within one level: a picture without a profile is
sRGB. Pictures in CMYK are converted to sRGB through their profile, which is then dropped with the inks it
describes.

**EXIF** may say where somebody lives, so it is offered to the caller (``Picture.exif``) and kept only on
request. Its orientation is applied to the pixels and removed; the thumbnail, and whatever says how the
original file stored its pixels, are dropped. XMP and other metadata are not kept.

**Animations** are reduced to their first frame. A Pillow image that was moved to another frame is taken as it
stands.

**What is opened** is what :data:`READABLE` names: Pillow has formats whose readers start other programs. Pillow's limit on
the number of pixels, which belongs to the whole process, has no say; ``max_pixels`` has.

Files are encoded in memory and appear whole or not at all (:mod:`codec.files`).
"""

import contextlib
import functools
import io
import os
import struct
import warnings
from dataclasses import dataclass, field

import numpy as np
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from . import bitstream
from .errors import BitstreamError, CodecError, Corrupt, ImageError, is_memory, not_enough_memory
from .files import write_bytes_atomic

# Pillow's names of the formats that are read, in the order in which they are tried; the last two come with packages that
# a program may have loaded. Each looks at the first bytes before anything else.
READABLE = (
    "PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "JPEG2000", "QOI", "ICO", "JXL", "HEIF"
)  # fmt: skip

# What may stay in the first directory of EXIF: what somebody said about the picture, and the way to the other
# two directories. The rest says how one particular file stored its pixels, or is kept elsewhere (ICC), or is
# big (XMP).
_DESCRIPTIVE_TAGS = frozenset(
    [
        ExifTags.Base.ImageDescription,
        ExifTags.Base.Make,
        ExifTags.Base.Model,
        ExifTags.Base.XResolution,
        ExifTags.Base.YResolution,
        ExifTags.Base.ResolutionUnit,
        ExifTags.Base.Software,
        ExifTags.Base.DateTime,
        ExifTags.Base.Artist,
        ExifTags.Base.HostComputer,
        ExifTags.Base.Rating,
        ExifTags.Base.RatingPercent,
        ExifTags.Base.Copyright,
        ExifTags.Base.XPTitle,
        ExifTags.Base.XPComment,
        ExifTags.Base.XPAuthor,
        ExifTags.Base.XPKeywords,
        ExifTags.Base.XPSubject,
        ExifTags.IFD.Exif,
        ExifTags.IFD.GPSInfo,
    ]
)
_EXIF_PREFIX = b"Exif\x00\x00"  # stands before the TIFF structure in JPEG, and in Pillow's info["exif"]

_SPACES = {"L": "GRAY", "RGB": "RGB ", "CMYK": "CMYK"}  # mode: what profiles for it call their colour space
_GREY_MODES = frozenset(["1", "L", "LA", "La"])
_SHALLOW_GREY = {"L;2": 2, "L;4": 4}  # of PNG -> bits a sample
_DEEP_MODES = frozenset(["I", "F"])  # and those that begin with "I;16"

_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of TIFF
# Filters leave floats a little outside of their range: as a share of it, what is clipped; more has no agreed meaning.
_OVERSHOOT = 0.5

# Pixels converted at a time: bounds the temporaries beside the picture itself to a few tens of MiB.
_STRIP_PIXELS = 2**20
# A block of the smooth fill: fine enough to follow the edge of a mask, coarse enough to be cheap.
_FILL_BLOCK = 8


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as the codec sees it. Sizes are those after the EXIF orientation has been applied."""

    pixels: np.ndarray = field(repr=False)  # uint8 (H, W, 3), C-contiguous; channels equal where grey
    alpha: np.ndarray | None = field(default=None, repr=False)  # uint8 (H, W); None when fully opaque
    grey: bool = False
    icc: bytes | None = field(default=None, repr=False)  # None means sRGB
    exif: bytes | None = field(default=None, repr=False)  # TIFF structure without the "Exif" prefix; upright


def read_picture(image, max_pixels=bitstream.MAX_PIXELS) -> Picture:
    """The pixels of a picture, and what belongs to them; see the module's docstring for what is kept.

    Args:
        image: a path (str or path-like), a binary file at its beginning, a ``PIL.Image.Image``, or an array of shape
            (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), grey, RGB or RGBA: uint8, bool, uint16 (white is 65535), or float from
            0 to 1, then also (1, H, W), (3, H, W) or (4, H, W). None of them is changed; the result may share an array's
            memory.
        max_pixels: larger pictures are refused before memory is asked for; at most ``bitstream.MAX_PIXELS``.

    Raises:
        ImageError: missing, unreadable, truncated, empty or too large; a type or shape not listed above.
        CodecError: not enough memory for it.
    """
    if hasattr(image, "read") and not image.seekable():
        image = io.BytesIO(_all_of(image))
    try:
        return _read(image, max_pixels)
    except Warning:
        # The program has made warnings errors, and Pillow warns about what does not matter to the picture.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _read(image, max_pixels)


def _read(image, max_pixels):
    if isinstance(image, (str, os.PathLike)):
        path = os.fsdecode(image)
        with _one_line_errors(f"{path}: cannot read"), open(path, "rb") as file:
            return _read_file(file, path, max_pixels)
    if hasattr(image, "read"):
        with _one_line_errors("cannot read"):
            return _read_file(image, "", max_pixels)
    if isinstance(image, Image.Image):
        name = os.fsdecode(getattr(image, "filename", "") or "picture")
        with _one_line_errors(f"{name}: cannot read"):
            return _read_pillow(image, name, max_pixels)
    if isinstance(image, np.ndarray):
        return _read_array(image, max_pixels)
    raise ImageError(f"not a picture: {type(image).__name__}; needed a path, a file, a PIL image or a uint8 array")


def to_image(pixels, alpha=None, grey=False, icc=None, exif=None) -> Image.Image:
    """The parts of a ``Picture`` as a Pillow image of mode L, LA, RGB or RGBA.

    ``info["icc_profile"]`` and ``info["exif"]`` are set where given, the latter in Pillow's form and only where Pillow can
    read it: ``getexif`` would raise. Grey pictures take the rounded mean of the three channels: decoded channels may differ by a level or so.
    """
    height, width = pixels.shape[:2]
    assert pixels.shape == (height, width, 3) and pixels.dtype == np.uint8
    if grey:
        single = np.empty((height, width), np.uint8)
        for rows in _row_bands(height, width):
            single[rows] = (pixels[rows].sum(axis=2, dtype=np.uint16) + 1) // 3
        pixels = single
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if alpha is not None:
        assert alpha.shape == (height, width) and alpha.dtype == np.uint8
        image.putalpha(Image.fromarray(np.ascontiguousarray(alpha)))
    if icc:
        image.info["icc_profile"] = icc
    if exif and _is_readable(exif):
        image.info["exif"] = _EXIF_PREFIX + exif
    return image


# --- Reading ------------------------------------------------------------------------------------------------


def _read_file(file, name, max_pixels) -> Picture:
    with _opened(file, name) as image:
        return _read_pillow(image, name, max_pixels)


def _opened(file, name):
    """Pillow's image of a picture file, of which no more than the header has been read."""
    if not file.seekable():
        file = io.BytesIO(_all_of(file))
    prefix = file.read(16)
    if not prefix:
        raise ImageError(_about(name, "the file is empty"))
    if prefix.startswith(bitstream.MAGIC):
        # With codec.pillow_plugin, Pillow could open it. Losing quality twice is hardly ever meant.
        raise ImageError(_about(name, "already compressed by this codec"))
    for make in _readers(prefix):
        file.seek(0)
        # As Image.open does, but for Pillow's limit, which is global and would stand in the middle of ours.
        with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):
            return make(file, name)
    raise ImageError(_about(name, "not a picture of a known kind, or damaged at its beginning"))


def _readers(prefix):
    """What makes images of files that begin with these 16 bytes, of the formats that we name."""
    Image.preinit()
    if not all(form in Image.OPEN for form in READABLE[:-2]):
        Image.init()
    found = (Image.OPEN[form] for form in READABLE if form in Image.OPEN)
    return [make for make, accept in found if accept is not None and accept(prefix) is True]


def _all_of(file):
    """The bytes of a file that cannot be wound back: those of a pipe; not all of it where it is no picture anyway."""
    start = file.read(16)
    return start + file.read() if _readers(start) else start


def _read_array(array, max_pixels) -> Picture:
    array = _eight_bits(array)
    height, width = array.shape[:2]
    _check_size(width, height, "array", max_pixels)
    grey = array.ndim == 2
    if grey:
        return Picture(np.repeat(array[..., None], 3, axis=2), grey=True)
    if array.shape[2] == 4:
        return _finish(np.array(array[..., :3], order="C"), np.array(array[..., 3], order="C"), grey=False)
    # Writable, as torch.from_numpy asks for; copied only where it is not.
    return Picture(np.require(array, requirements="CW"))


def _eight_bits(array):
    """An array of one of the kinds that are taken as uint8 (H, W), (H, W, 3) or (H, W, 4)."""
    wrong = ImageError(
        "array: needed bool, uint8 or uint16 of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), or floats from 0 to 1 of "
        f"those shapes or (1, H, W), (3, H, W), (4, H, W); found {array.dtype} {array.shape}"
    )
    floats = array.dtype.kind == "f"
    if not (floats or array.dtype in (np.bool_, np.uint8, np.uint16)):
        raise wrong
    if floats and array.ndim == 3 and array.shape[0] in (1, 3, 4):
        array = array.transpose(1, 2, 0)  # as networks have it
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if not (array.ndim == 2 or array.ndim == 3 and array.shape[2] in (3, 4)):
        raise wrong
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if floats:
        if array.size and not (-_OVERSHOOT <= array.min() and array.max() <= 1 + _OVERSHOOT):  # NaN, too
            raise ImageError(f"array: floats from {array.min():g} to {array.max():g}; needed 0 to 1")
        return np.floor(255 * np.clip(array.astype(np.float32), 0, 1) + np.float32(0.5)).astype(np.uint8)
    return array


def _read_pillow(image, name, max_pixels) -> Picture:
    _check_size(*image.size, name, max_pixels)  # before load() allocates anything
    try:
        return _picture_of(image, name)
    except Exception as error:
        if not is_memory(error):
            raise
    raise not_enough_memory(*image.size, name)


def _picture_of(image, name) -> Picture:
    samples = _stored_as(image)
    image.load()  # truncated files end here; PNG metadata may follow the pixels
    transparent = image.info.get("transparency")
    if samples in _SHALLOW_GREY and isinstance(transparent, int):
        # The one see-through sample stands in the file at the depth of the file; Pillow has spread the others over 8 bits.
        depth = _SHALLOW_GREY[samples]
        image = image.copy()
        image.info["transparency"] = transparent % 2**depth * 255 // (2**depth - 1)
    orientation, exif = _orientation(image), _upright_exif(image)

    if image.mode in _DEEP_MODES or image.mode.startswith("I;16"):
        grey, icc = True, _profile_to_keep(image, "L")
        pixels, alpha = _deep_planes(image, name)
    else:
        convert, grey, icc = _colour_plan(image)
        pixels, alpha = _planes(image, convert)
        levels = _srgb_levels(image.info)
        if levels is not None:
            pixels = levels[pixels]
        if image.format == "BMP" and alpha is not None and not alpha.any():
            alpha = None  # a fourth byte that nobody filled in; viewers show such files as opaque
    if alpha is not None:
        alpha = _turn_upright(alpha, orientation)
    return _finish(_turn_upright(pixels, orientation), alpha, grey, icc, exif)


def _stored_as(image):
    """Pillow's name of how the file stores samples, as long as they have not been loaded; else None."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else None
    return arguments if isinstance(arguments, str) else None


def _finish(pixels, alpha, grey, icc=None, exif=None) -> Picture:
    """The picture; ``pixels`` must be ours to change."""
    if alpha is not None and alpha.min() == 255:
        alpha = None
    if alpha is not None:
        _fill_transparent(pixels, alpha)
    return Picture(pixels, alpha, grey, icc, exif)


def _check_size(width, height, name, max_pixels):
    if width < 1 or height < 1:
        raise ImageError(_about(name, f"an empty picture of {width} x {height} pixels"))
    try:
        bitstream.check_size(width, height, max_pixels)
    except BitstreamError as error:
        raise ImageError(_about(name, error)) from None


def _about(name, text):
    return f"{name}: {text}" if name else str(text)


def _row_bands(height, width):
    """Slices of rows: bands of a picture of about ``_STRIP_PIXELS``, in multiples of ``_FILL_BLOCK`` rows."""
    rows = max(1, _STRIP_PIXELS // width // _FILL_BLOCK) * _FILL_BLOCK
    return [slice(top, min(top + rows, height)) for top in range(0, height, rows)]


def _strips(image):
    """(rows, part of the image) from top to bottom."""
    for rows in _row_bands(image.height, image.width):
        yield rows, image.crop((0, rows.start, image.width, rows.stop))


def _planes(image, convert):
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


def _deep_planes(image, name):
    """Like ``_planes`` for one channel of more than 8 bits."""
    extrema = [(strip.min(), strip.max()) for strip in (np.asarray(part) for _, part in _strips(image))]
    low, high = np.array(extrema).T
    low, high = low.min(), high.max()  # NaN if there is one, unlike Pillow's getextrema
    if image.mode == "F":
        scale, limit = (255, 1) if high <= 1 + _OVERSHOOT else (1, 255)
        slack = _OVERSHOOT * limit
    else:
        bits = _tiff_bits(image)
        # 65535 / 257 = 255 exactly, and no 16-bit value lies halfway between two results.
        scale, limit, slack = (1 / 257, 65535, 0) if bits is None else (255 / (2**bits - 1), 2**bits - 1, 0)
    if not -slack <= low <= high <= limit + slack:  # also where either is NaN
        raise ImageError(_about(name, f"samples from {low:g} to {high:g}; needed 0 to {limit}"))

    white_is_zero = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0
    transparent = image.info.get("transparency")  # the one sample value that is see-through, if any
    pixels = np.empty((image.height, image.width, 3), np.uint8)
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


def _tiff_bits(image):
    """Bits a sample that a TIFF of 9 to 15 says it has; Pillow leaves their values as they are."""
    bits = image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0] if image.format == "TIFF" else 16
    return bits if 8 < bits < 16 else None


def _turn_upright(plane, orientation):
    """(H, W, ...) as the camera meant it; EXIF 2.32, section 4.6.5.1. Unknown values mean upright."""
    turned = {
        2: lambda: plane[:, ::-1],
        3: lambda: plane[::-1, ::-1],
        4: lambda: plane[::-1],
        5: lambda: plane.swapaxes(0, 1),
        6: lambda: np.rot90(plane, -1),
        7: lambda: plane.swapaxes(0, 1)[::-1, ::-1],
        8: lambda: np.rot90(plane),
    }.get(orientation, lambda: plane)()
    return np.ascontiguousarray(turned)


def _orientation(image) -> int:
    """1 to 8 as EXIF (or else XMP) says; 1 where neither says anything, or is broken."""
    with _damage_ignored():
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    return 1


def _upright_exif(image) -> bytes | None:
    """What EXIF says about the picture, without orientation and thumbnail; None if empty or broken."""
    with _damage_ignored():
        exif = Image.Exif()
        # A copy, as the image's own must not change. It leaves the thumbnail behind.
        exif.load(image.getexif().tobytes())
        for tag in set(exif) - _DESCRIPTIVE_TAGS:
            del exif[tag]
        if len(exif):
            return exif.tobytes().removeprefix(_EXIF_PREFIX)
    return None


def _is_readable(exif) -> bool:
    """Whether Pillow can read all of EXIF in its TIFF form, values included."""
    with contextlib.suppress(Exception):  # a warning too, where the program has made them errors: then getexif raises it
        found = Image.Exif()
        found.load(exif)
        found.tobytes()
        for directory in (found, *map(found.get_ifd, ExifTags.IFD)):
            dict(directory)
        return True
    return False


@contextlib.contextmanager
def _damage_ignored():
    """Pillow raises errors of many kinds on damaged EXIF. The pixels are worth having anyway."""
    try:
        yield
    except (Warning, MemoryError):
        raise
    except Exception:
        pass


# --- Colour -------------------------------------------------------------------------------------------------


def _colour_plan(image):
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


def _profile_to_keep(image, mode) -> bytes | None:
    """The image's profile, if it is one for pixels of ``mode`` (L, RGB) and does not just act like sRGB."""
    icc = image.info.get("icc_profile")
    if not icc or _profile_space(icc) != _SPACES[mode] or _acts_like_srgb(icc, mode):
        return None
    return icc


def _profile_space(icc) -> str:
    """The colour space field of a profile's header; ICC.1:2010, section 7.2.6."""
    return icc[16:20].decode("latin-1")


@functools.lru_cache(maxsize=16)
def _acts_like_srgb(icc, mode) -> bool:
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


def _srgb_transform(icc, mode):
    """A function from images of ``mode`` (L, RGB, CMYK) in a profile to RGB in sRGB; None if unusable."""
    if _profile_space(icc) != _SPACES[mode]:
        return None
    # Profiles come from anywhere; a damaged one must not cost the picture.
    with contextlib.suppress(Exception):
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")
        return lambda image: ImageCms.applyTransform(image, transform)
    return None


def _srgb_levels(info):
    """uint8 (256,): the sRGB level of each level of a PNG that states nothing but gAMA; None where they are the same.

    Exponents within 5 % of 1 / 2.2 mean sRGB, as in libpng.
    """
    exponent = info.get("gamma")
    if not exponent or any(info.get(name) is not None for name in ("srgb", "icc_profile", "chromaticity")):
        return None
    if abs(exponent * 2.2 - 1) <= 0.05:
        return None
    light = (np.arange(256) / 255) ** (1 / exponent)
    # IEC 61966-2-1
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.floor(255 * encoded + 0.5).astype(np.uint8)


# --- Alpha --------------------------------------------------------------------------------------------------


def encode_alpha(alpha) -> bytes:
    """A uint8 (H, W) plane as a grey PNG without loss; 1 bit a pixel if it holds only 0 and 255."""
    assert alpha.ndim == 2 and alpha.dtype == np.uint8
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


def _png_chunks(data):
    """The chunk types of a PNG in order; empty if the chunks do not fill the file exactly."""
    kinds, position = [], 8
    while position < len(data):
        kinds.append(data[position + 4 : position + 8])
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    return kinds if position == len(data) else []


def _fill_transparent(pixels, alpha):
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
    sums, weights = [], []
    for rows in _row_bands(*alpha.shape):
        weight = alpha[rows].astype(np.float32)[..., None]
        sums.append(_pool(pixels[rows] * weight, _FILL_BLOCK))
        weights.append(_pool(weight, _FILL_BLOCK))
    blocks = _fill_blocks(np.concatenate(sums), np.concatenate(weights))
    blocks = Image.fromarray(np.floor(blocks + 0.5).clip(0, 255).astype(np.uint8))
    height, width = alpha.shape
    for rows in bands:
        box = [0, rows.start / _FILL_BLOCK, width / _FILL_BLOCK, rows.stop / _FILL_BLOCK]
        fill = np.asarray(blocks.resize((width, rows.stop - rows.start), Image.Resampling.BILINEAR, box=box))
        hidden = alpha[rows] == 0
        pixels[rows][hidden] = fill[hidden]


def _fill_blocks(sums, weights):
    """Colours (h, w, 3) from weighted sums (h, w, 3) and weights (h, w, 1), not all of them zero."""
    colours = sums / np.maximum(weights, 1)  # weights are whole numbers
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


def _pool(values, size):
    """Sums over blocks of size x size, those at the lower and right edge as far as they go."""
    for axis in (0, 1):
        values = np.add.reduceat(values, np.arange(0, values.shape[axis], size), axis=axis)
    return values


# --- Writing ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Format:
    name: str  # Pillow's
    alpha: bool = True
    grey: bool = True
    metadata: bool = True  # ICC profile and EXIF
    options: tuple = ()


_PNG = _Format("PNG")
_JPEG = _Format("JPEG", alpha=False, options=(("quality", 95), ("subsampling", 0), ("optimize", True)))
_WEBP = _Format("WEBP", grey=False, options=(("lossless", True),))
_TIFF = _Format("TIFF", options=(("compression", "tiff_adobe_deflate"),))
_BMP = _Format("BMP", alpha=False, metadata=False)
_PPM = _Format("PPM", alpha=False, metadata=False)
FORMATS = {
    ".png": _PNG,
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": _WEBP,
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".bmp": _BMP,
    ".ppm": _PPM,
}


def save_picture(image, path) -> None:
    """Write an image of mode L, LA, RGB or RGBA; the extension, one of ``FORMATS``, chooses the format.

    The file appears whole or not at all; for what is written, see :func:`encode_picture`.

    Raises:
        ImageError: unknown extension, or a picture that the format cannot hold. CodecError: the file cannot be written.
    """
    path = os.fsdecode(path)
    write_bytes_atomic(path, encode_picture(image, _extension_of(path), path))


def encode_picture(image, extension, name="picture"):
    """The bytes of a picture file.

    Without loss, except for JPEG (quality 95, full chroma). Formats without alpha get the picture on white,
    as paper and browsers show it: who asks for a JPEG of a cut-out wants a picture, not a refusal. Formats
    that cannot carry a profile get sRGB. EXIF that the format has no room for is left out.

    Args:
        image: of mode L, LA, RGB or RGBA.
        extension: one of ``FORMATS``.
        name: for messages.

    Returns:
        A bytes-like object.

    Raises:
        ImageError: a picture that the format cannot hold. CodecError: not enough memory.
    """
    form = FORMATS[extension]
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        raise ImageError(f"{name}: cannot write mode {image.mode}; needed L, LA, RGB or RGBA")
    try:
        with _one_line_errors(f"{name}: cannot write"):
            return _encode(image, form)
    except CodecError as error:
        if not is_memory(error.__cause__):
            raise
    raise not_enough_memory(*image.size, name)


def _encode(image, form):
    icc, exif = image.info.get("icc_profile"), image.info.get("exif")
    if image.mode in ("LA", "RGBA") and not form.alpha:
        image = _on_white(image)
    if icc and not (form.metadata and (form.grey or _profile_space(icc) != "GRAY")):
        image, icc = _in_srgb(image, icc), None
    if not form.grey and image.mode in ("L", "LA"):
        image = image.convert({"L": "RGB", "LA": "RGBA"}[image.mode])
    options = dict(form.options)
    if form.metadata:
        # Always named: Pillow would otherwise add what it finds in info, for some formats only.
        options["icc_profile"] = icc or b""
        if exif:
            with contextlib.suppress(Exception):  # Pillow refuses what it cannot parse, or the format not hold
                return _saved(image, form.name, exif=exif, **options)
    return _saved(image, form.name, **options)


def _saved(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getbuffer()


def _extension_of(path) -> str:
    extension = os.path.splitext(path)[1].lower()
    if extension not in FORMATS:
        named = f"the extension {extension}" if extension else "a name without extension"
        raise ImageError(f"{path}: no picture format for {named}; known: {' '.join(FORMATS)}")
    return extension


def _on_white(image):
    opaque = image.mode[:-1]
    paper = Image.new(opaque, image.size, (255,) * len(opaque) if opaque == "RGB" else 255)
    paper.paste(image.convert(opaque), mask=image.getchannel("A"))
    return paper


def _in_srgb(image, icc):
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
def _one_line_errors(what):
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
