"""Quantisers of latents: their values, their gradients, and that all of them round at evaluation."""

import pytest
import torch

from codec.quantise import LATENT_QUANTISERS, add_uniform_noise, latent_quantiser, round_half_up, round_ste, rounding
from codec.quantise.estimators import gumbel_noise

Y = torch.linspace(-3.3, 3.4, 1001, dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def slope(function, y=Y):
    y = y.clone().requires_grad_()
    return torch.autograd.grad(function(y).sum(), y)[0]


@pytest.mark.parametrize("name", LATENT_QUANTISERS)
def test_every_quantiser_keeps_the_interface(name):
    quantiser = latent_quantiser(name)
    y = Y.clone().requires_grad_()
    for method in (quantiser.for_rate, quantiser.for_synthesis):
        result = method(y, seeded())
        assert result.shape == y.shape and result.dtype == y.dtype
        assert torch.equal(result, method(y, seeded()))
        assert (result - y).abs().max() <= 1.5
        (grad,) = torch.autograd.grad(result.sum(), y)
        # Slopes of one on average over whole cells: none of them scales the gradient.
        assert grad.isfinite().all() and 0.5 < grad.mean() < 2
    assert torch.equal(quantiser.at_evaluation(Y), round_half_up(Y))
    assert quantiser.rounds == torch.equal(quantiser.for_synthesis(Y, seeded()), round_half_up(Y))


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="no quantiser 'nois'; there are noise, ste, mixed"):
        latent_quantiser("nois")


def test_mixed_is_noise_for_the_rate_and_rounding_for_the_synthesis():
    mixed = latent_quantiser("mixed")
    assert torch.equal(mixed.for_rate(Y, seeded()), add_uniform_noise(Y, seeded()))
    assert torch.equal(mixed.for_synthesis(Y), round_ste(Y))
    assert slope(mixed.for_rate).eq(1).all() and slope(mixed.for_synthesis).eq(1).all()


def test_the_others_are_made_of_what_their_papers_say():
    y = Y[100:900]
    for name, rate, synthesis in (
        ("noise", add_uniform_noise, add_uniform_noise),
        ("ste", lambda y, g: round_ste(y), lambda y, g: round_ste(y)),
        ("soft", lambda y, g: add_uniform_noise(rounding.soft_round(y, 0.4), g),
         lambda y, g: rounding.soft_round_mean(add_uniform_noise(rounding.soft_round(y, 0.4), g), 0.4)),
        ("universal", add_uniform_noise, rounding.universal_round),
        ("sga", lambda y, g: rounding.gumbel_round(y, 0.4, g), lambda y, g: rounding.gumbel_round(y, 0.4, g)),
    ):  # fmt: skip
        quantiser = latent_quantiser(name)
        quantiser.temperature = 0.4
        assert torch.equal(quantiser.for_rate(y, seeded()), rate(y, seeded())), name
        assert torch.equal(quantiser.for_synthesis(y, seeded()), synthesis(y, seeded())), name


def test_what_the_synthesis_sees_of_a_soft_rounded_latent_is_its_mean():
    """The paper's r: the mean of y, uniform before, given the noisy soft-rounded value; by Monte Carlo."""
    y = 8 * torch.rand(400_000, generator=seeded(), dtype=torch.float64) - 4
    noisy = add_uniform_noise(rounding.soft_round(y, 0.3), seeded(1))
    for value in (-0.7, 0.1, 0.5, 1.3):
        near = (noisy - value).abs() < 0.01
        found = rounding.soft_round_mean(torch.tensor(value, dtype=torch.float64), 0.3).item()
        assert y[near].mean().item() == pytest.approx(found, abs=5 * y[near].std().item() / near.sum().item() ** 0.5)


@pytest.mark.parametrize("name", ["soft", "sga"])
def test_annealing_goes_geometrically_from_the_first_temperature_to_the_last(name):
    quantiser = latent_quantiser(name)
    first, last = quantiser.temperatures
    assert quantiser.temperature == first
    quantiser.anneal(0.5)
    assert quantiser.temperature == pytest.approx((first * last) ** 0.5)
    quantiser.anneal(2.0)
    assert quantiser.temperature == pytest.approx(last)


@pytest.mark.parametrize("name, first, middle, last", [("soft", 1.0, 0.2**0.5, 0.2), ("sga", 0.5, 0.05**0.5, 0.1)])
def test_temperatures_are_those_of_the_documentation(name, first, middle, last):
    quantiser, found = latent_quantiser(name), []
    for progress in (0.0, 0.5, 1.0, -1.0, 3.0):
        quantiser.anneal(progress)
        found.append(quantiser.temperature)
    assert found == pytest.approx([first, middle, last, first, last])


def test_gumbel_rounding_is_its_formula_up_to_a_hundred_thousandth_of_a_step_from_integers():
    noise = gumbel_noise((2, 6), torch.float64, generator=seeded())
    y = torch.tensor([2.0, 2.0 + 1e-7, 2.0 + 3e-5, 2.01, 2.9999, 3.0], dtype=torch.float64, requires_grad=True)
    found = rounding.gumbel_round(y, 0.5, seeded())
    up = y.detach() - torch.tensor([2.0] * 5 + [3.0])
    logits = -torch.atanh(torch.stack([up, 1 - up]).clamp(max=0.99999)) / 0.5
    wanted = y.detach().floor() + torch.softmax((logits + noise) / 0.5, 0)[1]
    torch.testing.assert_close(found.detach(), wanted, rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(found.sum(), y)
    assert gradient.isfinite().all() and gradient[2] != 0


def test_quantisers_without_temperature_ignore_annealing():
    quantiser = latent_quantiser("ste")
    quantiser.anneal(0.5)
    assert quantiser.temperature is None


@pytest.mark.parametrize("temperature", [0.1, 0.3, 1.0, 10.0])
def test_soft_rounding_has_its_closed_form_and_fixed_points(temperature):
    halves = torch.arange(-6, 7, dtype=torch.float64) / 2
    # At half-integers it stands at the middle of a step.
    torch.testing.assert_close(rounding.soft_round(halves, temperature), halves)
    r = Y - Y.floor() - 0.5
    a = torch.tensor(1 / temperature, dtype=torch.float64)
    wanted = a / (2 * torch.tanh(a / 2) * torch.cosh(a * r) ** 2)
    torch.testing.assert_close(slope(lambda y: rounding.soft_round(y, temperature)), wanted)


def test_soft_rounding_tends_to_rounding_and_to_the_identity():
    away = Y[(Y - Y.floor() - 0.5).abs() > 0.05]
    torch.testing.assert_close(rounding.soft_round(away, 0.005), round_half_up(away), atol=1e-6, rtol=0)
    torch.testing.assert_close(rounding.soft_round(Y, 100.0), Y, atol=1e-4, rtol=0)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_the_inverse_of_soft_rounding_is_its_inverse(temperature):
    soft = rounding.soft_round(Y, temperature)
    torch.testing.assert_close(rounding.soft_round_inverse(soft, temperature), Y, atol=1e-6, rtol=0)


def test_the_inverse_stays_finite_and_in_its_cell_in_float32_at_any_temperature():
    s = torch.linspace(-2, 2, 4001, requires_grad=True)
    for temperature in (1e-3, 1e-2, 0.05):
        inverse = rounding.soft_round_inverse(s, temperature)
        assert ((inverse - s.floor() >= 0) & (inverse - s.floor() <= 1)).all()
        assert torch.autograd.grad(inverse.sum(), s)[0].isfinite().all()
    borders = torch.arange(-3.0, 4.0)
    for temperature in torch.logspace(-3, 1, 60).tolist():
        inverse = rounding.soft_round_inverse(borders, temperature)
        assert ((inverse >= borders) & (inverse <= borders + 1)).all(), temperature


def test_dithered_rounding_is_distributed_as_noise():
    y = torch.tensor([0.0, 0.3, 0.5, 0.9], dtype=torch.float64).expand(20_000, 4)
    error = rounding.universal_round(y, seeded()) - y
    assert error.abs().max() <= 0.5
    # Mean 0, variance 1/12, uniform quartiles, whatever y; errors are 0.002 and less.
    assert error.mean(0).abs().max() < 0.015
    assert (error.var(0) - 1 / 12).abs().max() < 0.004
    quartiles = torch.quantile(error, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64), dim=0)
    assert (quartiles - torch.tensor([[-0.25], [0.0], [0.25]])).abs().max() < 0.03
    assert slope(lambda y: rounding.universal_round(y, seeded())).eq(1).all()


def test_gumbel_rounding_stays_between_the_neighbours_and_hardens():
    hot, cold = (rounding.gumbel_round(Y, temperature, seeded()) for temperature in (0.5, 0.01))
    for result in (hot, cold):
        assert ((result >= Y.floor()) & (result <= Y.floor() + 1)).all()
    assert (cold - round_half_up(cold)).abs().mean() < 0.01 < (hot - round_half_up(hot)).abs().mean()


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_gumbel_rounding_draws_with_the_probabilities_of_its_logits(temperature):
    y = torch.tensor([0.1, 0.35, 0.5, 0.8], dtype=torch.float64)
    up = (rounding.gumbel_round(y.expand(20_000, 4), temperature, seeded()) > 0.5).double().mean(0)
    logits = torch.stack([-torch.atanh(y), -torch.atanh(1 - y)]) / temperature
    torch.testing.assert_close(up, torch.softmax(logits, 0)[1], atol=0.02, rtol=0)


def test_gumbel_rounding_has_the_gradient_of_its_drawn_relaxation():
    h = 1e-6
    y = Y[(Y - Y.round()).abs() > 0.01]
    up, down = (rounding.gumbel_round(y + d, 0.5, seeded()) for d in (h, -h))
    found = slope(lambda y: rounding.gumbel_round(y, 0.5, seeded()), y)
    torch.testing.assert_close(found, (up - down) / (2 * h), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("function", [rounding.soft_round, rounding.soft_round_inverse, rounding.gumbel_round])
@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_temperatures_must_be_positive(function, temperature):
    with pytest.raises(ValueError, match="temperature must be positive"):
        function(Y, temperature)
