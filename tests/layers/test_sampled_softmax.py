"""Softmax against drawn items: equal to a loop in value and gradient, and what its weights make of it."""

import math

import pytest
import torch

from recbole_diffusion.layers.sampled_softmax import draw_negatives, log_weights, sampled_softmax

V, D = 12, 3


def inputs():
    torch.manual_seed(0)
    hidden = torch.randn(5, D, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(V, D, dtype=torch.float64, requires_grad=True)
    return hidden, weight, torch.tensor([1, 2, 2, 4, 11])


def slow(hidden, weight, target, negatives, kind, in_batch):
    """A target and a negative at a time, by the definitions."""
    k = negatives.shape[-1]
    n_batch, losses = round(in_batch * k), []

    def expected(item):
        share = target.tolist().count(item) / len(target)
        return (k - n_batch) / (V - 1) + n_batch * share

    for row, item in enumerate(target.tolist()):
        positive = hidden[row] @ weight[item]
        total = positive.exp()
        for negative in (negatives if negatives.dim() == 1 else negatives[row]).tolist():
            if negative == item:
                continue
            logit = hidden[row] @ weight[negative]
            if kind == "importance":
                logit = logit - math.log(expected(negative))
            if kind == "log_q":
                logit = logit - math.log(expected(negative)) + math.log(expected(item))
            total = total + logit.exp()
        losses.append(total.log() - positive)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("kind", ["none", "importance", "log_q"])
@pytest.mark.parametrize("in_batch, each", [(0.0, False), (0.5, False), (0.5, True), (1.0, False), (0.0, True)])
def test_equals_a_loop_in_value_and_gradient(kind, in_batch, each, sparse):
    hidden, weight, target = inputs()
    negatives = draw_negatives(target, V, 8, in_batch, each)
    assert any(item in negatives for item in target)  # hits are there to be left out
    weights = log_weights(kind, target, negatives, V, in_batch)
    found = sampled_softmax(hidden, weight, target, negatives, None, weights, sparse)
    expected = slow(hidden, weight, target, negatives, kind, in_batch)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)  # weights are float32
    gradients = [torch.autograd.grad(3 * loss, (hidden, weight)) for loss in (found, expected)]
    assert gradients[0][1].is_sparse == sparse
    for one, two in zip(*gradients):
        torch.testing.assert_close(one.to_dense(), two, rtol=1e-5, atol=1e-7)


def test_negatives_are_uniform_or_come_as_often_as_they_are_met():
    torch.manual_seed(0)
    target = torch.tensor([3, 3, 3, 7])
    uniform = draw_negatives(target, 6, 50_000)
    items, counts = uniform.unique(return_counts=True)
    assert items.tolist() == [1, 2, 3, 4, 5] and (counts / 10_000 - 1).abs().max() < 0.05
    items, counts = draw_negatives(target, 6, 50_000, 1.0).unique(return_counts=True)
    assert items.tolist() == [3, 7] and counts[0] / 50_000 == pytest.approx(0.75, abs=0.01)
    mixed = draw_negatives(target, 6, 8, 0.25, each=True)
    assert mixed.shape == (4, 8) and set(mixed[:, 6:].flatten().tolist()) <= {3, 7}
    assert len(mixed[:, :6].unique(dim=0)) > 1


@pytest.mark.parametrize("in_batch", [0.0, 0.5])
def test_importance_estimates_the_sum_over_all_items_without_bias(in_batch):
    hidden, weight, target = (tensor.detach() for tensor in inputs())
    negatives = draw_negatives(target, V, 200_000, in_batch)
    weights = log_weights("importance", target, negatives, V, in_batch)
    found = sampled_softmax(hidden, weight, target, negatives, None, weights)
    expected = torch.nn.functional.cross_entropy(hidden @ weight[1:].t(), target - 1)
    assert found.item() == pytest.approx(expected.item(), rel=0.01)
    assert abs(sampled_softmax(hidden, weight, target, negatives).item() / expected.item() - 1) > 0.5


def test_the_classical_correction_is_nothing_for_uniform_negatives():
    _, _, target = inputs()
    assert log_weights("log_q", target, draw_negatives(target, V, 8), V) is None


def test_it_is_not_computed_in_half_precision():
    hidden, weight, target = (tensor.detach().float() if tensor.is_floating_point() else tensor for tensor in inputs())
    negatives = torch.tensor([5, 6, 7])
    with torch.autocast("cpu", torch.bfloat16):
        found = sampled_softmax(hidden, weight, target, negatives)
    assert torch.equal(found, sampled_softmax(hidden, weight, target, negatives))


def test_with_shared_negatives_it_is_that_with_ones_for_every_row():
    hidden, weight, target = inputs()
    torch.manual_seed(1)
    shared = draw_negatives(target, V, 30, 0.5)
    weights = log_weights("importance", target, shared, V, 0.5)
    each = shared.expand(len(target), -1), weights.expand(len(target), -1)
    fast, plain = sampled_softmax(hidden, weight, target, shared, None, weights), sampled_softmax(hidden, weight, target, each[0], None, each[1])
    torch.testing.assert_close(fast, plain)
    for one, two in zip(torch.autograd.grad(fast, (hidden, weight)), torch.autograd.grad(plain, (hidden, weight))):
        torch.testing.assert_close(one, two)


@pytest.mark.filterwarnings("error")
def test_targets_may_be_a_column_of_something():
    hidden, weight, target = inputs()
    negatives = torch.tensor([5, 2, 7])
    column = torch.stack([target, target], 1)[:, 0]
    torch.testing.assert_close(sampled_softmax(hidden, weight, column, negatives), sampled_softmax(hidden, weight, target, negatives))


def test_no_target_may_be_among_the_negatives_and_every_one():
    hidden, weight, target = inputs()
    apart = sampled_softmax(hidden, weight, target, torch.tensor([5, 6, 7]))
    logits = hidden @ weight.t()
    slow = torch.cat([logits.gather(1, target[:, None]), logits[:, [5, 6, 7]]], 1).log_softmax(1)[:, 0]
    torch.testing.assert_close(apart, -slow.mean())
    assert sampled_softmax(hidden, weight, torch.full_like(target, 5), torch.tensor([5, 5])).abs() < 1e-12
