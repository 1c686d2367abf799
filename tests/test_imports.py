"""What is loaded when: a name, a header and a help text must not cost the seconds that the network needs."""

import os
import subprocess
import sys
import types

import pytest

import codec
from codec import bitstream

HEAVY = {
    "torch", "numpy", "compressai", "PIL", "scipy", "pandas", "matplotlib", "lightning", "safetensors", "onnxruntime",
    "threadpoolctl",
}  # fmt: skip
# Prints which of them the statements put in front of it have loaded.
REPORT = f"\nimport sys; print(sorted({HEAVY} & set(sys.modules)), file=sys.stderr)"


def loaded_by(root, statements):
    """The last line that a fresh process prints on stderr after running the statements."""
    environment = {**os.environ, "PYTHONPATH": str(root)}
    result = subprocess.run(
        [sys.executable, "-c", statements + REPORT],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    return result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "module",
    [
        "codec",
        "codec.errors",
        "codec.bitstream",
        "codec.config",
        "codec.quality",
        "codec.weights",
        "codec.extras",
        "codec.threads",
        "codec.__main__",
    ],
)
def test_importing_loads_nothing_heavy(root, module):
    assert loaded_by(root, f"import {module}") == "[]"


@pytest.mark.parametrize(
    "command",
    [
        "--help",
        "--version",
        "compress --help",
        "decompress --help",
        "info --help",
        "models --help",
        "train --help",
        "evaluate --help",
        "bench --help",
        "report --help",
        "compare --help",
        "study --help",
        "study quantisers --help",
        "demo --help",
        "info FILE",
        "info --json FILE",
        "models",
    ],
)
def test_commands_that_run_no_network_load_nothing_heavy(root, tmp_path, command):
    path = tmp_path / "picture.bin"
    container = bitstream.Container(
        model_id="0badcafe0badcafe",
        quality=5000,
        width=8,
        height=8,
        grey=False,
        tiles=(bitstream.Tile(b"tile", 1, 0),),
    )
    path.write_bytes(bitstream.pack(container))
    arguments = [str(path) if word == "FILE" else word for word in command.split()]
    statements = (
        "from cli.main import codec\n"
        f"try:\n    codec.main({arguments!r}, prog_name='codec')\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code"
    )
    assert loaded_by(root, statements) == "[]"


EVALUATION = ("anchors", "bd_rate", "bench", "compare", "journal", "metrics", "pages", "plot", "process", "published")
EVALUATION += ("rate_distortion", "report")


def test_evaluation_loads_no_torch(root):
    imports = f"import codec.evaluation.{', codec.evaluation.'.join(EVALUATION)}"
    assert loaded_by(root, imports) == "['PIL', 'numpy']"


def test_all_is_the_public_names():
    for name in codec.__all__:
        assert getattr(codec, name) is not None
    public = {
        name
        for name in dir(codec)
        if not name.startswith("_") and not isinstance(getattr(codec, name), types.ModuleType)
    }
    assert public == {name for name in codec.__all__ if not name.startswith("_")}
    assert len(codec.__all__) == len(set(codec.__all__))


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="compres"):
        _ = codec.compres
