"""A data frame as data set: stored under the name of its content, found again by checkpoints and by --resume."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from recbole_diffusion import load_data_and_model, run
from recbole_diffusion.errors import UsageError
from recbole_diffusion.prepare.data_frames import with_frame_stored

SMALL = {"epochs": 1, "show_progress": False, "train_batch_size": 64, "topk": [5], "valid_metric": "MRR@5"}


def orders(n_users=20):
    """Users who walk round a ring of ten items, in a frame in no order."""
    rows = [(f"c{user}", (user + step) % 10, step) for user in range(n_users) for step in range(8)]
    frame = pd.DataFrame(rows, columns=["customer_id", "sku", "order_date"])
    frame["order_date"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(frame["order_date"], unit="D")
    return frame.sample(frac=1, random_state=0)


def test_a_frame_trains_and_its_checkpoint_finds_it_again(tmp_path, monkeypatch, capsys):
    result = run("SASRec", orders(), config_dict=SMALL)
    assert "columns: user 'customer_id' (guessed), item 'sku' (guessed), time 'order_date' (guessed)" in capsys.readouterr().out
    assert result["dataset_counts"] == {"users": 20, "items": 10, "interactions": 160}
    file = tmp_path / "saved" / "data" / result["dataset"] / f"{result['dataset']}.inter"
    assert file.read_text().splitlines()[:2] == ["user_id:token\titem_id:token\ttimestamp:float", "c13\t3\t1704067200"]
    monkeypatch.chdir(tmp_path.parent)
    checkpoint = tmp_path / result["checkpoint"]
    config, model, dataset, *_ = load_data_and_model(str(checkpoint))
    assert config["data_path"] == str(file.parent) and dataset.item_num == 11
    assert isinstance(model, torch.nn.Module)


def test_training_on_a_frame_is_resumed():
    whole = run("SASRec", orders(), config_dict={**SMALL, "epochs": 2, "checkpoint_dir": "whole"})
    run("SASRec", orders(), config_dict=SMALL)
    parts = run("SASRec", orders(), config_dict={**SMALL, "epochs": 2, "resume": True})
    assert parts["epochs"] == 2 and parts["test_result"] == whole["test_result"]


def test_equal_frames_share_a_file_and_others_do_not(tmp_path):
    frame = orders()
    place = {"data_path": str(tmp_path / "here")}
    name, _ = with_frame_stored(frame, place)
    file = tmp_path / "here" / name / f"{name}.inter"
    before = file.stat().st_mtime_ns
    assert with_frame_stored(frame.copy(), place)[0] == name and file.stat().st_mtime_ns == before
    changed = frame.copy()
    changed.loc[3, "sku"] = 9
    assert with_frame_stored(changed, place)[0] != name
    other, settings = with_frame_stored(frame, {**place, "USER_ID_FIELD": "customer_id"})
    assert other != name and settings["USER_ID_FIELD"] == "customer_id" and settings["ITEM_ID_FIELD"] == "item_id"


def test_names_and_numbers_and_categories_are_ids(tmp_path):
    frame = pd.DataFrame({"user": [1.0, 2.0, np.nan], "item": pd.Categorical(["a", "b", "a"]), "time": [1, 2, 3]})
    with pytest.warns(UserWarning, match="1 row.s. without user"):
        name, settings = with_frame_stored(frame, {"data_path": str(tmp_path)})
    assert (tmp_path / name / f"{name}.inter").read_text().splitlines()[1:] == ["1\ta\t1", "2\tb\t2"]


def test_a_name_is_handed_through():
    assert with_frame_stored("toy", None) == ("toy", None)


@pytest.mark.parametrize(
    "frame, settings, expected",
    [
        (pd.DataFrame({"a": [1], "item": [1], "time": [1]}), {}, "config_dict={'USER_ID_FIELD': COLUMN}"),
        (pd.DataFrame({"user": [1], "item": [1], "time": [1]}), {"TIME_FIELD": "tme"}, "no column 'tme', did you mean 'time'"),
        (pd.DataFrame([[1, 1, 1]], columns=["user", "item", "item"]), {}, "has the column 'item' twice"),
        (pd.DataFrame({"user": [1], "item": [1], "time": ["soon"]}), {}, "the data frame row 0: the time 'soon'"),
        (pd.DataFrame({"user": [1], "item": [1], "time": [None]}), {}, "row 0: the time is empty"),
        (pd.DataFrame({"user": [], "item": [], "time": []}), {}, "no rows"),
        (pd.DataFrame({"u:s": [1], "item": [1], "time": [1]}), {"USER_ID_FIELD": "u:s"}, "rename it"),
    ],
)
def test_refusals(frame, settings, expected):
    with pytest.raises(UsageError) as error, warnings.catch_warnings():
        warnings.simplefilter("error")
        with_frame_stored(frame, settings)
    assert expected in str(error.value) and "\n" not in str(error.value)
