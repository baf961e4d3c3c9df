"""Popularity and Successors: counts of the training part, the floors under which no model of a table should lie.

Nothing is trained. A score is a place: the best item has the highest, no two items of a history have the same, and so
no tie is left to the ranking.
"""

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import nn

from recbole_diffusion.data.dataset import numbered_in_groups


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


class Successors(Popularity):
    """The most frequent successors of the last item in the training part; the rest, and equal ones, by popularity."""

    other_parameter_name = ["item_counts", "transitions"]

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.transitions = tuple(column.int() for column in dataset.transitions())
        items, successors, counts = self.transitions
        order = self.places[successors].argsort()  # from the least popular on
        order = order[counts[order].argsort(stable=True)]
        order = order[items[order].argsort(stable=True)]
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
