"""LiGR's gated pre-norm Transformer block on packed tokens.

Reference:
    Fedor Borisyuk et al. "From Features to Transformers: Redefining Ranking for Scalable Impact" (LiGR). 2025.
    The block of eSASRec (Tikhonovich et al. "eSASRec: Enhancing Transformer-based Recommendations in a Modular
    Fashion." RecSys 2025).

With ``n`` a layer norm, each with parameters of its own::

    x = x + sigmoid(W_g n(x) + b_g) * Attention(n(x))
    x = x + sigmoid(W_h n(x) + b_h) * SwiGLU(n(x))           SwiGLU(z) = W_2 (SiLU(W_1 z) * W_3 z)

and a layer norm after the last block. As in the library RecTools, where eSASRec is public, dropout stands before the
gate, after the product of SwiGLU and on attention weights, and SwiGLU has no biases. What is chosen here: gates look at
the normed input (RecTools: at the bare one); the last norm (RecTools: none) keeps the states in the scale of the other
encoders; the inner width of SwiGLU is the one that is set (RecTools: four times the outer one).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.stack import PreNormBlock, PreNormStack
from recbole_diffusion.layers.transformer import Dropout, SelfAttention


class SwiGLU(nn.Module):
    """``W_2 (SiLU(W_1 z) * W_3 z)`` without biases."""

    def __init__(self, hidden_size: int, inner_size: int, dropout_prob: float) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, 2 * inner_size, bias=False)
        self.outer = nn.Linear(inner_size, hidden_size, bias=False)
        self.dropout = Dropout(dropout_prob)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """z: [..., hidden] -> [..., hidden]."""
        active, linear = self.inner(z).chunk(2, -1)
        return self.outer(self.dropout(F.silu(active) * linear))


class GatedResidual(nn.Module):
    """``x + sigmoid(gate(n(x))) * change`` and the norm ``n`` that the change starts from."""

    def __init__(self, hidden_size: int, dropout_prob: float, layer_norm_eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.gate = nn.Linear(hidden_size, hidden_size)
        self.dropout = Dropout(dropout_prob)

    def forward(self, x: torch.Tensor, normed: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
        """Three of [..., hidden] -> [..., hidden]; ``normed`` is ``norm(x)``."""
        return x + self.gate(normed).sigmoid() * self.dropout(change)


class LiGRBlock(PreNormBlock):
    """Attention and SwiGLU, each in a gated residual connection."""

    def __init__(
        self,
        n_heads: int,
        hidden_size: int,
        inner_size: int,
        hidden_dropout_prob: float,
        attn_dropout_prob: float,
        layer_norm_eps: float,
    ) -> None:
        super().__init__()
        self.attention = SelfAttention(n_heads, hidden_size, attn_dropout_prob)
        self.attention_residual = GatedResidual(hidden_size, hidden_dropout_prob, layer_norm_eps)
        self.feed_forward = SwiGLU(hidden_size, inner_size, hidden_dropout_prob)
        self.feed_forward_residual = GatedResidual(hidden_size, hidden_dropout_prob, layer_norm_eps)

    def forward(self, x: torch.Tensor, layout: PackedLayout, causal: bool) -> torch.Tensor:
        """x: [N, views, hidden] -> [N, views, hidden]."""
        normed = self.attention_residual.norm(x)
        return self.fed_forward(self.attention_residual(x, normed, self.attention(normed, layout, causal)))

    def at_last(self, x: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """The same at the last token of every row: [N, views, hidden] -> [B, views, hidden]."""
        normed, last = self.attention_residual.norm(x), layout.last
        change = self.attention.at_last(normed, layout)
        return self.fed_forward(self.attention_residual(x[last], normed[last], change))

    def fed_forward(self, x: torch.Tensor) -> torch.Tensor:
        """The second half: [..., hidden] -> [..., hidden]."""
        normed = self.feed_forward_residual.norm(x)
        return self.feed_forward_residual(x, normed, self.feed_forward(normed))


class LiGR(PreNormStack):
    """A stack of LiGR's blocks.

    Args:
        n_layers, n_heads, hidden_size (int): as of the other encoders; ``hidden_size`` is a multiple of ``n_heads``.
        inner_size (int): inner width of SwiGLU.
        hidden_dropout_prob, attn_dropout_prob (float): dropout of outputs and of attention weights.
        layer_norm_eps (float): epsilon of the layer norms.
    """

    def __init__(
        self,
        n_layers: int,
        n_heads: int,
        hidden_size: int,
        inner_size: int,
        hidden_dropout_prob: float,
        attn_dropout_prob: float,
        layer_norm_eps: float = 1e-12,
    ) -> None:
        dropouts = hidden_dropout_prob, attn_dropout_prob
        blocks = (LiGRBlock(n_heads, hidden_size, inner_size, *dropouts, layer_norm_eps) for _ in range(n_layers))
        super().__init__(blocks, hidden_size, layer_norm_eps)
