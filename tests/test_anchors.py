"""Anchors write what their titles say, and have the two methods of our own codec."""

import io

import numpy as np
import pytest
from PIL import Image, features

from codec.errors import CodecError, ImageError
from codec.evaluation.anchors import ANCHORS, find_anchors
from codec.evaluation.metrics import psnr_db

each_anchor = pytest.mark.parametrize("name", list(ANCHORS))


def written_by_pillow(pixels, form, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


@each_anchor
def test_rate_and_psnr_rise_along_the_ladder(name, photo):
    anchor = ANCHORS[name]
    files = [anchor.compress(photo, quality) for quality in anchor.qualities]
    psnrs = [psnr_db(photo, np.asarray(anchor.decompress(data).convert("RGB"))) for data in files]
    assert sorted(set(anchor.qualities)) == list(anchor.qualities) and 10 <= len(anchor.qualities) <= 12
    assert [len(data) for data in files] == sorted({len(data) for data in files})
    assert psnrs == sorted(psnrs) and psnrs[0] < 30 and psnrs[-1] > 36


@each_anchor
def test_a_pillow_image_and_its_pixels_give_the_same_bytes(name, photo):
    anchor = ANCHORS[name]
    assert anchor.compress(photo, 50) == anchor.compress(Image.fromarray(photo), 50)


@each_anchor
@pytest.mark.parametrize("size", [(1, 1), (1, 17), (33, 16)])
def test_any_size_comes_back(name, size):
    anchor = ANCHORS[name]
    image = anchor.decompress(anchor.compress(np.full((*size, 3), 90, np.uint8), 50))
    assert (image.height, image.width) == size


def test_jpeg_files_have_the_sampling_of_their_title(photo):
    from PIL.JpegImagePlugin import get_sampling

    codes = {"jpeg": 2, "jpeg444": 0}  # 4:2:0 and 4:4:4 in Pillow's numbering
    for name, code in codes.items():
        assert get_sampling(Image.open(io.BytesIO(ANCHORS[name].compress(photo, 60)))) == code


def test_files_are_those_of_pillow_with_the_documented_settings(photo):
    jpeg = written_by_pillow(photo, "JPEG", quality=60, subsampling=2, optimize=True)
    assert ANCHORS["jpeg"].compress(photo, 60) == jpeg
    assert len(jpeg) < len(written_by_pillow(photo, "JPEG", quality=60, subsampling=2, optimize=False))
    assert ANCHORS["webp"].compress(photo, 60) == written_by_pillow(photo, "WEBP", quality=60, method=6)


def test_anchors_are_found_by_name_in_the_order_asked_for():
    assert [anchor.name for anchor in find_anchors(["webp", "jpeg"])] == ["webp", "jpeg"]
    assert find_anchors([]) == []
    with pytest.raises(CodecError, match="'jpg'.*jpeg, jpeg444, webp"):
        find_anchors(["jpg"])


def test_a_pillow_without_the_library_is_said_at_once(monkeypatch):
    monkeypatch.setattr(features, "check", lambda feature: feature != "webp")
    assert find_anchors(["jpeg"])
    with pytest.raises(CodecError, match="WebP: this Pillow was built without"):
        find_anchors(["jpeg", "webp"])


def test_a_picture_beyond_the_format_is_an_image_error():
    with pytest.raises(ImageError, match="WebP: 16384 x 1 pixels; at most 16383"):
        ANCHORS["webp"].compress(np.zeros((1, 16384, 3), np.uint8), 50)
    ANCHORS["webp"].compress(np.zeros((1, 16383, 3), np.uint8), 50)


def test_an_anchor_decodes_its_own_format_only(photo):
    with pytest.raises(OSError):
        ANCHORS["jpeg"].decompress(ANCHORS["webp"].compress(photo, 50))
