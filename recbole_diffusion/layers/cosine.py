"""Recommending by the cosine of user and item, for training and for prediction alike (NISER, 2019).

The cosine is an inner product of unit vectors, so that whatever works with inner products works here, the fused
cross-entropy too, and no matrix of all users and items is needed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from recbole_diffusion.layers.cross_entropy import linear_cross_entropy
from recbole_diffusion.layers.kept import KeepsWhatWeightsGive
from recbole_diffusion.layers.repetition import Additions
from recbole_diffusion.layers.transformer import Dropout


class CosineHead(KeepsWhatWeightsGive):
    """Logits ``scale * cos(user, item)`` as the inner product of :meth:`users` and :meth:`items`.

    A model returns ``users`` of its states from ``encode`` and ``items`` of its table from ``item_vectors``.

    Args:
        scale (float): what the cosines are multiplied by; a softmax of bare cosines would be almost flat.
        table_dropout (float): of the items as targets, in training.
    """

    def __init__(self, scale: float, table_dropout: float = 0.0) -> None:
        super().__init__()
        self.scale = scale
        self.dropout = Dropout(table_dropout)

    def forget(self) -> None:
        """Drop the items that were kept."""
        self._items: torch.Tensor | None = None

    def users(self, states: torch.Tensor) -> torch.Tensor:
        """States [..., d] of any length -> [..., d] of the length ``scale``, in float32 at least."""
        return self.scale * unit(states)

    def items(self, table: torch.Tensor) -> torch.Tensor:
        """Rows of length one: [V, d] -> [V, d], without dropout; row 0, padding, stays as it is where it is zero.

        In evaluation they are kept until the weights may have changed, so that one head belongs to one table.
        """
        if not self.keeps:
            return unit(table)
        if self._items is None:
            self._items = unit(table)
        return self._items

    def loss(
        self, users: torch.Tensor, items: torch.Tensor, target: torch.Tensor, additions: Additions | None = None
    ) -> torch.Tensor:
        """Mean cross-entropy over all items but padding, with dropout of the items in training.

        Args:
            users (torch.Tensor): [N, d] from :meth:`users`.
            items (torch.Tensor): [V, d] from :meth:`items`.
            target (torch.LongTensor): [N] items from 1 on.
            additions (Additions, optional): numbers that are added to some of the logits, none in column 0.

        Returns:
            torch.Tensor: [].
        """
        met = additions and additions.from_column(1)
        return linear_cross_entropy(users, self.dropout(items)[1:], target - 1, met)[0]


def unit(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors [..., d] of length one, in float32 at least; zeros stay zeros."""
    return F.normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=-1)
