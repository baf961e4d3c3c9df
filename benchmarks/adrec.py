"""ADRec: training steps on beauty against the plain padded version, and the sampler that keeps what was read of a
history against the one that reads it again in every step, on histories of 50 items and on the test users of beauty."""

import itertools
import statistics

from common import in_fresh_process, package_step, parse, peak_mb, prepare, spread, time_steps


def packed_steps(args, settings):
    """Steps of the package."""
    _, loaders, network, optimizer = prepare("ADRec", "beauty", args, **settings)
    step = package_step(network, optimizer)
    return {"seconds": time_steps(step, itertools.islice(loaders[0], args.steps)), "peak": peak_mb()}


def padded_steps(args):
    """The same steps written plainly, on rows of full length."""
    import plain_adrec as plain
    import torch.nn.functional as F

    _, loaders, network, optimizer = prepare("ADRec", "beauty", args)

    def step(batch):
        optimizer.zero_grad()
        items, lengths = batch[network.ITEM_SEQ], batch[network.ITEM_SEQ_LEN]
        items = F.pad(items, (0, network.max_seq_length - items.shape[1]))
        drawn = plain.draws(network, items.shape)
        sum(plain.loss_parts(network, items, lengths, batch[network.ITEM_ID], drawn).values()).backward()
        optimizer.step()

    return {"seconds": time_steps(step, itertools.islice(loaders[0], args.steps)), "peak": peak_mb()}


def sampling(args, sampler, steps, length):
    """Users of some batches, encoded; in histories of ``length`` items, or their own for 0."""
    import torch

    _, loaders, network, _ = prepare("ADRec", "beauty", args, sampler=sampler, sampling_steps=steps)
    network.eval()
    rounds = args.batches if sampler == "cached" else max(2, args.batches // 3)
    batches = [batch[0] for batch in itertools.islice(loaders[2], rounds + 1)]
    inputs = [(batch[network.ITEM_SEQ], batch[network.ITEM_SEQ_LEN]) for batch in batches]
    if length:
        torch.manual_seed(1)
        shape = [(len(lengths), length) for _, lengths in inputs]
        inputs = [(torch.randint(1, network.n_items, one), torch.full(one[:1], length)) for one in shape]
    with torch.no_grad():
        seconds = time_steps(lambda given: network.encode(*given), inputs, warm_up=1)
        some = network.encode(*inputs[0])[:5].flatten().tolist()
    return {"seconds": seconds, "some": some, "users": len(inputs[0][0])}


def report_sampling(args, length):
    """Compare the samplers on histories of one length, and show what a single step costs."""
    found = {name: in_fresh_process(sampling, args, name, 32, length) for name in ("cached", "naive")}
    one = in_fresh_process(sampling, args, "cached", 1, length)
    medians = {name: statistics.median(values["seconds"]) for name, values in found.items()}
    apart = max(abs(a - b) for a, b in zip(found["cached"]["some"], found["naive"]["some"]))
    kind = f"of {length} items" if length else "of beauty's test users"
    print(f"{one['users']} histories {kind}, 32 steps: cached {spread(found['cached']['seconds'])}")
    print(f"  naive {spread(found['naive']['seconds'])}, {medians['naive'] / medians['cached']:.1f} times slower")
    print(f"  one step {spread(one['seconds'])}; largest difference of some vectors {apart:.1e}")


if __name__ == "__main__":
    args = parse(__doc__, steps=8, batches=6)
    packed, twin = (in_fresh_process(packed_steps, args, settings) for settings in ({}, {"twin": True}))
    padded = in_fresh_process(padded_steps, args)
    ratio = statistics.median(padded["seconds"]) / statistics.median(packed["seconds"])
    print(f"training step {spread(packed['seconds'])}, peak {packed['peak']:.0f} MB; twin {spread(twin['seconds'])}")
    print(f"  padded {spread(padded['seconds'])}, peak {padded['peak']:.0f} MB: {ratio:.1f} times slower")
    for length in (50, 0):
        report_sampling(args, length)
