"""Cross-entropy over a whole catalogue without ever holding the ``[N, V]`` matrix of logits."""

from __future__ import annotations

from typing import Any

import torch

from recbole_diffusion.layers.chunks import rows_at_a_time


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, ...]:
        n_rows = len(hidden)
        need_hidden, need_weight, _ = ctx.needs_input_grad
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight) if need_weight else None
        picked, logsumexp, maximum = (hidden.new_empty(n_rows) for _ in range(3))
        chunk = rows_at_a_time(weight)
        buffer = hidden.new_empty(min(chunk, n_rows), len(weight))

        for start in range(0, n_rows, chunk):
            rows = slice(start, min(start + chunk, n_rows))
            x, y = hidden[rows], target[rows, None]
            logits = torch.mm(x, weight.t(), out=buffer[: len(x)])
            picked[rows] = logits.gather(1, y).squeeze(1)
            maximum[rows] = logits.amax(1)
            probability = logits.sub_(maximum[rows, None]).exp_()
            total = probability.sum(1)
            logsumexp[rows] = maximum[rows] + total.log()
            if need_hidden or need_weight:
                probability.div_(total[:, None] * n_rows)
                probability.scatter_add_(1, y, probability.new_full(y.shape, -1 / n_rows))
            if grad_hidden is not None:
                grad_hidden[rows] = probability @ weight
            if grad_weight is not None:
                grad_weight.addmm_(probability.t(), x)

        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.mark_non_differentiable(logsumexp, maximum)
        return (logsumexp - picked).mean(), logsumexp, maximum

    @staticmethod
    def backward(ctx: Any, grad_loss: Any, *_: Any) -> tuple[torch.Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return (
            grad_hidden * grad_loss if grad_hidden is not None else None,
            grad_weight * grad_loss if grad_weight is not None else None,
            None,
        )


def linear_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean of ``-log softmax(hidden @ weight.T)[target]``, gradients computed in the same pass.

    Memory is ``O(V)`` instead of ``O(N * V)``; the gradient costs no second product for the logits.

    Args:
        hidden (torch.Tensor): [N, d].
        weight (torch.Tensor): [V, d].
        target (torch.LongTensor): [N] in 0..V-1.

    Returns:
        tuple: ``(loss [], logsumexp [N], maximum [N])``. Only the loss carries a gradient. The confidence of a
        row, its largest probability, is ``exp(maximum - logsumexp)``.
    """
    if not torch.is_grad_enabled():
        weight = weight.detach()  # its gradient is computed in the forward pass and would be thrown away
    with torch.autocast(
        weight.device.type, enabled=False
    ):  # probabilities over N * V cells underflow in half precision
        return _LinearCrossEntropy.apply(hidden.to(weight.dtype), weight, target)


def sampled_softmax(
    hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, negatives: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy against negatives shared by all rows (uniformly drawn, so no frequency correction).

    A negative that happens to be a row's target is left out of that row's sum.

    Args:
        hidden (torch.Tensor): [N, d].
        weight (torch.Tensor): [V, d].
        target (torch.LongTensor): [N].
        negatives (torch.LongTensor): [K].

    Returns:
        torch.Tensor: [] mean loss.
    """
    positive = (hidden * weight[target]).sum(1, keepdim=True)
    negative = hidden @ weight[negatives].t()
    negative = negative.masked_fill(negatives == target[:, None], float("-inf"))
    return (torch.cat([positive, negative], 1).logsumexp(1) - positive.squeeze(1)).mean()


def binary_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, negatives: torch.Tensor
) -> torch.Tensor:
    """SASRec's loss (SimDiffRec Eq. 3): one negative item per row.

    Args:
        hidden (torch.Tensor): [N, d].
        weight (torch.Tensor): [V, d].
        target, negatives (torch.LongTensor): [N].

    Returns:
        torch.Tensor: [] mean over rows of ``-log sigmoid(positive) - log(1 - sigmoid(negative))``.
    """
    positive = (hidden * weight[target]).sum(1)
    negative = (hidden * weight[negatives]).sum(1)
    softplus = torch.nn.functional.softplus
    return (softplus(-positive) + softplus(negative)).mean()
