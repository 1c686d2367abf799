"""Weights and activations of few bits: grids, steps and gradients as defined, behind one interface."""

import pytest
import torch
import torch.nn.functional as F

from codec.quantise import (
    WEIGHT_QUANTISERS,
    ActivationQuantiser,
    QuantisedConv2d,
    QuantisedLinear,
    clip_binary_weights_,
    clip_weights_,
    initial_log_step,
    weight_quantiser,
    weights,
)

LIMITS = {"lsq": 7, "absmax": 7, "ternary": 1, "binary": 1, "xnor": 1}


def some(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", WEIGHT_QUANTISERS)
@pytest.mark.parametrize("shape", [(5, 12), (5, 3, 2, 2)])
def test_all_give_integers_and_a_positive_step_per_channel(name, shape):
    weight, limit = some(*shape).requires_grad_(), LIMITS[name]
    log_step = initial_log_step(weight, limit).requires_grad_()
    integers, step = WEIGHT_QUANTISERS[name](weight, log_step, limit)
    assert integers.shape == weight.shape and integers.abs().max() == limit
    assert torch.equal(integers, integers.round())
    assert step.shape == (5,) + (1,) * (len(shape) - 1) and (step > 0).all()
    (integers * step * some(*shape, seed=1)).sum().backward()
    assert weight.grad.isfinite().all() and weight.grad.abs().sum() > 0


def test_absmax_clips_nothing_and_passes_the_gradient_whole():
    weight = torch.tensor([[-3.0, 0.2, 1.0], [0.1, 0.05, -0.02]], requires_grad=True)
    integers, step = weights.absmax_weights(weight, limit=15)
    assert integers.tolist() == [[-15, 1, 5], [15, 8, -3]]
    assert step.flatten().tolist() == pytest.approx([0.2, 0.1 / 15])
    g = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    (integers * step).backward(g)
    torch.testing.assert_close(weight.grad, g)


@pytest.mark.parametrize("name", ["ternary", "binary", "xnor"])
def test_two_and_three_levels_refuse_other_limits(name):
    with pytest.raises(ValueError, match="limit 1, not 7"):
        WEIGHT_QUANTISERS[name](some(2, 3), torch.zeros(2), 7)


def test_binary_weights_are_signs_with_the_clipped_gradient():
    weight = torch.tensor([[-3.0, -0.5, 0.0, 0.4, 2.5]], requires_grad=True)
    log_step = torch.zeros(1, requires_grad=True)
    integers, step = weights.binary_weights(weight, log_step)
    assert integers.tolist() == [[-1, -1, 1, 1, 1]] and step.item() == 1
    g = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    (integers * step).backward(g)
    assert weight.grad.tolist() == [[0, 2, 3, 4, 0]]
    assert log_step.grad.item() == pytest.approx((-1 - 2 + 3 + 4 + 5) / 5**0.5)


def test_xnor_weights_have_the_gradient_of_the_product_rule():
    weight = some(3, 10).requires_grad_()
    g = some(3, 10, seed=1)
    integers, step = weights.xnor_weights(weight)
    assert torch.equal(step[:, 0], weight.abs().mean(1))
    (integers * step).backward(g)
    w = weight.detach()
    sign = torch.where(w < 0, -1.0, 1.0).double()
    through_sign = g * step.detach() * (w.abs() <= 1)
    through_step = (g * sign).sum(1, keepdim=True) * sign / 10
    torch.testing.assert_close(weight.grad, through_sign + through_step)


def test_xnor_steps_are_the_best_in_least_squares():
    weight = some(4, 50)
    integers, step = weights.xnor_weights(weight)
    errors = [(weight - integers * step * factor).square().sum(1) for factor in (0.95, 1.0, 1.05)]
    assert (errors[1] < errors[0]).all() and (errors[1] < errors[2]).all()


def test_ternary_weights_are_those_of_their_paper():
    weight = torch.tensor([[2.0, -1.0, 0.1, -0.5, 0.4]], requires_grad=True)  # mean magnitude 0.8, threshold 0.56
    integers, step = weights.ternary_weights(weight)
    assert integers.tolist() == [[1, -1, 0, 0, 0]] and step.item() == 1.5
    g = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    (integers * step).backward(g)
    common = (1.0 - 2.0) / 2  # the gradient of the step over the two weights that it is the mean of
    wanted = [1.5 * 1 + common, 1.5 * 2 - common, 1.5 * 3, 1.5 * 4, 1.5 * 5]
    assert weight.grad[0].tolist() == pytest.approx(wanted)


def test_the_threshold_of_ternary_weights_is_seven_tenths_of_the_mean_magnitude():
    weight = torch.tensor([[1.0, 1.0, 1.0, 0.75, 0.55]])  # mean 0.86: threshold 0.602
    assert weights.ternary_weights(weight)[0].tolist() == [[1, 1, 1, 1, 0]]
    assert weights.ternary_weights(torch.tensor([[1.0, 1.0, 1.0, 0.66, 0.55]]))[0].tolist() == [[1, 1, 1, 1, 0]]


def test_steps_start_at_the_largest_weight_or_where_the_paper_says():
    weight = torch.tensor([[4.0, 0.0, 0.0, -1.0], [0.5, -0.5, 0.5, 0.5]])
    # 8 bits: the largest weight is 127; 2 bits: 2 mean|w| / sqrt(1), unless the largest weight is less; signs: mean|w|.
    assert initial_log_step(weight, 127).exp().tolist() == pytest.approx([4 / 127, 0.5 / 127])
    assert initial_log_step(weight, 1).exp().tolist() == pytest.approx([2.5, 0.5])
    assert initial_log_step(weight, 1, signs=True).exp().tolist() == pytest.approx([1.25, 0.5])


def test_a_channel_of_zeros_stays_finite():
    weight = torch.zeros(2, 4, requires_grad=True)
    for name, quantise in WEIGHT_QUANTISERS.items():
        integers, step = quantise(weight, initial_log_step(weight, LIMITS[name]), LIMITS[name])
        assert (integers * step).isfinite().all()
        (grad,) = torch.autograd.grad((integers * step).sum(), weight)
        assert grad.isfinite().all()


def test_signs_have_a_gradient_up_to_the_step_and_no_further():
    weight = torch.tensor([[0.49, 0.5, 0.51, -0.55, -1.0]], requires_grad=True)
    integers, step = weights.binary_weights(weight, torch.tensor([0.5]).log())
    (integers * step).sum().backward()
    assert weight.grad.tolist() == [[1, 1, 0, 0, 0]]
    wide = torch.tensor([[0.99, 1.0, 1.01, -1.5, 0.0]], requires_grad=True)
    (through,) = torch.autograd.grad(weights.xnor_weights(wide)[0].sum(), wide)
    assert through.tolist() == [[1, 1, 0, 0, 1]]


def test_a_single_large_weight_is_its_own_step():
    for sign in (1.0, -1.0):
        integers, step = weights.ternary_weights(sign * torch.tensor([[5.0, 0.1, -0.1, 0.1], [0.1, 0.0, -4.0, 0.2]]))
        assert (sign * integers).tolist() == [[1, 0, 0, 0], [0, 0, -1, 0]] and step.flatten().tolist() == [5, 4]


def test_least_steps_are_those_of_a_channel_of_zeros():
    weight = torch.zeros(2, 4)
    assert initial_log_step(weight, 7).exp().tolist() == pytest.approx(2 * [1e-6 / 7])
    assert initial_log_step(weight, 1, signs=True).exp().tolist() == pytest.approx(2 * [1e-6])
    assert weights.absmax_weights(weight, limit=4)[1].flatten().tolist() == pytest.approx(2 * [2.5e-9])
    assert weights.ternary_weights(weight)[1].eq(0).all()
    for bits, step in ((1, 1e-6), (4, 1e-6)):
        quantise = ActivationQuantiser(bits)
        quantise(torch.zeros(2, 3))
        assert quantise.started and quantise.log_step.exp().item() == pytest.approx(step)


def test_bits_are_one_to_sixteen():
    assert weight_quantiser(16) == ("lsq", 32767) and ActivationQuantiser(16).high == 32767
    assert ActivationQuantiser(16, signed=False).high == 65535 and ActivationQuantiser(1, signed=False).low == -1
    for wrong in (0, 17):
        with pytest.raises(ValueError, match=f"1 to 16 bits, not {wrong}"):
            weight_quantiser(wrong)
        with pytest.raises(ValueError, match=f"1 to 16 bits, not {wrong}"):
            ActivationQuantiser(wrong)
    assert QuantisedLinear(3, 2).limit == 127 and QuantisedConv2d(3, 2, 1).quantiser == "lsq"


def test_steps_of_activations_learn_slowly_in_the_paper_s_proportion():
    """One over the root of what a picture has of them times the largest integer, for signs too."""
    x, g = some(4, 30).float(), some(4, 30, seed=1).float()
    for bits, high in ((1, 1), (3, 3)):
        quantise = ActivationQuantiser(bits)
        result = quantise(x)
        step, integers = quantise.log_step.detach().exp(), (result / quantise.log_step.exp()).detach()
        result.backward(g)
        inside = (x / step <= high) & (x / step >= -high - 1)
        slope = integers if bits == 1 else torch.where(inside, integers - x / step, integers)
        wanted = (30 * high) ** -0.5 * (g * slope).sum() * step
        torch.testing.assert_close(quantise.log_step.grad, wanted, rtol=1e-4, atol=1e-6)


def test_bits_name_a_quantiser_and_its_limit():
    assert [weight_quantiser(bits) for bits in (1, 2, 4, 8)] == [("binary", 1), ("lsq", 1), ("lsq", 7), ("lsq", 127)]
    with pytest.raises(ValueError, match="1 to 16 bits, not 0"):
        weight_quantiser(0)


@pytest.mark.parametrize("name", WEIGHT_QUANTISERS)
def test_layers_compute_with_their_quantised_weights_and_learn(name):
    torch.manual_seed(0)
    linear = QuantisedLinear(6, 4, name, LIMITS[name])
    conv = QuantisedConv2d(3, 4, 3, name, LIMITS[name], padding=1, bias=False)
    x, picture = torch.randn(5, 6), torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(linear(x), x @ linear.quantised_weight().T + linear.bias)
    torch.testing.assert_close(conv(picture), F.conv2d(picture, conv.quantised_weight(), padding=1))
    levels = len((linear.quantised_weight()[0]).detach().unique())
    assert levels <= 2 * LIMITS[name] + 1
    target = torch.randn(5, 4)
    optimiser = torch.optim.Adam(linear.parameters(), 0.02)
    losses = []
    for _ in range(200):
        loss = (linear(x) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        clip_weights_(linear)
        losses.append(loss.item())
    assert min(losses[-50:]) < 0.75 * losses[0]


def test_layers_refuse_unknown_quantisers():
    with pytest.raises(ValueError, match="no weight quantiser 'sign'; there are lsq, absmax, ternary, binary, xnor"):
        QuantisedLinear(2, 2, "sign")


@pytest.mark.parametrize("bits, signed, low, high", [(8, True, -128, 127), (4, False, 0, 15), (2, True, -2, 1)])
def test_activations_lie_on_their_grid(bits, signed, low, high):
    quantise, x = ActivationQuantiser(bits, signed), some(4, 1000).float()
    x = x if signed else x.relu()
    result = quantise(x)
    step = quantise.log_step.exp()
    assert step.item() == pytest.approx(2 * x.abs().mean().item() / high**0.5)
    integers = (result / step).round()
    torch.testing.assert_close(integers * step, result)
    assert integers.min() >= low and integers.max() <= high
    g = some(4, 1000, seed=1).float()
    result.backward(g)
    # LSQ: the rounding error inside the range, the bound outside; the step is the exponential of the parameter.
    ratio = x / step.detach()
    slope = torch.where(ratio < low, float(low), torch.where(ratio > high, float(high), integers.detach() - ratio))
    wanted = (1000 * high) ** -0.5 * (g * slope).sum() * step.detach()
    torch.testing.assert_close(quantise.log_step.grad, wanted, rtol=1e-4, atol=1e-5)


def test_one_bit_activations_are_signs_times_the_step():
    quantise, x = ActivationQuantiser(1), some(3, 100).float().requires_grad_()
    result = quantise(x)
    step = x.detach().abs().mean()
    torch.testing.assert_close(result.abs(), step.expand_as(result))
    result.sum().backward()
    torch.testing.assert_close(x.grad, (x.detach().abs() <= step).float())


def test_the_first_training_batch_sets_the_step_and_evaluation_does_not():
    quantise = ActivationQuantiser(4)
    quantise.eval()(torch.ones(2, 3))
    assert quantise.log_step.item() == 0 and not quantise.started
    quantise.train()(torch.ones(2, 3))
    first = quantise.log_step.item()
    quantise(5 * torch.ones(2, 3))
    assert quantise.log_step.item() == first != 0


# Signs that can change


def test_clipping_keeps_signs_and_reaches_the_border_of_the_step():
    weight, log_step = some(6, 50), some(6, seed=1)
    step = log_step.exp()[:, None]
    clipped = clip_binary_weights_(weight.clone(), log_step)
    torch.testing.assert_close(clipped, weight.sign() * torch.minimum(weight.abs(), step), rtol=0, atol=0)
    assert (clipped != weight).any() and (clipped == weight).any()
    again = weight.clone()
    assert clip_binary_weights_(again) is again and torch.equal(again, weight.clamp(-1, 1))


@pytest.mark.parametrize("name", ["binary", "xnor"])
def test_clipped_weights_all_have_a_gradient(name):
    torch.manual_seed(0)
    layer = QuantisedLinear(40, 30, name, 1)
    for _ in range(2):
        layer.zero_grad()
        (layer.quantised_weight() * torch.randn(30, 40)).sum().backward()
        assert layer.weight.grad.ne(0).all()
        with torch.no_grad():
            layer.weight.copy_(5 * layer.weight.sign())
        layer.zero_grad()
        layer.quantised_weight().sum().backward()
        if name == "binary":
            assert layer.weight.grad.eq(0).all()  # all outside
        clip_weights_(layer)


def test_with_clipping_signs_change_and_a_network_of_signs_learns_more():
    def error_and_changes(clip):
        torch.manual_seed(0)
        student = torch.nn.Sequential(
            QuantisedLinear(16, 32, "binary", 1), torch.nn.ReLU(), QuantisedLinear(32, 32, "binary", 1),
            torch.nn.ReLU(), QuantisedLinear(32, 4, "binary", 1),
        )  # fmt: skip
        teacher = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 4))
        before = [layer.weight.detach().sign() for layer in student if isinstance(layer, QuantisedLinear)]
        optimiser = torch.optim.Adam(student.parameters(), 3e-3)
        losses = []
        for _ in range(400):
            x = torch.randn(64, 16)
            loss = (student(x) - teacher(x).detach()).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if clip:
                clip_weights_(student)
            losses.append(loss.item())
        after = [layer.weight.detach().sign() for layer in student if isinstance(layer, QuantisedLinear)]
        changed = torch.cat([(a != b).flatten() for a, b in zip(before, after)]).float().mean().item()
        return sum(losses[-50:]) / 50, changed

    clipped, changed = error_and_changes(True)
    free, seldom = error_and_changes(False)
    assert changed > seldom and clipped < free


def test_a_first_batch_that_is_not_finite_sets_no_step():
    quantise, x = ActivationQuantiser(4), some(3, 20).float()
    for bad in (float("nan"), float("inf")):
        quantise(torch.full((3, 20), bad))
        assert not quantise.started
    quantise(torch.zeros(0, 20))
    assert not quantise.started and quantise.log_step.item() == 0
    quantise(x)
    assert quantise.started and quantise.log_step.exp().item() == pytest.approx(2 * x.abs().mean().item() / 7**0.5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_activations_keep_their_dtype(dtype):
    for bits in (1, 4):
        quantise, x = ActivationQuantiser(bits), some(4, 10).to(dtype).requires_grad_()
        result = quantise(x)
        result.sum().backward()
        assert result.dtype == x.grad.dtype == dtype and quantise.log_step.grad.isfinite()


def test_integers_need_a_limit_of_one_at_least():
    with pytest.raises(ValueError, match="1 or more, not 0"):
        weights.quantise_weights(some(2, 3), torch.zeros(2), 0)
