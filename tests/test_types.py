"""Hints: every public name has them, and those that a program may import are checked strictly (`make lint`)."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
PATHS = {
    path.relative_to(ROOT).as_posix(): path for folder in ("codec", "cli") for path in (ROOT / folder).rglob("*.py")
}


def documented():
    """Modules that a program may import without PyTorch, of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    text = re.search(r"^DOCUMENTED := (.*)$", makefile, re.MULTILINE)[1]
    for prefix, names in re.findall(r"\$\(addprefix ([\w.]+),([\w ]+)\)", text):
        text = text.replace(f"$(addprefix {prefix},{names})", " ".join(prefix + name for name in names.split()))
    return text.split()


def is_command(function):
    """Whether click calls a function, with what its options say: no program does."""
    return any(re.match(r"(\w+)\.(command|group)\b", ast.unparse(each)) for each in function.decorator_list)


def public_functions(tree, prefix=""):
    """(name, function) of those of a module and of the methods of its public classes; not of what is inside them."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.If, ast.Try)):
            yield from public_functions(node, prefix)
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name.endswith("__")):
            yield prefix + node.name, node


def unhinted(name, function):
    """Names of arguments without a hint, and "return"; ``self`` and ``cls`` need none."""
    every = function.args
    arguments = [*every.posonlyargs, *every.args]
    if "." in name and not any(ast.unparse(each) == "staticmethod" for each in function.decorator_list):
        arguments = arguments[1:]
    arguments += [*every.kwonlyargs, *filter(None, (every.vararg, every.kwarg))]
    found = [argument.arg for argument in arguments if argument.annotation is None]
    return found + ["return"] * (function.returns is None)


@pytest.mark.parametrize("name", sorted(PATHS))
def test_every_public_name_has_complete_hints(name):
    tree = ast.parse(PATHS[name].read_text(encoding="utf-8"))
    found = {
        qualified: missing
        for qualified, function in public_functions(tree)
        if not is_command(function) and (missing := unhinted(qualified, function))
    }
    assert not found


def test_lists_and_dicts_in_public_hints_say_of_what():
    for path in PATHS.values():
        for name, function in public_functions(ast.parse(path.read_text(encoding="utf-8"))):
            hints = [node.annotation for node in ast.walk(function.args) if isinstance(node, ast.arg)]
            for hint in filter(None, [*hints, function.returns]):
                bare = isinstance(hint, ast.Name) and hint.id in ("list", "dict", "tuple", "set", "Callable")
                assert not bare, f"{path}: {name}: {ast.unparse(hint)}"


def test_what_a_program_may_import_is_checked_strictly():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    (strict,) = (each for each in settings["overrides"] if each.get("disallow_untyped_defs"))
    assert set(documented()) | {"typed_program"} == set(strict["module"])
    assert {"codec", "cli"} <= set(settings["files"]) and "exclude" not in settings


@pytest.mark.slow  # `make lint` does the same without PyTorch
def test_the_type_checker_agrees_with_pytorch_there(tmp_path):
    pytest.importorskip("mypy")
    torch = pytest.importorskip("torch")
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    errors = [line for line in result.stdout.splitlines() if ": error: " in line]
    if np.__version__ < "2":  # whose arrays are nothing without parameters
        errors = [line for line in errors if not line.endswith("[type-arg]")]
    assert result.returncode in (0, 1) and not errors, f"PyTorch {torch.__version__}:\n{result.stdout}{result.stderr}"
