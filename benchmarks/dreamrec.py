"""DreamRec and PreferDiff on beauty: an evaluation in closed form against the reverse chain step by step."""

import itertools
import time

from common import in_fresh_process, parse, prepare


def evaluate(model, sampler, batches, args):
    """Seconds for the scores of some batches of test users, the making of the sampler included, and those scores."""
    import torch

    _, loaders, network, _ = prepare(model, "beauty", args, sampler=sampler)
    chosen = [batch[0] for batch in itertools.islice(loaders[2], batches)]
    network.eval()
    with torch.no_grad():
        start = time.perf_counter()
        scores = [network.full_sort_predict(batch) for batch in chosen]
        seconds = time.perf_counter() - start
        start = time.perf_counter()
        for batch in chosen:  # what both do besides
            network.ends((batch[network.ITEM_SEQ], batch[network.ITEM_SEQ_LEN]))[0] @ network.item_vectors().t()
        besides = time.perf_counter() - start
    return {"seconds": seconds, "besides": besides, "users": sum(map(len, scores)), "row": scores[0][0, :50].tolist()}


if __name__ == "__main__":
    args = parse(__doc__, batches=8)
    for model in ("DreamRec", "PreferDiff"):
        fast, slow = (in_fresh_process(evaluate, model, sampler, args.batches, args) for sampler in ("exact", "loop"))
        difference = max(abs(a - b) for a, b in zip(fast["row"], slow["row"]))
        print(
            f"{model}, {fast['users']} users: closed form {fast['seconds']:.2f} s, loop {slow['seconds']:.1f} s, "
            f"{slow['seconds'] / fast['seconds']:.0f} times faster; sampling alone "
            f"{fast['seconds'] - fast['besides']:.2f} s and {slow['seconds'] - slow['besides']:.1f} s; "
            f"largest difference of some scores {difference:.1e}"
        )
