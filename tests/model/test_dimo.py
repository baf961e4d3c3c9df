"""DIMO: fast equals plain in value and gradient, known values, no leak, and what may not move its scores."""

import numpy as np
import plain_dimo
import pytest
import torch
from recbole.data.interaction import Interaction
from session_files import TRAIN, write_split
from session_models import build

from recbole_diffusion import Recommender, run
from recbole_diffusion.data.folds import FOLD
from recbole_diffusion.layers.sessions import LastItemAttention
from recbole_diffusion.model.dimo import Proxies
from recbole_diffusion.testing import cycle_sequences, make_config, write_features, write_sequences
from recbole_diffusion.training.checkpoint import load_checkpoint

# so odd that a missing factor shows
SMALL = {"hidden_size": 16, "graph_dropout": 0.0, "attn_dropout_prob": 0.0, "co_weight": 1.7, "co_anchors": 7,
         "proxy_weight": 0.83, "counterfactual_weight": 1.31, "n_companions": 3, "train_batch_size": 16}  # fmt: skip
SWITCHES = [
    {},
    {"graph_folds": 0},
    {"n_layers": 0, "n_heads": 1},
    {"n_layers": 4, "n_companions": 20, "co_anchors": 0},
    {"proxy_arguments": "released", "target_lookup": "shifted", "feature_init": "random"},
    {"item_features": "none"},
]


def dimo(folder, name="cycle", **settings):
    torch.manual_seed(3)
    return build(folder, "DIMO", name, **{**SMALL, **settings})


@pytest.fixture(scope="module")
def sequences():
    random = np.random.default_rng(4)
    walk = list(range(1, 13))  # all items occur, whatever the others are
    return [walk[:9], walk[5:], *(random.integers(1, 13, n).tolist() for n in random.integers(4, 11, 30))]


@pytest.fixture(scope="module")
def folder(sequences, tmp_path_factory):
    folder = write_sequences(sequences, tmp_path_factory.mktemp("dimo"), "cycle")
    write_features(folder)
    return folder


def known_sessions(train, fold):
    """Training sessions outside of a fold, as lists of item numbers."""
    items, lengths, users = (column.tolist() for column in train._dataset.sessions())
    folds = train._dataset.session_folds(torch.tensor(users))
    ends = np.cumsum(lengths)
    return [items[end - n : end] for i, (end, n) in enumerate(zip(ends, lengths)) if fold is None or folds[i] != fold]


def plain_of(model, train, fold):
    return plain_dimo.PlainDIMO(model, plain_dimo.counts(known_sessions(train, fold), model.n_items))


def inputs(model, batch):
    return batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN], batch[model.ITEM_ID]


def histories(model, batch):
    return [row[:n] for row, n in zip(batch[model.ITEM_SEQ].tolist(), batch[model.ITEM_SEQ_LEN].tolist())]


@pytest.mark.parametrize("settings", SWITCHES)
def test_fast_equals_plain_in_values_and_gradients(settings, folder, monkeypatch):
    model, (train, *_) = dimo(folder, **settings)
    for batch in [batch for batch, _ in zip(train, range(2))]:
        fold = model.graph_fold(batch)
        companions = model.companions[0 if fold is None else 1 + fold]
        drawn, found = companions.draw(model.config["co_anchors"], 10), []
        monkeypatch.setattr(type(companions), "draw", lambda *_, drawn=drawn: drawn)
        plain = plain_of(model, train, fold)
        lists = [part.tolist() for part in drawn]
        for parts in (
            model.loss_parts(*inputs(model, batch), fold),
            plain.loss_parts(histories(model, batch), batch[model.ITEM_ID].tolist(), lists),
        ):
            model.zero_grad()
            sum(parts.values()).backward()
            found.append((parts, {name: p.grad.clone() for name, p in model.named_parameters()}))
        of_own_graph = plain_dimo.loss(model, *inputs(model, batch), fold)  # as in benchmarks/session_models.py
        monkeypatch.undo()
        (fast, fast_gradients), (slow, slow_gradients) = found
        torch.testing.assert_close(of_own_graph, sum(fast.values()), atol=1e-5, rtol=1e-5)
        assert fast.keys() == slow.keys()
        for name in fast:
            torch.testing.assert_close(fast[name], slow[name], atol=1e-5, rtol=1e-5, msg=name)
        for name, gradient in slow_gradients.items():
            assert gradient.abs().sum() > 0, name
            torch.testing.assert_close(fast_gradients[name], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("settings", SWITCHES)
def test_scores_equal_plain_ones_in_the_graph_of_all(settings, folder):
    model, (train, _, test) = dimo(folder, **settings)
    batch = next(iter(test))[0]
    with torch.no_grad():
        plain = plain_of(model.eval(), train, None)
        wanted = torch.stack([plain.scores(items) for items in histories(model, batch)])
        torch.testing.assert_close(model.full_sort_predict(batch)[:, 1:], wanted, atol=1e-5, rtol=1e-5)


# Known values


def test_a_session_of_one_query_without_graph_and_text(folder):
    """No layers, no further losses and no features: attention of one query, and nothing else."""
    bare = {"n_layers": 0, "co_weight": 0, "item_features": "none"}
    model, (train, *_) = dimo(folder, **bare)
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"item_embedding", "ids"}
    batch = next(iter(train))
    assert list(model.loss_parts(*inputs(model, batch), model.graph_fold(batch))) == ["recommendation"]
    layer = model.ids.attention
    torch_layer = torch.nn.MultiheadAttention(16, layer.n_heads, batch_first=True)
    with torch.no_grad():
        torch_layer.in_proj_weight.copy_(torch.cat([layer.query.weight, layer.key.weight, layer.value.weight]))
        torch_layer.in_proj_bias.copy_(torch.cat([layer.query.bias, torch.zeros(16), layer.value.bias]))
        torch_layer.out_proj.weight.copy_(torch.eye(16))
        items, lengths = batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN]
        x = model.item_embedding(items)
        last = x[torch.arange(len(x)), lengths - 1].unsqueeze(1)
        padding = torch.arange(items.shape[1]) >= lengths[:, None]
        wanted = torch_layer(last, x, x, key_padding_mask=padding)[0].squeeze(1)
        torch.testing.assert_close(model.eval().encode(items, lengths), wanted, atol=1e-6, rtol=1e-5)


def test_a_session_of_one_item_is_its_value():
    from recbole_diffusion.layers.packed import PackedLayout

    layer, x = LastItemAttention(2, 8, 0.5).eval(), torch.randn(1, 8)
    torch.testing.assert_close(layer(x, PackedLayout(torch.tensor([1]))), layer.value(x))


def test_proxies_of_sessions_that_are_all_alike():
    """Every cosine is 1, so that every share is a half."""
    proxies = Proxies(4)
    for layer in proxies.maps.values():
        torch.nn.init.eye_(layer.weight)
    x = torch.ones(3, 4)
    assert proxies.loss(x, 2 * x, 3 * x, x).item() == pytest.approx(2 * np.log(2))
    away = proxies.loss(x, x, -x, -x).item()
    assert away == pytest.approx(2 * np.log(1 + np.exp(-2)))  # near the own proxy, far from the other session


def test_a_counterfactual_changes_sign_with_the_flag(folder):
    model, _ = dimo(folder)
    user, table, target = torch.randn(2, 32), torch.randn(13, 32), torch.tensor([4, 1])
    yes, no = (model._counterfactual(user, table, target, torch.tensor([flag] * 2)) for flag in (True, False))
    assert yes == -no != 0
    model.config["target_lookup"] = "shifted"
    first = model._counterfactual(user[:1], table, target[:1], torch.tensor([True]))
    model.config["target_lookup"] = "own"
    assert first == model._counterfactual(user[:1], table, target[:1] - 1, torch.tensor([True]))


def test_a_shifted_first_item_teaches_nothing_and_breaks_nothing(folder):
    model, _ = dimo(folder, target_lookup="shifted")
    table = torch.randn(13, 32).index_fill(0, torch.tensor([0]), 0).requires_grad_()
    user = torch.randn(1, 32, requires_grad=True)
    loss = model._counterfactual(user, table, torch.tensor([1]), torch.tensor([True]))
    loss.backward()
    assert loss.item() == pytest.approx(np.log(2)) and table.grad.abs().sum() == user.grad.abs().sum() == 0


# What may not move scores


def scores(model, items, lengths):
    with torch.no_grad():
        return model.full_sort_predict(Interaction({"item_id_list": items, "item_length": lengths}))[:, 1:]


@pytest.mark.parametrize("settings", SWITCHES)
def test_scores_depend_on_nothing_but_the_session(settings, folder):
    model = dimo(folder, **settings)[0].eval()
    random = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 10, (30,), generator=random)
    items = torch.randint(1, 13, (30, 9), generator=random) * (torch.arange(9) < lengths[:, None])
    together = scores(model, items, lengths)
    order = torch.randperm(30, generator=random)
    torch.testing.assert_close(scores(model, items[order], lengths[order]), together[order], atol=1e-6, rtol=1e-5)
    alone = torch.cat([scores(model, items[i : i + 1, : lengths[i]], lengths[i : i + 1]) for i in range(30)])
    torch.testing.assert_close(alone, together, atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        model.train().item_embedding.weight[0] = 7.0  # what stands in the row of padding
    torch.testing.assert_close(scores(model.eval(), items, lengths), together, atol=1e-6, rtol=1e-5)
    assert torch.equal(scores(model, items, lengths), scores(model, items, lengths))


def test_tables_are_propagated_once_an_evaluation(folder, monkeypatch):
    model, (train, _, test) = dimo(folder)
    batch, calls, original = next(iter(test))[0], [], type(model.graphs).seen_from
    model.eval()
    monkeypatch.setattr(type(model.graphs), "seen_from", lambda *x: calls.append(x[1]) or original(*x))
    with torch.no_grad():
        before = [model.full_sort_predict(batch) for _ in range(3)][0]
    assert calls == [None]
    training = next(iter(train))
    sum(model.train().calculate_loss(training)).backward()
    assert calls == [None, int(training[FOLD][0])]
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    with torch.no_grad():
        assert not torch.allclose(model.eval().full_sort_predict(batch), before)


# Leaks


def test_scores_of_the_test_do_not_know_its_targets_unless_the_graph_leaks(tmp_path):
    """The same weights on the same data but for the label of a test session."""
    folders = [write_split(tmp_path / str(label), TRAIN, [[1, 4, 6]], [[2, 5, label]]) for label in (1, 4)]

    def of_test(folder, **settings):
        model, (_, _, test) = dimo(folder, "shop", **settings)
        with torch.no_grad():
            return model.eval().full_sort_predict(next(iter(test))[0])

    for folds in (0, 2):
        assert torch.equal(*(of_test(folder, graph_folds=folds) for folder in folders))
        assert not torch.equal(*(of_test(folder, graph_folds=folds, graph_source="all") for folder in folders))


def test_a_graph_that_leaks_marks_its_results(folder, caplog):
    settings = make_config("DIMO", folder, **SMALL, epochs=1).external_config_dict
    assert run("DIMO", "cycle", config_dict=settings)["leaks_test_labels"] is False
    assert "LEAKS" not in caplog.text
    assert run("DIMO", "cycle", config_dict={**settings, "graph_source": "all"})["leaks_test_labels"] is True
    assert "graph_source: all LEAKS" in caplog.text


def test_nothing_of_its_own_fold_reaches_a_step_but_the_target(tmp_path):
    """Only the sixth training session changes its target; a step of its fold has the tables and companions as before."""
    tables = []
    for label in (1, 4):
        folder = write_split(tmp_path / str(label), [*TRAIN[:5], [6, label]], [[1, 4, 6]], [[2, 5, 1]])
        model, (train, *_) = dimo(folder, "shop", graph_folds=2)
        data = train._dataset
        own = int(data.session_folds(torch.tensor([data.token2id("session_id", "6")])))
        with torch.no_grad():
            seen = {fold: model.item_vectors(fold) for fold in (None, own, 1 - own)}
        tables.append((own, seen, model.companions[1 + own].items))
    (own, before, kept), (_, after, kept_after) = tables
    assert torch.equal(before[own], after[own]) and torch.equal(kept, kept_after)
    assert not torch.equal(before[1 - own], after[1 - own]) and not torch.equal(before[None], after[None])


# Training, and what is kept of it


def test_dropout_of_the_first_epoch_only(folder):
    model, (train, *_) = dimo(folder, co_weight=0, graph_dropout=0.5, attn_dropout_prob=0.5, dropout_epochs="first")
    batch = next(iter(train))

    def n_losses(epoch):
        model.begin_epoch(epoch)
        return len({sum(model.train().calculate_loss(batch)).item() for _ in range(2)})

    assert [n_losses(epoch) for epoch in (0, 1, 2, 0)] == [2, 1, 1, 2]
    model.config["dropout_epochs"] = "all"
    assert [n_losses(epoch) for epoch in (0, 1)] == [2, 2]


@pytest.mark.parametrize("name", ["graph_dropout", "attn_dropout_prob"])
def test_each_dropout_moves_the_loss(name, folder):
    model, (train, *_) = dimo(folder, co_weight=0, **{name: 0.5})
    batch = next(iter(train))
    assert len({sum(model.train().calculate_loss(batch)).item() for _ in range(2)}) == 2


def test_features_keep_the_values_of_their_file_and_ids_are_small(folder):
    model, (train, *_) = dimo(folder)
    features = train._dataset.item_features("auto", "error", 16)
    assert torch.equal(model.feature_embedding.weight, features)
    drawn = dimo(folder, feature_init="random")[0].feature_embedding.weight
    assert drawn.abs().max() <= 0.1 and not drawn[0].any() and drawn[1:].std() > 0.04
    assert model.item_embedding.weight.abs().max() <= 0.1 and not model.item_embedding.weight[0].any()


def test_without_features_it_runs_on_ids_and_says_so(tmp_path, caplog):
    folder = write_sequences(cycle_sequences(), tmp_path, "cycle")
    model, (train, *_) = dimo(folder)
    assert "no item features: DIMO runs on IDs alone" in caplog.text
    model.calculate_loss(next(iter(train)))
    assert model.loss_names == ("recommendation", "companions") and model.item_vectors().shape == (13, 16)
    caplog.clear()
    assert dimo(folder, item_features="none")[0].item_vectors().shape == (13, 16) and "IDs alone" not in caplog.text
    assert dimo(folder, feature_init="random")[0].item_vectors().shape == (13, 32)  # the code's text needs no file


@pytest.mark.parametrize("released", [{}, {"feature_init": "random", "dropout_epochs": "first", "graph_folds": 0}])
def test_a_run_is_resumed_bit_by_bit_and_recommends_from_its_checkpoint(released, folder):
    given = make_config("DIMO", folder, **{**SMALL, "graph_dropout": 0.2, **released}, epochs=3).external_config_dict
    undisturbed = run("DIMO", "cycle", config_dict={**given, "checkpoint_dir": "undisturbed"})
    run("DIMO", "cycle", config_dict={**given, "epochs": 1, "checkpoint_dir": "stopped"})
    resumed = run("DIMO", "cycle", config_dict={**given, "resume": True, "checkpoint_dir": "stopped"})
    assert resumed["epochs"] == 3 and resumed["test_result"] == undisturbed["test_result"]
    states = [load_checkpoint(result["checkpoint"])["state_dict"] for result in (resumed, undisturbed)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    recommender = Recommender.load(resumed["checkpoint"])
    assert not recommender.network.graphs.without
    model, (_, _, test) = dimo(folder, **released)
    model.load_state_dict(states[0])
    batch = next(iter(test))[0]
    with torch.no_grad():
        wanted = model.eval().full_sort_predict(batch)
        torch.testing.assert_close(recommender.network.full_sort_predict(batch), wanted)
