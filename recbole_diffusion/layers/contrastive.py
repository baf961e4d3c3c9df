"""Contrastive losses."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from recbole_diffusion.layers.chunks import rows_at_a_time
from recbole_diffusion.layers.cross_entropy import linear_cross_entropy


def info_nce(
    anchor: torch.Tensor, candidates: torch.Tensor, temperature: float, hidden_pairs: torch.Tensor | None = None
) -> torch.Tensor:
    """InfoNCE with cosine similarity (SimDiffRec Eq. 17): candidate i is the positive of anchor i.

    Args:
        anchor (torch.Tensor): [B, d].
        candidates (torch.Tensor): [M, d], M >= B; the first B are the positives, all others negatives.
        temperature (float): tau > 0.
        hidden_pairs (torch.BoolTensor, optional): [B, M], True where a candidate is left out of the sum.

    Returns:
        torch.Tensor: [] mean loss.
    """
    with torch.autocast(anchor.device.type, enabled=False):  # half leaves few digits to a logit near 1 / temperature
        anchor, candidates = F.normalize(_precise(anchor), dim=-1), F.normalize(_precise(candidates), dim=-1)
        logits = anchor @ candidates.t() / temperature
    if hidden_pairs is not None:
        logits = logits.masked_fill(hidden_pairs, float("-inf"))
    return F.cross_entropy(logits, torch.arange(len(anchor), device=anchor.device))


def nt_xent(
    a: torch.Tensor,
    b: torch.Tensor,
    temperature: float,
    similarity: str = "dot",
    every: tuple[torch.Tensor, torch.Tensor] | None = None,
    hidden: torch.Tensor | None = None,
) -> torch.Tensor:
    """NT-Xent (SimCLR Eq. 1; CL4SRec, DuoRec, MCLRec): both views of a user find each other among all views.

    Args:
        a, b (torch.Tensor): [B, d] the two views of B users.
        temperature (float): tau > 0.
        similarity (str): ``dot`` or ``cosine``.
        every (tuple, optional): the views of all M >= B users of the batch [M, d] each, B own ones first, where other
            processes have a share of it.
        hidden (torch.BoolTensor, optional): [B, M], True where a user is no negative of another; a user's own is ignored.

    Returns:
        torch.Tensor: [] mean loss of the 2 B views.
    """
    return F.cross_entropy(*pair_logits(a, b, temperature, similarity, every, hidden))


def pair_logits(
    a: torch.Tensor,
    b: torch.Tensor,
    temperature: float,
    similarity: str = "dot",
    every: tuple[torch.Tensor, torch.Tensor] | None = None,
    hidden: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What :func:`nt_xent` is the cross-entropy of; the same arguments.

    Returns:
        tuple: logits [2 B, 2 M], rows and columns first of a and then of b, minus infinity at what is no candidate; the
        column of each row's positive [2 B].
    """
    all_a, all_b = every or (a, b)
    rows, columns = torch.cat([_precise(a), _precise(b)]), torch.cat([_precise(all_a), _precise(all_b)])
    if similarity == "cosine":
        rows, columns = F.normalize(rows, dim=-1), F.normalize(columns, dim=-1)
    with torch.autocast(a.device.type, enabled=False):
        logits = rows @ columns.t() / temperature
    own, n_all = torch.arange(len(a), device=a.device), len(all_a)
    itself, positive = torch.cat([own, own + n_all]), torch.cat([own + n_all, own])
    left_out = torch.zeros_like(logits, dtype=torch.bool) if hidden is None else hidden.repeat(2, 2)
    left_out = left_out.scatter(1, positive[:, None], False).scatter(1, itself[:, None], True)
    return logits.masked_fill(left_out, float("-inf")), positive


def compression(
    logits: torch.Tensor,
    positive: torch.Tensor,
    scope: str = "batch",
    every: Callable[[torch.Tensor], torch.Tensor] = lambda rows: rows,
) -> torch.Tensor:
    """MCLRec's regulariser (Eq. 11 to 13): positives above the hardest negative are pulled down, negatives up.

    With positives p and negatives n, o = min(min p, max n) and O = max(min p, max n), it is the mean of p - o and of
    O - n, where these are positive.

    Args:
        logits, positive (torch.Tensor): [R, C] and [R], as :func:`pair_logits` returns them.
        scope (str): where o and O are taken: ``batch`` for all rows (paper), ``row`` for each (released code).
        every (callable): the values of all processes for those of this one, [R] -> [R of all].

    Returns:
        torch.Tensor: []; a row without negatives adds nothing.
    """
    column = positive[:, None]
    candidate = logits.isfinite().scatter(1, column, False)
    own = logits.gather(1, column).squeeze(1)
    hardest = logits.masked_fill(~candidate, float("-inf")).amax(1)
    least = every(own).min() if scope == "batch" else own
    most = every(hardest).max() if scope == "batch" else hardest
    least, most = (torch.where(candidate.any(1), value, own) for value in (least, most))  # or p - o is 0
    low, high = torch.minimum(least, most), torch.maximum(least, most)
    above = (high[:, None] - logits.masked_fill(~candidate, 0)).relu() * candidate
    return ((own - low).relu() + above.sum(1) / candidate.sum(1).clamp(min=1)).mean()


def _precise(vectors: torch.Tensor) -> torch.Tensor:
    """Half precision leaves few digits to a logit near 1 / temperature."""
    return vectors if vectors.dtype == torch.float64 else vectors.float()


def alignment_loss(ids: torch.Tensor, looks: torch.Tensor, temperature: float, n_rows: int = 0) -> torch.Tensor:
    """Each item's vector finds its own among those of another modality, of all items (DiffSBR section 4.1.3).

    Args:
        ids, looks (torch.Tensor): [V, d] each; row 0 is padding and left out.
        temperature (float): tau > 0.
        n_rows (int): items drawn as anchors; 0 for all.

    Returns:
        torch.Tensor: [] mean loss.
    """
    anchors = F.normalize(ids[1:], dim=-1)
    rows = torch.arange(len(anchors), device=anchors.device)
    if 0 < n_rows < len(rows):
        rows = torch.randperm(len(rows), device=anchors.device)[:n_rows]
    return linear_cross_entropy(anchors[rows] / temperature, F.normalize(looks[1:], dim=-1), rows)[0]


def hardest_contrast(ids: torch.Tensor, looks: torch.Tensor, n_hardest: int) -> torch.Tensor:
    """The same as MMSBR's released code has it: inner products, summed over all items, with decimal logarithms.

    ``sum_i log10 sum_j exp(ids_i . looks_j) - log10 exp(ids_i . looks_i)``, where j are the largest products of each item.

    Args:
        ids, looks (torch.Tensor): [V, d] each; row 0 is padding and left out.
        n_hardest (int): how many j.

    Returns:
        torch.Tensor: [] sum, computed for some items at a time and once more in the backward pass.
    """

    def of_some(rows: torch.Tensor, own: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        logits = rows @ columns.t()
        return (logits.topk(min(n_hardest, len(columns)), 1).values.logsumexp(1) - (rows * own).sum(1)).sum()

    rows, columns = _precise(ids[1:]), _precise(looks[1:])
    with torch.autocast(rows.device.type, enabled=False):
        pieces = zip(*(table.split(rows_at_a_time(columns)) for table in (rows, columns)))
        parts = [checkpoint(of_some, *piece, columns, use_reentrant=False) for piece in pieces]
    return torch.stack(parts).sum() / math.log(10)
