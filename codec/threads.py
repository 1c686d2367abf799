"""CPU threads of this process: one number for every library that has one of its own.

    NumPy, SciPy    matrix products, through threadpoolctl where that is installed; else as the environment says
    PyTorch         where something has loaded it
    ONNX Runtime    a session keeps the number that it was made with: make it with ``current_threads()``

Nothing is loaded here that was not loaded before, save for threadpoolctl.

A process that is forked has none of its parent's threads, and finds locks that they held closed for ever: what holds
threads or locks says so by :func:`after_fork`.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

_chosen: int | None = None  # the latest number that was set; None: libraries choose


class Forkable(Protocol):
    """What is told that it is in a forked child."""

    def after_fork(self) -> None: ...


_forked: weakref.WeakSet[Forkable] = weakref.WeakSet()  # whose method ``after_fork`` is called in every forked child


def after_fork(thing: Forkable) -> None:
    """Have ``thing.after_fork()`` called in every child that this process is forked into, while ``thing`` lives."""
    _forked.add(thing)


def _after_fork() -> None:
    for thing in list(_forked):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Lock:
    """A ``threading.Lock`` for ``with``: a forked child, a copy and a pickle have one of their own, which is open."""

    def __init__(self) -> None:
        self.after_fork()
        after_fork(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[Lock], tuple[()]]:
        return Lock, ()


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def current_threads() -> int:
    """The number of threads that :func:`set_threads` has set; all cores before it is called."""
    return _chosen or cores()


def set_threads(threads: int) -> None:
    """Use so many threads from now on, in the whole process."""
    global _chosen
    _chosen = threads
    _blas(threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


@contextmanager
def restored() -> Iterator[None]:
    """Afterwards the threads are those of before, whatever :func:`set_threads` is told meanwhile."""
    global _chosen
    chosen, blas, torch = _chosen, _blas(None), sys.modules.get("torch")
    of_torch = torch and torch.get_num_threads()
    try:
        yield
    finally:
        _chosen = chosen
        if blas is not None:
            blas.restore_original_limits()
        if torch is not None:
            torch.set_num_threads(of_torch)


def set_product_threads(threads: int) -> None:
    """Use so many threads for NumPy's matrix products from now on, in the whole process, and leave all else as it is.

    One is best for us: where several threads work on tiles, OpenBLAS lets one after the other of them use its own
    threads, which wait by spinning, and in small pictures they gain little.
    """
    _blas(threads)


def _blas(threads: int | None) -> Any:
    """Set the threads of the matrix products, or None to look only; what can restore them, or None without it."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return None
    return threadpool_limits(threads, user_api="blas")
