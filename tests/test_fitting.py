"""Tables that are fitted to what is coded."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file

from cli.main import codec as codec_command
from codec.engine import read_folder
from codec.errors import ImageError, ModelError
from codec.image_io import read_picture
from codec.model import Model
from codec.training import fitting
from codec.training.scale_mixture import coder_rows
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


def test_the_same_seed_and_pictures_give_the_same_bytes(folders, pictures, tmp_path):
    fitting.fit_folder(folders[0], tmp_path, [pictures], seed=5, crops=3, progress=False)
    assert (tmp_path / "weights.safetensors").read_bytes() == (folders[1] / "weights.safetensors").read_bytes()


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
