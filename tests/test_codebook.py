"""Codebooks: against their formulas, the NumPy reference, and the library vector-quantize-pytorch."""

import copy
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from codec.quantise import (
    CategoricalQuantiser,
    Codebook,
    FiniteScalarQuantiser,
    HierarchicalVectorQuantiser,
    ResidualVectorQuantiser,
    SimVQ,
    VectorQuantiser,
    commit_codebooks,
    discard_codebooks,
    reference,
)


def latents(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantiser(**options):
    options = {"restart_below": 0.0, "generator": torch.Generator().manual_seed(1), **options}
    vq = VectorQuantiser(8, 3, **options)
    with torch.no_grad():
        vq.codebook.copy_(latents(8, 3, seed=2))
    return vq


def learn(model, z):
    """A step of training: what the model says of z, committed."""
    found = model(z)
    commit_codebooks(model)
    return found


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
    np.testing.assert_allclose(vq.book.entries.grad[0].numpy(), grad, rtol=1e-5, atol=1e-8)


def test_the_commitment_loss_is_a_quarter_of_the_mean_squared_error_unless_said_otherwise():
    vq = VectorQuantiser(2, 1).eval()
    with torch.no_grad():
        vq.codebook.copy_(torch.tensor([[-1.0], [1.0]]))
    z = torch.tensor([[3.0], [-1.0]], requires_grad=True)  # errors 2 and 0
    found = vq(z)
    assert found.loss.item() == 0.25 * (4 + 0) / 2
    found.loss.backward()
    assert z.grad.flatten().tolist() == [0.25 * 2 * 2 / 2, 0]


def test_moving_averages_agree_with_the_reference():
    vq = quantiser(decay=0.8)
    start = vq.codebook.clone().double().numpy()
    counts = np.full(8, 50 / 8)
    codebook, sums = start, start * counts[:, None]
    for seed in range(5):
        z = latents(50, 3, seed=10 + seed)
        indices = learn(vq, z).indices.numpy()
        codebook, counts, sums = reference.ema_update(codebook, counts, sums, z.double().numpy(), indices, 0.8)
    assert not np.allclose(codebook, start, atol=0.01)
    np.testing.assert_allclose(vq.codebook.numpy(), codebook, rtol=1e-4, atol=1e-5)


def test_averages_keep_the_decay_of_the_old_and_take_the_rest_of_the_new():
    vq = VectorQuantiser(1, 1, decay=0.9, restart_below=0.0)
    with torch.no_grad():
        vq.codebook.fill_(10.0)
    learn(vq, torch.full((4, 1), 20.0))
    assert vq.codebook.item() == pytest.approx(0.9 * 10 + 0.1 * 20)


def test_nothing_changes_without_a_commit():
    for mode, after in (("train", discard_codebooks), ("train", lambda model: None), ("eval", commit_codebooks)):
        vq = getattr(quantiser(restart_below=0.1), mode)()
        before = {name: t.clone() for name, t in vq.state_dict().items()}
        vq(latents(20, 3))
        if mode == "train":
            after(vq)
            assert all(torch.equal(t, before[name]) for name, t in vq.state_dict().items())
        else:
            after(vq)
            assert torch.equal(vq.codebook, before["book.entries"][0]) and vq.book.shares.eq(1 / 8).all()


def test_a_first_batch_that_is_not_committed_does_not_start_the_codebook():
    vq = quantiser(restart_below=0.05)
    before = vq.codebook.clone()
    far = 100 + latents(40, 3)
    assert vq(far).z_q.min() > 90  # quantised with what it would start from
    discard_codebooks(vq)
    assert torch.equal(vq.eval()(far).z_q, before[vq(far).indices])
    vq.train()(far)
    commit_codebooks(vq)
    assert vq.codebook.min() > 90


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("when", ["first", "later"])
def test_a_vector_that_is_not_finite_reaches_no_entry(bad, when):
    vq, clean = (quantiser(decay=0.5, restart_below=0.3) for _ in range(2))
    if when == "later":
        learn(vq, latents(64, 3)), learn(clean, latents(64, 3))
    for _ in range(5):
        z = latents(64, 3, seed=4)
        z[::2, 1] = bad
        learn(vq, z)
        assert all(t.isfinite().all() for t in vq.state_dict().values())
    assert vq.book.entries.abs().max() < 10
    found = vq.eval()(latents(64, 3))
    assert found.z_q.isfinite().all() and found.perplexity > 2


def test_finite_vectors_learn_as_if_the_others_were_not_there():
    vq, clean = quantiser(decay=0.5), quantiser(decay=0.5)
    z = latents(30, 3, seed=4)
    learn(vq, torch.cat([z, torch.full((10, 3), float("nan"))]))
    learn(clean, z)
    torch.testing.assert_close(vq.state_dict(), clean.state_dict())


def test_averages_converge_to_the_means_of_clusters():
    vq = quantiser(decay=0.8)
    centres = 10 * vq.codebook + latents(8, 3, seed=5)
    with torch.no_grad():
        vq.codebook.mul_(10)
    for seed in range(60):
        z = centres.repeat(16, 1) + 0.01 * latents(128, 3, seed=seed)
        found = learn(vq, z)
    nearest = torch.cdist(centres, vq.codebook).amin(1)
    assert nearest.max() < 0.1
    assert found.perplexity.item() == pytest.approx(8, rel=1e-3)


@pytest.mark.parametrize("update", ["ema", "loss"])
def test_dead_entries_restart_at_vectors_of_the_batch(update):
    vq = quantiser(update=update, decay=0.5, restart_below=0.05)
    z = latents(64, 3)
    learn(vq, z)
    with torch.no_grad():
        vq.codebook[:4] = 1000.0  # far from everything
        vq.book.sums[0, :4] = 1000.0 * vq.book.shares[0, :4, None]
    perplexities = [learn(vq, z).perplexity.item() for _ in range(10)]
    assert perplexities[0] <= 4 < perplexities[-1]
    assert vq.codebook.abs().max() < 10


@pytest.mark.parametrize("factor", [1 / 16, 16, 64])
def test_restarts_do_not_depend_on_the_size_of_the_batch(factor):
    vq = quantiser(decay=0.9, restart_below=0.5)
    learn(vq, latents(512, 3))
    for seed in range(30):
        learn(vq, latents(512, 3, seed=seed))
    before, shares = vq.codebook.clone(), vq.book.shares[0].clone()
    assert shares.min() > 0.6 / 8  # all alive
    learn(vq, latents(int(512 * factor), 3, seed=99))
    moved = (vq.codebook - before).norm(dim=1)
    assert moved.max() < 0.3  # by averaging alone: vectors of the batch lie further away


def test_without_restart_dead_entries_stay():
    vq = quantiser(decay=0.5)
    learn(vq, latents(64, 3))
    with torch.no_grad():
        vq.codebook[0] = 1000.0
        vq.book.sums[0, 0] = 1000.0 * vq.book.shares[0, 0]
    for _ in range(60):
        learn(vq, latents(64, 3))
    assert vq.codebook[0].tolist() == pytest.approx([1000.0] * 3)


@pytest.mark.parametrize("update", ["ema", "loss"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_latents_of_every_dtype_train(update, dtype):
    vq, z = quantiser(update=update, restart_below=0.05), latents(2, 3, 8, 8).to(dtype).requires_grad_()
    for _ in range(2):
        found = vq(z)
        (found.z_q.sum() + found.loss).backward()
        commit_codebooks(vq)
    assert found.z_q.dtype == z.grad.dtype == dtype and vq.codebook.dtype == torch.float32
    assert found.loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = vq.eval()(z.detach().float())
    assert torch.equal(vq(z).indices, expected.indices)
    torch.testing.assert_close(vq(z).z_q, expected.z_q.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["vector", "residual", "hierarchical", "simvq", "finite", "categorical"])
def test_all_train_under_bfloat16_autocast_as_without_it(kind):
    def outcome(enabled):
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        model, z = {
            "vector": lambda: (VectorQuantiser(8, 3, decay=0.5, generator=generator), latents(2, 3, 8, 8)),
            "residual": lambda: (ResidualVectorQuantiser(2, 8, 3, generator=generator), latents(2, 3, 8, 8)),
            "hierarchical": lambda: (
                HierarchicalVectorQuantiser([8], 3, generator=generator), [latents(2, 3, 8, 8)]
            ),
            "simvq": lambda: (SimVQ(8, 3, generator=generator), latents(2, 3, 8, 8)),
            "finite": lambda: (FiniteScalarQuantiser((8, 5, 5)), latents(2, 3, 8, 8)),
            "categorical": lambda: (CategoricalQuantiser(3, 4, generator=generator).eval(), latents(2, 3, 8, 8)),
        }[kind]()  # fmt: skip
        for _ in range(3):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                found = model(z)
            commit_codebooks(model)
        found = found[0] if isinstance(found, list) else found
        return found, model.state_dict()

    (half, half_state), (full, state) = outcome(True), outcome(False)
    assert torch.equal(half.indices, full.indices) and half.z_q.dtype == torch.float32
    torch.testing.assert_close((half.z_q, half.loss, half_state), (full.z_q, full.loss, state))


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
        learn(rvq, z)
    found = rvq.eval()(z)
    assert found.indices.shape == (4, 4, 8, 8) and found.perplexity.shape == (4,)
    torch.testing.assert_close(rvq.decode(found.indices), found.z_q.detach())
    errors = [(rvq.decode(found.indices[:n]) - z).square().mean().item() for n in range(1, 5)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.25 * errors[0]
    g = latents(4, 3, 8, 8, seed=1)
    assert torch.equal(torch.autograd.grad(found.z_q, z, g, retain_graph=True)[0], g)  # once, not once a stage
    assert found.loss.requires_grad


def test_each_stage_pulls_z_to_what_it_says_of_the_rest():
    rvq = ResidualVectorQuantiser(3, 8, 3, commitment=0.5, generator=torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        for i, stage in enumerate(rvq.stages):
            stage.codebook.copy_(0.5**i * latents(8, 3, seed=i))
    z = latents(40, 3, seed=9).requires_grad_()
    found = rvq(z)
    (grad,) = torch.autograd.grad(found.loss, z)
    rest, pull, loss = z.detach(), 0.0, 0.0
    for stage, index in zip(rvq.stages, found.indices):
        error = rest - stage.codebook[index]
        loss, pull, rest = loss + 0.5 * error.square().mean(), pull + 0.5 * 2 * error / error.numel(), error
    torch.testing.assert_close(found.loss, loss)
    torch.testing.assert_close(grad, pull)  # of all stages: the codewords before are constants
    torch.testing.assert_close(rest, (z - found.z_q).detach(), atol=1e-6, rtol=0)


def test_a_decoder_may_be_given_the_first_stages_and_no_others():
    rvq = ResidualVectorQuantiser(2, 4, 3)
    for count in (0, 3):
        with pytest.raises(ValueError, match="1 to 2 stages"):
            rvq.decode(torch.zeros(count, 2, dtype=torch.int64))


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (2, 3), (7,), (4, 4), (1000, 999)])
def test_every_level_of_a_scalar_grid_is_reached_and_numbered(levels):
    fsq = FiniteScalarQuantiser(levels)
    found = fsq(6 * latents(200_000 if max(levels) > 100 else 20_000, len(levels)))
    assert fsq.codes == np.prod(levels)
    for dimension, count in enumerate(levels):
        assert len(found.z_q[:, dimension].unique()) == count
    assert found.z_q.abs().max() <= 1 and 0 <= found.indices.min() and found.indices.max() < fsq.codes
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_scalar_grids_keep_the_dtype(dtype):
    fsq, z = FiniteScalarQuantiser((8, 5)), latents(50, 2).to(dtype).requires_grad_()
    found = fsq(z)
    found.z_q.sum().backward()
    assert found.z_q.dtype == z.grad.dtype == dtype
    assert torch.equal(found.indices, fsq(z.detach().float()).indices)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: FiniteScalarQuantiser((8, 1)), "two levels or more"),
        (lambda: FiniteScalarQuantiser(()), "two levels or more"),
        (lambda: FiniteScalarQuantiser((8, 1001)), "1000 levels at most, found 1001"),
        (lambda: FiniteScalarQuantiser((1000,) * 7), "do not fit into 63 bits"),
        (lambda: VectorQuantiser(0, 3), "codes of 1 or more, not 0"),
        (lambda: VectorQuantiser(4, 0), "dim of 1 or more, not 0"),
        (lambda: VectorQuantiser(4, 3, decay=2.0), r"in \[0, 1\), not 2.0"),
        (lambda: VectorQuantiser(4, 3, decay=float("nan")), r"in \[0, 1\), not nan"),
        (lambda: VectorQuantiser(4, 3, decay=1.0), r"in \[0, 1\), not 1.0"),
        (lambda: VectorQuantiser(4, 3, decay=-0.1), r"in \[0, 1\), not -0.1"),
        (lambda: VectorQuantiser(4, 3, restart_below=1.5), "fraction of an even share"),
        (lambda: VectorQuantiser(4, 3, restart_below=1.0), "fraction of an even share"),
        (lambda: VectorQuantiser(4, 3, restart_below=-0.1), "fraction of an even share"),
        (lambda: FiniteScalarQuantiser((2**10 - 24,) * 6 + (8, 2)), "do not fit into 63 bits"),
        (lambda: FiniteScalarQuantiser((128,) * 9), "do not fit into 63 bits"),
        (lambda: Codebook(0, 4, 3), "groups of 1 or more, not 0"),
        (lambda: SimVQ(4, 0), "1 or more, not 4 and 0"),
        (lambda: SimVQ(4, 3, commitment=-1.0), "0 or more, not -1.0"),
        (lambda: CategoricalQuantiser(0, 4), "1 or more, not 0 and 4"),
        (lambda: HierarchicalVectorQuantiser([4], 3, factor=0), "factor of 1 or more"),
        (lambda: VectorQuantiser(4, 3, commitment=-1.0), "0 or more, not -1.0"),
        (lambda: VectorQuantiser(4, 3, gradient="none"), "'ste' or 'rotation', not 'none'"),
        (lambda: Codebook(2, 4, 3, restart_every=0), "restart_every of 1 or more"),
        (lambda: ResidualVectorQuantiser(0, 4, 3), "1 stage or more"),
        (lambda: HierarchicalVectorQuantiser([], 3), "one level or more"),
        (lambda: SimVQ(0, 3), "1 or more, not 0 and 3"),
        (lambda: CategoricalQuantiser(4, 0), "1 or more, not 4 and 0"),
        (lambda: VectorQuantiser(4, 3)(torch.zeros(0, 3, 2)), r"no vectors: latents of shape \(0, 3, 2\)"),
        (lambda: VectorQuantiser(4, 3)(torch.zeros(2, 5)), r"shape \(B, 3, ...\), found \(2, 5\)"),
        (lambda: FiniteScalarQuantiser((4, 4))(torch.zeros(2, 2, 0)), "no vectors"),
        (lambda: CategoricalQuantiser(4, 2)(torch.zeros(1, 4), temperature=0.0), "temperature must be positive"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(build, message):
    with pytest.raises(ValueError, match=message) as error:
        build()
    assert "\n" not in str(error.value)


def test_the_least_and_the_most_are_accepted():
    assert FiniteScalarQuantiser((128,) * 8 + (64,)).codes == 2**62
    assert FiniteScalarQuantiser((1000, 2)).codes == 2000
    z = latents(5, 1)
    for smallest in (
        VectorQuantiser(1, 1, decay=0.0, commitment=0.0, restart_below=0.0), VectorQuantiser(1, 1, restart_below=0.99),
        ResidualVectorQuantiser(1, 1, 1), SimVQ(1, 1, commitment=0.0),
    ):  # fmt: skip
        found = smallest(z)
        assert found.z_q.shape == z.shape and found.perplexity.eq(1).all()
    (level,) = HierarchicalVectorQuantiser([1], 1, factor=1)([z[..., None, None]])
    assert level.indices.eq(0).all() and CategoricalQuantiser(1, 1)(z).indices.eq(0).all()


def test_a_new_codebook_is_uniform_within_an_even_share():
    """In +-1 / K, as VQ-VAE's; averages stand as if every entry had been chosen equally often."""
    for zero_first in (False, True):
        book = Codebook(50, 8, 4, zero_first=zero_first, generator=torch.Generator().manual_seed(0))
        drawn = book.entries[:, 1:]
        assert -1 / 8 <= drawn.min() < -0.12 and 0.12 < drawn.max() <= 1 / 8 and abs(drawn.mean()) < 0.01
        assert drawn.std().item() == pytest.approx(1 / 8 / 3**0.5, rel=0.05)
        assert book.entries[:, 0].eq(0).all() == zero_first
        assert book.shares.eq(1 / 8).all() and torch.equal(book.sums, book.entries / 8) and book.commits == 0
    vq = VectorQuantiser(8, 4)
    assert (vq.book.decay, vq.book.restart_below, vq.book.restart_every) == (0.99, 0.05, 1)
    assert (Codebook(1, 8, 4).decay, Codebook(1, 8, 4).restart_below) == (0.99, 0.05)


def test_the_first_batch_sets_entries_but_the_one_that_is_held_at_zero():
    book = groups(zero_first=True, restart_below=0.5)
    vectors = 10 + latents(3, 60, 2)
    book.start(vectors)
    assert book.current()[:, 0].eq(0).all() and book.current()[:, 1:].min() > 5
    assert torch.equal(book.lookup(torch.zeros(3, 1, dtype=torch.int64)), torch.zeros(3, 1, 2))
    few = groups(restart_below=0.5)
    few.start(vectors[:, :3])  # fewer than entries: each again
    for found, own in zip(few.current(), vectors):
        assert {tuple(e) for e in found.tolist()} == {tuple(v) for v in own[:3].tolist()}


def test_only_the_proportions_of_weights_count():
    vectors, weight = latents(3, 60, 2), torch.rand(3, 60, generator=torch.Generator().manual_seed(3))
    books = []
    for factor in (1.0, 1e-4, 1e4):
        books.append(groups())
        step(books[-1], vectors, factor * weight)
    for book in books[1:]:
        torch.testing.assert_close(book.state_dict(), books[0].state_dict(), rtol=1e-4, atol=1e-6)


def test_an_entry_whose_share_has_faded_away_stays_where_it_is():
    book = groups()
    shares = torch.full((3, 8), 1 / 7)
    shares[:, 5] = 0
    entries = latents(3, 8, 2, seed=2)
    entries[:, 5] = 50.0
    book.load(entries, shares)
    step(book, latents(3, 60, 2))
    assert book.entries[:, 5].eq(50).all() and not torch.equal(book.entries[:, 4], entries[:, 4])
    before = book.entries.clone()
    step(book, latents(3, 60, 2), torch.zeros(3, 60))  # nobody counts
    assert torch.equal(book.entries, before)


def test_a_share_fades_away_at_a_ten_thousandth_of_an_even_one():
    """Its entry follows the average down to there, and stays beyond: of sums this small nothing is left to follow."""
    book = groups(decay=0.8)
    shares = torch.full((3, 8), 1 / 8)
    shares[:, 5], shares[:, 6] = 1.5e-4 / 8, 1.1e-4 / 8  # 1.2e-4 and 0.88e-4 after the step
    entries = latents(3, 8, 2, seed=2)
    entries[:, 5:7] = 50.0
    book.load(entries, shares)
    book.sums[:, 5:7] *= 2  # as if the average were at 100
    step(book, latents(3, 60, 2))
    torch.testing.assert_close(book.shares[:, 5:7], torch.tensor([[1.2e-4, 0.88e-4]] * 3) / 8)
    torch.testing.assert_close(book.entries[:, 5], torch.full((3, 2), 100.0))
    assert book.entries[:, 6].eq(50).all()


def test_random_codebooks_have_vectors_of_length_one():
    for drawn in (SimVQ(4000, 16).basis, CategoricalQuantiser(4000, 16).codebook):
        assert drawn.square().sum(1).mean().item() == pytest.approx(1, rel=0.05)


# Codebooks side by side


def groups(**options):
    options = {"decay": 0.8, "restart_below": 0.0, "generator": torch.Generator().manual_seed(1), **options}
    book = Codebook(3, 8, 2, **options)
    with torch.no_grad():
        book.entries.copy_(latents(3, 8, 2, seed=2))
    return book


def step(book, vectors, weight=None):
    book.start(vectors, weight)
    index = book.choose(vectors)
    book.observe(vectors, index, weight)
    book.commit()
    return index


def test_groups_are_codebooks_of_their_own():
    book, vectors = groups(), latents(3, 60, 2)
    for seed in range(4):
        vectors = latents(3, 60, 2, seed=seed)
        index = book.choose(vectors)
        for g in range(3):
            assert torch.equal(index[g], torch.cdist(vectors[g], book.entries[g]).argmin(1))
        assert torch.equal(book.lookup(index)[1], book.entries[1][index[1]])
        step(book, vectors)
    for g in range(3):
        alone = groups()
        for seed in range(4):
            vectors = latents(3, 60, 2, seed=seed)
            vectors[[h for h in range(3) if h != g]] = 7.0
            step(alone, vectors)
        torch.testing.assert_close(alone.entries[g], book.entries[g])


def test_a_weighted_choice_pays_for_bits():
    book, vectors = groups(), latents(3, 60, 2)
    penalty = latents(3, 1, 8, seed=5).abs()
    cost = (vectors[:, :, None] - book.entries[:, None]).square().sum(-1) + penalty
    assert torch.equal(book.choose(vectors, penalty), cost.argmin(2))
    per_vector = penalty * torch.linspace(0, 2, 60)[:, None]
    cost = (vectors[:, :, None] - book.entries[:, None]).square().sum(-1) + per_vector
    assert torch.equal(book.choose(vectors, per_vector), cost.argmin(2))


def test_weights_count_vectors_and_groups_without_any_stay():
    book, vectors = groups(), latents(3, 60, 2)
    weight = torch.ones(3, 60)
    weight[0, 30:] = 0
    weight[1] = 0
    weight[2, 7] = 2
    before = {name: t.clone() for name, t in book.state_dict().items()}
    index = step(book, vectors, weight)
    assert torch.equal(book.entries[1], before["entries"][1]) and torch.equal(book.shares[1], before["shares"][1])
    for g, chosen, v in (
        (0, index[0, :30], vectors[0, :30]),
        (2, torch.cat([index[2], index[2, 7:8]]), torch.cat([vectors[2], vectors[2, 7:8]])),
    ):
        counts = torch.bincount(chosen, minlength=8) / len(chosen)
        sums = torch.zeros(8, 2).index_add_(0, chosen, v) / len(chosen)
        share = 0.8 / 8 + 0.2 * counts
        torch.testing.assert_close(book.shares[g], share)
        wanted = (0.8 * before["entries"][g] / 8 + 0.2 * sums) / share[:, None]
        torch.testing.assert_close(book.entries[g], wanted)


def test_passes_before_a_commit_add_up():
    whole, parts, vectors = groups(), groups(), latents(3, 60, 2)
    step(whole, vectors)
    for part in vectors.split(20, 1):
        parts.observe(part, parts.choose(part))
    parts.commit()
    torch.testing.assert_close(parts.state_dict(), whole.state_dict())


def test_restarts_take_usable_vectors_of_the_group_at_their_turn():
    book = groups(restart_below=0.5, restart_every=3, decay=0.0)
    vectors = latents(3, 60, 2) + torch.tensor([0.0, 100.0, 200.0])[:, None, None]
    weight = torch.ones(3, 60)
    weight[:, 30:] = 0
    book.load(torch.full((3, 8, 2), 1e6), torch.full((3, 8), 1 / 8))
    with torch.no_grad():
        book.entries[:, 0] = vectors[:, 0]
        book.sums[:, 0] = vectors[:, 0] / 8
    alive = []
    for _ in range(3):
        step(book, vectors, weight)
        alive.append((book.entries < 1e5).all(-1).sum().item())
    assert alive == [3, 24, 24]  # load counts as the first commit, so that the third is the second step's
    known = [{tuple(v.tolist()) for v in group[:30]} for group in vectors]
    for g in range(3):
        fresh = [tuple(e.tolist()) for e in groups_after_restart(vectors, weight)[g]]
        assert set(fresh) <= known[g] and len(set(fresh)) == 7  # each once


def groups_after_restart(vectors, weight):
    """Entries 1 to 7 right after a restart of all of them."""
    book = groups(restart_below=0.5, decay=0.0)
    book.load(torch.full((3, 8, 2), 1e6))
    with torch.no_grad():
        book.entries[:, 0] = vectors[:, 0]
    step(book, vectors, weight)
    return book.entries[:, 1:]


def test_the_first_entry_can_be_held_at_zero():
    book = groups(zero_first=True, restart_below=0.5, decay=0.0)
    for seed in range(4):
        shift = 5 if seed == 3 else 0.2  # far from zero, entry 0 is dead, and stays where it is
        index = step(book, shift + latents(3, 60, 2, seed=seed))
        assert index.eq(0).any() == (seed < 3)
        assert book.entries[:, 0].eq(0).all() and book.entries[:, 1:].abs().min() > 0
    # Dead as it is, it does not restart: its share is what chose it, which without a memory is nothing.
    assert book.shares[:, 0].eq(0).all() and book.sums[:, 0].eq(0).all()


def test_a_restarted_entry_has_time_to_find_its_vectors():
    book = groups(restart_below=0.5, decay=0.9)
    book.load(book.entries, torch.tensor([0.0, *[1 / 7] * 7]).expand(3, 8))
    step(book, latents(3, 60, 2))
    first = book.entries[:, 0].clone()
    assert book.shares[:, 0].tolist() == pytest.approx([1 / 8] * 3)
    with torch.no_grad():  # nothing chooses it, from far away, for a few steps more
        book.entries[:, 0] = book.sums[:, 0] = 100.0
        book.sums[:, 0] /= 8
    for seed in range(1, 4):
        step(book, latents(3, 60, 2, seed=seed))
        torch.testing.assert_close(book.entries[:, 0], torch.full((3, 2), 100.0))
    assert first.abs().max() < 10


def test_the_same_seed_gives_the_same_codebooks():
    def outcome(seed):
        book = groups(restart_below=0.5)
        for i in range(5):
            vectors = latents(3, 60, 2, seed=i)
            generator = torch.Generator().manual_seed(10 * seed + i)
            book.start(vectors, generator=generator)
            book.observe(vectors, book.choose(vectors), generator=generator)
            book.commit()
        return book.entries

    assert torch.equal(outcome(0), outcome(0)) and not torch.equal(outcome(0), outcome(1))


def test_codebooks_go_on_from_a_file_and_can_be_copied():
    book = groups(restart_below=0.1)
    for seed in range(3):
        step(book, latents(3, 60, 2, seed=seed))
    again = groups(restart_below=0.1)
    again.load(book.entries, book.shares)
    for one in (book, again, copy.deepcopy(book)):
        step(one, latents(3, 60, 2, seed=8))
    torch.testing.assert_close(again.entries, book.entries)
    fresh = groups(restart_below=0.1)
    fresh.load_state_dict(book.state_dict())
    step(fresh, latents(3, 60, 2, seed=9)), step(book, latents(3, 60, 2, seed=9))
    torch.testing.assert_close(fresh.state_dict(), book.state_dict())


def test_perplexity_of_the_shares():
    book = groups()
    assert book.perplexity().tolist() == pytest.approx([8, 8, 8])
    book.shares[1] = torch.tensor([0.5, 0.5, 0, 0, 0, 0, 0, 0])
    assert book.perplexity().tolist() == pytest.approx([8, 2, 8])


def _process(rank, port, folder):
    import torch.distributed as distributed

    distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    for name, restart_below in (("averaged", 0.0), ("restarted", 0.5)):
        book = groups(restart_below=restart_below, generator=torch.Generator().manual_seed(rank))
        for seed in range(6):
            step(book, latents(3, 40, 2, seed=10 * seed + rank))
        torch.save(book.state_dict(), f"{folder}/{name}{rank}.pt")
    distributed.destroy_process_group()


def test_processes_agree_on_the_codebooks_of_all_their_vectors(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    code = f"from test_codebook import _process; import sys; _process(int(sys.argv[1]), {port}, {str(tmp_path)!r})"
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)]), "OMP_NUM_THREADS": "1"}
    running = [subprocess.Popen([sys.executable, "-c", code, str(rank)], env=environment) for rank in range(2)]
    assert [process.wait(120) for process in running] == [0, 0]
    for name in ("averaged", "restarted"):
        a, b = (torch.load(tmp_path / f"{name}{rank}.pt", weights_only=True) for rank in range(2))
        torch.testing.assert_close(a, b, rtol=0, atol=0)
        if name == "averaged":  # what one process makes of all vectors
            alone = groups()
            for seed in range(6):
                step(alone, torch.cat([latents(3, 40, 2, seed=10 * seed + rank) for rank in range(2)], 1))
            torch.testing.assert_close(a, alone.state_dict())
    assert a["commits"] == 6 and a["entries"].abs().max() < 10


# Hierarchies, SimVQ, categorical codes


def test_levels_decode_to_what_the_synthesis_saw_and_all_learn():
    torch.manual_seed(0)
    hvq = HierarchicalVectorQuantiser([16, 8], 4, factor=2, decay=0.5, generator=torch.Generator().manual_seed(0))
    top, bottom = latents(2, 4, 3, 3).requires_grad_(), latents(2, 4, 6, 6, seed=1).requires_grad_()
    before = [level.codebook.clone() for level in hvq.levels]
    parts = learn(hvq, [top, bottom])
    assert [tuple(part.indices.shape) for part in parts] == [(2, 3, 3), (2, 6, 6)]
    joined = hvq.join([part.z_q for part in parts])
    assert joined.shape == (2, 8, 6, 6)
    (joined.square().sum() + sum(part.loss for part in parts)).backward()
    assert top.grad.abs().min() > 0 and bottom.grad.abs().min() > 0
    assert hvq.upsample[0].weight.grad.abs().sum() > 0 and hvq.condition[0].weight.grad.abs().sum() > 0
    assert all(not torch.equal(level.codebook, old) for level, old in zip(hvq.levels, before))
    parts = hvq.eval()([top, bottom])
    torch.testing.assert_close(hvq.decode([part.indices for part in parts]), hvq.join([part.z_q for part in parts]))


def test_the_lower_level_is_conditioned_on_the_upper_and_not_the_other_way_round():
    torch.manual_seed(0)
    hvq = HierarchicalVectorQuantiser([16, 16], 4, generator=torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        for level in hvq.levels:
            level.codebook.copy_(latents(16, 4, seed=3))
    top, bottom = latents(1, 4, 4, 4), latents(1, 4, 8, 8, seed=1)
    first = hvq([top, bottom])
    other_top, other_bottom = hvq([-top, bottom]), hvq([top, -bottom])
    assert not torch.equal(first[1].indices, other_top[1].indices)
    assert torch.equal(first[0].indices, other_bottom[0].indices)
    assert not torch.equal(first[1].indices, other_bottom[1].indices)


def test_simvq_moves_every_entry_by_its_projection_alone():
    simvq, z = SimVQ(8, 3, generator=torch.Generator().manual_seed(0)), latents(40, 3).requires_grad_()
    assert [name for name, _ in simvq.named_parameters()] == ["projection.weight"]
    found = simvq(z)
    found.loss.backward()
    error = (simvq.codebook[found.indices] - z).detach()  # gradient of the entries: 2 error / n
    weight = (2 * error / error.numel()).T @ simvq.basis[found.indices]
    torch.testing.assert_close(simvq.projection.weight.grad, weight)
    torch.testing.assert_close(z.grad, -0.25 * 2 * error / error.numel())
    before, few = simvq.codebook.detach().clone(), latents(3, 3).requires_grad_()
    optimiser = torch.optim.SGD(simvq.parameters(), 0.1)
    optimiser.zero_grad()
    simvq(few).loss.backward()
    optimiser.step()
    assert ((simvq.codebook - before).norm(dim=1) > 0).all()  # eight moved by three vectors
    torch.testing.assert_close(simvq.decode(found.indices), simvq.codebook[found.indices])


def test_categorical_codes_are_relaxed_draws_in_training_and_the_likeliest_at_evaluation():
    dvae = CategoricalQuantiser(5, 3, kl_weight=0.1, generator=torch.Generator().manual_seed(0))
    logits = latents(2, 5, 4).requires_grad_()
    found = dvae(logits, 0.5, torch.Generator().manual_seed(1))
    noise = -torch.log(-torch.log(torch.rand(8, 5, generator=torch.Generator().manual_seed(1))))
    flat = logits.movedim(1, -1).reshape(-1, 5)
    wanted = torch.softmax((flat + noise) / 0.5, -1) @ dvae.codebook
    torch.testing.assert_close(found.z_q.movedim(1, -1).reshape(-1, 3), wanted)
    p = torch.softmax(flat, -1)
    torch.testing.assert_close(found.loss, 0.1 * (p * (p * 5).log()).sum(-1).mean())
    found.z_q.sum().backward()
    assert logits.grad.abs().sum() > 0 and dvae.codebook.grad.abs().sum() > 0
    hard = dvae.eval()(logits)
    assert torch.equal(hard.indices, logits.argmax(1))
    assert torch.equal(hard.z_q, dvae.decode(hard.indices))


def test_the_divergence_counts_as_it_is_unless_said_otherwise():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.25, 0.25, 0.25, 0.25]]) + 1e-30)
    # log 4 less the entropy: 1.5 bits of 2 for the first, none for the second.
    assert CategoricalQuantiser(4, 3)(logits).loss.item() == pytest.approx(0.5 * math.log(2) / 2)


def test_quantisers_turn_gradients_by_the_rotation_trick_where_asked():
    torch.manual_seed(0)
    z, g = latents(2, 3, 4, 4).requires_grad_(), latents(2, 3, 4, 4, seed=3)
    for model in (quantiser(gradient="rotation").eval(), ResidualVectorQuantiser(2, 8, 3, gradient="rotation").eval()):
        z_q = model(z).z_q
        assert torch.equal(z_q, model.decode(model(z).indices))
        (grad,) = torch.autograd.grad(z_q, z, g)
        lengths = [v.movedim(1, -1).norm(dim=-1) for v in (grad, g, z_q.detach(), z.detach())]
        torch.testing.assert_close(lengths[0] / lengths[1], lengths[2] / lengths[3])


# The referee


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
        found = learn(ours, z.transpose(1, 2))
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


def test_the_library_vector_quantize_pytorch_has_the_same_simvq():
    library = pytest.importorskip("vector_quantize_pytorch")
    theirs, ours = library.SimVQ(dim=3, codebook_size=8, rotation_trick=False), SimVQ(8, 3)
    with torch.no_grad():
        theirs.frozen_codebook.copy_(ours.basis)
        theirs.code_transform.weight.copy_(latents(3, 3, seed=4))
        ours.projection.weight.copy_(latents(3, 3, seed=4))
    z = latents(1, 50, 3)
    (their_z_q, their_indices, their_loss), found = theirs(z), ours(z.transpose(1, 2))
    assert torch.equal(found.indices, their_indices)
    torch.testing.assert_close(found.z_q.transpose(1, 2), their_z_q)
    torch.testing.assert_close(found.loss, their_loss)
    their_grad = torch.autograd.grad(their_loss, theirs.code_transform.weight)
    torch.testing.assert_close(torch.autograd.grad(found.loss, ours.projection.weight), their_grad)
