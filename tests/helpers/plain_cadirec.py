"""CaDiRec written plainly: padded tensors, every position restored, whole [B, L, V] scores for the loss and once more for
the candidates, three passes of the encoder.

It reads the weights of a packed model, so that both compute the same numbers from the same parameters. This is
what the fast version is checked against (tests/model/test_cadirec.py) and timed against (benchmarks/cadirec.py).
"""

import math

import plain_simdiffrec as plain
import torch
import torch.nn.functional as F


def draws(model, lengths, width):
    """Everything random that is not dropout, of a batch of padded rows: a dict of tensors [B, ...]."""
    shape = len(lengths), width
    real = torch.arange(width) < lengths[:, None]
    return {
        "masked": (torch.rand(shape) < model.config["mask_ratio"]) & real,
        "t": torch.randint(model.config["diffusion_steps"], lengths.shape),
        "first": torch.randn(*shape, model.config["hidden_size"]),
        "noise": torch.randn(*shape, model.config["hidden_size"]),
        "choice": torch.randint(model.config["k_candidates"], (*shape, 2)),
    }


def disentangled(stack, x, mask):
    """DeBERTa's blocks by the gathers of its own code. x: [B, L, d]; mask: [B, L] True at real items."""
    batch, width, hidden = x.shape
    table = stack.distance_embedding.weight
    x = F.dropout(stack.LayerNorm(x), stack.dropout.p, stack.training)
    place = torch.arange(width)
    index = (place[:, None] - place + len(table) // 2).clamp(0, len(table) - 1)
    for attention, feed_forward in zip(stack.attention, stack.feed_forward):
        heads = attention.n_heads
        rate = attention.attn_dropout.p

        def split(tensor):
            return tensor.view(*tensor.shape[:-1], heads, -1).transpose(-3, -2)

        w_q, w_k, w_v = attention.qkv.weight.chunk(3)
        q, k = split(F.linear(x, w_q, attention.query_bias)), split(F.linear(x, w_k))
        v = split(F.linear(x, w_v, attention.value_bias))
        distances = F.dropout(table, rate, stack.training)
        keys, queries = split(attention.distance_key(distances)), split(attention.distance_query(distances))
        spread = index.expand(batch, heads, width, width)
        content = q @ k.transpose(-1, -2)
        to_distance = (q @ keys.transpose(-1, -2)).gather(-1, spread)
        from_distance = (k @ queries.transpose(-1, -2)).gather(-1, spread.transpose(-1, -2)).transpose(-1, -2)
        scores = (content + to_distance + from_distance) / math.sqrt(3 * hidden / heads)
        weights = scores.masked_fill(~mask[:, None, None, :], -1e9).softmax(-1)
        mixed = F.dropout(weights, rate, stack.training) @ v
        mixed = attention.dense(mixed.transpose(1, 2).reshape(batch, width, hidden))
        x = attention.LayerNorm(x + F.dropout(mixed, rate, stack.training))
        inner = feed_forward.dense_2(feed_forward.activation(feed_forward.dense_1(x)))
        x = feed_forward.LayerNorm(x + F.dropout(inner, rate, stack.training))
    return x


def restore(model, item_seq, drawn):
    """Restored vectors of all positions: [B, L, d]."""
    clean, masked, mask = model.item_embedding(item_seq), drawn["masked"].unsqueeze(-1), item_seq > 0
    if model.config["twin"]:
        state = clean.masked_fill(masked, 0)
    else:
        signal, noise = (values[drawn["t"]][:, None, None] for values in (model.process.signal, model.process.noise))
        start = clean + model.process.noise[0] * drawn["first"]
        context = start if model.config["context_noise"] else clean
        state = torch.where(masked, signal * start + noise * drawn["noise"], context)
        state = state + model.time_embedding()[drawn["t"]].unsqueeze(1)
    if model.config["denoiser"] == "transformer":
        return plain.positioned(model.denoiser, state, mask, causal=False)
    return disentangled(model.denoiser, state, mask)


def simclr(a, b, tau):
    """NT-Xent by a loop over the 2 B views."""
    views = torch.cat([a, b])
    losses = []
    for i in range(len(views)):
        others = [j for j in range(len(views)) if j != i]
        scores = views[others] @ views[i] / tau
        losses.append(-scores.log_softmax(0)[others.index((i + len(a)) % len(views))])
    return torch.stack(losses).mean()


def simclr_at_once(a, b, tau):
    """The same with one product, for the benchmark."""
    views = torch.cat([a, b])
    scores = (views @ views.t() / tau).fill_diagonal_(float("-inf"))
    return F.cross_entropy(scores, torch.arange(len(views)).roll(len(a)))


def loss_parts(model, item_seq, lengths, target, drawn, contrast=simclr, recommend=None):
    """The three losses.

    Args:
        model (CaDiRec): whose weights and settings are used.
        item_seq, lengths, target (torch.LongTensor): [B, L], [B], [B].
        drawn (dict): what :func:`draws` returns.
        contrast (callable): of two views.
        recommend (callable, optional): loss of states [N, d] at all real positions and the next items [N]; by default
            the full softmax.
    """
    config, table = model.config, model.item_embedding.weight
    mask, masked = item_seq > 0, drawn["masked"]
    restored = restore(model, item_seq, drawn)
    nll = F.cross_entropy((restored @ table[1:].t()).transpose(1, 2), (item_seq - 1).clamp(min=0), reduction="none")
    distance = (restored - model.item_embedding(item_seq)).square().mean(-1)
    count = masked.sum(1).clamp(min=1)
    diffusion = (((nll + config["mse_weight"] * distance) * masked).sum(1) / count).mean()

    with torch.no_grad():
        best = (restored @ table[1:].t()).topk(config["k_candidates"]).indices + 1
        chosen = best.gather(-1, drawn["choice"])
        views = [torch.where(masked, chosen[..., view], item_seq) for view in range(2)]

    rows, last = torch.arange(len(item_seq)), lengths - 1
    hidden = plain.positioned(model.recommender, model.item_embedding(item_seq), mask, causal=True)
    ends = [plain.positioned(model.recommender, table.detach()[view], mask, causal=True)[rows, last] for view in views]
    next_item = torch.cat([item_seq[:, 1:], torch.zeros_like(item_seq[:, :1])], 1)
    next_item[rows, last] = target
    if recommend is None:
        recommendation = F.cross_entropy(hidden[mask] @ table[1:].t(), next_item[mask] - 1)
    else:
        recommendation = recommend(hidden[mask], next_item[mask])
    return {
        "recommendation": recommendation,
        "diffusion": config["beta"] * diffusion,
        "contrast": config["alpha"] * contrast(*ends, config["tau"]),
    }
