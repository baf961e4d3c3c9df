r"""MSGIFSR
################################################

Reference:
    Jiayan Guo, Yaming Yang, Xiangchen Song, Yuan Zhang, Yujing Wang, Jing Bai, Yan Zhang.
    "Learning Multi-granularity (Consecutive) User Intent Unit for Session-based Recommendation." WSDM 2022.

A session is a graph of its items and of its runs of two, three and more items in a row, its intent units. Messages pass
between units of one granularity and between items and longer units. Each granularity recommends, apart for items of the
session and for new ones, and their probabilities are mixed. ``docs/msgifsr.md`` says what the released code does
otherwise, and which setting does the same.
"""

import torch
from torch import nn

from recbole_diffusion.layers.cosine import unit
from recbole_diffusion.layers.intent_units import RunEncoder, UnitGraph, UnitReadout
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.repeat_explore import RepeatExplore
from recbole_diffusion.layers.session_graph import runs_of_items
from recbole_diffusion.layers.transformer import Dropout
from recbole_diffusion.model.base import DiffusionSequentialRecommender, require_prefixes


class MSGIFSR(DiffusionSequentialRecommender):
    """Multi-granularity intent units of a session, their graph, and a mixture of what they recommend.

    Args:
        config (DiffusionConfig): settings, see ``properties/model/MSGIFSR.yaml``.
        dataset (SequenceDataset): for the number of items.
    """

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        hidden, self.n_granularities = config["hidden_size"], config["n_granularities"]
        n_views = self.n_granularities if config["fusion"] else 1
        self.item_embedding = nn.Embedding(self.n_items, hidden)
        self.dropout = Dropout(config["hidden_dropout_prob"])
        lengths = range(2, self.n_granularities + 1)
        self.run_encoders = nn.ModuleList(RunEncoder(hidden, length, config["reducer"]) for length in lengths)
        rates = config["hidden_dropout_prob"], config["attn_dropout_prob"]
        self.graph = UnitGraph(self.n_granularities, hidden, config["graph_heads"], *rates, config["relation_residual"])
        self.readouts = nn.ModuleList(UnitReadout(hidden) for _ in range(n_views))
        self.head = RepeatExplore(hidden, n_views, config["scale"], config["repeat_split"])
        self._initialize()

    @staticmethod
    def check_config(config):
        """Relations between settings, checked before data are read. Raises UsageError."""
        require_prefixes(config)

    @torch.no_grad()
    def _initialize(self):
        """Weights from U(-1 / sqrt(d), 1 / sqrt(d)), as in the released code; the first view starts with more weight."""
        bound = self.config["hidden_size"] ** -0.5
        for name, parameter in self.named_parameters():
            if name != "head.view":
                nn.init.uniform_(parameter, -bound, bound)
        self.item_embedding.weight[0] = 0

    # Sessions

    def views(self, items, item_seq, item_seq_len):
        """Sessions as their granularities see them.

        Args:
            items (torch.Tensor): [V, d] from :meth:`item_vectors`.
            item_seq (torch.LongTensor): [B, L] zeros on the right.
            item_seq_len (torch.LongTensor): [B].

        Returns:
            tuple: [B, K, d] of length one, K = 1 without fusion; the different items of each session (Nodes).
        """
        layout = PackedLayout(item_seq_len)
        runs = runs_of_items(layout.pack(item_seq), layout, self.n_granularities, self.config["short_sessions"])
        h = self.graph(self._units(items, runs), runs, layout)
        nodes, row = torch.cat(h), torch.cat([granularity.row for granularity in runs])
        views = [readout(nodes, row, x[own.last]) for readout, x, own in zip(self.readouts, h, runs)]
        return torch.stack(views, 1), runs[0]

    def _units(self, items, runs):
        """Vectors of the units of each granularity: [M_k, d] of length one, a list."""
        table = items if self.config["expander_input"] == "normalised" else self.item_embedding.weight
        x = [self.dropout(nn.functional.embedding(granularity.items, table)) for granularity in runs]
        return [unit(x[0].squeeze(1)), *(unit(encoder(part)) for encoder, part in zip(self.run_encoders, x[1:]))]

    def item_vectors(self):
        return self.head.cosine.items(self.item_embedding.weight)

    def loss_parts(self, item_seq, item_seq_len, target):
        items = self.item_vectors()
        views, own = self.views(items, item_seq, item_seq_len)
        return {"recommendation": self.head.loss(views, items, target, own)}

    # Prediction: a mixture is no inner product

    def full_sort_predict(self, interaction):
        """Log probabilities of all items per history: [B, V]."""
        items = self.item_vectors()
        views, own = self.views(items, interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return self.head.scores(views, items, own)

    def predict(self, interaction):
        """Log probability of one item per history: [B]."""
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID][:, None]).squeeze(1)
