"""``codec evaluate`` and its parts: rows, means, monotonicity, comparisons, files, and the command itself."""

import csv
import json
import math
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import codec.evaluation
from cli.evaluate import evaluate as evaluate_command
from cli.main import codec as codec_command
from codec.errors import CodecError, ImageError
from codec.evaluation import rate_distortion as rd
from codec.evaluation.anchors import ANCHORS
from codec.evaluation.journal import Journal
from codec.evaluation.metrics import CAP_DB, METRICS, psnr_db, psnr_y_db, ssimulacra2
from codec.evaluation.process import cold, peak_bytes
from codec.image_io import read_picture
from codec.weights import encoder_settings, find_model
from jpeg_coder import Dying, Greedy, JpegCoder

COLUMNS = "codec,picture,width,height,quality,bytes,bpp,psnr_db,ms_ssim,encode_s,decode_s,psnr_y_db,ssimulacra2".split(
    ","
)


def entrant(qualities=(20, 40, 60, 80), name="codec", **attributes):
    coder = JpegCoder()
    for attribute, value in attributes.items():
        setattr(coder, attribute, value)
    return rd.Entrant(name, coder, qualities)


def row(quality, bpp, psnr, picture="a.png", codec="codec", ms_ssim=None, seconds=(0.0, 0.0)):
    return rd.Row(codec, picture, 100, 80, quality, round(bpp * 1000), bpp, psnr, ms_ssim, *seconds)


def run(*arguments, command=codec_command):
    """Result of a command in this process."""
    result = CliRunner().invoke(command, [str(argument) for argument in arguments], prog_name="codec")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def usable(name):
    """Whether what an anchor needs is installed here."""
    try:
        ANCHORS[name].check()
    except CodecError:
        return False
    return True


@pytest.fixture
def pictures(tmp_path, photo):
    """A folder with two small pictures, grey and colour, and a file that is none."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(photo[:48, :64]).save(folder / "b.png")
    Image.fromarray(photo[40:80, 100:160]).convert("L").save(folder / "a.png")
    (folder / "notes.txt").write_text("not a picture")
    return folder


@pytest.fixture
def fake_codec(monkeypatch):
    """``codec.Codec`` is a :class:`JpegCoder`; the number of threads is put back afterwards."""
    monkeypatch.setattr("codec.Codec", JpegCoder, raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


# Measuring


def test_a_row_is_about_the_real_file(photo):
    contender = entrant()
    measured = rd.measure(contender, "photo.png", photo, 60)
    data = contender.coder.compress(photo, 60)
    decoded = np.asarray(contender.coder.decompress(data))
    assert (measured.codec, measured.picture, measured.quality) == ("codec", "photo.png", 60)
    assert (measured.width, measured.height) == (192, 128)
    assert measured.bytes == len(data)
    assert measured.bpp == 8 * len(data) / (192 * 128)
    assert measured.psnr_db == psnr_db(photo, decoded)
    assert measured.psnr_y_db == psnr_y_db(photo, decoded)
    assert measured.ms_ssim is None  # 128 pixels are too few
    assert measured.ssimulacra2 is None  # not asked for
    assert measured.encode_s > 0 and measured.decode_s > 0


def test_every_picture_codec_and_quality_has_a_row(pictures):
    names = ["a.png", "b.png"]
    steps = []
    entrants = [entrant((10, 50)), rd.Entrant("webp", ANCHORS["webp"], (0, 30, 60))]
    rows = rd.evaluate([(name, pictures / name) for name in names], entrants, step=steps.append)
    assert [(r.picture, r.codec, r.quality) for r in rows] == [
        (name, codec, quality)
        for name in names
        for codec, qualities in (("codec", (10, 50)), ("webp", (0, 30, 60)))
        for quality in qualities
    ]
    assert steps == rows
    assert rows[2] == replace(
        rd.measure(entrants[1], "a.png", read_picture(pictures / "a.png").pixels, 0),
        encode_s=rows[2].encode_s,
        decode_s=rows[2].decode_s,
    )


def test_each_codec_warms_up_once(pictures):
    contender = entrant((10, 50, 90))
    rd.evaluate([(name, pictures / name) for name in ("a.png", "b.png")], [contender])
    assert contender.coder.calls == [50, 10, 50, 90, 10, 50, 90]


def test_only_the_metrics_asked_for_are_measured(photo):
    found = rd.measure(entrant(), "photo.png", photo, 60, ())
    assert (found.psnr_y_db, found.ms_ssim, found.ssimulacra2) == (None, None, None) and found.psnr_db > 20
    found = rd.measure(entrant(), "photo.png", photo, 60, ("ssimulacra2",))
    decoded = np.asarray(JpegCoder().decompress(JpegCoder().compress(photo, 60)))
    assert found.ssimulacra2 == ssimulacra2(photo, decoded) and found.psnr_y_db is None
    assert {metric.column for metric in METRICS.values()} <= set(COLUMNS)


def test_a_codec_that_has_something_to_load_loads_it_before_it_is_timed(pictures):
    class Loading(JpegCoder):
        def load(self):
            self.calls.append("load")

    contender = rd.Entrant("codec", Loading(), (10, 50))
    rd.evaluate([("a.png", pictures / "a.png")], [contender])
    assert contender.coder.calls == ["load", 50, 10, 50]


def without_times(rows):
    return [replace(row, encode_s=0, decode_s=0) for row in rows]


def test_workers_give_the_rows_of_a_single_process(pictures):
    paths = [(name, pictures / name) for name in ("notes.txt", "a.png", "b.png")]
    entrants = [entrant((10, 50, 90)), rd.Entrant("webp", ANCHORS["webp"], (0, 60))]
    entrants[0] = replace(entrants[0], make=JpegCoder)  # one is built by the worker, the other sent to it
    alone, together = [], []
    steps = []
    expected = rd.evaluate(paths, entrants, failed=lambda *failure: alone.append(failure))
    found = rd.evaluate(
        paths, entrants, step=steps.append, failed=lambda *failure: together.append(failure), workers=2, threads=1
    )
    assert without_times(found) == without_times(expected) and len(expected) == 10
    assert sorted(map(repr, without_times(steps))) == sorted(map(repr, without_times(expected)))
    assert [(name, str(error)) for name, error in together] == [(name, str(error)) for name, error in alone]
    assert [name for name, _ in together] == ["notes.txt"]


def test_errors_of_workers_are_those_of_a_single_process(pictures):
    paths = [("a.png", pictures / "a.png"), ("b.png", pictures / "b.png")]
    with pytest.raises(CodecError, match="a.png: codec gave back 7 x 7 pixels|b.png: codec gave back 7 x 7"):
        rd.evaluate(paths, [entrant(decoded_size=(7, 7))], workers=2)
    with pytest.raises(ImageError, match="too large"):
        rd.evaluate(paths, [entrant(limit=8)], workers=2)
    with pytest.raises(CodecError, match="a worker process was killed"):
        rd.evaluate(paths, [rd.Entrant("codec", Dying(), (50,))], workers=2)


def test_alpha_and_greyness_weigh_on_nobody(tmp_path, photo):
    Image.fromarray(photo).convert("L").save(tmp_path / "grey.png")
    image = Image.fromarray(photo)
    image.putalpha(200)
    image.save(tmp_path / "alpha.png")
    for name in ("grey.png", "alpha.png"):
        pixels = read_picture(tmp_path / name).pixels
        (measured,) = rd.evaluate([(name, tmp_path / name)], [entrant((50,))])
        assert measured.bytes == len(JpegCoder().compress(pixels, 50))


def test_a_picture_that_one_codec_refuses_is_left_out_for_all(tmp_path, photo):
    Image.fromarray(photo[:32, :32]).save(tmp_path / "small.png")
    Image.fromarray(photo[:32, :64]).save(tmp_path / "large.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    paths = [(name, tmp_path / name) for name in ("broken.png", "large.png", "small.png")]
    entrants = [entrant(name="any size"), entrant(name="small only", limit=32)]

    failures = []
    rows = rd.evaluate(paths, entrants, failed=lambda name, error: failures.append((name, str(error))))
    assert {(r.picture, r.codec) for r in rows} == {("small.png", "any size"), ("small.png", "small only")}
    assert [name for name, _ in failures] == ["broken.png", "large.png"]
    assert failures[1][1] == "large.png: too large for this coder"
    # The warm-up was done on the first picture that could be used.
    assert len(entrants[1].coder.calls) == 1 + len(entrants[1].qualities)

    with pytest.raises(ImageError):
        rd.evaluate(paths, entrants)


def test_a_codec_that_gives_back_another_size_ends_the_evaluation(pictures):
    failures = []
    with pytest.raises(CodecError, match="b.png: codec gave back 63 x 48 pixels for 64 x 48"):
        rd.evaluate(
            [("b.png", pictures / "b.png")],
            [entrant(decoded_size=(63, 48))],
            failed=lambda *failure: failures.append(failure),
        )
    assert not failures


def test_a_picture_that_comes_back_in_another_mode_is_compared_as_rgb(photo, monkeypatch):
    grey = np.repeat(photo[..., :1], 3, axis=2)
    for mode in ("L", "RGBA"):
        monkeypatch.setattr(JpegCoder, "decompress", lambda self, data: Image.fromarray(grey).convert(mode))
        assert rd.measure(entrant(), "grey.png", grey, 50).psnr_db == CAP_DB


# Going on where a run was stopped


def interrupted_after(number):
    """A step that stops the run as Ctrl-C would."""
    seen = []

    def step(row):
        seen.append(row)
        if len(seen) == number:
            raise KeyboardInterrupt

    return step


def test_a_stopped_run_goes_on_where_it_was(pictures, tmp_path):
    paths = [(name, pictures / name) for name in ("a.png", "b.png")]
    file = tmp_path / "rows.jsonl"
    with pytest.raises(KeyboardInterrupt), Journal(file, rd.Row) as journal:
        rd.evaluate(paths, [entrant((10, 50, 90))], step=interrupted_after(4), journal=journal)

    contender, steps = entrant((10, 50, 90)), []
    with Journal(file, rd.Row) as journal:
        rows = rd.evaluate(paths, [contender], step=steps.append, journal=journal)
    assert journal.found == 4
    assert contender.coder.calls == [50, 50, 90]  # the warm-up, and what was missing
    assert steps == rows
    assert without_times(rows) == without_times(rd.evaluate(paths, [entrant((10, 50, 90))]))

    contender = entrant((10, 50, 90))
    with Journal(file, rd.Row) as journal:
        assert rd.evaluate(paths, [contender], journal=journal) == rows  # times included
    assert contender.coder.calls == []


@pytest.mark.parametrize("change", ["picture", "settings", "name", "quality", "metrics", "conditions"])
def test_rows_of_other_settings_are_not_taken(pictures, tmp_path, change):
    paths, file = [("a.png", pictures / "a.png")], tmp_path / "rows.jsonl"
    contender = replace(entrant((10,)), settings={"model": "0badcafe", "qualities": (10,)})
    with Journal(file, rd.Row, {"torch": "2.0"}) as journal:
        rd.evaluate(paths, [contender], journal=journal)

    common, metrics = {"torch": "2.0"}, rd.DEFAULT_METRICS
    again = replace(contender, settings={"model": "0badcafe", "qualities": (10, 20)})
    with Journal(file, rd.Row, common) as journal:
        rd.evaluate(paths, [again], metrics=tuple(reversed(metrics)), journal=journal)
        assert journal.found == 1  # neither the other qualities nor the order of the metrics matter

    if change == "picture":
        with Image.open(pictures / "a.png") as image:
            image.rotate(180).save(pictures / "a.png")
    elif change == "settings":
        contender = replace(contender, settings={"model": "deadbeef"})
    elif change == "name":
        contender = replace(contender, name="other")
    elif change == "quality":
        contender = replace(contender, qualities=(10.5,))
    elif change == "metrics":
        metrics = ("psnr",)
    else:
        common = {"torch": "2.1"}
    with Journal(file, rd.Row, common) as journal:
        rd.evaluate(paths, [contender], metrics=metrics, journal=journal)
    assert journal.found == 0
    assert len(file.read_text().splitlines()) == 3  # what the file is, and both rows


def test_a_file_cut_anywhere_loses_no_more_than_the_row_at_the_cut(pictures, tmp_path):
    paths, file = [("a.png", pictures / "a.png")], tmp_path / "rows.jsonl"
    with Journal(file, rd.Row) as journal:
        expected = rd.evaluate(paths, [entrant((10, 50))], journal=journal)
    whole = file.read_bytes()
    ends = [position + 1 for position, byte in enumerate(whole) if byte == ord("\n")]
    for cut in {0, 1, *(end + shift for end in ends for shift in (-1, 0, 9) if end + shift <= len(whole))}:
        file.write_bytes(whole[:cut])
        with Journal(file, rd.Row) as journal:
            rows = rd.evaluate(paths, [entrant((10, 50))], journal=journal)
        # A row without its end of line is whole.
        assert journal.found == sum(cut >= end - 1 for end in ends[1:])
        assert without_times(rows) == without_times(expected)
        with Journal(file, rd.Row) as journal:
            assert rd.evaluate(paths, [entrant((10, 50))], journal=journal) == rows
        assert journal.found == 2


def test_a_file_that_is_no_journal_is_left_alone(pictures):
    before = (pictures / "a.png").read_bytes()
    for name in ("a.png", "notes.txt"):
        with pytest.raises(CodecError, match=f"{name}: holds no rows"):
            Journal(pictures / name, rd.Row)
    assert (pictures / "a.png").read_bytes() == before


def test_equal_pictures_of_two_names_share_rows_under_their_own_names(pictures, tmp_path):
    (pictures / "c.png").write_bytes((pictures / "a.png").read_bytes())
    with Journal(tmp_path / "rows.jsonl", rd.Row) as journal:
        rd.evaluate([("a.png", pictures / "a.png")], [entrant((10,))], journal=journal)
    with Journal(tmp_path / "rows.jsonl", rd.Row) as journal:
        (row,) = rd.evaluate([("c.png", pictures / "c.png")], [entrant((10,))], journal=journal)
    assert row.picture == "c.png" and journal.found == 1


# Fresh processes


def test_a_fresh_process_is_timed_and_its_memory_is_its_own(photo):
    hoard = np.ones(300_000_000, np.uint8)  # of the parent; the child must not be charged with it
    found = cold(rd.Entrant("codec", Greedy(), (50,)), "photo.png", photo, 50, runs=1)
    del hoard
    assert (found.codec, found.picture, found.quality, found.runs) == ("codec", "photo.png", 50, 1)
    assert (found.width, found.height) == (192, 128)
    assert found.encode_s > 0 and found.decode_s > 0
    if found.encode_peak_bytes is None:
        pytest.skip("this system does not tell the peak memory of a process")
    assert found.encode_peak_bytes > found.decode_peak_bytes + 150_000_000
    if sys.platform == "linux":
        assert found.decode_peak_bytes < peak_bytes() - 100_000_000


def test_a_fresh_process_builds_the_codec_itself(photo):
    found = cold(rd.Entrant("codec", None, (50,), make=JpegCoder), "photo.png", photo, 50, runs=1)
    assert found.encode_s > 0
    with pytest.raises(CodecError, match="a fresh process failed: .*too large for this coder"):
        cold(entrant(limit=1), "photo.png", photo, 50, runs=1)


# What follows from the rows


def test_means_give_every_picture_the_same_weight():
    rows = [
        row(50, 1.0, 30.0, "a", ms_ssim=0.9, seconds=(0.1, 0.3)),
        row(50, 2.0, 40.0, "b", ms_ssim=None, seconds=(0.3, 0.5)),
        row(10, 0.5, 25.0, "a"),
        row(10, 0.7, 26.0, "b"),
    ]
    low, high = rd.mean_curve(rows)
    assert (low.quality, low.pictures) == (10, 2) and (high.quality, high.pictures) == (50, 2)
    assert (low.bpp, low.psnr_db) == pytest.approx((0.6, 25.5))
    assert (low.ms_ssim, low.ms_ssim_db) == (None, None)
    assert (high.bpp, high.psnr_db) == pytest.approx((1.5, 35.0))
    assert (high.ms_ssim, high.ms_ssim_db) == pytest.approx((0.9, 10.0))  # of the pictures that have one
    assert (high.encode_s, high.decode_s) == pytest.approx((0.2, 0.4))


def test_seconds_are_medians():
    rows = [row(50, 1.0, 30.0, name, seconds=(s, 2 * s)) for name, s in (("a", 0.1), ("b", 0.2), ("c", 9.0))]
    (mean,) = rd.mean_curve(rows)
    assert (mean.encode_s, mean.decode_s) == (0.2, 0.4)


def test_violations_name_the_picture_and_the_step():
    good = [row(10, 0.2, 30), row(20, 0.3, 31), row(30, 0.4, 32)]
    assert rd.violations(good) == []
    assert rd.violations(good[::-1]) == []

    falling_rate = [row(10, 0.2, 30, "x"), row(20, 0.19, 31, "x"), row(30, 0.4, 32, "x")]
    falling_psnr = [row(10, 0.2, 30, "y"), row(20, 0.3, 31, "y"), row(30, 0.4, 30.9, "y")]
    standing_still = [row(10, 0.2, 30, "z"), row(20, 0.2, 30, "z")]
    found = rd.violations(good + falling_rate + falling_psnr + standing_still)
    assert [(violation.picture, violation.quality) for violation in found] == [
        ("x", (10, 20)), ("y", (20, 30)), ("z", (10, 20))
    ]  # fmt: skip
    assert str(found[0]) == "x: quality 10 -> 20: bpp 0.2000 -> 0.1900, PSNR 30.000 -> 31.000 dB"


def test_a_picture_that_comes_back_identical_cannot_get_better():
    assert rd.violations([row(10, 0.2, CAP_DB), row(20, 0.3, CAP_DB)]) == []
    assert len(rd.violations([row(10, 0.2, CAP_DB), row(20, 0.2, CAP_DB)])) == 1
    assert len(rd.violations([row(10, 0.2, CAP_DB), row(20, 0.3, 60.0)])) == 1


def ladder(picture, codec, factor, offset=0.0):
    rates = (0.1, 0.3, 0.7, 1.2, 2.0)
    return [
        row(10 * step, factor * bpp, 36 + offset + 3 * math.log2(bpp), picture, codec) for step, bpp in enumerate(rates)
    ]


def test_comparison_of_means_and_of_each_picture():
    anchor = ladder("a", "jpeg", 1) + ladder("b", "jpeg", 1, offset=4)
    test = ladder("a", "codec", 0.5) + ladder("b", "codec", 0.9, offset=4)
    found = rd.compare(anchor, test)
    assert {name: figure.percent for name, figure in found.per_picture.items()} == pytest.approx({"a": -50, "b": -10})
    assert found.per_picture_mean_percent == pytest.approx(-30)
    assert found.overall.percent == pytest.approx(-30)
    assert list(found.bands) == ["0.1-0.5 bpp", "0.5-1.5 bpp"]
    assert found.bands["0.1-0.5 bpp"].bpp == pytest.approx((0.1, 0.5))
    assert found.bands["0.5-1.5 bpp"].bpp[0] == pytest.approx(0.5)


def test_a_picture_without_a_curve_does_not_spoil_the_mean_of_pictures():
    lossless = [row(q, 0.1 + q, CAP_DB, "flat", "jpeg") for q in range(5)]
    found = rd.compare(ladder("a", "jpeg", 1) + lossless, ladder("a", "codec", 0.5) + lossless)
    assert found.per_picture["flat"] is None
    assert found.per_picture_mean_percent == pytest.approx(-50)


def wavering(codec, factor, pictures=12, seed=4):
    """Rows of pictures on which the codec needs ``factor`` as many bits, more or less."""
    draw = np.random.default_rng(seed)
    rows = []
    for index in range(pictures):
        rows += ladder(f"{index:02}.png", codec, factor * draw.uniform(0.9, 1.1))
    return rows


def test_confidence_intervals_hold_the_figures_and_narrow_with_more_pictures():
    def width(pictures):
        rows = wavering("jpeg", 1, pictures) + wavering("codec", 0.7, pictures, seed=5)
        found = rd.summarise(rows, "codec", ["jpeg"], resamples=200).bd_rate["jpeg"]
        for name, (low, high) in found.percent_interval.items():
            figure = found.overall if name == "overall" else found.bands[name]
            assert low < figure.percent < high
        for name, (low, high) in found.db_interval.items():
            assert low < found.bd_psnr[name].db < high
        assert list(found.percent_interval) == list(found.db_interval) == list(rd.RANGES)
        low, high = found.percent_interval["overall"]
        return high - low

    assert width(100) < 0.6 * width(8)


def test_intervals_are_those_of_the_means_over_resampled_pictures():
    jpeg, ours = wavering("jpeg", 1, 9), wavering("codec", 0.7, 9, seed=5)
    found = rd.compare(jpeg, ours, resamples=40)

    def drawn(rows, chosen):
        return [
            replace(row, picture=f"{position}")
            for position, index in enumerate(chosen)
            for row in rows
            if row.picture == f"{index:02}.png"
        ]

    draw = np.random.default_rng(rd.SEED)
    figures = []
    for _ in range(40):
        chosen = draw.integers(9, size=9)
        figures.append(rd.compare(drawn(jpeg, chosen), drawn(ours, chosen)).overall.percent)
    assert found.percent_interval["overall"] == pytest.approx(np.percentile(figures, [2.5, 97.5]))


def test_the_same_rows_give_the_same_intervals_in_any_order():
    rows = wavering("jpeg", 1, 9) + wavering("codec", 0.7, 9, seed=5)
    one, other = (rd.summarise(order, "codec", ["jpeg"], resamples=30) for order in (rows, rows[::-1]))
    assert one.bd_rate["jpeg"].percent_interval == other.bd_rate["jpeg"].percent_interval


def test_fewer_than_eight_pictures_have_no_interval():
    for pictures, given in ((1, False), (7, False), (8, True)):
        jpeg = [row for index in range(pictures) for row in ladder(str(index), "jpeg", 1)]
        ours = [row for index in range(pictures) for row in ladder(str(index), "codec", 0.5)]
        found = rd.compare(jpeg, ours, resamples=10)
        for intervals in (found.percent_interval, found.db_interval):
            assert all((figure is not None) == given for figure in intervals.values())
    assert found.bd_psnr["overall"].db == pytest.approx(3)  # half the bits at 3 dB an octave


def test_bd_rates_by_other_metrics_need_them_on_every_picture():
    def rows(codec, factor):
        figures = {"psnr_y_db": 31.0, "ssimulacra2": 20.0, "ms_ssim": 0.9}
        found = ladder("a", codec, factor) + ladder("b", codec, factor)
        for index, row in enumerate(found):
            rise = index % 5
            values = {
                "psnr_y_db": figures["psnr_y_db"] + 2 * rise, "ssimulacra2": 20.0 + 10 * rise,
                "ms_ssim": None if index == 0 else 1 - 0.1 * 2.0**-rise,
            }  # fmt: skip
            found[index] = replace(row, **values)
        return found

    found = rd.compare(rows("jpeg", 1), rows("codec", 0.8), resamples=10)
    assert {key: figure.percent for key, figure in found.by_metric.items()} == pytest.approx(
        {"psnr_y": -20, "ssimulacra2": -20}
    )
    assert found.by_metric["ssimulacra2"].psnr_db == (20, 60)  # in the metric's own unit
    assert set(found.by_metric_interval) == {"psnr_y", "ssimulacra2"}


def test_a_codec_is_zero_per_cent_from_itself():
    rows = ladder("a", "jpeg", 1) + ladder("a", "codec", 1)
    found = rd.summarise(rows, "codec", ["jpeg"]).bd_rate["jpeg"]
    figures = [found.overall, *found.bands.values()]
    assert [figure.percent for figure in figures] == pytest.approx([0, 0, 0], abs=1e-9)


# Files


def test_csv_has_the_promised_columns_and_full_numbers(tmp_path):
    rows = [row(10, 1 / 3, 30 + 1 / 7, "sun, moon.png"), row(12.5, 0.5, 33.0, "ä.png", ms_ssim=0.98)]
    rd.write_csv(tmp_path / "rows.csv", rows)
    with open(tmp_path / "rows.csv", newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert list(first) == COLUMNS
    assert (first["picture"], first["quality"], first["ms_ssim"]) == ("sun, moon.png", "10", "")
    assert (float(first["bpp"]), float(first["psnr_db"])) == (1 / 3, 30 + 1 / 7)
    assert (second["picture"], second["quality"], second["ms_ssim"]) == ("ä.png", "12.5", "0.98")


def test_json_holds_conditions_summary_and_rows(tmp_path):
    rows = ladder("a", "jpeg", 1) + ladder("a", "codec", 0.5) + [row(10, 0.1, 20.0, "a", "webp")]
    summary = rd.summarise(rows, "codec", ["jpeg", "webp"])
    rd.write_json(tmp_path / "all.json", {"date": "today"}, summary, rows)
    found = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    assert list(found) == ["conditions", "means", "violations", "bd_rate", "cold", "rows"]
    assert found["bd_rate"]["jpeg"]["overall"]["percent"] == pytest.approx(-50)
    assert found["bd_rate"]["jpeg"]["bands"]["0.1-0.5 bpp"]["bpp"] == pytest.approx([0.1, 0.5])
    assert found["bd_rate"]["webp"]["overall"] is None
    assert [mean["bpp"] for mean in found["means"]["codec"]] == [r.bpp for r in rows[5:10]]
    assert list(found["rows"][0]) == COLUMNS and len(found["rows"]) == len(rows)


def test_conditions_name_versions_processor_and_threads():
    found = rd.conditions()
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["numpy"] == np.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["cpu"] and found["cores"] >= 1
    assert found["date"].endswith("Z")
    json.dumps(found, allow_nan=False)


# The command


def test_the_printed_tables(pictures, fake_codec, monkeypatch):
    monkeypatch.setattr(rd, "MIN_PICTURES", 2)
    options = ("--qualities", "80,20,40,60,40", "--against", "jpeg444,webp", "--bootstrap", "20")
    result = run("evaluate", pictures, *options, "--metrics", "psnr_y,ms_ssim")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0].startswith("2 pictures; ")
    assert "codec, model 0badcafe, cpu" in lines
    start = lines.index("codec, model 0badcafe, cpu")
    assert lines[start + 1].split() == ("quality bpp PSNR dB PSNR-Y dB MS-SSIM MS-SSIM dB encode s decode s".split())
    assert [line.split()[0] for line in lines[start + 2 : start + 6]] == ["20", "40", "60", "80"]
    assert lines[start + 2].split()[4:6] == ["-", "-"]  # pictures too small for MS-SSIM
    assert "jpeg444: JPEG 4:4:4 (Pillow, optimize=True, subsampling=4:4:4)" in lines
    assert "webp: WebP (Pillow, method=6)" in lines
    assert "codec: rate and PSNR are monotone on all 2 pictures" in lines
    jpeg444 = next(line for line in lines if line.startswith("JPEG 4:4:4 "))
    # Our stand-in is the same JPEG without optimised tables, and so spends more.
    assert 0 < float(jpeg444.split()[2]) < 100
    assert jpeg444.count(" dB)") + jpeg444.count("n/a") == 3
    below = lines[lines.index(jpeg444) + 1]
    low, high = map(float, below.split("]")[0].strip(" [").split(","))
    assert low <= float(jpeg444.split()[2]) <= high
    assert any(line.startswith("BD-PSNR of codec") for line in lines)
    start = lines.index("BD-rate of codec by PSNR, picture by picture")
    own = dict(re.findall(r"(\S+\.png) ([+-]\S+?)(?:,|$)", lines[start + 2]))
    assert sorted(own) == ["a.png", "b.png"] and list(own.values()) == sorted(own.values(), key=float, reverse=True)
    assert float(lines[start + 2].split()[2]) == pytest.approx(np.mean([float(own[name]) for name in own]), abs=0.11)
    assert max(map(len, lines)) <= 110


def test_all_metrics_and_long_names_fit_the_page(pictures, fake_codec):
    names = [name for name in ANCHORS if usable(name)]
    options = ("--qualities", "20,40,60,80", "--against", ",".join(names), "--bootstrap", "10")
    result = run("evaluate", pictures / "b.png", *options)
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= 110
    assert "SSIMULACRA2" in result.stdout
    for name in names:
        assert f"\n{name}: {ANCHORS[name].title} (" in result.stdout


def test_several_workers_print_no_times_but_the_same_figures(pictures, fake_codec, tmp_path):
    options = ("--qualities", "20,40,60,80", "--against", "jpeg444", "--bootstrap", "20", "--threads", "2")
    alone = run("evaluate", pictures, *options, "--json", tmp_path / "alone.json")
    result = run("evaluate", pictures, *options, "--workers", "2", "--json", tmp_path / "together.json")
    assert result.exit_code == 0, result.output
    assert "2 workers (times are not comparable, and not shown)" in result.stdout.splitlines()[0]
    assert " s" not in next(line for line in result.stdout.splitlines() if line.strip().startswith("quality"))
    tables = [output.stdout[output.stdout.index("BD-rate of codec") :] for output in (alone, result)]
    assert tables[0] == tables[1]
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("alone", "together"))
    assert one["bd_rate"] == two["bd_rate"]
    assert (one["conditions"]["times_comparable"], two["conditions"]["times_comparable"]) == (True, False)
    assert two["conditions"]["workers"] == 2


def test_a_second_run_takes_its_rows_from_the_file(pictures, fake_codec, tmp_path):
    options = ("--qualities", "20,80", "--against", "jpeg444", "--resume", tmp_path / "rows.jsonl")
    first = run("evaluate", pictures, *options, "--csv", tmp_path / "first.csv")
    assert first.exit_code == 0, first.output
    second = run("evaluate", pictures, *options, "--csv", tmp_path / "second.csv")
    assert f"28 of 28 rows from {tmp_path / 'rows.jsonl'}" in second.stdout
    assert (tmp_path / "first.csv").read_bytes() == (tmp_path / "second.csv").read_bytes()
    more = run("evaluate", pictures, *options, "--qualities", "20,50,80")
    assert "28 of 30 rows" in more.stdout


def test_cold_times_and_memory_are_printed_and_written(pictures, fake_codec, tmp_path, monkeypatch):
    monkeypatch.setattr("codec.evaluation.process.RUNS", 1)
    options = ("--qualities", "20,40,80", "--against", "webp", "--cold", "--json", tmp_path / "out.json")
    result = run("evaluate", pictures, *options, "--bootstrap", "0")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out.json").read_text())["cold"]
    assert list(found) == ["codec", "webp"]
    assert (found["codec"]["quality"], found["webp"]["quality"]) == (40, 50)
    assert "A fresh process for one picture (a.png, 60 x 40)" in result.stdout
    assert result.stdout.splitlines()[-1].split()[:2] == ["webp", "50"]


def test_programs_get_what_the_command_writes(pictures, fake_codec, tmp_path):
    options = {"qualities": (20, 40, 60, 80), "against": ["webp"], "resamples": 0}
    paths = [pictures / "a.png", pictures / "b.png"]
    found = codec.evaluation.evaluate([(path.name, path) for path in paths], **options)
    assert found.entrants[1].name == "webp" and found.summary.bd_rate["webp"].overall is not None
    found.save(tmp_path / "python.json", tmp_path / "figures.csv", tmp_path / "page.html")
    result = run(
        "evaluate", *paths, "--qualities", "20,40,60,80", "--against", "webp", "--bootstrap", "0", "--json", "-"
    )
    assert result.exit_code == 0, result.output
    ours, theirs = json.loads((tmp_path / "python.json").read_text()), json.loads(result.stdout)
    assert ours["bd_rate"] == theirs["bd_rate"] and ours["conditions"]["codecs"] == theirs["conditions"]["codecs"]
    assert [row["bytes"] for row in ours["rows"]] == [row["bytes"] for row in theirs["rows"]]
    assert found.answer()["needs"][0] in (tmp_path / "page.html").read_text()
    assert (tmp_path / "figures.csv").read_text().startswith("what,codec,against,")
    assert evaluation_of_paths(paths[:1], options) == [str(paths[0])]


def evaluation_of_paths(paths, options):
    """Names that pictures get which are given as paths alone."""
    rows = codec.evaluation.evaluate(paths, **{**options, "against": []}).rows
    return list(dict.fromkeys(row.picture for row in rows))


def test_a_result_of_an_unknown_kind_is_refused_before_anything_is_written(pictures, fake_codec, tmp_path):
    found = codec.evaluation.evaluate([pictures / "a.png"], qualities=(50,), against=[], resamples=0)
    with pytest.raises(ValueError, match=r"results.xlsx: results are written as .json, .csv, .html"):
        found.save(tmp_path / "results.json", tmp_path / "results.xlsx")
    assert not (tmp_path / "results.json").exists()
    with pytest.raises(CodecError, match="no metric is called 'vmaf'"):
        codec.evaluation.evaluate([pictures / "a.png"], metrics=["vmaf"])


def test_violations_are_printed_with_the_picture(pictures, fake_codec, monkeypatch):
    compress = JpegCoder.compress
    monkeypatch.setattr(JpegCoder, "compress", lambda self, image, q: compress(self, image, 100 - q))
    result = run("evaluate", pictures, "--qualities", "20,80", "--against", "none")
    assert result.exit_code == 0
    assert "codec: rate and PSNR are NOT monotone on 2 of 2 pictures\n" in result.stdout
    for name in ("a.png", "b.png"):
        assert f"\n  {name}: quality 20 -> 80: bpp " in result.stdout
    assert "BD-rate" not in result.stdout


def test_options_reach_the_codec(pictures, fake_codec, tmp_path):
    result = run(
        "evaluate", pictures / "b.png", "--qualities", "12.5,50", "--against", "none", "--threads", "1",
        "--json", tmp_path / "out.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert ", 1 thread\n" in result.stdout
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["conditions"]["threads"] == 1
    own = {"model": "0badcafe", "device": "cpu", "qualities": [12.5, 50], **encoder_settings(find_model())}
    assert found["conditions"]["codecs"] == {"codec": own}
    assert [(r["picture"], r["quality"]) for r in found["rows"]] == [("b.png", 12.5), ("b.png", 50)]
    assert found["bd_rate"] == {}


def test_files_of_one_name_stay_apart(pictures, fake_codec, tmp_path):
    other = tmp_path / "other" / "a.png"
    other.parent.mkdir()
    other.write_bytes((pictures / "a.png").read_bytes())
    options = ("--qualities", "50", "--against", "none", "--csv", tmp_path / "out.csv")
    result = run("evaluate", pictures, pictures / "a.png", other, *options)
    assert result.exit_code == 0, result.output
    with open(tmp_path / "out.csv", newline="") as file:
        names = [line["picture"] for line in csv.DictReader(file)]
    assert names == [(pictures / "a.png").as_posix(), "b.png", other.as_posix()]  # each file once

    result = run("evaluate", tmp_path, "--recursive", *options)
    assert result.exit_code == 0, result.output
    with open(tmp_path / "out.csv", newline="") as file:
        names = {line["picture"] for line in csv.DictReader(file)}
    assert names == {"other/a.png", "pictures/a.png", "pictures/b.png"}


def test_a_picture_that_cannot_be_read_is_named_and_the_others_are_measured(pictures, fake_codec):
    (pictures / "c.png").write_bytes(b"")
    result = run("evaluate", pictures, "--qualities", "20,80", "--against", "none")
    assert result.exit_code == 1
    assert result.stdout.startswith("2 pictures; ")
    assert result.stderr.splitlines() == [
        f"codec: {pictures / 'c.png'}: the file is empty", "codec: 1 of 3 pictures left out"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["missing.png"], "missing.png: no such file or folder", 1),
        (["empty"], "files in this folder", 1),
        (["pictures", "--against", "jpg"], "no anchor is called 'jpg'; there are jpeg, jpeg444, webp", 1),
        (["pictures", "--against", "avif,compressai:none"], "CompressAI has no model 'none'", 1),
        (["pictures", "--metrics", "psnr,vmaf"], "no metric is called 'vmaf'; there are psnr, psnr_y", 1),
        (["pictures", "--resume", "pictures/notes.txt"], "notes.txt: holds no rows of codec evaluate", 1),
        (["pictures", "--workers", "0"], "--workers", 2),
        (["pictures", "--csv", "nowhere/out.csv"], "the folder nowhere does not exist", 1),
        (["pictures", "--json", "pictures"], "pictures: is a folder", 1),
        (["pictures/notes.txt"], "none of the pictures could be used", 1),
        (["pictures", "--qualities", "10,x"], "'x' is not a valid", 2),
        (["pictures", "--qualities", "10,101"], "101", 2),
        (["pictures", "--qualities", ""], "is not a valid", 2),
        (["-"], "not from standard input", 2),
        ([], "Missing argument", 2),
    ],
)
def test_what_cannot_be_done_ends_in_one_clear_line(
    pictures, fake_codec, tmp_path, monkeypatch, arguments, message, status
):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    result = run("evaluate", *arguments)
    assert result.exit_code == status, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output and result.stdout == ""


def test_a_missing_extra_is_named(pictures, fake_codec, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = run("evaluate", pictures)
    assert result.exit_code == 1
    assert result.stderr == 'codec: evaluate needs SciPy: pip install ".[eval]" in the folder of the sources\n'


# End to end


def test_the_shipped_model_from_pictures_to_files(tmp_path, samples):
    import codec

    crops = {"dog.png": (150, 200, 176, 168), "guitar.png": (120, 60, 161, 200)}
    for name, (top, left, height, width) in crops.items():
        with Image.open(samples / name) as image:
            image.crop((left, top, left + width, top + height)).save(tmp_path / name)

    result = run(
        tmp_path, "--qualities", "10,40,70,100", "--bootstrap", "20",
        "--csv", tmp_path / "out.csv", "--json", tmp_path / "out.json",
        command=evaluate_command,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "BD-rate" in result.stdout and "monotone" in result.stdout

    with open(tmp_path / "out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    # One set of rows in two notations. None is missing here: both crops are large enough for MS-SSIM.
    assert [{key: str(value) for key, value in measured.items()} for measured in found["rows"]] == rows

    coder = codec.Codec()
    assert found["conditions"]["codecs"]["codec"]["model"] == coder.model_id
    assert set(found["conditions"]["codecs"]) == set(found["means"]) == {"codec", "jpeg", "webp"}
    ladders = {name: [mean["quality"] for mean in means] for name, means in found["means"].items()}
    assert ladders == {
        "codec": [10, 40, 70, 100],
        "jpeg": list(ANCHORS["jpeg"].qualities),
        "webp": list(ANCHORS["webp"].qualities),
    }
    assert len(rows) == len(crops) * sum(map(len, ladders.values()))

    for measured in found["rows"]:
        pixels = read_picture(tmp_path / measured["picture"]).pixels
        _, _, height, width = crops[measured["picture"]]
        assert (measured["height"], measured["width"]) == (height, width)
        assert measured["bpp"] == 8 * measured["bytes"] / (height * width)
        assert 10 < measured["psnr_db"] < CAP_DB and 0 < measured["ms_ssim"] < 1
        assert measured["encode_s"] > 0 and measured["decode_s"] > 0
        coding = coder if measured["codec"] == "codec" else ANCHORS[measured["codec"]]
        data = coding.compress(pixels, measured["quality"])
        assert measured["bytes"] == len(data)
        assert measured["psnr_db"] == psnr_db(pixels, np.asarray(coding.decompress(data).convert("RGB")))
