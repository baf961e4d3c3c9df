r"""MGS
################################################

Reference:
    Siqi Lai, Erli Meng, Fan Zhang, Chenliang Li, Bin Wang, Aixin Sun. "An Attribute-Driven Mirror Graph Network for
    Session-based Recommendation." SIGIR 2022.

Beside the graph of a session stands its mirror: every item as other items see it that share an attribute with it. Items
and mirrors refine each other for some rounds; two random mirrors of an item are held together by a loss without labels.
``docs/mgs.md`` says what its released code does otherwise, and which setting does the same.
"""

from typing import NamedTuple

import torch
from torch import nn

from recbole_diffusion.layers.attributes import AttributeGroups, MateAttention
from recbole_diffusion.layers.cross_entropy import linear_cross_entropy
from recbole_diffusion.layers.kept import KeepsWhatWeightsGive
from recbole_diffusion.layers.mirror import MirrorExchange, NodeReadout, RelationAttention, alignment, relations
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.session_graph import Nodes, item_nodes
from recbole_diffusion.layers.transformer import Dropout
from recbole_diffusion.model.base import DiffusionSequentialRecommender, require_prefixes

KEY = 0  # of the draws that every evaluation repeats


class Graph(NamedTuple):
    """The sessions of a batch as nodes."""

    nodes: Nodes
    layout: PackedLayout  # of the nodes
    relations: tuple

    @classmethod
    def of(cls, item_seq, item_seq_len):
        """[B, L] zeros on the right, [B] -> Graph."""
        layout = PackedLayout(item_seq_len)
        nodes = item_nodes(layout.pack(item_seq), layout)
        return cls(nodes, PackedLayout(torch.bincount(nodes.row)), relations(nodes, layout))

    @property
    def items(self):
        """[M] item of each node."""
        return self.nodes.items[:, 0]


class Mirrors(nn.Module):
    """Items as the other items that share their attributes.

    Args:
        hidden_size (int): d.
        groups (list[AttributeGroups]): one for each attribute.
        dropout (float): of mirrors that join several attributes.
    """

    def __init__(self, hidden_size, groups, dropout):
        super().__init__()
        self.groups = nn.ModuleList(groups)
        self.attention = nn.ModuleList(MateAttention(hidden_size) for _ in groups)
        n = len(groups)
        self.join = nn.Linear(n * hidden_size, hidden_size, bias=False) if n > 1 else None
        self.dropout = Dropout(dropout)

    def paired(self, items):
        """Which items have mates: [M] -> [M] bool."""
        return torch.stack([groups.paired[items] for groups in self.groups]).any(0)

    def drawn(self, table, items, generator=None):
        """Mirrors made of two samples of mates: table [V, d], items [M] -> of each sample [2, M, d], of both [M, d]."""
        looks = []
        for groups, attention in zip(self.groups, self.attention):
            looks.append(attention(table, items, groups.draw(items, 2, generator)))
        samples, both = zip(*looks)
        return self._joined(samples), self._joined(both)

    def whole(self, table):
        """Mirrors of all items, made of all their mates: table [V, d] -> [V, d]."""
        return self._joined([a.of_all_mates(table, groups) for a, groups in zip(self.attention, self.groups)])

    def _joined(self, looks):
        return looks[0] if self.join is None else self.dropout(self.join(torch.cat(looks, -1)))


class MGS(KeepsWhatWeightsGive, DiffusionSequentialRecommender):
    """Mirror graph network: session graphs and what items share.

    Args:
        config (DiffusionConfig): settings, see ``properties/model/MGS.yaml``.
        dataset (SequenceDataset): for the number of items and their attributes.

    Raises:
        UsageError: when the attribute is no column of the item file.
    """

    other_parameter_name = ["item_attributes"]  # checkpoints keep them, so that a Recommender needs no data

    learns_repetition = True

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        hidden, n_rounds = config["hidden_size"], config["n_rounds"]
        self.item_attributes = dataset.item_attributes(config["attribute"])
        self.item_embedding = nn.Embedding(self.n_items, hidden)
        self.neighbours = nn.ModuleList(RelationAttention(hidden) for _ in range(n_rounds))
        self.mirrors = self.exchange = None
        if self.item_attributes:
            columns = self.item_attributes.values()
            groups = [AttributeGroups(*column, self.n_items, config["n_mates"]) for column in columns]
            self.mirrors = Mirrors(hidden, groups, config["attribute_dropout"])
            self.exchange = MirrorExchange(hidden)
        self.highway = nn.Linear(2 * hidden, hidden, bias=False)
        self.readout = NodeReadout(hidden, self.max_seq_length, self.mirrors is not None, config["mu"])
        self.dropout = Dropout(config["hidden_dropout_prob"])
        self._initialize()
        if self.mirrors is not None and config["eval_neighbours"] == "random":
            self.logger.warning(
                "eval_neighbours: random draws mates in evaluations too, whose figures cannot be repeated"
            )

    @staticmethod
    def check_config(config):
        """Relations between settings, checked before data are read. Raises UsageError."""
        require_prefixes(config)

    @torch.no_grad()
    def _initialize(self):
        """Everything from U(-1 / sqrt(d), 1 / sqrt(d)), as in the released code."""
        bound = self.config["hidden_size"] ** -0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)
        if self.repetition is not None:
            nn.init.zeros_(self.repetition.amount)
        if not self.config["ssl_padding"]:
            self.item_embedding.weight[0] = 0

    # Mirrors

    def forget(self):
        self._mirrors_of_all = None

    def evaluated_mirrors(self, items):
        """Mirrors of some items that do not depend on chance, unless ``eval_neighbours: random``: [M] -> [M, d]."""
        table, how = self.item_embedding.weight, self.config["eval_neighbours"]
        if how == "random":
            return self.mirrors.drawn(table, items)[1]
        if self._mirrors_of_all is not None:
            return self._mirrors_of_all[items]
        if how == "all":
            found = self.mirrors.whole(table)
        else:
            everything = torch.arange(self.n_items, device=items.device)
            found = self.mirrors.drawn(table, everything, torch.Generator().manual_seed(KEY))[1]
        if self.keeps:
            self._mirrors_of_all = found
        return found[items]

    # Sessions

    def sessions(self, graph, mirrors):
        """User vectors of sessions.

        Args:
            graph (Graph): B sessions.
            mirrors (torch.Tensor): [M, d] of their nodes, or None.

        Returns:
            torch.Tensor: [B, d].
        """
        items = x = self.item_embedding(graph.items)
        paired = None if mirrors is None else self.mirrors.paired(graph.items)
        for neighbours in self.neighbours:
            x = neighbours(x, graph.relations)
            if mirrors is not None:
                x, mirrors = self.exchange(x, mirrors, paired, graph.layout)
        keeps = self.highway(torch.cat([items, x], -1)).sigmoid()
        x = keeps * items + (1 - keeps) * x
        return self.dropout(self.readout(x, mirrors, graph.nodes, graph.layout))

    def encode(self, item_seq, item_seq_len):
        graph = Graph.of(item_seq, item_seq_len)
        return self.sessions(graph, None if self.mirrors is None else self.evaluated_mirrors(graph.items))

    def loss_parts(self, item_seq, item_seq_len, target):
        table, graph, mirrors = self.item_embedding.weight, Graph.of(item_seq, item_seq_len), None
        if self.mirrors is not None:
            views, mirrors = self.mirrors.drawn(table, graph.items)
        user, met = self.sessions(graph, mirrors), self.met_at_end(item_seq, item_seq_len)
        parts = {"recommendation": linear_cross_entropy(user, table[1:], target - 1, met and met.from_column(1))[0]}
        if self.mirrors is not None and self.config["ssl_weight"]:
            parts["mirrors"] = self.config["ssl_weight"] * self._alignment(views, graph)
        return parts

    def _alignment(self, views, graph):
        """How far the two mirrors of each node are apart, [2, M, d] -> []: mean over sessions."""
        paired, config = self.mirrors.paired(graph.items), self.config
        padding = self.item_embedding.weight[0] if config["ssl_padding"] else None
        terms = alignment(*views, paired, graph.layout, config["tau"], padding)
        nodes = graph.nodes
        total, n = (
            terms.new_zeros(len(nodes.last)).index_add(0, nodes.row, part) for part in (terms, paired.to(terms))
        )
        return (total if config["ssl_reduction"] == "sum" else total / n.clamp(min=1)).mean()
