"""VSAN, ACVAE and MFGAN on beauty: steps against those of SASRec-CE with as many blocks, or of their twins, in turn; a tower
of MFGAN against one that sees every candidate as a sequence of its own.

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
    "MFGAN": ("MFGAN", {"pretrain_epochs": 0}),
    "MFGAN, twin": ("MFGAN", {"twin": True}),
}
COMPARED = {"VSAN": "SASRec-CE", "VSAN, twin": "SASRec-CE", "VSAN, the next four": "SASRec-CE", "ACVAE": "ACVAE, twin", "MFGAN": "MFGAN, twin"}


def steps(case, args):
    """Seconds of steps, the optimizer's included."""
    model, settings = CASES[case]
    _, loaders, network, optimizer = prepare(model, "beauty", args, train_view="sequence", **settings)

    def step(batch):
        optimizer.zero_grad()
        sum(network.calculate_loss(batch)).backward()
        optimizer.step()

    return {"seconds": time_steps(step, itertools.islice(itertools.cycle(loaders[0]), args.steps))}


def tower_steps(kind, args):
    """Seconds of a discriminator, forward and backward, on the real and ten recommended items of every history of a batch."""
    import torch
    import torch.nn.functional as F

    from recbole_diffusion.layers.packed import PackedLayout

    _, loaders, network, _ = prepare("MFGAN", "beauty", args, train_view="sequence")
    tower, candidates = network.towers[0], torch.randint(1, network.n_items, (512, 11))

    def step(batch):
        items, lengths = batch[network.ITEM_SEQ], batch[network.ITEM_SEQ_LEN]
        last = candidates[: len(items)]
        network.zero_grad()
        if kind == "shared":
            layout = PackedLayout(lengths)
            logits = tower(layout.pack(items), layout, last)
        else:
            rows = F.pad(items, (0, 1)).repeat_interleave(last.shape[1], 0)
            n = lengths.repeat_interleave(last.shape[1]) + 1
            rows = rows.scatter(1, (n - 1).unsqueeze(1), last.reshape(-1, 1))
            layout = PackedLayout(n)
            if kind == "padded":  # rows of full width through the whole block, as a plain network has them
                rows = F.pad(rows, (0, network.max_seq_length + 1 - rows.shape[1]))
                layout = PackedLayout.with_padding(*rows.shape, rows.device)
            x = tower._placed(layout.pack(rows), layout.length - 1 - layout.position).unsqueeze(1)
            if kind == "padded":
                states = tower.transformer(x, layout, causal=False)[:, 0].unflatten(0, rows.shape)[torch.arange(len(n)), n - 1]
            else:
                states = tower.transformer.final_block_at_last(x, layout)[:, 0]
            logits = tower.out(states)
        logits.sum().backward()

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
    kinds = {kind: in_fresh_process(tower_steps, kind, args)["seconds"] for kind in ("shared", "whole", "padded")}
    for kind, seconds in kinds.items():
        ratio = statistics.median(seconds) / statistics.median(kinds["shared"])
        print(f"MFGAN, tower, {kind}: {spread(seconds)}, {ratio:.1f} times the shared prefix")
