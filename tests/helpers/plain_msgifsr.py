"""MSGIFSR written plainly: one session, relation, node, head and granularity at a time, all probabilities in a matrix.

Its graph is made of dictionaries. It reads the weights and settings of a model, so that both compute the same numbers from
the same parameters. The fast version is checked against it (tests/model/test_msgifsr.py).
"""

import torch
import torch.nn.functional as F


def runs_of(session, k, short_sessions):
    """The different runs of k items of a session in their order: list of tuples, at least one."""
    found = list(dict.fromkeys(tuple(session[i : i + k]) for i in range(len(session) - k + 1)))
    return found or [(session[-1] if short_sessions == "last" else min(session),) * k]


def edges_of(session, n_granularities):
    """(number of the relation, start, end) of all edges, each once; a node is a tuple of items."""
    found = {}
    for k in range(1, n_granularities + 1):
        runs = [tuple(session[i : i + k]) for i in range(len(session) - k + 1)]
        for run, following in zip(runs, runs[1:]):
            found[(k, "within"), run, following] = k - 1
        if k > 1:
            for i in range(len(session) - k):
                found[(k, "up"), (session[i],), runs[i + 1]] = n_granularities
                found[(k, "down"), runs[i], (session[i + k],)] = n_granularities
    return [(kind, number, start, end) for (kind, start, end), number in found.items()]


def kinds_of(n_granularities):
    """(kind, number of the relation, length of the start, length of the end) of all kinds of edges."""
    found = [((k, "within"), k - 1, k, k) for k in range(1, n_granularities + 1)]
    for k in range(2, n_granularities + 1):
        found += [((k, "up"), n_granularities, 1, k), ((k, "down"), n_granularities, k, 1)]
    return found


def normalised(x):
    return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def vector_of(model, run):
    """A run as a vector [d] of length one."""
    table = model.item_embedding.weight
    table = normalised(table) if model.config["expander_input"] == "normalised" else table
    x = F.dropout(torch.stack([table[item] for item in run]), model.dropout.p, model.training)
    if len(run) == 1:
        return normalised(x[0])
    encoder = model.run_encoders[len(run) - 2]
    together = {"mean": lambda: x.mean(0), "max": lambda: x.amax(0), "concat": lambda: encoder.joined(x.flatten())}
    state = x.new_zeros(1, len(x[0]))
    given, kept = encoder.order.input, encoder.order.state
    for item in x:
        state = torch.gru_cell(item[None], state, given.weight, kept.weight, given.bias, kept.bias)
    return normalised(together[model.config["reducer"]]() / 2 + state[0] / 2)


def message(relation, f, node, sources, training):
    """What a node gets from the sources of its edges and from itself: [H, d]."""
    drop = lambda x: F.dropout(x, relation.hidden_dropout.p, training)  # noqa: E731
    own, heads = drop(f[node]), []
    for head, weight in enumerate(relation.weight):
        total = own + relation.bias[head]
        if sources:
            x = [weight @ drop(f[source]) for source in sources]
            logits = torch.stack([relation.source[head] @ one + relation.target[head] @ (weight @ own) for one in x])
            attention = F.dropout(F.leaky_relu(logits, 0.2).softmax(0), relation.attn_dropout.p, training)
            total = total + sum(a * one for a, one in zip(attention, x))
        heads.append(total)
    return torch.stack(heads)


def units(model, session, present):
    """Vectors of all units after the graph: dict of tuples -> [d], and the nodes of each granularity.

    Args:
        present (set): kinds of edges that some session of the batch has.
    """
    config = model.config
    n_granularities = config["n_granularities"]
    nodes = [runs_of(session, k, config["short_sessions"]) for k in range(1, n_granularities + 1)]
    f = {run: vector_of(model, run) for runs in nodes for run in runs}
    got = {run: f[run].new_zeros(1, len(f[run])) for run in f}
    for kind, number, from_k, to_k in kinds_of(n_granularities):
        if config["relation_residual"] == "if_present" and kind not in present:
            continue
        edges = [(start, end) for name, _, start, end in edges_of(session, n_granularities) if name == kind]
        for node in nodes[to_k - 1]:
            sources = [start for start, end in edges if end == node]
            got[node] = got[node] + message(model.graph.along[number], f, node, sources, model.training)
        for node in nodes[from_k - 1]:
            sources = [end for start, end in edges if start == node]
            got[node] = got[node] + message(model.graph.against[number], f, node, sources, model.training)
    h = {}
    for runs in nodes:
        mean = sum(f[run] for run in runs) / len(runs)
        h.update({run: normalised(got[run].amax(0) + mean) for run in runs})
    return h, nodes


def session_view(readout, h, last):
    """The session as one granularity sees it: [d] of length one."""
    logits = [readout.weight((readout.node(x) + readout.last(h[last])).sigmoid()) for x in h.values()]
    weights = torch.stack(logits).softmax(0)
    return normalised(readout.output(torch.cat([h[last], sum(a * x for a, x in zip(weights, h.values()))])))


def probabilities(model, session, present):
    """Of all items but padding: [V - 1]."""
    config, head = model.config, model.head
    h, nodes = units(model, session, present)
    table = normalised(model.item_embedding.weight[1:])
    weights = [1.0] if head.view is None else head.view.softmax(0)
    inside = torch.zeros(len(table), dtype=torch.bool)
    inside[torch.tensor(session) - 1] = True
    total = 0
    for k, (weight, readout) in enumerate(zip(weights, model.readouts), 1):
        last = tuple(session[-k:]) if len(session) >= k else nodes[k - 1][0]
        view = session_view(readout, h, last)
        odds = (config["scale"] * table @ view).exp()
        if config["repeat_split"]:
            repeat, explore = head.habit(view).softmax(0)
            within = repeat * odds * inside / odds[inside].sum()
            total = total + weight * (within + explore * odds * ~inside / odds[~inside].sum())
        else:
            total = total + weight * odds / odds.sum()
    return total


def scores(model, item_seq, lengths):
    """Log probabilities of all items but padding: [B, V - 1]."""
    sessions = [row[:n] for row, n in zip(item_seq.tolist(), lengths.tolist())]
    present = {kind for session in sessions for kind, *_ in edges_of(session, model.config["n_granularities"])}
    return torch.stack([probabilities(model, session, present) for session in sessions]).log()


def loss(model, item_seq, lengths, target):
    """Mean negative log probability of the targets: []."""
    return -scores(model, item_seq, lengths)[torch.arange(len(target)), target - 1].mean()
