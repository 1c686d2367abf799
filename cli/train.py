"""``codec train``: options, a file of settings and ``--set`` become one ``TrainingConfig``."""

import dataclasses
import difflib
import json
import math
import os
import pathlib
import re
import types
import typing
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from .common import Failure, require
from .progress import is_quiet

_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    pathlib.Path: "a path",
}


@click.command()
@click.argument("pictures", nargs=-1, metavar="PICTURES...")
@click.option("-o", "--output", metavar="DIR", help="Folder for checkpoints, logs and the exported model.")
@click.option(
    "--resume", metavar="PATH",
    help="Go on from a checkpoint, a run's folder, an exported model, or an installed one: eyes, psnr or an id.",
)  # fmt: skip
@click.option(
    "--max-minutes",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MINUTES",
    help="Stop after so long, the time before --resume included; the learning rate follows.",
)
@click.option("--until", metavar="TIME", help="Stop at a time: 2031-05-17T18:30, local unless it names a zone.")
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="Stop after N steps in all.")
@click.option(
    "--latents", type=click.Choice(["scalar", "vq", "hvq", "dvae"]),
    help="Latents of a new model: rounded, vector-quantised, the same on two levels, categorical.",
)  # fmt: skip
@click.option("--quantiser", metavar="NAME", help="What stands for rounding while training: mixed, noise, ste, ...")
@click.option(
    "--codebook", type=click.Choice(["ema", "loss"]), help="How codebooks learn: moving averages, codebook loss."
)
@click.option(
    "--entropy-bits", type=click.IntRange(1, 8), metavar="N",
    help="Bits of the weights of the entropy networks, for a new model.",
)  # fmt: skip
@click.option("--seed", type=int, metavar="N", help="Seed of everything random.")
@click.option("--device", metavar="DEVICE", help="auto, cpu or cuda.")
@click.option("--devices", type=click.IntRange(min=1), metavar="N", help="Number of GPUs, or of processes on a CPU.")
@click.option("--config", "config_file", metavar="FILE.json", help="Settings as a JSON object; options override them.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override any setting; model.KEY is one of the architecture. Repeatable.",
)
@click.option(
    "--fit-tables", metavar="MODEL",
    help="Do not train; fit the coder's tables of a model to PICTURES, and write it to -o.",
)  # fmt: skip
@click.option(
    "--fit-slopes", metavar="MODEL",
    help="Do not train; find what bits and errors are worth to a model's encoder, by files of PICTURES, and write it "
    "to -o.",
)  # fmt: skip
@click.option(
    "--measure", type=click.Choice(["psnr", "ssimulacra2"]), default="psnr", show_default=True,
    help="What --fit-slopes holds equal.",
)  # fmt: skip
@click.option("--show-config", is_flag=True, help="Print the resulting settings, fit for --config, and stop.")
@click.option("--no-progress", is_flag=True, help="No progress display.")
def train(
    pictures, until, config_file, overrides, fit_tables, fit_slopes, measure, show_config, no_progress, **options
):
    """Train a model on pictures.

    PICTURES are files, and folders with all that is below them. Pictures added to a folder while the run is
    going on are used too. A run can be stopped at any time and goes on with --resume. It ends by whichever of
    --max-minutes, --until and --steps comes first, and without any of them when it is interrupted.
    """
    require("train", "torch", "compressai", "lightning", "tensorboard")

    from codec.training.config import TrainingConfig

    given = {name: value for name, value in options.items() if value is not None}
    if pictures:
        given["pictures"] = list(pictures)
    config = build_config(TrainingConfig, read_settings(config_file), overrides, given)
    try:
        model = config.model_config()
    except ValueError as error:
        raise Failure(f"architecture: {error}") from None
    if not config.resume:
        config.check_latents(model)
        _refuse_unused(overrides, model)
    if until is not None:
        minutes = minutes_until(until) + _minutes_behind(config.resume)
        config.max_minutes = min(minutes, config.max_minutes or minutes)
    if show_config:
        click.echo(json.dumps(dataclasses.asdict(config), indent=2))
        return
    if not config.pictures:
        raise click.UsageError("Missing argument 'PICTURES...'.")
    if fit_tables is not None:
        _fit(fit_tables, config, progress=not (no_progress or is_quiet()))
        return
    if fit_slopes is not None:
        _fit_slopes(fit_slopes, config, measure, progress=not (no_progress or is_quiet()))
        return

    from codec.training.loop import train as run_training

    export = run_training(config, progress=not (no_progress or is_quiet()))
    if os.environ.get("LOCAL_RANK", "0") == "0":  # the other processes of a run have nothing to add
        click.echo(f"trained: codec compress --model {export} ...")


def _fit(model, config, progress):
    """``--fit-tables``."""
    if not config.fit_crops:
        raise Failure("--fit-tables needs crops: fit_crops is 0")
    from codec.training.fitting import fit_folder
    from codec.weights import find_model

    fit_folder(find_model(model), config.output, config.pictures, config.seed, progress, crops=config.fit_crops)
    click.echo(f"fitted: codec compress --model {config.output} ...")


def _fit_slopes(model, config, measure, progress):
    """``--fit-slopes``."""
    if not config.fit_crops:
        raise Failure("--fit-slopes needs crops: fit_crops is 0")
    from codec.training.fitting import SLOPE_CROPS, fit_slopes_folder
    from codec.weights import find_model

    crops = min(config.fit_crops, SLOPE_CROPS)
    fit_slopes_folder(find_model(model), config.output, config.pictures, measure, config.seed, progress, crops=crops)
    click.echo(f"fitted: codec compress --model {config.output} ...")


def minutes_until(text: str, now: datetime | None = None) -> float:
    """Minutes from ``now`` to a time in ISO form, which is local time unless it names a zone.

    Raises:
        Failure: it is no time, or lies in the past.
    """
    try:
        # Python 3.10 does not know that Z is the zone of Greenwich.
        end = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text.strip()))
    except ValueError:
        raise Failure(f"--until {text}: needs a date and time such as 2031-05-17T18:30") from None
    minutes = (end.astimezone() - (now or datetime.now().astimezone())).total_seconds() / 60
    if minutes <= 0:
        raise Failure(f"--until {text}: lies in the past")
    return minutes


def _minutes_behind(resume) -> float:
    """Minutes that a run to be resumed has behind it: ``max_minutes`` counts from its beginning."""
    path = pathlib.Path(resume or "")
    path = path / "checkpoint.pt" if path.is_dir() else path
    if not resume or not path.is_file():
        return 0.0  # a new run, or exported weights
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)["seconds"] / 60
    except Exception as error:  # torch raises errors of many kinds on files that it did not write
        raise Failure(f"{path}: not a checkpoint") from error


def build_config(kind: type, settings: Mapping[str, Any], overrides: Sequence[str], options: Mapping[str, Any]) -> Any:
    """An instance of the dataclass ``kind``: its defaults under three layers, the later ones stronger.

    Args:
        kind: a dataclass with fields of scalar type, of tuples of them, or of either or None.
        settings: dict of field name -> JSON value, from a file.
        overrides: ``key=value`` strings; the last one of a key counts.
        options: dict of field name -> value of an option of its own.

    Raises:
        Failure: an unknown key, a value of the wrong type, a key set by ``--set`` and its own option at once,
            or values that the dataclass itself refuses.
    """
    overrides = _with_architecture(overrides)
    hints = typing.get_type_hints(kind)
    hints = {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}

    values = {}
    for key, value in settings.items():
        _check_key(key, hints, "--config")
        try:
            values[key] = coerce(value, hints[key])
        except ValueError as error:
            raise Failure(f"--config: {key} needs {error}, found {json.dumps(value)}") from None
    for override in overrides:
        key, equals, text = override.partition("=")
        key = key.strip()
        if not equals:
            raise Failure(f"--set {override}: write it as key=value")
        _check_key(key, hints, "--set")
        if key in options:
            raise Failure(f"--set {key}: is also given by its own option or argument; one of the two is enough")
        try:
            values[key] = parse(text.strip(), hints[key])
        except ValueError as error:
            raise Failure(f"--set {key}: needs {error}, found {text!r}") from None
    for key, value in options.items():
        values[key] = coerce(value, hints[key])
    try:
        return kind(**values)
    except ValueError as error:
        raise Failure(str(error)) from None


def _with_architecture(overrides) -> list[str]:
    """``model.KEY=VALUE`` overrides joined with the last ``architecture`` one into a single setting of it."""
    rest: list[str] = []
    fields: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        key = key.strip()
        if key == "architecture" and any(o.strip().startswith("model.") for o in overrides):
            try:
                fields = {**json.loads(text), **fields}
            except ValueError:
                raise Failure(f"--set architecture: needs a JSON object, found {text!r}") from None
        elif key.startswith("model.") and equals:
            try:
                fields[key.removeprefix("model.")] = json.loads(text)
            except ValueError:
                fields[key.removeprefix("model.")] = text.strip()
        else:
            rest.append(override)
    return [*rest, f"architecture={json.dumps(fields)}"] if fields else rest


def _refuse_unused(overrides, model):
    """Failure where ``--set`` says what latents of the model's kind do not look at."""
    for override in overrides:
        key = override.partition("=")[0].strip().removeprefix("model.")
        if override.strip().startswith("model.") and key in model.unused:
            raise Failure(f"--set model.{key}: {model.latents} latents do not look at it; leave it out")


def read_settings(path: str | None) -> dict[str, Any]:
    """The JSON object in a file; empty without a path."""
    if path is None:
        return {}
    try:
        settings = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON or of UTF-8
        raise Failure(f"{path}: not JSON: {error}") from None
    if not isinstance(settings, dict):
        raise Failure(f"{path}: needs a JSON object of settings")
    return settings


def parse(text: str, hint: Any) -> Any:
    """The value of type ``hint`` that a text on the command line means.

    Numbers are written as in JSON, truth values as true and false, None as none; commas part the elements of
    a list.

    Raises:
        ValueError: with what was needed instead, for a message.
    """
    if text.lower() in ("none", "null") and type(None) in typing.get_args(hint):
        return None
    element = _element(hint)
    if element is not None:
        return coerce([parse(part.strip(), element) for part in text.split(",") if part.strip()], hint)
    try:
        value = json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except ValueError:
        value = text
    try:
        return coerce(value, hint)
    except ValueError:
        return coerce(text, hint)  # "5" may be meant as text


def coerce(value: Any, hint: Any) -> Any:
    """A JSON value as the type ``hint``.

    A whole number may stand for a float and the reverse, a list for a tuple, text for a path.

    Raises:
        ValueError: with what was needed instead, for a message.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    number = type(value) is int or (type(value) is float and math.isfinite(value))  # bool is an int, too
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            try:
                return coerce(value, option)
            except ValueError:
                continue
    elif origin is typing.Literal:
        if value in arguments:
            return value
    elif (origin or hint) in (tuple, list):
        if isinstance(value, (tuple, list)):
            return (origin or hint)(coerce(item, _element(hint)) for item in value)
    elif hint is int:
        if number and value == int(value):
            return int(value)
    elif hint is float:
        if number:
            return float(value)
    elif hint is pathlib.Path:
        if isinstance(value, (str, pathlib.Path)):
            return pathlib.Path(value)
    elif hint in (bool, str, type(None)) and isinstance(value, hint):
        return value
    raise ValueError(_in_words(hint))


def _element(hint):
    """The type of the elements of a tuple or list, text where it does not say; None for other types."""
    for option in (hint, *typing.get_args(hint)):
        if (typing.get_origin(option) or option) in (tuple, list):
            return (*typing.get_args(option), str)[0]
    return None


def _in_words(hint) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("none" if option is type(None) else _in_words(option) for option in arguments)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if (origin or hint) in (tuple, list):
        return f"a list of {_in_words(_element(hint))}"
    return _NAMES.get(hint, getattr(hint, "__name__", str(hint)))


def _check_key(key, hints, where):
    if key in hints:
        return
    close = difflib.get_close_matches(key, hints, n=1)
    guess = f"; did you mean {close[0]}?" if close else ""
    raise Failure(f"{where}: unknown setting {key!r}{guess} (known: {', '.join(sorted(hints))})")
