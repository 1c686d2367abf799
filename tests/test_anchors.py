"""Anchors write what their titles say, and have the two methods of our own codec."""

import importlib.util
import io
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image, features

from codec.errors import CodecError, ImageError
from codec.evaluation import anchors
from codec.evaluation.anchors import ANCHORS, find_anchors
from codec.evaluation.metrics import psnr_db


def installed(name):
    try:
        ANCHORS[name].check()
    except CodecError as error:
        return pytest.param(name, marks=pytest.mark.skip(reason=str(error)))
    return name


each_anchor = pytest.mark.parametrize("name", [installed(name) for name in ANCHORS])


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
    quality = anchor.qualities[6]
    assert anchor.compress(photo, quality) == anchor.compress(Image.fromarray(photo), quality)


@each_anchor
@pytest.mark.parametrize("size", [(1, 1), (1, 17), (33, 16)])
def test_any_size_that_the_format_takes_comes_back(name, size):
    anchor = ANCHORS[name]
    pixels = np.full((*size, 3), 90, np.uint8)
    if min(size) < anchor.min_side:
        with pytest.raises(ImageError, match=f"{size[1]} x {size[0]} pixels; at least {anchor.min_side}"):
            anchor.compress(pixels, anchor.qualities[6])
        return
    image = anchor.decompress(anchor.compress(pixels, anchor.qualities[6]))
    assert (image.height, image.width) == size
    assert np.abs(np.asarray(image.convert("RGB")).astype(int) - 90).max() <= 4  # grey stays grey


@each_anchor
def test_threads_change_no_byte_and_no_pixel(name, photo):
    one, two = (find_anchors([name], threads)[0] for threads in (1, 2))
    for quality in one.qualities[4:10:5]:
        data = one.compress(photo, quality)
        assert two.compress(photo, quality) == data
        assert np.array_equal(*(np.asarray(anchor.decompress(data)) for anchor in (one, two)))


@each_anchor
def test_another_process_can_be_sent_the_anchor(name, photo):
    anchor = ANCHORS[name]
    sent = pickle.loads(pickle.dumps(anchor))
    assert sent == anchor
    assert sent.compress(photo, anchor.qualities[3]) == anchor.compress(photo, anchor.qualities[3])


@each_anchor
def test_settings_say_what_wrote_the_files(name):
    settings = ANCHORS[name].settings()
    assert settings["title"] == ANCHORS[name].title and settings["options"] == ANCHORS[name].options
    assert settings["version"] and settings["writer"]


@pytest.mark.parametrize(("name", "subsampling"), [("avif", 1), ("avif444", 0)])
def test_avif_files_have_the_sampling_of_their_title(name, subsampling, photo):
    try:
        ANCHORS[name].check()
    except CodecError as error:
        pytest.skip(str(error))
    data = ANCHORS[name].compress(photo, 50)
    # The AV1 configuration box: two bytes of marker, profile and level, then one that ends in
    # chroma_subsampling_x, chroma_subsampling_y and two bits of sample position.
    flags = data[data.index(b"av1C") + 6]
    assert (flags >> 3 & 1, flags >> 2 & 1) == (subsampling, subsampling)


def test_jpeg2000_files_have_the_rate_asked_for(photo):
    anchor = ANCHORS["jpeg2000"]
    for bpp in anchor.qualities[2:10]:
        assert 8 * len(anchor.compress(photo, bpp)) / (128 * 192) == pytest.approx(bpp, rel=0.05)


def test_jpeg2000_is_not_made_weaker_than_it_is(photo):
    # What the module's docstring says of Pillow's defaults.
    from codec.evaluation.bd_rate import bd_rate

    def curve(compress, qualities):
        points = []
        for quality in qualities:
            data = compress(quality)
            decoded = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            points.append((len(data), psnr_db(photo, decoded)))
        return points

    rates = (0.25, 0.5, 1, 2, 3)
    plain = {"quality_mode": "rates", "irreversible": True}
    default = curve(lambda bpp: written_by_pillow(photo, "JPEG2000", quality_layers=[24 / bpp], **plain), rates)
    ours = curve(lambda bpp: ANCHORS["jpeg2000"].compress(photo, bpp), rates)
    assert bd_rate(default, ours).percent < -10


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
    with pytest.raises(CodecError, match="'jpg'.*jpeg, jpeg444, webp, avif, .*compressai:MODEL"):
        find_anchors(["jpg"])


def test_our_own_codec_with_another_model_is_an_anchor(photo):
    from codec import Codec, weights

    (anchor,) = find_anchors(["model:psnr"])
    own = weights.tuned_model_id("psnr")
    assert (anchor.name, anchor.title) == ("model:psnr", f"model {own} (psnr)")
    assert anchor.settings()["options"]["model"] == own
    data = pickle.loads(pickle.dumps(anchor)).compress(photo, 40)
    assert data == Codec(own, fallback="never").compress(photo, 40)
    assert anchor.decompress(data).size == photo.shape[1::-1]
    with pytest.raises(CodecError, match="no model nowhere .*installed"):
        find_anchors(["model:nowhere"])


def test_a_pillow_without_the_library_is_said_at_once(monkeypatch):
    monkeypatch.setattr(features, "check", lambda feature: feature != "webp")
    assert find_anchors(["jpeg"])
    with pytest.raises(CodecError, match="WebP: this Pillow was built without"):
        find_anchors(["jpeg", "webp"])


def test_what_is_not_installed_is_said_in_one_line(monkeypatch):
    find_spec = importlib.util.find_spec
    absent = ("pillow_jxl", "compressai")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in absent else find_spec(name, *a))
    with pytest.raises(CodecError, match=r"JPEG XL: needs pillow-jxl-plugin: pip install .*\[eval\]"):
        find_anchors(["jxl"])
    with pytest.raises(CodecError, match=r"^compressai:mbt2018-mean needs CompressAI: pip install .*\[train\]"):
        find_anchors(["compressai:mbt2018-mean"])
    monkeypatch.delitem(features.modules, "avif", raising=False)
    with pytest.raises(CodecError, match="AVIF 4:4:4: needs Pillow 11.3 or newer"):
        find_anchors(["avif444"])
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(CodecError, match="HEVC 4:4:4: needs the program ffmpeg"):
        find_anchors(["x265"])


def test_an_ffmpeg_without_x265_is_said(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/ffmpeg")
    monkeypatch.setattr(anchors, "_output", lambda *command: " V....D libx264 \n")
    with pytest.raises(CodecError, match="built without libx265"):
        find_anchors(["x265"])


def test_the_first_complaint_of_ffmpeg_is_passed_on():
    try:
        ANCHORS["x265"].check()
    except CodecError as error:
        pytest.skip(str(error))
    with pytest.raises(CodecError, match="^ffmpeg: "):
        ANCHORS["x265"].decompress(b"no bitstream")


def test_a_picture_beyond_the_format_is_an_image_error():
    with pytest.raises(ImageError, match="WebP: 16384 x 1 pixels; at most 16383"):
        ANCHORS["webp"].compress(np.zeros((1, 16384, 3), np.uint8), 50)
    ANCHORS["webp"].compress(np.zeros((1, 16383, 3), np.uint8), 50)


def test_an_anchor_decodes_its_own_format_only(photo):
    with pytest.raises(OSError):
        ANCHORS["jpeg"].decompress(ANCHORS["webp"].compress(photo, 50))
