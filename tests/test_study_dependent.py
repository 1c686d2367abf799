"""Quantisers against the rate-distortion bound."""

import numpy as np
import pytest
from click.testing import CliRunner

from cli.main import codec as codec_command
from codec.study import dependent


def test_the_bound_is_that_of_a_gaussian():
    bits, distortion = dependent.bound("Gaussian")
    inside = (bits > 0.3) & (bits < 3)
    assert inside.sum() > 8
    assert distortion[inside] == pytest.approx(2 ** (-2 * bits[inside]), rel=0.02)


def test_the_bound_of_a_laplacian_is_above_shannons():
    bits, distortion = dependent.bound("Laplacian")
    shannon = (2 * np.e**2) / (2 * np.pi * np.e) * 2 ** (-2 * bits)
    inside = (bits > 0.3) & (bits < 3)
    assert (distortion[inside] > 0.98 * shannon[inside]).all()
    assert (distortion[inside] < 2 ** (-2 * bits[inside])).all()  # no source is harder than a Gaussian


def test_quantisers_come_nearer_to_it_in_order():
    x = dependent.draw("Gaussian", 20_000, np.random.default_rng(0))
    bits, least = dependent.bound("Gaussian")
    distance = {}
    for method in dependent.METHODS:
        rate, error = dependent.measure(x / 0.5, method)
        distance[method] = 10 * np.log10(error * 0.25 / np.exp(np.interp(rate, bits, np.log(least))))
    scalar, by_rate, four, eight = distance.values()
    assert scalar == pytest.approx(1.53, abs=0.1)  # pi e / 6, at high rates
    assert 0 < eight < four < by_rate < scalar + 0.02
    assert scalar - eight > 0.5


def test_the_command(tmp_path):
    drawing = tmp_path / "trellis.svg"
    arguments = ["study", "dependent", "--samples", "2000", "--no-progress", "--drawing", str(drawing)]
    done = CliRunner().invoke(codec_command, arguments)
    assert done.exit_code == 0, done.output
    assert done.output.count("| Gaussian |") == done.output.count("| Laplacian |") == 12
    text = drawing.read_text(encoding="utf-8")
    assert text.startswith("<?xml") and text.count("<path") > 7 * 16
