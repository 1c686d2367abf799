"""What bits and errors are worth to the encoder: found on pictures, beside the weights, no part of what files mean."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from cli.main import codec as codec_command
from codec.engine import read_folder
from codec.errors import ModelError
from codec.evaluation import evaluate
from codec.evaluation.anchors import OWN_QUALITIES
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


def test_slopes_and_weights_are_where_the_rate_is_least_at_equal_measure(monkeypatch, pictures):
    """A codec whose cost is least at a known factor and a known power of the sensitivities at each quality, though rate
    and measure both fall with the one and rise with the other."""
    best, power = np.linspace(0.7, 1.3, CONFIG.anchors), np.linspace(1.0, -0.6, CONFIG.anchors)
    logs = np.random.default_rng(0).normal(size=(CONFIG.anchors, CONFIG.M))

    class Made:
        def __init__(self, config, tensors):
            self.quantiser = SimpleNamespace(slopes=None, weights=None)
            self.latents = SimpleNamespace(dependent=True, quantiser=lambda dependent: self.quantiser)

        def encode(self, crop, quality, plain, dependent):
            assert dependent and not plain
            log = np.log(self.quantiser.slopes[0])
            away = log - np.log(np.interp(quality, QUALITIES, best))
            rate = 2 + 0.0005 * quality - 0.1 * log + 0.3 * away**2
            measure = 0.002 * quality - 0.4 * log
            if self.quantiser.weights is not None:
                exponent = np.log(self.quantiser.weights[0, 0]) / logs[0, 0]
                rate += 0.2 * (exponent - np.interp(quality, QUALITIES, power)) ** 2 + 0.1 * exponent
                measure += 0.4 * exponent
            return SimpleNamespace(bits=np.exp(rate), measure=measure)

        def decode(self, coded, height, width, quality):
            return coded.measure

    monkeypatch.setattr(fitting, "Model", Made)
    monkeypatch.setattr(fitting, "_log_sensitivities", lambda *_: logs)
    monkeypatch.setattr(fitting, "METRICS", {"psnr": SimpleNamespace(function=lambda crop, measure: measure)})
    slopes, weights = fitting.fit_slopes(CONFIG, {}, [pictures], crops=2, progress=False)
    assert slopes.dtype == weights.dtype == np.float32
    np.testing.assert_allclose(slopes, np.exp(smooth(np.log(best))), rtol=0.03)
    np.testing.assert_allclose(np.log(weights), smooth(power)[:, None] * logs, atol=0.05)


def smooth(values):
    beside = np.pad(values, 1, mode="edge")
    return (beside[:-2] + 2 * beside[1:-1] + beside[2:]) / 4


def test_sensitivity_is_what_an_error_in_a_channel_does_to_the_picture(fitted, pictures):
    """Against the picture's error when all latents of a channel are moved a little, by random signs."""
    config, tensors = read_folder(fitted)
    model, synthesis = Model(config, tensors), fitting._synthesis(config, tensors)
    (crop,) = (pixels for pixels, _ in fitting._crops(fitting.find_pictures([pictures]), 0, 1, 128))
    (found,) = fitting._log_sensitivities(config, tensors, model, [crop] * 20, [5000])
    y = model.engine.analyse(crop.transpose(2, 0, 1), 5000)
    y_hat = model.latents.encode(model.engine.side_information(y, 5000), y, 5000, dependent=True).y_hat
    quality, start = torch.tensor([50.0]), torch.from_numpy(y_hat[None])
    x_hat, random, own = synthesis.synthesise(start, quality), np.random.default_rng(1), []
    for channel in range(config.M):
        moved = start.clone()
        moved[0, channel] += torch.from_numpy(random.choice(np.float32([-0.01, 0.01]), y_hat.shape[1:]))
        own.append(float((synthesis.synthesise(moved, quality) - x_hat).double().square().sum()))
    active = (np.abs(y_hat) > 0.5).mean((1, 2))
    wanted = np.log(own) - (np.log(own) * active).sum() / active.sum()
    inside = np.abs(wanted) < np.log(fitting.WIDEST)
    assert inside.sum() > config.M / 3
    np.testing.assert_allclose(found[inside], wanted[inside], atol=0.35)
    assert np.abs(found).max() <= np.log(fitting.WIDEST) + 1e-6


def test_slopes_change_what_is_coded_and_neither_weights_nor_id(fitted, pictures, tmp_path, photo):
    """By the command; and whoever has the model without them reads the files."""
    target = tmp_path / "new"
    options = ["train", "--fit-slopes", str(fitted), str(pictures), "-o", str(target), "--no-progress"]
    done = CliRunner().invoke(codec_command, [*options, "--set", "fit_crops=1"])
    assert done.exit_code == 0, done.output
    assert (target / "weights.safetensors").read_bytes() == (fitted / "weights.safetensors").read_bytes()
    assert model_id(target) == model_id(fitted) and model_id(target) in (target / "CARD.md").read_text()
    encoder = json.loads((target / "config.json").read_text())["encoder"]
    slopes, weights = encoder["trellis_slopes"], np.array(encoder["trellis_weights"])
    assert weights.shape == (CONFIG.anchors, CONFIG.M) and weights.std() > 0
    assert len((target / "config.json").read_text().splitlines()) < 100  # lists of numbers stand on a line
    assert len(slopes) == CONFIG.anchors and all(0.5 <= slope <= 1.6 for slope in slopes)

    plain = Model.from_folder(fitted)
    some = told(fitted, tmp_path / "some", {"trellis_slopes": [0.1] * (CONFIG.anchors - 1) + [10]})
    model = Model.from_folder(some)
    for quality, fewer in ((0, False), (10_000, True)):
        coded = [each.encode(photo, quality, plain=False, dependent=True) for each in (plain, model)]
        assert (coded[1].bits < coded[0].bits) == fewer
        first, second = (each.decode(coded[1], *photo.shape[:2], quality) for each in (plain, model))
        assert np.array_equal(first, second)


def test_what_weighs_little_gets_few_bits(fitted, tmp_path, photo):
    """Of two channels of one file, at quality 50, the lighter one has more error than before, and the other less."""
    weights = np.ones((CONFIG.anchors, CONFIG.M))
    weights[:, 0], weights[:, 1] = 8, 0.125
    even, uneven = (
        Model.from_folder(told(fitted, tmp_path / name, {"trellis_weights": values.tolist()}))
        for name, values in (("even", np.ones_like(weights)), ("uneven", weights))
    )
    pixels = photo[: photo.shape[0] // 64 * 64, : photo.shape[1] // 64 * 64]
    y = even.engine.analyse(pixels.transpose(2, 0, 1), 5000)
    z = even.engine.side_information(y, 5000)
    errors = [
        np.square(y - model.latents.encode(z, y, 5000, dependent=True).y_hat).mean((1, 2))
        for model in (Model.from_folder(fitted), even, uneven)
    ]
    assert np.array_equal(errors[0], errors[1])
    assert errors[2][0] < errors[1][0] and errors[2][1] > errors[1][1]


def test_fitted_again_the_weights_hold_no_slopes(fitted, pictures, tmp_path):
    from safetensors.numpy import load_file

    some = told(fitted, tmp_path / "some", {"trellis_slopes": [0.7] * CONFIG.anchors})
    fitting.fit_folder(some, tmp_path / "again", [pictures], seed=5, crops=1, progress=False)
    assert fitting.SLOPES not in load_file(tmp_path / "again" / "weights.safetensors")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["encoder"]["trellis_slopes"][0] == 0.7


def test_figures_of_another_encoder_are_not_taken_from_a_journal(fitted, tmp_path, samples):
    """Its id is the same."""
    with Image.open(samples / "dog.png") as dog:
        dog.crop((200, 100, 328, 228)).save(tmp_path / "a.png")
    other = told(fitted, tmp_path / "other", {"trellis_slopes": [5.0] * CONFIG.anchors})
    assert model_id(other) == model_id(fitted)
    found = [
        evaluate(
            [tmp_path / "a.png"], model=model, qualities=(20, 80), against=[f"model:{against}"], metrics=(),
            journal=tmp_path / "rows",
        )
        for model, against in ((fitted, other), (other, fitted), (fitted, other))
    ]  # fmt: skip
    bytes_of = [{row.codec: row.bytes for row in each.rows if row.quality == 80} for each in found]
    first, second = (each["codec"] for each in bytes_of[:2])
    assert second < first and bytes_of[2] == bytes_of[0]
    assert bytes_of[0] == {"codec": first, f"model:{other}": second}
    assert bytes_of[1] == {"codec": second, f"model:{fitted}": first}
    # The third run has found all of its rows.
    assert (tmp_path / "rows").read_bytes().count(b"\n") == 1 + 2 * (2 + len(OWN_QUALITIES))


@pytest.mark.parametrize(
    "encoder",
    [
        {"trellis_slopes": [1.0]}, {"trellis_slopes": []}, {"trellis_slopes": 1.0}, {"trellis_slopes": "abc"},
        {"trellis_slopes": [0.0] * CONFIG.anchors}, {"trellis_slopes": [-1.0] * CONFIG.anchors},
        {"trellis_slopes": [float("nan")] * CONFIG.anchors}, {"trellis_slopes": [1e9] * CONFIG.anchors},
        {"trellis_slopes": [[1.0]] * CONFIG.anchors}, {"trellis_slopes": {"a": 1}}, ["trellis_slopes"], "abc", 3, None,
        {"trellis_weights": [1.0] * CONFIG.M}, {"trellis_weights": [[1.0]] * CONFIG.anchors}, {"trellis_weights": "a"},
        {"trellis_weights": [[1.0] * CONFIG.M] * (CONFIG.anchors + 1)},
        {"trellis_weights": [[0.0] * CONFIG.M] * CONFIG.anchors},
        {"trellis_weights": [[1.0] * CONFIG.M] * (CONFIG.anchors - 1) + [[1.0]]},
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
