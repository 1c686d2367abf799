"""Every example in the README runs as it stands there."""

import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from codec.extras import missing

# Arguments that keep long commands short here; what the README shows stays what a user would type.
SHORT = {
    "train": ["--steps", "1", "--set", "batch=1", "--set", "crop=64", "--set", "fit_crops=2", "--device", "cpu"],
    "bench": ["--sizes", "64x64", "--repeats", "1", "--against", "jpeg"],
    "evaluate": ["--qualities", "20,80", "--against", "none"],
}


def blocks(root, language, name="README.md"):
    return re.findall(rf"```{language}\n(.*?)```", (root / name).read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def workplace(tmp_path, monkeypatch, photo):
    """A folder with the files that the examples speak of."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo).save("picture.png")
    (tmp_path / "photos").mkdir()
    for i in range(2):
        Image.fromarray(np.ascontiguousarray(photo[:, 64 * i : 64 * i + 100])).save(f"photos/{i}.png")
    return tmp_path


def test_commands_run(root, workplace):
    commands = [
        line.split("#")[0].strip()
        for block in blocks(root, "sh")
        for line in block.splitlines()
        if line.startswith("codec ")
    ]
    assert len(commands) >= 6
    for command in commands:
        _, name, *rest = shlex.split(command)
        arguments = [sys.executable, "-W", "ignore", "-m", "codec", name, *rest, *SHORT.get(name, [])]
        result = subprocess.run(
            arguments, env=_environment(root), capture_output=True, text=True, timeout=900, check=False
        )
        assert result.returncode == 0, f"{command}\n{result.stderr}"


@pytest.mark.parametrize("name", ["README.md", "docs/guide/python.md", "docs/guide/looking.md"])
def test_python_examples_run(root, workplace, name):
    examples = blocks(root, "python", name)
    assert examples
    for example in examples:
        if any(
            missing(module) for module in ("imageio", "fsspec", "torch", "torchvision") if f"import {module}" in example
        ):
            continue
        result = subprocess.run(
            [sys.executable, "-c", example], env=_environment(root), capture_output=True, text=True, timeout=900,
            check=False,
        )  # fmt: skip
        assert result.returncode == 0, f"{example}\n{result.stderr}"


def _environment(root):
    return {**os.environ, "PYTHONPATH": str(root)}
