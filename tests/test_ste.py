"""Straight-through estimators: the value of the quantiser, the gradient of the definition, and NumPy's opinion."""

import numpy as np
import pytest
import torch

from codec.quantise import reference, ste

G = torch.tensor([1.0, -2.0, 3.0, 4.0, -5.0])
X = torch.tensor([-1.7, -0.4, 0.0, 0.6, 1.2])


def gradient(function, x=X, g=G):
    """Value and gradient with respect to x under the gradient g of the result."""
    x = x.clone().requires_grad_()
    value = function(x)
    value.backward(g)
    return value.detach(), x.grad


def test_a_surrogate_has_the_bits_of_its_value_and_the_gradient_of_its_carrier():
    torch.manual_seed(0)
    value, carrier = torch.randn(1000), 1e3 * torch.randn(1000)
    found, grad = gradient(lambda x: ste.surrogate_gradient(value, x.square()), carrier, torch.ones(1000))
    assert torch.equal(found, value)
    torch.testing.assert_close(grad, 2 * carrier)


def test_straight_through_equals_the_surrogate_to_the_last_bit_for_rounding():
    torch.manual_seed(0)
    z = 100 * torch.randn(100_000)
    z_q = ste.round_half_up(z)
    assert torch.equal(ste.straight_through(z, z_q), z_q)
    assert torch.equal(ste.surrogate_gradient(z_q, z), z_q)


@pytest.mark.parametrize(
    "function, value, passes",
    [
        (ste.round_ste, [-2, 0, 0, 1, 1], [1, 1, 1, 1, 1]),
        (lambda x: ste.clipped_round_ste(x, -1, 1), [-1, 0, 0, 1, 1], [0, 1, 1, 1, 0]),
        (ste.sign_ste, [-1, -1, 1, 1, 1], [1, 1, 1, 1, 1]),
        (lambda x: ste.sign_ste(x, clip=1.0), [-1, -1, 1, 1, 1], [0, 1, 1, 1, 0]),
        (ste.ternary_ste, [-1, 0, 0, 1, 1], [1, 1, 1, 1, 1]),
        (lambda x: ste.ternary_ste(x, 0.7, clip=1.5), [-1, 0, 0, 0, 1], [0, 1, 1, 1, 1]),
        (ste.argmax_ste, [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]),
    ],
)
def test_values_and_gradients_are_those_defined(function, value, passes):
    found, grad = gradient(function)
    assert found.tolist() == value
    assert torch.equal(grad, G * torch.tensor(passes))


def test_argmax_takes_any_dimension_and_the_first_of_equals():
    scores = torch.tensor([[1.0, 5.0, 5.0], [2.0, 0.0, 7.0]])
    assert ste.argmax_ste(scores).tolist() == [[0, 1, 0], [0, 0, 1]]
    assert ste.argmax_ste(scores, dim=0).tolist() == [[0, 1, 0], [1, 0, 1]]


def test_lsq_has_the_gradients_of_its_paper():
    x = torch.tensor([-9.0, -0.55, 0.2, 0.74, 9.0], requires_grad=True)
    step = torch.tensor(0.5, requires_grad=True)
    result = ste.lsq(x, step, -4, 3, gradient_scale=0.1)
    assert result.tolist() == [-2, -0.5, 0, 0.5, 1.5]
    result.backward(G)
    assert x.grad.tolist() == [0, -2, 3, 4, 0]
    slope = torch.tensor([-4, -1 + 1.1, 0 - 0.4, 1 - 1.48, 3])
    torch.testing.assert_close(step.grad, 0.1 * (G * slope).sum())


def test_nearest_entries_agree_with_numpy():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3, 7, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    codebook = torch.randn(16, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    z_q, indices = ste.nearest_ste(z, codebook)
    wanted, wanted_indices = reference.straight_through_quantise(z.detach().numpy(), codebook.detach().numpy())
    assert np.array_equal(indices.numpy(), wanted_indices)
    assert np.array_equal(z_q.detach().numpy(), wanted)
    g = torch.randn(z.shape, generator=generator, dtype=torch.float64)
    z_q.backward(g)
    assert np.array_equal(z.grad.numpy(), reference.ste_backward(g.numpy()))
    assert codebook.grad is None


def test_clipped_rounding_agrees_with_numpy():
    x = np.random.default_rng(0).normal(0, 3, 500)
    found, grad = gradient(lambda x: ste.clipped_round_ste(x, -3, 2), torch.tensor(x), torch.tensor(2 * x))
    assert np.array_equal(found.numpy(), np.clip(reference.round_half_up(x), -3, 2))
    assert np.array_equal(grad.numpy(), reference.clipped_ste_backward(2 * x, x, -3, 2))


def test_the_first_of_equally_near_entries_is_taken_by_both():
    codebook = [[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]
    z = [[0.0, 3.0], [2.0, 0.0], [-2.0, 0.0]]
    assert reference.straight_through_quantise(z, codebook)[1].tolist() == [0, 0, 1]
    assert ste.nearest(torch.tensor(z), torch.tensor(codebook)).tolist() == [0, 0, 1]
