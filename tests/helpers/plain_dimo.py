"""DIMO written plainly: dense graphs, one session, head, item and companion at a time.

It reads the weights and settings of a model, so that both compute the same numbers from the same parameters, and is given
the graph of items. This is what the fast version is checked against (tests/model/test_dimo.py).
"""

import functools
import math

import torch
import torch.nn.functional as F

from recbole_diffusion.model.dimo import N_NEGATIVES


def counts(sessions, n_items):
    """How often two items meet, counted pair by pair: [V, V]."""
    found = torch.zeros(n_items, n_items)
    for items in sessions:
        for place, item in enumerate(items):
            for other in items[:place] + items[place + 1 :]:
                found[item, other] += float(item != other)
    return found


@functools.cache
def companions(found, k):
    """[V, V] counts -> the items that each is met with most often, with their counts: list of lists of pairs."""
    rows = (sorted((-n, item) for item, n in enumerate(row.tolist()) if n > 0) for row in found)
    return [[(item, -n) for n, item in row[:k]] for row in rows]


def propagate(graph, table, n_layers):
    """X <- X + D^-1 A X, some times. graph: [V, V] counts; table: [V, d]."""
    for _ in range(n_layers):
        table = table + (graph / graph.sum(1, keepdim=True).clamp(min=1)) @ table
    return table


def read(attention, x):
    """x: [n, d] items of a session -> [d]."""
    width = x.shape[1] // attention.n_heads
    found = []
    for head in range(attention.n_heads):
        some = slice(head * width, (head + 1) * width)
        query = attention.query(x[-1])[some]
        logits = torch.stack([query @ attention.key(item)[some] / math.sqrt(width) for item in x])
        found.append(sum(weight * attention.value(item)[some] for weight, item in zip(logits.softmax(0), x)))
    return torch.cat(found)


def cos(a, b):
    """[d], [d] -> []; 0 for a vector of zeros."""
    if not a.any() or not b.any():
        return a.new_zeros(())
    return a @ b / (a.norm() * b.norm())


def against(near, far):
    """- ln of the share of e^near in e^near + e^far."""
    return -(near.exp() / (near.exp() + far.exp())).log()


class PlainDIMO:
    """The losses and the scores of a model.

    Args:
        model (DIMO): whose weights and settings are used.
        found (torch.Tensor): [V, V] counts of :func:`counts`, or the same with each row divided by a number.
    """

    def __init__(self, model, found):
        self.model, self.config = model, model.config
        self.companions = companions(found, self.config["n_companions"])
        self.causes = [(model.ids, self._table(model.item_embedding, found))]
        if model.has_text:
            self.causes.append((model.texts, self._table(model.feature_embedding, found)))

    def _table(self, embedding, found):
        return propagate(found, embedding.weight, self.config["n_layers"])

    def sessions(self, items):
        """items: list -> sessions of each cause, [d] each."""
        return [read(cause.attention, table[items]) for cause, table in self.causes]

    def scores(self, items):
        """Of all items but padding: [V - 1]."""
        return sum(table[1:] @ session for (_, table), session in zip(self.causes, self.sessions(items)))

    def companion_loss(self, anchors, negatives):
        """anchors: list; negatives: a list for each."""
        table, total = self.causes[0][1], 0
        for anchor, others in zip(anchors, negatives):
            known = self.companions[anchor]
            positive = sum((n * table[item] for item, n in known), torch.zeros_like(table[0])) / (sum(n for _, n in known) or 1)
            far = sum(cos(table[anchor], table[other]).exp() for other in others)
            total = total + (1 + far / cos(table[anchor], positive).exp()).log()
        return total / len(anchors)

    def proxy_loss(self, items):
        """The meant one, or that with the arguments as released."""
        maps = self.model.proxies.maps
        (ids, texts), (ids_proxy, texts_proxy) = self.sessions(items), [table[items].mean(0) for _, table in self.causes]
        if self.config["proxy_arguments"] == "released":
            ids_proxy, texts = texts, ids_proxy
        first = against(cos(maps["ids"](ids), maps["ids_proxy"](ids_proxy)), cos(maps["ids_other"](ids), maps["texts"](texts)))
        near = cos(maps["texts"](texts), maps["texts_proxy"](texts_proxy))
        return first + against(near, cos(maps["texts_again"](texts), maps["ids_again"](ids)))

    def counterfactual(self, items, target):
        """+ where the target is a companion of an item of the session, else -."""
        flag = 1 if any(target == item for one in items for item, _ in self.companions[one]) else -1
        looked_up = target - 1 if self.config["target_lookup"] == "shifted" else target
        near, far = (cos(z, table[looked_up]) for z, (_, table) in zip(self.sessions(items), self.causes))
        return flag * against(near, far)

    def loss_parts(self, histories, targets, drawn):
        """histories: lists of items; targets: list; drawn: anchors and their negatives, lists."""
        n, config = len(histories), self.config
        one_by_one = list(zip(histories, targets))
        parts = {"recommendation": sum(F.cross_entropy(self.scores(h), torch.tensor(y - 1)) for h, y in one_by_one) / n}
        if config["co_weight"]:
            parts["companions"] = config["co_weight"] * self.companion_loss(*drawn)
        if len(self.causes) == 2:
            parts["proxies"] = config["proxy_weight"] * sum(map(self.proxy_loss, histories)) / n
            parts["counterfactual"] = (
                config["counterfactual_weight"] * sum(self.counterfactual(h, y) for h, y in one_by_one) / n
            )
        return parts


@functools.cache
def graph_of(model, fold):
    """The model's own graph as a matrix of all pairs: [V, V]."""
    return model.graphs.seen_from(fold).matrix.csr().to_dense()


def loss(model, item_seq, lengths, target, fold=None):
    """Sum of the parts, with anchors and negatives that the model draws: []."""
    drawn = model.companions[0 if fold is None else 1 + fold].draw(model.config["co_anchors"], N_NEGATIVES)
    histories = [row[:n] for row, n in zip(item_seq.tolist(), lengths.tolist())]
    parts = PlainDIMO(model, graph_of(model, fold)).loss_parts(histories, target.tolist(), [part.tolist() for part in drawn])
    return sum(parts.values())
