"""Normal noise that belongs to a key: the same numbers whatever else is in the batch, on every device.

The numbers are windows into one long table of normals, the technique of Salimans et al. 2017 ("Evolution
strategies as a scalable alternative to reinforcement learning"), here found by hashing the key.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

PRIME = 2**31 - 1  # products of two residues fit into 63 bits
TABLE_SIZE = 2**20


def mix(*parts: torch.Tensor | int) -> torch.Tensor:
    """Hash whole numbers into one.

    Args:
        parts (torch.LongTensor or int): broadcast against each other, non-negative.

    Returns:
        torch.LongTensor: values in 0..2**31 - 2.
    """
    state: Any = 0x9E3779B1
    for part in parts:
        state = ((state % PRIME) * 48271 + part) % PRIME
        state = ((state ^ (state >> 15)) * 0x2C1B3C6D) % PRIME
        state = ((state ^ (state >> 12)) * 0x297A2D39) % PRIME
        state = state ^ (state >> 15)
    return state


def history_keys(items: torch.Tensor, position: torch.Tensor, row: torch.Tensor, n_rows: int) -> torch.Tensor:
    """A key for every history, made of its items and their order alone.

    Args:
        items, position, row (torch.LongTensor): [N] item, place in its history and history of every token.
        n_rows (int): B, number of histories.

    Returns:
        torch.LongTensor: [B].
    """
    keys = items.new_zeros(n_rows)
    return keys.index_add(0, row, mix(items, position)) % PRIME


class KeyedNoise(nn.Module):
    """Rows of standard normals looked up by key.

    Args:
        seed (int): another seed is another table.
        width (int): d, numbers per row.
    """

    table: torch.Tensor

    def __init__(self, seed: int, width: int) -> None:
        super().__init__()
        table = torch.randn(TABLE_SIZE, generator=torch.Generator().manual_seed(seed))
        self.width = width
        self.register_buffer("table", table, persistent=False)

    def forward(self, *key: torch.Tensor | int) -> torch.Tensor:
        """Noise of some keys, given as parts to hash: integers or tensors that broadcast to [...] -> [..., d]."""
        windows = self.table.as_strided((TABLE_SIZE - self.width, self.width), (1, 1))
        return windows[mix(*key) % len(windows)]
