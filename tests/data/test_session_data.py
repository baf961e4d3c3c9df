"""Session data sets by ready-made split files: the settings of the known sets, their counts, and broken files."""

from pathlib import Path

import pytest

from recbole_diffusion.cli import main
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.settings.properties import load_yaml, property_file
from recbole_diffusion.training import trainer
from recbole_diffusion.training.records import data_counts

SESSION_SETS = ["cellphones", "grocery", "games-session", "diginetica"]
HEADER = "session_id:token\titem_id_list:token_seq\titem_id:token\n"
ROWS = {0: "s1\ta b\tc\ns1\ta\tb\ns2\tc\ta\n", 1: "s3\tb c\ta\n", 2: "s4\td a\tb\n"}
SMALL = {"topk": [1, 2], "valid_metric": "MRR@2", "use_gpu": False, "show_progress": False}


def write(name, header=HEADER, rows=ROWS):
    folder = Path("dataset") / name
    folder.mkdir(parents=True, exist_ok=True)
    for place, part in enumerate(load_yaml(property_file("dataset", name))["benchmark_filename"]):
        (folder / f"{name}.{part}.inter").write_text(header + rows[place])


@pytest.fixture
def no_training(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("training started")

    monkeypatch.setattr(trainer.EpochsMixin, "fit", fail)


pytestmark = pytest.mark.usefixtures("no_training")


def refused(capsys, name, *words):
    settings = [f"--{key}={value}" for key, value in SMALL.items()]
    assert main(["--model=SASRec", f"--dataset={name}", *settings, *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


@pytest.mark.parametrize("name", SESSION_SETS)
@pytest.mark.parametrize("model", ["SASRec", "SimDiffRec"])
def test_settings_of_the_known_sets(name, model):
    write(name)
    config = DiffusionConfig(model, name, config_dict={**SMALL, "expected_counts": None})
    data = create_dataset(config)
    assert data_counts(data) == {"users": 4, "items": 4, "interactions": 5}
    train, valid, test = (loader._dataset for loader in build_loaders(config, data))
    assert [len(part) for part in (train, valid, test)] == [3, 1, 1]
    tokens = data.field2id_token["item_id"]
    example = test[[0]]
    assert tokens[example["item_id_list"][0, :2]].tolist() == ["d", "a"], "lists and targets share their numbers"
    assert tokens[example["item_id"].item()] == "b"
    assert config["MAX_ITEM_LIST_LENGTH"] == 20


@pytest.mark.parametrize("name", SESSION_SETS)
def test_other_counts_than_those_of_the_set_are_refused(name, capsys):
    write(name)
    text = refused(capsys, name)
    assert "has 4 users, 4 items, 5 interactions after filtering, expected" in text


def test_counts_hold_items_of_histories(capsys):
    write("grocery")
    assert "has 4 users, 4 items, 5" in refused(capsys, "grocery", "--expected_counts={users: 4, items: 3, interactions: 5}")
    config = {**SMALL, "expected_counts": {"users": 4, "items": 4, "interactions": 5}}
    create_dataset(DiffusionConfig("SASRec", "grocery", config_dict=config))


@pytest.mark.parametrize(
    "header, rows, expected",
    [
        ("session_id:token\titem_id:token\n", dict.fromkeys(range(3), "s1\ta\n"), "has no column 'item_id_list'"),
        (HEADER.replace("session_id", "user_id"), ROWS, "has no column 'session_id'"),
        (HEADER.replace(":token_seq", ""), ROWS, "header cell 'item_id_list' is not field:type"),
        (HEADER, {**ROWS, 1: "s3\t\ta\n"}, "example 4 has an empty history"),
        (HEADER, {**ROWS, 1: ""}, "holds a header but no rows"),
        (HEADER, {**ROWS, 0: "s1\ta\tb\ns2\ta\n"}, "fit.inter line 3 has 2 of 3 columns"),
        (HEADER, {**ROWS, 0: "s1\ta\tb\ns2\ta\tNA\n"}, "fit.inter row 2: no value in column 'item_id' (1 such rows)"),
        (HEADER, {**ROWS, 2: "s4\ta\tb\ns5\ta\t\n"}, "test.inter row 2: no value in column 'item_id'"),
        (HEADER, {**ROWS, 1: "\ta\tb\n"}, "valid.inter row 1: no value in column 'session_id'"),
    ],
)
def test_broken_session_files(capsys, header, rows, expected):
    write("grocery", header, rows)
    assert expected in refused(capsys, "grocery", "--expected_counts=~")


def test_lists_of_other_lengths_than_their_histories_are_refused(capsys):
    header = "session_id:token\titem_id_list:token_seq\titem_id:token\tprice_list:float_seq\tprice:float\n"
    rows = {0: "s1\ta b\tc\t1 2\t3\ns2\tb c\ta\t5\t6\n", 1: "s3\tb\ta\t1\t2\n", 2: "s4\td\tb\t1\t2\n"}
    write("grocery", header, rows)
    columns = "--load_col={inter: [session_id, item_id_list, item_id, price_list, price]}"
    text = refused(capsys, "grocery", "--expected_counts=~", columns)
    assert "example 2 has 1 values of 'price' for 2 items" in text


def test_missing_part(capsys):
    write("grocery")
    (Path("dataset") / "grocery" / "grocery.valid.inter").unlink()
    assert "file 'grocery.valid.inter' of dataset 'grocery' not found" in refused(capsys, "grocery")
