"""Sizes and fidelities as targets: what is met, in how few trials, and what is said where nothing meets them."""

import math

import numpy as np
import pytest
from PIL import Image

import codec
from codec import bitstream, targets
from codec.errors import CodecError
from codec.evaluation.metrics import psnr_db, ssimulacra2
from codec.quality import PRESETS, hundredths
from test_cli import fail, succeed, without_warning

PIXELS = np.zeros((100, 100, 3), np.uint8)


def search(target, size_of):
    """(size of the file, qualities tried) of a codec whose files have ``size_of(quality in hundredths)`` bytes."""
    tried = []

    def compress(quality):
        tried.append(quality)
        return bytes(round(size_of(quality)))

    return len(targets.reach(target, PIXELS, compress, None)), tried


CURVES = {
    "straight": lambda q: 300 * math.exp(q * 4.5e-4),
    "bent": lambda q: 300 * (1 + q / 500) ** 1.8,
    "overhead": lambda q: 20_000 + 300 * math.exp(q * 4.5e-4),
    "steep": lambda q: 300 * math.exp((q / 100) ** 1.5 / 150),
    "noisy": lambda q: 300 * math.exp(q * 4.5e-4) * (1 + 0.002 * math.sin(q)),
}


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("place", [40, 700, 3000, 5500, 9000, 9970])
def test_a_size_is_met_from_below_in_at_most_eight_trials(curve, place):
    limit = CURVES[curve](place)
    size, tried = search(targets.Target("size", limit), CURVES[curve])
    assert 0.99 * limit <= size <= limit
    assert len(tried) <= 8 and len(set(tried)) == len(tried)


def test_a_step_in_the_curve_costs_the_rest_of_the_limit_and_nothing_above_it():
    size, tried = search(targets.Target("size", 10_000), lambda q: 9000 if q < 6200 else 12_000)
    assert size == 9000 and len(tried) <= 8
    size, tried = search(targets.Target("bpp", 8.0), lambda q: q + 2000 if q < 6200 else q + 10_000)
    assert 7500 < size < 8200 and len(tried) <= 8


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        ("size", 299, "299 bytes cannot be reached: quality 0 takes 300 bytes"),
        ("size", 30_000, "30,000 bytes cannot be reached: quality 100 takes 27,005 bytes"),
        ("bpp", 0.1, "0.1 bpp cannot be reached: quality 0 takes 0.24 bpp"),
    ],
)
def test_what_cannot_be_reached_names_what_comes_nearest(kind, value, said):
    with pytest.raises(CodecError) as caught:
        search(targets.Target(kind, value), CURVES["straight"])
    assert str(caught.value) == said


def test_a_fidelity_that_the_curve_jumps_over_is_not_reached():
    rng = np.random.default_rng(0)
    levels = [np.clip(PIXELS + rng.integers(0, spread, PIXELS.shape), 0, 255).astype(np.uint8) for spread in (40, 3)]
    with pytest.raises(CodecError, match="PSNR 30 dB cannot be reached: quality .* has"):
        targets.reach(targets.Target("psnr", 30), PIXELS, lambda q: bytes([q > 6000]), lambda data: levels[data[0]])


@pytest.mark.parametrize(
    ("text", "size"),
    [("200kB", 200_000), ("1.5 MB", 1_500_000), ("64KiB", 65_536), ("5000", 5000), ("2m", 2_000_000), (".5k", 500)],
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert targets.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "kB", "-5kB", "0", "1e3", "12 parsecs", "1.2.3kB", "nan"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="is no size such as 200kB"):
        targets.parse_size(text)


@pytest.mark.parametrize(
    "given",
    [
        {"target_size": 0}, {"target_size": -1}, {"target_bpp": 0.0}, {"target_psnr": float("nan")},
        {"target_bpp": math.inf},
        {"target_ssimulacra2": 101}, {"target_size": 9, "target_psnr": 40},
    ],
)  # fmt: skip
def test_targets_that_make_no_sense_are_value_errors(given, photo):
    with pytest.raises(ValueError, match="target"):
        codec.compress(photo, **given)


def test_words_stand_for_qualities():
    assert [hundredths(word) for word in PRESETS] == [4000, 5000, 9000]
    with pytest.raises(ValueError, match="none of web, default, archive"):
        hundredths("best")


# With the shipped model


@pytest.fixture(scope="module")
def coder():
    return codec.Codec()


@pytest.fixture
def trials(coder, monkeypatch):
    """Qualities at which pictures are encoded."""
    tried, encode = [], coder.model.encode

    def counting(pixels, quality, *arguments, **options):
        tried.append(quality)
        return encode(pixels, quality, *arguments, **options)

    monkeypatch.setattr(coder.model, "encode", counting)
    return tried


@pytest.mark.parametrize("limit", [700, "2kB", 6000])
def test_the_file_fills_its_limit_and_is_that_of_a_quality(coder, photo, trials, limit):
    data = coder.compress(photo, target_size=limit)
    limit = targets.parse_size(str(limit))
    assert 0.99 * limit <= len(data) <= limit and 1 < len(trials) <= 8
    assert data == coder.compress(photo, bitstream.read_header(data).quality / 100)


def test_metadata_counts_towards_the_size(coder, photo, trials):
    image = Image.fromarray(photo)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    data = coder.compress(image, target_bpp=2.0)
    assert 1.98 <= 8 * len(data) / (128 * 192) <= 2.0 and len(trials) <= 8
    assert bitstream.read_header(data).alpha


@pytest.mark.parametrize(
    ("name", "value", "tolerance", "metric"),
    [("psnr", 31, 0.1, psnr_db), ("psnr", 40, 0.1, psnr_db), ("ssimulacra2", 70, 0.5, ssimulacra2)],
)
def test_fidelity_is_that_of_the_decoded_file(coder, photo, trials, name, value, tolerance, metric):
    data = coder.compress(photo, **{f"target_{name}": value})
    assert abs(metric(photo, np.asarray(coder.decompress(data))) - value) <= tolerance
    assert len(trials) <= 8


def test_fidelity_of_a_grey_picture_is_that_of_the_grey_result(coder, photo):
    grey = np.ascontiguousarray(photo[..., 1])
    decoded = np.asarray(coder.decompress(coder.compress(grey, target_psnr=36)))
    rgb = [np.repeat(plane[..., None], 3, 2) for plane in (grey, decoded)]
    assert abs(psnr_db(*rgb) - 36) <= 0.1


def test_batches_have_targets_for_each_picture(coder, photo):
    found = coder.compress_batch([photo, photo[:64], photo[:1, :1]], target_size=1500, on_error="return")
    assert all(0.99 * 1500 <= len(data) <= 1500 for data in found[:2])
    assert isinstance(found[2], CodecError) and "cannot be reached" in str(found[2])


def test_pictures_too_small_for_a_measure_say_so(coder, photo):
    with pytest.raises(CodecError, match="too small for SSIMULACRA2"):
        coder.compress(photo[:7], target_ssimulacra2=70)


# On the command line


def test_the_command_takes_targets_and_words(tmp_path, photo):
    picture, file = tmp_path / "picture.png", tmp_path / "picture.bin"
    Image.fromarray(photo).save(picture)
    said = without_warning(succeed("compress", picture, "--target-size", "2kB"))
    quality = bitstream.read_header(file.read_bytes()).quality / 100
    assert 1980 <= file.stat().st_size <= 2000 and said.endswith(f"bpp, quality {quality:g}\n")
    for word, quality in PRESETS.items():
        succeed("compress", picture, "-q", word, "--force", "--quiet")
        assert bitstream.read_header(file.read_bytes()).quality == 100 * quality


def test_a_picture_for_which_no_quality_meets_the_target_fails_alone(tmp_path, photo):
    Image.fromarray(photo).save(tmp_path / "large.png")
    Image.fromarray(photo[:8, :8]).save(tmp_path / "small.png")
    lines = without_warning(fail("compress", tmp_path, "--target-size", "2kB", "--quiet")).splitlines()
    assert lines[0].startswith(f"codec: {tmp_path / 'small.png'}: 2,000 bytes cannot be reached: quality 100 takes ")
    assert len(lines) == 2 and sorted(path.name for path in tmp_path.glob("*.bin")) == ["large.bin"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--target-size", "2kB", "-q", "50"], "--quality and --target-size do not go together"),
        (["--target-bpp", "1", "--target-psnr", "40"], "--target-bpp and --target-psnr do not go together"),
        (["--target-size", "lots"], "'lots' is no size such as 200kB"),
        (["--target-psnr", "nan"], "not a number"),
        (["--target-bpp", "0"], "x>0"),
        (["--target-ssimulacra2", "100.1"], "x<=100"),
        (["-q", "best"], "web, default, archive"),
    ],
)
def test_targets_that_make_no_sense_have_status_2(options, said):
    assert said in fail("compress", "a.png", *options, status=2)
