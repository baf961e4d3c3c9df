"""Sessions as graphs of intent units, the runs of 1..K consecutive items (MSGIFSR, Guo et al. 2022).

The graphs come from :mod:`recbole_diffusion.layers.session_graph`. A granularity is a list of runs of one length k.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from recbole_diffusion.layers.cosine import unit
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.session_graph import Edges, Nodes, item_to_run, run_to_item, transitions
from recbole_diffusion.layers.sessions import softmax_within
from recbole_diffusion.layers.transformer import Dropout


class LastState(nn.Module):
    """The last state of a GRU, whose numbers ``torch.nn.GRU`` has too; runs are short, and this needs no kernel of its own.

    Args:
        hidden_size (int): d.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.input, self.state = (nn.Linear(hidden_size, 3 * hidden_size) for _ in range(2))  # reset, update, new

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[M, k, d] -> [M, d]."""
        state = x.new_zeros(len(x), x.shape[2])
        for given in self.input(x).unbind(1):
            (reset, update, new), (reset_state, update_state, new_state) = (
                given.chunk(3, 1),
                self.state(state).chunk(3, 1),
            )
            new = (new + (reset + reset_state).sigmoid() * new_state).tanh()
            state = new + (update + update_state).sigmoid() * (state - new)
        return state


class RunEncoder(nn.Module):
    """A run of items as half of what they are together, in whatever order, and half of what they are in their order.

    Args:
        hidden_size (int): d.
        length (int): k, from 2 on.
        reducer (str): together: their ``mean``, their ``max``, or a linear map of all of them, ``concat``.
    """

    def __init__(self, hidden_size: int, length: int, reducer: str) -> None:
        super().__init__()
        self.reducer = reducer
        self.joined = nn.Linear(length * hidden_size, hidden_size) if reducer == "concat" else None
        self.order = LastState(hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[M, k, d] -> [M, d]."""
        if self.joined is not None:
            together = self.joined(x.flatten(1))
        else:
            together = x.amax(1) if self.reducer == "max" else x.mean(1)
        return (together + self.order(x)) / 2


class Relation(nn.Module):
    """Attention of a node over those from which edges of one kind come, in heads as wide as the node itself.

    Args:
        hidden_size, n_heads (int): d and H.
        hidden_dropout_prob (float): of the nodes.
        attn_dropout_prob (float): of the weights.
    """

    SLOPE = 0.2  # of the leaky ReLU

    def __init__(self, hidden_size: int, n_heads: int, hidden_dropout_prob: float, attn_dropout_prob: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_heads, hidden_size, hidden_size))  # [H, out, in]
        self.source, self.target, self.bias = (nn.Parameter(torch.empty(n_heads, hidden_size)) for _ in range(3))
        self.hidden_dropout, self.attn_dropout = Dropout(hidden_dropout_prob), Dropout(attn_dropout_prob)

    def forward(self, sources: torch.Tensor, targets: torch.Tensor, edges: Edges) -> torch.Tensor:
        """What nodes get from edges, themselves and a bias.

        The logits need no product with W: ``a . W f = (W^T a) . f``; the messages are computed for edges, which are fewer
        than nodes where sessions are short.

        Args:
            sources (torch.Tensor): [M, d] nodes in which edges start.
            targets (torch.Tensor): [M', d] nodes in which they end.
            edges (Edges): E of them.

        Returns:
            torch.Tensor: [M', H, d].
        """
        sources, targets = self.hidden_dropout(sources), self.hidden_dropout(targets)
        starts = sources[edges.source]
        logits = starts @ self._folded(self.source) + (targets @ self._folded(self.target))[edges.target]
        weights = self.attn_dropout(softmax_within(F.leaky_relu(logits, self.SLOPE), edges.target, len(targets)))
        messages = F.linear(starts, self.weight.flatten(0, 1)).unflatten(1, self.bias.shape)
        kept = targets.unsqueeze(1) + self.bias
        return kept.index_add(0, edges.target, (weights.unsqueeze(-1) * messages).to(kept.dtype))

    def _folded(self, vectors: torch.Tensor) -> torch.Tensor:
        """W^T a of every head: [H, out] -> [in, H]."""
        return torch.einsum("hoi,ho->ih", self.weight, vectors)


class UnitGraph(nn.Module):
    """One layer of messages between the units of a session, along the edges and against them.

    Args:
        n_granularities (int): K.
        hidden_size, n_heads, hidden_dropout_prob, attn_dropout_prob: as of :class:`Relation`.
        relation_residual (str): a node adds itself and a bias once for each relation: ``always``, or ``if_present``,
            for relations of which some session of the batch has an edge (released code).
    """

    def __init__(
        self,
        n_granularities: int,
        hidden_size: int,
        n_heads: int,
        hidden_dropout_prob: float,
        attn_dropout_prob: float,
        relation_residual: str,
    ) -> None:
        super().__init__()
        self.skips = relation_residual == "if_present"
        sizes = hidden_size, n_heads, hidden_dropout_prob, attn_dropout_prob
        between = int(n_granularities > 1)  # one relation for all granularities, from items to them and back
        self.along, self.against = (
            nn.ModuleList(Relation(*sizes) for _ in range(n_granularities + between)) for _ in range(2)
        )

    def forward(self, units: list[torch.Tensor], runs: list[Nodes], layout: PackedLayout) -> list[torch.Tensor]:
        """Pass messages.

        Args:
            units (list): for each granularity the vectors of its nodes [M_k, d].
            runs (list[Nodes]): these nodes.
            layout (PackedLayout): of B sessions.

        Returns:
            list: for each granularity [M_k, d], of length one.
        """
        got = [x.new_zeros(len(x), 1, x.shape[1]) for x in units]
        for start, end, relation, edges in self._edges(runs, layout):
            if self.skips and not len(edges.source):
                continue
            got[end] = got[end] + self.along[relation](units[start], units[end], edges)
            got[start] = got[start] + self.against[relation](units[end], units[start], edges.reversed())
        n_rows = len(layout.last)
        return [unit(new.amax(1) + mean_of_session(x, nodes.row, n_rows)) for new, x, nodes in zip(got, units, runs)]

    @staticmethod
    def _edges(runs: list[Nodes], layout: PackedLayout) -> list[tuple[int, int, int, Edges]]:
        """Granularity of the start and of the end, number of the relation, edges."""
        found = [(k, k, k, transitions(nodes, layout)) for k, nodes in enumerate(runs)]
        for k, nodes in enumerate(runs[1:], 1):
            found.append((0, k, len(runs), item_to_run(runs[0], nodes, layout)))
            found.append((k, 0, len(runs), run_to_item(nodes, runs[0], layout)))
        return found


def mean_of_session(x: torch.Tensor, row: torch.Tensor, n_rows: int) -> torch.Tensor:
    """For each node the mean of those of its session.

    Args:
        x (torch.Tensor): [M, d].
        row (torch.LongTensor): [M] session of each.
        n_rows (int): sessions.

    Returns:
        torch.Tensor: [M, d].
    """
    total = x.new_zeros(n_rows, x.shape[1]).index_add(0, row, x)
    return (total / torch.bincount(row, minlength=n_rows).unsqueeze(1).to(x.dtype))[row]


class UnitReadout(nn.Module):
    """A session as one granularity sees it: ``W [h_last ; sum_v a_v h_v]``, of length one, over nodes v of all of them.

    ``a_v = softmax_v(w . sigmoid(U h_v + b + V h_last))``.

    Args:
        hidden_size (int): d.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.node = nn.Linear(hidden_size, hidden_size)
        self.last = nn.Linear(hidden_size, hidden_size, bias=False)
        self.weight = nn.Linear(hidden_size, 1, bias=False)
        self.output = nn.Linear(2 * hidden_size, hidden_size, bias=False)

    def forward(self, nodes: torch.Tensor, row: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """Read out.

        Args:
            nodes (torch.Tensor): [M, d] of all granularities.
            row (torch.LongTensor): [M] session of each.
            last (torch.Tensor): [B, d] units with which sessions end.

        Returns:
            torch.Tensor: [B, d].
        """
        logits = self.weight((self.node(nodes) + self.last(last)[row]).sigmoid())
        weighted = softmax_within(logits, row, len(last)) * nodes
        found = weighted.new_zeros(last.shape).index_add(0, row, weighted)
        return unit(self.output(torch.cat([last, found], 1)))
