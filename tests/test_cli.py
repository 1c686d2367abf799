"""The command line: what it writes, what it refuses before it writes, and what it says."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from typing import Literal

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import codec
from cli.common import Failure, Progress
from cli.files import plan
from cli.main import COMMANDS
from cli.main import codec as codec_command
from cli.train import build_config, minutes_until, read_settings
from cli.train import train as train_command
from codec import bitstream, weights

SUFFIXES = (".png", ".jpg")


def run(*arguments):
    """Result of a command in this process; ``output`` holds stdout and stderr together."""
    result = CliRunner().invoke(codec_command, [str(argument) for argument in arguments], prog_name="codec")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def succeed(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def fail(*arguments, status=1):
    """The output of a command that fails."""
    result = run(*arguments)
    assert result.exit_code == status, result.output
    return result.output


def shell(root, *arguments, data=b""):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "codec", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run(command, input=data, capture_output=True, env=environment, timeout=120)


@pytest.fixture
def picture(tmp_path, photo):
    path = tmp_path / "picture.png"
    Image.fromarray(photo).save(path)
    return path


@pytest.fixture
def compressed(tmp_path):
    """A file with a valid container around strings that mean nothing: enough for whatever does not decode."""
    path = tmp_path / "picture.bin"
    path.write_bytes(bitstream.pack(_container()))
    return path


def _container(**changes):
    fields = dict(
        model_id="0badcafe" * 2,
        quality=4250,
        width=192,
        height=128,
        grey=False,
        tiles=(bitstream.Tile(b"t" * 1000, 1, 0),),
    )
    return bitstream.Container(**{**fields, **changes})


def without_warning(said):
    """What a command said beside the line about an experimental model, which stands there at most once."""
    lines = said.splitlines(keepends=True)
    rest = [line for line in lines if "is experimental: later versions" not in line]
    assert len(lines) - len(rest) <= 1
    return "".join(rest)


def _touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


# Which file becomes which


def _plan(inputs, output=None, **options):
    """Target paths of a plan, as text; None where a job cannot be done."""
    found = plan([str(path) for path in inputs], output, suffix=".bin", suffixes=SUFFIXES, written=(".bin",), **options)
    return [None if job.problem else str(job.target) for job in found.jobs]


@pytest.mark.parametrize(
    "inputs, output, targets",
    [
        (["a.png"], None, ["a.bin"]),
        (["sub/a.v2.png"], None, ["sub/a.v2.bin"]),
        (["a.png", "sub/c.png"], None, ["a.bin", "sub/c.bin"]),
        (["a.png"], "x.any", ["x.any"]),
        (["a.png"], "new/x.any", ["new/x.any"]),
        (["a.png"], "new/", ["new/a.bin"]),
        (["a.png"], "sub", ["sub/a.bin"]),
        (["a.png", "b.jpg"], "new", ["new/a.bin", "new/b.bin"]),
        (["sub"], None, ["sub/c.bin", "sub/d.bin"]),
        (["sub"], "new", ["new/c.bin", "new/d.bin"]),
        (["a.png", "a.png", "./a.png"], None, ["a.bin"]),
        (["missing.png"], None, ["missing.bin"]),
        # Names that collide keep their extension; others do not.
        (["twin.png", "twin.jpg", "a.png"], None, ["twin.png.bin", "twin.jpg.bin", "a.bin"]),
        (["twin.png", "twin.jpg"], "new", ["new/twin.png.bin", "new/twin.jpg.bin"]),
        (["twin", "twin.png"], None, ["twin.bin", "twin.png.bin"]),
        (["twin.png", "twin.jpg", "twin.png.png"], None, ["twin.png.bin", "twin.jpg.bin", "twin.png.png.bin"]),
        (["a.png", "link.png"], None, ["a.bin", "link.bin"]),
        # What cannot be told apart is no reason to do nothing.
        (["sub/c.png", "other/c.png"], "new", ["new/c.png.bin", None]),
        (["sub", "other"], "new", ["new/c.png.bin", "new/d.bin", None]),
        (["sub/c.png", "linked/c.png"], None, ["sub/c.png.bin"]),
    ],
)
def test_outputs_stand_beside_their_inputs_or_where_o_says(tmp_path, monkeypatch, inputs, output, targets):
    _touch(
        tmp_path,
        "a.png",
        "b.jpg",
        "sub/c.png",
        "sub/d.JPG",
        "sub/notes.txt",
        "sub/.hidden.png",
        "sub/deep/e.png",
        "other/c.png",
        "twin", "twin.png", "twin.jpg", "twin.png.png",
    )  # fmt: skip
    (tmp_path / "link.png").symlink_to("a.png")
    (tmp_path / "linked").symlink_to("sub")
    monkeypatch.chdir(tmp_path)
    assert _plan(inputs, output) == [target and str(pathlib.Path(target)) for target in targets]


def test_recursive_mirrors_the_tree(tmp_path, monkeypatch):
    _touch(tmp_path, "in/a.png", "in/x/b.png", "in/x/y/c.png", "in/.git/d.png")
    monkeypatch.chdir(tmp_path)
    assert _plan(["in"], "out", recursive=True) == ["out/a.bin", "out/x/b.bin", "out/x/y/c.bin"]
    assert _plan(["in"], recursive=True) == ["in/a.bin", "in/x/b.bin", "in/x/y/c.bin"]


@pytest.mark.parametrize(
    "inputs, output, force, message",
    [
        (["a.png", "old.png"], None, False, "old.bin: exists already; --force overwrites, --skip-existing leaves out"),
        (["a.png", "b.png"], "new.bin", True, "new.bin: several outputs need a folder"),
        (["sub"], "new.bin", True, "new.bin: several outputs need a folder"),
        (["a.png", "b.png"], "old.bin", True, "old.bin: is a file"),
        (["nothing"], None, False, "nothing: no .png, .jpg files in this folder (1 .txt); --recursive"),
    ],
)
def test_a_plan_that_loses_something_is_refused_as_a_whole(tmp_path, monkeypatch, inputs, output, force, message):
    _touch(tmp_path, "a.png", "a.jpg", "b.png", "old.png", "old.bin", "sub/c.png", "other/c.png", "nothing/x.txt")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Failure) as caught:
        _plan(inputs, output, force=force)
    assert message in caught.value.message.replace(os.sep, "/")


def test_an_input_is_never_written_over(tmp_path):
    _touch(tmp_path, "a.png", "b.bin", "c.png")
    assert _plan([tmp_path / "a.png"], str(tmp_path / "a.png"), force=True) == [None]
    assert _plan([tmp_path / "b.bin", tmp_path / "c.png"], force=True) == [None, str(tmp_path / "c.bin")]
    said = fail("compress", tmp_path / "b.bin", "--force", "--quiet")
    assert said == f"codec: {tmp_path / 'b.bin'}: would be written over an input\n"
    assert (tmp_path / "b.bin").read_bytes() == b""


def test_skipping_leaves_out_what_is_there(tmp_path):
    _touch(tmp_path, "a.png", "a.bin", "b.png", "c.png", "c.jpg", "c.png.bin")
    assert _plan([tmp_path], skip_existing=True) == [str(tmp_path / "b.bin"), str(tmp_path / "c.jpg.bin")]


def test_a_folder_may_be_named_like_a_file_if_it_is_meant(tmp_path):
    _touch(tmp_path, "a.png", "b.png")
    (tmp_path / "there.bin").mkdir()
    for output in ("there.bin", "new.bin/"):
        written = _plan([tmp_path / "a.png", tmp_path / "b.png"], f"{tmp_path}/{output}")
        assert written == [str(tmp_path / output / name) for name in ("a.bin", "b.bin")]


def test_force_overwrites_and_devices_need_none(tmp_path):
    _touch(tmp_path, "a.png", "a.bin")
    assert _plan([tmp_path / "a.png"], force=True) == [str(tmp_path / "a.bin")]
    assert _plan([tmp_path / "a.png"], os.devnull) == [os.devnull]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["compress", "-", "a.png"], "must be the only input"),
        (["compress", "a.png", "b.png", "-o", "-"], "single input"),
        (["compress", "a.png", "--force", "--skip-existing"], "do not go together"),
        (["compress", "a.png", "--max-pixels", "0"], "1<=x<=268435456"),
        (["compress", "a.png", "-q", "101"], "0<=x<=100"),
        (["compress", "a.png", "-q", "-1"], "0<=x<=100"),
        (["compress", "a.png", "-q", "nan"], "not a number"),
        (["compress", "a.png", "--threads", "0"], "x>=1"),
        (["compress"], "Missing argument"),
        (["decompress", "a.bin", "-o", "a.jpg", "--format", "png"], "does not agree"),
        (["squash"], "No such command"),
    ],
)
def test_arguments_that_make_no_sense_exit_with_status_2(arguments, message):
    assert message in fail(*arguments, status=2)


@pytest.mark.parametrize("command", [("compress",), ("evaluate", "--against", "none")])
def test_an_unknown_device_is_one_clear_line(picture, command):
    said = fail(*command, picture, "--device", "abacus")
    assert "device abacus: " in said and said.count("\n") == 1


def test_an_existing_output_is_refused_before_any_work(tmp_path, picture, monkeypatch):
    output = tmp_path / "picture.bin"
    output.write_bytes(b"precious")
    monkeypatch.setattr(codec, "Codec", None)  # calling it would raise TypeError
    assert fail("compress", picture) == f"codec: {output}: exists already; --force overwrites\n"
    assert output.read_bytes() == b"precious"


# Compress and decompress


def test_a_picture_becomes_a_file_and_comes_back(tmp_path, picture, photo):
    said = without_warning(succeed("compress", picture, "-q", "60"))
    file = tmp_path / "picture.bin"
    data = file.read_bytes()
    assert data == codec.compress(picture, 60)
    assert said == f"{picture} -> {file}: {len(data):,} bytes, {8 * len(data) / (128 * 192):.3f} bpp\n"

    back = tmp_path / "back.png"
    assert succeed("decompress", file, "-o", back) == f"{file} -> {back}: 192 x 128\n"
    with Image.open(back) as image:
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), np.asarray(codec.decompress(data)))
    assert fail("decompress", file) == f"codec: {picture}: exists already; --force overwrites\n"
    succeed("decompress", file, "--force")
    assert picture.read_bytes() == back.read_bytes()


def test_folders_there_and_back_keep_their_tree(tmp_path, photo):
    for name in ("in/a.png", "in/x/b.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo[:64, :64]).save(path)
    succeed("compress", tmp_path / "in", "--recursive", "-o", tmp_path / "packed", "--quiet")
    succeed("decompress", tmp_path / "packed", "--recursive", "-o", tmp_path / "out", "--format", "ppm")
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert found == ["a.ppm", os.path.join("x", "b.ppm")]


def test_files_may_have_a_suffix_of_their_own(tmp_path, picture):
    succeed("compress", picture, "--suffix", ".lqc", "--quiet")
    assert (tmp_path / "picture.lqc").read_bytes() == codec.compress(picture)
    picture.unlink()
    assert "192 x 128" in succeed("info", tmp_path)
    succeed("decompress", tmp_path, "--quiet")
    assert picture.exists()


@pytest.mark.parametrize("extension, form", [("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP"), ("tiff", "TIFF")])
def test_the_extension_chooses_the_format(tmp_path, picture, extension, form):
    succeed("compress", picture, "--quiet")
    output = tmp_path / f"back.{extension}"
    succeed("decompress", tmp_path / "picture.bin", "-o", output)
    with Image.open(output) as image:
        assert (image.format, image.size) == (form, (192, 128))


def test_an_unknown_format_is_refused_before_any_work(compressed):
    assert "no picture format by that extension; known: png, jpg" in fail("decompress", compressed, "-o", "x.xyz")
    assert "--format xyz: not a known format" in fail("decompress", compressed, "--format", "xyz")


def test_one_failing_file_does_not_stop_the_others(tmp_path, photo):
    for name in ("a.png", "c.png"):
        Image.fromarray(photo[:64, :64]).save(tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"not a picture")
    missing = tmp_path / "missing.png"
    said = fail("compress", tmp_path, missing, "--quiet").splitlines()
    assert len(said) == 3
    assert said[0].startswith(f"codec: {tmp_path / 'b.png'}: ")
    assert said[1].startswith(f"codec: {missing}: ")
    assert re.fullmatch(r"codec: 2 files, \S+ kB to \S+ (kB|bytes) in \d+:\d\d \(\S+ [kM]B/s\), 2 failed", said[2])
    assert sorted(path.name for path in tmp_path.glob("*.bin")) == ["a.bin", "c.bin"]


def test_quiet_says_nothing_about_success(picture):
    assert succeed("compress", picture, "--quiet") == ""


def test_exif_is_kept_unless_it_is_to_be_stripped(tmp_path, photo):
    exif = Image.Exif()
    exif[0x010E] = "a dog"  # ImageDescription
    Image.fromarray(photo).save(tmp_path / "a.jpg", exif=exif)
    for options, kept in (
        (["-o", tmp_path / "without.bin", "--strip"], False),
        (["-o", tmp_path / "with.bin"], True),
        (["-o", tmp_path / "asked.bin", "--exif"], True),
    ):
        succeed("compress", tmp_path / "a.jpg", *options)
        found = bitstream.unpack(options[1].read_bytes())
        assert (found.exif is not None or found.packed_exif is not None) == kept


def test_an_unknown_model_ends_the_command_in_one_line(tmp_path, picture):
    said = fail("compress", picture, picture.parent / "other.png", "--model", "00000000")
    assert said.startswith("codec: ") and said.count("\n") == 1
    assert not (tmp_path / "picture.bin").exists()


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda data: data[:-100], "truncated: needed {size} bytes, found {left}"),
        (
            lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:],
            "corrupt: the checksum of the header does not match its contents",
        ),
        (lambda data: b"GIF89a", "not a file of this codec: it does not begin with its magic"),
        (lambda data: b"", "truncated: needed 4 bytes, found 0"),
    ],
)
@pytest.mark.parametrize("command", ["decompress", "info"])
def test_damage_is_one_line_and_status_1(tmp_path, compressed, command, damage, message):
    whole = compressed.read_bytes()
    damaged = damage(whole)
    compressed.write_bytes(damaged)
    message = message.format(size=len(whole), left=len(damaged))
    assert fail(command, compressed) == f"codec: {compressed}: {message}\n"
    assert not (tmp_path / "picture.png").exists()


@pytest.mark.parametrize("tune", weights.TUNES)
def test_a_tune_picks_a_shipped_model_and_the_file_says_which(tmp_path, picture, tune):
    out = tmp_path / "out.bin"
    succeed("compress", picture, "-o", out, "--tune", tune)
    found = json.loads(succeed("info", out, "--json"))
    assert (found["model"], found["model_tune"]) == (weights.tuned_model_id(tune), tune)
    assert f"tuned for {tune}" in succeed("info", out)
    assert "one of them is enough" in fail(
        "compress", picture, "-f", "--tune", tune, "--model", found["model"], status=2
    )


def test_a_file_of_a_model_that_is_not_here_names_the_model(compressed):
    said = fail("decompress", compressed)
    assert said.startswith(f"codec: {compressed}: ") and "0badcafe" in said and said.count("\n") == 1


def test_interruption_is_one_line_and_leaves_no_partial_file(tmp_path, picture, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)  # the last moment of writing a file
    assert without_warning(fail("compress", picture, status=130)) == "codec: interrupted\n"
    assert os.listdir(tmp_path) == ["picture.png"]


def test_standard_streams_carry_pictures(root, picture):
    there = shell(root, "compress", "-", "-q", "30", data=picture.read_bytes())
    assert there.returncode == 0, there.stderr
    assert there.stdout == codec.compress(picture, 30)
    assert without_warning(there.stderr.decode()).startswith("standard input -> standard output: ")

    back = shell(root, "decompress", "-", "-o", "-", "--quiet", data=there.stdout)
    assert back.returncode == 0 and back.stderr == b""
    assert back.stdout.startswith(b"\x89PNG")


def test_errors_go_to_stderr(root, tmp_path):
    path = tmp_path / "picture.bin"
    whole = bitstream.pack(_container())
    path.write_bytes(whole[:100])
    result = shell(root, "decompress", path)
    assert result.returncode == 1 and result.stdout == b""
    assert result.stderr.decode() == f"codec: {path}: truncated: needed {len(whole)} bytes, found 100\n"

    result = shell(root, "compress", "-", "-o", tmp_path / "x.bin", data=b"no picture")
    assert result.returncode == 1
    assert without_warning(result.stderr.decode()).startswith("codec: standard input: not a picture")


def test_progress_lets_lines_through(capfd, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Progress(2, "compressing") as progress:
        progress.start("a.png")
        progress.echo("first")
        progress.advance()
    assert capfd.readouterr().out == "first\n"


# info, models, demo


def test_info_shows_header_and_parts(compressed):
    said = succeed("info", compressed)
    size = f"{compressed.stat().st_size:,}"
    for words in ("192 x 128, RGB", "quality  42.5", "0badcafe0badcafe (experimental; not installed", "tile 0", size):
        assert words in said
    assert "alpha" not in said and "EXIF" not in said


def test_info_as_json_accounts_for_every_byte(tmp_path, compressed):
    other = tmp_path / "grey.bin"
    other.write_bytes(bitstream.pack(_container(grey=True, alpha=b"a" * 50, icc=b"i" * 60, exif=b"e" * 70)))
    lines = succeed("info", "--json", compressed, other).splitlines()
    plain, full = map(json.loads, lines)
    assert (plain["file"], plain["width"], plain["height"], plain["quality"]) == (
        str(compressed),
        192,
        128,
        42.5,
    )
    assert (plain["colour"], plain["alpha"], plain["icc"], plain["exif"]) == ("rgb", False, False, False)
    assert (full["colour"], full["alpha"], full["icc"], full["exif"]) == ("grey", True, True, True)
    assert plain["model"] == 2 * "0badcafe" and plain["model_installed"] is False
    for found, path in ((plain, compressed), (full, other)):
        size = path.stat().st_size
        assert found["bytes"] == size == sum(part["bytes"] for part in found["parts"])
        assert found["bpp"] == pytest.approx(8 * size / (192 * 128), abs=1e-4)
        assert sum(part["percent"] for part in found["parts"]) == pytest.approx(100, abs=0.05)
    assert [part["name"] for part in full["parts"]] == [
        "header",
        "alpha",
        "exif",
        "icc",
        "tile 0",
    ]


def test_info_goes_on_after_a_damaged_file(tmp_path, compressed):
    (tmp_path / "a.bin").write_bytes(bitstream.MAGIC)
    said = fail("info", tmp_path)
    assert f"codec: {tmp_path / 'a.bin'}: truncated" in said
    assert "192 x 128" in said and said.endswith("codec: 1 file, 1 failed\n")


def test_info_knows_the_installed_model(tmp_path, picture):
    succeed("compress", picture, "--quiet")
    found = json.loads(succeed("info", "--json", tmp_path / "picture.bin"))
    assert found["model_installed"] is True
    listed = json.loads(succeed("models", "--json"))
    assert [model["id"] for model in listed if model["default"]] == [found["model"]]
    assert f"* {found['model']}" in succeed("models")


def test_demo_prints_a_row_for_each_picture_and_quality(tmp_path, picture):
    said = succeed("demo", picture.parent, "-o", tmp_path / "demo", "-q", "20", "-q", "80")
    rows = [line.split() for line in said.splitlines() if line.startswith("picture.png")]
    assert [row[2] for row in rows] == ["20", "80"]
    for row in rows:
        file = tmp_path / "demo" / f"picture-q{row[2]}.bin"
        assert int(row[3].replace(",", "")) == file.stat().st_size
        assert file.with_suffix(".png").exists()
    assert float(rows[0][5]) < float(rows[1][5])  # PSNR
    assert "demo" not in succeed("--help").split("Commands:")[1]


# train


@dataclasses.dataclass
class Settings:
    """Every type that a configuration may use."""

    count: int = 1
    rate: float = 0.5
    name: str = "x"
    flag: bool = False
    folder: pathlib.Path = pathlib.Path("runs")
    limit: int | None = None
    widths: tuple[int, ...] = (1, 2)
    names: list = dataclasses.field(default_factory=list)
    kind: Literal["a", "b"] = "a"

    def __post_init__(self):
        if self.count < 0:
            raise ValueError("count: must not be negative")


def _set(*overrides, settings=None, options=None):
    return build_config(Settings, settings or {}, overrides, options or {})


@pytest.mark.parametrize(
    "override, value",
    [
        ("count=7", 7),
        ("count=1e3", 1000),
        ("rate=1e-4", 1e-4),
        ("rate=2", 2.0),
        ("name=5", "5"),
        ("name=a=b", "a=b"),
        ('name={"M": 256}', '{"M": 256}'),
        ("flag=true", True),
        ("flag=False", False),
        ("folder=a/b", pathlib.Path("a/b")),
        ("limit=3", 3),
        ("limit=none", None),
        ("widths=3,4,5", (3, 4, 5)),
        ("widths=", ()),
        ("names=a,b", ["a", "b"]),
        ("kind=b", "b"),
    ],
)
def test_overrides_take_the_type_of_their_field(override, value):
    config = _set(override)
    found = getattr(config, override.partition("=")[0])
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "override, message",
    [
        ("count=1.5", "--set count: needs a whole number, found '1.5'"),
        ("count=true", "--set count: needs a whole number, found 'true'"),
        ("count=", "--set count: needs a whole number, found ''"),
        ("rate=fast", "--set rate: needs a number, found 'fast'"),
        ("rate=nan", "--set rate: needs a number, found 'nan'"),
        ("rate=NaN", "--set rate: needs a number, found 'NaN'"),
        ("flag=1", "--set flag: needs true or false, found '1'"),
        ("limit=x", "--set limit: needs a whole number or none, found 'x'"),
        ("widths=1,x", "--set widths: needs a whole number, found '1,x'"),
        ("kind=c", "--set kind: needs one of a, b, found 'c'"),
        ("cuont=3", "--set: unknown setting 'cuont'; did you mean count? (known: count, flag, folder,"),
        ("count", "--set count: write it as key=value"),
        ("count=-1", "count: must not be negative"),
    ],
)
def test_overrides_that_do_not_fit_are_named(override, message):
    with pytest.raises(Failure) as caught:
        _set(override)
    assert caught.value.message.startswith(message)


def test_later_layers_of_settings_win():
    config = _set("rate=2", "rate=3", settings={"rate": 1, "count": 4, "name": "file"}, options={"name": "option"})
    assert (config.rate, config.count, config.name) == (3.0, 4, "option")
    with pytest.raises(Failure, match="also given by its own option"):
        _set("name=a", options={"name": "b"})


def test_settings_from_a_file_are_checked(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text('{"count": "7"}')
    with pytest.raises(Failure, match='--config: count needs a whole number, found "7"'):
        _set(settings=read_settings(path))
    for text, message in (("{", "not JSON"), ("[1]", "needs a JSON object")):
        path.write_text(text)
        with pytest.raises(Failure, match=message):
            read_settings(path)
    assert read_settings(None) == {}


def test_every_training_option_is_a_setting():
    from codec.training.config import TrainingConfig

    fields = {field.name for field in dataclasses.fields(TrainingConfig)}
    own = {"until", "fit_tables", "fit_slopes", "measure", "config_file", "overrides", "show_config", "no_progress"}
    everywhere = {"quiet", "verbose"}
    assert {parameter.name for parameter in train_command.params} - own - everywhere <= fields


def test_show_config_can_be_read_back(tmp_path):
    said = succeed("train", tmp_path, "--seed", "7", "--max-minutes", "5", "--set", "batch=2", "--show-config")
    shown = json.loads(said)
    assert (shown["pictures"], shown["seed"], shown["max_minutes"], shown["batch"]) == (
        [str(tmp_path)],
        7,
        5.0,
        2,
    )
    path = tmp_path / "config.json"
    path.write_text(said)
    assert succeed("train", "--config", path, "--show-config") == said


@pytest.mark.parametrize(
    "options, named",
    [
        (["--latents", "vq", "--quantiser", "sga"], "quantiser"),
        (["--latents", "vq", "--entropy-bits", "1"], "entropy_bits"),
        (["--latents", "hvq", "--set", "quantiser=noise"], "quantiser"),
        (["--latents", "dvae", "--codebook", "loss"], "codebook"),
        (["--codebook", "loss"], "codebook"),
        (["--latents", "vq", "--set", "model.N=32"], "model.N"),
        (["--latents", "hvq", "--set", "model.context_width=32"], "model.context_width"),
        (["--set", "model.stages=2"], "model.stages"),
    ],
)
def test_options_that_the_latents_do_not_look_at_are_refused(tmp_path, options, named):
    said = fail("train", tmp_path, "-o", tmp_path / "run", *options)
    assert named in said and "do not look at" in said and len(said.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()
    given = ["--latents", "hvq", "--entropy-bits", "4", "--codebook", "loss"]
    shown = json.loads(succeed("train", *given, "--show-config"))
    assert (shown["latents"], shown["entropy_bits"], shown["codebook"]) == ("hvq", 4, "loss")


def test_training_needs_pictures_and_a_sound_architecture(tmp_path):
    assert "Missing argument 'PICTURES...'" in fail("train", status=2)
    said = fail("train", tmp_path, "--set", 'architecture={"M')
    assert said.startswith("codec: architecture: ") and said.count("\n") == 1
    said = fail("train", tmp_path, "--set", 'architecture={"widht": 3}')
    assert said.startswith("codec: ") and "widht" in said and said.count("\n") == 1


def test_until_is_a_time_in_the_future(tmp_path):
    now = datetime(2031, 5, 17, 12, 0, tzinfo=timezone.utc)
    assert minutes_until("2031-05-17T12:30Z", now) == 30
    assert minutes_until("2031-05-17T14:30+02:00", now) == 30
    local = (now.astimezone() + timedelta(minutes=45)).replace(tzinfo=None)
    assert minutes_until(local.isoformat(), now) == 45
    with pytest.raises(Failure, match="lies in the past"):
        minutes_until("2031-05-17T11:59Z", now)
    with pytest.raises(Failure, match="needs a date and time such as"):
        minutes_until("teatime", now)

    soon = (datetime.now() + timedelta(minutes=30)).isoformat()
    shown = json.loads(succeed("train", tmp_path, "--until", soon, "--max-minutes", "90", "--show-config"))
    assert 29 < shown["max_minutes"] <= 30


# The command as a whole


def test_every_command_is_there_and_explains_itself():
    said = succeed("--help")
    for name in COMMANDS:
        command = codec_command.get_command(click.Context(codec_command), name)
        assert command.name == name
        assert command.hidden or f"\n  {name} " in said
        assert "Usage: codec" in succeed(name, "--help")


def test_version_is_the_packages():
    assert succeed("--version").startswith(f"codec {codec.__version__}\n")
