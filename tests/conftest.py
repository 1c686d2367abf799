"""Pictures and settings that several test files share."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def two_threads():
    """The same number of threads on every machine; tests of other numbers set and restore their own."""
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
