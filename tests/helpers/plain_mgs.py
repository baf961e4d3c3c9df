"""MGS written plainly: one session and one item at a time, mates side by side, and a matrix of all logits.

It reads the weights and settings of a model, so that both compute the same numbers from the same parameters. The fast
version is checked against it (tests/model/test_mgs.py).
"""

import random

import torch
import torch.nn.functional as F


def mates_of(model):
    """Of every attribute: item -> its mates value by value, itself left out, as lists of lists."""
    found = []
    for items, values in model.item_attributes.values():
        members = {}
        for item, value in zip(items.tolist(), values.tolist()):
            members.setdefault(value, []).append(item)
        mates = {}
        for group in members.values():
            for item in group if len(group) > 1 else ():
                mates.setdefault(item, []).append([other for other in group if other != item])
        found.append(mates)
    return found


def all_of(groups):
    """All mates of one item and their shares: [(mate, share)]."""
    return [(mate, 1 / len(groups) / len(group)) for group in groups for mate in group]


def sample(groups, k):
    """k mates of one item with replacement, or all of them where there are no more than k: [(mate, share)]."""
    if sum(map(len, groups)) <= k:
        return all_of(groups)
    return [(random.choice(random.choice(groups)), 1.0) for _ in range(k)]


def look(model, number, item, mates):
    """What an item sees of some mates [(mate, share)] of one attribute: [d]."""
    table, layer = model.item_embedding.weight, model.mirrors.attention[number]
    if not mates:
        return torch.zeros_like(table[item])
    numbers, shares = zip(*mates)
    pairs = torch.stack([torch.cat([table[item], table[mate]]) for mate in numbers])
    weight = torch.cat([layer.own.weight[0], layer.mate.weight[0]])
    logits = F.leaky_relu(pairs @ weight, 0.2) + pairs.new_tensor(shares).log()
    return logits.softmax(0) @ table[list(numbers)]


def mirror(model, item, mates):
    """Mirror of an item, mates: of every attribute [(mate, share)] -> [d]."""
    looks = [look(model, number, item, found) for number, found in enumerate(mates)]
    if len(looks) == 1:
        return looks[0]
    return F.dropout(model.mirrors.join(torch.cat(looks)), model.mirrors.dropout.p, model.training)


def nodes_of(items):
    """The different items of a session, the one that was met last first."""
    return list(dict.fromkeys(reversed(items)))


def codes(items):
    """Relations of the nodes of a session: 1 itself, 2 met right before it, 3 right after it, 4 both, 0 none."""
    nodes = nodes_of(items)
    met = {(nodes.index(b), nodes.index(a)) for a, b in zip(items, items[1:])}
    rows = range(len(nodes))
    return [[1 if i == j else 2 * ((i, j) in met) + 3 * ((j, i) in met) - ((i, j) in met and (j, i) in met) for j in rows]
            for i in rows]  # fmt: skip


def local(layer, x, found):
    """x: [d] of each node; found: codes -> the same after a look at the neighbours."""
    seen = []
    for i, row in enumerate(found):
        near = [j for j, code in enumerate(row) if code]
        logits = torch.stack([F.leaky_relu(layer.weight[row[j] - 1] @ (x[i] * x[j]), 0.2) for j in near])
        seen.append(sum(weight * x[j] for weight, j in zip(logits.softmax(0), near)))
    return seen


def exchange(layer, x, mirrors, paired):
    """[d] of each node and of its mirror -> the same after an exchange."""
    maps, scale = layer.maps, len(x[0]) ** -0.5
    x = [a + scale * (maps["item"](a) @ maps["mirror"](m)) * (m - a) for a, m in zip(x, mirrors)]
    mixed, others = [], [j for j, own in enumerate(paired) if own]
    for i, m in enumerate(mirrors):
        logits = [scale * (maps["mirror_query"](m) @ maps["item_key"](x[j])) for j in others] if paired[i] else []
        weights = torch.stack(logits).softmax(0) if logits else []
        mixed.append(sum((w * mirrors[j] for w, j in zip(weights, others)), torch.zeros_like(m)))
    return x, mixed


def read_out(layer, x, mirrors):
    """[d] of each node and of its mirror, or None -> the session [d]."""
    session = 0
    for place, a in enumerate(x):
        placed = a + layer.position_embedding.weight[place]
        parts = layer.item(placed) + layer.last(x[0])
        if mirrors is not None:
            parts = parts + layer.mirror(mirrors[place])
        session = session + layer.weight(parts.sigmoid()) * placed
    if not layer.mu:
        return session
    gate = layer.mu * layer.gate(torch.cat([session, x[0]])).sigmoid()
    return gate * x[0] + (1 - gate) * session


def session(model, items, mirrors, paired):
    """items: list of one session; mirrors: [d] of each of its nodes, or None -> its vector [d]."""
    start = x = [model.item_embedding.weight[item] for item in nodes_of(items)]
    for layer in model.neighbours:
        x = local(layer, x, codes(items))
        if mirrors is not None:
            x, mirrors = exchange(model.exchange, x, mirrors, paired)
    gates = [model.highway(torch.cat([h, a])).sigmoid() for h, a in zip(start, x)]
    x = [g * h + (1 - g) * a for g, h, a in zip(gates, start, x)]
    return F.dropout(read_out(model.readout, x, mirrors), model.dropout.p, model.training)


def is_paired(mates, items):
    return [any(item in found for found in mates) for item in items]


def aligned(model, views, paired, widest):
    """views: two mirrors [d] of each node of a session -> [] what the loss without labels says of it."""
    config, terms = model.config, []
    others = [j for j, own in enumerate(paired) if own]
    padding = [model.item_embedding.weight[0]] * (widest - len(paired) if config["ssl_padding"] else 0)
    for i in others:
        logits = [views[i][0] @ views[j][1] for j in others] + [views[i][0] @ row for row in padding]
        terms.append(-(torch.stack(logits) / config["tau"]).log_softmax(0)[others.index(i)])
    if not terms:
        return torch.zeros(())
    return sum(terms) if config["ssl_reduction"] == "sum" else sum(terms) / len(terms)


def histories(item_seq, lengths):
    return [row[:n] for row, n in zip(item_seq.tolist(), lengths.tolist())]


def loss_parts(model, item_seq, lengths, target, drawn=None):
    """Parts of the loss; ``drawn(row, item)``: the two samples of mates of each attribute, by default drawn here."""
    mates, k = mates_of(model), model.config["n_mates"]
    drawn = drawn or (lambda row, item: [[sample(found.get(item, []), k) for _ in range(2)] for found in mates])
    sessions, users, terms = histories(item_seq, lengths), [], []
    widest = max(len(set(items)) for items in sessions)
    for row, items in enumerate(sessions):
        mirrors = paired = None
        if mates:
            samples, views, mirrors = {i: drawn(row, i) for i in nodes_of(items)}, [], []
            for item, found in samples.items():
                views.append([mirror(model, item, [pair[side] for pair in found]) for side in range(2)])
                mirrors.append(mirror(model, item, [pair[0] + pair[1] for pair in found]))
            paired = is_paired(mates, nodes_of(items))
            terms.append(aligned(model, views, paired, widest))
        users.append(session(model, items, mirrors, paired))
    logits = torch.stack(users) @ model.item_embedding.weight[1:].t()
    parts = {"recommendation": F.cross_entropy(logits, target - 1)}
    if mates and model.config["ssl_weight"]:
        parts["mirrors"] = model.config["ssl_weight"] * sum(terms) / len(terms)
    return parts


def loss(model, item_seq, lengths, target):
    """Sum of the parts: []."""
    return sum(loss_parts(model, item_seq, lengths, target).values())


def scores(model, item_seq, lengths):
    """Logits of all items but padding, with all mates of each item: [B, V - 1]."""
    mates, users = mates_of(model), []
    for items in histories(item_seq, lengths):
        mirrors = paired = None
        if mates:
            mirrors = [mirror(model, i, [all_of(found.get(i, [])) for found in mates]) for i in nodes_of(items)]
            paired = is_paired(mates, nodes_of(items))
        users.append(session(model, items, mirrors, paired))
    return torch.stack(users) @ model.item_embedding.weight[1:].t()
