"""VSAN written plainly: padded tensors, all logits of real positions, a loop over the targets of every position.

It reads the weights of a packed model, which has to give the same values and gradients.
"""

import torch
from plain_encoders import encoder
from plain_simdiffrec import positioned, transformer


def gaussians(model, item_seq):
    """Means and log variances of all positions: [B, L, d] twice, the latter None with ``twin``."""
    x, mask = model.item_embedding(item_seq), item_seq > 0
    state = positioned(model.recommender, x, mask, causal=True)
    if model.log_variance is None:
        return model.mean(state), None
    spread = positioned(model.spread_network, x, mask, causal=True) if model.spread_network else state
    return model.mean(state), model.log_variance(spread)


def generate(model, latent, mask):
    """States of the generation network: [B, L, d]."""
    twin = encoder if hasattr(model.generation, "blocks") else transformer
    return twin(model.generation, latent, mask, True)


def losses(model, item_seq, lengths, target, noise):
    """Both terms of the evidence lower bound, the second without its weight. noise: [B, L, d]."""
    mean, log_variance = gaussians(model, item_seq)
    latent = mean if log_variance is None else mean + (0.5 * log_variance).exp() * noise
    hidden, table, k = generate(model, latent, item_seq > 0), model.item_embedding.weight[1:], model.config["next_k"]
    surprise, divergence = [], []
    for row, length in enumerate(lengths.tolist()):
        following = [*item_seq[row, 1:length].tolist(), int(target[row])]
        for place in range(length):
            log_p = (hidden[row, place] @ table.t()).log_softmax(-1)
            surprise.append(-torch.stack([log_p[item - 1] for item in following[place : place + k]]).mean())
            if log_variance is not None:
                mu, variance = mean[row, place], log_variance[row, place].exp()
                divergence.append(0.5 * (variance + mu**2 - 1 - variance.log()).sum())
    return torch.stack(surprise).mean(), torch.stack(divergence).mean() if divergence else None
