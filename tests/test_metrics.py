"""Metrics against values worked out by hand and against a library of others."""

import io
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import correlate1d

from codec.evaluation.metrics import CAP_DB, ms_ssim, ms_ssim_db, mse, psnr_db, psnr_y_db
from codec.evaluation.ms_ssim import MIN_SIDE


def flat(value, height=4, width=5):
    return np.full((height, width, 3), value, np.uint8)


def noisy(pixels, deviation, seed=0):
    noise = np.random.default_rng(seed).normal(0, deviation, pixels.shape)
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def texture():
    """uint8 (170, 180, 3): waves of several lengths, different in each channel."""
    rows, columns = np.mgrid[:170, :180]
    waves = [np.sin(rows / 3 + channel) + np.cos(columns / (5 + channel)) for channel in range(3)]
    return np.rint(127 + 60 * np.stack(waves, axis=2)).astype(np.uint8)


@pytest.mark.parametrize(("difference", "decibels"), [(1, 48.1308036), (2, 42.1102037), (16, 24.0484040), (255, 0.0)])
def test_psnr_of_a_constant_difference(difference, decibels):
    assert psnr_db(flat(0), flat(difference)) == pytest.approx(decibels, abs=1e-6)
    assert psnr_db(flat(difference), flat(0)) == pytest.approx(decibels, abs=1e-6)


def test_mse_is_exact(texture):
    decoded = noisy(texture, 5)
    expected = sum((int(a) - int(b)) ** 2 for a, b in zip(texture.flat, decoded.flat)) / texture.size
    assert mse(texture, decoded) == expected


def test_luma_weighs_the_channels_as_jpeg_does(texture):
    for channel, weight in enumerate((0.299, 0.587, 0.114)):
        decoded = flat(100)
        decoded[..., channel] += 10
        assert psnr_y_db(flat(100), decoded) == pytest.approx(20 * math.log10(255 / (10 * weight)))
    assert psnr_y_db(flat(100), flat(110)) == pytest.approx(psnr_db(flat(100), flat(110)))

    decoded = noisy(texture, 12)
    lumas = [np.asarray(Image.fromarray(pixels).convert("L"), np.float64) for pixels in (texture, decoded)]
    rounded = 10 * math.log10(255**2 / np.mean((lumas[0] - lumas[1]) ** 2))  # Pillow's is rounded to 8 bits
    assert psnr_y_db(texture, decoded) == pytest.approx(rounded, abs=0.05)


def test_a_change_of_colour_alone_costs_no_luma():
    # 114 more of red and 299 less of blue cancel, in thousandths; scaled to what fits.
    original, decoded = flat(150), flat(150)
    decoded[..., 0] += 38
    decoded[..., 2] -= 100
    assert psnr_y_db(original, decoded) > psnr_db(original, decoded) + 35
    assert psnr_y_db(flat(7), flat(7)) == CAP_DB


def test_identical_pictures_have_a_finite_psnr_that_no_other_exceeds():
    assert psnr_db(flat(7), flat(7)) == CAP_DB
    original = flat(7, 2000, 2000)
    decoded = original.copy()
    decoded[0, 0, 0] += 1  # 118.9 dB
    assert psnr_db(original, decoded) == CAP_DB
    assert math.isfinite(CAP_DB)


def test_pixels_are_left_alone_and_may_be_read_only(texture):
    decoded = noisy(texture, 5)
    before = texture.copy(), decoded.copy()
    texture.flags.writeable = decoded.flags.writeable = False
    psnr_db(texture, decoded)
    ms_ssim(texture, decoded)
    texture.flags.writeable = True
    assert np.array_equal(texture, before[0]) and np.array_equal(decoded, before[1])


def test_any_memory_order_gives_the_same_figures(texture):
    decoded = noisy(texture, 5)
    columns_first = np.asfortranarray(decoded)
    assert psnr_db(texture, columns_first) == psnr_db(texture, decoded)
    assert ms_ssim(texture, columns_first) == ms_ssim(texture, decoded)
    assert ms_ssim(texture[::-1], decoded[::-1]) == pytest.approx(ms_ssim(texture, decoded), abs=1e-5)


def library(original, decoded):
    """MS-SSIM by pytorch_msssim in float64, on all channels at once."""
    import pytorch_msssim
    import torch

    x, x_hat = (torch.tensor(pixels).permute(2, 0, 1)[None].double() for pixels in (original, decoded))
    return pytorch_msssim.ms_ssim(x, x_hat, data_range=255).item()


def test_ms_ssim_is_that_of_the_library(texture, samples):
    with Image.open(samples / "dog.png") as picture:
        photograph = np.asarray(picture.convert("RGB"))
    photograph = photograph[100:612, 100:500]
    parts = photograph[:400, :300], photograph[40:240, 60:301]
    # Sides that are even and odd at every scale, the smallest, and pictures of one strip and of several.
    pictures = [*parts, texture, texture[:161, :161], texture[3:166], texture[:, :177]]
    for original in pictures:
        for deviation in (1, 20):
            decoded = noisy(original, deviation)
            assert ms_ssim(original, decoded) == pytest.approx(library(original, decoded), abs=3e-6)
    decoded = io.BytesIO()
    Image.fromarray(photograph).save(decoded, "JPEG", quality=20)
    decoded = np.asarray(Image.open(decoded))
    assert 0.8 < ms_ssim(photograph, decoded) < 0.99
    assert ms_ssim(photograph, decoded) == pytest.approx(library(photograph, decoded), abs=3e-6)


def in_float64(original, decoded):
    """MS-SSIM by its formulas, in float64; sides must be multiples of 16."""
    window = np.exp(-(np.arange(-5, 6.0) ** 2) / (2 * 1.5**2))

    def blur(plane):
        return correlate1d(correlate1d(plane, window / window.sum(), 0), window / window.sum(), 1)[5:-5, 5:-5]

    values = []
    for x, y in zip(*(pixels.transpose(2, 0, 1).astype(np.float64) for pixels in (original, decoded))):
        value = 1
        for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
            if scale:
                x, y = (plane.reshape(len(plane) // 2, 2, -1, 2).mean((1, 3)) for plane in (x, y))
            m1, m2 = blur(x), blur(y)
            v1, v2, covariance = blur(x * x) - m1 * m1, blur(y * y) - m2 * m2, blur(x * y) - m1 * m2
            similarity = (2 * covariance + 58.5225) / (v1 + v2 + 58.5225)
            if scale == 4:
                similarity *= (2 * m1 * m2 + 6.5025) / (m1 * m1 + m2 * m2 + 6.5025)
            value *= similarity.mean() ** weight
        values.append(value)
    return np.mean(values)


def test_ms_ssim_loses_nothing_in_float32(samples):
    with Image.open(samples / "dog.png") as picture:
        photograph = np.asarray(picture.convert("RGB"))[96:288, 80:320]
    for deviation in (1, 20):
        decoded = noisy(photograph, deviation)
        assert ms_ssim(photograph, decoded) == pytest.approx(in_float64(photograph, decoded), abs=1e-6)


def test_ms_ssim_of_opposites_is_zero(texture):
    assert ms_ssim(texture, 255 - texture) == library(texture, 255 - texture) == 0


def test_ms_ssim_of_flat_pictures_is_that_of_luminance():
    # No contrast and no structure to differ in; float32 sees some where the squares are large, and so does the library.
    bright, dark = flat(250, 176, 192), flat(10, 176, 192)  # halved without a border of zeros
    expected = ((2 * 250 * 10 + 6.5025) / (250**2 + 10**2 + 6.5025)) ** 0.1333
    assert ms_ssim(bright, dark) == pytest.approx(expected, abs=1e-4)
    assert ms_ssim(bright, dark) == pytest.approx(library(bright, dark), abs=1e-4)


def test_ms_ssim_is_the_same_to_the_bit_in_strips_of_any_memory_and_with_any_threads(texture, monkeypatch):
    decoded = noisy(texture, 12)
    whole = ms_ssim(texture, decoded)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(ms_ssim, [texture] * 8, [decoded] * 8)) == {whole}
    monkeypatch.setattr("codec.evaluation.ms_ssim.STRIP", 1 << 30)
    assert ms_ssim(texture, decoded) == pytest.approx(whole, abs=1e-12)


def test_ms_ssim_falls_with_noise_and_is_one_without(texture):
    values = [ms_ssim(texture, noisy(texture, deviation)) for deviation in (0, 4, 16, 40)]
    assert values[0] == pytest.approx(1, abs=1e-6) and values[0] <= 1
    assert values == sorted(values, reverse=True)


def test_ms_ssim_needs_five_scales():
    side = MIN_SIDE
    assert ms_ssim(flat(9, side, side), flat(9, side, side)) == pytest.approx(1)
    assert ms_ssim(flat(9, side - 1, 2 * side), flat(9, side - 1, 2 * side)) is None
    assert ms_ssim(flat(9, 2 * side, side - 1), flat(9, 2 * side, side - 1)) is None


def test_ms_ssim_in_decibels():
    assert ms_ssim_db(0.9) == pytest.approx(10)
    assert ms_ssim_db(0.99) == pytest.approx(20)
    assert ms_ssim_db(0.0) == 0
    assert ms_ssim_db(1.0) == CAP_DB
    assert ms_ssim_db(None) is None


@pytest.mark.parametrize("metric", [mse, psnr_db, psnr_y_db, ms_ssim])
@pytest.mark.parametrize(
    "decoded", [flat(0, 5, 4), flat(0).astype(np.float32), flat(0)[..., 0], np.zeros((4, 5, 4), np.uint8)]
)
def test_what_is_not_a_pair_of_pictures_is_refused(metric, decoded):
    with pytest.raises(ValueError):
        metric(flat(0), decoded)
