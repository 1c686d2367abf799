"""What a picture costs, and so a million and a billion: processor seconds, bytes, and what each engine adds.

    python benchmarks/scale.py PICTURES [--copies 4] [--workers 2]

Every PNG of the folder is compressed and decompressed so many times over by ``codec compress`` and ``decompress``: by
the local engine with one worker and with several, then by Ray with several (where it is installed). Processor seconds
are those of the local run with one worker, less those of a run over one picture, which is what starting costs. Wall
seconds are of this machine as it is now; what they are good for is the comparison of the engines.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments):
    """``(wall seconds, processor seconds)`` of a command."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "codec", *map(str, arguments), "--quiet"]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - started, used


def within(folder):
    """Seconds that the workers spent on the pictures of a run, by its manifest."""
    (path,) = folder.glob("*.jsonl")
    return sum(json.loads(line)["seconds"] for line in path.read_text(encoding="utf-8").splitlines())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        source, single = place / "in", place / "one"
        source.mkdir()
        single.mkdir()
        found = sorted(path for path in arguments.pictures.iterdir() if path.suffix == ".png")
        for copy in range(arguments.copies):
            for path in found:
                shutil.copy(path, source / f"{copy}-{path.name}")
        shutil.copy(found[0], single)
        count = arguments.copies * len(found)
        read = sum(path.stat().st_size for path in source.iterdir())

        def measured(verb, before, start, name, *options):
            target = place / f"{verb} {name}"
            manifest = place / f"{verb} {name} manifest"
            wall, used = run(verb, before, "-o", target, "--manifest", manifest, *options)
            print(
                f"{verb}, {name}: {wall / count:.2f} s a picture, {wall:.0f} s in all,"
                f" {within(manifest) / count:.2f} s in the worker",
                flush=True,
            )
            return target, (used - start) / max(1, count - 1)

        workers = arguments.workers
        engines = [(f"{workers} workers", ("--workers", workers, "--threads", 1))]
        if find_spec("ray"):
            engines.append((f"Ray, {workers} actors", ("--engine", "ray", "--workers", workers, "--threads", 1)))
        cost, folder = {}, source
        for verb in ("compress", "decompress"):
            _, start = run(verb, single, "-o", place / f"{verb} start", "--workers", 1, "--threads", 1)
            target, cost[verb] = measured(verb, folder, start, "1 worker", "--workers", 1, "--threads", 1)
            for name, options in engines:
                measured(verb, folder, start, name, *options)
            folder = target
            if verb == "compress":
                written = sum(path.stat().st_size for path in target.iterdir())
                single = place / "compress start"
        print(f"{count} pictures: {read / count / 1e3:,.0f} to {written / count / 1e3:,.0f} kB each")
        for verb, seconds in cost.items():
            hours = " ".join(
                f"{seconds * number / 3600:,.0f} core hours for 1e{len(str(number)) - 1}," for number in (10**6, 10**9)
            )
            print(f"{verb}: {seconds:.2f} processor seconds a picture: {hours.rstrip(',')}")


if __name__ == "__main__":
    main()
