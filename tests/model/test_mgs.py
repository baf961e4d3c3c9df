"""MGS: fast equals plain in value and gradient, known values, mates that do not change, and what may not move its scores."""

import plain_mgs as plain
import pytest
import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction

from recbole_diffusion.errors import UsageError
from recbole_diffusion.layers.attributes import AttributeGroups
from recbole_diffusion.model.mgs import MGS
from recbole_diffusion.serving.export import padded_scorer
from recbole_diffusion.testing import make_config

N_ITEMS = 40
# so odd that a missing factor shows
SMALL = {
    "hidden_size": 12,
    "hidden_dropout_prob": 0.0,
    "attribute_dropout": 0.0,
    "n_mates": 4,
    "ssl_weight": 0.83,
    "tau": 0.7,
}
SWITCHES = [
    {},
    {"attribute": "category,brand", "mu": 0.5},
    {"attribute": "none"},
    {"attribute": "none", "n_rounds": 1, "mu": 1.2},
    {"n_rounds": 3, "ssl_reduction": "sum", "ssl_padding": True},
    {"n_mates": 50, "eval_neighbours": "keyed"},  # all mates in every sample
]


def attributes(choice, n_items=N_ITEMS):
    """Of the items but the last five, two or one each of six categories, and one of three brands of every second item."""
    random = torch.Generator().manual_seed(5)
    pairs = {(i, v) for i in range(1, n_items - 4) for v in torch.randint(6, (2,), generator=random).tolist()}
    pairs |= {(n_items - 4, 6), (n_items - 3, 7), (n_items - 2, 7)}  # one without a mate, a pair
    category = tuple(torch.tensor(column) for column in zip(*sorted(pairs)))
    items = torch.arange(1, n_items, 2)
    found = {"category": category, "brand": (items, items % 3)}
    return {name: found[name] for name in choice.replace("auto", "category").split(",") if name != "none"}


def build(**settings):
    class FakeData:
        """As much of a data set as a model asks for."""

        def num(self, field):
            return N_ITEMS + 1

        def item_attributes(self, choice):
            return attributes(choice)

    torch.manual_seed(3)
    return MGS(make_config("MGS", "unused", MAX_ITEM_LIST_LENGTH=12, **{**SMALL, **settings}), FakeData())


def batch(seed=0, rows=9, width=9):
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, width + 1, (rows,), generator=random)
    items = torch.randint(1, N_ITEMS + 1, (rows, width), generator=random)
    items[::2, 3:6] = items[::2, :3]  # items that come again
    items[1::3, 1] = items[1::3, 0]
    target = torch.randint(1, N_ITEMS + 1, (rows,), generator=random)
    return items * (torch.arange(width) < lengths[:, None]), lengths, target


def scores(model, items, lengths):
    with torch.no_grad():
        return model.full_sort_predict(Interaction({"item_id_list": items, "item_length": lengths}))[:, 1:]


def recorded_draws(monkeypatch):
    """Mates of every call of :meth:`AttributeGroups.draw`, in their order."""
    calls, original = [], AttributeGroups.draw

    def draw(groups, items, *arguments):
        calls.append((items, original(groups, items, *arguments)))
        return calls[-1][1]

    monkeypatch.setattr(AttributeGroups, "draw", draw)
    return calls


def by_row_and_item(model, calls, rows):
    """What was drawn, as the plain version asks for it."""
    found = {}
    for items, mates in calls:
        for node, (row, item) in enumerate(zip(rows, items.tolist())):
            pairs = zip(mates.items[node].tolist(), mates.log_share[node].exp().tolist())
            found.setdefault((row, item), []).append([[(m, s) for m, s in zip(*pair) if s] for pair in pairs])
    return lambda row, item: found[row, item]


@pytest.mark.parametrize("settings", SWITCHES)
def test_fast_equals_one_session_at_a_time_in_values_and_gradients(settings, monkeypatch):
    model, data, found = build(**settings).double(), batch(), []
    calls, rows = recorded_draws(monkeypatch), []
    original = type(model).sessions
    monkeypatch.setattr(
        type(model),
        "sessions",
        lambda self, graph, m: rows.extend(graph.nodes.row.tolist()) or original(self, graph, m),
    )
    fast = model.loss_parts(*data)
    slow = plain.loss_parts(model, *data, by_row_and_item(model, calls, rows))
    assert list(fast) == list(slow) == ["recommendation", "mirrors"][: 1 + (settings.get("attribute") != "none")]
    for parts in (fast, slow):
        model.zero_grad()
        sum(parts.values()).backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name in fast:
        torch.testing.assert_close(fast[name], slow[name], msg=name)
    for name, gradient in found[1].items():
        assert gradient.abs().sum() > 0, name
        torch.testing.assert_close(found[0][name], gradient, atol=1e-9, rtol=1e-7, msg=name)


@pytest.mark.parametrize("settings", SWITCHES)
def test_scores_equal_plain_ones_with_all_mates(settings):
    model, (items, lengths, _) = build(**settings).double().eval(), batch()
    with torch.no_grad():
        torch.testing.assert_close(scores(model, items, lengths), plain.scores(model, items, lengths))


# What is known


def test_without_attributes_it_is_the_local_part_of_gce_gnn():
    """Its aggregator as it was published: products of all pairs, four vectors, a choice by the codes, a softmax."""
    model, (items, lengths, _) = build(attribute="none", n_rounds=1).double(), batch()
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {
        "item_embedding",
        "neighbours",
        "highway",
        "readout",
    }
    seen, original = [], type(model.neighbours[0]).forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model.neighbours[0]), "forward", lambda *x: seen.append((x[1], original(*x))) or seen[-1][1])
        model.encode(items, lengths)
    (x, found), start = seen[0], 0
    order = lengths.new_tensor([len(set(row)) for row in plain.histories(items, lengths)]).argsort(stable=True)
    for row in order.tolist():  # sessions stand by the number of their items
        code = torch.tensor(plain.codes(items[row, : lengths[row]].tolist()))
        h = x[start : start + len(code)]
        products = (h.unsqueeze(1) * h.unsqueeze(0)) @ model.neighbours[0].weight.t()
        e = F.leaky_relu(products, 0.2).gather(-1, (code - 1).clamp(min=0).unsqueeze(-1)).squeeze(-1)
        alpha = e.masked_fill(code == 0, -9e15).softmax(-1)
        torch.testing.assert_close(found[start : start + len(code)], alpha @ h)
        start += len(code)
    assert start == len(x)


def test_an_item_without_mates_is_what_it_is_without_attributes():
    """Items 36, alone in its category, and 39 and 40, without any."""
    model, bare = build().double().eval(), build(attribute="none").double().eval()
    bare.load_state_dict(model.state_dict(), strict=False)
    items, lengths = torch.tensor([[36, 39, 36, 40], [36, 39, 1, 40]]), torch.tensor([4, 4])
    same = (scores(model, items, lengths) - scores(bare, items, lengths)).abs().amax(1) < 1e-12
    assert same.tolist() == [True, False]


def test_a_session_of_items_without_mates_teaches_mirrors_nothing():
    model = build(n_mates=50)  # all mates, so that nothing is drawn
    items, lengths, target = torch.tensor([[36, 39, 40]]), torch.tensor([3]), torch.tensor([1])
    assert model.loss_parts(items, lengths, target)["mirrors"] == 0
    both = torch.tensor([[36, 39, 40], [1, 2, 3]]), torch.tensor([3, 3]), torch.tensor([1, 1])
    half, alone = model.loss_parts(*both)["mirrors"], model.loss_parts(*(part[1:] for part in both))["mirrors"]
    torch.testing.assert_close(half, alone / 2)  # the mean over sessions


# What may not move scores


@pytest.mark.parametrize("settings", SWITCHES)
def test_scores_depend_on_nothing_but_the_session(settings):
    model = build(**settings).double().eval()
    items, lengths, _ = batch(rows=30)
    together = scores(model, items, lengths)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(scores(model, items[order], lengths[order]), together[order])
    alone = torch.cat([scores(model, items[i : i + 1, : lengths[i]], lengths[i : i + 1]) for i in range(30)])
    torch.testing.assert_close(alone, together)
    with torch.no_grad():
        model.train().item_embedding.weight[0] = 7.0  # what stands in the row of padding
    torch.testing.assert_close(scores(model.eval(), items, lengths), together)
    assert torch.equal(scores(model, items, lengths), scores(model, items, lengths))


@pytest.mark.parametrize("settings", [{}, {"attribute": "category,brand"}, {"attribute": "none"}])
def test_renumbered_items_have_renumbered_scores(settings, monkeypatch):
    model, (items, lengths, _) = build(**settings).double().eval(), batch()
    before = scores(model, items, lengths)
    number = torch.cat([torch.zeros(1, dtype=torch.long), torch.randperm(N_ITEMS) + 1])
    moved = {name: (number[found], values) for name, (found, values) in model.item_attributes.items()}
    monkeypatch.setitem(globals(), "attributes", lambda _: moved)
    other = build(**settings).double()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other.item_embedding.weight[number] = model.item_embedding.weight.clone()
    torch.testing.assert_close(scores(other.eval(), number[items], lengths)[:, number[1:] - 1], before)


def test_only_the_released_evaluation_draws_mates_again(caplog):
    items, lengths, _ = batch()
    for how in ("all", "keyed", "random"):
        model = build(eval_neighbours=how).eval()
        first = scores(model, items, lengths)
        model.train()  # forgets what it kept
        torch.rand(5)
        assert torch.equal(first, scores(model.eval(), items, lengths)) == (how != "random"), how
    assert "random draws mates in evaluations too" in caplog.text
    caplog.clear()
    model = build(eval_neighbours="random", attribute="none").eval()
    assert torch.equal(scores(model, items, lengths), scores(model, items, lengths)) and not caplog.text


def test_keyed_samples_are_not_all_mates():
    items, lengths, _ = batch()
    every, keyed = (build(eval_neighbours=how).eval() for how in ("all", "keyed"))
    assert not torch.allclose(scores(every, items, lengths), scores(keyed, items, lengths))


def test_mirrors_are_made_once_an_evaluation_and_follow_the_weights(monkeypatch):
    from recbole_diffusion.model.mgs import Mirrors

    model, (items, lengths, target), calls, original = build(), batch(), [], Mirrors.whole
    monkeypatch.setattr(Mirrors, "whole", lambda *x: calls.append(1) or original(*x))
    model.eval()
    before = [scores(model, items, lengths) for _ in range(3)][0]
    assert len(calls) == 1
    sum(model.train().loss_parts(items, lengths, target).values()).backward()
    assert len(calls) == 1  # training draws
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert not torch.allclose(scores(model.eval(), items, lengths), before)


# The loss without labels


def test_only_the_released_loss_counts_padding():
    """Another session with more items, whose padding the released loss counts, moves what it says of the first one."""
    short = torch.tensor([[1, 2, 3, 0, 0, 0, 0]]), torch.tensor([3]), torch.tensor([4])
    long = torch.tensor([[11, 12, 13, 14, 15, 16, 17]]), torch.tensor([7]), torch.tensor([4])
    both = tuple(torch.cat(pair) for pair in zip(short, long))
    for padding in (False, True):
        model = build(ssl_padding=padding, n_mates=50).double()  # all mates, so that nothing is drawn
        one, other, mean = (model.loss_parts(*data)["mirrors"] for data in (short, long, both))
        assert torch.isclose(mean, (one + other) / 2) == (not padding)
    assert (build(ssl_padding=True).item_embedding.weight[0] != 0).all()  # padding has a vector to learn
    assert not build().item_embedding.weight[0].any()


def test_what_the_reductions_are():
    data = torch.tensor([[1, 2, 3, 1]]), torch.tensor([4]), torch.tensor([4])
    mean, total = (build(ssl_reduction=how, n_mates=50).loss_parts(*data)["mirrors"] for how in ("mean", "sum"))
    torch.testing.assert_close(total, 3 * mean)
    assert list(build(ssl_weight=0).loss_parts(*data)) == ["recommendation"]


def test_each_dropout_moves_the_loss():
    for name in ("hidden_dropout_prob", "attribute_dropout"):
        model, data = build(attribute="category,brand", n_mates=50, **{name: 0.5}), batch()
        assert len({sum(model.loss_parts(*data).values()).item() for _ in range(2)}) == 2, name


def test_mates_are_drawn_anew_for_every_node_of_a_training_step():
    model, data = build(n_mates=2), batch()
    losses = {model.loss_parts(*data)["mirrors"].item() for _ in range(3)}
    assert len(losses) == 3
    model = build(n_mates=50)
    assert len({model.loss_parts(*data)["mirrors"].item() for _ in range(3)}) == 1


def test_half_precision_changes_little():
    model, (items, lengths, _) = build(hidden_size=64).eval(), batch()
    with torch.no_grad():
        exact = model.encode(items, lengths)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = model.encode(items, lengths)
    torch.testing.assert_close(half.float(), exact, atol=0.02, rtol=0.05)


def test_a_model_that_draws_in_evaluations_is_not_exported():
    with pytest.raises(UsageError, match="eval_neighbours: random draws anew for every history"):
        padded_scorer(build(eval_neighbours="random"))
