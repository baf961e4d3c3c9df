"""A session as a graph of its items beside a mirror of what other items are like them, which refine each other (MGS).

All modules take the nodes of packed sessions, [M, d], as :func:`~recbole_diffusion.layers.session_graph.item_nodes` orders
them: of each session the item that was met last first.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from recbole_diffusion.layers.packed import PackedLayout, pad_block, unpad_block
from recbole_diffusion.layers.session_graph import Nodes
from recbole_diffusion.layers.sessions import softmax_within

SLOPE = 0.2  # of LeakyReLU below zero, as in the released code
NEVER = -1e4  # a logit whose weight is zero, which half precision can hold
SELF, OLDER, NEWER, BOTH = range(4)  # where the neighbour of a node was met: right before it, right after it


class Relations(NamedTuple):
    """Neighbours in sessions: every node and itself, and nodes whose items stood side by side, none twice."""

    node: torch.Tensor  # [E] int64
    neighbour: torch.Tensor  # [E] int64
    kind: torch.Tensor  # [E] int64, from SELF to BOTH


def relations(nodes: Nodes, layout: PackedLayout) -> Relations:
    """Relations of the nodes of sessions; an item that follows itself has no other than to itself.

    Args:
        nodes (Nodes): of single items.
        layout (PackedLayout): of the sessions.

    Returns:
        Relations
    """
    n, device = len(nodes.row), nodes.row.device
    token = (layout.position + 1 < layout.length).nonzero().squeeze(1)
    older, newer = nodes.at[token], nodes.at[token + 1]
    loops = torch.arange(n, device=device) * (n + 1)
    pair, number = torch.cat([loops, newer * n + older, older * n + newer]).unique(return_inverse=True)
    kinds = torch.tensor([SELF, OLDER, NEWER], device=device)
    kinds = kinds.repeat_interleave(torch.tensor([n, len(token), len(token)], device=device))
    met = torch.zeros(len(pair), 3, dtype=torch.bool, device=device)
    met[number, kinds] = True
    kind = torch.where(met[:, OLDER], torch.where(met[:, NEWER], BOTH, OLDER), NEWER).masked_fill(met[:, SELF], SELF)
    return Relations(pair // n, pair % n, kind)


class RelationAttention(nn.Module):
    """Items look at their neighbours, ``softmax_j(LeakyReLU(w_kind . (x_i * x_j)))`` (GCE-GNN, its local part).

    Args:
        hidden_size (int): d.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(BOTH + 1, hidden_size))

    def forward(self, x: torch.Tensor, found: Relations) -> torch.Tensor:
        """x: [M, d] -> [M, d]."""
        neighbours = x[found.neighbour]
        logits = F.leaky_relu((x[found.node] * neighbours * self.weight[found.kind]).sum(-1, keepdim=True), SLOPE)
        weights = softmax_within(logits, found.node, len(x)).to(x.dtype)
        return torch.zeros_like(x).index_add(0, found.node, weights * neighbours)


class MirrorExchange(nn.Module):
    """Items move towards their mirrors, then mirrors are mixed by how they go with the items of the session.

    ``x_i <- x_i + a_i (m_i - x_i)``, ``a_i = (W_1 x_i) . (W_2 m_i) / sqrt(d)``, which nothing keeps between 0 and 1;
    ``m_i <- sum_j softmax_j((W_3 m_i) . (W_4 x_j) / sqrt(d)) m_j``. Without biases, so that a zero mirror moves nothing.

    Args:
        hidden_size (int): d.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.scale = 1 / math.sqrt(hidden_size)
        names = ("item", "mirror", "mirror_query", "item_key")
        self.maps = nn.ModuleDict({name: nn.Linear(hidden_size, hidden_size, bias=False) for name in names})

    def forward(
        self, x: torch.Tensor, mirrors: torch.Tensor, paired: torch.Tensor, layout: PackedLayout
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One exchange.

        Args:
            x, mirrors (torch.Tensor): [M, d], mirrors zero where there are none.
            paired (torch.BoolTensor): [M] which nodes have a mirror.
            layout (PackedLayout): of the nodes.

        Returns:
            tuple: items and mirrors, [M, d] each; nodes without a mirror stay so.
        """
        share = self.scale * (self.maps["item"](x) * self.maps["mirror"](mirrors)).sum(-1, keepdim=True)
        x = x + (share * (mirrors - x)).to(x.dtype)
        query, key = self.maps["mirror_query"](mirrors) * self.scale, self.maps["item_key"](x)
        mixed = []
        for block in layout.blocks:
            values, real = pad_block(mirrors, block), pad_block(paired, block).unsqueeze(1)
            logits = pad_block(query, block) @ pad_block(key, block).transpose(1, 2)
            weights = logits.masked_fill(~real, NEVER).softmax(-1).to(values.dtype)
            mixed.append(unpad_block(weights @ values, block))
        return x, torch.cat(mixed) * paired.unsqueeze(1)


class NodeReadout(nn.Module):
    """A session as a sum of its nodes, ``z = sum_i b_i (x_i + p_i)``, ``b_i = w . sigmoid(G_1 (x_i + p_i) + G_2 m_i + G_3 x_0)``.

    ``x_0`` is the last item; with a gate, the session is ``f x_0 + (1 - f) z``, ``f = mu sigmoid(W [z ; x_0])``.

    Args:
        hidden_size (int): d.
        longest (int): items of the longest session, each of which has its position p, counted from the last item.
        mirrored (bool): whether there are mirrors m.
        mu (float): most of the gate; 0 has none.
    """

    def __init__(self, hidden_size: int, longest: int, mirrored: bool, mu: float) -> None:
        super().__init__()
        self.mu = mu
        self.position_embedding = nn.Embedding(longest, hidden_size)
        self.item = nn.Linear(hidden_size, hidden_size)
        self.mirror = nn.Linear(hidden_size, hidden_size, bias=False) if mirrored else None
        self.last = nn.Linear(hidden_size, hidden_size, bias=False)
        self.weight = nn.Linear(hidden_size, 1, bias=False)
        self.gate = nn.Linear(2 * hidden_size, hidden_size, bias=False) if mu else None

    def forward(
        self, x: torch.Tensor, mirrors: torch.Tensor | None, nodes: Nodes, layout: PackedLayout
    ) -> torch.Tensor:
        """Items and mirrors [M, d] of some nodes and the layout of these -> sessions [B, d]."""
        last, placed = x[nodes.last], x + self.position_embedding(layout.position)
        parts = self.item(placed) + self.last(last)[nodes.row]
        if self.mirror is not None:
            parts = parts + self.mirror(mirrors)
        weights = self.weight(parts.sigmoid()).to(placed.dtype)
        session = torch.zeros_like(last).index_add(0, nodes.row, weights * placed)
        if self.gate is None:
            return session
        gate = self.mu * self.gate(torch.cat([session, last], -1)).sigmoid()
        return gate * last + (1 - gate) * session


def alignment(
    one: torch.Tensor,
    other: torch.Tensor,
    paired: torch.Tensor,
    layout: PackedLayout,
    tau: float,
    padding: torch.Tensor | None = None,
) -> torch.Tensor:
    """How badly one view of every mirror points at the other view of the same one, among those of its session.

    ``-log softmax_j(m1_i . m2_j / tau)[i]``, over nodes with a mirror.

    Args:
        one, other (torch.Tensor): [M, d] two views.
        paired (torch.BoolTensor): [M] which nodes have a mirror.
        layout (PackedLayout): of the nodes.
        tau (float): temperature.
        padding (torch.Tensor, optional): [d], which stands among the others as often as the largest session of the batch
            has more nodes (released code).

    Returns:
        torch.Tensor: [M], 0 for nodes without a mirror.
    """
    terms = []
    for block in layout.blocks:
        first, second, real = (pad_block(part, block) for part in (one, other, paired))
        logits = _full(first @ second.transpose(1, 2)) / tau
        all_of = logits.masked_fill(~real.unsqueeze(1), NEVER)
        if padding is not None:
            more = int(layout.length.max()) - block.real.sum(1)
            padded = _full(first @ padding) / tau + more.log().unsqueeze(1)
            all_of = torch.cat([all_of, padded.unsqueeze(-1)], -1)
        terms.append(unpad_block(all_of.logsumexp(-1) - logits.diagonal(dim1=1, dim2=2), block))
    return torch.cat(terms) * paired


def _full(products: torch.Tensor) -> torch.Tensor:
    """Logits in float32 at least."""
    return products.to(torch.promote_types(products.dtype, torch.float32))
