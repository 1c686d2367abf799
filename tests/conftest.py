"""Pictures and settings that several test files share."""

import signal
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codec import threads

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def interrupts():
    """A shell's background job ignores interrupts, and so would every process that a test starts to interrupt it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def two_threads():
    """The same number of threads on every machine, whatever a command of the test before has set."""
    if threads.current_threads() < 2:
        threads.set_threads(2)
    if find_spec("torch"):  # `make test-light` does without
        import torch

        torch.set_num_threads(2)


@pytest.fixture(scope="session")
def root():
    """The folder of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def samples():
    """The folder of the sample pictures, all PNG in RGB."""
    return ROOT / "sample_images"


@pytest.fixture(scope="session")
def _dog(samples):
    with Image.open(samples / "dog.png") as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.fixture
def photo(_dog):
    """uint8 (128, 192, 3): eye, fur and background of a photograph; a copy for each test."""
    return _dog[150:278, 200:392].copy()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory, samples):
    """A folder of two small photographs to train on."""
    folder = tmp_path_factory.mktemp("pictures")
    with Image.open(samples / "guitar.png") as guitar, Image.open(samples / "dog.png") as dog:
        for i, picture in enumerate((guitar, dog)):
            picture.convert("RGB").crop((100, 100, 420, 380)).save(folder / f"{i}.png")
    return folder
