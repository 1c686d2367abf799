"""``codec view``: its page, its server's answers, and what the server refuses."""

import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

import codec
from codec import bitstream
from codec.errors import CodecError, ImageError
from codec.evaluation.metrics import psnr_db
from codec.view import ADDRESS, Overtaken, Pictures, Server

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, _dog):
    """A picture, one of our files, and something that is nobody's business."""
    folder = tmp_path_factory.mktemp("view")
    Image.fromarray(_dog[150:246, 200:328]).save(folder / "eye <b>.png")
    (folder / "grass.bin").write_bytes(codec.compress(np.ascontiguousarray(_dog[:64, :80]), 60))
    (folder / "secret.txt").write_text("secret")
    return folder


@pytest.fixture(scope="module")
def server(folder):
    pictures = Pictures([folder / "eye <b>.png", folder / "grass.bin"], codec.Codec(threads=1))
    with Server(pictures, quality=30) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server, path, method="GET", **headers):
    """(status, headers, body) of a request; ``path`` goes on the wire as it is."""
    connection = http.client.HTTPConnection(ADDRESS, server.server_port, timeout=60)
    connection.putrequest(method, path, skip_host="host" in headers)
    for name, value in headers.items():
        if value is not None:
            connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body


def pixels_of(body):
    return np.asarray(Image.open(io.BytesIO(body)).convert("RGB"))


def test_a_picture_is_given_as_it_is_and_as_the_codec_leaves_it(server, folder):
    original = np.asarray(Image.open(folder / "eye <b>.png"))
    status, headers, body = ask(server, f"/{server.token}/0/original")
    assert status == 200 and headers["Content-Type"] == "image/webp"
    assert np.array_equal(pixels_of(body), original)

    status, headers, body = ask(server, f"/{server.token}/0/coded?quality=12.5")
    file = codec.compress(folder / "eye <b>.png", 12.5)
    decoded = np.asarray(codec.decompress(file).convert("RGB"))
    figures = json.loads(headers["Codec-Figures"])
    assert status == 200 and figures["bytes"] == len(file) and figures["bpp"] == 8 * len(file) / (96 * 128)
    assert figures["psnr_db"] == psnr_db(original, decoded)
    assert np.array_equal(pixels_of(body), decoded)

    status, headers, body = ask(server, f"/{server.token}/0/file?quality=12.5")
    assert status == 200 and body == file
    assert headers["Content-Type"] == bitstream.MIME_TYPE
    assert headers["Content-Disposition"] == 'attachment; filename="picture-q12.5.lqc"'


def test_a_compressed_file_is_decoded_and_not_compressed_again(server, folder):
    status, _, body = ask(server, f"/{server.token}/1/original")
    assert status == 200
    assert np.array_equal(pixels_of(body), np.asarray(codec.decompress(folder / "grass.bin").convert("RGB")))
    assert ask(server, f"/{server.token}/1/coded?quality=50")[0] == 404


def test_the_page_names_no_path_and_may_fetch_from_its_server_alone(server, folder):
    status, headers, body = ask(server, f"/{server.token}/")
    text = body.decode()
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    assert str(folder) not in text and "eye <b>" not in text and "eye \\u003cb>.png" in text
    assert "connect-src 'self'" in text and "default-src 'none'" in text
    assert headers["X-Frame-Options"] == "DENY" and headers["Cache-Control"] == "no-store"


def test_it_listens_on_the_loopback_interface_alone(server):
    assert server.server_address[0] == "127.0.0.1"
    own = {found[4][0] for found in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in own - {"127.0.0.1"}:
        with pytest.raises(OSError), socket.create_connection((address, server.server_port), timeout=2):
            pass


@pytest.mark.parametrize(
    "path",
    [
        "/", "/0/original", "/{token}", "/{token}/2/original", "/{token}/999999/original", "/{token}/-1/original",
        "/{token}/0/", "/{token}/0/secret.txt", "/{token}/../secret.txt", "/{token}/%2e%2e/secret.txt",
        "/{token}/..%2fsecret.txt", "/{token}/0/original/../../secret.txt",
        "/{token}/0/original%00", "/{token}//etc/passwd", "http://127.0.0.1/{token}/0/original", "/{token}x/0/original",
        "/{token}/٠/original", "/wrongwrongwrongwrong/0/original",
    ],
)  # fmt: skip
def test_what_is_not_shown_is_not_found(server, path):
    raw = path.format(token=server.token).encode()
    with socket.create_connection((ADDRESS, server.server_port), timeout=10) as connection:
        connection.sendall(b"GET " + raw + f" HTTP/1.1\r\nHost: {ADDRESS}:{server.server_port}\r\n\r\n".encode())
        answer = b""
        while block := connection.recv(1 << 16):
            answer += block
    assert int(answer.split()[1]) in (400, 404) and b"secret" not in answer.replace(b"secret.txt", b"")


@pytest.mark.parametrize(
    "query",
    [
        "", "quality=", "quality=nan", "quality=inf", "quality=-1", "quality=100.5", "quality=1e999", "quality=abc",
        "quality=" + "9" * 5000, "q=50", "quality=50&quality=60", "quality=50&x=1", "quality=0x10", "quality=50;rm",
    ],
)  # fmt: skip
def test_a_quality_that_makes_no_sense_is_refused(server, query):
    status, _, body = ask(server, f"/{server.token}/0/coded?{query}")
    assert status == 400 and b"quality" in body


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "", None])
def test_other_hosts_are_refused(server, host):
    host = host and host.format(port=server.server_port)
    assert ask(server, f"/{server.token}/", host=host)[0] == 421
    assert ask(server, f"/{server.token}/", host=f"localhost:{server.server_port}")[0] == 200


def test_pages_of_other_sites_are_refused(server):
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
        assert ask(server, f"/{server.token}/0/original", Sec_Fetch_Site=site)[0] == status
    for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE"):
        assert ask(server, f"/{server.token}/", method)[0] == 501


def test_the_latest_quality_is_made_and_those_before_it_are_given_up(folder, monkeypatch):
    monkeypatch.setattr("codec.view.KEPT", 2)

    class Slow:
        """Waits in its first picture until it may go on."""

        def __init__(self):
            self.made, self.started, self.go_on = [], threading.Event(), threading.Event()
            self.coder = codec.Codec(threads=1)

        def compress(self, path, quality):
            self.made.append(quality)
            self.started.set()
            assert self.go_on.wait(30)
            return self.coder.compress(path, quality)

        def decompress(self, data):
            return self.coder.decompress(data)

    coder, outcomes = Slow(), {}
    pictures = Pictures([folder / "eye <b>.png"], coder)

    def request(quality):
        try:
            outcomes[quality] = pictures.coded(0, quality)[1]["quality"]
        except Overtaken:
            outcomes[quality] = "overtaken"

    threads = [threading.Thread(target=request, args=(quality,)) for quality in (10, 20, 30)]
    threads[0].start()
    assert coder.started.wait(30)
    for count, thread in enumerate(threads[1:], 2):
        thread.start()
        while pictures._tickets[0] < count:
            time.sleep(0.01)
    coder.go_on.set()
    for thread in threads:
        thread.join(60)
    assert outcomes == {10: 10, 20: "overtaken", 30: 30} and coder.made == [10, 30]
    request(10)
    assert coder.made == [10, 30]  # still there
    request(40)
    assert [quality for _, quality in pictures._results] == [10, 40]  # the one that was not asked for of late has gone


def test_a_file_that_is_no_picture_is_named_and_the_others_are_shown(folder):
    coder, steps, failures = codec.Codec(threads=1), [], []
    with pytest.raises(ImageError, match="secret.txt"):
        Pictures([folder / "secret.txt"], coder)
    pictures = Pictures(
        [folder / "secret.txt", folder / "missing.png", folder / "eye <b>.png"], coder, lambda: steps.append(1),
        lambda path, error: failures.append(path.name),
    )  # fmt: skip
    assert failures == ["secret.txt", "missing.png"] and len(steps) == 3
    assert [found["name"] for found in pictures.described] == ["eye <b>.png"]
    assert pictures.pixels(0).shape == (96, 128, 3)
    with pytest.raises(CodecError, match="none of the files can be shown"):
        Pictures([folder / "secret.txt"], coder, failed=lambda path, error: None)


@pytest.fixture
def command(root):
    """Start ``codec view`` in a process of its own: (process, its first line)."""
    started = []

    def start(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "codec", "view", *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(root)},
        )  # fmt: skip
        started.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_the_command_serves_until_it_is_interrupted(command, folder):
    process, url = command(folder / "eye <b>.png", "--threads", "1")
    port, token = url.split(":")[2].split("/")[:2]
    connection = http.client.HTTPConnection(ADDRESS, int(port), timeout=60)
    connection.request("GET", f"/{token}/0/original")
    assert connection.getresponse().status == 200
    other, nothing = command(folder / "eye <b>.png", "--threads", "1", "--port", port)
    assert nothing == "" and other.wait(60) == 1  # the port is taken
    assert "in use" in other.stderr.read().lower()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert process.stderr.read() == "codec: Ctrl-C ends it\n"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["missing.png"], 1, "missing.png: no such file or directory"),
        (["secret.txt"], 1, "secret.txt: not a picture"),
        (["-"], 2, "not from standard input"),
        (["memory://shop/a.png"], 1, "memory://shop/a.png: URLs are for compress, decompress, info and evaluate"),
        (["-q", "101", "x.png"], 2, "101"),
    ],
)
def test_what_cannot_be_shown_ends_in_one_line(command, folder, monkeypatch, arguments, status, message):
    monkeypatch.chdir(folder)
    process, line = command(*arguments)
    assert line == "" and process.wait(60) == status
    said = process.stderr.read()
    assert message in said and (status == 2 or len(said.splitlines()) == 1)


# In a browser


@pytest.fixture
def page(server):
    """The page in a headless Chromium; nothing may be complained of, nor fetched from anybody else."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    trouble = []
    root = sys.platform == "linux" and os.geteuid() == 0
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] * root)
        page = browser.new_page(accept_downloads=True)
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on(
            "request",
            lambda request: (
                request.url.startswith((server.url, "blob:", "data:")) or trouble.append(f"requested: {request.url}")
            ),
        )
        page.goto(server.url)
        yield page
        browser.close()
    assert [line for line in trouble if "favicon" not in line] == []


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_turning_the_quality_shows_size_and_picture_at_once(page, folder):
    def size():
        return page.inner_text("#live-size")

    def expected(quality):
        return f"{len(codec.compress(folder / 'eye <b>.png', quality)):,} bytes"

    until(lambda: size() == expected(30))  # what the page begins with
    assert page.locator("#handle").is_visible() and page.inner_text("#badge-right") == "codec"
    before = page.get_attribute("#image-right", "src")
    page.locator("#live-slider").fill("80")
    until(lambda: size() == expected(80))
    until(lambda: page.get_attribute("#image-right", "src") != before)
    assert page.input_value("#live-quality") == "80"
    assert "PSNR" in page.inner_text("#live-note") and "quality 80" in page.inner_text("#caption-right")
    page.fill("#live-quality", "12.5")
    page.press("#live-quality", "Enter")
    until(lambda: size() == expected(12.5))
    with page.expect_download() as download:
        page.click("#live-save")
    with open(download.value.path(), "rb") as file:
        assert file.read() == codec.compress(folder / "eye <b>.png", 12.5)
    assert page.locator("b", has_text="eye").count() == 0  # the name has become no element


def test_a_compressed_file_is_shown_without_the_control(page):
    until(lambda: page.inner_text("#live-size") != "")
    page.select_option("#view-picture", label="grass.bin")
    until(lambda: "decoded" in page.inner_text("#live-note"))
    assert not page.locator("#live").is_visible()
    until(lambda: page.locator("#image-left").evaluate("image => image.naturalWidth") == 80)
