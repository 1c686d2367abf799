"""The codecs that ours is compared with: JPEG and WebP as Pillow writes them.

An :class:`Anchor` has the two methods of ``codec.Codec``, so that one loop measures them all. Whatever else
has these two methods can be measured in the same way.
"""

import io
from dataclasses import dataclass, field

from PIL import Image, features

from ..errors import CodecError, ImageError

# Dense where one step of the setting changes the rate most, so that a curve through the points is smooth
# over the whole range.
JPEG_QUALITIES = (5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 95)
WEBP_QUALITIES = (0, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95)


@dataclass(frozen=True)
class Anchor:
    """One format with fixed settings; only the quality varies."""

    name: str  # on the command line and in the tables
    title: str
    format: str  # as Pillow calls it
    feature: str  # the library that Pillow must have been built with
    max_side: int  # of the format, in pixels
    qualities: tuple[int, ...]
    options: dict = field(default_factory=dict)

    def compress(self, image, quality):
        """The bytes of a whole file, headers included.

        Args:
            image: PIL.Image or uint8 array (H, W, 3).
            quality: the format's own scale, 0 to 100.

        Raises:
            ImageError: the format cannot hold a picture of this size.
        """
        if not isinstance(image, Image.Image):
            image = Image.fromarray(image)
        if max(image.size) > self.max_side:
            width, height = image.size
            raise ImageError(f"{self.title}: {width} x {height} pixels; at most {self.max_side} a side")
        buffer = io.BytesIO()
        image.save(buffer, self.format, quality=int(quality), **self.options)
        return buffer.getvalue()

    def decompress(self, data):
        """PIL.Image, decoded."""
        image = Image.open(io.BytesIO(data), formats=[self.format])
        image.load()  # open() alone reads the header
        return image


def _jpeg(name, subsampling):
    # optimize: Huffman tables made for the picture, as anyone who cares for bytes would ask for.
    options = {"optimize": True, "subsampling": subsampling}
    return Anchor(name, f"JPEG {subsampling}", "JPEG", "jpg", 65500, JPEG_QUALITIES, options)


ANCHORS = {
    anchor.name: anchor
    for anchor in (
        _jpeg("jpeg", "4:2:0"),
        _jpeg("jpeg444", "4:4:4"),
        # method 6: the encoder's slowest and best search.
        Anchor("webp", "WebP", "WEBP", "webp", 16383, WEBP_QUALITIES, {"method": 6}),
    )
}


def find_anchors(names):
    """The anchors of these names, in this order.

    Raises:
        CodecError: a name is unknown, or Pillow was built without the library.
    """
    found = []
    for name in names:
        if name not in ANCHORS:
            raise CodecError(f"no anchor is called {name!r}; there are {', '.join(ANCHORS)}")
        anchor = ANCHORS[name]
        if not features.check(anchor.feature):
            raise CodecError(f"{anchor.title}: this Pillow was built without the library for it")
        found.append(anchor)
    return found
