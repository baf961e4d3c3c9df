"""BERT-style Transformer on packed tokens (post-norm, as RecBole's and the papers' encoders)."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from recbole_diffusion.layers.packed import Block, PackedLayout, pad_block, unpad_block

ACTIVATIONS = {
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "swish": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "elu": nn.ELU,
}


class Dropout(nn.Dropout):
    """Dropout whose mask on CPU comes from 16 random bits per element, four elements to one draw.

    It is several times faster than ``torch.nn.functional.dropout``, which would take a third of a training step.
    The probability is rounded to a multiple of 1 / 65536, and the scale follows the rounded value.
    """

    LEVELS = 2**16

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0 or x.device.type != "cpu":
            return super().forward(x)
        dropped = min(round(self.p * self.LEVELS), self.LEVELS - 1)
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        bits = draws.view(torch.int16)[: x.numel()].view(x.shape)
        keep = bits.ge(dropped - self.LEVELS // 2)
        return x * keep.to(x.dtype).div_(1 - dropped / self.LEVELS)


class DropoutSwitch:
    """All dropout of a network, off and on again.

    Args:
        network (nn.Module): whose modules of the class :class:`Dropout` are meant, as they are now.
    """

    def __init__(self, network: nn.Module) -> None:
        self._rates = {module: module.p for module in network.modules() if isinstance(module, Dropout)}

    def turn(self, on: bool) -> None:
        """Give every module its rate, or none."""
        for module, rate in self._rates.items():
            module.p = rate if on else 0.0


def hidden_cells(block: Block, causal: bool) -> torch.Tensor:
    """What a query may not see, broadcast over [sequences, views, heads, query, key].

    Under the causal mask a real query never reaches the padding behind it, so that mask is enough. Nothing sees a hole,
    but for a query that would see nothing else: it sees itself.
    """
    if block.hidden is not None:
        return block.hidden[:, None, None]
    width, device = block.shape[1], block.real.device
    if causal:
        hidden = torch.ones(width, width, dtype=torch.bool, device=device).triu_(1)
    else:
        hidden = ~block.real[:, None, None, None, :]
    return hidden if block.holes is None else _with_holes(hidden, block, torch.eye(width, dtype=torch.bool, device=device))


def hidden_at_end(block: Block) -> torch.Tensor:
    """The same for the last token of every sequence as the only query: [sequences, 1, 1, 1, key]."""
    hidden = ~block.real[:, None, None, None, :]
    if block.holes is None:
        return hidden
    place = torch.arange(block.shape[1], device=hidden.device)
    return _with_holes(hidden, block, (place == block.real.sum(1, keepdim=True) - 1)[:, None, None, None, :])


def _with_holes(hidden: torch.Tensor, block: Block, itself: torch.Tensor) -> torch.Tensor:
    """Hide the holes from all queries but those that see nothing else; ``itself``: the key that is the query's own."""
    assert block.holes is not None
    hidden = hidden | block.holes[:, None, None, None, :]
    return hidden & ~(hidden.all(-1, keepdim=True) & itself)


class MultiHeadAttention(nn.Module):
    """Multi-head attention over packed tokens, from queries, keys and values to the output projection.

    Padding exists only here, in blocks of similar length; a real token never attends to it.
    """

    def __init__(self, n_heads: int, hidden_size: int, attn_dropout_prob: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.scale = 1 / math.sqrt(hidden_size // n_heads)
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.attn_dropout = Dropout(attn_dropout_prob)

    def mix(self, qkv: torch.Tensor, layout: PackedLayout, causal: bool) -> torch.Tensor:
        """Queries, keys and values side by side, [N, views, 3 * hidden] -> [N, views, hidden]."""
        return self.dense(torch.cat([self._attend(qkv, block, causal) for block in layout.blocks]))

    def _attend(self, qkv: torch.Tensor, block: Block, causal: bool) -> torch.Tensor:
        """[N, views, 3 * hidden] -> [tokens of the block, views, hidden]."""
        padded = pad_block(qkv, block).unflatten(-1, (3, self.n_heads, -1))
        q, k, v = padded.permute(3, 0, 2, 4, 1, 5)  # each [sequences, views, heads, width, hidden / heads]
        if block.indifferent is not None:
            q = q.masked_fill(block.indifferent[:, None, None, :, None], 0)
        mixed = self._weigh(q, k, v, hidden_cells(block, causal))
        return unpad_block(mixed.permute(0, 3, 1, 2, 4).flatten(3), block)

    def mix_at_last(self, queries: torch.Tensor, keys_values: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """The same for one query per row, its last token, which sees the whole history.

        Args:
            queries (torch.Tensor): [B, views, hidden].
            keys_values (torch.Tensor): [N, views, 2 * hidden].
            layout (PackedLayout): where the tokens belong.

        Returns:
            torch.Tensor: [B, views, hidden].
        """
        by_group = queries[layout.row[layout.ends]].unflatten(-1, (self.n_heads, -1))
        mixed, first = [], 0
        for block in layout.blocks:
            sequences = block.shape[0]
            k, v = pad_block(keys_values, block).unflatten(-1, (2, self.n_heads, -1)).permute(3, 0, 2, 4, 1, 5)
            q = by_group[first : first + sequences].unsqueeze(-2)  # [sequences, views, heads, 1, hidden / heads]
            mixed.append(self._weigh(q, k, v, hidden_at_end(block)).flatten(2))
            first += sequences
        return self.dense(torch.cat(mixed)[layout.group[layout.last]])

    def _weigh(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Scaled dot-product attention; q, k, v: [sequences, views, heads, tokens, hidden / heads]."""
        scores = ((q * self.scale) @ k.transpose(-2, -1)).masked_fill(hidden, float("-inf"))
        return self.attn_dropout(scores.softmax(-1)) @ v


class SelfAttention(MultiHeadAttention):
    """Queries, keys and values from the same tokens."""

    def __init__(self, n_heads: int, hidden_size: int, attn_dropout_prob: float) -> None:
        super().__init__(n_heads, hidden_size, attn_dropout_prob)
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)

    def forward(self, x: torch.Tensor, layout: PackedLayout, causal: bool) -> torch.Tensor:
        """x: [N, views, hidden] -> [N, views, hidden]."""
        return self.mix(self.qkv(x), layout, causal)

    def at_last(self, x: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """The same at the last token of every row only: [N, views, hidden] -> [B, views, hidden]."""
        hidden = x.shape[-1]
        weight, bias = self.qkv.weight, self.qkv.bias
        queries = F.linear(x[layout.last], weight[:hidden], bias[:hidden])
        return self.mix_at_last(queries, F.linear(x, weight[hidden:], bias[hidden:]), layout)


class PackedAttention(SelfAttention):
    """Self-attention with residual and layer norm after it."""

    def __init__(
        self,
        n_heads: int,
        hidden_size: int,
        hidden_dropout_prob: float,
        attn_dropout_prob: float,
        layer_norm_eps: float,
    ) -> None:
        super().__init__(n_heads, hidden_size, attn_dropout_prob)
        self.out_dropout = Dropout(hidden_dropout_prob)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)

    def forward(self, x: torch.Tensor, layout: PackedLayout, causal: bool) -> torch.Tensor:
        """x: [N, views, hidden] -> [N, views, hidden]."""
        return self.LayerNorm(x + self.out_dropout(super().forward(x, layout, causal)))

    def at_last(self, x: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """The same at the last token of every row only: [N, views, hidden] -> [B, views, hidden]."""
        return self.LayerNorm(x[layout.last] + self.out_dropout(super().at_last(x, layout)))


class FeedForward(nn.Module):
    """Point-wise feed-forward layer with residual and layer norm."""

    def __init__(
        self, hidden_size: int, inner_size: int, hidden_dropout_prob: float, hidden_act: str, layer_norm_eps: float
    ) -> None:
        super().__init__()
        self.dense_1 = nn.Linear(hidden_size, inner_size)
        self.activation = ACTIVATIONS[hidden_act]()
        self.dense_2 = nn.Linear(inner_size, hidden_size)
        self.dropout = Dropout(hidden_dropout_prob)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [..., hidden] -> [..., hidden]."""
        return self.LayerNorm(x + self.dropout(self.dense_2(self.activation(self.dense_1(x)))))


class PackedTransformer(nn.Module):
    """A stack of attention and feed-forward layers over packed tokens.

    Args:
        n_layers, n_heads, hidden_size, inner_size (int): as in RecBole's ``TransformerEncoder``.
        hidden_dropout_prob, attn_dropout_prob (float): dropout of outputs and of attention weights.
        hidden_act (str): a key of :data:`ACTIVATIONS`.
        layer_norm_eps (float): epsilon of the layer norms.

    Raises:
        ValueError: when ``hidden_size`` is not a multiple of ``n_heads``.
    """

    def __init__(
        self,
        n_layers: int,
        n_heads: int,
        hidden_size: int,
        inner_size: int,
        hidden_dropout_prob: float,
        attn_dropout_prob: float,
        hidden_act: str = "gelu",
        layer_norm_eps: float = 1e-12,
    ) -> None:
        super().__init__()
        if hidden_size % n_heads:
            raise ValueError(f"hidden_size {hidden_size} is not a multiple of n_heads {n_heads}")
        self.attention = nn.ModuleList(
            PackedAttention(n_heads, hidden_size, hidden_dropout_prob, attn_dropout_prob, layer_norm_eps)
            for _ in range(n_layers)
        )
        self.feed_forward = nn.ModuleList(
            FeedForward(hidden_size, inner_size, hidden_dropout_prob, hidden_act, layer_norm_eps)
            for _ in range(n_layers)
        )

    def forward(self, x: torch.Tensor, layout: PackedLayout, causal: bool) -> torch.Tensor:
        """Encode tokens.

        Args:
            x (torch.Tensor): [N, views, hidden] packed tokens; views share the layout (an original and its
                augmentations).
            layout (PackedLayout): where the tokens belong.
            causal (bool): whether a token sees only itself and what came before.

        Returns:
            torch.Tensor: [N, views, hidden].
        """
        return self.final_block(self.first_blocks(x, layout, causal), layout, causal)

    def first_blocks(self, x: torch.Tensor, layout: PackedLayout, causal: bool) -> torch.Tensor:
        """All blocks but the last: [N, views, hidden] -> [N, views, hidden]."""
        for attention, feed_forward in zip(self.attention[:-1], self.feed_forward[:-1]):
            x = feed_forward(attention(x, layout, causal))
        return x

    def final_block(self, x: torch.Tensor, layout: PackedLayout, causal: bool) -> torch.Tensor:
        """The last block at every token: [N, views, hidden] -> [N, views, hidden]."""
        return self.feed_forward[-1](self.attention[-1](x, layout, causal))

    def final_block_at_last(self, x: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """The last block where only the state of the whole history is wanted: [N, views, hidden] -> [B, views, hidden]."""
        attention = cast(PackedAttention, self.attention[-1])
        return self.feed_forward[-1](attention.at_last(x, layout))
