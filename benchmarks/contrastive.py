"""CL4SRec, DuoRec and ECL-SR on beauty: steps against the plain padded versions, in turn; epochs against SASRec's.

SASRec is SimDiffRec without diffusion and contrast, of the same width, with the same loss on the same examples. A further
model takes a line in CASES, and a function here that makes a padded step of it.
"""

import itertools
import statistics
import time

from common import in_fresh_process, parse, peak_mb, prepare, spread, time_steps

PREFIX, SEQUENCE = {"train_view": "prefix", "ce_positions": "last"}, {"train_view": "sequence"}
SASREC = (
    "SimDiffRec",
    {"alpha": 0, "beta": 0, "pos_align": "start", "hidden_dropout_prob": 0.5, "attn_dropout_prob": 0.5},
)
CASES = {
    "CL4SRec": ("CL4SRec", {}),
    "CL4SRec, official_compat": ("CL4SRec", {"official_compat": True}),
    "DuoRec": ("DuoRec", {}),
    "DuoRec, reuse_pass": ("DuoRec", {"reuse_pass": True}),
    "ECLSR": ("ECLSR", {}),
}


def packed_steps(case, view, args):
    """Steps of the package."""
    model, settings = CASES[case]
    _, loaders, network, optimizer = prepare(model, "beauty", args, **view, **settings)

    def step(batch):
        optimizer.zero_grad()
        sum(network.calculate_loss(batch)).backward()
        optimizer.step()

    return {"seconds": time_steps(step, itertools.islice(loaders[0], args.steps)), "peak": peak_mb()}


def padded_steps(case, view, args):
    """The same steps written plainly, on rows of full length, a pass per view."""
    import torch.nn.functional as F

    model, settings = CASES[case]
    config, loaders, network, optimizer = prepare(model, "beauty", args, **view, **settings)
    views = {"CL4SRec": plain_cl4srec, "DuoRec": plain_duorec, "ECLSR": plain_eclsr}[model](network)
    width = config["MAX_ITEM_LIST_LENGTH"]

    def step(batch):
        optimizer.zero_grad()
        items, lengths, target = batch[network.ITEM_SEQ], batch[network.ITEM_SEQ_LEN], batch[network.ITEM_ID]
        sum(views(F.pad(items, (0, width - items.shape[1])), lengths, target).values()).backward()
        optimizer.step()

    return {"seconds": time_steps(step, itertools.islice(loaders[0], args.padded_steps)), "peak": peak_mb()}


def plain_cl4srec(network):
    """Losses of CL4SRec whose views are made row by row."""
    import plain_contrastive as plain

    def losses(items, lengths, target):
        views = plain.augmented(network, items, lengths)
        return plain.loss_parts(network, items, lengths, target, views, {"contrast": (0.1, 1, 2)})

    return losses


def plain_duorec(network):
    """Losses of DuoRec; finding histories is left out, since the scan of the released code is done before training."""
    import plain_contrastive as plain
    import torch
    import torch.nn.functional as F

    def losses(items, lengths, target):
        other, n = network.positives(items, lengths, target, torch.full_like(target, -1))
        other = F.pad(other, (0, items.shape[1] - other.shape[1]))
        views = [(items, lengths), (other, n)]
        return plain.loss_parts(network, items, lengths, target, views, {"semantic": (0.1, 1, 2)})

    return losses


def plain_eclsr(network):
    """Losses of ECL-SR whose masked items are chosen row by row, with all [B, L, V] scores."""
    import plain_eclsr as plain

    def losses(items, lengths, target):
        chosen = plain.choose(items, lengths, network.config["mask_ratio"])
        return plain.loss_parts(network, items, lengths, target, chosen)

    return losses


def epoch(model, settings, view, args):
    """Seconds of one epoch of training."""
    _, loaders, network, optimizer = prepare(model, "beauty", args, **view, **settings)
    start = time.perf_counter()
    for batch in loaders[0]:
        optimizer.zero_grad()
        sum(network.calculate_loss(batch)).backward()
        optimizer.step()
    return {"seconds": time.perf_counter() - start}


if __name__ == "__main__":
    args = parse(__doc__, steps=30, padded_steps=6, rounds=2)
    for name, view in (("prefixes, loss at the end", PREFIX), ("one example per user, loss everywhere", SEQUENCE)):
        for case in ("CL4SRec", "DuoRec", "ECLSR"):
            fast, slow = (
                in_fresh_process(packed_steps, case, view, args),
                in_fresh_process(padded_steps, case, view, args),
            )
            ratio = statistics.median(slow["seconds"]) / statistics.median(fast["seconds"])
            print(
                f"{case}, {name}: packed {spread(fast['seconds'])}, padded {spread(slow['seconds'])}, {ratio:.1f} times"
            )
            print(f"  peak {fast['peak']:.0f} MB, padded {slow['peak']:.0f} MB", flush=True)
    for case in ("CL4SRec, official_compat", "DuoRec, reuse_pass"):
        print(
            f"{case}, prefixes: packed {spread(in_fresh_process(packed_steps, case, PREFIX, args)['seconds'])}",
            flush=True,
        )
    runs = {"SASRec": SASREC, **{case: CASES[case] for case in ("CL4SRec", "DuoRec", "DuoRec, reuse_pass", "ECLSR")}}
    seconds = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, (model, settings) in runs.items():
            seconds[name].append(in_fresh_process(epoch, model, settings, SEQUENCE, args)["seconds"])
    base = statistics.median(seconds["SASRec"])
    for name, found in seconds.items():
        median = statistics.median(found)
        print(
            f"epoch of {name}, one example per user: {median:.1f} s (of {args.rounds}), {median / base:.2f} of SASRec's"
        )
