"""Tables that are fitted to what is coded."""

import io

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file
from scipy.stats import norm

from cli.main import codec as codec_command
from codec.engine import read_folder
from codec.errors import ImageError, ModelError
from codec.image_io import read_picture
from codec.model import Model
from codec.training import fitting
from codec.training.scale_mixture import ScaleMixture, coder_rows
from codec.weights import model_id
from test_vector_entropy import VQ_CONFIG
from tiny import CONFIG, coding

FEW = ["--set", "fit_crops=3", "--seed", "5", "--no-progress"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, pictures):
    """An exported model, and the same one fitted, by the command."""
    source, fitted = (tmp_path_factory.mktemp(name) for name in ("exported", "fitted"))
    coding(source)
    done = CliRunner().invoke(
        codec_command, ["train", "--fit-tables", str(source), str(pictures), "-o", str(fitted), *FEW]
    )
    assert done.exit_code == 0, done.output
    return source, fitted


def test_the_card_names_the_model_as_it_is_after_fitting(folders):
    titles = [(folder / "CARD.md").read_text(encoding="utf-8").splitlines()[0] for folder in folders]
    assert titles == [f"# Model {model_id(folder)}, made with codec train" for folder in folders]
    assert titles[0] != titles[1]


def test_only_tables_and_shifts_change(folders):
    before, after = (load_file(folder / "weights.safetensors") for folder in folders)
    changed = {"y_cdf", "y_lengths", "y_offsets", "shrink"}
    new = {"trellis_cdf", "trellis_lengths", "trellis_offsets", "trellis_shrink"}
    assert after.keys() - before.keys() == {f"entropy.{key}" for key in new}
    for key, array in before.items():
        same = array.shape == after[key].shape and np.array_equal(array, after[key])
        assert same or key.removeprefix("entropy.") in changed, key
    assert not np.array_equal(before["entropy.shrink"], after["entropy.shrink"])
    assert read_folder(folders[0])[0] == read_folder(folders[1])[0]


def test_the_same_seed_and_pictures_give_the_same_bytes(folders, pictures, tmp_path, monkeypatch):
    """After one round of plain rounding and three of the trellis, with a bar that comes to its end."""
    rounds, bars, observe = [], [], fitting._observe

    class Bar(fitting.tqdm):
        def __init__(self, **options):
            super().__init__(**{**options, "disable": False, "file": io.StringIO()})
            bars.append(self)

    def counted(codes, dependent, sample):
        rounds.append(dependent)
        return observe(codes, dependent, sample)

    monkeypatch.setattr(fitting, "tqdm", Bar)
    monkeypatch.setattr(fitting, "_observe", counted)
    fitting.fit_folder(folders[0], tmp_path, [pictures], seed=5, crops=3, progress=False)
    assert (tmp_path / "weights.safetensors").read_bytes() == (folders[1] / "weights.safetensors").read_bytes()
    assert rounds == 3 * [False] + 9 * [True]
    # Each crop is analysed once, observed four times, and looked at in twice two steps of Newton's method.
    assert bars[0].n == bars[0].total == 3 * (1 + 4 + 4)


def test_fitted_tables_fit(folders, pictures):
    """Fewer bits with the same symbols, on the pictures that they were fitted to."""
    before, after = map(Model.from_folder, folders)
    for path in sorted(pictures.iterdir()):
        pixels = read_picture(path).pixels[:128, :128]
        coded = [model.encode(pixels, 5000, plain=False, dependent=False) for model in (before, after)]
        assert coded[0].tiles[0].symbols_crc == coded[1].tiles[0].symbols_crc
        assert coded[1].bits < coded[0].bits
        dependent = after.encode(pixels, 5000, plain=False)
        assert dependent.dependent and after.decode(dependent, 128, 128, 5000).shape == pixels.shape


def test_shifts_are_least_squares():
    """Two qualities between two anchors: the line through what they want, but for what holds it back."""
    problem = fitting._LeastSquares(3, 64)
    cell = np.full(10**6, 4 * 7 + 2)
    for quality, wanted in ((1000, 0.1), (4000, 0.4)):
        problem.add(quality, cell, np.full(len(cell), wanted))
    shifts = problem.solve()
    assert shifts[:2, 7, 1] == pytest.approx([0.0, 0.5], abs=0.01)
    assert np.count_nonzero(shifts) == 3  # the last anchor follows what is best for all


def test_shifts_start_at_the_centroids_of_the_latents(monkeypatch):
    """Symbols of 2 and -2 whose latents lie 0.3 nearer to zero, before any look at a picture."""
    monkeypatch.setattr(fitting, "STEPS", 0)
    sign = np.random.default_rng(0).choice([-1, 1], (1, 1000, 1000))
    y = (sign * 1.7).astype(np.float32)
    sample, seen = fitting._Sample(None, 5000, y, None), (16 * 2 * sign, sign * (4 * 7 + 2))
    tensors = fitting._fit_shifts(CONFIG, False, None, [sample], [seen], None)
    assert tensors["entropy.shrink"][1, 7].tolist() == pytest.approx([0, 0.3, 0], abs=1e-3)


def test_no_shift_is_more_than_a_symbol():
    problem = fitting._LeastSquares(3, 64)
    for magnitude, wanted in ((1, 3.0), (2, -3.0)):
        problem.add(5000, np.full(10**6, 4 * 7 + magnitude), np.full(10**6, wanted))
    assert problem.solve()[1, 7].tolist() == [1.0, -1.0, 0.0]


def test_the_shift_that_a_latent_would_like_is_that_of_least_error():
    """Where the synthesis is 2 y + 0.1, that is at (x - 0.1) / 2, from wherever the shifts are now."""
    rng = np.random.default_rng(0)
    sample = fitting._Sample(rng.integers(0, 256, (64, 64, 3), np.uint8), 5000, None, None)
    value, symbols = rng.integers(-64, 64, (3, 64, 64)), rng.integers(-4, 5, (3, 64, 64))
    magnitude, row = np.minimum(np.abs(symbols), 3), rng.integers(0, 64, (3, 64, 64))
    shifts = rng.uniform(0, 0.4, (3, 64, 3)).astype(np.float32)
    heard = []

    class Synthesis:
        def synthesise(self, y_hat, quality):
            heard.append((y_hat.detach().clone(), quality.item()))
            return 2 * y_hat + 0.1

    cell = np.sign(symbols) * (4 * row + magnitude)
    wanted = fitting._wanted(Synthesis(), sample, value, cell, shifts)
    now = np.where(magnitude > 0, shifts[1, row, np.maximum(magnitude, 1) - 1], 0)  # quality 50 is the middle anchor
    np.testing.assert_allclose(heard[0][0][0], value / 16 - np.sign(symbols) * now, rtol=1e-6, atol=1e-6)
    assert heard[0][1] == 50.0
    best = (sample.pixels.transpose(2, 0, 1) / 255 - 0.1) / 2
    shifted = symbols != 0
    np.testing.assert_allclose(wanted[shifted], (np.sign(symbols) * (value / 16 - best))[shifted], atol=1e-4)


def test_indices_of_the_trellis_have_the_probability_of_their_cells():
    """In steps of 10/16: 2 k and as wide by quantiser 0; 0, +-1, +-3 by quantiser 1, whose borders lie half-way."""
    mixture = ScaleMixture(4)
    with torch.no_grad():
        mixture.log_weight.add_(0.3 * torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
    prior = fitting._prior(mixture, dependent=True)
    assert prior.shape == (4, 128, 4095)
    borders = {0: [(-1, 1), (1, 3), (3, 5), (5, 7)], 1: [(-0.5, 0.5), (0.5, 2), (2, 4), (4, 6)]}
    for k, row in ((0, 30), (3, 41)):
        weights, ratios = mixture.log_weight[k].softmax(0).detach().numpy(), mixture.log_ratio[k].exp().detach().numpy()
        sigma = 0.11 * (256 / 0.11) ** (row / 63)
        for quantiser, cells in borders.items():
            found = prior[k, 64 * quantiser + row]
            assert found.sum() == pytest.approx(1, abs=1e-3)
            for index, (low, high) in enumerate(cells):
                edges = norm.cdf(np.outer([low, high], 10 / 16 / (ratios * sigma)))
                assert found[2047 + index] == pytest.approx((edges[1] - edges[0]) @ weights, rel=1e-3)
                assert found[2047 - index] == pytest.approx(found[2047 + index], rel=1e-4)


def test_rows_hold_what_is_likely_and_escapes_the_rest():
    pmf = torch.zeros(2, 21, dtype=torch.float64)
    pmf[0, 10], pmf[0, 12], pmf[1, 3:18] = 0.75, 0.25, 1 / 15
    cdf, lengths, offsets = (array.numpy() for array in coder_rows(pmf, 10))
    assert offsets.tolist() == [-2, -7] and lengths.tolist() == [7, 17]
    share = np.diff(cdf[:7]) / 65536
    assert share[[2, 4]] == pytest.approx([0.75, 0.25], abs=1e-3) and share.min() > 0


def test_models_and_pictures_that_are_no_use(folders, tmp_path):
    with pytest.raises(ModelError, match="scalar"):
        fitting.fit_tables(VQ_CONFIG, {}, [tmp_path])
    config, tensors = read_folder(folders[0])
    with pytest.raises(ModelError, match="y_prior"):
        fitting.fit_tables(config, {k: v for k, v in tensors.items() if "y_prior" not in k}, [tmp_path])
    (tmp_path / "broken.png").write_bytes(b"no picture")
    target = tmp_path / "target"
    with pytest.raises(ImageError, match="no usable pictures"):
        fitting.fit_folder(folders[0], target, [tmp_path], progress=False, crops=2)
    assert not target.exists()


@pytest.mark.parametrize("wrong", [["--set", "fit_crops=0"], ["--set", "fit_crops=-1"]], ids=str)
def test_the_command_refuses_what_cannot_work(folders, pictures, tmp_path, wrong):
    options = ["train", "--fit-tables", str(folders[0]), str(pictures), "-o", str(tmp_path / "new"), *wrong]
    done = CliRunner().invoke(codec_command, options)
    assert done.exit_code != 0 and "fit_crops" in done.output and not (tmp_path / "new").exists()


def test_anchors_and_rows_are_those_of_the_model(folders):
    tensors = load_file(folders[1] / "weights.safetensors")
    assert tensors["entropy.trellis_shrink"].shape == (CONFIG.anchors, 128, 3)
    assert len(tensors["entropy.trellis_lengths"]) == 512
