"""What an installation may lack: names, the line about it, and the number of threads of what is there."""

import os
import subprocess
import sys

import pytest
import torch

from codec import threads
from codec.extras import installed, lacks, missing


def test_what_is_installed_is_known_without_loading_it(monkeypatch):
    assert installed("json") and not installed("no_such_package")
    assert missing("no_such_package", "json", "another_one") == ["no_such_package", "another_one"]
    monkeypatch.setitem(sys.modules, "antigravity", None)  # as tests hide a module
    assert not installed("antigravity")


def test_a_finder_that_refuses_a_module_hides_it(monkeypatch):
    class Refusing:
        def find_spec(self, name, path=None, target=None):
            if name == "json_of_the_future":
                raise ModuleNotFoundError(f"no {name}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Refusing(), *sys.meta_path])
    assert not installed("json_of_the_future")


def test_the_line_names_what_is_missing_and_what_brings_it():
    wanted = 'train needs PyTorch, CompressAI and Lightning: pip install ".[train]" in the folder of the sources'
    assert lacks("train", "train", ["torch", "compressai", "lightning"]) == wanted
    assert (
        lacks("report", "eval", ["other"]) == 'report needs other: pip install ".[eval]" in the folder of the sources'
    )


@pytest.fixture
def unset(monkeypatch):
    monkeypatch.setattr(threads, "_chosen", None)


def test_threads_are_those_of_torch_too_where_it_is_loaded_and_come_back(unset):
    before = torch.get_num_threads()
    with threads.restored():
        for count in (1, 2):
            threads.set_threads(count)
            assert threads.current_threads() == torch.get_num_threads() == count
    assert torch.get_num_threads() == before and threads.current_threads() == threads.cores()


def test_what_others_tell_torch_is_no_business_of_ours(unset):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads.cores() + 1)
        assert threads.current_threads() == threads.cores()
    finally:
        torch.set_num_threads(before)


def test_threads_without_torch(unset, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    assert threads.current_threads() == threads.cores() >= 1
    with threads.restored():
        threads.set_threads(3)
        assert threads.current_threads() == 3
    assert threads.current_threads() == threads.cores()


def test_commands_leave_matrix_products_to_one_thread(root, samples, tmp_path):
    pytest.importorskip("threadpoolctl")
    code = """if True:
        import sys
        import numpy
        from threadpoolctl import threadpool_info
        from cli.main import codec
        from codec.threads import set_product_threads

        def found():
            return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

        for arguments in (["compress", sys.argv[1], "-o", "a.lqc"], ["decompress", "a.lqc", "-o", "a.png"]):
            set_product_threads(2)
            before = found()
            codec([*arguments, "--threads", "2"], standalone_mode=False)
            print("threads", before, found())
    """
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    environment.update(PYTHONPATH=str(root), OPENBLAS_NUM_THREADS="2")
    command = [sys.executable, "-c", code, str(samples / "dog.png")]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if line.startswith("threads")]
    if lines[0] == "threads {1} {1}":
        pytest.skip("these libraries know one thread alone")
    assert lines == ["threads {2} {1}"] * 2


def test_matrix_products_have_as_many_threads(unset):
    threadpoolctl = pytest.importorskip("threadpoolctl")

    def found():
        return [library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"]

    before = found()
    if max(before, default=1) == 1:
        pytest.skip("these libraries know one thread alone")
    with threads.restored():
        threads.set_threads(1)
        assert set(found()) == {1}
    assert found() == before
