import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import tiny
from test_vector_entropy import CONFIGS

from codec import weights
from codec.engine import read_folder
from codec.errors import ModelError
from codec.training.vector_model import TrainableVectorModel

DOCUMENT = Path(weights.__file__).with_name("WEIGHTS.md").read_text(encoding="utf-8")


def test_default_model_is_installed_whole_and_named_after_its_weights():
    folder = weights.find_model()
    assert weights.model_id(folder) == folder.name == weights.default_model_id() == weights.list_models()[0]
    assert (folder / "CARD.md").is_file() and (folder / "config.json").is_file()
    assert (folder / "weights.safetensors").stat().st_size < 25e6


def test_a_folder_is_a_model_too(tmp_path):
    shutil.copytree(weights.find_model(), tmp_path / "mine")
    assert weights.find_model(tmp_path / "mine") == tmp_path / "mine"
    assert weights.model_id(tmp_path / "mine") == weights.default_model_id()


@pytest.mark.parametrize("name", ["ffffffffffffffff", "../models", "nowhere/at/all"])
def test_unknown_models_are_refused_by_name(name):
    with pytest.raises(ModelError, match="no model"):
        weights.find_model(name)


def test_damaged_installation_is_noticed(tmp_path, monkeypatch):
    source = weights.find_model()
    broken = tmp_path / source.name
    broken.mkdir()
    data = bytearray((source / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (broken / "weights.safetensors").write_bytes(data)
    shutil.copy(source / "config.json", broken)
    monkeypatch.setattr(weights, "models_folder", lambda: tmp_path)
    with pytest.raises(ModelError, match="damaged"):
        weights.model_id(broken)


def test_missing_index_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "models_folder", lambda: tmp_path)
    with pytest.raises(ModelError, match="installation"):
        weights.find_model()
    (tmp_path / "index.json").write_text(json.dumps({"default": "0" * 16}))
    with pytest.raises(ModelError, match="no model 0000000000000000"):
        weights.find_model()


def test_install_makes_a_folder_a_default_model(tmp_path, monkeypatch):
    source = tmp_path / "export"
    source.mkdir()
    (source / "weights.safetensors").write_bytes(b"weights")
    (source / "config.json").write_text('{"architecture": {}}')
    monkeypatch.setattr(weights, "models_folder", lambda: tmp_path / "models")
    with pytest.raises(ModelError, match="CARD.md"):
        weights.install(source)
    (source / "CARD.md").write_text("# A model")
    found = weights.install(source, default=True)
    assert weights.default_model_id() == found and weights.list_models() == [found]
    assert weights.model_id(weights.find_model(found)) == found


@pytest.mark.parametrize("text", ["", "[]", "{}", "5", "null", '{"default": 5}', '{"default": "../x"}', "[" * 100000])
def test_an_index_that_is_none_is_one_clear_error(tmp_path, monkeypatch, text):
    monkeypatch.setattr(weights, "models_folder", lambda: tmp_path)
    (tmp_path / "index.json").write_text(text)
    for function in (weights.default_model_id, weights.list_models, weights.find_model):
        with pytest.raises(ModelError, match="installation"):
            function()


def test_the_id_covers_the_architecture(tmp_path):
    shutil.copytree(weights.find_model(), tmp_path / "mine")
    values = json.loads((tmp_path / "mine" / "config.json").read_text())
    values["training"] = {"steps": 1}
    (tmp_path / "mine" / "config.json").write_text(json.dumps(values))
    assert weights.model_id(tmp_path / "mine") == weights.default_model_id()
    values["architecture"]["lmbda_max"] = 3.0
    (tmp_path / "mine" / "config.json").write_text(json.dumps(values))
    assert weights.model_id(tmp_path / "mine") != weights.default_model_id()


def test_models_are_experimental_until_the_index_says_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "models_folder", lambda: tmp_path)
    (tmp_path / "index.json").write_text(json.dumps({"default": "0" * 16, "released": ["1" * 16]}))
    assert weights.is_released("1" * 16) and not weights.is_released("0" * 16)


def documented_keys(config, tensors):
    """``{key: (type, shape)}`` that WEIGHTS.md gives a model; of other latents too."""
    rows = re.findall(r"^\| (?!key|BLOCK|LAYER|---)(.*?) \|$", DOCUMENT, re.MULTILINE)
    rows = [[cell.strip().strip("`") for cell in row.split("|")] for row in rows if row.startswith("`")]
    stand_ins = {"BLOCK": [], "LAYER": []}
    for name, numbers, *values in (row for row in rows if len(row) != 4):
        kind, variables = ("BLOCK", ["W"]) if len(values) == 1 else ("LAYER", ["rows", "columns", "tables"])
        symbols = {name: eval(value, asdict(config)) for name, value in zip(variables, values, strict=True)}
        letter, _, ends = numbers.partition(" = ")
        first, last = (eval(end, asdict(config)) for end in ends.split(" to ")) if ends else (0, 0)
        names = [name.replace(f"{{{letter}}}", str(number)) for number in range(first, last + 1)]
        stand_ins[kind] += [(each, symbols) for each in names]
    found = {}
    for key, dtype, shape, _ in (row for row in rows if len(row) == 4):
        word = key.partition(".")[0]
        for name, symbols in stand_ins.get(word, [(word, {})]):
            whole = key.replace(word, name, 1)
            if "total" in shape:
                symbols = {"total": int(tensors[whole.replace("cdf", "lengths")].sum()) if whole in tensors else 0}
            found[whole] = dtype, eval(shape, {**asdict(config), **symbols})
    return found


def of_latents(key, latents):
    """Whether models with these latents have a key that the document names."""
    if key.startswith(("h_a.", "log_gain.", "z_log_gain.", "entropy.h_s.")):
        return latents in ("scalar", "hvq")
    if key.startswith(("entropy.upper.", "entropy.lower.")):
        return latents == "hvq"
    if key.startswith("entropy.vq."):
        if "logits" in key or "precision" in key:
            return latents == "dvae"
        return latents == "dvae" and not key.endswith(".bits") or latents in ("vq", "hvq")
    return latents == "scalar" or not key.startswith("entropy.")


@pytest.mark.parametrize("model", ["default", "small", *CONFIGS])
def test_the_document_names_every_key_with_its_type_and_shape(model):
    if model == "default":
        config, tensors = read_folder(weights.find_model())
    else:
        made = TrainableVectorModel(CONFIGS[model]) if model in CONFIGS else tiny.trainable()
        config = made.config
        tensors = {name: tensor.numpy() for name, tensor in made.export_tensors().items()}
    documented = documented_keys(config, tensors)
    if config.latents == "hvq":  # a table for each class
        stages, groups, *rows = documented["entropy.vq.frequencies"][1]
        documented["entropy.vq.frequencies"] = "int16", (stages, groups, 4, *rows)
    documented = {key: what for key, what in documented.items() if of_latents(key, config.latents)}
    assert documented == {key: (str(array.dtype), array.shape) for key, array in tensors.items()}
