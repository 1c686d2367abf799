"""What an installation may lack: packages that only some commands need, and the extras that bring them.

    torch   the codec's networks in PyTorch, for GPUs
    train   training, and CompressAI's models as rivals
    eval    evaluate, bench, report, compare
    study   measurements of the theory
    remote  files behind URLs
    ray     the work of a folder on a cluster
    imageio  the plugin for imageio
    docs    make docs
    lint    make lint
    test    the test suite

``pip install ".[eval]"``, in the folder of the sources, installs one of them.
"""

import importlib.util
import sys
from collections.abc import Sequence

# Module -> what its makers call it; others are called by the name of the module.
TITLES = {
    "compressai": "CompressAI",
    "lightning": "Lightning",
    "matplotlib": "Matplotlib",
    "numpy": "NumPy",
    "onnxruntime": "ONNX Runtime",
    "pillow": "Pillow",
    "pyarrow": "PyArrow",
    "ray": "Ray",
    "pillow_jxl": "pillow-jxl-plugin",
    "scipy": "SciPy",
    "tensorboard": "TensorBoard",
    "torch": "PyTorch",
}


def installed(module: str) -> bool:
    """Whether a top-level module is there, without loading it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # of a finder that refuses it, or of one put into sys.modules without a spec
        return sys.modules.get(module) is not None


def missing(*modules: str) -> list[str]:
    """List of those top-level modules that are not installed, in this order."""
    return [module for module in modules if not installed(module)]


def how_to_install(extra: str) -> str:
    """The command that brings an extra, and where: no registry has the package yet.

    In quotes that every shell understands.
    """
    return f'pip install ".[{extra}]" in the folder of the sources'


def lacks(who: str, extra: str, modules: Sequence[str]) -> str:
    """The line for the user: who lacks which modules, and what brings them."""
    names = [TITLES.get(module, module) for module in modules]
    listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    return f"{who} needs {listed}: {how_to_install(extra)}"
