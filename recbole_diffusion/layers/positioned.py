"""An encoder together with what stands before its blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from recbole_diffusion.layers.encoders import named_encoder
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.transformer import Dropout


class PositionedTransformer(nn.Module):
    """Position table, layer norm, dropout and the blocks of an encoder.

    Args:
        config (mapping): what :func:`named_encoder` reads, and ``pos_align``: ``end`` where the last item always has the
            last position, ``start`` where the first has the first.
        max_length (int): length of the longest history.
        name (str): of the encoder.
        n_layers (int): number of blocks.
        transformer (nn.Module, optional): blocks that another network has already; then there are none of its own.
    """

    def __init__(
        self, config: Any, max_length: int, name: str, n_layers: int, transformer: nn.Module | None = None
    ) -> None:
        super().__init__()
        hidden = config["hidden_size"]
        self.position_embedding = nn.Embedding(max_length, hidden)
        self.LayerNorm = nn.LayerNorm(hidden, eps=config["layer_norm_eps"])
        self.dropout = Dropout(config["hidden_dropout_prob"])
        self.transformer: Any = transformer or named_encoder(name, config, n_layers, max_length)
        self.align_end = config["pos_align"] == "end"

    def forward(self, x: torch.Tensor, layout: PackedLayout, causal: bool) -> torch.Tensor:
        """x: [N, views, d] embeddings -> [N, views, d] hidden states."""
        return self.transformer(self._place(x, layout), layout, causal)

    def at_last(
        self, x: torch.Tensor, layout: PackedLayout, causal: bool, full_views: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """States of whole histories, at the cost of one token each in the last block.

        Args:
            x (torch.Tensor): [N, views, d] embeddings.
            layout (PackedLayout): where the tokens belong.
            causal (bool): whether a token sees only what came before.
            full_views (int): the first views whose states are wanted at every token as well.

        Returns:
            tuple: states at every token [N, full_views, d], states of the histories [B, views, d].
        """
        x = self.transformer.first_blocks(self._place(x, layout), layout, causal)
        full = self.transformer.final_block(x[:, :full_views], layout, causal)
        ends = self.transformer.final_block_at_last(x[:, full_views:], layout)
        return full, torch.cat([full[layout.last], ends], 1)

    def _place(self, x: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        position = layout.position
        if self.align_end:
            position = position + self.position_embedding.num_embeddings - layout.length
        return self.dropout(self.LayerNorm(x + self.position_embedding(position).unsqueeze(1)))
