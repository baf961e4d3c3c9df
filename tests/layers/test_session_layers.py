"""Layers of session-based models: sparse equals dense, split equals concatenated, a bank searched in parts."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recbole_diffusion.diffusion.step_embedding import StepEmbedding
from recbole_diffusion.layers.contrastive import alignment_loss
from recbole_diffusion.layers.graph import GraphPropagation, ItemGraph, edge_counts, item_graph
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.retrieval import ConcatenationScorer, CosineScorer, TwoTowerScorer, feedback_loss
from recbole_diffusion.layers.sessions import ConditionalDenoiser, SessionAttention

# Graph


def test_cooccurrence_counts_pairs_both_ways_and_rows_sum_to_one():
    graph = item_graph(edge_counts(np.array([1, 2, 3, 1, 2]), np.array([3, 2]), 5, "cooccurrence")).toarray()
    wanted = np.zeros((5, 5))
    wanted[1, [2, 3]], wanted[2, [1, 3]], wanted[3, [1, 2]] = (2 / 3, 1 / 3), (2 / 3, 1 / 3), (1 / 2, 1 / 2)
    np.testing.assert_allclose(graph, wanted, rtol=1e-6)


def test_transitions_have_a_direction_and_do_not_join_sessions():
    graph = item_graph(edge_counts(np.array([1, 2, 3, 1, 3]), np.array([3, 2]), 4, "transitions")).toarray()
    np.testing.assert_allclose(graph[1], [0, 0, 0.5, 0.5])
    np.testing.assert_allclose(graph[2], [0, 0, 0, 1])
    assert graph[3].sum() == 0


@pytest.mark.parametrize("form", ["mean", "residual"])
def test_sparse_propagation_equals_dense_in_value_and_gradient(form):
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    graph = item_graph(edge_counts(random.integers(1, 30, 200), np.full(50, 4), 30, "cooccurrence"))
    layer, dense = GraphPropagation(3, 8, form, 0.0), torch.tensor(graph.toarray())
    graph = ItemGraph(graph)
    x = torch.randn(30, 8, requires_grad=True)
    wanted, layers = x, [x]
    for step in range(3):
        if form == "residual":
            wanted = wanted + dense @ wanted
        else:
            layers.append(F.normalize((dense @ layers[-1]) @ layer.weights[step].weight.t(), dim=-1))
    wanted = wanted if form == "residual" else torch.stack(layers).mean(0)
    torch.testing.assert_close(layer(x, graph), wanted, atol=1e-5, rtol=1e-5)
    target = torch.randn(30, 8)
    inputs = [x, *layer.parameters()]
    for a, b in zip(torch.autograd.grad((layer(x, graph) * target).sum(), inputs), torch.autograd.grad((wanted * target).sum(), inputs)):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", ["mean", "residual"])
def test_propagation_is_not_computed_in_half_precision(form):
    """The padding item has the vector 0, whose length would be divided by 0 in fp16."""
    torch.manual_seed(0)
    graph = item_graph(edge_counts(np.array([1, 2, 3, 1, 3]), np.array([3, 2]), 5, "cooccurrence"))
    layer, graph = GraphPropagation(2, 8, form, 0.0), ItemGraph(graph)
    x = torch.randn(5, 8, requires_grad=True)
    inputs = [x, *layer.parameters()]
    expected = torch.autograd.grad(layer(x, graph)[1:].sum(), inputs)
    with torch.autocast("cpu", torch.float16):
        total = layer(x, graph)[1:].sum()
    found = torch.autograd.grad(total, inputs)
    assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(found, expected))


# Sessions, scorers, denoiser


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("gate", ["scalar", "vector"])
def test_session_attention_is_its_formula(gate, bias):
    torch.manual_seed(0)
    layer, lengths = SessionAttention(6, gate, bias), torch.tensor([3, 1, 2])
    plus = layer.weight.bias if bias else 0.0
    assert (layer.weight.bias is not None) == bias
    layout, rows = PackedLayout(lengths), torch.randn(3, 3, 6)
    found = layer(layout.pack(rows), layout)
    for b, n in enumerate(lengths.tolist()):
        gates = (layer.last(rows[b, n - 1]) + layer.item(rows[b, :n])).sigmoid() @ layer.weight.weight.t() + plus
        torch.testing.assert_close(found[b], (gates * rows[b, :n]).sum(0), atol=1e-5, rtol=1e-5)


def test_split_scorer_equals_the_concatenated_one():
    torch.manual_seed(0)
    scorer, queries, bank = ConcatenationScorer(10), torch.randn(4, 10), torch.randn(300, 10)
    joined = torch.cat([queries[:, None].expand(-1, 300, -1), bank.expand(4, -1, -1)], -1)
    first = torch.cat([scorer.query.weight, scorer.session.weight], 1)
    wanted = scorer.output((joined @ first.t() + scorer.query.bias).relu()).squeeze(-1)
    found = scorer.scores(scorer.project(queries), scorer.index(bank))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scorer.pairs(queries, bank[:12].view(4, 3, 10)), wanted[:, :12].view(4, 4, 3)[range(4), range(4)])


@pytest.mark.parametrize("make", [lambda: TwoTowerScorer(10, 0.0), lambda: CosineScorer(10, 0.0, 0.3)], ids=["towers", "cosine"])
def test_two_towers_score_pairs_as_they_score_the_bank(make):
    scorer, queries, bank = make(), torch.randn(4, 10), torch.randn(9, 10)
    found = scorer.scores(scorer.project(queries), scorer.index(bank))
    torch.testing.assert_close(scorer.pairs(queries, bank.expand(4, -1, -1)), found, atol=1e-5, rtol=1e-5)


def test_a_cosine_has_no_hubs():
    torch.manual_seed(0)
    scorer, queries, bank = CosineScorer(16, 0.0, 0.3), torch.randn(50, 16), torch.randn(500, 16)
    bank[0] *= 100  # under an inner product nearest to whoever is not opposite to it
    scores = scorer.scores(scorer.project(queries), scorer.index(bank))
    assert scores.abs().max() <= 1 / 0.3 + 1e-4 and (scores.argmax(1) == 0).float().mean() < 0.1
    assert torch.equal(scorer.nearest(queries, scorer.index(bank), 1)[:, 0], scores.argmax(1))


MAKERS = {
    "towers": lambda: TwoTowerScorer(16, 0.0),
    "cosine": lambda: CosineScorer(16, 0.0, 0.3),
    "joined": lambda: ConcatenationScorer(16),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_bank_searched_in_parts_gives_the_nearest_of_all_but_the_excluded(make, monkeypatch):
    monkeypatch.setattr("recbole_diffusion.layers.retrieval.SESSIONS_AT_A_TIME", 7)
    torch.manual_seed(0)
    scorer, queries, bank = make(), torch.randn(5, 16), torch.randn(20, 16)  # parts of 7, 7 and 6
    index, own = scorer.index(bank), torch.tensor([0, 6, 7, 13, 19])
    scores = scorer.scores(scorer.project(queries), index)
    assert torch.equal(scorer.nearest(queries, index, 4), scores.topk(4).indices)
    assert torch.equal(scorer.nearest(queries, index, 8), scores.topk(8).indices)  # more than a part holds
    scores[range(5), own] = -torch.inf
    assert torch.equal(scorer.nearest(queries, index, 4, own), scores.topk(4).indices)


def test_split_denoiser_equals_the_concatenated_one():
    torch.manual_seed(0)
    network = ConditionalDenoiser(6, StepEmbedding(8, 6), 0.0)
    x, t, condition = torch.randn(5, 1, 6), torch.tensor([0, 7, 3, 2, 2]), torch.randn(5, 3, 6)
    joined = torch.cat([x.expand(-1, 3, -1), network.step_embedding()[t][:, None].expand(-1, 3, -1), condition], -1)
    first = torch.cat([network.state.weight, network.time.weight, network.condition.weight], 1)
    wanted = network.output((joined @ first.t() + network.state.bias).tanh())
    torch.testing.assert_close(network(x, t.unsqueeze(1), network.prepare(condition)), wanted, atol=1e-5, rtol=1e-5)


# Losses


def test_feedback_pushes_up_the_neighbours_that_help():
    """Gradient of the retriever's logits: w_j (L_j - sum w L), and pairs in the order of their losses."""
    error = torch.tensor([[0.1, 0.5, 0.9]])
    for form in ("weighted", "ranking"):
        similarity = torch.zeros(1, 3, requires_grad=True)
        weight = similarity.softmax(-1)
        (gradient,) = torch.autograd.grad(feedback_loss(similarity, weight, error, form), similarity)
        assert gradient[0, 0] < 0 < gradient[0, 2] and gradient.sum().abs() < 1e-6
        if form == "weighted":
            wanted = (weight * (error - (weight * error).sum())).detach()
            torch.testing.assert_close(gradient, wanted)


def test_alignment_on_a_sample_is_an_unbiased_share_of_the_whole():
    torch.manual_seed(0)
    ids, looks = torch.randn(13, 16), torch.randn(13, 16)
    whole = alignment_loss(ids, looks, 0.3)
    logits = F.normalize(ids[1:], dim=-1) @ F.normalize(looks[1:], dim=-1).t() / 0.3
    torch.testing.assert_close(whole, F.cross_entropy(logits, torch.arange(12)))
    mean = torch.stack([alignment_loss(ids, looks, 0.3, 4) for _ in range(600)]).mean()
    torch.testing.assert_close(mean, whole, atol=0.05, rtol=0)
