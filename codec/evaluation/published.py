"""Rate-distortion curves of other codecs as their authors published them: comparison without measuring.

The files, their sources and what to keep in mind about them: ``curves/README.md``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePosixPath

from ..errors import CodecError

CURVES = files(__package__) / "curves"
# Data set -> the stems of its pictures' names, by which results are recognised.
DATASETS = {"kodak": frozenset(f"kodim{number:02d}" for number in range(1, 25))}


@dataclass(frozen=True)
class Curve:
    """Means over the pictures of a data set, by rising rate."""

    name: str
    title: str  # in plots and tables
    main: bool  # among the few that are shown unless asked otherwise
    source: str  # owner/repository@commit:path on GitHub
    notes: str
    bpp: tuple[float, ...]
    psnr: tuple[float, ...]  # dB over RGB
    ms_ssim: tuple[float, ...] | None = None  # 0 to 1, over RGB
    paper: str | None = None

    @property
    def source_url(self) -> str:
        """Where the figures stand."""
        found = re.fullmatch(r"([^@]+)@([^:]+):(.+)", self.source)
        assert found, self.source
        repository, commit, path = found.groups()
        return f"https://github.com/{repository}/blob/{commit}/{path}"

    @property
    def paper_url(self) -> str | None:
        """The paper on arXiv, or None."""
        found = re.search(r"arXiv:(\d+\.\d+)", self.paper or "")
        return f"https://arxiv.org/abs/{found[1]}" if found else None


def load(dataset: str) -> list[Curve]:
    """The published curves of a data set: list of :class:`Curve` by title.

    Raises:
        CodecError: there are none for this data set.
    """
    if dataset not in DATASETS:
        raise CodecError(f"no published curves for {dataset!r}; there are some for {', '.join(DATASETS)}")
    found = []
    for file in (CURVES / dataset).iterdir():
        if file.name.endswith(".json"):
            fields = json.loads(file.read_text(encoding="utf-8"))
            points = {key: tuple(fields[key]) for key in ("bpp", "psnr", "ms_ssim") if key in fields}
            found.append(Curve(**{**fields, **points}))
    return sorted(found, key=lambda curve: curve.title.lower())


def dataset_of(pictures: Iterable[str]) -> str | None:
    """The data set that these names of pictures are, exactly and completely; None if they are none we know."""
    stems = [PurePosixPath(name).stem for name in pictures]
    for dataset, wanted in DATASETS.items():
        if len(stems) == len(wanted) and set(stems) == wanted:
            return dataset
    return None
