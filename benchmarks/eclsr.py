"""ECL-SR on beauty: steps against the plain padded version, in turn, and an epoch against SASRec's of the same width."""

import itertools
import statistics
import time

from common import in_fresh_process, parse, peak_mb, prepare, spread, time_steps

PREFIX, SEQUENCE = {"train_view": "prefix", "ce_positions": "last"}, {"train_view": "sequence"}
SASREC = ("SimDiffRec", {"alpha": 0, "beta": 0, "hidden_dropout_prob": 0.5, "attn_dropout_prob": 0.5})
ECL = ("ECLSR", {})


def packed_steps(view, args):
    """Steps of the package."""
    _, loaders, network, optimizer = prepare("ECLSR", "beauty", args, **view)

    def step(batch):
        optimizer.zero_grad()
        sum(network.calculate_loss(batch)).backward()
        optimizer.step()

    return {"seconds": time_steps(step, itertools.islice(loaders[0], args.steps)), "peak": peak_mb()}


def padded_steps(view, args):
    """The same steps written plainly, on rows of full length."""
    import plain_eclsr as plain
    import torch.nn.functional as F

    config, loaders, network, optimizer = prepare("ECLSR", "beauty", args, **view)
    width = config["MAX_ITEM_LIST_LENGTH"]

    def step(batch):
        optimizer.zero_grad()
        items, lengths, target = batch[network.ITEM_SEQ], batch[network.ITEM_SEQ_LEN], batch[network.ITEM_ID]
        items = F.pad(items, (0, width - items.shape[1]))
        chosen = plain.choose(items, lengths, config["mask_ratio"])
        sum(plain.loss_parts(network, items, lengths, target, chosen).values()).backward()
        optimizer.step()

    return {"seconds": time_steps(step, itertools.islice(loaders[0], args.padded_steps)), "peak": peak_mb()}


def epoch(model, settings, args):
    """Seconds of one epoch of training."""
    _, loaders, network, optimizer = prepare(model, "beauty", args, **SEQUENCE, **settings)
    start = time.perf_counter()
    for batch in loaders[0]:
        optimizer.zero_grad()
        sum(network.calculate_loss(batch)).backward()
        optimizer.step()
    return {"seconds": time.perf_counter() - start}


if __name__ == "__main__":
    args = parse(__doc__, steps=30, padded_steps=5, rounds=2)
    for name, view in (("prefixes, loss at the end", PREFIX), ("one example per user, loss everywhere", SEQUENCE)):
        fast, slow = in_fresh_process(packed_steps, view, args), in_fresh_process(padded_steps, view, args)
        ratio = statistics.median(slow["seconds"]) / statistics.median(fast["seconds"])
        print(f"{name}: packed {spread(fast['seconds'])}, padded {spread(slow['seconds'])}, {ratio:.1f} times")
        print(f"  peak {fast['peak']:.0f} MB, padded {slow['peak']:.0f} MB", flush=True)
    seconds = {"SASRec": [], "ECL-SR": []}
    for _ in range(args.rounds):
        for name, (model, settings) in (("SASRec", SASREC), ("ECL-SR", ECL)):
            seconds[name].append(in_fresh_process(epoch, model, settings, args)["seconds"])
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    for name, median in medians.items():
        print(f"epoch of {name}, one example per user: {median:.1f} s, {median / medians['SASRec']:.2f} of SASRec's")
