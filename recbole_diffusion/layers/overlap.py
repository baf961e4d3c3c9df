"""Sessions as sets of items: which of many hold most of what another one holds."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

SESSIONS_AT_A_TIME = 1024  # that look for the nearest others


class Overlaps(NamedTuple):
    """The sessions nearest to some others by their items, the nearest first."""

    session: torch.Tensor  # [B, m] int64, 0 where there are fewer
    similarity: torch.Tensor  # [B, m] float32, above 0, and 0 where there are fewer


class SessionSets(nn.Module):
    """Sets of items, and an index of the sets that hold an item. In no checkpoint.

    Args:
        session (torch.LongTensor): [n] number of the session of each pair.
        items (torch.LongTensor): [n] its item; no pair stands twice.
        n_sessions (int): S.
        n_items (int): V.
    """

    starts: torch.Tensor
    items: torch.Tensor
    starts_of_items: torch.Tensor
    sessions: torch.Tensor

    def __init__(self, session: torch.Tensor, items: torch.Tensor, n_sessions: int, n_items: int) -> None:
        super().__init__()
        by_session, by_item = (session * n_items + items).argsort(), (items * n_sessions + session).argsort()
        for name, tensor in (
            ("starts", _starts(session, n_sessions)),
            ("items", items[by_session]),
            ("starts_of_items", _starts(items, n_items)),
            ("sessions", session[by_item]),
        ):
            self.register_buffer(name, tensor, persistent=False)

    @classmethod
    def of_rows(cls, rows: torch.Tensor, n_items: int) -> SessionSets:
        """The sets of sessions that are rows padded with 0: [S, L]."""
        session, place = rows.nonzero().unbind(1)
        return cls.of_items(session, rows[session, place], len(rows), n_items)

    @classmethod
    def of_items(cls, session: torch.Tensor, items: torch.Tensor, n_sessions: int, n_items: int) -> SessionSets:
        """The sets of sessions in which an item may stand several times: sessions and items [n], as of the class otherwise."""
        pairs = (session * n_items + items).unique()
        return cls(pairs // n_items, pairs % n_items, n_sessions, n_items)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def pairs(self, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Items of some sets: for every item the place of its set among ``numbers`` [n], and itself."""
        place, cell = _cells(self.starts, numbers)
        return place, self.items[cell]

    def means(self, table: torch.Tensor, numbers: torch.Tensor, mode: str = "mean") -> torch.Tensor:
        """Means of the vectors of sets, or with ``mode: sum`` sums; with gradient. table: [V, d]; numbers: [n] -> [n, d]."""
        start = self.starts[numbers]
        size = self.starts[numbers + 1] - start
        return F.embedding_bag(self.pairs(numbers)[1], table, size.cumsum(0) - size, mode=mode)

    def times_held(self, items: torch.Tensor) -> torch.Tensor:
        """In how many sets each item is: [n] of items [n]."""
        return self.starts_of_items[items + 1] - self.starts_of_items[items]

    def nearest(
        self, row: torch.Tensor, items: torch.Tensor, n_rows: int, most: int, own: torch.Tensor | None = None,
        similarity: str = "jaccard",
    ) -> Overlaps:  # fmt: skip
        """The most similar sets among those that share an item, of equal ones the first.

        Args:
            row, items (torch.LongTensor): [n] distinct pairs of a query and its item.
            n_rows (int): B queries.
            most (int): sets of a query.
            own (torch.LongTensor, optional): [B] the set that each query may not get, -1 for none.
            similarity (str): ``jaccard``, shared items by those of either, or ``cosine`` of the sets as vectors of 0 and 1.

        Returns:
            Overlaps: [B, m] with m the most that any query has.
        """
        pair, cell = _cells(self.starts_of_items, items)
        query, session = row[pair], self.sessions[cell]
        if own is not None:
            allowed = (session != own[query]).nonzero().squeeze(1)
            query, session = query[allowed], session[allowed]
        met, shared = (query * len(self) + session).unique(return_counts=True)
        query, session = met // len(self), met % len(self)
        mine, theirs = torch.bincount(row, minlength=n_rows)[query], self.starts[session + 1] - self.starts[session]
        if similarity == "jaccard":
            alike = nearness = shared / (mine + theirs - shared)
        else:
            alike = shared / (mine * theirs).sqrt()
            nearness = shared.double() ** 2 / (mine * theirs)  # without the root, of which equal ones differ in the last digit
        order = (2.0 * query.double() - nearness).argsort(stable=True)
        query, session, alike = query[order], session[order], alike[order]
        place = torch.arange(len(query), device=query.device) - _starts(query, n_rows)[query]
        kept = (place < most).nonzero().squeeze(1)
        query, place, width = query[kept], place[kept], int(place[kept].max()) + 1 if len(kept) else 0
        found = Overlaps(session.new_zeros(n_rows, width), alike.new_zeros(n_rows, width))
        found.session[query, place], found.similarity[query, place] = session[kept], alike[kept]
        return found


def nearest_of_each(sets: SessionSets, shown: SessionSets, most: int) -> Overlaps:
    """For each session of a bank the nearest others: [S, m].

    Args:
        sets (SessionSets): of the sessions.
        shown (SessionSets): what is known of each of them when it asks.
        most (int): as of :meth:`SessionSets.nearest`.

    Returns:
        Overlaps: int32 and float32, to be kept.
    """
    found = []
    for numbers in torch.arange(len(sets), device=sets.items.device).split(SESSIONS_AT_A_TIME):
        part = sets.nearest(*shown.pairs(numbers), len(numbers), most, own=numbers)
        fill = (0, most - part.session.shape[1])
        found.append(Overlaps(F.pad(part.session.int(), fill), F.pad(part.similarity, fill)))
    return Overlaps(*(torch.cat(parts) for parts in zip(*found)))


def _starts(numbers: torch.Tensor, n: int) -> torch.Tensor:
    """Where each of n numbers starts when they are sorted, and where the last one ends: [n + 1]."""
    return F.pad(torch.bincount(numbers, minlength=n).cumsum(0), (1, 0))


def _cells(starts: torch.Tensor, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All cells of some lists that stand one behind the other: places among ``numbers`` and cells, [c] each."""
    first = starts[numbers]
    size = starts[numbers + 1] - first
    place = torch.arange(len(numbers), device=numbers.device).repeat_interleave(size)
    inner = torch.arange(len(place), device=numbers.device) - (size.cumsum(0) - size)[place]
    return place, first[place] + inner
