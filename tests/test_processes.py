"""The codec among others: threads, children of every kind, copies, and programs with settings of their own."""

import asyncio
import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import codec
from codec import api, weights
from codec.threads import Lock

QUALITY = 40


@pytest.fixture(scope="module")
def coder():
    """A codec of two threads that has been used: its sessions are open."""
    made = codec.Codec()
    made.threads = made.model.threads = made.model.engine.threads = 2
    return made


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(0).integers(0, 64, (96, 128, 3), np.uint8)


@pytest.fixture(scope="module")
def wanted(coder, picture):
    """``(file, pixels)`` of the picture."""
    data = coder.compress(picture, QUALITY)
    return data, np.asarray(coder.decompress(data))


def same(coder, picture, wanted):
    return (
        coder.compress(picture, QUALITY) == wanted[0] and (np.asarray(coder.decompress(wanted[0])) == wanted[1]).all()
    )


# Children


def fresh(root, code, timeout=120):
    """A Python process of its own that runs ``code``; TimeoutExpired where it hangs."""
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout, check=False)


USED = """
import os, sys, threading, numpy as np, codec
x = np.arange(64 * 64 * 3, dtype=np.uint32).reshape(64, 64, 3).astype(np.uint8)
coder = codec.Codec(threads=2)
data = coder.compress(x, 40)
pixels = np.asarray(coder.decompress(data))

def same():
    return coder.compress(x, 40) == data and (np.asarray(coder.decompress(data)) == pixels).all()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="systems that fork")
@pytest.mark.parametrize("way", ["os", "multiprocessing", "module"])
def test_a_fork_after_use_works_and_ends(root, way):
    code = {
        # A child that ends as programs do, with all that is run at the exit.
        "os": "pid = os.fork()\nif pid == 0: sys.exit(0 if same() else 3)\nassert os.waitpid(pid, 0)[1] == 0\n",
        "multiprocessing": "import multiprocessing\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "    assert pool.map(coder.compress, [x, x, x]) == [coder.compress(x)] * 3\n"
        "    assert pool.apply(same)\n",
        "module": "shared = codec.compress(x, 40)\n"
        "pid = os.fork()\n"
        "if pid == 0: sys.exit(0 if codec.compress(x, 40) == shared == data else 3)\n"
        "assert os.waitpid(pid, 0)[1] == 0 and codec.compress(x, 40) == data\n",
    }[way]
    result = fresh(root, USED + code + "assert same()\n")
    assert result.returncode == 0, result.stderr


def test_a_lock_that_is_held_is_open_in_a_forked_child(root):
    code = (
        "import os, sys\nfrom codec.threads import Lock\nlock = Lock()\n"
        "with lock:\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        with lock: os._exit(5)\n"
        "    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5\n"
    )
    result = fresh(root, code, timeout=20)
    assert result.returncode == 0, result.stderr


def test_a_spawned_child_makes_the_same_bytes(coder, picture, wanted):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(coder.compress, (picture, QUALITY)) == wanted[0]
        assert (np.asarray(pool.apply(coder.decompress, (wanted[0],))) == wanted[1]).all()


def test_nobody_is_told(root):
    """ONNX Runtime reports to its makers unless it is told not to before it is loaded."""
    result = fresh(
        root, USED + "assert 'ORT_DISABLE_TELEMETRY' not in os.environ; print(len(os.listdir('/proc/self/task')))"
    )
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("threads are counted in /proc")
    assert result.returncode == 0, result.stderr
    silent = fresh(
        root,
        "import os; os.environ['ORT_DISABLE_TELEMETRY'] = '1'" + USED + "print(len(os.listdir('/proc/self/task')))",
    )
    assert result.stdout == silent.stdout


# Copies


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda coder: pickle.loads(pickle.dumps(coder))])
def test_copies_and_pickles_make_the_same_bytes(coder, picture, wanted, copied):
    twin = copied(coder)
    assert twin is not coder and same(twin, picture, wanted)
    assert (twin.model_id, twin.device, twin.backend, twin.max_pixels) == (
        coder.model_id, coder.device, coder.backend, coder.max_pixels,
    )  # fmt: skip


def test_a_pickle_names_the_model(coder, tmp_path):
    assert len(pickle.dumps(coder)) < 1000
    assert pickle.loads(pickle.dumps(coder)) is pickle.loads(pickle.dumps(coder))  # loaded once, however many tasks
    mine = codec.Codec(weights.find_model(), max_pixels=1234)
    assert pickle.loads(pickle.dumps(mine)).max_pixels == 1234
    forged = pickle.dumps(coder).replace(coder.model_id.encode(), b"0" * 16)
    with pytest.raises(codec.ModelError, match="0000000000000000"):
        pickle.loads(forged)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_models_open_sessions_of_their_own(coder, picture, copied):
    twin = copied(coder.model)
    assert twin.encode(picture, 4000) == coder.model.encode(picture, 4000)
    assert twin.engine is not coder.model.engine


# Threads


def test_many_threads_share_a_codec_that_loads_once(picture, wanted, monkeypatch):
    api._loaded.cache_clear()
    loads = []
    load = api.Model.from_folder

    def counted(*arguments):
        loads.append(arguments)
        return load(*arguments)

    monkeypatch.setattr(api.Model, "from_folder", counted)
    start = threading.Barrier(8)

    def work(_):
        start.wait()
        return codec.compress(picture, QUALITY)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(8))) == {wanted[0]}
    assert len(loads) == 1


def test_many_threads_load_a_files_model_once(picture, wanted, monkeypatch):
    coder = codec.Codec()
    model = coder._models.pop(coder.model_id)  # as for a file of another model than the default
    loads = []

    def load(folder):
        loads.append(folder)
        return model

    monkeypatch.setattr(coder, "_load", load)
    with ThreadPoolExecutor(8) as pool:
        decoded = list(pool.map(coder.decompress, [wanted[0]] * 8))
    assert all((np.asarray(image) == wanted[1]).all() for image in decoded) and len(loads) == 1


def test_asyncio_makes_the_same_bytes(coder, picture, wanted):
    async def work():
        return await asyncio.gather(*(asyncio.to_thread(same, coder, picture, wanted) for _ in range(4)))

    assert asyncio.run(work()) == [True] * 4


# Settings of the process

HOSTILE = """
import random, signal, warnings
from PIL import Image, ImageFile
state = {}

def settings():
    found = {
        "errors": np.geterr(), "filters": list(warnings.filters), "random": random.getstate(),
        "numpy": [str(part) for part in np.random.get_state()], "handlers": [signal.getsignal(n) for n in range(1, 32)],
        "limit": Image.MAX_IMAGE_PIXELS, "truncated": ImageFile.LOAD_TRUNCATED_IMAGES, "environment": dict(os.environ),
        "folder": os.getcwd(), "print": np.get_printoptions(), "switch": sys.getswitchinterval(),
        "recursion": sys.getrecursionlimit(),
    }
    torch = sys.modules.get("torch")
    if torch:
        found["torch"] = [
            torch.get_num_threads(), torch.get_default_dtype(), torch.get_float32_matmul_precision(),
            torch.is_grad_enabled(), torch.initial_seed(), torch.get_rng_state().tolist(),
            torch.are_deterministic_algorithms_enabled(), torch.is_autocast_enabled(),
        ]
    return found
"""


def test_settings_of_the_process_are_neither_read_nor_changed(root, tmp_path):
    """The same bytes where NumPy raises on underflow, warnings are errors and random numbers are used up."""
    code = """
import torch
np.seterr(all="raise")
warnings.simplefilter("error")
random.seed(1); np.random.seed(1); torch.manual_seed(1)
torch.set_default_dtype(torch.float64); torch.set_num_threads(1); torch.set_float32_matmul_precision("medium")
Image.MAX_IMAGE_PIXELS = 10
signal.signal(signal.SIGALRM, lambda *_: None)
before = settings()
made = codec.Codec()
assert made.compress(x, 40) == data, "other bytes"
assert (np.asarray(made.decompress(data)) == pixels).all()
assert made.compress_batch([x, "x.png"], 40) == [data, data]
made.decompress_batch([data])
tiles = np.zeros((70, 1100, 3), np.uint8); tiles[:40, :40] = 200
made.decompress(made.compress(tiles, 5))
after = settings()
assert before == after, [key for key in before if before[key] != after[key]]
"""
    code = USED + HOSTILE + f"os.chdir({str(tmp_path)!r})\nImage.fromarray(x).save('x.png')\n" + code
    result = fresh(root, code)
    assert result.returncode == 0, result.stderr


def test_warnings_of_pillow_are_nobodys_errors(tmp_path, photo):
    """EXIF that Pillow warns about costs neither the picture nor its orientation, and nobody hears of it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "x" * 400
    damaged = bytearray(exif.tobytes())
    damaged[-300:] = b""  # the text is announced, but not there
    Image.fromarray(photo).save(tmp_path / "a.jpg", exif=bytes(damaged))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        calm = api.image_io.read_picture(tmp_path / "a.jpg")
    assert not said and calm.exif is None and "EXIF" in calm.remarks[0]
    with pytest.warns(UserWarning), Image.open(tmp_path / "a.jpg") as image:  # else this test shows nothing
        image.getexif()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        strict = api.image_io.read_picture(tmp_path / "a.jpg")
    assert (strict.pixels == calm.pixels).all() and strict.pixels.shape == (192, 128, 3)


# Batches


def test_batches_hold_a_few_pictures_at_a_time(coder):
    alive, most = set(), 0

    def pictures():
        nonlocal most
        for index in range(12):
            image = Image.fromarray(np.full((64, 64, 3), 20 * index, np.uint8))
            alive.add(index)
            weakref.finalize(image, alive.remove, index)
            yield image
            del image
            most = max(most, len(alive))

    files = coder.compress_batch(pictures(), QUALITY)
    assert most <= 3 and [coder.decompress(data).getpixel((9, 9))[0] for data in files] == [20 * n for n in range(12)]

    asked = []

    def stored():
        for index, data in enumerate(files):
            asked.append(index)
            yield data

    made = iter(coder.decompress_batch(stored()))
    assert asked == list(range(12)) and next(made).size == (64, 64)


def test_a_generator_may_use_its_memory_again(coder):
    buffer = np.empty((64, 64, 3), np.uint8)

    def frames():
        for index in range(5):
            buffer[:] = 50 * index
            yield buffer

    files = coder.compress_batch(frames(), QUALITY)
    assert [coder.decompress(data).getpixel((5, 5))[0] for data in files] == [0, 50, 100, 150, 200]


def test_one_bad_picture_costs_the_batch_or_itself(coder, picture, wanted, tmp_path):
    bad = tmp_path / "missing.png"
    with pytest.raises(codec.ImageError, match="missing.png"):
        coder.compress_batch([picture, bad, picture], QUALITY)
    first, error, last = coder.compress_batch(iter([picture, bad, picture]), QUALITY, on_error="return")
    assert first == last == wanted[0] and isinstance(error, codec.ImageError) and "missing.png" in str(error)
    assert error.__traceback__ is None is error.__context__ is error.__cause__  # which would hold pictures

    with pytest.raises(codec.BitstreamError):
        coder.decompress_batch([wanted[0], b"nonsense"])
    image, error = coder.decompress_batch([wanted[0], b"nonsense"], on_error="return")
    assert (np.asarray(image) == wanted[1]).all() and isinstance(error, codec.NotThisFormat)
    assert (
        codec.compress_batch([bad], on_error="return")[0].args and codec.decompress_batch([], on_error="return") == []
    )
    with pytest.raises(ValueError, match="'ignore'; there are 'raise' and 'return'"):
        coder.compress_batch([picture], on_error="ignore")


def test_a_worker_that_is_free_gets_the_next_picture():
    """However long the first one takes, and results are in order all the same."""
    begun, last = [], threading.Event()

    def work(item):
        begun.append(item)
        if item == 0:
            assert last.wait(30), "picture 4 waited for picture 0"
        if item == 4:
            last.set()
        return -item

    assert api._batch(range(5), work, 2) == [0, -1, -2, -3, -4]
    assert sorted(begun) == list(range(5)) and begun[-1] == 4


def test_several_at_a_time_are_the_same_in_the_same_order(coder, picture, wanted):
    images = [picture, np.rot90(picture), picture[:40], picture]
    files = coder.compress_batch(iter(images), QUALITY)
    assert coder.compress_batch(iter(images), QUALITY, workers=3) == files and files[0] == files[3] != files[1]
    alone = coder.decompress_batch(files, as_array=True)
    for one, other in zip(alone, coder.decompress_batch(files, as_array=True, workers=3), strict=True):
        assert np.array_equal(one, other)
    errors = coder.decompress_batch([b"a", files[0], b"b"], on_error="return", workers=2)
    assert [isinstance(each, codec.BitstreamError) for each in errors] == [True, False, True]
    for wrong in (0, 1.5):
        with pytest.raises(ValueError, match="workers"):
            coder.compress_batch([picture], workers=wrong)


def test_mistakes_of_the_program_are_no_outcome(coder, picture):
    def broken():
        yield picture
        raise RuntimeError("the camera is gone")

    with pytest.raises(RuntimeError, match="camera"):
        coder.compress_batch(broken(), on_error="return")
    with pytest.raises(TypeError):
        coder.decompress_batch([5], on_error="return")


@pytest.mark.parametrize("single", ["a.png", os.fspath, b"data", np.zeros((8, 8, 3), np.uint8), 5, None])
def test_a_single_thing_given_for_many_is_a_type_error(coder, single, tmp_path, photo):
    single = tmp_path / "a.png" if single is os.fspath else single
    for batch, verb, kind in (
        (coder.compress_batch, "compress", "pictures"), (codec.decompress_batch, "decompress", "files"),
    ):  # fmt: skip
        with pytest.raises(
            TypeError, match=f"{verb}_batch needs an iterable of {kind}, not a .*; {verb} takes a single"
        ):
            batch(single)


def test_what_is_no_file_is_a_type_error(coder):
    for thing in (5, None, [1, 2]):
        with pytest.raises(TypeError):
            coder.decompress(thing)


def test_locks_are_not_shared_by_copies():
    lock = Lock()
    with lock:
        for other in (copy.copy(lock), copy.deepcopy(lock), pickle.loads(pickle.dumps(lock))):
            with other:
                pass
