"""Items that share an attribute: groups of them, draws from the groups, and what an item sees of its mates (MGS).

An item may have several values of an attribute. A mate is met by taking one of the values and then one of the other items
that have it; where all mates are looked at, they have the weights that this gives them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from recbole_diffusion.layers.chunks import rows_at_a_time
from recbole_diffusion.layers.sessions import softmax_within

SLOPE = 0.2  # of LeakyReLU below zero, as in the released code


class Mates(NamedTuple):
    """Some mates of M items, in S samples of K each."""

    items: torch.Tensor  # [M, S, K] int64, 0 where an item has fewer
    log_share: torch.Tensor  # [M, S, K] logarithm of the share each has before attention, -inf where there is none


class AttributeGroups(nn.Module):
    """The items by their values of one attribute, in no checkpoint.

    Args:
        items, values (torch.LongTensor): [n] an item and a value that it has, no pair twice, in any order; values are
            numbered from 0.
        n_items (int): V.
        n_mates (int): K, mates of a sample; an item with no more of them has all of them in every sample.

    Attributes:
        paired (torch.BoolTensor): [V] which items have mates.
    """

    members: torch.Tensor  # [n] items, value by value
    item: torch.Tensor  # [n] of each entry, which is a value that an item has; entries stand item by item
    start: torch.Tensor  # [n] first member of the value of each entry
    size: torch.Tensor  # [n] members of the value of each entry
    place: torch.Tensor  # [n] of the item of each entry among these members
    first: torch.Tensor  # [V] first entry of each item
    count: torch.Tensor  # [V] entries of each item
    all_items: torch.Tensor  # [V, K]
    all_shares: torch.Tensor  # [V, K]
    draws: torch.Tensor  # [V] which items have more than K mates
    paired: torch.Tensor

    def __init__(self, items: torch.Tensor, values: torch.Tensor, n_items: int, n_mates: int) -> None:
        super().__init__()
        self.n_mates = n_mates
        sizes = torch.bincount(values)
        shared = sizes[values] > 1
        values, sizes = values[shared].unique(return_inverse=True)[1], sizes[sizes > 1]
        items = items[shared]
        order = (values * n_items + items).argsort()
        members, value = items[order], values[order]
        start = sizes.cumsum(0) - sizes
        by_item = members.argsort(stable=True)
        entries = {"item": members[by_item], "start": start[value[by_item]], "size": sizes[value[by_item]]}
        entries["place"] = by_item - entries["start"]
        count = torch.bincount(members, minlength=n_items)
        total = torch.zeros(n_items, dtype=torch.long).index_add(0, entries["item"], entries["size"] - 1)
        per_item = {"first": count.cumsum(0) - count, "count": count, "draws": total > n_mates, "paired": count > 0}
        self.sizes = sizes.tolist()  # of the values, one after the other in ``members``
        for name, column in {"members": members, **entries, **per_item}.items():
            self.register_buffer(name, column, persistent=False)
        whole, shares = self._whole(n_items, n_mates)
        self.register_buffer("all_items", whole, persistent=False)
        self.register_buffer("all_shares", shares, persistent=False)

    def _whole(self, n_items: int, n_mates: int) -> tuple[torch.Tensor, torch.Tensor]:
        """All mates of the items that have few, and the logarithms of their shares: [V, K] each."""
        whole, shares = torch.zeros(n_items, n_mates, dtype=torch.long), torch.full((n_items, n_mates), -math.inf)
        few = (~self.draws[self.item]).nonzero().squeeze(1)
        others = self.size[few] - 1
        entry = few.repeat_interleave(others)
        within = torch.arange(len(entry)) - (others.cumsum(0) - others).repeat_interleave(others)
        # entries stand item by item, so that the mates of an item are counted on from one entry to the next
        item = self.item[entry]
        mates = torch.bincount(item, minlength=n_items)
        slot = torch.arange(len(entry)) - (mates.cumsum(0) - mates)[item]
        whole[item, slot] = self.members[self._member(entry, within)]
        shares[item, slot] = -(self.count[item] * (self.size[entry] - 1)).log()
        return whole, shares

    def _member(self, entry: torch.Tensor, within: torch.Tensor) -> torch.Tensor:
        """Place in ``members`` of the mate number ``within`` of an entry, its own item left out."""
        return self.start[entry] + within + (within >= self.place[entry])

    def draw(self, items: torch.Tensor, n_samples: int, generator: torch.Generator | None = None) -> Mates:
        """Random mates with replacement, or all of them where there are no more than K.

        Args:
            items (torch.LongTensor): [M].
            n_samples (int): S.
            generator (torch.Generator, optional): of the CPU; by default the random state of the device.

        Returns:
            Mates
        """
        shape, device = (len(items), n_samples, self.n_mates), items.device
        small = ~self.draws[items, None, None]
        whole, shares = self.all_items[items].unsqueeze(1), self.all_shares[items].unsqueeze(1)
        if not len(self.members):
            return Mates(whole.expand(shape), shares.expand(shape))
        source = device if generator is None else generator.device
        random = torch.rand(shape, dtype=torch.float64, generator=generator, device=source).to(device)
        random = random * self.count[items, None, None]
        entry = (self.first[items, None, None] + random.long()).clamp(max=len(self.members) - 1)
        others = self.size[entry] - 1
        within = (random.frac() * others).long()
        drawn = self.members[self._member(entry, within).clamp(max=len(self.members) - 1)]
        return Mates(torch.where(small, whole, drawn), torch.where(small, shares, 0.0).expand(shape))


class MateAttention(nn.Module):
    """An item as its mates: ``sum_j softmax_j(LeakyReLU(w . [x_i ; x_j])) x_j``.

    ``w . [x_i ; x_j]`` is split into its halves, of which that of the mates is computed once for the whole table, so that
    the vectors of all mates never stand side by side.

    Args:
        hidden_size (int): d.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.own = nn.Linear(hidden_size, 1, bias=False)
        self.mate = nn.Linear(hidden_size, 1, bias=False)

    def forward(self, table: torch.Tensor, items: torch.Tensor, mates: Mates) -> tuple[torch.Tensor, torch.Tensor]:
        """Look at some mates.

        Args:
            table (torch.Tensor): [V, d] all items.
            items (torch.LongTensor): [M] the items that look.
            mates (Mates): S samples of their mates.

        Returns:
            tuple: what an item sees in each sample, [S, M, d], and in all samples together, [M, d]; zeros for items
            without mates.
        """
        score = self.mate(table).squeeze(1)[mates.items]
        logits = F.leaky_relu(self.own(table[items]).unsqueeze(1) + score, SLOPE).to(table.dtype)
        paired = mates.log_share.isfinite().any(-1, keepdim=True)
        logits = logits + mates.log_share.to(table.dtype).masked_fill(~paired, 0)
        weights = logits.softmax(-1) * paired
        flat = mates.items.flatten(0, 1)
        seen = F.embedding_bag(flat, table, mode="sum", per_sample_weights=weights.flatten(0, 1))
        seen = seen.unflatten(0, mates.items.shape[:2])
        shares = logits.logsumexp(-1, keepdim=True).softmax(1)  # of each sample in the softmax over all of them
        return seen.transpose(0, 1), (shares * seen).sum(1)

    def of_all_mates(self, table: torch.Tensor, groups: AttributeGroups) -> torch.Tensor:
        """What every item sees of all its mates, however many: [V, d] -> [V, d]; no more than a part of a group is held."""
        if not len(groups.members):
            return torch.zeros_like(table)
        own, score = self.own(table).to(table.dtype), self.mate(table).squeeze(1).to(table.dtype)
        seen, strength = [], []
        for members in groups.members.split(groups.sizes):
            mates = table[members]
            for rows in members.split(rows_at_a_time(mates)):
                logits = F.leaky_relu(own[rows] + score[members], SLOPE)
                logits = logits.masked_fill(rows.unsqueeze(1) == members, -math.inf)
                seen.append(logits.softmax(-1) @ mates)
                strength.append(logits.logsumexp(-1) - math.log(len(members) - 1))
        shares = softmax_within(torch.cat(strength).unsqueeze(1), groups.members, len(table)).to(table.dtype)
        return torch.zeros_like(table).index_add(0, groups.members, shares * torch.cat(seen))
