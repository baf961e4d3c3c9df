"""What fewer reverse steps change: test metrics and top 10 of a trained DiffuRec, DiffuRecSys or ADRec.

The difference between two seeds of the noise with all steps stands beside it: less than that is nothing.
"""

import tempfile
import time
from pathlib import Path

from common import parse

# name -> settings of inference
VARIANTS = {
    "32 steps": {"sampling_steps": 32},
    "32 steps, other seed": {"sampling_steps": 32, "seed": 1},
    "8 steps": {"sampling_steps": 8},
    "2 steps": {"sampling_steps": 2},
    "1 step": {"sampling_steps": 1},
    "1 step, other seed": {"sampling_steps": 1, "seed": 1},
    "1 step, ensemble of 5 seeds": {"sampling_steps": 1, "ensemble_seeds": 5},
}


def rank(checkpoint, data_path, users):
    """Top 10 [n, 10] and place of the target [n] (from 0, over all items, history not masked) of some test users.

    Users are numbered by their first purchase, so that the first ones are no fair sample: take all for figures to quote.
    """
    import torch

    from recbole_diffusion import load_data_and_model

    config, model, *_, test = load_data_and_model(checkpoint, data_path)
    tops, places = [], []
    start = time.perf_counter()
    for batch, *_ in test:
        batch = batch.to(config["device"])
        with torch.no_grad():
            scores = model.full_sort_predict(batch).view(len(batch), -1)
        scores[:, 0] = float("-inf")
        own = scores.gather(1, batch[config["ITEM_ID_FIELD"]][:, None])
        tops.append(scores.topk(10).indices)
        places.append((scores > own).sum(1))
        if sum(map(len, tops)) >= users:
            break
    return torch.cat(tops), torch.cat(places), time.perf_counter() - start


def measure(args, folder):
    """Yield name, HR@10, NDCG@10, share of the first variant's top 10, seconds."""
    import torch

    from recbole_diffusion.training.checkpoint import load_checkpoint

    torch.set_num_threads(args.threads)
    state, reference = load_checkpoint(args.checkpoint), None
    for name, settings in VARIANTS.items():
        if not set(settings) <= set(state["config"]):
            continue  # ADRec has no ensembles
        changed = str(Path(folder) / "changed.pth")
        torch.save({**state, "config": {**state["config"], **settings, "use_gpu": False}}, changed)
        top, place, seconds = rank(changed, args.data_path, args.users)
        hit = place < 10
        gain = hit / (place + 2.0).log2()
        reference = top if reference is None else reference
        overlap = (top[:, :, None] == reference[:, None, :]).any(-1).float().mean()
        yield name, hit.float().mean(), gain.mean(), overlap, seconds


if __name__ == "__main__":
    args = parse(__doc__, checkpoint="", users=10**9)
    print("| | HR@10 | NDCG@10 | of the top 10 of 32 steps | seconds |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, hit, gain, overlap, seconds in measure(args, folder):
            print(f"| {name} | {hit:.4f} | {gain:.4f} | {overlap:.1%} | {seconds:.0f} |", flush=True)
