"""SSIMULACRA2 against scores of libjxl's program, and its properties."""

import numpy as np
import pytest

from codec.evaluation import metrics
from codec.evaluation.ssimulacra2 import MIN_SIDE, ssimulacra2, window


def flat(value, side=64):
    return np.full((side, side, 3), value, np.uint8)


def gradient():
    """From black to white, left to right."""
    row = (np.arange(64) * 255 // 63).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(row[None, :, None], (64, 64, 3)))


def noise(seed=42):
    """Bytes of the congruential generator with Knuth's constants."""
    state, values = seed, []
    for _ in range(64 * 64 * 3):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        values.append(state >> 33 & 255)
    return np.array(values, np.uint8).reshape(64, 64, 3)


# Scores that libjxl's ssimulacra2 gave, as recorded in the tests of the Rust implementation (imazen/ssimulacra2,
# src/reference_data.rs). On flat pictures its blur, a recursion in float32, adds an error of its own.
@pytest.mark.parametrize(
    ("original", "decoded", "score", "tolerance"),
    [
        (gradient(), flat(128), -64.56872148, 0.01),
        (noise(), flat(128), -47.33572558, 0.01),
        (flat(128, 256), flat(178, 256), -0.39085784, 0.02),
        (flat(128, 128), flat(178, 128), -9.82383315, 0.05),
        (flat(128, 128), flat(138, 128), 77.84296299, 0.05),
        (flat(128), flat(178), -8.75942256, 0.05),
        (flat(128), flat(133), 91.52357693, 0.05),
        (flat(128, 32), flat(133, 32), 98.80827382, 0.05),
    ],
)
def test_scores_are_those_of_libjxl(original, decoded, score, tolerance):
    assert ssimulacra2(original, decoded) == pytest.approx(score, abs=tolerance)


def test_thewindow_is_nearly_a_gaussian():
    taps = window()
    positions = np.arange(len(taps)) - len(taps) // 2
    assert taps.sum() == pytest.approx(1)
    assert np.array_equal(taps, taps[::-1])
    assert (taps * positions**2).sum() == pytest.approx(1.5**2, rel=1e-6)
    gaussian = np.exp(-0.5 * (positions / 1.5) ** 2)
    assert np.abs(taps - gaussian / gaussian.sum()).max() < 0.005


def test_identical_pictures_score_a_hundred_and_damage_less(photo):
    assert ssimulacra2(photo, photo) == 100
    draw = np.random.default_rng(0)
    scores = []
    for deviation in (1, 4, 10, 30):
        decoded = np.clip(np.rint(photo + draw.normal(0, deviation, photo.shape)), 0, 255).astype(np.uint8)
        scores.append(ssimulacra2(photo, decoded))
    assert scores == sorted(scores, reverse=True)
    assert 80 < scores[0] < 100 and scores[-1] < 30


def test_rows_and_columns_count_alike(photo):
    decoded = photo.copy()
    decoded[20:60, 30:90] //= 2
    turned = [np.ascontiguousarray(pixels.transpose(1, 0, 2)) for pixels in (photo, decoded)]
    assert ssimulacra2(*turned) == pytest.approx(ssimulacra2(photo, decoded), abs=1e-3)


def test_any_size_from_eight_pixels_has_a_score():
    for size in ((MIN_SIDE, MIN_SIDE), (9, 33), (131, 8)):
        pixels = np.full((*size, 3), 90, np.uint8)
        assert ssimulacra2(pixels, pixels) == 100
    assert ssimulacra2(flat(9, 7), flat(9, 7)) is None


def test_the_metric_refuses_what_is_no_pair_of_pictures():
    with pytest.raises(ValueError):
        metrics.ssimulacra2(flat(0), flat(0, 32))
    assert metrics.ssimulacra2(flat(0), flat(0)) == 100
