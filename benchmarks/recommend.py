"""Recommending from item tokens to item tokens: sequences per second, and the time that one request takes.

The models are not trained, which does not change their speed. Histories have the lengths of beauty (mean 8.9). SKNN and
DiffSBR search random sessions; DiffSBR has no features and takes as many reverse steps as in its properties. "with an index" finds
items by an inverted file; what it misses cannot be measured on weights that are not trained, ``recbole-diffusion index`` does it.

    python benchmarks/recommend.py --items=1000000 --models=SimDiffRec
"""

import statistics
import time

from common import in_fresh_process, parse, peak_mb

CASES = [(model, None) for model in ("SASRec", "GRU4Rec", "SimDiffRec", "SKNN", "DiffSBR")]
CASES += [(model, steps) for model in ("DiffuRec", "DiffuRecSys") for steps in (1, 32)]


def random_sessions(random, n, n_items):
    """Sessions of 2 to 6 items for the models that retrieve them: items, lengths, users."""
    import torch

    lengths = random.integers(2, 7, n)
    items = random.integers(1, n_items + 1, lengths.sum())
    return torch.from_numpy(items), torch.from_numpy(lengths), torch.arange(1, n + 1)


def measure(model, steps, args, with_index=False):
    """Speed of one model with one number of reverse steps."""
    import numpy as np
    import torch

    from recbole_diffusion.serving.catalogue import Catalogue
    from recbole_diffusion.serving.index import ItemIndex
    from recbole_diffusion.serving.recommender import Recommender
    from recbole_diffusion.settings.config import DiffusionConfig

    torch.set_num_threads(args.threads)
    settings = {"MAX_ITEM_LIST_LENGTH": 50, "use_gpu": False, **({"sampling_steps": steps} if steps else {})}
    config = DiffusionConfig(model, "synthetic", config_dict=settings)
    tokens = ["[PAD]", *(f"i{n}" for n in range(args.items))]
    random = np.random.default_rng(0)
    checkpoint = {"item_tokens": tokens, "state_dict": {}}
    checkpoint["other_parameter"] = {"training_sessions": random_sessions(random, args.sessions, args.items)}
    recommender = Recommender(config, config.model_class(config, Catalogue(config, checkpoint)), tokens)
    if with_index:
        recommender.index = ItemIndex.of(recommender.network)

    n_rows = args.rows if steps in (None, 1) else args.rows // 10
    lengths = np.minimum(4 + random.geometric(1 / 4.9, n_rows), 50)
    histories = [[tokens[n] for n in random.integers(1, len(tokens), length)] for length in lengths]
    recommender.recommend(histories[:256])
    start = time.perf_counter()
    recommender.recommend(histories)
    per_second = n_rows / (time.perf_counter() - start)

    seconds = []
    for history in histories[: args.requests]:
        start = time.perf_counter()
        recommender.recommend([history])
        seconds.append(time.perf_counter() - start)
    slow = statistics.quantiles(seconds, n=100)[98]
    return {"rate": per_second, "median": statistics.median(seconds), "slow": slow, "peak": peak_mb()}


if __name__ == "__main__":
    args = parse(__doc__, items=12101, rows=20000, requests=500, sessions=40000, models="")
    print(f"{args.items} items, batches of 256, k 10")
    print(f"{'model':<26}{'sequences/s':>12}{'one request, median':>22}{'99th percentile':>18}{'peak memory':>14}")
    chosen = args.models.split(",") if args.models else [model for model, _ in CASES]
    cases = [(model, steps, False) for model, steps in CASES if model in chosen]
    for model, steps, with_index in [*cases, *([("SimDiffRec", None, True)] if "SimDiffRec" in chosen else [])]:
        found = in_fresh_process(measure, model, steps, args, with_index)
        name = f"{model}, {steps} step{'s' * (steps > 1)}" if steps else model + ", with an index" * with_index
        median, slow = (f"{1000 * found[key]:.1f} ms" for key in ("median", "slow"))
        print(f"{name:<26}{found['rate']:>12.0f}{median:>22}{slow:>18}{found['peak']:>11.0f} MB", flush=True)
