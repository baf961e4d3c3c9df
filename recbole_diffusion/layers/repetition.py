"""A learned amount for items that stand in the history, by how long ago they were last met.

Some data never repeat an item and some do so often. A score that is an inner product cannot tell an item of the history
from its neighbours; one number per distance can: on data without repeats it becomes what masking the history does by
hand, on sessions it learns the habit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from recbole_diffusion.layers.chunks import numbers_at_a_time
from recbole_diffusion.layers.packed import PackedLayout

# Adam moves a parameter by about the learning rate in each step, whatever its gradient: without this factor amounts would
# need thousands of steps to get as far as logits are apart.
GAIN = 10.0


class Additions(NamedTuple):
    """Numbers that are added to some cells of a matrix of scores, none of them twice."""

    rows: torch.Tensor  # [M] int64, never decreasing
    columns: torch.Tensor  # [M] int64
    values: torch.Tensor  # [M]

    def from_column(self, first: int) -> Additions:
        """The same for a matrix without its columns before ``first``, which no addition may be for."""
        return self._replace(columns=self.columns - first)

    def of_rows(self, rows: torch.Tensor, n_rows: int) -> Additions:
        """The same for a matrix of some of the ``n_rows`` rows, in ascending order: rows [n]."""
        number = torch.full((n_rows,), -1, device=rows.device)
        number[rows] = torch.arange(len(rows), device=rows.device)
        kept = number[self.rows] >= 0
        return Additions(number[self.rows[kept]], self.columns[kept], self.values[kept])

    def to(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores ``[R, C]`` with the additions; a new tensor."""
        return scores.index_put((self.rows, self.columns), self.values.to(scores.dtype), accumulate=True)

    def at(self, columns: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """What is added to some columns of each row.

        Args:
            columns (torch.LongTensor): [R, K].
            rows (torch.LongTensor, optional): [R] the rows meant, by default all in their order.

        Returns:
            torch.Tensor: [R, K], 0 where nothing is added.
        """
        if rows is None:
            rows = torch.arange(len(columns), device=columns.device)
        stride = 1 + max(int(some.max()) if some.numel() else 0 for some in (columns, self.columns))
        keys, order = (self.rows * stride + self.columns).sort()
        wanted = rows[:, None] * stride + columns
        keys = F.pad(keys, (0, 1), value=-1)  # what is larger than all keys finds no key
        place = torch.searchsorted(keys[:-1], wanted)
        cells = (keys[place] == wanted).nonzero(as_tuple=True)
        own = self.values.new_zeros(columns.shape)
        return own.index_put(cells, self.values[order[place[cells]]])


class Repetition(nn.Module):
    """One learned amount per distance to the last meeting: 1, 2-3, 4-7, 8-15 and so on, the last for all further ones.

    Args:
        n_amounts (int): how many, at least 1. All are 0 at the start.
        longest (int): length of the longest history.
    """

    def __init__(self, n_amounts: int, longest: int) -> None:
        super().__init__()
        self.amount = nn.Parameter(torch.zeros(n_amounts))
        groups = [min(distance.bit_length(), n_amounts) - 1 for distance in range(1, longest + 1)]
        self.group: torch.Tensor
        self.register_buffer("group", torch.tensor([0, *groups]), persistent=False)  # by distance, from 1 on

    @property
    def amounts(self) -> torch.Tensor:
        """What is added, by group of distances: [n_amounts]."""
        return GAIN * self.amount

    def at_end(self, items: torch.Tensor, layout: PackedLayout) -> Additions:
        """Additions to the scores of what follows each history.

        Args:
            items (torch.LongTensor): [N] packed.
            layout (PackedLayout): of B histories.

        Returns:
            Additions: rows are those of the batch, columns item numbers.
        """
        tokens = (next_meeting(items, layout) == layout.n_tokens).nonzero().squeeze(1)
        tokens = tokens[layout.row[tokens].argsort(stable=True)]
        distance = layout.length[tokens] - layout.position[tokens]
        return Additions(layout.row[tokens], items[tokens], self.amounts[self.group[distance]])

    def at_every_token(self, items: torch.Tensor, layout: PackedLayout) -> Additions:
        """Additions to the scores of what follows each token, which sees itself and what stands before it.

        Args:
            items (torch.LongTensor): [N] packed.
            layout (PackedLayout): of B histories; memory is the sum of the numbers of different items before each token.

        Returns:
            Additions: rows are tokens, columns item numbers.
        """
        following, pairs = next_meeting(items, layout), (layout.position + 1).cumsum(0)
        count = different_so_far(following, layout)
        rows = torch.arange(layout.n_tokens, device=items.device).repeat_interleave(count)
        columns, group, done = torch.empty_like(rows), torch.empty_like(rows, dtype=torch.int32), 0
        for tokens in _pieces(pairs, numbers_at_a_time(items)):
            now, before = _pairs(tokens, layout)
            latest = following[before] > now  # of an item that was met several times, the last time counts
            now, before = now[latest], before[latest]
            some = slice(done, done + len(now))
            columns[some], group[some], done = items[before], self.group[now - before + 1], some.stop
        return Additions(rows, columns, F.embedding(group, self.amounts[:, None])[:, 0])


def _pieces(pairs: torch.Tensor, most: int) -> Iterator[torch.Tensor]:
    """Tokens in runs that have about ``most`` pairs each. pairs: [N], how many there are up to a token."""
    total = max(int(pairs[-1]), most)
    bounds = torch.searchsorted(pairs, torch.arange(most, total, most, device=pairs.device)).tolist()
    for first, end in zip([0, *bounds], [*bounds, len(pairs)]):
        yield torch.arange(first, end, device=pairs.device)


def _pairs(tokens: torch.Tensor, layout: PackedLayout) -> tuple[torch.Tensor, torch.Tensor]:
    """Each of some tokens with itself and all before it in its sequence, the first one first: (token, the other)."""
    seen = layout.position[tokens] + 1
    now = tokens.repeat_interleave(seen)
    start = tokens - layout.position[tokens] - (seen.cumsum(0) - seen)
    return now, torch.arange(len(now), device=now.device) + start.repeat_interleave(seen)


def different_so_far(following: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
    """How many different items a sequence has up to each token: [N]. following: see :func:`next_meeting`."""
    new = torch.ones(layout.n_tokens + 1, dtype=torch.long, device=following.device)
    new[following] = 0
    new = new[:-1]
    so_far = new.cumsum(0)
    return so_far - (so_far - new)[torch.arange(layout.n_tokens, device=new.device) - layout.position]


def next_meeting(items: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
    """Token at which a sequence meets the item of a token again, or N: [N]."""
    n_items = int(items.max()) + 1 if len(items) else 1
    meeting = layout.group * n_items + items
    order = meeting.argsort(stable=True)
    same = meeting[order[1:]] == meeting[order[:-1]]
    following = torch.full_like(items, layout.n_tokens)
    following[order[:-1][same]] = order[1:][same]
    return following
