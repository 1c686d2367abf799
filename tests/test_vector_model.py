import csv
import dataclasses
import math

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric

from codec import latents
from codec.engine import read_folder
from codec.errors import ModelError
from codec.model import Model
from codec.nn.dct import coarse_deviation
from codec.quantise import commit_codebooks, discard_codebooks
from codec.training import loop
from codec.training.config import TrainingConfig
from codec.training.loop import picture_losses, read_weights, train
from codec.training.vector_model import Level, TrainableVectorModel
from test_vector_entropy import CONFIGS, VQ_CONFIG, trainable
from tiny import CONFIG, training_config, weights_of

KINDS = pytest.mark.parametrize("kind", CONFIGS)


def settings(pictures, output, kind="vq", **changes):
    return training_config(pictures, output, architecture=CONFIGS[kind], **changes)


def one_process():
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    fabric.launch()
    return fabric


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def level(stages=2, **options):
    """A Level of 3 groups of 8 codewords of 4 numbers, which are not all of one size."""
    torch.manual_seed(0)
    size = torch.tensor([[1.0, 0.5, 0.25], [0.5, 0.25, 0.125]])[:stages]
    made = Level(3, stages, 8, 4, size, **options)
    for s, book in enumerate(made.books):
        codewords = draw(3, 8, 4, seed=s)
        codewords[:, 0] = 0
        book.load(codewords)
    return made


def logits(made, vectors):
    """-4 times the squared distance in units of the level's size, plus a base for each codeword: (G, n, K)."""
    with torch.no_grad():
        made.logits_base.copy_(draw(1, 3, 8, seed=3))
    distance = torch.cdist(vectors / made.size[0][:, None, None], made.books[0].entries).square()
    return (made.logits_base[0][:, None] - 4 * distance).detach()


def run(made, vectors, used=None, near=None, worth=0.0, **options):
    n, stages = vectors.shape[1], len(made.books)
    everything = torch.ones(stages, 3, n, dtype=torch.bool)
    used, near = (everything if flags is None else flags for flags in (used, near))
    generator = torch.Generator().manual_seed(5)
    return made(vectors, (1, 1, n), used, near, torch.full((n, 1), worth), generator=generator, **options)


# Levels


def test_every_stage_codes_what_the_ones_before_left_over():
    made, vectors = level().eval(), draw(3, 40, 4, seed=9)
    total = run(made, vectors).total
    books = made.codebooks.numpy()
    for g in range(3):
        for n in range(40):
            rest, found = vectors[g, n].numpy().astype(float), 0.0
            for s in range(2):
                best = np.square(rest - books[s, g]).sum(1).argmin()
                rest, found = rest - books[s, g, best], found + books[s, g, best]
            np.testing.assert_allclose(total[g, n], found, atol=1e-5)


def test_bits_that_cost_more_than_the_error_are_not_spent():
    made, vectors = level(stages=1).eval(), draw(3, 200, 4, seed=9)
    with torch.no_grad():
        made.log_prior[..., 3] = 3.0  # of 8 codewords
    bits = -torch.log_softmax(made.log_prior[0], -1)[:, None] / math.log(2)
    for worth in (0.1, 1.0):
        total = run(made, vectors, worth=worth).total
        cost = (vectors[:, :, None] - made.codebooks[0][:, None]).square().sum(3) + worth * bits
        best = made.codebooks[0].gather(1, cost.argmin(2)[..., None].expand(-1, -1, 4))
        torch.testing.assert_close(total, best.detach())


def test_a_stage_that_is_not_in_use_adds_nothing_and_costs_nothing():
    made, vectors = level().eval(), draw(3, 20, 4)
    used = torch.ones(2, 3, 20, dtype=torch.bool)
    used[1, :, ::2] = False
    one, two, mixed = run(level(stages=1).eval(), vectors), run(made, vectors), run(made, vectors, used=used)
    for figure in ("total", "bits"):
        found, first, both = (getattr(chosen, figure) for chosen in (mixed, one, two))
        torch.testing.assert_close(found[:, ::2], first[:, ::2])
        assert (found[:, 1::2] - first[:, 1::2]).abs().max() > 0.1
        if figure == "total":
            torch.testing.assert_close(found[:, 1::2], both[:, 1::2])


def test_codewords_follow_what_chose_them_and_only_once_the_step_was_taken():
    made, vectors = level(stages=1), draw(3, 50, 4, seed=9)
    before = made.codebooks.clone()
    index = run(made.eval(), vectors).total
    run(made.train(), vectors)
    assert torch.equal(made.codebooks, before)
    discard_codebooks(made)
    commit_codebooks(made)
    assert torch.equal(made.codebooks, before) and made.gained.equal(level(stages=1).gained)
    run(made, vectors)
    commit_codebooks(made)
    for g in range(3):
        for k in range(1, 8):
            own = vectors[g][(index[g] == before[0, g, k]).all(1)]
            # An even share, 1 / 8, at the old place, and 2 % of what came.
            weight, total = 0.98 / 8, 0.98 / 8 * before[0, g, k]
            wanted = (total + 0.02 * own.sum(0) / 50) / (weight + 0.02 * len(own) / 50)
            torch.testing.assert_close(made.codebooks[0, g, k], wanted, atol=1e-5, rtol=1e-4)
    assert made.codebooks[0, :, 0].eq(0).all()


def test_what_a_stage_gains_and_costs_is_averaged_over_those_that_may_use_it():
    made, vectors = level(stages=1), draw(3, 50, 4, seed=9)
    near = torch.zeros(1, 3, 50, dtype=torch.bool)
    near[:, 0, :10] = near[:, 1] = True  # nobody in group 2
    chosen = run(made, vectors, near=near)
    error = (vectors - chosen.total).square().sum(2)
    taken, bits = vectors.square().sum(2) - error, chosen.bits
    gained, cost = made.gained.clone(), made.cost.clone()
    commit_codebooks(made)
    for g, n in ((0, 10), (1, 50)):
        torch.testing.assert_close(made.gained[0, g], 0.99 * gained[0, g] + 0.01 * taken[g, :n].mean())
        torch.testing.assert_close(made.cost[0, g], 0.99 * cost[0, g] + 0.01 * bits[g, :n].mean().detach())
    assert made.gained[0, 2] == gained[0, 2] and made.cost[0, 2] == cost[0, 2]
    once = made.gained.clone()
    commit_codebooks(made)  # of nothing new
    assert torch.equal(made.gained, once)


def test_a_new_level_expects_three_quarters_of_its_size_for_half_of_its_bits():
    made = level()
    # 3/4 of 4 numbers of sizes 1, 1/2, ..., squared; half of the 3 bits of 8 codewords.
    torch.testing.assert_close(made.gained, torch.tensor([[3.0, 0.75, 0.1875], [0.75, 0.1875, 0.046875]]))
    assert made.cost.eq(1.5).all()
    made.temperature = 0.5
    assert Level(1, 1, 4, 2, torch.ones(1, 1)).temperature == 1.0


def test_magnitudes_are_lengths_in_quarters_of_the_usual_one():
    made = level(stages=1)
    lengths = torch.tensor([0.0, 0.24, 0.26, 0.74, 0.76, 1.24, 1.26, 0.0])
    lengths[7] = (8 - lengths.square().sum()).sqrt()  # a root mean square of 1
    codewords = torch.zeros(3, 8, 4)
    codewords[0, :, 1], codewords[1, :, 0], codewords[2] = lengths, 100 * lengths, lengths[:, None] / 2
    made.books[0].load(codewords)
    made.train()
    assert made.export_tensors(torch.zeros(1, 3))["magnitudes"].tolist() == [3 * [[0, 0, 1, 1, 2, 2, 3, 3]]]


def test_bits_are_those_of_a_prior_that_grows_with_the_length_of_a_codeword():
    made, vectors = level(stages=1).eval(), draw(3, 30, 4, seed=9)
    with torch.no_grad():
        made.log_prior.copy_(draw(1, 3, 8, seed=4)), made.sharpness.fill_(-2.0)
    index = torch.cdist(vectors, made.codebooks[0]).argmin(2)
    for offset in (0.0, 3.0):
        found = run(made, vectors, offset=torch.full((1, 3, 30), offset)).bits
        length = made.codebooks[0].norm(dim=2) / made.codebooks[0].norm(dim=2).amax(1, keepdim=True)
        weights = torch.exp(made.log_prior[0] + (offset - 2) * length)
        wanted = -torch.log2(weights / weights.sum(1, keepdim=True)).gather(1, index)
        torch.testing.assert_close(found, wanted)


def test_the_first_batch_sets_the_codewords_of_every_stage():
    """At vectors of those who learn, in the unit of each codebook; the second stage at what the first leaves over."""
    size = torch.tensor([[1.0, 0.5, 0.25], [0.5, 0.25, 0.125]])
    made, vectors = Level(3, 2, 8, 4, size), draw(3, 50, 4, seed=9)
    near = torch.zeros(2, 3, 50, dtype=torch.bool)
    near[:, :, :20] = True
    run(made, vectors, near=near)
    rest = vectors
    for book, unit in zip(made.books, size[..., None, None]):
        codewords = book.current() * unit
        assert codewords[:, 0].eq(0).all()
        assert (codewords[:, 1:, None] - rest[:, None, :20]).abs().amax(3).amin(2).max() < 1e-6
        nearest = (rest[:, :, None] - codewords[:, None]).square().sum(3).argmin(2)
        rest = rest - codewords.gather(1, nearest[..., None].expand(-1, -1, 4))


def test_codewords_that_nobody_chooses_are_restarted_late():
    """0.98^n falls below one fiftieth of an even share after 194 steps; restarts are at every twentieth."""
    made = level(stages=1)
    vectors, unused = made.codebooks[0, :, 1:4].repeat(1, 20, 1), made.codebooks[0, :, 4:].clone()
    for _ in range(198):  # and one that a codebook from a file counts as
        run(made, vectors)
        commit_codebooks(made)
    torch.testing.assert_close(made.codebooks[0, :, 4:], unused)
    run(made, vectors)
    commit_codebooks(made)
    restarted = made.codebooks[0, :, 4:]
    assert torch.cdist(restarted, vectors).amin(2).max() < 1e-3 and torch.cdist(restarted, unused).amin() > 0.01


def test_the_codebook_loss_moves_codewords_and_nothing_else():
    made, vectors = level(stages=1, learned=True), draw(3, 50, 4, seed=9).requires_grad_()
    chosen = run(made, vectors)
    total = chosen.total.detach()
    torch.testing.assert_close(chosen.codebook.detach(), (vectors.detach() - total).square().sum(2))
    chosen.codebook.sum().backward()
    assert vectors.grad is None
    wanted = torch.zeros(3, 8, 4)
    for g in range(3):
        for n in range(50):
            k = (made.codebooks[0, g] == total[g, n]).all(1).nonzero()[0, 0]
            wanted[g, k] += 2 * (total[g, n] - vectors[g, n].detach()) * made.size[0, g]
    torch.testing.assert_close(made.books[0].entries.grad, wanted, atol=1e-4, rtol=1e-4)
    before = made.codebooks.detach().clone()
    commit_codebooks(made)
    assert torch.equal(made.codebooks.detach(), before)  # they are the optimiser's


def test_a_soft_rate_pulls_towards_codewords_that_cost_less():
    made = level(stages=1).eval()
    with torch.no_grad():
        made.log_prior[..., 0] = 4.0  # zero is cheap
    vectors = (0.5 * draw(3, 200, 4, seed=9)).requires_grad_()
    chosen = run(made, vectors, worth=0.5, soft=True)
    assert run(made, vectors, worth=0.5).soft_bits is None
    # A codeword is half as likely for each bit that it costs, in itself or by its error.
    bits = -torch.log_softmax(torch.tensor([4.0] + 7 * [0.0]), 0) / math.log(2)
    share = 2 ** -((vectors[:, :, None] - made.codebooks[0][:, None]).square().sum(3) / 0.5 + bits)
    torch.testing.assert_close(chosen.soft_bits, (share * bits).sum(2) / share.sum(2), rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(chosen.soft_bits.sum(), vectors)
    assert (gradient * vectors).sum() > 0  # larger vectors cost more
    nudge = 1e-3 * gradient / gradient.norm()
    more, less = (run(made, vectors + sign * nudge, worth=0.5, soft=True).soft_bits.sum() for sign in (1, -1))
    assert ((more - less) / 2e-3).item() == pytest.approx(gradient.norm().item(), rel=0.05)


def test_priors_and_codewords_learn_from_choices_and_not_from_the_soft_rate():
    made, vectors = level(stages=2, learned=True), draw(3, 40, 4, seed=9).requires_grad_()
    chosen = run(made, vectors, worth=0.5, soft=True)
    learned = [made.log_prior, made.sharpness, *(book.entries for book in made.books)]
    assert torch.autograd.grad(chosen.soft_bits.sum(), learned, allow_unused=True, retain_graph=True) == 4 * (None,)
    (pull,) = torch.autograd.grad(chosen.soft_bits.sum(), vectors, retain_graph=True)
    to_prior, to_sharpness = torch.autograd.grad(chosen.bits.sum(), learned[:2])
    assert pull.abs().max() > 0 and to_prior.abs().max() > 0 and to_sharpness.abs().max() > 0


# Categorical codes


def test_draws_harden_as_the_temperature_falls_and_evaluation_takes_the_likeliest():
    made, vectors = level(stages=1, categorical=True), draw(3, 100, 4, seed=9)
    likeliest = made.codebooks[0].gather(1, logits(made, vectors).argmax(2)[..., None].expand(-1, -1, 4)).detach()
    torch.testing.assert_close(run(made.eval(), vectors).total, likeliest)
    distances = []
    for temperature in (1.0, 1e-4):
        made.train().temperature = temperature
        total = run(made, vectors).total
        assert not torch.equal(total, likeliest)
        distances.append(torch.cdist(total.detach(), made.codebooks[0].detach()).amin(2).mean().item())
    assert distances[1] < 1e-3 < 0.05 < distances[0]


def test_the_rate_of_categorical_codes_is_the_divergence_from_the_uniform_prior():
    made, vectors = level(stages=1, categorical=True), draw(3, 30, 4, seed=9)
    p = torch.softmax(logits(made, vectors), 2)
    wanted = torch.special.xlogy(p, p * 8).sum(2) / math.log(2)
    torch.testing.assert_close(run(made, vectors).kl, wanted)
    assert run(made.eval(), vectors).kl.eq(0).all()
    with torch.no_grad():
        made.log_precision.fill_(-30.0), made.logits_base.zero_()
    torch.testing.assert_close(run(made.train(), vectors).kl, torch.zeros(3, 30), atol=1e-6, rtol=0)


def test_the_temperature_of_a_run_falls_from_1_to_a_sixteenth(pictures, tmp_path):
    run_ = loop._Run(settings(pictures, tmp_path, "dvae", steps=10), one_process())
    for run_.step, wanted in ((0, 1.0), (4, 0.25), (9, 1 / 16)):  # cold from 8 tenths on
        run_._one_step()
        assert run_.bare.lower.temperature == pytest.approx(wanted)
    run_.crops.close()


# Models


def captured(model, y):
    """``seen``: what a model analyses, y, and what it then synthesises; y_hat and its error are the picture's."""
    seen = {}
    model.transforms.analyse = lambda x, q: seen.setdefault("y", y.clone().requires_grad_())

    def synthesise(y_hat, q):
        seen["y_hat"] = y_hat
        return y_hat.mean((1, 2, 3)).view(-1, 1, 1, 1)

    model.transforms.synthesise = synthesise
    return seen


@pytest.mark.parametrize("kind", ["vq", "hvq"])
def test_the_gradient_passes_the_codewords_and_commitment_pulls_towards_them(kind):
    model, quality = trainable(kind), torch.tensor([90.0, 90.0])
    y = draw(2, VQ_CONFIG.M, 4, 4)
    seen = captured(model, y)
    figures = model(torch.zeros(2, 3, 64, 64), quality, torch.Generator().manual_seed(0))
    gradient = torch.autograd.grad(figures["mse"].sum(), seen["y"], retain_graph=True)[0]
    mean = seen["y_hat"].mean((1, 2, 3)).detach()
    # The identity's: d mean(y)^2 / dy, as if nothing had been quantised.
    torch.testing.assert_close(gradient, (255**2 * 2 * mean / y[0].numel()).view(-1, 1, 1, 1).expand_as(y))
    pull = torch.autograd.grad(figures["extra_mse"].sum(), seen["y"])[0]
    # A quarter of the squared distance, beside the distortion of 3 * 64 * 64 samples.
    expected = 65025 / 4 * 2 * (y - seen["y_hat"].detach()) / 12288
    torch.testing.assert_close(pull, expected)
    assert set(model.eval()(torch.zeros(2, 3, 64, 64), quality)) == {"y_bpp", "z_bpp", "mse"}


def test_who_may_be_used_and_who_learns():
    """A pair is used from its first quality on, learns from ten below it on, and weighs bits by the slope."""
    model, heard = TrainableVectorModel(VQ_CONFIG), []
    first = torch.full(model.lower.gained.shape, 50.0)
    first[0, 0] = 0.0
    model.first_quality = lambda: first
    forward = model.lower.forward
    model.lower.forward = lambda *arguments, **options: (heard.append(arguments), forward(*arguments, **options))[1]
    quality = torch.tensor([39.0, 40.0, 49.0, 50.0])
    model(
        torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)), quality, torch.Generator().manual_seed(0)
    )
    _, shape, used, near, worth, offset = heard[0]
    assert shape == (4, 4, 4) and offset is None
    assert used[0, 0].all() and near[0, 0].all()
    assert used[1, 3].view(4, 16).all(1).tolist() == [False, False, False, True]
    assert near[1, 3].view(4, 16).all(1).tolist() == [False, True, True, True]
    assert near[1, 3].view(4, 16).any(1).tolist() == [False, True, True, True]
    # lmbda mse says what an error costs in bits per pixel: a squared error of y is one of the 3 colours of a pixel.
    lmbda = torch.tensor([VQ_CONFIG.lmbda(q) for q in quality.tolist()])
    torch.testing.assert_close(worth.view(4, 16), (3 / (255**2 * lmbda))[:, None].expand(4, 16))


@pytest.mark.parametrize("seed", [0, 1])
def test_what_the_upper_level_is_to_learn(seed):
    """Held to its codewords by a quarter of the squared distance; half the bits of the residual in steps, squared."""
    model = trainable("hvq", seed)
    quality = torch.tensor([30.0, 90.0])
    y, z = draw(2, CONFIG.M, 8, 4, seed=seed), 4 * draw(2, CONFIG.N, 2, 1, seed=seed + 10)
    mean = draw(2, CONFIG.M, 8, 4, seed=seed + 20)
    seen = captured(model, y)
    model.transforms.side_information = lambda y, quality: z
    model._condition = lambda z_hat, quality: (seen.update(z_hat=z_hat), (mean, None))[1]
    figures = model(torch.zeros(2, 3, 128, 64), quality, torch.Generator().manual_seed(0))
    z_hat = seen["z_hat"].detach()
    assert torch.equal(z_hat, z_hat.round()) and z_hat.abs().max() > 1
    lmbda = torch.tensor([CONFIG.lmbda(q) for q in (30.0, 90.0)])
    # The step whose noise, step^2 / 12, is worth its bits: high-resolution theory.
    step = (36 / (2 * math.log(2) * lmbda)).sqrt() / 255
    saved = torch.log2(1 + ((y - mean) / step[:, None, None, None]).square()).flatten(1).sum(1) / 2
    held = (z - z_hat).square().flatten(1).sum(1) / 4
    torch.testing.assert_close(figures["extra_bpp"], (held + saved) / (128 * 64))
    torch.testing.assert_close(figures["mse"], 65025 * seen["y_hat"].mean((1, 2, 3)).square())


@pytest.mark.parametrize("kind", CONFIGS)
def test_codebooks_begin_at_the_scale_of_what_is_left_for_them(kind):
    """Powers of two, near the root mean square of their group, and half of it for each stage."""
    model = TrainableVectorModel(CONFIGS[kind])
    rms = coarse_deviation(VQ_CONFIG.M).square().view(-1, VQ_CONFIG.code_dim).mean(1).sqrt()
    for stage, size in enumerate(model.lower.size):
        assert torch.equal(size.log2(), size.log2().round())
        assert (size / (rms / 2**stage)).log2().abs().max() <= 0.5001


def test_the_upper_level_s_codewords_learn_by_their_loss_too():
    model, z = TrainableVectorModel(CONFIGS["hvq"], "loss"), 4 * draw(2, CONFIG.N, 2, 1)
    for book in model.upper.books:
        book.load(4 * draw(*book.entries.shape, seed=1))
    z_hat, _, held = model._upper(z, None)
    vectors = z.view(2, -1, VQ_CONFIG.code_dim, 2)
    codewords = model.upper.codebooks[0].detach()
    nearest = (vectors[:, :, None] - codewords[..., None]).square().sum(3)  # (B, G, K, h w)
    error = nearest.amin(2)
    # By squared error and bits, half a unit for each of the 4 that 16 codewords cost: the same for all.
    wanted = 0.25 * (z - z_hat).square().flatten(1).sum(1) + error.flatten(1).sum(1)
    torch.testing.assert_close(held, wanted)


def test_a_pair_that_gains_nothing_is_never_used():
    model = TrainableVectorModel(VQ_CONFIG)
    model.lower.gained[1:, 2] = 0.0
    first = model.first_quality()
    assert first[1:, 2].eq(200).all() and (first[0] <= 200).all()
    assert model.export_tensors()["entropy.vq.first_quality"][1, 2] == 20000


def test_tables_of_a_weights_file():
    made = level()
    with torch.no_grad():
        made.log_prior.copy_(draw(2, 3, 8, seed=4))
    tensors = made.export_tensors(torch.zeros(2, 3))
    bits = -torch.log2(torch.softmax(made.log_prior, 2))
    torch.testing.assert_close(tensors["bits"].float(), bits, rtol=1e-3, atol=1e-3)
    counts = (tensors["frequencies"].int() & 0xFFFF) + 1
    assert counts.sum(-1).eq(65536).all() and counts[..., -1].lt(10).all()  # what never comes costs next to nothing
    share = torch.softmax(made.log_prior, 2)[:, :, None].expand(-1, -1, counts.shape[2], -1)
    torch.testing.assert_close(counts[..., :-1] / 65536, share, rtol=0, atol=2e-4)  # no sharpness yet


def test_codewords_of_whole_numbers_are_rounded_and_kept_within_what_the_networks_take():
    made = level(stages=1)
    codewords = torch.tensor([0.0, 0.4, 3.6, -3.6, 2.5, -2.5, 1e4, -1e4])[:, None].expand(3, 8, 4)
    made.books[0].load(codewords / made.size[0][:, None, None])  # of one unit each
    found = made.export_tensors(torch.zeros(1, 3), whole=True)["codebooks"]
    wanted = torch.tensor([0, 0, 4, -4, 3, -2, 255, -255])  # halves upwards; eight bits and a sign
    assert found.dtype == torch.float16 and torch.equal(found[0].int(), wanted.int()[:, None].expand(3, 8, 4))


def test_the_divergence_is_the_rate_of_a_discrete_vae():
    model = trainable("dvae")
    captured(model, draw(2, VQ_CONFIG.M, 4, 4))
    found, lower = [], model.lower.forward
    model.lower.forward = lambda *arguments, **options: (found.append(lower(*arguments, **options)), found[0])[1]
    figures = model(torch.zeros(2, 3, 64, 64), torch.tensor([90.0, 20.0]), torch.Generator().manual_seed(0))
    kl = found[0].kl.view(-1, 2, 16).sum((0, 2))
    torch.testing.assert_close(figures["extra_bpp"], kl / 4096)
    assert kl[0] > kl[1] > 0 and figures["extra_mse"].eq(0).all()
    torch.testing.assert_close(figures["y_bpp"], found[0].bits.view(-1, 2, 16).sum((0, 2)) / 4096)


@pytest.mark.parametrize("figure", ["mse", "extra_bpp"])
def test_the_analysis_of_a_discrete_vae_learns_through_the_draw(figure):
    """Along its own gradient, by central differences with the same draws."""
    model, quality, y = trainable("dvae"), torch.tensor([90.0, 60.0]), 0.3 * draw(2, VQ_CONFIG.M, 4, 4)
    with torch.no_grad():  # smooth on the scale of the codewords: logits fall by 4 r^2, in the unit of the latents
        model.lower.log_precision.copy_(math.log(4) + 2 * model.lower.size.log())

    def value(y):
        seen = captured(model, y)
        found = model(torch.zeros(2, 3, 64, 64), quality, torch.Generator().manual_seed(0))[figure].sum()
        discard_codebooks(model)
        return found, seen

    found, seen = value(y)
    (gradient,) = torch.autograd.grad(found, seen["y"])
    assert gradient.norm() > 0
    direction = gradient / gradient.norm()
    up, down = (value(y + sign * 0.01 * direction)[0].item() for sign in (1, -1))
    assert (up - down) / 0.02 == pytest.approx(gradient.norm().item(), rel=0.1)


def test_extras_are_part_of_the_loss():
    figures = {"y_bpp": torch.tensor([0.5]), "z_bpp": torch.tensor([0.25]), "mse": torch.tensor([100.0])}
    lmbda = torch.tensor([0.0035])
    assert picture_losses(figures, lmbda, 0.5).item() == pytest.approx(2 * (0.75 + 0.35))
    figures.update(extra_mse=torch.tensor([50.0]), extra_bpp=torch.tensor([0.125]))
    assert picture_losses(figures, lmbda, 0.5).item() == pytest.approx(2 * (0.875 + 0.525))


def test_refinements_begin_no_earlier_than_what_they_refine():
    torch.manual_seed(0)
    model = TrainableVectorModel(VQ_CONFIG)
    gains = torch.rand(model.lower.gained.shape, generator=torch.Generator().manual_seed(0)) + 0.01
    gains[1] = 4 * gains[0]  # a second stage that is worth more than the first all the same has to wait for it
    model.lower.gained.copy_(gains)
    first = model.first_quality()
    assert first[1, 1:].gt(0).any() and torch.equal(first[1, 1:], first[0, 1:])
    assert (first.diff(dim=0) >= 0).all() and first[0, 0] == 0
    # At the lmbda where a gain is worth its bits: lmbda 255^2 gain / 3 = cost.
    model.lower.gained[0, 1], model.lower.cost[0, 1] = 0.02, 5.0
    alone = model.first_quality()[0, 1]
    assert VQ_CONFIG.lmbda(alone.item()) == pytest.approx(3 * 5.0 / (255**2 * 0.02), rel=1e-3)
    model.lower.gained[0, 1], model.lower.cost[0, 1] = 0.04, 10.0
    torch.testing.assert_close(model.first_quality()[0, 1], alone)


def test_the_upper_level_learns_from_what_it_saves_the_lower_one():
    model = trainable("hvq")
    x, quality = torch.rand(2, 3, 128, 64, generator=torch.Generator().manual_seed(0)), torch.tensor([60.0, 90.0])
    figures = model(x, quality, torch.Generator().manual_seed(0))
    y_rate = torch.autograd.grad(figures["y_bpp"].sum(), model.transforms.h_a.enter.weight, retain_graph=True)[0]
    saved = torch.autograd.grad(figures["extra_bpp"].sum(), model.heads["mean"].weight, retain_graph=True)[0]
    own = torch.autograd.grad(figures["z_bpp"].sum(), model.transforms.h_a.enter.weight)[0]
    assert y_rate.abs().max() > 0 and saved.abs().max() > 0 and own.abs().max() > 0


def test_the_lower_level_is_conditioned_on_the_upper_one():
    model = trainable("hvq")
    tensors = {name: t.numpy() for name, t in model.export_tensors().items()}
    codes = latents.from_tensors(CONFIGS["hvq"], tensors)
    rng = np.random.default_rng(0)
    y = rng.normal(0, 0.5, (CONFIG.M, 8, 8)).astype(np.float32)
    upper = [rng.normal(0, 4, (CONFIG.N, 2, 2)).astype(np.float32) for _ in range(2)]
    first, second = (codes.encode(z, y, 7000) for z in upper)
    below = [np.concatenate(encoded.rows[-20:]) for encoded in (first, second)]
    assert not np.array_equal(*below)  # other tables
    means, classes = zip(*(codes.condition(encoded.z_hat, 7000) for encoded in (first, second)))
    assert not np.array_equal(*means) and len(np.unique(classes)) == 4
    # The mean of the networks, in half-precision units of the deviation of the cosine transform, 1/16 of it a step.
    with torch.no_grad():
        mean, _ = model._condition(torch.from_numpy(first.z_hat)[None], torch.tensor([70.0]))
    steps = (mean[0].numpy() - means[0]) / (model.unit.numpy()[:, None, None] / 16)
    assert np.abs(steps).max() < 1.01 and (np.abs(steps) > 0.01).mean() < 0.01  # sums beyond 2^24, in training alone


# Training


def logged(folder, name):
    with open(folder / "log.csv", newline="") as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["name"] == name]


@pytest.mark.parametrize("kind, codebook", [("vq", "ema"), ("vq", "loss"), ("hvq", "ema"), ("dvae", "ema")])
def test_training_learns_and_what_it_exports_compresses(pictures, tmp_path, kind, codebook):
    options = dict(valid=str(pictures), ema=0.5, codebook=codebook)
    for steps in (2, 30):
        export = train(settings(pictures, tmp_path / str(steps), kind, steps=steps, **options), progress=False)
    begun, ended = (logged(tmp_path / steps, "valid_loss")[-1] for steps in ("2", "30"))
    assert ended < 0.8 * begun
    assert 1 < logged(tmp_path / "30", "perplexity_1")[-1] <= 16
    model = Model.from_folder(export)
    assert model.config.latents == kind
    pixels = np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8)
    assert model.decode(model.encode(pixels, 5000), 64, 128, 5000).shape == pixels.shape


@KINDS
def test_one_picture_that_is_not_finite_leaves_no_trace(pictures, tmp_path, monkeypatch, kind):
    """Through the loop: the step is not taken, nothing has changed, and the run goes on to learn."""
    run_ = loop._Run(settings(pictures, tmp_path, kind, steps=24, warmup=1, decay=0.5), one_process())

    def step():
        loss = run_._one_step()["loss"].item()
        run_.step += 1
        return loss

    x, quality, _, _ = run_._inputs(99)

    @torch.no_grad()
    def loss_now():
        figures = run_.bare(x, quality, torch.Generator().manual_seed(0))
        discard_codebooks(run_.bare)
        own = {name: figures[name] for name in ("y_bpp", "z_bpp", "mse")}
        return picture_losses(own, run_.bare.config.lmbda(quality), 0.5).mean().item()

    step()
    before = {name: t.clone() for name, t in run_.bare.state_dict().items()}
    inputs = run_._inputs

    def broken(number):
        x, *rest = inputs(number)
        x = x.clone()
        x[0, 0, 5, 5] = float("nan")
        return x, *rest

    with monkeypatch.context() as patch:
        patch.setattr(run_, "_inputs", broken)
        assert math.isnan(step())
    assert [name for name, t in run_.bare.state_dict().items() if not torch.equal(t, before[name])] == []
    begun = loss_now()
    for _ in range(20):
        step()
    assert loss_now() < (0.95 if kind == "vq" else 1.0) * begun  # an upper level is slow to be of use, and so are draws
    assert all(t.isfinite().all() for t in run_.bare.state_dict().values())
    assert not torch.equal(run_.bare.lower.books[0].entries, before["lower.books.0.entries"])
    run_.crops.close()


def test_measuring_the_means_of_the_average_leaves_nothing_to_learn(pictures, tmp_path):
    run_ = loop._Run(settings(pictures, tmp_path, steps=5), one_process())
    run_._one_step()
    run_.step += 1
    averaged = run_._averaged()
    before = averaged.lower.codebooks.clone(), averaged.lower.gained.clone()
    commit_codebooks(averaged)
    assert torch.equal(averaged.lower.codebooks, before[0]) and torch.equal(averaged.lower.gained, before[1])
    run_.crops.close()


@KINDS
def test_resumed_training_equals_uninterrupted(pictures, tmp_path, kind):
    train(settings(pictures, tmp_path / "whole", kind, steps=4, decay=0.0), progress=False)
    # The temperature follows the whole run.
    part = loop._Run(settings(pictures, tmp_path / "parts", kind, steps=4, decay=0.0), one_process())
    part.output.mkdir()
    for _ in range(2):
        part._one_step()
        part.step += 1
    part._save()
    part.crops.close()
    train(
        settings(pictures, tmp_path / "parts", kind, steps=4, decay=0.0, resume=str(tmp_path / "parts")), progress=False
    )
    whole, parts = weights_of(tmp_path / "whole")[0], weights_of(tmp_path / "parts")[0]
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []


@KINDS
def test_training_continues_from_exported_weights(pictures, tmp_path, kind):
    export = train(settings(pictures, tmp_path / "first", kind), progress=False)
    still = dict(resume=str(export), steps=1, lr=0.0, ema=0.0)
    again = train(settings(pictures, tmp_path / "second", kind, **still), progress=False)
    first, second = (read_folder(folder)[1] for folder in (export, again))
    assert first.keys() == second.keys()
    moved = np.abs(first["entropy.vq.codebooks"] - second["entropy.vq.codebooks"]).max()
    assert moved <= (0 if kind == "dvae" else 0.2 * np.abs(first["entropy.vq.codebooks"]).max())
    for name, a in first.items():
        if not name.startswith("entropy.") and not name.endswith("bias"):  # these follow the means of other batches
            np.testing.assert_allclose(a, second[name], rtol=1e-3, atol=1e-4, err_msg=name)


@KINDS
def test_an_export_taken_in_again_is_the_same(kind):
    tensors = trainable(kind).export_tensors()
    model = TrainableVectorModel(CONFIGS[kind])
    model.import_tensors(tensors)
    again = model.export_tensors()
    assert tensors.keys() == again.keys()
    for name, a in tensors.items():
        if not name.startswith("entropy.") or a.is_floating_point():
            torch.testing.assert_close(again[name], a, rtol=2e-3, atol=1e-3, msg=name)
        elif "frequencies" not in name and "multiplier" not in name:
            assert torch.equal(again[name], a), name


def test_grown_networks_keep_their_codes(pictures, tmp_path):
    export = train(settings(pictures, tmp_path / "first"), progress=False)
    larger = dataclasses.replace(VQ_CONFIG, analysis_depth=3)
    grown = train(
        training_config(pictures, tmp_path / "second", larger, resume=str(export), steps=1, lr=0.0, ema=0.0),
        progress=False,
    )
    assert read_weights(grown)[0] == larger
    a, b = (read_weights(folder)[1]["entropy.vq.codebooks"].float() for folder in (export, grown))
    assert (a - b).abs().max() < 0.2 * a.abs().max()


# Settings


def test_latents_are_chosen_by_name():
    assert TrainingConfig(latents="vq").model_config().latents == "vq"
    assert TrainingConfig().model_config().latents == "scalar"
    with pytest.raises(ModelError, match="there are scalar, vq, hvq, dvae"):
        TrainingConfig(latents="cubes").model_config()
    with pytest.raises(ValueError, match="there are ema and loss"):
        TrainingConfig(codebook="sgd")


@pytest.mark.parametrize(
    "bad, named",
    [
        (dict(latents="vq", quantiser="sga"), "quantiser is 'sga', which vq latents"),
        (dict(latents="hvq", quantiser="ste"), "quantiser is 'ste', which hvq latents"),
        (dict(latents="vq", entropy_bits=1), "entropy_bits is 1, which vq latents"),
        (dict(latents="dvae", entropy_bits=4), "entropy_bits is 4, which dvae latents"),
        (dict(latents="dvae", codebook="loss"), "codebook is 'loss', which dvae latents"),
        (dict(codebook="loss"), "codebook is 'loss', which scalar latents"),
    ],
)
def test_settings_that_latents_do_not_look_at_are_refused(pictures, tmp_path, bad, named):
    with pytest.raises(ModelError, match=named):
        train(TrainingConfig(pictures=[str(pictures)], output=str(tmp_path / "run"), **bad), progress=False)
    assert not (tmp_path / "run").exists()
    TrainingConfig(latents="hvq", entropy_bits=4).check_latents(dataclasses.replace(CONFIGS["hvq"], entropy_bits=4))


def test_a_run_that_goes_on_keeps_latents_and_ways_to_learn(pictures, tmp_path):
    export = train(settings(pictures, tmp_path / "first", steps=1), progress=False)
    for resume, change, named in (
        (export, dict(latents="hvq"), "latents is 'hvq', and that of the weights is 'vq'"),
        (tmp_path / "first", dict(latents="dvae"), "latents is 'dvae', and that of the weights is 'vq'"),
        (tmp_path / "first", dict(codebook="loss"), "a checkpoint keeps the way"),
        (export, dict(quantiser="soft"), "quantiser is 'soft', which vq latents"),
    ):
        config = TrainingConfig(
            pictures=[str(pictures)], output=str(tmp_path / "second"), resume=str(resume), device="cpu", **change
        )
        with pytest.raises(ModelError, match=named):
            train(config, progress=False)
    path = tmp_path / "first" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    state["model"]["lower.counts"] = state["model"].pop("lower.books.0.shares")
    torch.save(state, path)
    with pytest.raises(ModelError, match="of another version"):
        train(settings(pictures, tmp_path / "second", resume=str(path)), progress=False)
    # What learned by averages may go on by the codebook loss from exported weights.
    train(settings(pictures, tmp_path / "third", resume=str(export), steps=1, codebook="loss"), progress=False)
