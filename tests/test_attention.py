"""Hard attention: reads one position, learns by the softmax."""

import pytest
import torch

from codec.quantise import hard_attention


def some(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs():
    return [some(2, 3, 4, seed=seed).requires_grad_() for seed in range(3)]


def test_each_query_reads_the_value_of_its_best_key():
    queries, keys, values = inputs()
    result, weights = hard_attention(queries, keys, values)
    best = (queries @ keys.transpose(1, 2)).argmax(-1)
    assert torch.equal(weights.argmax(-1), best)
    assert torch.equal(weights.sum(-1), torch.ones(2, 3, dtype=torch.float64)) and weights.max() == 1
    assert torch.equal(result, torch.stack([values[b, best[b]] for b in range(2)]))


def test_gradients_are_those_of_the_softmax_for_the_scores_and_of_the_choice_for_the_values():
    queries, keys, values = inputs()
    result, weights = hard_attention(queries, keys, values, temperature=0.7)
    g = some(2, 3, 4, seed=9)
    result.backward(g)
    with torch.no_grad():
        soft = torch.softmax(queries @ keys.transpose(1, 2) / 2 / 0.7, -1)
        from_weights = g @ values.transpose(1, 2)
        scores = soft * (from_weights - (soft * from_weights).sum(-1, keepdim=True)) / 0.7
        torch.testing.assert_close(queries.grad, scores @ keys / 2)
        torch.testing.assert_close(keys.grad, scores.transpose(1, 2) @ queries / 2)
        torch.testing.assert_close(values.grad, weights.transpose(1, 2) @ g)


def test_soft_attention_is_that_of_pytorch():
    queries, keys, values = inputs()
    result, _ = hard_attention(queries, keys, values, soft=True)
    torch.testing.assert_close(result, torch.nn.functional.scaled_dot_product_attention(queries, keys, values))


def test_masked_positions_are_never_read_and_get_no_gradient():
    queries, keys, values = inputs()
    mask = torch.tensor([True, False, True]).expand(2, 3, 3)
    for sample in (False, True):
        result, weights = hard_attention(queries, keys, values, sample=sample, mask=mask)
        assert weights[..., 1].eq(0).all()
        grads = torch.autograd.grad(result.sum(), (queries, keys, values))
        assert all(grad.isfinite().all() for grad in grads)
        assert grads[1][:, 1].eq(0).all() and grads[2][:, 1].eq(0).all()


def test_sampled_positions_follow_the_softmax():
    queries, keys, values = some(1, 4), some(5, 4, seed=1), some(5, 2, seed=2)
    _, weights = hard_attention(
        queries.expand(20_000, 1, 4), keys, values, sample=True, generator=torch.Generator().manual_seed(0)
    )
    wanted = torch.softmax(queries @ keys.T / 2, -1)
    torch.testing.assert_close(weights.mean(0), wanted, atol=0.02, rtol=0)


NAN = float("nan")


def test_values_that_are_not_read_do_not_matter():
    queries, keys, values = inputs()
    plain, weights = hard_attention(queries, keys, values)
    unread = weights.sum(-2).eq(0)[..., None]  # (2, 3, 1): positions that no query reads
    assert unread.any()
    result, _ = hard_attention(queries, keys, values.masked_fill(unread, NAN))
    assert torch.equal(result, plain)


@pytest.mark.parametrize("options", [{}, {"sample": True}, {"soft": True}])
def test_padding_may_hold_anything(options):
    queries, keys, values = inputs()
    mask = torch.tensor([True, False, True]).expand(2, 3, 3)
    runs = []
    for padding in (0.0, NAN, float("inf")):
        with torch.no_grad():
            keys[:, 1], values[:, 1] = padding, padding
        generator = torch.Generator().manual_seed(0)
        result, _ = hard_attention(queries, keys, values, mask=mask, generator=generator, **options)
        runs.append((result, *torch.autograd.grad(result.square().sum(), (queries, keys, values))))
    assert all(t.isfinite().all() for run in runs for t in run)
    for run in runs[1:]:
        torch.testing.assert_close(run, runs[0])


def test_a_query_does_not_feel_a_value_that_it_may_not_read():
    queries, keys, values = inputs()
    mask = torch.ones(2, 3, 3, dtype=torch.bool)
    mask[:, 0, 2] = False  # the first query of each may not look at the third position, the others may
    with torch.no_grad():
        values[:, 2] = NAN
    result, _ = hard_attention(queries, keys, values, mask=mask)
    assert result[:, 0].isfinite().all()
    (grad,) = torch.autograd.grad(result[:, 0].sum(), queries)
    assert grad[:, 0].isfinite().all() and grad[:, 0].abs().sum() > 0


def test_gradients_broadcast_as_the_product_of_matrices_does():
    shapes = ((2, 5, 4), (3, 4), (3, 6))
    queries, keys, values = (some(*shape, seed=i).requires_grad_() for i, shape in enumerate(shapes))
    result, weights = hard_attention(queries, keys, values)
    g = some(2, 5, 6, seed=3)
    grad_values, grad_keys = torch.autograd.grad(result, (values, keys), g)
    torch.testing.assert_close(grad_values, (weights.transpose(1, 2) @ g).sum(0).detach())
    assert grad_keys.shape == keys.shape


def test_what_cannot_be_attended_to_is_refused():
    queries, keys, values = inputs()
    mask = torch.ones(2, 3, 3, dtype=torch.bool)
    mask[1, 2] = False
    with pytest.raises(ValueError, match="may look at no position"):
        hard_attention(queries, keys, values, mask=mask)
    with pytest.raises(ValueError, match="temperature must be positive"):
        hard_attention(queries, keys, values, temperature=0.0)
