"""The fused cross-entropy with a share for each row and the best columns from the same scores."""

import pytest
import torch
import torch.nn.functional as F

from recbole_diffusion.layers import chunks
from recbole_diffusion.layers.cross_entropy import linear_cross_entropy, weighted_cross_entropy
from recbole_diffusion.layers.top_items import GROUP, best_without, largest


def inputs(n_rows=20, n_items=31):
    torch.manual_seed(0)
    hidden = torch.randn(n_rows, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(n_items, 5, dtype=torch.float64, requires_grad=True)
    return hidden, weight, torch.randint(n_items, (n_rows,)), torch.rand(n_rows, dtype=torch.float64)


@pytest.mark.parametrize("rows_at_a_time", [1, 7, 1000])
@pytest.mark.parametrize("n_best", [0, 1, 6])
def test_equals_naive_in_value_gradient_and_columns(monkeypatch, rows_at_a_time, n_best):
    monkeypatch.setattr(chunks, "NUMBERS_ON_CPU", rows_at_a_time * 31)
    monkeypatch.setattr(chunks, "FEWEST_ROWS", 1)
    hidden, weight, target, shares = inputs()
    loss, best = weighted_cross_entropy(hidden, weight, target, shares, n_best)
    logits = hidden @ weight.t()
    expected = (shares * F.cross_entropy(logits, target, reduction="none")).sum()
    torch.testing.assert_close(loss, expected)
    assert torch.equal(best, logits.topk(n_best).indices)
    for one, two in zip(*(torch.autograd.grad(3 * value, (hidden, weight)) for value in (loss, expected))):
        torch.testing.assert_close(one, two)


def test_equal_shares_are_the_mean_and_a_row_without_a_share_is_not_there():
    hidden, weight, target, shares = inputs()
    mean = linear_cross_entropy(hidden, weight, target)[0]
    torch.testing.assert_close(weighted_cross_entropy(hidden, weight, target, torch.full_like(shares, 1 / 20))[0], mean)
    shares[3:] = 0
    some = weighted_cross_entropy(hidden[:3], weight, target[:3], shares[:3])[0]
    torch.testing.assert_close(weighted_cross_entropy(hidden, weight, target, shares)[0], some)


def test_no_rows_cost_nothing_and_have_a_gradient():
    hidden, weight, target, shares = inputs(n_rows=0)
    loss, best = weighted_cross_entropy(hidden, weight, target, shares, 4)
    loss.backward()
    assert loss == 0 and best.shape == (0, 4) and not weight.grad.any()


def test_it_is_not_computed_in_half_precision():
    hidden, weight, target, shares = (t.float().detach() if t.is_floating_point() else t for t in inputs())
    with torch.autocast("cpu", torch.bfloat16):
        found = weighted_cross_entropy(hidden, weight, target, shares, 3)
    for one, two in zip(found, weighted_cross_entropy(hidden, weight, target, shares, 3)):
        assert torch.equal(one, two)


@pytest.mark.parametrize("n_columns", [5, 20 * GROUP - 1, 20 * GROUP, 20 * GROUP + 1, 1003])
@pytest.mark.parametrize("clustered", [False, True])
def test_largest_columns_of_any_width(n_columns, clustered):
    scores = torch.randn(17, n_columns, generator=torch.Generator().manual_seed(n_columns))
    if clustered:  # the best columns stand at the end, beyond the last full group
        scores[:, -4:] += 5
    for k in (1, 4):
        assert torch.equal(largest(scores, k), scores.topk(k).indices)


def test_best_items_without_one():
    best = torch.tensor([[5, 3, 9], [3, 5, 9], [7, 8, 3], [1, 2, 4]])
    found = best_without(best, torch.tensor([3, 3, 3, 3]))
    assert found.tolist() == [[5, 9], [5, 9], [7, 8], [1, 2]]
