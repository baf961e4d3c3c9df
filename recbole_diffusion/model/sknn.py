r"""SKNN
################################################

Reference:
    Dietmar Jannach, Malte Ludewig. "When Recurrent Neural Networks Meet the Neighborhood for Session-Based
    Recommendation." RecSys 2017.

Nothing is trained: an item scores the summed similarity of the nearest training sessions that hold it.
"""

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import nn

from recbole_diffusion.layers.graph import SparseMatrix, session_item_matrix


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
        sessions = session_item_matrix(items.numpy(), lengths.numpy(), self.n_items)
        sessions.data[:] = 1
        self.n_neighbors = min(config["n_neighbors"], sessions.shape[0])
        self.sessions, self.by_item = SparseMatrix(sessions), SparseMatrix(sessions.T.tocsr())
        self.register_buffer("norms", torch.as_tensor(sessions.sum(1)).flatten().sqrt(), persistent=False)
        self.nothing = nn.Parameter(torch.zeros(()))  # RecBole's optimizer wants one

    def calculate_loss(self, interaction):
        """Nothing to learn: a zero that depends on the parameter."""
        return self.nothing * 0

    def full_sort_predict(self, interaction):
        """Scores of all items per history: [B, V]."""
        item_seq = interaction[self.ITEM_SEQ]
        query = torch.zeros(len(item_seq), self.n_items, device=item_seq.device).scatter_(1, item_seq, 1.0)
        query[:, 0] = 0
        overlap = (self.sessions.csr() @ query.t()).t()  # [B, S] shared items
        similarity = overlap / self.norms / query.sum(1, keepdim=True).sqrt()
        nearest = similarity.topk(self.n_neighbors)
        weight = torch.zeros_like(similarity).scatter_(1, nearest.indices, nearest.values)
        return (self.by_item.csr() @ weight.t()).t()

    def predict(self, interaction):
        """Score of one item per history: [B]."""
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID][:, None]).squeeze(1)
