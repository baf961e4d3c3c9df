"""MSGAT written plainly: one session, node, head and item at a time, sets and dictionaries, all pairs of sessions.

It reads the weights and settings of a model, so that both compute the same numbers from the same parameters. The fast
version is checked against it (tests/model/test_msgat.py).
"""

import math
from functools import cache

import torch
import torch.nn.functional as F


def drop(layer, x):
    return F.dropout(x, layer.p, layer.training)


def unit(vector):
    return vector / vector.norm().clamp(min=1e-12)


def entmax(z, alpha, halvings=60):
    """[n] logits -> weights. The threshold is found by halving, and its gradient is that of one Newton step from it."""
    x, power = (alpha - 1) * z, 1 / (alpha - 1)
    with torch.no_grad():
        low, high = x.max() - 1, x.max()
        for _ in range(halvings):
            middle = (low + high) / 2
            more = (x - middle).clamp(min=0).pow(power).sum() >= 1
            low, high = (middle, high) if more else (low, middle)
        support = (x > low).nonzero().squeeze(1)
        slope = power * (x[support] - low).pow(power - 1).sum()
    low = low + ((x[support] - low).pow(power).sum() - 1) / slope
    p = (x[support] - low).pow(power)
    return torch.zeros_like(z).index_put((support,), p / p.sum())


def alpha_of(layer, x):
    return 1 + layer(x).squeeze(-1).sigmoid().clamp(min=0.01)


def gated(layer, mean_before, mean_behind, h):
    """A GRU's step whose input is two means, either of them None where there is nothing."""
    nothing, yes, no = torch.zeros_like(h), h.new_ones(1), h.new_zeros(1)
    has = [no if mean is None else yes for mean in (mean_before, mean_behind)]
    means = [nothing if mean is None else mean for mean in (mean_before, mean_behind)]
    of_input, of_state = layer.input(torch.cat([*means, *has])).chunk(3), layer.state(h).chunk(3)
    reset, update = ((a + b).sigmoid() for a, b in zip(of_input[:2], of_state[:2]))
    new = (of_input[2] + reset * of_state[2]).tanh()
    return (1 - update) * new + update * h


def nodes(model, items):
    """items: list of numbers -> dictionary from item to its vector [2 d] after the graph."""
    distinct, table = sorted(set(items)), model.item_embedding.weight
    since = {item: items[::-1].index(item) for item in distinct}
    rank = {item: place for place, item in enumerate(distinct)}
    place = since if model.config["position"] == "time" else rank
    x = {v: model.norm(torch.cat([table[v], model.position_embedding.weight[1 + place[v]]])) for v in distinct}
    pairs = set(zip(items, items[1:]))
    for _ in range(model.config["gnn_steps"]):
        after = {}
        for v in distinct:
            before, behind = [x[a] for a, b in sorted(pairs) if b == v], [x[b] for a, b in sorted(pairs) if a == v]
            means = [torch.stack(part).mean(0) if part else None for part in (before, behind)]
            after[v] = gated(model.graph, *means, x[v])
        x = after
    return x


def padding(model):
    x = model.norm(torch.cat([model.item_embedding.weight[0], model.position_embedding.weight[0]]))
    for _ in range(model.config["gnn_steps"]):
        x = gated(model.graph, None, None, x)
    return x


def look_around(layer, tokens):
    """Self-attention of a list of tokens [2 d], the last of which is empty: list of the same."""
    size = len(tokens[0]) // layer.n_heads
    queries = [drop(layer.dropout, layer.query(token).relu()) for token in tokens]
    found = []
    for query in queries:
        heads = []
        for head in range(layer.n_heads):
            part = slice(head * size, (head + 1) * size)
            alpha = alpha_of(layer.alpha, layer.query.bias.relu()[part])
            weights = entmax(torch.stack([query[part] @ token[part] for token in tokens]) / math.sqrt(size), alpha)
            heads.append(sum(weight * token[part] for weight, token in zip(weights, tokens)))
        mixed = torch.cat(heads)
        found.append(layer.norm(layer.narrow(layer.wide(mixed).relu()) + mixed))
    return found


def session(model, items):
    """items: list of numbers -> the session [d] and its target [2 d]."""
    x = nodes(model, items)
    tokens, longest = [x[item] for item in items], model.max_seq_length
    seen = tokens if model.config["attention_mask"] else tokens + [padding(model)] * (longest - len(items))
    *around, target = look_around(model.attention, [*seen, torch.zeros_like(tokens[0])])
    layer, logits, values = model.readout, [], []
    for before, after in zip(tokens, around):
        logits.append(layer.weight((layer.key(after) + layer.target(target)).relu()).squeeze())
        values.append((layer.last(tokens[-1]) + layer.item(before)).sigmoid())
    weights = entmax(torch.stack(logits), alpha_of(layer.alpha, target))
    mixed = sum(weight * value for weight, value in zip(weights, values))
    return unit(drop(model.session_dropout, F.selu(layer.output(torch.cat([mixed, target]))))), target


def training_sessions(model):
    """Lists of the items of training sessions, and the number of the session of each user."""
    items, lengths, users = (column.tolist() for column in model.training_sessions)
    starts = torch.tensor([0, *lengths]).cumsum(0).tolist()
    return [items[a : a + n] for a, n in zip(starts, lengths)], {user: i for i, user in enumerate(users)}


def overlapping(items, sessions, own, most):
    """Numbers and Jaccard similarities of the sessions that share most with a list of items."""
    mine, found = set(items), []
    for number, session in enumerate(sessions):
        shared = mine.intersection(session)
        if shared and number != own:
            found.append((-len(shared) / len(mine.union(session)), number))
    return [(number, -jaccard) for jaccard, number in sorted(found)[:most]]


def around(model, items, target, sessions, found):
    """What is around a session: [d]. found: numbers and similarities of those that overlap with it."""
    table, released = model.item_embedding.weight, model.leaks

    def of(held):
        vectors = torch.stack([table[item] for item in sorted(set(held))])
        return vectors.sum(0).detach() if released else vectors.mean(0)

    vectors, overlap = [of(items)], [1.0]
    for number, jaccard in found:
        vectors.append(of(sessions[number]))
        overlap.append(jaccard)
    if model.config["inter_attention"]:
        layer = model.neighbourhood
        logits = [layer.query(target) @ v / math.sqrt(len(v)) + math.log(j) for v, j in zip(vectors, overlap)]
        weights = entmax(torch.stack(logits), alpha_of(layer.alpha, target))
    else:
        weights = [j / sum(overlap) for j in overlap]
    return unit(F.selu(sum(weight * vector for weight, vector in zip(weights, vectors))))


class Bank:
    """Intents of training sessions, without dropout. model (MSGAT): in any mode."""

    MOST = 1000  # sessions that are read plainly; of more of them, which nobody could wait for, the model's intents are taken

    def __init__(self, model):
        self.model, (self.sessions, _) = model, training_sessions(model)
        self.known = cache(self._known)

    def all(self):
        """Intents of all of them: list of [d]."""
        if len(self.sessions) > self.MOST:
            return list(self.model.encoded_bank().vectors)
        return [self.known(number, None) for number in range(len(self.sessions))]

    @torch.no_grad()
    def _known(self, number, without):
        """Intent of a session as if another one, or none, did not exist: [d]."""
        model, items = self.model, self.sessions[number]
        shown = items[:-1] if model.config["bank_sessions"] == "input" else items
        with model.without_dropout():
            s, target = session(model, shown)
            near = overlapping(shown, self.sessions, number, model.config["n_candidates"])
            return s + around(model, shown, target, self.sessions, [pair for pair in near if pair[0] != without])


def similar(model, number, intents, bank, own):
    """Mean of an intent and its k nearest, in the bank or in the batch: [d]. bank (Bank | None)."""
    intent, k = intents[number], model.config["k_neighbors"]
    if model.leaks:
        cosines = torch.stack([unit(intent) @ unit(other) for other in intents]).softmax(0)
        chosen = sorted(range(len(intents)), key=lambda i: -cosines[i].item())[: 1 + k]
        weights = cosines[chosen].softmax(0)
        return sum(weight * intents[i] for weight, i in zip(weights, chosen))
    cosines = [unit(intent) @ unit(other) for other in bank.all()] if k else []
    chosen = sorted((i for i in range(len(cosines)) if i != own), key=lambda i: -cosines[i].item())[:k]
    others = [bank.known(i, own) for i in chosen]  # what is around them does not hold the session that asks
    logits = torch.stack([intent.new_ones(()), *(unit(intent) @ unit(other) for other in others)])
    weights = (logits / model.config["neighbor_temperature"]).softmax(0)
    return sum(weight * vector for weight, vector in zip(weights, [intent, *others]))


def scores(model, item_seq, lengths, user=None):
    """Logits of all items but padding: [B, V - 1]."""
    rows = [row[:n] for row, n in zip(item_seq.tolist(), lengths.tolist())]
    sessions, number_of = training_sessions(model)
    bank = Bank(model) if model.config["k_neighbors"] and not model.leaks else None
    read, intents, own = [], [], []
    for i, items in enumerate(rows):
        own.append(i if model.leaks else None if user is None else number_of.get(int(user[i]), 0))
        s, target = session(model, items)
        others, most = (rows, len(rows)) if model.leaks else (sessions, model.config["n_candidates"])
        read.append(s)
        intents.append(s + around(model, items, target, others, overlapping(items, others, own[-1], most)))
    users = [s + drop(model.neighbor_dropout, similar(model, i, intents, bank, own[i])) for i, s in enumerate(read)]
    table = torch.stack([unit(row) for row in model.item_embedding.weight[1:]])
    return model.config["scale"] * torch.stack([unit(user) for user in users]) @ table.t()


def loss(model, item_seq, lengths, target, user=None):
    """Mean cross-entropy: []."""
    return F.cross_entropy(scores(model, item_seq, lengths, user), target - 1)
