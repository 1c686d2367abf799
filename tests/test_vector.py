"""Codebooks: against their formulas, the NumPy reference, and the library vector-quantize-pytorch."""

import numpy as np
import pytest
import torch

from codec.quantise import FiniteScalarQuantiser, ResidualVectorQuantiser, VectorQuantiser, reference


def latents(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantiser(**options):
    options = {"restart_below": 0.0, "generator": torch.Generator().manual_seed(1), **options}
    vq = VectorQuantiser(8, 3, **options)
    with torch.no_grad():
        vq.codebook.copy_(latents(8, 3, seed=2))
    return vq


def test_every_position_gets_its_nearest_entry_and_the_gradient_passes():
    vq, z = quantiser().eval(), latents(2, 3, 4, 5).requires_grad_()
    found = vq(z)
    wanted, indices = reference.straight_through_quantise(z.detach().movedim(1, -1).numpy(), vq.codebook.numpy())
    assert np.array_equal(found.indices.numpy(), indices)
    assert np.array_equal(found.z_q.detach().movedim(1, -1).numpy(), wanted)
    assert torch.equal(vq.decode(found.indices), found.z_q.detach())
    g = latents(2, 3, 4, 5, seed=3)
    assert torch.equal(torch.autograd.grad(found.z_q, z, g)[0], g)


def test_losses_have_the_gradients_of_the_reference():
    vq, z = quantiser(update="loss", commitment=0.3).eval(), latents(50, 3).requires_grad_()
    found = vq(z)
    found.loss.backward()
    codebook, vectors = vq.codebook.detach().numpy(), z.detach().numpy()
    commitment, pull = reference.commitment_loss(vectors, codebook[found.indices], 0.3)
    moving, grad = reference.codebook_loss(vectors, codebook, found.indices.numpy())
    assert found.loss.item() == pytest.approx(commitment + moving)
    np.testing.assert_allclose(z.grad.numpy(), pull, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(vq.codebook.grad.numpy(), grad, rtol=1e-5, atol=1e-8)


def test_moving_averages_agree_with_the_reference():
    vq = quantiser(decay=0.8)
    start = vq.codebook.clone().double().numpy()
    counts = np.full(8, 50 / 8)
    codebook, sums = start, start * counts[:, None]
    for seed in range(5):
        z = latents(50, 3, seed=10 + seed)
        indices = vq(z).indices.numpy()
        codebook, counts, sums = reference.ema_update(codebook, counts, sums, z.double().numpy(), indices, 0.8)
    assert not np.allclose(codebook, start, atol=0.01)
    np.testing.assert_allclose(vq.codebook.numpy(), codebook, rtol=1e-4, atol=1e-5)


def test_evaluation_changes_nothing():
    vq = quantiser().eval()
    before = {name: t.clone() for name, t in vq.state_dict().items()}
    vq(latents(20, 3))
    assert all(torch.equal(t, before[name]) for name, t in vq.state_dict().items())


def test_averages_converge_to_the_means_of_clusters():
    vq = quantiser(decay=0.8)
    centres = 10 * vq.codebook + latents(8, 3, seed=5)
    with torch.no_grad():
        vq.codebook.mul_(10)
    for seed in range(60):
        z = centres.repeat(16, 1) + 0.01 * latents(128, 3, seed=seed)
        found = vq(z)
    nearest = torch.cdist(centres, vq.codebook).amin(1)
    assert nearest.max() < 0.1
    assert found.perplexity.item() == pytest.approx(8, rel=1e-3)


@pytest.mark.parametrize("update", ["ema", "loss"])
def test_dead_entries_restart_at_vectors_of_the_batch(update):
    vq = quantiser(update=update, decay=0.5, restart_below=0.05)
    z = latents(64, 3)
    vq(z)
    with torch.no_grad():
        vq.codebook[:4] = 1000.0  # far from everything
        vq.sums[:4] = 1000.0 * vq.counts[:4, None]
    perplexities = [vq(z).perplexity.item() for _ in range(10)]
    assert perplexities[0] <= 4 < perplexities[-1]
    assert vq.codebook.abs().max() < 10


def test_without_restart_dead_entries_stay():
    vq = quantiser(decay=0.5)
    vq(latents(64, 3))
    with torch.no_grad():
        vq.codebook[0] = 1000.0
        vq.sums[0] = 1000.0 * vq.counts[0]
    for _ in range(60):
        vq(latents(64, 3))
    assert vq.codebook[0].tolist() == pytest.approx([1000.0] * 3)


def test_perplexity_counts_the_entries_in_use():
    vq = quantiser().eval()
    assert vq(vq.codebook.clone()).perplexity.item() == pytest.approx(8)
    assert vq(vq.codebook[:1].repeat(9, 1)).perplexity.item() == pytest.approx(1)


def test_an_unknown_update_is_refused():
    with pytest.raises(ValueError, match="'ema' or 'loss', not 'adam'"):
        VectorQuantiser(4, 2, update="adam")


def test_residual_stages_add_up_and_each_lowers_the_error():
    rvq = ResidualVectorQuantiser(4, 16, 3, decay=0.8, generator=torch.Generator().manual_seed(0))
    z = latents(4, 3, 8, 8).requires_grad_()
    for _ in range(20):
        rvq(z)
    found = rvq.eval()(z)
    assert found.indices.shape == (4, 4, 8, 8) and found.perplexity.shape == (4,)
    torch.testing.assert_close(rvq.decode(found.indices), found.z_q.detach())
    errors = [(rvq.decode(found.indices[:n]) - z).square().mean().item() for n in range(1, 5)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.25 * errors[0]
    g = latents(4, 3, 8, 8, seed=1)
    assert torch.equal(torch.autograd.grad(found.z_q, z, g, retain_graph=True)[0], g)  # once, not once a stage
    assert found.loss.requires_grad


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (2, 3), (7,), (4, 4)])
def test_every_level_of_a_scalar_grid_is_reached_and_numbered(levels):
    fsq = FiniteScalarQuantiser(levels)
    found = fsq(6 * latents(20_000, len(levels)))
    assert fsq.codes == np.prod(levels)
    for dimension, count in enumerate(levels):
        assert len(found.z_q[:, dimension].unique()) == count
    assert found.z_q.abs().max() <= 1
    every = torch.arange(fsq.codes)
    assert len(fsq.decode(every).unique(dim=0)) == fsq.codes
    torch.testing.assert_close(fsq.decode(found.indices), found.z_q)


def test_scalar_grids_have_the_gradient_of_their_squashing():
    fsq, z = FiniteScalarQuantiser((5, 4)), latents(10, 2).double().requires_grad_()
    fsq(z).z_q.sum().backward()
    reach = torch.tensor([4, 3]) * (1 + 1e-3) / 2
    shift = torch.atanh(torch.tensor([0.0, 0.5]) / reach)
    wanted = reach * (1 - torch.tanh(z.detach() + shift).square()) / 2
    torch.testing.assert_close(z.grad, wanted.double(), rtol=1e-5, atol=1e-7)


def test_a_grid_needs_two_levels_everywhere():
    with pytest.raises(ValueError, match="two levels or more"):
        FiniteScalarQuantiser((8, 1))


# --- The referee ---------------------------------------------------------------------------------------------------


def test_the_library_vector_quantize_pytorch_finds_the_same():
    library = pytest.importorskip("vector_quantize_pytorch")
    theirs = library.VectorQuantize(dim=3, codebook_size=8, decay=0.8, commitment_weight=0.25)
    ours = quantiser(decay=0.8)
    inside = theirs._codebook
    with torch.no_grad():
        inside.embed.copy_(ours.codebook[None])
        inside.cluster_size.fill_(50 / 8)
        inside.embed_avg.copy_(ours.codebook[None] * 50 / 8)
    for seed in range(3):
        z = latents(1, 50, 3, seed=seed)
        their_z_q, their_indices, their_loss = theirs(z)
        found = ours(z.transpose(1, 2))
        assert torch.equal(found.indices, their_indices)
        torch.testing.assert_close(found.z_q.transpose(1, 2), their_z_q)
        torch.testing.assert_close(found.loss, their_loss.reshape(()))
    torch.testing.assert_close(ours.codebook, inside.embed[0], rtol=1e-3, atol=1e-4)  # they smooth the counts


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (7, 3)])
def test_the_library_vector_quantize_pytorch_has_the_same_scalar_grid(levels):
    library = pytest.importorskip("vector_quantize_pytorch")
    theirs, ours = library.FSQ(list(levels)), FiniteScalarQuantiser(levels)
    z = 2 * latents(1, 500, len(levels))
    their_z_q, their_indices = theirs(z)
    found = ours(z.transpose(1, 2))
    torch.testing.assert_close(found.z_q.transpose(1, 2), their_z_q)
    assert torch.equal(found.indices, their_indices.long())
