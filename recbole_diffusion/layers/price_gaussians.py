"""Prices as Gaussians: what sessions are used to paying, and what items cost (MMSBR)."""

from __future__ import annotations

import torch
from torch import nn

from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.transformer import Dropout
from recbole_diffusion.layers.wasserstein import WassersteinAttention, as_point, variance


class PriceGaussians(nn.Module):
    """Each level of price has a mean and a spread, to which a category adds its vector; sessions attend by distance.

    Args:
        n_levels (int): levels of price, the one of unknown prices among them.
        n_categories (int): categories, the one of unknown ones among them; 0 for none.
        n_heads, hidden_size (int): heads divide the width d.
        dropout (float): of attention weights and of what is read.
    """

    def __init__(self, n_levels: int, n_categories: int, n_heads: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.mean = nn.Embedding(n_levels, hidden_size)
        self.spread = nn.Embedding(n_levels, hidden_size)
        self.category = nn.Embedding(n_categories, hidden_size) if n_categories else None
        names = ["mean", "spread", *(["category"] if n_categories else [])]
        self.norms = nn.ModuleDict({name: nn.LayerNorm(hidden_size) for name in names})
        self.attention = WassersteinAttention(n_heads, hidden_size, dropout, mixes_means=True)
        self.dense = nn.ModuleList(nn.Linear(hidden_size, hidden_size) for _ in range(2))
        self.out_norms = nn.ModuleList(nn.LayerNorm(hidden_size) for _ in range(2))
        self.dropout = Dropout(dropout)

    def sessions(self, level: torch.Tensor, category: torch.Tensor | None, layout: PackedLayout) -> torch.Tensor:
        """What sessions pay, as the last item sees it.

        Args:
            level, category (torch.LongTensor): [N] of packed items; category None without categories.
            layout (PackedLayout): where they belong.

        Returns:
            torch.Tensor: points [B, 2d], see :mod:`recbole_diffusion.layers.wasserstein`.
        """
        mixed = self.attention.at_last(*self.entering(level, category), layout)
        return self.leaving(level[layout.last], mixed)

    def entering(self, level: torch.Tensor, category: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and variances of items in a session: [...] -> [..., d] each."""
        mean, spread = self.norms["mean"](self.mean(level)), self.norms["spread"](self.spread(level))
        if self.category is not None:
            shift = self.norms["category"](self.category(category))
            mean, spread = mean + shift, spread + shift
        return mean, variance(spread)

    def leaving(self, level: torch.Tensor, mixed: list[torch.Tensor]) -> torch.Tensor:
        """Points [B, 2d] of sessions, from the levels [B] of their last items and what these found."""
        own = self.mean(level), self.spread(level)
        read = (dense(part) for dense, part in zip(self.dense, mixed))
        return as_point(*(norm(raw + self.dropout(part)) for norm, raw, part in zip(self.out_norms, own, read)))

    def items(self, level: torch.Tensor, category: torch.Tensor | None) -> torch.Tensor:
        """Points of items: [V] -> [V, 2d]."""
        shift = 0 if self.category is None else self.category(category)
        return as_point(self.mean(level) + shift, self.spread(level) + shift)
