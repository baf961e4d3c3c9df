"""DiffSBR: who is in the bank, no leak, what is fused, and sessions from ready-made files."""

import math

import numpy as np
import pytest
import torch
from session_files import SPLIT, TRAIN, write_split
from session_models import SMALL, build

from recbole_diffusion import run
from recbole_diffusion.testing import cycle_sequences, make_config, write_features, write_sequences

# The bank


def test_the_bank_holds_the_training_sessions_and_nothing_else(tmp_path):
    folder = write_split(tmp_path, TRAIN, [[1, 4, 6]], [[2, 5, 1]])
    model, loaders = build(folder, k_neighbors=2)
    tokens = loaders[0]._dataset.field2id_token["item_id"]
    held = [[int(tokens[i]) for i in row[:n]] for row, n in zip(model.bank.items.tolist(), model.bank.lengths.tolist())]
    assert sorted(held) == sorted(TRAIN)
    shown, _ = build(folder, k_neighbors=2, bank_sessions="input")
    held = [[int(tokens[i]) for i in row[:n]] for row, n in zip(shown.bank.items.tolist(), shown.bank.lengths.tolist())]
    assert sorted(held) == sorted(items[:-1] for items in TRAIN)


def test_a_training_query_never_gets_its_own_session(tmp_path):
    model, loaders = build(write_split(tmp_path, TRAIN, [[1, 4, 6]], [[2, 5, 1]]), k_neighbors=len(TRAIN) - 1)
    batch = next(iter(loaders[0]))
    tables = model.eval().item_tables()
    session, _ = model._represent(batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN], tables)
    neighbours, _ = model._retrieve(session, tables[0], batch[model.USER_ID])
    bank = model.encoded_bank().vectors
    for user, found in zip(batch[model.USER_ID].tolist(), neighbours):
        own = int(model.bank.row_of_user[user])
        assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, bank[torch.arange(len(bank)) != own].tolist()))


def test_retrieved_neighbours_are_the_best_scored(tmp_path):
    model, _ = build(write_split(tmp_path, TRAIN, [[1, 4, 6]], [[2, 5, 1]]), k_neighbors=2)
    model.eval()
    session = torch.randn(3, SMALL["hidden_size"])
    neighbours, similarity = model._retrieve(session, model.item_vectors())
    bank = model.encoded_bank()
    best = (model.scorer.tower(session) @ model.scorer.tower(bank.vectors).t()).topk(2)
    torch.testing.assert_close(neighbours, bank.vectors[best.indices])
    torch.testing.assert_close(similarity, best.values, atol=1e-5, rtol=1e-5)


def test_tables_of_items_are_kept_only_where_nothing_is_differentiated(tmp_path):
    model, loaders = build(write_split(tmp_path, TRAIN, [[1, 4, 6]], [[2, 5, 1]]), k_neighbors=2)
    model.eval()
    for _ in range(2):  # a kept graph could be gone through only once
        model.item_vectors().sum().backward()
    with torch.no_grad():
        assert model.item_vectors() is model.item_vectors()
    assert model.item_vectors().requires_grad


def train_steps(model, batch, n_steps):
    """Banks that were searched in each step of a training with a high learning rate."""
    optimizer, banks = torch.optim.SGD(model.parameters(), lr=0.5), []
    for _ in range(n_steps):
        optimizer.zero_grad()
        sum(model.calculate_loss(batch)).backward()
        optimizer.step()
        banks.append(model._encoded_bank)
    return banks


def test_neighbours_in_training_are_seen_with_the_weights_of_the_step(tmp_path):
    settings = {"k_neighbors": 2, "bank_refresh": 0, "graph_dropout": 0.0, "retriever_dropout": 0.0}
    model, loaders = build(write_split(tmp_path, TRAIN, [[1, 4, 6]], [[2, 5, 1]]), **settings)
    batch = next(iter(loaders[0]))
    train_steps(model.train(), batch, 3)
    ids, old = model.item_vectors(), model._encoded_bank
    session, _ = model._represent(batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN], (ids, None))
    neighbours, similarity = model._retrieve(session, ids)
    nearest = model.scorer.nearest(session, old.index, 2)
    model.eval()
    current = model.encoded_bank().vectors
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
    [(False, {}), (True, {}), (True, {"fusion": "late"}), (True, {"neighbors": "observable"}), (True, {"graph_folds": 3})],
    ids=["no features", "contrast", "late", "observable", "folds"],
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


@pytest.mark.parametrize("folds", [0, 3])
def test_leave_one_out_targets_show_when_the_graph_leaks(folds, tmp_path):
    settings = {"graph_source": "all", "graph_folds": folds}
    base = write_with_another(-1, [], tmp_path / "base", True)
    leaking = {part: scores_after_an_epoch(base, part, **settings) for part in (1, 2)}
    for place, part in ((-2, 1), (-1, 2)):
        folder = write_with_another(place, [39], tmp_path / f"other{part}", True)
        assert not torch.equal(scores_after_an_epoch(folder, part, **settings), leaking[part])


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
