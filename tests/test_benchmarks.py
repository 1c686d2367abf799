"""The scripts of benchmarks/ fit the package: they load, and what they ask of it exists."""

import ast
import importlib
import importlib.util
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).resolve().parent.parent / "benchmarks").glob("*.py"))
OPTIONAL = {"onnx", "openvino"}  # what a script compares with; nothing else needs them


def test_there_are_scripts():
    assert len(SCRIPTS) > 10


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_loads_and_what_it_imports_exists(path, monkeypatch):
    monkeypatch.syspath_prepend(path.parent)  # as where scripts run
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):  # in functions too
        if isinstance(node, ast.ImportFrom):
            try:
                module = importlib.import_module(node.module)
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")
            except ModuleNotFoundError as error:
                if error.name not in OPTIONAL:
                    raise
