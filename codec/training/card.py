"""CARD.md of an exported model: what is known of it without asking its maker."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import write_bytes_atomic
from ..weights import model_id

if TYPE_CHECKING:
    from ..config import ModelConfig


MARK = "<!-- Written by codec train, which writes it anew; without this line it leaves the card alone. -->"


def write_card(folder: Path, config: ModelConfig, facts: dict[str, Any]) -> None:
    """Write the card of the model in a folder, under the id that it has now.

    A card that somebody has made their own, by removing its last line, is left alone.

    Args:
        folder: Path of an exported model.
        config: its ModelConfig. facts: dict of its training, as in config.json.
    """
    card = folder / "CARD.md"
    if card.exists() and MARK not in card.read_text(encoding="utf-8"):
        return
    rows = [f"| {key.replace('_', ' ')} | {value} |" for key, value in {**facts, **asdict(config)}.items()]
    text = "\n".join(
        [
            f"# Model {model_id(folder)}, made with codec train", "",
            "Experimental. What it was trained on and what it is bad at, its maker knows and may write here.", "",
            "| | |", "|---|---|", *rows, "", MARK, "",
        ]
    )  # fmt: skip
    write_bytes_atomic(card, text.encode())
