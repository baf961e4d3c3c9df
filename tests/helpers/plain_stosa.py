"""STOSA written plainly: padded tensors, a difference for every pair of Gaussians, no inner product in place of a distance.

It reads the weights of the packed model, so that both compute the same numbers from the same parameters. This is what
the fast version is checked against (tests/model/test_stosa.py) and timed against (benchmarks/stosa.py).
"""

import torch
import torch.nn.functional as F


def positive(x):
    return F.elu(x) + 1


def distance(mean, variance, other_mean, other_variance):
    """Squared 2-Wasserstein distance of broadcast Gaussians: [..., d] each -> [...]."""
    return (mean - other_mean).square().sum(-1) + (variance.sqrt() - other_variance.sqrt()).square().sum(-1)


def heads_of(x, heads):
    """[B, L, d] -> [B, heads, L, d / heads]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def attention_weights(layer, mean, variance, mask):
    """[B, heads, query, key], from a distance for every pair. mask: [B, L] True at real items."""
    width = mean.shape[-1]
    mean_q, mean_k = (heads_of(x, layer.n_heads) for x in layer.mean_qkv(mean)[..., : 2 * width].chunk(2, -1))
    variance_q, variance_k = layer.variance_qkv(variance)[..., : 2 * width].chunk(2, -1)
    variance_q, variance_k = (heads_of(positive(x), layer.n_heads) for x in (variance_q, variance_k))
    pairs = distance(mean_q.unsqueeze(3), variance_q.unsqueeze(3), mean_k.unsqueeze(2), variance_k.unsqueeze(2))
    place = torch.arange(mean.shape[1])
    hidden = (place[:, None] < place) | ~mask[:, None, None, :]
    return (-pairs / mean_q.shape[-1] ** 0.5).masked_fill(hidden, -1e9).softmax(-1)


def attention(layer, mean, variance, mask, mixes_means):
    """[B, L, d] each -> mixed means, or None, and mixed variances."""
    width = mean.shape[-1]
    weights = F.dropout(attention_weights(layer, mean, variance, mask), layer.attn_dropout.p, layer.training)
    values = heads_of(positive(layer.variance_qkv(variance)[..., 2 * width :]), layer.n_heads)
    mixed_variance = (weights**2 @ values).transpose(1, 2).flatten(2)
    if not mixes_means:
        return None, mixed_variance
    values = heads_of(layer.mean_qkv(mean)[..., 2 * width :], layer.n_heads)
    return (weights @ values).transpose(1, 2).flatten(2), mixed_variance


def finish(block, stream, before, mixed):
    x = block.norm[stream](before + block.dropout(block.dense[stream](mixed)))
    layer = block.feed_forward[stream]
    return layer.LayerNorm(x + layer.dropout(layer.dense_2(F.elu(layer.dense_1(x)))))


def users(model, items, lengths):
    """Means and variances after every item of padded histories: [B, L, d] each."""
    layer, place = model.transformer, torch.arange(items.shape[1])
    mask = place < lengths[:, None]
    if model.config["pos_align"] == "end":
        place = (place + model.max_seq_length - lengths[:, None]).clamp(max=model.max_seq_length - 1)
    mixes_means = model.config["mean_path"] == "paper"
    mean = layer.norm[0](F.embedding(items, model.item_embedding.weight) + layer.mean_position(place))
    variance = layer.norm[-1](F.embedding(items, model.item_spread.weight) + layer.spread_position(place))
    mean, variance = F.elu(layer.dropout(mean)), positive(layer.dropout(variance))
    for block in layer.blocks:
        mixed_mean, mixed_variance = attention(block.attention, mean, variance, mask, mixes_means)
        if mixes_means:
            mean = finish(block, 0, mean, mixed_mean)
        variance = positive(finish(block, -1, variance, mixed_variance))
    return mean, variance


def item_gaussians(model, items):
    """Means and variances of items: [..., d] each."""
    return F.embedding(items, model.item_embedding.weight), positive(F.embedding(items, model.item_spread.weight))


def distances_to_all(model, mean, variance):
    """[B, V] from a [B, V, d] difference of means and one of deviations."""
    everything = item_gaussians(model, torch.arange(model.n_items))
    return distance(mean.unsqueeze(1), variance.unsqueeze(1), *everything)


def ranking(model, items, lengths):
    """Distances of histories to all items: [B, V]."""
    mean, variance = users(model, items, lengths)
    rows = torch.arange(len(items))
    return distances_to_all(model, mean[rows, lengths - 1], variance[rows, lengths - 1])


def loss_parts(model, items, lengths, target, negative):
    """Parts of the loss as the model names them. negative: [B, L], for BPR."""
    mask = torch.arange(items.shape[1]) < lengths[:, None]
    following = F.pad(items[:, 1:], (0, 1)).scatter(1, lengths[:, None] - 1, target[:, None])
    mean, variance = (x[mask] for x in users(model, items, lengths))
    following = following[mask]
    if model.config["loss_type"] == "CE":
        scores = -distances_to_all(model, mean, variance)[:, 1:]
        return {"recommendation": F.cross_entropy(scores, following - 1)}
    wanted, other = item_gaussians(model, following), item_gaussians(model, negative[mask])
    to_wanted, to_other = distance(mean, variance, *wanted), distance(mean, variance, *other)
    parts = {"recommendation": -F.logsigmoid(to_other - to_wanted).mean()}
    if model.config["pvn_weight"]:
        parts["pvn"] = model.config["pvn_weight"] * (to_wanted - distance(*wanted, *other)).clamp(min=0).mean()
    return parts
