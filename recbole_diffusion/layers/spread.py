"""How far the vectors of items are apart: what falls when a loss pulls them together."""

from __future__ import annotations

import torch
import torch.nn.functional as F


@torch.no_grad()
def spread_of(vectors: torch.Tensor) -> tuple[float, float]:
    """Standard deviation of all numbers, and the mean cosine of two different vectors.

    The mean over all pairs comes from the sum of the directions, so that nothing is drawn.

    Args:
        vectors (torch.Tensor): [V, d].

    Returns:
        tuple: standard deviation, mean cosine (0 for a single vector).
    """
    vectors, n = vectors.double() if vectors.device.type == "cpu" else vectors.float(), len(vectors)
    total = F.normalize(vectors, dim=-1).sum(0).square().sum()
    cosine = (float(total) - n) / (n * (n - 1)) if n > 1 else 0.0
    return float(vectors.std(correction=0)), cosine
