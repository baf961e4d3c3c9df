"""Contrastive losses."""

import torch
import torch.nn.functional as F


def info_nce(anchor, candidates, temperature, hidden_pairs=None):
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
