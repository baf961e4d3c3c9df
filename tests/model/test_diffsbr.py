"""DiffSBR and SKNN: sparse equals dense, split equals concatenated, who is in the bank, and no leak."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from plain_diffsbr import PlainDiffSBR
from session_files import SPLIT, TRAIN, write_split
from test_diffsbr_contract import SMALL

from recbole_diffusion import run
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.diffusion.schedules import named_betas
from recbole_diffusion.diffusion.step_embedding import StepEmbedding
from recbole_diffusion.layers.graph import GraphPropagation, ItemGraph, item_graph
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.retrieval import ConcatenationScorer, CosineScorer, TwoTowerScorer
from recbole_diffusion.layers.sessions import ConditionalDenoiser, SessionAttention
from recbole_diffusion.testing import cycle_sequences, group_sequences, make_config, write_features, write_sequences
from recbole_diffusion.training.networks import build_model


def build(folder, model="DiffSBR", name="shop", **settings):
    base = {**(SMALL if model == "DiffSBR" else {}), **(SPLIT if name == "shop" else {})}
    config = make_config(model, folder, name, **{**base, **settings})
    loaders = build_loaders(config, create_dataset(config))
    return build_model(config, loaders[0]), loaders


# Graph


def test_cooccurrence_counts_pairs_both_ways_and_rows_sum_to_one():
    graph = item_graph(np.array([1, 2, 3, 1, 2]), np.array([3, 2]), 5, "cooccurrence").toarray()
    wanted = np.zeros((5, 5))
    wanted[1, [2, 3]], wanted[2, [1, 3]], wanted[3, [1, 2]] = (2 / 3, 1 / 3), (2 / 3, 1 / 3), (1 / 2, 1 / 2)
    np.testing.assert_allclose(graph, wanted, rtol=1e-6)


def test_transitions_have_a_direction_and_do_not_join_sessions():
    graph = item_graph(np.array([1, 2, 3, 1, 3]), np.array([3, 2]), 4, "transitions").toarray()
    np.testing.assert_allclose(graph[1], [0, 0, 0.5, 0.5])
    np.testing.assert_allclose(graph[2], [0, 0, 0, 1])
    assert graph[3].sum() == 0


@pytest.mark.parametrize("form", ["mean", "residual"])
def test_sparse_propagation_equals_dense_in_value_and_gradient(form):
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    graph = item_graph(random.integers(1, 30, 200), np.full(50, 4), 30, "cooccurrence")
    layer, dense = GraphPropagation(ItemGraph(graph), 3, 8, form, 0.0), torch.tensor(graph.toarray())
    x = torch.randn(30, 8, requires_grad=True)
    wanted, layers = x, [x]
    for step in range(3):
        if form == "residual":
            wanted = wanted + dense @ wanted
        else:
            layers.append(F.normalize((dense @ layers[-1]) @ layer.weights[step].weight.t(), dim=-1))
    wanted = wanted if form == "residual" else torch.stack(layers).mean(0)
    torch.testing.assert_close(layer(x), wanted, atol=1e-5, rtol=1e-5)
    target = torch.randn(30, 8)
    inputs = [x, *layer.parameters()]
    for a, b in zip(torch.autograd.grad((layer(x) * target).sum(), inputs), torch.autograd.grad((wanted * target).sum(), inputs)):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", ["mean", "residual"])
def test_propagation_is_not_computed_in_half_precision(form):
    """The padding item has the vector 0, whose length would be divided by 0 in fp16."""
    torch.manual_seed(0)
    graph = item_graph(np.array([1, 2, 3, 1, 3]), np.array([3, 2]), 5, "cooccurrence")
    layer = GraphPropagation(ItemGraph(graph), 2, 8, form, 0.0)
    x = torch.randn(5, 8, requires_grad=True)
    inputs = [x, *layer.parameters()]
    expected = torch.autograd.grad(layer(x)[1:].sum(), inputs)
    with torch.autocast("cpu", torch.float16):
        total = layer(x)[1:].sum()
    found = torch.autograd.grad(total, inputs)
    assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(found, expected))


# Sessions, scorers, denoiser


@pytest.mark.parametrize("gate", ["scalar", "vector"])
def test_session_attention_is_its_formula(gate):
    torch.manual_seed(0)
    layer, lengths = SessionAttention(6, gate), torch.tensor([3, 1, 2])
    layout, rows = PackedLayout(lengths), torch.randn(3, 3, 6)
    found = layer(layout.pack(rows), layout)
    for b, n in enumerate(lengths.tolist()):
        gates = layer.weight((layer.last(rows[b, n - 1]) + layer.item(rows[b, :n])).sigmoid())
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


# The whole model against a plain one

# so odd that a missing factor shows
ODD = {"lambda_1": 3.7, "lambda_2": 0.83, "tau": 0.45, "alignment_weight": 1.9, "alignment_items": 5}
PLAIN = {**ODD, "denoiser_dropout": 0.0, "retriever_dropout": 0.0, "k_neighbors": 4, "n_layers": 2}
ENDS = [3, 0, 11, 7, 2]  # anchors of the alignment, counted from the first real item


class Compared:
    """A model, its plain version on the same sessions, a batch and the random draws of both."""

    def __init__(self, folder, sequences, settings):
        self.model, (self.train_data, *_) = build(folder, name="cycle", **{**PLAIN, **settings})
        self.model.balance.data.fill_(0.7)
        names = self.train_data._dataset.field2id_token
        users, items = list(names["user_id"]), list(names["item_id"])
        self.sessions = {
            users.index(f"u{number}"): [items.index(f"i{item}") for item in sequence[:-2]]
            for number, sequence in enumerate(sequences)
        }
        fields = ("item_id_list", "item_length", "item_id", "user_id")
        self.batch = next(iter(self.train_data))
        self.inputs = [self.batch[field] for field in fields]
        self.histories = [row[:n] for row, n in zip(self.inputs[0].tolist(), self.inputs[1].tolist())]
        torch.manual_seed(0)
        self.t = torch.randint(SMALL["diffusion_steps"], (len(self.batch),))
        self.noise = torch.randn(len(self.batch), SMALL["hidden_size"])

    def plain(self):
        return PlainDiffSBR(self.model, self.sessions, named_betas("trunc_lin", SMALL["diffusion_steps"]))

    def plain_parts(self):
        targets, users = (column.tolist() for column in self.inputs[2:])
        n_anchors, n_real = self.model.config["alignment_items"], self.model.n_items - 1
        anchors = [end + 1 for end in ENDS] if n_anchors else range(1, n_real + 1)
        return self.plain().loss_parts(self.histories, targets, users, self.t.tolist(), self.noise, anchors)

    def fast_parts(self, monkeypatch):
        """The parts that the model computes in training, with the draws that the plain one gets."""

        def draw_steps(n_steps, size, device):
            assert (n_steps, size) == (SMALL["diffusion_steps"], self.t.shape)
            return self.t

        def draw_order(n, device):
            return torch.tensor([*ENDS, *(set(range(n)) - set(ENDS))])

        with monkeypatch.context() as patch:
            patch.setattr(torch, "randint", draw_steps)
            patch.setattr(torch, "randn_like", lambda x: self.noise)
            patch.setattr(torch, "randperm", draw_order)
            return self.model.train().loss_parts(*self.inputs)


@pytest.fixture(scope="module")
def compare(tmp_path_factory):
    random = np.random.default_rng(4)
    walk = list(range(1, 13))  # all items occur, whatever the others are
    sequences = [walk[:9], walk[5:], *(random.integers(1, 13, n).tolist() for n in random.integers(4, 11, 14))]
    folder = write_sequences(sequences, tmp_path_factory.mktemp("plain"), "cycle")
    write_features(folder)
    return lambda **settings: Compared(folder, sequences, settings)


def name_of(settings):
    return ",".join(f"{key}={value}" for key, value in settings.items()) or "default"


DIFFUSION = {"recommendation", "generation"}
PLAIN_CASES = [
    ({}, DIFFUSION | {"feedback", "self_generation", "contrast", "alignment"}),
    ({"alignment_items": 0}, DIFFUSION | {"feedback", "self_generation", "contrast", "alignment"}),
    ({"detach_target": False}, DIFFUSION | {"feedback", "self_generation", "contrast", "alignment"}),
    ({"item_features": "none"}, DIFFUSION | {"feedback"}),
    ({"item_features": "none", "retrieval": False}, DIFFUSION),
    ({"retrieval": False}, DIFFUSION | {"self_generation", "contrast", "alignment"}),
    ({"feedback": "none"}, DIFFUSION | {"self_generation", "contrast", "alignment"}),
    ({"feedback": "ranking"}, DIFFUSION | {"feedback", "self_generation", "contrast", "alignment"}),
    ({"scorer": "cosine"}, DIFFUSION | {"feedback", "self_generation", "contrast", "alignment"}),
    ({"neighbors": "observable"}, {"recommendation", "alignment"}),
    ({"neighbors": "observable", "fusion": "late", "bank_sessions": "input"}, {"recommendation", "alignment"}),
    ({"fusion": "attention"}, DIFFUSION | {"feedback", "self_generation", "alignment"}),
    ({"fusion": "early"}, DIFFUSION | {"feedback", "alignment"}),
    ({"fusion": "late"}, DIFFUSION | {"feedback", "alignment"}),
    ({"fusion": "condition"}, DIFFUSION | {"feedback", "alignment"}),
    (
        {"scorer": "mlp", "propagation": "mean", "session_gate": "vector", "graph_edges": "transitions"},
        DIFFUSION | {"feedback", "self_generation", "contrast", "alignment"},
    ),
]


@pytest.mark.parametrize("settings, names", PLAIN_CASES, ids=[name_of(settings) for settings, _ in PLAIN_CASES])
def test_the_objective_equals_the_plain_one_in_value_and_gradient(compare, settings, names, monkeypatch):
    case = compare(**settings)
    fast, slow = case.fast_parts(monkeypatch), case.plain_parts()
    assert set(fast) == set(slow) == names
    for name in names:
        torch.testing.assert_close(fast[name], slow[name], atol=1e-5, rtol=1e-5, msg=lambda text: f"{name}: {text}")
    trained = dict(case.model.named_parameters())
    found = torch.autograd.grad(sum(fast.values()), list(trained.values()))
    wanted = torch.autograd.grad(sum(slow.values()), list(trained.values()))
    for name, a, b in zip(trained, found, wanted):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5, msg=lambda text: f"{name}: {text}")


def test_generation_and_feedback_together_have_the_gradient_of_the_weighted_loss(compare, monkeypatch):
    """Eq. 14 in one term, through which both the weights and the errors learn."""
    case = compare()
    fast, plain = case.fast_parts(monkeypatch), case.plain()
    users, lambda_1 = case.inputs[3].tolist(), case.model.config["lambda_1"]
    rows = [plain.train_row(*row) for row in zip(case.histories, users, case.t.tolist(), case.noise)]
    whole = lambda_1 * sum(row.weight @ row.errors for row in rows) / len(rows)
    trained = list(case.model.parameters())
    options = {"allow_unused": True, "materialize_grads": True}
    found = torch.autograd.grad(fast["generation"] + fast["feedback"], trained, **options)
    for a, b in zip(found, torch.autograd.grad(whole, trained, **options)):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


PLAIN_INFERENCE = [
    {"corruption_steps": 8},
    {"corruption_steps": 0},
    {"corruption_steps": 5},
    *(settings for settings, _ in PLAIN_CASES[3:] if "feedback" not in settings),
]


@pytest.mark.parametrize("settings", PLAIN_INFERENCE, ids=name_of)
def test_inference_equals_the_plain_chain_with_the_same_noise(compare, settings, monkeypatch):
    case = compare(**settings)
    if case.model.generates:
        monkeypatch.setattr(case.model.noise, "forward", lambda keys: case.noise)
    case.model.eval()
    with torch.no_grad():
        plain = case.plain()
        users = torch.stack([plain.encode(*row) for row in zip(case.histories, case.noise)])
        torch.testing.assert_close(case.model.encode(*case.inputs[:2]), users, atol=1e-5, rtol=1e-5)
        scores = torch.stack([plain.scores(*row) for row in zip(case.histories, case.noise)])
        torch.testing.assert_close(case.model.full_sort_predict(case.batch), scores, atol=1e-5, rtol=1e-5)


# The bank


def test_the_bank_holds_the_training_sessions_and_nothing_else(tmp_path):
    folder = write_split(tmp_path, TRAIN, [[1, 4, 6]], [[2, 5, 1]])
    model, loaders = build(folder, k_neighbors=2)
    tokens = loaders[0]._dataset.field2id_token["item_id"]
    held = [[int(tokens[i]) for i in row[:n]] for row, n in zip(model.bank_items.tolist(), model.bank_lengths.tolist())]
    assert sorted(held) == sorted(TRAIN)
    shown, _ = build(folder, k_neighbors=2, bank_sessions="input")
    held = [[int(tokens[i]) for i in row[:n]] for row, n in zip(shown.bank_items.tolist(), shown.bank_lengths.tolist())]
    assert sorted(held) == sorted(items[:-1] for items in TRAIN)


def test_a_training_query_never_gets_its_own_session(tmp_path):
    model, loaders = build(write_split(tmp_path, TRAIN, [[1, 4, 6]], [[2, 5, 1]]), k_neighbors=len(TRAIN) - 1)
    batch = next(iter(loaders[0]))
    tables = model.eval()._item_tables()
    session, _ = model._represent(batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN], tables)
    neighbours, _ = model._retrieve(session, tables[0], batch[model.USER_ID])
    bank = model._session_bank().vectors
    for user, found in zip(batch[model.USER_ID].tolist(), neighbours):
        own = int(model.bank_row[user])
        assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, bank[torch.arange(len(bank)) != own].tolist()))


def test_retrieved_neighbours_are_the_best_scored(tmp_path):
    model, _ = build(write_split(tmp_path, TRAIN, [[1, 4, 6]], [[2, 5, 1]]), k_neighbors=2)
    model.eval()
    session = torch.randn(3, SMALL["hidden_size"])
    neighbours, similarity = model._retrieve(session, model.item_vectors())
    bank = model._session_bank()
    best = (model.scorer.tower(session) @ model.scorer.tower(bank.vectors).t()).topk(2)
    torch.testing.assert_close(neighbours, bank.vectors[best.indices])
    torch.testing.assert_close(similarity, best.values, atol=1e-5, rtol=1e-5)


def train_steps(model, batch, n_steps):
    """Banks that were searched in each step of a training with a high learning rate."""
    optimizer, banks = torch.optim.SGD(model.parameters(), lr=0.5), []
    for _ in range(n_steps):
        optimizer.zero_grad()
        sum(model.calculate_loss(batch)).backward()
        optimizer.step()
        banks.append(model._bank)
    return banks


def test_neighbours_in_training_are_seen_with_the_weights_of_the_step(tmp_path):
    settings = {"k_neighbors": 2, "bank_refresh": 0, "graph_dropout": 0.0, "retriever_dropout": 0.0}
    model, loaders = build(write_split(tmp_path, TRAIN, [[1, 4, 6]], [[2, 5, 1]]), **settings)
    batch = next(iter(loaders[0]))
    train_steps(model.train(), batch, 3)
    ids, old = model.item_vectors(), model._bank
    session, _ = model._represent(batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN], (ids, None))
    neighbours, similarity = model._retrieve(session, ids)
    nearest = model.scorer.nearest(session, old.index, 2)
    model.eval()
    current = model._session_bank().vectors
    torch.testing.assert_close(neighbours, current[nearest])
    assert not torch.allclose(neighbours, old.vectors[nearest], atol=1e-3) and not neighbours.requires_grad
    torch.testing.assert_close(similarity, model.scorer.pairs(session, current[nearest]))


@pytest.mark.parametrize("refresh, n_banks", [(0, 1), (2, 3), (1, 5)])
def test_the_bank_is_encoded_anew_after_some_steps(tmp_path, refresh, n_banks):
    model, loaders = build(write_split(tmp_path, TRAIN, [[1, 4, 6]], [[2, 5, 1]]), k_neighbors=2, bank_refresh=refresh)
    banks = train_steps(model.train(), next(iter(loaders[0])), 5)
    assert len({id(bank) for bank in banks}) == n_banks
    assert all(torch.isfinite(bank.vectors).all() for bank in banks)


def test_a_bank_without_enough_sessions_is_refused(tmp_path):
    from recbole_diffusion.errors import UsageError

    folder = write_split(tmp_path, TRAIN, [[1, 4, 6]], [[2, 5, 1]])
    with pytest.raises(UsageError, match="k_neighbors 6 is not smaller than the bank, 6 training sessions"):
        build(folder, k_neighbors=6)


# Leaks


def scores_of_test_users(folder, **settings):
    model, loaders = build(folder, k_neighbors=2, **settings)
    model.eval()
    with torch.no_grad():
        return torch.cat([model.full_sort_predict(batch[0]) for batch in loaders[2]])


def test_no_score_depends_on_a_test_target_unless_the_graph_leaks(tmp_path):
    """The same weights on the same data but for the label of a test session."""
    first = write_split(tmp_path / "a", TRAIN, [[1, 4, 6]], [[2, 5, 1]])
    second = write_split(tmp_path / "b", TRAIN, [[1, 4, 6]], [[2, 5, 4]])
    assert torch.equal(scores_of_test_users(first), scores_of_test_users(second))
    leaking = [scores_of_test_users(folder, graph_source="all") for folder in (first, second)]
    assert not torch.equal(*leaking)


def scores_after_an_epoch(folder, part, **settings):
    """Validation (1) or test (2) scores of a model that was trained on whatever the files let it see."""
    model, loaders = build(folder, name="cycle", **settings)
    optimizer = torch.optim.Adam(model.train().parameters(), lr=0.01)
    for batch in loaders[0]:
        optimizer.zero_grad()
        sum(model.calculate_loss(batch)).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        return torch.cat([model.full_sort_predict(batch[0]) for batch in loaders[part]])


def write_with_another(place, users, folder, features):
    """Sequences in which some users, not the first ones, which number the items, have another item at a place."""
    sequences = cycle_sequences()
    for user in users:
        sequences[user][place] = sequences[user][place] % 12 + 1
    folder = write_sequences(sequences, folder, "cycle")
    if features:
        write_features(folder)
    return folder


@pytest.mark.parametrize(
    "features, settings",
    [(False, {}), (True, {}), (True, {"fusion": "late"}), (True, {"neighbors": "observable"})],
    ids=["no features", "contrast", "late", "observable"],
)
def test_leave_one_out_scores_do_not_depend_on_the_targets(features, settings, tmp_path):
    changed = [20, 31, 39]
    base = write_with_another(-1, [], tmp_path / "base", features)
    valid = write_with_another(-2, changed, tmp_path / "valid", features)
    test = write_with_another(-1, changed, tmp_path / "test", features)
    wanted = [scores_after_an_epoch(base, part, **settings) for part in (1, 2)]

    assert torch.equal(scores_after_an_epoch(valid, 1, **settings), wanted[0])
    assert torch.equal(scores_after_an_epoch(test, 1, **settings), wanted[0])
    assert torch.equal(scores_after_an_epoch(test, 2, **settings), wanted[1])
    others = (scores_after_an_epoch(valid, 2, **settings) != wanted[1]).any(1)
    assert others.nonzero().squeeze(1).tolist() == changed  # the item is known to the test, but of its own user only


def test_leave_one_out_targets_show_when_the_graph_leaks(tmp_path):
    base = write_with_another(-1, [], tmp_path / "base", True)
    leaking = {part: scores_after_an_epoch(base, part, graph_source="all") for part in (1, 2)}
    for place, part in ((-2, 1), (-1, 2)):
        folder = write_with_another(place, [39], tmp_path / f"other{part}", True)
        assert not torch.equal(scores_after_an_epoch(folder, part, graph_source="all"), leaking[part])


def test_a_leaking_graph_warns_and_marks_its_results(tmp_path, caplog, capsys):
    from recbole_diffusion.cli import main

    folder = write_split(tmp_path, TRAIN * 3, [[1, 4, 6]], [[2, 5, 1]])
    settings = make_config("DiffSBR", folder, "shop", **{**SMALL, **SPLIT, "epochs": 1}).external_config_dict
    assert run("DiffSBR", "shop", config_dict=settings)["leaks_test_labels"] is False
    assert "LEAKS" not in caplog.text
    assert run("DiffSBR", "shop", config_dict={**settings, "graph_source": "all"})["leaks_test_labels"] is True
    assert "graph_source: all LEAKS" in caplog.text
    words = [f"--{key}={value}" for key, value in {**settings, "graph_source": "all"}.items() if key not in ("model", "dataset")]
    assert main(["--model=DiffSBR", "--dataset=shop", *words]) == 0
    assert "These figures LEAK" in capsys.readouterr().out


# Diffusion, fusion, modality


def test_the_fusion_weight_is_the_same_in_training_and_evaluation(tmp_path):
    model, _ = build(write_split(tmp_path, TRAIN, [[1, 4, 6]], [[2, 5, 1]]), k_neighbors=2)
    session, latent = torch.randn(2, 16), torch.randn(2, 16)
    model.balance.data.fill_(math.log(3))
    for mode in (True, False):
        torch.testing.assert_close(model.train(mode)._combine(session, None, latent), 0.75 * session + 0.25 * latent)


def test_text_embeddings_survive_the_initialisation(tmp_path):
    folder = write_sequences(cycle_sequences(), tmp_path, "cycle")
    write_features(folder)
    model, loaders = build(folder, name="cycle")
    stored = np.load(f"{folder}/cycle/cycle.features.npz")
    tokens = list(loaders[0]._dataset.field2id_token["item_id"])
    rows = [tokens.index(token) for token in stored["tokens"]]
    torch.testing.assert_close(model.feature_embedding.weight[rows].detach(), torch.tensor(stored["vectors"]))
    assert not model.feature_embedding.weight[0].any()


def test_feedback_pushes_up_the_neighbours_that_help(tmp_path):
    """Gradient of the retriever's logits: w_j (L_j - sum w L), and pairs in the order of their losses."""
    model, _ = build(write_split(tmp_path, TRAIN, [[1, 4, 6]], [[2, 5, 1]]), k_neighbors=3)
    error = torch.tensor([[0.1, 0.5, 0.9]])
    for feedback in ("weighted", "ranking"):
        model.config["feedback"] = feedback
        similarity = torch.zeros(1, 3, requires_grad=True)
        weight = similarity.softmax(-1)
        (gradient,) = torch.autograd.grad(model._feedback(similarity, weight, error), similarity)
        assert gradient[0, 0] < 0 < gradient[0, 2] and gradient.sum().abs() < 1e-6
        if feedback == "weighted":
            wanted = (weight * (error - (weight * error).sum())).detach()
            torch.testing.assert_close(gradient, wanted)


def test_alignment_on_a_sample_is_an_unbiased_share_of_the_whole(tmp_path):
    folder = write_sequences(cycle_sequences(), tmp_path, "cycle")
    write_features(folder)
    model, _ = build(folder, name="cycle")
    ids, looks = torch.randn(13, 16), torch.randn(13, 16)
    model.config["alignment_items"] = 0
    whole = model._align(ids, looks)
    logits = F.normalize(ids[1:], dim=-1) @ F.normalize(looks[1:], dim=-1).t() / 0.3
    torch.testing.assert_close(whole, F.cross_entropy(logits, torch.arange(12)))
    model.config["alignment_items"] = 4
    torch.manual_seed(0)
    mean = torch.stack([model._align(ids, looks) for _ in range(600)]).mean()
    torch.testing.assert_close(mean, whole, atol=0.05, rtol=0)


# Sessions from ready-made files


def test_train_last_only_or_every_prefix(tmp_path):
    folder = write_split(tmp_path, TRAIN, [[1, 4, 6]], [[2, 5, 1]])

    def examples(**settings):
        loaders = build(folder, k_neighbors=2, **settings)[1]
        tokens, found = loaders[0]._dataset.field2id_token["item_id"], []
        for batch in loaders[0]:
            for row, n, y in zip(batch["item_id_list"].tolist(), batch["item_length"].tolist(), batch["item_id"].tolist()):
                found.append([int(tokens[i]) for i in [*row[:n], y]])
        return sorted(found)

    assert examples() == sorted(TRAIN)
    assert examples(train_last_only=False) == sorted(t[:n] for t in TRAIN for n in range(2, len(t) + 1))


def test_sknn_scores_are_those_of_a_loop(tmp_path):
    model, loaders = build(write_split(tmp_path, TRAIN, [[1, 4, 6]], [[2, 5, 1]]), "SKNN", n_neighbors=5)
    tokens = [str(token) for token in loaders[0]._dataset.field2id_token["item_id"]]
    batch = next(iter(loaders[2]))[0]
    query = {2, 5}
    overlaps = [len(query & set(s)) / math.sqrt(len(query) * len(s)) for s in TRAIN]
    found = model.full_sort_predict(batch)[0]
    order = torch.tensor(overlaps).topk(5).indices.tolist()
    for item in range(1, 7):
        wanted = sum(overlaps[j] for j in order if item in TRAIN[j])
        assert found[tokens.index(str(item))].item() == pytest.approx(wanted, abs=1e-6)


def test_sknn_runs_and_finds_the_group(tmp_path):
    folder = write_sequences(group_sequences(), tmp_path, "cycle")
    settings = make_config("SKNN", folder, mask_history=True, n_neighbors=20).external_config_dict
    assert run("SKNN", "cycle", config_dict=settings)["test_result"]["hit@1"] == 1.0
