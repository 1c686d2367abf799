"""What is written: whole or not at all, whatever happens meanwhile."""

import os
import stat

import pytest

from codec.errors import CodecError
from codec.files import write_bytes_atomic


def test_bytes_are_written_with_the_usual_permissions(tmp_path):
    path = tmp_path / "picture.bin"
    write_bytes_atomic(path, b"first")
    assert path.read_bytes() == b"first" and os.listdir(tmp_path) == ["picture.bin"]
    (tmp_path / "usual").touch()
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode
    path.chmod(0o640)
    write_bytes_atomic(str(path), b"second")
    assert path.read_bytes() == b"second"
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("function", ["replace", "fsync"])
@pytest.mark.parametrize("failure", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_failure_at_the_last_moment_leaves_nothing_behind(tmp_path, monkeypatch, function, failure):
    path = tmp_path / "picture.bin"
    path.write_bytes(b"old")

    def fail(*args):
        raise failure

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(KeyboardInterrupt if isinstance(failure, KeyboardInterrupt) else CodecError):
        write_bytes_atomic(path, b"new")
    assert os.listdir(tmp_path) == ["picture.bin"] and path.read_bytes() == b"old"


def test_places_that_cannot_be_written_are_named(tmp_path):
    for path in (tmp_path, tmp_path / "missing" / "picture.bin", tmp_path / ("x" * 300)):
        with pytest.raises(CodecError) as caught:
            write_bytes_atomic(path, b"data")
        assert str(caught.value).startswith(f"{path}: cannot write: ")
    assert os.listdir(tmp_path) == []


def test_names_of_the_greatest_length_can_be_written(tmp_path):
    path = tmp_path / ("x" * 251 + ".bin")
    write_bytes_atomic(path, b"data")
    assert path.read_bytes() == b"data"


@pytest.mark.skipif(os.name != "posix", reason="links and devices of POSIX")
def test_links_stay_links_and_devices_stay_devices(tmp_path):
    target, link = tmp_path / "target.bin", tmp_path / "link.bin"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_bytes_atomic(link, b"new")
    assert link.is_symlink() and target.read_bytes() == b"new"

    reader, writer = os.pipe()
    write_bytes_atomic(f"/dev/fd/{writer}", b"through a pipe")
    assert os.read(reader, 99) == b"through a pipe"
    os.close(reader)
    os.close(writer)


def test_write_protected_files_are_respected(tmp_path, monkeypatch):
    path = tmp_path / "picture.bin"
    path.write_bytes(b"old")
    # What the system says to ordinary users; the superuser, who may run this, is allowed everything.
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    with pytest.raises(CodecError, match="cannot write: permission denied"):
        write_bytes_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    write_bytes_atomic(tmp_path / "new.bin", b"new")
