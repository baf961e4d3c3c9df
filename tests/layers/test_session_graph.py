"""Sessions as graphs: counts known from two sessions, and random sessions against dictionaries."""

import pytest
import torch

from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.session_graph import item_nodes, item_to_run, run_to_item, runs_of_items, transitions


def packed(*sessions):
    """Items of sessions and their layout."""
    lengths = torch.tensor([len(session) for session in sessions])
    layout = PackedLayout(lengths)
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(session) for session in sessions], batch_first=True)
    return layout.pack(padded), layout


def random_sessions(seed, n_sessions=9, n_items=5, longest=8):
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (n_sessions,), generator=draw).tolist()
    return [torch.randint(1, n_items + 1, (n,), generator=draw).tolist() for n in lengths]


def named(nodes):
    """What each node is: (row, items)."""
    return [(row, tuple(items)) for row, items in zip(nodes.row.tolist(), nodes.items.tolist())]


def named_edges(edges, sources, targets):
    sources, targets = named(sources), named(targets)
    return [(sources[a], targets[b]) for a, b in zip(edges.source.tolist(), edges.target.tolist())]


def runs_by_hand(session, k):
    return [tuple(session[i : i + k]) for i in range(len(session) - k + 1)]


def edges_by_hand(sessions, k, name):
    """Edges of all sessions as a set, from lists of runs."""
    edges = set()
    for row, session in enumerate(sessions):
        runs, items = runs_by_hand(session, k), runs_by_hand(session, 1)
        pairs = {
            "transitions": zip(runs, runs[1:]),
            "item_to_run": zip(items, runs[1:]),
            "run_to_item": zip(runs, items[k:]),
        }[name]
        edges |= {((row, a), (row, b)) for a, b in pairs}
    return edges


@pytest.mark.parametrize(
    "session, n_nodes, n_transitions, n_between",
    [
        ([3, 1, 3, 6, 2, 5, 1, 2, 4, 1, 2], [6, 9, 9], [9, 9, 8], [9, 9, 8, 8]),
        ([7, 7, 7, 7, 3, 1, 2, 4, 1], [5, 6, 6], [6, 6, 6], [6, 6, 6, 6]),
    ],
)
def test_counts_of_known_sessions(session, n_nodes, n_transitions, n_between):
    items, layout = packed(session)
    runs = runs_of_items(items, layout, 3)
    assert [len(nodes.row) for nodes in runs] == n_nodes
    assert [len(transitions(nodes, layout).source) for nodes in runs] == n_transitions
    between = []
    for nodes in runs[1:]:
        between += [item_to_run(runs[0], nodes, layout), run_to_item(nodes, runs[0], layout)]
    assert [len(edges.source) for edges in between] == n_between


@pytest.mark.parametrize("short_sessions", ["last", "min_id"])
def test_runs_and_edges_equal_those_from_lists(short_sessions):
    for seed in range(100):
        sessions = random_sessions(seed)
        items, layout = packed(*sessions)
        runs = runs_of_items(items, layout, 4, short_sessions)
        for k, nodes in enumerate(runs, 1):
            copied = min if short_sessions == "min_id" else lambda session: session[-1]
            own = [set(runs_by_hand(session, k)) or {(copied(session),) * k} for session in sessions]
            names = named(nodes)
            assert sorted(names) == sorted((row, run) for row, found in enumerate(own) for run in found)
            ends = [(row, tuple(s[-k:]) if len(s) >= k else (copied(s),) * k) for row, s in enumerate(sessions)]
            assert [names[node] for node in nodes.last.tolist()] == ends
            for name, edges, sources, targets in (
                ("transitions", transitions(nodes, layout), nodes, nodes),
                ("item_to_run", item_to_run(runs[0], nodes, layout), runs[0], nodes),
                ("run_to_item", run_to_item(nodes, runs[0], layout), nodes, runs[0]),
            ):
                assert sorted(named_edges(edges, sources, targets)) == sorted(edges_by_hand(sessions, k, name))


def test_tokens_know_the_runs_that_start_at_them():
    sessions = random_sessions(7)
    items, layout = packed(*sessions)
    for k, nodes in enumerate(runs_of_items(items, layout, 3), 1):
        names = named(nodes)
        for row, position, node in zip(layout.row.tolist(), layout.position.tolist(), nodes.at.tolist()):
            run = tuple(sessions[row][position : position + k])
            assert node == -1 if len(run) < k else names[node] == (row, run)


def test_items_stand_as_packed_tokens_newest_first():
    for seed in range(20):
        sessions = random_sessions(seed)
        nodes = item_nodes(*packed(*sessions))
        layout = PackedLayout(torch.bincount(nodes.row))
        torch.testing.assert_close(nodes.row, layout.row)
        for row, session in enumerate(sessions):
            newest_first = list(dict.fromkeys(reversed(session)))
            assert nodes.items[nodes.row == row, 0].tolist() == newest_first


def test_edges_the_other_way():
    items, layout = packed([1, 2, 1, 3])
    nodes = item_nodes(items, layout)
    edges = transitions(nodes, layout)
    back = named_edges(edges.reversed(), nodes, nodes)
    assert sorted(back) == sorted((b, a) for a, b in named_edges(edges, nodes, nodes))
