import subprocess
import sys

import numpy as np
import pytest
import torch

from codec import quantise
from codec.quantise import (
    add_uniform_noise,
    quantise_weights,
    reference,
    requantise_ste,
    round_half_up,
    round_ste,
    straight_through,
)


def test_halves_are_rounded_upwards():
    x = torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.5, -0.2])
    assert round_half_up(x).tolist() == [-1, 0, 1, 2, 3, 0]


def test_ste_has_the_value_of_rounding_and_the_gradient_of_the_identity():
    x = torch.tensor([0.2, 0.7, -1.4], requires_grad=True)
    y = round_ste(x)
    (y * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert y.tolist() == [0, 1, -1]
    assert x.grad.tolist() == [1, 2, 3]


def test_straight_through_takes_any_quantiser():
    torch.manual_seed(0)
    z = torch.randn(5, requires_grad=True)
    straight_through(z, torch.sign(z)).sum().backward()
    assert z.grad.tolist() == [1] * 5


def test_noise_is_uniform_reproducible_and_differentiable():
    x = torch.zeros(10000, requires_grad=True)
    noisy = add_uniform_noise(x, torch.Generator().manual_seed(1))
    again = add_uniform_noise(x, torch.Generator().manual_seed(1))
    assert torch.equal(noisy, again)
    assert noisy.min() >= -0.5 and noisy.max() < 0.5
    assert abs(noisy.mean().item()) < 0.01 and abs(noisy.var().item() - 1 / 12) < 0.002
    noisy.sum().backward()
    assert x.grad.eq(1).all()


def test_averages_of_the_reference_by_hand():
    codebook, counts, sums = np.array([[1.0], [5.0], [9.0]]), np.array([1.0, 0.5, 0.0]), np.array([[1.0], [2.5], [0.0]])
    z = np.array([[3.0], [2.0]])
    found, counts, sums = reference.ema_update(codebook, counts, sums, z, np.array([0, 0]), decay=0.75)
    assert counts.tolist() == [1.25, 0.375, 0] and sums.tolist() == [[2], [1.875], [0]]
    assert found.tolist() == [[1.6], [5], [9]]  # the last one has never been chosen, and stays


def test_requantise_matches_its_formula_in_float64():
    torch.manual_seed(0)
    total = torch.randint(-5000, 5000, (2, 3, 4, 5)).float()
    ratio, bias = torch.rand(3) * 0.1, torch.randn(2, 3)
    out = requantise_ste(total, ratio, bias, -100, 100)
    value = total.double().numpy() * ratio.double().numpy()[:, None, None] + bias.double().numpy()[:, :, None, None]
    assert np.array_equal(out.numpy(), np.clip(np.floor(value + 0.5), -100, 100))


def test_requantise_gradients_are_those_of_the_unrounded_expression_inside_the_range():
    torch.manual_seed(0)
    total = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    ratio = torch.rand(3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    ours = torch.autograd.grad((requantise_ste(total, ratio, bias, -99, 99) * weight).sum(), (total, ratio, bias))
    plain = total * ratio[:, None, None] + bias[:, :, None, None]
    truth = torch.autograd.grad((plain * weight).sum(), (total, ratio, bias))
    for a, b in zip(ours, truth):
        torch.testing.assert_close(a, b)


def test_a_saturated_unit_gets_only_the_gradient_that_leads_back():
    total = torch.full((1, 2, 1, 1), 50.0, requires_grad=True)
    out = requantise_ste(total, torch.ones(2), torch.zeros(1, 2), -10, 10)
    (out * torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)).sum().backward()
    assert total.grad.flatten().tolist() == [1, 0]  # descent lowers the first, would raise the second


@pytest.mark.parametrize("activation", ["none", "relu", "leaky"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_requantise_gradients_are_by_the_definition_inside_and_outside(activation, shared, frozen):
    """Two seeds: with the rounding left out, and outside of the range only what leads back."""
    for seed in (0, 1):
        draw = torch.Generator().manual_seed(seed)
        total, g = (torch.randn(2, 3, 4, 5, generator=draw, dtype=torch.float64) for _ in range(2))
        total = (20 * total).requires_grad_()
        ratio = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64, requires_grad=not frozen)
        bias = torch.randn(1 if shared else 2, 3, generator=draw, dtype=torch.float64).requires_grad_()
        low, high = (0 if activation == "relu" else -12), 9
        value = (total * ratio[:, None, None] + bias[:, :, None, None]).detach()
        inner = torch.where(value < 0, value / 8, value) if activation == "leaky" else value
        out = requantise_ste(total, ratio, bias, low, high, activation)
        assert torch.equal(out, torch.floor(inner + 0.5).clamp(low, high))
        passes = torch.where(inner > high, g > 0, torch.where(inner < low, g < 0, True))
        if activation == "relu":
            passes &= inner > 0
        assert (~passes).any() and (inner > high)[passes].any()
        slope = g * passes * (torch.where(value < 0, 0.125, 1.0) if activation == "leaky" else 1.0)
        out.backward(g)
        torch.testing.assert_close(total.grad, slope * ratio.detach()[:, None, None])
        to_bias = slope.sum((2, 3))
        torch.testing.assert_close(bias.grad, to_bias.sum(0, keepdim=True) if shared else to_bias)
        if not frozen:
            (alone,) = torch.autograd.grad(requantise_ste(total, ratio, bias.detach(), low, high, activation), ratio, g)
            torch.testing.assert_close(alone, ratio.grad)
            torch.testing.assert_close(ratio.grad, (slope * total.detach()).sum((0, 2, 3)))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_relu_has_no_gradient_below_zero(sign):
    def gradient(activation):
        total = torch.tensor([-3.0, 3.0]).view(1, 2, 1, 1).requires_grad_()
        (sign * requantise_ste(total, torch.ones(2), torch.zeros(1, 2), 0, 10, activation)).sum().backward()
        return total.grad.flatten().tolist()

    assert gradient("relu") == [0, sign]
    # A plain bound lets the gradient pass that leads back into the range: descent raises the first for sign = -1.
    assert gradient("none") == [min(sign, 0), sign]


def test_quantised_weights_lie_on_the_grid_and_learn_their_step():
    torch.manual_seed(0)
    weight = torch.randn(4, 50, requires_grad=True)
    log_step = torch.full((4,), -4.0, requires_grad=True)
    integers, step = quantise_weights(weight, log_step, 127)
    assert torch.equal(integers, integers.round()) and integers.abs().max() <= 127
    assert ((integers * step - weight).abs() <= step / 2 + 1e-6)[weight.abs() < 127 * step].all()
    target = torch.randn(4, 50)
    (integers * step - target).square().sum().backward()
    # LSQ: through the weights k = round(w / s), d(k s)/ds is k - w / s inside the range and the limit outside; the
    # parameter is the logarithm of s; 1 / sqrt(50 * 127) is the scale of the paper.
    with torch.no_grad():
        s, k = log_step.exp()[:, None], integers
        slope = torch.where((weight / s).abs() > 127, k, k - weight / s)
        wanted = (2 * (k * s - target) * slope).sum(1) * s[:, 0] / (50 * 127) ** 0.5
    torch.testing.assert_close(log_step.grad, wanted, rtol=1e-3, atol=1e-4)
    # The straight-through gradient of the weights is that of the quantised weights.
    clipped = (weight.abs() > 127 * step).detach()
    expected = 2 * (integers * step - target).detach().masked_fill(clipped, 0.0)
    assert clipped.any()
    torch.testing.assert_close(weight.grad, expected)


def test_the_names_of_the_package_are_those_it_lists():
    for name in quantise.__all__:
        assert getattr(quantise, name) is not None
    with pytest.raises(AttributeError, match="round_stf"):
        _ = quantise.round_stf


@pytest.mark.parametrize(
    "statement, unwanted",
    [
        ("import codec.quantise.reference", {"torch"}),
        ("from codec.quantise import round_ste, quantise_weights, latent_quantiser",
         {"scipy", "compressai", "lightning", "pandas", "matplotlib"}),
    ],
)  # fmt: skip
def test_importing_stays_cheap(root, statement, unwanted):
    code = f"{statement}\nimport sys; print(sorted({unwanted} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_leaky_requantisation_shifts_by_three_below_zero():
    total = torch.tensor([[[[-80.0, -4.0, 3.0, 900.0]]]], requires_grad=True)
    bias = torch.zeros(1, 1, requires_grad=True)
    out = requantise_ste(total, torch.full((1,), 0.5), bias, -100, 100, activation="leaky")
    assert out.flatten().tolist() == [-5, 0, 2, 100]  # floor(-40 / 8 + 1/2), floor(-2 / 8 + 1/2), ...
    out.sum().backward()
    # Descent moves the last one further beyond the range, so it gets its gradient only when that leads back.
    assert total.grad.flatten().tolist() == [0.0625, 0.0625, 0.5, 0.5]
    assert bias.grad.item() == pytest.approx(2 * 0.125 + 2)
