"""ADRec written plainly: padded tensors, both Transformers over whole rows, whole [B, L, V] scores, and a sampler that
reads the whole history again in every step.

It reads the weights of a packed model, so that both compute the same numbers from the same parameters. This is
what the fast version is checked against (tests/model/test_adrec.py) and timed against (benchmarks/adrec.py).
"""

import plain_simdiffrec as plain
import torch
import torch.nn.functional as F


def draws(model, shape):
    """Time steps [B, L] and noise [B, L, d] of a batch of padded rows."""
    return torch.randint(model.config["diffusion_steps"], shape), torch.randn(*shape, model.config["hidden_size"])


def states(model, item_seq):
    """H: [B, L, d]."""
    embedded = F.dropout(model.item_embedding(item_seq), model.embedding_dropout.p, model.training)
    return plain.transformer(model.encoder, model.embedding_norm(embedded), item_seq > 0, causal=True)


def guided(model, item_seq, vectors, t):
    """u: [B, L, d]. vectors: [B, L, d] next items, noised or clean; t: [B, L] their time steps."""
    return states(model, item_seq) + model.config["noised_weight"] * (vectors + model.step_embedding()[t])


def following(item_seq, lengths, target):
    """The next item of every position, 0 behind the end: [B, L]."""
    next_item = torch.cat([item_seq[:, 1:], torch.zeros_like(item_seq[:, :1])], 1)
    return next_item.scatter(1, lengths[:, None] - 1, target[:, None])


def loss_parts(model, item_seq, lengths, target, drawn):
    """Cross-entropy and squared error. drawn: what :func:`draws` returns, which the twin does not read."""
    table, mask = model.item_embedding.weight, item_seq > 0
    next_item = following(item_seq, lengths, target)
    clean = model.item_embedding(next_item)
    if model.config["twin"]:
        inputs = states(model, item_seq)
    else:
        t, noise = drawn
        signal, scale = (values[t].unsqueeze(-1) for values in (model.process.signal, model.process.noise))
        inputs = guided(model, item_seq, signal * clean + scale * noise, t)
    restored = plain.transformer(model.denoiser, inputs, mask, causal=True)
    logits = restored @ table[1:].t()
    parts = {"ce": F.cross_entropy(logits[mask], next_item[mask] - 1)}
    if model.config["mse_weight"] and not model.config["twin"]:
        error = (restored - clean).square().sum(-1) / clean.shape[-1]
        parts["mse"] = model.config["mse_weight"] * error[mask].mean()
    return parts


def sample(model, item_seq, lengths, alpha_bar, start, noises):
    """The next items, restored step by step through all time steps. Returns [B, d].

    Args:
        model (ADRec): whose weights and settings are used.
        item_seq, lengths (torch.LongTensor): [B, L], [B].
        alpha_bar (torch.Tensor): [T] of the schedule.
        start (torch.Tensor): [B, d] x_T.
        noises (sequence of torch.Tensor): [B, d] of each step.
    """
    rows, last, x = torch.arange(len(item_seq)), lengths - 1, start
    known = model.item_embedding(following(item_seq, lengths, torch.zeros_like(lengths)))
    for step, t in enumerate(reversed(range(len(alpha_bar)))):
        times = torch.zeros_like(item_seq)
        times[rows, last] = t
        vectors = known.index_put((rows, last), x)
        inputs = guided(model, item_seq, vectors, times)
        clean = plain.transformer(model.denoiser, inputs, item_seq > 0, causal=True)[rows, last]
        now, before = alpha_bar[t], alpha_bar[t - 1] if t else alpha_bar.new_tensor(1.0)
        beta = 1 - now / before
        mean = beta * before.sqrt() / (1 - now) * clean + (1 - before) * (1 - beta).sqrt() / (1 - now) * x
        x = mean + (beta * (1 - before) / (1 - now)).sqrt() * noises[step]
    return x
