"""Datasets that decode: what a DataLoader gives, with workers of every kind."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import codec
from codec.errors import CodecError
from codec.torch_data import Pictures, Shards

WORKERS = [(0, None), (2, "fork"), (2, "spawn")]


@pytest.fixture(scope="module")
def files(_dog):
    """Six compressed pictures of one size, as bytes."""
    return codec.compress_batch([_dog[:48, 8 * n : 8 * n + 64] for n in range(6)], 30)


@pytest.fixture(scope="module")
def tensors(files):
    arrays = [np.asarray(image.convert("RGB")) for image in codec.decompress_batch(files)]
    return [torch.from_numpy(array.transpose(2, 0, 1).copy()) for array in arrays]


@pytest.fixture
def shards(tmp_path, files):
    """Three archives of two samples each: picture, caption and class."""
    for shard in range(3):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as archive:
            for n in (2 * shard, 2 * shard + 1):
                for kind, data in (("lqc", files[n]), ("JSON", json.dumps({"n": n}).encode()), ("seg.cls", b"%d" % n)):
                    info = tarfile.TarInfo(f"all/{n:03}.{kind}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    return [tmp_path / f"{shard}.tar" for shard in range(3)]


def loaded(dataset, workers, way, **options):
    return DataLoader(dataset, num_workers=workers, multiprocessing_context=way, **options)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # PyTorch's, on one core
@pytest.mark.parametrize(("workers", "way"), WORKERS)
def test_files_are_tensors_in_order(tmp_path, files, tensors, workers, way):
    for n, data in enumerate(files):
        (tmp_path / f"{n}.lqc").write_bytes(data)
    dataset = Pictures(sorted(tmp_path.glob("*.lqc")))
    assert len(dataset) == 6 and torch.equal(dataset[3], tensors[3])  # used before it is sent to workers
    batches = list(loaded(dataset, workers, way, batch_size=4))
    assert [tuple(batch.shape) for batch in batches] == [(4, 3, 48, 64), (2, 3, 48, 64)]
    assert torch.equal(torch.cat(batches), torch.stack(tensors)) and batches[0].dtype == torch.uint8


def test_files_are_scaled_grey_and_transformed(tmp_path, files, tensors):
    (tmp_path / "a.lqc").write_bytes(files[0])
    grey = Pictures([str(tmp_path / "a.lqc")], mode="L", transform=lambda picture: picture.float() / 255)[0]
    wanted = np.asarray(Image.fromarray(tensors[0].numpy().transpose(1, 2, 0)).convert("L"), np.float32) / 255
    assert grey.shape == (1, 48, 64) and np.array_equal(grey[0].numpy(), wanted)
    preview = Pictures([tmp_path / "a.lqc"], scale=1 / 8)[0]
    assert np.array_equal(preview.numpy().transpose(1, 2, 0), codec.decompress(files[0], as_array=True, scale=1 / 8))
    (tmp_path / "a.lqc").write_bytes(files[0][:-5])
    with pytest.raises(CodecError, match=r"a\.lqc: "):
        Pictures([tmp_path / "a.lqc"])[0]
    with pytest.raises(ValueError, match="mode 'RGBA'"):
        Pictures([], mode="RGBA")


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # PyTorch's, on one core
@pytest.mark.parametrize(("workers", "way"), WORKERS)
def test_archives_give_each_sample_once(shards, tensors, workers, way):
    samples = list(loaded(Shards(shards), workers, way, batch_size=None))
    assert sorted(sample["__key__"] for sample in samples) == [f"all/{n:03}" for n in range(6)]
    for sample in samples:
        n = int(sample["seg.cls"])
        assert sample.keys() == {"__key__", "lqc", "json", "seg.cls"} and json.loads(sample["json"]) == {"n": n}
        assert sample["__key__"] == f"all/{n:03}" and torch.equal(sample["lqc"], tensors[n])
    if not workers:
        assert [int(sample["seg.cls"]) for sample in samples] == list(range(6))


def test_archives_are_shuffled_by_seed_and_epoch(shards):
    def order(**options):
        dataset = Shards(shards, lambda sample: int(sample["seg.cls"]), scale=1 / 8, **options)
        orders = []
        for epoch in range(3):
            dataset.set_epoch(epoch)
            orders.append(list(dataset))
        return orders

    first = order(shuffle=3, seed=1)
    assert order(shuffle=3, seed=1) == first != order(shuffle=3, seed=2)
    assert all(sorted(each) == list(range(6)) for each in first) and len({tuple(each) for each in first}) > 1
    assert order() == [list(range(6))] * 3


def test_a_picture_that_is_damaged_costs_its_sample_if_that_is_asked_for(tmp_path, files):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for n, data in enumerate((files[0], files[1][:-5], files[2])):
            info = tarfile.TarInfo(f"{n}.lqc")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    with pytest.raises(CodecError, match=r"^1: .*truncated"):
        list(Shards([tmp_path / "a.tar"]))
    errors = []
    samples = list(Shards([str(tmp_path / "a.tar")], on_error=errors.append))
    assert [sample["__key__"] for sample in samples] == ["0", "2"] and len(errors) == 1
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:1500])
    with pytest.raises(CodecError, match=r"a\.tar: "):
        list(Shards([tmp_path / "a.tar"]))


def test_archives_are_dealt_out_among_processes_of_a_group(shards, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    seen = []
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        seen.append([int(sample["seg.cls"]) for sample in Shards(shards)])
    assert seen == [[0, 1, 4, 5], [2, 3]]
