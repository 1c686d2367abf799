"""Effort 2: quantised again with a view to what the decoder makes of it."""

import pickle

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import codec
from cli.main import codec as command
from codec import bitstream, engine
from codec import model as models
from codec.evaluation import evaluate
from codec.model import Model
from codec.weights import find_model, tuned_model_id
from tiny import coding


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return coding(tmp_path_factory.mktemp("model"), dependent=True)


def noise(height, width, dtype=np.uint8, seed=0):
    """Coarse noise and fine."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((-(-height // 16), -(-width // 16), 3)).repeat(16, 0).repeat(16, 1)[:height, :width]
    mixed = 0.8 * coarse + 0.2 * rng.random((height, width, 3))
    return (mixed * np.iinfo(dtype).max).astype(dtype)


def test_rate_and_distortion_fall(samples):
    model = Model.from_folder(find_model(tuned_model_id("psnr")))
    with Image.open(samples / "dog.png") as dog:
        pixels = np.asarray(dog.convert("RGB"))[100:356, 200:456]
    for quality in (3000, 6000, 9000):
        costs = []
        for refine in (False, True):
            coded = model.encode(pixels, quality, plain=False, refine=refine)
            error = np.square(model.decode(coded, 256, 256, quality).astype(float) - pixels).sum() / 3
            costs.append(coded.bits + model.config.lmbda(quality / 100) * error)
        assert costs[1] < 0.998 * costs[0]


def test_latents_move_by_a_share_of_what_synthesis_and_analysis_take(model, monkeypatch):
    pixels, quality = noise(64, 128), 2000
    first = model.encode(pixels, quality, plain=False)
    seen = []
    monkeypatch.setattr(
        model, "_encode_tile", lambda y, *how: seen.append(y) or bitstream.Tile(b"", 1, 0)
    )  # what is quantised the second time
    model._refined(first, pixels, quality)
    y = model.engine.analyse(pixels.transpose(2, 0, 1), quality)
    (tile,) = first.tiles
    y_hat = model._decode_tile(tile, 4, 8, quality, False, True)
    shown = model.decode(first, 64, 128, quality, np.uint16)
    again = model.engine.analyse((shown / np.float32(65535)).transpose(2, 0, 1), quality)
    np.testing.assert_allclose(seen[0], y + 0.35 * (y_hat - again), atol=1e-3)  # 0.25 + 0.25 * 20 / 50
    assert np.abs(y_hat - again).max() > 0.1


@pytest.mark.parametrize("quality, share", [(0, 0.25), (2500, 0.375), (5000, 0.5), (7000, 0.5), (10000, 0.5)])
def test_shares(quality, share):
    assert models._share(quality) == share


def test_threads_pieces_and_tiles_change_nothing(model, monkeypatch):
    pixels = noise(200, 1100)  # two tiles, odd sizes
    coded = model.encode(pixels, 5000, plain=False, refine=True)
    assert len(coded.tiles) == 2 and coded.dependent and coded != model.encode(pixels, 5000, plain=False)
    before = model.threads
    for threads in (1, 3):
        model.threads = threads
        assert model.encode(pixels, 5000, plain=False, refine=True) == coded
    model.threads = before
    decoded = model.decode(coded, 200, 1100, 5000).astype(int)
    monkeypatch.setattr(engine, "PIECE", 64)
    assert np.abs(model.decode(coded, 200, 1100, 5000) - decoded).max() <= 1


def test_sixteen_bits_and_plain_rounding(model):
    deep = noise(70, 90, np.uint16)
    for dependent in (False, True):
        coded = model.encode(deep, 7000, plain=False, dependent=dependent, refine=True)
        assert coded.dependent is dependent
        assert coded != model.encode(deep, 7000, plain=False, dependent=dependent)
        assert model.decode(coded, 70, 90, 7000, np.uint16).shape == deep.shape


def test_there_is_nothing_to_refine_in_a_plain_transform_or_one_colour(model):
    pixels = noise(64, 64)
    assert model.encode(pixels, 5000, plain=True, refine=True) == model.encode(pixels, 5000, plain=True)
    flat = np.full((64, 64, 3), 9, np.uint8)
    assert model.encode(flat, 5000, refine=True) == model.encode(flat, 5000) and model.encode(flat, 5000).flat


def test_a_codec_has_an_effort_where_a_call_says_none(model, samples):
    coder = codec.Codec(tune="psnr", effort=2, fallback="never")
    with Image.open(samples / "dog.png") as dog:
        picture = np.asarray(dog.convert("RGB"))[100:228, 200:328]
    files = [coder.compress(picture, effort=effort) for effort in (0, 1, 2)]
    assert len(set(files)) == 3
    assert coder.compress(picture) == files[2] == coder.compress_batch([picture])[0]
    assert pickle.loads(pickle.dumps(coder)).compress(picture) == files[2]
    assert codec.Codec(tune="psnr", fallback="never").compress(picture) == files[1]
    with pytest.raises(ValueError, match="effort 3 is not a whole number from 0 to 2"):
        codec.Codec(effort=3)


def test_the_command_line_has_it_too(samples, tmp_path):
    with Image.open(samples / "dog.png") as dog:
        dog.crop((200, 100, 328, 228)).save(tmp_path / "a.png")
    sizes = []
    for effort in ("1", "2"):
        done = CliRunner().invoke(
            command, ["compress", str(tmp_path / "a.png"), "-f", "--effort", effort, "-o", str(tmp_path / "a.bin")]
        )
        assert done.exit_code == 0, done.output
        sizes.append((tmp_path / "a.bin").read_bytes())
    assert sizes[0] != sizes[1] and sizes[1] == codec.compress(tmp_path / "a.png", effort=2)
    done = CliRunner().invoke(command, ["compress", str(tmp_path / "a.png"), "-f", "--effort", "3"])
    assert done.exit_code == 2 and "3 is not in the range 0<=x<=2" in done.output


def test_results_say_the_effort(samples, tmp_path):
    with Image.open(samples / "dog.png") as dog:
        dog.crop((200, 100, 328, 228)).save(tmp_path / "a.png")
    found = [
        evaluate([tmp_path / "a.png"], qualities=(20, 60), against=(), metrics=("psnr",), effort=effort)
        for effort in (1, 2)
    ]
    assert [each.conditions["codecs"]["codec"].get("effort") for each in found] == [None, 2]
    assert all(one.psnr_db < two.psnr_db for one, two in zip(found[0].rows, found[1].rows))
