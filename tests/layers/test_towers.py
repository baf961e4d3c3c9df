"""MFGAN's towers: candidates that share a prefix equal sequences one by one; factors of items."""

import copy

import pytest
import torch
from plain_towers import one_by_one

from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.towers import Factor, FrozenFactor, PrefixTower

N_ITEMS = 20


def tower(factor=None):
    torch.manual_seed(2)
    factor = factor or Factor(8, N_ITEMS, torch.arange(N_ITEMS), torch.arange(N_ITEMS), N_ITEMS)
    network = PrefixTower(factor, 8, 2, 6, 0.0, 1e-12).double()
    for parameter in network.parameters():  # norms and biases start at values that hide mistakes
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return network


def inputs():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([3, 1, 6, 5, 1])
    items = torch.randint(1, N_ITEMS, (5, 6), generator=generator) * (torch.arange(6) < lengths[:, None])
    return items, lengths, torch.randint(1, N_ITEMS, (5, 4), generator=generator)


def test_a_shared_prefix_gives_the_values_and_gradients_of_whole_sequences():
    fast, (items, lengths, candidates) = tower(), inputs()
    slow, weight = copy.deepcopy(fast), torch.randn(5, 4, dtype=torch.float64)
    layout = PackedLayout(lengths)
    shared, whole = fast(layout.pack(items), layout, candidates), one_by_one(slow, items, lengths, candidates)
    torch.testing.assert_close(shared, whole, atol=1e-12, rtol=0)
    (shared * weight).sum().backward()
    (whole * weight).sum().backward()
    for (name, a), b in zip(fast.named_parameters(), slow.parameters()):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-10, rtol=0, msg=name)


def test_a_factor_is_the_mean_of_what_an_item_has():
    owners, values = torch.tensor([3, 1, 3, 2]), torch.tensor([0, 1, 2, 1])
    factor = Factor(4, 3, owners, values, 5).double()
    table = factor.table.weight
    found = factor(torch.tensor([[1, 3], [4, 0]]))
    torch.testing.assert_close(found[0, 0], table[1])
    torch.testing.assert_close(found[0, 1], (table[0] + table[2]) / 2)
    assert not found[1].any()  # nothing is known of item 4, and 0 is padding
    found.sum().backward()
    torch.testing.assert_close(table.grad, torch.tensor([[0.5], [1.0], [0.5]], dtype=torch.float64).expand(3, 4))


def test_vectors_of_items_are_mapped_and_stay_as_they_are():
    features = torch.randn(N_ITEMS, 3, dtype=torch.float64)
    factor = FrozenFactor(8, torch.nn.Embedding.from_pretrained(features)).double()
    items = torch.tensor([[1, 2], [3, 0]])
    torch.testing.assert_close(factor(items), features[items] @ factor.linear.weight.t() + factor.linear.bias)
    assert [name for name, _ in factor.named_parameters()] == ["linear.weight", "linear.bias"]
    assert tower(factor)(torch.tensor([1, 2]), PackedLayout(torch.tensor([2])), torch.tensor([[5, 6]])).shape == (1, 2)


@pytest.mark.parametrize("dropout", [0.0, 0.9])
def test_dropout_is_in_training_only(dropout):
    network = tower()
    network.dropout.p = dropout
    items, lengths, candidates = inputs()
    layout = PackedLayout(lengths)
    train, still = (mode(layout.pack(items), layout, candidates) for mode in (network.train(), copy.deepcopy(network).eval()))
    assert torch.equal(train, still) == (dropout == 0)
