"""The items nearest to some vectors, among a whole catalogue."""

import torch
import torch.nn.functional as F

from recbole_diffusion.layers.chunks import rows_at_a_time

GROUP = 16  # items that share one entry in the first round of the selection


def top_items(queries, table, k, excluded=None):
    """Items with the largest inner product, best first; padding (row 0) is never among them.

    Exact, in two rounds, because selecting costs more than the products: the k best items lie in the k groups
    with the best maxima, so a row of V scores is searched once for its maxima, at the speed of a vectorised
    maximum, and only ``k * GROUP`` scores are ranked.

    Args:
        queries (torch.Tensor): [M, d].
        table (torch.Tensor): [V, d].
        k (int): items per query, fewer than V.
        excluded (torch.LongTensor, optional): [M] one item that a query may not get.

    Returns:
        torch.LongTensor: [M, k].
    """
    queries, n_items = queries.to(table.dtype), len(table)
    n_groups = -(-n_items // GROUP)
    chunk = rows_at_a_time(table)
    table = F.pad(table, (0, 0, 0, n_groups * GROUP - n_items)).t()
    buffer = table.new_empty(min(chunk, len(queries)), n_groups * GROUP)
    found = []
    for start in range(0, len(queries), chunk):
        rows = queries[start : start + chunk]
        scores = torch.mm(rows, table, out=buffer[: len(rows)])
        scores[:, 0] = scores[:, n_items:] = float("-inf")
        if excluded is not None:
            scores.scatter_(1, excluded[start : start + chunk, None], float("-inf"))
        found.append(_select(scores, n_groups, k))
    return torch.cat(found) if found else queries.new_empty(0, k, dtype=torch.long)


def _select(scores, n_groups, k):
    """Columns of the k largest scores; group g holds the columns g, g + n_groups, g + 2 n_groups ..."""
    if k >= n_groups:
        return scores.topk(k).indices
    groups = scores.unflatten(1, (GROUP, n_groups)).amax(1).topk(k).indices
    columns = groups.unsqueeze(1) + n_groups * torch.arange(GROUP, device=scores.device).unsqueeze(1)
    columns = columns.flatten(1)
    return columns.gather(1, scores.gather(1, columns).topk(k).indices)
