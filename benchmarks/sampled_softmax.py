"""The softmax over shared negatives as the package computes it, in turn with the plain sum of the same numbers and the exact loss.

    python benchmarks/sampled_softmax.py
"""

import statistics
import time

import torch
from common import parse

from recbole_diffusion.layers.cross_entropy import linear_cross_entropy
from recbole_diffusion.layers.sampled_softmax import draw_negatives, log_weights, sampled_logits, sampled_softmax

SIZES = {"beauty": (2_200, 12_102), "ml-1m": (6_000, 3_707)}  # positions of a batch, items


def measure(n_positions, n_items, n_negatives, turns):
    """Seconds of loss and gradient: a dict of lists; and the losses of the last turn."""
    torch.manual_seed(0)
    hidden = torch.randn(n_positions, 64, requires_grad=True)
    table = (torch.randn(n_items, 64) * 0.1).requires_grad_(True)
    target = (torch.rand(n_positions).pow(3) * (n_items - 1)).long() + 1
    seconds, losses = {"plain": [], "shared": [], "exact": []}, {}
    for _ in range(turns):
        negatives = draw_negatives(target, n_items, n_negatives, 0.5)
        weights = log_weights("importance", target, negatives, n_items, 0.5)
        for name in seconds:
            hidden.grad = table.grad = None
            start = time.perf_counter()
            if name == "exact":
                loss = linear_cross_entropy(hidden, table, target)[0]
            elif name == "shared":
                loss = sampled_softmax(hidden, table, target, negatives, None, weights)
            else:
                logits = sampled_logits(hidden, table, target, negatives, None, weights)
                loss = (logits.logsumexp(1) - logits[:, 0]).mean()
            loss.backward()
            seconds[name].append(time.perf_counter() - start)
            losses[name] = loss.item()
    return seconds, losses


if __name__ == "__main__":
    args = parse(__doc__, steps=7, negatives=2048)
    torch.set_num_threads(args.threads)
    for name, (n_positions, n_items) in SIZES.items():
        seconds, losses = measure(n_positions, n_items, args.negatives, args.steps)
        for way, values in seconds.items():
            print(f"{name}, {n_items - 1:,} items, {way}: {statistics.median(values):.3f} s, loss {losses[way]:.4f}")
