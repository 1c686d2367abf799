import json
import pickle
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

import tiny
from cli.main import codec as command
from codec import Codec, bitstream, weights
from codec.engine import read_folder
from codec.errors import ModelError
from codec.training import loop
from codec.training.vector_model import TrainableVectorModel
from test_vector_entropy import CONFIGS

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
    monkeypatch.setattr(weights, "shipped_folder", lambda: tmp_path)
    with pytest.raises(ModelError, match="damaged"):
        weights.model_id(broken)


def test_missing_index_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "shipped_folder", lambda: tmp_path)
    with pytest.raises(ModelError, match="installation"):
        weights.find_model()
    (tmp_path / "index.json").write_text(json.dumps({"default": "0" * 16}))
    with pytest.raises(ModelError, match="no model 0000000000000000"):
        weights.find_model()


def test_a_tune_names_its_model_where_no_folder_has_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for tune in weights.TUNES:
        for name in (tune, Path(tune)):
            assert weights.find_model(name) == weights.shipped_folder() / weights.tuned_model_id(tune)
    (tmp_path / "psnr").mkdir()
    (tmp_path / "psnr" / "weights.safetensors").write_bytes(b"")
    assert weights.find_model("psnr").resolve() == tmp_path / "psnr"


SHIPPED = {path.parent.name for path in weights.shipped_folder().glob("*/weights.safetensors")}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The user's folder of models; the installation's holds no model but the shipped ones."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # macOS
    monkeypatch.setattr("platformdirs.windows.get_win_folder", lambda *_: str(tmp_path / "data"), raising=False)
    folder = weights.user_folder()
    assert folder.is_relative_to(tmp_path) and not folder.exists()
    return folder


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text('{"architecture": {}}')
    (folder / "CARD.md").write_text("# A model")
    return folder


def files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def models(*arguments, status=0):
    """What ``codec models`` says."""
    result = CliRunner().invoke(command, ["models", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result.output


def test_a_model_is_added_to_the_users_folder_and_removed(home, source):
    shipped, before = weights.default_model_id(), files_below(weights.shipped_folder())
    found = weights.model_id(source)
    said = models("--add", source, "--default").splitlines()
    assert said[0].startswith(f"* {found}") and said[1].strip() == "A model" and len(said) == 2 + 2 * len(SHIPPED)
    assert files_below(home) == [f"{found}/{name}" for name in sorted(weights.FILES)] + ["default.json"]
    assert files_below(weights.shipped_folder()) == before
    assert weights.find_model() == home / found and weights.model_id(home / found) == found
    models("--add", source)  # twice is as once
    assert weights.default_model_id() == found and set(weights.list_models()) == {found} | SHIPPED

    assert found not in models("--remove", found)
    assert weights.list_models()[0] == weights.default_model_id() == shipped and files_below(home) == []
    assert models("--remove", found, status=1).startswith(f"codec: no model {found}; installed: {shipped}")


def test_a_model_outlives_another_installation(home, source, tmp_path, monkeypatch):
    found = weights.install(source, default=True)
    shutil.copytree(weights.shipped_folder(), tmp_path / "upgraded")
    monkeypatch.setattr(weights, "shipped_folder", lambda: tmp_path / "upgraded")
    assert weights.default_model_id() == found == weights.list_models()[0] and len(weights.list_models()) == 1 + len(
        SHIPPED
    )


@pytest.mark.parametrize("name", weights.FILES)
def test_a_model_is_added_whole_or_not_at_all(home, source, name):
    (source / name).unlink()
    said = models("--add", source, "--default", status=1)
    assert name in said and said.count("\n") == 1
    assert files_below(home) == [] and list(home.glob(".*")) == []
    assert len(json.loads(models("--json"))) == len(SHIPPED)


def test_a_model_that_cannot_be_written_leaves_nothing(home, source, monkeypatch):
    def full(source, target):
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    assert "cannot be installed: " in models("--add", source, status=1)
    assert files_below(home) == [] and list(home.glob(".*")) == [] and set(weights.list_models()) == SHIPPED


def test_shipped_and_released_models_are_not_removed(home, source, tmp_path, monkeypatch):
    shipped = weights.default_model_id()
    assert "is part of the installation" in models("--remove", shipped, status=1)
    found = weights.install(source)
    upgraded = tmp_path / "upgraded"
    shutil.copytree(weights.shipped_folder(), upgraded)
    (upgraded / "index.json").write_text(json.dumps({"default": shipped, "released": [found]}))
    monkeypatch.setattr(weights, "shipped_folder", lambda: upgraded)
    assert "is released" in models("--remove", found, status=1)
    assert found in weights.list_models() and weights.find_model(shipped).is_dir()
    for name in ("../models", "", "nonsense"):
        assert models("--remove", name, status=1).startswith("codec: no model")


def test_an_added_model_that_was_shipped_anyway_is_the_shipped_one(home):
    shipped = weights.default_model_id()
    assert weights.install(weights.find_model(shipped)) == shipped
    assert files_below(home) == [] and weights.find_model(shipped).parent == weights.shipped_folder()


def test_what_is_half_a_model_is_not_listed_and_is_mended(home, source):
    found = weights.model_id(source)
    (home / found).mkdir(parents=True)
    (home / found / "weights.safetensors").write_bytes(b"wei")
    assert found not in weights.list_models()
    assert weights.install(source) == found and weights.model_id(home / found) == found


def test_a_choice_of_default_that_is_none_is_ignored(home, source):
    shipped = weights.default_model_id()
    weights.install(source, default=True)
    for text in ("", "[]", '"../x"', '"ffffffffffffffff"', "[" * 100000):
        (home / "default.json").write_text(text)
        assert weights.default_model_id() == shipped


def test_training_writes_a_card_and_leaves_alone_one_of_the_makers(tmp_path, home):
    model = tiny.trainable().eval()
    loop.export(model, tmp_path / "export", steps=12, minutes=3.5)
    card = tmp_path / "export" / "CARD.md"
    found = weights.model_id(tmp_path / "export")
    text = card.read_text(encoding="utf-8")
    assert text.startswith(f"# Model {found}, made with codec train") and "| steps | 12 |" in text
    loop.export(model, tmp_path / "export", steps=13)
    assert "| steps | 13 |" in card.read_text(encoding="utf-8")
    card.write_text("# Mine", encoding="utf-8")
    loop.export(model, tmp_path / "export", steps=14)
    assert card.read_text(encoding="utf-8") == "# Mine"
    assert weights.install(tmp_path / "export") == found in weights.list_models()


@pytest.mark.parametrize("text", ["", "[]", "{}", "5", "null", '{"default": 5}', '{"default": "../x"}', "[" * 100000])
def test_an_index_that_is_none_is_one_clear_error(tmp_path, monkeypatch, text):
    monkeypatch.setattr(weights, "shipped_folder", lambda: tmp_path)
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
    monkeypatch.setattr(weights, "shipped_folder", lambda: tmp_path)
    (tmp_path / "index.json").write_text(json.dumps({"default": "0" * 16, "released": ["1" * 16]}))
    assert weights.is_released("1" * 16) and not weights.is_released("0" * 16)


def test_a_tune_names_one_of_the_shipped_models(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "shipped_folder", lambda: tmp_path)
    index = {"default": "0" * 16, "tunes": {"eyes": "0" * 16, "psnr": "1" * 16}}
    (tmp_path / "index.json").write_text(json.dumps(index))
    assert weights.tuned_model_id("psnr") == "1" * 16 and weights.tune_of("1" * 16) == "psnr"
    assert weights.tune_of("2" * 16) is None
    with pytest.raises(ModelError, match="no model is tuned for ears; there are eyes, psnr"):
        weights.tuned_model_id("ears")
    (tmp_path / "index.json").write_text(json.dumps({**index, "tunes": {"eyes": "../x"}}))
    with pytest.raises(ModelError, match="installation"):
        weights.tuned_model_id("eyes")


@pytest.mark.parametrize("tune", weights.TUNES)
def test_every_tune_is_installed_and_codes(tune):
    coder = Codec(tune=tune)
    assert coder.model_id == weights.tuned_model_id(tune) == pickle.loads(pickle.dumps(coder)).model_id
    grey = np.full((64, 64, 3), 128, np.uint8)
    grey[:32] = 90
    assert bitstream.read_header(coder.compress(grey, fallback="never")).model_id == coder.model_id
    assert Codec(tune="psnr").decompress(coder.compress(grey, fallback="never")).size == (64, 64)
    with pytest.raises(ValueError, match="not both"):
        Codec("x", tune=tune)


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
        return (latents == "dvae" and not key.endswith(".bits")) or latents in ("vq", "hvq")
    return latents == "scalar" or not key.startswith("entropy.")


@pytest.mark.parametrize("model", ["default", "small", "fitted", *CONFIGS])
def test_the_document_names_every_key_with_its_type_and_shape(model):
    if model == "default":
        config, _ = read_folder(weights.find_model())
        tensors = load_file(weights.find_model() / "weights.safetensors")
    else:
        made = TrainableVectorModel(CONFIGS[model]) if model in CONFIGS else tiny.trainable()
        config = made.config
        tensors = {name: tensor.numpy() for name, tensor in made.export_tensors().items()}
        tensors.update(tiny.trellis_tensors(tensors) if model == "fitted" else {})
    documented = documented_keys(config, tensors)
    if "entropy.trellis_cdf" not in tensors:
        documented = {key: what for key, what in documented.items() if ".trellis_" not in key}
    if config.latents == "hvq":  # a table for each class
        stages, groups, *rows = documented["entropy.vq.frequencies"][1]
        documented["entropy.vq.frequencies"] = "int16", (stages, groups, 4, *rows)
    documented = {key: what for key, what in documented.items() if of_latents(key, config.latents)}
    assert documented == {key: (str(array.dtype), array.shape) for key, array in tensors.items()}
