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


def item_graph(items: np.ndarray, lengths: np.ndarray, n_items: int, edges: str) -> scipy.sparse.csr_matrix:
    """Row-normalised adjacency D^-1 A of the items.

    Args:
        items, lengths (np.ndarray): sessions as in :func:`session_item_matrix`.
        n_items (int): V.
        edges (str): ``cooccurrence`` counts pairs of a session in both directions, ``transitions`` counts an item
            and its successor, in this direction.

    Returns:
        scipy.sparse.csr_matrix: [V, V] float32 without diagonal; rows sum to 1, or 0 for items without neighbours.
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
    counts = counts.tocsr()
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
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
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


class GraphPropagation(nn.Module):
    """N layers of message passing over the item graph (DiffSBR Eq. 2-3).

    Args:
        graph (ItemGraph): A.
        n_layers (int): N.
        hidden_size (int): d.
        form (str): ``mean``: X' = normalise(A X W), and the mean of all layers (paper); ``residual``: X' = X + A X,
            and the last layer (released code).
        dropout (float): of the input.
    """

    def __init__(self, graph: ItemGraph, n_layers: int, hidden_size: int, form: str, dropout: float) -> None:
        super().__init__()
        self.graph, self.form, self.n_layers = graph, form, n_layers
        self.dropout = Dropout(dropout)
        n_weights = n_layers if form == "mean" else 0
        self.weights = nn.ModuleList(nn.Linear(hidden_size, hidden_size, bias=False) for _ in range(n_weights))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [V, d] -> [V, d]. In full precision: half has no sparse products, and 1e-12, the least length, is 0 in it."""
        with torch.autocast(x.device.type, enabled=False):
            return self._propagate(self.dropout(x.float()))

    def _propagate(self, x: torch.Tensor) -> torch.Tensor:
        if self.form == "residual":
            for _ in range(self.n_layers):
                x = x + self.graph(x)
            return x
        layers = [x]
        for weight in self.weights:
            layers.append(F.normalize(weight(self.graph(layers[-1])), dim=-1))
        return torch.stack(layers).mean(0)
