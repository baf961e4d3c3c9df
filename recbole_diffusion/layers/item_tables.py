"""Items as the graphs of sessions see them, for session-based models with or without a modality."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from recbole_diffusion.layers.graph import GraphPropagation, SessionGraphs
from recbole_diffusion.layers.kept import KeepsWhatWeightsGive

Tables = tuple[torch.Tensor, "torch.Tensor | None"]  # IDs and looks of all items, [V, d] each


class PropagatedItems(KeepsWhatWeightsGive):
    """Base, named before others, of models whose items are vectors of IDs, and of looks, propagated over a graph.

    The model calls :meth:`init_ids` and, with a modality, :meth:`init_looks`. Of an evaluation the tables are kept.

    Attributes:
        looks_at_items (bool): whether there is a modality.
    """

    graphs: SessionGraphs
    item_embedding: nn.Embedding
    feature_embedding: nn.Embedding
    looks_at_items = False

    def init_ids(self, graphs: SessionGraphs, n_items: int, settings: Any) -> None:
        """Make the vectors of IDs.

        Args:
            graphs (SessionGraphs): counted in training sessions.
            n_items (int): V.
            settings (mapping): ``hidden_size``, ``n_layers``, ``propagation`` and ``graph_dropout``.
        """
        self.graphs = graphs
        self.item_embedding, self.propagation = self._embedded(n_items, settings)

    def init_looks(self, n_items: int, settings: Any) -> None:
        """Make the vectors of looks. Settings: those of IDs and ``train_features``."""
        self.feature_embedding, self.feature_propagation = self._embedded(n_items, settings)
        self.feature_embedding.weight.requires_grad_(settings["train_features"])
        self.looks_at_items = True

    @staticmethod
    def _embedded(n_items: int, settings: Any) -> tuple[nn.Embedding, GraphPropagation]:
        embedding = nn.Embedding(n_items, settings["hidden_size"])
        return embedding, GraphPropagation(
            settings["n_layers"], settings["hidden_size"], settings["propagation"], settings["graph_dropout"]
        )

    def fill_items(self, features: torch.Tensor | None) -> None:
        """Start IDs at U(-1 / sqrt(d), 1 / sqrt(d)), padding at 0 and looks at the values [V, d] of their file."""
        bound = self.item_embedding.embedding_dim**-0.5
        nn.init.uniform_(self.item_embedding.weight, -bound, bound)
        with torch.no_grad():
            self.item_embedding.weight[0] = 0
            if features is not None and self.looks_at_items:
                self.feature_embedding.weight.copy_(features)

    def forget(self) -> None:
        """Drop the tables."""
        self._tables: Tables | None = None

    def item_tables(self, fold: int | None = None) -> Tables:
        """Propagated vectors of all items (DiffSBR Eq. 2-3).

        Args:
            fold (int, optional): of the training sessions that ask, whose own edges the graph then lacks.

        Returns:
            tuple: vectors of IDs and of looks, [V, d] each, None without a modality.
        """
        if fold is None and self.keeps and self._tables is not None:
            return self._tables
        graph, looks = self.graphs.seen_from(fold), None
        ids = self.propagation(self.item_embedding.weight, graph)
        if self.looks_at_items:
            looks = self.feature_propagation(self.feature_embedding.weight, graph)
        if fold is None and self.keeps:
            self._tables = ids, looks
        return ids, looks

    def item_vectors(self) -> torch.Tensor:
        """What sessions are compared with: [V, d]."""
        return self.item_tables()[0]
