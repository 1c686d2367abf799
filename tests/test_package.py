"""What is installed: the wheel and the editable installation, built here and used from a fresh process."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version

import pytest

import codec
from codec import weights

# Runs a command of the installed package and says where its parts were found.
USE = """
import codec, sys
from codec import weights
from codec.__main__ import main
print(codec.__file__, weights.find_model(), sep="\\n")
main()
"""


@pytest.fixture(scope="module")
def source(root, tmp_path_factory):
    """A copy of what the build needs: building in place would leave folders behind, and pick up old ones."""
    wanted = re.search(r'"setuptools>=([\d.]+)"', (root / "pyproject.toml").read_text(encoding="utf-8"))[1]
    if [int(part) for part in version("setuptools").split(".")[:2]] < [int(part) for part in wanted.split(".")[:2]]:
        pytest.skip(f"the project is built by setuptools {wanted}; here is {version('setuptools')}")
    folder = tmp_path_factory.mktemp("source")
    for name in ("codec", "cli", "models", "docs"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in root.iterdir():
        if path.is_file() and not path.name.startswith(".git"):
            shutil.copy(path, folder)
    return folder


def build(source, kind, folder, settings=None):
    """Path of what the project's own backend builds, offline; ``kind``: wheel, editable (a wheel too) or sdist."""
    call = f"build_meta.build_{kind}(sys.argv[1], {settings})"
    code = f"import sys; from setuptools import build_meta; print({call})"
    result = subprocess.run([sys.executable, "-c", code, folder], cwd=source, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return folder / result.stdout.splitlines()[-1]


def use(folder, prelude, *arguments, cwd):
    """Lines printed by the package installed in ``folder``, away from the checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    code = prelude.format(folder=str(folder)) + USE
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    return build(source, "wheel", tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_the_codec_its_commands_and_its_weights(root, wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    model = f"codec/_models/{weights.default_model_id()}"
    wanted = {f"{model}/{file}" for file in ("weights.safetensors", "config.json", "CARD.md")}
    wanted |= {"codec/_models/index.json", "codec/BITSTREAM.md"}
    wanted |= {f"codec/_cli/{path.name}" for path in (root / "cli").glob("*.py")}
    files = [path for path in (root / "codec").rglob("*") if path.suffix not in ("", ".pyc")]
    wanted |= {path.relative_to(root).as_posix() for path in files if path.is_file()}
    assert wanted - names == set()


def test_the_wheel_says_its_licence_and_that_it_is_typed(root, wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
        texts = {name.split("/")[-1]: archive.read(name).decode() for name in names if "/licenses/" in name}
    assert "License-Expression: BSD-3-Clause-Clear" in metadata.splitlines()
    assert texts == {name: (root / name).read_text(encoding="utf-8") for name in ("LICENSE", "NOTICE")}
    assert "codec/py.typed" in names


def test_the_source_distribution_makes_the_same_wheel(source, wheel, tmp_path):
    with tarfile.open(build(source, "sdist", tmp_path)) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert {
        "CHANGELOG.md",
        "CITATION.cff",
        "CONTRIBUTING.md",
        "LICENSE",
        "NOTICE",
        "SECURITY.md",
        "docs",
        "models",
    } <= {path.name for path in unpacked.iterdir()}
    again = build(unpacked, "wheel", tmp_path / "again")
    contents = []
    for path in (wheel, again):
        with zipfile.ZipFile(path) as archive:
            contents.append({(item.filename, item.CRC) for item in archive.infolist()})
    assert contents[0] == contents[1]


def test_the_version_is_the_same_wherever_it_is_written(root):
    citation = (root / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {codec.__version__}" in citation.splitlines()
    assert f"**Version** {codec.__version__}," in (root / "README.md").read_text(encoding="utf-8")
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{codec.__version__}]" in changelog and "## [Unreleased]" in changelog


def test_the_notice_names_every_picture_that_taught(root):
    """The counts of the sources sum to the number that the notice and the model's card say."""
    notice = (root / "NOTICE").read_text(encoding="utf-8")
    counts = [int(count) for count in re.findall(r"^ +(\d+)  \S", notice, re.MULTILINE)]
    said = int(re.search(r"pieces of (\d+) photographs", notice)[1])
    assert len(counts) > 50 and sum(counts) == said
    card = root / "models" / weights.default_model_id() / "CARD.md"
    assert f"{said} photographs" in card.read_text(encoding="utf-8")


def test_the_wheel_installs_no_other_top_level_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        entry_points = archive.read(next(name for name in names if name.endswith("/entry_points.txt"))).decode()
    top_level = {name.split("/")[0] for name in names}
    assert {name for name in top_level if not name.endswith(".dist-info")} == {"codec"}
    assert entry_points.split() == ["[console_scripts]", "codec", "=", "codec.__main__:main"]


def test_the_wheel_works_away_from_the_checkout(wheel, samples, tmp_path):
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    prelude = "import sys; sys.path.insert(0, {folder!r})"
    output = tmp_path / "dog.bin"
    lines = use(installed, prelude, "compress", samples / "dog.png", "-o", output, cwd=tmp_path)
    assert lines[0] == str(installed / "codec" / "__init__.py")
    assert lines[1].startswith(str(installed / "codec" / "_models"))
    assert output.stat().st_size > 0 and lines[2].endswith("bpp")


@pytest.mark.parametrize("mode", ["lenient", "strict", "compat"])
def test_an_editable_installation_finds_the_sources(source, tmp_path, mode):
    installed = tmp_path / "installed"
    with zipfile.ZipFile(build(source, "editable", tmp_path, {"editable_mode": mode})) as archive:
        archive.extractall(installed)
    # addsitedir runs the .pth file, as the interpreter does for site-packages when it starts. An editable
    # installation of this project in the environment of the tests has a finder of the same name: it must go first.
    prelude = (
        "import site, sys;"
        "sys.meta_path[:] = [f for f in sys.meta_path if '__editable__' not in getattr(f, '__module__', '')];"
        "[sys.modules.pop(name) for name in list(sys.modules) if name.startswith('__editable__')];"
        "sys.path.insert(0, {folder!r}); site.addsitedir({folder!r})"
    )
    lines = use(installed, prelude, "--version", cwd=tmp_path)
    assert lines[0].startswith(str(source)) and lines[1].startswith(str(source))
    assert lines[2] == f"codec {codec.__version__}"


def test_the_runtime_needs_no_framework(root):
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in project["dependencies"]}
    assert names == {"click", "numpy", "onnxruntime", "pillow", "platformdirs", "safetensors", "threadpoolctl", "tqdm"}
    assert "<" not in project["requires-python"] + "".join(project["dependencies"])  # what is not out yet may do
    extras = project["optional-dependencies"]
    names = {"torch", "train", "eval", "study", "ray", "remote", "imageio", "docs", "lint", "test", "test-all"}
    assert set(extras) == names
    assert not re.search("torch|compressai|train", " ".join(extras["eval"]))
