"""What fuzzing has found worth keeping, once more, and any bytes that hypothesis thinks of (tests/fuzz.py)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fuzz

INPUTS = sorted(path for path in fuzz.CORPUS.rglob("*") if path.is_file())
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # about the damage


def test_every_target_has_a_corpus_and_every_corpus_a_target():
    assert {path.parent.name for path in INPUTS} == set(fuzz.TARGETS)
    assert sum(path.stat().st_size for path in INPUTS) < 500_000


@pytest.mark.parametrize("name", sorted(fuzz.TARGETS))
def test_the_corpus_ends_as_it_must(name):
    inputs = [path for path in INPUTS if path.parent.name == name]
    for path in inputs:
        try:
            fuzz.TARGETS[name](path.read_bytes())
        except BaseException as error:
            raise AssertionError(f"{path.name}: {error!r}") from error
    assert inputs


def test_seeds_are_what_the_program_writes():
    for name, file, data in fuzz.seeds():
        if name in ("container", "coder"):  # formats of our own; the others depend on versions of libraries
            assert (fuzz.CORPUS / name / file).read_bytes() == data


@pytest.mark.parametrize(
    ("name", "examples"),
    [
        pytest.param(name, examples, marks=[pytest.mark.slow] if examples > 100 else [], id=f"{name}-{examples}")
        for name in sorted(fuzz.TARGETS)
        for examples in (60, 2000)
    ],
)
def test_any_bytes_end_as_they_must(name, examples):
    seeds = [path.read_bytes() for path in INPUTS if path.parent.name == name][:40]

    @settings(derandomize=True, deadline=None, database=None, max_examples=examples)
    @given(
        st.sampled_from(seeds),
        st.lists(st.tuples(st.integers(0, 4095), st.binary(max_size=4)), max_size=4),
        st.binary(max_size=64),
    )
    def check(seed, changes, tail):
        data = bytearray(seed)
        for position, piece in changes:
            position %= len(data) + 1
            data[position : position + len(piece)] = piece
        fuzz.TARGETS[name](bytes(data))
        fuzz.TARGETS[name](seed[: len(tail)] + tail)

    check()
