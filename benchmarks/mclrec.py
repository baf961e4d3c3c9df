"""MCLRec on beauty: steps of each `meta` against the plain padded version, in turn; epochs against SASRec's.

SASRec is MCLRec without its weights: the same width and loss on the same examples.
"""

import itertools
import statistics
import time

from common import in_fresh_process, parse, peak_mb, prepare, spread, time_steps

VIEWS = {"sequence": {}, "prefix": {"train_view": "prefix", "ce_positions": "last"}}
SASREC = {"contrast_weight": 0, "meta_weight": 0}


def trainer_of(settings, args):
    """``(loaders, trainer)``, whose trainer takes all steps of a batch."""
    from recbole_diffusion.training.trainer import DiffusionTrainer

    config, loaders, network, _ = prepare("MCLRec", "beauty", args, **settings)
    return loaders, DiffusionTrainer(config, network)


def packed_steps(settings, args):
    """Batches of the package."""
    loaders, trainer = trainer_of(settings, args)
    batches = itertools.islice(loaders[0], args.steps)
    seconds = time_steps(lambda batch: trainer._train_batch(batch, trainer.model.calculate_loss), batches)
    return {"seconds": seconds, "peak": peak_mb()}


def padded_steps(settings, args):
    """The same written plainly, on rows of full length, a pass for every view; the loss at every position."""
    import plain_mclrec as plain
    import torch.nn.functional as F

    _, loaders, network, optimizer = prepare("MCLRec", "beauty", args, **settings)
    last = settings.get("ce_positions") == "last"

    def step(batch):
        items, lengths, target = batch[network.ITEM_SEQ], batch[network.ITEM_SEQ_LEN], batch[network.ITEM_ID]
        items = F.pad(items, (0, network.max_seq_length - items.shape[1]))
        stages = {"encoder": lambda views: plain.encoder_parts(network, items, lengths, target, views, last)}
        stages["augmenters"] = lambda views: plain.augmenter_parts(network, views)
        order = {"alternating": ["encoder", "augmenters"], "official": ["encoder", "augmenters", "encoder"]}
        for name in order.get(settings["meta"], ["encoder"]):
            optimizer.zero_grad()
            sum(stages[name](network.draw_views(items, lengths)).values()).backward()
            optimizer.step()

    return {"seconds": time_steps(step, itertools.islice(loaders[0], args.padded_steps)), "peak": peak_mb()}


def epoch(settings, args):
    """Seconds of one epoch of training."""
    loaders, trainer = trainer_of(settings, args)
    start = time.perf_counter()
    for batch in loaders[0]:
        trainer._train_batch(batch, trainer.model.calculate_loss)
    return {"seconds": time.perf_counter() - start}


if __name__ == "__main__":
    args = parse(__doc__, steps=12, padded_steps=5, rounds=2)
    for view, examples in VIEWS.items():
        for meta in ("simultaneous", "alternating", "official"):
            settings = {**examples, "meta": meta}
            fast, slow = (in_fresh_process(steps, settings, args) for steps in (packed_steps, padded_steps))
            ratio = statistics.median(slow["seconds"]) / statistics.median(fast["seconds"])
            print(f"{view}, {meta}: packed {spread(fast['seconds'])}, padded {spread(slow['seconds'])}, {ratio:.1f} times")
            print(f"  peak {fast['peak']:.0f} MB, padded {slow['peak']:.0f} MB", flush=True)
    runs = {"SASRec": SASREC, **{meta: {"meta": meta} for meta in ("simultaneous", "alternating", "official")}}
    seconds = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, settings in runs.items():
            seconds[name].append(in_fresh_process(epoch, settings, args)["seconds"])
    base = statistics.median(seconds["SASRec"])
    for name, found in seconds.items():
        print(f"epoch in sequence view, {name}: {statistics.median(found):.1f} s, {statistics.median(found) / base:.2f} of SASRec's")
