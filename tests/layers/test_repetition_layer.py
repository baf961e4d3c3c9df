"""Learned repetition: additions are those of a loop, losses and gradients those of the naive form."""

import pytest
import torch
import torch.nn.functional as F

from recbole_diffusion.layers import cross_entropy
from recbole_diffusion.layers import repetition as repetition_layer
from recbole_diffusion.layers.cross_entropy import binary_cross_entropy, linear_cross_entropy
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.repetition import Repetition
from recbole_diffusion.layers.sampled_softmax import sampled_softmax

V, D = 9, 4
SEQUENCES = [[3, 1, 3, 3], [5], [2, 4, 2, 4, 2, 7, 1, 1], [8, 8]]


@pytest.fixture
def repetition():
    made = Repetition(3, 10)
    with torch.no_grad():
        made.amount.copy_(torch.tensor([0.5, -1.0, 2.0]))
    return made


def packed():
    lengths = torch.tensor([len(s) for s in SEQUENCES])
    padded = torch.zeros(len(SEQUENCES), int(lengths.max()), dtype=torch.long)
    for row, sequence in zip(padded, SEQUENCES):
        row[: len(sequence)] = torch.tensor(sequence)
    layout = PackedLayout(lengths)
    return layout.pack(padded), layout


def added_by_a_loop(repetition, items, layout, token):
    """What is added to the scores of what follows a token: [V]."""
    row = torch.zeros(V)
    for before in range(token - int(layout.position[token]), token + 1):  # later meetings write over earlier ones
        distance = token - before + 1
        row[items[before]] = repetition.amounts[0 if distance == 1 else 1 if distance < 4 else 2]
    return row


def test_amounts_are_zero_at_the_start_and_one_for_each_range_of_distances():
    made = Repetition(3, 10)
    assert made.amount.tolist() == [0, 0, 0]
    assert made.group.tolist() == [0, 0, 1, 1, 2, 2, 2, 2, 2, 2, 2]
    assert set(Repetition(1, 10).group.tolist()) == {0}


@pytest.mark.parametrize("pairs_at_a_time", [1, 7, 10**6])
def test_additions_are_those_of_a_loop_over_all_tokens(repetition, monkeypatch, pairs_at_a_time):
    monkeypatch.setattr(repetition_layer, "numbers_at_a_time", lambda tensor: pairs_at_a_time)
    items, layout = packed()
    wanted = torch.stack([added_by_a_loop(repetition, items, layout, token) for token in range(layout.n_tokens)])
    every = repetition.at_every_token(items, layout)
    assert torch.equal(every.to(torch.zeros(layout.n_tokens, V)), wanted)
    assert (every.rows.diff() >= 0).all() and len(set(zip(every.rows.tolist(), every.columns.tolist()))) == len(every.rows)
    end = repetition.at_end(items, layout)
    assert torch.equal(end.to(torch.zeros(len(SEQUENCES), V)), wanted[layout.last])
    assert (end.rows.diff() >= 0).all()
    columns = torch.randint(1, V, (layout.n_tokens, 2), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(every.at(columns), wanted.gather(1, columns))


def gradients(loss, *tensors):
    return torch.autograd.grad(loss, tensors, retain_graph=True)


@pytest.mark.parametrize("rows_in_a_chunk", [1, 4, 100])
def test_fused_cross_entropy_is_the_naive_one_in_value_and_gradient(repetition, monkeypatch, rows_in_a_chunk):
    monkeypatch.setattr(cross_entropy, "rows_at_a_time", lambda table: rows_in_a_chunk)
    items, layout = packed()
    torch.manual_seed(0)
    hidden, weight = torch.randn(layout.n_tokens, D, requires_grad=True), torch.randn(V, D, requires_grad=True)
    target = torch.randint(1, V, (layout.n_tokens,))
    met = repetition.at_every_token(items, layout).from_column(1)
    fast, logsumexp, maximum = linear_cross_entropy(hidden, weight[1:], target - 1, met)
    logits = met.to(hidden @ weight[1:].t())
    slow = F.cross_entropy(logits, target - 1)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logsumexp, logits.logsumexp(1))
    torch.testing.assert_close(maximum, logits.amax(1))
    for a, b in zip(gradients(fast * 3, hidden, weight, repetition.amount), gradients(slow * 3, hidden, weight, repetition.amount)):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
        assert b.abs().sum() > 0


def test_only_the_amounts_may_be_trained(repetition):
    items, layout = packed()
    met = repetition.at_every_token(items, layout)
    loss = linear_cross_entropy(torch.randn(layout.n_tokens, D), torch.randn(V, D), items, met)[0]
    assert gradients(loss, repetition.amount)[0].abs().sum() > 0


def test_sampled_losses_are_the_naive_ones_in_value_and_gradient(repetition):
    items, layout = packed()
    torch.manual_seed(0)
    hidden, weight = torch.randn(layout.n_tokens, D, requires_grad=True), torch.randn(V, D, requires_grad=True)
    target, met = torch.randint(1, V, (layout.n_tokens,)), repetition.at_every_token(items, layout)
    logits = met.to(hidden @ weight.t())
    each = torch.arange(len(target))

    shared = torch.tensor([1, 3, 3, 8, 2])  # one of them twice
    chosen = logits[:, shared].masked_fill(shared == target[:, None], float("-inf"))
    slow = (torch.cat([logits[each, target, None], chosen], 1).logsumexp(1) - logits[each, target]).mean()
    compare(sampled_softmax(hidden, weight, target, shared, met), slow, hidden, weight, repetition.amount)

    negative = torch.randint(1, V, (layout.n_tokens,))
    slow = (F.softplus(-logits[each, target]) + F.softplus(logits[each, negative])).mean()
    compare(binary_cross_entropy(hidden, weight, target, negative, met), slow, hidden, weight, repetition.amount)


def compare(fast, slow, *tensors):
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    for a, b in zip(gradients(fast, *tensors), gradients(slow, *tensors)):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_pairs_are_never_all_there_at_once(repetition, monkeypatch):
    monkeypatch.setattr(repetition_layer, "numbers_at_a_time", lambda tensor: 20)
    sizes, pairs = [], repetition_layer._pairs
    monkeypatch.setattr(repetition_layer, "_pairs", lambda *given: sizes.append(len(pairs(*given)[0])) or pairs(*given))
    lengths = torch.tensor([10, 10])
    layout = PackedLayout(lengths)
    repetition.at_every_token(layout.pack(torch.arange(1, 21).view(2, 10)), layout)
    assert sum(sizes) == 110 and max(sizes) < 20 + 10
