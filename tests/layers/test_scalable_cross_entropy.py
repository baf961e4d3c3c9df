"""Scalable cross-entropy: equal to a loop over buckets, to the full one where a bucket holds all, and what buckets hold."""

import pytest
import torch
import torch.nn.functional as F

from recbole_diffusion.layers.repetition import Additions
from recbole_diffusion.layers.scalable_cross_entropy import bucket_sizes, fill_buckets, scalable_cross_entropy

N, V, D = 30, 50, 4


def inputs():
    torch.manual_seed(0)
    hidden = torch.randn(N, D, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(V, D, dtype=torch.float64, requires_grad=True)
    return hidden, weight, torch.randint(1, V, (N,))


def buckets(hidden, weight, n_buckets, n_states, n_items, mix=True):
    states, items = fill_buckets(hidden.detach(), weight.detach()[1:], n_buckets, n_states, n_items, mix)
    return states, items + 1


def slow(logits, target, states, items):
    """A bucket, a state and an item at a time: the largest loss of a state, the mean over states."""
    largest = {}
    for in_bucket, candidates in zip(states.tolist(), items.tolist()):
        for state in in_bucket:
            own = int(target[state])
            others = [logits[state, item] for item in candidates if item != own]
            loss = torch.stack([logits[state, own], *others]).logsumexp(0) - logits[state, own]
            if state not in largest or loss > largest[state]:
                largest[state] = loss
    return torch.stack(list(largest.values())).mean()


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("mix", [False, True])
@pytest.mark.parametrize("sizes", [(6, 5, 10), (1, 7, 1), (40, 30, 49)])
def test_equals_a_loop_in_value_and_gradient(sizes, mix, sparse):
    hidden, weight, target = inputs()
    states, items = buckets(hidden, weight, *sizes, mix)
    found = scalable_cross_entropy(hidden, weight, target, states, items, sparse=sparse)
    expected = slow(hidden @ weight.t(), target, states, items)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(3 * loss, (hidden, weight)) for loss in (found, expected)]
    assert gradients[0][1].is_sparse == sparse
    for one, two in zip(*gradients):
        torch.testing.assert_close(one.to_dense(), two)


def test_one_bucket_that_holds_everything_is_cross_entropy():
    hidden, weight, target = inputs()
    states, items = buckets(hidden, weight, *bucket_sizes(N, V - 1, 1, 10**6, 10**6))
    found = scalable_cross_entropy(hidden, weight, target, states, items)
    expected = F.cross_entropy(hidden @ weight[1:].t(), target - 1)
    torch.testing.assert_close(found, expected)
    for one, two in zip(*(torch.autograd.grad(loss, (hidden, weight)) for loss in (found, expected))):
        torch.testing.assert_close(one, two)


def test_additions_are_those_of_the_states_and_items_of_a_bucket():
    hidden, weight, target = inputs()
    rows = torch.arange(N).repeat_interleave(10)
    columns = torch.cat([torch.randperm(V - 1)[:10] + 1 for _ in range(N)])
    values = torch.randn(len(rows), dtype=torch.float64, requires_grad=True)
    additions = Additions(rows, columns, values)
    states, items = buckets(hidden, weight, 6, 5, 10)
    found = scalable_cross_entropy(hidden, weight, target, states, items, additions)
    expected = slow(additions.to(hidden @ weight.t()), target, states, items)
    torch.testing.assert_close(found, expected)
    for one, two in zip(*(torch.autograd.grad(loss, (hidden, values)) for loss in (found, expected))):
        torch.testing.assert_close(one, two)


def test_buckets_hold_the_largest_inner_products_with_their_directions():
    hidden, weight, _ = inputs()
    torch.manual_seed(1)
    states, items = fill_buckets(hidden.detach(), weight.detach(), 3, 4, 5, mix=True)
    torch.manual_seed(1)
    directions = torch.randn(3, N, dtype=torch.float64) @ hidden.detach()
    assert torch.equal(states, (directions @ hidden.t()).topk(4).indices)
    assert torch.equal(items, (directions @ weight.t()).topk(5).indices)


def test_sizes_that_are_not_given_grow_with_the_root_of_the_batch():
    assert bucket_sizes(2500, 10**6, 0, 0, 256) == (100, 100, 256)
    assert bucket_sizes(9, 7, 0, 0, 256) == (6, 6, 7)
    assert bucket_sizes(1, 7, 0, 0, 256) == (2, 1, 7)
    assert bucket_sizes(2500, 10**6, 8, 300, 512) == (8, 300, 512)
