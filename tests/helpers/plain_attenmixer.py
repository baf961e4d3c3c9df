"""Atten-Mixer written plainly: one session, one head, one level and one item at a time, and a matrix of all logits.

It reads the weights and settings of a model, so that both compute the same numbers from the same parameters. The fast
version is checked against it (tests/model/test_attenmixer.py).
"""

import torch
import torch.nn.functional as F


def levels(model, x):
    """Queries of the last 1..K items: [n, d] -> [K, d]."""
    found = []
    for i in range(model.config["n_levels"]):
        latest = [x[-1 - j] if j < len(x) else torch.zeros_like(x[0]) for j in range(i + 1)]
        layer = model.mixer.weights.queries.levels[i]
        found.append(layer(torch.cat(latest) if model.config["level"] == "concat" else sum(latest)))
    return torch.stack(found)


def soft_weights(model, x):
    """[n, d] -> weights [heads, n]."""
    layer, heads, p = model.mixer.weights, model.config["n_heads"], model.config["pool_power"]
    size = x.shape[-1] // heads
    queries = [layer.query(q / q.norm()) for q in levels(model, x)]
    keys, rows = [layer.key(item) for item in x], []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        maps = [torch.stack([q[part] @ k[part] for k in keys]).div(size**0.5).softmax(0) for q in queries]
        pooled = torch.stack([sum(a[place] ** p for a in maps) ** (1 / p) for place in range(len(x))])
        rows.append(pooled / pooled.sum())
    return torch.stack(rows)


def released_weights(model, x):
    """[n, d] -> weights [heads, n], as the released code has them; sessions are padded to their longest."""
    layer, heads, p, longest = (
        model.mixer.weights,
        model.config["n_heads"],
        model.config["pool_power"],
        model.max_seq_length,
    )
    size = x.shape[-1] // heads
    queries = layer.query(levels(model, x) / levels(model, x).norm(dim=0).clamp(min=1e-12)).flatten().split(size)
    keys = layer.key(F.pad(x, (0, 0, 0, longest - len(x)))).flatten().split(size)
    n_levels, rows = model.config["n_levels"], []
    for head in range(heads):
        maps = []
        for query in queries[head * n_levels : (head + 1) * n_levels]:
            logits = torch.stack([query @ key for key in keys[head * longest : (head + 1) * longest]])
            maps.append((2 * logits.sigmoid()).softmax(0))
        pooled = torch.stack([sum(a[place] ** p for a in maps) ** (1 / p) for place in range(len(x))])
        rows.append((2 * pooled).softmax(0))
    return torch.stack(rows)


def mean_weights(model, x):
    """[n, d] -> weights [heads, n]."""
    return x.new_full((model.config["n_heads"], len(x)), 1 / len(x))


WEIGHTS = {"soft": soft_weights, "released": released_weights, "mean": mean_weights}


def session(model, items):
    """items: [n] of one session -> its vector [d] of length one."""
    x = F.embedding(items, model.item_embedding.weight)
    x = F.dropout(x / x.norm(dim=1, keepdim=True), model.item_dropout.p, model.training)
    x = x / x.norm(dim=1, keepdim=True).clamp(min=1e-12)
    mixer = model.mixer
    weights = F.dropout(WEIGHTS[model.config["attention"]](model, x), mixer.dropout.p, model.training)
    heads = [values.split(x.shape[-1] // len(weights)) for values in mixer.value(x)]
    mixed = torch.cat([sum(w * values[h] for w, values in zip(weights[h], heads)) for h in range(len(weights))])
    state = mixer.output(torch.cat([mixer.norm(mixed), x[-1]]))
    return state / state.norm()


def scores(model, item_seq, lengths):
    """Logits of all items but padding: [B, V - 1]."""
    users = torch.stack([session(model, row[:n]) for row, n in zip(item_seq, lengths.tolist())])
    table = model.item_embedding.weight[1:]
    table = F.dropout(table / table.norm(dim=1, keepdim=True), model.head.dropout.p, model.training)
    return model.config["scale"] * users @ table.t()


def loss(model, item_seq, lengths, target):
    """Mean cross-entropy: []."""
    return F.cross_entropy(scores(model, item_seq, lengths), target - 1)
