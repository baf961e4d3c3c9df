r"""AttenMixer
################################################

Reference:
    Peiyan Zhang, Jiayan Guo, Chaozhuo Li, Yueqi Xie, Jaeboum Kim, Yan Zhang, Xing Xie, Haohan Wang, Sunghun Kim.
    "Efficiently Leveraging Multi-level User Intent for Session-based Recommendation via Atten-Mixer Network."
    WSDM 2023.

The last 1, 2, ..., K items of a session make queries of rising level; each looks at all items, and what they find is
pooled. There is no graph. Items are ranked by their cosine. ``docs/attenmixer.md`` says what its released code does
instead, and which setting does the same.
"""

import torch
from torch import nn

from recbole_diffusion.layers.cosine import CosineHead, unit
from recbole_diffusion.layers.levels import LevelAttention, MeanWeights, ReleasedAttention, SessionMixer
from recbole_diffusion.layers.packed import PackedLayout, pad_block
from recbole_diffusion.layers.transformer import Dropout
from recbole_diffusion.model.base import DiffusionSequentialRecommender, require_prefixes


class AttenMixer(DiffusionSequentialRecommender):
    """Atten-Mixer: multi-level attention over a session, without a graph.

    Args:
        config (DiffusionConfig): settings, see ``properties/model/AttenMixer.yaml``.
        dataset (SequenceDataset): for the number of items.
    """

    learns_repetition = True

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        hidden = config["hidden_size"]
        self.item_embedding = nn.Embedding(self.n_items, hidden)
        self.item_dropout = Dropout(config["hidden_dropout_prob"])
        self.mixer = SessionMixer(hidden, self._item_weights(), config["attn_dropout_prob"])
        self.head = CosineHead(config["scale"], config["table_dropout"])
        self._initialize()

    @staticmethod
    def check_config(config):
        """Relations between settings, checked before data are read. Raises UsageError."""
        require_prefixes(config)

    def _item_weights(self):
        """What weighs the items of a session."""
        config = self.config
        if config["attention"] == "mean":
            return MeanWeights(config["n_heads"])
        levels = config["n_levels"], config["level"], config["pool_power"]
        sizes = (config["hidden_size"], config["n_heads"], *levels)
        if config["attention"] == "released":
            self.logger.warning(
                "attention: released mixes up the items of a session: to compare with the released code only"
            )
            return ReleasedAttention(*sizes, longest=self.max_seq_length)
        return LevelAttention(*sizes)

    @torch.no_grad()
    def _initialize(self):
        """Weights from U(-1 / sqrt(d), 1 / sqrt(d)), as in the released code, which draws those of the norm too."""
        bound = self.config["hidden_size"] ** -0.5
        for name, parameter in [*self.item_embedding.named_parameters(), *self.mixer.named_parameters()]:
            if not name.startswith("norm.") or self.config["attention"] == "released":
                nn.init.uniform_(parameter, -bound, bound)
        self.item_embedding.weight[0] = 0

    # Sessions

    def sessions(self, items, item_seq, item_seq_len):
        """User vectors of sessions.

        Args:
            items (torch.Tensor): [V, d] from the head.
            item_seq (torch.LongTensor): [B, L] zeros on the right.
            item_seq_len (torch.LongTensor): [B].

        Returns:
            torch.Tensor: [B, d].
        """
        layout = PackedLayout(item_seq_len)
        x = unit(self.item_dropout(items[layout.pack(item_seq)]))
        states = torch.cat([self.mixer(pad_block(x, block), block.real) for block in layout.blocks])
        return self.head.users(states[layout.group[layout.last]])

    def encode(self, item_seq, item_seq_len):
        return self.sessions(self.item_vectors(), item_seq, item_seq_len)

    def item_vectors(self):
        return self.head.items(self.item_embedding.weight)

    def loss_parts(self, item_seq, item_seq_len, target):
        items = self.item_vectors()
        users, met = self.sessions(items, item_seq, item_seq_len), self.met_at_end(item_seq, item_seq_len)
        return {"recommendation": self.head.loss(users, items, target, met)}
