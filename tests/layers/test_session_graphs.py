"""Graphs of folds: what a dictionary counts, and no edge that a session brought itself."""

from collections import Counter

import numpy as np
import pytest
import torch

from recbole_diffusion.layers.graph import SessionGraphs

N_ITEMS, N_FOLDS = 15, 3


def random_sessions(seed):
    """Lists of items with repeats, and a fold for each: -1 is none."""
    random = np.random.default_rng(seed)
    sessions = [random.integers(1, N_ITEMS, random.integers(2, 7)).tolist() for _ in range(25)]
    return sessions, np.append(random.permutation(np.arange(21) % N_FOLDS), [-1] * 4)


def graphs_of(sessions, folds, edges="cooccurrence"):
    lengths = np.array(list(map(len, sessions)))
    return SessionGraphs(N_ITEMS, edges, np.concatenate(sessions), lengths, folds)


def counted(sessions, edges):
    """Rows of counts of edges, each divided by its sum: dict of (item, other) -> weight."""
    counts = Counter()
    for items in sessions:
        for place, item in enumerate(items):
            others = items[place + 1 : place + 2] if edges == "transitions" else items[:place] + items[place + 1 :]
            counts.update((item, other) for other in others if other != item)
    sums = Counter()
    for (item, _), count in counts.items():
        sums[item] += count
    return {(item, other): count / sums[item] for (item, other), count in counts.items()}


def edges_of(graph):
    dense = graph.matrix.csr().to_dense()
    torch.testing.assert_close(graph.transposed.csr().to_dense(), dense.t())
    assert len(graph.matrix.values) == (dense != 0).sum()  # no edge of weight 0 is kept
    return {tuple(pair): dense[tuple(pair)].item() for pair in dense.nonzero().tolist()}


@pytest.mark.parametrize("edges", ["cooccurrence", "transitions"])
@pytest.mark.parametrize("seed", range(5))
def test_the_graph_of_a_fold_counts_all_sessions_but_its_own(seed, edges):
    sessions, folds = random_sessions(seed)
    graphs = graphs_of(sessions, folds, edges)
    assert len(graphs.without) == N_FOLDS
    for fold in [None, *range(N_FOLDS)]:
        seen = [items for items, own in zip(sessions, folds) if fold is None or own != fold]
        assert edges_of(graphs.seen_from(fold)) == pytest.approx(counted(seen, edges))


@pytest.mark.parametrize("seed", range(5))
def test_no_session_meets_its_own_edge(seed):
    """Two items that only one session joins are no neighbours in the graph of its fold, and are in all other graphs."""
    sessions, folds = random_sessions(seed)
    graphs, holders = graphs_of(sessions, folds), {}
    for number, items in enumerate(sessions):
        for pair in {(a, b) for a in items for b in items if a != b}:
            holders.setdefault(pair, []).append(number)
    alone = {pair: numbers[0] for pair, numbers in holders.items() if len(numbers) == 1}
    assert alone
    found = [edges_of(graphs.seen_from(fold)) for fold in range(N_FOLDS)]
    for pair, number in alone.items():
        assert [pair in found[fold] for fold in range(N_FOLDS)] == [fold != folds[number] for fold in range(N_FOLDS)]
        assert pair in edges_of(graphs.whole)


def test_without_folds_there_is_one_graph():
    sessions, _ = random_sessions(0)
    graphs = graphs_of(sessions, None)
    assert len(graphs.without) == 0 and graphs.seen_from(None) is graphs.whole
    assert not graphs.state_dict()  # no checkpoint holds them
