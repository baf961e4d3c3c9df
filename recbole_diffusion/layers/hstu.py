"""HSTU's pointwise attention on packed tokens.

Reference:
    Jiaqi Zhai et al. "Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative
    Recommendations" (HSTU). ICML 2024. Equations 1 to 3.

With ``n`` and ``m`` layer norms, ``o`` the number of places between a query and a key, and L the longest history::

    U, Q, K, V = split(SiLU(W n(x)))                          (1)
    A = SiLU(Q K^T + b[o]) / L,  0 where a key is not seen    (2)
    y = x + W_o (m(A V) * U) + b_o                            (3)

There is no softmax, no scale of the scores, and no feed-forward layer of its own. As in the form of the authors'
block that the library RecTools has, the relative bias ``b`` is learned per distance, one table per block for all
heads, ``W`` has no bias, dropout stands before ``W_o``, and A is divided by the maximal length, not by the number of
tokens that a query sees. ``b`` has no part for times: the models get the order of a history, not its times. What is
chosen here: dropout on A (RecTools: on A V); a layer norm after the last block, which keeps the states in the scale
of the other encoders.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from recbole_diffusion.layers.packed import Block, PackedLayout, pad_block, unpad_block
from recbole_diffusion.layers.stack import PreNormBlock, PreNormStack
from recbole_diffusion.layers.transformer import Dropout, hidden_at_end, hidden_cells

# RecTools's. A V starts near zero; a norm with a smaller one would blow it up to full size, and with it the
# sign of whatever the weight of a lone item happens to be.
EPSILON = 1e-6


class HSTUBlock(PreNormBlock):
    """One block; heads share the relative bias."""

    def __init__(
        self,
        n_heads: int,
        hidden_size: int,
        longest: int,
        hidden_dropout_prob: float,
        attn_dropout_prob: float,
        layer_norm_eps: float,
    ) -> None:
        super().__init__()
        self.n_heads, self.longest = n_heads, longest
        self.norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.uqkv = nn.Linear(hidden_size, 4 * hidden_size, bias=False)
        self.relative_bias = nn.Embedding(2 * longest - 1, 1)  # the first of a key L - 1 places after its query
        self.mixed_norm = nn.LayerNorm(hidden_size, eps=max(layer_norm_eps, EPSILON))
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.attn_dropout, self.out_dropout = Dropout(attn_dropout_prob), Dropout(hidden_dropout_prob)

    def forward(self, x: torch.Tensor, layout: PackedLayout, causal: bool) -> torch.Tensor:
        """x: [N, views, hidden] -> [N, views, hidden]."""
        u, qkv = F.silu(self.uqkv(self.norm(x))).split([x.shape[-1], 3 * x.shape[-1]], -1)
        mixed = torch.cat([self._attend(qkv, block, causal) for block in layout.blocks])
        return x + self.changed(u, mixed)

    def _attend(self, qkv: torch.Tensor, block: Block, causal: bool) -> torch.Tensor:
        """[N, views, 3 * hidden] -> [tokens of the block, views, hidden]."""
        q, k, v = pad_block(qkv, block).unflatten(-1, (3, self.n_heads, -1)).permute(3, 0, 2, 4, 1, 5)
        place = torch.arange(block.shape[1], device=qkv.device)
        weights = self.weights(q @ k.transpose(-2, -1), place[:, None] - place)
        mixed = self.attn_dropout(weights.masked_fill(hidden_cells(block, causal), 0)) @ v
        return unpad_block(mixed.permute(0, 3, 1, 2, 4).flatten(3), block)

    def at_last(self, x: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """The same at the last token of every row: [N, views, hidden] -> [B, views, hidden]."""
        hidden, normed = x.shape[-1], self.norm(x)
        weight = self.uqkv.weight
        u, q = F.silu(F.linear(normed[layout.last], weight[: 2 * hidden])).chunk(2, -1)
        keys_values = F.silu(F.linear(normed, weight[2 * hidden :]))
        by_group = q[layout.row[layout.ends]].unflatten(-1, (self.n_heads, -1)).unsqueeze(-2)
        lengths = layout.length[layout.ends]
        mixed, first = [], 0
        for block in layout.blocks:
            group = slice(first, first + block.shape[0])
            mixed.append(self._attend_at_last(by_group[group], keys_values, lengths[group], block))
            first = group.stop
        return x[layout.last] + self.changed(u, torch.cat(mixed)[layout.group[layout.last]])

    def _attend_at_last(
        self, q: torch.Tensor, keys_values: torch.Tensor, length: torch.Tensor, block: Block
    ) -> torch.Tensor:
        """q: [sequences, views, heads, 1, hidden / heads] -> [sequences, views, hidden]."""
        k, v = pad_block(keys_values, block).unflatten(-1, (2, self.n_heads, -1)).permute(3, 0, 2, 4, 1, 5)
        place = torch.arange(block.shape[1], device=q.device)
        distance = (length[:, None] - 1 - place).clamp(min=0)  # padding lies behind the last item, and is not seen
        weights = self.weights(q @ k.transpose(-2, -1), distance[:, None, None, None])
        mixed = self.attn_dropout(weights.masked_fill(hidden_at_end(block), 0)) @ v
        return mixed.flatten(2)

    def weights(self, scores: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
        """A (Eq. 2) without its mask.

        Args:
            scores (torch.Tensor): ``Q K^T``, [..., query, key].
            distance (torch.LongTensor): place of the query less that of the key, of a shape that fits.

        Returns:
            torch.Tensor: [..., query, key].
        """
        bias = self.relative_bias(distance + self.longest - 1).squeeze(-1)
        return F.silu(scores + bias) / self.longest

    def changed(self, u: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """What Eq. 3 adds to x: two of [..., hidden] -> [..., hidden]."""
        return self.dense(self.out_dropout(self.mixed_norm(mixed) * u))


class HSTU(PreNormStack):
    """A stack of HSTU's blocks.

    Args:
        n_layers, n_heads, hidden_size (int): as of the other encoders; ``hidden_size`` is a multiple of ``n_heads``.
        longest (int): L, length of the longest history.
        hidden_dropout_prob, attn_dropout_prob (float): dropout of outputs and of attention weights.
        layer_norm_eps (float): epsilon of the layer norms; that of ``A V`` is at least :data:`EPSILON`.
    """

    def __init__(
        self,
        n_layers: int,
        n_heads: int,
        hidden_size: int,
        longest: int,
        hidden_dropout_prob: float,
        attn_dropout_prob: float,
        layer_norm_eps: float = 1e-12,
    ) -> None:
        dropouts = hidden_dropout_prob, attn_dropout_prob
        blocks = (HSTUBlock(n_heads, hidden_size, longest, *dropouts, layer_norm_eps) for _ in range(n_layers))
        super().__init__(blocks, hidden_size, layer_norm_eps)
