"""Atten-Mixer: fast equals plain in value and gradient, known values, and what may not move its scores."""

import plain_attenmixer as plain
import pytest
import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction

from recbole_diffusion.model.attenmixer import AttenMixer
from recbole_diffusion.testing import make_config

N_ITEMS = 60
SMALL = {"hidden_size": 16, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "table_dropout": 0.0}
SWITCHES = [
    {},
    {"n_levels": 3, "level": "sum", "pool_power": 1.0},
    {"n_levels": 15, "n_heads": 1, "pool_power": 8.0},
    {"attention": "mean"},
    {"attention": "released"},
    {"attention": "released", "level": "sum", "n_heads": 2},
]


def build(n_items=N_ITEMS, longest=12, **settings):
    class FakeData:
        """As much of a data set as a model asks for."""

        def num(self, field):
            return n_items + 1

    torch.manual_seed(3)
    return AttenMixer(
        make_config("AttenMixer", "unused", MAX_ITEM_LIST_LENGTH=longest, **{**SMALL, **settings}), FakeData()
    )


def batch(seed=0, rows=9, width=12, shortest=1):
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shortest, width + 1, (rows,), generator=random)
    items = torch.randint(1, N_ITEMS + 1, (rows, width), generator=random)
    return (
        items * (torch.arange(width) < lengths[:, None]),
        lengths,
        torch.randint(1, N_ITEMS + 1, (rows,), generator=random),
    )


def scores(model, items, lengths):
    with torch.no_grad():
        return model.full_sort_predict(Interaction({"item_id_list": items, "item_length": lengths}))[:, 1:]


@pytest.mark.parametrize("settings", SWITCHES)
def test_fast_equals_one_session_at_a_time_in_values_and_gradients(settings):
    model, data, found = build(**settings).double(), batch(), []
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


def fill(shape, c, o):
    return c * torch.sin(torch.arange(1, shape.numel() + 1, dtype=torch.float64) + o).view(shape)


def golden(**settings):
    """Weights that anybody can write down, V = 9, d = 8."""
    sizes = {"hidden_size": 8, "n_heads": 2, "n_levels": 3, "pool_power": 4.0, "scale": 16.0, "longest": 6}
    model = build(n_items=8, **{**sizes, **settings}).double().eval()
    weights = model.mixer.weights
    layers = [
        (weights.query, 0.3, 1),
        (weights.key, 0.3, 3),
        (model.mixer.value, 0.3, 5),
        (model.mixer.output, 0.3, 20),
    ]
    layers += [(layer, 0.3, 7 + i) for i, layer in enumerate(weights.queries.levels)]
    with torch.no_grad():
        model.item_embedding.weight.copy_(fill(model.item_embedding.weight.shape, 0.5, 0))
        for layer, c, o in layers:
            layer.weight.copy_(fill(layer.weight.shape, c, o))
            if layer.bias is not None:
                layer.bias.copy_(fill(layer.bias.shape, 0.1, o + 1))
        model.mixer.norm.weight.fill_(1)
        model.mixer.norm.bias.zero_()
    return model


def test_golden_logits_of_a_session():
    found = scores(golden(), torch.tensor([[3, 1, 4]]), torch.tensor([3]))[0]
    known = [0.11361, -0.39700, 0.01998, 0.39841, -0.14625, -0.37195, 0.24990, 0.31329]
    torch.testing.assert_close(found, torch.tensor(known, dtype=torch.float64), atol=6e-6, rtol=0)
    found = scores(golden(attention="released"), torch.tensor([[3, 1, 4]]), torch.tensor([3]))[0]
    known = [0.13998, -0.50256, 0.02911, 0.50336, -0.18852, -0.46890, 0.31902, 0.39375]
    torch.testing.assert_close(found, torch.tensor(known, dtype=torch.float64), atol=6e-6, rtol=0)


def test_golden_weights_of_a_session():
    model = golden()
    x = F.normalize(model.item_embedding.weight[[3, 1, 4]], dim=-1).unsqueeze(0)
    found = model.mixer.weights(x, torch.ones(1, 3, dtype=torch.bool))[0]
    known = [[0.30684, 0.35204, 0.34112], [0.32363, 0.32753, 0.34884]]
    torch.testing.assert_close(found, torch.tensor(known, dtype=torch.float64), atol=6e-6, rtol=0)


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


def test_renumbered_items_have_renumbered_scores():
    model, (items, lengths, _) = build().double().eval(), batch()
    before = scores(model, items, lengths)
    number = torch.cat([torch.zeros(1, dtype=torch.long), torch.randperm(N_ITEMS) + 1])
    with torch.no_grad():
        table = model.train().item_embedding.weight
        table[number] = table.clone()
    torch.testing.assert_close(scores(model.eval(), number[items], lengths)[:, number[1:] - 1], before)


def test_only_the_released_attention_depends_on_the_longest_session_there_may_be():
    items, lengths, _ = batch()
    for attention in ("soft", "mean", "released"):
        short, long = (build(longest=longest, attention=attention).eval() for longest in (12, 40))
        long.load_state_dict(short.state_dict())
        same = torch.allclose(scores(short, items, lengths), scores(long, items, lengths), atol=1e-5)
        assert same == (attention != "released")


def test_mean_does_not_know_the_order_of_what_stands_before_the_last_item():
    one, other = torch.tensor([[1, 2, 3, 9]]), torch.tensor([[3, 1, 2, 9]])
    for attention in ("soft", "mean"):
        model, n = build(attention=attention).double().eval(), torch.tensor([4])
        assert torch.allclose(scores(model, one, n), scores(model, other, n)) == (attention == "mean")


# Training


def test_each_dropout_moves_the_loss():
    for name in ("hidden_dropout_prob", "attn_dropout_prob", "table_dropout"):
        model, data = build(**{name: 0.5}), batch(shortest=2)
        losses = {model.loss_parts(*data)["recommendation"].item() for _ in range(2)}
        assert len(losses) == 2, name


def test_items_are_normalised_once_a_step_and_once_an_evaluation(monkeypatch):
    from recbole_diffusion.layers import cosine

    model, (items, lengths, target) = build(), batch()
    tables, original = [], cosine.unit
    monkeypatch.setattr(cosine, "unit", lambda x: (tables.append(x.shape[0]), original(x))[1])
    model.loss_parts(items, lengths, target)
    assert tables.count(N_ITEMS + 1) == 1
    model.eval()
    tables.clear()
    for _ in range(3):
        scores(model, items, lengths)
    assert tables.count(N_ITEMS + 1) == 1


def test_initial_weights():
    bound = 16**-0.5
    for attention in ("soft", "released"):
        model = build(attention=attention)
        weight = torch.cat(
            [p.flatten() for name, p in model.named_parameters() if "norm" not in name and "item" not in name]
        )
        assert weight.abs().max() <= bound and weight.std().item() == pytest.approx(bound / 3**0.5, abs=0.01)
        assert (model.mixer.norm.weight == 1).all() == (attention == "soft")  # the code draws its gain, too
        assert model.item_embedding.weight[0].abs().sum() == 0


def test_half_precision_changes_little():
    model, (items, lengths, _) = build(hidden_size=64).eval(), batch()
    with torch.no_grad():
        exact = model.encode(items, lengths)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = model.encode(items, lengths)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, atol=0.3, rtol=0.05)  # of vectors of length 16
