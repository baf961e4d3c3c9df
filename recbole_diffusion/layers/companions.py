"""Items and those they are met with most often: which they are, and losses that hold on to them (DIMO)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from recbole_diffusion.layers.cosine import unit
from recbole_diffusion.layers.graph import SparseMatrix
from recbole_diffusion.layers.negatives import unseen_items
from recbole_diffusion.layers.packed import PackedLayout


class Companions(nn.Module):
    """The k items that every item has the heaviest edges to; of equal edges the lower item number decides.

    Args:
        graph (SparseMatrix): [V, V] edges, all positive.
        k (int): how many at most.

    Attributes:
        items (torch.LongTensor): [V, k], heaviest first, 0 where an item has fewer.
        weights (torch.Tensor): [V, k], shares of the k edges: they sum to 1, or to 0 for an item without edges.
    """

    items: torch.Tensor
    weights: torch.Tensor

    def __init__(self, graph: SparseMatrix, k: int) -> None:
        super().__init__()
        starts, columns, values = (part.numpy() for part in (graph.starts, graph.columns, graph.values))
        rows = np.repeat(np.arange(graph.shape[0]), np.diff(starts))
        order = np.lexsort((columns, -values, rows))
        place = np.arange(len(rows)) - starts[rows]  # sorting leaves the rows where they are
        kept = place < k
        cells, order = (rows[kept], place[kept]), order[kept]
        items, weights = np.zeros((graph.shape[0], k), np.int64), np.zeros((graph.shape[0], k), np.float32)
        items[cells], weights[cells] = columns[order], values[order]
        weights /= np.maximum(weights.sum(1, keepdims=True), np.finfo(np.float32).tiny)
        self.register_buffer("items", torch.from_numpy(items), persistent=False)
        self.register_buffer("weights", torch.from_numpy(weights), persistent=False)

    def loss(self, table: torch.Tensor, anchors: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
        """Items are nearer to their companions than to others (DIMO, L_co).

        ``log(1 + sum_n exp(cos(x_i, x_n)) / exp(cos(x_i, x_+)))``, x_+ the weighted mean of the companions.

        Args:
            table (torch.Tensor): [V, d] items.
            anchors (torch.LongTensor): [A] items i.
            negatives (torch.LongTensor): [A, n] items that are not theirs.

        Returns:
            torch.Tensor: [] mean loss.
        """
        own = unit(table[anchors])
        positive = (self.weights[anchors].to(table.dtype).unsqueeze(-1) * table[self.items[anchors]]).sum(1)
        others = (own.unsqueeze(1) * unit(table)[negatives]).sum(-1)
        return F.softplus(others.logsumexp(1) - (own * unit(positive)).sum(-1)).mean()

    def draw(self, n_anchors: int, n_negatives: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Random items, none twice, and for each of them items that are neither itself nor its companions.

        Args:
            n_anchors (int): how many; 0 for all.
            n_negatives (int): for each.

        Returns:
            tuple: LongTensors [A] and [A, n_negatives].
        """
        n_items, k = self.items.shape
        device = self.items.device
        anchors = torch.randperm(n_items - 1, device=device)[: n_anchors or None] + 1
        rows = torch.arange(len(anchors), device=device)
        met = torch.cat([anchors[:, None], self.items[anchors]], 1)
        owners = rows.repeat_interleave(n_negatives)
        negatives = unseen_items(owners, rows.repeat_interleave(k + 1), met.flatten(), n_items)
        return anchors, negatives.view(-1, n_negatives)

    def met(self, items: torch.Tensor, layout: PackedLayout, target: torch.Tensor) -> torch.Tensor:
        """Which sessions hold an item that has the target as a companion.

        Args:
            items (torch.LongTensor): [N] of packed sessions.
            layout (PackedLayout): of B sessions.
            target (torch.LongTensor): [B], items from 1 on.

        Returns:
            torch.BoolTensor: [B].
        """
        hit = (self.items[items] == target[layout.row, None]).any(1)
        return torch.zeros_like(target, dtype=torch.bool).index_put((layout.row[hit],), hit[hit])


def preference(near: torch.Tensor, far: torch.Tensor) -> torch.Tensor:
    """``-log`` of the share of ``exp(near)`` in ``exp(near) + exp(far)``; any shape."""
    return F.softplus(far - near)
