"""``codec bench`` and its parts: turns, ratios, stages that sum to the whole, shares, tables and files."""

import json
import os
import re
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from cli.main import codec as codec_command
from codec import Codec
from codec.errors import CodecError
from codec.evaluation import bench as measuring
from codec.evaluation import stages
from codec.evaluation.anchors import ANCHORS, find_anchors
from codec.evaluation.bench import BATCHED, OURS, Coding, Measured, Peak
from codec.evaluation.stages import NETWORKS, STAGES, Clock, Stages
from codec.macs import multiply_adds, parameters
from codec.training.loop import export
from test_vector_entropy import CONFIGS
from test_vector_entropy import trainable as trainable_vq
from tiny import CONFIG, trainable

SIZE = (64, 64)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder of a tiny model."""
    folder = tmp_path_factory.mktemp("tiny")
    export(trainable(), folder)
    return folder


@pytest.fixture
def picture(tmp_path, photo):
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    return path


@pytest.fixture(autouse=True)
def short_products(monkeypatch):
    """The machine's peak is of no interest here."""
    monkeypatch.setattr(measuring, "matrix_peak", lambda kind, device: 100.0 if kind == "float32" else 200.0)


def run(*arguments):
    """Result of the command in this process."""
    result = CliRunner().invoke(codec_command, ["bench", *map(str, arguments)], prog_name="codec")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


# Measuring


@pytest.fixture(scope="module")
def measured(model, samples):
    """Two rounds over three pictures with two numbers of threads and two sizes; and the texts of the progress."""
    names = ("dog.png", "guitar.png", "lake.png")
    pictures = [(name, samples / name) for name in names]
    texts = []
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "matrix_peak", lambda kind, device: float(torch.get_num_threads()))
        found = measuring.bench(
            Codec(model), find_anchors(["webp", "jpeg"]), pictures, [SIZE, (80, 64)], (1, 2), 30, 2, step=texts.append
        )
    assert torch.get_num_threads() == before
    return found, texts


def test_every_codec_has_the_same_turns_on_the_same_pictures(measured):
    found, texts = measured
    codecs = [OURS, BATCHED, "webp", "jpeg"]
    assert list(found.qualities) == codecs and found.rounds == 2
    cells = {}
    for row in found.codings:
        cells.setdefault((row.round, row.threads, row.width, row.height), []).append(row)
    assert list(cells) == [(r, t, *size) for r in (1, 2) for t in (1, 2) for size in (SIZE, (80, 64))]
    for (number, *_), rows in cells.items():
        assert sorted(row.codec for row in rows) == sorted(codecs)
        assert {row.picture for row in rows} == {("dog.png", "guitar.png")[number - 1]}
        assert len({row.turn for row in rows}) == len(rows) and max(row.turn for row in rows) <= len(codecs)
        assert {row.quality for row in rows if row.codec == "jpeg"} == {found.qualities["jpeg"]}
        of = {row.codec: row.bytes for row in rows}
        assert of[OURS] == of[BATCHED]
    orders = {tuple(row.codec for row in sorted(rows, key=lambda row: row.turn)) for rows in cells.values()}
    assert len(orders) > 1  # drawn anew
    assert len(texts) == measuring.steps([1, 2], [1, 2], [1, 2], 2)


def test_stages_are_those_of_the_work_and_sum_to_the_whole(measured):
    found, _ = measured
    assert len(found.stages) == 2 * 2 * 2 * len(STAGES)
    for row in found.stages:
        assert tuple(row.seconds) == STAGES[row.direction]
        spent = {stage for stage, seconds in row.seconds.items() if seconds > 0}
        assert spent | {"g_s"} == set(STAGES[row.direction]), row  # an encoder needs no g_s for a photograph
        assert sum(row.seconds.values()) == pytest.approx(row.whole_s, rel=1e-9) and row.beside_s == 0


def test_work_of_several_threads_on_tiles_is_part_of_it(model, samples):
    found = measuring.bench(Codec(model), [], [("dog.png", samples / "dog.png")], [(2100, 64)], (2,), 30, 1)
    for row in found.stages:
        assert row.seconds["entropy"] > 0 and row.seconds["coding"] > 0 and row.beside_s > 0
        assert row.beside_s >= row.seconds["entropy"]  # tiles are not the main thread's
        assert sum(row.seconds.values()) == pytest.approx(row.whole_s + row.beside_s, rel=1e-9)
    assert {share.part for share in measuring.summarise(found, CONFIG).shares} == {"g_a", "h_a", "entropy", "g_s"}


def test_products_are_measured_with_each_number_of_threads(measured):
    found, _ = measured
    assert [(row.round, row.threads) for row in found.peaks] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert all(set(row.gflops.values()) == {float(row.threads)} for row in found.peaks)


def test_files_of_others_are_no_larger_than_ours(model, samples):
    coder, anchors = Codec(model), find_anchors(["webp", "jpeg"])
    pictures = [("dog.png", samples / "dog.png")]
    for quality in (20, 80):
        found = measuring.bench(coder, anchors, pictures, [SIZE], (1,), quality, 1)
        sizes = {row.codec: row.bytes for row in found.codings}
        for anchor in anchors:
            lowest = found.qualities[anchor.name] == anchor.qualities[0]
            assert lowest or sizes[anchor.name] <= sizes[OURS]


def test_anchors_are_told_the_number_of_threads(model, samples, monkeypatch):
    told = []
    compress = type(ANCHORS["jpeg"]).compress
    monkeypatch.setattr(
        type(ANCHORS["jpeg"]), "compress", lambda self, *a: told.append(self.threads) or compress(self, *a)
    )
    pictures = [("dog.png", samples / "dog.png")]
    anchors = [replace(ANCHORS["jpeg"], qualities=(50,))]
    measuring.bench(Codec(model), anchors, pictures, [SIZE], (1, 2), 30, 1)
    assert told == [1, 2, 1, 2]  # warming up, measuring


def test_no_round_is_begun_after_the_last_minute_but_one_is_measured(model, samples):
    found = measuring.bench(Codec(model), [], [("dog.png", samples / "dog.png")], [SIZE], (1,), 30, 50, 1e-9)
    assert found.rounds == 1 and {row.round for row in found.codings} == {1}


def test_watching_changes_no_bytes_and_leaves_no_trace(model, picture, tmp_path):
    coder = Codec(model)
    before = [set(vars(part)) for part in (coder.model, coder.model.engine, coder.model.latents.networks)]
    expected = coder.compress(picture, 40)
    stages.clock_stages(coder, picture, 40, tmp_path)
    assert (tmp_path / "stages.bin").read_bytes() == expected
    with Image.open(tmp_path / "stages.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(coder.decompress(expected)))
    after = [set(vars(part)) for part in (coder.model, coder.model.engine, coder.model.latents.networks)]
    assert after == before


def test_vector_quantised_latents_have_no_entropy_networks(picture, tmp_path):
    export(trainable_vq(), tmp_path / "vq")
    coder = Codec(tmp_path / "vq")
    found = stages.clock_stages(coder, picture, 40, tmp_path)
    for clock in found.values():
        assert clock.seconds["entropy"] == 0 and clock.seconds["coding"] > 0
    measured = measuring.bench(coder, [], [("photo.png", picture)], [SIZE], (1,), 40, 1)
    summary = measuring.summarise(measured, coder.model.config)
    assert [share.part for share in summary.shares] == ["g_a", "g_s"]
    assert [part.part for part in summary.parts] == ["g_a", "entropy", "g_s", "encoder", "decoder"]


def test_the_networks_between_two_levels_are_counted():
    config = CONFIGS["hvq"]
    N, width = config.N, config.entropy_width
    # h_s: at 1/64; at 1/32, depthwise and not; at 1/16. Then a mean for each channel, a class for each pair.
    wanted = 4 * N * N / 64**2 + (9 * N + 4 * N * width) / 32**2 + (9 + width) * width / 16**2
    wanted += width * (config.M + 3 * config.M // 4) / 16**2
    assert multiply_adds(config)["entropy"] == pytest.approx(wanted / 1e3)
    assert multiply_adds(CONFIGS["dvae"])["entropy"] == 0 and parameters(CONFIGS["dvae"])["entropy"] == 32 * 16 * 3
    assert parameters(config)["entropy"] > 32 * 16 * 3 + 8 * 16


def test_a_clock_counts_no_second_twice(monkeypatch):
    now = iter([0, 10, 11, 14, 20, 30])
    monkeypatch.setattr(stages, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    clock = Clock(("outer", "inner", "innermost"))
    innermost = clock.timed("innermost", lambda a, b: a + b)
    inner = clock.timed("inner", lambda a: innermost(a, 2))
    with clock.stage("outer"):  # 0 to 30
        assert inner(1) == 3  # 10 to 20, of which innermost 11 to 14
    assert clock.seconds == {"outer": 20, "inner": 7, "innermost": 3} and clock.whole_s == 30


def test_a_picture_is_cut_or_mirrored_and_never_resampled(photo):
    assert np.array_equal(stages.fit(photo, 100, 50), photo[39:89, 46:146])
    assert np.array_equal(stages.fit(photo, 192, 128), photo)
    large = stages.fit(photo, 600, 300)
    assert large.shape == (300, 600, 3)
    assert np.array_equal(large[86:214, 204:396], photo)
    assert np.array_equal(large[85], large[86]) and np.array_equal(large[:, 203], large[:, 204])


def test_the_made_up_picture_is_like_a_photograph_and_always_the_same(photo):
    made_up = measuring.made_up_picture(192, 128)
    assert made_up.shape == photo.shape and made_up.dtype == np.uint8
    assert np.array_equal(made_up, measuring.made_up_picture(192, 128))
    # Smooth as photographs are, and with more in it than a test card.
    sizes = [len(ANCHORS["webp"].compress(pixels, 80)) for pixels in (made_up, photo)]
    assert sizes[1] / 4 < sizes[0] < sizes[1] * 4


def test_matrix_products_are_measured(monkeypatch):
    monkeypatch.undo()
    for kind in ("float32", "bfloat16"):
        assert measuring.matrix_peak(kind, "cpu", seconds=0.01) > 0


def test_without_pytorch_there_is_no_bfloat16(monkeypatch):
    monkeypatch.setattr(measuring, "installed", lambda name: False)
    assert list(measuring._machine_peak("cpu")) == ["float32"]


def test_a_coder_with_sessions_of_its_own_is_told_the_threads(model, samples):
    coder, told = Codec(model), []
    coder.set_threads = told.append
    measuring.bench(coder, [], [("dog.png", samples / "dog.png")], [SIZE], (1, 2), 30, 1)
    assert told == [2, 1, 2, 1, 2]  # for the qualities, warming up, measuring


# What follows


def coding(number, codec, encode_s, decode_s, size=1000, threads=1):
    return Coding(number, threads, 100, 80, 0, codec, "a.png", 50, size, encode_s, decode_s)


def made_up(rounds=((1.0, 2.0), (4.0, 2.0), (2.0, 8.0)), threads=(1,)):
    """Rounds of (seconds of ours, of jpeg) to encode; decoding takes a tenth. Stages of 100 x 80 pixels."""
    codings, stages, peaks = [], [], []
    for count in threads:
        for number, seconds in enumerate(rounds, 1):
            # In another order in each round: pairs are made by round, not by place.
            row = [coding(number, c, s, s / 10, 1000 * number, count) for c, s in zip((OURS, "jpeg"), seconds)]
            row.append(coding(number, BATCHED, seconds[0], seconds[0], threads=count))
            codings += row[:: (-1) ** number]
            for direction, names in STAGES.items():
                of = {name: seconds[0] * (i + 1) for i, name in enumerate(names)}
                stages.append(Stages(number, count, 100, 80, direction, of, sum(of.values()), 0.0))
            peaks.append(Peak(number, count, {"float32": 10.0 * number, "bfloat16": 40.0 * number}))
    return Measured(len(rounds), {OURS: 50, BATCHED: 50, "jpeg": 30}, codings, stages, peaks)


def test_ratios_are_of_the_same_round():
    summary = measuring.summarise(made_up(), CONFIG)
    assert [speed.codec for speed in summary.speeds] == [OURS, BATCHED, "jpeg"]
    jpeg = summary.speeds[2]
    # 2, 0.5 and 4. The ratio of the medians would be 1.
    assert asdict(jpeg.encode_ratio) == {"median": 2.0, "low": 1.25, "high": 3.0}
    assert jpeg.decode_ratio.median == pytest.approx(2.0)
    assert (jpeg.encode_s.median, jpeg.decode_s.median) == (2.0, pytest.approx(0.2))
    # Of 2, 2 and 8 seconds: the quartiles are 2 and half of the way from the rate of 2 to that of 8.
    assert asdict(jpeg.encode_mpx_s) == pytest.approx({"median": 0.004, "low": 0.0025, "high": 0.004})
    assert jpeg.decode_mpx_s.median == pytest.approx(0.04)
    assert jpeg.bpp == pytest.approx(8 * 2000 / 8000) and jpeg.quality == 30
    assert asdict(summary.speeds[0].encode_ratio) == {"median": 1.0, "low": 1.0, "high": 1.0}


def test_threads_and_sizes_are_not_mixed():
    one, two = (made_up(rounds, threads) for rounds, threads in ((((1, 2),), (1,)), (((1, 3),), (2,))))
    both = Measured(1, one.qualities, *(getattr(one, f) + getattr(two, f) for f in ("codings", "stages", "peaks")))
    summary = measuring.summarise(both, CONFIG)
    ratios = {s.threads: s.encode_ratio.median for s in summary.speeds if s.codec == "jpeg"}
    assert ratios == {1: 2.0, 2: 3.0}


def test_random_weights_have_no_rate():
    summary = measuring.summarise(made_up(), CONFIG, ["jpeg"])
    assert [speed.bpp is None for speed in summary.speeds] == [False, False, True]


def test_stages_shown_are_of_the_round_in_the_middle():
    summary = measuring.summarise(made_up(), CONFIG)
    assert [(row.round, row.direction) for row in summary.stages] == [(3, "compress"), (3, "decompress")]
    even = measuring.summarise(made_up(((1.0, 1.0), (9.0, 1.0))), CONFIG)
    assert {row.round for row in even.stages} == {1}


def test_shares_are_flops_of_the_padded_picture_over_the_peak_of_the_round():
    summary = measuring.summarise(made_up(), CONFIG)
    macs = multiply_adds(CONFIG)
    assert {share.part for share in summary.shares} == set(macs)
    share = next(share for share in summary.shares if share.part == "g_s")
    place = STAGES["decompress"].index("g_s") + 1
    # 100 x 80 pixels become 128 x 128; ours took 1, 4 and 2 seconds, times the place.
    rates = [2 * macs["g_s"] * 1e3 * 128 * 128 / (s * place) / 1e9 for s in (1.0, 4.0, 2.0)]
    assert share.gflops.median == pytest.approx(sorted(rates)[1])
    of_peak = sorted(rate / peak for rate, peak in zip(rates, (10.0, 20.0, 30.0)))
    assert share.of_peak["float32"].median == pytest.approx(of_peak[1])
    assert share.of_peak["bfloat16"].median == pytest.approx(of_peak[1] / 4)


def test_work_is_divided_into_networks_and_the_rest():
    rows = []
    # Networks take 6 and 4 of 10 seconds, files 2, and waiting is no work.
    for number, entropy in ((1, 5.0), (2, 3.0)):
        of = {"read": 0.5, "coding": 8.0 - 1 - entropy, "entropy": entropy, "g_s": 1.0, "conversion": 0.0}
        of.update(write=1.5, wait=100.0, other=0.0)
        rows.append(Stages(number, 2, 100, 80, "decompress", of, 7.0, sum(of.values()) - 7))
    (work,) = stages.divided(rows)
    assert (work.threads, work.width, work.height, work.direction) == (2, 100, 80, "decompress")
    assert "wait" not in work.shares and sum(share.median for share in work.shares.values()) == pytest.approx(1)
    assert work.shares["write"].median == pytest.approx(0.15)
    assert asdict(work.rest) == pytest.approx({"median": 0.5, "low": 0.45, "high": 0.55})
    assert work.rest_in_memory.median == pytest.approx(1 - 5 / 8)
    assert work.whole_s.median == 7.0


def test_parts_are_counted():
    parts = {part.part: part for part in measuring.summarise(made_up(), CONFIG).parts}
    macs, counts = multiply_adds(CONFIG), parameters(CONFIG)
    assert list(parts) == ["g_a", "h_a", "entropy", "g_s", "encoder", "decoder"]
    assert all((parts[name].kmac_px, parts[name].parameters) == (macs[name], counts[name]) for name in macs)
    assert parts["encoder"].kmac_px == pytest.approx(macs["g_a"] + macs["h_a"] + macs["entropy"])
    assert parts["decoder"].parameters == counts["entropy"] + counts["g_s"]


# The command


def tables(text):
    """Heading -> rows of the Markdown table below it, each a list of cells; the first holds the heads."""
    found = {}
    for section in text.split("### ")[1:]:
        heading, _, *lines = section.strip().splitlines()
        assert len({len(line) for line in lines}) == 1, heading
        found[heading] = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|-" not in line]
    return found


def numbers(cell):
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", cell)]


def close(*values):
    return pytest.approx(list(values), rel=6e-3, abs=1e-9)  # three digits are printed


def test_the_tables_are_the_json_file(model, picture, tmp_path):
    path = tmp_path / "bench.json"
    result = run(
        picture, "--model", model, "--sizes", "80x64,64x64", "--threads", "2,1", "--repeats", "2",
        "--against", "jpeg", "--quality", "30", "--json", path,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert all(" steps, " in line for line in result.stderr.splitlines())  # of a slow machine
    found = json.loads(path.read_text(encoding="utf-8"))
    printed = tables(result.stdout)
    assert list(printed) == [
        "Parts of the model", "Speed, 1 thread", "Speed, 2 threads", "Stages of compress, milliseconds",
        "Stages of decompress, milliseconds", "Shares of compress, %", "Shares of decompress, %", "Matrix products",
        "Share of the matrix products",
    ]  # fmt: skip

    for cells, part in zip(printed["Parts of the model"][1:], found["parts"], strict=True):
        assert cells[:2] == [part["part"], part["runs_in"]]
        assert float(cells[2]) == pytest.approx(part["kmac_px"], abs=0.005)
    speeds = printed["Speed, 1 thread"][1:] + printed["Speed, 2 threads"][1:]
    for cells, speed in zip(speeds, found["speeds"], strict=True):
        assert cells[0] == f"{speed['width']}x{speed['height']}"
        assert cells[1] == {"jpeg": "JPEG 4:2:0"}.get(speed["codec"], speed["codec"])
        assert float(cells[3]) == pytest.approx(speed["bpp"], abs=5e-4)
        for direction, (ms, rate, ratio) in (("encode", cells[4:7]), ("decode", cells[7:])):
            spread = speed[f"{direction}_ratio"]
            assert numbers(ms) == close(1e3 * speed[f"{direction}_s"]["median"])
            assert numbers(rate) == close(*(speed[f"{direction}_mpx_s"][field] for field in ("median", "low", "high")))
            expected = [1] if speed["codec"] == "codec" else [spread["median"], spread["low"], spread["high"]]
            assert numbers(ratio) == close(*expected)
    for direction in STAGES:
        rows = [row for row in found["stages"] if row["direction"] == direction]
        heads, *lines = printed[f"Stages of {direction}, milliseconds"]
        assert heads == ["threads", "size", *STAGES[direction], "whole"]
        for cells, row in zip(lines, rows, strict=True):
            assert cells[:2] == [str(row["threads"]), f"{row['width']}x{row['height']}"]
            expected = [*row["seconds"].values(), row["whole_s"]]
            assert [float(cell) for cell in cells[2:]] == close(*(1e3 * seconds for seconds in expected))
        rows = [row for row in found["work"] if row["direction"] == direction]
        heads, *lines = printed[f"Shares of {direction}, %"]
        assert heads[2:-3] == [stage for stage in STAGES[direction] if stage != "wait"]
        for cells, row in zip(lines, rows, strict=True):
            assert cells[:2] == [str(row["threads"]), f"{row['width']}x{row['height']}"]
            assert [float(cell) for cell in cells[2:-3]] == close(*(100 * s["median"] for s in row["shares"].values()))
            assert numbers(cells[-3]) == close(*(100 * row["rest"][field] for field in ("median", "low", "high")))
            assert numbers(cells[-1])[:1] == close(1e3 * row["whole_s"]["median"])
    assert printed["Matrix products"][1:] == [[str(threads), "100 (100-100)", "200 (200-200)"] for threads in (1, 2)]
    for cells, share in zip(printed["Share of the matrix products"][1:], found["shares"], strict=True):
        assert cells[:3] == [str(share["threads"]), f"{share['width']}x{share['height']}", share["part"]]
        spread = share["of_peak"]["bfloat16"]
        assert numbers(cells[5]) == close(*(100 * spread[field] for field in ("median", "low", "high")))

    # The figures can be had again from the single times.
    measured = Measured(
        found["measured"]["rounds"], found["measured"]["qualities"],
        *([kind(**row) for row in found["measured"][name]] for name, kind in
          (("codings", Coding), ("stages", Stages), ("peaks", Peak))),
    )  # fmt: skip
    summary = measuring.summarise(measured, CONFIG)
    assert json.loads(json.dumps(asdict(summary))) == {name: found[name] for name in asdict(summary)}
    conditions = found["conditions"]
    assert (conditions["threads"], conditions["repeats"]) == ([1, 2], 2)
    assert conditions["codecs"]["codec"] == {"model": Codec(model).model_id, "device": "cpu"}
    assert conditions["cpu"] in result.stdout and conditions["date"] in result.stdout


def test_models_without_weights_run_with_random_ones_and_say_so(model, picture, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    result = run(
        picture, "--model", model, "--sizes", "64x64", "--threads", "1", "--repeats", "1",
        "--against", "compressai:bmshj2018-factorized", "--json", tmp_path / "bench.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    row = next(cells for cells in tables(result.stdout)["Speed, 1 thread"] if "factorized" in cells[1])
    assert row[1] == "bmshj2018-factorized, random weights" and row[3] == "-"
    found = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert found["conditions"]["untrained"] == ["compressai:bmshj2018-factorized"]
    assert found["speeds"][-1]["bpp"] is None


def test_a_profile_is_of_the_stages_alone(model, picture, tmp_path):
    path = tmp_path / "profile.json"
    result = run(
        picture, "--model", model, "--sizes", "80x64", "--threads", "1", "--repeats", "2", "--profile", "--json", path
    )
    assert result.exit_code == 0, result.output
    assert list(tables(result.stdout)) == [
        "Parts of the model", "Stages of compress, milliseconds", "Stages of decompress, milliseconds",
        "Shares of compress, %", "Shares of decompress, %",
    ]  # fmt: skip
    found = json.loads(path.read_text(encoding="utf-8"))
    assert [row["round"] for row in found["measured"]["stages"]] == [1, 1, 2, 2]
    of = {row["direction"]: row for row in found["work"]}
    for direction, names in STAGES.items():
        assert all(of[direction]["shares"][stage]["low"] > 0 for stage in {*NETWORKS} & {*names} - {"g_s"})
    result = run(picture, "--model", model, "--profile", "--against", "jpeg")
    assert result.exit_code == 2 and "--against" in result.stderr


def test_rivals_are_those_that_are_here(model, picture, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def lacks(self):
        raise CodecError("not here")

    monkeypatch.setattr(type(ANCHORS["avif"]), "check", lacks)
    monkeypatch.setattr(type(ANCHORS["jxl"]), "check", lacks)
    path = tmp_path / "bench.json"
    options = ("--model", model, "--sizes", "64x64", "--threads", "1", "--repeats", "1", "--json", path)
    result = run(picture, *options)
    assert result.exit_code == 0, result.output
    qualities = json.loads(path.read_text(encoding="utf-8"))["measured"]["qualities"]
    assert list(qualities) == [OURS, BATCHED, "jpeg", "webp", "compressai:mbt2018-mean"]


def test_pictures_are_those_of_the_checkout_or_made_up(model, monkeypatch, tmp_path):
    options = ("--model", model, "--sizes", "64x64", "--threads", "1", "--repeats", "1", "--against", "none")
    path = tmp_path / "bench.json"

    def pictures():
        result = run(*options, "--json", path)
        assert result.exit_code == 0, result.output
        return {row["picture"] for row in json.loads(path.read_text(encoding="utf-8"))["measured"]["codings"]}

    assert pictures() == {"colosseum.png"}
    monkeypatch.setattr("codec.__file__", str(tmp_path / "codec" / "__init__.py"))
    assert pictures() == {"made up"}


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["--sizes", "64"], "'64' is not a size such as 768x512", 2),
        (["--sizes", "64x0"], "'64x0' is not a size", 2),
        (["--sizes", "64x64,"], "'' is not a size", 2),
        (["--sizes", "70000x64"], "70000", 1),
        (["--threads", "0"], "--threads", 2),
        (["--repeats", "0"], "--repeats", 2),
        (["--quality", "101"], "101", 2),
        (["--max-minutes", "0"], "--max-minutes", 2),
        (["--against", "jpg"], "no anchor is called 'jpg'; there are jpeg, jpeg444, webp", 1),
        (["--against", "compressai:none"], "CompressAI has no model 'none'", 1),
        (["--against", "compressai:mbt2018-mean=folder"], "no weights of CompressAI's mbt2018-mean in folder", 1),
        (["--json", "nowhere/out.json"], "the folder nowhere does not exist", 1),
        (["--json", "."], "is a folder", 1),
        (["--json", "locked.json"], "locked.json: permission denied", 1),
        (["--device", "abacus"], "device abacus: ", 1),
        (["--model", "nothing"], "no model nothing", 1),
        (["missing.png"], "missing.png: no such file or folder", 1),
        (["empty.png"], "empty.png: the file is empty", 1),
    ],
)
def test_what_cannot_be_done_ends_in_one_clear_line(tmp_path, monkeypatch, arguments, message, status):
    monkeypatch.chdir(tmp_path)
    for name in ("empty.png", "locked.json"):
        (tmp_path / name).touch()
    access = os.access  # the tests may run as root, who may do everything
    monkeypatch.setattr(os, "access", lambda path, mode: "locked" not in str(path) and access(path, mode))
    monkeypatch.setattr(measuring._Run, "round", lambda self, number: pytest.fail("was begun"))
    result = run("--sizes", "64x64", "--against", "none", *arguments)
    assert result.exit_code == status, result.output
    assert message in result.stderr
    if status == 1:
        assert result.stderr.count("\n") == 1 and result.stderr.startswith("codec: ")
    assert "Traceback" not in result.output and result.stdout == ""


def test_a_size_beyond_a_format_is_said(model, picture):
    result = run(
        picture, "--model", model, "--sizes", "16448x1", "--threads", "1", "--repeats", "1", "--against", "webp"
    )
    assert result.exit_code == 1
    assert result.stderr == "codec: WebP: 16448 x 1 pixels; at most 16383 a side\n"


def test_an_anchor_that_fails_on_its_own_bytes_is_said(model, samples, monkeypatch):
    monkeypatch.setattr(type(ANCHORS["jpeg"]), "decompress", lambda self, data: Image.new("RGB", (7, 7)))
    with pytest.raises(CodecError, match="jpeg gave back 7 x 7 pixels for 64 x 64"):
        measuring.bench(Codec(model), find_anchors(["jpeg"]), [("dog.png", samples / "dog.png")], [SIZE], (1,), 30, 1)
