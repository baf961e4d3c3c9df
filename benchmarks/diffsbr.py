"""DiffSBR: sparse against dense propagation, retrieval from a large bank, one epoch and one evaluation."""

import itertools
import statistics
import time

from common import in_fresh_process, parse, peak_mb, prepare, spread, time_steps


def propagation(args):
    """Forward and backward over the graph of a data set, sparse and dense."""
    import torch

    _, _, network, _ = prepare("DiffSBR", args.dataset, args)
    graph, x = network.graphs.whole, network.item_embedding.weight
    dense = graph.matrix.csr().to_dense()
    found = {"edges": len(graph.matrix.values), "items": len(dense)}
    for name, product in (("sparse", graph), ("dense", lambda x: dense @ x)):
        found[name] = time_steps(lambda _: torch.autograd.grad(product(x).sum(), x), range(args.steps + 2))
    return found


def retrieval(args, sessions=100_000, queries=256, hidden=100, k=3):
    """Top neighbours of a batch among many sessions, for both scorers and the unsplit one."""
    import torch

    from recbole_diffusion.layers.retrieval import ConcatenationScorer, TwoTowerScorer

    torch.set_num_threads(args.threads)
    bank, batch, found = torch.randn(sessions, hidden), torch.randn(queries, hidden), {}
    with torch.no_grad():
        for scorer in (TwoTowerScorer(hidden, 0.0).eval(), ConcatenationScorer(hidden)):
            index = scorer.index(bank)
            found[type(scorer).__name__] = time_steps(lambda _: scorer.nearest(batch, index, k), range(args.steps), 1)
        few = batch[:4]  # the joined vectors of more queries would not fit into memory
        first = torch.cat([scorer.query.weight, scorer.session.weight], 1)

        def unsplit(_):
            joined = torch.cat([few[:, None].expand(-1, sessions, -1), bank.expand(len(few), -1, -1)], -1)
            return scorer.output((joined @ first.t() + scorer.query.bias).relu())

        found["split, 4 queries"] = time_steps(
            lambda _: scorer.scores(scorer.project(few), index), range(args.steps), 1
        )
        found["joined, 4 queries"] = time_steps(unsplit, range(3), 1)
    return found


def alignment(items, hidden=100):
    """Memory that the alignment of all items with all adds, forward and backward, in MB."""
    import torch

    from recbole_diffusion.layers.contrastive import alignment_loss

    tables = [torch.randn(items + 1, hidden, requires_grad=True) for _ in range(2)]
    before = peak_mb()
    alignment_loss(*tables, 0.3).backward()
    return peak_mb() - before


def epoch(batch, folds, args):
    """Seconds of some training steps scaled to an epoch, and of an evaluation."""
    from recbole_diffusion.training.trainer import trainer_class

    config, loaders, network, optimizer = prepare("DiffSBR", args.dataset, args, train_batch_size=batch, graph_folds=folds)

    def step(rows):
        optimizer.zero_grad()
        sum(network.calculate_loss(rows)).backward()
        optimizer.step()

    seconds = time_steps(step, itertools.islice(loaders[0], args.steps))
    trainer, start = trainer_class(config)(config, network), time.perf_counter()
    trainer.evaluate(loaders[2], load_best_model=False)
    return {"step": seconds, "steps": len(loaders[0]), "evaluation": time.perf_counter() - start, "peak": peak_mb()}


if __name__ == "__main__":
    args = parse(__doc__, steps=20, dataset="grocery")
    found = in_fresh_process(propagation, args)
    ratio = statistics.median(found["dense"]) / statistics.median(found["sparse"])
    print(f"{args.dataset}, {found['items']} items, {found['edges']} edges: sparse propagation {ratio:.0f} times faster than dense")
    found = in_fresh_process(retrieval, args)
    for name, seconds in found.items():
        print(f"{name}: {spread(seconds)}")
    ratio = statistics.median(found["joined, 4 queries"]) / statistics.median(found["split, 4 queries"])
    print(f"split scorer {ratio:.0f} times faster than the joined one")
    for items in (10_000, 20_000, 40_000):
        added = in_fresh_process(alignment, items)
        print(f"alignment of {items:,} items with all: {added:.0f} MB more, the similarities alone are {items**2 * 4e-6:,.0f} MB")
    for batch, folds in ((50, 0), (512, 0), (512, 5)):
        found = in_fresh_process(epoch, batch, folds, args)
        whole = statistics.median(found["step"]) * found["steps"]
        print(f"batch {batch}, graph_folds {folds}: step {spread(found['step'])}, {found['steps']} steps make {whole:.0f} s an epoch")
        print(f"  evaluation of the test sessions {found['evaluation']:.1f} s, peak {found['peak']:.0f} MB")
