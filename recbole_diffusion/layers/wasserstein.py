"""Gaussians with diagonal covariance, their 2-Wasserstein distance, and a Transformer over them (STOSA).

A Gaussian with mean m and variances v is the point (m, sqrt(v)) of twice the width: the squared 2-Wasserstein distance of
two Gaussians is the squared Euclidean distance of their points. With a query (2p, 1) and a key (q, -|q|^2) the inner
product is -|p - q|^2 + |p|^2, where the last term is the same for all keys. So both attention and ranking by distance are
matrix products that are one column wider, and no tensor ever holds a difference for every pair.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from recbole_diffusion.layers.packed import PackedLayout, pad_block, unpad_block
from recbole_diffusion.layers.sessions import softmax_within
from recbole_diffusion.layers.transformer import Dropout, FeedForward


def variance(x: torch.Tensor) -> torch.Tensor:
    """ELU(x) + 1, the positive number that a parameter of any sign stands for: [...] -> [...].

    In float32 the sum of ELU and 1 has lost all digits at x = -18; the product never reaches 0 before x = -87.
    """
    return x.clamp(max=0).exp() * (1 + x.relu())


def deviation(x: torch.Tensor) -> torch.Tensor:
    """Square root of :func:`variance`, without the steep gradient that a square root has near 0: [...] -> [...]."""
    return (x.clamp(max=0) / 2).exp() * (1 + x.relu()).sqrt()


def as_point(mean: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    """Point of the Gaussian with a mean and ``variance(spread)``: [..., d], [..., d] -> [..., 2d]."""
    return torch.cat([mean, deviation(spread)], -1)


def as_query(point: torch.Tensor) -> torch.Tensor:
    """[..., 2d] -> [..., 2d + 1], whose inner product with a key is a constant of the query less their distance."""
    return torch.cat([2 * point, torch.ones_like(point[..., :1])], -1)


def as_key(point: torch.Tensor) -> torch.Tensor:
    """[..., 2d] -> [..., 2d + 1], see :func:`as_query`."""
    return torch.cat([point, -point.square().sum(-1, keepdim=True)], -1)


def squared_distance(point: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Squared 2-Wasserstein distance of pairs: [..., 2d], [..., 2d] -> [...]."""
    return (point - other).square().sum(-1)


def as_row(point: torch.Tensor) -> torch.Tensor:
    """[..., 2d] -> [..., 2d + 2], whose inner product with a column is their squared distance itself."""
    return torch.cat([-2 * point, point.square().sum(-1, keepdim=True), torch.ones_like(point[..., :1])], -1)


def as_column(point: torch.Tensor) -> torch.Tensor:
    """[..., 2d] -> [..., 2d + 2], see :func:`as_row`."""
    return torch.cat([point, torch.ones_like(point[..., :1]), point.square().sum(-1, keepdim=True)], -1)


class WassersteinAttention(nn.Module):
    """Causal multi-head attention between Gaussians whose weights fall with their distance.

    The weights are ``softmax(-distance / sqrt(hidden / heads))``. What is mixed are independent Gaussians: means with the
    weights, variances with the squared weights.

    Args:
        n_heads, hidden_size (int): heads, and width of means and of variances.
        attn_dropout_prob (float): dropout of the weights.
        mixes_means (bool): False leaves out the values of the means.
    """

    def __init__(self, n_heads: int, hidden_size: int, attn_dropout_prob: float, mixes_means: bool) -> None:
        super().__init__()
        self.n_heads, self.head_size = n_heads, hidden_size // n_heads
        self.mean_parts = 3 if mixes_means else 2
        self.mean_qkv = nn.Linear(hidden_size, self.mean_parts * hidden_size)
        self.variance_qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.attn_dropout = Dropout(attn_dropout_prob)

    def forward(self, mean: torch.Tensor, variances: torch.Tensor, layout: PackedLayout | None) -> list[torch.Tensor]:
        """Mix what each token sees.

        Args:
            mean, variances (torch.Tensor): [N, hidden] packed, or padded on the right, [B, L, hidden].
            layout (PackedLayout | None): where packed tokens belong; None for padded ones.

        Returns:
            list: mixed means, unless they are left out, and mixed variances, each of the shape of ``mean``.
        """
        with torch.autocast(mean.device.type, enabled=False):  # half precision leaves no digits to a difference
            heads = self._heads(mean, variances)
            if layout is None:
                mixed = self._mix(heads)
            else:
                blocks = [unpad_block(self._mix(pad_block(heads, block)), block) for block in layout.blocks]
                mixed = torch.cat(blocks)
            return [part.flatten(-2) for part in mixed.split(self.head_size, -1)]

    def at_last(self, mean: torch.Tensor, variances: torch.Tensor, layout: PackedLayout) -> list[torch.Tensor]:
        """The same for the last token of every row only, which sees its whole sequence; time and memory O(N).

        Args:
            mean, variances (torch.Tensor): [N, hidden] packed.
            layout (PackedLayout): where the tokens belong.

        Returns:
            list: mixed means, unless they are left out, and mixed variances, [B, hidden] each.
        """
        with torch.autocast(mean.device.type, enabled=False):
            n_rows = len(layout.last)
            query, key, values = self._parts(self._heads(mean, variances))
            logits = (query[layout.last][layout.row] * key).sum(-1) / math.sqrt(self.head_size)  # [N, heads]
            weights = self.attn_dropout(softmax_within(logits, layout.row, n_rows)).unsqueeze(-1)
            *means, spreads = values.split(self.head_size, -1)
            mixed = [*(weights * part for part in means), weights.square() * spreads]
            return [part.new_zeros(n_rows, *part.shape[1:]).index_add(0, layout.row, part).flatten(1) for part in mixed]

    def _parts(self, heads: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Queries, keys and values of what :meth:`_heads` returns."""
        side = 2 * self.head_size + 1
        return heads.split([side, side, heads.shape[-1] - 2 * side], -1)

    def _heads(self, mean: torch.Tensor, variances: torch.Tensor) -> torch.Tensor:
        """Query, key and values of every token and head side by side: [..., hidden] -> [..., heads, width]."""
        dtype = self.mean_qkv.weight.dtype
        means = self.mean_qkv(mean.to(dtype)).unflatten(-1, (self.mean_parts, self.n_heads, -1)).unbind(-3)
        spreads = self.variance_qkv(variances.to(dtype)).unflatten(-1, (3, self.n_heads, -1)).unbind(-3)
        query, key = as_query(as_point(means[0], spreads[0])), as_key(as_point(means[1], spreads[1]))
        return torch.cat([query, key, *means[2:], variance(spreads[2])], -1)

    def _mix(self, heads: torch.Tensor) -> torch.Tensor:
        """[sequences, width, heads, ...] -> [sequences, width, heads, values]."""
        query, key, values = self._parts(heads.transpose(1, 2))
        scores = (query / math.sqrt(self.head_size)) @ key.transpose(-2, -1)
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        weights = self.attn_dropout(scores.masked_fill(later, float("-inf")).softmax(-1))
        *means, variances = values.split(self.head_size, -1)
        mixed = [*(weights @ mean for mean in means), weights.square() @ variances]
        return torch.cat(mixed, -1).transpose(1, 2)


class WassersteinBlock(nn.Module):
    """Attention between Gaussians and feed-forward layers, with residuals and layer norms, for means and variances.

    Args:
        n_heads, hidden_size, inner_size (int): heads and widths.
        hidden_dropout_prob, attn_dropout_prob (float): dropout of outputs and of attention weights.
        layer_norm_eps (float): epsilon of the layer norms.
        shared_norm (bool): one layer norm for both streams after attention.
        mixes_means (bool): False lets means pass as they are; what would be theirs does not exist.
    """

    def __init__(
        self,
        n_heads: int,
        hidden_size: int,
        inner_size: int,
        hidden_dropout_prob: float,
        attn_dropout_prob: float,
        layer_norm_eps: float,
        shared_norm: bool,
        mixes_means: bool,
    ) -> None:
        super().__init__()
        streams = 2 if mixes_means else 1
        self.attention = WassersteinAttention(n_heads, hidden_size, attn_dropout_prob, mixes_means)
        self.dense = nn.ModuleList(nn.Linear(hidden_size, hidden_size) for _ in range(streams))
        norms = 1 if shared_norm else streams
        self.norm = nn.ModuleList(nn.LayerNorm(hidden_size, eps=layer_norm_eps) for _ in range(norms))
        self.dropout = Dropout(hidden_dropout_prob)
        self.feed_forward = nn.ModuleList(
            FeedForward(hidden_size, inner_size, hidden_dropout_prob, "elu", layer_norm_eps) for _ in range(streams)
        )

    def forward(
        self, mean: torch.Tensor, spread: torch.Tensor, layout: PackedLayout | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and spreads, of which :func:`variance` makes variances; shapes as of :class:`WassersteinAttention`."""
        before = [mean, variance(spread)]
        *mixed_mean, mixed_variance = self.attention(*before, layout)
        if mixed_mean:
            mean = self._finish(0, mean, mixed_mean[0])
        return mean, self._finish(-1, before[1], mixed_variance)

    def _finish(self, stream: int, before: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        after = self.norm[stream](before + self.dropout(self.dense[stream](mixed)))
        return self.feed_forward[stream](after)


class GaussianTransformer(nn.Module):
    """Positions, layer norm and blocks: item Gaussians in, one Gaussian for every prefix of a history out.

    Args:
        n_layers, n_heads, hidden_size, inner_size (int): as of :class:`WassersteinBlock`.
        longest (int): length of the longest history.
        hidden_dropout_prob, attn_dropout_prob, layer_norm_eps (float): as of :class:`WassersteinBlock`.
        shared_norm (bool): one layer norm for both streams, on the input and in each block.
        mixes_means (bool): False keeps the means out of attention: that of a prefix is that of its last item.
    """

    def __init__(
        self,
        n_layers: int,
        n_heads: int,
        hidden_size: int,
        inner_size: int,
        longest: int,
        hidden_dropout_prob: float,
        attn_dropout_prob: float,
        layer_norm_eps: float,
        shared_norm: bool,
        mixes_means: bool,
    ) -> None:
        super().__init__()
        self.mean_position = nn.Embedding(longest, hidden_size)
        self.spread_position = nn.Embedding(longest, hidden_size)
        norms = 1 if shared_norm else 2
        self.norm = nn.ModuleList(nn.LayerNorm(hidden_size, eps=layer_norm_eps) for _ in range(norms))
        self.dropout = Dropout(hidden_dropout_prob)
        dropouts = hidden_dropout_prob, attn_dropout_prob
        self.blocks = nn.ModuleList(
            WassersteinBlock(n_heads, hidden_size, inner_size, *dropouts, layer_norm_eps, shared_norm, mixes_means)
            for _ in range(n_layers)
        )

    def forward(
        self, mean: torch.Tensor, spread: torch.Tensor, position: torch.Tensor, layout: PackedLayout | None
    ) -> torch.Tensor:
        """Encode the items of histories.

        Args:
            mean, spread (torch.Tensor): [N, hidden] packed, or padded on the right, [B, L, hidden].
            position (torch.LongTensor): [N] or [B, L].
            layout (PackedLayout | None): where packed tokens belong; None for padded ones.

        Returns:
            torch.Tensor: points of the Gaussians, [N, 2 * hidden] or [B, L, 2 * hidden].
        """
        mean = nn.functional.elu(self.dropout(self.norm[0](mean + self.mean_position(position))))
        spread = self.dropout(self.norm[-1](spread + self.spread_position(position)))
        for block in self.blocks:
            mean, spread = block(mean, spread, layout)
        return as_point(mean, spread)
