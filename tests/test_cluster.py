"""The same work by a Ray cluster of this machine, and files in an S3 bucket of a server of this machine."""

import io
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
import urllib.parse
import urllib.request
from importlib.util import find_spec

import pytest
from PIL import Image

from test_cli import fail, without_warning

WAIT = 500  # seconds, at most, for what takes some
needs_ray = pytest.mark.skipif(not (find_spec("ray") and find_spec("pyarrow")), reason="Ray Data is not installed")
needs_s3 = pytest.mark.skipif(not (find_spec("moto") and find_spec("s3fs")), reason="moto or s3fs is not installed")
slow = pytest.mark.slow
# Of the cluster that these tests start: nobody else is to send it work.
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def start(root, *arguments, **variables):
    """A command in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", **TOKEN, **variables}
    command = [sys.executable, "-m", "codec", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process, status=0):
    """``(standard output, standard error)`` of a command that ends with that status."""
    out, err = process.communicate(timeout=WAIT)
    assert process.returncode == status, out + err
    assert "Traceback" not in err
    return out, without_warning(err)


def tree(folder):
    """Name -> bytes of the files of a folder, but for manifests."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != "manifests")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def manifests(folder):
    """Lists of lines, one a run, in the order of runs."""
    files = sorted(folder.glob("*.jsonl"))
    return [[json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] for path in files]


def totals(err):
    """The last line of a run, without its seconds."""
    return re.sub(r" in \d+:\d\d.*?\)", "", err.splitlines()[-1])


@pytest.fixture
def folder(tmp_path, photo):
    """Of nine small pictures, two of them of one stem, one in a folder of its own, and a file that is none."""
    place = tmp_path / "pictures"
    (place / "more").mkdir(parents=True)
    for index, name in enumerate(
        ("a.png", "a.jpg", "b.png", "c.png", "d.png", "e.png", "f.png", "g.png", "more/a.png")
    ):
        Image.fromarray(photo[:64, 8 * index : 64 + 8 * index]).save(place / name)
    (place / "broken.png").write_bytes(b"no picture")
    return place


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Bucket:
    """A bucket of an S3 server, spoken to in plain HTTP."""

    def __init__(self, server):
        self.server = server
        self.ask("PUT", "", b"")

    def ask(self, method, key, data=None, query=""):
        url = f"{self.server}/photos/{urllib.parse.quote(key)}".rstrip("/") + query
        headers = {
            "Content-Type": "application/octet-stream",
            "Authorization": "AWS nobody:nothing",
        }  # which it believes
        request = urllib.request.Request(url, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=WAIT) as reply:
            return reply.read()

    def put(self, key, data):
        self.ask("PUT", key, data)

    def get(self, prefix):
        """Key without the prefix -> bytes."""
        keys = re.findall("<Key>([^<]+)</Key>", self.ask("GET", "", query=f"?list-type=2&prefix={prefix}").decode())
        return {key.removeprefix(prefix): self.ask("GET", key) for key in keys}


@pytest.fixture(scope="module")
def store_settings(tmp_path_factory):
    """What the environment says of an S3 server in a process of its own; nothing where there can be none."""
    if not (find_spec("moto") and find_spec("s3fs")):
        yield {}
        return
    server = f"http://127.0.0.1:{(port := free_port())}"
    log = tmp_path_factory.mktemp("moto") / "log.txt"
    with log.open("w") as said:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
    until = time.monotonic() + WAIT
    while "Running on" not in log.read_text():
        assert process.poll() is None and time.monotonic() < until, log.read_text()
        time.sleep(0.1)
    yield {
        "AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    process.terminate()
    process.wait(WAIT)


@pytest.fixture
def bucket(store_settings):
    if not store_settings:
        pytest.skip("moto or s3fs is not installed")
    return Bucket(store_settings["AWS_ENDPOINT_URL"])


@pytest.fixture(scope="module")
def cluster(root, tmp_path_factory, store_settings):
    """The address of a Ray cluster with three workers' room."""
    if not (find_spec("ray") and find_spec("pyarrow")):
        pytest.skip("Ray Data is not installed")
    settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--port={free_port()}", "--num-cpus=3",
        "--block", "--include-dashboard=false",
    ]  # fmt: skip
    log = tmp_path_factory.mktemp("log") / "ray.txt"
    environment = {**os.environ, "PYTHONPATH": str(root), **settings, **TOKEN, **store_settings}
    with log.open("w") as said:
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=subprocess.STDOUT)
    until = time.monotonic() + WAIT
    while "Ray runtime started" not in log.read_text():
        assert process.poll() is None and time.monotonic() < until, log.read_text()
        time.sleep(0.2)
    yield re.search(r"--address='([^']+)'", log.read_text())[1]
    process.terminate()  # and with it all that it has started
    process.wait(WAIT)


# --- What is refused before any cluster is asked ----------------------------------------------------------------------


def test_what_several_processes_cannot_reach_is_refused_in_one_line(folder, tmp_path):
    ray = "--engine", "ray"
    said = fail("compress", "memory://shop/a.png", "-o", tmp_path, *ray)
    assert said == "codec: memory://shop/a.png: is in the memory of one process, where --engine ray has several\n"
    assert fail("compress", folder, "-o", "simplecache::memory://shop", *ray).startswith(
        "codec: simplecache::memory://"
    )
    for arguments in (("compress", "-", "-o", "x.bin"), ("decompress", folder / "a.png", "-o", "-")):
        said = fail(*arguments, *ray)
        assert said == "codec: --engine ray reads and writes files, not standard input and output\n"
    assert "--address is of a cluster" in fail("compress", folder, "--address", "auto", status=2)


def test_a_missing_extra_is_said_in_one_line(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("codec.cluster.missing", lambda *names: ["ray"])
    said = without_warning(fail("compress", folder / "a.png", "-o", tmp_path / "a.bin", "--engine", "ray"))
    assert said == 'codec: --engine ray needs Ray: pip install ".[ray]" in the folder of the sources\n'
    assert not (tmp_path / "a.bin").exists()


def test_ray_is_not_loaded_unless_it_is_asked_for(root, folder):
    code = (
        "import sys\nfrom cli.main import codec\n"
        "for words in ('compress a.png', 'decompress a.bin -o back.png'):\n"
        "    try:\n        codec.main(words.split())\n    except SystemExit as end:\n        assert end.code == 0\n"
        "assert not {'ray', 'pyarrow', 'pandas', 'fsspec', 'codec.cluster'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=WAIT)
    assert result.returncode == 0 and (folder / "back.png").exists(), result.stderr


# --- Manifests --------------------------------------------------------------------------------------------------------


def test_every_run_of_the_local_engine_keeps_a_manifest_of_its_own(root, folder, tmp_path):
    arguments = "compress", folder, "-o", tmp_path / "out", "--manifest", tmp_path / "kept", "--skip-existing"
    ended(start(root, *arguments), 1)
    Image.new("RGB", (8, 8)).save(folder / "broken.png")
    out, _ = ended(start(root, *arguments))
    assert len(out.splitlines()) == 1
    first, second = manifests(tmp_path / "kept")
    assert [line["source"] for line in first] == [str(path) for path in sorted(folder.glob("*.*"))]
    assert {line["status"] for line in first if "broken" not in line["source"]} == {"done"}
    (failed,) = (line for line in first if line["status"] == "failed")
    assert failed["source"] == str(folder / "broken.png") and "not a picture" in failed["error"]
    assert sorted(line["source"] for line in second) == [line["source"] for line in first]
    assert sorted(line["status"] for line in second) == ["done", *["skipped"] * 8]
    done = {line["target"]: line for line in first if line["status"] == "done"}
    for target, line in done.items():
        assert line["bytes"] == os.path.getsize(target) and line["source_bytes"] == os.path.getsize(line["source"])
        assert (line["width"], line["height"], len(line["model"])) == (64, 64, 16)
    assert set(done) == {str(tmp_path / "out" / name) for name in tree(tmp_path / "out")} - {
        str(tmp_path / "out" / "broken.bin")
    }


# --- Ray --------------------------------------------------------------------------------------------------------------


@slow
@needs_ray
def test_a_cluster_makes_the_same_files_and_a_rerun_reads_nothing(root, folder, tmp_path, cluster):
    ray = "--engine", "ray", "--address", cluster
    wanted, out = tmp_path / "wanted", tmp_path / "out"
    arguments = "compress", folder, "--recursive", "-q", "30", "-o"
    said, err = ended(start(root, *arguments, wanted), 1)
    found, told = ended(start(root, *arguments, out, *ray), 1)
    assert tree(out) == tree(wanted) and len(tree(out)) == 9 and "a.jpg.bin" in tree(out)
    assert found == said.replace(str(wanted), str(out))
    problem = f"codec: {folder / 'broken.png'}: not a picture of a known kind, or damaged at its beginning"
    assert problem in told.splitlines() and problem in err.splitlines()
    assert totals(told) == totals(err) and totals(told).startswith("codec: 9 files, ")

    shutil.rmtree(folder / "more")
    for path in folder.iterdir():
        path.write_bytes(b"changed since, and read by nobody")
    Image.new("RGB", (8, 8)).save(folder / "broken.png")
    found, told = ended(start(root, "compress", folder, "-q", "30", "-o", out, *ray, "--skip-existing", "--json"))
    assert json.loads(found)["input"] == str(folder / "broken.png") and "8 skipped" in told
    assert {name: data for name, data in tree(out).items() if name != "broken.bin"} == tree(wanted)
    first, second = manifests(out / "manifests")
    assert sorted(line["status"] for line in first) == [*["done"] * 9, "failed"]
    assert sorted(line["status"] for line in second) == ["done", *["skipped"] * 8]
    assert len({line["worker"] for line in first if "worker" in line}) > 1

    backs = tmp_path / "wanted back", tmp_path / "back"
    (wanted / "broken.bin").write_bytes(tree(out)["broken.bin"][:-1])
    told = [
        ended(start(root, "decompress", wanted, "--recursive", "-o", back, "--format", "webp", *engine), 1)[1]
        for back, engine in zip(backs, ((), ray))
    ]
    assert tree(backs[0]) == tree(backs[1]) and len(tree(backs[1])) == 9
    assert totals(told[0]) == totals(told[1]) and "1 failed" in totals(told[0])


@slow
@needs_ray
def test_a_worker_that_is_killed_costs_no_picture_and_makes_none_twice(root, tmp_path, photo, cluster):
    source, out = tmp_path / "pictures", tmp_path / "out"
    source.mkdir()
    for number in range(60):
        Image.fromarray(photo[: 64 + number, number : number + 64]).save(source / f"{number:02}.png")
    ended(start(root, "compress", source, "-o", tmp_path / "wanted"))
    run = start(root, "compress", source, "-o", out, "--engine", "ray", "--address", cluster, "--workers", 3)
    until = time.monotonic() + WAIT
    while not (written := list((out / "manifests").glob("*.jsonl"))) or not (lines := written[0].read_bytes()):
        assert time.monotonic() < until and run.poll() is None
        time.sleep(0.01)
    first = json.loads(lines.splitlines()[0])
    os.kill(int(first["worker"].rpartition(":")[2]), signal.SIGKILL)
    before = len(tree(out))
    _, told = ended(run)
    assert before < 60 and "codec: 60 files, " in told
    assert tree(out) == tree(tmp_path / "wanted")
    (kept,) = manifests(out / "manifests")
    assert [line["source"] for line in kept] == [str(path) for path in sorted(source.iterdir())]
    assert {line["status"] for line in kept} == {"done"} and len({line["worker"] for line in kept}) >= 3


POISON = """
import os, signal

class Work:
    def __call__(self, number):
        if number == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 9:
            raise ZeroDivisionError("nine")
        return number * number
"""
SPREAD = """
import sys
from codec.cluster import spread
from poison import Work

for number, outcome, place in spread(Work(), list(range(40)), address=sys.argv[1], workers=2):
    print(number, type(outcome).__name__, outcome, flush=True)
"""


@slow
@needs_ray
def test_what_kills_every_process_is_given_up_alone(root, tmp_path, cluster):
    (tmp_path / "poison.py").write_text(POISON)
    (tmp_path / "main.py").write_text(SPREAD)  # whose folder Ray's processes look into, too
    environment = {**os.environ, "PYTHONPATH": str(root), **TOKEN}
    command = [sys.executable, str(tmp_path / "main.py"), cluster]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WAIT)
    assert result.returncode == 0, result.stderr
    wanted = {number: f"{number} int {number * number}" for number in range(40)}
    wanted[7] = "7 Lost given up: the process that worked on it was killed, 4 times"
    wanted[9] = "9 CodecError ZeroDivisionError: nine"
    assert sorted(result.stdout.splitlines()) == sorted(wanted.values())


@slow
@needs_ray
def test_a_cluster_of_this_machine_is_started_where_none_is_named(root, tmp_path, photo):
    Image.fromarray(photo[:64, :64]).save(tmp_path / "a.png")
    out, err = ended(start(root, "compress", tmp_path / "a.png", "--engine", "ray", "--json", RAY_ADDRESS=""))
    assert json.loads(out)["output"] == str(tmp_path / "a.bin")  # one object, and nothing of Ray's
    assert [line for line in err.splitlines() if not line.startswith("codec: compressing a.png: 0 of 1 file, ")] == []
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "a.bin"}


@slow
@needs_ray
def test_a_cluster_that_is_not_there_is_one_line(root, folder, tmp_path):
    run = start(root, "compress", folder, "-o", tmp_path / "out", "--engine", "ray", "--address", "127.0.0.1:9")
    _, err = ended(run, 1)
    lines = [line for line in err.splitlines() if " files, " not in line]
    assert len(lines) == 1 and lines[0].startswith("codec: Ray cluster 127.0.0.1:9: ")


@slow
@needs_ray
def test_a_table_that_a_cluster_has_measured_is_the_same(root, folder, tmp_path, cluster, bucket, store_settings):
    arguments = "--qualities", "20,50,70,90", "--against", "webp", "--metrics", "psnr,ms_ssim", "--bootstrap", "0"
    arguments = "--recursive", *arguments, "--workers", "2", "--csv"
    said, _ = ended(start(root, "evaluate", folder, *arguments, tmp_path / "a.csv"), 1)
    ray = "--engine", "ray", "--address", cluster
    for path in folder.rglob("*.*"):
        bucket.put(f"measured/{path.relative_to(folder).as_posix()}", path.read_bytes())
    for source in (folder, "s3://photos/measured"):
        found, told = ended(start(root, "evaluate", source, *arguments, tmp_path / "b.csv", *ray, **store_settings), 1)
        assert found == said  # the table, and whose times it leaves out
        rows = [[line.split(",") for line in (tmp_path / name).read_text().splitlines()] for name in ("a.csv", "b.csv")]
        timed = [index for index, name in enumerate(rows[0][0]) if name.endswith("_s")]
        for row in (row for each in rows for row in each):
            for index in timed:
                row[index] = ""
        assert rows[0] == rows[1] and len(rows[0]) > 9 * 5
        assert f"codec: {source}/broken.png: not a picture" in told and "1 of 10 pictures left out" in told


# --- An object store --------------------------------------------------------------------------------------------------


@slow
@needs_s3
@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=needs_ray)])
def test_a_bucket_is_read_and_written(root, folder, tmp_path, bucket, store_settings, engine, request):
    options = ["--engine", "ray", "--address", request.getfixturevalue("cluster")] if engine == "ray" else []
    for path in folder.rglob("*.*"):
        bucket.put(f"{engine}/in/{path.relative_to(folder).as_posix()}", path.read_bytes())
    wanted, place = tmp_path / "wanted", f"s3://photos/{engine}"
    _, err = ended(start(root, "compress", folder, "--recursive", "-q", "30", "-o", wanted), 1)

    def run(*arguments, status=0):
        return ended(start(root, *arguments, *options, **store_settings), status)

    kept = "--manifest", f"{place}/kept"
    _, told = run("compress", f"{place}/in", "--recursive", "-q", "30", "-o", f"{place}/out", *kept, status=1)
    assert bucket.get(f"{engine}/out/") == tree(wanted) and len(tree(wanted)) == 9
    assert f"codec: {place}/in/broken.png: not a picture" in told and totals(told) == totals(err)
    (lines,) = bucket.get(f"{engine}/kept/").values()
    lines = [json.loads(line) for line in lines.splitlines()]
    assert sorted(line["status"] for line in lines) == [*["done"] * 9, "failed"]
    assert {line["target"]: line["bytes"] for line in lines if line["status"] == "done"} == {
        f"{place}/out/{name}": len(data) for name, data in tree(wanted).items()
    }

    _, told = run("compress", f"{place}/in/a.png", "-o", f"{place}/out/a.png.bin", status=1)
    assert told.startswith(f"codec: {place}/out/a.png.bin: exists already")
    for path in folder.rglob("*.*"):
        bucket.put(f"{engine}/in/{path.relative_to(folder).as_posix()}", b"changed since, and read by nobody")
    again = "--skip-existing", "-o", f"{place}/out", *kept
    _, told = run("compress", f"{place}/in", "--recursive", *again, status=1)
    assert "1 failed, 9 skipped" in totals(told) and bucket.get(f"{engine}/out/") == tree(wanted)
    assert len(bucket.get(f"{engine}/kept/")) == 2

    run("decompress", f"{place}/out", "--recursive", "--format", "webp", "-o", f"{place}/back", *kept)
    ended(start(root, "decompress", wanted, "--recursive", "--format", "webp", "-o", tmp_path / "back"))
    assert bucket.get(f"{engine}/back/") == tree(tmp_path / "back") and len(tree(tmp_path / "back")) == 9


@slow
@needs_s3
@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=needs_ray)])
def test_archives_in_a_bucket_become_the_same_archives(root, folder, tmp_path, bucket, store_settings, engine, request):
    options = ["--engine", "ray", "--address", request.getfixturevalue("cluster")] if engine == "ray" else []
    for shard in range(3):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as archive:
            for path in sorted(folder.glob("*.png"))[shard : shard + 2]:
                archive.add(path, path.name)
                info = tarfile.TarInfo(f"{path.stem}.json")
                info.size = 2
                archive.addfile(info, io.BytesIO(b"{}"))
        bucket.put(f"{engine}/shards/{shard}.tar", (tmp_path / f"{shard}.tar").read_bytes())
    bucket.put(f"{engine}/shards/3.tar", (tmp_path / "2.tar").read_bytes()[:5000])
    said, _ = ended(start(root, "compress", f"{tmp_path}/{{0..2}}.tar", "-o", tmp_path / "packed"), 1)
    source, target = f"s3://photos/{engine}/shards", f"s3://photos/{engine}/packed"
    kept = "--manifest", tmp_path / "kept"
    out, err = ended(start(root, "compress", f"{source}/*.tar", "-o", target, *options, *kept, **store_settings), 1)
    assert out == said.replace(f"{tmp_path}/packed", target).replace(str(tmp_path), source)
    assert f"codec: {source}/1.tar: broken.png: not a picture" in err
    assert f"codec: {source}/3.tar: no tar archive, or a damaged one: " in err
    assert bucket.get(f"{engine}/packed/") == tree(tmp_path / "packed") and len(tree(tmp_path / "packed")) == 3
    (lines,) = manifests(tmp_path / "kept")
    assert [line.get("target_member") for line in lines] == [
        "a.lqc", "b.lqc", "b.lqc", "broken.png", "broken.png", "c.lqc", None
    ]  # fmt: skip
