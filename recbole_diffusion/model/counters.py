"""Popularity, Successors and CoOccurrence: counts of the training part, the floors under which no model should lie.

Nothing is trained. A score is a place: the best item has the highest, no two items of a history have the same, and so
no tie is left to the ranking.
"""

import numpy as np
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import nn

from recbole_diffusion.data.dataset import numbered_in_groups
from recbole_diffusion.layers.graph import edge_counts, item_graph, session_item_matrix

WHOLE = 2**40  # shares are whole numbers of this part of one, so that sums are exact in whatever order they are made


class Popularity(SequentialRecommender):
    """Items by how often they occur in the training part; of equal ones that with the smaller number, met first.

    Args:
        config (DiffusionConfig): settings, see ``properties/model/Popularity.yaml``.
        dataset (SequenceDataset): the training part.
    """

    input_type = InputType.POINTWISE
    other_parameter_name = ["item_counts"]  # checkpoints keep them, so that a Recommender needs no data

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.item_counts = dataset.item_counts().int()
        order = self.item_counts[1:].argsort(stable=True, descending=True) + 1
        places = torch.zeros(self.n_items)
        places[order] = torch.arange(self.n_items - 1, 0, -1).float()
        self.register_buffer("places", places, persistent=False)  # [V] from 1, the highest for the most popular item
        self.nothing = nn.Parameter(torch.zeros(()))  # RecBole's optimizer wants one

    def calculate_loss(self, interaction):
        """Nothing to learn: a zero that depends on the parameter."""
        return self.nothing * 0

    def full_sort_predict(self, interaction):
        """Scores of all items per history: [B, V]."""
        return self.places.repeat(len(interaction[self.ITEM_SEQ]), 1)

    def predict(self, interaction):
        """Score of one item per history: [B]."""
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID][:, None]).squeeze(1)

    def _best_last(self, group, items, amount):
        """Order of pairs of a group and an item by group, then by amount, then by popularity: [n] each -> [n]."""
        order = self.places[items].argsort()  # from the least popular on
        order = order[amount[order].argsort(stable=True)]
        return order[group[order].argsort(stable=True)]


class Successors(Popularity):
    """The most frequent successors of the last item in the training part; the rest, and equal ones, by popularity."""

    other_parameter_name = ["item_counts", "transitions"]

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.transitions = tuple(column.int() for column in dataset.transitions())
        items, successors, counts = self.transitions
        order = self._best_last(items, successors, counts)
        numbers = torch.bincount(items, minlength=self.n_items)
        self.register_buffer("numbers", numbers, persistent=False)  # [V] how many successors an item has
        self.register_buffer("starts", numbers.cumsum(0) - numbers, persistent=False)  # [V] the first of them
        self.register_buffer("successors", successors[order], persistent=False)  # of one item the best is the last
        self.register_buffer("over", self.n_items + numbered_in_groups(numbers)[1].float(), persistent=False)

    def full_sort_predict(self, interaction):
        """Scores of all items per history: [B, V]; every successor is above all that never followed."""
        last = interaction[self.ITEM_SEQ].gather(1, interaction[self.ITEM_SEQ_LEN][:, None] - 1).squeeze(1)
        rows, place = numbered_in_groups(self.numbers[last])
        cells = self.starts[last[rows]] + place
        scores = super().full_sort_predict(interaction)
        scores[rows, self.successors[cells].long()] = self.over[cells]
        return scores


class CoOccurrence(Popularity):
    """Items by how often they stand in training sessions with those of the history; the rest, and equal ones, by popularity.

    An item scores the sum, over the items of the history, of their rows in the graph that DIMO and DiffSBR multiply with
    (:func:`recbole_diffusion.layers.graph.item_graph`), where the companions of an item share 1 by their counts.
    """

    other_parameter_name = ["item_counts", "training_sessions"]

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.training_sessions = dataset.sessions()
        items, lengths, _ = (column.numpy() for column in self.training_sessions)
        self.shares = item_graph(edge_counts(items, lengths, self.n_items, "cooccurrence"))  # stays on the CPU
        self.shares.data = np.rint(self.shares.data.astype(np.float64) * WHOLE).astype(np.int64)

    def full_sort_predict(self, interaction):
        """Scores of all items per history: [B, V]; every companion is above all that are none."""
        (row, item), share = self._companions_of(interaction[self.ITEM_SEQ])
        order = self._best_last(row, item, share)
        scores = super().full_sort_predict(interaction)
        scores[row[order], item[order]] = self.n_items + numbered_in_groups(row.bincount())[1].float()
        return scores

    def _companions_of(self, item_seq):
        """Rows and companions of their items [2, n], row by row, and their shares [n]: of [B, L]."""
        rows = item_seq.cpu().numpy()
        histories = session_item_matrix(rows[rows > 0], (rows > 0).sum(1), self.n_items).astype(np.int64)
        found = (histories @ self.shares).tocoo()
        pairs = torch.as_tensor(np.stack([found.row, found.col]), dtype=torch.long)
        return pairs.to(item_seq.device), torch.as_tensor(found.data).to(item_seq.device)
