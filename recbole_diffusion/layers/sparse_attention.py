"""Attention whose weights are sparse and whose sparseness is learned (MSGAT, CIKM 2023).

All modules take sessions of similar length, padded on the right; ``real`` says where there are items.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from recbole_diffusion.layers.cosine import unit
from recbole_diffusion.layers.entmax import entmax, sparseness
from recbole_diffusion.layers.transformer import Dropout

NOTHING = float("-inf")  # logit of what gets no weight


class SparseSelfAttention(nn.Module):
    """Items look at one another and at an empty token, which looks at them and becomes the target.

    ``q = ReLU(W x)``, keys and values are x itself; then a feed-forward layer with residual and norm. The empty token is
    zero, so that its query, and alpha with it, is the same for all sessions: learned, one of each per head.

    Args:
        hidden_size, n_heads (int): heads divide the width.
        dropout (float): of the queries.
    """

    def __init__(self, hidden_size: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Linear(hidden_size, hidden_size)
        self.alpha = nn.Linear(hidden_size // n_heads, 1)
        self.dropout = Dropout(dropout)
        self.wide, self.narrow = nn.Linear(hidden_size, hidden_size), nn.Linear(hidden_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, x: torch.Tensor, real: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[b, w, d], [b, w] -> items as they are after looking around [b, w, d], the target [b, d]."""
        x, real = F.pad(x, (0, 0, 0, 1)), F.pad(real, (0, 1), value=True)
        queries = self._heads(self.dropout(self.query(x).relu()))  # [b, heads, w + 1, d / heads]
        items = self._heads(x)
        logits = queries @ items.transpose(2, 3) / math.sqrt(items.shape[-1])
        alpha = sparseness(self.alpha(self.query.bias.relu().unflatten(0, (self.n_heads, -1))))  # [heads, 1]
        weights = entmax(logits.masked_fill(~real[:, None, None], NOTHING), alpha.unsqueeze(-1))
        mixed = (weights.to(items.dtype) @ items).transpose(1, 2).flatten(2)
        mixed = self.norm(self.narrow(self.wide(mixed).relu()) + mixed)
        return mixed[:, :-1], mixed[:, -1]

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """[b, w, d] -> [b, heads, w, d / heads]."""
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)


class SparseReadout(nn.Module):
    """A session as its target and what the target makes of its items, ``W [sum_i p_i g_i ; t]``.

    ``g_i = sigmoid(A h_last + C h_i)``, and p is the entmax of ``w . ReLU(W_k x_i + W_t t + b)`` with an alpha of the
    target.

    Args:
        hidden_size (int): width D of items and target.
        output_size (int): d.
    """

    def __init__(self, hidden_size: int, output_size: int) -> None:
        super().__init__()
        self.last, self.item = nn.Linear(hidden_size, hidden_size, bias=False), nn.Linear(hidden_size, hidden_size)
        self.key, self.target = nn.Linear(hidden_size, hidden_size, bias=False), nn.Linear(hidden_size, hidden_size)
        self.weight = nn.Linear(hidden_size, 1, bias=False)
        self.alpha = nn.Linear(hidden_size, 1)
        self.output = nn.Linear(2 * hidden_size, output_size)

    def forward(
        self, h: torch.Tensor, last: torch.Tensor, x: torch.Tensor, target: torch.Tensor, real: torch.Tensor
    ) -> torch.Tensor:
        """Read sessions out.

        Args:
            h (torch.Tensor): [b, w, D] items before self-attention.
            last (torch.Tensor): [b, D] the last of them.
            x, target (torch.Tensor): [b, w, D] and [b, D] from :class:`SparseSelfAttention`.
            real (torch.Tensor): [b, w] bool.

        Returns:
            torch.Tensor: [b, d].
        """
        logits = self.weight((self.key(x) + self.target(target).unsqueeze(1)).relu()).squeeze(-1)
        weights = entmax(logits.masked_fill(~real, NOTHING), sparseness(self.alpha(target)))
        values = (self.last(last).unsqueeze(1) + self.item(h)).sigmoid()
        mixed = (weights.to(values.dtype).unsqueeze(1) @ values).squeeze(1)
        return self.output(torch.cat([mixed, target], -1))


class NeighbourAttention(nn.Module):
    """A neighbourhood as the mean of its sessions, weighted by how much they overlap and how they go with the target.

    The logit of a session is ``(W t) . v_j / sqrt(d) + log overlap_j``; softmax would give the overlaps as weights where
    the target has no preference. A session overlaps by 1 with itself.

    Args:
        target_size (int): D of the target.
        hidden_size (int): d of the sessions.
    """

    def __init__(self, target_size: int, hidden_size: int) -> None:
        super().__init__()
        self.query = nn.Linear(target_size, hidden_size, bias=False)
        self.alpha = nn.Linear(target_size, 1)

    def forward(
        self, target: torch.Tensor, itself: torch.Tensor, others: torch.Tensor, overlap: torch.Tensor
    ) -> torch.Tensor:
        """Look at a neighbourhood.

        Args:
            target (torch.Tensor): [b, D].
            itself, others (torch.Tensor): [b, d] and [b, m, d].
            overlap (torch.Tensor): [b, m], 0 where there is no session.

        Returns:
            torch.Tensor: [b, d].
        """
        query = self.query(target) / math.sqrt(itself.shape[1])
        fits = (others @ query.unsqueeze(-1)).squeeze(-1) + overlap.log()
        logits = torch.cat([(query * itself).sum(1, keepdim=True), fits], 1)
        return weighted(entmax(logits, sparseness(self.alpha(target))), itself, others)


def mean_by_overlap(itself: torch.Tensor, others: torch.Tensor, overlap: torch.Tensor) -> torch.Tensor:
    """The same with overlaps, divided by their sum, as weights: [b, d], [b, m, d], [b, m] -> [b, d]."""
    overlap = F.pad(overlap.to(itself.dtype), (1, 0), value=1.0)
    return weighted(overlap / overlap.sum(1, keepdim=True), itself, others)


def weighted(weights: torch.Tensor, itself: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Sum of a vector and others under weights: [b, 1 + m], [b, d], [b, m, d] -> [b, d]."""
    weights = weights.to(itself.dtype)
    return weights[:, :1] * itself + (weights[:, 1:].unsqueeze(1) @ others).squeeze(1)


def similar_in_batch(vectors: torch.Tensor, k: int) -> torch.Tensor:
    """The released mean of the k rows of a batch that are most like each row, itself among them: [B, d] -> [B, d].

    Their weights are the softmax of a softmax over the whole batch, which leaves them alike.
    """
    cosines = unit(vectors) @ unit(vectors).t()
    chosen = cosines.softmax(1).topk(min(k, len(vectors)))
    return (chosen.values.softmax(1).unsqueeze(1) @ vectors[chosen.indices]).squeeze(1)
