"""Full ranking of the test users of beauty: the package's collector and RecBole's own."""

import time

from common import in_fresh_process, parse, peak_mb, prepare


def evaluate(collector, args):
    """Seconds of one evaluation."""
    from recbole.evaluator import Collector

    from recbole_diffusion.training.trainer import trainer_class

    config, loaders, network, _ = prepare("SimDiffRec", "beauty", args)
    trainer = trainer_class(config)(config, network)
    if collector == "recbole":
        trainer.eval_collector = Collector(config)
    users, start = len(loaders[2]._dataset), time.perf_counter()
    trainer.evaluate(loaders[2], load_best_model=False)
    return {"seconds": time.perf_counter() - start, "users": users, "peak": peak_mb()}


if __name__ == "__main__":
    args = parse(__doc__)
    for collector in ("package", "recbole"):
        found = in_fresh_process(evaluate, collector, args)
        print(f"{collector}: {found['users']} users in {found['seconds']:.1f} s, peak {found['peak']:.0f} MB")
