"""Session models on grocery, in turn: an epoch beside SR-GNN's, an evaluation, a step against one session at a time.

A further model takes a line in CASES, and in PLAIN the name of its plain form: a module of tests/helpers with ``loss``.
"""

import importlib
import itertools
import statistics
import tempfile
import time
from pathlib import Path

from common import in_fresh_process, parse, peak_mb, prepare, spread, time_steps

REFERENCE = "SR-GNN (RecBole)"
CASES = {
    REFERENCE: ("SRGNN", {}),
    "NARM (RecBole)": ("NARM", {}),
    "AttenMixer": ("AttenMixer", {}),
    "AttenMixer, mean": ("AttenMixer", {"attention": "mean"}),
    "AttenMixer, released": ("AttenMixer", {"attention": "released"}),
    "DIMO": ("DIMO", {}),
    "DIMO, one graph": ("DIMO", {"graph_folds": 0}),
    "DIMO, random text": ("DIMO", {"feature_init": "random"}),
    "MSGIFSR": ("MSGIFSR", {}),
    "MSGIFSR, single items": ("MSGIFSR", {"n_granularities": 1}),
    "MSGIFSR, three granularities": ("MSGIFSR", {"n_granularities": 3}),
    "MGS, sessions alone": ("MGS", {"attribute": "none"}),
    "MGS, made-up categories": ("MGS", {"attribute": "category"}),
    "MGS, released": ("MGS", {"attribute": "category", "preset": "released"}),
    "MMSBR": ("MMSBR", {}),
    "MMSBR, random text": ("MMSBR", {"feature_init": "random", "image_features": "none"}),
    "MMSBR, random text and images": ("MMSBR", {"feature_init": "random"}),
    "MSGAT": ("MSGAT", {}),
    "MSGAT, no sessions of similar intent": ("MSGAT", {"k_neighbors": 0}),
    "MSGAT, released pool": ("MSGAT", {"neighbor_pool": "batch"}),
}
PLAIN = {
    "AttenMixer": "plain_attenmixer",
    "MSGIFSR": "plain_msgifsr",
    "DIMO": "plain_dimo",
    "MGS": "plain_mgs",
    "MMSBR": "plain_mmsbr",
    "MSGAT": "plain_msgat",
}
N_CATEGORIES = 100
EPOCH_BOUND, EVALUATION_BOUND = 5, 5.0  # times the reference, seconds


def stepper(network, optimizer, loss_of):
    """A function that trains on one batch."""

    def step(batch):
        optimizer.zero_grad()
        losses = loss_of(batch)
        (sum(losses) if isinstance(losses, tuple) else losses).backward()
        optimizer.step()

    return step


def prepared(case, args):
    """A case ready to train; where it asks for categories, which these data lack, every item has a made-up one."""
    model, settings = CASES[case]
    if settings.get("attribute") != "category":
        return prepare(model, args.dataset, args, train_batch_size=args.batch, **settings)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / args.dataset
        place.mkdir()
        for file in (Path(args.data_path) / args.dataset).resolve().glob("*.inter"):
            (place / file.name).symlink_to(file)
        rows = "".join(f"{item}\tc{item % N_CATEGORIES}\n" for item in range(1, 50_000))
        (place / f"{args.dataset}.item").write_text("item_id:token\tcategory:token\n" + rows)
        args.data_path = folder
        return prepare(model, args.dataset, args, train_batch_size=args.batch, **settings)


def epoch(case, args):
    """Seconds of some steps, how many an epoch has, and seconds of an evaluation of the test part."""
    from recbole_diffusion.training.trainer import trainer_class

    config, loaders, network, optimizer = prepared(case, args)
    batches = itertools.islice(itertools.cycle(loaders[0]), args.steps)
    seconds = time_steps(stepper(network, optimizer, network.calculate_loss), batches)
    trainer, start = trainer_class(config)(config, network), time.perf_counter()
    trainer.evaluate(loaders[2], load_best_model=False)
    found = {"seconds": seconds, "steps": len(loaders[0]), "evaluation": time.perf_counter() - start}
    return {**found, "peak": peak_mb()}


def plain_steps(case, args):
    """Seconds of the same steps, one session at a time and with a matrix of all logits."""
    _, loaders, network, optimizer = prepared(case, args)
    plain = importlib.import_module(PLAIN[CASES[case][0]])

    def loss_of(batch):
        return plain.loss(network, *network.loss_inputs(batch))

    batches = itertools.islice(loaders[0], 1 + args.plain_steps)
    return {"seconds": time_steps(stepper(network, optimizer, loss_of), batches, warm_up=1)}


if __name__ == "__main__":
    args = parse(__doc__, dataset="grocery", batch=512, steps=30, plain_steps=3, only="")
    wanted = (REFERENCE, *args.only.split(","))  # beginnings of names
    cases = [case for case in CASES if case.startswith(wanted)]
    reference, steps = None, {}
    for case in cases:
        found = in_fresh_process(epoch, case, args)
        steps[case] = statistics.median(found["seconds"])
        seconds = steps[case] * found["steps"]
        reference = reference or seconds
        print(f"{case}: step {spread(found['seconds'])}, {found['steps']} make {seconds:.1f} s an epoch, "
              f"{seconds / reference:.2f} of {REFERENCE} (bound {EPOCH_BOUND}); evaluation "
              f"{found['evaluation']:.1f} s (bound {EVALUATION_BOUND:.0f}); peak {found['peak']:.0f} MB")  # fmt: skip
    for case in cases:
        if args.plain_steps and CASES[case][0] in PLAIN:
            plain = statistics.median(in_fresh_process(plain_steps, case, args)["seconds"])
            ratio = plain / steps[case]
            print(f"{case}: step {steps[case]:.3f} s, one session at a time {plain:.2f} s, {ratio:.0f} times faster")
