"""Item graphs of sessions as sparse matrices, and propagation of embeddings over them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import scipy.sparse
import torch
import torch.nn.functional as F
from torch import nn

from recbole_diffusion.layers.transformer import Dropout


def session_item_matrix(items: np.ndarray, lengths: np.ndarray, n_items: int) -> scipy.sparse.csr_matrix:
    """How often each session holds each item.

    Args:
        items (np.ndarray): [n] items of all sessions, one session after the other.
        lengths (np.ndarray): [S] length of each session.
        n_items (int): V.

    Returns:
        scipy.sparse.csr_matrix: [S, V] counts.
    """
    rows = np.repeat(np.arange(len(lengths)), lengths)
    return scipy.sparse.csr_matrix((np.ones(len(items), dtype=np.float32), (rows, items)), (len(lengths), n_items))


def edge_counts(items: np.ndarray, lengths: np.ndarray, n_items: int, edges: str) -> scipy.sparse.csr_matrix:
    """How often two items are neighbours in a session.

    Args:
        items, lengths (np.ndarray): sessions as in :func:`session_item_matrix`.
        n_items (int): V.
        edges (str): ``cooccurrence`` counts pairs of a session in both directions, ``transitions`` counts an item
            and its successor, in this direction.

    Returns:
        scipy.sparse.csr_matrix: [V, V] float32 without diagonal; whole numbers, so that sums and differences are exact.
    """
    if edges == "cooccurrence":
        sessions = session_item_matrix(items, lengths, n_items)
        counts = (sessions.T @ sessions).tocoo()
    else:
        ends = np.cumsum(lengths) - 1
        source = np.delete(np.arange(len(items)), ends)
        ones = np.ones(len(source), dtype=np.float32)
        counts = scipy.sparse.coo_matrix((ones, (items[source], items[source + 1])), (n_items, n_items))
    counts.setdiag(0)
    return counts.tocsr()


def item_graph(counts: scipy.sparse.csr_matrix) -> scipy.sparse.csr_matrix:
    """Row-normalised adjacency D^-1 A of the items.

    Args:
        counts (scipy.sparse.csr_matrix): [V, V] of :func:`edge_counts`.

    Returns:
        scipy.sparse.csr_matrix: [V, V] float32; rows sum to 1, or 0 for items without neighbours.
    """
    counts.eliminate_zeros()
    degree = np.asarray(counts.sum(1)).ravel()
    inverse = np.divide(1, degree, out=np.zeros_like(degree), where=degree > 0)
    return (scipy.sparse.diags(inverse) @ counts).tocsr().astype(np.float32)


class SparseMatrix(nn.Module):
    """A constant sparse matrix as three plain buffers, which copy and move like any other.

    Args:
        matrix (scipy.sparse.csr_matrix): [V, V].
    """

    starts: torch.Tensor
    columns: torch.Tensor
    values: torch.Tensor

    def __init__(self, matrix: scipy.sparse.csr_matrix) -> None:
        super().__init__()
        self.shape = matrix.shape
        # int32, which the library of sparse products takes as it is
        self.register_buffer("starts", torch.as_tensor(matrix.indptr, dtype=torch.int32), persistent=False)
        self.register_buffer("columns", torch.as_tensor(matrix.indices, dtype=torch.int32), persistent=False)
        self.register_buffer("values", torch.as_tensor(matrix.data), persistent=False)

    def csr(self) -> torch.Tensor:
        """The matrix as a torch tensor, without copying."""
        with warnings.catch_warnings():
            for message in ("Sparse CSR tensor support is in beta", "Sparse invariant checks are implicitly disabled"):
                warnings.filterwarnings("ignore", message=message)
            return torch.sparse_csr_tensor(self.starts, self.columns, self.values, self.shape, check_invariants=False)


class _SparseProduct(torch.autograd.Function):
    """A @ x with the transposed matrix at hand, which autograd would build anew in every step."""

    @staticmethod
    def forward(ctx: Any, matrix: SparseMatrix, transposed: SparseMatrix, x: torch.Tensor) -> torch.Tensor:
        ctx.transposed = transposed
        return matrix.csr() @ x

    @staticmethod
    def backward(ctx: Any, grad: Any) -> tuple[None, None, torch.Tensor]:
        return None, None, ctx.transposed.csr() @ grad.contiguous()


class ItemGraph(nn.Module):
    """Product with a constant graph.

    Args:
        graph (scipy.sparse.csr_matrix): [V, V], see :func:`item_graph`.
    """

    def __init__(self, graph: scipy.sparse.csr_matrix) -> None:
        super().__init__()
        self.matrix, self.transposed = SparseMatrix(graph), SparseMatrix(graph.T.tocsr())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [V, d] -> A x, [V, d]; float32, as sparse products exist in full precision only."""
        return _SparseProduct.apply(self.matrix, self.transposed, x)


class SessionGraphs(nn.Module):
    """The item graph of all sessions and, where training is cross-fitted, one for each fold without the fold's sessions.

    A training session that meets its own edges learns to trust edges that a new session does not have.

    Args:
        n_items (int): V.
        edges (str): see :func:`edge_counts`.
        items, lengths (np.ndarray): sessions as in :func:`session_item_matrix`.
        folds (np.ndarray, optional): [S] fold of each session, counted from 0; -1 is in none, and in all graphs.
    """

    def __init__(
        self, n_items: int, edges: str, items: np.ndarray, lengths: np.ndarray, folds: np.ndarray | None = None
    ) -> None:
        super().__init__()
        counts = edge_counts(items, lengths, n_items, edges)
        self.whole, self.without = ItemGraph(item_graph(counts)), nn.ModuleList()
        for fold in range(0 if folds is None else int(folds.max()) + 1):
            own = folds == fold
            counts_of_own = edge_counts(items[np.repeat(own, lengths)], lengths[own], n_items, edges)
            self.without.append(ItemGraph(item_graph(counts - counts_of_own)))

    def seen_from(self, fold: int | None) -> ItemGraph:
        """The graph for sessions of a fold, or for sessions of none, as in an evaluation."""
        return self.whole if fold is None else self.without[fold]  # type: ignore[return-value]


class GraphPropagation(nn.Module):
    """N layers of message passing over the item graph (DiffSBR Eq. 2-3).

    Args:
        n_layers (int): N.
        hidden_size (int): d.
        form (str): ``mean``: X' = normalise(A X W), and the mean of all layers (paper); ``residual``: X' = X + A X,
            and the last layer (released code).
        dropout (float): of the input.
    """

    def __init__(self, n_layers: int, hidden_size: int, form: str, dropout: float) -> None:
        super().__init__()
        self.form, self.n_layers = form, n_layers
        self.dropout = Dropout(dropout)
        n_weights = n_layers if form == "mean" else 0
        self.weights = nn.ModuleList(nn.Linear(hidden_size, hidden_size, bias=False) for _ in range(n_weights))

    def forward(self, x: torch.Tensor, graph: ItemGraph) -> torch.Tensor:
        """Propagate in full precision: half has no sparse products, and 1e-12, the least length, is 0 in it.

        Args:
            x (torch.Tensor): [V, d].
            graph (ItemGraph): A.

        Returns:
            torch.Tensor: [V, d].
        """
        with torch.autocast(x.device.type, enabled=False):
            return self._propagate(self.dropout(x.float()), graph)

    def _propagate(self, x: torch.Tensor, graph: ItemGraph) -> torch.Tensor:
        if self.form == "residual":
            for _ in range(self.n_layers):
                x = x + graph(x)
            return x
        layers = [x]
        for weight in self.weights:
            layers.append(F.normalize(weight(graph(layers[-1])), dim=-1))
        return torch.stack(layers).mean(0)
