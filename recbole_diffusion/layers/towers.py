"""MFGAN's discriminators: whether a history that ends with an item is real, judged by one factor of its items."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from recbole_diffusion.layers.packed import Block, PackedLayout, pad_block
from recbole_diffusion.layers.transformer import Dropout, PackedAttention, PackedTransformer


class Factor(nn.Module):
    """Vectors of items by a factor: the mean of the vectors of the values that an item has.

    Args:
        width (int): d.
        n_values (int): how many different values there are.
        owners, values (torch.LongTensor): [n] an item and a value that it has; no pair twice.
        n_items (int): V, row 0 is padding.
    """

    starts: torch.Tensor
    values: torch.Tensor

    def __init__(self, width: int, n_values: int, owners: torch.Tensor, values: torch.Tensor, n_items: int) -> None:
        super().__init__()
        order = owners.argsort(stable=True)
        count = torch.bincount(owners, minlength=n_items)
        self.table = nn.Embedding(n_values, width)
        self.register_buffer("values", values[order], persistent=False)
        self.register_buffer("starts", F.pad(count.cumsum(0), (1, 0)), persistent=False)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """items: [...] -> [..., width]; zeros of an item without a value."""
        flat = items.flatten()
        first, count = self.starts[flat], self.starts[flat + 1] - self.starts[flat]
        offsets = count.cumsum(0) - count
        which = torch.repeat_interleave(first - offsets, count) + torch.arange(int(count.sum()), device=items.device)
        mean = F.embedding_bag(self.values[which], self.table.weight, offsets, mode="mean")
        return mean.view(*items.shape, -1)


class FrozenFactor(nn.Module):
    """A linear map of vectors that items bring along, such as those of their texts."""

    def __init__(self, width: int, features: nn.Embedding) -> None:
        super().__init__()
        self._features = (features,)  # of another network, whose parameters they remain
        self.linear = nn.Linear(features.embedding_dim, width)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """items: [...] -> [..., width]."""
        return self.linear(self._features[0](items))


class PrefixTower(nn.Module):
    """One bidirectional block that is read at the last place, for many histories that differ there only.

    With one block, what the items before the last one are as keys and values does not depend on the last one, so that it is
    computed once for all candidates.

    Args:
        factor (nn.Module): items [...] -> [..., width].
        width, n_heads (int): of the block; its feed-forward layer has the same width.
        longest (int): items before the last one.
        dropout_prob (float): of inputs, outputs and attention weights.
        layer_norm_eps (float): epsilon of layer norms.
    """

    def __init__(
        self, factor: nn.Module, width: int, n_heads: int, longest: int, dropout_prob: float, layer_norm_eps: float
    ) -> None:
        super().__init__()
        self.factor, self.scale = factor, math.sqrt(width)
        self.position_embedding = nn.Embedding(longest + 1, width)  # by how many items come later
        self.dropout = Dropout(dropout_prob)
        self.transformer = PackedTransformer(1, n_heads, width, width, dropout_prob, dropout_prob, "relu", layer_norm_eps)
        self.out = nn.Linear(width, 1)

    def forward(self, items: torch.Tensor, layout: PackedLayout, candidates: torch.Tensor) -> torch.Tensor:
        """How real histories look with different last items.

        Args:
            items (torch.LongTensor): [N] packed, all but the last item.
            layout (PackedLayout): of B histories.
            candidates (torch.LongTensor): [B, C] last items.

        Returns:
            torch.Tensor: [B, C] logits of being real.
        """
        attention = cast(PackedAttention, self.transformer.attention[0])
        weight, bias = attention.qkv.weight, attention.qkv.bias
        before = self._placed(items, layout.length - layout.position)
        keys_values = F.linear(before, weight[len(bias) // 3 :], bias[len(bias) // 3 :])
        last = self._placed(candidates, torch.zeros_like(candidates))
        own = attention.qkv(last)[layout.row[layout.ends]]  # in the order of the blocks
        mixed, first = [], 0
        for block in layout.blocks:
            mixed.append(self._mix(attention, keys_values, own[first : first + block.shape[0]], block))
            first += block.shape[0]
        seen = attention.dense(torch.cat(mixed)[layout.group[layout.last]])
        state = attention.LayerNorm(last + attention.out_dropout(seen))
        return self.out(self.transformer.feed_forward[0](state)).squeeze(-1)

    def _placed(self, items: torch.Tensor, later: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.scale * self.factor(items) + self.position_embedding(later))

    @staticmethod
    def _mix(attention: PackedAttention, keys_values: torch.Tensor, own: torch.Tensor, block: Block) -> torch.Tensor:
        """Attention of candidates to the items before and to themselves. own: [sequences, C, 3 d] -> [sequences, C, d]."""
        k, v = pad_block(keys_values, block).unflatten(-1, (2, attention.n_heads, -1)).permute(2, 0, 3, 1, 4)
        q, own_k, own_v = own.unflatten(-1, (3, attention.n_heads, -1)).permute(2, 0, 3, 1, 4)  # [sequences, heads, C, .]
        q = q * attention.scale
        before = (q @ k.transpose(-2, -1)).masked_fill(~block.real[:, None, None], float("-inf"))
        weights = torch.cat([before, (q * own_k).sum(-1, keepdim=True)], -1).softmax(-1)
        weights = attention.attn_dropout(weights)
        return (weights[..., :-1] @ v + weights[..., -1:] * own_v).transpose(1, 2).flatten(2)
