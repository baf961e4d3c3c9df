"""Relations of items in sessions, mirrors, and the loss that holds two mirrors together."""

import math

import plain_mgs as plain
import pytest
import torch

from recbole_diffusion.layers.mirror import MirrorExchange, NodeReadout, alignment, relations
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.session_graph import item_nodes


def codes_of(sessions):
    """Nodes and matrices of codes of some sessions, from the fast functions."""
    lengths = torch.tensor([len(items) for items in sessions])
    layout = PackedLayout(lengths)
    rows = torch.zeros(len(sessions), int(lengths.max()), dtype=torch.long)
    for row, items in zip(rows, sessions):
        row[: len(items)] = torch.tensor(items)
    nodes = item_nodes(layout.pack(rows), layout)
    found = relations(nodes, layout)
    matrix = torch.zeros(len(nodes.row), len(nodes.row), dtype=torch.long)
    matrix[found.node, found.neighbour] = found.kind + 1
    own = [(nodes.row == row).nonzero().flatten() for row in range(len(sessions))]
    assert sum(int((matrix[n] > 0).sum()) for n in own) == 0 + len(found.kind)
    return [(nodes.items[n, 0].tolist(), matrix[n][:, n].tolist()) for n in own]


def test_known_codes():
    (nodes, codes), (other, other_codes) = codes_of([[3, 1, 3, 6, 2], [3, 1, 2, 3, 1]])
    assert nodes == [2, 6, 3, 1]
    assert codes == [[1, 2, 0, 0], [3, 1, 2, 0], [0, 3, 1, 4], [0, 0, 4, 1]]
    assert other == [1, 3, 2]
    assert other_codes == [[1, 2, 3], [3, 1, 2], [2, 3, 1]]


def test_codes_of_repeats_and_of_one_item():
    assert codes_of([[5], [7, 7, 7], [7, 7, 4, 7]]) == [([5], [[1]]), ([7], [[1]]), ([7, 4], [[1, 4], [4, 1]])]


def test_codes_equal_those_of_a_dictionary():
    random = torch.Generator().manual_seed(0)
    for _ in range(40):
        sessions = [
            torch.randint(1, 7, (n,), generator=random).tolist() for n in torch.randint(1, 12, (6,), generator=random)
        ]
        assert codes_of(sessions) == [(plain.nodes_of(items), plain.codes(items)) for items in sessions]


# Two views of mirrors


def mirrors(*sizes):
    """Orthonormal ones, of sessions with so many nodes; the layout stands shortest first."""
    return torch.cat([torch.eye(12, dtype=torch.float64)[:n] for n in sorted(sizes)]), PackedLayout(torch.tensor(sizes))


@pytest.mark.parametrize("n, tau, known", [(4, 0.1, 5.448e-4), (10, 0.1, 4.085e-3)])
def test_known_alignment_of_orthonormal_mirrors(n, tau, known):
    assert n * math.log1p((n - 1) * math.exp(-1 / tau)) == pytest.approx(known, rel=1e-3)
    views, layout = mirrors(n)
    everyone = torch.ones(n, dtype=torch.bool)
    assert alignment(views, views, everyone, layout, tau).sum().item() == pytest.approx(known, rel=1e-3)
    views, layout = mirrors(n, 12, 3)  # beside others, of which one is longer
    everyone = torch.ones(len(views), dtype=torch.bool)
    own = layout.length == n
    assert alignment(views, views, everyone, layout, tau)[own].sum().item() == pytest.approx(known, rel=1e-3)
    padded = alignment(views, views, everyone, layout, tau, torch.zeros(12, dtype=torch.float64))[own].sum().item()
    assert padded == pytest.approx(n * math.log1p(11 * math.exp(-1 / tau)), rel=1e-6)  # 12 - n zeros more


def test_only_mirrors_are_aligned():
    views, layout = torch.randn(5, 3), PackedLayout(torch.tensor([5]))
    paired = torch.tensor([True, False, True, False, True])
    found = alignment(views, views + 1, paired, layout, 0.5)
    short = alignment(
        views[paired], views[paired] + 1, torch.ones(3, dtype=torch.bool), PackedLayout(torch.tensor([3])), 0.5
    )
    torch.testing.assert_close(found[paired], short)
    assert not found[~paired].any()


# What items and mirrors do to each other


def test_items_without_mirrors_do_not_move():
    layer, layout = MirrorExchange(4), PackedLayout(torch.tensor([3, 2]))
    paired = torch.tensor([True, False, False, False, True])
    x, m = torch.randn(5, 4), torch.randn(5, 4) * paired[:, None]
    moved, mixed = layer(x, m, paired, layout)
    assert torch.equal(moved[~paired], x[~paired]) and not torch.isclose(moved[paired], x[paired]).any()
    assert not mixed[~paired].any()
    torch.testing.assert_close(mixed[paired], m[paired])  # the only one of its session


def test_a_gate_of_the_last_item():
    """With weights of zero the gate is half of mu."""
    layout = PackedLayout(torch.tensor([3]))
    nodes = item_nodes(torch.tensor([4, 5, 6]), layout)
    x = torch.randn(3, 4)
    plain_one, gated = NodeReadout(4, 5, False, 0.0), NodeReadout(4, 5, False, 1.2)
    gated.load_state_dict({**plain_one.state_dict(), "gate.weight": torch.zeros(4, 8)})
    session = plain_one(x, None, nodes, layout)
    torch.testing.assert_close(gated(x, None, nodes, layout), 0.6 * x[:1] + 0.4 * session)
    assert plain_one.gate is None and plain_one.mirror is None
