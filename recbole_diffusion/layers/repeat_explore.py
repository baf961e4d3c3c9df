"""Recommending by a mixture: of several views of a session, and of its own items and new ones (MSGIFSR, RepeatNet)."""

from __future__ import annotations

from functools import reduce

import torch
import torch.nn.functional as F
from torch import nn

from recbole_diffusion.layers.chunks import rows_at_a_time
from recbole_diffusion.layers.cosine import CosineHead
from recbole_diffusion.layers.cross_entropy import mixture_cross_entropy
from recbole_diffusion.layers.repetition import Additions
from recbole_diffusion.layers.session_graph import Nodes
from recbole_diffusion.layers.sessions import log_softmax_within


class RepeatExplore(nn.Module):
    """``p(i) = sum_k w_k p_k(i)`` over K views of a session, weights w being those of all sessions.

    A view is split: ``p_k = phi_k softmax`` over the items in the session, ``(1 - phi_k) softmax`` over all others; the
    same small network finds phi_k for every k. Without the split, ``p_k`` is a softmax over all items.

    Args:
        hidden_size (int): d.
        n_views (int): K. With one view there are no weights.
        scale (float): what cosines are multiplied by to be logits.
        split (bool): into items in the session and new ones.
    """

    def __init__(self, hidden_size: int, n_views: int, scale: float, split: bool) -> None:
        super().__init__()
        self.cosine = CosineHead(scale)
        self.view = nn.Parameter(F.one_hot(torch.tensor(0), n_views).float()) if n_views > 1 else None
        self.habit = None
        if split:
            layers = nn.Linear(hidden_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, 2, bias=False)
            self.habit = nn.Sequential(*layers)

    def forward(self, views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logarithms of the weights of the parts of the mixture.

        Args:
            views (torch.Tensor): [B, K, d].

        Returns:
            tuple: of the session's own items and of all others, [B, K] each; without the split both are ``log w``.
        """
        weight = views.new_zeros(views.shape[:2])
        if self.view is not None:
            weight = weight + self.view.log_softmax(0)
        if self.habit is None:
            return weight, weight
        own, new = self.habit(views).to(weight.dtype).log_softmax(-1).unbind(-1)
        return weight + own, weight + new

    def loss(self, views: torch.Tensor, items: torch.Tensor, target: torch.Tensor, nodes: Nodes) -> torch.Tensor:
        """Mean of ``-log p(target)``; no matrix of sessions and items is held, and targets in their session need none.

        Args:
            views (torch.Tensor): [B, K, d] of length one.
            items (torch.Tensor): [V, d] of length one, row 0 padding.
            target (torch.LongTensor): [B].
            nodes (Nodes): the items of each session.

        Returns:
            torch.Tensor: [].
        """
        own, new = self(views)
        users, others = self.cosine.users(views), items[1:]
        if self.habit is None:
            return mixture_cross_entropy(users, others, target - 1, new) / len(target)
        met = (nodes.items[:, 0] == target[nodes.row]).nonzero().squeeze(1)
        log_probability = self._own(users, items, own, nodes)[met]
        explores = torch.ones(len(target), dtype=torch.bool, device=target.device)
        explores[nodes.row[met]] = False
        row = explores.nonzero().squeeze(1)
        left_out = _left_out(nodes, row, users)
        explored = mixture_cross_entropy(users[row], others, target[row] - 1, new[row], left_out)
        return (explored - log_probability.sum()) / len(target)

    def _own(self, users: torch.Tensor, items: torch.Tensor, log_weights: torch.Tensor, nodes: Nodes) -> torch.Tensor:
        """Log probability of each item of the sessions.

        Args:
            users (torch.Tensor): [B, K, d].
            items (torch.Tensor): [V, d].
            log_weights (torch.Tensor): [B, K].
            nodes (Nodes): M of them.

        Returns:
            torch.Tensor: [M].
        """
        logits = (users[nodes.row] * items[nodes.items]).sum(-1)
        within = log_softmax_within(logits, nodes.row, len(users))
        return (log_weights[nodes.row] + within).logsumexp(1)

    @torch.no_grad()
    def scores(self, views: torch.Tensor, items: torch.Tensor, nodes: Nodes) -> torch.Tensor:
        """Log probabilities of all items, without gradient; a few sessions at a time are with all items in all views.

        Args:
            views, items, nodes: as of :meth:`loss`.

        Returns:
            torch.Tensor: [B, V], minus infinity in column 0.
        """
        own, new = self(views)
        users = self.cosine.users(views)
        found = users.new_empty(len(users), len(items))
        own_cells = nodes.row, nodes.items[:, 0]
        for start in range(0, len(users), rows_at_a_time(items)):
            some = slice(start, start + rows_at_a_time(items))
            logits = users[some] @ items.t()  # [b, K, V]
            logits[..., 0] = float("-inf")
            if self.habit is not None:
                here = (nodes.row >= start) & (nodes.row < start + len(logits))
                logits[own_cells[0][here] - start, :, own_cells[1][here]] = float("-inf")
            logits += (new[some] - logits.logsumexp(-1)).unsqueeze(-1)
            found[some] = reduce(torch.logaddexp, logits.unbind(1))
        if self.habit is not None:
            found[own_cells] = self._own(users, items, own, nodes)
            found[:, 0] = float("-inf")  # a session that holds all items leaves no probability to divide by
        return found


def _left_out(nodes: Nodes, rows: torch.Tensor, users: torch.Tensor) -> Additions:
    """Minus infinity for the items of some sessions, in the logits of all their views, whose columns start with item 1.

    Args:
        nodes (Nodes): the items of B sessions.
        rows (torch.LongTensor): [n] the sessions, ascending.
        users (torch.Tensor): [B, K, d].

    Returns:
        Additions: to the logits of session i and view k in row ``i * K + k``.
    """
    n_rows, n_views = users.shape[:2]
    number = torch.full((n_rows,), -1, device=rows.device)
    number[rows] = torch.arange(len(rows), device=rows.device)
    here = (number[nodes.row] >= 0).nonzero().squeeze(1)
    row = (number[nodes.row[here], None] * n_views + torch.arange(n_views, device=rows.device)).flatten()
    column = nodes.items[here].expand(-1, n_views).flatten() - 1
    order = row.argsort()
    return Additions(row[order], column[order], users.new_full(row.shape, float("-inf")))
