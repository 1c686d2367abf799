import numpy as np
import pytest
import torch

from codec.latents.networks import LEVELS, scale_table
from codec.latents.quadtree import PASSES
from codec.nn.latents import Dequantiser, gather, place, split, take


def merge(parts):
    """Inverse of split; of its first parts, zero where the others belong."""
    return sum(place(part, k) for k, part in enumerate(parts))


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


def test_scale_table_is_compressais():
    from compressai.models.google import get_scale_table

    np.testing.assert_allclose(scale_table(), get_scale_table().numpy(), rtol=1e-5)
    assert len(scale_table()) == LEVELS
