"""Packed sequences: the N real tokens of a batch, and where they came from.

Recommendation histories are short against the padded length (8 of 50 on Amazon data), so every layer
works on ``[N, views, hidden]`` and padding exists only inside attention, where sequences of similar
length share a small padded block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch


@dataclass
class Block:
    """Sequences of similar length, padded to the longest of them for attention."""

    tokens: slice  # their tokens in the packed order
    shape: tuple[int, int]  # (sequences, width)
    cells: torch.Tensor  # [tokens of the block] index of each token in the flattened [sequences * width] block
    real: torch.Tensor  # [sequences, width] bool, False at padding
    indifferent: torch.Tensor | None = None  # [sequences, width] bool, queries that attend to every token alike
    holes: torch.Tensor | None = None  # [sequences, width] bool, tokens that are queries but no keys
    hidden: torch.Tensor | None = None  # [sequences, width, width] bool, keys that queries do not see, if no usual mask


class PackedLayout:
    """Map between ``[B, L]`` padded rows and ``[N]`` tokens.

    Tokens stand sequence by sequence, shortest sequence first, in time order within a sequence.

    Args:
        lengths (torch.LongTensor): [B] number of real items of each row, at least 1.

    Attributes:
        n_tokens (int): N, the sum of the lengths.
        row (torch.LongTensor): [N] row of the batch that a token belongs to.
        group (torch.LongTensor): [N] the same as the number of the sequence in packed order; never decreases.
        position (torch.LongTensor): [N] 0-based place of a token in its sequence.
        length (torch.LongTensor): [N] length of the sequence that a token belongs to.
        ends (torch.LongTensor): [B] token that ends each sequence, in packed order.
        last (torch.LongTensor): [B] token that ends each row, in the order of the rows.
        blocks (list[Block]): a partition of the tokens, for attention.
    """

    SHORTEST_WIDTH = 4
    SHORTEST_ON_GPU = 64  # few blocks: a GPU computes padding in less time than it takes to launch one more operator

    def __init__(self, lengths: torch.Tensor) -> None:
        order = lengths.argsort(stable=True)
        sorted_lengths = lengths[order]
        known = sorted_lengths.tolist()  # the only time that a GPU is waited for
        ends = sorted_lengths.cumsum(0)
        device = lengths.device

        self.n_tokens = sum(known)
        numbers = torch.arange(len(lengths), device=device)
        self.group = torch.repeat_interleave(numbers, sorted_lengths, output_size=self.n_tokens)
        self.row = order[self.group]
        self.position = torch.arange(self.n_tokens, device=device) - (ends - sorted_lengths)[self.group]
        self.length = sorted_lengths[self.group]
        self.ends = ends - 1
        self.last = torch.empty_like(ends)
        self.last[order] = self.ends
        self.blocks = list(self._make_blocks(known, sorted_lengths))

    def next_items(self, items: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """What follows each token: LongTensors of items [N], and [B] of what follows the last ones -> [N]."""
        following = items.roll(-1)
        following[self.last] = target
        return following

    @classmethod
    def with_padding(cls, rows: int, width: int, device: torch.device) -> PackedLayout:
        """Layout in which padding counts as tokens: ``rows`` sequences of full ``width``, in one block."""
        return cls(torch.full((rows,), width, device=device))

    @classmethod
    def left_padded(cls, padded: torch.Tensor, lengths: torch.Tensor, width: int) -> tuple[PackedLayout, torch.Tensor]:
        """Rows of full ``width`` in which padding stands on the left, counts as tokens and attends to all alike.

        This is how the released code of DiffuRec masks: queries of padding instead of keys.

        Args:
            padded (torch.LongTensor): [B, L] items, zeros on the right.
            lengths (torch.LongTensor): [B].
            width (int): length of every row, at least the longest history.

        Returns:
            tuple: layout of ``B * width`` tokens, their items [B * width].
        """
        source = torch.arange(width, device=padded.device) - (width - lengths)[:, None]
        padding = source < 0
        items = padded.gather(1, source.clamp(min=0)).masked_fill(padding, 0)
        layout = cls.with_padding(len(lengths), width, padded.device)
        layout.blocks[0].indifferent = padding
        return layout, items.flatten()

    def padding_tokens(self) -> torch.Tensor:
        """Tokens that are padding, which there are in :meth:`left_padded` rows only: [N] bool."""
        empty = torch.zeros(self.n_tokens, dtype=torch.bool, device=self.row.device)
        for block in self.blocks:
            if block.indifferent is not None:
                empty[block.tokens] = unpad_block(block.indifferent, block)
        return empty

    def dig(self, holes: torch.Tensor) -> None:
        """Make tokens holes, which see others but are not seen, as if padding stood among the items. holes: [N] bool."""
        for block in self.blocks:
            block.holes = pad_block(holes, block)

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """Tokens ``[N, ...]`` of a right-padded tensor ``[B, L, ...]``."""
        return padded[self.row, self.position]

    def _make_blocks(self, lengths: list[int], sorted_lengths: torch.Tensor) -> Iterator[Block]:
        """Cut the sorted sequences where the length passes a power of two: from the shortest width on, half of a block is padding at most."""
        first, token = 0, 0
        width_limit = self.SHORTEST_WIDTH if sorted_lengths.device.type == "cpu" else self.SHORTEST_ON_GPU
        while first < len(lengths):
            while lengths[first] > width_limit:
                width_limit *= 2
            end = first
            while end < len(lengths) and lengths[end] <= width_limit:
                end += 1
            block = sorted_lengths[first:end]
            width = lengths[end - 1]
            real = torch.arange(width, device=block.device) < block[:, None]
            tokens = slice(token, token + sum(lengths[first:end]))
            cells = (self.group[tokens] - first) * width + self.position[tokens]
            yield Block(tokens, (end - first, width), cells, real)
            first, token = end, tokens.stop


class FineLayout(PackedLayout):
    """A layout whose blocks start at one token: for sessions, half of which have one or two."""

    SHORTEST_WIDTH = 1


def pad_block(tokens: torch.Tensor, block: Block) -> torch.Tensor:
    """Spread packed tokens ``[N, ...]`` of one block into ``[sequences, width, ...]``, zeros at padding."""
    sequences, width = block.shape
    flat = tokens.new_zeros(sequences * width, *tokens.shape[1:])
    return flat.index_copy(0, block.cells, tokens[block.tokens]).unflatten(0, block.shape)


def unpad_block(padded: torch.Tensor, block: Block) -> torch.Tensor:
    """Inverse of :func:`pad_block`: the real cells ``[tokens of the block, ...]``."""
    return padded.flatten(0, 1).index_select(0, block.cells)
