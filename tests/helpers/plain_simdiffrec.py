"""SimDiffRec written plainly: padded tensors, every token on its own, whole [B, L, V] logits.

It reads the weights of a packed model, so that both compute the same numbers from the same parameters. This is
what the fast version is checked against (tests/model/test_simdiffrec.py) and timed against (benchmarks/).
"""

import plain_encoders
import torch
import torch.nn.functional as F


def transformer(stack, x, mask, causal):
    """x: [B, L, d]; mask: [B, L] True at items that are seen; a query that sees none sees itself."""
    batch, width, hidden = x.shape
    visible = mask[:, None, None, :].expand(batch, 1, width, width)
    if causal:
        visible = visible & torch.ones(width, width, dtype=torch.bool).tril()
    visible = visible | (torch.eye(width, dtype=torch.bool) & ~visible.any(-1, keepdim=True))
    for attention, feed_forward in zip(stack.attention, stack.feed_forward):
        heads = attention.n_heads
        q, k, v = (t.view(batch, width, heads, -1).transpose(1, 2) for t in attention.qkv(x).chunk(3, -1))
        scores = q @ k.transpose(-1, -2) / (hidden // heads) ** 0.5
        weights = scores.masked_fill(~visible, -1e9).softmax(-1)
        weights = F.dropout(weights, attention.attn_dropout.p, stack.training)
        mixed = attention.dense((weights @ v).transpose(1, 2).reshape(batch, width, hidden))
        x = attention.LayerNorm(x + F.dropout(mixed, attention.out_dropout.p, stack.training))
        inner = feed_forward.dense_2(feed_forward.activation(feed_forward.dense_1(x)))
        x = feed_forward.LayerNorm(x + F.dropout(inner, feed_forward.dropout.p, stack.training))
    return x


def positioned(network, x, mask, causal, keys=None):
    """Positions, layer norm, dropout, Transformer. keys: [B, L] where fewer than the real items are seen."""
    width, table = x.shape[1], network.position_embedding.weight
    position = torch.arange(width).expand(mask.shape)
    if network.align_end:
        position = (position + len(table) - mask.sum(1, keepdim=True)).clamp(max=len(table) - 1)
    x = network.LayerNorm(x + table[position])
    x = F.dropout(x, network.dropout.p, network.training)
    twin = plain_encoders.encoder if hasattr(network.transformer, "blocks") else transformer
    return twin(network.transformer, x, mask if keys is None else keys, causal)


def similarity_noise(model, item_seq):
    """Eq. 6-7 token by token: [B, L, d]."""
    table = model.item_embedding.weight
    with torch.no_grad():
        similarity = table[item_seq] @ table.t()
        similarity.scatter_(-1, item_seq.unsqueeze(-1), float("-inf"))
        similarity[..., 0] = float("-inf")
        nearest = similarity.topk(model.config["k_noise"]).indices
        del similarity
    return table[nearest].mean(2)


def augment(model, item_seq, lengths, logits, confidence):
    """Views by a loop over users (Eq. 14-16)."""
    positive, negative = item_seq.clone(), item_seq.clone()
    for row, length in enumerate(lengths.tolist()):
        count = max(1, int(model.config["aug_ratio"] * length))
        for place in confidence[row, :length].topk(count).indices.tolist():
            ranked = logits[row, place].topk(model.config["k_sample"]).indices + 1
            positive[row, place], negative[row, place] = ranked[0], ranked[-1]
    return positive, negative


def encode(model, item_seq):
    """Hidden states of the causal encoder: [B, L, d]."""
    return positioned(model.recommender, model.item_embedding(item_seq), item_seq > 0, causal=True)


def loss_parts(model, item_seq, lengths, target, t):
    """The three losses with default switches. t: [B] time step of each sequence."""
    config, table = model.config, model.item_embedding.weight
    mask = item_seq > 0
    clean, noise = model.item_embedding(item_seq), similarity_noise(model, item_seq)
    signal, scale = model.process.signal[t], model.process.noise[t]
    noised = signal[:, None, None] * clean + scale[:, None, None] * noise
    restored = positioned(model.denoiser, noised + model.time_embedding(t)[:, None], mask, causal=False)
    logits = restored @ table[1:].t()
    rounding = F.cross_entropy(logits[mask], item_seq[mask] - 1)
    diffusion = rounding + config["mse_weight"] * F.mse_loss(restored[mask], clean[mask])

    with torch.no_grad():
        confidence = logits.softmax(-1).amax(-1)
        positive, negative = augment(model, item_seq, lengths, logits, confidence)

    rows, last = torch.arange(len(item_seq)), lengths - 1
    hidden, hidden_positive, hidden_negative = (encode(model, view) for view in (item_seq, positive, negative))
    next_item = torch.cat([item_seq[:, 1:], torch.zeros_like(item_seq[:, :1])], 1)
    next_item[rows, last] = target
    recommendation = F.cross_entropy((hidden @ table[1:].t())[mask], next_item[mask] - 1)

    ends = [F.normalize(h[rows, last], dim=-1) for h in (hidden, hidden_positive, hidden_negative)]
    contrast = F.cross_entropy(ends[0] @ torch.cat(ends[1:]).t() / config["tau"], rows)
    return {
        "recommendation": recommendation,
        "diffusion": config["beta"] * diffusion,
        "contrast": config["alpha"] * contrast,
    }
