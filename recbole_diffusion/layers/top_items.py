"""The largest scores of long rows, and the items nearest to some vectors among a whole catalogue."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from recbole_diffusion.layers.chunks import numbers_at_a_time, rows_at_a_time

GROUP = 16  # columns that share one entry in the first round of a selection


def largest(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Columns of the largest scores of every row, best first.

    In two rounds where the width allows it: the k best columns lie in the k groups with the best maxima, so a row is
    searched once at the speed of a vectorised maximum, and only ``k * GROUP`` scores are ranked. ``topk`` alone costs
    as much as the products that made the scores.

    Args:
        scores (torch.Tensor): [M, V]; the columns beyond the last multiple of ``GROUP`` are all in the second round.
        k (int): columns per row.

    Returns:
        torch.LongTensor: [M, k].
    """
    n_groups, rest = divmod(scores.shape[1], GROUP)
    if k >= n_groups:
        return scores.topk(k).indices
    # group g holds the columns g, g + n_groups, g + 2 n_groups ...
    in_groups = n_groups * GROUP
    groups = scores[:, :in_groups].unflatten(1, (GROUP, n_groups)).amax(1).topk(k).indices
    members = groups.unsqueeze(1) + n_groups * torch.arange(GROUP, device=scores.device).unsqueeze(1)
    columns = members.flatten(1)
    if rest:
        beyond = torch.arange(in_groups, scores.shape[1], device=scores.device)
        columns = torch.cat([columns, beyond.expand(len(columns), -1)], 1)
    return columns.gather(1, scores.gather(1, columns).topk(k).indices)


def top_items(queries: torch.Tensor, table: torch.Tensor, k: int, excluded: torch.Tensor | None = None) -> torch.Tensor:
    """Items with the largest inner product, best first; padding (row 0) is never among them.

    Args:
        queries (torch.Tensor): [M, d].
        table (torch.Tensor): [V, d].
        k (int): items per query, fewer than V.
        excluded (torch.LongTensor, optional): [M] one item that a query may not get.

    Returns:
        torch.LongTensor: [M, k].
    """
    queries, n_items, chunk = queries.to(table.dtype), len(table), rows_at_a_time(table)
    table = F.pad(table, (0, 0, 0, -n_items % GROUP)).t()
    buffer = table.new_empty(min(chunk, len(queries)), table.shape[1])
    found = []
    for start in range(0, len(queries), chunk):
        rows = queries[start : start + chunk]
        scores = torch.mm(rows, table, out=buffer[: len(rows)])
        scores[:, 0] = scores[:, n_items:] = float("-inf")
        if excluded is not None:
            scores.scatter_(1, excluded[start : start + chunk, None], float("-inf"))
        found.append(largest(scores, k))
    return torch.cat(found) if found else queries.new_empty(0, k, dtype=torch.long)


def top_of_long(queries: torch.Tensor, table: torch.Tensor, k: int) -> torch.Tensor:
    """:func:`top_items` for a few queries and a table of any length, a piece of the table at a time.

    Of the products only the largest of every ``GROUP`` neighbouring rows is kept; those of the best groups are made again.

    Args:
        queries (torch.Tensor): [M, d].
        table (torch.Tensor): [V, d], all rows of which count.
        k (int): rows per query, at most V.

    Returns:
        torch.LongTensor: [M, k], best first.
    """
    n_groups, rest = divmod(len(table), GROUP)
    if k >= n_groups:
        return (queries @ table.t()).topk(k).indices
    piece = GROUP * max(1, numbers_at_a_time(table) // (GROUP * len(queries)))
    pieces = table[: GROUP * n_groups].split(piece)
    groups = torch.cat([(queries @ rows.t()).unflatten(1, (-1, GROUP)).amax(2) for rows in pieces], 1).topk(k).indices
    members = (groups.unsqueeze(2) * GROUP + torch.arange(GROUP, device=table.device)).flatten(1)
    if rest:
        beyond = torch.arange(GROUP * n_groups, len(table), device=table.device)
        members = torch.cat([members, beyond.expand(len(members), -1)], 1)
    best = [(table[own] @ query).topk(k).indices for own, query in zip(members, queries)]
    return members.gather(1, torch.stack(best))


def best_without(best: torch.Tensor, excluded: torch.Tensor) -> torch.Tensor:
    """All but one column of some best items: without the excluded item of each row, or else without the last.

    Args:
        best (torch.LongTensor): [M, k + 1] distinct items, best first.
        excluded (torch.LongTensor): [M].

    Returns:
        torch.LongTensor: [M, k], best first.
    """
    order = (best == excluded.unsqueeze(1)).long().argsort(stable=True)
    return best.gather(1, order)[:, :-1]
