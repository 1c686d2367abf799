import math

import numpy as np
import pytest
import torch
from compressai.entropy_models import GaussianConditional

from codec.latents.networks import LEVELS, scale_table
from codec.training.scale_mixture import RAREST, ScaleMixture

LIMIT = 2047


@pytest.fixture(scope="module")
def mixture():
    torch.manual_seed(0)
    mixture = ScaleMixture(passes=2)
    with torch.no_grad():
        mixture.log_weight[1].add_(torch.tensor([0.5, 0.0, 0.7]))
        mixture.log_ratio[1].add_(torch.tensor([0.1, -0.2, 0.3]))
    return mixture


def test_probabilities_of_all_symbols_sum_to_one(mixture):
    symbols = torch.arange(-3000.0, 3001)
    for k in range(2):
        for scale in (0.11, 0.7, 5.0, 200.0):
            total = mixture.likelihood(symbols, torch.full_like(symbols, scale), k).double().sum().item()
            assert total == pytest.approx(1, abs=1e-4)


def test_one_component_of_ratio_one_is_compressais_gaussian():
    mixture = ScaleMixture(passes=1)
    with torch.no_grad():
        mixture.log_weight.copy_(torch.tensor([[-1e4, 0.0, -1e4]]))
        mixture.log_ratio.zero_()
    residual, scales = 3 * torch.randn(1000), torch.rand(1000) + 0.2
    assert torch.equal(mixture.likelihood(residual, scales, 0), GaussianConditional(None)._likelihood(residual, scales))


def test_the_widest_component_is_found(mixture):
    assert mixture.widest().tolist() == pytest.approx([2.2, 2.2 * math.exp(0.3)])


def test_tables_hold_the_probabilities(mixture):
    cdf, lengths, offsets = mixture.tables(scale_table(), LIMIT)
    assert len(lengths) == len(offsets) == 2 * LEVELS and lengths.sum() == len(cdf)
    start = 0
    for i, (length, offset) in enumerate(zip(lengths.tolist(), offsets.tolist())):
        row = cdf[start : start + length].numpy()
        start += length
        assert row[0] == 0 and row[-1] == 2**16 and (np.diff(row) > 0).all()
        assert length == 2 * -offset + 3 and -offset <= LIMIT  # symmetric, and one more bin for the tails
        symbols = torch.arange(offset, -offset + 1.0)
        k, level = divmod(i, LEVELS)
        truth = mixture.likelihood(symbols, torch.full_like(symbols, scale_table()[level]), k).detach().double().numpy()
        assert (truth > RAREST).all() or length == 5
        *coded, tail = np.diff(row) / 2**16
        assert tail >= 1 - truth.sum() - 2**-16
        entropy = -(truth * np.log2(truth)).sum()
        assert (truth * np.log2(truth / coded)).sum() < 0.01 * entropy + 1e-3  # CompressAI's rounding of frequencies


def test_gradients_reach_weights_ratios_and_scales(mixture):
    scales = torch.full((100,), 2.0, requires_grad=True)
    bits = -mixture.likelihood(4 * torch.randn(100), scales, 0).log2().sum()
    gradients = torch.autograd.grad(bits, [scales, mixture.log_weight, mixture.log_ratio])
    for gradient in (gradients[0], gradients[1][0], gradients[2][0]):
        assert torch.isfinite(gradient).all() and gradient.abs().max() > 0
    assert gradients[1][1].eq(0).all() and gradients[2][1].eq(0).all()  # the other pass has its own


@pytest.mark.parametrize("masked", [False, True])
def test_bits_and_their_gradients_are_compressais(mixture, masked):
    """The closed form against autograd through GaussianConditional, which bounds scales at the same 0.11."""
    generator = torch.Generator().manual_seed(3)
    shape = (2, 3, 400)
    scales = (0.15 * torch.exp(3 * torch.rand(shape, generator=generator))).requires_grad_()
    residual = (torch.randn(shape, generator=generator) * scales.detach()).requires_grad_()
    coded = torch.rand(shape, generator=generator) < 0.7 if masked else None
    weight = torch.tensor([1.0, 2.0, 0.5])  # positive, as bits count in a loss
    leaves = [residual, scales, mixture.log_weight, mixture.log_ratio]
    ours = mixture.bits(residual, scales, coded)
    found = torch.autograd.grad((ours * weight).sum(), leaves)
    likelihood = torch.stack([mixture.likelihood(residual[k], scales[k], k) for k in range(2)])
    bits = -likelihood.log2()
    theirs = (torch.where(coded, bits, 0.0) if masked else bits).sum((0, 2))
    expected = torch.autograd.grad((theirs * weight).sum(), leaves)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-3)


def test_scales_below_the_bound_count_as_the_bound():
    """Deviations of 0.11 and less: the rest of a symbol beyond its cell is the same for all."""
    mixture = ScaleMixture(passes=1)
    with torch.no_grad():
        mixture.log_ratio.zero_()
    residual = torch.tensor([[[0.0, 0.4, 0.7]]])
    least, smaller = (mixture.bits(residual, torch.full((1, 1, 3), scale)) for scale in (0.11, 0.01))
    probability = [
        0.5 * (math.erf((r + 0.5) / 0.11 / 2**0.5) - math.erf((r - 0.5) / 0.11 / 2**0.5)) for r in (0, 0.4, 0.7)
    ]
    assert least.item() == pytest.approx(-sum(map(math.log2, probability)), rel=1e-3)
    torch.testing.assert_close(smaller, least)


def test_scales_below_the_bound_pass_only_gradients_that_raise_them():
    mixture = ScaleMixture(passes=1)
    scales = torch.full((1, 1, 2), 0.02, requires_grad=True)
    residual = torch.tensor([[[0.0, 0.9]]])  # the first would lower its scale, the second raise it
    (gradient,) = torch.autograd.grad(mixture.bits(residual, scales).sum(), scales)
    assert gradient[0, 0, 0] == 0 and gradient[0, 0, 1] < 0
