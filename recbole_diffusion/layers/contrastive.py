"""Contrastive losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F

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
        logits = F.normalize(anchor.float(), dim=-1) @ F.normalize(candidates.float(), dim=-1).t() / temperature
    if hidden_pairs is not None:
        logits = logits.masked_fill(hidden_pairs, float("-inf"))
    return F.cross_entropy(logits, torch.arange(len(anchor), device=anchor.device))


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
