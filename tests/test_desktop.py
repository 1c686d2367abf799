"""``codec desktop``: the files that it writes, as the system's own tools read them."""

import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import codec
from cli.main import codec as codec_command
from codec import desktop
from codec.bitstream import MAGIC, MIME_TYPE, read_header
from codec.errors import BitstreamError


@pytest.fixture
def home(tmp_path, monkeypatch):
    folder = tmp_path / "data folder"
    monkeypatch.setenv("XDG_DATA_HOME", str(folder))
    return folder


@pytest.fixture(scope="module")
def file(tmp_path_factory, _dog):
    path = tmp_path_factory.mktemp("desktop") / "picture"
    path.write_bytes(codec.compress(np.ascontiguousarray(_dog[:96, :160]), 42))
    return path


def run(*arguments):
    result = CliRunner().invoke(codec_command, ["desktop", *map(str, arguments)], prog_name="codec")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def contents(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_what_is_installed_is_what_is_printed_and_goes_again(home):
    printed = run("--print").stdout
    assert not home.exists()
    result = run("--install")
    assert result.exit_code == 0, result.output
    ours = {"mime/packages/lqc.xml", "thumbnailers/lqc.thumbnailer", "lqc/magic"}
    assert ours <= contents(home) and result.stdout.split("\n")[:-1] == [str(path) for path in desktop.files()]
    for name in ours:
        assert f"# {home / name}\n{(home / name).read_text()}" in printed
    assert run("--install").exit_code == 0  # once more brings it up to date
    (home / "mime" / "packages" / "other.xml").write_text(desktop.MIME_XML.replace("lqc", "other"))
    assert run("--uninstall").exit_code == 0
    assert not ours & contents(home) and "mime/packages/other.xml" in contents(home)
    assert run("--uninstall").stdout == ""


def test_a_relative_data_folder_counts_as_none(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "share"):
        monkeypatch.setenv("XDG_DATA_HOME", value)
        assert desktop.data_folder() == tmp_path / ".local" / "share"


def test_the_type_has_magic_and_extension():
    space = {"m": "http://www.freedesktop.org/standards/shared-mime-info"}
    (found,) = ElementTree.fromstring(desktop.MIME_XML.encode()).findall("m:mime-type", space)
    assert found.get("type") == MIME_TYPE
    match = found.find("m:magic/m:match", space)
    assert match.get("value").encode().decode("unicode_escape").encode("latin-1") == MAGIC
    assert [glob.get("pattern") for glob in found.findall("m:glob", space)] == ["*.lqc"]


@pytest.mark.skipif(not shutil.which("file"), reason="there is no file(1)")
def test_file_knows_the_files(home, file):
    run("--install")
    magic = str(home / "lqc" / "magic")

    def asked(*options, of=file):
        command = ["file", "--brief", "-m", magic, *options, str(of)]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        assert result.stderr == ""  # as for lines that it does not understand
        return result.stdout.strip()

    assert asked("--mime-type") == MIME_TYPE
    header = read_header(file.read_bytes())
    assert asked() == f"LQC image data, version 2, quality 4200/10000, model {header.model_id}"
    grey = file.with_name("grey")
    Image.new("L", (70, 40), 90).save(file.with_name("grey.png"))
    grey.write_bytes(codec.compress(file.with_name("grey.png"), 42, fallback="never"))
    assert asked(of=grey).startswith("LQC image data, version 2, grey, quality")
    grey.write_bytes(codec.compress(file.with_name("grey.png"), 42, fallback="always"))
    assert asked(of=grey) == "LQC image data, version 2, grey, kept without loss"
    (file.parent / "text").write_text("LQC")
    assert "LQC" not in asked(of=file.parent / "text")


@pytest.mark.skipif(
    not (shutil.which("gio") and shutil.which("update-mime-database")), reason="there are no tools for MIME types"
)
def test_the_desktop_knows_the_files_by_name_and_by_magic(home, file, tmp_path):
    def type_of(path):
        command = ["gio", "info", "-a", "standard::content-type", str(path)]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        return result.stdout.split("standard::content-type:")[1].split()[0]

    named = tmp_path / "empty.lqc"
    named.write_bytes(MAGIC)
    before = type_of(named)
    run("--install")
    assert before != MIME_TYPE == type_of(named) == type_of(file)
    run("--uninstall")
    assert type_of(named) == before


def test_the_thumbnailer_writes_a_small_png(file, tmp_path, monkeypatch, root):
    entry = dict(line.split("=", 1) for line in desktop.thumbnailer().splitlines()[1:])
    assert entry["MimeType"] == f"{MIME_TYPE};" and shutil.which(entry["TryExec"].replace("\\\\", "\\"))
    assert entry["Exec"].endswith(" -m codec desktop --thumbnail %i %o %s")
    output = tmp_path / "thumbnail without suffix"
    monkeypatch.setenv("PYTHONPATH", str(root))
    arguments = ["-m", "codec", "desktop", "--thumbnail", file, output, "64"]
    subprocess.run([sys.executable, "-W", "ignore", *map(str, arguments)], check=True)
    with Image.open(output) as image:
        assert (image.format, image.size) == ("PNG", (64, 38))
        whole = codec.decompress(file.read_bytes()).resize(image.size)
        assert np.abs(np.asarray(image.convert("RGB"), int) - np.asarray(whole)).mean() < 10


def test_words_of_the_thumbnailer_are_quoted_as_desktop_entries_are():
    entry = desktop.thumbnailer(['/opt/a b/$py"%', "-m"])
    assert 'TryExec=/opt/a b/$py"%\n' in entry
    assert 'Exec="/opt/a b/\\\\$py\\\\"%%" -m desktop --thumbnail %i %o %s\n' in entry


def test_a_picture_that_is_too_large_or_damaged_gets_no_thumbnail(file, tmp_path, monkeypatch):
    monkeypatch.setattr(desktop, "THUMBNAIL_PIXELS", 96 * 160 - 1)
    with pytest.raises(BitstreamError):
        desktop.write_thumbnail(file, tmp_path / "out.png", 64)
    monkeypatch.undo()
    broken = tmp_path / "broken"
    broken.write_bytes(file.read_bytes()[:-9])
    result = run("--thumbnail", broken, tmp_path / "out.png", 64)
    assert result.exit_code == 1 and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out.png").exists()


def test_what_makes_no_sense_is_refused(home):
    for arguments in ((), ("--install", "--thumbnail", "a", "b", 64), ("--thumbnail", "a", "b", 5000)):
        assert run(*arguments).exit_code == 2
    assert not home.exists()


def test_systems_of_another_kind_are_told_so(home, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    result = run("--install")
    assert result.exit_code == 1 and "another way" in result.stderr and not home.exists()
