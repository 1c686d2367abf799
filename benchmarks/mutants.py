"""Do the tests notice when the code is wrong? Seeded mutants of some files, and how many the tests notice.

    python benchmarks/mutants.py RESULTS.json [--number 300] [--seed 0] [--files codec/quantise/ste.py ...] [--again]

A mutant is one change to one expression: an operator or comparison replaced by another, a number changed, a condition
negated, an argument or a method like ``detach`` left out, a statement dropped. Works on a copy of the checkout; each
mutant is a process of its own, forked from one that has loaded torch, which runs the tests of its file, the quick ones
first, up to the first that fails. RESULTS.json holds what is done, and a run that was ended goes on from it;
``--again`` tries those that survived once more, after tests were added. Prints a line for each that survives, and
shares by file.
"""

import argparse
import ast
import contextlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from importlib.util import cache_from_source
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
QUANTISE = "tests/test_ste.py tests/test_rounding.py tests/test_estimators.py tests/test_codebook.py"
TESTS = {  # file -> tests
    "codec/quantise/ste.py": f"{QUANTISE} tests/test_weight_quantisers.py tests/test_attention.py",
    "codec/quantise/rounding.py": f"{QUANTISE} tests/test_quantise.py",
    "codec/quantise/estimators.py": f"{QUANTISE} tests/test_attention.py",
    "codec/quantise/codebook.py": "tests/test_codebook.py",
    "codec/quantise/weights.py": "tests/test_weight_quantisers.py tests/test_quantise.py tests/test_integer.py "
    "tests/test_ste.py",
    "codec/quantise/attention.py": "tests/test_attention.py",
    "codec/quantise/reference.py": f"tests/test_quantise.py {QUANTISE}",
    "codec/training/vector_model.py": "tests/test_vector_model.py tests/test_tile.py tests/test_vector_entropy.py",
    "codec/training/model.py": "tests/test_training.py tests/test_model.py tests/test_eyes.py",
    "codec/training/loop.py": "tests/test_training.py tests/test_vector_model.py tests/test_eyes.py "
    "tests/test_health.py",
    "codec/training/fitting.py": "tests/test_fitting.py",
    "codec/training/data.py": "tests/test_training.py",
    "codec/training/scale_mixture.py": "tests/test_scale_mixture.py",
    "codec/training/muon.py": "tests/test_muon.py",
    "codec/training/transforms.py": "tests/test_transforms.py",
    "codec/training/drawings.py": "tests/test_drawings.py",
    "codec/training/eyes.py": "tests/test_eyes.py",
}
SLOWEST = 15.0  # seconds of processor time; tests that take longer are left out
OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.And: ast.Or, ast.Or: ast.And, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.MatMult: ast.MatMult,
}  # fmt: skip
DROPPED = {"detach", "clamp", "clamp_min", "abs", "square", "log", "exp", "sqrt", "cummax", "ceil", "half", "float"}


def mutations(tree):
    """``(line, what, change)`` of every mutation of a module: ``change()`` alters the tree in place."""
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            for place, node in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(node, ast.AST):
                    put = _putter(parent, name, place if isinstance(value, list) else None)
                    yield from _of(node, put)


def _putter(parent, name, place):
    def put(new):
        if place is None:
            setattr(parent, name, new)
        else:
            getattr(parent, name)[place] = new

    return put


def _of(node, put):
    line = getattr(node, "lineno", 0)
    if isinstance(node, (ast.BinOp, ast.AugAssign, ast.BoolOp)) and type(node.op) in OPERATORS:
        new = OPERATORS[type(node.op)]
        if new is not type(node.op):
            yield line, f"{type(node.op).__name__} -> {new.__name__}", lambda: setattr(node, "op", new())
    if isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
        new = OPERATORS[type(node.ops[0])]
        yield line, f"{type(node.ops[0]).__name__} -> {new.__name__}", lambda: node.ops.__setitem__(0, new())
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        new = node.value + 1 if isinstance(node.value, int) else 2 * node.value + 0.125
        yield line, f"{node.value} -> {new}", lambda: setattr(node, "value", new)
    if isinstance(node, ast.Constant) and type(node.value) is bool:
        yield line, f"{node.value} -> {not node.value}", lambda: setattr(node, "value", not node.value)
    if isinstance(node, (ast.If, ast.IfExp)):
        yield line, "condition negated", lambda: setattr(node, "test", ast.UnaryOp(ast.Not(), node.test))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        yield line, f"{type(node.op).__name__} left out", lambda: put(node.operand)
    method = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in DROPPED
    if method and ast.unparse(node.func.value) not in ("torch", "math", "np"):
        yield line, f".{node.func.attr}() left out", lambda: put(node.func.value)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield line, "statement left out", lambda: put(ast.copy_location(ast.Pass(), node))


def draw(files, number, seed):
    """``[(file, index of the mutation)]``, in proportion to the mutations that each file has."""
    pool = [(f, i) for f in files for i in range(len(list(mutations(ast.parse((ROOT / f).read_text())))))]
    return random.Random(seed).sample(pool, min(number, len(pool)))


class Order:
    """A pytest plugin: tests by what they took before, quick ones first; and what they take, with children."""

    def __init__(self, seconds):
        self.seconds, self.found = seconds, {}

    def pytest_collection_modifyitems(self, items):
        items[:] = sorted(
            (item for item in items if self.seconds.get(item.nodeid, 0) <= SLOWEST),
            key=lambda item: self.seconds.get(item.nodeid, 0),
        )

    def pytest_runtest_logstart(self):
        self.begun = sum(os.times()[:4])

    def pytest_runtest_logreport(self, report):
        taken = float("inf") if report.failed else sum(os.times()[:4]) - self.begun
        self.found[report.nodeid] = max(taken, self.found.get(report.nodeid, 0))


def run(folder, options, order, limit):
    """Exit status of pytest with these options, in a process of its own; None where it exceeds the limit in seconds."""
    child = os.fork()
    if not child:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 5))
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1), os.dup2(null, 2)
        code = 1
        try:
            import pytest
            import torch

            torch.set_num_threads(1)
            torch.set_num_threads = lambda number: None  # what the tests want; mutants run beside other work
            os.chdir(folder)
            os.environ["PYTHONPATH"] = str(folder)
            sys.path[:0] = [str(folder), str(folder / "tests")]
            code = pytest.main(["-q", "-p", "no:cacheprovider", *options], plugins=[order])
            (folder / "seconds.json").write_text(json.dumps(order.found))
        finally:
            os._exit(int(code))
    end = time.monotonic() + 10 * limit  # of the clock: for those that wait for ever
    done = 0
    while not done and time.monotonic() < end:
        time.sleep(0.02)
        done, code = os.waitpid(child, os.WNOHANG)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # and what it has started
    if not done:
        os.waitpid(child, 0)
    late = not done or (os.WIFSIGNALED(code) and os.WTERMSIG(code) in (signal.SIGXCPU, signal.SIGKILL))
    return None if late else os.waitstatus_to_exitcode(code)


def mutant(file, index):
    """``(line, what, source)`` of a mutation of a file."""
    tree = ast.parse((ROOT / file).read_text())
    line, what, change = list(mutations(tree))[index]
    change()
    return line, what, ast.unparse(ast.fix_missing_locations(tree))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--number", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", nargs="+", default=list(TESTS))
    parser.add_argument("--again", action="store_true", help="those that survived, once more")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.dont_write_bytecode = False  # of tests and other modules, for the next mutant
    for module in ("compressai", "lightning", "onnxruntime", "PIL.Image", "pytest", "scipy.stats", "torch"):
        importlib.import_module(module)  # once for all mutants

    state = json.loads(arguments.results.read_text()) if arguments.results.exists() else {"seconds": {}, "mutants": {}}
    seconds, found = state["seconds"], state["mutants"]
    chosen = draw(arguments.files, arguments.number, arguments.seed)
    files = sorted({file for file, _ in chosen})
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy")
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", "__pycache__", "runs"))
        for tests in sorted({tests for file in files for tests in TESTS[file].split()}):  # as they are
            if not any(name.startswith(tests) for name in seconds):
                print(f"{tests} as it is", file=sys.stderr, flush=True)
                run(copy, [tests], Order({}), 3600)
                seconds.update(json.loads((copy / "seconds.json").read_text()))
                arguments.results.write_text(json.dumps(state, indent=1))
        for name, taken in seconds.items():
            if taken > SLOWEST:
                print(f"left out: {name}" + (", which fails as it is" if taken == float("inf") else f", {taken:.0f} s"))
        names = []
        for number, (file, index) in enumerate(chosen, 1):
            line, what, source = mutant(file, index)
            names.append(f"{file}:{line}: {what} ({index})")
            if found.get(names[-1]) not in (None, "survives" if arguments.again else None):
                continue
            own = sum(s for name, s in seconds.items() if name.split("::")[0] in TESTS[file] and s <= SLOWEST)
            target = copy / file
            Path(cache_from_source(str(target))).unlink(missing_ok=True)  # believed by second and size
            target.write_text(source)
            code = run(copy, ["-x", *TESTS[file].split()], Order(seconds), 30 + 3 * own)
            Path(cache_from_source(str(target))).unlink(missing_ok=True)
            shutil.copy(ROOT / file, target)
            found[names[-1]] = {None: "late", 0: "survives"}.get(code, "noticed")
            arguments.results.write_text(json.dumps(state, indent=1))
            if code == 0:
                print(f"survives: {names[-1]}", flush=True)
            print(f"{number} of {len(chosen)}", end="\r", file=sys.stderr, flush=True)
    for file in [*files, "codec/"]:
        results = [found[name] for name in names if name.startswith(file)]
        noticed, late = sum(r != "survives" for r in results), results.count("late")
        print(
            f"{file}: {noticed} of {len(results)} noticed, {100 * noticed / len(results):.0f} %; {late} by their time"
        )


if __name__ == "__main__":
    main()
