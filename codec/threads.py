"""CPU threads of this process: one number for every library that has one of its own.

    NumPy, SciPy    matrix products, through threadpoolctl where that is installed; else as the environment says
    PyTorch         where something has loaded it
    ONNX Runtime    a session keeps the number that it was made with: make it with ``current_threads()``

Nothing is loaded here that was not loaded before, save for threadpoolctl.
"""

import os
import sys
from contextlib import contextmanager

_chosen = None  # the latest number that was set; None: libraries choose


def cores():
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def current_threads():
    """The number of threads that is set; that of PyTorch where it is loaded, as others set it too."""
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch is not None else _chosen or cores()


def set_threads(threads):
    """Use so many threads from now on, in the whole process."""
    global _chosen
    _chosen = threads
    _blas(threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


@contextmanager
def restored():
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


def _blas(threads):
    """Set the threads of the matrix products, or None to look only; what can restore them, or None without it."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return None
    return threadpool_limits(threads, user_api="blas")
