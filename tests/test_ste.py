"""Straight-through estimators: the value of the quantiser, the gradient of the definition, and NumPy's opinion."""

import functools
import math

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


def test_the_bounds_of_a_clip_pass_the_gradient():
    x = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0, float("nan")])
    sign = functools.partial(ste.sign_ste, clip=1.0)
    for function in (lambda x: ste.clip(x, -1, 1), lambda x: ste.clipped_round_ste(x, -1, 1), sign):
        _, grad = gradient(function, x, torch.ones(6))
        assert grad[:5].tolist() == [0, 1, 1, 1, 0]
    value, _ = gradient(lambda x: ste.clip(x, -1, 1), x, torch.ones(6))
    assert value[:5].tolist() == [-1, -1, 0, 1, 1] and value[5].isnan()


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


def test_the_step_of_lsq_is_that_of_finite_differences_with_the_rounding_error_held():
    """Rounding passed straight through: ``s (x / s + c)`` with the error c = round(x / s) - x / s as a constant."""
    generator = torch.Generator().manual_seed(0)
    x, g = (torch.randn(200, generator=generator, dtype=torch.float64) for _ in range(2))
    s, h = 0.4, 1e-6
    error = ste.round_half_up(x / s) - x / s
    up, down = ((g * torch.where(x / t < -4, -4.0 * t, torch.where(x / t > 3, 3.0 * t, t * (x / t + error)))).sum()
                for t in (s + h, s - h))  # fmt: skip
    step = torch.tensor(s, dtype=torch.float64, requires_grad=True)
    (g * ste.lsq(x, step, -4, 3)).sum().backward()
    assert (x / s < -4).any() and (x / s > 3).any()
    assert step.grad.item() == pytest.approx(((up - down) / (2 * h)).item(), rel=1e-6)


def test_nearest_entries_agree_with_numpy():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3, 7, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    codebook = torch.randn(16, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    z_q, indices = ste.nearest_ste(z, codebook)
    wanted, wanted_indices = reference.straight_through_quantise(z.detach().numpy(), codebook.detach().numpy())
    every = np.square(z.detach().numpy()[..., None, :] - codebook.detach().numpy()).sum(-1)
    assert np.array_equal(wanted_indices, every.argmin(-1))
    assert np.array_equal(indices.numpy(), wanted_indices)
    assert np.array_equal(z_q.detach().numpy(), wanted)
    g = torch.randn(z.shape, generator=generator, dtype=torch.float64)
    z_q.backward(g)
    assert np.array_equal(z.grad.numpy(), reference.ste_backward(grad_output=g.numpy()))
    assert codebook.grad is None


def test_clipped_rounding_agrees_with_numpy():
    x = np.random.default_rng(0).normal(0, 3, 500)
    found, grad = gradient(lambda x: ste.clipped_round_ste(x, -3, 2), torch.tensor(x), torch.tensor(2 * x))
    assert np.array_equal(found.numpy(), np.clip(reference.round_half_up(x), -3, 2))
    assert np.array_equal(grad.numpy(), reference.clipped_ste_backward(grad_output=2 * x, x=x, low=-3, high=2))


def test_the_first_of_equally_near_entries_is_taken_by_both():
    codebook = [[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]
    z = [[0.0, 3.0], [2.0, 0.0], [-2.0, 0.0]]
    assert reference.straight_through_quantise(z, codebook)[1].tolist() == [0, 0, 1]
    assert ste.nearest(torch.tensor(z), torch.tensor(codebook)).tolist() == [0, 0, 1]


# Searches at an offset, in half precision, at large integers


@pytest.mark.parametrize("offset, dtype", [(1000.0, torch.float32), (1e5, torch.float32), (100.0, torch.float16),
                                           (30.0, torch.bfloat16), (1000.0, torch.float64)])  # fmt: skip
def test_a_common_offset_does_not_change_the_nearest_entry(offset, dtype):
    generator = torch.Generator().manual_seed(0)
    z = (offset + torch.randn(2000, 8, generator=generator)).to(dtype)
    codebook = (offset + torch.randn(64, 8, generator=generator)).to(dtype)
    codebook[5] = 10 * offset  # one that nobody uses, far away
    distances = (z.double()[:, None] - codebook.double()).square().sum(-1)
    found = ste.nearest(z, codebook)
    chosen = distances.gather(1, found[:, None])[:, 0]
    assert ((chosen - distances.amin(1)) <= 1e-5 * distances.amin(1)).all()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ste.nearest(z, codebook), found)


@pytest.mark.parametrize("spread", [1e-3, 1e-2, 30.0])
def test_an_offset_costs_nothing_whatever_the_spread(spread):
    """Entries around 100 that differ in the third decimal: squares around 30 000 would hold no more than that."""
    generator = seeded()
    codebook = 100 + spread * torch.randn(32, 3, generator=generator)
    z = 100 + spread * torch.randn(500, 3, generator=generator)
    distances = (z.double()[:, None] - codebook.double()).square().sum(-1)
    chosen = distances.gather(1, ste.nearest(z, codebook)[:, None])[:, 0]
    assert ((chosen - distances.amin(1)) <= 1e-4 * distances.amin(1) + 1e-9 * spread**2).all()


def test_dimensions_that_do_not_vary_do_not_disturb_the_search():
    z, codebook = torch.tensor([[1e6, 0.1], [1e6, 0.9]]), torch.tensor([[1e6, 0.0], [1e6, 1.0]])
    assert ste.nearest(z, codebook).tolist() == [0, 1]


def test_groups_and_penalties_of_a_search():
    generator = torch.Generator().manual_seed(0)
    z, codebook = torch.randn(3, 4, 5, 2, generator=generator), torch.randn(3, 7, 2, generator=generator)
    penalty = torch.rand(7, generator=generator)
    distances = (z[:, :, :, None] - codebook[:, None, None]).square().sum(-1)
    assert torch.equal(ste.nearest(z, codebook), distances.argmin(-1))
    assert torch.equal(ste.nearest(z, codebook, penalty), (distances + penalty).argmin(-1))
    assert torch.equal(ste.nearest(z[0], codebook[0], penalty), (distances[0] + penalty).argmin(-1))
    assert torch.equal(ste.nearest(z[1, 2, 3], codebook[1]), distances[1, 2, 3].argmin(-1))
    assert ste.nearest(z[:, :, :0], codebook).shape == (3, 4, 0)


def test_entries_have_the_dtype_of_the_vectors():
    z = torch.randn(5, 2, dtype=torch.bfloat16, requires_grad=True)
    z_q, _ = ste.nearest_ste(z, torch.randn(4, 2))
    z_q.sum().backward()
    assert z_q.dtype == z.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_integers_are_their_own_nearest_in_every_dtype(dtype):
    largest = 2.0 ** (9 if dtype == torch.bfloat16 else 12)
    integers = torch.arange(-largest, largest + 1, dtype=torch.float64).to(dtype)  # rounds, to other integers
    assert torch.equal(ste.round_half_up(integers), integers)
    below_half = torch.nextafter(torch.tensor(0.5, dtype=dtype), torch.tensor(0.0, dtype=dtype))
    assert ste.round_half_up(below_half) == 0 and ste.round_half_up(-below_half) == 0
    assert ste.round_half_up(torch.tensor([0.5, -0.5, 63.5, -63.5], dtype=dtype)).tolist() == [1, 0, 64, -63]
    limits = torch.tensor([float("inf"), -float("inf"), float("nan")], dtype=dtype)
    assert torch.equal(ste.round_half_up(limits).isnan(), limits.isnan())
    assert ste.round_half_up(limits)[:2].tolist() == [float("inf"), -float("inf")]
    if dtype != torch.bfloat16:  # which NumPy lacks
        assert np.array_equal(reference.round_half_up(integers.numpy()), integers.numpy())
        assert reference.round_half_up(below_half.numpy()) == 0


@pytest.mark.parametrize("function", [ste.straight_through, ste.surrogate_gradient, ste.rotation_trick])
def test_shapes_must_agree(function):
    with pytest.raises(ValueError, match=r"shapes must agree, found \(4, 3\) and \(3,\)|\(3,\) and \(4, 3\)"):
        function(torch.zeros(4, 3, requires_grad=True), torch.zeros(3))


def test_scaling_a_gradient_leaves_the_value_alone():
    x = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    value, grad = gradient(lambda x: ste.scale_gradient(x, 0.037), x, torch.ones_like(x))
    assert torch.equal(value, x)
    torch.testing.assert_close(grad, torch.full_like(x, 0.037))


def test_searches_are_in_full_precision_and_leave_the_setting_alone():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            with ste.full_precision("cpu"):
                assert torch.get_float32_matmul_precision() == "highest" and not torch.is_autocast_enabled("cpu")
                assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
            assert torch.get_float32_matmul_precision() == "medium" and torch.is_autocast_enabled("cpu")
        with pytest.raises(KeyError), ste.full_precision("cpu"):
            raise KeyError
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_penalties_of_each_vector_and_each_group():
    z, codebook = torch.randn(3, 5, 2, generator=seeded()), torch.randn(3, 7, 2, generator=seeded(1))
    penalty = 3 * torch.rand(3, 5, 7, generator=seeded(2))
    distances = (z[:, :, None] - codebook[:, None]).square().sum(-1)
    found = ste.nearest(z, codebook, penalty)
    assert torch.equal(found, (distances + penalty).argmin(-1)) and not torch.equal(found, distances.argmin(-1))
    assert torch.equal(ste.nearest(z[1], codebook[1], penalty[1]), found[1])
    assert torch.equal(ste.nearest(z[1], codebook[1], penalty[1, :1]), (distances[1] + penalty[1, :1]).argmin(-1))


def test_thresholds_belong_to_zero_and_to_the_upper_sign():
    x = torch.tensor([-0.5, -0.0, 0.0, 0.5, 0.75, -0.75])
    assert ste.ternary_ste(x).tolist() == [0, 0, 0, 0, 1, -1]
    assert ste.ternary_ste(x, torch.tensor(0.75)).eq(0).all()
    assert ste.sign_ste(x).tolist() == [-1, 1, 1, 1, 1, -1]
    for temperature in (1e-30, 1e30):
        assert ste.positive_temperature(temperature) == temperature
    with pytest.raises(ValueError, match="positive and finite, found inf"):
        ste.positive_temperature(float("inf"))


# Stochastic


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


LEVELS = torch.tensor([-1.3, -0.7, -0.2, 0.0, 0.4, 0.75, 2.0], dtype=torch.float64)


@pytest.mark.parametrize(
    "function, mean, slope, values",
    [
        (ste.stochastic_round_ste, LEVELS, torch.ones(7), {-2, -1, 0, 1, 2}),
        (ste.stochastic_sign_ste, LEVELS.clamp(-1, 1), torch.tensor([0, 1, 1, 1, 1, 1, 0]), {-1, 1}),
        (ste.stochastic_binary_ste, torch.sigmoid(LEVELS), torch.sigmoid(LEVELS) * torch.sigmoid(-LEVELS), {0, 1}),
        (lambda x, generator: ste.stochastic_binary_ste(x, "identity", generator), torch.sigmoid(LEVELS),
         torch.ones(7), {0, 1}),
    ],
    ids=["round", "sign", "binary", "binary, identity"],
)  # fmt: skip
def test_draws_have_their_mean_and_gradients_their_slope(function, mean, slope, values):
    x = LEVELS.expand(40_000, 7).clone().requires_grad_()
    drawn = function(x, generator=seeded())
    assert set(drawn.unique().tolist()) == values
    error = drawn.var(0).clamp_min(1e-12).sqrt() / 200
    assert ((drawn.mean(0) - mean).abs() <= 4 * error).all()
    g = torch.randn(x.shape, generator=seeded(1), dtype=torch.float64)
    (grad,) = torch.autograd.grad(drawn, x, g)
    torch.testing.assert_close(grad, g * slope.double())
    assert torch.equal(drawn, function(x, generator=seeded()))
    assert not torch.equal(drawn, function(x, generator=seeded(2)))


def test_stochastic_rounding_leaves_integers_and_keeps_the_dtype():
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        integers = torch.arange(-300.0, 301.0).to(dtype)
        assert torch.equal(ste.stochastic_round_ste(integers, seeded()), integers)
    # 67 expected; draws in bfloat16 would have steps of 1/256.
    rare = ste.stochastic_binary_ste(torch.full((200_000,), -8.0, dtype=torch.bfloat16), generator=seeded())
    assert rare.dtype == torch.bfloat16 and 30 < rare.float().sum() < 110


def test_an_unknown_slope_is_refused():
    with pytest.raises(ValueError, match="'identity' or of the 'sigmoid', not 'tanh'"):
        ste.stochastic_binary_ste(torch.zeros(2), "tanh")


# The rotation trick


def rotation(source, target):
    """The matrix that takes source to target, built from the plane that both span: by hand, without Householder."""
    scale = target.norm() / source.norm()
    e, q = source / source.norm(), target / target.norm()
    u = q - (q @ e) * e
    u = u / u.norm()
    c, s = q @ e, q @ u
    plane = c * (torch.outer(e, e) + torch.outer(u, u)) + s * (torch.outer(u, e) - torch.outer(e, u))
    return scale * (torch.eye(len(e), dtype=e.dtype) - torch.outer(e, e) - torch.outer(u, u) + plane)


def test_the_rotation_trick_is_the_rotation_in_the_plane_of_both():
    z, z_q, g = (torch.randn(20, 5, generator=seeded(seed), dtype=torch.float64) for seed in range(3))
    z.requires_grad_()
    z_q.requires_grad_()
    found = ste.rotation_trick(z, z_q)
    assert torch.equal(found, z_q)
    found.backward(g)
    assert z_q.grad is None
    (nested,) = torch.autograd.grad(ste.rotation_trick(z.view(4, 5, 5), z_q.view(4, 5, 5)), z, g.view(4, 5, 5))
    torch.testing.assert_close(nested, z.grad)
    for i in range(20):
        matrix = rotation(z[i].detach(), z_q[i].detach())
        torch.testing.assert_close(matrix @ z[i].detach(), z_q[i].detach())
        torch.testing.assert_close(z.grad[i], matrix.T @ g[i])


def test_where_there_is_no_rotation_the_gradient_passes():
    z = torch.tensor([[0.0, 0.0], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0]], requires_grad=True)
    z_q = torch.tensor([[1.0, 1.0], [0.0, 0.0], [-1.0, -2.0], [2.0, 4.0]])
    g = torch.tensor([[1.0, -2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    ste.rotation_trick(z, z_q).backward(g)
    torch.testing.assert_close(z.grad, g * torch.tensor([[1.0], [1.0], [1.0], [2.0]]))


@pytest.mark.parametrize(
    "length, angle, turns",
    [(1e-17, 1.0, True), (1e-20, 1.0, False), (1.0, 0.05, True), (1.0, 5e-4, False), (3e15, 2.0, True)],
)
def test_rotations_of_short_and_of_nearly_opposite_vectors(length, angle, turns):
    """Short: up to the root of the smallest float32, 1.1e-19. ``angle`` is what is missing to half a turn."""
    z = torch.tensor([[length, 0.0]], requires_grad=True)
    z_q = torch.tensor([[-math.cos(angle), math.sin(angle)]])
    g = torch.tensor([[2.0, 3.0]])
    (found,) = torch.autograd.grad(ste.rotation_trick(z, z_q), z, g)
    # R takes (1, 0) to z_q; transposed, the first number is the product of g and z_q.
    turned = torch.stack([(g * z_q).sum(), -g[0, 0] * z_q[0, 1] + g[0, 1] * z_q[0, 0]])[None] / length
    torch.testing.assert_close(found, turned if turns else g, rtol=1e-4, atol=0.0)


def test_the_library_vector_quantize_pytorch_turns_gradients_alike():
    library = pytest.importorskip("vector_quantize_pytorch.vector_quantize_pytorch")
    z, z_q, g = (torch.randn(50, 4, generator=seeded(seed), dtype=torch.float64) for seed in range(3))
    z.requires_grad_()
    (ours,) = torch.autograd.grad(ste.rotation_trick(z, z_q), z, g)
    (theirs,) = torch.autograd.grad(library.rotate_to(z, z_q), z, g)
    torch.testing.assert_close(ours, theirs)
