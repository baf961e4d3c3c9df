"""DiQDiff written plainly: rows padded on the left, a linear layer over the flattened row, all pairs of vectors at once.

It reads the weights of a packed model, so that both compute the same numbers from the same parameters.
"""

import math

import plain_diffurecsys
import torch
import torch.nn.functional as F
from torch import nn


def pushed_left(rows, lengths):
    """Rows [B, L, ...] with what stands behind the items put before them."""
    return torch.stack([row.roll(len(row) - n, 0) for row, n in zip(rows, lengths.tolist())])


def chooser(codebook):
    """The layer that chooses as an nn.Linear over the rows [B, L * d], latest item last."""
    layer = nn.Linear(codebook.weight[..., 0].numel(), codebook.n_codes)
    del layer.weight, layer.bias
    layer.weight, layer.bias = codebook.weight.flip(0).flatten(0, 1).t(), codebook.bias
    return layer


def choose(model, embedded, lengths, gumbel, temperature):
    """Choices [B, K] with a gradient, and the logits without noise. embedded: [B, L, d], latest item last."""
    real = torch.arange(embedded.shape[1]) >= embedded.shape[1] - lengths[:, None]
    logits = chooser(model.codebook)((embedded * real[..., None]).flatten(1))
    noisy = logits + model.config["code_noise"] * gumbel
    soft = (noisy / temperature).softmax(1)
    return torch.eye(soft.shape[1])[noisy.argmax(1)] + soft - soft.detach(), logits


def batch_means(embedded, real, label, n_codes):
    """Mean rows of each code, code by code and place by place: [K, L, d]; embedded: [B, L, d]; real: [B, L]."""
    codes = []
    for code in range(n_codes):
        chosen = label == code
        places = []
        for place in range(embedded.shape[1]):
            those = embedded[chosen & real[:, place], place]
            anywhere = embedded[chosen][real[chosen]]
            found = those if len(those) else anywhere
            places.append(found.mean(0) if len(found) else embedded.new_zeros(embedded.shape[2]))
        codes.append(torch.stack(places))
    return torch.stack(codes)


def repulsion(vectors, target, tau, mask_same_target):
    """The contrast from cosines of all pairs, by a [B, B, d] tensor."""
    cosines = F.cosine_similarity(vectors[:, None], vectors[None], dim=2)
    scores = (cosines / tau).exp()
    if mask_same_target:
        same = (target[:, None] == target) & ~torch.eye(len(target), dtype=torch.bool)
        scores = scores * ~same
    return (scores.sum(1).log() - cosines.diagonal() / tau).mean()


def losses(model, item_seq, lengths, target, t, noise, gumbel, temperature):
    """Parts of the loss. item_seq: [B, L] zeros on the right; noise: [B, d]; gumbel: [B, K]."""
    config, codebook = model.config, model.codebook
    item_seq = pushed_left(item_seq, lengths)
    embedded = plain_diffurecsys.embed(model, item_seq)
    parts, known = {}, config["lambda_history"] * embedded
    if codebook is not None:
        sees_padding = config["attention_mask"] == "queries"
        filled = torch.full_like(lengths, item_seq.shape[1]) if sees_padding else lengths
        choice, logits = choose(model, embedded, filled, gumbel, temperature)
        codes = codebook.codes().flip(1)
        if config["official_codes"]:
            real = torch.ones_like(item_seq, dtype=torch.bool) if sees_padding else item_seq > 0
            codes, choice = batch_means(embedded, real, choice.argmax(1), codebook.n_codes), choice.detach()
        known = known + config["lambda_code"] * torch.einsum("bk,kld->bld", choice, codes)
        if config["svq_balance"] and not config["official_codes"]:
            share = logits.softmax(1).mean(0)
            parts["balance"] = config["svq_balance"] * (math.log(len(share)) + (share * share.log()).sum())
    if config["attention_mask"] == "keys":  # the plain blocks have their padding on the right then
        known = torch.stack([row.roll(-(len(row) - n), 0) for row, n in zip(known, lengths.tolist())])
        item_seq = torch.stack([row.roll(-(len(row) - n), 0) for row, n in zip(item_seq, lengths.tolist())])
    if config["twin"]:
        hidden = plain_diffurecsys.approximator(model.approximator, known, None, item_seq > 0, config)
        last = torch.full_like(lengths, -1) if config["attention_mask"] == "queries" else lengths - 1
        restored = hidden[torch.arange(len(lengths)), last]
    else:
        signal, scale = model.process.signal[t][:, None], model.process.noise[t][:, None]
        noised = signal * model.item_embedding(target) + scale * noise
        restored = plain_diffurecsys.restore(model, item_seq, known, noised, t, torch.zeros_like(known))
    first = 0 if config["padding_in_softmax"] else 1
    scores = restored @ model.item_embedding.weight[first:].t()
    parts["recommendation"] = F.cross_entropy(scores, target - first)
    if config["lambda_contrast"]:
        contrast = repulsion(restored, target, config["tau"], config["mask_same_target"])
        parts["contrast"] = config["lambda_contrast"] * contrast
    return parts
