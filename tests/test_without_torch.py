"""What runs where PyTorch is not installed: each case in a fresh process in which it, and what needs it, is hidden.

`make test-light` runs this file and others where it is not installed indeed, nor are the packages of extra ``eval``.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import codec
import made_up
from codec import bitstream
from codec.evaluation.metrics import METRICS

# Python runs a module of this name when it starts. With it, worker processes do without PyTorch too.
SITECUSTOMIZE = """
import sys

HIDDEN = {"torch", "torchvision", "compressai", "lightning", "tensorboard", "pytorch_msssim", "torch_geometric"}

class Hiding:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r} (hidden)", name=name)

sys.meta_path.insert(0, Hiding())
"""


@pytest.fixture
def place(tmp_path, monkeypatch, photo):
    """The current folder, with a photograph in two formats and one of our files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hide").mkdir()
    (tmp_path / "hide" / "sitecustomize.py").write_text(SITECUSTOMIZE)
    Image.fromarray(photo).save("photo.png")
    Image.fromarray(photo).save("photo.jpg", quality=40)
    tiles = (bitstream.Tile(b"tile", 1, 0),)
    container = bitstream.Container(model_id="0badcafe" * 2, quality=5000, width=8, height=8, tiles=tiles)
    (tmp_path / "picture.bin").write_bytes(bitstream.pack(container))
    return tmp_path


def fresh(root, place, *arguments):
    """What a fresh Python without PyTorch makes of these arguments."""
    paths = [place / "hide", root, root / "tests"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)


def command(root, place, *arguments):
    """Standard output of ``codec ARGUMENTS``, which must succeed."""
    result = fresh(root, place, "-m", "codec", *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_it_is_hidden(root, place):
    for module in ("torch", "compressai.entropy_models", "lightning.fabric"):
        result = fresh(root, place, "-c", f"import {module}")
        assert result.returncode == 1 and "(hidden)" in result.stderr


def test_metrics_are_the_same(root, place, samples):
    pytest.importorskip("scipy")
    with Image.open(samples / "dog.png") as picture:
        picture.convert("RGB").crop((100, 100, 340, 290)).save("large.png")
    Image.open("large.png").save("large.jpg", quality=30)
    code = (
        "import json, numpy as np\nfrom PIL import Image\nfrom codec.evaluation.metrics import METRICS\n"
        "one, two = (np.asarray(Image.open(name)) for name in ('large.png', 'large.jpg'))\n"
        "print(json.dumps({name: metric.function(one, two) for name, metric in METRICS.items()}))"
    )
    result = fresh(root, place, "-c", code)
    assert result.returncode == 0, result.stderr
    one, two = (np.asarray(Image.open(name)) for name in ("large.png", "large.jpg"))
    assert json.loads(result.stdout) == {name: metric.function(one, two) for name, metric in METRICS.items()}


def test_commands_that_need_no_network(root, place):
    for name in ("compress", "info", "models", "train", "evaluate", "bench", "report", "compare", "study"):
        assert "Usage: codec" in command(root, place, name, "--help")
    assert "0badcafe" in command(root, place, "info", "picture.bin")
    assert "MB" in command(root, place, "models")


def test_the_codec_works(root, place):
    """Compress, decompress, batches, plugin and demo, whose results are those of a process that has PyTorch."""
    code = (
        "import sys, codec, codec.pillow_plugin; from PIL import Image\n"
        "data = codec.compress('photo.png', 30); open('api.bin', 'wb').write(data)\n"
        "assert codec.compress_batch(['photo.png'], 30) == [data]\n"
        "image = codec.decompress(data); assert list(image.getdata()) == list(Image.open('api.bin').getdata())\n"
        "assert codec.decompress_batch([data])[0].size == image.size and 'torch' not in sys.modules\n"
    )
    result = fresh(root, place, "-c", code)
    assert result.returncode == 0, result.stderr
    assert (place / "api.bin").read_bytes() == codec.compress(place / "photo.png", 30)
    for arguments in (
        ["compress", "photo.png", "-q", "30", "-o", "cli.bin"],
        ["decompress", "cli.bin", "-o", "back.png"],
        ["demo", ".", "--output", "demo", "-q", "20"],
    ):
        result = fresh(root, place, "-m", "codec", *arguments)
        assert result.returncode == 0, result.stderr
    assert (place / "cli.bin").read_bytes() == (place / "api.bin").read_bytes()
    result = fresh(root, place, "-c", "import codec; codec.Codec(device='cuda')")
    assert "PyTorch" in result.stderr.splitlines()[-1] and '".[torch]"' in result.stderr


def test_compare_measures_pictures(root, place):
    pytest.importorskip("scipy")
    options = ("--html", "page.html", "--threads", "1")
    lines = command(root, place, "compare", "photo.png", "photo.jpg", *options).splitlines()
    assert "SSIMULACRA2" in lines[2] and lines[3].split()[0] == "photo.jpg"
    assert (place / "page.html").stat().st_size > 10_000


def test_report_makes_page_and_plot_of_stored_results(root, place):
    pytest.importorskip("matplotlib")
    made_up.results(place)
    command(root, place, "report", "results.json", "-o", "report.html", "--plot", "plot.png")
    assert (place / "report.html").stat().st_size > 100_000 and (place / "plot.png").stat().st_size > 10_000


def test_evaluation_of_any_coder_in_worker_processes(root, place):
    pytest.importorskip("scipy")
    code = (
        "from jpeg_coder import JpegCoder\n"
        "from codec.evaluation import anchors, rate_distortion as rd\n"
        "if __name__ == '__main__':\n"
        "    found = anchors.find_anchors(['jpeg'], threads=1)\n"
        "    entrants = [rd.Entrant('codec', JpegCoder(), (20, 40, 60, 80))]\n"
        "    entrants += [rd.Entrant(a.name, a, a.qualities) for a in found]\n"
        "    rows = rd.evaluate([('p', 'photo.png')], entrants, workers=2, threads=1)\n"
        "    rd.write_json('all.json', rd.conditions(), rd.summarise(rows, 'codec', ['jpeg']), rows)\n"
    )
    (place / "run.py").write_text(code)
    result = fresh(root, place, "run.py")
    assert result.returncode == 0, result.stderr
    found = json.loads((place / "all.json").read_text(encoding="utf-8"))
    assert found["bd_rate"]["jpeg"]["overall"]["percent"] > 0 and len(found["rows"]) > 4
    assert "torch" not in found["conditions"]["versions"] and found["conditions"]["threads"] >= 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("train photo.png", 'train needs PyTorch, CompressAI, Lightning and TensorBoard: pip install ".[train]"'),
        ("study gradients --quick", 'study gradients needs PyTorch: pip install ".[study]"'),
        (
            "study quantisers photo.png --valid . -o out",
            'study quantisers needs PyTorch, CompressAI and Lightning: pip install ".[study]"',
        ),
        ("models --check photo.png", 'models needs PyTorch, CompressAI and Lightning: pip install ".[train]"'),
        (
            "bench photo.png --against compressai:mbt2018-mean",
            'compressai:mbt2018-mean needs PyTorch and CompressAI: pip install ".[train]"',
        ),
        (
            "evaluate photo.png --against compressai:mbt2018-mean",
            'compressai:mbt2018-mean needs PyTorch and CompressAI: pip install ".[train]"',
        ),
    ],
)
def test_what_needs_an_extra_says_which_in_one_line(root, place, arguments, line):
    if "--against" in arguments or "quantisers" in arguments:
        pytest.importorskip("scipy")  # where that is missing too, it is what is named
    before = set(place.iterdir())
    result = fresh(root, place, "-m", "codec", *arguments.split())
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr == f"codec: {line} in the folder of the sources\n"
    assert set(place.iterdir()) == before
