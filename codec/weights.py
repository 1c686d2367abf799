"""Find models: folders with ``weights.safetensors`` (WEIGHTS.md names its keys), ``config.json`` and ``CARD.md``.

A model's id is the beginning of a SHA-256 over its architecture and its weights file, which hold everything that
decides the bits. It stands in every compressed file, names the model's folder, and is checked when the model is loaded:
a file is decoded with exactly the weights that made it.

Models are *experimental* until index.json lists them as *released*: then they are never changed nor removed, and what
they wrote can be read by every later version. They come with the installation, or the user adds them to a folder of
their own, which upgrades leave alone. Standard library and platformdirs only.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

from .errors import ModelError
from .files import StrPath, temporary_beside, write_bytes_atomic

ID_DIGITS = 16
TUNES = ("eyes", "psnr")  # what the shipped models are trained for: SSIMULACRA2, or squared error
FILES = ("weights.safetensors", "config.json", "CARD.md")


def shipped_folder() -> Path:
    """Folder of the models of this installation: inside the package (wheel), or ``models/`` beside it (checkout)."""
    package = Path(__file__).resolve().parent
    inside = package / "_models"
    return inside if inside.is_dir() else package.parent / "models"


def user_folder() -> Path:
    """Folder of the models that the user has added, in the user's data folder: an upgrade leaves it alone."""
    from platformdirs import user_data_path

    return user_data_path("lqc-codec", appauthor=False) / "models"


def _index() -> dict[str, Any]:
    """``{"default": id, "tunes": {tune: id}, "released": [ids]}``.

    ModelError where the installation's file is missing or something else.
    """
    path = shipped_folder() / "index.json"
    index = _read_index(path)
    if index is None or not _is_id(index.get("default")):
        raise ModelError(f"{path}: it does not name a default model by its id; is the installation complete?")
    return index


def _read_index(path: Path) -> dict[str, Any] | None:
    """The contents of an index; None where it is something else."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: {error}; is the installation complete?") from None
    if not isinstance(index, dict):
        return None
    released, tunes = index.get("released", []), index.get("tunes", {})
    sound = isinstance(released, list) and isinstance(tunes, dict) and all(map(_is_id, [*released, *tunes.values()]))
    return index if sound else None


def default_model_id() -> str:
    """Id of the model that is used when none is named: the user's choice, if that is installed, or the shipped one.

    Raises:
        ModelError: the installation has none.
    """
    shipped: str = _index()["default"]
    try:
        chosen = json.loads((user_folder() / "default.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return shipped
    return str(chosen) if _is_id(chosen) and _installed(chosen) else shipped


def tuned_model_id(tune: str) -> str:
    """Id of the shipped model that is trained for "eyes" or for "psnr".

    Raises:
        ModelError: the installation has none for that.
    """
    tunes = _index().get("tunes", {})
    if tune not in tunes:
        raise ModelError(f"no model is tuned for {tune}; there are {', '.join(tunes) or 'none'}")
    found: str = tunes[tune]
    return found


def tune_of(model_id: str) -> str | None:
    """What a shipped model is trained for: "eyes", "psnr", or None for any other model."""
    return next((tune for tune, own in _index().get("tunes", {}).items() if own == model_id), None)


def is_released(model_id: str) -> bool:
    """Whether every later version will read what this model wrote."""
    return model_id in _index().get("released", [])


def list_models() -> list[str]:
    """Ids of the installed models, the default first."""
    default = default_model_id()
    found = {
        path.name
        for folder in (shipped_folder(), user_folder())
        for path in folder.glob("*/")
        if _is_id(path.name) and _is_whole(path)
    }
    return sorted(found, key=lambda name: (name != default, name))


def _installed(model_id: str) -> Path | None:
    """Folder of an installed model, the shipped one where there are two; None without one."""
    folders = (parent / model_id for parent in (shipped_folder(), user_folder()))
    return next(filter(_is_whole, folders), None)


def _is_whole(folder: Path) -> bool:
    return all((folder / name).is_file() for name in FILES[:2])


def find_model(name: StrPath | None = None) -> Path:
    """Folder of a model.

    Args:
        name: None for the default, the id of an installed model, a path to a model folder, or one of :data:`TUNES`,
            unless that is such a path.

    Raises:
        ModelError: there is no such model.
    """
    if name is None:
        name = default_model_id()
    folder = (_installed(str(name)) if _is_id(str(name)) else None) or Path(name)
    if not (folder / "weights.safetensors").is_file() and str(name) in TUNES:
        folder = find_model(tuned_model_id(str(name)))
    if not (folder / "weights.safetensors").is_file():
        close = difflib.get_close_matches(str(name), list_models(), n=1)
        guess = f"; did you mean {close[0]}?" if close else ""
        raise ModelError(f"no model {name}{guess} (installed: {', '.join(list_models()) or 'none'})")
    return folder


def model_id(folder: StrPath) -> str:
    """Id of the model in a folder, from its architecture and its weights file.

    Raises:
        ModelError: a file cannot be read, or the folder is named after another id (a damaged installation).
    """
    folder = Path(folder)
    found = _id_of(folder)
    if folder.parent in (shipped_folder(), user_folder()) and folder.name != found:
        raise ModelError(f"{folder}: the model is damaged (its id is {found}); reinstall")
    return found


def _id_of(folder: Path) -> str:
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        architecture = json.dumps(values["architecture"], sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(architecture.encode() + b"\0")
        with open(folder / "weights.safetensors", "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise ModelError(f"{folder}: {error}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{folder}: config.json is damaged ({type(error).__name__}: {error})") from None
    return digest.hexdigest()[:ID_DIGITS]


def encoder_settings(folder: StrPath) -> dict[str, str]:
    """``{"encoder": digest}`` of what a model's config.json says to the encoder alone, which the id does not cover.

    Empty where it says nothing.

    Raises:
        ModelError: config.json cannot be read.
    """
    try:
        encoder = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")).get("encoder")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ModelError(f"{folder}: config.json: {type(error).__name__}: {error}") from None
    text = json.dumps(encoder, sort_keys=True)
    return {"encoder": hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS]} if encoder else {}


def install(source: Path, default: bool = False) -> str:
    """Copy an exported model's folder into the user's, under its id, whole or not at all; returns the id.

    Args:
        source: folder with weights.safetensors, config.json and CARD.md.
        default: make it the model that is used when none is named.

    Raises:
        ModelError: a file is missing, or the folder of models cannot be written.
    """
    try:
        user_folder().mkdir(parents=True, exist_ok=True)
        found = model_id(source)
        target = user_folder() / found
        part = Path(temporary_beside(target))
        try:
            part.mkdir()
            for name in FILES:
                shutil.copyfile(source / name, part / name)
            if _id_of(part) != found:
                raise ModelError(f"{source}: changed while it was copied")
            if (shipped_folder() / found).is_dir():
                shutil.rmtree(part)  # it is here, and stays
            else:
                _remove(target)  # the same model, perhaps damaged
                part.replace(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        if default:
            write_bytes_atomic(user_folder() / "default.json", (json.dumps(found) + "\n").encode())
    except OSError as error:
        raise ModelError(f"{source}: cannot be installed: {error}") from None
    return found


def remove(name: str) -> None:
    """Remove a model that the user has added; if it was the default, the shipped one is again.

    Raises:
        ModelError: there is no such model, or it came with the installation or is released.
    """
    if not _is_id(name) or name not in list_models():
        raise ModelError(f"no model {name}; installed: {', '.join(list_models())}")
    if (shipped_folder() / name).is_dir():
        raise ModelError(f"model {name} is part of the installation")
    if is_released(name):
        raise ModelError(f"model {name} is released: what it wrote is to be read for ever")
    try:
        if default_model_id() == name:
            (user_folder() / "default.json").unlink()
        _remove(user_folder() / name)
    except OSError as error:
        raise ModelError(f"{user_folder() / name}: cannot be removed: {error}") from None


def _remove(folder: Path) -> None:
    """Remove a folder that may not be there: first its name, then what is in it."""
    if folder.is_dir():
        part = Path(temporary_beside(folder))
        folder.replace(part)
        shutil.rmtree(part, ignore_errors=True)


def _is_id(text: object) -> bool:
    return isinstance(text, str) and re.fullmatch(f"[0-9a-f]{{{ID_DIGITS}}}", text) is not None
