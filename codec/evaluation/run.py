"""An evaluation from pictures to figures, as ``codec evaluate`` makes it, for programs: :func:`evaluate`."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CodecError, ImageError
from ..files import StrPath
from ..quality import EFFORT
from ..remote import RemotePath
from ..weights import encoder_settings, find_model
from . import rate_distortion as rd
from .anchors import OWN_QUALITIES, find_anchors
from .journal import Journal
from .metrics import METRICS

if TYPE_CHECKING:
    from .words import Answer


OURS = "codec"  # our name in tables and files
QUALITIES = OWN_QUALITIES


@dataclass(frozen=True)
class Evaluation:
    """Rows and what follows from them.

    Attributes:
        rows: list of ``rate_distortion.Row``, one a picture, codec and quality.
        summary: ``rate_distortion.Summary``: means, violations of monotony, BD-rates.
        conditions: dict of what else the figures depend on.
        entrants: list of ``rate_distortion.Entrant``, ours first.
        found: how many rows come from the journal.
    """

    rows: list[rd.Row]
    summary: rd.Summary
    conditions: dict[str, Any]
    entrants: list[rd.Entrant]
    found: int = 0

    def results(self) -> dict[str, Any]:
        """Everything as ``codec evaluate --json`` has it: dict of what JSON holds."""
        found: dict[str, Any] = json.loads(rd.as_json(self.conditions, self.summary, self.rows))
        return found

    def answer(self) -> Answer:
        """In words, how many of the others' bytes ours needs, and where it loses: see ``words.answer``."""
        from .report import answer

        return answer(self.results())

    def save(self, *files: StrPath, pictures: Iterable[dict[str, Any]] = ()) -> None:
        """Write results to files, each whole or not at all, by their suffixes.

        Args:
            files: paths: ``.json`` is what ``codec report`` reads, ``.csv`` every figure, one a line, ``.html`` the
                page of ``codec report``.
            pictures: for the viewer of the page, see ``report.views``.

        Raises:
            ValueError: another suffix; then nothing has been written.
        """
        from ..files import write_bytes_atomic
        from . import report

        made = {
            ".json": lambda: rd.as_json(self.conditions, self.summary, self.rows) + "\n",
            ".csv": lambda: report.as_csv(self.results()),
            ".html": lambda: report.build(self.results(), report.published_for(self.results()), pictures),
        }
        for file in files:
            if Path(file).suffix.lower() not in made:
                raise ValueError(f"{file}: results are written as {', '.join(made)}")
        for file in files:
            write_bytes_atomic(file, made[Path(file).suffix.lower()]().encode("utf-8"))


def evaluate(
    pictures: Iterable[rd.Place | tuple[str, rd.Place]],
    *,
    qualities: Sequence[float] = QUALITIES,
    against: Sequence[str] = ("jpeg", "webp"),
    metrics: Sequence[str] = tuple(METRICS),
    model: StrPath | None = None,
    device: str = "cpu",
    effort: int = EFFORT,
    threads: int | None = None,
    workers: int = 1,
    journal: StrPath | None = None,
    resamples: int = rd.RESAMPLES,
    interpolation: str = "pchip",
    start: Callable[[str, Sequence[Any]], object] | None = None,
    step: Callable[[rd.Row | None], object] | None = None,
    failed: Callable[[str, ImageError], object] | None = None,
    spread: rd.Spread | None = None,
) -> Evaluation:
    """Measure this codec and others on pictures: :class:`Evaluation`.

        found = codec.evaluation.evaluate(["a.png", "b.png"], against=["webp", "avif444"])
        print(*found.answer()["needs"], sep="\\n")
        found.save("results.json", "figures.csv", "report.html")

    How everything is measured: :mod:`codec.evaluation.rate_distortion`.

    Args:
        pictures: paths, or pairs (name, path) with names that differ; paths may be URLs, as RemotePath.
        qualities: ours, rising, 0 to 100; BD-rates need four.
        against: names of others, see ``anchors.find_anchors``.
        metrics: keys of ``metrics.METRICS``; PSNR is always there.
        model, device, effort: see :class:`codec.Codec`.
        threads: of all workers together; None for all cores.
        workers: processes that share the work; times are comparable for one alone.
        journal: path of a file that keeps rows as they come, and from which those that are there already are taken.
        resamples: of the pictures, for 95 % intervals of BD-rates, which there are from ``MIN_PICTURES`` pictures on.
        interpolation: "pchip" or "akima".
        start, step, failed: for a progress display: ``start("coding", entrants)`` and later ``start("BD-rates",
            anchors)``; ``step(row)`` after each coding and ``step(None)`` after each comparison; ``failed(name,
            error)`` for a picture that is left out (without it the error is raised).
        spread: does the codings elsewhere, in the place of ``workers``: :func:`codec.cluster.spread`, or a partial of
            it with the same ``threads``; of each worker, then, and None for one.

    Raises:
        CodecError: a name is unknown, something that it needs is missing, or no picture is left.
        ImageError: a picture cannot be used.
    """
    from .. import Codec
    from ..threads import cores, set_threads

    named = [
        each if isinstance(each, tuple) else (str(each) if isinstance(each, RemotePath) else os.fspath(each), each)
        for each in pictures
    ]
    unknown = [name for name in metrics if name not in METRICS]
    if unknown:
        raise CodecError(f"no metric is called {unknown[0]!r}; there are {', '.join(METRICS)}")
    # The threads that one process may use; the anchors take them too, so that all codecs have the same.
    alone = workers == 1 and spread is None
    each = threads if alone else (threads or 1) if spread else max(1, (threads or cores()) // workers)
    anchors = find_anchors(against, each, device)
    if threads is not None:
        set_threads(threads)  # for the anchors that have no setting of their own too
    # What is measured is the codec itself, and not the file that stands in its place where that is smaller.
    coder = Codec(model, device=device, threads=threads, fallback="never", effort=effort)
    make = functools.partial(Codec, model, device=device, threads=each, fallback="never", effort=effort)
    settings: dict[str, Any] = {"model": coder.model_id, "device": str(device), "qualities": tuple(qualities)}
    settings |= encoder_settings(find_model(model))
    settings |= {"effort": effort} if effort != EFFORT else {}
    entrants = [rd.Entrant(OURS, coder, tuple(qualities), make, settings)]
    entrants += [rd.Entrant(anchor.name, anchor, anchor.qualities, settings=anchor.settings()) for anchor in anchors]

    conditions = rd.conditions()
    conditions["metrics"] = ["psnr", *(name for name in metrics if name != "psnr")]
    common = {name: value for name, value in conditions.items() if name not in ("date", "metrics")}
    common["timed alone"] = alone
    conditions["codecs"] = {entrant.name: entrant.settings for entrant in entrants}
    conditions["workers"] = workers
    conditions["times_comparable"] = alone
    conditions["bd"] = {"interpolation": interpolation, "resamples": resamples, "seed": rd.SEED, "confidence": 0.95}

    start = start or (lambda phase, items: None)
    start("coding", entrants)
    with Journal(journal, rd.Row, common) if journal else nullcontext() as kept:
        rows = rd.evaluate(
            named, entrants, step, failed,
            metrics=conditions["metrics"], workers=workers, threads=each, journal=kept, spread=spread,
        )  # fmt: skip
    if not rows:
        raise CodecError("none of the pictures could be used")
    start("BD-rates", anchors)
    names = [anchor.name for anchor in anchors]
    summary = rd.summarise(rows, OURS, names, resamples, interpolation, step and functools.partial(step, None))
    return Evaluation(rows, summary, conditions, entrants, kept.found if kept else 0)
