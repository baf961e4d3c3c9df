"""Softmax against drawn items: with weights by which they stand for the whole catalogue."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from recbole_diffusion.layers.cross_entropy import linear_cross_entropy
from recbole_diffusion.layers.repetition import Additions


def sampled_logits(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    target: torch.Tensor,
    negatives: torch.Tensor,
    additions: Additions | None = None,
    log_weights: torch.Tensor | None = None,
    sparse: bool = False,
) -> torch.Tensor:
    """Logits of the target, in column 0, and of negatives. Arguments as of :func:`sampled_softmax`: [N, 1 + K].

    A negative that happens to be a row's target has minus infinity: it is in column 0 already.
    """
    with torch.autocast(weight.device.type, enabled=False):  # as all losses over items
        hidden = hidden.to(weight.dtype)
        positive = (hidden * F.embedding(target, weight, sparse=sparse)).sum(1, keepdim=True)
        rows = F.embedding(negatives, weight, sparse=sparse)
        negative = hidden @ rows.t() if negatives.dim() == 1 else torch.bmm(rows, hidden.unsqueeze(2)).squeeze(2)
        if additions is not None:
            positive = positive + additions.at(target[:, None])
            negative = negative + additions.at(negatives.expand_as(negative))
        if log_weights is not None:
            negative = negative + log_weights
        negative = negative.masked_fill(negatives == target[:, None], float("-inf"))
        return torch.cat([positive, negative], 1)


def sampled_softmax(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    target: torch.Tensor,
    negatives: torch.Tensor,
    additions: Additions | None = None,
    log_weights: torch.Tensor | None = None,
    sparse: bool = False,
) -> torch.Tensor:
    """Cross-entropy of the target against drawn items.

    Args:
        hidden (torch.Tensor): [N, d].
        weight (torch.Tensor): [V, d].
        target (torch.LongTensor): [N].
        negatives (torch.LongTensor): [K] for all rows, or [N, K] for each its own. One that happens to be a row's target is
            left out of that row's sum.
        additions (Additions, optional): numbers that are added to the logits of some items.
        log_weights (torch.Tensor, optional): [K] or [N, K], added to the logits of the negatives, see :func:`log_weights`.
        sparse (bool): the gradient of the table holds the rows of these items only.

    Returns:
        torch.Tensor: [] mean loss.
    """
    if negatives.dim() == 1 and (log_weights is None or log_weights.dim() == 1):
        return _shared_softmax(hidden, weight, target, negatives, additions, log_weights, sparse)
    logits = sampled_logits(hidden, weight, target, negatives, additions, log_weights, sparse)
    return (logits.logsumexp(1) - logits[:, 0]).mean()


def _shared_softmax(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    target: torch.Tensor,
    negatives: torch.Tensor,
    additions: Additions | None,
    log_weights: torch.Tensor | None,
    sparse: bool,
) -> torch.Tensor:
    """:func:`sampled_softmax` with the same [K] negatives for all rows: a cross-entropy over a catalogue of K + 1 columns.

    The last column is nothing but what is added to it, each row's own logit of its target; one more dimension holds the
    weights of the negatives, and a target among the negatives is left out by minus infinity.
    """
    with torch.autocast(weight.device.type, enabled=False):
        hidden = hidden.to(weight.dtype)
        everyone = torch.arange(len(target), device=target.device)
        positive = (hidden * F.embedding(target, weight, sparse=sparse)).sum(1)
        if additions is not None:
            positive = positive + additions.at(target[:, None])[:, 0]
        last = torch.full_like(target, len(negatives))
        own, own_columns = _occurrences(target, negatives)
        rows, columns = [everyone, own], [last, own_columns]
        values = [positive, positive.new_full(own.shape, float("-inf"))]
        if additions is not None:
            met, met_columns = _occurrences(additions.columns, negatives)
            rows, columns = [*rows, additions.rows[met]], [*columns, met_columns]
            values.append(additions.values[met].to(positive.dtype))
        in_order = torch.cat(rows).argsort(stable=True)
        added = Additions(*(torch.cat(parts)[in_order] for parts in (rows, columns, values)))
        table = F.pad(F.embedding(negatives, weight, sparse=sparse), (0, 0, 0, 1))
        if log_weights is not None:
            hidden = torch.cat([hidden, hidden.new_ones(len(hidden), 1)], 1)
            table = torch.cat([table, F.pad(log_weights.to(table.dtype), (0, 1))[:, None]], 1)
        return linear_cross_entropy(hidden, table, last, added)[0]


def _occurrences(items: torch.Tensor, negatives: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where items stand among negatives.

    Args:
        items (torch.LongTensor): [M].
        negatives (torch.LongTensor): [K].

    Returns:
        tuple: two LongTensors [C], every pair of a place in ``items`` and one in ``negatives`` that hold the same item.
    """
    (ordered, place), items = negatives.sort(), items.contiguous()
    first, end = (torch.searchsorted(ordered, items, right=right) for right in (False, True))
    count = end - first
    found = torch.arange(len(items), device=items.device).repeat_interleave(count)
    within = torch.arange(len(found), device=items.device) - (count.cumsum(0) - count)[found]
    return found, place[first[found] + within]


def draw_negatives(
    target: torch.Tensor, n_items: int, k: int, in_batch: float = 0.0, each: bool = False
) -> torch.Tensor:
    """Negatives from the whole catalogue, and from the targets of the batch.

    Args:
        target (torch.LongTensor): [N], items from 1 on.
        n_items (int): number of items, padding included, which has number 0.
        k (int): how many.
        in_batch (float): share of them that is drawn from ``target``, so that items come as often as they are met.
        each (bool): new ones for every row.

    Returns:
        torch.LongTensor: [k], or [N, k] with ``each``; those of the batch last.
    """
    n_batch, rows = round(in_batch * k), (len(target),) if each else ()
    uniform = torch.randint(1, n_items, (*rows, k - n_batch), device=target.device)
    if not n_batch:
        return uniform
    return torch.cat([uniform, target[torch.randint(len(target), (*rows, n_batch), device=target.device)]], -1)


def log_weights(
    kind: str, target: torch.Tensor, negatives: torch.Tensor, n_items: int, in_batch: float = 0.0
) -> torch.Tensor | None:
    """What to add to the logits of negatives of :func:`draw_negatives`, given the batch.

    ``c(v)`` is how often an item is expected among the k negatives: ``k_u / (n_items - 1) + k_b * (share of v in target)``.

    * ``importance``: ``-log c(v)``. The sum over the negatives then estimates the sum over all items but the target,
      without bias where ``in_batch`` is below 1, and the loss the one over the whole catalogue.
    * ``log_q``: ``log c(target) - log c(v)``, the classical correction (Bengio and Senécal 2008), which takes the target as
      drawn, too. For uniform negatives it is nothing.
    * ``none``: nothing; an item that is drawn more often is pushed away more often.

    Args:
        kind (str): one of these words.
        target (torch.LongTensor): [N].
        negatives (torch.LongTensor): [k] or [N, k].
        n_items (int), in_batch (float): as :func:`draw_negatives` had them.

    Returns:
        torch.Tensor | None: [k] or [N, k], float32.
    """
    k = negatives.shape[-1]
    n_batch = round(in_batch * k)
    if kind == "none" or kind == "log_q" and not n_batch:
        return None
    share = torch.bincount(target, minlength=n_items) / len(target) if n_batch else None

    def log_count(items: torch.Tensor) -> torch.Tensor:
        uniform = torch.full(items.shape, (k - n_batch) / (n_items - 1), device=items.device)
        return (uniform if share is None else uniform + n_batch * share[items]).log()

    found = -log_count(negatives)
    return found + log_count(target)[:, None] if kind == "log_q" else found
