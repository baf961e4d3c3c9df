"""Blocks with half a feed-forward layer before and after attention, as MFGAN's generator has them, on packed tokens.

Reference:
    Ruiyang Ren et al. "Sequential Recommendation with Self-Attentive Multi-Adversarial Network." SIGIR 2020, its code.

With ``n`` a layer norm, each with parameters of its own::

    x = n(x) + 1/2 FFN(n(x))
    x = n(x) + Attention(query = n(x), key = value = x)
    x = n(x) + 1/2 FFN(n(x))

and a layer norm after the last block. The residual is the normed input, as in the first SASRec.
"""

from __future__ import annotations

import torch
from torch import nn

from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.stack import PreNormBlock, PreNormStack
from recbole_diffusion.layers.transformer import ACTIVATIONS, Dropout, MultiHeadAttention


class HalfFeedForward(nn.Module):
    """``n(x) + 1/2 FFN(n(x))``."""

    def __init__(self, hidden_size: int, inner_size: int, dropout_prob: float, hidden_act: str, layer_norm_eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.inner = nn.Linear(hidden_size, inner_size)
        self.outer = nn.Linear(inner_size, hidden_size)
        self.activation, self.dropout = ACTIVATIONS[hidden_act](), Dropout(dropout_prob)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [..., hidden] -> [..., hidden]."""
        normed = self.norm(x)
        return normed + 0.5 * self.dropout(self.outer(self.dropout(self.activation(self.inner(normed)))))


class MacaronBlock(PreNormBlock):
    """Attention between two halves of a feed-forward layer."""

    def __init__(
        self,
        n_heads: int,
        hidden_size: int,
        inner_size: int,
        hidden_dropout_prob: float,
        attn_dropout_prob: float,
        hidden_act: str,
        layer_norm_eps: float,
    ) -> None:
        super().__init__()
        halves = hidden_size, inner_size, hidden_dropout_prob, hidden_act, layer_norm_eps
        self.before, self.after = HalfFeedForward(*halves), HalfFeedForward(*halves)
        self.norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.query, self.key_value = nn.Linear(hidden_size, hidden_size), nn.Linear(hidden_size, 2 * hidden_size)
        self.attention = MultiHeadAttention(n_heads, hidden_size, attn_dropout_prob)
        self.dropout = Dropout(hidden_dropout_prob)

    def forward(self, x: torch.Tensor, layout: PackedLayout, causal: bool) -> torch.Tensor:
        """x: [N, views, hidden] -> [N, views, hidden]."""
        x = self.before(x)
        normed = self.norm(x)
        seen = self.attention.mix(torch.cat([self.query(normed), self.key_value(x)], -1), layout, causal)
        return self.after(normed + self.dropout(seen))

    def at_last(self, x: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """The same at the last token of every row, which sees all: [N, views, hidden] -> [B, views, hidden]."""
        x = self.before(x)
        normed = self.norm(x[layout.last])
        seen = self.attention.mix_at_last(self.query(normed), self.key_value(x), layout)
        return self.after(normed + self.dropout(seen))


class Macaron(PreNormStack):
    """A stack of :class:`MacaronBlock`. Args as :class:`~recbole_diffusion.layers.transformer.PackedTransformer`."""

    def __init__(
        self,
        n_layers: int,
        n_heads: int,
        hidden_size: int,
        inner_size: int,
        hidden_dropout_prob: float,
        attn_dropout_prob: float,
        hidden_act: str,
        layer_norm_eps: float,
    ) -> None:
        if hidden_size % n_heads:
            raise ValueError(f"hidden_size {hidden_size} is not a multiple of n_heads {n_heads}")
        dropouts = hidden_dropout_prob, attn_dropout_prob
        blocks = [
            MacaronBlock(n_heads, hidden_size, inner_size, *dropouts, hidden_act, layer_norm_eps) for _ in range(n_layers)
        ]
        super().__init__(blocks, hidden_size, layer_norm_eps)
