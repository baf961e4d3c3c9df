"""The cost of a training step by formula and by measurement, side by side, for a plain Transformer and a large catalogue.

The formula counts multiplications of matrices and numbers that an optimizer moves, and divides them by what this processor
does of each in a second, measured first on matrices of the same shapes. Seconds of the processor, one thread.
"""

import statistics
import time

import numpy as np
from common import in_fresh_process, parse
from large import WIDTH, made_up_batch, measure

KINDS = {"plain form, CE": "CE", "plain form, SS": "SS", "plain form, SS, sparse_table": "SS", "plain form, SCE, sparse_table": "SCE"}
LAYERS, INNER, NEGATIVES, CANDIDATES = 2, 256, 256, 256
ADAM = 12  # numbers that Adam reads and writes of a weight: gradient set to zero and filled, weight and two moments both ways


def rates(args):
    """Floating-point operations in a second by the shape of products, and numbers moved in a second."""
    import torch

    torch.set_num_threads(args.threads)
    states, moved = torch.randn(2500, WIDTH), torch.randn(64_000_000)
    small, many, square = torch.randn(WIDTH, NEGATIVES), torch.randn(WIDTH, 12_000), torch.randn(WIDTH, WIDTH)
    inputs = {"layer": (states, square), "negatives": (states, small), "catalogue": (states[:500], many)}
    found = {}
    for name, (x, y) in inputs.items():
        out = torch.empty(len(x), y.shape[1])
        found[name] = 2 * x.numel() * y.shape[1] / typical(lambda x=x, y=y, out=out: torch.mm(x, y, out=out))
    return {**found, "numbers": 2 * len(moved) / typical(lambda: moved.mul_(1.0))}


def typical(function, rounds=7):
    """Median seconds of the processor."""
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds[1:])


def by_formula(case, n_items, positions, rate):
    """Seconds of a step: of the Transformer, of the loss, and of the optimizer.

    Args:
        case (str): a key of :data:`KINDS`.
        n_items, positions (int): V, and N of a batch without padding.
        rate (dict): see :func:`rates`.
    """
    encoder = 6 * positions * LAYERS * (4 * WIDTH**2 + 2 * WIDTH * INNER) / rate["layer"]
    kind, n_buckets = KINDS[case], int(np.ceil(2 * positions**0.5))
    if kind == "CE":
        loss = 6 * positions * n_items * WIDTH / rate["catalogue"]
    elif kind == "SS":
        loss = 6 * positions * NEGATIVES * WIDTH / rate["negatives"]
    else:
        search = 2 * n_buckets * WIDTH * (2 * positions + n_items) / rate["catalogue"]
        loss = search + 6 * n_buckets**2 * CANDIDATES * WIDTH / rate["negatives"]
    moved = positions + NEGATIVES if "sparse" in case else n_items
    return encoder, loss, ADAM * moved * WIDTH / rate["numbers"]


def positions_of(steps, n_items):
    """Mean number of positions of the batches that are measured."""
    random = np.random.default_rng(0)
    return int(np.mean([int(made_up_batch(random, n_items + 1)["item_length"].sum()) for _ in range(steps + 1)]))


if __name__ == "__main__":
    args = parse(__doc__, steps=5, items="12000,50000,200000,1000000", most=50_000)
    rate = in_fresh_process(rates, args)
    print(", ".join(f"{name} {value / 1e9:.1f} G/s" for name, value in rate.items()))
    print("| items | loss | measured, s | formula, s | Transformer | loss | optimizer | measured / formula |")
    print("|---|---|---|---|---|---|---|---|")
    for n_items in map(int, args.items.split(",")):
        for case in KINDS:
            if KINDS[case] == "CE" and n_items > args.most:
                continue
            seconds = statistics.median(in_fresh_process(measure, case, n_items, args)["processor"]["step"])
            parts = by_formula(case, n_items, positions_of(args.steps, n_items), rate)
            cells = [f"{value:.3f}" for value in (seconds, sum(parts), *parts)]
            print(f"| {n_items:,} | {case} | {' | '.join(cells)} | {seconds / sum(parts):.1f} |", flush=True)
