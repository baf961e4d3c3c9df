"""Large data: from the file to data that are ready to train, stage by stage; seconds of the processor and peak memory.

``python benchmarks/scale.py --interactions=10000000`` makes a data set (once, kept in ``--data_path``) and reads it.
"""

import time
from pathlib import Path

from common import in_fresh_process, parse, peak_mb

CORE = "[5,inf)"
STAGES = {"read": "_load_data", "filter": "_data_filtering", "number": "_remap_ID_all", "split": "build"}


def write_interactions(path, interactions, users, items, seed=0, text=True):
    """Users by a mild and items by a plain Zipf law, times of ten years in the file's order of chance.

    Args:
        path (Path): the file, whose folder is made.
        interactions, users, items (int): rows, and names to draw from; not all need to occur.
        seed (int): of the generator.
        text (bool): tab-separated text, otherwise Parquet.
    """
    import numpy as np
    import pyarrow as pa
    from pyarrow import csv, parquet

    random = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)

    def draw(names, exponent):
        weights = (np.arange(1, names + 1) + names / 100.0) ** -exponent
        numbers = np.searchsorted(weights.cumsum() / weights.sum(), random.random(interactions))
        return random.permutation(names).astype(np.int32)[numbers]

    table = pa.table(
        {
            "user_id:token": pa.array(draw(users, 0.5)).cast(pa.string()),
            "item_id:token": pa.array(draw(items, 1.0)).cast(pa.string()),
            "timestamp:float": pa.array(random.integers(1.4e9, 1.7e9, interactions)),
        }
    )
    if text:
        with open(path, "wb") as file:
            file.write("\t".join(table.column_names).encode() + b"\n")  # which pyarrow would quote
            csv.write_csv(table, file, csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none"))
    else:
        parquet.write_table(table.set_column(2, "timestamp:float", table["timestamp:float"].cast(pa.float64())), path)


def timed(data_class, laps):
    """Let some methods of a class add their seconds to ``laps``; the class in use is a child of its own."""

    def wrapped(method, stage):
        def call(self, *words, **options):
            start = time.process_time()
            try:
                return method(self, *words, **options)
            finally:
                laps[stage] = laps.get(stage, 0) + time.process_time() - start
                laps[f"{stage} peak"] = peak_mb()

        return call

    for stage, name in STAGES.items():
        setattr(data_class, name, wrapped(getattr(data_class, name), stage))


def load(dataset, args, settings):
    """Seconds of every stage until the first batch is there, and peak memory."""
    from recbole_diffusion.data.dataset import SequenceDataset
    from recbole_diffusion.data.loaders import build_loaders
    from recbole_diffusion.quick_start import prepare_data
    from recbole_diffusion.settings.config import DiffusionConfig

    laps = {"imported": time.process_time(), "imported peak": peak_mb()}
    timed(SequenceDataset, laps)
    config = DiffusionConfig("SimDiffRec", dataset, config_dict={"data_path": args.data_path, "use_gpu": False, **settings})
    start, on_the_wall = time.process_time(), time.perf_counter()
    data, counts, parts = prepare_data(config)
    laps.update({"prepared": time.process_time() - start, "prepared peak": peak_mb()})
    loaders = build_loaders(config, data, parts)
    next(iter(loaders[0]))
    laps.update({"first batch": time.process_time() - start, "on the wall": time.perf_counter() - on_the_wall, "peak": peak_mb()})
    return {**laps, **counts}


if __name__ == "__main__":
    args = parse(__doc__, interactions=1_000_000, users=0, items=0, seed=0, text=1)
    users, items = args.users or args.interactions // 10, args.items or args.interactions // 50
    name = f"zipf-{args.interactions}-{users}-{items}"
    kind = "inter" if args.text else "inter.parquet"
    file = Path(args.data_path) / name / f"{name}.{kind}"
    if not file.exists():
        in_fresh_process(write_interactions, file, args.interactions, users, items, args.seed, bool(args.text))  # peaks are inherited
    print(f"{file.name}: {file.stat().st_size / 2**20:.0f} MB")
    settings = {"user_inter_num_interval": CORE, "item_inter_num_interval": CORE}
    for title, choice in {"no cache": "none", "first start": "auto", "second start": "auto"}.items():
        found = in_fresh_process(load, name, args, {**settings, "data_cache": choice})
        print(f"{title}: " + ", ".join(f"{stage} {value:.1f}" for stage, value in found.items()), flush=True)
