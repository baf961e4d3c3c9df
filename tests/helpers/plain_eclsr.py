"""ECL-SR written plainly: padded tensors, every token on its own, whole [B, L, V] logits.

It reads the weights of a packed model, so that both compute the same numbers from the same parameters. This is what the
fast version is checked against (tests/model/test_eclsr.py) and timed against (benchmarks/).
"""

import torch
import torch.nn.functional as F
from plain_simdiffrec import encode, positioned


def loss_parts(model, item_seq, lengths, target, chosen):
    """The four losses with ``condition: addall | add`` and both ``ce_positions``. chosen: [B, L] True at masked items."""
    config, table, weight = model.config, model.item_embedding.weight, model.weight
    real, rows, last = item_seq > 0, torch.arange(len(item_seq)), lengths - 1
    hidden, copy = encode(model, item_seq), encode(model, item_seq)
    next_item = torch.cat([item_seq[:, 1:], torch.zeros_like(item_seq[:, :1])], 1)
    next_item[rows, last] = target
    where = real if config["ce_positions"] == "all" else torch.zeros_like(real).index_put((rows, last), torch.tensor(True))
    recommendation = F.cross_entropy((hidden @ table[1:].t())[where], next_item[where] - 1)

    one, other = (F.normalize(mean_of_latest(h, lengths, config["k_last"]), dim=-1) for h in (hidden, copy))
    contrast = F.cross_entropy(one @ other.t() / config["tau"], rows)

    masked = torch.where(chosen.unsqueeze(-1), model.mask_vector, model.item_embedding(item_seq))
    logits = positioned(model.generator, masked, real, causal=False) @ table[1:].t()
    generator = F.cross_entropy(logits[chosen], item_seq[chosen] - 1)
    replaced = torch.where(chosen, logits.detach().argmax(-1) + 1, item_seq)

    condition = hidden if config["condition"] == "addall" else hidden[rows, last].unsqueeze(1)
    x = model.item_embedding(replaced) + condition
    judged = positioned(model.recommender, x, real, causal=True) @ model.judge.weight[0]
    label = (replaced != item_seq).to(judged.dtype)
    discriminator = F.binary_cross_entropy(judged.sigmoid()[real], label[real])
    return {
        "recommendation": recommendation,
        "contrast": weight["contrast"] * contrast,
        "discriminator": weight["discriminator"] * discriminator,
        "generator": weight["generator"] * generator,
    }


def mean_of_latest(hidden, lengths, k):
    """Mean of the last k states, of all where a history is shorter, by a loop: [B, L, d] -> [B, d]."""
    return torch.stack([row[max(0, n - k) : n].mean(0) for row, n in zip(hidden, lengths.tolist())])


def choose(item_seq, lengths, ratio):
    """``strategy: sample`` by a loop over users: [B, L] bool."""
    chosen = torch.zeros_like(item_seq, dtype=torch.bool)
    for row, n in enumerate(lengths.tolist()):
        count = min(int(ratio * n) + 1, n - 1)
        chosen[row, 1 + torch.randperm(n - 1)[:count]] = True
    return chosen


def with_padding(model, item_seq, lengths, target, pseudo=None):
    """``official_compat``: recommendation loss and the two means, from left-padded rows and a loop over their cells.

    Args:
        pseudo (torch.LongTensor, optional): [B] how many items of each history are pseudo items, which teach nothing.

    Returns:
        tuple: loss [], means [B, 2, d].
    """
    width, table = model.max_seq_length, model.item_embedding.weight
    losses, means = [], []
    pseudo = [0] * len(lengths) if pseudo is None else pseudo.tolist()
    for row, n, y, generated in zip(item_seq, lengths.tolist(), target.tolist(), pseudo):
        history = torch.cat([row.new_zeros(width - n), row[:n]])
        seen = torch.zeros(width, width, dtype=torch.bool)
        for query in range(width):
            for key in range(width):  # all keys of a query of padding are masked, and so none
                seen[query, key] = query < width - n or width - n <= key <= query
        states = transformer_with(model.recommender, table[history], seen)
        label = torch.cat([row.new_zeros(width - n), row[1:n], row.new_tensor([y])])
        own = F.cross_entropy(states @ table.t(), label, reduction="none")
        losses += [*own[: width - n], *own[width - n + generated :]]
        means.append(states[-model.config["k_last"] :].mean(0))
    means = torch.stack(means)
    return torch.stack(losses).mean(), torch.stack([means, means], 1)


def transformer_with(network, x, seen):
    """One row through positions and blocks without dropout. x: [L, d]; seen: [L, L] True where a query sees a key."""
    x = network.LayerNorm(x + network.position_embedding.weight)
    for attention, feed_forward in zip(network.transformer.attention, network.transformer.feed_forward):
        q, k, v = (t.unflatten(-1, (attention.n_heads, -1)).transpose(0, 1) for t in attention.qkv(x).chunk(3, -1))
        scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(~seen, -1e9)
        x = attention.LayerNorm(x + attention.dense((scores.softmax(-1) @ v).transpose(0, 1).flatten(1)))
        x = feed_forward.LayerNorm(x + feed_forward.dense_2(feed_forward.activation(feed_forward.dense_1(x))))
    return x
