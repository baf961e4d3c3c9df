"""MSGIFSR: fast equals plain in value and gradient, known values, and what may not move its scores."""

import plain_msgifsr as plain
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_diffusion.cli import main
from recbole_diffusion.layers import chunks
from recbole_diffusion.model.msgifsr import MSGIFSR
from recbole_diffusion.testing import make_config

N_ITEMS = 40
SMALL = {"hidden_size": 16, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
RELEASED = {"relation_residual": "if_present", "short_sessions": "min_id", "expander_input": "raw"}
SWITCHES = [
    {},
    {"n_granularities": 1, "graph_heads": 1},
    {"n_granularities": 3, "reducer": "max"},
    {"n_granularities": 4, "reducer": "concat", "graph_heads": 3},
    {"fusion": False, "expander_input": "raw"},
    {"repeat_split": False},
    {"n_granularities": 1, "repeat_split": False, "fusion": False},
    {"short_sessions": "min_id", "scale": 5.0},
    {"relation_residual": "if_present"},
    {"n_granularities": 3, **RELEASED},
]


def build(n_items=N_ITEMS, **settings):
    class FakeData:
        """As much of a data set as a model asks for."""

        def num(self, field):
            return n_items + 1

    torch.manual_seed(3)
    return MSGIFSR(make_config("MSGIFSR", "unused", **{**SMALL, **settings}), FakeData())


def batch(seed=0, rows=9, width=12):
    """Sessions of eight items or of two, whose runs repeat; every other session holds its target."""
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, width + 1, (rows,), generator=random)
    lengths[:6] = torch.tensor([1, 2, width, 3, 4, width])
    items = torch.randint(8, (rows, width), generator=random)
    items[2::3] %= 2
    items = (items + 7 * torch.arange(rows)[:, None]) % N_ITEMS + 1
    target = torch.randint(1, N_ITEMS + 1, (rows,), generator=random)
    target[::2] = items[::2, 0]
    return items * (torch.arange(width) < lengths[:, None]), lengths, target


def padded(*sessions):
    rows = torch.nn.utils.rnn.pad_sequence([torch.tensor(session) for session in sessions], batch_first=True)
    return rows, torch.tensor([len(session) for session in sessions])


def scores(model, items, lengths):
    with torch.no_grad():
        return model.full_sort_predict(Interaction({"item_id_list": items, "item_length": lengths}))[:, 1:]


def random_views(model):
    """The weights of all granularities set apart, so that each one counts."""
    if model.head.view is not None:
        with torch.no_grad():
            model.head.view.copy_(torch.linspace(-0.5, 0.5, len(model.head.view)))
    return model


@pytest.mark.parametrize("settings", SWITCHES)
def test_fast_equals_one_session_at_a_time_in_values_and_gradients(settings):
    model, data, found = random_views(build(**settings)).double(), batch(), []
    for loss in (model.loss_parts(*data)["recommendation"], plain.loss(model, *data)):
        model.zero_grad()
        loss.backward()
        found.append((loss, {name: p.grad.clone() for name, p in model.named_parameters()}))
    (fast, fast_gradients), (slow, slow_gradients) = found
    torch.testing.assert_close(fast, slow)
    for name, gradient in slow_gradients.items():
        assert gradient.abs().sum() > 0, name
        torch.testing.assert_close(fast_gradients[name], gradient, atol=1e-9, rtol=1e-7, msg=name)
    with torch.no_grad():
        torch.testing.assert_close(scores(model.eval(), *data[:2]), plain.scores(model, *data[:2]))


# Known values


def fill(parameter, c, o):
    with torch.no_grad():
        numbers = torch.arange(1, parameter.numel() + 1, dtype=torch.float64) + o
        parameter.copy_((c * torch.sin(numbers)).view(parameter.shape))


def golden(n_granularities):
    """Weights that anybody can write down, V = 9, d = 16."""
    sizes = {"n_granularities": n_granularities, "graph_heads": 8, "short_sessions": "min_id", "expander_input": "raw"}
    model, s = build(n_items=8, **sizes).double().eval(), 0.25
    fill(model.item_embedding.weight, 0.5, 0)
    for way, relations in enumerate((model.graph.along, model.graph.against)):
        for number, relation in enumerate(relations):
            fill(relation.weight, s, number + 10 * way)
            fill(relation.source, s, number + 1)
            fill(relation.target, s, number + 2)
            fill(relation.bias, 0.1, number + 3)
    for k, encoder in enumerate(model.run_encoders, 2):
        given, kept = encoder.order.input, encoder.order.state
        for j, parameter in enumerate((given.weight, kept.weight, given.bias, kept.bias)):
            fill(parameter, s, j + k)
    for k, readout in enumerate(model.readouts):
        fill(readout.node.weight, s, 20 + k)
        fill(readout.node.bias, 0.1, 21 + k)
        fill(readout.last.weight, s, 22 + k)
        fill(readout.weight.weight, s, 23 + k)
        fill(readout.output.weight, s, 30 + k)
    fill(model.head.habit[0].weight, s, 40)
    fill(model.head.habit[0].bias, 0.1, 41)
    fill(model.head.habit[2].weight, s, 42)
    return model


KNOWN_SESSIONS = padded([3, 1, 3, 6, 2, 5, 1, 2, 4, 1, 2], [7, 7, 7, 7, 3, 1, 2, 4, 1], [5], [2, 4])
KNOWN = {
    1: {
        0: [0.09491, 0.05703, 0.13106, 0.04426, 0.15461, 0.04156, 0.35838, 0.11819],
        2: [0.04966, 0.09048, 0.06647, 0.06600, 0.52036, 0.04932, 0.11614, 0.04157],
    },
    2: {0: [0.08656, 0.06872, 0.10973, 0.06784, 0.12278, 0.06616, 0.29409, 0.18413]},
    3: {
        0: [0.08184, 0.08080, 0.09827, 0.07898, 0.10710, 0.07424, 0.27624, 0.20254],
        2: [0.03043, 0.12313, 0.03115, 0.10864, 0.51701, 0.07929, 0.05800, 0.05237],
    },
}
KNOWN_LOGARITHMS = {
    1: [-1.02616, -1.58421, -3.00246, -2.91755],
    2: [-1.22389, -1.72705, -3.33882, -2.94666],
    3: [-1.28648, -1.74559, -3.49247, -3.14174],
}


@pytest.mark.parametrize("n_granularities", KNOWN)
def test_golden_probabilities(n_granularities):
    model, target = golden(n_granularities), torch.tensor([7, 8, 1, 6])
    found = scores(model, *KNOWN_SESSIONS)
    for row, known in KNOWN[n_granularities].items():
        torch.testing.assert_close(found[row].exp(), torch.tensor(known).double(), atol=1e-5, rtol=0)
    known = torch.tensor(KNOWN_LOGARITHMS[n_granularities]).double()
    torch.testing.assert_close(found[torch.arange(4), target - 1], known, atol=1e-5, rtol=0)
    loss = model.loss_parts(*KNOWN_SESSIONS, target)["recommendation"]
    torch.testing.assert_close(-loss, found[torch.arange(4), target - 1].mean(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("settings", SWITCHES)
def test_probabilities_sum_to_one(settings):
    model, (items, lengths, _) = build(**settings).double().eval(), batch()
    total = scores(model, items, lengths).exp().sum(1)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_own_items_have_the_probability_of_a_repetition():
    model, (items, lengths, _) = random_views(build(n_granularities=3)).double().eval(), batch()
    with torch.no_grad():
        views, _ = model.views(model.item_vectors(), items, lengths)
        repeat = (model.head.view.softmax(0) * model.head.habit(views).softmax(-1)[..., 0]).sum(1)
    own = torch.zeros(len(items), N_ITEMS + 1, dtype=torch.bool).scatter_(1, items, True)[:, 1:]
    torch.testing.assert_close((scores(model, items, lengths).exp() * own).sum(1), repeat)


def test_a_session_that_holds_the_whole_catalogue_has_no_new_items():
    model = build(n_items=3).eval()
    items, lengths = padded([1, 2, 3], [1, 2])
    found = model.full_sort_predict(Interaction({"item_id_list": items, "item_length": lengths}))
    assert (found[:, 0] == float("-inf")).all() and torch.isfinite(found[:, 1:]).all()
    loss = model.loss_parts(*padded([1, 2, 3], [1, 2]), torch.tensor([2, 3]))["recommendation"]
    torch.testing.assert_close(loss, -(found[0, 2] + found[1, 3]) / 2)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


# What may not move scores


def apart(model, items, lengths):
    """Scores of each session alone."""
    return torch.cat([scores(model, items[i : i + 1, :n], lengths[i : i + 1]) for i, n in enumerate(lengths)])


@pytest.mark.parametrize("settings", [s for s in SWITCHES if "relation_residual" not in s])
def test_scores_depend_on_nothing_but_the_session(settings):
    model = build(**settings).double().eval()
    items, lengths, _ = batch(rows=30)
    together = scores(model, items, lengths)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(scores(model, items[order], lengths[order]), together[order])
    torch.testing.assert_close(apart(model, items, lengths), together)
    with torch.no_grad():
        model.train().item_embedding.weight[0] = 7.0  # what stands in the row of padding
    torch.testing.assert_close(scores(model.eval(), items, lengths), together)
    assert torch.equal(scores(model, items, lengths), scores(model, items, lengths))


def test_only_the_released_residual_depends_on_other_sessions():
    items, lengths, _ = batch(rows=30)
    for residual in ("always", "if_present"):
        model = build(relation_residual=residual).double().eval()
        moved = (apart(model, items, lengths) - scores(model, items, lengths)).abs().amax(1)
        assert (moved > 1e-4).any() == (residual == "if_present")
        assert not (moved[lengths > 3] > 1e-9).any()  # these have edges of all kinds themselves


@pytest.mark.parametrize("short_sessions", ["last", "min_id"])
def test_renumbered_items_have_renumbered_scores_but_for_the_released_short_sessions(short_sessions):
    model = build(n_granularities=3, short_sessions=short_sessions).double().eval()
    items, lengths, _ = batch(rows=30)
    before = scores(model, items, lengths)
    number = torch.cat([torch.zeros(1, dtype=torch.long), torch.arange(N_ITEMS, 0, -1)])
    with torch.no_grad():
        table = model.train().item_embedding.weight
        table[number] = table.clone()
    moved = (scores(model.eval(), number[items], lengths)[:, number[1:] - 1] - before).abs().amax(1)
    assert (moved > 1e-4).any() == (short_sessions == "min_id")
    assert not (moved[lengths > 2] > 1e-9).any()


def test_evaluation_in_pieces_gives_the_same_scores(monkeypatch):
    for settings in SWITCHES[:3]:
        model, (items, lengths, _) = build(**settings).double().eval(), batch(rows=30)
        whole = scores(model, items, lengths)
        monkeypatch.setattr(chunks, "NUMBERS_ON_CPU", 7 * N_ITEMS)
        monkeypatch.setattr(chunks, "FEWEST_ROWS", 1)
        torch.testing.assert_close(scores(model, items, lengths), whole)
        monkeypatch.undo()


# Training


def test_each_dropout_moves_the_loss():
    for name in ("hidden_dropout_prob", "attn_dropout_prob"):
        model, data = build(**{name: 0.5}), batch()
        losses = {model.loss_parts(*data)["recommendation"].item() for _ in range(2)}
        assert len(losses) == 2, name


def test_no_matrix_of_sessions_and_items_is_kept():
    model, kept = build(n_items=5000), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: (kept.append(tensor.shape), tensor)[1], lambda t: t):
        model.loss_parts(*batch(rows=60))
    assert kept and not [shape for shape in kept if 5000 in shape[1:] or 5001 in shape[1:]]


def test_initial_weights():
    model, bound = build(n_granularities=3), 16**-0.5
    assert model.head.view.tolist() == [1, 0, 0]
    assert model.item_embedding.weight[0].abs().sum() == 0
    weight = torch.cat([p.flatten() for name, p in model.named_parameters() if name != "head.view"])
    assert weight.abs().max() <= bound and weight.std().item() == pytest.approx(bound / 3**0.5, abs=0.01)


def test_without_fusion_only_single_items_recommend_and_longer_units_are_in_the_graph():
    model = build(n_granularities=3, fusion=False)
    assert len(model.readouts) == 1 and len(model.run_encoders) == 2 and model.head.view is None


def test_half_precision_changes_little():
    model, (items, lengths, _) = build(hidden_size=64).eval(), batch()
    exact = scores(model, items, lengths)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = scores(model, items, lengths)
    torch.testing.assert_close(half.float(), exact, atol=0.15, rtol=0.05)


# Bad input


@pytest.mark.parametrize(
    "word, expected",
    [
        ("--n_granularities=0", "n_granularities must lie in [1, inf), got 0"),
        ("--graph_heads=0", "graph_heads must lie in [1, inf), got 0"),
        ("--reducer=sum", "reducer must be one of mean, max, concat, got 'sum'"),
        ("--short_sessions=first", "short_sessions must be one of last, min_id, got 'first'"),
        ("--relation_residual=never", "relation_residual must be one of always, if_present, got 'never'"),
        ("--expander_input=unit", "expander_input must be one of normalised, raw, got 'unit'"),
        ("--repeat_split=maybe", "repeat_split must be of type bool"),
        ("--scale=0", "scale must lie in (0, inf), got 0"),
        ("--order=3", "unknown key 'order'"),
        ("--train_view=sequence", "MSGIFSR learns from the end of a history only: leave train_view at prefix"),
        ("--repetition=learned", "MSGIFSR cannot: remove it"),
    ],
)
def test_bad_settings_are_refused_in_one_line(capsys, word, expected):
    assert main(["--model=MSGIFSR", "--dataset=toy", word]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and expected in error
