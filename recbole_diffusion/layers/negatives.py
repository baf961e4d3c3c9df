"""Random items that a user has not met."""

from __future__ import annotations

import torch


def unseen_items(owners: torch.Tensor, seen_by: torch.Tensor, seen: torch.Tensor, n_items: int) -> torch.Tensor:
    """One random item per row that its owner has not met, from 1 to ``n_items - 1``.

    Args:
        owners (torch.LongTensor): [N] number of the user of each row.
        seen_by (torch.LongTensor): [M] users of the meetings.
        seen (torch.LongTensor): [M] items of the meetings.
        n_items (int): number of items, padding included, which has number 0.

    Returns:
        torch.LongTensor: [N]; a user who has met nearly everything gets a seen one instead of looping for ever.
    """
    drawn = torch.randint(1, n_items, owners.shape, device=owners.device)
    meetings = seen_by * n_items + seen
    for _ in range(10):
        clash = torch.isin(owners * n_items + drawn, meetings)
        if not clash.any():
            break
        drawn[clash] = torch.randint(1, n_items, (int(clash.sum()),), device=owners.device)
    return drawn
