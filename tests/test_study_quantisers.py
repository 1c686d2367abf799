import json

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file

from cli.main import codec as command
from codec.errors import CodecError
from codec.model import Model
from codec.study import quantisers
from codec.study.quantisers import Point, Settings, compare, study, table
from codec.training.data import validation_crops
from tiny import CONFIG


def settings(pictures, steps=2):
    return Settings(pictures=[str(pictures)], valid=str(pictures), steps=steps, batch=1, crop=64, side=128)


def curve(name, seed, factor):
    return [Point(name, seed, q, factor * 0.1 * 2 ** (q / 20), 25 + q / 8) for q in quantisers.QUALITIES]


def test_a_study_trains_measures_and_goes_on_where_it_was(pictures, tmp_path, monkeypatch):
    lines = []
    points = study(settings(pictures), ("mixed", "vq"), (0,), tmp_path, CONFIG, progress=False, say=lines.append)
    assert lines == ["run 1 of 2: mixed, seed 0", "run 2 of 2: vq, seed 0"]
    assert len(points) == 2 * len(quantisers.QUALITIES) and all(p.bpp > 0 and p.psnr_db > 5 for p in points)

    def no_training(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(quantisers, "train", no_training)
    assert study(settings(pictures), ("mixed", "vq"), (0,), tmp_path, CONFIG, progress=False) == points
    with pytest.raises(CodecError, match="other settings"):
        study(settings(pictures, steps=3), ("mixed",), (0,), tmp_path, CONFIG, progress=False)


def test_an_interrupted_run_counts_for_nothing_and_is_resumed(pictures, tmp_path, monkeypatch):
    real = quantisers.train

    def interrupted(config, progress):
        config.steps = 1
        return real(config, progress)

    monkeypatch.setattr(quantisers, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        study(settings(pictures), ("ste",), (0,), tmp_path, CONFIG, progress=False)
    assert not (tmp_path / "ste-0" / "points.json").exists()
    resumed = []
    monkeypatch.setattr(quantisers, "train", lambda c, progress: (resumed.append(c.resume), real(c, progress))[1])
    study(settings(pictures), ("ste",), (0,), tmp_path, CONFIG, progress=False)
    assert resumed == [str(tmp_path / "ste-0")]


def test_no_quantiser_learns_offsets_that_others_lack(pictures, tmp_path):
    for name in ("mixed", "noise"):
        study(settings(pictures), (name,), (0,), tmp_path, CONFIG, progress=False)
        tensors = load_file(tmp_path / f"{name}-0" / "export" / "weights.safetensors")
        assert tensors["entropy.shrink"].eq(0).all()


def test_universal_quantisation_is_measured_with_its_dither(pictures, tmp_path, monkeypatch):
    # So young a model takes much for zero that is not, and more of it without a dither.
    for module in ("training.model", "latents.quantisers"):
        monkeypatch.setattr(f"codec.{module}.CODED_FIRST", 1)
    (crop,) = validation_crops(str(pictures), 128)[:1]
    own = Settings(pictures=[str(pictures)], valid=str(pictures), steps=20, batch=1, crop=64, side=128)
    points = study(own, ("universal",), (0,), tmp_path, CONFIG, progress=False)
    export = tmp_path / "universal-0" / "export"
    again = quantisers.measure_with_dither(export, validation_crops(str(pictures), 128), "universal", 0)
    other = quantisers.measure_with_dither(export, validation_crops(str(pictures), 128), "universal", 1)
    assert points == again and [p.bpp for p in points] != [p.bpp for p in other]
    # Where steps are small against the latents, a dither costs next to nothing; where most latents are rounded to zero
    # the dither lets something of them through, for bits.
    rounded = quantisers.measure(Model.from_folder(export), [crop], "universal", 0)
    dithered = quantisers.measure_with_dither(export, [crop], "universal", 0)
    assert dithered[-1].bpp == pytest.approx(rounded[-1].bpp, rel=0.05)
    assert dithered[-1].psnr_db == pytest.approx(rounded[-1].psnr_db, abs=0.2)
    assert dithered[0].bpp > rounded[0].bpp


def test_rates_are_compared_with_the_reference_of_the_same_seed():
    points = curve("mixed", 0, 1.0) + curve("ste", 0, 1.1) + curve("mixed", 1, 2.0) + curve("ste", 1, 2.4)
    mixed, ste = compare(points)
    assert mixed.mean == pytest.approx(0, abs=1e-9)
    assert ste.by_seed == {0: pytest.approx(10), 1: pytest.approx(20)}
    assert ste.mean == pytest.approx(15) and ste.deviation == pytest.approx(50**0.5)
    assert table([ste, mixed]).index("| mixed") < table([ste, mixed]).index("| ste")


def test_a_curve_that_meets_no_other_has_no_figure():
    low = [Point("ste", 0, q, 0.1 + q, q / 100) for q in quantisers.QUALITIES]
    results = compare(curve("mixed", 0, 1.0) + low)
    assert results[1].mean is None and "n/a" in table(results)


def test_results_are_written_whole(tmp_path):
    points = curve("mixed", 0, 1.0) + curve("ste", 0, 1.1)
    quantisers.write_results(tmp_path, settings("pictures"), points, compare(points), 1.5)
    contents = json.loads((tmp_path / "quantisers.json").read_text())
    assert contents["results"][1]["mean"] == pytest.approx(10) and "pictures" not in contents["settings"]
    assert len((tmp_path / "quantisers.csv").read_text().splitlines()) == 1 + len(points)
    assert (tmp_path / "quantisers.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "quantisers.svg").read_bytes()


def test_an_unknown_quantiser_is_named(tmp_path):
    arguments = ["study", "quantisers", "x", "--valid", "y", "-o", str(tmp_path), "--quantisers", "mixed,coin"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2 and "no quantiser 'coin'" in result.output
