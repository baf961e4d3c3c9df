"""Reading a session out by attention of several levels, without a graph (Atten-Mixer).

All modules take sessions of similar length, padded on the right with zeros; ``real`` says where there are items.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from recbole_diffusion.layers.transformer import Dropout

NEVER = -1e4  # a logit whose weight is zero, which half precision can hold


def latest_items(x: torch.Tensor, real: torch.Tensor, n: int) -> torch.Tensor:
    """The last items of sessions, the latest first, zeros before their first: [b, w, d], [b, w] -> [b, n, d]."""
    place = real.sum(1, keepdim=True) - 1 - torch.arange(n, device=x.device)
    latest = x.gather(1, place.clamp(min=0).unsqueeze(-1).expand(-1, -1, x.shape[-1]))
    return latest.masked_fill((place < 0).unsqueeze(-1), 0)


class LevelQueries(nn.Module):
    """Queries ``q_i = W_i f(x_n, ..., x_{n-i+1}) + b_i`` of the last i items, i = 1..K.

    Args:
        hidden_size (int): d.
        n_levels (int): K.
        level (str): f: ``concat`` joins the items in their order, ``sum`` adds them up.
    """

    def __init__(self, hidden_size: int, n_levels: int, level: str) -> None:
        super().__init__()
        self.joins = level == "concat"
        self.levels = nn.ModuleList(
            nn.Linear(hidden_size * (i if self.joins else 1), hidden_size) for i in range(1, n_levels + 1)
        )

    def forward(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """[b, w, d], [b, w] -> [b, K, d]."""
        latest = latest_items(x, real, len(self.levels))
        joined, added = latest.flatten(1), latest.cumsum(1).unbind(1)
        queries = []
        for place, level in enumerate(self.levels):
            queries.append(level(joined[:, : level.in_features] if self.joins else added[place]))
        return torch.stack(queries, 1)


class LevelAttention(nn.Module):
    """Weights of a session's items: the attention maps of all levels, pooled by their L_p norm.

    ``a_i = softmax_l(W_0 q_i . W_1 x_l / sqrt(d / heads))`` and ``(sum_i a_il^p)^(1/p)``, divided by its sum over l. A
    bias of W_1 would move all items of a session alike. Computed on logarithms, so that no power underflows.

    Args:
        hidden_size, n_heads (int): d and the heads that share it.
        n_levels (int): K.
        level (str): as of :class:`LevelQueries`.
        power (float): p.
    """

    def __init__(self, hidden_size: int, n_heads: int, n_levels: int, level: str, power: float) -> None:
        super().__init__()
        self.n_heads, self.power = n_heads, power
        self.queries = LevelQueries(hidden_size, n_levels, level)
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """[b, w, d], [b, w] -> [b, heads, w], whose sum over the items is 1."""
        query = self.query(F.normalize(self.queries(x, real), dim=-1)).unflatten(-1, (self.n_heads, -1))
        key = self.key(x).unflatten(-1, (self.n_heads, -1))
        logits = query.transpose(1, 2) @ key.permute(0, 2, 3, 1) / math.sqrt(key.shape[-1])  # [b, heads, K, w]
        maps = logits.masked_fill(~real[:, None, None], NEVER).log_softmax(-1)
        return ((self.power * maps).logsumexp(2) / self.power).softmax(-1)


class ReleasedAttention(nn.Module):
    """What the released code computes in place of :class:`LevelAttention`.

    Vectors are cut into heads without a transposition, so that the weight of an item comes from the key of another one
    or of padding; queries are normalised over the levels; logits pass a sigmoid and two softmaxes, the first one over
    padding as well, which leaves all weights alike.

    Args:
        hidden_size, n_heads, n_levels, level, power: as of :class:`LevelAttention`.
        longest (int): items to which all sessions are padded, on which the weights depend.
    """

    def __init__(self, hidden_size: int, n_heads: int, n_levels: int, level: str, power: float, longest: int) -> None:
        super().__init__()
        self.n_heads, self.power, self.longest = n_heads, power, longest
        self.queries = LevelQueries(hidden_size, n_levels, level)
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """[b, w, d], [b, w] -> [b, heads, w], whose sum over the items is 1."""
        query = self._cut(self.query(F.normalize(self.queries(x, real), dim=1)))
        key = self._cut(self.key(F.pad(x, (0, 0, 0, self.longest - x.shape[1]))))
        maps = (2 * (query @ key.transpose(2, 3)).sigmoid()).softmax(-1)  # [b, heads, K, longest]
        pooled = maps.pow(self.power).sum(2).pow(1 / self.power)[..., : x.shape[1]]
        return (2 * pooled).masked_fill(~real.unsqueeze(1), float("-inf")).softmax(-1)

    def _cut(self, vectors: torch.Tensor) -> torch.Tensor:
        """[b, n, d] -> [b, heads, n, d / heads], not head by head but in the order of memory."""
        rows, n, width = vectors.shape
        return vectors.reshape(rows, self.n_heads, n, width // self.n_heads)


class MeanWeights(nn.Module):
    """All items of a session alike. n_heads (int): for how many heads."""

    def __init__(self, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads

    def forward(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """[b, w, d], [b, w] -> [b, heads, w], whose sum over the items is 1."""
        weights = real.to(x.dtype) / real.sum(1, keepdim=True)
        return weights.unsqueeze(1).expand(-1, self.n_heads, -1)


class SessionMixer(nn.Module):
    """A session as ``W_o [LayerNorm(sum_l a_l W_2 x_l) ; x_n] + b_o``, with weights a of each head.

    Args:
        hidden_size (int): d.
        weights (nn.Module): from items and ``real`` to weights [b, heads, w], such as :class:`LevelAttention`.
        attn_dropout_prob (float): dropout of the weights.
    """

    def __init__(self, hidden_size: int, weights: nn.Module, attn_dropout_prob: float) -> None:
        super().__init__()
        self.weights = weights
        self.dropout = Dropout(attn_dropout_prob)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size, eps=1e-8)
        self.output = nn.Linear(2 * hidden_size, hidden_size)

    def forward(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """[b, w, d], [b, w] -> [b, d]."""
        weights = self.dropout(self.weights(x, real)).unsqueeze(2)
        values = self.value(x).unflatten(-1, (weights.shape[1], -1)).transpose(1, 2)
        mixed = (weights.to(values.dtype) @ values).flatten(1)
        return self.output(torch.cat([self.norm(mixed), latest_items(x, real, 1).squeeze(1)], -1))
