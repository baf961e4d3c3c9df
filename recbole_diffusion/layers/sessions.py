"""Layers of session-based models on packed tokens, and the conditional denoiser of DiffSBR."""

from __future__ import annotations

import torch
from torch import nn

from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.transformer import Dropout


class SessionAttention(nn.Module):
    """A session as the sum of its items, weighted by how they go with the last one (DiffSBR Eq. 4-5) or with another vector.

    ``a_i = q . sigmoid(W_1 x_last + W_2 x_i + c)``, ``s = sum_i a_i x_i``.

    Args:
        hidden_size (int): d.
        gate (str): ``scalar``, one weight per item (paper), or ``vector``, one per dimension (released code).
        bias (bool): ``a_i`` has a bias, so that no item is left out altogether (released code).
    """

    def __init__(self, hidden_size: int, gate: str, bias: bool = False) -> None:
        super().__init__()
        self.last = nn.Linear(hidden_size, hidden_size)
        self.item = nn.Linear(hidden_size, hidden_size, bias=False)
        self.weight = nn.Linear(hidden_size, 1 if gate == "scalar" else hidden_size, bias=bias)

    def forward(self, x: torch.Tensor, layout: PackedLayout, about: torch.Tensor | None = None) -> torch.Tensor:
        """x: [N, d] items of packed sessions -> [B, d]; about: [B, d] in place of the last items."""
        last = self.last(x[layout.last] if about is None else about)[layout.row]
        weight = self.weight((last + self.item(x)).sigmoid())
        return x.new_zeros(len(layout.last), x.shape[1]).index_add(0, layout.row, weight * x)


class LastItemAttention(nn.Module):
    """What the last item of a session finds when it looks at all of them; without positions, residual or output layer.

    Args:
        n_heads, hidden_size (int): heads divide the width d.
        dropout (float): of the weights.

    Raises:
        ValueError: when ``hidden_size`` is not a multiple of ``n_heads``.
    """

    def __init__(self, n_heads: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        if hidden_size % n_heads:
            raise ValueError(f"hidden_size {hidden_size} is not a multiple of n_heads {n_heads}")
        self.n_heads, self.scale = n_heads, (hidden_size // n_heads) ** -0.5
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)  # a bias would be the same for all items of a session
        self.value = nn.Linear(hidden_size, hidden_size)
        self.dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """x: [N, d] items of packed sessions -> [B, d]; time and memory O(N)."""
        query = (self.query(x[layout.last]) * self.scale)[layout.row]
        logits = (query * self.key(x)).unflatten(-1, (self.n_heads, -1)).sum(-1)  # [N, heads]
        weights = self.dropout(softmax_within(logits, layout.row, len(layout.last)))
        mixed = (weights.unsqueeze(-1) * self.value(x).unflatten(-1, (self.n_heads, -1))).flatten(1)
        return mixed.new_zeros(len(layout.last), mixed.shape[1]).index_add(0, layout.row, mixed)


def softmax_within(logits: torch.Tensor, group: torch.Tensor, n_groups: int) -> torch.Tensor:
    """Softmax over the rows of each group.

    Args:
        logits (torch.Tensor): [N, h].
        group (torch.LongTensor): [N], from 0 to ``n_groups - 1``.
        n_groups (int): how many groups there are.

    Returns:
        torch.Tensor: [N, h], float32 at least; each column sums to 1 in each group that has rows.
    """
    exponent = _less_the_largest(logits, group, n_groups).exp()
    return exponent / exponent.new_zeros(n_groups, logits.shape[1]).index_add(0, group, exponent)[group]


def log_softmax_within(logits: torch.Tensor, group: torch.Tensor, n_groups: int) -> torch.Tensor:
    """Logarithm of :func:`softmax_within`, of any size: [N, h]."""
    logits = _less_the_largest(logits, group, n_groups)
    total = logits.new_zeros(n_groups, logits.shape[1]).index_add(0, group, logits.exp())
    return logits - total.log()[group]


def _less_the_largest(logits: torch.Tensor, group: torch.Tensor, n_groups: int) -> torch.Tensor:
    """Logits [N, h] in float32 at least, less the largest one of their group."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    most = logits.new_full((n_groups, logits.shape[1]), float("-inf"))
    most = most.scatter_reduce(0, group[:, None].expand_as(logits), logits.detach(), "amax")
    return logits - most[group]


def mean_within(x: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
    """Mean of the tokens of each row: [N, d] -> [B, d]."""
    total = x.new_zeros(len(layout.last), x.shape[1]).index_add(0, layout.row, x)
    return total / layout.length[layout.last].unsqueeze(1).to(x.dtype)


class ConditionalDenoiser(nn.Module):
    """MLP([x_t ; d_t ; condition]) -> x_0 (DiffSBR Eq. 10), whose first layer is split into its three inputs.

    So the parts of the time step and of the condition are computed once for all reverse steps.

    Args:
        hidden_size (int): d.
        step_embedding (nn.Module): called with ``raw``, gives d_t of all steps [T, d].
        dropout (float): of x_t.
    """

    def __init__(self, hidden_size: int, step_embedding: nn.Module, dropout: float) -> None:
        super().__init__()
        self.step_embedding = step_embedding
        self.dropout = Dropout(dropout)
        self.state = nn.Linear(hidden_size, 2 * hidden_size)
        self.time = nn.Linear(hidden_size, 2 * hidden_size, bias=False)
        self.condition = nn.Linear(hidden_size, 2 * hidden_size, bias=False)
        self.output = nn.Linear(2 * hidden_size, hidden_size)

    def prepare(self, condition: torch.Tensor, raw_times: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Parts of the first layer that do not change: of time [T, 2d] and of the condition [..., 2d]."""
        return self.time(self.step_embedding(raw_times)), self.condition(condition)

    def forward(
        self, x: torch.Tensor, t: torch.Tensor | int, prepared: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """Predict x_0.

        Args:
            x (torch.Tensor): x_t, broadcast against the condition [..., d].
            t (torch.LongTensor | int): time step of all, or one per row, shaped so that ``time[t]`` broadcasts.
            prepared (tuple): result of :meth:`prepare`.

        Returns:
            torch.Tensor: [..., d].
        """
        time, condition = prepared
        return self.output((self.state(self.dropout(x)) + time[t] + condition).tanh())
