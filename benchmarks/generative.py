"""VSAN on beauty: steps against those of SASRec-CE with as many blocks, in turn.

SASRec-CE is SimDiffRec without diffusion and contrast, of the same width, with the same loss on the same examples.
"""

import itertools
import statistics

from common import in_fresh_process, parse, prepare, spread, time_steps

CASES = {
    "SASRec-CE, two blocks": ("SimDiffRec", {"alpha": 0, "beta": 0, "n_layers": 2}),
    "VSAN": ("VSAN", {}),
    "VSAN, twin": ("VSAN", {"twin": True}),
    "VSAN, the next four": ("VSAN", {"next_k": 4}),
}


def steps(case, args):
    """Seconds of steps, the optimizer's included."""
    model, settings = CASES[case]
    _, loaders, network, optimizer = prepare(model, "beauty", args, train_view="sequence", **settings)

    def step(batch):
        optimizer.zero_grad()
        sum(network.calculate_loss(batch)).backward()
        optimizer.step()

    return {"seconds": time_steps(step, itertools.islice(itertools.cycle(loaders[0]), args.steps))}


if __name__ == "__main__":
    args = parse(__doc__, steps=20, rounds=3)
    found = {case: [] for case in CASES}
    for _ in range(args.rounds):
        for case in CASES:
            found[case] += in_fresh_process(steps, case, args)["seconds"]
    base = statistics.median(found["SASRec-CE, two blocks"])
    for case, seconds in found.items():
        print(f"{case}: {spread(seconds)}, {statistics.median(seconds) / base:.2f} of SASRec-CE's", flush=True)
