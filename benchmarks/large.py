"""Training with a large catalogue: seconds of a step and where they go, by number of items; made-up histories, no files.

Histories are Zipf-distributed items, ten on average. Each line is measured in a process of its own, whose peak memory it
tells. Seconds are medians of the clock, with those of the processor beside them: a busy machine shows in the difference.
"""

import statistics
import time
from types import SimpleNamespace

import numpy as np
from common import in_fresh_process, parse, peak_mb

BATCH, MEAN_LENGTH, WIDTH = 256, 10, 64
PLAIN = {"alpha": 0, "beta": 0}
LARGE = {"loss_type": "SS", "negative_weights": "importance", "sparse_table": True}
BUCKETS = {"loss_type": "SCE", "sparse_table": True}
APPROXIMATE = {"rounding_loss": "sampled", "neighbour_search": "lists"}
CASES = {
    "plain form, CE": ("SimDiffRec", PLAIN),
    "plain form, SS": ("SimDiffRec", {**PLAIN, "loss_type": "SS"}),
    "plain form, SS, sparse_table": ("SimDiffRec", {**PLAIN, **LARGE}),
    "plain form, SCE, sparse_table": ("SimDiffRec", {**PLAIN, **BUCKETS}),
    "SimDiffRec, CE": ("SimDiffRec", {}),
    "SimDiffRec, SS, approximate": ("SimDiffRec", {**LARGE, **APPROXIMATE}),
    "DiffuRec, CE": ("DiffuRec", {"hidden_size": WIDTH}),
    "DiffuRec, SS, sparse_table": ("DiffuRec", {"hidden_size": WIDTH, **LARGE}),
    "DiffuRec, SCE, sparse_table": ("DiffuRec", {"hidden_size": WIDTH, **BUCKETS}),
}


class Catalogue:
    """What a model wants of a data set: how many items there are."""

    def __init__(self, config, n_items):
        self.n_items, self.field2id_token = n_items, {}
        self.uid_field, self.iid_field = config["USER_ID_FIELD"], config["ITEM_ID_FIELD"]

    def num(self, _):
        """Items, padding included."""
        return self.n_items


def made_up_batch(rng, n_items, longest=50):
    """A batch of histories of ``MEAN_LENGTH`` items on average, by the names of RecBole's columns."""
    import torch
    from recbole.data.interaction import Interaction

    lengths = rng.geometric(1 / MEAN_LENGTH, BATCH).clip(1, longest)
    items = (rng.zipf(1.2, (BATCH, longest + 1)) * 7919) % (n_items - 1) + 1
    rows = np.where(np.arange(longest) < lengths[:, None], items[:, :-1], 0)
    columns = {"item_id_list": rows, "item_length": lengths, "item_id": items[:, -1]}
    return Interaction({name: torch.from_numpy(column) for name, column in columns.items()})


def measure(case, n_items, args):
    """Medians of the parts of a step, and the peak of memory."""
    import torch

    from recbole_diffusion.settings import registry
    from recbole_diffusion.settings.config import DiffusionConfig
    from recbole_diffusion.training.trainer import DiffusionTrainer

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model, settings = CASES[case]
    config = DiffusionConfig(model, "toy", config_dict={"use_gpu": False, "MAX_ITEM_LIST_LENGTH": 50, **settings})
    network = registry.get_model(model)(config, Catalogue(config, n_items + 1)).train()
    optimizer = DiffusionTrainer(config, network).optimizer
    clock = Stopwatch()
    if hasattr(network, "_similar_items"):
        network._similar_items = clock.around("search", network._similar_items)
    rng = np.random.default_rng(0)
    for number in range(args.steps + 1):
        batch = made_up_batch(rng, n_items + 1)
        with clock.lap("step"):
            with clock.lap("forward"):
                optimizer.zero_grad()
                loss = sum(network.calculate_loss(batch))
            with clock.lap("backward"):
                loss.backward()
            with clock.lap("optimizer"):
                optimizer.step()
        if number == 0:
            first = clock.wall["step"][0]
            clock.clear()
    return {"first": first, "wall": clock.wall, "processor": clock.processor, "peak": peak_mb()}


class Stopwatch:
    """Seconds by the clock and of the processor, by name."""

    def __init__(self):
        self.clear()

    def clear(self):
        """Forget all laps."""
        self.wall, self.processor = {}, {}

    def lap(self, name):
        """A context whose time is kept."""
        return Lap(self, name)

    def around(self, name, function):
        """The function, with its time kept."""

        def timed(*arguments):
            with self.lap(name):
                return function(*arguments)

        return timed


class Lap(SimpleNamespace):
    """One measurement of a :class:`Stopwatch`."""

    def __init__(self, watch, name):
        super().__init__(watch=watch, name=name)

    def __enter__(self):
        self.start = time.perf_counter(), time.process_time()

    def __exit__(self, *_):
        for kept, clock, start in zip(
            (self.watch.wall, self.watch.processor), (time.perf_counter, time.process_time), self.start
        ):
            kept.setdefault(self.name, []).append(clock() - start)


if __name__ == "__main__":
    args = parse(__doc__, steps=5, items="12000,200000,1000000", cases="all")
    print("| items | model and loss | step, s | of the processor | forward | search | backward | optimizer | first step | peak, GB |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for n_items in map(int, args.items.split(",")):
        for case in CASES:
            if args.cases != "all" and not any(word in case for word in args.cases.split(";")):
                continue
            found = in_fresh_process(measure, case, n_items, args)
            wall = {name: statistics.median(values) for name, values in found["wall"].items()}
            parts = [f"{wall.get(name, 0):.3f}" for name in ("forward", "search", "backward", "optimizer")]
            processor = statistics.median(found["processor"]["step"])
            print(
                f"| {n_items:,} | {case} | {wall['step']:.3f} | {processor:.3f} | {' | '.join(parts)} | "
                f"{found['first']:.1f} | {found['peak'] / 1024:.2f} |",
                flush=True,
            )
