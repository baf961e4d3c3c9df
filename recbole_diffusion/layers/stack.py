"""A stack of pre-norm blocks over packed tokens, with the interface of :class:`PackedTransformer`."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from recbole_diffusion.layers.packed import PackedLayout


class PreNormBlock(nn.Module):
    """What a block of :class:`PreNormStack` offers."""

    def forward(self, x: torch.Tensor, layout: PackedLayout, causal: bool) -> torch.Tensor:
        """x: [N, views, hidden] -> [N, views, hidden]."""
        raise NotImplementedError

    def at_last(self, x: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """The same at the last token of every row, which sees all: [N, views, hidden] -> [B, views, hidden]."""
        raise NotImplementedError


class PreNormStack(nn.Module):
    """Blocks that norm their input, and one layer norm after the last of them.

    Args:
        blocks (iterable of PreNormBlock): at least one.
        hidden_size (int): width.
        layer_norm_eps (float): epsilon of the last norm.
    """

    def __init__(self, blocks: Iterable[PreNormBlock], hidden_size: int, layer_norm_eps: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)

    def forward(self, x: torch.Tensor, layout: PackedLayout, causal: bool) -> torch.Tensor:
        """Encode packed tokens, as :meth:`PackedTransformer.forward` does: [N, views, hidden] -> [N, views, hidden]."""
        return self.final_block(self.first_blocks(x, layout, causal), layout, causal)

    def first_blocks(self, x: torch.Tensor, layout: PackedLayout, causal: bool) -> torch.Tensor:
        """All blocks but the last: [N, views, hidden] -> [N, views, hidden]."""
        for block in self.blocks[:-1]:
            x = block(x, layout, causal)
        return x

    def final_block(self, x: torch.Tensor, layout: PackedLayout, causal: bool) -> torch.Tensor:
        """The last block at every token: [N, views, hidden] -> [N, views, hidden]."""
        return self.norm(self.blocks[-1](x, layout, causal))

    def final_block_at_last(self, x: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """The last block at the last token of every row: [N, views, hidden] -> [B, views, hidden]."""
        last: PreNormBlock = self.blocks[-1]  # type: ignore[assignment]
        return self.norm(last.at_last(x, layout))
