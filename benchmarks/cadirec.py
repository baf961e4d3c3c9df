"""A training step of CaDiRec on beauty: packed, with scores of masked positions only, against the plain padded version with
two products with the whole catalogue; in turn, with peak memory. Also the twin without diffusion, and SASRec."""

import itertools
import statistics

from common import in_fresh_process, parse, peak_mb, prepare, spread, time_steps

SASREC = {"alpha": 0, "beta": 0}


def packed_steps(args, settings):
    """Steps of the package."""
    _, loaders, network, optimizer = prepare("CaDiRec", "beauty", args, mask_ratio=args.mask_ratio, **settings)
    before = peak_mb()

    def step(batch):
        optimizer.zero_grad()
        sum(network.calculate_loss(batch)).backward()
        optimizer.step()

    return {"seconds": time_steps(step, itertools.islice(loaders[0], args.steps)), "peak": peak_mb(), "before": before}


def padded_steps(args, _):
    """The same steps written plainly, on rows of full length."""
    import plain_cadirec as plain
    import torch
    import torch.nn.functional as F

    from recbole_diffusion.layers.cross_entropy import binary_cross_entropy

    _, loaders, network, optimizer = prepare("CaDiRec", "beauty", args, mask_ratio=args.mask_ratio)
    before = peak_mb()

    def recommend(hidden, target):
        negatives = torch.randint(1, network.n_items, target.shape)
        return binary_cross_entropy(hidden, network.item_embedding.weight, target, negatives)

    def step(batch):
        optimizer.zero_grad()
        items, lengths = batch[network.ITEM_SEQ], batch[network.ITEM_SEQ_LEN]
        items = F.pad(items, (0, network.max_seq_length - items.shape[1]))
        drawn = plain.draws(network, lengths, items.shape[1])
        parts = plain.loss_parts(
            network, items, lengths, batch[network.ITEM_ID], drawn, plain.simclr_at_once, recommend
        )
        sum(parts.values()).backward()
        optimizer.step()

    return {"seconds": time_steps(step, itertools.islice(loaders[0], args.steps)), "peak": peak_mb(), "before": before}


if __name__ == "__main__":
    args = parse(__doc__, steps=8, mask_ratio=0.2)
    found = {
        "packed": in_fresh_process(packed_steps, args, {}),
        "padded": in_fresh_process(padded_steps, args, {}),
        "twin": in_fresh_process(packed_steps, args, {"twin": True}),
        "SASRec": in_fresh_process(packed_steps, args, SASREC),
    }
    medians = {name: statistics.median(values["seconds"]) for name, values in found.items()}
    for name, values in found.items():
        print(f"{name}: {spread(values['seconds'])}, peak {values['peak']:.0f} MB ({values['before']:.0f} before training)")
    print(f"time padded / packed: {medians['padded'] / medians['packed']:.1f}")
    print(f"peak memory packed / padded: {found['packed']['peak'] / found['padded']['peak']:.2f}")
    print(f"time packed / SASRec: {medians['packed'] / medians['SASRec']:.1f}")
