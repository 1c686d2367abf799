"""The command line as known from other codecs: patterns, names, what is said, dates, closed streams, the manual."""

import json
import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import codec
from cli import progress
from cli.common import Progress, share
from codec import bitstream
from codec.threads import cores
from codec.weights import list_models
from test_cli import fail, run, shell, succeed, without_warning


@pytest.fixture
def tree(tmp_path, photo, monkeypatch):
    """Four small pictures in three folders, from the folder above them; the codec is loaded once."""
    coder = codec.Codec()
    monkeypatch.setitem(vars(codec), "Codec", lambda *_, **__: coder)
    for index, name in enumerate(("in/a.png", "in/x/b.png", "in/x/y/c.png", "in/[d].png")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo[8 * index : 8 * index + 32, :48]).save(tmp_path / name)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(folder="."):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*.bin"))


# Which files


@pytest.mark.parametrize(
    ("pattern", "files"),
    [
        ("in/*.png", ["[d].bin", "a.bin"]),
        ("in/**/*.png", ["[d].bin", "a.bin", "x/b.bin", "x/y/c.bin"]),
        ("in/x/?.png", ["b.bin"]),
        ("in/[d].png", ["[d].bin"]),  # a name before it is a pattern
        ("*/x", ["in/x/b.bin"]),
    ],
)
def test_patterns_in_quotes_are_ours_to_expand(tree, pattern, files):
    succeed("compress", pattern, "-o", "out/", "--quiet")
    assert made("out") == files


def test_a_pattern_that_nothing_matches_is_named(tree):
    assert fail("compress", "in/*.jpg") == "codec: in/*.jpg: nothing matches this pattern\n"


@pytest.mark.parametrize(
    ("output", "files"),
    [
        ("out/{stem}-small.bin", ["[d]-small.bin", "a-small.bin", "b-small.bin", "c-small.bin"]),
        ("out/{name}.bin", ["[d].png.bin", "a.png.bin", "b.png.bin", "c.png.bin"]),
        ("out/{folder}/{stem}.lqc.bin", ["[d].lqc.bin", "a.lqc.bin", "x/b.lqc.bin", "x/y/c.lqc.bin"]),
    ],
)
def test_the_output_may_be_a_pattern(tree, output, files):
    succeed("compress", "in", "--recursive", "-o", output, "--quiet")
    assert made("out") == files


def test_a_pattern_that_gives_two_results_one_name_loses_neither_silently(tree):
    (tree / "in" / "x" / "a.png").write_bytes((tree / "in" / "a.png").read_bytes())
    said = without_warning(fail("compress", "in", "--recursive", "-o", "out/{stem}.bin", "--quiet"))
    assert re.search(r"in/x/a\.png: out/a\.bin is written for in/a\.png", said)
    assert made("out") == ["[d].bin", "a.bin", "b.bin", "c.bin"]


def test_names_may_end_in_more_than_an_extension(tree):
    succeed("compress", "in/a.png", "--suffix", "-small.lqc", "--quiet")
    succeed("decompress", "in/a-small.lqc", "--suffix", "-back.webp", "--quiet")
    with Image.open("in/a-small-back.webp") as image:
        assert (image.format, image.size) == ("WEBP", (48, 32))
    assert "does not end in one of .bin, .lqc" in fail("compress", "in/a.png", "--suffix", ".png", status=2)
    assert "does not end in one of" in fail("decompress", "in/a-small.lqc", "--suffix", "../x.png", status=2)
    assert "does not agree" in fail("decompress", "in/a-small.lqc", "--suffix", "-b.png", "--format", "webp", status=2)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names of files are bytes")
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_names_that_are_no_utf_8_are_names(root, tmp_path, photo, options):
    name = os.fsdecode(b"caf\xe9.png")
    for each in (name, "a.png"):
        Image.fromarray(photo[:32, :32]).save(tmp_path / "x.png")
        (tmp_path / "x.png").rename(tmp_path / each)
    for arguments in (["compress", tmp_path], ["info", tmp_path], ["decompress", tmp_path, "--format", "webp"]):
        run = shell(root, *arguments, *options)
        assert run.returncode == 0 and b"Traceback" not in run.stderr, run.stderr
        shown = rb"caf\udce9" if options == ("--json",) else b"caf\xe9"
        assert shown in run.stdout
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".bin"] * 2 + [".png"] * 2 + [".webp"] * 2
    (tmp_path / name).write_bytes(b"damage")
    run = shell(root, "compress", tmp_path, "--force", *options)
    assert (
        run.returncode == 1 and b"caf\xe9.png: cannot read" in run.stderr.replace(rb"\udce9", b"\xe9")
    ) or b"not a picture" in run.stderr


# What is said


def test_a_dry_run_says_what_would_be_and_writes_nothing(tree):
    said = succeed("compress", "in", "--dry-run")
    assert said.splitlines()[:2] == ["in/[d].png -> in/[d].bin", "in/a.png -> in/a.bin"] and made() == []
    said = fail("compress", "in/a.png", "-o", "in/a.png", "--dry-run", "--force")
    assert said.splitlines()[-1] == "codec: in/a.png: would be written over an input"
    succeed("compress", "in/a.png", "--quiet")
    assert "in/a.bin: exists already" in fail("compress", "in", "--dry-run")
    assert (
        succeed("decompress", "in", "--dry-run", "--json", "-o", "out/")
        == '{"input": "in/a.bin", "output": "out/a.png"}\n'
    )
    assert not (tree / "out").exists()


def test_json_is_a_line_a_file_and_names_what_failed(tree):
    (tree / "in" / "e.png").write_bytes(b"no picture")
    said = [
        line for line in without_warning(fail("compress", "in", "--json", "-q", "30")).splitlines() if line[0] == "{"
    ]
    done = [json.loads(line) for line in said]
    assert [each["input"] for each in done] == ["in/[d].png", "in/a.png", "in/e.png"]
    assert "not a picture" in done[2]["error"] and "output" not in done[2]
    data = (tree / "in" / "a.bin").read_bytes()
    header = bitstream.read_header(data)
    wanted = {
        "input": "in/a.png", "output": "in/a.bin", "bytes": len(data), "bpp": round(8 * len(data) / (48 * 32), 4),
        "width": 48,
        "height": 32, "quality": 30.0, "model": header.model_id,
    }  # fmt: skip
    assert {key: done[1][key] for key in wanted} == wanted and done[1]["seconds"] > 0
    back = json.loads(succeed("decompress", "in/a.bin", "-o", "b.png", "--json"))
    assert back["bytes"] == (tree / "b.png").stat().st_size and (back["width"], back["mode"]) == (48, "RGB")


def test_evaluation_prints_json_in_the_place_of_tables(tree, monkeypatch):
    said = succeed(
        "evaluate",
        "in",
        "--against",
        "none",
        "--qualities",
        "20,80",
        "--metrics",
        "psnr",
        "--json",
        "-",
        "--bootstrap",
        "0",
    )
    found = json.loads(said[said.index("{\n") :])
    assert [row["quality"] for row in found["rows"]] == [20, 80] * 2 and "means" in found
    assert not (tree / "-").exists()
    succeed("compress", "in/a.png", "-o", "a.bin", "--quiet")
    view = json.loads(succeed("compare", "in/a.png", "a.bin", "--json"))["views"][0]
    assert view["bytes"] == (tree / "a.bin").stat().st_size and view["psnr_db"] > 20


def test_quiet_and_verbose_are_everywhere(tree):
    from cli.main import COMMANDS

    for name in COMMANDS:
        for command in (
            [(name,)] if name != "study" else [("study", each) for each in ("gradients", "quantisers", "dependent")]
        ):
            said = succeed(*command, "--help")
            assert "--quiet" in said and "--verbose" in said, command
    said = without_warning(succeed("compress", "in/a.png", "--verbose"))
    assert re.search(r"bpp, quality 50, 48 x 32, [\d.]+ s\ncodec: \d+:\d\d, [\d.]+ s of CPU time", said)
    assert "do not go together" in fail("info", "in/a.bin", "--quiet", "--verbose", status=2)
    assert succeed("info", "in/a.bin", "--quiet") == ""
    assert succeed("decompress", "in/a.bin", "-o", "b.png", "--quiet") == ""


def test_a_run_over_several_files_ends_with_totals(tree):
    said = without_warning(succeed("compress", "in", "--recursive")).splitlines()
    read = sum(path.stat().st_size for path in Path("in").rglob("*.png"))
    written = sum(Path("in", name).stat().st_size for name in made("in"))
    found = re.fullmatch(
        r"codec: 4 files, (\S+) kB to (\d+) bytes in \d+:\d\d \(\S+ [kM]B/s\), 1 passed over \(.txt\)", said[-1]
    )
    assert float(found[1]) == pytest.approx(read / 1000, rel=0.05) and int(found[2]) == written


def test_without_a_terminal_a_line_tells_how_far_it_is(capfd, monkeypatch):
    monkeypatch.setattr("cli.common.INTERVAL", 0.02)
    monkeypatch.setattr(progress, "INTERVAL", 0.02)
    with Progress(3, "compressing") as files:
        files.start("in/a.png")
        files.advance()
        files.start("in/b.png")
        time.sleep(0.3)
    lines = capfd.readouterr().err.splitlines()
    assert set(lines) == {"codec: compressing b.png: 1 of 3 files, 0:00"} and len(lines) > 1
    with progress.bar(5, "coding") as bar:
        bar.set_description_str("dog.png jpeg", refresh=False)
        bar.update()
        bar.update()
        time.sleep(0.3)
    lines = capfd.readouterr().err.splitlines()
    assert set(lines) == {"codec: dog.png jpeg: 2 of 5 codings, 0:00"} and len(lines) > 1
    with Progress(3, "compressing", hidden=True), progress.bar(5, "coding", hidden=True):
        time.sleep(0.1)
    assert capfd.readouterr().err == ""


def test_clocks_have_hours_where_there_are_some():
    assert [progress.clock(seconds) for seconds in (7.9, 725, 10920)] == ["0:07", "12:05", "3:02:00"]


def test_info_verifies_the_picture_on_request(tree):
    succeed("compress", "in/a.png", "--quiet")
    assert json.loads(succeed("info", "in/a.bin", "--verify", "--json"))["verified"] is True
    data = bytearray(Path("in/a.bin").read_bytes())
    data[-5] ^= 1
    Path("in/a.bin").write_bytes(data)
    succeed("info", "in/a.bin", "--quiet")
    assert fail("info", "in/a.bin", "--verify").startswith("codec: in/a.bin: ")


# Dates, streams


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_dates_and_permissions_are_kept_on_request(tree):
    os.utime("in/a.png", ns=(10**18, 10**18 + 123_000_000))
    os.chmod("in/a.png", 0o640)
    succeed("compress", "in/a.png", "--keep-times", "--quiet")
    succeed("compress", "in/a.png", "-o", "now.bin", "--quiet")
    succeed("decompress", "in/a.bin", "-o", "back.png", "--keep-times", "--quiet")
    for name in ("in/a.bin", "back.png"):
        found = os.stat(name)
        assert (found.st_mtime_ns, stat.S_IMODE(found.st_mode)) == (10**18 + 123_000_000, 0o640)
    assert os.stat("now.bin").st_mtime_ns > 1.5e18


@pytest.mark.skipif(os.name != "posix", reason="a shell that closes streams")
@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ("compress - -o x.bin <&-", 1, "codec: standard input: standard input is closed\n"),
        ("decompress - -o x.png <&-", 1, "codec: standard input: standard input is closed\n"),
        ("info - <&-", 1, "codec: standard input: standard input is closed\n"),
        ("compress a.png -o - >&-", 1, "codec: a.png: standard output is closed\n"),
        ("compress a.png -o x.bin >&-", 0, ""),
        ("compress a.png -o x.bin 2>&-", 0, ""),
        ("compress missing.png -o x.bin 2>&-", 1, ""),
        ("compress a.png -o x.bin <&- >&- 2>&-", 0, ""),
    ],
)
def test_closed_streams_cost_no_more_than_what_they_carry(root, tmp_path, photo, arguments, status, said):
    Image.fromarray(photo[:32, :32]).save(tmp_path / "a.png")
    command = f"{sys.executable} -W ignore -m codec {arguments}"
    environment = {**os.environ, "PYTHONPATH": str(root)}
    run = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, timeout=120, check=False
    )
    assert run.returncode == status and without_warning(run.stderr.decode()) == said, run.stderr
    if "-o x.bin" in arguments and status == 0:
        assert (tmp_path / "x.bin").read_bytes() == codec.compress(tmp_path / "a.png")


# Finding one's way


def test_what_is_misspelt_is_guessed(tmp_path):
    assert "Did you mean compress?" in fail("comprss", "a.png", status=2)
    assert "Did you mean" not in fail("xyzzy", status=2)
    assert "--quality" in fail("compress", "a.png", "--qualty", "3", status=2)
    default = list_models()[0]
    typo = default[:-1] + ("0" if default[-1] != "0" else "1")
    assert f"did you mean {default}?" in fail("compress", "a.png", "--model", typo)


def test_the_version_names_models_and_engines():
    said = succeed("--version").splitlines()
    assert said[0] == f"codec {codec.__version__}"
    assert [line.split()[1] for line in said[1:-1]] == list_models() and "default" in said[1]
    assert f"NumPy {np.__version__}" in said[-1] and "ONNX Runtime" in said[-1]


def test_help_names_the_exit_statuses(root):
    said = " ".join(succeed("--help").split())
    table = (root / "docs" / "guide" / "command-line.md").read_text(encoding="utf-8")
    for status in ("0", "1", "2", "130"):
        assert re.search(rf"\b{status} \w+", said.partition("Exit status:")[2])
        assert re.search(rf"^\| {status} \|", table, re.MULTILINE)


def test_the_shell_completes_commands_and_options(root):
    for words, wanted in (("codec comp", "compress"), ("codec compress --target-s", "--target-size")):
        environment = {
            **os.environ, "PYTHONPATH": str(root), "_CODEC_COMPLETE": "bash_complete", "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        }  # fmt: skip
        run = subprocess.run(
            [sys.executable, "-m", "codec"], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert wanted in run.stdout, run.stderr


def test_the_manual_holds_every_command_and_option():
    page = succeed("man")
    for name in ("compress", "decompress", "info", "study gradients"):
        assert f'.SS "{name} ' in page
    for option in (r"\-\-target\-size SIZE", r"\-\-dry\-run", r"\-\-version"):
        assert f".B {option}" in page or f", {option}" in page or option in page
    assert ".SH EXIT STATUS" in page and "demo" not in page
    assert not [line for line in page.splitlines() if line.startswith("'")]
    groff = subprocess.run(["sh", "-c", "command -v groff"], capture_output=True, check=False)
    if groff.returncode == 0:
        command = ["groff", "-man", "-Tutf8", "-ww", "-z"]
        assert subprocess.run(command, input=page, capture_output=True, text=True, check=False).stderr == ""


# Several at a time


def test_files_at_work_at_a_time_change_neither_bytes_nor_order(tree):
    (tree / "in" / "broken.png").write_bytes(b"no picture")
    said, found = [], []
    for workers in (1, 3):
        result = run("compress", "in", "--recursive", "-o", f"out{workers}", "--workers", workers, "--json")
        assert result.exit_code == 1 and "broken.png" in result.output
        said.append([json.loads(text)["input"] for text in result.output.splitlines() if text.startswith("{")])
        found.append({path.name: path.read_bytes() for path in Path(f"out{workers}").rglob("*.bin")})
    assert said[0] == said[1] and len(said[0]) == 5 and found[0] == found[1] and len(found[0]) == 4
    succeed("decompress", "out3", "--recursive", "-o", "back", "--workers", "3", "--quiet")
    assert len(list(Path("back").rglob("*.png"))) == 4


def test_workers_share_cores_and_threads():
    assert share(None, None, 1) == (1, None) and share(4, None, 3) == (3, 1) and share(1, None, 9) == (1, None)
    assert share(2, 3, 9) == (2, 3) and share(None, None, 9)[1] in (1, None) and share(None, cores(), 9) == (1, cores())
