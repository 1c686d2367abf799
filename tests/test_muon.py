import pytest
import torch

from codec.training.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(6, 6), (5, 9), (4, 40)])
def test_singular_values_come_near_one_and_directions_stay(shape):
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float()
    out = orthogonalised(x)
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    kept = torch.einsum("bmi,bmn,bin->bi", u, out, v)  # how much of each singular direction there is
    strong = s > 0.1 * s[:, :1]
    assert kept[strong].min() > 0.6 and kept[strong].max() < 1.3
    rest = out - torch.einsum("bmi,bi,bin->bmn", u, kept, v)
    assert rest.abs().max() < 0.05


def test_wide_matrices_by_their_gram_matrix_are_the_same():
    x = torch.randn(2, 4, 40, generator=torch.Generator().manual_seed(1))
    wide = orthogonalised(x)
    y = x / x.flatten(1).norm(dim=1)[:, None, None]
    for _ in range(5):
        a = y @ y.mT
        y = 3.4445 * y + (-4.7750 * a + 2.0315 * a @ a) @ y
    torch.testing.assert_close(wide, y, atol=1e-4, rtol=1e-3)


def parameters(*shapes):
    torch.manual_seed(2)
    found = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    for p in found:
        p.grad = torch.randn_like(p)
    return found


def test_matrices_of_one_shape_step_as_each_alone_does():
    together = parameters((8, 6), (8, 6), (6, 8), (5, 3, 3, 3))
    alone = parameters((8, 6), (8, 6), (6, 8), (5, 3, 3, 3))
    optimiser, others = Muon(together), [Muon([p]) for p in alone]
    for _ in range(3):
        optimiser.step()
        for other in others:
            other.step()
    for p, q in zip(together, alone):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-4)


def test_a_step_does_not_depend_on_the_order_of_memory():
    (p,), (q,) = parameters((5, 4, 3, 3)), parameters((5, 4, 3, 3))
    q.data = q.data.contiguous(memory_format=torch.channels_last)
    for gradient in (q.grad, q.grad.contiguous(memory_format=torch.channels_last)):
        q.grad = gradient
        for each in (p, q):
            Muon([each]).step()
    torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(16, 16), (16, 64)])
def test_half_precision_moves_singular_values_as_float32_does(shape):
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(4))
    exact, half = orthogonalised(x), orthogonalised(x.bfloat16()).float()
    assert (exact - half).norm() < 0.05 * exact.norm()


def test_a_step_has_the_spectral_norm_that_it_should():
    (p,) = parameters((4, 64))
    before = p.detach().clone()
    Muon([p], lr=0.01, size=0.5).step()
    norms = torch.linalg.svdvals(before - p.detach())
    expected = 32 * 0.01 * 0.5 * (4 / 64) ** 0.5
    assert 0.6 * expected < norms.min() and norms.max() < 1.3 * expected
    # Downhill: against the gradient, which is the momentum of a first step.
    assert ((before - p.detach()) * p.grad).sum() > 0


def test_momentum_is_nesterovs():
    (p,) = parameters((3, 3))
    optimiser = Muon([p], momentum=0.5)
    first = p.grad.clone()
    optimiser.step()
    p.grad = torch.randn(3, 3)
    optimiser.step()
    torch.testing.assert_close(optimiser.state[p]["momentum"], 0.5 * first + p.grad)


def test_a_step_unless_said_otherwise():
    """0.3 of the 32 lr sqrt(outputs / inputs) at lr = 0.003, by the momentum of Jordan et al., 0.95, one step ahead."""
    (p,) = parameters((9, 4))
    expected, first, second = p.detach().clone(), p.grad.clone(), torch.randn(9, 4)
    optimiser = Muon([p])
    optimiser.step()
    p.grad = second
    optimiser.step()
    for gradient, momentum in ((first, first), (second, 0.95 * first + second)):
        (direction,) = orthogonalised((gradient + 0.95 * momentum).T[None], 5)
        expected -= 32 * 0.003 * 0.3 * (9 / 4) ** 0.5 * direction.T
    torch.testing.assert_close(p.detach(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch before 2.9")
def test_pytorch_s_muon_goes_the_same_way():
    ((p,), (q,)) = parameters((8, 8)), parameters((8, 8))
    ours, theirs = Muon([p]), torch.optim.Muon([q], lr=32 * 0.003 * 0.3, weight_decay=0.0)
    begun, gradients = p.detach().clone(), torch.randn(6, 8, 8, generator=torch.Generator().manual_seed(3))
    for gradient in gradients:
        p.grad, q.grad = gradient.clone(), gradient.clone()
        ours.step(), theirs.step()
    assert (p - q).norm() < 0.03 * (q - begun).norm()  # theirs iterate in bfloat16


def test_parameters_without_a_gradient_stay():
    (p,) = parameters((3, 3))
    p.grad = None
    before = p.detach().clone()
    Muon([p]).step()
    assert torch.equal(p, before)
