"""Vector quantisation of whole histories: a small codebook of mean histories (DiQDiff's SVQ).

A history is the matrix of its items' vectors. Places are counted from the end, 0 is the last item, and padding has none.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from recbole_diffusion.layers.packed import PackedLayout

FEWEST = 1e-6  # items at a place, as a moving average, that have a mean
RARE = 20  # a code is unused when it is chosen this many times less often than if all codes were alike


class SequenceCodebook(nn.Module):
    """K codes, each the moving average of the histories that chose it, and the linear layer that chooses.

    Nothing is learned by the codes through gradients, and nothing changes them but :meth:`learn` and :meth:`replace`.

    Args:
        n_codes (int): K.
        length (int): L, places of a code.
        width (int): d.
        decay (float): share of a moving average that a step keeps, in [0, 1).
        restart_steps (int): steps in a row for which a code is unused until it starts anew; 0 for never.
        learned (bool): whether the layer that chooses is trained; if not it keeps its start, as buffers.
        seed (int): of that start, so that no other random number changes.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    totals: torch.Tensor
    unused: torch.Tensor

    def __init__(
        self, n_codes: int, length: int, width: int, decay: float, restart_steps: int = 0, learned: bool = True, seed: int = 0
    ) -> None:
        super().__init__()
        self.n_codes, self.decay, self.restart_steps = n_codes, decay, restart_steps
        own, bound = torch.Generator().manual_seed(seed), 1 / math.sqrt(length * width)  # as nn.Linear starts
        start = {
            "weight": torch.empty(length, width, n_codes).uniform_(-bound, bound, generator=own),
            "bias": torch.empty(n_codes).uniform_(-bound, bound, generator=own),
        }
        for name, value in start.items():
            if learned:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)
        self.register_buffer("totals", torch.zeros(n_codes, length, width + 1))  # sums of vectors, and their number
        self.register_buffer("unused", torch.zeros(n_codes, dtype=torch.long))  # steps

    # Choosing

    def logits(self, embedded: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """How well each code suits each history. embedded: [N, d] -> [B, K]."""
        widest = _widest(layout)
        rows = embedded.new_zeros(len(layout.last), widest, embedded.shape[1])
        rows = rows.index_put((layout.row, _place(layout)), embedded)
        return F.linear(rows.flatten(1), self.weight[:widest].flatten(0, 1).t(), self.bias)

    # Reading

    def codes(self, totals: torch.Tensor | None = None) -> torch.Tensor:
        """Mean vectors [K, L, d] of the codebook or of other totals [K, L, d + 1].

        A place that no history has is the mean of the code's other places, and 0 in a code without any.
        """
        totals = self.totals if totals is None else totals
        sums, counts = totals[..., :-1], totals[..., -1:]
        anywhere = sums.sum(1, keepdim=True) / counts.sum(1, keepdim=True).clamp(min=FEWEST)
        return torch.where(counts > FEWEST, sums / counts.clamp(min=FEWEST), anywhere)

    @staticmethod
    def look_up(codes: torch.Tensor, label: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """The vectors of chosen codes at the tokens of the histories. codes: [K, L, d]; label: [B] -> [N, d]."""
        return codes[label[layout.row], _place(layout)]

    @staticmethod
    def mix(codes: torch.Tensor, choice: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """The same for choices [B, K] that have a gradient: every code counts by its share."""
        mixed = choice @ codes[:, : _widest(layout)].flatten(1)
        return mixed.unflatten(1, (-1, codes.shape[2]))[layout.row, _place(layout)]

    # Learning

    def totals_of(self, embedded: torch.Tensor, label: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """Sums of vectors, and their number, by code and place. embedded: [N, d]; label: [B] -> [K, L, d + 1]."""
        counted = F.pad(embedded.to(self.totals.dtype), (0, 1), value=1.0)
        cells = label[layout.row] * self.totals.shape[1] + _place(layout)
        return torch.zeros_like(self.totals).flatten(0, 1).index_add(0, cells, counted).view_as(self.totals)

    @torch.no_grad()
    def learn(self, totals: torch.Tensor) -> None:
        """Move the averages towards the totals [K, L, d + 1] of a batch. The first batch fills the codebook.

        A code that has not been used for long starts anew, as the mean of the batch with a fair share.
        """
        self.totals.lerp_(totals, 1 - self.decay if self.totals.any() else 1.0)
        self.unused.add_(1).mul_(self.shares() < 1 / (RARE * self.n_codes))
        if self.restart_steps and (dead := self.unused >= self.restart_steps).any():
            fair = self.totals[:, 0, -1].mean() / totals[:, 0, -1].sum()
            self.totals[dead] = fair * totals.sum(0)
            self.unused[dead] = 0

    @torch.no_grad()
    def replace(self, totals: torch.Tensor) -> None:
        """Take the totals [K, L, d + 1] of a batch for those codes that occur in it, and forget theirs before."""
        occurs = totals[:, :1, -1:] > 0
        self.totals.copy_(torch.where(occurs, totals, self.totals))

    def shares(self) -> torch.Tensor:
        """How often each code is chosen, by its moving average: [K], 0 before the first batch."""
        counts = self.totals[:, 0, -1]
        return counts / counts.sum().clamp(min=FEWEST)


def straight_through(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """The best of some choices as 0 and 1, with the gradient of the softmax: [B, K] -> [B, K]."""
    soft = (logits / temperature).softmax(-1)
    hard = F.one_hot(logits.argmax(-1), logits.shape[-1]).to(soft.dtype)
    return hard + soft - soft.detach()


def gumbel_like(tensor: torch.Tensor) -> torch.Tensor:
    """Standard Gumbel noise."""
    return -torch.empty_like(tensor).exponential_().log()


def gumbel_of_normal(normal: torch.Tensor) -> torch.Tensor:
    """Standard Gumbel noise from standard normal noise, by their distribution functions."""
    return -(-torch.special.log_ndtr(normal)).log()


def entropy(shares: torch.Tensor) -> torch.Tensor:
    """Entropy of shares [K] that sum to 1: log K where all are alike, 0 where there is one. []."""
    return torch.special.entr(shares.clamp(min=1e-12)).sum()  # 0 itself has no gradient


def _place(layout: PackedLayout) -> torch.Tensor:
    """[N] place from the end."""
    return layout.length - 1 - layout.position


def _widest(layout: PackedLayout) -> int:
    """Items of the longest history."""
    return max(block.shape[1] for block in layout.blocks)
