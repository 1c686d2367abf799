import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny import CONFIG, coding

from codec.entropy import Dequantiser, EntropyCoder, gather, place, split, take
from codec.errors import Corrupt
from codec.latents.networks import LEVELS, scale_table
from codec.latents.quadtree import PASSES
from codec.model import read_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    coding(folder)
    return folder


def coder(folder, dtype=None):
    entropy = EntropyCoder(CONFIG, dtype)
    entropy.load(read_folder(folder)[1])
    return entropy


def merge(parts):
    """Inverse of split; of its first parts, zero where the others belong."""
    return sum(place(part, k) for k, part in enumerate(parts))


def latents(height=8, width=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = 6 * torch.randn(1, CONFIG.M, height, width, generator=generator)
    z = 2 * torch.randn(1, CONFIG.N, height // 4, width // 4, generator=generator)
    return z, y


def test_split_covers_every_latent_once_and_merge_inverts_it():
    y = torch.arange(2 * 8 * 4 * 6).float().view(2, 8, 4, 6)
    parts = split(y)
    assert torch.equal(merge(parts), y)
    assert sorted(torch.cat([p.flatten() for p in parts]).tolist()) == y.flatten().tolist()
    known = merge(parts[:2])
    assert (known != 0).float().mean() == pytest.approx(0.5, abs=0.01)


def test_every_pass_adds_one_group_at_every_position():
    y = torch.ones(1, 8, 4, 4)
    for k in range(len(PASSES)):
        assert merge(split(y)[: k + 1]).sum(1).eq(2 * (k + 1)).all()


def test_take_and_place_are_each_others_gradient():
    torch.manual_seed(0)
    y = torch.randn(2, 8, 4, 6, dtype=torch.float64, requires_grad=True)
    part = torch.randn(2, 4, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    for k in range(len(PASSES)):
        assert torch.autograd.gradcheck(lambda t: take(t, k), y)
        assert torch.autograd.gradcheck(lambda t: place(t, k), part)


def test_gather_takes_the_positions_of_split():
    position = torch.arange(24.0).view(1, 1, 4, 6)
    y = position.expand(1, 8, 4, 6)
    for k in range(len(PASSES)):
        assert torch.equal(gather(position, k), split(y)[k][:, :, 0])


def test_decode_returns_what_encode_saw(folder):
    entropy = coder(folder)
    z, y = latents()
    for quality in (0, 4321, 10000):
        z_string, y_string, y_hat, crc = entropy.encode(z, y, quality)
        assert torch.equal(entropy.decode(z_string, y_string, 8, 12, quality, crc), y_hat)
        coded = (y_hat - y).abs() <= 0.5 + 0.3  # rounded and shifted; the others lie in row 0 and are not coded
        assert coded.float().mean() > 0.5


def test_the_dequantiser_shifts_symbols_towards_their_mean():
    dequantiser = Dequantiser(3)
    symbols = torch.tensor([[-7.0, -1.0, 0.0, 1.0, 2.0, 3.0]])
    rows = torch.tensor([[5.0, 5.0, 5.0, 5.0, 9.0, 63.0]])
    assert dequantiser(symbols, rows, 5000).eq(0).all()
    with torch.no_grad():
        dequantiser.shrink[1, 5] = torch.tensor([0.25, 0.5, 0.125])
        dequantiser.shrink[1, 9, 1], dequantiser.shrink[1, 63, 2] = 0.375, -0.5
        dequantiser.shrink[2] = 2 * dequantiser.shrink[1]
    shift = dequantiser(symbols, rows, 5000)
    assert shift.tolist() == [[0.125, 0.25, 0.0, -0.25, -0.375, 0.5]]
    shift.sum().backward()
    assert dequantiser.shrink.grad[1, 5].tolist() == [0.0, 0.0, 1.0]  # those of -1 and 1 cancel
    each = dequantiser(symbols.expand(4, -1), rows.expand(4, -1), torch.tensor([0.0, 2500.0, 7500.0, 10000.0]))
    assert torch.equal(each, torch.tensor([[0.0], [0.5], [1.5], [2.0]]) * shift)


def test_the_dequantiser_changes_what_is_seen_and_not_what_is_written(folder):
    entropy, plain = coder(folder), coder(folder)
    plain.dequantiser.shrink.detach().zero_()
    z_string, y_string, y_hat, crc = entropy.encode(*latents(), 5000)
    assert plain.encode(*latents(), 5000)[:2] == (z_string, y_string)
    middle = plain.decode(z_string, y_string, 8, 12, 5000, crc)
    assert (16 * middle == (16 * middle).round()).all()  # means and symbols are multiples of 1/16
    moved = (y_hat - middle).abs()
    assert 0 < moved.max() <= 0.3 and moved.gt(0).float().mean() > 0.2


def test_models_with_one_table_for_all_passes_still_work(folder):
    tensors = read_folder(folder)[1]
    rows = tensors["entropy.y_lengths"][:LEVELS].clone()
    tensors["entropy.y_cdf"] = tensors["entropy.y_cdf"][: rows.sum()].clone()
    tensors |= {"entropy.y_lengths": rows, "entropy.y_offsets": tensors["entropy.y_offsets"][:LEVELS].clone()}
    entropy = EntropyCoder(CONFIG)
    entropy.load(tensors)
    z_string, y_string, y_hat, crc = entropy.encode(*latents(), 5000)
    assert y_string != coder(folder).encode(*latents(), 5000)[1]
    assert torch.equal(entropy.decode(z_string, y_string, 8, 12, 5000, crc), y_hat)


def test_values_beyond_the_tables_survive(folder):
    entropy = coder(folder)
    z, y = latents()
    y[0, :, 0, 0] = torch.linspace(-1500, 1500, CONFIG.M)
    z[0, :, 0, 0] = 200
    z_string, y_string, y_hat, crc = entropy.encode(z, y, 5000)
    assert torch.equal(entropy.decode(z_string, y_string, 8, 12, 5000, crc), y_hat)


def test_float32_and_float64_write_the_same_bytes(folder):
    z, y = latents()
    for quality in (0, 2500, 10000):
        assert coder(folder).encode(z, y, quality)[:2] == coder(folder, torch.float64).encode(z, y, quality)[:2]


def indexes(entropy, z, y, quality):
    """All means and CDF indexes of an image, as the coder sees them."""
    features = entropy.networks.features(z.round(), quality)
    known, seen = 0.0, []
    for k, part in enumerate(split(y.round() * 16)):
        seen.append(entropy.networks.context(k, features, known, quality))
        known = known + place(part, k)
    return [t for pair in seen for t in pair]


def test_indexes_do_not_depend_on_threads_memory_format_or_precision(folder):
    z, y = latents(16, 24)
    truth = indexes(coder(folder), z, y, 3000)
    assert len({int(i) for i in truth[1].flatten()}) > 10  # lively, not constant
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for dtype in (None, torch.float64):
                for memory_format in (torch.contiguous_format, torch.channels_last):
                    inputs = (t.contiguous(memory_format=memory_format) for t in (z, y))
                    for a, b in zip(truth, indexes(coder(folder, dtype), *inputs, 3000)):
                        assert torch.equal(a, b)
    finally:
        torch.set_num_threads(threads)


def test_bytes_do_not_depend_on_the_callers_precision_settings(folder):
    z, y = latents(16, 24)
    truth = coder(folder).encode(z, y, 6000)[:2]
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert coder(folder).encode(z, y, 6000)[:2] == truth
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_indexes_do_not_depend_on_the_device(folder):
    z, y = latents(16, 24)
    truth = indexes(coder(folder), z, y, 3000)
    other = indexes(coder(folder).cuda(), z.cuda(), y.cuda(), 3000)
    for a, b in zip(truth, other):
        assert torch.equal(a, b.cpu())


def test_damaged_strings_are_refused_or_harmless(folder):
    entropy = coder(folder)
    z_string, y_string, y_hat, crc = entropy.encode(*latents(), 5000)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        z_bad, y_bad = bytearray(z_string), bytearray(y_string)
        target = z_bad if rng.random() < 0.3 else y_bad
        target[rng.integers(len(target))] ^= 1 << rng.integers(8)
        if rng.random() < 0.3:
            del target[rng.integers(len(target)) :]
        try:
            decoded = entropy.decode(bytes(z_bad), bytes(y_bad), 8, 12, 5000, crc)
        except Corrupt:
            refused += 1
        else:  # some bits of a string's end are never read
            assert torch.equal(decoded, y_hat)
    assert refused > 50


@pytest.mark.parametrize("junk", [b"", b"\xff" * 3000, b"\x00" * 50, bytes(range(256)) * 8])
def test_hostile_strings_end_in_an_error(folder, junk):
    with pytest.raises(Corrupt):
        coder(folder).decode(junk, junk, 8, 12, 5000, 12345)


def test_coder_loads_without_the_compressai_package():
    code = "import codec.entropy as e, sys; e._ans().RansEncoder(); sys.exit('compressai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_scale_table_is_compressais():
    from compressai.models.google import get_scale_table

    np.testing.assert_allclose(scale_table(), get_scale_table().numpy(), rtol=1e-5)
    assert len(scale_table()) == LEVELS
