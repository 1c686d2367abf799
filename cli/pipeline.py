"""From a plan to what is written and said: jobs go to an engine, outcomes come back and are told, counted and kept.

    plan -> jobs -> engine: work(job) -> Done -> lines, summary, exit status, manifest

The engine is this process, with threads, or a Ray cluster (:mod:`codec.cluster`); the work is the same.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import click
from click.globals import push_context

from codec.errors import CodecError
from codec.remote import is_url

from .common import Command, Failure, Progress, describe, share, size_in_words
from .files import STREAM, Job, Plan, Sources, as_path
from .progress import clock, is_quiet

if TYPE_CHECKING:
    from codec.manifest import Manifest

Work: TypeAlias = Callable[[Any], "Done"]  # of a job
MANIFESTS = "manifests"  # the folder of them, among the results


@dataclass
class Done:
    """What became of a job.

    Attributes:
        line: for the user; None: there is nothing to say.
        read, written: bytes.
        facts: dict of what ``--json`` and the manifest show.
        remarks: lines on what was written, that its owner should read.
        problems: lines on what was not; with any, the job has failed.
        place: "host:process" that did it, where that is another one.
    """

    line: str | None
    read: int = 0
    written: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    place: str | None = None


@dataclass(frozen=True)
class Engine:
    """What does the work: ``local``, this process, or ``ray``, a cluster.

    Attributes:
        address: of the cluster; None: a new one, on this machine.
        manifest: the folder for manifests that was asked for.
        workers: jobs at work at a time; None: as many as there is room for.
        threads: of each.
    """

    name: str = "local"
    address: str | None = None
    manifest: str | None = None
    workers: int | None = 1
    threads: int | None = None

    @property
    def remote(self) -> bool:
        return self.name != "local"

    def names(self, inputs: tuple[str, ...], output: str | None) -> tuple[tuple[str, ...], str | None]:
        """``(inputs, output)`` as every process of the engine understands them.

        Raises:
            Failure: what only this process can read or write.
        """
        if not self.remote:
            return inputs, output
        for name in (*inputs, output or ""):
            if name == STREAM:
                raise Failure(f"--engine {self.name} reads and writes files, not standard input and output")
            if is_url(name) and "memory" in name.partition("://")[0].split("::"):
                raise Failure(f"{name}: is in the memory of one process, where --engine {self.name} has several")
        return tuple(map(_absolute, inputs)), output and _absolute(output)

    def model(self, name: str | None) -> str | None:
        """The id or folder of a model, as every process of the engine understands it."""
        return os.path.abspath(name) if self.remote and name and os.path.isdir(name) else name

    def shared(self, workers: int | None, threads: int | None, jobs: int) -> Engine:
        """The engine for so many jobs, with ``--workers`` and ``--threads`` as they were given."""
        workers, threads = (workers, threads or 1) if self.remote else share(workers, threads, jobs)
        return Engine(self.name, self.address, self.manifest, workers, threads)

    def outcomes(self, jobs: list[Any], work: Work) -> Iterator[tuple[Any, Callable[[], Done]]]:
        """Yield every job with a function that returns, or raises, what ``work(job)`` does."""
        if not self.remote:
            yield from _in_threads(jobs, work, self.workers)
            return
        from codec.cluster import spread
        from codec.shards import is_shard

        # A shard is work enough to hand out by itself.
        together = {"together": 1} if any(is_shard(job.source.path) for job in jobs) else {}
        spreading = spread(
            work, jobs, address=self.address, workers=self.workers, threads=self.threads or 1, **together
        )
        for job, outcome, place in spreading:
            if isinstance(outcome, Done):
                outcome.place = place
            yield job, functools.partial(_given, outcome)

    def manifest_of(self, plan: Plan | Sources) -> Manifest | None:
        """The codec.manifest.Manifest of a run, or None where there is to be none."""
        folder = as_path(self.manifest) if self.manifest else None
        place = getattr(plan, "place", None)
        if folder is None and self.remote and place is not None:
            folder = place.joinpath(MANIFESTS)
        if folder is None:
            return None
        from codec.manifest import Manifest

        return Manifest(folder)


def _given(outcome):
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _absolute(name):
    """A name that means the same in another working folder; a slash at its end stays, as that says something."""
    if is_url(name):
        return name
    return os.path.join(os.path.abspath(name), "") if name.endswith(("/", os.sep)) else os.path.abspath(name)


def manifest_option(command: Command) -> Command:
    """``--manifest``, above :func:`engine_options`, which takes it."""
    return click.option(
        "--manifest", metavar="FOLDER",
        help="Keep a line of JSON for each picture, in a file of this run.  [with ray: manifests, in the folder of -o]",
    )(command)  # fmt: skip


def engine_options(command: Command) -> Command:
    """``--engine`` and ``--address``; they arrive as ``engine``, an Engine."""

    @functools.wraps(command)
    def with_engine(*args, engine, address, manifest=None, **others):
        if address and engine == "local":
            raise click.UsageError("--address is of a cluster: --engine ray.")
        return command(*args, engine=Engine(engine, address, manifest), **others)

    for option in (
        click.option(
            "--address", metavar="ADDRESS",
            help="Of a Ray cluster: auto, host:6379, ray://host:10001.  [RAY_ADDRESS, or processes of this machine]",
        ),
        click.option(
            "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
            help="Where the work is done: in this process, or by the machines of a Ray cluster.",
        ),
    ):  # fmt: skip
        with_engine = option(with_engine)
    return with_engine


def run(
    plan: Plan | Sources,
    work: Work,
    *,
    verb: str,
    as_json: bool = False,
    prepare: Callable[[], object] | None = None,
    engine: Engine = Engine(),
) -> None:
    """Do ``work(job)`` for every job; a failing one is named on stderr and the others go on.

    What is said stands in the order of the jobs, however many are at work.

    Args:
        plan: files.Plan, or files.Sources to read.
        work: returns Done; fit to be pickled, for engines other than the local one.
        verb: what is being done, for the progress display.
        as_json: print one JSON object a line for every job, in the place of the line: ``input``, and facts or an
            ``error``.
        prepare: called once before the first job; an error here ends the command.

    With ``--quiet`` there are neither lines nor progress, only errors. Ends with a summary on stderr where there was
    more than one file, and with status 1 when something failed.
    """
    quiet, started = is_quiet(), time.monotonic()
    sources: Any = getattr(plan, "sources", plan)
    jobs: list[Any] = getattr(plan, "jobs", sources.files)
    skipped: list[Job] = getattr(plan, "skipped", [])
    # Standard output may be carrying a picture; a remark in the middle of it would ruin it.
    to_stderr = any(getattr(job, "target", job) is None for job in jobs)
    failed, sizes = len(sources.unreadable), []
    for error in sources.unreadable:
        click.echo(f"codec: {describe(error)}", err=True)
    with (
        Progress(len(jobs), verb, hidden=quiet) as progress,
        engine.manifest_of(plan) or contextlib.nullcontext() as kept,
    ):
        if kept:
            for job in skipped:
                kept.add(source=str(job), target=str(job.target), status="skipped")
        if prepare is not None and jobs:
            progress.start(str(jobs[0]))
            prepare()
        for job, outcome in engine.outcomes(jobs, work) if jobs else ():
            progress.start(str(job))
            try:
                done = outcome()
            except BrokenPipeError:
                raise
            except (CodecError, OSError, MemoryError) as error:
                done = Done(None, problems=[_about(job, error)], facts={"error": describe(error)})
            failed += bool(done.problems)
            if not done.problems:
                sizes.append((done.read, done.written))
            for line in (*(() if quiet else done.remarks), *done.problems):
                progress.echo(f"codec: {line}", err=True)
            said = json.dumps({"input": str(job), **done.facts}) if as_json and done.facts else done.line
            if said is not None and (as_json or not quiet):
                progress.echo(said, err=to_stderr)
            if kept:
                for line in _kept(job, done):
                    kept.add(**line)
            progress.advance()
    rest = len(skipped), len(sources.unreadable), len(sources.passed_over)
    told = any(rest) or (len(jobs) > 1 and any(map(any, sizes)))
    if (failed and (len(jobs) > 1 or any(rest))) or (told and not quiet):
        seconds = time.monotonic() - started
        click.echo(f"codec: {_summary(sizes, failed, len(skipped), sources.passed_over, seconds)}", err=True)
    if failed:
        click.get_current_context().exit(1)


def _in_threads(jobs, work, workers):
    """Yield every job with a function that returns, or raises, what ``work(job)`` does."""
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            yield job, functools.partial(work, job)
        return
    context = click.get_current_context()
    with ThreadPoolExecutor(workers, initializer=push_context, initargs=(context,)) as pool:
        waiting: collections.deque[tuple[Any, Future[Done]]] = collections.deque()
        try:
            for job in jobs:
                waiting.append((job, pool.submit(work, job)))
                while len(waiting) > 2 * workers or (waiting and waiting[0][1].done()):
                    first, future = waiting.popleft()
                    yield first, future.result
            for first, future in waiting:
                yield first, future.result
        finally:
            pool.shutdown(cancel_futures=True)


def _kept(job, done):
    """The lines of a manifest about a job: one a picture."""
    facts = {name: value for name, value in done.facts.items() if name not in ("frames", "members", "output")}
    common = {"source": str(job), "target": str(job.target), "status": "failed" if done.problems else "done"}
    common |= {"source_bytes": done.read} if done.read else {}
    common |= {"worker": done.place} if done.place else {}
    parts = done.facts.get("frames") or done.facts.get("members") or [{}]
    for part in parts:
        yield {**common, **facts, **part}


def _summary(sizes, failed, skipped, passed_over, seconds) -> str:
    """``812 files, 3.1 GB to 240 MB in 12:04 (4.3 MB/s), 2 failed, 14 skipped``: what was done, and what was not."""
    read, written = (sum(size) for size in zip(*sizes, strict=True)) if sizes else (0, 0)
    parts = ["1 file" if len(sizes) == 1 else f"{len(sizes)} files"]
    if written:
        rate = f" ({size_in_words(round(read / seconds))}/s)" if read and seconds else ""
        parts.append(f"{size_in_words(read)} to {size_in_words(written)} in {clock(math.ceil(seconds))}{rate}")
    parts += [f"{count} {word}" for count, word in ((failed, "failed"), (skipped, "skipped")) if count]
    parts += [f"{count} passed over ({kind})" for kind, count in passed_over.items()]
    return ", ".join(parts)


def _about(job, error) -> str:
    """``picture.bin: truncated: ...``, without saying the name twice where the error says it already."""
    name, text = str(job), describe(error)
    return text if text.startswith(f"{name}:") else f"{name}: {text}"


def announced(job: Job) -> Done:
    """For a dry run: what would be done."""
    job.check()
    target = "standard output" if job.target is None else str(job.target)
    return Done(f"{job} -> {target}", facts={"output": target})
