"""CompressAI's models as anchors: files that hold all that a decoder needs, clear words where weights are missing."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from codec.errors import BitstreamError, CodecError, Truncated
from codec.evaluation.anchors import find_anchors
from codec.evaluation.metrics import psnr_db
from codec.evaluation.zoo import HEADER, Zoo

# A tiny stand-in for each of the zoo's kinds: no side information, a hyperprior, means, an autoregressive context.
ARCHITECTURES = {
    "bmshj2018-factorized": (8, 12), "bmshj2018-hyperprior": (8, 12), "mbt2018-mean": (8, 12), "mbt2018": (12, 12),
}  # fmt: skip


def save(folder, model, level, seed=0):
    """Random weights under the zoo's name; returns the model."""
    from compressai.zoo.image import model_architectures, model_urls

    torch.manual_seed(seed)
    net = model_architectures[model](*ARCHITECTURES[model])
    with torch.no_grad():  # lively latents: as initialised, they would all be rounded to zero
        last = [module for module in net.g_a.modules() if isinstance(module, torch.nn.Conv2d)][-1]
        last.weight.mul_(40 * level)
    torch.save(net.state_dict(), folder / model_urls[model]["mse"][level].rpartition("/")[2])
    net.update()
    return net.eval()


@pytest.fixture(params=list(ARCHITECTURES))
def model(request):
    return request.param


def test_files_decode_to_what_the_model_itself_gives(tmp_path, model, photo):
    net = save(tmp_path, model, 3)
    (anchor,) = find_anchors([f"compressai:{model}={tmp_path}"])
    assert (anchor.name, anchor.title, anchor.qualities) == (f"compressai:{model}", model, (3,))
    crop = np.ascontiguousarray(photo[:64, :128])  # a multiple of every stride
    data = anchor.compress(crop, 3)
    with torch.inference_mode():
        out = net.compress(torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 255)
        expected = net.decompress(out["strings"], out["shape"])["x_hat"]
    lengths = [len(string) for (string,) in out["strings"]]
    assert len(data) == HEADER.size + 4 * len(lengths) + sum(lengths)
    assert sum(lengths) > 200  # something was coded
    expected = (expected[0].permute(1, 2, 0).clamp(0, 1) * 255 + 0.5).floor().numpy().astype(np.uint8)
    assert np.array_equal(np.asarray(anchor.decompress(data)), expected)


def test_header_is_as_long_as_the_documentation_says(tmp_path, photo):
    for model, length in {"bmshj2018-factorized": 14, "mbt2018-mean": 18}.items():
        net = save(tmp_path, model, 1)
        data = Zoo.find(f"{model}={tmp_path}").compress(photo, 1)
        with torch.inference_mode():
            out = net.compress(torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255)
        assert len(data) - sum(len(string) for (string,) in out["strings"]) == length


def test_any_size_comes_back(tmp_path):
    save(tmp_path, "mbt2018-mean", 2)
    anchor = Zoo.find(f"mbt2018-mean={tmp_path}")
    for size in ((1, 1), (3, 70), (65, 64)):
        image = anchor.decompress(anchor.compress(np.full((*size, 3), 90, np.uint8), 2))
        assert (image.height, image.width) == size
    grey = Image.new("L", (20, 10), 90)
    assert anchor.decompress(anchor.compress(grey, 2)).size == (20, 10)


def test_each_quality_level_has_its_own_weights(tmp_path, photo):
    for level in (1, 4, 8):
        save(tmp_path, "bmshj2018-factorized", level, seed=level)
    anchor = Zoo.find(f"bmshj2018-factorized={tmp_path}")
    assert anchor.qualities == (1, 4, 8)
    assert len(set(anchor.settings()["options"]["weights"].values())) == 3
    files = {level: anchor.compress(photo, level) for level in anchor.qualities}
    assert [data[0] for data in files.values()] == [1, 4, 8]
    decoded = {level: np.asarray(anchor.decompress(data)) for level, data in files.items()}
    assert psnr_db(decoded[1], decoded[8]) < 40

    sent = pickle.loads(pickle.dumps(anchor))  # weights travel as paths
    assert sent.compress(photo, 4) == files[4]
    assert len(pickle.dumps(anchor)) < 10_000


def test_weights_that_torch_hub_keeps_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(CodecError, match=r"no weights of CompressAI's mbt2018-mean in .*checkpoints \(files like"):
        find_anchors(["compressai:mbt2018-mean"])
    (tmp_path / "checkpoints").mkdir()
    save(tmp_path / "checkpoints", "mbt2018-mean", 5)
    (anchor,) = find_anchors(["compressai:mbt2018-mean"])
    assert anchor.qualities == (5,)


def test_random_weights_stand_in_only_where_there_are_none_and_they_are_asked_for(tmp_path, monkeypatch, photo):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (anchor,) = find_anchors(["compressai:bmshj2018-factorized"], random_weights=True)
    assert (anchor.title, anchor.qualities) == ("bmshj2018-factorized, random weights", (5,))
    assert not anchor.trained and anchor.settings()["options"]["weights"] == {5: "random"}
    state = torch.random.get_rng_state()
    data = anchor.compress(photo, 5)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert anchor.decompress(data).size == (photo.shape[1], photo.shape[0])
    assert pickle.loads(pickle.dumps(anchor)).compress(photo, 5) == data
    with pytest.raises(CodecError, match="no weights of CompressAI's bmshj2018-factorized"):
        Zoo.find(f"bmshj2018-factorized={tmp_path}", random_weights=True)
    (tmp_path / "checkpoints").mkdir()
    save(tmp_path / "checkpoints", "bmshj2018-factorized", 2)
    anchor = Zoo.find("bmshj2018-factorized", random_weights=True)
    assert anchor.trained and (anchor.title, anchor.qualities) == ("bmshj2018-factorized", (2,))


def test_old_files_with_other_names_of_parameters_are_read(tmp_path, photo):
    save(tmp_path, "bmshj2018-factorized", 1)
    anchor = Zoo.find(f"bmshj2018-factorized={tmp_path}")
    expected = anchor.compress(photo, 1)
    (path,) = anchor.weights.values()
    state = torch.load(path)
    torch.save({f"module.{name}": value for name, value in state.items()}, path)
    assert Zoo.find(f"bmshj2018-factorized={tmp_path}").compress(photo, 1) == expected


def test_what_is_wrong_is_said(tmp_path, photo):
    with pytest.raises(CodecError, match="CompressAI has no model 'elic'; there are .*mbt2018-mean"):
        Zoo.find("elic")
    save(tmp_path, "mbt2018-mean", 1)
    anchor = Zoo.find(f"mbt2018-mean={tmp_path}")
    data = anchor.compress(photo, 1)
    for cut in (0, 5, HEADER.size + 3, len(data) - 1):
        with pytest.raises(Truncated):
            anchor.decompress(data[:cut])
    with pytest.raises(BitstreamError, match="quality level 7 of mbt2018-mean is not here"):
        anchor.decompress(b"\x07" + data[1:])
    (path,) = anchor.weights.values()
    for junk in (b"not a checkpoint", b""):
        path.write_bytes(junk)
        with pytest.raises(CodecError, match="not the weights of mbt2018-mean"):
            Zoo.find(f"mbt2018-mean={tmp_path}").compress(photo, 1)
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(CodecError, match="not the weights of mbt2018-mean"):
        Zoo.find(f"mbt2018-mean={tmp_path}").load()
