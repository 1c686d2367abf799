"""``codec models``: the weights that are installed here."""

import json
from pathlib import Path
from typing import Any

import click

from codec import weights

from .common import require


@click.command()
@click.option("--json", "as_json", is_flag=True, help="A JSON array of objects.")
@click.option("--add", metavar="FOLDER", help="Install an exported model (weights, config.json, CARD.md) first.")
@click.option("--remove", metavar="ID", help="Remove a model that was added.")
@click.option(
    "--check",
    "pictures",
    metavar="PICTURE",
    multiple=True,
    help="Code pictures and look whether the networks are alive.",
)
@click.option("--default", "as_default", is_flag=True, help="With --add: use it when no model is named.")
def models(as_json, add, remove, pictures, as_default):
    """List the installed models.

    A star marks the one used by default. Models that are added lie in the user's data folder and outlive upgrades. With
    --check, once or more often: the share of side information in the bits of these pictures, and the share of units in
    encoder, entropy networks and decoder that are positive less than once in 1000. The exit status is 1 where a part is
    dead.
    """
    if pictures:
        require("train", "torch", "compressai", "lightning")
    if add is not None:
        weights.install(Path(add), default=as_default)
    elif as_default:
        raise click.UsageError("--default goes with --add.")
    if remove is not None:
        weights.remove(remove)
    default = weights.default_model_id()
    found = [_describe(model_id, default) for model_id in weights.list_models()]
    dead = False
    if pictures:
        from codec.health import check

        for model in found:
            model["health"] = check(model["id"], pictures)
            dead = dead or bool(model["health"]["complaints"])
    if as_json:
        click.echo(json.dumps(found, indent=2))
        raise SystemExit(1 if dead else 0)
    for model in found:
        star = "*" if model["default"] else " "
        tune = f"  --tune {model['tune']}" if model["tune"] else ""
        click.echo(f"{star} {model['id']}  {model['bytes'] / 1e6:6.1f} MB  {model['folder']}{tune}")
        if model["title"]:
            click.echo(f"              {model['title']}")
        if pictures:
            for line in _health_in_words(model["health"]):
                click.echo(f"              {line}")
    raise SystemExit(1 if dead else 0)


def _health_in_words(figures: dict[str, Any]) -> list[str]:
    """Lines for a person: the figures, and what is wrong with them."""
    parts = [part for part in ("encoder", "entropy", "decoder") if f"dead_{part}" in figures]
    said = [f"z {100 * figures['z_share']:.2f} % of the bits"] if "z_share" in figures else []
    if parts:
        said.append("dead units: " + ", ".join(f"{part} {figures[f'dead_{part}']:.2f}" for part in parts))
    return ["; ".join(said) or "nothing to examine", *figures["complaints"]]


def _describe(model_id: str, default: str) -> dict[str, Any]:
    folder = weights.find_model(model_id)
    return {
        "id": model_id,
        "default": model_id == default,
        "tune": weights.tune_of(model_id),
        "bytes": (folder / "weights.safetensors").stat().st_size,
        "folder": str(folder),
        "title": _title(folder / "CARD.md"),
    }


def _title(card) -> str:
    """The first line of text of a model's card; empty without one, as a model in training has no card yet."""
    if not card.is_file():
        return ""
    lines = (line.lstrip("#").strip() for line in card.read_text(encoding="utf-8").splitlines())
    return next(filter(None, lines), "")
