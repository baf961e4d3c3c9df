r"""DIMO
################################################

Reference:
    "Disentangling ID and Modality Effects for Session-based Recommendation." SIGIR 2024.

Two causes of a choice are kept apart: that items go together, which their IDs carry, and what they are like, which their
text carries. Each has its own item table, propagated over the graph of items met together, and its own session; their
scores add up. Losses without labels tie IDs to what they are met with and keep the two sessions apart. ``docs/dimo.md``
says what its released code does instead, and which setting does the same.
"""

import torch
from torch import nn

from recbole_diffusion.data.features import features_of
from recbole_diffusion.data.folds import graph_sessions
from recbole_diffusion.layers.companions import Companions, preference
from recbole_diffusion.layers.cosine import unit
from recbole_diffusion.layers.cross_entropy import linear_cross_entropy
from recbole_diffusion.layers.graph import GraphPropagation, SessionGraphs
from recbole_diffusion.layers.kept import KeepsWhatWeightsGive
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.sessions import LastItemAttention, mean_within
from recbole_diffusion.layers.transformer import DropoutSwitch
from recbole_diffusion.model.base import DiffusionSequentialRecommender, require_prefixes

N_NEGATIVES = 10  # of every anchor, as in the released code
BOUND = 0.1  # weights are drawn from U(-BOUND, BOUND), as in the released code


def cosine(a, b):
    """Cosines of rows: [B, d], [B, d] -> [B]; 0 where a row is zero."""
    return (unit(a) * unit(b)).sum(-1)


class Cause(nn.Module):
    """Items as one cause of choices sees them, and how it reads a session.

    Args:
        config (DiffusionConfig): settings.
    """

    def __init__(self, config):
        super().__init__()
        hidden = config["hidden_size"]
        self.propagation = GraphPropagation(config["n_layers"], hidden, "residual", config["graph_dropout"])
        self.attention = LastItemAttention(config["n_heads"], hidden, config["attn_dropout_prob"])


class Proxies(nn.Module):
    """Sessions are nearer to their proxies, the means of their items, than to each other (L_pro).

    Args:
        hidden_size (int): d.
    """

    def __init__(self, hidden_size):
        super().__init__()
        names = ("ids", "ids_proxy", "ids_other", "texts", "texts_proxy", "texts_again", "ids_again")
        self.maps = nn.ModuleDict({name: nn.Linear(hidden_size, hidden_size, bias=False) for name in names})

    def loss(self, ids, ids_proxy, texts, texts_proxy):
        """All arguments [B, d] -> [] mean."""
        maps = self.maps
        shared = maps["texts"](texts)  # in both terms
        of_ids = preference(cosine(maps["ids"](ids), maps["ids_proxy"](ids_proxy)), cosine(maps["ids_other"](ids), shared))
        apart = cosine(maps["texts_again"](texts), maps["ids_again"](ids))
        of_texts = preference(cosine(shared, maps["texts_proxy"](texts_proxy)), apart)
        return (of_ids + of_texts).mean()


class DIMO(KeepsWhatWeightsGive, DiffusionSequentialRecommender):
    """Disentangled effects of IDs and modality in sessions.

    Args:
        config (DiffusionConfig): settings, see ``properties/model/DIMO.yaml``.
        dataset (SequenceDataset): the training part, whose sessions make the graph.

    Raises:
        UsageError: when the item features cannot be used.
    """

    other_parameter_name = ["training_sessions"]  # checkpoints keep them, so that a Recommender needs no data

    learns_repetition = True

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.training_sessions = dataset.sessions()
        self.leaks = config["graph_source"] == "all"
        self.graphs = SessionGraphs(self.n_items, "cooccurrence", *graph_sessions(dataset, config["graph_source"]))
        graphs = (self.graphs.whole, *self.graphs.without)
        self.companions = nn.ModuleList(Companions(graph.matrix, config["n_companions"]) for graph in graphs)

        features = self._find_features(dataset)
        self.item_embedding = nn.Embedding(self.n_items, config["hidden_size"])
        self.ids = Cause(config)
        self.has_text = features is not None
        if self.has_text:
            self.feature_embedding = nn.Embedding(self.n_items, config["hidden_size"])
            self.texts = Cause(config)
            if config["proxy_weight"]:
                self.proxies = Proxies(config["hidden_size"])
        self._initialize(features)
        self._dropout = DropoutSwitch(self)

    @staticmethod
    def check_config(config):
        """Relations between settings, checked before data are read. Raises UsageError."""
        require_prefixes(config)

    def _find_features(self, dataset):
        """Vectors of the items [V, d], or None for a model of IDs alone."""
        config = self.config
        if config["item_features"] != "none" and config["feature_init"] == "random":
            self.logger.warning("feature_init: random reads no features: the text is a second table of IDs")
            return torch.empty(self.n_items, config["hidden_size"]).uniform_(-BOUND, BOUND)
        return features_of(dataset, config)

    @torch.no_grad()
    def _initialize(self, features):
        """Everything from U(-0.1, 0.1), as in the released code, but for features, which keep the values of their file."""
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -BOUND, BOUND)
        if self.repetition is not None:
            nn.init.zeros_(self.repetition.amount)
        self.item_embedding.weight[0] = 0
        if self.has_text:
            self.feature_embedding.weight.copy_(features)
            self.feature_embedding.weight[0] = 0

    def begin_epoch(self, epoch):
        self._dropout.turn(self.config["dropout_epochs"] == "all" or epoch == 0)

    # Items and sessions: the numbers of the IDs, and beside them those of the text, if there is one

    def forget(self):
        self._items = None

    def item_vectors(self, fold=None):
        """Propagated vectors of all items: [V, d], or [V, 2 d] with a text.

        Args:
            fold (int, optional): of the training sessions that ask, whose own edges the graph then lacks.
        """
        keeps = fold is None and self.keeps
        if keeps and self._items is not None:
            return self._items
        graph = self.graphs.seen_from(fold)
        tables = [self.ids.propagation(self.item_embedding.weight, graph)]
        if self.has_text:
            tables.append(self.texts.propagation(self.feature_embedding.weight, graph))
        joined = torch.cat(tables, 1)
        if keeps:
            self._items = joined
        return joined

    def _of_each_cause(self, joined):
        """What is joined in the last dimension, of the IDs and of the text: a tuple."""
        return joined.split(self.config["hidden_size"], -1)

    def _sessions(self, x, layout):
        """x: [N, d] or [N, 2 d] packed items -> sessions [B, d] or [B, 2 d]."""
        causes = (self.ids, self.texts) if self.has_text else (self.ids,)
        return torch.cat([cause.attention(part, layout) for cause, part in zip(causes, self._of_each_cause(x))], 1)

    def encode(self, item_seq, item_seq_len):
        layout = PackedLayout(item_seq_len)
        return self._sessions(self.item_vectors()[layout.pack(item_seq)], layout)

    # Training

    def loss_inputs(self, interaction):
        return (*super().loss_inputs(interaction), self.graph_fold(interaction))

    def loss_parts(self, item_seq, item_seq_len, target, fold=None):
        config, layout = self.config, PackedLayout(item_seq_len)
        items, table = layout.pack(item_seq), self.item_vectors(fold)
        x, companions = table[items], self.companions[0 if fold is None else 1 + fold]
        user, met = self._sessions(x, layout), self.met_at_end(item_seq, item_seq_len)
        parts = {"recommendation": linear_cross_entropy(user, table[1:], target - 1, met and met.from_column(1))[0]}
        if config["co_weight"]:
            drawn = companions.draw(config["co_anchors"], N_NEGATIVES)
            parts["companions"] = config["co_weight"] * companions.loss(self._of_each_cause(table)[0], *drawn)
        if self.has_text and config["proxy_weight"]:
            parts["proxies"] = config["proxy_weight"] * self._proxy_loss(user, mean_within(x, layout))
        if self.has_text and config["counterfactual_weight"]:
            flag = companions.met(items, layout, target)
            parts["counterfactual"] = config["counterfactual_weight"] * self._counterfactual(user, table, target, flag)
        return parts

    def _proxy_loss(self, user, proxy):
        """Sessions and means of their items, [B, 2 d] each -> []."""
        (ids, texts), (ids_proxy, texts_proxy) = self._of_each_cause(user), self._of_each_cause(proxy)
        if self.config["proxy_arguments"] == "released":
            return self.proxies.loss(ids, texts, ids_proxy, texts_proxy)
        return self.proxies.loss(ids, ids_proxy, texts, texts_proxy)

    def _counterfactual(self, user, table, target, met):
        """IDs explain a target that goes with the session better than the text does, and others worse (L_cf): [].

        Args:
            user, table (torch.Tensor): [B, 2 d] and [V, 2 d].
            target (torch.LongTensor): [B].
            met (torch.BoolTensor): [B] whether the target goes with an item of the session.
        """
        if self.config["target_lookup"] == "shifted":
            target = target - 1
        # padding, which item 1 becomes when it is shifted, has no direction and gets no gradient
        chosen = self._of_each_cause(nn.functional.embedding(target, table, padding_idx=0))
        loss = preference(*(cosine(*pair) for pair in zip(self._of_each_cause(user), chosen)))
        return torch.where(met, loss, -loss).mean()
