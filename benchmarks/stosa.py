"""STOSA on beauty: attention, full ranking and steps, against a difference for every pair, in turn, with peak memory."""

import itertools
import statistics

from common import in_fresh_process, parse, peak_mb, prepare, spread, time_steps

PARTS = {"attention": "attention of a batch, forward and backward", "ranking": "full ranking of a batch of users", "step": "step"}


def measure(part, kind, args):
    """Seconds of a part, ``packed`` as in the package or ``pairs`` as in tests/helpers/plain_stosa.py."""
    _, loaders, network, optimizer = prepare("STOSA", "beauty", args, eval_batch_size=args.users)
    batches = itertools.islice(itertools.cycle(loaders[0]), args.steps)
    work = {"attention": attention_step, "ranking": ranking_step, "step": training_step}[part]
    if part == "ranking":
        network.eval()
        batches = (batch[0] for batch in itertools.islice(itertools.cycle(loaders[2]), args.steps))
    before = peak_mb()
    seconds = time_steps(lambda batch: work(network, optimizer, batch, kind), batches)
    return {"seconds": seconds, "peak": peak_mb(), "before": before}


def padded(network, batch):
    """Items [B, L] of full length, and their lengths."""
    import torch.nn.functional as F

    items = batch[network.ITEM_SEQ]
    return F.pad(items, (0, network.max_seq_length - items.shape[1])), batch[network.ITEM_SEQ_LEN]


def attention_step(network, optimizer, batch, kind):
    """The first attention layer alone, on the item vectors of a batch."""
    import plain_stosa as plain
    import torch

    from recbole_diffusion.layers.packed import PackedLayout

    layer = network.transformer.blocks[0].attention
    items, lengths = padded(network, batch)
    optimizer.zero_grad()
    if kind == "packed":
        layout = PackedLayout(lengths)
        mixed = layer(*gaussians(network, layout.pack(items)), layout)
    else:
        mask = torch.arange(items.shape[1]) < lengths[:, None]
        mixed = [part[mask] for part in plain.attention(layer, *gaussians(network, items), mask, mixes_means=True)]
    sum(part.sum() for part in mixed).backward()


def gaussians(network, items):
    """Means and variances, without positions: [..., d] each."""
    import plain_stosa as plain

    return plain.item_gaussians(network, items)


def ranking_step(network, optimizer, batch, kind):
    """From histories to the scores of all items."""
    import plain_stosa as plain
    import torch

    with torch.no_grad():
        network.full_sort_predict(batch) if kind == "packed" else plain.ranking(network, *padded(network, batch))


def training_step(network, optimizer, batch, kind):
    """A whole step, optimizer included."""
    import plain_stosa as plain
    import torch

    optimizer.zero_grad()
    if kind == "packed":
        parts = network.calculate_loss(batch)
    else:
        items, lengths = padded(network, batch)
        negative = torch.randint(1, network.n_items, items.shape)
        parts = plain.loss_parts(network, items, lengths, batch[network.ITEM_ID], negative).values()
    sum(parts).backward()
    optimizer.step()


if __name__ == "__main__":
    args = parse(__doc__, steps=8, users=256)
    for part, words in PARTS.items():
        found = {kind: in_fresh_process(measure, part, kind, args) for kind in ("packed", "pairs")}
        for kind, one in found.items():
            print(f"{words}, {kind}: {spread(one['seconds'])}, peak {one['peak']:.0f} MB ({one['before']:.0f} before)")
        ratio = statistics.median(found["pairs"]["seconds"]) / statistics.median(found["packed"]["seconds"])
        memory = [found[kind]["peak"] - found[kind]["before"] for kind in ("packed", "pairs")]
        print(f"{part}: {ratio:.1f} times faster, {memory[0]:.0f} MB for {memory[1]:.0f}")
