"""MMSBR written plainly: one item, one session, one head and one pair of prices at a time, and a matrix of all logits.

It reads the weights and settings of a model, so that both compute the same numbers from the same parameters. The fast
version is checked against it (tests/model/test_mmsbr.py).
"""

import math

import torch
import torch.nn.functional as F


def attend(layer, x, n_queries):
    """Transformer layer over the tokens of one item: x [n, d] -> [n_queries, d]."""
    size, rows = x.shape[1] // layer.n_heads, []
    keys, values = layer.key_value(x).chunk(2, -1)
    for query in layer.query(x[:n_queries]):
        heads = []
        for head in range(layer.n_heads):
            part = slice(head * size, (head + 1) * size)
            weights = torch.stack([query[part] @ key[part] for key in keys]).div(math.sqrt(size)).softmax(0)
            heads.append(sum(weight * value[part] for weight, value in zip(weights, values)))
        rows.append(torch.cat(heads))
    x = layer.norm(x[:n_queries] + layer.dense(torch.stack(rows)))
    first, _, second = layer.feed_forward
    return layer.norm(x + second(first(x).relu()))


def item(model, number):
    """Vector [d] of an item."""
    net, n = model.items, model.config["n_tokens"]
    pivots = model.item_embedding.weight[number].view(n, -1)
    tokens = []
    for kind, maker in zip(model.modalities, net.tokens):
        inner = maker.first(model.features[kind].weight[number]).tanh().view(n, -1)
        tokens.append(torch.stack([layer(row) for layer, row in zip(maker.second, inner)]).tanh())
    for layers in net.rounds:
        for place, layer in enumerate(layers):
            out = attend(layer, torch.cat([pivots, tokens[place]]), 2 * n)  # all of them, whether they are needed or not
            pivots, tokens[place] = (out[:n] + pivots) / 2, out[n:] + tokens[place]
    return net.network[3](net.network[0](pivots.flatten()).relu())


def variance(x):
    return F.elu(x) + 1


def distance(mean, spread, other_mean, other_spread):
    """Squared 2-Wasserstein distance of two Gaussians whose variances are ELU + 1 of their spreads: []."""
    return (mean - other_mean).square().sum() + (variance(spread).sqrt() - variance(other_spread).sqrt()).square().sum()


def sessions_price(model, items):
    """Mean and spread of what a session pays, [d] each; items: a list."""
    prices, attention = model.prices, model.prices.attention
    means, variances = [], []
    for one in items:
        level = model.price_level[one]
        mean, spread = prices.norms["mean"](prices.mean.weight[level]), prices.norms["spread"](prices.spread.weight[level])
        if model.category is not None:
            shift = prices.norms["category"](prices.category.weight[model.category[one]])
            mean, spread = mean + shift, spread + shift
        means.append(attention.mean_qkv(mean).chunk(3))
        variances.append(attention.variance_qkv(variance(spread)).chunk(3))
    size, mixed_mean, mixed_variance = attention.head_size, [], []
    for head in range(attention.n_heads):
        part = slice(head * size, (head + 1) * size)
        query = means[-1][0][part], variances[-1][0][part]
        far = [distance(*query, mean[1][part], spread[1][part]) for mean, spread in zip(means, variances)]
        weights = torch.stack(far).div(-math.sqrt(size)).softmax(0)
        mixed_mean.append(sum(w * mean[2][part] for w, mean in zip(weights, means)))
        mixed_variance.append(sum(w**2 * variance(spread[2][part]) for w, spread in zip(weights, variances)))
    own = prices.mean.weight[model.price_level[items[-1]]], prices.spread.weight[model.price_level[items[-1]]]
    mixed = torch.cat(mixed_mean), torch.cat(mixed_variance)
    return [norm(raw + dense(found)) for norm, raw, dense, found in zip(prices.out_norms, own, prices.dense, mixed)]


def scores(model, table, items):
    """Of all items but padding: [V - 1]; items: the session as a list; table: [V, d] of :func:`item`."""
    x, gate = table[items], model.interest
    gates = [gate.weight((gate.last(x.mean(0)) + gate.item(row)).sigmoid()) for row in x]
    interest = table[1:] @ sum(weight * row for weight, row in zip(gates, x))
    if model.price_factor == "none":
        return interest
    mine, prices, far = sessions_price(model, items), model.prices, []
    for one in range(1, len(table)):
        shift = 0 if model.category is None else prices.category.weight[model.category[one]]
        level = model.price_level[one]
        far.append(distance(*mine, prices.mean.weight[level] + shift, prices.spread.weight[level] + shift))
    far = torch.stack(far)
    return interest * (1 + far) if model.price_factor == "plus" else interest - F.softplus(model.price_weight) * far


def contrast(model, real, pseudo, anchors):
    """Of one modality: [V, w] each; anchors: a list of items."""
    if model.config["con_reduction"] == "mean":
        logits = F.normalize(real[1:], dim=-1) @ F.normalize(pseudo[1:], dim=-1).t() / model.config["con_temperature"]
        return sum(F.cross_entropy(logits[one - 1], torch.tensor(one - 1)) for one in anchors) / len(anchors)
    total = 0
    for one in range(1, len(real)):
        products = (pseudo[1:] @ real[one]).sort(descending=True).values[:100]
        total = total + products.exp().sum().log10() - (real[one] @ pseudo[one]).exp().log10()
    return total


def loss_parts(model, item_seq, item_seq_len, target, anchors=None):
    """The parts of the loss; anchors: the items that the contrast of text and of images starts from, all by default."""
    table = torch.stack([item(model, number) for number in range(model.n_items)])
    logits = torch.stack([scores(model, table, row[:n]) for row, n in zip(item_seq.tolist(), item_seq_len.tolist())])
    parts = {"recommendation": F.cross_entropy(logits, target - 1)}
    total, weights = 0, {kind: layer.weight for kind, layer in model.features.items()}
    for kind, other in (("text", "images"), ("images", "text")):
        if kind not in weights or not model.config["con_weight"]:
            continue
        pseudo = weights.get(f"pseudo_{kind}")
        if pseudo is None and other in weights:
            pseudo = model.pseudo_maps[kind](weights[other])
        if pseudo is not None:
            total = total + contrast(model, weights[kind], pseudo, anchors or range(1, model.n_items))
    return {**parts, "contrast": model.config["con_weight"] * total} if torch.is_tensor(total) else parts


def loss(model, item_seq, item_seq_len, target):
    """Sum of the parts: []."""
    return sum(loss_parts(model, item_seq, item_seq_len, target).values())
