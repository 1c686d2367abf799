"""Do the tests notice when the code is wrong? Seeded mutants of some files, and how many the tests notice.

    python benchmarks/mutants.py [--number 300] [--seed 0] [--files codec/quantise/ste.py ...] [--limit SECONDS]

A mutant is one change to one expression: an operator or comparison replaced by another, a number changed, a condition
negated, an argument or a method like ``detach`` left out, a statement dropped. Works on a copy of the checkout; each
mutant is a process of its own, forked from one that has loaded torch, so that it takes no longer than its tests.
Prints a line for each that survives, and shares by file.
"""

import argparse
import ast
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
QUANTISE = "tests/test_ste.py tests/test_rounding.py tests/test_estimators.py tests/test_codebook.py"
TESTS = {  # file -> tests, and which of them; those that train for long are left out
    "codec/quantise/ste.py": f"{QUANTISE} tests/test_weight_quantisers.py tests/test_attention.py",
    "codec/quantise/rounding.py": QUANTISE,
    "codec/quantise/estimators.py": f"{QUANTISE} tests/test_attention.py",
    "codec/quantise/codebook.py": "tests/test_codebook.py",
    "codec/quantise/weights.py": "tests/test_weight_quantisers.py tests/test_integer.py tests/test_ste.py",
    "codec/quantise/attention.py": "tests/test_attention.py",
    "codec/quantise/reference.py": f"tests/test_quantise.py {QUANTISE}",
    "codec/training/vector_model.py": "tests/test_vector_model.py tests/test_tile.py",
    "codec/training/model.py": "tests/test_training.py tests/test_model.py",
    "codec/training/scale_mixture.py": "tests/test_scale_mixture.py",
    "codec/training/muon.py": "tests/test_muon.py",
    "codec/training/transforms.py": "tests/test_transforms.py",
    "codec/training/drawings.py": "tests/test_drawings.py",
}
ALONE = {  # pytest -k
    "codec/training/vector_model.py": "not training and not resumed and not picture and not run and not grown",
    "codec/training/model.py": "outlier or noise_for or rate_and or every_quantiser or estimat or drawing",
}
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
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in DROPPED:
        if not isinstance(node.func.value, ast.Name) or node.func.value.id not in ("torch", "math", "np"):
            yield line, f".{node.func.attr}() left out", lambda: put(node.func.value)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield line, "statement left out", lambda: put(ast.copy_location(ast.Pass(), node))


def draw(files, number, seed):
    """``[(file, index of the mutation)]``, in proportion to the mutations that each file has."""
    pool = [(f, i) for f in files for i in range(len(list(mutations(ast.parse((ROOT / f).read_text())))))]
    return random.Random(seed).sample(pool, min(number, len(pool)))


def run(folder, file, source, limit):
    """Whether the tests notice the source in place of the file: True, False, or None where there was no time."""
    target = folder / file
    before = target.read_text()
    target.write_text(source)
    child = os.fork()
    if not child:
        os.setsid()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1), os.dup2(null, 2)
        try:
            import pytest
            import torch

            torch.set_num_threads(1)
            torch.set_num_threads = lambda number: None  # what the tests want; mutants run beside other work
            os.chdir(folder)
            sys.path[:0] = [str(folder), str(folder / "tests")]
            code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-k", ALONE.get(file, ""), *TESTS[file].split()])
        except BaseException:  # noqa: BLE001  whatever it is, it was noticed
            code = 1
        os._exit(int(code))
    end = time.monotonic() + limit
    status = None
    while time.monotonic() < end:
        done, code = os.waitpid(child, os.WNOHANG)
        if done:
            status = code != 0
            break
        time.sleep(0.05)
    else:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    target.write_text(before)
    return status


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", nargs="+", default=list(TESTS))
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for one mutant; more counts as noticed")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import compressai, lightning, numpy, pytest, scipy, torch  # noqa: F401, E401  what children need not load again

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy")
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", "__pycache__", "runs"))
        for file in arguments.files:  # what fails without any change would notice everything
            print(f"{file} as it is", end="\r", file=sys.stderr, flush=True)
            if run(copy, file, (copy / file).read_text(), 10 * arguments.limit) is not False:
                sys.exit(f"the tests of {file} fail as they are")
        chosen = draw(arguments.files, arguments.number, arguments.seed)
        for number, (file, index) in enumerate(chosen, 1):
            tree = ast.parse((ROOT / file).read_text())
            line, what, change = list(mutations(tree))[index]
            change()
            noticed = run(copy, file, ast.unparse(ast.fix_missing_locations(tree)), arguments.limit)
            found.setdefault(file, []).append(noticed)
            if noticed is False:
                print(f"survives: {file}:{line}: {what}", flush=True)
            print(f"{number} of {len(chosen)}", end="\r", file=sys.stderr, flush=True)
    for file, results in {**found, "all": sum(found.values(), [])}.items():
        noticed, late = sum(r is True for r in results), sum(r is None for r in results)
        share = 100 * (noticed + late) / len(results)
        print(f"{file}: {noticed + late} of {len(results)} noticed, {share:.0f} %; {late} of them by their time")


if __name__ == "__main__":
    main()
