"""The guide to a model of one's own: its commands run, as they stand there and in this order, on two tiny pages."""

import re
import runpy
import shlex

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from cli.main import codec as codec_command
from codec import bitstream

# What keeps long commands short; the last of two equal options counts.
SHORT = {
    "benchmarks/scans.py": ["--pages", "2,1,1", "--size", "256x256"],
    "train": ["--steps", "2", "--set", "batch=1", "--set", "crop=64", "--set", "fit_crops=2", "--set", "threads=1"],
    "evaluate": ["--qualities", "10,40,70,100", "--metrics", "psnr", "--threads", "1"],
}


@pytest.fixture
def home(tmp_path, monkeypatch, samples):
    """A folder to work in, with the scripts and pictures of the sources, and one for the user's models."""
    work = tmp_path / "work"
    (work / "sample_images").mkdir(parents=True)
    with Image.open(samples / "dog.png") as picture:
        picture.crop((150, 150, 278, 278)).save(work / "sample_images" / "dog.png")
    monkeypatch.chdir(work)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # macOS
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "data"))
    return work


def commands(root):
    text = (root / "docs" / "guide" / "your-own-model.md").read_text(encoding="utf-8")
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


def run(root, words, monkeypatch):
    """Standard output of a command of the guide; in this process, as starting PyTorch takes longer than the rest."""
    program, name, *rest = words
    arguments = [*rest, *SHORT.get(name, [])]
    if program == "python":
        monkeypatch.setattr("sys.argv", [name, *arguments])
        runpy.run_path(str(root / name), run_name="__main__")
        return ""
    result = CliRunner().invoke(codec_command, [name, *arguments], prog_name="codec")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, f"{shlex.join(words)}\n{result.output}"
    return result.stdout


def test_the_guide_leads_from_pictures_to_files_of_a_model_of_ones_own(root, home, monkeypatch):
    said = {}
    for words in commands(root):
        said.setdefault(words[1], []).append(run(root, words, monkeypatch))
    assert [*said] == ["benchmarks/scans.py", "train", "evaluate", "models", "compress", "info", "decompress"]
    assert [len(list((home / "scans" / part).iterdir())) for part in ("train", "valid", "test")] == [2, 1, 1]

    scans, photographs = said["evaluate"]
    (model,) = re.findall(r"^codec, model (\w+), cpu", scans, re.MULTILINE)
    for table in (scans, photographs):
        row = re.search(r"^model \w+ \(psnr\) +([+-][\d.]+) %", table, re.MULTILINE)
        assert row and abs(float(row[1])) < 50  # two steps on two pages are little
    assert f"Model {model}, made with codec train" in said["models"][0]
    (file,) = home.glob("*.bin")
    assert bitstream.unpack(file.read_bytes()).model_id == model and model in said["info"][0]
    with Image.open(home / "scans" / "test" / "000.png") as page, Image.open(home / "page.png") as decoded:
        error = np.square(np.asarray(page, float) - np.asarray(decoded, float)).mean()
    assert error < 100
