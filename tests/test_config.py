import dataclasses

import pytest

from codec.config import ModelConfig
from codec.errors import ModelError


def test_a_config_survives_its_json():
    config = ModelConfig(M=32, N=8)
    assert ModelConfig.from_dict(dataclasses.asdict(config)) == config


@pytest.mark.parametrize("value", [None, [], "scalar", 5, {"M": None}, {"M": "384"}, {"M": 384.0}, {"M": True}])
def test_what_is_no_architecture_is_refused(value):
    with pytest.raises(ModelError):
        ModelConfig.from_dict(value)


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(ModelConfig) if f.type is int])
@pytest.mark.parametrize("value", [-1, 10**9, 2**70])
def test_absurd_sizes_are_refused(name, value):
    with pytest.raises(ModelError, match=name):
        ModelConfig.from_dict({"latents": "vq", name: value})


@pytest.mark.parametrize("name", ["lmbda_min", "lmbda_max"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1", -1.0])
def test_trade_offs_are_finite_numbers(name, value):
    with pytest.raises(ModelError):
        ModelConfig.from_dict({name: value})


def test_a_model_of_the_first_architecture_is_refused():
    with pytest.raises(ModelError, match="C8"):
        ModelConfig.from_dict({"C8": 192})
