"""DiffuRec and DiffuRecSys written plainly: padded tensors, whole [B, V] logits, every step of the chain spelled out.

It reads the weights of a packed model, so that both compute the same numbers from the same parameters. This is what
the fast version is checked against (tests/model/test_diffurecsys.py) and timed against (benchmarks/).
"""

import torch
import torch.nn.functional as F


def heads_of(x, heads):
    """[B, L, d] -> [B, heads, L, d / heads]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def softmax_attention(module, query, key, value, mask):
    """query, key, value: [B, L, d]; mask: [B, L] True at real items -> [B, L, d]."""
    q, k, v = (heads_of(x, module.n_heads) for x in (query, key, value))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    weights = scores.masked_fill(~mask[:, None, None, :], -1e9).softmax(-1)
    weights = F.dropout(weights, module.attn_dropout.p, module.training)
    return module.dense((weights @ v).transpose(1, 2).flatten(2))


def linear_attention(module, history, guide, mask):
    """history, guide: [B, L, d] -> [B, L, d]."""
    key, value = module.key_value(history).chunk(2, -1)
    q, k, v = (heads_of(x, module.n_heads) for x in (module.query(guide), key, value))
    hidden = ~mask[:, None, :, None]
    if module.key_softmax == "positions":
        k = k.masked_fill(hidden, -1e9).softmax(2)
    else:
        k = k.softmax(1).masked_fill(hidden, 0)
    return module.dense((q.softmax(-1) @ (k.transpose(-1, -2) @ v)).transpose(1, 2).flatten(2))


def cross_attention(module, history, guide, mask):
    """[B, L, d]."""
    if hasattr(module, "key_softmax"):
        return linear_attention(module, history, guide, mask)
    key, value = module.key_value(history).chunk(2, -1)
    return softmax_attention(module, module.query(guide), key, value, mask)


def approximator(network, h, guide, mask):
    """h, guide: [B, L, d] -> [B, L, d]."""
    for block in network.blocks:
        drop = block.dropout
        if block.cross_attention is not None:
            h = h + drop(cross_attention(block.cross_attention, block.cross_norm(h), guide, mask))
        q, k, v = block.attention.qkv(block.attention_norm(h)).chunk(3, -1)
        h = h + drop(softmax_attention(block.attention, q, k, v, mask))
        h = drop(h + drop(block.feed_forward(block.feed_forward_norm(h))))
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
    hidden = approximator(model.approximator, embedded if crosses else embedded + guide, guide, mask)
    return hidden[torch.arange(len(item_seq)), mask.sum(1) - 1]


def loss(model, item_seq, target, t, noise, lambda_noise):
    """Algorithm 1. t: [B]; noise: [B, d]; lambda_noise: [B, L, d]."""
    alpha_bar = model.process.signal[t] ** 2
    noised = alpha_bar.sqrt()[:, None] * model.item_embedding(target) + (1 - alpha_bar).sqrt()[:, None] * noise
    restored = restore(model, item_seq, embed(model, item_seq), noised, t, lambda_noise)
    logits = restored @ model.item_embedding.weight[1:].t()
    return F.cross_entropy(logits, target - 1)


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
