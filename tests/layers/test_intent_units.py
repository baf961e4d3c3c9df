"""Layers of intent units: what can be computed by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from recbole_diffusion.layers.intent_units import (
    LastState,
    Relation,
    RunEncoder,
    UnitGraph,
    UnitReadout,
    mean_of_session,
)
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.session_graph import Edges, runs_of_items
from recbole_diffusion.layers.sessions import log_softmax_within, softmax_within

D, HEADS = 4, 3


def drawn(module, seed=0):
    """The module with random weights in double precision."""
    torch.manual_seed(seed)
    for parameter in module.double().parameters():
        nn.init.normal_(parameter)
    return module


def vectors(n, seed=1):
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def relation():
    return drawn(Relation(D, HEADS, 0.0, 0.0))


def test_attention_with_zero_vectors_is_the_mean_of_the_sources():
    layer, f = relation(), vectors(5)
    with torch.no_grad():
        layer.source.zero_()
        layer.target.zero_()
        found = layer(f, f, Edges(torch.tensor([0, 1, 2, 3]), torch.tensor([4, 4, 4, 0])))
        means = torch.zeros(5, D).double()
        means[4], means[0] = f[:3].mean(0), f[3]
        for head in range(HEADS):
            torch.testing.assert_close(found[:, head], means @ layer.weight[head].t() + f + layer.bias[head])


def test_a_node_without_edges_keeps_itself_and_the_bias():
    layer, f = relation(), vectors(3)
    none = torch.empty(0, dtype=torch.long)
    torch.testing.assert_close(layer(f, f, Edges(none, none)), f.unsqueeze(1) + layer.bias)


def test_attention_prefers_as_its_equation_says():
    layer, f, g = relation(), vectors(2), vectors(1, seed=2)
    found = layer(f, g, Edges(torch.tensor([0, 1]), torch.tensor([0, 0])))
    for head, weight in enumerate(layer.weight):
        x, own = f @ weight.t(), weight @ g[0]
        logits = F.leaky_relu(x @ layer.source[head] + layer.target[head] @ own, 0.2)
        torch.testing.assert_close(found[0, head], logits.softmax(0) @ x + g[0] + layer.bias[head])


def test_the_last_state_is_that_of_a_gru():
    layer, gru, x = drawn(LastState(D)), nn.GRU(D, D, batch_first=True).double(), vectors(6).unflatten(0, (2, 3))
    parts = (layer.input.weight, layer.state.weight, layer.input.bias, layer.state.bias)
    with torch.no_grad():
        for own, known in zip(gru.parameters(), parts):
            own.copy_(known)
    torch.testing.assert_close(layer(x), gru(x)[1][0])


@pytest.mark.parametrize("reducer", ["mean", "max", "concat"])
def test_a_run_is_half_a_set_and_half_a_sequence(reducer):
    encoder, x = drawn(RunEncoder(D, 3, reducer)), vectors(6).unflatten(0, (2, 3))
    together = {"mean": x.mean(1), "max": x.amax(1)}.get(reducer)
    together = encoder.joined(x.flatten(1)) if together is None else together
    torch.testing.assert_close(encoder(x), (together + encoder.order(x)) / 2)
    swapped = encoder(x.flip(1)) - encoder(x)
    assert swapped.abs().amin() > 0


def test_units_have_length_one_and_the_mean_of_their_session():
    items = torch.tensor([[1, 2, 1, 3], [5, 0, 0, 0]])
    layout = PackedLayout(torch.tensor([4, 1]))
    runs = runs_of_items(layout.pack(items), layout, 2)
    units = [vectors(len(nodes.row), seed=k) for k, nodes in enumerate(runs)]
    graph = drawn(UnitGraph(2, D, HEADS, 0.0, 0.0, "always"))
    for x in graph(units, runs, layout):
        torch.testing.assert_close(x.norm(dim=1), torch.ones(len(x)).double())
    with torch.no_grad():
        for parameter in graph.parameters():
            parameter.zero_()
    residuals = 4  # of two relations that reach a granularity, along and against their edges
    for new, x, nodes in zip(graph(units, runs, layout), units, runs):
        wanted = residuals * x + mean_of_session(x, nodes.row, 2)
        torch.testing.assert_close(new, F.normalize(wanted, dim=1))


def test_means_of_sessions():
    row, x = torch.tensor([1, 0, 1]), vectors(3)
    wanted = torch.stack([(x[0] + x[2]) / 2, x[1], (x[0] + x[2]) / 2])
    torch.testing.assert_close(mean_of_session(x, row, 2), wanted)


def test_readout_equals_its_equation():
    readout, nodes, last = drawn(UnitReadout(D)), vectors(5), vectors(2, seed=3)
    row = torch.tensor([0, 0, 1, 0, 1])
    for b in range(2):
        own = nodes[row == b]
        a = readout.weight((readout.node(own) + readout.last(last[b])).sigmoid()).softmax(0)
        wanted = F.normalize(readout.output(torch.cat([last[b], (a * own).sum(0)])), dim=0)
        torch.testing.assert_close(readout(nodes, row, last)[b], wanted)


def test_logarithms_of_a_softmax_within_groups_do_not_underflow():
    group, logits = torch.tensor([2, 0, 2, 3, 0, 2]), torch.randn(6, 3)
    torch.testing.assert_close(log_softmax_within(logits, group, 5).exp(), softmax_within(logits, group, 5))
    found = log_softmax_within(torch.tensor([[0.0], [-500.0]]), torch.tensor([1, 1]), 3)
    torch.testing.assert_close(found, torch.tensor([[0.0], [-500.0]]))
