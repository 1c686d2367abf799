"""Tar archives of pictures, such as WebDataset's shards: what is changed in them, and that the rest stays."""

import functools
import io
import json
import subprocess
import sys
import tarfile
import tracemalloc

import numpy as np
import pytest
from PIL import Image

import codec
from cli.common import Failure
from cli.patterns import braces
from codec.errors import CodecError
from codec.shards import members, repack, sample_of
from test_cli import fail, succeed, without_warning


@pytest.fixture(scope="module")
def coder():
    return codec.Codec()


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch, coder):
    monkeypatch.setitem(vars(codec), "Codec", functools.cache(lambda *_, **__: coder))


def picture(photo, number, form="png"):
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(photo[:48, 8 * number : 8 * number + 56])).save(file, form)
    return file.getvalue()


def archive(*entries, mode="w"):
    """The bytes of a tar archive; entries are (name, bytes), or TarInfo of what holds none."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as made:
        for number, entry in enumerate(entries):
            if isinstance(entry, tarfile.TarInfo):
                made.addfile(entry)
                continue
            info = tarfile.TarInfo(entry[0])
            info.size, info.mtime, info.mode, info.uname = len(entry[1]), 1e9 + number + 0.5, 0o640, "somebody"
            made.addfile(info, io.BytesIO(entry[1]))
    return file.getvalue()


def read(data):
    """[(TarInfo, bytes or None)] of an archive."""
    with tarfile.open(fileobj=io.BytesIO(data)) as made:
        return [(info, made.extractfile(info).read() if info.isreg() else None) for info in made]


def link(name, target, kind):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


LONG = "ü" * 60 + "/" + "x" * 180


@pytest.fixture
def shard(tmp_path, photo):
    """Of every kind of member."""
    folder = tarfile.TarInfo("more")
    folder.type = tarfile.DIRTYPE
    data = archive(
        ("000.json", b'{"caption": "one"}'), ("000.jpg", picture(photo, 0, "jpeg")), ("000.cls", b"3"), folder,
        ("more/001.seg.png", picture(photo, 1)), ("more/001.txt", b"text"), ("002.png", picture(photo, 2)),
        ("002.jpg", picture(photo, 3, "jpeg")), ("weights.bin", b"of another program"),
        (f"{LONG}.PNG", picture(photo, 4)),
        (f"{LONG}.json", b"{}"), link("same.jpg", "000.jpg", tarfile.LNKTYPE), link("soft", "000.cls", tarfile.SYMTYPE),
        (".png", b"hidden, and no picture"),
    )  # fmt: skip
    path = tmp_path / "shards" / "a.tar"
    path.parent.mkdir()
    path.write_bytes(data)
    return path


NAMES = [
    "000.json", "000.lqc", "000.cls", "more", "more/001.seg.lqc", "more/001.txt", "002.lqc", "002.jpg.lqc",
    "weights.bin",
    f"{LONG}.lqc", f"{LONG}.json", "same.lqc", "soft", ".png",
]  # fmt: skip


def test_pictures_are_compressed_in_their_places_and_the_rest_stays(shard, tmp_path, coder):
    said = succeed("compress", shard, "-q", "40", "-o", f"{tmp_path}/packed/", "--manifest", tmp_path / "kept")
    assert f"{shard} -> {tmp_path / 'packed' / 'a.tar'}: 5 pictures, " in said
    before, after = read(shard.read_bytes()), read((tmp_path / "packed" / "a.tar").read_bytes())
    assert [info.name for info, _ in after] == NAMES
    for (old, was), (new, data) in zip(before, after, strict=True):
        kept = ("type", "mtime", "mode", "uname", "uid")
        assert [getattr(old, name) for name in kept] == [getattr(new, name) for name in kept]
        assert data == (coder.compress(was, 40) if old.isreg() and new.name.endswith(".lqc") else was)
    assert after[11][0].linkname == "000.lqc" and after[12][0].linkname == "000.cls"

    (manifest,) = (tmp_path / "kept").iterdir()
    lines = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    assert [line["target_member"] for line in lines] == [
        name for name in NAMES if ".lqc" in name and "same" not in name
    ]
    assert {line["status"] for line in lines} == {"done"} and {line["source"] for line in lines} == {str(shard)}
    assert [line["bytes"] for line in lines] == [
        len(data) for info, data in after if data and info.name.endswith(".lqc")
    ]

    succeed("decompress", tmp_path / "packed" / "a.tar", "-o", f"{tmp_path}/back/")
    back = read((tmp_path / "back" / "a.tar").read_bytes())
    assert [info.name for info, _ in back] == [
        {"002.jpg.lqc": "002.jpg.png"}.get(name, name.replace(".lqc", ".png")) for name in NAMES
    ]
    for (packed, data), (_, made) in zip(after, back, strict=True):
        if packed.isreg() and packed.name.endswith(".lqc"):
            with Image.open(io.BytesIO(made)) as image:
                assert image.format == "PNG" and (np.asarray(image) == coder.decompress(data, as_array=True)).all()
        else:
            assert made == data


def test_a_picture_that_cannot_be_done_stays_and_is_named(tmp_path, photo, coder):
    good, short = picture(photo, 0), picture(photo, 1)[:200]
    source = tmp_path / "a.tar"
    source.write_bytes(archive(("0.png", good), ("1.png", short), ("1.json", b"{}"), ("2.jpg", b"no picture")))
    said = without_warning(fail("compress", source, "-o", tmp_path / "b.tar", "-q", "40", "--quiet"))
    lines = said.splitlines()
    assert len(lines) == 2 and lines[0].startswith(f"codec: {source}: 1.png: ") and f"{source}: 2.jpg: " in lines[1]
    packed = [("0.lqc", coder.compress(good, 40)), ("1.png", short), ("1.json", b"{}"), ("2.jpg", b"no picture")]
    assert [(info.name, data) for info, data in read((tmp_path / "b.tar").read_bytes())] == packed

    data = coder.compress(photo[:48, :56], 40)
    damaged = bytes([*data[:-9], data[-9] ^ 255, *data[-8:]])
    source.write_bytes(archive(("0.lqc", data), ("1.lqc", damaged), ("2.bin", b"of another program")))
    said = without_warning(fail("decompress", source, "-o", tmp_path / "c.tar", "--json"))
    assert said.splitlines()[0].startswith(f"codec: {source}: 1.lqc: ")
    found = json.loads(said.splitlines()[1])
    assert found["pictures"] == 1 and found["error"] == "1 of 2 pictures could not be done"
    assert [info.name for info, _ in read((tmp_path / "c.tar").read_bytes())] == ["0.png", "1.lqc", "2.bin"]


@pytest.mark.parametrize("damage", ["cut at a member", "cut in a member", "no archive", "header", "packed", "twice"])
def test_a_damaged_archive_is_one_line_and_the_old_result_stays(tmp_path, photo, damage):
    entries = ("0.json", b"{}"), ("0.png", picture(photo, 0)), ("1.json", b"x" * 2000)
    data = {
        "cut at a member": archive(*entries)[:1024],
        "cut in a member": archive(*entries)[:1800],
        "no archive": b"no archive" * 500,
        "header": archive(*entries)[:1030] + b"\0\0\xff\xff" + archive(*entries)[1034:],
        "packed": archive(*entries, mode="w:gz")[:900],
        "twice": archive(*entries, ("0.lqc", b"there already")),
    }[damage]
    source, target = tmp_path / "a.tar", tmp_path / "out" / "a.tar"
    source.write_bytes(data)
    target.parent.mkdir()
    target.write_bytes(b"old")
    said = without_warning(fail("compress", source, "-o", target, "--force", "--quiet"))
    assert said.startswith(f"codec: {source}: ") and said.count("\n") == 1
    assert target.read_bytes() == b"old" and [path.name for path in target.parent.iterdir()] == ["a.tar"]


def test_archives_that_gzip_has_packed_are_read(tmp_path, photo, coder):
    (tmp_path / "a.tar").write_bytes(archive(("0.png", picture(photo, 0)), mode="w:gz"))
    succeed("compress", tmp_path / "a.tar", "-o", tmp_path / "b.tar", "--suffix", ".bin")
    assert [info.name for info, _ in read((tmp_path / "b.tar").read_bytes())] == ["0.bin"]


class Stream:
    """An archive that is made as it is read, and cannot be read twice."""

    def __init__(self, samples, size):
        self.parts = self.made(samples, size)
        self.waiting = b""

    def made(self, samples, size):
        for number in range(samples):
            for suffix in (".png", ".json"):
                info = tarfile.TarInfo(f"{number:06}{suffix}")
                info.size = size
                yield info.tobuf() + bytes(size)
        yield bytes(1024)

    def read(self, count):
        while len(self.waiting) < count and (part := next(self.parts, None)):
            self.waiting += part
        data, self.waiting = self.waiting[:count], self.waiting[count:]
        return data


class Sink(io.RawIOBase):
    """Counts what is written to it, and cannot go back."""

    count = 0

    def writable(self):
        return True

    def write(self, data):
        self.count += len(data)
        return len(data)


def test_memory_does_not_grow_with_the_archive():
    size = 1 << 18

    def peak(samples):
        sink = Sink()
        tracemalloc.start()
        try:
            changes = repack(Stream(samples, size), sink, (".png",), ".lqc", lambda data: (data[: size // 2], {}))
            assert sum(1 for _ in changes) == samples and sink.count > samples * size
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(200) < peak(20) + size


def test_names_are_split_as_webdataset_does():
    assert sample_of("a/b.c/000.seg.png") == ("a/b.c/000", "seg.png") and sample_of("000") == ("000", "")


def test_webdataset_reads_what_is_written(tmp_path, photo, coder):
    pytest.importorskip("webdataset")
    pictures = [picture(photo, number) for number in range(3)]
    entries = [each for n, data in enumerate(pictures) for each in ((f"{n}.png", data), (f"{n}.cls", b"%d" % n))]
    (tmp_path / "a.tar").write_bytes(archive(*entries))
    succeed("compress", tmp_path / "a.tar", "-o", tmp_path / "b.tar", "-q", "40")
    code = (
        "import json, sys, webdataset\n"
        "samples = webdataset.WebDataset(sys.argv[1], shardshuffle=False, empty_check=False)\n"
        "print(json.dumps([[each['__key__'], each['lqc'].hex(), each['cls'].decode()] for each in samples]))"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "b.tar")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200)
    wanted = [[str(n), coder.compress(data, 40).hex(), str(n)] for n, data in enumerate(pictures)]
    assert result.returncode == 0 and json.loads(result.stdout) == wanted, result.stderr


# --- Which archive becomes which --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("a.tar", ["a.tar"]), ("a-{08..11}.tar", ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]),
        ("{1..3}", ["1", "2", "3"]), ("{2..0}", ["2", "1", "0"]), ("{a,b}/{0..1}", ["a/0", "a/1", "b/0", "b/1"]),
        ("{a}{}", ["{a}{}"]), ("x{a,}", ["xa", "x"]), ("{a,b{1..2}}", ["a", "b1", "a", "b2"]), ("{a..b}", ["{a..b}"]),
    ],
)  # fmt: skip
def test_braces_stand_for_names(name, names):
    assert braces(name) == names


def test_braces_that_stand_for_too_many_names_are_refused():
    for name in ("{0..99999999}", "{0..9999}" * 3):
        with pytest.raises(Failure, match="stands for more than"):
            braces(name)


def test_archives_become_archives_of_their_names(tmp_path, photo):
    for name in ("s-00", "s-01", "t-00"):
        (tmp_path / f"{name}.tar").write_bytes(archive(("0.png", picture(photo, 0))))
    said = succeed("compress", f"{tmp_path}/s-{{00..01}}.tar", "-o", tmp_path / "out", "--workers", "2")
    assert [line.partition(": ")[0] for line in without_warning(said).splitlines()[:2]] == [
        f"{tmp_path / name} -> {tmp_path / 'out' / name}" for name in ("s-00.tar", "s-01.tar")
    ]
    said = succeed("compress", f"{tmp_path}/*.tar", "-o", tmp_path / "out", "--skip-existing")
    assert "2 skipped" in said and sorted(path.name for path in (tmp_path / "out").iterdir())[2] == "t-00.tar"
    assert "codec: " + f"{tmp_path}/s-03.tar: no such file" in fail(
        "compress", f"{tmp_path}/s-{{01..03..}}.tar".replace("..}", "}"), "-o", tmp_path / "three", "--quiet"
    )
    assert "-o names its folder" in fail("compress", tmp_path / "s-00.tar")
    assert "becomes an archive" in fail("compress", tmp_path / "s-00.tar", "-o", tmp_path / "a.bin")
    assert "becomes an archive" in fail("decompress", tmp_path / "s-00.tar", "-o", tmp_path / "a.png")
    assert "--all-frames is for pictures" in fail(
        "compress", tmp_path / "s-00.tar", "-o", tmp_path / "x.tar", "--all-frames", status=2
    )


def test_the_members_of_a_damaged_archive_end_in_an_error(photo):
    data = archive(("0.png", picture(photo, 0)), ("0.json", b"{}"))
    assert [name for name, _ in members(io.BytesIO(data))] == ["0.png", "0.json"]
    with pytest.raises(CodecError, match="truncated"):
        list(members(io.BytesIO(data[: len(data) // 512 * 512 - 9000])))
