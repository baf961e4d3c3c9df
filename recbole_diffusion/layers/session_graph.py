"""Sessions as graphs: their different items, their runs of items, and which follows which.

Pure functions on packed tokens, in which padding does not exist; repeated items are one node, and repeated transitions
are one edge. The softmax over the edges that end in a node is :func:`~recbole_diffusion.layers.sessions.softmax_within`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from recbole_diffusion.layers.packed import PackedLayout


class Nodes(NamedTuple):
    """The different runs of k consecutive items of every session of a batch; with k = 1 its different items."""

    row: torch.Tensor  # [M] int64, row of the batch
    items: torch.Tensor  # [M, k] int64, in their order
    at: torch.Tensor  # [N] int64, the node of the run that starts at each token, -1 where fewer than k items are left
    last: torch.Tensor  # [B] int64, the node with which each session ends


class Edges(NamedTuple):
    """Edges of a graph, none of them twice, in the order of (source, target)."""

    source: torch.Tensor  # [E] int64
    target: torch.Tensor  # [E] int64

    def reversed(self) -> Edges:
        """The same edges from their ends to their starts."""
        return Edges(self.target, self.source)


def item_nodes(items: torch.Tensor, layout: PackedLayout) -> Nodes:
    """The different items of every session.

    The nodes stand as the tokens of ``PackedLayout(torch.bincount(nodes.row))`` do, the item that was met last first in
    its session, so that they can be padded to blocks, too.

    Args:
        items (torch.LongTensor): [N] packed.
        layout (PackedLayout): of B sessions.

    Returns:
        Nodes: of runs of one item.
    """
    n_items, longest = int(items.max()) + 1, int(layout.length.max())
    met, node = (layout.row * n_items + items).unique(return_inverse=True)
    row = met // n_items
    latest = torch.zeros_like(met).scatter_reduce(0, node, layout.position, "amax")
    size = torch.bincount(row)[row]
    order = ((size * len(layout.last) + row) * longest + longest - 1 - latest).argsort()
    number = torch.empty_like(order)
    number[order] = torch.arange(len(order), device=order.device)
    at = number[node]
    return Nodes(row[order], (met % n_items)[order, None], at, at[layout.last])


def longer_runs(shorter: Nodes, single: Nodes, layout: PackedLayout, short_sessions: str = "last") -> Nodes:
    """Runs with one item more.

    Args:
        shorter (Nodes): of runs of k - 1 items.
        single (Nodes): of runs of one item.
        layout (PackedLayout): of B sessions.
        short_sessions (str): a session of fewer than k items gets one node, k copies of its ``last`` item or of the one
            with the smallest number, ``min_id``.

    Returns:
        Nodes: of runs of k items; those of short sessions stand at the end.
    """
    k = shorter.items.shape[1] + 1
    start = (layout.position + k <= layout.length).nonzero().squeeze(1)
    head, tail = shorter.at[start], single.at[start + k - 1]
    known, node = (head * len(single.row) + tail).unique(return_inverse=True)
    head, tail = known // len(single.row), known % len(single.row)
    short = (layout.length[layout.last] < k).nonzero().squeeze(1)
    repeated = single.items[single.last] if short_sessions == "last" else smallest_items(single, len(layout.last))

    at = torch.full_like(shorter.at, -1)
    at[start] = node
    last = at[(layout.last - k + 1).clamp(min=0)]
    last[short] = torch.arange(len(known), len(known) + len(short), device=last.device)
    runs = torch.cat([shorter.items[head], single.items[tail]], 1)
    items = torch.cat([runs, repeated[short].expand(-1, k)])
    return Nodes(torch.cat([single.row[tail], short]), items, at, last)


def smallest_items(single: Nodes, n_rows: int) -> torch.Tensor:
    """The smallest item number of each of ``n_rows`` sessions, of nodes of one item: [B, 1]."""
    none = torch.full((n_rows,), torch.iinfo(torch.long).max, device=single.row.device)
    return none.scatter_reduce(0, single.row, single.items[:, 0], "amin")[:, None]


def runs_of_items(items: torch.Tensor, layout: PackedLayout, longest: int, short_sessions: str = "last") -> list[Nodes]:
    """Runs of 1, 2, ..., ``longest`` items of every session.

    Args:
        items (torch.LongTensor): [N] packed.
        layout (PackedLayout): of B sessions.
        longest (int): K.
        short_sessions (str): as for :func:`longer_runs`.

    Returns:
        list[Nodes]: K of them.
    """
    runs = [item_nodes(items, layout)]
    while len(runs) < longest:
        runs.append(longer_runs(runs[-1], runs[0], layout, short_sessions))
    return runs


def distinct_edges(source: torch.Tensor, target: torch.Tensor, n_targets: int) -> Edges:
    """Edges without repetitions.

    Args:
        source, target (torch.LongTensor): [E] ends of edges.
        n_targets (int): nodes in which edges can end.

    Returns:
        Edges
    """
    pairs = (source * n_targets + target).unique()
    return Edges(pairs // n_targets, pairs % n_targets)


def transitions(nodes: Nodes, layout: PackedLayout) -> Edges:
    """From each run to the one that starts one item later. An item that follows itself is an edge from it to itself."""
    token = _not_at_end(nodes, layout)
    return distinct_edges(nodes.at[token], nodes.at[token + 1], len(nodes.row))


def item_to_run(single: Nodes, runs: Nodes, layout: PackedLayout) -> Edges:
    """From each item to the run that starts behind it."""
    token = _not_at_end(runs, layout)
    return distinct_edges(single.at[token], runs.at[token + 1], len(runs.row))


def run_to_item(runs: Nodes, single: Nodes, layout: PackedLayout) -> Edges:
    """From each run to the item behind it."""
    token = _not_at_end(runs, layout)
    return distinct_edges(runs.at[token], single.at[token + runs.items.shape[1]], len(single.row))


def _not_at_end(runs: Nodes, layout: PackedLayout) -> torch.Tensor:
    """Tokens at which runs start that are not the last of their session: [n]."""
    return (layout.position + runs.items.shape[1] < layout.length).nonzero().squeeze(1)


def since_met(nodes: Nodes, layout: PackedLayout) -> torch.Tensor:
    """How many items have followed each item since it was met last, 0 for the last item of a session: [M]."""
    since = layout.length - 1 - layout.position
    return torch.full_like(nodes.row, torch.iinfo(torch.long).max).scatter_reduce(0, nodes.at, since, "amin")


def rank_by_number(nodes: Nodes) -> torch.Tensor:
    """Rank of each item among those of its session by its number, counted from 0: [M]."""
    order = (nodes.row * (int(nodes.items.max()) + 1) + nodes.items[:, 0]).argsort()
    size = torch.bincount(nodes.row)
    first = size.cumsum(0) - size
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - first[nodes.row[order]]
    return rank
