"""How the modules hang together, read from their sources without running them: no circle, and no torch at runtime."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("codec", "cli")
HEAVY = {"torch", "torchvision", "compressai", "lightning", "tensorboard", "pytorch_msssim"}
# Everything else in codec/ and cli/ is the runtime, or works without torch beside it.
TORCH_ROOMS = ("codec.nn", "codec.training", "codec.study")
TORCH_MODULES = {
    "codec.health",
    "codec.torch_data",
    "codec.evaluation.zoo",
    *(f"codec.quantise.{name}" for name in ("attention", "codebook", "estimators", "rounding", "ste", "weights")),
}


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {name_of(path): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in PATHS.items()}


def at_import(node):
    """Statements that run when a module is imported: not those of functions, nor those for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from at_import(child)


def source_of(name, node):
    """Full name of what ``from ... import`` names."""
    if not node.level:
        return node.module
    package = name.split(".") if PATHS[name].stem == "__init__" else name.split(".")[:-1]
    package = package[: len(package) - node.level + 1]
    return ".".join([*package, *([node.module] if node.module else [])])


def imported(name, nodes=None):
    """Names of the modules that a module imports by itself; names of other things in them are left out."""
    found = set()
    for node in at_import(TREES[name]) if nodes is None else nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = source_of(name, node)
            whole = {f"{source}.{alias.name}" for alias in node.names}
            modules = whole & PATHS.keys()
            found |= modules
            # "from . import x" of a sibling loads the package too, but asks nothing of it.
            if len(modules) < len(node.names) or source not in PATHS:
                found.add(source)
    return found - {name}


IMPORTS = {name: imported(name) for name in TREES}


def with_packages(names):
    """Modules and the packages around them, which are loaded before them."""
    return {".".join(name.split(".")[:n]) for name in names for n in range(1, name.count(".") + 2)}


def needs_torch(name):
    return name in TORCH_MODULES or any(name == room or name.startswith(f"{room}.") for room in TORCH_ROOMS)


def test_the_rooms_with_torch_exist():
    assert TORCH_MODULES <= PATHS.keys() and set(TORCH_ROOMS) <= PATHS.keys()


def test_no_module_imports_itself_in_a_circle():
    done = set()

    def visit(name, path):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in sorted(IMPORTS[name] & TREES.keys()):
                visit(other, [*path, name])
            done.add(name)

    for name in TREES:
        visit(name, [])


@pytest.mark.parametrize("name", sorted(name for name in TREES if not needs_torch(name)))
def test_the_runtime_imports_no_torch(name):
    seen, waiting = {}, {name: [name]}
    while waiting:
        module, path = waiting.popitem()
        seen[module] = path
        for other in with_packages(IMPORTS[module]):
            assert other.partition(".")[0] not in HEAVY, " -> ".join([*path, other])
            if other in TREES and other not in seen:
                waiting[other] = [*path, other]


def test_names_with_an_underscore_stay_in_their_module():
    taken = []
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and source_of(name, node).partition(".")[0] in PACKAGES:
                hidden = [a.name for a in node.names if a.name.startswith("_") and not a.name.endswith("__")]
                taken += [f"{name}: from {source_of(name, node)} import {each}" for each in hidden]
    assert not taken, "\n".join(taken)


def test_training_and_evaluation_ask_nothing_of_the_commands():
    assert not [name for name in TREES if name.startswith("codec.") for other in IMPORTS[name] if other[:3] == "cli"]


def test_no_command_imports_another():
    shared = {
        "cli.common",
        "cli.files",
        "cli.main",
        "cli.measuring",
        "cli.patterns",
        "cli.pictures",
        "cli.pipeline",
        "cli.progress",
        "cli.shards",
        "cli.targets",
    }
    commands = {name for name in TREES if name.startswith("cli.")} - shared
    assert len(commands) > 8
    assert not [f"{name}: {other}" for name in commands for other in IMPORTS[name] & commands]
