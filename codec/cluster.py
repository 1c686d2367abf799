"""The same work on the machines of a Ray cluster: each actor holds a model, and reads and writes for itself.

Ray Data hands out small blocks of tasks and gathers small results; pictures never pass through it. An actor that dies
is started again and its block is done again, up to ``RETRIES`` times. Tasks of blocks that are given up are done once
more one by one, so that one which brings down whatever process works on it costs nobody but itself.

Ray is imported when a cluster is asked for; the extra ``ray`` brings it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import pickle
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from .errors import CodecError, is_memory
from .extras import lacks, missing

RETRIES = 3  # of a block whose process died
LARGEST_BLOCK = 32  # tasks; what is done again when a process dies
REACHABLE = 20.0  # seconds that a cluster has to answer
BLOCKS_EACH = 8  # at least so many for each actor, or the last ones would wait for each other


# What Ray reads from the environment, where the user has not said otherwise.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nobody is told
    "RAY_worker_niceness": "0",  # 15 otherwise, and the work would wait for everybody else's
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # dead workers are told of on standard output, which may hold our JSON
}


class Lost(CodecError):
    """A task was given up, as every process that worked on it died."""


@contextlib.contextmanager
def connected(address: str | None = None, cores: int | None = None) -> Iterator[Any]:
    """Ray, connected to a cluster while the block runs; the same connection as before where there is one.

    Args:
        address: as ``ray.init`` takes it: "auto", "host:6379", "ray://host:10001"; None: what RAY_ADDRESS says, or
            processes of this machine, which end with the block.
        cores: that processes of this machine are to count on; None: those that it has.

    Raises:
        CodecError: Ray is not installed, or there is no such cluster.
    """
    if missing("ray", "pyarrow"):
        raise CodecError(lacks("--engine ray", "ray", missing("ray", "pyarrow")))
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray
    import ray.data

    if ray.is_initialized():
        yield ray
        return
    _check_reachable(address)
    options: dict[str, Any] = {"include_dashboard": False, "num_cpus": cores} if address == "local" else {}
    try:
        with _unheard():
            ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, **options)
    except Exception as error:  # of many kinds, none of which is a fault of the program
        raise CodecError(f"Ray cluster {address}: {' '.join(str(error).split())}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_reachable(address):
    """Refuse at once what Ray would try for a quarter of an hour."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=REACHABLE).close()
        except OSError as error:
            reason = error.strerror or str(error)
            raise CodecError(f"Ray cluster {address}: {reason[:1].lower()}{reason[1:]}") from error


@contextlib.contextmanager
def _unheard():
    """Without what Ray's C++ says on standard error as it starts; what Python says there is heard, and errors rise."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    with os.fdopen(kept, "w") as heard, contextlib.ExitStack() as stack:
        if sys.stderr is sys.__stderr__:
            stack.enter_context(contextlib.redirect_stderr(heard))
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(nowhere)


def spread(
    work: Callable[[Any], Any],
    tasks: list[Any],
    *,
    address: str | None = None,
    workers: int | None = None,
    threads: int = 1,
    together: int = LARGEST_BLOCK,
) -> Iterator[tuple[Any, Any, str | None]]:
    """Do ``work(task)`` for all tasks; yields ``(task, result or exception, "host:process")``, mostly in order.

    Args:
        work: callable that can be pickled; each actor unpickles it once, and keeps it.
        tasks: list of what can be pickled.
        workers: actors; None: as many as the cluster has room for.
        threads: processor cores of each.
        together: tasks of a block, at most.

    Each task is yielded once. An exception stands for the task that raised it, ``Lost`` for one that ended its process.
    """
    with connected(address, workers and workers * threads) as ray:
        room = max(1, int(ray.cluster_resources().get("CPU", 1) // threads))
        waiting = dict(enumerate(tasks))
        actors = min(workers or room, room, len(waiting))
        for size in (max(1, min(together, len(waiting) // (actors * BLOCKS_EACH))), 1):
            for number, outcome, place in _rows(ray, work, waiting, size, actors, threads):
                yield waiting.pop(number), outcome, place
        for task in waiting.values():
            yield task, Lost(f"given up: the process that worked on it was killed, {RETRIES + 1} times"), None


def _rows(ray, work, tasks, size, actors, threads):
    """``(number, outcome, place)`` of what Ray Data brings back, for tasks by number."""
    if not tasks:
        return
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.max_errored_blocks = -1  # what is given up is missing among the rows
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    rows = [{"number": number, "task": pickle.dumps(task)} for number, task in tasks.items()]
    data = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // size))
    with warnings.catch_warnings():  # Ray will name the last two otherwise some day
        warnings.simplefilter("ignore")
        data = data.map_batches(
            _Actor,
            fn_constructor_args=(pickle.dumps(work),),
            compute=ray.data.ActorPoolStrategy(size=actors),
            batch_size=None,
            num_cpus=threads,
            max_restarts=-1,
            max_task_retries=RETRIES,
        )
    try:
        for row in data.iter_rows():
            yield row["number"], pickle.loads(row["outcome"]), row["place"]
    except ray.exceptions.RayError as error:  # such as machines that do not have this package
        raise CodecError(f"Ray: {str(error).strip().splitlines()[-1]}") from error


def _raise(error, _):
    raise error


class _Actor:
    """What lives in each process of the cluster."""

    def __init__(self, work):
        try:
            self.work = pickle.loads(work)
        except CodecError as error:  # it has another model: everything that it is given will say so
            self.work = functools.partial(_raise, error)
        self.place = f"{socket.gethostname()}:{os.getpid()}"

    def __call__(self, batch):
        outcomes = [pickle.dumps(self._outcome(pickle.loads(task))) for task in batch["task"]]
        return {"number": batch["number"], "outcome": outcomes, "place": [self.place] * len(outcomes)}

    def _outcome(self, task):
        try:
            return self.work(task)
        except Exception as error:
            error.__cause__ = error.__context__ = None  # which may not be fit to be sent
            error = error.with_traceback(None)
            if isinstance(error, (CodecError, OSError)):
                return error
            return MemoryError() if is_memory(error) else CodecError(f"{type(error).__name__}: {error}")
