"""Items that share an attribute: whom they are drawn from, how often, and what attention over them equals."""

import math

import pytest
import torch
import torch.nn.functional as F

from recbole_diffusion.layers.attributes import AttributeGroups, MateAttention

# item -> its values; 9 alone in its own, 10 and 11 without any, 8 a pair with 1
VALUES = {1: [0, 1, 5], 2: [0], 3: [0, 1], 4: [0], 5: [0], 6: [1], 7: [1, 2], 8: [5], 9: [3]}
V = 12


def groups(n_mates=3, values=VALUES):
    pairs = [(item, value) for item, found in values.items() for value in found]
    items, numbers = (torch.tensor(column, dtype=torch.long) for column in zip(*pairs[::-1]))
    return AttributeGroups(items, numbers, V, n_mates)


def shares(item):
    """Mate -> how often it is drawn for an item."""
    members = {value: [i for i, found in VALUES.items() if value in found] for value in range(6)}
    shared, found = [value for value in VALUES.get(item, []) if len(members[value]) > 1], {}
    for value in shared:
        for mate in set(members[value]) - {item}:
            found[mate] = found.get(mate, 0) + 1 / len(shared) / (len(members[value]) - 1)
    return found


def test_draws_are_mates_as_often_as_their_shares_say():
    torch.manual_seed(0)
    for item in VALUES:
        wanted = shares(item)
        mates = groups(1).draw(torch.tensor([item]), 40000)
        drawn, log_share = mates.items[0, :, 0], mates.log_share[0, :, 0]
        if len(wanted) < 2:
            assert set(drawn.tolist()) == set(wanted or {0}) and (log_share == (0 if wanted else -math.inf)).all()
            continue
        assert not log_share.any()
        counts = torch.bincount(drawn, minlength=V) / 40000
        expected = torch.tensor([wanted.get(mate, 0.0) for mate in range(V)])
        torch.testing.assert_close(counts, expected, atol=0.012, rtol=0)  # five standard deviations
        assert (counts[expected == 0] == 0).all()


def test_who_has_few_mates_has_all_of_them():
    found = groups(8)
    assert found.paired.nonzero().flatten().tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    for item in range(V):
        mates, seen = found.draw(torch.tensor([item]), 2), {}
        assert mates.items.shape == mates.log_share.shape == (1, 2, 8) and torch.equal(
            mates.items[0, 0], mates.items[0, 1]
        )
        for mate, share in zip(mates.items[0, 0].tolist(), mates.log_share[0, 0].exp().tolist()):
            if share:
                seen[mate] = seen.get(mate, 0) + share
        assert seen == pytest.approx(shares(item))
    three = groups(3)  # no more than 3: items 6 and 8; item 7, alone with its value 2, has the mates of value 1
    assert three.draws.nonzero().flatten().tolist() == [1, 2, 3, 4, 5]


def test_a_generator_repeats_draws_and_leaves_the_random_state():
    found, state = groups(2), torch.get_rng_state()
    one, other = (found.draw(torch.arange(V), 2, torch.Generator().manual_seed(7)).items for _ in range(2))
    assert torch.equal(one, other) and torch.equal(state, torch.get_rng_state())
    assert not torch.equal(one, found.draw(torch.arange(V), 2).items)


def test_nobody_shares_anything():
    lonely, attention, table = groups(2, {1: [0], 2: [1]}), MateAttention(4), torch.randn(V, 4)
    mates = lonely.draw(torch.tensor([1, 2, 3]), 2)
    assert mates.items.shape == (3, 2, 2) and (mates.log_share == -math.inf).all() and not lonely.paired.any()
    assert not any(seen.any() for seen in attention(table, torch.tensor([1, 2, 3]), mates))
    assert not attention.of_all_mates(table, lonely).any()


# Attention


def naive(attention, table, item, mates):
    """One mate after the other: [(mate, share)] -> [d]."""
    weight = torch.cat([attention.own.weight, attention.mate.weight], 1)
    logits = [
        F.leaky_relu(weight @ torch.cat([table[item], table[mate]]), 0.2) + math.log(share) for mate, share in mates
    ]
    if not logits:
        return torch.zeros_like(table[0])
    return torch.cat(logits).softmax(0) @ table[[mate for mate, _ in mates]]


def prepared():
    torch.manual_seed(1)
    return MateAttention(5).double(), torch.randn(V, 5, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("n_mates", [2, 3, 20])
def test_attention_equals_a_naive_one_in_values_and_gradients(n_mates):
    attention, table = prepared()
    items = torch.tensor([1, 9, 5, 5, 10, 3, 8])
    mates = groups(n_mates).draw(items, 2)
    known = [
        [[(m, s) for m, s in zip(*pair) if s] for pair in zip(*node)]
        for node in zip(mates.items.tolist(), mates.log_share.exp().tolist())
    ]
    one = torch.stack([naive(attention, table, item, known[n][0]) for n, item in enumerate(items.tolist())])
    both = torch.stack(
        [naive(attention, table, item, known[n][0] + known[n][1]) for n, item in enumerate(items.tolist())]
    )
    samples, union = attention(table, items, mates)
    weights = torch.randn(2, *both.shape, dtype=torch.float64)
    leaves = [table, *attention.parameters()]
    found = [
        torch.autograd.grad((weights * torch.stack(pair)).sum(), leaves) for pair in ((samples[0], union), (one, both))
    ]
    torch.testing.assert_close(samples[0], one)
    torch.testing.assert_close(union, both)
    for fast, slow in zip(*found):
        assert slow.abs().sum() > 0
        torch.testing.assert_close(fast, slow)


@pytest.mark.parametrize("chunk", [1, 128])
def test_all_mates_equal_a_naive_look_at_them(chunk, monkeypatch):
    monkeypatch.setattr("recbole_diffusion.layers.attributes.rows_at_a_time", lambda _: chunk)
    attention, table = prepared()
    found = attention.of_all_mates(table, groups())
    wanted = torch.stack([naive(attention, table, item, list(shares(item).items())) for item in range(V)])
    torch.testing.assert_close(found, wanted)
    whole = attention(table, torch.arange(V), groups(20).draw(torch.arange(V), 2))  # of few mates, samples are the same
    torch.testing.assert_close(whole[0][1], wanted)
    torch.testing.assert_close(whole[1], wanted)


def test_many_draws_come_near_all_mates():
    attention, table = prepared()
    torch.manual_seed(2)
    mates = groups(1).draw(torch.arange(V), 60000)
    with torch.no_grad():
        torch.testing.assert_close(
            attention(table, torch.arange(V), mates)[1], attention.of_all_mates(table, groups()), atol=0.03, rtol=0
        )


def test_no_vectors_of_mates_stand_side_by_side():
    """The largest tensor of a look, its gradient included, has the numbers of the table or of the mates, not their vectors."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Sizes(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for part in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(part, torch.Tensor):
                    Sizes.largest = max(Sizes.largest, part.numel())
            return result

    n_items, width, n_mates = 300, 16, 40
    found = AttributeGroups(torch.arange(1, n_items), torch.zeros(n_items - 1, dtype=torch.long), n_items, n_mates)
    attention, table = MateAttention(width), torch.randn(n_items, width, requires_grad=True)
    items = torch.arange(1, n_items)
    mates = found.draw(items, 2)
    with Sizes():
        samples, union = attention(table, items, mates)
        (samples.sum() + union.sum()).backward()
    assert Sizes.largest <= max(mates.items.numel(), 2 * table.numel())
