"""The inverted file: exact where it looks at all lists, near it where it looks at few, the same for the same table."""

import pytest
import torch
import torch.nn.functional as F

from recbole_diffusion.layers.item_lists import ItemLists
from recbole_diffusion.layers.top_items import top_items


@pytest.fixture
def table():
    """Items in 40 groups, as trained ones are; row 0 would be the nearest to all."""
    torch.manual_seed(0)
    groups = torch.randn(40, 16).repeat_interleave(50, 0)
    rows = groups + 0.5 * torch.randn_like(groups)
    return torch.cat([100 * torch.ones(1, 16), rows])


@pytest.mark.parametrize("unit", [False, True])
def test_with_all_lists_it_is_exact(table, unit):
    lists = ItemLists.of(table, 30, unit)
    queried = torch.arange(1, 200, 3)
    found = lists.top_items(table[queried], table, 7, queried, n_probes=30, unit=unit)
    whole = F.normalize(table, dim=-1) if unit else table
    assert torch.equal(found, top_items(table[queried], whole, 7, queried))
    assert not (found == queried[:, None]).any() and not (found == 0).any()


def test_no_queries_find_nothing(table):
    assert ItemLists.of(table).top_items(table[:0], table, 7).shape == (0, 7)


def test_few_lists_find_most_of_the_nearest(table):
    lists, queried = ItemLists.of(table), torch.arange(1, len(table))
    assert len(lists.centres) == 44
    exact = top_items(table[queried], table, 10, queried)
    recall = [
        (lists.top_items(table[queried], table, 10, queried, n)[:, :, None] == exact[:, None]).any(2).float().mean()
        for n in (1, 4, 16)
    ]
    assert recall[0] < recall[1] < recall[2] and recall[2] > 0.97


def test_every_item_is_in_one_list_and_the_same_table_gives_the_same_lists(table):
    before = torch.get_rng_state()
    one, two = ItemLists.of(table), ItemLists.of(table)
    assert torch.equal(one.members.sort().values, torch.arange(1, len(table)))
    assert one.starts[0] == 0 and one.starts[-1] == len(table) - 1 and (one.starts.diff() >= 0).all()
    assert all(torch.equal(tensor, two.state()[name]) for name, tensor in one.state().items())
    assert torch.equal(torch.get_rng_state(), before)
    again = ItemLists(**one.state())
    assert torch.equal(again.top_items(table[:9], table, 5), one.top_items(table[:9], table, 5))


def test_lists_that_hold_too_few_items_give_way_to_the_whole_table(table):
    lists = ItemLists.of(table, 1000)
    queried = torch.arange(1, 50)
    found = lists.top_items(table[queried], table, 60, queried, n_probes=1)
    assert torch.equal(found, top_items(table[queried], table, 60, queried))


def test_vectors_are_those_of_the_table_as_it_is(table):
    lists = ItemLists.of(table)
    table[1:] = table[1:].flip(0)
    found = lists.top_items(table[1:20], table, 3, n_probes=len(lists.centres))
    assert torch.equal(found, top_items(table[1:20], table, 3))
