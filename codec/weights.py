"""Find models: folders with ``weights.safetensors`` (WEIGHTS.md names its keys), ``config.json`` and ``CARD.md``.

A model's id is the beginning of a SHA-256 over its architecture and its weights file, which hold everything that decides
the bits. It stands in every compressed file, names the model's folder, and is checked when the model is loaded: a file
is decoded with exactly the weights that made it.

Models are *experimental* until index.json lists them as *released*: then they are never changed nor removed, and what
they wrote can be read by every later version. Standard library only.
"""

import hashlib
import json
import re
import shutil
from pathlib import Path

from .errors import ModelError

ID_DIGITS = 16


def models_folder():
    """Folder of the installed models: inside the package (wheel), or ``models/`` beside it (checkout)."""
    package = Path(__file__).resolve().parent
    inside = package / "_models"
    return inside if inside.is_dir() else package.parent / "models"


def _index():
    """``{"default": id, "released": [ids]}``; ModelError where the installation's file is missing or something else."""
    path = models_folder() / "index.json"
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: {error}; is the installation complete?") from None
    released = index.get("released", []) if isinstance(index, dict) else None
    if not isinstance(released, list) or not all(map(_is_id, [index.get("default"), *released])):
        raise ModelError(f"{path}: it does not name a default model by its id; is the installation complete?")
    return index


def default_model_id():
    """Id of the model that is used when none is named. ModelError when the installation has none."""
    return _index()["default"]


def is_released(model_id):
    """Whether every later version will read what this model wrote."""
    return model_id in _index().get("released", [])


def list_models():
    """Ids of the installed models, the default first."""
    default = default_model_id()
    found = {path.parent.name for path in models_folder().glob("*/weights.safetensors") if _is_id(path.parent.name)}
    return sorted(found, key=lambda name: (name != default, name))


def find_model(name=None):
    """Folder of a model.

    Args:
        name: None for the default, the id of an installed model, or a path to a model folder.

    Raises:
        ModelError: there is no such model.
    """
    if name is None:
        name = default_model_id()
    folder = models_folder() / str(name)
    if not _is_id(str(name)) or not folder.is_dir():
        folder = Path(name)
    if not (folder / "weights.safetensors").is_file():
        raise ModelError(f"no model {name}; installed: {', '.join(list_models()) or 'none'}")
    return folder


def model_id(folder):
    """Id of the model in a folder, from its architecture and its weights file.

    Raises:
        ModelError: a file cannot be read, or the folder is named after another id (a damaged installation).
    """
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
    found = digest.hexdigest()[:ID_DIGITS]
    if folder.parent == models_folder() and folder.name != found:
        raise ModelError(f"{folder}: the model is damaged (its id is {found}); reinstall")
    return found


def install(source, default=False):
    """Copy an exported model's folder among the installed ones, under its id; returns the id.

    Args:
        source: folder with weights.safetensors, config.json and CARD.md.
        default: make it the model that is used when none is named.

    Raises:
        ModelError: a file is missing, or the folder of models cannot be written.
    """
    try:
        found = model_id(source)
        target = models_folder() / found
        target.mkdir(parents=True, exist_ok=True)
        for name in ("weights.safetensors", "config.json", "CARD.md"):
            shutil.copyfile(source / name, target / name)
        if default:
            part = models_folder() / "index.json.part"
            released = _index().get("released", []) if (models_folder() / "index.json").exists() else []
            index = {"default": found, "released": released}
            part.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
            part.replace(models_folder() / "index.json")
    except OSError as error:
        raise ModelError(f"{source}: cannot be installed: {error}") from None
    return found


def _is_id(text):
    return isinstance(text, str) and re.fullmatch(f"[0-9a-f]{{{ID_DIGITS}}}", text) is not None
