"""Random changes of histories for contrastive learning: crop, mask, reorder (CL4SRec section 3.2).

All work on right-padded rows at once and return new tensors: a history that is stored or used elsewhere stays as it is.
Sizes are rounded down, as Python's ``int(ratio * length)``, so that a history of one item comes out as it went in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

# (ids [B, L], lengths [B], generator=...) -> (ids [B, L], lengths [B])
Operator = Callable[..., "tuple[torch.Tensor, torch.Tensor]"]


def crop(
    ids: torch.Tensor, lengths: torch.Tensor, kept: float, generator: torch.Generator | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """A contiguous part of each history.

    Args:
        ids (torch.LongTensor): [B, L] items, zeros on the right.
        lengths (torch.LongTensor): [B], at least 1.
        kept (float): share that is kept, at least one item; in (0, 1).
        generator (torch.Generator, optional): source of the draws, on the device of ``ids``; default is PyTorch's own.

    Returns:
        tuple: new ids [B, L], new lengths [B].
    """
    size = share_of(lengths, kept).clamp(min=1)
    start = _window_start(lengths, size, generator)
    place = torch.arange(ids.shape[1], device=ids.device)
    cells = (start[:, None] + place).clamp(max=ids.shape[1] - 1)
    return ids.gather(1, cells).masked_fill(place >= size[:, None], 0), size


def mask(
    ids: torch.Tensor, lengths: torch.Tensor, share: float, token: int, generator: torch.Generator | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random items of each history replaced by ``token``; the rest as in :func:`crop`, lengths stay."""
    keys = torch.rand(ids.shape, generator=generator, device=ids.device)
    padding = torch.arange(ids.shape[1], device=ids.device) >= lengths[:, None]
    rank = keys.masked_fill(padding, torch.inf).argsort(1).argsort(1)
    return ids.masked_fill(rank < share_of(lengths, share)[:, None], token), lengths


def reorder(
    ids: torch.Tensor, lengths: torch.Tensor, share: float, generator: torch.Generator | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """A contiguous part of each history in random order; the rest as in :func:`crop`, lengths stay."""
    size = share_of(lengths, share)
    start = _window_start(lengths, size, generator)
    place = torch.arange(ids.shape[1], device=ids.device)
    inside = (place >= start[:, None]) & (place < (start + size)[:, None])
    draws = torch.rand(ids.shape, generator=generator, device=ids.device, dtype=torch.float64)
    keys = torch.where(inside, start[:, None] + size[:, None] * draws, place.double())
    return ids.gather(1, keys.argsort(dim=1, stable=True)), lengths


def two_operators(
    ids: torch.Tensor,
    lengths: torch.Tensor,
    operators: Sequence[Operator],
    pair: str = "distinct",
    generator: torch.Generator | None = None,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Two views of each history, each by an operator drawn for that row.

    Args:
        ids (torch.LongTensor): [B, L] items, zeros on the right.
        lengths (torch.LongTensor): [B], at least 1.
        operators (sequence[Operator]): two or more, such as ``partial(crop, kept=0.6)``.
        pair (str): ``distinct`` for two different operators, ``independent`` for two draws.
        generator (torch.Generator, optional): as in :func:`crop`.

    Returns:
        list: two pairs of new ids [B, L] and new lengths [B].
    """
    n_rows = len(ids)
    chosen = draw_pairs(n_rows, len(operators), pair, generator, ids.device).flatten()
    ids, lengths = torch.cat([ids, ids]), torch.cat([lengths, lengths])  # copies, which the rows are written into
    for number, operator in enumerate(operators):
        rows = (chosen == number).nonzero().squeeze(1)
        ids[rows], lengths[rows] = operator(ids[rows], lengths[rows], generator=generator)
    return list(zip(ids.split(n_rows), lengths.split(n_rows)))


def draw_pairs(
    n_rows: int, n_operators: int, pair: str, generator: torch.Generator | None = None, device: Any = None
) -> torch.Tensor:
    """Numbers of two operators for each row, ``distinct`` or ``independent``: [2, n_rows]."""
    first = torch.randint(n_operators, (n_rows,), generator=generator, device=device)
    least = 1 if pair == "distinct" else 0
    step = torch.randint(least, n_operators, (n_rows,), generator=generator, device=device)
    return torch.stack([first, (first + step) % n_operators])


def share_of(lengths: torch.Tensor, ratio: float) -> torch.Tensor:
    """``int(ratio * length)`` of each length, with Python's rounding: [B]."""
    return (lengths.double() * ratio).long()


def _window_start(lengths: torch.Tensor, size: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Where windows of some sizes start, uniform over all places: [B]."""
    draws = torch.rand(lengths.shape, generator=generator, device=lengths.device, dtype=torch.float64)
    return (draws * (lengths - size + 1)).long()
