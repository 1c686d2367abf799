"""What a bit is worth to the encoder, by quality: found on pictures, beside the weights, no part of what files mean."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from cli.main import codec as codec_command
from codec.errors import ModelError
from codec.model import Model
from codec.training import fitting
from codec.weights import model_id
from test_vector_entropy import VQ_CONFIG
from tiny import CONFIG, coding

QUALITIES = [10_000 * anchor // (CONFIG.anchors - 1) for anchor in range(CONFIG.anchors)]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, pictures):
    """A model with a trellis."""
    folder = tmp_path_factory.mktemp("fitted")
    coding(folder)
    fitting.fit_folder(folder, folder, [pictures], seed=5, crops=3, progress=False)
    return folder


def told(fitted, folder, encoder):
    shutil.copytree(fitted, folder)
    facts = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**facts, "encoder": encoder}))
    return folder


def test_the_slope_is_where_the_rate_is_least_at_equal_measure(monkeypatch, pictures):
    """A codec whose cost is least at a known factor at each quality, though rate and measure both fall with it."""
    best = np.linspace(0.7, 1.3, CONFIG.anchors)

    class Made:
        def __init__(self, config, tensors):
            self.quantiser = SimpleNamespace(slopes=None)
            self.latents = SimpleNamespace(dependent=True, quantiser=lambda dependent: self.quantiser)

        def encode(self, crop, quality, plain, dependent):
            assert dependent and not plain
            log = np.log(self.quantiser.slopes[0])
            away = log - np.log(np.interp(quality, QUALITIES, best))
            rate = 2 + 0.0005 * quality - 0.1 * log + 0.3 * away**2
            return SimpleNamespace(bits=np.exp(rate), measure=0.002 * quality - 0.4 * log)

        def decode(self, coded, height, width, quality):
            return coded.measure

    monkeypatch.setattr(fitting, "Model", Made)
    monkeypatch.setattr(fitting, "METRICS", {"psnr": SimpleNamespace(function=lambda crop, measure: measure)})
    found = fitting.fit_slopes(CONFIG, {}, [pictures], crops=2, progress=False)
    assert found.dtype == np.float32 and found.shape == (CONFIG.anchors,)
    beside = np.pad(np.log(best), 1, mode="edge")
    wanted = np.exp((beside[:-2] + 2 * beside[1:-1] + beside[2:]) / 4)
    np.testing.assert_allclose(found, wanted, rtol=0.03)


def test_slopes_change_what_is_coded_and_neither_weights_nor_id(fitted, pictures, tmp_path, photo):
    """By the command; and whoever has the model without them reads the files."""
    target = tmp_path / "new"
    options = ["train", "--fit-slopes", str(fitted), str(pictures), "-o", str(target), "--no-progress"]
    done = CliRunner().invoke(codec_command, [*options, "--set", "fit_crops=1"])
    assert done.exit_code == 0, done.output
    assert (target / "weights.safetensors").read_bytes() == (fitted / "weights.safetensors").read_bytes()
    assert model_id(target) == model_id(fitted) and model_id(target) in (target / "CARD.md").read_text()
    slopes = json.loads((target / "config.json").read_text())["encoder"]["trellis_slopes"]
    assert len(slopes) == CONFIG.anchors and all(0.5 <= slope <= 1.6 for slope in slopes)

    plain = Model.from_folder(fitted)
    some = told(fitted, tmp_path / "some", {"trellis_slopes": [0.1] * (CONFIG.anchors - 1) + [10]})
    model = Model.from_folder(some)
    for quality, fewer in ((0, False), (10_000, True)):
        coded = [each.encode(photo, quality, plain=False, dependent=True) for each in (plain, model)]
        assert (coded[1].bits < coded[0].bits) == fewer
        first, second = (each.decode(coded[1], *photo.shape[:2], quality) for each in (plain, model))
        assert np.array_equal(first, second)


def test_fitted_again_the_weights_hold_no_slopes(fitted, pictures, tmp_path):
    from safetensors.numpy import load_file

    some = told(fitted, tmp_path / "some", {"trellis_slopes": [0.7] * CONFIG.anchors})
    fitting.fit_folder(some, tmp_path / "again", [pictures], seed=5, crops=1, progress=False)
    assert fitting.SLOPES not in load_file(tmp_path / "again" / "weights.safetensors")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["encoder"]["trellis_slopes"][0] == 0.7


@pytest.mark.parametrize(
    "encoder",
    [
        {"trellis_slopes": [1.0]}, {"trellis_slopes": []}, {"trellis_slopes": 1.0}, {"trellis_slopes": "abc"},
        {"trellis_slopes": [0.0] * CONFIG.anchors}, {"trellis_slopes": [-1.0] * CONFIG.anchors},
        {"trellis_slopes": [float("nan")] * CONFIG.anchors}, {"trellis_slopes": [1e9] * CONFIG.anchors},
        {"trellis_slopes": [[1.0]] * CONFIG.anchors}, {"trellis_slopes": {"a": 1}}, ["trellis_slopes"], "abc", 3, None,
    ],
    ids=str,
)  # fmt: skip
def test_damaged_slopes_are_a_model_error(fitted, tmp_path, encoder):
    with pytest.raises(ModelError):
        Model.from_folder(told(fitted, tmp_path / "damaged", encoder))


def test_a_model_without_a_trellis_has_none_to_fit(tmp_path, pictures):
    folder = tmp_path / "young"
    folder.mkdir()
    coding(folder)
    with pytest.raises(ModelError, match="no dependent quantisation"):
        fitting.fit_slopes_folder(folder, tmp_path / "new", [pictures], progress=False)
    with pytest.raises(ModelError):
        fitting.fit_slopes(VQ_CONFIG, {}, [pictures], progress=False)
    assert not (tmp_path / "new").exists()
