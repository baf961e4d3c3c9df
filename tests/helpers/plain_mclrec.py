"""MCLRec written plainly: padded tensors, a pass of the encoder for each view, positives and negatives picked out.

It reads the weights of a packed model, as plain_simdiffrec does, and takes the views that the model draws.
"""

import torch
import torch.nn.functional as F
from plain_simdiffrec import positioned


def encode(model, ids, lengths):
    """States of every item. ids: [B, L], 0 where a hole is -> [B, L, d]."""
    real = torch.arange(ids.shape[1]) < lengths[:, None]
    table = model.item_embedding.weight
    if model.mask_vector is not None:
        table = torch.cat([table, model.mask_vector[None]])
    return positioned(model.recommender, F.embedding(ids, table, padding_idx=0), real, True, keys=real & (ids > 0))


def ends(model, ids, lengths):
    return encode(model, ids, lengths)[torch.arange(len(ids)), lengths - 1]


def scores_of(a, b):
    """Positives [2 B] and negatives [2 B, 2 B - 2] of all views."""
    rows = len(a)
    scores = torch.cat([a, b]) @ torch.cat([a, b]).t()
    negative = torch.ones(2 * rows, 2 * rows, dtype=torch.bool).fill_diagonal_(False)
    for i in range(rows):
        negative[i, rows + i] = negative[rows + i, i] = False
    positives = torch.cat([scores.diagonal(rows), scores.diagonal(-rows)])
    return positives, scores[negative].view(2 * rows, -1)


def nt_xent(a, b):
    positives, negatives = scores_of(a, b)
    logits = torch.cat([positives[:, None], negatives], 1)
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


def paper_regulariser(positives, negatives):
    """Eq. 11 to 13."""
    low, high = (choose(positives.min(), negatives.max()) for choose in (torch.minimum, torch.maximum))
    return (positives - low).clamp(min=0).mean() + (high - negatives).clamp(min=0).mean()


def official_regulariser(positives, negatives):
    """Every row by itself, as a row has a single positive."""
    hardest = negatives.max(1).values
    high = torch.maximum(positives, hardest)
    return (positives - hardest).clamp(min=0).mean() + (high[:, None] - negatives).clamp(min=0).mean()


def augment(model, number, state):
    return F.normalize(model.augmenters[number](state), dim=-1)


def contrast_of_four(model, h1, h2, weight):
    z1, z2 = augment(model, 0, h1), augment(model, 1, h2)
    pairs = [(h1, z2), (h2, z1), (z1, z2)]
    loss, reg = sum(nt_xent(*pair) for pair in pairs), model.config["reg"]
    if reg == "paper":
        loss = loss + weight * paper_regulariser(*scores_of(z1, z2))
    elif reg == "official":
        loss = loss + weight * sum(official_regulariser(*scores_of(*pair)) for pair in pairs)
    return loss


def encoder_parts(model, item_seq, lengths, target, views, last=False):
    """What the first stage learns from; the loss of the next items at every position, or at the last ones."""
    config, mask = model.config, torch.arange(item_seq.shape[1]) < lengths[:, None]
    next_item = torch.cat([item_seq[:, 1:], torch.zeros_like(item_seq[:, :1])], 1)
    next_item[torch.arange(len(item_seq)), lengths - 1] = target
    if last:
        mask = torch.arange(item_seq.shape[1]) == lengths[:, None] - 1
    hidden = encode(model, item_seq, lengths)
    logits = (hidden[mask] if last else hidden) @ model.item_embedding.weight[1:].t()
    h1, h2 = (ends(model, *view) for view in views)
    return {
        "recommendation": F.cross_entropy(logits if last else logits[mask], next_item[mask] - 1),
        "contrast": config["contrast_weight"] * nt_xent(h1, h2),
        "meta": config["meta_weight"] * contrast_of_four(model, h1, h2, config["reg_weight"]),
    }


def augmenter_parts(model, views):
    """What the second stage learns from."""
    weight = model.config["reg_weight"] * (model.config["meta_weight"] if model.config["reg"] == "paper" else 1)
    return {"augmenter": contrast_of_four(model, *(ends(model, *view) for view in views), weight)}
