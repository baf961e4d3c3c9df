"""Training sessions that a retriever searches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.retrieval import SessionScorer

SESSIONS_ENCODED_AT_A_TIME = 8192
# Packed items [N] and where they belong -> vectors of the sessions [n, d].
Encoder = Callable[[torch.Tensor, PackedLayout], torch.Tensor]


@dataclass
class EncodedBank:
    """The sessions of a bank as one state of the weights sees them."""

    vectors: torch.Tensor  # [S, d]
    index: torch.Tensor  # [S, d] what the scorer keeps of them
    uses: int = 0  # searches so far


class SessionBank(nn.Module):
    """The items of training sessions, in no checkpoint.

    Args:
        items (torch.LongTensor): [n] of one session after the other.
        lengths (torch.LongTensor): [S].
        users (torch.LongTensor): [S] whose session each is.
        inputs_only (bool): leave the last item of each session out.
    """

    items: torch.Tensor
    lengths: torch.Tensor
    row_of_user: torch.Tensor

    def __init__(
        self, items: torch.Tensor, lengths: torch.Tensor, users: torch.Tensor, inputs_only: bool = False
    ) -> None:
        super().__init__()
        real = torch.arange(int(lengths.max())) < lengths[:, None]
        rows = torch.zeros(real.shape, dtype=torch.long).masked_scatter(real, items)
        if inputs_only:
            lengths = lengths - 1
            rows = rows[:, :-1] * (torch.arange(rows.shape[1] - 1) < lengths[:, None])
        row_of_user = torch.zeros(int(users.max()) + 1, dtype=torch.long)
        self.register_buffer("items", rows, persistent=False)
        self.register_buffer("lengths", lengths, persistent=False)
        self.register_buffer("row_of_user", row_of_user.index_put((users,), torch.arange(len(users))), persistent=False)

    def __len__(self) -> int:
        return len(self.lengths)

    def vectors(self, numbers: torch.Tensor, encode: Encoder) -> torch.Tensor:
        """Some sessions, encoded.

        Args:
            numbers (torch.LongTensor): [n] sessions of the bank.
            encode (callable): takes packed items [N] and their PackedLayout, returns [n, d].

        Returns:
            torch.Tensor: [n, d].
        """
        layout = PackedLayout(self.lengths[numbers])
        return encode(layout.pack(self.items[numbers]), layout)

    @torch.no_grad()
    def vectors_of_each(self, numbers: torch.Tensor, encode: Encoder) -> torch.Tensor:
        """Sessions named in a table, each encoded once and without gradient: [B, k] -> [B, k, d]."""
        distinct, inverse = numbers.unique(return_inverse=True)
        return self.vectors(distinct, encode)[inverse]

    @torch.no_grad()
    def encoded(self, encode: Encoder, scorer: SessionScorer) -> EncodedBank:
        """All sessions, encoded in parts, and what a scorer keeps of them: :class:`EncodedBank`."""
        numbers = torch.arange(len(self), device=self.lengths.device)
        vectors = torch.cat([self.vectors(part, encode) for part in numbers.split(SESSIONS_ENCODED_AT_A_TIME)])
        return EncodedBank(vectors, scorer.index(vectors))
