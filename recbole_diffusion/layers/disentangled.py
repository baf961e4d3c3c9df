"""Bidirectional attention on packed tokens that knows distances instead of places (DeBERTa, He et al. 2021)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from recbole_diffusion.layers.packed import Block, PackedLayout, pad_block, unpad_block
from recbole_diffusion.layers.positioned import PositionedTransformer
from recbole_diffusion.layers.transformer import Dropout, FeedForward, hidden_cells


class DisentangledAttention(nn.Module):
    """Content to content, content to distance and distance to content, with residual and layer norm.

    Args:
        n_heads, hidden_size (int): as everywhere; heads divide the width.
        dropout (float): of attention weights, outputs and vectors of distances.
        layer_norm_eps (float): epsilon of the layer norm.
    """

    def __init__(self, n_heads: int, hidden_size: int, dropout: float, layer_norm_eps: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.scale = 1 / math.sqrt(3 * (hidden_size // n_heads))  # three terms instead of one
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.query_bias = nn.Parameter(torch.zeros(hidden_size))
        self.value_bias = nn.Parameter(torch.zeros(hidden_size))
        self.distance_key = nn.Linear(hidden_size, hidden_size, bias=False)
        self.distance_query = nn.Linear(hidden_size, hidden_size)
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.distance_dropout, self.attn_dropout, self.out_dropout = Dropout(dropout), Dropout(dropout), Dropout(dropout)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)

    def forward(self, x: torch.Tensor, layout: PackedLayout, distances: torch.Tensor) -> torch.Tensor:
        """Attend.

        Args:
            x (torch.Tensor): [N, hidden].
            layout (PackedLayout): where the tokens belong.
            distances (torch.Tensor): [2 * longest, hidden] vectors of all distances.

        Returns:
            torch.Tensor: [N, hidden].
        """
        q, k, v = self.qkv(x).chunk(3, -1)
        qkv = torch.cat([(q + self.query_bias) * self.scale, k, v + self.value_bias], -1)
        distances = self.distance_dropout(distances)  # projected before they are spread: 2 L rows instead of L * L
        keys, queries = self.distance_key(distances), self.distance_query(distances) * self.scale
        mixed = torch.cat([self._attend(qkv, keys, queries, block) for block in layout.blocks])
        return self.LayerNorm(x + self.out_dropout(self.dense(mixed)))

    def _attend(self, qkv: torch.Tensor, keys: torch.Tensor, queries: torch.Tensor, block: Block) -> torch.Tensor:
        """[N, 3 * hidden], keys and queries of distances [2 L, hidden] each -> [tokens of the block, hidden]."""
        q, k, v = pad_block(qkv, block).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        place = torch.arange(block.shape[1], device=qkv.device)
        number = place[:, None] - place + len(keys) // 2  # [width, width] of the distance from a key to a query
        scores = q @ k.transpose(-2, -1)  # [sequences, heads, width, width]
        scores = scores + torch.einsum("shid,ijhd->shij", q, keys[number].unflatten(-1, (self.n_heads, -1)))
        scores = scores + torch.einsum("shjd,ijhd->shij", k, queries[number].unflatten(-1, (self.n_heads, -1)))
        scores = scores.masked_fill(hidden_cells(block, causal=False).squeeze(1), float("-inf"))
        mixed = self.attn_dropout(scores.softmax(-1)) @ v
        return unpad_block(mixed.transpose(1, 2).flatten(2), block)


class DisentangledTransformer(nn.Module):
    """Blocks of :class:`DisentangledAttention`, after a layer norm; they share one table of distances.

    Args:
        n_layers, n_heads, hidden_size, inner_size (int): as in ``PackedTransformer``.
        longest (int): length L of the longest history; the table has 2 L distances.
        input_dropout, dropout (float): of what enters, and within the blocks.
        hidden_act (str): activation.
        layer_norm_eps (float): epsilon of the blocks' layer norms.

    Raises:
        ValueError: when ``hidden_size`` is not a multiple of ``n_heads``.
    """

    def __init__(
        self,
        n_layers: int,
        n_heads: int,
        hidden_size: int,
        inner_size: int,
        longest: int,
        input_dropout: float,
        dropout: float,
        hidden_act: str,
        layer_norm_eps: float,
    ) -> None:
        super().__init__()
        if hidden_size % n_heads:
            raise ValueError(f"hidden_size {hidden_size} is not a multiple of n_heads {n_heads}")
        self.distance_embedding = nn.Embedding(2 * longest, hidden_size)
        self.LayerNorm = nn.LayerNorm(hidden_size)
        self.dropout = Dropout(input_dropout)
        self.attention = nn.ModuleList(
            DisentangledAttention(n_heads, hidden_size, dropout, layer_norm_eps) for _ in range(n_layers)
        )
        self.feed_forward = nn.ModuleList(
            FeedForward(hidden_size, inner_size, dropout, hidden_act, layer_norm_eps) for _ in range(n_layers)
        )

    def forward(self, x: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """A token sees its whole sequence. x: [N, hidden] -> [N, hidden]."""
        x = self.dropout(self.LayerNorm(x))
        for attention, feed_forward in zip(self.attention, self.feed_forward):
            x = feed_forward(attention(x, layout, self.distance_embedding.weight))
        return x


class PlainDenoiser(PositionedTransformer):
    """Blocks with a position table in the same place. The arguments are those of ``PositionedTransformer``."""

    def forward(self, x: torch.Tensor, layout: PackedLayout) -> torch.Tensor:  # type: ignore[override]
        """A token sees its whole sequence. x: [N, hidden] -> [N, hidden]."""
        return super().forward(x.unsqueeze(1), layout, causal=False)[:, 0]


def named_denoiser(name: str, settings: Any, longest: int) -> DisentangledTransformer | PlainDenoiser:
    """A bidirectional network from [N, hidden] to [N, hidden].

    Args:
        name (str): ``deberta`` or ``transformer``.
        settings (mapping): ``denoiser_layers``, ``denoiser_dropout_prob``, and of the recommender ``n_heads``,
            ``hidden_size``, ``inner_size``, ``hidden_act``, ``layer_norm_eps``, ``pos_align`` and
            ``hidden_dropout_prob``, the dropout of what enters.
        longest (int): length of the longest history.
    """
    layers, dropout = settings["denoiser_layers"], settings["denoiser_dropout_prob"]
    keys = ("n_heads", "hidden_size", "inner_size")
    act, eps = settings["hidden_act"], settings["layer_norm_eps"]
    if name == "transformer":
        own = {key: settings[key] for key in (*keys, "pos_align")}
        own.update(hidden_act=act, layer_norm_eps=eps, hidden_dropout_prob=dropout, attn_dropout_prob=dropout)
        network = PlainDenoiser(own, longest, "sasrec", layers)
        network.dropout = Dropout(settings["hidden_dropout_prob"])
        return network
    sizes = [settings[key] for key in keys]
    entering = settings["hidden_dropout_prob"]
    return DisentangledTransformer(layers, *sizes, longest, entering, dropout, act, eps)  # type: ignore[call-arg]
