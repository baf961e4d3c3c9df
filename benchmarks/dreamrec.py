"""DreamRec and PreferDiff on beauty: an evaluation in closed form against the reverse chain step by step."""

import itertools
import statistics
import time

from common import in_fresh_process, parse, prepare


def evaluate(model, sampler, batches, args):
    """Seconds of processor time for the scores of some batches of test users, for generation alone, and some scores.

    The sampler is made anew in every round; the median round counts.
    """
    import torch

    _, loaders, network, _ = prepare(model, "beauty", args, sampler=sampler)
    chosen = [batch[0] for batch in itertools.islice(loaders[2], batches)]
    generate = network.generate if sampler == "exact" else lambda guide: network._step_by_step(guide, None)
    with torch.no_grad():
        network.eval().full_sort_predict(chosen[0])  # what happens once in a process
        guides = [network.ends((batch[network.ITEM_SEQ], batch[network.ITEM_SEQ_LEN]))[0] for batch in chosen]
        rounds = 5 if sampler == "exact" else 1
        whole = statistics.median(seconds(network, network.full_sort_predict, chosen) for _ in range(rounds))
        alone = statistics.median(seconds(network, generate, guides) for _ in range(rounds))
        row = network.full_sort_predict(chosen[0])[0, :50].tolist()
    return {"whole": whole, "generation": alone, "users": sum(map(len, guides)), "row": row}


def seconds(network, function, batches):
    """Processor time of a function over batches, after the network has forgotten its sampler."""
    network.eval()
    start = time.process_time()
    for batch in batches:
        function(batch)
    return time.process_time() - start


if __name__ == "__main__":
    args = parse(__doc__, batches=8)
    for model in ("DreamRec", "PreferDiff"):
        fast, slow = (in_fresh_process(evaluate, model, sampler, args.batches, args) for sampler in ("exact", "loop"))
        print(f"{model}, {fast['users']} users, closed form against loop:")
        for what in ("whole", "generation"):
            print(f"  {what}: {fast[what]:.3f} s and {slow[what]:.2f} s, {slow[what] / fast[what]:.0f} times faster")
        print(f"  largest difference of some scores {max(abs(a - b) for a, b in zip(fast['row'], slow['row'])):.1e}")
