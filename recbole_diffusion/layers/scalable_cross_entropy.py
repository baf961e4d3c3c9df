"""Cross-entropy against the items that matter, found by random buckets (Mezentsev et al., RecSys 2024).

Gleb Mezentsev, Danil Gusak, Ivan Oseledets, Evgeny Frolov. "Scalable Cross-Entropy Loss for Sequential Recommendations with
Large Item Catalogs." The table is read once per step, for one product with a few random directions; logits and gradients
exist for the chosen states and items only.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from recbole_diffusion.layers.repetition import Additions
from recbole_diffusion.layers.top_items import top_of_long


def bucket_sizes(n_states: int, n_items: int, n_buckets: int, n_in_bucket: int, n_candidates: int) -> tuple[int, int, int]:
    """Numbers that are 0 filled in, and no number beyond what there is.

    Args:
        n_states (int): states of the batch.
        n_items (int): items without padding.
        n_buckets (int): 0 for twice the square root of ``n_states``.
        n_in_bucket (int): states per bucket, 0 as above: each state is then in four buckets on average.
        n_candidates (int): items per bucket.

    Returns:
        tuple: the three numbers.
    """
    root = math.ceil(2 * math.sqrt(n_states))
    return n_buckets or root, min(n_in_bucket or root, n_states), min(n_candidates, n_items)


@torch.no_grad()
def fill_buckets(
    hidden: torch.Tensor, table: torch.Tensor, n_buckets: int, n_in_bucket: int, n_candidates: int, mix: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The states and the items with the largest inner products with random directions.

    Args:
        hidden (torch.Tensor): [N, d].
        table (torch.Tensor): [V, d] without padding.
        n_buckets, n_in_bucket, n_candidates (int): as :func:`bucket_sizes` returns them.
        mix (bool): directions are random sums of the states, so that they lie where states are; otherwise Gaussian.

    Returns:
        tuple: LongTensors [n_buckets, n_in_bucket] and [n_buckets, n_candidates], rows of ``hidden`` and of ``table``.
    """
    with torch.autocast(table.device.type, enabled=False):
        hidden = hidden.to(table.dtype)
        width = len(hidden) if mix else hidden.shape[1]
        directions = torch.randn(n_buckets, width, device=hidden.device, dtype=hidden.dtype)
        if mix:
            directions = directions @ hidden
        return (directions @ hidden.t()).topk(n_in_bucket).indices, top_of_long(directions, table, n_candidates)


def scalable_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    target: torch.Tensor,
    states: torch.Tensor,
    items: torch.Tensor,
    additions: Additions | None = None,
    sparse: bool = False,
) -> torch.Tensor:
    """Cross-entropy of the targets of the states of every bucket against the items of the bucket.

    A state in several buckets has its largest loss, one in no bucket has none.

    Args:
        hidden (torch.Tensor): [N, d].
        weight (torch.Tensor): [V, d].
        target (torch.LongTensor): [N]; it always counts, and only once where it is among the items of the bucket.
        states (torch.LongTensor): [n_b, b_x] rows of ``hidden``.
        items (torch.LongTensor): [n_b, b_y] rows of ``weight``.
        additions (Additions, optional): numbers that are added to the logits of some items.
        sparse (bool): the gradient of the table holds the rows of these items only.

    Returns:
        torch.Tensor: [] mean over the states that are in a bucket.
    """
    with torch.autocast(weight.device.type, enabled=False):
        hidden = hidden.to(weight.dtype)
        positive = (hidden * F.embedding(target, weight, sparse=sparse)).sum(1)
        distinct, place = items.unique(return_inverse=True)  # a row of the table has one row of gradient
        negative = torch.bmm(hidden[states], F.embedding(distinct, weight, sparse=sparse)[place].transpose(1, 2))
        if additions is not None:
            positive = positive + additions.at(target[:, None]).squeeze(1)
            columns = items.repeat_interleave(states.shape[1], 0)
            negative = negative + additions.at(columns, states.flatten()).view_as(negative)
        negative = negative.masked_fill(target[states].unsqueeze(2) == items.unsqueeze(1), float("-inf"))
        wanted = positive[states]
        losses = (torch.cat([wanted.unsqueeze(2), negative], 2).logsumexp(2) - wanted).flatten()
        largest_loss = hidden.new_full((len(hidden),), float("-inf"))
        largest_loss = largest_loss.scatter_reduce(0, states.flatten(), losses, "amax")
        met = torch.zeros_like(target, dtype=torch.bool).index_fill(0, states.flatten(), True)
        return largest_loss[met].mean()
