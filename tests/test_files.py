"""What is written: whole or not at all, whatever happens meanwhile."""

import functools
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import codec
from codec import bitstream
from codec.errors import CodecError
from codec.files import write_bytes_atomic
from codec.image_io import FORMATS, READABLE
from test_cli import fail, succeed, without_warning


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


# What a killed process leaves


def age(path, hours):
    stamp = time.time() - 3600 * hours
    os.utime(path, (stamp, stamp), follow_symlinks=False)


def test_own_litter_is_removed_after_a_day_and_nothing_else(tmp_path):
    litter = tmp_path / f".codec-{'a' * 16}.tmp"
    others = [
        tmp_path / f".codec-{'b' * 16}.tmp",
        *(tmp_path / name for name in (".codec-x.tmp", "a.tmp", f"codec-{'a' * 16}.tmp")),
    ]
    for path in (litter, *others):
        path.write_bytes(b"half")
    (tmp_path / f".codec-{'c' * 16}.tmp").mkdir()
    (tmp_path / f".codec-{'c' * 16}.tmp" / "weights.safetensors").write_bytes(b"half")
    for path in (litter, *others[1:], tmp_path / f".codec-{'c' * 16}.tmp"):
        age(path, 25)
    age(others[0], 23)
    write_bytes_atomic(tmp_path / "picture.bin", b"data")
    assert sorted(os.listdir(tmp_path)) == sorted([path.name for path in others] + ["picture.bin"])


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals of POSIX")
@pytest.mark.parametrize("number", ["SIGKILL", "SIGTERM"])
def test_a_process_that_is_killed_leaves_the_old_file_or_the_new_one(root, tmp_path, number):
    path, size = tmp_path / "picture.bin", 3_000_000
    path.write_bytes(b"0" * size)
    code = (
        "import itertools, sys\nfrom codec.files import write_bytes_atomic\n"
        f"for n in itertools.count():\n    write_bytes_atomic({str(path)!r}, b'%d' % (n % 10) * {size})\n"
        "    print(n, flush=True)\n"
    )
    for pause in (0, 0.001, 0.003, 0.008):
        child = subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE)
        child.stdout.readline()  # it is at work
        time.sleep(pause)
        child.send_signal(getattr(signal, number))
        child.communicate(timeout=20)
        data = path.read_bytes()
        assert data == data[:1] * size
        assert all(re.fullmatch(r"\.codec-[0-9a-f]{16}\.tmp|picture\.bin", name) for name in os.listdir(tmp_path))


@pytest.fixture(scope="module")
def shared():
    """``codec.Codec`` that loads its models once for all commands of these tests."""
    return functools.cache(codec.Codec)


@pytest.fixture
def folder(tmp_path, photo, shared, monkeypatch):
    """Of three small pictures."""
    monkeypatch.setitem(vars(codec), "Codec", shared)
    place = tmp_path / "pictures"
    place.mkdir()
    for index, name in enumerate("abc"):
        Image.fromarray(photo[:64, 10 * index : 64 + 10 * index]).save(place / f"{name}.png")
    return place


def start(root, *arguments, **options):
    command = [sys.executable, "-m", "codec", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(command, env=environment, **options)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_run_that_is_ended_leaves_whole_files_and_can_be_finished(root, folder, number, status):
    for index in range(57):
        (folder / f"d{index:02}.png").write_bytes((folder / "a.png").read_bytes())
    child = start(root, "compress", folder)
    child.stdout.readline()  # the first file is there
    child.send_signal(number)
    _, said = child.communicate(timeout=60)
    assert child.returncode == status
    assert number != signal.SIGINT or said.decode().splitlines()[-1] == "codec: interrupted"
    done = sorted(folder.glob("*.bin"))
    assert 1 <= len(done) < 60
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in done}
    said = without_warning(succeed("compress", folder, "--skip-existing", "--quiet"))
    assert said == "" and len(list(folder.glob("*.bin"))) == 60
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in done} == before
    for path in done:
        bitstream.unpack(path.read_bytes())
    assert "codec: 0 files, 60 skipped" in succeed("compress", folder, "--skip-existing")


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_a_closed_pipe_and_a_full_device_end_quietly(root, folder):
    child = start(root, "compress", folder / "a.png", "-o", "-", "--quiet")
    child.stdout.close()
    with child:
        said = child.stderr.read().decode()
    assert child.returncode == 1 and "Traceback" not in said and "Exception" not in said
    if os.path.exists("/dev/full"):
        with open("/dev/full", "wb") as full:
            child = start(root, "compress", folder / "a.png", "-o", "-", "--quiet", stdout=full)
            said = without_warning(child.communicate(timeout=60)[1].decode())
        assert child.returncode == 1 and said == f"codec: {folder / 'a.png'}: no space left on device\n"
        said = fail("compress", folder / "a.png", "-o", "/dev/full", "--quiet")
        assert said == "codec: /dev/full: cannot write: no space left on device\n".replace(
            "codec: ", f"codec: {folder / 'a.png'}: "
        )


# Full disks and little memory, by the limits of a process

LIMITED = """
import functools, json, os, resource, sys
from click.testing import CliRunner
import codec
from cli.main import codec as command

codec.Codec = functools.cache(codec.Codec)

def run(*arguments):
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result.exit_code, result.output

def limited(what, size, *arguments):
    resource.setrlimit(what, (size, resource.RLIM_INFINITY))
    try:
        return run(*arguments)
    finally:
        resource.setrlimit(what, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


def limited(root, code, timeout=200):
    pytest.importorskip("resource")
    environment = {**os.environ, "PYTHONPATH": str(root)}
    result = subprocess.run(
        [sys.executable, "-c", LIMITED + code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout), result.stderr


def test_a_full_disk_leaves_the_old_file_or_none_in_every_format(root, tmp_path, photo):
    """At the limit a write is short or fails, wherever in the file that is."""
    Image.fromarray(photo[:64, :64]).save(tmp_path / "photo.png")
    extensions = sorted(FORMATS)
    code = f"""
os.chdir({str(tmp_path)!r})
found = []
run("compress", "photo.png", "-o", "in.bin")
jobs = [(("decompress", "in.bin"), "out" + extension) for extension in {extensions}]
jobs += [(("compress", "photo.png"), "out" + suffix) for suffix in (".bin", ".lqc")]
for arguments, output in jobs:
    assert run(*arguments, "-o", output)[0] == 0
    whole = os.path.getsize(output)
    os.unlink(output)
    for size in (whole // 2, whole - 1):
        for old in (None, b"old"):
            if old:
                with open(output, "wb") as file: file.write(old)
            before = sorted(os.listdir())
            status, said = limited(resource.RLIMIT_FSIZE, size, *arguments, "-o", output, "--quiet", "--force")
            left = None
            if os.path.exists(output):
                with open(output, "rb") as file: left = file.read()
                os.unlink(output)
            same = sorted(os.listdir()) == sorted(set(before) - {{output}})
            found.append([output, size, status, said, left == old, same])
print(json.dumps(found))
"""
    found, _ = limited(root, code)
    assert len(found) == 4 * (len(extensions) + 2)
    for output, size, status, said, kept, clean in found:
        assert status == 1 and kept and clean, (output, size, status, said)
        assert f"{output}: cannot write: file too large" in without_warning(said)


def test_too_little_memory_costs_a_picture_and_not_the_run(root, tmp_path):
    ramp = np.add.outer(np.arange(1000), 3 * np.arange(1500)).astype(np.uint8)
    Image.fromarray(np.dstack([ramp, ramp[::-1], ramp[:, ::-1]])).save(tmp_path / "a.png", compress_level=1)
    (tmp_path / "small").mkdir()
    for path in ("b.png", "small/b.png", "small/c.png"):
        Image.fromarray(ramp[:64, :64]).save(tmp_path / path, compress_level=0)  # or the result is said to be larger
    used = f"""
os.chdir({str(tmp_path)!r})
ALONE = "--workers", 1, "--threads", 1  # see docs/reference/guarantees.md, on OpenBLAS
def used():
    with open("/proc/self/statm") as file: return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
if not os.path.exists("/proc/self/statm"):
    print("null"); sys.exit()
"""
    # Small ones first, so that the model, the stacks of threads and the buffers of OpenBLAS are there. Where nothing
    # free is left over from those, another small one needs 8 to 16 MB; the large one needs more than 44.
    code = """
run("compress", "small", *ALONE, "--fallback", "never")
os.rename("small", ".small")
found = []
for megabytes in (24, 44):
    for name in ("a.bin", "b.bin"):
        if os.path.exists(name): os.unlink(name)
    result = limited(resource.RLIMIT_AS, used() + megabytes * 2**20, "compress", ".", *ALONE, "--fallback", "never")
    found.append([*result, sorted(name for name in os.listdir() if name.endswith(".bin"))])
run("compress", "a.png", "--quality", 0, "--fallback", "never")
print(json.dumps(found))
"""
    # In a process that has never had memory for such a picture.
    decode = """
os.rename(".small", "small")
run("decompress", "small", *ALONE, "-o", "out")
found = []
for megabytes in (12, 24):
    for name in os.listdir("out"): os.unlink("out/" + name)
    arguments = ["decompress", "a.bin", "b.bin", "-o", "out", *ALONE]
    result = limited(resource.RLIMIT_AS, used() + megabytes * 2**20, *arguments)
    found.append([*result, sorted(os.listdir("out"))])
print(json.dumps(found))
"""
    for work, a, made, arrow in (
        (code, "a.png", "b.bin", "b.png -> b.bin"),
        (decode, "a.bin", "b.png", "b.bin -> out/b.png"),
    ):
        result, said = limited(root, used + work)
        if result is None:
            pytest.skip("memory is counted in /proc")
        for status, output, files in result:
            lines = [text for text in without_warning(output).splitlines() if "larger than the picture" not in text]
            assert status == 1 and lines[0].startswith("codec: "), output
            assert f"{a}: not enough memory for 1.5 megapixels" in lines[0]
            assert arrow in lines[1] and files == [made]
            assert (
                re.fullmatch(r"codec: 1 file, .* to .*bytes in \S+ \(.*/s\), 1 failed", lines[2]) and len(lines) == 3
            ), output
        assert said == ""  # nor does a library talk


# Folders as they are


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
def test_a_pipe_in_a_folder_does_not_block(root, folder):
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe.bin")
    (folder / "dangling.png").symlink_to("nowhere.png")
    child = start(root, "compress", folder)
    out, said = (text.decode() for text in child.communicate(timeout=60))
    assert child.returncode == 1 and out.count("bpp") == 3
    lines = without_warning(said).splitlines()
    assert lines[0] == f"codec: {folder / 'dangling.png'}: cannot read: No such file or directory"
    assert lines[1].endswith("1 failed, 1 passed over (no regular files)") and len(lines) == 2
    said = succeed("decompress", folder, "--force")
    assert "3 files" in said and "1 passed over (no regular files)" in said


def test_files_of_other_programs_are_passed_over_and_counted(folder):
    succeed("compress", folder, "--quiet")
    (folder / "firmware.bin").write_bytes(b"\x7fELF" + bytes(1000))
    with open(folder / "large.bin", "wb") as file:
        file.truncate(3 * 2**30)
    said = succeed("decompress", folder, "-o", folder / "out")
    assert re.search(
        r"^codec: 3 files, \S+ \S+ to \S+ \S+ in \S+ \(.*/s\), 2 passed over \(of other programs\)$", said, re.MULTILINE
    )
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["a.png", "b.png", "c.png"]
    assert "codec: 3 files, 2 passed over (of other programs)" in succeed("info", folder)
    (folder / "empty.bin").touch()  # may have been one of ours
    assert f"codec: {folder / 'empty.bin'}: truncated" in fail(
        "decompress", folder, "--skip-existing", "--quiet", "-o", folder / "out"
    )
    assert "firmware.bin: not a file of this codec" in fail("decompress", folder / "firmware.bin")
    for path in folder.glob("?.bin"):
        path.unlink()
    (folder / "empty.bin").unlink()
    assert "no .bin, .lqc files in this folder (2 of other programs)" in fail("decompress", folder)


def test_a_folder_that_cannot_be_read_is_named(folder, monkeypatch):
    (folder / "closed").mkdir()
    (folder / "closed" / "d.png").write_bytes((folder / "a.png").read_bytes())
    scandir = os.scandir

    def refuse(
        path=".",
    ):  # what the system says to ordinary users; the superuser, who may run this, is allowed everything
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    said = without_warning(fail("compress", folder, "--recursive", "--quiet"))
    lines = said.splitlines()
    assert lines[0] == f"codec: {folder / 'closed'}: permission denied" and lines[1].endswith("1 failed")
    assert sorted(path.name for path in folder.glob("*.bin")) == ["a.bin", "b.bin", "c.bin"]


def test_names_that_collide_all_get_an_output(folder):
    Image.open(folder / "a.png").save(folder / "a.jpg")
    (folder / "link.png").symlink_to("b.png")
    succeed("compress", folder, "--quiet")
    assert sorted(path.name for path in folder.glob("*.bin")) == [
        "a.jpg.bin",
        "a.png.bin",
        "b.bin",
        "c.bin",
        "link.bin",
    ]
    assert (folder / "b.bin").read_bytes() == (folder / "link.bin").read_bytes()
    succeed("decompress", folder, "-o", folder / "out", "--quiet")
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        "a.jpg.png",
        "a.png",
        "b.png",
        "c.png",
        "link.png",
    ]


def test_a_folder_that_cannot_be_written_to_costs_its_files_one_line_each(folder, monkeypatch):
    real = os.open

    def refuse(path, flags, *mode, **options):
        if flags & os.O_CREAT:
            raise PermissionError(13, "Permission denied")
        return real(path, flags, *mode, **options)

    monkeypatch.setattr(os, "open", refuse)
    lines = without_warning(fail("compress", folder, "--quiet")).splitlines()
    assert [line.endswith(".bin: cannot write: permission denied") for line in lines] == [True] * 3 + [False]
    assert lines[3] == "codec: 0 files, 3 failed" and list(folder.glob("*.bin")) == []


# Large and hostile files


def peak(root, *arguments, data=None):
    """(status, what is said, largest resident memory in bytes) of a command in a process of its own."""
    code = (
        "import re, sys\nfrom cli.main import codec\n"
        "try:\n    codec.main(sys.argv[1:], prog_name='codec')\n"
        "finally:\n    peak = re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())\n"
        "    print(1024 * int(peak[1]), file=sys.stderr)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(root)}
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment, capture_output=True, text=True, timeout=100,
        stdin=data, check=False,
    )  # fmt: skip
    *said, memory = result.stderr.splitlines()
    return result.returncode, "\n".join(said), int(memory)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory as Linux counts it")
@pytest.mark.parametrize("command", ["info", "decompress", "compress"])
def test_foreign_files_cost_what_their_beginning_costs(root, tmp_path, command):
    large = tmp_path / "large.bin"
    with open(large, "wb") as file:
        file.truncate(3 * 2**30)
    limit = 250e6
    output = () if command == "info" else ("-o", tmp_path / "out.png")
    for path in (large, "/dev/zero"):
        status, said, memory = peak(root, command, path, *output)
        assert status == 1 and memory < limit
        assert ("not a picture of a known kind" if command == "compress" else "not a file of this codec") in said
    with open("/dev/zero", "rb") as zeros:
        status, said, memory = peak(root, command, "-", *output, data=zeros)
    assert status == 1 and memory < limit and "standard input: not a" in said


def test_larger_pictures_than_allowed_are_refused_both_ways(folder):
    said = without_warning(fail("compress", folder / "a.png", "--max-pixels", 4095))
    assert said == f"codec: {folder / 'a.png'}: too large: 64 x 64 pixels; at most 4095 in all\n"
    succeed("compress", folder / "a.png", "--max-pixels", 4096, "--quiet")
    said = fail("decompress", folder / "a.bin", "--max-pixels", 4095, "-o", folder / "x.png")
    assert said == f"codec: {folder / 'a.bin'}: too large: 64 x 64 pixels; at most 4095 in all\n"
    succeed("decompress", folder / "a.bin", "--max-pixels", 4096, "-o", folder / "x.png", "--quiet")


def test_pictures_that_pillow_calls_bombs_are_pictures(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    succeed("compress", folder / "a.png", "--quiet")
    succeed("decompress", folder / "a.bin", "-o", folder / "x.png", "--quiet")


def test_a_picture_starts_no_program(tmp_path, monkeypatch):
    """PostScript called x.png: Pillow would hand it to Ghostscript."""
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *arguments, **options: started.append(arguments))
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *arguments, **options: started.append(arguments))
    path = tmp_path / "x.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n")
    assert "not a picture of a known kind" in fail("compress", path)
    assert started == []
    assert not {"EPS", "FITS", "WMF", "TGA", "MPEG"} & set(READABLE)
