"""Alpha-entmax (Peters, Niculae, Martins 2019): between softmax, alpha 1, and sparsemax, alpha 2, with zeros among its weights."""

from __future__ import annotations

from typing import Any

import torch

LEAST_SLACK = 0.01  # of alpha above 1: nearer to softmax, its gradient would be a difference of equal numbers over a square
MOST_STEPS = 20  # of Newton's method; two to nine are enough
NEAR = 1e-4  # a mass so near to 1 that one more step makes it as near as the type can tell


class _Entmax(torch.autograd.Function):
    """``p_i = max(0, (alpha - 1) z_i - tau)^(1 / (alpha - 1))`` with the threshold tau that makes them sum to 1.

    The norm of the positive parts with the power 1 / (alpha - 1) is convex in tau and almost straight, so that Newton's
    method finds where it is 1, from the left and without overshooting, in a third of the steps that halving would take.
    """

    @staticmethod
    def forward(ctx: Any, z: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        slack = alpha - 1
        x = z * slack
        top = x.amax(-1, keepdim=True)
        x.sub_(top.masked_fill_(top == float("-inf"), 0))
        tau, power = torch.full_like(top, -1), (1 / slack).expand_as(top)
        above, rest = torch.empty_like(x), power - 1
        least = torch.finfo(x.dtype).tiny
        for _ in range(MOST_STEPS):
            torch.sub(x, tau, out=above).clamp_(min=0)
            slope = above.pow(rest).masked_fill_(above == 0, 0)
            mass = above.mul_(slope).sum(-1, keepdim=True).clamp_(min=least)
            tau = tau + (1 - mass.pow(-slack)) * mass / slope.sum(-1, keepdim=True).clamp_(min=least)
            if (mass < 1 + NEAR).all():
                break
        p = torch.sub(x, tau, out=above).clamp_(min=0).pow_(power)
        p.div_(p.sum(-1, keepdim=True).clamp_(min=least))
        ctx.save_for_backward(p, alpha)
        return p

    @staticmethod
    def backward(ctx: Any, grad: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        p, alpha = ctx.saved_tensors
        slope = torch.where(p > 0, p.pow(2 - alpha), 0)
        share = slope / slope.sum(-1, keepdim=True).clamp(min=torch.finfo(p.dtype).tiny)
        of_z = slope * (grad - (share * grad).sum(-1, keepdim=True))
        if not ctx.needs_input_grad[1]:
            return of_z, None
        slack, entropy = alpha - 1, -torch.xlogy(p, p)
        of_alpha = (p - share) / slack.square() + (entropy - share * entropy.sum(-1, keepdim=True)) / slack
        return of_z, (grad * of_alpha).sum(-1, keepdim=True).sum_to_size(alpha.shape)


def entmax(z: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Sparse weights.

    Args:
        z (torch.Tensor): [..., n], ``-inf`` where there may be no weight.
        alpha (torch.Tensor): above 1 and at most 2, broadcast to [..., 1].

    Returns:
        torch.Tensor: [..., n] weights that sum to 1, or to 0 where nothing may have any; float32 at least.
    """
    dtype = torch.promote_types(z.dtype, torch.float32)
    return _Entmax.apply(z.to(dtype), alpha.to(dtype))


def sparseness(logit: torch.Tensor) -> torch.Tensor:
    """A learned alpha between 1 and 2, ``1 + sigmoid(logit)``; of any shape, in float32 at least."""
    return 1 + logit.to(torch.promote_types(logit.dtype, torch.float32)).sigmoid().clamp(min=LEAST_SLACK)
