r"""SKNN
################################################

Reference:
    Dietmar Jannach, Malte Ludewig. "When Recurrent Neural Networks Meet the Neighborhood for Session-Based
    Recommendation." RecSys 2017.

Nothing is trained: an item scores the summed similarity of the nearest training sessions that hold it. Sessions that are
equally similar come in the order of the training part, so that every device finds the same neighbours.
"""

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import nn

from recbole_diffusion.layers.overlap import SessionSets

MEETINGS_AT_A_TIME = 2**22  # of an item of a history and a training session, about 100 bytes each while they are sorted


class SKNN(SequentialRecommender):
    """Session-based k nearest neighbours with the cosine of binary item sets.

    Args:
        config (DiffusionConfig): settings, see ``properties/model/SKNN.yaml``.
        dataset (SequenceDataset): the training part.
    """

    input_type = InputType.POINTWISE
    other_parameter_name = ["training_sessions"]  # checkpoints keep them, so that a Recommender needs no data

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.training_sessions = dataset.sessions()
        items, lengths, _ = self.training_sessions
        session = torch.arange(len(lengths)).repeat_interleave(lengths)
        self.sets = SessionSets.of_items(session, items, len(lengths), self.n_items)
        self.n_neighbors = config["n_neighbors"]
        self.nothing = nn.Parameter(torch.zeros(()))  # RecBole's optimizer wants one

    def calculate_loss(self, interaction):
        """Nothing to learn: a zero that depends on the parameter."""
        return self.nothing * 0

    def full_sort_predict(self, interaction):
        """Scores of all items per history: [B, V]."""
        return torch.cat([self._scores(rows) for rows in self._few_at_a_time(interaction[self.ITEM_SEQ])])

    def _few_at_a_time(self, item_seq):
        """Histories [B, L] in pieces whose items stand in so many training sessions that lists of these stay small."""
        held = self.sets.times_held(item_seq).masked_fill(item_seq == 0, 0).sum(1)
        number = (held.cumsum(0) - held) // MEETINGS_AT_A_TIME
        return item_seq.split(number.unique_consecutive(return_counts=True)[1].tolist())

    def _scores(self, item_seq):
        queries = SessionSets.of_rows(item_seq, self.n_items)
        row, items = queries.pairs(torch.arange(len(queries), device=item_seq.device))
        nearest = self.sets.nearest(row, items, len(queries), self.n_neighbors, similarity="cosine")
        query, place = nearest.similarity.nonzero().unbind(1)
        pair, item = self.sets.pairs(nearest.session[query, place])
        scores = torch.zeros(len(queries), self.n_items, device=item_seq.device)
        scores.view(-1).index_add_(0, query[pair] * self.n_items + item, nearest.similarity[query, place][pair])
        return scores

    def predict(self, interaction):
        """Score of one item per history: [B]."""
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID][:, None]).squeeze(1)
