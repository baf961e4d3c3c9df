r"""STOSA
################################################

Reference:
    Ziwei Fan, Zhiwei Liu, Yu Wang, Alice Wang, Zahra Nazari, Lei Zheng, Hao Peng, Philip S. Yu. "Sequential
    Recommendation via Stochastic Self-Attention." WWW 2022.

Items and users are Gaussians with diagonal covariance. Attention and ranking go by the squared 2-Wasserstein distance,
which :mod:`recbole_diffusion.layers.wasserstein` turns into inner products. ``properties/model/STOSA.yaml`` says what each
setting chooses, ``docs/stosa.md`` where the released code is another model than the paper's.
"""

import torch
import torch.nn.functional as F
from torch import nn

from recbole_diffusion.layers.cross_entropy import linear_cross_entropy
from recbole_diffusion.layers.negatives import unseen_items
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.wasserstein import GaussianTransformer, as_key, as_point, as_query, squared_distance
from recbole_diffusion.model.base import DiffusionSequentialRecommender


class STOSA(DiffusionSequentialRecommender):
    """Sequential recommendation via stochastic self-attention.

    Args:
        config (DiffusionConfig): settings, see ``properties/model/STOSA.yaml``.
        dataset (SequenceDataset): for the number of items.

    Attributes:
        item_embedding (nn.Embedding): [V, d] means of the items, row 0 is padding.
        item_spread (nn.Embedding): [V, d]; the variances are ``ELU(.) + 1`` of it.
    """

    learns_repetition = True

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        hidden = config["hidden_size"]
        self.item_embedding = nn.Embedding(self.n_items, hidden)
        self.item_spread = nn.Embedding(self.n_items, hidden)
        self.transformer = GaussianTransformer(
            config["n_layers"],
            config["n_heads"],
            hidden,
            config["inner_size"],
            self.max_seq_length,
            config["hidden_dropout_prob"],
            config["attn_dropout_prob"],
            config["layer_norm_eps"],
            config["shared_norm"],
            mixes_means=config["mean_path"] == "paper",
        )
        self.initialize_normal(config["initializer_range"], config["initializer_mean"])

    # The user as a Gaussian, and ranking by distance

    def states(self, items, lengths, position, layout=None):
        """Points of the Gaussians after every item.

        Args:
            items (torch.LongTensor): [N] packed, or padded on the right, [B, L].
            lengths (torch.LongTensor): of the histories that the items belong to, broadcast to their shape.
            position (torch.LongTensor): 0-based place of each item in its history, broadcast as well.
            layout (PackedLayout, optional): where packed items belong.

        Returns:
            torch.Tensor: [N, 2d] or [B, L, 2d].
        """
        if self.config["pos_align"] == "end":
            position = (position + self.max_seq_length - lengths).clamp(max=self.max_seq_length - 1)
        return self.transformer(self.item_embedding(items), self.item_spread(items), position, layout)

    def encode(self, item_seq, item_seq_len):
        layout = PackedLayout(item_seq_len)
        points = self.states(layout.pack(item_seq), layout.length, layout.position, layout)
        return as_query(points[layout.last])

    def item_points(self, items):
        """Points of the Gaussians of items: [...] -> [..., 2d]."""
        return as_point(self.item_embedding(items), self.item_spread(items))

    def item_vectors(self):
        """Keys of all items, [V, 2d + 1]: the larger the product with a user, the smaller the distance."""
        return as_key(as_point(self.item_embedding.weight, self.item_spread.weight))

    # Training

    def loss_weights(self, interaction):
        return {None: self.taught_tokens(interaction)}

    def loss_parts(self, item_seq, item_seq_len, target):
        layout = PackedLayout(item_seq_len)
        items = layout.pack(item_seq)
        users = self.states(items, layout.length, layout.position, layout)
        next_item = layout.next_items(items, target)
        met = self.repetition and self.repetition.at_every_token(items, layout)
        owners, seen_by, seen = layout.row, torch.cat([layout.row, layout.row]), torch.cat([items, next_item])
        taught = self.taught(layout)
        if taught is not None:
            users, next_item, owners = users[taught], next_item[taught], owners[taught]
            met = met and met.of_rows(taught, layout.n_tokens)
        if self.config["loss_type"] == "CE":
            keys = self.item_vectors()[1:]
            loss = linear_cross_entropy(as_query(users), keys, next_item - 1, met and met.from_column(1))[0]
            return {"recommendation": loss}
        negative = unseen_items(owners, seen_by, seen, self.n_items)
        return self._compare(users, next_item, negative, met)

    def _compare(self, users, positive, negative, met):
        """BPR on distances, and the regulariser: the positive item nearer to the user than to the negative item.

        Args:
            users (torch.Tensor): [N, 2d].
            positive, negative (torch.LongTensor): [N].
            met (Additions | None): what ``repetition: learned`` adds to scores.

        Returns:
            dict[str, torch.Tensor]
        """
        at_positive, at_negative = self.item_points(torch.stack([positive, negative]))
        to_positive, to_negative = squared_distance(users, at_positive), squared_distance(users, at_negative)
        ahead = to_negative - to_positive
        if met is not None:
            added = met.at(torch.stack([positive, negative], 1))
            ahead = ahead + added[:, 0] - added[:, 1]
        parts = {"recommendation": F.softplus(-ahead).mean()}
        if self.config["pvn_weight"]:
            between = squared_distance(at_positive, at_negative)
            parts["pvn"] = self.config["pvn_weight"] * (to_positive - between).relu().mean()
        return parts
