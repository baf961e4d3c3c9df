"""The approximator of DiffuRec and DiffuRecSys: a bidirectional pre-norm Transformer on packed tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import nn

from recbole_diffusion.layers.packed import Block, PackedLayout, pad_block, unpad_block
from recbole_diffusion.layers.transformer import Dropout, MultiHeadAttention, SelfAttention

FILL = -1e9  # the released code's rows of padding


class CrossAttention(MultiHeadAttention):
    """Queries from the noised target, keys and values from the history (DiffuRecSys Eq. 16)."""

    def __init__(self, n_heads: int, hidden_size: int, attn_dropout_prob: float) -> None:
        super().__init__(n_heads, hidden_size, attn_dropout_prob)
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key_value = nn.Linear(hidden_size, 2 * hidden_size)

    def forward(self, history: torch.Tensor, guide: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """history, guide: [N, views, hidden] -> [N, views, hidden]."""
        return self.mix(torch.cat([self.query(guide), self.key_value(history)], -1), layout, causal=False)


class LinearCrossAttention(nn.Module):
    """Cross-attention without a product of positions (Shen et al. 2021), as the released code of DiffuRecSys uses it.

    Args:
        n_heads, hidden_size (int): as usual.
        key_softmax (str): axis of the keys' softmax: ``positions`` of a history, or ``heads`` (released code).
        output_dropout (float): dropout before the output layer.
        fill_padding (bool): whether rows of padding that count as tokens become :data:`FILL` before the output layer.
    """

    def __init__(
        self,
        n_heads: int,
        hidden_size: int,
        key_softmax: str = "positions",
        output_dropout: float = 0.0,
        fill_padding: bool = False,
    ) -> None:
        super().__init__()
        self.n_heads, self.key_softmax, self.fill_padding = n_heads, key_softmax, fill_padding
        self.dropout = Dropout(output_dropout)
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key_value = nn.Linear(hidden_size, 2 * hidden_size)
        self.dense = nn.Linear(hidden_size, hidden_size)

    def forward(self, history: torch.Tensor, guide: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """history, guide: [N, views, hidden] -> [N, views, hidden]."""
        query = self.query(guide).unflatten(-1, (self.n_heads, -1)).softmax(-1)
        key_value = self.key_value(history).unflatten(-1, (2, self.n_heads, -1))
        mixed = torch.cat([self._attend(query, key_value, block) for block in layout.blocks]).flatten(2)
        if not self.fill_padding:
            return self.dense(self.dropout(mixed))
        with torch.autocast(mixed.device.type, enabled=False):  # half precision does not reach so far
            filled = mixed.float().masked_fill(layout.padding_tokens()[:, None, None], FILL)
            return self.dense(self.dropout(filled))

    def _attend(self, query: torch.Tensor, key_value: torch.Tensor, block: Block) -> torch.Tensor:
        """One summary [hidden / heads, hidden / heads] per history and head, read by every query."""
        key, value = pad_block(key_value, block).unbind(3)  # [sequences, width, views, heads, hidden / heads]
        padding = ~block.real[:, :, None, None, None]
        if self.key_softmax == "positions":
            key = key.masked_fill(padding, float("-inf")).softmax(1)
        else:
            key = key.softmax(3).masked_fill(padding, 0)
        summary = torch.einsum("swnhd,swnhe->snhde", key, value)
        return unpad_block(torch.einsum("swnhd,snhde->swnhe", pad_block(query, block), summary), block)


class FeedForward(nn.Sequential):
    """Position-wise feed-forward layer with the tanh form of GELU, or another activation."""

    def __init__(self, hidden_size: int, inner_size: int, dropout: float, activation: str) -> None:
        layers: dict[str, Callable[[], nn.Module]] = {"gelu": lambda: nn.GELU(approximate="tanh"), "relu": nn.ReLU}
        super().__init__(
            nn.Linear(hidden_size, inner_size),
            layers[activation](),
            Dropout(dropout),
            nn.Linear(inner_size, hidden_size),
        )


class ApproximatorBlock(nn.Module):
    """Cross-attention if there is any, self-attention, feed-forward; each on a layer norm, with a residual.

    Args:
        n_heads, hidden_size, inner_size (int): as in :class:`Approximator`.
        dropout (float): of layer outputs and attention weights.
        activation (str): ``gelu`` or ``relu``.
        layer_norm_eps (float): epsilon of the layer norms.
        cross_attention (nn.Module, optional): called with history, guide and layout.
        shared_norm (bool): whether both attentions have one layer norm between them.
        drop_block_output (bool): whether the output of the block passes dropout once more.
    """

    def __init__(
        self,
        n_heads: int,
        hidden_size: int,
        inner_size: int,
        dropout: float,
        activation: str,
        layer_norm_eps: float,
        cross_attention: nn.Module | None = None,
        shared_norm: bool = False,
        drop_block_output: bool = True,
    ) -> None:
        super().__init__()
        self.drop_block_output = drop_block_output
        self.cross_attention = cross_attention
        if cross_attention is not None:
            self.cross_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        shared = shared_norm and cross_attention is not None
        self.attention_norm = self.cross_norm if shared else nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.attention = SelfAttention(n_heads, hidden_size, dropout)
        self.feed_forward_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.feed_forward = FeedForward(hidden_size, inner_size, dropout, activation)
        self.dropout = Dropout(dropout)

    def forward(self, h: torch.Tensor, guide: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """h, guide: [N, views, hidden] -> [N, views, hidden]."""
        h = self._look_at_guide(h, guide, layout)
        h = h + self.dropout(self.attention(self.attention_norm(h), layout, causal=False))
        return self._feed_forward(h)

    def at_last(self, h: torch.Tensor, guide: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """The same at the last token of every row: [N, views, hidden] -> [B, views, hidden]."""
        h = self._look_at_guide(h, guide, layout)
        h = h[layout.last] + self.dropout(self.attention.at_last(self.attention_norm(h), layout))
        return self._feed_forward(h)

    def _look_at_guide(self, h: torch.Tensor, guide: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        if self.cross_attention is None:
            return h
        return h + self.dropout(self.cross_attention(self.cross_norm(h), guide, layout))

    def _feed_forward(self, h: torch.Tensor) -> torch.Tensor:
        h = h + self.dropout(self.feed_forward(self.feed_forward_norm(h)))
        return self.dropout(h) if self.drop_block_output else h


class Approximator(nn.Module):
    """f_theta: noised histories -> the clean target, read at the last item (DiffuRecSys section 5.2).

    Args:
        n_blocks, n_heads, hidden_size, inner_size (int): size of the Transformer.
        dropout (float): of layer outputs and attention weights.
        activation (str): ``gelu`` or ``relu``.
        layer_norm_eps (float): epsilon of the layer norms.
        make_cross_attention (callable, optional): builds the cross-attention of a block; without it there is none.
        chained (bool): whether a block gets the output of the one before. False is what the released code of
            DiffuRecSys does: every block gets the history and only the last one's output is used, so that the
            others, which are not run here, are never trained.
        shared_norm, drop_block_output (bool): as in :class:`ApproximatorBlock`.
    """

    def __init__(
        self,
        n_blocks: int,
        n_heads: int,
        hidden_size: int,
        inner_size: int,
        dropout: float,
        activation: str,
        layer_norm_eps: float,
        make_cross_attention: Callable[[], nn.Module] | None = None,
        chained: bool = True,
        shared_norm: bool = False,
        drop_block_output: bool = True,
    ) -> None:
        super().__init__()
        sizes = (n_heads, hidden_size, inner_size, dropout, activation, layer_norm_eps)
        self.chained = chained
        self.blocks = nn.ModuleList(
            ApproximatorBlock(*sizes, make_cross_attention() if make_cross_attention else None, shared_norm, drop_block_output)
            for _ in range(n_blocks)
        )
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)

    def forward(self, h: torch.Tensor, guide: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """h, guide: [N, views, hidden] -> prediction of x_0 [B, views, hidden]."""
        for block in self.blocks[:-1] if self.chained else ():
            h = block(h, guide, layout)
        last = cast(ApproximatorBlock, self.blocks[-1])
        return self.norm(self.dropout(last.at_last(h, guide, layout)))
