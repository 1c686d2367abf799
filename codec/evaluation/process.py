"""What a codec costs somebody who starts it: time and peak memory of a fresh process for one picture.

    python -m codec.evaluation.process JOB     (started by :func:`cold`; JOB is a pickle in a temporary folder)

The clock runs in the parent, from before the process is started until it has ended: start of Python, imports,
loading the weights and the work itself. Python codecs and C libraries are treated alike, so some 0.1 to 0.3 s
of each figure are Python's and NumPy's.
"""

from __future__ import annotations

import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CodecError

if TYPE_CHECKING:
    import numpy as np

    from .rate_distortion import Entrant


RUNS = 3


@dataclass(frozen=True)
class Cold:
    """One codec on one picture in processes of their own; medians over ``runs``."""

    codec: str
    picture: str
    width: int
    height: int
    quality: float
    runs: int
    encode_s: float
    decode_s: float
    encode_peak_bytes: int | None  # resident memory; None where the system does not tell
    decode_peak_bytes: int | None


def cold(entrant: Entrant, name: str, pixels: np.ndarray, quality: float, runs: int | None = None) -> Cold:
    """:class:`Cold` of an entrant on a picture.

    Args:
        entrant: rate_distortion.Entrant whose ``make``, or else ``coder``, can be pickled.
        pixels: uint8 (H, W, 3).
        runs: of which the median is taken; :data:`RUNS` unless given.

    Raises:
        CodecError: the process fails.
    """
    runs = RUNS if runs is None else runs
    coder = entrant.make or entrant.coder
    height, width, _ = pixels.shape
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "compressed")
        encodes = [_run(folder, coder, entrant.make, (pixels, quality), target) for _ in range(runs)]
        decodes = [_run(folder, coder, entrant.make, (target.read_bytes(),), None) for _ in range(runs)]
    (encode_s, encode_peak), (decode_s, decode_peak) = map(_medians, (encodes, decodes))
    return Cold(entrant.name, name, width, height, quality, runs, encode_s, decode_s, encode_peak, decode_peak)


def peak_bytes() -> int | None:
    """Peak resident memory of this process, or of the largest that it has started, whichever is more.

    None where the system does not tell (Windows).
    """
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    own = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        # On Linux ru_maxrss passes on what the parent had before this program was started; VmHWM does not.
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            own = next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    return max(own, unit * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def _run(folder, coder, make, arguments, target):
    """Seconds and peak bytes of one fresh process."""
    job = Path(folder, "job")
    with open(job, "wb") as file:
        # The paths first: what follows may need them to be unpickled.
        pickle.dump([os.path.abspath(path) for path in sys.path], file)
        pickle.dump((coder, make is not None, arguments, target), file)
    command = [sys.executable, "-m", __name__, str(job)]
    paths = filter(None, [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    started = time.perf_counter()
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment)
    seconds = time.perf_counter() - started
    if result.returncode != 0:
        lines = result.stderr.strip().splitlines() or [f"status {result.returncode}"]
        raise CodecError(f"a fresh process failed: {lines[-1]}")
    return seconds, json.loads(result.stdout.splitlines()[-1])


def _medians(figures):
    seconds, peaks = zip(*figures)
    return statistics.median(seconds), None if None in peaks else int(statistics.median(peaks))


def _main(job):
    with open(job, "rb") as file:
        sys.path += [path for path in pickle.load(file) if path not in sys.path]
        coder, is_factory, arguments, target = pickle.load(file)
    if is_factory:
        coder = coder()
    if target is None:
        coder.decompress(*arguments).convert("RGB").tobytes()  # Pillow decodes when somebody asks for pixels
    else:
        target.write_bytes(coder.compress(*arguments))
    print(json.dumps(peak_bytes()))


if __name__ == "__main__":
    _main(sys.argv[1])
