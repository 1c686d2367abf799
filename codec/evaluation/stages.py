"""Where our time goes: the stages of compress and decompress, from file to file.

Each stage is timed without those inside it, and what belongs to none is "other". Tiles of a large picture are coded on
several threads, if there are several, while a piece of it is in a transform: their time counts as well, and "wait" is
what the thread that goes through the picture waits for them. So the stages sum to the whole and what the other threads
worked beside it.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..files import StrPath, write_bytes_atomic
from ..image_io import read_picture, save_picture

if TYPE_CHECKING:
    from ..api import Codec
    from ..image_io import Readable
    from ..model import Model


# What our work is divided into, in the order of the work. The encoder runs g_s where a picture is hardly a photograph
# and the plain transform may do better.
STAGES = {
    "compress": ("read", "g_a", "h_a", "entropy", "coding", "g_s", "conversion", "write", "wait", "other"),
    "decompress": ("read", "coding", "entropy", "g_s", "conversion", "write", "wait", "other"),
}
NETWORKS = ("g_a", "h_a", "entropy", "g_s")
FILES = ("read", "write")  # Pillow, and the disk
# Sessions of ONNX Runtime that an engine opens -> stage.
_SESSIONS = {
    "analysis": "g_a", "analysis_float": "g_a", "hyper": "h_a", "synthesis": "g_s", "synthesis_float": "g_s",
}  # fmt: skip


@dataclass(frozen=True)
class Stages:
    """Our work from file to file in one direction."""

    round: int  # from 1
    threads: int
    width: int
    height: int
    direction: str  # a key of STAGES
    seconds: dict[str, float]  # by stage; they sum to whole_s + beside_s
    whole_s: float
    beside_s: float  # work of other threads


@dataclass(frozen=True)
class Spread:
    """Median and quartiles over the rounds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Work:
    """How our work in one direction is divided, "wait" left out."""

    threads: int
    width: int
    height: int
    direction: str
    whole_s: Spread
    shares: dict[str, Spread]  # by stage, 0 to 1
    rest: Spread  # share of all that is not a network
    rest_in_memory: Spread  # the same where no file is read or written


def spread(values: Sequence[float]) -> Spread:
    """:class:`Spread` of numbers."""
    low, median, high = np.percentile(values, (25, 50, 75)).tolist()
    return Spread(median, low, high)


def fit(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """The middle of a picture, uint8 (height, width, 3), continued by its mirror image where it is too small.

    Not resampled: that would make photographs smoother, or sharper, than they are.
    """
    top, left = (max(0, (have - want) // 2) for have, want in zip(pixels.shape, (height, width)))
    pixels = pixels[top : top + height, left : left + width]
    missing = (height - pixels.shape[0], width - pixels.shape[1])
    return np.pad(pixels, [*((side // 2, side - side // 2) for side in missing), (0, 0)], mode="symmetric")


def cut_files(
    pictures: Iterable[tuple[str, Readable]], sizes: Sequence[tuple[int, int]], folder: StrPath
) -> list[tuple[str, dict[tuple[int, int], Path]]]:
    """List of (name, {(width, height): path of a PNG file in ``folder``}) of pairs (name, what ``read_picture`` takes).

    Raises:
        CodecError: a picture cannot be read.
    """
    found = []
    for index, (name, source) in enumerate(pictures):
        pixels = read_picture(source).pixels
        files = {size: Path(folder, f"{index}-{size[0]}x{size[1]}.png") for size in sizes}
        for size, path in files.items():
            save_picture(Image.fromarray(fit(pixels, *size)), path)
        found.append((name, files))
    return found


class Clock:
    """Seconds by stage, each without the stages inside it, of all threads.

    Args:
        stages: names of the stages.
        device: where the work is done.

    Attributes:
        whole_s: from the beginning to the end of the outermost stages of the thread that made the clock.
        beside_s: the same of all other threads.
    """

    def __init__(self, stages: Iterable[str], device: str = "cpu") -> None:
        self.device = device
        self.seconds = dict.fromkeys(stages, 0.0)
        self.whole_s = self.beside_s = 0.0
        self._lock, self._own = threading.Lock(), threading.get_ident()
        self._running = threading.local()  # .inside: seconds of the stages inside each that is running

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What is done in here belongs to a stage."""
        synchronise(self.device)
        started = time.perf_counter()
        if not hasattr(self._running, "inside"):
            self._running.inside = []
        inside = self._running.inside
        inside.append(0.0)
        try:
            yield
        finally:
            synchronise(self.device)
            took = time.perf_counter() - started
            with self._lock:
                self.seconds[name] += took - inside.pop()
                if inside:
                    inside[-1] += took
                elif threading.get_ident() == self._own:
                    self.whole_s += took
                else:
                    self.beside_s += took

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, as a stage."""

        def run(*arguments, **named):
            with self.stage(name):
                result = function(*arguments, **named)
            return self._steps(name, result) if inspect.isgenerator(result) else result

        return run

    def _steps(self, name, generator):
        """A generator whose own work is a stage, and not what is done with what it yields."""
        while True:
            with self.stage(name):
                try:
                    value = next(generator)
                except StopIteration:
                    return
            yield value


@contextmanager
def watched(model: Model, clock: Clock) -> Iterator[None]:
    """Meanwhile the parts of a Model are stages of the clock. The model itself knows nothing of clocks."""
    engine = model.engine
    sessions: Any = getattr(engine, "_session", None)
    # An engine without sessions of ONNX Runtime is not looked into, nor is the plain transform, in NumPy.
    inner = sessions is not None
    methods: list[tuple[Any, str, str]] = [
        (engine, "analyse_pieces", "conversion" if inner else "g_a"),
        (engine, "side_information", "conversion" if inner else "h_a"),
        (engine, "synthesise_into", "conversion" if inner else "g_s"),
        (model, "_encode_tile", "coding"), (model, "_decode_tile", "coding"),
        (model, "_start", "wait"), (model, "_result", "wait"),
    ]  # fmt: skip
    if model.plain is not None:
        methods += [(model.plain, "analyse_pieces", "g_a"), (model.plain, "synthesise_into", "g_s")]
    networks = getattr(model.latents, "networks", None)  # vector-quantised latents have none
    if networks is not None:
        methods += [(networks, method, "entropy") for method in ("begin", "predict", "learn")]
    made = [(owner, method, clock.timed(stage, getattr(owner, method))) for owner, method, stage in methods]
    if inner:

        def session(kind: str) -> SimpleNamespace:
            return SimpleNamespace(run=clock.timed(_SESSIONS[kind], sessions(kind).run))

        made.append((engine, "_session", session))
    for owner, method, function in made:
        setattr(owner, method, function)
    try:
        yield
    finally:
        for owner, method, _ in made:
            delattr(owner, method)  # the class's own method is seen again


def clock_stages(coder: Codec, path: StrPath, quality: float, folder: StrPath) -> dict[str, Clock]:
    """A :class:`Clock` by direction: from a PNG file to a compressed file in ``folder``, and back to PNG."""
    compressed, picture = Path(folder, "stages.bin"), Path(folder, "stages.png")
    clocks = {direction: Clock(stages, coder.device) for direction, stages in STAGES.items()}
    clock = clocks["compress"]
    with watched(coder.model, clock), clock.stage("other"):
        with clock.stage("read"):
            pixels = read_picture(path).pixels
        data = coder.compress(pixels, quality)
        with clock.stage("write"):
            write_bytes_atomic(compressed, data)
    clock = clocks["decompress"]
    with watched(coder.model, clock), clock.stage("other"):
        with clock.stage("read"):
            data = compressed.read_bytes()
        image = coder.decompress(data)
        with clock.stage("write"):
            save_picture(image, picture)
    return clocks


def divided(rows: Iterable[Stages]) -> list[Work]:
    """List of :class:`Work` of :class:`Stages`, by threads, size and direction."""
    cells: dict[tuple[int, int, int, str], list[Stages]] = {}
    for row in rows:
        cells.setdefault((row.threads, row.width, row.height, row.direction), []).append(row)
    found = []
    for place, cell in cells.items():
        shares, rest, rest_in_memory = [], [], []
        for row in cell:
            work = sum(seconds for stage, seconds in row.seconds.items() if stage != "wait")
            networks = sum(row.seconds.get(stage, 0.0) for stage in NETWORKS)
            files = sum(row.seconds[stage] for stage in FILES)
            shares.append({stage: seconds / work for stage, seconds in row.seconds.items() if stage != "wait"})
            rest.append(1 - networks / work)
            rest_in_memory.append(1 - networks / (work - files))
        of_stages = {stage: spread([share[stage] for share in shares]) for stage in shares[0]}
        whole = spread([row.whole_s for row in cell])
        found.append(Work(*place, whole, of_stages, spread(rest), spread(rest_in_memory)))
    return found


def synchronise(device: str) -> None:
    """Wait for a GPU; other devices have done what they were asked to."""
    if is_gpu(device):
        import torch

        torch.cuda.synchronize(device)


def is_gpu(device: object) -> bool:
    """Whether a device is one of CUDA."""
    return str(device).partition(":")[0] == "cuda"
