"""Message passing in the graphs of sessions with gates (Li et al. 2016), as in SR-GNN (AAAI 2019)."""

from __future__ import annotations

import torch
from torch import nn

from recbole_diffusion.layers.session_graph import Edges


class GatedGraph(nn.Module):
    """Steps in which every node gets the means of the nodes before and behind it, through a GRU's gates.

    SR-GNN maps these means before the cell does so again; two such maps are one. Their biases, which only nodes with such
    neighbours get, are those of two more inputs.

    Args:
        hidden_size (int): width of a node.
        n_steps (int): steps with the same weights.
    """

    def __init__(self, hidden_size: int, n_steps: int) -> None:
        super().__init__()
        self.n_steps = n_steps
        if n_steps:
            self.input, self.state = nn.Linear(2 * hidden_size + 2, 3 * hidden_size), nn.Linear(hidden_size, 3 * hidden_size)

    def forward(self, x: torch.Tensor, edges: Edges) -> torch.Tensor:
        """x: [M, d] nodes -> [M, d]."""
        for _ in range(self.n_steps):
            before, has_before = neighbour_mean(x, edges.source, edges.target)
            behind, has_behind = neighbour_mean(x, edges.target, edges.source)
            gates = self.input(torch.cat([before, behind, has_before, has_behind], 1)).chunk(3, -1)
            of_reset, of_update, of_new = self.state(x).chunk(3, -1)
            reset, update = (gates[0] + of_reset).sigmoid(), (gates[1] + of_update).sigmoid()
            x = torch.lerp((gates[2] + reset * of_new).tanh().to(x.dtype), x, update.to(x.dtype))
        return x


def neighbour_mean(x: torch.Tensor, source: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean over the sources of each target, 0 without any, and whether there are any: [M, d], [E], [E] -> [M, d], [M, 1]."""
    count = torch.bincount(target, minlength=len(x)).unsqueeze(1).to(x.dtype)
    total = torch.zeros_like(x).index_add(0, target, x[source])
    return total / count.clamp(min=1), count.clamp(max=1)
