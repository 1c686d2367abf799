"""``codec evaluate`` and its parts: rows, means, monotonicity, comparisons, files, and the command itself."""

import csv
import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from cli.evaluate import evaluate as evaluate_command
from cli.main import codec as codec_command
from codec.errors import CodecError, ImageError
from codec.evaluation import rate_distortion as rd
from codec.evaluation.anchors import ANCHORS
from codec.evaluation.metrics import CAP_DB, psnr_db
from codec.image_io import read_picture

COLUMNS = "codec,picture,width,height,quality,bytes,bpp,psnr_db,ms_ssim,encode_s,decode_s".split(",")


class JpegCoder:
    """The methods of ``codec.Codec`` that evaluation uses, with JPEG 4:4:4 behind them."""

    model_id = "0badcafe"
    decoded_size = None  # set to give back another one
    limit = 65535  # pixels a side

    def __init__(self, model=None, device="cpu", threads=None):
        self.model, self.device, self.threads = model, device, threads
        self.calls = []

    def compress(self, image, quality=50.0):
        assert isinstance(image, np.ndarray) and image.dtype == np.uint8
        if max(image.shape) > self.limit:
            raise ImageError("too large for this coder")
        self.calls.append(quality)
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=max(1, round(0.95 * quality)), subsampling=0)
        return buffer.getvalue()

    def decompress(self, data):
        image = Image.open(io.BytesIO(data))
        return image.resize(self.decoded_size) if self.decoded_size else image


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


# Measuring --------------------------------------------------------------------------------------------------


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
    assert measured.ms_ssim is None  # 128 pixels are too few
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


# What follows from the rows ---------------------------------------------------------------------------------


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
        row(10 * step, factor * bpp, 36 + offset + 3 * math.log2(bpp), picture, codec)
        for step, bpp in enumerate(rates)
    ]


def test_comparison_of_means_and_of_each_picture():
    anchor = ladder("a", "jpeg", 1) + ladder("b", "jpeg", 1, offset=4)
    test = ladder("a", "codec", 0.5) + ladder("b", "codec", 0.9, offset=4)
    found = rd.compare(anchor, test)
    assert {name: figure.percent for name, figure in found.per_picture.items()} == pytest.approx(
        {"a": -50, "b": -10}
    )
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


def test_a_codec_is_zero_per_cent_from_itself():
    rows = ladder("a", "jpeg", 1) + ladder("a", "codec", 1)
    found = rd.summarise(rows, "codec", ["jpeg"]).bd_rate["jpeg"]
    figures = [found.overall, *found.bands.values()]
    assert [figure.percent for figure in figures] == pytest.approx([0, 0, 0], abs=1e-9)


# Files ------------------------------------------------------------------------------------------------------


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
    assert list(found) == ["conditions", "means", "violations", "bd_rate", "rows"]
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


# The command ------------------------------------------------------------------------------------------------


def test_the_printed_tables(pictures, fake_codec):
    result = run("evaluate", pictures, "--qualities", "80,20,40,60,40", "--against", "jpeg444,webp")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0].startswith("2 pictures; ")
    assert "codec, model 0badcafe, cpu" in lines
    start = lines.index("codec, model 0badcafe, cpu")
    assert lines[start + 1].split() == "quality bpp PSNR dB MS-SSIM MS-SSIM dB encode s decode s".split()
    assert [line.split()[0] for line in lines[start + 2 : start + 6]] == ["20", "40", "60", "80"]
    assert lines[start + 2].split()[3:5] == ["-", "-"]  # pictures too small for MS-SSIM
    assert "jpeg444: JPEG 4:4:4 (Pillow, optimize=True, subsampling=4:4:4)" in lines
    assert "webp: WebP (Pillow, method=6)" in lines
    assert "codec: rate and PSNR are monotone on all 2 pictures" in lines
    jpeg444 = next(line for line in lines if line.startswith("JPEG 4:4:4 "))
    # Our stand-in is the same JPEG without optimised tables, and so spends more.
    assert 0 < float(jpeg444.split()[2]) < 100
    assert jpeg444.count(" dB)") + jpeg444.count("n/a") == 3


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
    assert found["conditions"]["codecs"] == {
        "codec": {"model": "0badcafe", "device": "cpu", "qualities": [12.5, 50]}
    }
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

    installed = {"scipy": object()}
    monkeypatch.setattr(importlib.util, "find_spec", installed.get)
    result = run("evaluate", pictures)
    assert result.exit_code == 1
    assert result.stderr == "codec: evaluate needs pytorch_msssim: pip install 'neural-image-codec[eval]'\n"


# End to end -------------------------------------------------------------------------------------------------


def test_the_shipped_model_from_pictures_to_files(tmp_path, samples):
    import codec

    crops = {"dog.png": (150, 200, 176, 168), "guitar.png": (120, 60, 161, 200)}
    for name, (top, left, height, width) in crops.items():
        with Image.open(samples / name) as image:
            image.crop((left, top, left + width, top + height)).save(tmp_path / name)

    result = run(
        tmp_path, "--qualities", "10,40,70,100",
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
