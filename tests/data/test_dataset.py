"""Index-based data: equal to RecBole's own, honest splits, both views, seen items, ready-made splits."""

import numpy as np
import pytest
import torch
from recbole.data.dataset import SequentialDataset
from recbole.data.utils import data_preparation

from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import LengthGroupedTrainDataLoader, build_loaders, group_by_length
from recbole_diffusion.testing import cycle_sequences, make_config, write_sequences


def random_sequences(seed=0, n_users=30, n_items=25, longest=15):
    random = np.random.default_rng(seed)
    return [random.integers(1, n_items + 1, size=random.integers(4, longest + 1)).tolist() for _ in range(n_users)]


@pytest.fixture
def folder(tmp_path):
    return write_sequences(random_sequences(), tmp_path, "cycle")


def rows(interaction, fields):
    """Comparable set of examples; histories without their padding."""
    columns = [interaction[field] for field in fields]
    return sorted(tuple(tuple(v for v in c[i].tolist() if v) if c.dim() > 1 else int(c[i]) for c in columns) for i in range(len(interaction)))


def examples(loader):
    return loader._dataset[np.arange(len(loader._dataset))]


def test_prefix_view_holds_the_examples_of_recbole(folder):
    config = make_config("SASRec", folder)
    ours = build_loaders(config, create_dataset(config))
    theirs = data_preparation(config, SequentialDataset(config))
    fields = ["user_id", "item_id_list", "item_length", "item_id"]
    for mine, recboles in zip(ours, theirs):
        assert rows(examples(mine), fields) == rows(recboles._dataset.inter_feat, fields)


def test_recbole_models_get_recboles_batches_to_the_last_column(folder):
    config = make_config("SASRec", folder)
    mine = examples(build_loaders(config, create_dataset(config))[2])
    recboles = data_preparation(config, SequentialDataset(config))[2]._dataset.inter_feat
    assert set(mine.columns) == set(recboles.columns)
    mine.sort("user_id")
    recboles.sort("user_id")
    for field in recboles.columns:
        assert torch.equal(mine[field], recboles[field]), field


def test_histories_are_cut_to_the_latest_items(tmp_path):
    folder = write_sequences([list(range(1, 16))] * 2, tmp_path, "cycle")
    config = make_config("SimDiffRec", folder, MAX_ITEM_LIST_LENGTH=4, train_view="prefix")
    data = create_dataset(config)
    test = examples(build_loaders(config, data)[2])
    assert test["item_length"].tolist() == [4, 4]
    assert data.id2token("item_id", test["item_id_list"]).tolist() == [["i11", "i12", "i13", "i14"]] * 2


@pytest.mark.parametrize("view", ["prefix", "sequence"])
def test_no_validation_or_test_target_in_any_training_row(tmp_path, view):
    sequences = [[user * 20 + step for step in range(1, 5 + user % 9)] for user in range(12)]  # no item twice
    config = make_config("SimDiffRec", write_sequences(sequences, tmp_path, "cycle"), train_view=view)
    loaders = build_loaders(config, create_dataset(config))
    train, valid, test = map(examples, loaders)
    met = set(train["item_id"].tolist()) | set(train["item_id_list"].flatten().tolist())
    assert met.isdisjoint(valid["item_id"].tolist()) and met.isdisjoint(test["item_id"].tolist())
    assert set(valid["item_id_list"].flatten().tolist()).isdisjoint(test["item_id"].tolist())


def test_sequence_view_holds_the_longest_prefix_of_each_user(folder):
    both = {}
    for view in ("prefix", "sequence"):
        config = make_config("SimDiffRec", folder, train_view=view, MAX_ITEM_LIST_LENGTH=20)
        both[view] = rows(examples(build_loaders(config, create_dataset(config))[0]), ["user_id", "item_id_list", "item_id"])
    longest = {}
    for user, history, target in both["prefix"]:
        longest[user] = max(longest.get(user, ((), 0)), (history, target), key=lambda pair: len(pair[0]))
    assert both["sequence"] == sorted((user, *pair) for user, pair in longest.items())


def test_order_within_tied_times_is_that_of_the_file(tmp_path):
    text = "user_id:token\titem_id:token\ttimestamp:float\n"
    text += "".join(f"u{u}\ti{i}\t{1_700_000_000 + (i > 3)}\n" for u in range(3) for i in (5, 1, 2, 3, 4))
    (tmp_path / "cycle").mkdir()
    (tmp_path / "cycle" / "cycle.inter").write_text(text)
    config = make_config("SimDiffRec", tmp_path)
    data = create_dataset(config)
    test = examples(build_loaders(config, data)[2])
    names = data.field2id_token["item_id"][test["item_id_list"]]
    assert names.tolist() == [["i1", "i2", "i3", "i5"]] * 3  # a second apart, which float32 cannot tell
    assert data.field2id_token["item_id"][test["item_id"]].tolist() == ["i4"] * 3


def test_seen_items_are_the_whole_history_and_not_only_the_latest(tmp_path):
    folder = write_sequences([list(range(1, 13)), list(range(5, 10))], tmp_path, "cycle")
    config = make_config("SimDiffRec", folder, MAX_ITEM_LIST_LENGTH=3, mask_history=True)
    data = create_dataset(config)
    interaction, (users, items), _, targets = next(iter(build_loaders(config, data)[2]))
    names = data.field2id_token["item_id"]
    seen = {(int(interaction["user_id"][u]), names[i]) for u, i in zip(users, items)}
    assert seen == {(1, f"i{k}") for k in range(1, 12)} | {(2, f"i{k}") for k in range(5, 9)}
    assert names[targets].tolist() == ["i12", "i9"]


def test_ready_made_splits_are_used_as_they_are(tmp_path):
    folder = tmp_path / "cycle"
    folder.mkdir()
    header = "session_id:token\titem_id_list:token_seq\titem_id:token\n"
    parts = {"fit": "s1\ta b c\td\ns2\tb\ta\n", "valid": "s3\tc d\ta\n", "test": "s4\td a b c d\tb\n"}
    for part, body in parts.items():
        (folder / f"cycle.{part}.inter").write_text(header + body)
    config = make_config(
        "SimDiffRec", tmp_path, benchmark_filename=list(parts), USER_ID_FIELD="session_id", MAX_ITEM_LIST_LENGTH=3,
        mask_history=True,
        topk=[1], valid_metric="MRR@1",
    )  # fmt: skip
    data = create_dataset(config)
    loaders = build_loaders(config, data)
    names = data.field2id_token["item_id"]
    read = [[(names[[i for i in r["item_id_list"][k] if i]].tolist(), str(names[r["item_id"][k]])) for k in range(len(r))] for r in map(examples, loaders)]
    assert read == [[(["a", "b", "c"], "d"), (["b"], "a")], [(["c", "d"], "a")], [(["b", "c", "d"], "b")]]
    _, (_, seen), _, _ = next(iter(loaders[2]))
    assert sorted(names[seen]) == ["a", "b", "c", "d", "d"]


def test_length_grouping_is_a_permutation_with_similar_lengths():
    lengths = np.random.default_rng(0).integers(1, 50, size=1003)
    generator = torch.Generator().manual_seed(0)
    order = group_by_length(lengths, 10, generator)
    assert sorted(order) == list(range(1003))
    spread = np.ptp(lengths[order[:1000]].reshape(100, 10), axis=1).mean()
    assert spread < 5 < np.ptp(lengths[:1000].reshape(100, 10), axis=1).mean()
    assert not np.array_equal(order, group_by_length(lengths, 10, generator))


def test_length_grouped_loader_shows_every_example_once(folder):
    config = make_config("SASRec", folder, trim_padding=True)
    loader = build_loaders(config, create_dataset(config))[0]
    assert isinstance(loader, LengthGroupedTrainDataLoader)
    fields = ["user_id", "item_id_list", "item_id"]
    seen = [row for batch in loader for row in rows(batch, fields)]
    assert sorted(seen) == rows(examples(loader), fields)


def test_missing_floats_are_filled_whatever_pandas_does(tmp_path):
    write_sequences(cycle_sequences(n_users=5), tmp_path, "cycle")
    file = tmp_path / "cycle" / "cycle.inter"
    lines = file.read_text().splitlines()
    lines = [lines[0] + "\trating:float"] + [f"{line}\t{'' if k % 7 == 0 else 4}" for k, line in enumerate(lines[1:])]
    file.write_text("\n".join(lines) + "\n")
    columns = {"inter": ["user_id", "item_id", "timestamp", "rating"]}
    data = create_dataset(make_config("SimDiffRec", tmp_path, load_col=columns))
    assert not data.inter_feat["rating"].isna().any() and (data.inter_feat["rating"] == 4).all()
