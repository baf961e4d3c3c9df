"""How far the vectors of items are apart: what falls when a loss pulls them together."""

from __future__ import annotations

import torch
import torch.nn.functional as F

# Vectors count as collapsed when they are narrower than this part of their start, or their mean cosine is larger.
SHRUNK, CROWDED = 0.75, 0.5


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


def collapse_of(deviation: float, cosine: float, start: float) -> str | None:
    """What is wrong with vectors that have fallen together, in words, or None where they have not.

    Args:
        deviation, cosine (float): what :func:`spread_of` returns.
        start (float): standard deviation at the start.
    """
    if deviation > SHRUNK * start and cosine < CROWDED:
        return None
    return (
        f"the item vectors collapse: standard deviation {deviation:.2g} from {start:.2g} at the start, mean cosine of "
        f"two items {cosine:.2f}"
    )
