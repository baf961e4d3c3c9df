"""Sessions as sets: who overlaps most, means of sets, the bank of training sessions, and the gated graph beside it."""

from fractions import Fraction

import plain_msgat as plain
import pytest
import torch

from recbole_diffusion.layers.gated_graph import GatedGraph
from recbole_diffusion.layers.overlap import SessionSets, nearest_of_each
from recbole_diffusion.layers.overlap_bank import OverlapBank
from recbole_diffusion.layers.packed import FineLayout
from recbole_diffusion.layers.session_graph import item_nodes, rank_by_number, since_met, transitions
from recbole_diffusion.layers.sparse_attention import mean_by_overlap, similar_in_batch


def padded(sessions):
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(session) for session in sessions], batch_first=True)


def random_sessions(seed, n_sessions=40, n_items=9, longest=7):
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (n_sessions,), generator=draw).tolist()
    return [torch.randint(1, n_items + 1, (n,), generator=draw).tolist() for n in lengths]


def queries(sessions, n_items=10):
    shown = SessionSets.of_rows(padded(sessions), n_items)
    return *shown.pairs(torch.arange(len(sessions))), len(sessions)


def test_golden_weights_of_a_batch():
    """Sets {1, 2, 3}, {2, 3}, {4}: the first row of D^-1 J is .6, .4, 0."""
    sessions = [[1, 2, 3], [3, 2, 3], [4]]
    sets = SessionSets.of_rows(padded(sessions), 5)
    found = sets.nearest(*queries(sessions, 5), most=3, own=torch.arange(3))
    assert found.session.tolist() == [[1], [0], [0]]
    torch.testing.assert_close(found.similarity, torch.tensor([[2 / 3], [2 / 3], [0]]))
    vectors = torch.eye(3)
    mixed = mean_by_overlap(vectors, vectors[found.session], found.similarity)
    torch.testing.assert_close(mixed, torch.tensor([[0.6, 0.4, 0], [0.4, 0.6, 0], [0, 0, 1]]))


@pytest.mark.parametrize("most", [1, 3, 100])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_nearest_sets_equal_those_of_all_pairs(seed, most):
    bank, asking = random_sessions(seed), random_sessions(seed + 7, 15, n_items=12)
    sets = SessionSets.of_rows(padded(bank), 13)
    for own in (None, torch.arange(15) - 1):  # -1 is nobody's
        found = sets.nearest(*queries(asking, 13), most, own)
        for row, session in enumerate(asking):
            wanted = plain.overlapping(session, bank, None if own is None else int(own[row]), most)
            n = len(wanted)
            assert found.session[row, :n].tolist() == [number for number, _ in wanted]
            torch.testing.assert_close(found.similarity[row, :n], torch.tensor([jaccard for _, jaccard in wanted]))
            assert not found.similarity[row, n:].any() and not found.session[row, n:].any()


@pytest.mark.parametrize("seed", range(4))
def test_the_nearest_by_cosine_are_those_of_exact_fractions(seed):
    bank, asking = random_sessions(seed, 60, longest=12, n_items=12), random_sessions(seed + 7, 15, n_items=12)
    found = SessionSets.of_rows(padded(bank), 13).nearest(*queries(asking, 13), 7, similarity="cosine")
    for row, session in enumerate(asking):
        squares = [Fraction(len(set(session) & set(other)) ** 2, len(set(session)) * len(set(other))) for other in bank]
        wanted = sorted((number for number, square in enumerate(squares) if square), key=lambda number: -squares[number])[:7]
        assert found.session[row, : len(wanted)].tolist() == wanted
        cosines = torch.tensor([float(squares[number]) for number in wanted]).sqrt()
        torch.testing.assert_close(found.similarity[row, : len(wanted)], cosines)


def test_no_overlap_at_all():
    sets = SessionSets.of_rows(padded([[1, 2], [2]]), 6)
    found = sets.nearest(*queries([[5], [4, 3]], 6), most=4)
    assert found.session.shape == found.similarity.shape == (2, 0)


def test_means_and_sums_of_sets_count_an_item_once():
    sets = SessionSets.of_rows(padded([[1, 2, 1], [3], [2, 3]]), 4)
    table = torch.tensor([[9.0], [1], [2], [5]], requires_grad=True)
    assert sets.means(table, torch.tensor([2, 0])).tolist() == [[3.5], [1.5]]
    total = sets.means(table, torch.tensor([0, 0, 1]), "sum")
    assert total.tolist() == [[3], [3], [5]]
    total.sum().backward()
    assert table.grad.tolist() == [[0], [2], [2], [1]]


@pytest.mark.parametrize("inputs_only", [True, False])
def test_a_bank_reads_equal_sessions_once_and_none_meets_itself(inputs_only):
    sessions = [[1, 2, 3], [1, 2, 3], [4, 5], [1, 2, 4], [6, 7]]
    lengths = torch.tensor([len(session) for session in sessions])
    users = torch.tensor([3, 4, 1, 2, 6])
    bank = OverlapBank(torch.tensor(sum(sessions, [])), lengths, users, 8, 4, inputs_only)
    read = []

    def reader(items, layout):
        read.extend(row[:n].tolist() for row, n in zip(bank.sequences, bank.lengths))
        return torch.zeros(len(layout.last), 8), torch.zeros(len(layout.last), 16)

    def neighbourhood(target, itself, others, overlap):
        return mean_by_overlap(itself, others, overlap)

    found = bank.intents(reader, neighbourhood, torch.eye(8)).vectors
    shown = [session[:-1] if inputs_only else session for session in sessions]
    assert sorted(read) == sorted(map(list, {tuple(session) for session in shown}))
    assert bank.row_of_user[users].tolist() == [0, 1, 2, 3, 4]
    for number, items in enumerate(shown):
        overlaps = plain.overlapping(items, sessions, number, 4)
        held = [(1.0, items), *((jaccard, sessions[other]) for other, jaccard in overlaps)]
        wanted = sum(weight * torch.eye(8)[sorted(set(s))].mean(0) for weight, s in held) / sum(w for w, _ in held)
        torch.testing.assert_close(found[number], wanted)


def test_a_bank_seen_by_a_session_is_that_without_it():
    sessions = random_sessions(5, 12)
    columns = torch.tensor(sum(sessions, [])), torch.tensor([len(session) for session in sessions]), torch.arange(12)

    def neighbourhood(target, itself, others, overlap):
        return mean_by_overlap(itself, others, overlap)

    def reader(items, layout):
        return torch.zeros(len(layout.last), 10), torch.zeros(len(layout.last), 1)

    bank = OverlapBank(*columns, 10, 12, False)
    known = bank.intents(reader, neighbourhood, torch.eye(10))
    numbers = torch.arange(12).expand(12, -1)
    found = bank.seen_by(torch.arange(12), numbers, known, neighbourhood)
    for own in range(12):
        kept = [number for number in range(12) if number != own]
        items, lengths = torch.tensor(sum((sessions[i] for i in kept), [])), columns[1][kept]
        without = OverlapBank(items, lengths, torch.arange(11), 10, 12, False)
        wanted = without.intents(reader, neighbourhood, torch.eye(10)).vectors
        torch.testing.assert_close(found[own, kept], wanted)
    assert not torch.allclose(found, known.vectors.expand(12, -1, -1))


def test_sessions_of_a_bank_in_parts(monkeypatch):
    from recbole_diffusion.layers import overlap

    rows = padded(random_sessions(3))
    sets = SessionSets.of_rows(rows, 10)
    whole = nearest_of_each(sets, sets, 5)
    monkeypatch.setattr(overlap, "SESSIONS_AT_A_TIME", 7)
    for one, other in zip(whole, nearest_of_each(sets, sets, 5)):
        assert one.shape == (40, 5) and torch.equal(one, other)


def test_the_released_mean_is_of_itself_and_its_likes_almost_alike():
    vectors = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    directions = torch.nn.functional.normalize(vectors, dim=1)
    nearest = (directions @ directions.t()).topk(3).indices
    assert nearest[:, 0].tolist() == list(range(200))
    torch.testing.assert_close(similar_in_batch(vectors, 3), vectors[nearest].mean(1), atol=0.02, rtol=0)
    assert torch.equal(similar_in_batch(vectors[:1], 3), vectors[:1])  # a batch of one


# Nodes and the gated graph


def test_places_of_items():
    rows, lengths = padded([[5, 2, 5, 9, 2], [4], [1, 3]]), torch.tensor([5, 1, 2])
    layout = FineLayout(lengths)
    nodes = item_nodes(layout.pack(rows), layout)
    names = list(zip(nodes.row.tolist(), nodes.items[:, 0].tolist()))
    since, rank = (dict(zip(names, found(nodes, layout).tolist())) for found in (since_met, lambda n, _: rank_by_number(n)))
    assert since == {(0, 5): 2, (0, 2): 0, (0, 9): 1, (1, 4): 0, (2, 1): 1, (2, 3): 0}
    assert rank == {(0, 2): 0, (0, 5): 1, (0, 9): 2, (1, 4): 0, (2, 1): 0, (2, 3): 1}


def test_a_gated_graph_equals_sr_gnns_matrices():
    """Two maps in a row are one: those of SR-GNN's cell, multiplied, are the weights here."""
    torch.manual_seed(1)
    items, d = [3, 1, 3, 6, 2, 2], 4
    sr_in, sr_out, cell = torch.nn.Linear(d, d), torch.nn.Linear(d, d), torch.nn.GRUCell(2 * d, d)
    distinct = sorted(set(items))
    a = torch.zeros(4, 4)
    for before, behind in zip(items, items[1:]):
        a[distinct.index(before), distinct.index(behind)] = 1
    h = torch.randn(4, d)
    into, out = (matrix / matrix.sum(1, keepdim=True).clamp(min=1) for matrix in (a.t(), a))
    wanted = cell(torch.cat([into @ sr_in(h), out @ sr_out(h)], 1), h)

    layer, (of_in, of_out) = GatedGraph(d, 1), cell.weight_ih.split(d, 1)
    with torch.no_grad():
        biases = torch.stack([of_in @ sr_in.bias, of_out @ sr_out.bias], 1)
        layer.input.weight.copy_(torch.cat([of_in @ sr_in.weight, of_out @ sr_out.weight, biases], 1))
        layer.input.bias.copy_(cell.bias_ih)
        layer.state.weight.copy_(cell.weight_hh)
        layer.state.bias.copy_(cell.bias_hh)
    layout = FineLayout(torch.tensor([6]))
    nodes = item_nodes(torch.tensor(items), layout)
    order = torch.tensor([distinct.index(item) for item in nodes.items[:, 0].tolist()])
    torch.testing.assert_close(layer(h[order], transitions(nodes, layout)), wanted[order])


def test_further_steps_have_the_same_weights_and_none_changes_nothing():
    layout = FineLayout(torch.tensor([4]))
    nodes = item_nodes(torch.tensor([1, 2, 3, 2]), layout)
    x, edges, two = torch.randn(3, 4), transitions(nodes, layout), GatedGraph(4, 2)
    one = GatedGraph(4, 1)
    one.load_state_dict(two.state_dict())
    torch.testing.assert_close(two(x, edges), one(one(x, edges), edges))
    assert torch.equal(GatedGraph(4, 0)(x, edges), x) and not list(GatedGraph(4, 0).parameters())
