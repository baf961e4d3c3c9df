"""CL4SRec and DuoRec written plainly: padded tensors, a pass per view, a loop per row, all logits of real positions.

It reads the weights of a packed model, so that both compute the same numbers from the same parameters. This is what the
fast versions are checked against (tests/model/) and timed against (benchmarks/contrastive.py).
"""

import random

import torch
import torch.nn.functional as F
from plain_simdiffrec import positioned


def crop(row, n, kept):
    """row: [L] -> new row, new length; so are the other two."""
    size = max(1, int(kept * n))
    start = random.randint(0, n - size)
    return F.pad(row[start : start + size], (0, len(row) - size)), size


def mask(row, n, share, token):
    row = row.clone()
    row[random.sample(range(n), k=int(share * n))] = token
    return row, n


def reorder(row, n, share):
    size = int(share * n)
    start = random.randint(0, n - size)
    window = list(range(start, start + size))
    random.shuffle(window)
    row = row.clone()
    row[start : start + size] = row[window]
    return row, n


def augmented(model, item_seq, lengths):
    """Two views [B, L] of each row by two different operators, with their lengths."""
    config, views = model.config, ([], [])
    for row, n in zip(item_seq, lengths.tolist()):
        for view, number in zip(views, random.sample(range(3), k=2)):
            if number == 0:
                view.append(crop(row, n, config["crop_kept"]))
            elif number == 1:
                view.append(mask(row, n, config["mask_share"], model.n_items))
            else:
                view.append(reorder(row, n, config["reorder_share"]))
    return [(torch.stack([row for row, _ in view]), torch.tensor([n for _, n in view])) for view in views]


def encode(model, item_seq):
    """States of the causal encoder: [B, L, d]."""
    table = model.item_embedding.weight
    if model.mask_vector is not None:
        table = torch.cat([table, model.mask_vector[None]])
    return positioned(model.recommender, table[item_seq], item_seq > 0, causal=True)


def nt_xent(a, b, tau, hidden=None):
    """As the released code: positives from two diagonals, negatives by a boolean mask; ``hidden`` [B, B] row by row."""
    n_rows = len(a)
    similarity = torch.cat([a, b]) @ torch.cat([a, b]).t() / tau
    positives = torch.cat([similarity.diagonal(n_rows), similarity.diagonal(-n_rows)])[:, None]
    negative = torch.ones(2 * n_rows, 2 * n_rows, dtype=torch.bool).fill_diagonal_(False)
    for i in range(n_rows):
        negative[i, n_rows + i] = negative[n_rows + i, i] = False
    if hidden is None:
        logits = torch.cat([positives, similarity[negative].view(2 * n_rows, -1)], 1)
        return F.cross_entropy(logits, torch.zeros(2 * n_rows, dtype=torch.long))
    negative &= ~hidden.repeat(2, 2)
    rows = (torch.cat([positive, row[kept]]) for positive, row, kept in zip(positives, similarity, negative))
    return torch.stack([-row.log_softmax(0)[0] for row in rows]).mean()


def recommendation(model, item_seq, lengths, target):
    """Cross-entropy over all items, and the last states [B, d]."""
    rows, last, mask = torch.arange(len(item_seq)), lengths - 1, item_seq > 0
    hidden = encode(model, item_seq)
    if model.config["ce_positions"] == "last":
        mask = torch.zeros_like(mask).index_put((rows, last), torch.ones(len(rows), dtype=torch.bool))
    following = torch.cat([item_seq[:, 1:], torch.zeros_like(item_seq[:, :1])], 1)
    following[rows, last] = target
    logits = hidden[mask] @ model.item_embedding.weight[1:].t()
    return F.cross_entropy(logits, following[mask] - 1), hidden[rows, last]


def loss_parts(model, item_seq, lengths, target, views, pairs):
    """The losses with given views.

    Args:
        views (list): ids [B, L] and lengths [B] each.
        pairs (dict): name of a part -> its weight and the numbers of two sets of states; 0 are those of the histories.
    """
    config, rows = model.config, torch.arange(len(item_seq))
    loss, own = recommendation(model, item_seq, lengths, target)
    states = [own, *(encode(model, ids)[rows, n - 1] for ids, n in views)]
    if config["similarity"] == "cosine":
        states = [F.normalize(state, dim=-1) for state in states]
    hidden = target[:, None] == target if config["mask_same_target"] else None
    parts = {"recommendation": loss}
    for name, (weight, one, other) in pairs.items():
        parts[name] = weight * nt_xent(states[one], states[other], config["tau"], hidden)
    return parts
