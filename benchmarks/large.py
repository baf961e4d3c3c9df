"""Large data: loading ml-1m, training steps on ml-1m (L 200), a step with 200,000 items; seconds and peak memory."""

import itertools
import tempfile
import time
from pathlib import Path

from common import in_fresh_process, parse, peak_mb, prepare, spread, time_steps

USERS, ITEMS, LENGTH = 50_000, 200_000, 10


def load_ml1m(args):
    """Loading and splitting."""
    start = time.perf_counter()
    prepare("SimDiffRec", "ml-1m", args)
    return {"seconds": time.perf_counter() - start, "peak": peak_mb()}


def train(dataset, args):
    """A few training steps."""
    _, loaders, network, optimizer = prepare("SimDiffRec", dataset, args, train_batch_size=256)

    def step(batch):
        optimizer.zero_grad()
        sum(network.calculate_loss(batch)).backward()
        optimizer.step()

    return {"seconds": time_steps(step, itertools.islice(loaders[0], args.steps), warm_up=1), "peak": peak_mb()}


def write_synthetic(folder):
    """Random sequences over ITEMS items."""
    import numpy as np

    items = np.random.default_rng(0).integers(ITEMS, size=(USERS, LENGTH))
    items.reshape(-1)[:ITEMS] = np.arange(ITEMS)  # every item occurs
    target = Path(folder) / "synthetic"
    target.mkdir()
    with open(target / "synthetic.inter", "w") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        file.writelines(f"{u}\t{i}\t{t}\n" for u, row in enumerate(items) for t, i in enumerate(row))


if __name__ == "__main__":
    args = parse(__doc__, steps=6)
    found = in_fresh_process(load_ml1m, args)
    print(f"ml-1m, loading and splitting: {found['seconds']:.1f} s, peak {found['peak']:.0f} MB with PyTorch itself")
    found = in_fresh_process(train, "ml-1m", args)
    print(f"ml-1m, training step: {spread(found['seconds'])}, peak {found['peak']:.0f} MB")
    with tempfile.TemporaryDirectory() as folder:
        write_synthetic(folder)
        args.data_path = folder
        found = in_fresh_process(train, "synthetic", args)
    print(f"{ITEMS} items, training step: {spread(found['seconds'])}, peak {found['peak']:.0f} MB")
