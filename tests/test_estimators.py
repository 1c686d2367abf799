"""The estimators' values and gradients against their definitions."""

import pytest
import torch
import torch.nn.functional as F

from codec.quantise import ESTIMATORS, ste
from codec.quantise import estimators as est

SETTINGS = {"pathwise": {}, "score_function": {"score": None}, "finite_differences": {"width": 0.1}}


def some(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def loss(q):
    return (q - 0.3).square().sum(-1)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_all_give_the_loss_of_each_draw_and_a_gradient(name):
    noise, theta = 0.5 * some(7, 4), some(4, seed=1).requires_grad_()
    settings = {"score": est.gaussian_score(noise, 0.5)} if name == "score_function" else SETTINGS[name]
    losses = ESTIMATORS[name](loss, ste.round_ste, theta, noise, **settings)
    torch.testing.assert_close(losses, loss(ste.round_half_up(theta + noise)))
    losses.mean().backward()
    assert theta.grad.shape == (4,) and theta.grad.isfinite().all()


def test_pathwise_differentiates_what_it_is_given():
    theta = some(5, 3).requires_grad_()
    noise = some(5, 3, seed=1)
    est.pathwise(loss, ste.round_ste, theta, noise).sum().backward()
    torch.testing.assert_close(theta.grad, 2 * (ste.round_half_up(theta.detach() + noise) - 0.3))


def test_the_score_function_is_loss_times_score():
    theta, noise = some(5, 3).requires_grad_(), some(5, 3, seed=1)
    score = est.gaussian_score(noise, 2.0)
    est.score_function(loss, ste.round_half_up, theta, noise, score, baseline=lambda losses: 1.5).sum().backward()
    value = loss(ste.round_half_up(theta.detach() + noise))
    torch.testing.assert_close(theta.grad, (value - 1.5)[:, None] * noise / 4)


def test_finite_differences_are_those_of_the_loss_with_the_same_noise():
    theta, noise = some(5, 3).requires_grad_(), some(5, 3, seed=1)
    est.finite_differences(lambda q: q.pow(3).sum(-1), torch.sin, theta, noise, 1e-4).sum().backward()
    z = theta.detach() + noise
    torch.testing.assert_close(theta.grad, 3 * torch.sin(z).square() * torch.cos(z), rtol=1e-6, atol=1e-6)


def test_scores_are_gradients_of_log_probabilities():
    logits = some(6, 4).requires_grad_()
    choice = F.one_hot(torch.tensor([0, 1, 2, 3, 0, 1]), 4).double()
    (choice * torch.log_softmax(logits, -1)).sum().backward()
    torch.testing.assert_close(est.categorical_score(logits.detach(), choice), logits.grad)
    mean = some(6).requires_grad_()
    noise = some(6, seed=1)
    torch.distributions.Normal(mean, 0.7).log_prob(mean.detach() + noise).sum().backward()
    torch.testing.assert_close(est.gaussian_score(noise, 0.7), mean.grad)


def test_leave_one_out_is_the_mean_of_the_others():
    losses = some(3, 5)
    wanted = torch.stack([losses[:, [j for j in range(5) if j != i]].mean(1) for i in range(5)], 1)
    torch.testing.assert_close(est.leave_one_out(losses), wanted)
    with pytest.raises(ValueError, match="two draws"):
        est.leave_one_out(losses[:, :1])


def test_the_moving_average_knows_nothing_of_the_present_losses():
    baseline = est.MovingAverage(decay=0.5)
    assert baseline(torch.tensor([4.0, 8.0])) == 0
    assert baseline(torch.tensor([0.0])) == pytest.approx(6)  # not pulled towards zero at the start
    assert baseline(torch.tensor([100.0])) == pytest.approx((0.5 * 6 + 0) / 1.5)


def test_gumbel_noise_draws_from_the_softmax():
    logits = some(5)
    drawn = ste.one_hot_argmax(logits + est.gumbel_noise((40_000, 5), torch.float64, generator=seeded()))
    torch.testing.assert_close(drawn.mean(0), torch.softmax(logits, -1), atol=0.015, rtol=0)


def test_gumbel_noise_is_finite_in_every_dtype():
    for dtype in (torch.float32, torch.float64):
        assert est.gumbel_noise((200_000,), dtype, generator=seeded()).isfinite().all()


def test_gumbel_softmax_is_the_softmax_of_noisy_logits_soft_and_straight_through():
    logits = some(9, 5).requires_grad_()
    g = some(9, 5, seed=1)
    scores = logits.detach() + est.gumbel_noise((9, 5), torch.float64, generator=seeded())
    weights = torch.softmax(scores / 0.4, -1)
    soft = est.gumbel_softmax(logits, 0.4, generator=seeded())
    hard = est.gumbel_softmax(logits, 0.4, hard=True, generator=seeded())
    torch.testing.assert_close(soft, weights)
    assert torch.equal(hard, F.one_hot(scores.argmax(-1), 5).double())
    wanted = weights * (g - (weights * g).sum(-1, keepdim=True)) / 0.4
    for draw in (soft, hard):
        torch.testing.assert_close(torch.autograd.grad(draw, logits, g)[0], wanted)


def test_signs_with_the_gradient_of_tanh():
    x = some(20).requires_grad_()
    hard, soft = est.sign_straight_through(x, 0.5), est.tanh_relaxation(x, 0.5)
    assert torch.equal(hard, ste.sign(x))
    for value in (hard, soft):
        wanted = (1 - torch.tanh(x.detach() / 0.5).square()) / 0.5
        torch.testing.assert_close(torch.autograd.grad(value.sum(), x)[0], wanted)


def test_gaussian_noise_is_reparameterised():
    y, std = torch.zeros(20_000, dtype=torch.float64, requires_grad=True), torch.tensor(0.5, requires_grad=True)
    noisy = est.gaussian_noise(y, std, seeded())
    assert abs(noisy.mean().item()) < 0.02 and abs(noisy.std().item() - 0.5) < 0.02
    noisy.sum().backward()
    assert y.grad.eq(1).all()
    torch.testing.assert_close(std.grad.double(), (noisy.detach() / 0.5).sum(), rtol=1e-4, atol=1e-3)


def test_the_temperature_falls_to_its_floor():
    temperatures = [est.exponential_temperature(step, rate=0.01) for step in (0, 10, 50, 1000)]
    assert temperatures[0] == 1 and temperatures[-1] == 0.5
    assert temperatures[1] == pytest.approx(0.9048374) and temperatures[2] == pytest.approx(0.6065307)
    assert temperatures == sorted(temperatures, reverse=True)
    with pytest.raises(ValueError, match="temperature above zero"):
        est.exponential_temperature(1, lowest=0.0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize(
    "function",
    [est.softmax_relaxation, est.argmax_straight_through, est.gumbel_softmax, est.reinmax, est.tanh_relaxation,
     est.sign_straight_through],
)  # fmt: skip
def test_temperatures_must_be_positive(function, temperature):
    with pytest.raises(ValueError, match="temperature must be positive"):
        function(some(3, 4), temperature)


def test_other_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="width of differences must be positive"):
        est.finite_differences(loss, ste.round_half_up, some(2), some(3, 2), 0.0)
    with pytest.raises(ValueError, match=r"in \[0, 1\), not 2"):
        est.MovingAverage(2)


def test_estimates_keep_the_shape_of_their_draws():
    theta, noise = some(2, 5, 3).requires_grad_(), some(2, 5, 3, seed=1)
    settings = {"pathwise": {}, "score_function": {"score": noise}, "finite_differences": {"width": 0.1}}
    for name, options in settings.items():
        losses = ESTIMATORS[name](loss, ste.round_ste, theta, noise, **options)
        assert losses.shape == (2, 5)
        (gradient,) = torch.autograd.grad(losses[1, 2], theta)
        assert gradient[1, 2].ne(0).any() and gradient[0].eq(0).all() and gradient[1, 3].eq(0).all(), name


def test_what_is_just_allowed():
    assert est.leave_one_out(torch.tensor([1.0, 5.0])).tolist() == [5, 1]
    assert est.leave_one_out(some(2, 3), dim=0).shape == (2, 3)
    assert est.exponential_temperature(7, rate=0.0, lowest=2.0, highest=2.0) == 2
    first = est.MovingAverage(0.0)
    assert [first(torch.tensor(v)) for v in (3.0, 4.0, 5.0)] == [0, 3, 4]
    for wrong in (1.0, -0.1):
        with pytest.raises(ValueError, match=r"in \[0, 1\)"):
            est.MovingAverage(wrong)
    for wrong in ({"lowest": 1.5}, {"rate": -1e-3}, {"lowest": -1.0}):
        with pytest.raises(ValueError, match="temperature above zero"):
            est.exponential_temperature(1, **wrong)


def test_what_is_not_said_is_as_in_the_papers():
    y, scores = torch.zeros(8, dtype=torch.float64), some(3, 4)
    noise = est.gaussian_noise(y, generator=seeded())
    torch.testing.assert_close(noise, torch.randn(8, generator=seeded(), dtype=torch.float64) / 12**0.5)
    assert est.exponential_temperature(1000) == pytest.approx(0.9048374) and est.exponential_temperature(10**6) == 0.5
    assert est.MovingAverage().decay == 0.99
    for function in (est.argmax_straight_through, est.sign_straight_through):
        grads = []
        for options in ({}, {"temperature": 1.0}):
            x = scores.clone().requires_grad_()
            grads += torch.autograd.grad((function(x, **options) * some(3, 4, seed=1)).sum(), x)
        assert torch.equal(*grads)
    drawn = [est.gumbel_softmax(scores, generator=seeded(), **options) for options in ({}, {"temperature": 1.0})]
    assert torch.equal(*drawn) and 0 < drawn[0].min() and drawn[0].max() < 1


# ReinMax, and the prior of a discrete VAE


def mean_gradient(logits, function, draw):
    """Expectation of the gradient of ``function`` (K,) -> scalar through ``draw(logits, choice)``, by enumeration."""
    p, total = torch.softmax(logits.detach(), -1), 0.0
    for k, choice in enumerate(torch.eye(len(logits), dtype=logits.dtype)):
        (grad,) = torch.autograd.grad(function(draw(logits, choice)), logits)
        total = total + p[k] * grad
    return total


def test_reinmax_is_exact_on_average_for_quadratic_losses_and_the_straight_through_estimator_for_linear_ones():
    logits, a, b = some(5).requires_grad_(), some(5, 5, seed=1), some(5, seed=2)

    def linear(d):
        return b @ d

    def quadratic(d):
        return d @ a @ d + b @ d

    def reinmax(logits, choice):
        return est.reinmax(logits, choice=choice)

    def softmax_ste(logits, choice):
        return ste.surrogate_gradient(choice, torch.softmax(logits, -1))

    for function, draw, exact in (
        (linear, reinmax, True), (quadratic, reinmax, True), (linear, softmax_ste, True),
        (quadratic, softmax_ste, False),
    ):  # fmt: skip
        values = torch.stack([function(d) for d in torch.eye(5, dtype=torch.float64)])
        (truth,) = torch.autograd.grad(torch.softmax(logits, -1) @ values, logits)
        found = mean_gradient(logits, function, draw)
        assert torch.allclose(found, truth, atol=1e-10) == exact


def test_reinmax_has_the_jacobians_of_its_paper():
    logits, g, temperature = some(4).requires_grad_(), some(4, seed=1), 1.5

    def jacobian(p):
        return torch.diag(p) - torch.outer(p, p)

    with torch.no_grad():
        p, cool = torch.softmax(logits, -1), torch.softmax(logits / temperature, -1)
    for choice in torch.eye(4, dtype=torch.float64):
        (found,) = torch.autograd.grad(est.reinmax(logits, temperature, choice), logits, g)
        torch.testing.assert_close(found, 2 * jacobian((choice + cool) / 2) @ g - jacobian(p) @ g / 2)


def test_reinmax_draws_one_hot_from_the_softmax():
    logits = some(5)
    drawn = est.reinmax(logits.expand(40_000, 5), generator=seeded())
    assert set(drawn.unique().tolist()) == {0, 1} and drawn.sum(-1).eq(1).all()
    torch.testing.assert_close(drawn.mean(0), torch.softmax(logits, -1), atol=0.015, rtol=0)


def test_the_divergence_from_the_uniform_prior():
    logits = 3 * some(6, 5)
    prior = torch.distributions.Categorical(logits=torch.zeros(6, 5, dtype=torch.float64))
    wanted = torch.distributions.kl_divergence(torch.distributions.Categorical(logits=logits), prior)
    torch.testing.assert_close(est.categorical_kl(logits), wanted)
    assert est.categorical_kl(torch.zeros(5)).item() == pytest.approx(0, abs=1e-6)
    sure = torch.tensor([0.0, 200.0, 0.0], requires_grad=True)
    est.categorical_kl(sure).backward()
    assert est.categorical_kl(sure).item() == pytest.approx(1.0986123, rel=1e-6) and sure.grad.isfinite().all()
