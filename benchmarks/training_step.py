"""A training step of SimDiffRec on beauty: packed against the plain padded version, in turn, with peak memory."""

import itertools
import statistics

from common import in_fresh_process, parse, peak_mb, prepare, spread, time_steps


def packed_steps(args):
    """Steps of the package."""
    _, loaders, network, optimizer = prepare("SimDiffRec", "beauty", args)
    before = peak_mb()

    def step(batch):
        optimizer.zero_grad()
        sum(network.calculate_loss(batch)).backward()
        optimizer.step()

    return {"seconds": time_steps(step, itertools.islice(loaders[0], args.steps)), "peak": peak_mb(), "before": before}


def padded_steps(args):
    """The same steps written plainly, on rows of full length."""
    import plain_simdiffrec as plain
    import torch
    import torch.nn.functional as F

    _, loaders, network, optimizer = prepare("SimDiffRec", "beauty", args)
    before = peak_mb()

    def step(batch):
        optimizer.zero_grad()
        items, lengths = batch[network.ITEM_SEQ], batch[network.ITEM_SEQ_LEN]
        items = F.pad(items, (0, network.max_seq_length - items.shape[1]))
        t = torch.randint(network.process.steps, lengths.shape)
        sum(plain.loss_parts(network, items, lengths, batch[network.ITEM_ID], t).values()).backward()
        optimizer.step()

    return {"seconds": time_steps(step, itertools.islice(loaders[0], args.steps)), "peak": peak_mb(), "before": before}


if __name__ == "__main__":
    args = parse(__doc__, steps=8)
    fast, slow = in_fresh_process(packed_steps, args), in_fresh_process(padded_steps, args)
    for name, found in (("packed", fast), ("padded", slow)):
        print(f"{name}: {spread(found['seconds'])}, peak {found['peak']:.0f} MB ({found['before']:.0f} before training)")
    ratio = statistics.median(slow["seconds"]) / statistics.median(fast["seconds"])
    print(f"time padded / packed: {ratio:.1f}; peak memory packed / padded: {fast['peak'] / slow['peak']:.2f}")
