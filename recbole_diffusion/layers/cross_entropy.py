"""Cross-entropy over a whole catalogue without ever holding the ``[N, V]`` matrix of logits."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from recbole_diffusion.layers.chunks import rows_at_a_time
from recbole_diffusion.layers.repetition import Additions
from recbole_diffusion.layers.top_items import largest


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        target: torch.Tensor,
        added_rows: Any,  # tensors of Additions, or None
        added_columns: Any,
        added: Any,
        shares: Any,  # [N], or None
        n_best: int,
        log_weights: Any,  # [N / K, K], or None
    ) -> tuple[torch.Tensor, ...]:
        n_rows = len(hidden)
        need_hidden, need_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight) if need_weight else None
        picked, logsumexp, maximum = (hidden.new_empty(n_rows) for _ in range(3))
        best = target.new_empty(n_rows, n_best)
        chunk = rows_at_a_time(weight)
        log_mixed: Any = None
        if log_weights is not None:
            n_mixed = log_weights.shape[1]
            chunk = max(chunk // n_mixed, 1) * n_mixed  # the rows of a mixture belong together
            log_mixed, shares = hidden.new_empty(len(log_weights)), hidden.new_empty(n_rows)
        buffer = hidden.new_empty(min(chunk, n_rows), len(weight))
        grad_added, bounds = None, []
        if added is not None:
            grad_added, bounds = torch.empty_like(added), _bounds(added_rows, range(0, n_rows + chunk, chunk))

        for number, start in enumerate(range(0, n_rows, chunk)):
            rows = slice(start, min(start + chunk, n_rows))
            x, y = hidden[rows], target[rows, None]
            logits = torch.mm(x, weight.t(), out=buffer[: len(x)])
            if added is not None:
                some = slice(bounds[number], bounds[number + 1])
                cells = added_rows[some] - start, added_columns[some]
                logits.index_put_(cells, added[some], accumulate=True)
            picked[rows] = logits.gather(1, y).squeeze(1)
            maximum[rows] = logits.amax(1)
            if n_best:
                best[rows] = largest(logits, n_best)
            probability = logits.sub_(maximum[rows, None]).exp_()
            total = probability.sum(1)
            logsumexp[rows] = maximum[rows] + total.log()
            if log_weights is not None:
                some_mixtures = slice(start // n_mixed, rows.stop // n_mixed)
                weighted = log_weights[some_mixtures] + (picked[rows] - logsumexp[rows]).unflatten(0, (-1, n_mixed))
                log_mixed[some_mixtures] = weighted.logsumexp(1)
                shares[rows] = weighted.softmax(1).flatten()
            if any(ctx.needs_input_grad):
                if shares is None:
                    probability.div_(total[:, None] * n_rows)
                    probability.scatter_add_(1, y, probability.new_full(y.shape, -1 / n_rows))
                else:
                    probability.mul_((shares[rows] / total)[:, None])
                    probability.scatter_add_(1, y, -shares[rows, None])
            if grad_added is not None:
                grad_added[some] = probability[cells]
            if grad_hidden is not None:
                grad_hidden[rows] = probability @ weight
            if grad_weight is not None:
                grad_weight.addmm_(probability.t(), x)

        grad_log_weights = None if log_weights is None else -shares.view_as(log_weights)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_added, grad_log_weights)
        ctx.mark_non_differentiable(logsumexp, maximum, best)
        if log_mixed is not None:
            return -log_mixed.sum(), logsumexp, maximum, best
        losses = logsumexp - picked
        return losses.mean() if shares is None else (losses * shares).sum(), logsumexp, maximum, best

    @staticmethod
    def backward(ctx: Any, grad_loss: Any, *_: Any) -> tuple[torch.Tensor | None, ...]:
        scaled = (g if g is None else g * grad_loss for g in ctx.saved_tensors)
        grad_hidden, grad_weight, grad_added, grad_log_weights = scaled
        return grad_hidden, grad_weight, None, None, None, grad_added, None, None, grad_log_weights


def _bounds(rows: torch.Tensor, starts: range) -> list[int]:
    """Places in ascending rows before which lie all rows below each of the starts: a list."""
    return torch.searchsorted(rows, torch.tensor(list(starts), device=rows.device)).tolist()


def linear_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, additions: Additions | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean of ``-log softmax(hidden @ weight.T)[target]``, gradients computed in the same pass.

    Memory is ``O(V)`` instead of ``O(N * V)``; the gradient costs no second product for the logits.

    Args:
        hidden (torch.Tensor): [N, d].
        weight (torch.Tensor): [V, d].
        target (torch.LongTensor): [N] in 0..V-1.
        additions (Additions, optional): numbers that are added to some of the logits; they get a gradient, too.

    Returns:
        tuple: ``(loss [], logsumexp [N], maximum [N])``. Only the loss carries a gradient. The confidence of a
        row, its largest probability, is ``exp(maximum - logsumexp)``.
    """
    if not torch.is_grad_enabled():
        weight = weight.detach()  # its gradient is computed in the forward pass and would be thrown away
    with torch.autocast(weight.device.type, enabled=False):  # probabilities over N * V cells underflow in half precision
        added = (None, None, None) if additions is None else additions
        return _LinearCrossEntropy.apply(hidden.to(weight.dtype), weight, target, *added, None, 0, None)[:3]


def weighted_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, shares: torch.Tensor, n_best: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of ``-share * log softmax(hidden @ weight.T)[target]``, and the best columns of the same logits.

    Args:
        hidden (torch.Tensor): [N, d], N may be 0.
        weight (torch.Tensor): [V, d].
        target (torch.LongTensor): [N] in 0..V-1.
        shares (torch.Tensor): [N] what each row's loss is multiplied by; ``1 / N`` makes the mean. They get no gradient.
        n_best (int): columns with the largest logits that are wanted of every row, at most V.

    Returns:
        tuple: loss [], LongTensor [N, n_best], best first.
    """
    if not torch.is_grad_enabled():
        weight = weight.detach()
    with torch.autocast(weight.device.type, enabled=False):
        hidden, shares = hidden.to(weight.dtype), shares.to(weight.dtype)
        loss, _, _, best = _LinearCrossEntropy.apply(hidden, weight, target, None, None, None, shares, n_best, None)
    return loss, best


def mixture_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    target: torch.Tensor,
    log_weights: torch.Tensor,
    additions: Additions | None = None,
) -> torch.Tensor:
    """Sum of ``-log sum_k w_k softmax(hidden_k @ weight.T)[target]``: the loss of a mixture of softmaxes.

    A row's gradient depends on the logsumexps of its whole mixture, which stand together in one piece of the pass, so
    that it costs no second product either.

    Args:
        hidden (torch.Tensor): [N, K, d], N may be 0.
        weight (torch.Tensor): [V, d].
        target (torch.LongTensor): [N] in 0..V-1.
        log_weights (torch.Tensor): [N, K] logarithms of w, which need not add up to one; they get a gradient.
        additions (Additions, optional): numbers that are added to some of the logits of row ``n * K + k``; minus infinity
            leaves a column out.

    Returns:
        torch.Tensor: [] sum over the N rows.
    """
    if not torch.is_grad_enabled():
        weight = weight.detach()
    with torch.autocast(weight.device.type, enabled=False):
        hidden, log_weights = hidden.to(weight.dtype), log_weights.to(weight.dtype)
        added = (None, None, None) if additions is None else additions
        rows, repeated = hidden.flatten(0, 1), target.repeat_interleave(hidden.shape[1])
        return _LinearCrossEntropy.apply(rows, weight, repeated, *added, None, 0, log_weights)[0]


def binary_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    target: torch.Tensor,
    negatives: torch.Tensor,
    additions: Additions | None = None,
    sparse: bool = False,
) -> torch.Tensor:
    """SASRec's loss (SimDiffRec Eq. 3): one negative item per row.

    Args:
        hidden (torch.Tensor): [N, d].
        weight (torch.Tensor): [V, d].
        target, negatives (torch.LongTensor): [N].
        additions (Additions, optional): numbers that are added to the logits of some items.
        sparse (bool): the gradient of the table holds the rows of these items only.

    Returns:
        torch.Tensor: [] mean over rows of ``-log sigmoid(positive) - log(1 - sigmoid(negative))``.
    """
    positive, negative = (hidden * F.embedding(items, weight, sparse=sparse) for items in (target, negatives))
    positive, negative = positive.sum(1), negative.sum(1)
    if additions is not None:
        added = additions.at(torch.stack([target, negatives], 1))
        positive, negative = positive + added[:, 0], negative + added[:, 1]
    return (F.softplus(-positive) + F.softplus(negative)).mean()
