"""Part of an epoch on beauty, in turn: SimDiffRec and SASRec-CE in sequence view, RecBole's SASRec (CE, batch 256)."""

import itertools
import statistics

from common import in_fresh_process, parse, prepare, time_steps


def epoch_seconds(model, settings, args):
    """Median step times the number of steps of an epoch."""
    _, loaders, network, optimizer = prepare(model, "beauty", args, train_batch_size=256, **settings)

    def step(batch):
        optimizer.zero_grad()
        losses = network.calculate_loss(batch)
        (sum(losses) if isinstance(losses, tuple) else losses).backward()
        optimizer.step()

    loader = loaders[0]
    return {"epoch": statistics.median(time_steps(step, itertools.islice(loader, args.steps))) * len(loader)}


ROWS = {
    "SASRec (RecBole)": ("SASRec", {}),
    "SASRec (RecBole), trim_padding": ("SASRec", {"trim_padding": True}),
    "SASRec-CE, sequence view": ("SimDiffRec", {"alpha": 0, "beta": 0}),
    "SimDiffRec, sequence view": ("SimDiffRec", {}),
}

if __name__ == "__main__":
    args = parse(__doc__, steps=40)
    found = {name: in_fresh_process(epoch_seconds, model, settings, args)["epoch"] for name, (model, settings) in ROWS.items()}
    reference = found["SASRec (RecBole)"]
    for name, seconds in found.items():
        print(f"{name}: {seconds:.1f} s per epoch, {seconds / reference:.3f} of RecBole's SASRec")
