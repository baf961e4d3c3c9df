"""Items made of what they look like and are called: pivots that look at one modality after the other (MMSBR)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from recbole_diffusion.layers.chunks import numbers_at_a_time
from recbole_diffusion.layers.transformer import Dropout

# Numbers that a backward pass may keep of all items, 1 GiB; of more, they are computed again.
MOST_KEPT = 2**28


class Tokens(nn.Module):
    """Several tokens of one vector, each by two layers of its own.

    Args:
        width (int): of the vector.
        n_tokens, hidden_size (int): how many, and their width d.
        dropout (float): between the layers.
    """

    def __init__(self, width: int, n_tokens: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(width, n_tokens * hidden_size)
        self.second = nn.ModuleList(nn.Linear(hidden_size, hidden_size) for _ in range(n_tokens))
        self.dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [C, width] -> [C, n, d]."""
        inner = self.dropout(self.first(x).tanh()).chunk(len(self.second), -1)
        return torch.stack([layer(part) for layer, part in zip(self.second, inner)], 1).tanh()


class PivotLayer(nn.Module):
    """A Transformer layer over the pivots and the tokens of each item, whose two layer norms are one.

    Args:
        n_heads, hidden_size (int): heads divide the width d; the inner width is 4 d.
        dropout (float): of attention weights and of outputs.
    """

    def __init__(self, n_heads: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.n_heads, self.scale = n_heads, (hidden_size // n_heads) ** -0.5
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key_value = nn.Linear(hidden_size, 2 * hidden_size)
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.feed_forward = nn.Sequential(
            nn.Linear(hidden_size, 4 * hidden_size), nn.ReLU(), nn.Linear(4 * hidden_size, hidden_size)
        )
        self.norm = nn.LayerNorm(hidden_size)
        self.attn_dropout, self.dropout = Dropout(dropout), Dropout(dropout)

    def forward(self, rows: torch.Tensor, n_queries: int) -> torch.Tensor:
        """What comes of the first tokens of each item when they look at all: [C, n, d] -> [C, n_queries, d]."""
        x = rows[:, :n_queries]
        query = (self.query(x) * self.scale).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
        key, value = self.key_value(rows).unflatten(-1, (2, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        weights = self.attn_dropout((query @ key.transpose(-2, -1)).softmax(-1))
        x = self.norm(x + self.dropout(self.dense((weights @ value).transpose(1, 2).flatten(2))))
        return self.norm(x + self.dropout(self.feed_forward(x)))


class ModalItems(nn.Module):
    """Vectors of items from free pivots, which look at the tokens of one modality after the other, and a small network.

    In every round and for each modality, ``out`` of a layer over [pivots ; tokens]: the pivots become their mean with
    ``out``, the tokens their sum. Of the tokens the last round needs no output, so that it has queries of pivots only.

    Args:
        widths (Sequence[int]): of the vectors of each modality; without any, pivots and network are left.
        n_rounds, n_tokens, n_heads, hidden_size (int): rounds, pivots and tokens of each modality, heads and width d.
        modality_dropout (float): of tokens and layers.
        item_dropout (float): within the network.

    Raises:
        ValueError: when ``hidden_size`` is not a multiple of ``n_heads``.
    """

    def __init__(
        self,
        widths: Sequence[int],
        n_rounds: int,
        n_tokens: int,
        n_heads: int,
        hidden_size: int,
        modality_dropout: float,
        item_dropout: float,
    ) -> None:
        super().__init__()
        if hidden_size % n_heads:
            raise ValueError(f"hidden_size {hidden_size} is not a multiple of n_heads {n_heads}")
        self.n_tokens = n_tokens
        self.tokens = nn.ModuleList(Tokens(width, n_tokens, hidden_size, modality_dropout) for width in widths)
        self.rounds = nn.ModuleList(
            nn.ModuleList(PivotLayer(n_heads, hidden_size, modality_dropout) for _ in widths) for _ in range(n_rounds)
        )
        self.network = nn.Sequential(
            nn.Linear(n_tokens * hidden_size, hidden_size),
            nn.ReLU(),
            Dropout(item_dropout),
            nn.Linear(hidden_size, hidden_size),
        )
        # a token's numbers in a layer: inputs, queries, keys, values and outputs, and the inner width with its mask
        self._numbers_of_item = n_tokens * hidden_size * (8 + 36 * len(widths) * n_rounds)

    def forward(self, pivots: torch.Tensor, *looks: torch.Tensor) -> torch.Tensor:
        """Vectors of all items, computed for some of them at a time.

        Args:
            pivots (torch.Tensor): [V, n_tokens * d].
            looks (torch.Tensor): [V, width] for every modality.

        Returns:
            torch.Tensor: [V, d].
        """
        n_rows = max(1, 16 * numbers_at_a_time(pivots) // self._numbers_of_item)
        again = torch.is_grad_enabled() and len(pivots) * self._numbers_of_item > MOST_KEPT
        pieces = zip(*(table.split(n_rows) for table in (pivots, *looks)))
        if again:
            return torch.cat([checkpoint(self.of_some, *piece, use_reentrant=False) for piece in pieces])
        return torch.cat([self.of_some(*piece) for piece in pieces])

    def of_some(self, pivots: torch.Tensor, *looks: torch.Tensor) -> torch.Tensor:
        """The same of C items at once: [C, n_tokens * d], [C, width] ... -> [C, d]."""
        pivots = pivots.unflatten(-1, (self.n_tokens, -1))
        tokens = [layer(look) for layer, look in zip(self.tokens, looks)]
        for number, layers in enumerate(self.rounds):
            n_queries = self.n_tokens * (1 if number == len(self.rounds) - 1 else 2)
            for place, layer in enumerate(cast(nn.ModuleList, layers)):
                out = layer(torch.cat([pivots, tokens[place]], 1), n_queries)
                pivots = (out[:, : self.n_tokens] + pivots) / 2
                if n_queries > self.n_tokens:
                    tokens[place] = out[:, self.n_tokens :] + tokens[place]
        return self.network(pivots.flatten(1))
