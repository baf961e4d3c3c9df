"""Pseudo items: before histories of training only, never counted, never masked, and never of other data."""

import numpy as np
import pytest
import torch
from pseudo_files import write_pseudo_items

from recbole_diffusion import load_data_and_model, run
from recbole_diffusion.cli import main
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.cache import DataCache
from recbole_diffusion.data.dataset import training_item_counts
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.data.pseudo_items import histories_hash, read_pseudo_items
from recbole_diffusion.errors import UsageError
from recbole_diffusion.experiments.fingerprint import fingerprint
from recbole_diffusion.quick_start import prepare_data
from recbole_diffusion.testing import make_config, write_sequences

SEQUENCES = [[1, 2, 3, 4, 5, 6, 7], [3, 4, 5, 6], [8, 7, 6, 5, 4, 3, 2, 1, 2, 3, 4, 5], [1, 3, 5, 7, 2]]
PSEUDO = {0: [8, 8], 2: [1, 1], 3: [4, 6]}  # user 1 gets none


@pytest.fixture
def folder(tmp_path):
    folder = write_sequences(SEQUENCES, tmp_path, "cycle")
    write_pseudo_items(folder, PSEUDO)
    return folder


def parts_of(folder, model="SimDiffRec", **settings):
    config = make_config(model, folder, **{"k_noise": 3, "MAX_ITEM_LIST_LENGTH": 20, **settings} if model == "SimDiffRec" else settings)
    return create_dataset(config).build()


def examples(part):
    """(user, history, target) of every example, as numbers of SEQUENCES, sorted."""
    rows = part[np.arange(len(part))]
    name = [0, *(int(token[1:]) for token in part.field2id_token["item_id"][1:])]
    users = [int(part.field2id_token["user_id"][user][1:]) for user in rows["user_id"]]
    histories = [[name[item] for item in row[:n]] for row, n in zip(rows["item_id_list"].tolist(), rows["item_length"])]
    return sorted(zip(users, histories, (name[item] for item in rows["item_id"])))


@pytest.mark.parametrize("view", ["prefix", "sequence"])
def test_they_stand_before_histories_of_training_and_nowhere_else(folder, view):
    with_them, without = parts_of(folder, augmented="auto", train_view=view), parts_of(folder, train_view=view)
    expected = [(user, PSEUDO.get(user, []) + history, target) for user, history, target in examples(without[0])]
    assert examples(with_them[0]) == expected and len(expected) == (4 if view == "sequence" else 4 + 1 + 9 + 2)
    assert [examples(part) for part in with_them[1:]] == [examples(part) for part in without[1:]]
    told = with_them[0][np.arange(len(with_them[0]))]
    number = {user: len(PSEUDO.get(user, [])) for user in range(4)}
    users = [int(with_them[0].field2id_token["user_id"][user][1:]) for user in told["user_id"]]
    assert told["pseudo_length"].tolist() == [number[user] for user in users]


def test_recboles_models_get_them_with_all_fields_of_a_row(folder):
    part = parts_of(folder, "SASRec", augmented="auto", MAX_ITEM_LIST_LENGTH=6)[0]
    rows = part[np.arange(len(part))]
    assert rows["item_id_list"].shape == rows["timestamp_list"].shape == (len(part), 6)
    real = rows["item_id_list"] > 0
    assert torch.equal(real.sum(1), rows["item_length"])
    assert (rows["timestamp_list"].diff(dim=1)[real[:, 1:]] >= 0).all()


def test_long_histories_lose_them_first(folder):
    part = parts_of(folder, augmented="auto", train_view="prefix", MAX_ITEM_LIST_LENGTH=4)[0]
    of_user_2 = [history for user, history, _ in examples(part) if user == 2]
    assert sorted(of_user_2, key=len)[0] == [1, 1, 8] and [1, 8, 7, 6] in of_user_2 and [8, 7, 6, 5] in of_user_2
    told = part[np.arange(len(part))]
    assert told["pseudo_length"].max() == 2 and (told["pseudo_length"] <= told["item_length"] - 1).all()
    assert set(told["pseudo_length"].tolist()) == {0, 1, 2}


@pytest.mark.parametrize("view", ["prefix", "sequence"])
def test_nothing_that_counts_items_sees_them(folder, view):
    with_them, without = (parts_of(folder, augmented=file, train_view=view)[0] for file in ("auto", None))
    assert torch.equal(with_them.item_counts(), without.item_counts())
    assert torch.equal(training_item_counts(with_them), training_item_counts(without))
    for one, other in zip(with_them.transitions(), without.transitions()):
        assert torch.equal(one, other)
    for whole in (False, True):
        for one, other in zip(with_them.sessions(whole), without.sessions(whole)):
            assert torch.equal(one, other)
    assert histories_hash(with_them) == histories_hash(without)


def test_all_parts_on_demand_and_they_are_not_masked(folder):
    with_them, without = parts_of(folder, augmented="auto", augmented_parts="all"), parts_of(folder)
    for one, other in zip(with_them[1:], without[1:]):
        assert examples(one) == [(u, PSEUDO.get(u, []) + history, target) for u, history, target in examples(other)]
        rows = np.arange(len(one))
        assert all(torch.equal(a, b) for a, b in zip(one.history(rows), other.history(rows)))


def test_loaders_of_both_kinds_take_them(folder):
    for model, more in (("SASRec", {"trim_padding": True, "loss_type": "CE"}), ("SimDiffRec", {"k_noise": 3})):
        config = make_config(model, folder, augmented="auto", train_batch_size=3, **more)
        loader = build_loaders(config, create_dataset(config))[0]
        assert sum(len(batch) for batch in loader) == len(loader._dataset)


def test_a_hash_of_histories_does_not_depend_on_the_order_of_the_file(tmp_path):
    header = "user_id:token\titem_id:token\ttimestamp:float\n"
    rows = [f"u{u}\ti{item}\t{t}\n" for u, items in enumerate(SEQUENCES) for t, item in enumerate(items)]
    hashes = set()
    for name, lines in {"one": rows, "other": rows[::-1], "changed": ["u0\ti2\t0\n", *rows[1:]]}.items():
        (tmp_path / name / "cycle").mkdir(parents=True)
        (tmp_path / name / "cycle" / "cycle.inter").write_text(header + "".join(lines))
        hashes.add(histories_hash(parts_of(str(tmp_path / name))[0]))
    assert len(hashes) == 2


# What is refused


def refused(folder, **settings):
    with pytest.raises(UsageError) as error:
        parts_of(folder, **{"augmented": "auto", **settings})
    assert "\n" not in str(error.value) and "recbole-diffusion augment cycle" in str(error.value)
    return str(error.value)


def test_a_missing_file_names_the_command_that_makes_it(tmp_path, capsys):
    folder = write_sequences(SEQUENCES, tmp_path, "cycle")
    assert "cycle.augmented.npz' does not exist: make it with" in refused(folder)
    words = ["--model=SASRec", "--loss_type=CE", "--dataset=cycle", f"--data_path={folder}", "--augmented=auto"]
    assert main([*words, "--topk=[5]", "--valid_metric=MRR@5"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"recbole-diffusion augment cycle --data_path={folder}" in error


def test_files_of_something_else_are_refused(folder, tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    assert "no file of pseudo items" in refused(folder, augmented=str(tmp_path / "text.npz"))
    np.savez(tmp_path / "features.npz", tokens=np.array(["i1"]), vectors=np.ones((1, 2)), meta=np.str_("{}"))
    assert "no file of pseudo items" in refused(folder, augmented=str(tmp_path / "features.npz"))
    other = write_pseudo_items(folder, PSEUDO, path=tmp_path / "other.npz", dataset="beauty")
    assert "is of data set 'beauty', not of 'cycle'" in refused(folder, augmented=str(other))


def test_other_items_and_other_histories_are_refused(folder, tmp_path):
    own = str(tmp_path / "cycle" / "cycle.augmented.npz")
    changed = write_sequences([[*SEQUENCES[0][:-1], 9], *SEQUENCES[1:]], tmp_path / "items", "cycle")
    assert "is of other items (8) than data set 'cycle' has now (9)" in refused(changed, augmented=own)
    changed = write_sequences([[2, 1, *SEQUENCES[0][2:]], *SEQUENCES[1:]], tmp_path / "histories", "cycle")
    assert "was made from other training histories" in refused(changed, augmented=own)
    split = {"split": {"RS": [0.6, 0.2, 0.2]}, "order": "TO", "group_by": "user", "mode": "full"}
    assert "another split" in refused(folder, eval_args=split)
    changed = write_sequences([[*SEQUENCES[0][:-1], 8], *SEQUENCES[1:]], tmp_path / "test item", "cycle")
    assert parts_of(changed, augmented=own)[0].augmented["users"] == 3  # a test item is nothing that was seen


def test_ready_made_splits_are_refused(tmp_path):
    (tmp_path / "cycle").mkdir()
    for part in ("fit", "valid", "test"):
        text = "user_id:token\titem_id_list:token_seq\titem_id:token\nu1\ta b\tc\nu2\tc\ta\n"
        (tmp_path / "cycle" / f"cycle.{part}.inter").write_text(text)
    parts = {"benchmark_filename": ["fit", "valid", "test"], "topk": [1], "valid_metric": "MRR@1"}
    with pytest.raises(UsageError, match="ready-made splits .* remove it"):
        parts_of(str(tmp_path), augmented="auto", **parts)
    assert main(["augment", "cycle", f"--data_path={tmp_path}", "--benchmark_filename=[fit,valid,test]"]) == 2


def test_models_with_data_of_their_own_are_refused(folder):
    with pytest.raises(UsageError, match="KSR has data of its own: remove it"):
        create_dataset(make_config("KSR", folder, augmented="auto"))


# Runs


def settings_of(folder, **more):
    small = {"alpha": 0, "beta": 0, "hidden_size": 8, "inner_size": 16, "n_layers": 1, "epochs": 2}
    return make_config("SimDiffRec", folder, **{**small, "augmented": "auto", **more}).external_config_dict


def test_results_name_the_file_and_only_leaking_ones_leak(folder, tmp_path):
    result = run("SimDiffRec", "cycle", config_dict=settings_of(folder))
    assert result["augmented"]["fingerprint"] == "0123456789ab" and not result["leaks_test_labels"]
    assert "pseudo items: 2 before the history of 3 users" in str(result) and "LEAK" not in str(result)
    assert load_data_and_model(result["checkpoint"])[3]._dataset.augmented == result["augmented"]
    leaking = write_pseudo_items(folder, PSEUDO, path=tmp_path / "l.npz", settings={"guide_from": "train_valid"})
    result = run("SimDiffRec", "cycle", config_dict=settings_of(folder, augmented=str(leaking)))
    assert result["leaks_test_labels"] and "LEAK: the pseudo items were made from validation items" in str(result)


def test_resumption_and_kept_results_know_the_file_by_its_content(folder, tmp_path):
    first = run("SimDiffRec", "cycle", config_dict=settings_of(folder))
    before = fingerprint(make_config("SimDiffRec", folder, augmented="auto", k_noise=3))
    named = fingerprint(make_config("SimDiffRec", folder, augmented=str(tmp_path / "cycle" / "cycle.augmented.npz"), k_noise=3))
    assert named["data"] == before["data"] != fingerprint(make_config("SimDiffRec", folder, k_noise=3))["data"]
    write_pseudo_items(folder, {**PSEUDO, 3: [4, 7]})
    assert fingerprint(make_config("SimDiffRec", folder, augmented="auto", k_noise=3))["data"] != before["data"]
    again = settings_of(folder, epochs=3, resume=True)
    with pytest.raises(UsageError, match="was trained on other interactions"):
        run("SimDiffRec", "cycle", config_dict=again)
    write_pseudo_items(folder, PSEUDO)
    second = run("SimDiffRec", "cycle", config_dict=again)
    assert second["epochs"] == 3 and second["checkpoint"] == first["checkpoint"]
    whole = run("SimDiffRec", "cycle", config_dict=settings_of(folder, epochs=3, checkpoint_dir=str(tmp_path / "whole")))
    assert whole["test_result"] == second["test_result"] and whole["history"] == second["history"]


def test_data_in_memory_follow_the_file(folder, tmp_path):
    cache, elsewhere = DataCache(), tmp_path / "elsewhere.npz"
    write_pseudo_items(folder, PSEUDO, path=elsewhere)
    config = make_config("SimDiffRec", folder, augmented=str(elsewhere), k_noise=3)
    first = cache.get(config, prepare_data)[2][0]
    assert cache.get(config, prepare_data)[2][0].augmented == first.augmented and cache.hits == 1
    write_pseudo_items(folder, {0: [7]}, path=elsewhere)
    changed = cache.get(config, prepare_data)[2][0]
    assert changed.augmented["users"] == 1 and examples(changed) != examples(first) and cache.hits == 1
    assert len(read_pseudo_items(elsewhere).items) == 1
