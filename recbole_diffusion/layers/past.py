"""A causal Transformer that has read all of a history but its end, and then reads one end after another.

Nothing sees what comes after it, so what was read stays as it is whatever the end is. Keys and values of every block
are kept, and another end costs one token.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from recbole_diffusion.layers.packed import PackedLayout, pad_block
from recbole_diffusion.layers.transformer import PackedAttention, PackedTransformer


class Kept(NamedTuple):
    """Keys and values that one block of the Transformer has for some sequences of similar length."""

    keys: torch.Tensor  # [sequences, heads, hidden / heads, width]
    values: torch.Tensor  # [sequences, heads, width, hidden / heads]
    hidden: torch.Tensor  # [sequences, 1, width] bool, cells that are not before the end


class Past:
    """What a causal Transformer has read of each row before its last token.

    Args:
        transformer (PackedTransformer): its weights and dropouts are used as they are at each call.
        x (torch.Tensor): [N, hidden] inputs at every token; those at the last ones do not matter.
        layout (PackedLayout): of the B rows, without holes.
    """

    def __init__(self, transformer: PackedTransformer, x: torch.Tensor, layout: PackedLayout) -> None:
        self.layers: list[tuple[Any, Any]] = list(zip(transformer.attention, transformer.feed_forward))
        self.rows = layout.row[layout.ends]  # in packed order
        self.place = layout.group[layout.last]  # of each row in packed order
        self.kept: list[list[Kept]] = []
        tokens = x.unsqueeze(1)
        for number, (attention, feed_forward) in enumerate(self.layers, 1):
            self.kept.append(_keep(attention, tokens.squeeze(1), layout))
            if number < len(self.layers):
                tokens = feed_forward(attention(tokens, layout, causal=True))

    def end(self, x: torch.Tensor) -> torch.Tensor:
        """Output of the Transformer at the last tokens when these are its input there: [B, hidden] -> [B, hidden]."""
        x = x[self.rows]
        for (attention, feed_forward), kept in zip(self.layers, self.kept):
            x = feed_forward(attention.LayerNorm(x + attention.out_dropout(_attend(attention, x, kept))))
        return x[self.place]


def _keep(attention: PackedAttention, tokens: torch.Tensor, layout: PackedLayout) -> list[Kept]:
    """Keys and values of all blocks of sequences. tokens: [N, hidden] inputs of the attention."""
    width, kept = tokens.shape[1], []
    keys_values = F.linear(tokens, attention.qkv.weight[width:], attention.qkv.bias[width:])
    for block in layout.blocks:
        keys, values = pad_block(keys_values, block).unflatten(-1, (2, attention.n_heads, -1)).permute(2, 0, 3, 1, 4)
        place = torch.arange(block.shape[1], device=tokens.device)
        not_before = place >= block.real.sum(1, keepdim=True) - 1
        kept.append(Kept(keys.transpose(-2, -1).contiguous(), values.contiguous(), not_before.unsqueeze(1)))
    return kept


def _attend(attention: PackedAttention, x: torch.Tensor, kept: list[Kept]) -> torch.Tensor:
    """Attention of ends to what is before them and to themselves. x: [B, hidden] in packed order -> [B, hidden]."""
    q, k, v = attention.qkv(x).unflatten(-1, (3, attention.n_heads, -1)).unbind(1)  # each [B, heads, hidden / heads]
    q = q * attention.scale
    to_itself, mixed, first = (q * k).sum(-1, keepdim=True), [], 0
    for block in kept:
        rows = slice(first, first + len(block.keys))
        to_past = (q[rows].unsqueeze(-2) @ block.keys).squeeze(-2).masked_fill(block.hidden, float("-inf"))
        weights = attention.attn_dropout(torch.cat([to_past, to_itself[rows]], -1).softmax(-1))
        of_past = (weights[..., None, :-1] @ block.values).squeeze(-2)
        mixed.append(of_past + weights[..., -1:] * v[rows])
        first = rows.stop
    return attention.dense(torch.cat(mixed).flatten(1))
