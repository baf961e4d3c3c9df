"""Scoring a query session against a bank of sessions (DiffSBR Eq. 6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from recbole_diffusion.layers.chunks import numbers_at_a_time
from recbole_diffusion.layers.top_items import largest
from recbole_diffusion.layers.transformer import Dropout

SESSIONS_AT_A_TIME = 4096  # of a bank, whose similarities to a batch of queries stay in the cache as well


class SessionScorer(nn.Module):
    """Base of the similarities: searches a bank for the sessions nearest to some queries."""

    def index(self, bank: torch.Tensor) -> torch.Tensor:
        """What is kept of the bank for :meth:`scores`: [S, d] -> [S, d]."""
        raise NotImplementedError

    def project(self, queries: torch.Tensor) -> torch.Tensor:
        """What :meth:`scores` wants of queries: [B, d] -> [B, d]."""
        raise NotImplementedError

    def scores(self, projected: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Similarity of every pair. projected: [B, d]; index: of S sessions -> [B, S]."""
        raise NotImplementedError

    @torch.no_grad()
    def nearest(
        self, queries: torch.Tensor, index: torch.Tensor, k: int, excluded: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The most similar sessions, without a matrix of all pairs.

        Args:
            queries (torch.Tensor): [B, d].
            index (torch.Tensor): what :meth:`index` made of S sessions.
            k (int): neighbours, fewer than S.
            excluded (torch.LongTensor, optional): [B] the session that each query may not get.

        Returns:
            torch.LongTensor: [B, k] numbers of sessions, the nearest first.
        """
        projected, values, numbers = self.project(queries), [], []
        for start in range(0, len(index), SESSIONS_AT_A_TIME):
            scores = self.scores(projected, index[start : start + SESSIONS_AT_A_TIME])
            if excluded is not None:
                inside = ((excluded >= start) & (excluded < start + scores.shape[1])).nonzero().squeeze(1)
                scores[inside, excluded[inside] - start] = float("-inf")
            best = largest(scores, min(k, scores.shape[1]))
            values.append(scores.gather(1, best))
            numbers.append(best + start)
        chosen = torch.cat(values, 1).topk(k).indices
        return torch.cat(numbers, 1).gather(1, chosen)


class DirectionScorer(SessionScorer):
    """sim(s, s') = cos(s, s'), with nothing to learn."""

    def index(self, bank: torch.Tensor) -> torch.Tensor:
        """What is kept of the bank for :meth:`scores`: [S, d] -> [S, d]."""
        return F.normalize(bank, dim=-1)

    def project(self, queries: torch.Tensor) -> torch.Tensor:
        """What :meth:`scores` wants of queries: [B, d] -> [B, d]."""
        return self.index(queries)

    def scores(self, projected: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Similarity of every pair. projected: [B, d]; index: of S sessions -> [B, S]."""
        return projected @ index.t()


class TwoTowerScorer(SessionScorer):
    """sim(s, s') = g(s) . g(s') with one tower g for both (released code).

    Args:
        hidden_size (int): d.
        dropout (float): inside the tower.
    """

    def __init__(self, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.tower = nn.Sequential(
            nn.Linear(hidden_size, hidden_size // 2),
            nn.ReLU(),
            Dropout(dropout),
            nn.Linear(hidden_size // 2, hidden_size),
        )

    def index(self, bank: torch.Tensor) -> torch.Tensor:
        """What is kept of the bank for :meth:`scores`: [S, d] -> [S, d]."""
        return self.tower(bank)

    def project(self, queries: torch.Tensor) -> torch.Tensor:
        """What :meth:`scores` wants of queries: [B, d] -> [B, d]."""
        return self.index(queries)

    def scores(self, projected: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Similarity of every pair. projected: [B, d]; index: of S sessions -> [B, S]."""
        return projected @ index.t()

    def pairs(self, queries: torch.Tensor, sessions: torch.Tensor) -> torch.Tensor:
        """Similarity of given pairs. queries: [B, d]; sessions: [B, k, d] -> [B, k]."""
        return (self.index(sessions) @ self.project(queries).unsqueeze(-1)).squeeze(-1)


class CosineScorer(TwoTowerScorer):
    """sim(s, s') = cos(g(s), g(s')) / temperature: other than under an inner product, long vectors are no hubs.

    Args:
        hidden_size (int): d.
        dropout (float): inside the tower.
        temperature (float): smaller ones tell the neighbours of a session apart more sharply.
    """

    def __init__(self, hidden_size: int, dropout: float, temperature: float) -> None:
        super().__init__(hidden_size, dropout)
        self.temperature = temperature

    def index(self, bank: torch.Tensor) -> torch.Tensor:
        """What is kept of the bank for :meth:`scores`: [S, d] -> [S, d]."""
        return F.normalize(super().index(bank), dim=-1)

    def project(self, queries: torch.Tensor) -> torch.Tensor:
        """What :meth:`scores` wants of queries: [B, d] -> [B, d]."""
        return self.index(queries) / self.temperature


class ConcatenationScorer(SessionScorer):
    """sim(s, s') = MLP([s ; s']) (Eq. 6), whose first layer is split: W [s ; s'] = W_a s + W_b s'.

    So a bank is projected once, and a pair costs one ReLU and one product of width d.

    Args:
        hidden_size (int): d, also the width of the hidden layer.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.query = nn.Linear(hidden_size, hidden_size)
        self.session = nn.Linear(hidden_size, hidden_size, bias=False)
        self.output = nn.Linear(hidden_size, 1)

    def index(self, bank: torch.Tensor) -> torch.Tensor:
        """What is kept of the bank for :meth:`scores`: [S, d] -> [S, d]."""
        return self.session(bank)

    def project(self, queries: torch.Tensor) -> torch.Tensor:
        """What :meth:`scores` wants of queries: [B, d] -> [B, d]."""
        return self.query(queries)

    @torch.no_grad()
    def scores(self, projected: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Similarity of every pair, without gradient. projected: [B, d]; index: of S sessions -> [B, S].

        As max(0, q + s) = max(-q, s) + q, the large part takes one pass over the hidden units instead of two.
        """
        rows, weight = max(1, numbers_at_a_time(projected) // projected.numel()), self.output.weight[0]
        scores = projected.new_empty(len(projected), len(index))
        hidden, bound = projected.new_empty(len(projected), rows, projected.shape[-1]), -projected.unsqueeze(1)
        for start in range(0, len(index), rows):
            part = index[start : start + rows]
            scores[:, start : start + rows] = torch.maximum(part, bound, out=hidden[:, : len(part)]) @ weight
        return scores + (projected @ weight).unsqueeze(1) + self.output.bias

    def pairs(self, queries: torch.Tensor, sessions: torch.Tensor) -> torch.Tensor:
        """Similarity of given pairs. queries: [B, d]; sessions: [B, k, d] -> [B, k]."""
        return self._score(self.query(queries).unsqueeze(1), self.session(sessions))

    def _score(self, query: torch.Tensor, session: torch.Tensor) -> torch.Tensor:
        return (query + session).relu() @ self.output.weight[0] + self.output.bias


def session_scorer(name: str, hidden_size: int, dropout: float, temperature: float) -> SessionScorer:
    """The similarity of a name: ``mlp`` (:class:`ConcatenationScorer`), ``cosine`` (:class:`CosineScorer`)
    or ``two_tower`` (:class:`TwoTowerScorer`)."""
    if name == "mlp":
        return ConcatenationScorer(hidden_size)
    if name == "cosine":
        return CosineScorer(hidden_size, dropout, temperature)
    return TwoTowerScorer(hidden_size, dropout)


def feedback_loss(similarity: torch.Tensor, weight: torch.Tensor, error: torch.Tensor, form: str) -> torch.Tensor:
    """What a retriever learns from the errors that its neighbours lead to (DiffSBR Eq. 14).

    Args:
        similarity (torch.Tensor): [B, k] of a query and its neighbours.
        weight (torch.Tensor): [B, k] its softmax.
        error (torch.Tensor): [B, k] of what each neighbour led to, without gradient.
        form (str): ``weighted``, the errors' mean under the weights, or ``ranking``, of all pairs of neighbours.

    Returns:
        torch.Tensor: [] mean loss.
    """
    if form == "weighted":
        return (weight * error).sum(1).mean()
    better = error.unsqueeze(2) < error.unsqueeze(1)  # [B, k, k] neighbour a restores better than b
    margin = (similarity.unsqueeze(2) - similarity.unsqueeze(1)).float()  # a sum of half values may overflow
    return (F.softplus(-margin) * better).sum() / better.sum().clamp(min=1)
