"""Full ranking of test users: of beauty, the package's collector and RecBole's own; with ``--items``, of a large made-up
catalogue, for a model as it starts, with the ranks of one batch compared with sorted rows."""

import time
from pathlib import Path

from common import in_fresh_process, parse, peak_mb, prepare

PLAIN = {"alpha": 0, "beta": 0, "train_view": "sequence", "data_cache": "none"}


def evaluate(collector, dataset, settings, args):
    """Seconds of one evaluation of the test part, and whether the ranks of one batch are right."""
    import torch
    from recbole.evaluator import Collector

    from recbole_diffusion.training.trainer import trainer_class

    config, loaders, network, _ = prepare("SimDiffRec", dataset, args, **settings)
    trainer = trainer_class(config)(config, network)
    if collector == "recbole":
        trainer.eval_collector = Collector(config)
    before = peak_mb()
    start = time.perf_counter(), time.process_time()
    trainer.evaluate(loaders[2], load_best_model=False)
    found = {"seconds": time.perf_counter() - start[0], "processor": time.process_time() - start[1]}
    found.update(users=len(loaders[2]._dataset), items=loaders[2]._dataset.item_num - 1, before=before, peak=peak_mb())
    if collector == "package":
        batch = next(iter(loaders[2]))[0]
        with torch.no_grad():
            found["same"] = same_ranks(trainer.eval_collector, network.full_sort_predict(batch), max(config["topk"]))
    return found


def same_ranks(collector, scores, longest):
    """Whether items at the places 1, 2, ... of whole sorted rows get these ranks, and 0 behind the list's end."""
    import torch

    scores[:, 0] = -torch.inf
    rows = torch.arange(len(scores))
    place = rows % (2 * longest)
    targets = scores.argsort(1, descending=True)[rows, place]
    collector.ranks = []
    collector.eval_batch_collect(scores, None, rows, targets)
    return torch.equal(collector.ranks[0], torch.where(place < longest, place + 1, 0).short())


def make_up(folder, users, items, seed=0):
    """Twenty interactions of each user; every item is met. Name of the data set, a Parquet file in ``folder``."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    name, random = f"even-{users}-{items}", np.random.default_rng(seed)
    file = Path(folder) / name / f"{name}.inter.parquet"
    if file.exists():
        return name
    rows = max(20 * users, items)
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "user_id:token": pa.array(random.permutation(rows) % users).cast(pa.string()),
        "item_id:token": pa.array(random.permutation(rows) % items).cast(pa.string()),
        "timestamp:float": pa.array(random.integers(1.4e9, 1.7e9, rows).astype(float)),
    }
    parquet.write_table(pa.table(columns), file)
    return name


if __name__ == "__main__":
    args = parse(__doc__, items=0, users=100_000)
    dataset, settings = ("beauty", {}) if not args.items else (make_up(args.data_path, args.users, args.items), PLAIN)
    for collector in ("package", "recbole") if not args.items else ("package",):
        found = in_fresh_process(evaluate, collector, dataset, settings, args)
        print(
            f"{collector}: {found['users']} users, {found['items']} items in {found['seconds']:.1f} s "
            f"({found['processor']:.1f} s of the processor, {found['users'] / found['seconds']:.0f} users a second), "
            f"peak {found['peak']:.0f} MB, {found['before']:.0f} MB of them before"
        )
        if "same" in found:
            print(f"  ranks in the first batch equal those of sorted rows: {found['same']}")
