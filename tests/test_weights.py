import json
import shutil

import pytest

from codec import weights
from codec.errors import ModelError


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
