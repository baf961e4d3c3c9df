"""Negative items: never padding, never met where there is another, all others alike."""

import torch

from recbole_diffusion.layers.negatives import unseen_items


def test_unseen_items_are_unseen_and_uniform():
    torch.manual_seed(0)
    owners = torch.arange(2).repeat(20_000)
    seen_by, seen = torch.tensor([0, 0, 1]), torch.tensor([1, 2, 5])
    drawn = unseen_items(owners, seen_by, seen, n_items=6)
    for owner, unseen in ((0, {3, 4, 5}), (1, {1, 2, 3, 4})):
        items, counts = drawn[owners == owner].unique(return_counts=True)
        assert set(items.tolist()) == unseen
        assert (counts / counts.sum() * len(unseen) - 1).abs().max() < 0.05


def test_who_has_met_everything_gets_some_item():
    drawn = unseen_items(torch.zeros(50, dtype=torch.long), torch.zeros(3, dtype=torch.long), torch.tensor([1, 2, 3]), 4)
    assert set(drawn.tolist()) == {1, 2, 3}
