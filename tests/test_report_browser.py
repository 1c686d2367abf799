"""The pages of ``codec report`` and ``codec compare`` in a real browser: they work, and fetch nothing.

Skipped where there is no Chromium or no Playwright (package "playwright"; it drives the Chromium of the system).
"""

import csv
import io
import os
import shutil
import sys
import time

import numpy as np
import pytest
from PIL import Image

import made_up
from codec.evaluation import compare, pages, published, report
from codec.evaluation.anchors import ANCHORS
from test_report import HOSTILE, pixels_of

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


@pytest.fixture(scope="module")
def browser():
    # Root, as in a container, has no sandbox to use.
    root = sys.platform == "linux" and os.geteuid() == 0
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] * root)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pictures(_dog):
    """What the viewer gets: two pictures in two codecs at two sizes, the second one under a nasty name."""
    parts = {"a.png": _dog[150:246, 200:328], HOSTILE: _dog[180:276, 230:294]}
    anchors = [ANCHORS["jpeg"], ANCHORS["webp"]]
    return [
        report.views(name, np.ascontiguousarray(part), made_up.Coder(), (20, 80), anchors)
        for name, part in parts.items()
    ]


@pytest.fixture(scope="module")
def report_page(tmp_path_factory, pictures):
    folder = tmp_path_factory.mktemp("report")
    results = report.load(made_up.results(folder, made_up.KODAK))
    path = folder / "report.html"
    path.write_text(report.build(results, published.load("kodak"), pictures), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def viewer_page(tmp_path_factory, pictures):
    """The report's viewer without its plots, which take a second to load."""
    pictures = [{**picture, "bytes": 1000, "bpp": 1.0} for picture in pictures]
    rows = pictures[0]["levels"][0]["views"]
    data = {"metrics": pages.metrics_of(rows), "viewer": pictures, "rows": rows}
    path = tmp_path_factory.mktemp("viewer") / "viewer.html"
    path.write_text(pages.page("Viewer", "compare", data, ("compare", "viewer")), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def compare_page(tmp_path_factory, _dog):
    folder = tmp_path_factory.mktemp("compare")
    Image.fromarray(_dog[:90, :120]).save(folder / "a.png")
    Image.fromarray(_dog[:90, :120]).save(folder / "b.jpg", quality=10)
    found = compare.compare(folder / "a.png", [folder / "b.jpg"], decode=None, pictures=True)
    path = folder / "compare.html"
    path.write_text(compare.build(found), encoding="utf-8")
    return path


@pytest.fixture
def visit(browser):
    """Open a page from its file; at the end nothing may have been fetched, logged or thrown."""
    trouble, contexts = [], []

    def open_page(path, width=1100, height=900, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: trouble.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("dialog", lambda dialog: (trouble.append(dialog.message), dialog.dismiss()))
        page.on("requestfailed", lambda request: trouble.append(f"failed: {request.url[:80]}"))

        def requested(request):
            if not request.url.startswith(("data:", "blob:")) and request.url != path.as_uri():
                trouble.append(f"requested: {request.url[:80]}")

        page.on("request", requested)
        page.goto(path.as_uri())
        page.locator("#image-right").evaluate("image => image.src && image.decode()")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert trouble == []


def screenshot(locator):
    return np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB")).astype(int)


def drawn(page, selector):
    """The pixels that the browser has for an image or a canvas, uint8 (H, W, 3)."""
    size, values = page.locator(selector).evaluate(
        """element => {
            const canvas = document.createElement("canvas");
            canvas.width = element.naturalWidth ?? element.width;
            canvas.height = element.naturalHeight ?? element.height;
            const context = canvas.getContext("2d");
            context.drawImage(element, 0, 0);
            const image = context.getImageData(0, 0, canvas.width, canvas.height);
            return [[canvas.height, canvas.width], [...image.data]];
        }"""
    )
    return np.array(values, np.uint8).reshape(*size, 4)[..., :3]


def assert_close(shown, decoded):
    """The same picture from another decoder of a lossy file, which may round and widen its colours in its own way."""
    difference = np.abs(shown.astype(int) - decoded)
    assert shown.shape == decoded.shape and difference.mean() < 1 and np.percentile(difference, 99) < 12


def wait_until(condition, seconds=10):
    """Playwright's own wait evaluates strings, which the page's policy forbids."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def axis(page, name="xaxis"):
    return page.evaluate(f"document.getElementById('rd-plot').layout.{name}")


def traces(page):
    return page.evaluate("document.getElementById('rd-plot').data.map(trace => trace.name)")


# The report


@pytest.mark.parametrize(("scheme", "width"), [("light", 1100), ("dark", 380)])
def test_the_report_renders_without_a_word_of_complaint(visit, report_page, scheme, width):
    page = visit(report_page, width, color_scheme=scheme)
    assert "24 pictures" in page.inner_text("#summary") and "abacus" in page.inner_text("#summary")
    assert page.locator("#rd-plot .scatterlayer .trace").count() > 2
    assert page.locator("#speed-plot .scatterlayer .trace").count() == 2
    assert page.locator("#bd-matrix tbody tr").count() > 2
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # wide tables scroll by themselves
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    assert page.inner_text("#badge-right") == "codec" and page.locator("#image-right").is_visible()
    plot = screenshot(page.locator("#rd-plot"))
    assert (plot.mean() > 128) == (scheme == "light")
    assert (np.abs(plot - [213, 94, 0]).sum(axis=2) < 12).sum() > 50  # our curve


def test_the_rate_axis_is_logarithmic_or_linear(visit, report_page):
    page = visit(report_page)
    before = screenshot(page.locator("#rd-plot"))
    assert axis(page)["type"] == "log"
    page.uncheck("#rd-log")
    assert axis(page)["type"] == "linear"
    assert axis(page)["range"][0] == 0
    assert (screenshot(page.locator("#rd-plot")) != before).any()
    page.check("#rd-log")
    assert axis(page)["type"] == "log"


def test_curves_follow_metric_picture_and_published_choice(visit, report_page):
    page = visit(report_page)
    main = [curve.title for curve in published.load("kodak") if curve.main]
    assert traces(page) == ["codec", "JPEG 4:2:0", *main]
    choices = page.locator(".published-choice")
    choices.first.select_option("all")
    assert len(traces(page)) == 2 + len(published.load("kodak"))
    assert choices.last.input_value() == "all"
    choices.last.select_option("none")
    assert traces(page) == ["codec", "JPEG 4:2:0"]
    assert page.locator("#bd-matrix tbody tr").count() == 2
    choices.first.select_option("main")
    page.select_option("#rd-metric", "ms_ssim_db")
    assert axis(page, "yaxis")["title"]["text"] == "MS-SSIM, dB"
    assert "ELIC" not in traces(page) and "VTM (H.266)" in traces(page)  # those that published it
    page.select_option("#rd-picture", "kodim07.png")
    assert traces(page) == ["codec", "JPEG 4:2:0"]


def test_every_published_curve_links_to_its_source(visit, report_page):
    page = visit(report_page)
    links = page.locator("#sources-table a").evaluate_all("links => links.map(link => link.href)")
    curves = published.load("kodak")
    wanted = {address for curve in curves for address in (curve.source_url, curve.paper_url) if address}
    assert set(links) == wanted


def test_hover_says_quality_rate_and_psnr(visit, report_page):
    page = visit(report_page)
    page.locator(".published-choice").first.select_option("none")
    page.locator("#rd-plot").scroll_into_view_if_needed()
    box = page.locator("#rd-plot .scatterlayer .trace >> nth=0 >> .point >> nth=1").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    text = page.locator("#rd-plot .hoverlayer .hovertext").text_content(timeout=5000)
    assert "codec" in text and "quality 30" in text and "0.4800 bpp" in text and "PSNR, dB: 33.79" in text


def test_dragging_zooms_into_the_plot(visit, report_page):
    page = visit(report_page)
    page.locator("#rd-plot").scroll_into_view_if_needed()
    low, high = axis(page)["range"]
    box = page.locator("#rd-plot .nsewdrag").first.bounding_box()
    x, y, width, height = (box[key] for key in ("x", "y", "width", "height"))
    page.mouse.move(x + 0.3 * width, y + 0.3 * height)
    page.mouse.down()
    page.mouse.move(x + 0.6 * width, y + 0.7 * height, steps=4)
    page.mouse.up()
    wait_until(lambda: axis(page)["range"][0] > low)
    zoomed = axis(page)["range"]
    assert low < zoomed[0] < zoomed[1] < high
    page.locator(".published-choice").first.select_option("all")  # what is drawn anew keeps the zoom
    assert axis(page)["range"] == pytest.approx(zoomed)


def test_the_plots_offer_nothing_that_uploads(visit, report_page):
    page = visit(report_page)
    buttons = page.locator("#rd-plot .modebar-btn[data-title]")
    titles = {buttons.nth(i).get_attribute("data-title") for i in range(buttons.count())}
    assert len(titles) == 6
    assert not any(word in title.lower() for title in titles for word in ("cloud", "share", "edit", "produced"))


def test_the_matrix_says_percent_and_range(visit, report_page):
    page = visit(report_page)
    cell = page.locator("#bd-matrix tbody tr >> nth=0 >> td >> nth=1")
    assert page.locator("#bd-matrix thead th >> nth=2").inner_text() == "JPEG 4:2:0"
    assert cell.inner_text() == "−20.0"
    cell.click()
    detail = page.inner_text("#bd-detail")
    assert detail == "codec against JPEG 4:2:0: −20.0 % bits at equal PSNR, dB, mean from 29.03 to 39.79."
    page.select_option("#bd-band", "0.1-0.5 bpp")
    cell.click()
    assert "to 33.9" in page.inner_text("#bd-detail")  # what ours reaches at 0.5 bpp


def test_tables_sort_and_names_stay_text(visit, tmp_path, pictures):
    path = tmp_path / "report.html"
    results = report.load(made_up.results(tmp_path, ["a.png", HOSTILE]))
    path.write_text(report.build(results, pictures=pictures), encoding="utf-8")
    page = visit(path)
    rows = page.locator("#rows-table tbody tr")
    assert rows.count() == 8
    head = page.locator("#rows-table th", has_text="bytes")
    for direction, order in (("ascending", 1), ("descending", -1)):
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == direction
        shown = [int(text.replace(",", "")) for text in rows.locator("td:nth-child(4)").all_inner_texts()]
        assert shown == sorted(shown, key=lambda value: order * value) and len(set(shown)) == 4
    page.select_option("#rows-picture", HOSTILE)
    assert rows.count() == 4 and rows.first.locator("td").first.inner_text() == HOSTILE
    assert page.locator("img").count() == 2  # those of the viewer; the name has become none


def test_the_report_begins_with_the_answer(visit, report_page):
    page = visit(report_page)
    answer = page.inner_text("#answer")
    assert answer.startswith("At equal PSNR, codec needs 80 % of JPEG 4:2:0's bytes.")
    assert "No rival here needs fewer bytes than codec." in answer
    assert page.inner_text("#answer-table tbody tr") == "JPEG 4:2:0\t80.0 %"
    assert page.locator("#answer").bounding_box()["y"] < page.locator("#rd-plot").bounding_box()["y"]


def test_the_report_shows_the_best_rival_beside_ours_pixel_for_pixel(visit, report_page, pictures):
    page = visit(report_page)
    levels = pictures[0]["levels"]
    assert page.inner_text("#caption-left b") == levels[0]["rival"] and page.inner_text("#caption-right b") == "codec"
    assert page.inner_text("#view-zoom") == "100 %"
    assert page.locator("[data-mode=beside]").get_attribute("aria-pressed") == "true"
    page.select_option("#view-level", "1")
    assert page.inner_text("#caption-left b") == levels[1]["rival"]
    page.select_option("#view-left", label="original")  # who chooses keeps the choice
    page.select_option("#view-level", "0")
    assert page.inner_text("#caption-left b") == "original"


def test_tables_are_saved_as_csv_with_full_numbers(visit, tmp_path, pictures):
    path = tmp_path / "report.html"
    results = report.load(made_up.results(tmp_path, ["a.png", "=1+1", 'a "b", c.png']))
    path.write_text(report.build(results, pictures=pictures), encoding="utf-8")
    page = visit(path, accept_downloads=True)

    def saved(label):
        with page.expect_download() as download:
            page.get_by_role("button", name=f"Save {label} as CSV").click()
        assert download.value.suggested_filename.endswith("-table.csv") or "matrix" in download.value.suggested_filename
        with open(download.value.path(), encoding="utf-8", newline="") as file:
            return list(csv.reader(file))

    head, *lines = saved("Every picture")
    assert [line[0] for line in lines[:4]] == ["a.png"] * 4
    assert {line[0] for line in lines} == {"a.png", "'=1+1", 'a "b", c.png'}  # no formula for a spreadsheet
    shown = [row["bpp"] for row in results["rows"] if row["codec"] == "codec"]
    assert sorted(float(line[head.index("bpp")]) for line in lines) == sorted(shown)
    head, *lines = saved("BD-rate matrix")
    assert float(lines[0][2]) == pytest.approx(-20, abs=0.01) and head[1:] == ["codec", "JPEG 4:2:0"]
    assert len(saved("Means")) == 5


# The viewer


def test_the_browser_shows_the_very_pixels(visit, viewer_page, pictures):
    page = visit(viewer_page)
    ours = pictures[0]["levels"][0]["views"][0]
    assert np.array_equal(drawn(page, "#image-left"), pixels_of(pictures[0]["src"]))
    assert_close(drawn(page, "#image-right"), pixels_of(ours["src"]))
    caption = page.inner_text("#caption-right")
    assert f"{ours['bytes']:,} bytes" in caption
    assert f"PSNR {ours['psnr_db']:.2f} dB" in caption.replace("\N{NO-BREAK SPACE}", " ")

    page.select_option("#view-picture", label=HOSTILE)
    page.select_option("#view-level", "1")
    page.select_option("#view-left", label="JPEG 4:2:0")
    page.select_option("#view-right", label="WebP")
    wait_until(lambda: page.locator("#image-right").evaluate("image => image.naturalWidth") == 64)
    _, jpeg, webp = pictures[1]["levels"][1]["views"]
    assert_close(drawn(page, "#image-left"), pixels_of(jpeg["src"]))
    assert_close(drawn(page, "#image-right"), pixels_of(webp["src"]))
    assert "bytes than the left" in page.inner_text("#caption-right")
    page.click("#view-exchange")
    assert page.inner_text("#caption-left b") == "WebP" and page.inner_text("#caption-right b") == "JPEG 4:2:0"


def test_the_slider_moves_by_mouse_and_keyboard(visit, viewer_page):
    page = visit(viewer_page)
    stage, handle = page.locator("#stage"), page.locator("#handle")
    stage.scroll_into_view_if_needed()

    def clip():
        return page.locator("#pane-right").evaluate("pane => pane.style.clipPath")

    middle = screenshot(stage)
    assert handle.get_attribute("aria-valuenow") == "50" and "50%" in clip()
    box = handle.bounding_box()
    room = stage.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 4)
    page.mouse.down()
    page.mouse.move(room["x"] + 0.25 * room["width"], box["y"] + box["height"] / 4, steps=3)
    page.mouse.up()
    assert handle.get_attribute("aria-valuenow") == "25" and "25%" in clip()
    moved = screenshot(stage)
    quarter, half, three = (round(part * middle.shape[1]) for part in (0.25, 0.5, 0.75))
    assert (moved[:, quarter + 20 : half - 20] != middle[:, quarter + 20 : half - 20]).any()
    assert np.array_equal(moved[:, three:, :], middle[:, three:, :])  # shown from the right side before and after

    handle.focus()
    page.keyboard.press("ArrowRight")
    assert handle.get_attribute("aria-valuenow") == "27"
    page.keyboard.press("End")
    assert handle.get_attribute("aria-valuenow") == "100"
    page.keyboard.press("Home")
    assert handle.get_attribute("aria-valuenow") == "0"


def test_space_flickers_between_left_and_right(visit, viewer_page):
    page = visit(viewer_page, reduced_motion="reduce")
    stage = page.locator("#stage")
    stage.focus()
    page.keyboard.press("Space")
    assert page.locator("[data-mode=flicker]").get_attribute("aria-pressed") == "true"
    assert not page.is_checked("#view-auto")  # who asked for calm gets it
    shots = []
    for title in ("original", "codec", "original"):
        assert page.locator(".badge:visible").all_inner_texts() == [title]
        shots.append(screenshot(stage)[:-60])  # without the labels
        page.keyboard.press("Space")
    assert np.array_equal(shots[0], shots[2]) and not np.array_equal(shots[0], shots[1])
    page.click("#view-swap")
    assert page.locator(".badge:visible").all_inner_texts() == ["original"]


def test_flicker_goes_by_itself_until_the_mode_changes(visit, viewer_page):
    page = visit(viewer_page, reduced_motion="no-preference")
    page.click("[data-mode=flicker]")
    for title in ("codec", "original"):
        playwright.expect(page.locator(".badge:visible")).to_have_text(title)
    page.click("[data-mode=slider]")
    assert page.locator(".badge:visible").count() == 2


def test_zoom_shows_pixels_as_squares(visit, viewer_page, pictures):
    page = visit(viewer_page)
    stage = page.locator("#stage")
    stage.click(position={"x": 5, "y": 5})
    page.keyboard.press("Home")  # means nothing to the stage
    page.keyboard.press("1")
    assert page.inner_text("#view-zoom") == "100 %"
    for _ in range(10):
        page.keyboard.press("+")
    assert page.inner_text("#view-zoom") == "3200 %"
    assert page.locator("#image-left").evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
    inside = np.s_[60:-80, 60 : round(stage.bounding_box()["width"]) // 2 - 40]  # no outline, labels, divider
    left = screenshot(stage)[inside]
    # 32 screen pixels a side each: as many colours as pixels, all of them the picture's own.
    colours = {tuple(colour) for colour in left.reshape(-1, 3)}
    own = {tuple(colour) for colour in pixels_of(pictures[0]["src"]).reshape(-1, 3).astype(int)}
    assert colours <= own and len(colours) < left.size / 3 / 500

    page.keyboard.press("ArrowRight")
    assert (screenshot(stage)[inside] != left).any()
    page.mouse.move(*(stage.bounding_box()[key] + 200 for key in ("x", "y")))
    page.mouse.wheel(0, 240)
    playwright.expect(page.locator("#view-zoom")).to_have_text("1600 %")
    page.keyboard.press("0")
    assert page.inner_text("#view-zoom") not in ("1600 %", "100 %")


def test_dragging_moves_the_picture(visit, viewer_page):
    page = visit(viewer_page)
    stage = page.locator("#stage")
    for _ in range(6):
        page.click("#view-in")
    stage.scroll_into_view_if_needed()
    before = page.locator("#image-left").evaluate("image => new DOMMatrix(image.style.transform).e")
    box = stage.bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 160, box["y"] + 130, steps=3)
    page.mouse.up()
    moved = [
        page.locator(f"#image-{side}").evaluate("image => new DOMMatrix(image.style.transform).e")
        for side in ("left", "right")
    ]
    assert moved == pytest.approx([before + 60] * 2)


def test_side_by_side_shows_both_in_one_view(visit, viewer_page):
    page = visit(viewer_page)
    page.click("[data-mode=beside]")
    stage, left, right = (page.locator(f"#{name}").bounding_box() for name in ("stage", "image-left", "image-right"))
    assert left["x"] + left["width"] <= stage["x"] + stage["width"] / 2 + 1 <= right["x"] + 2
    assert (left["width"], left["height"], left["y"]) == (right["width"], right["height"], right["y"])


def test_the_difference_map_is_the_amplified_absolute_difference(visit, viewer_page, pictures):
    page = visit(viewer_page)
    page.click("[data-mode=difference]")
    original = pixels_of(pictures[0]["src"]).astype(int)
    decoded = pixels_of(pictures[0]["levels"][0]["views"][0]["src"]).astype(int)
    for gain in (8, 1):
        page.select_option("#view-gain", str(gain))
        wanted = np.minimum(gain * np.abs(original - decoded), 255)
        assert np.array_equal(drawn(page, "#difference"), wanted)
    assert page.inner_text("#badge-left") == "original − codec, 1 ×"


def test_without_pictures_there_is_no_viewer(visit, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(report.build(report.load(made_up.results(tmp_path))), encoding="utf-8")
    page = visit(path)
    assert page.locator("#viewer").is_hidden() and page.locator("nav a", has_text="Pictures").is_hidden()
    assert page.locator(".published:visible").count() == 0  # not Kodak: nothing was published about them


def test_times_of_work_in_parallel_are_not_drawn(visit, tmp_path):
    file = made_up.results(tmp_path)
    made_up.edit(file, lambda found: found["conditions"].update(times_comparable=False))
    path = tmp_path / "report.html"
    path.write_text(report.build(report.load(file)), encoding="utf-8")
    page = visit(path)
    assert page.locator("#speed").is_hidden() and page.locator("#curves").is_visible()


# The page of ``codec compare``


@pytest.mark.parametrize("width", [1100, 380])
def test_the_compare_page_shows_table_and_pictures(visit, compare_page, width):
    page = visit(compare_page, width)
    assert "120 × 90 pixels" in page.inner_text("#summary")
    assert page.locator("#compare-table tbody tr").count() == 1
    assert page.inner_text("#badge-left") == "original" and page.inner_text("#badge-right") == "b.jpg"
    assert page.locator("#view-level").is_hidden() and page.locator("#view-picture").is_hidden()
    stage = page.locator("#stage")
    before = screenshot(stage)
    page.locator("#handle").focus()
    page.keyboard.press("End")
    assert (screenshot(stage) != before).any()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
