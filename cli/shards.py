"""Tar archives of pictures as jobs: each member is worked on like a file."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from codec.shards import repack

from .files import Job
from .pipeline import Done


def repacked(
    job: Job, suffixes: Collection[str], suffix: str, work: Callable[[bytes], Any], keep_times: bool = False
) -> Done:
    """Make the archive of a job out of its source.

    Args:
        job: files.Job whose source and target are tar archives.
        suffixes, suffix, work: see codec.shards.repack.

    Pictures that cannot be done stay as they are, and are among the problems of what comes back.
    """
    job.check()
    read = job.source.bytes
    with job.source.open() as source, job.open_target(keep_times) as target:
        changes = list(repack(source, target, suffixes, suffix, work))
        written = target.tell()
    members = [
        {
            "member": change.name, "target_member": change.target, "status": "failed" if _problem(change) else "done",
            "source_bytes": change.read, "bytes": change.written, **change.facts,
            **({"error": _problem(change)} if _problem(change) else {}),
        }
        for change in changes
    ]  # fmt: skip
    failed = [change for change in changes if _problem(change)]
    facts = {"output": str(job.target), "bytes": written, "pictures": len(changes) - len(failed), "members": members}
    if failed:
        facts["error"] = f"{len(failed)} of {len(changes)} pictures could not be done"
    packed = sum(change.written for change in changes)
    before = sum(change.read for change in changes)
    count = f"{facts['pictures']:,} picture{'s' if facts['pictures'] != 1 else ''}"
    return Done(
        f"{job} -> {job.target}: {count}, {before:,} to {packed:,} bytes",
        read,
        written,
        facts,
        problems=[f"{job}: {change.name}: {_problem(change)}" for change in failed],
    )


def _problem(change) -> str:
    """What is wrong with a picture, if anything is."""
    lost = change.facts.get("lost")
    return f"damaged, and written without what is lost: {'; '.join(lost)}" if lost else str(change.error or "")
