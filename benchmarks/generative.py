"""VSAN and ACVAE on beauty: steps against those of SASRec-CE with as many blocks, or of their twins, in turn.

SASRec-CE is SimDiffRec without diffusion and contrast, of the same width, with the same loss on the same examples.
"""

import itertools
import statistics

from common import in_fresh_process, parse, prepare, spread, time_steps

CASES = {
    "SASRec-CE": ("SimDiffRec", {"alpha": 0, "beta": 0, "n_layers": 2}),
    "VSAN": ("VSAN", {}),
    "VSAN, twin": ("VSAN", {"twin": True}),
    "VSAN, the next four": ("VSAN", {"next_k": 4}),
    "ACVAE": ("ACVAE", {"train_batch_size": 512}),
    "ACVAE, twin": ("ACVAE", {"train_batch_size": 512, "twin": True}),
}
COMPARED = {"VSAN": "SASRec-CE", "VSAN, twin": "SASRec-CE", "VSAN, the next four": "SASRec-CE", "ACVAE": "ACVAE, twin"}


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
    medians = {case: statistics.median(seconds) for case, seconds in found.items()}
    for case, seconds in found.items():
        print(f"{case}: {spread(seconds)}")
    for case, other in COMPARED.items():
        print(f"{case}: {medians[case] / medians[other]:.2f} times {other}", flush=True)
