"""What RecBole's filters and order get wrong: rows that go, duplicates of one moment, times beyond float32."""

import numpy as np
import pytest

from recbole_diffusion import run
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.errors import UsageError
from recbole_diffusion.testing import make_config

FEW = {"SimDiffRec": {"k_noise": 3, "k_sample": 3}}  # items
HEADER = "user_id:token\titem_id:token\ttimestamp:float"


def write(folder, rows, header=HEADER, **files):
    """Atomic files of a data set from rows of values."""
    target = folder / "cycle"
    target.mkdir()
    (target / "cycle.inter").write_text("\n".join([header, *("\t".join(map(str, row)) for row in rows)]) + "\n")
    for suffix, text in files.items():
        (target / f"cycle.{suffix}").write_text(text)
    return str(folder)


def kept(data):
    """Interactions after the filters as (user, item) tokens, in order."""
    names = [data.id2token(field, data.inter_feat[field].to_numpy()) for field in ("user_id", "item_id")]
    return list(zip(*(column.tolist() for column in names)))


def good_rows(n_users=5, n_items=6):
    return [(f"u{user}", f"i{(user + step) % n_items}", step) for user in range(n_users) for step in range(5)]


@pytest.mark.parametrize("model", ["SASRec", "DIEN", "SimDiffRec"])
def test_exactly_the_rows_without_user_or_item_go(tmp_path, caplog, model):
    good = good_rows()
    broken = [(3, ("", "i1", 7)), (4, ("u1", "", 8)), (9, ("u2", "", 8)), (9, ("", "i2", 1)), (20, ("", "", 1))]
    rows = list(good)
    for place, row in reversed(broken):
        rows.insert(place, row)
    data = create_dataset(make_config(model, write(tmp_path, rows)))
    assert kept(data) == [row[:2] for row in good]
    assert "5 of 30 rows of inter_feat have no user_id or no item_id and are left out, the first is row 4" in caplog.text


def test_rows_of_the_item_file_without_an_item_go(tmp_path, caplog):
    items = "item_id:token\tclass:token\n" + "".join(f"{name}\tc{name}\n" for name in ("i0", "", "i1", "", "i2", "i3", "i4", "i5"))
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "class"]}
    settings = {"load_col": columns, "selected_features": ["class"]}
    data = create_dataset(make_config("GRU4RecF", write(tmp_path, good_rows(), item=items), **settings))
    classes = dict(zip(data.id2token("item_id", data.item_feat["item_id"].to_numpy()), data.item_feat["class"].to_numpy()))
    assert data.id2token("class", np.array([classes[f"i{n}"] for n in range(6)], dtype=int)).tolist() == [f"ci{n}" for n in range(6)]
    assert "rows of item_feat have no item_id" in caplog.text


def test_of_duplicates_in_one_moment_the_order_of_the_file_decides(tmp_path):
    rows = [(f"u{n % 3}", f"i{n % 20}", 1, n) for n in range(600)]  # many of each, all at once
    folder = write(tmp_path, rows, HEADER + "\trow:float")
    columns = {"inter": ["user_id", "item_id", "timestamp", "row"]}
    for keep, wanted in (("first", range(60)), ("last", range(540, 600))):
        data = create_dataset(make_config("SASRec", folder, load_col=columns, rm_dup_inter=keep))
        assert data.inter_feat["row"].tolist() == list(wanted)
    with pytest.raises(UsageError, match="rm_dup_inter: last needs the time field 'timestamp' in load_col"):
        create_dataset(make_config("SASRec", folder, load_col={"inter": ["user_id", "item_id"]}, rm_dup_inter="last"))


def test_filters_one_after_the_other_drop_what_each_of_them_means(tmp_path):
    rows = [(user, item, time, "12"[time % 2], time % 3) for user, item, time in good_rows(9, 9)]
    rows.insert(2, ("", "i1", 3, "1", 1))
    rows.insert(5, ("u0", "", 3, "1", 1))
    folder = write(tmp_path, rows, HEADER + "\tkind:token\trating:float")
    data = create_dataset(make_config(
        "SASRec", folder, load_col={"inter": ["user_id", "item_id", "timestamp", "kind", "rating"]}, rm_dup_inter="first",
        val_interval={"kind": [1], "rating": "[1,inf)"}, user_inter_num_interval="[1,inf)",
    ))  # fmt: skip
    wanted = [row[:2] for row in rows if row[0] and row[1] and row[3] == "1" and row[4] >= 1]
    assert sorted(kept(data)) == sorted(wanted) and wanted


# Order


def interleaved(start=1_500_000_030):
    """Users who take turns second by second: in float32 such seconds are the same for two minutes at a time."""
    turns = [(f"u{turn % 4}", f"i{turn % 7}", start + turn) for turn in range(80)]
    return turns, sorted(turns)


def users_of(data, part):
    return [str(token) for token in data.id2token("user_id", part.inter_feat["user_id"].numpy())]


def test_a_split_over_all_users_is_exact_in_time(tmp_path):
    turns, by_user = interleaved()
    settings = {"eval_args": {"split": {"RS": [0.6, 0.2, 0.2]}, "group_by": "none", "order": "TO", "mode": "full"}}
    config = make_config("SASRec", write(tmp_path, by_user), **settings)
    data = create_dataset(config)
    parts = [loader._dataset for loader in build_loaders(config, data)]
    examples = turns[4:]  # the first turn of every user is no target
    assert [user for part in parts for user in users_of(data, part)] == [user for user, _, _ in examples]
    assert [len(part) for part in parts] == [46, 15, 15]


def test_a_split_at_a_moment_is_exact(tmp_path):
    turns, by_user = interleaved()
    settings = {"eval_args": {"split": {"TS": [0.6, 0.2, 0.2]}, "order": "TO", "mode": "full"}}
    config = make_config("SASRec", write(tmp_path, by_user), **settings)
    data = create_dataset(config)
    train, valid, test = (loader._dataset for loader in build_loaders(config, data))
    assert sorted(users_of(data, test)) == sorted(user for user, _, _ in turns[-15:])
    assert len(train) + len(valid) == 61 and test.inter_feat["timestamp"].dtype == train[[0]]["timestamp"].dtype
    assert str(test.inter_feat["timestamp"].dtype) == "torch.float32"


@pytest.mark.parametrize("model", ["SASRec", "SimDiffRec", "DiffSBR", "SKNN", "DIN"])
@pytest.mark.parametrize("mode", ["full", "uni5"])
def test_users_of_some_parts_only_are_no_trouble(tmp_path, model, mode):
    rows = [(f"u{block}{user}", f"i{(user + step) % 9}", 100 * block + step) for block in range(5) for user in range(4) for step in range(5)]
    args = {"split": {"RS": [0.6, 0.2, 0.2]}, "group_by": "none", "order": "TO", "mode": mode}
    config = make_config(model, write(tmp_path, rows), eval_args=args, topk=[5], valid_metric="MRR@5", epochs=1, **FEW.get(model, {}))
    found = run(model, "cycle", config_dict=config.external_config_dict)
    assert 0 <= found["test_result"]["mrr@5"] <= 1


def test_an_error_of_recbole_in_the_first_batch_is_one_line(tmp_path):
    config = make_config("SASRecCPR", write(tmp_path, good_rows()), topk=[5], valid_metric="MRR@5", epochs=1)
    with pytest.raises(UsageError, match="RecBole's SASRecCPR fails in its first batch with these data: selected index k"):
        run("SASRecCPR", "cycle", config_dict=config.external_config_dict)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])  # read by pyarrow, whose columns know all names, and by pandas
def test_filters_of_nothing_are_one_line(tmp_path, encoding):
    items = "item_id:token\tclass:token\n" + "".join(f"x{n}\tc{n}\n" for n in range(4))
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "class"]}
    config = make_config("SimDiffRec", write(tmp_path, good_rows(), item=items), load_col=columns, filter_inter_by_user_or_item=True,
                         item_inter_num_interval="[1,inf)", encoding=encoding)  # fmt: skip
    with pytest.raises(UsageError, match="the filters leave nothing of dataset 'cycle'"):
        create_dataset(config)
