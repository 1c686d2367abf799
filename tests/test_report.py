"""``codec report`` and its parts: results, BD-rate matrices, sizes that match, the page's contents, the plot."""

import base64
import csv
import io
import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib import util
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import made_up
from cli.main import codec as codec_command
from codec.errors import CodecError, ImageError
from codec.evaluation import pages, plot, published, report
from codec.evaluation import rate_distortion as rd
from codec.evaluation.anchors import ANCHORS
from codec.evaluation.metrics import psnr_db

HOSTILE = '</script><img src=x onerror="alert(1)">.png'


def run(*arguments):
    """Result of a command in this process."""
    result = CliRunner().invoke(codec_command, [str(argument) for argument in arguments], prog_name="codec")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def results_file(tmp_path):
    return made_up.results(tmp_path)


@pytest.fixture
def results(results_file):
    return report.load(results_file)


def pixels_of(uri):
    """The picture in a ``data:`` URI."""
    header, data = uri.split(",")
    assert header in {f"data:image/{kind};base64" for kind in ("webp", "png", "jpeg", "avif")}
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def file_of(uri):
    """The bytes in a ``data:`` URI."""
    return base64.b64decode(uri.split(",")[1])


class Page(HTMLParser):
    """What a page consists of."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts = [], {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        tag, attributes = self.tags[-1] if self.tags else ("", {})
        if tag == "script" and data.strip():
            self.scripts.setdefault(attributes.get("id"), []).append(data)

    @property
    def data(self):
        (text,) = self.scripts["data"]
        return json.loads(text)


# Results


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.clear(),
        lambda found: found.pop("conditions"),
        lambda found: found.update(means={}),
        lambda found: found.update(means=[]),
        lambda found: found.update(rows=[]),
        lambda found: found.update(rows="rows"),
        lambda found: found.update(bd_rate=None),
        lambda found: found["means"].update(codec=[]),
        lambda found: found["rows"][0].pop("bpp"),
        lambda found: found["rows"][0].update(bpp=0),
        lambda found: found["rows"][0].update(bpp="0.1"),
        lambda found: found["rows"][0].update(psnr_db=None),
        lambda found: found["rows"][0].update(psnr_db=float("nan")),
        lambda found: found["rows"][0].update(some_metric=float("inf")),
        lambda found: found["rows"][0].update(codec="unknown"),
        lambda found: found["rows"][0].update(picture=5),
        lambda found: found["rows"][0].update(height=0),
        lambda found: found["means"]["jpeg"][0].update(bpp=None),
        lambda found: found["conditions"].update(codecs=[]),
        lambda found: found["bd_rate"]["jpeg"].pop("per_picture"),
    ],
)
def test_what_is_not_results_is_refused_in_one_line(results_file, change):
    made_up.edit(results_file, change)
    with pytest.raises(CodecError, match="results.json: not results as 'codec evaluate --json' writes them"):
        report.load(results_file)


@pytest.mark.parametrize("contents", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_not_json_is_refused_in_one_line(tmp_path, contents):
    path = tmp_path / "results.json"
    path.write_bytes(contents)
    with pytest.raises(CodecError, match="results.json: not JSON"):
        report.load(path)


def test_published_curves_come_with_kodak_and_on_request(tmp_path, results):
    assert report.published_for(results) == []
    assert report.published_for(results, "kodak") == published.load("kodak")
    kodak = report.load(made_up.results(tmp_path, made_up.KODAK))
    assert report.published_for(kodak) == published.load("kodak")
    assert report.published_for(kodak, "none") == []


# BD-rates


def test_the_matrix_holds_every_pair_in_both_directions():
    ladder = [(0.1, 28.0), (0.3, 31.0), (0.7, 34.0), (1.5, 38.0)]
    curves = {
        name: [{"bpp": factor * bpp, "psnr_db": psnr} for bpp, psnr in ladder]
        for name, factor in (("a", 1), ("b", 0.5), ("c", 2))
    }
    curves["short"] = curves["a"][:3]
    found = report.matrices(curves, [{"key": "psnr_db"}])["psnr_db"]
    assert list(found) == ["overall", "0.1-0.5 bpp", "0.5-1.5 bpp"]
    overall = found["overall"]
    assert overall["b"]["a"] == [-50.0, 28.0, 38.0] and overall["a"]["b"] == [100.0, 28.0, 38.0]
    assert overall["c"]["b"][0] == pytest.approx(300)
    assert overall["short"] == {"a": None, "b": None, "c": None} and overall["a"]["short"] is None
    assert all(name not in overall[name] for name in curves)
    # The bands are rates of the row's codec: 0.5 bpp is where "b" reaches more than "a" does.
    low, high = found["0.1-0.5 bpp"]["b"]["a"][1:], found["0.1-0.5 bpp"]["a"]["b"][1:]
    assert low[1] > high[1]


def test_a_metric_is_compared_where_it_rises_with_rate(results):
    for row in (*results["rows"], *results["means"]["codec"], *results["means"]["jpeg"]):
        row["sharpness"] = 10 * row["psnr_db"]
        row["blur"] = 100 - row["psnr_db"]
    metrics = pages.metrics_of(results["rows"])
    found = report.matrices(results["means"], metrics)
    assert "sharpness" in found and "blur" not in found
    assert found["sharpness"]["overall"]["codec"]["jpeg"][0] == pytest.approx(-20, abs=0.01)


# Metrics


def test_any_number_that_is_no_rate_size_or_time_is_a_metric():
    rows = [
        {"codec": "a", "bpp": 1.0, "psnr_db": 30.0, "ms_ssim": None, "new_metric": None, "encode_s": 1.0},
        {"codec": "a", "bpp": 1.0, "psnr_db": 30.0, "ms_ssim": None, "new_metric": 4.5, "flag": True},
    ]
    assert pages.metrics_of(rows) == [
        {"key": "psnr_db", "label": "PSNR, dB", "digits": 2},
        {"key": "new_metric", "label": "new metric", "digits": 3},
    ]


def test_decibels_are_added_once():
    row = pages.with_decibels({"ms_ssim": 0.99, "x": 1})
    assert row == {"ms_ssim": 0.99, "ms_ssim_db": pytest.approx(20), "x": 1}
    assert pages.with_decibels({"ms_ssim": None}) == {"ms_ssim": None, "ms_ssim_db": None}
    mean = {"ms_ssim": 0.9, "ms_ssim_db": 5.0}
    assert pages.with_decibels(mean) == mean


# Pictures


def test_pictures_are_embedded_without_loss(photo):
    assert np.array_equal(pixels_of(pages.data_uri(photo)), photo)
    wide = np.repeat(photo[:2], 90, axis=1)  # beyond what WebP can hold
    assert wide.shape[1] > pages.WEBP_MAX_SIDE
    assert np.array_equal(pixels_of(pages.data_uri(wide)), wide)


def test_the_search_finds_the_highest_quality_that_fits(photo):
    sizes = {quality: len(ANCHORS["jpeg"].compress(photo, quality)) for quality in range(5, 96)}
    search = report.Search(ANCHORS["jpeg"], photo)
    for wanted in (sizes[20], sizes[60] + 1, 10**9):
        quality = search.quality_for(wanted)
        assert sizes[quality] <= wanted
        assert quality == 95 or sizes[quality + 1] > wanted
    assert search.quality_for(1) == 5  # nothing fits: the smallest there is
    assert search.sizes.items() <= sizes.items() and len(search.sizes) < len(sizes) / 2


def test_the_search_keeps_to_the_scale_of_the_codec(photo):
    rates = report.scale((0.05, 0.1, 3.4))
    assert rates[0] == 0.05 and rates[-1] == pytest.approx(3.4)
    assert all(1 < high / low < 1.02 for low, high in itertools.pairwise(rates))
    assert report.scale((0, 2.5, 10)) == pytest.approx(np.linspace(0, 10, 101))
    assert report.scale((1, 2, 5, 8)) == [1, 2, 5, 8]  # levels: 3 may not be there
    assert report.scale((5, 50, 95)) == list(range(5, 96))


def test_an_anchor_that_does_not_take_the_picture_is_left_out(photo):
    class Refusing(made_up.Coder):
        title, qualities = "fussy", (1, 50)

        def compress(self, image, quality):
            raise ImageError("too small for it")

    anchors = [Refusing(), ANCHORS["webp"]]
    failures = []
    made = report.views(
        "a.png", photo[:40, :40], made_up.Coder(), (50,), anchors,
        failed=lambda anchor, error: failures.append((anchor.title, str(error))),
    )  # fmt: skip
    assert failures == [("fussy", "too small for it")]
    assert [view["title"] for view in made["levels"][0]["views"]] == ["codec", "WebP"]
    with pytest.raises(ImageError):
        report.views("a.png", photo[:40, :40], made_up.Coder(), (50,), anchors)


def test_views_are_measured_pictures_at_about_one_size(photo):
    steps = []
    made = report.views(
        "photo.png", photo, made_up.Coder(), (20, 70), [ANCHORS["webp"]], "ours", step=lambda: steps.append(1)
    )
    assert (made["name"], made["width"], made["height"]) == ("photo.png", 192, 128)
    assert np.array_equal(pixels_of(made["src"]), photo)
    assert len(steps) == 4 and len(made["levels"]) == 2
    for quality, level in zip((20, 70), made["levels"]):
        ours, webp = level["views"]
        assert (ours["title"], ours["quality"], webp["title"]) == ("ours", quality, "WebP")
        assert 0.8 * ours["bytes"] < webp["bytes"] <= ours["bytes"]
        for view in (ours, webp):
            assert view["psnr_db"] == psnr_db(photo, pixels_of(view["src"]))
            assert view["bpp"] == 8 * view["bytes"] / (192 * 128)


def test_files_that_browsers_show_are_there_as_they_are(photo):
    anchors = [ANCHORS[name] for name in ("jpeg", "webp", "jpeg2000")]
    made = report.views("a.png", photo[:64, :80], made_up.Coder(), (50,), anchors)
    (level,) = made["levels"]
    for view, anchor in zip(level["views"][1:], anchors, strict=True):
        file = file_of(view["src"])
        assert (len(file) == view["bytes"]) == (anchor.name != "jpeg2000")  # which browsers do not know: decoded
        assert psnr_db(photo[:64, :80], pixels_of(view["src"])) == view["psnr_db"]
    best = max(level["views"][1:], key=lambda view: view["ssimulacra2"])
    assert level["rival"] == best["title"]
    alone = report.views("a.png", photo[:64, :80], made_up.Coder(), (50,), [])
    assert alone["levels"][0]["rival"] is None
    assert pages.file_uri(b"\x9dLQC") is pages.file_uri(b"") is None


# The answer


def rows_of(codec, factor, pictures, ssimulacra2=0.0, odd=1.0):
    """Rows at ``factor`` of the rates of JPEG; the last picture at ``odd`` of that."""
    found = []
    for index in range(pictures):
        for quality in made_up.LADDER:
            row = made_up.row(codec, f"{index}.png", quality, factor * (odd if index == pictures - 1 else 1))
            found.append(replace(row, psnr_y_db=row.psnr_db + 1, ssimulacra2=row.psnr_db + ssimulacra2))
    return found


def answer_of(pictures=8, **odds):
    rows = {"codec": rows_of("codec", 0.5, pictures, ssimulacra2=-6.0, **odds), "jpeg": rows_of("jpeg", 1, pictures)}
    rows["webp"] = rows_of("webp", 0.4, pictures, ssimulacra2=-6.0)
    every = [row for found in rows.values() for row in found]
    summary = rd.summarise(every, "codec", ["jpeg", "webp"], 20)
    described = {name: {"title": name.upper()} for name in rows}
    results = json.loads(rd.as_json({"codecs": {**described, "codec": {}}}, summary, every))
    return report.answer(results)


def test_the_answer_says_how_many_of_the_others_bytes_ours_needs_and_where_it_loses():
    found = answer_of()
    # 6 points of SSIMULACRA2 less at 3 to an octave: four times the bytes.
    assert found["needs"] == [
        "At equal PSNR, codec needs 50 % of JPEG's and 125 % of WEBP's bytes.",
        "At equal PSNR-Y, codec needs 50 % of JPEG's and 125 % of WEBP's bytes.",
        "At equal SSIMULACRA2, codec needs 200 % of JPEG's and 125 % of WEBP's bytes.",
    ]
    assert found["loses"] == [
        "JPEG needs fewer bytes: ours are 200 % of its by SSIMULACRA2.",
        "WEBP needs fewer bytes: ours are 125 % of its by PSNR, 125 % of its by PSNR-Y and 125 % of its by "
        "SSIMULACRA2.",
        "By PSNR, WEBP needs fewer bytes on 8 of 8 pictures, most of all on 0.png (ours: 125 % of its).",
    ]
    assert found["notes"] == []
    jpeg, webp = found["table"]
    assert jpeg["title"] == "JPEG" and webp["psnr_db"] == pytest.approx([125, 125, 125])


def test_the_answer_gives_intervals_from_eight_pictures_on():
    few, many = answer_of(7), answer_of(8)
    assert few["table"][0]["psnr_db"] == [pytest.approx(50), None, None]
    assert many["table"][0]["psnr_db"] == pytest.approx([50, 50, 50])
    assert few["notes"] == ["Fewer than 8 pictures say little about others: no intervals are given."]


def test_the_answer_names_the_picture_that_is_lost_though_the_mean_is_won():
    losses = [line for line in answer_of(odd=3.0)["loses"] if "JPEG" in line]
    assert losses[-1] == (
        "By PSNR, JPEG needs fewer bytes on 1 of 8 pictures, most of all on 7.png (ours: 150 % of its)."
    )


def test_no_loss_is_said_too(results):
    found = report.answer(results)
    assert found["needs"] == ["At equal PSNR, codec needs 80 % of JPEG 4:2:0's bytes."]
    assert found["loses"] == ["No rival here needs fewer bytes than codec."]
    results["means"]["jpeg"] = results["means"]["jpeg"][:2]
    found = report.answer(results)
    assert found["needs"] == found["loses"] == []
    assert found["notes"][-1] == "Not comparable (under four points, or no quality in common): JPEG 4:2:0."


def test_the_csv_holds_every_figure(results):
    table = list(csv.DictReader(io.StringIO(report.as_csv(results))))
    assert tuple(table[0]) == tuple(report.CSV_COLUMNS)

    def values(**wanted):
        return [float(line["value"]) for line in table if wanted.items() <= line.items()]

    for row in results["rows"]:
        place = {"what": "picture", "codec": row["codec"], "picture": row["picture"], "quality": str(row["quality"])}
        for key in ("bytes", "bpp", "psnr_db", "encode_s"):
            assert values(**place, figure=key) == [row[key]]
    assert values(what="mean", codec="jpeg", quality="30", figure="bpp") == pytest.approx([0.6])
    assert values(what="bd_rate", against="jpeg", range="overall", picture="", figure="psnr_db") == pytest.approx([-20])
    assert values(what="bd_rate", against="jpeg", picture="b.png") == pytest.approx([-20])
    assert len(values(what="bd_psnr", against="jpeg")) == 3
    results["bd_rate"]["jpeg"]["by_metric"] = {"psnr_y": {"percent": -30.0}}
    results["bd_rate"]["jpeg"]["by_metric_interval"] = {"psnr_y": [-35.0, -25.0]}
    *_, luma = (line for line in csv.DictReader(io.StringIO(report.as_csv(results))) if line["figure"] == "psnr_y_db")
    assert (luma["value"], luma["low"], luma["high"]) == ("-30.0", "-35.0", "-25.0")


# The page


def test_the_page_is_one_file_that_fetches_nothing(results, photo):
    pictures = [report.views("a.png", photo[:48, :64], made_up.Coder(), (50,), [])]
    text = report.build(results, published.load("kodak"), pictures)
    page = Page(text)
    # Whatever can make a browser fetch: in the markup, and in the style. Links are put in by the scripts.
    fetching = {"src", "srcset", "href", "action", "data", "poster", "background"}
    named = [value for _, attributes in page.tags for name, value in attributes.items() if name in fetching]
    assert named and all(value.startswith("#") for value in named)
    assert {"link", "iframe", "object", "embed", "base"}.isdisjoint(tag for tag, _ in page.tags)
    style = text[text.index("<style>") : text.index("</style>")]
    assert not re.search(r"url\(|@import|http", style)
    (policy,) = (a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.split("; ")[0] == "default-src 'none'"
    assert "http" not in policy and "*" not in policy
    # Our own code names no address at all; those of the sources are in the data.
    assert all("http" not in pages.asset(f"{name}.js") for name in ("common", "report", "viewer", "compare"))


def test_the_page_holds_the_results(results, photo):
    data = Page(report.build(results)).data
    assert data["ours"] == "codec" and data["titles"] == {"codec": "codec", "jpeg": "JPEG 4:2:0"}
    assert data["pictures"] == ["a.png", "b.png"]
    assert [row["bytes"] for row in data["rows"]] == [row["bytes"] for row in results["rows"]]
    assert [metric["key"] for metric in data["metrics"]] == ["psnr_db", "ms_ssim", "ms_ssim_db"]
    (mean, *_) = data["means"]["codec"]
    assert mean["decode_mps"] == pytest.approx(100 * 80 / 0.1 / 1e6)
    assert data["bd_rate"]["psnr_db"]["overall"]["codec"]["jpeg"][0] == pytest.approx(-20, abs=0.01)
    assert data["per_picture"]["jpeg"] == {"a.png": pytest.approx(-20), "b.png": pytest.approx(-20)}
    assert data["viewer"] == data["published"] == []
    assert data["answer"] == report.answer(results)


def test_the_page_has_the_small_library_of_plots(results):
    text = report.build(results)
    assert "plotly.js (basic - minified)" in text
    assert len(text) < 1_400_000


def test_published_curves_are_compared_with_what_was_measured_on_the_same_pictures(tmp_path, results):
    curves = published.load("kodak")
    kodak = Page(report.build(report.load(made_up.results(tmp_path, made_up.KODAK)), curves)).data
    other = Page(report.build(results, curves)).data
    for data in (kodak, other):
        assert len(data["published"]) == len(curves)
        elic = next(curve for curve in data["published"] if curve["name"] == "elic")
        assert elic["points"][0] == {"bpp": 0.1235, "psnr_db": 29.113}
    assert kodak["same_pictures"] and not other["same_pictures"]
    overall = kodak["bd_rate"]["psnr_db"]["overall"]
    assert overall["published:elic"]["published:vtm"][0] == pytest.approx(-7, abs=1)
    assert overall["codec"]["published:vtm"] is not None
    assert set(other["bd_rate"]["psnr_db"]["overall"]) == {"codec", "jpeg"}


def test_names_cannot_break_out_of_the_page(tmp_path):
    text = report.build(report.load(made_up.results(tmp_path, [HOSTILE])))
    page = Page(text)
    assert page.data["pictures"] == [HOSTILE]
    assert ("img", {"src": "x", "onerror": "alert(1)"}) not in page.tags
    assert HOSTILE not in text


def test_one_codec_without_comparison_is_a_report_too(results):
    del results["means"]["jpeg"]
    results["rows"] = [row for row in results["rows"] if row["codec"] == "codec"]
    results["bd_rate"] = {}
    data = Page(report.build(results)).data
    assert data["bd_rate"] == {} and data["per_picture"] == {} and list(data["means"]) == ["codec"]


# The plot


def test_the_plot_is_drawn_in_every_format(results):
    picture = Image.open(io.BytesIO(plot.draw(results, [], ".png")))
    assert picture.format == "PNG" and picture.size == tuple(round(plot.DPI * side) for side in plot.SIZE)
    colours = {tuple(colour) for colour in np.asarray(picture.convert("RGB")).reshape(-1, 3)[::7]}
    assert (255, 255, 255) in colours and (213, 94, 0) in colours  # paper, and ours
    assert plot.draw(results, [], ".PDF").startswith(b"%PDF")
    drawing = plot.draw(results, [], ".svg")
    assert b"<svg" in drawing and drawing == plot.draw(results, [], ".svg")


def test_the_plot_names_codecs_bd_rates_and_the_main_published_curves(tmp_path, results):
    def words(*arguments):
        # Text is drawn as paths, which matplotlib introduces by comments.
        return re.findall(r"<!-- (.*?) -->", plot.draw(*arguments, ".svg").decode())

    curves = published.load("kodak")
    kodak = report.load(made_up.results(tmp_path, made_up.KODAK))
    alone, among, apart = words(results, []), words(kodak, curves), words(results, curves)
    assert "2 pictures, means" in alone and "Kodak, 24 pictures, means" in among
    assert "codec" in alone and "JPEG 4:2:0: -20.0 %" in alone
    assert not any("published" in word for word in alone)
    assert any("as published, not measured" in word for word in among)
    for curve in curves:
        pattern = re.compile(re.escape(curve.title) + r": [+-][0-9.]+ %")
        assert any(map(pattern.fullmatch, among)) == curve.main
        assert (curve.title in apart) == curve.main  # of other pictures: drawn, but without a figure


# The command


@pytest.fixture
def fake_codec(monkeypatch):
    made = []

    def coder(model=None, device="cpu", threads=None, fallback="auto"):
        made.append(model)
        return made_up.Coder()

    monkeypatch.setattr("codec.Codec", coder, raising=False)
    return made


def test_the_command_writes_page_and_plot(tmp_path, results_file, photo, fake_codec):
    for name, part in (("a.png", photo[:48, :64]), ("b.png", photo[40:80, 100:160]), ("c.png", photo)):
        Image.fromarray(part).save(tmp_path / name)
    page, drawing, figures = tmp_path / "report.html", tmp_path / "rd.svg", tmp_path / "rd.csv"
    result = run(
        "report", results_file, tmp_path, "-o", page, "--plot", drawing, "--csv", figures, "--qualities", "20,80",
        "--limit", "2",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stderr == "codec: the 2 of 3 pictures that ours is worst on are shown; --limit N for more\n"
    assert fake_codec == ["0badcafe"]  # the model of the results
    pictures = Page(page.read_text(encoding="utf-8")).data["viewer"]
    assert [picture["name"] for picture in pictures] == ["a.png", "b.png"]
    assert [view["title"] for view in pictures[0]["levels"][1]["views"]] == ["codec", "JPEG 4:2:0"]
    assert np.array_equal(pixels_of(pictures[0]["src"]), photo[:48, :64])
    assert drawing.read_bytes().startswith(b"<?xml")
    assert figures.read_text() == report.as_csv(report.load(results_file))


def test_the_worst_pictures_come_first():
    def against(overall, **pictures):
        return {
            "overall": overall and {"percent": overall},
            "per_picture": {name: percent and {"percent": percent} for name, percent in pictures.items()},
        }

    pictures = [("a", 1), ("b", 2), ("c", 3), ("d", 4)]
    rivals = {
        "far": against(-50.0, a=-40.0, b=-60.0, c=-50.0),
        "near": against(-5.0, a=-9.0, b=3.0, c=-2.0, d=None),
        "other": against(None, a=90.0),
    }
    assert report.worst_first({"bd_rate": rivals}, pictures) == [("b", 2), ("c", 3), ("a", 1), ("d", 4)]
    assert report.worst_first({"bd_rate": {}}, pictures) == pictures


def test_codecs_that_cannot_be_run_here_are_named_and_left_out(tmp_path, results_file, photo, fake_codec):
    def rename(found):
        found["means"]["vtm"] = found["means"].pop("jpeg")
        found["bd_rate"]["vtm"] = found["bd_rate"].pop("jpeg")
        for row in found["rows"]:
            row["codec"] = row["codec"].replace("jpeg", "vtm")

    made_up.edit(results_file, rename)
    Image.fromarray(photo[:40, :40]).save(tmp_path / "a.png")
    result = run("report", results_file, tmp_path / "a.png", "-o", tmp_path / "r.html", "--qualities", "50")
    assert result.exit_code == 0, result.output
    assert "codec: not in the viewer: no anchor is called 'vtm'" in result.stderr
    data = Page((tmp_path / "r.html").read_text(encoding="utf-8")).data
    assert [view["title"] for view in data["viewer"][0]["levels"][0]["views"]] == ["codec"]


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["results.json"], "say what to write", 2),
        (["missing.json", "--plot", "rd.png"], "missing.json: no such file or directory", 1),
        (["results.json", "--plot", "rd.gif"], "rd.gif: a plot ends in .png, .svg, .pdf", 1),
        (["results.json", "--plot", "taken.png"], "taken.png: exists already; --force overwrites", 1),
        (["results.json", "-f", "-o", "results.json"], "results.json: would be written over an input", 1),
        (["results.json", "-o", "nowhere/r.html"], "the folder nowhere does not exist", 1),
        (["results.json", "-o", "."], ".: is a folder", 1),
        (["results.json", "gone.png", "-o", "r.html"], "gone.png: no such file or folder", 1),
        (["results.json", "taken.png", "-o", "r.html"], "taken.png: not a picture", 1),
        (["results.json", "taken.png", "--plot", "rd.png"], "name it with --output", 2),
        (["results.json", "--against", "jpg", "taken.png", "-o", "r.html"], "no anchor is called 'jpg'", 1),
        (["results.json", "--published", "clic", "--plot", "rd.png"], "'clic' is not one of", 2),
    ],
)
def test_what_cannot_be_done_ends_in_one_clear_line(
    tmp_path, results_file, fake_codec, monkeypatch, arguments, message, status
):
    (tmp_path / "taken.png").write_text("something else")
    monkeypatch.chdir(tmp_path)
    result = run("report", *arguments)
    assert result.exit_code == status, result.output
    assert message in result.stderr and "Traceback" not in result.output and result.stdout == ""
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "taken.png"}


def test_a_missing_extra_is_named(tmp_path, results_file, monkeypatch):
    monkeypatch.setattr(util, "find_spec", {"scipy": SimpleNamespace()}.get)
    result = run("report", results_file, "-o", tmp_path / "r.html", "--plot", tmp_path / "rd.png")
    assert result.exit_code == 1
    assert result.stderr == 'codec: report needs Matplotlib: pip install ".[eval]" in the folder of the sources\n'
