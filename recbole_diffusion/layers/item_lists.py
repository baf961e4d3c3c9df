"""Nearest items of a large catalogue: an inverted file, which looks at the items of a few lists instead of all."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from recbole_diffusion.layers.chunks import rows_at_a_time
from recbole_diffusion.layers.top_items import top_items

ROUNDS, SAMPLE = 5, 40  # rounds of k-means, on so many items per list


class ItemLists:
    """Items sorted into lists around centres, by k-means; padding (row 0) is in none.

    Lists grow old as the table is trained. Vectors are always read from the table as it is, so an old file finds fewer of the
    nearest items but never wrong inner products.

    Args:
        centres (torch.Tensor): [C, d].
        members (torch.LongTensor): [V - 1] items, list by list.
        starts (torch.LongTensor): [C + 1] where each list begins in ``members``.
    """

    def __init__(self, centres: torch.Tensor, members: torch.Tensor, starts: torch.Tensor) -> None:
        self.centres, self.members, self.starts = centres, members, starts

    @classmethod
    @torch.no_grad()
    def of(cls, table: torch.Tensor, n_lists: int = 0, unit: bool = False) -> ItemLists:
        """Sort the items. The same table gives the same lists.

        Args:
            table (torch.Tensor): [V, d].
            n_lists (int): how many, at most the number of items; 0 is its square root.
            unit (bool): sort by direction.
        """
        with torch.autocast(table.device.type, enabled=False):
            return cls._of(table.detach(), n_lists, unit)

    @classmethod
    def _of(cls, table: torch.Tensor, n_lists: int, unit: bool) -> ItemLists:
        n_items = len(table) - 1
        n_lists = min(n_lists or math.isqrt(n_items), n_items)
        own = torch.Generator().manual_seed(0)  # all processes get the same, and no other random number changes
        some = torch.randperm(n_items, generator=own)[: SAMPLE * n_lists].to(table.device) + 1
        vectors = _directions(table[some], unit)
        centres = vectors[:n_lists]
        for _ in range(ROUNDS):
            nearest = _nearest(vectors, centres)
            counts = torch.bincount(nearest, minlength=n_lists)[:, None]
            sums = torch.zeros_like(centres).index_add_(0, nearest, vectors)
            centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
        chunk = 8 * rows_at_a_time(centres)
        nearest = torch.cat([_nearest(_directions(rows, unit), centres) for rows in table[1:].split(chunk)])
        counts = torch.bincount(nearest, minlength=n_lists)
        return cls(centres, nearest.argsort(stable=True) + 1, F.pad(counts.cumsum(0), (1, 0)))

    def state(self) -> dict[str, torch.Tensor]:
        """Arguments of the constructor."""
        return {"centres": self.centres, "members": self.members, "starts": self.starts}

    @torch.no_grad()
    def top_items(
        self,
        queries: torch.Tensor,
        table: torch.Tensor,
        k: int,
        excluded: torch.Tensor | None = None,
        n_probes: int = 16,
        unit: bool = False,
    ) -> torch.Tensor:
        """Items with the largest inner product among those of the lists whose centres have the largest ones, best first.

        Args:
            queries (torch.Tensor): [M, d].
            table (torch.Tensor): [V, d].
            k (int): items per query, fewer than V.
            excluded (torch.LongTensor, optional): [M] one item that a query may not get.
            n_probes (int): lists per query.
            unit (bool): compare with the directions of the items.

        Returns:
            torch.LongTensor: [M, k]; a query whose lists hold fewer than k items is compared with the whole table.
        """
        with torch.autocast(table.device.type, enabled=False):  # near items would be the same in half precision
            return self._top_items(queries.to(table.dtype), table, k, excluded, min(n_probes, len(self.centres)), unit)

    def _top_items(
        self, queries: torch.Tensor, table: torch.Tensor, k: int, excluded: torch.Tensor | None, n_probes: int, unit: bool
    ) -> torch.Tensor:
        probed = (queries @ self.centres.t()).topk(n_probes).indices.flatten()
        order = probed.argsort(stable=True)  # by list, so that its vectors are read once
        bounds = torch.searchsorted(probed[order], torch.arange(len(self.centres) + 1, device=probed.device)).tolist()
        starts = self.starts.tolist()
        scores = queries.new_full((len(probed), k), float("-inf"))
        items = torch.zeros_like(scores, dtype=torch.long)
        for number, (first, end) in enumerate(zip(bounds, bounds[1:])):
            members = self.members[starts[number] : starts[number + 1]]
            if first == end or not len(members):
                continue
            cells = order[first:end]
            rows = cells // n_probes
            products = queries[rows] @ _directions(table[members], unit).t()
            if excluded is not None:
                products.masked_fill_(members == excluded[rows, None], float("-inf"))
            best = products.topk(min(k, len(members)))
            scores[cells, : best.values.shape[1]] = best.values
            items[cells, : best.values.shape[1]] = members[best.indices]
        best = scores.view(len(queries), n_probes * k).topk(k)
        found = items.view(len(queries), n_probes * k).gather(1, best.indices)
        few = (best.values[:, -1] == float("-inf")).nonzero().squeeze(1)
        if len(few):
            found[few] = top_items(queries[few], _directions(table, unit), k, None if excluded is None else excluded[few])
        return found


def _directions(vectors: torch.Tensor, unit: bool) -> torch.Tensor:
    return F.normalize(vectors, dim=-1) if unit else vectors


def _nearest(vectors: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Number of the centre with the smallest distance: [N]."""
    half_norms = centres.square().sum(1) / 2
    chunks = vectors.split(rows_at_a_time(centres))
    return torch.cat([torch.addmm(-half_norms, rows, centres.t()).argmax(1) for rows in chunks])
