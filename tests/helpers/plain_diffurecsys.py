"""DiffuRec and DiffuRecSys written plainly: padded tensors, whole [B, V] logits, every step of the chain spelled out.

It reads the weights of a packed model, so that both compute the same numbers from the same parameters. This is what
the fast version is checked against (tests/model/test_diffurecsys.py) and timed against (benchmarks/).
"""

import torch
import torch.nn.functional as F


def heads_of(x, heads):
    """[B, L, d] -> [B, heads, L, d / heads]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def softmax_attention(module, query, key, value, mask, sees_padding=False):
    """query, key, value: [B, L, d]; mask: [B, L] True at real items -> [B, L, d].

    Padded keys are hidden, or (released code) queries of padding are, which then look at all places alike.
    """
    q, k, v = (heads_of(x, module.n_heads) for x in (query, key, value))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    hidden = ~mask[:, None, :, None] if sees_padding else ~mask[:, None, None, :]
    weights = scores.masked_fill(hidden, -1e9).softmax(-1)
    weights = F.dropout(weights, module.attn_dropout.p, module.training)
    return module.dense((weights @ v).transpose(1, 2).flatten(2))


def linear_attention(module, history, guide, mask, config):
    """history, guide: [B, L, d] -> [B, L, d]."""
    sees_padding = config["attention_mask"] == "queries"
    key, value = module.key_value(history).chunk(2, -1)
    q, k, v = (heads_of(x, module.n_heads) for x in (module.query(guide), key, value))
    hidden = torch.zeros_like(mask)[:, None, :, None] if sees_padding else ~mask[:, None, :, None]
    if config["key_softmax"] == "positions":
        k = k.masked_fill(hidden, -1e9).softmax(2)
    else:
        k = k.softmax(1).masked_fill(hidden, 0)
    mixed = (q.softmax(-1) @ (k.transpose(-1, -2) @ v)).transpose(1, 2).flatten(2)
    if config["fill_padding_rows"]:
        mixed = torch.where(mask[:, :, None], mixed, -1e9)
    return module.dense(module.dropout(mixed) if config["drop_cross_output"] else mixed)


def cross_attention(module, history, guide, mask, config):
    """[B, L, d]."""
    if config["cross_attention"] == "linear":
        return linear_attention(module, history, guide, mask, config)
    key, value = module.key_value(history).chunk(2, -1)
    return softmax_attention(module, module.query(guide), key, value, mask, config["attention_mask"] == "queries")


def diffurecsys_block(block, h, guide, mask, config):
    """A block of DiffuRecSys: [B, L, d]."""
    drop = block.dropout
    h = h + drop(cross_attention(block.cross_attention, block.cross_norm(h), guide, mask, config))
    norm = block.cross_norm if config["shared_norm"] else block.attention_norm
    q, k, v = block.attention.qkv(norm(h)).chunk(3, -1)
    h = h + drop(softmax_attention(block.attention, q, k, v, mask, config["attention_mask"] == "queries"))
    h = h + drop(block.feed_forward(block.feed_forward_norm(h)))
    return drop(h) if config["drop_block_output"] else h


def diffurec_block(block, h, mask, config):
    """A block of DiffuRec: [B, L, d]."""
    drop = block.dropout
    q, k, v = block.attention.qkv(block.attention_norm(h)).chunk(3, -1)
    h = h + drop(softmax_attention(block.attention, q, k, v, mask, config["attention_mask"] == "queries"))
    return drop(h + drop(block.feed_forward(block.feed_forward_norm(h))))


def approximator(network, h, guide, mask, config):
    """h, guide: [B, L, d] -> [B, L, d]."""
    start = h
    for block in network.blocks:
        if block.cross_attention is None:
            h = diffurec_block(block, h, mask, config)
        else:
            h = diffurecsys_block(block, h if config["block_stack"] == "chained" else start, guide, mask, config)
    return network.norm(network.dropout(h))


def embed(model, item_seq):
    """e: [B, L, d]."""
    return model.embedding_norm(model.embedding_dropout(model.item_embedding(item_seq)))


def restore(model, item_seq, embedded, noised, t, lambda_noise):
    """x_0 predicted from x_t. noised: [B, d]; t: [B]; lambda_noise: standard normal [B, L, d] -> [B, d]."""
    mask = item_seq > 0
    strength = lambda_noise * model.config["lambda_std"] + model.config["lambda_mean"]
    guide = strength * (noised + model.step_embedding()[t])[:, None]
    crosses = model.approximator.blocks[0].cross_attention is not None
    hidden = approximator(model.approximator, embedded if crosses else embedded + guide, guide, mask, model.config)
    last = torch.full((len(mask),), -1) if model.config["attention_mask"] == "queries" else mask.sum(1) - 1
    return hidden[torch.arange(len(item_seq)), last]


def loss(model, item_seq, target, t, noise, lambda_noise):
    """Algorithm 1. t: [B]; noise: [B, d]; lambda_noise: [B, L, d]; padding stands left with the released mask."""
    alpha_bar = model.process.signal[t] ** 2
    noised = alpha_bar.sqrt()[:, None] * model.item_embedding(target) + (1 - alpha_bar).sqrt()[:, None] * noise
    restored = restore(model, item_seq, embed(model, item_seq), noised, t, lambda_noise)
    first = 0 if model.config["padding_in_softmax"] else 1
    return F.cross_entropy(restored @ model.item_embedding.weight[first:].t(), target - first)


def sample(model, item_seq, betas, x, noises, lambda_noises):
    """Algorithm 2 with the variance beta. x: [B, d]; noises: [T, B, d]; lambda_noises: [T, B, L, d], in order of use."""
    alpha_bar = torch.cumprod(1 - betas, 0)
    embedded = embed(model, item_seq)
    for step, t in enumerate(reversed(range(len(betas)))):
        before = alpha_bar[t - 1] if t else torch.ones(())
        clean = restore(model, item_seq, embedded, x, torch.full((len(x),), t), lambda_noises[step])
        mean_clean = betas[t] * before.sqrt() / (1 - alpha_bar[t])
        mean_state = (1 - before) * (1 - betas[t]).sqrt() / (1 - alpha_bar[t])
        x = mean_clean.float() * clean + mean_state.float() * x
        if t:
            x = x + betas[t].sqrt().float() * noises[step]
    return x
