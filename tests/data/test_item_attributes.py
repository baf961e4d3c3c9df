"""Attributes of items from the item file: which columns are read, what they say, and what is refused."""

import pytest
import torch
from item_files import write_items

from recbole_diffusion import Recommender, run
from recbole_diffusion.cli import main
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.experiments.fingerprint import data_hash
from recbole_diffusion.testing import cycle_sequences, make_config, write_sequences
from recbole_diffusion.training import trainer

COLOURS = {"i1": "red", "i2": "blue", "i3": "red", "i4": "", "i99": "red"}
WORDS = {"i1": "red blue", "i2": "blue  blue", "i3": "", "i4": "red"}


@pytest.fixture
def folder(tmp_path):
    return write_sequences(cycle_sequences(), tmp_path, "cycle")


def read(folder, choice, **settings):
    """Attribute -> {value: tokens of the items that have it}, values in the order of their numbers."""
    data, found = create_dataset(make_config("MGS", folder, **settings)), {}
    for name, (items, values) in data.item_attributes(choice).items():
        assert items.dtype == values.dtype == torch.long and len(items) == len(values)
        tokens = [str(data.field2id_token["item_id"][item]) for item in items]
        found[name] = [
            sorted(t for t, v in zip(tokens, values.tolist()) if v == value) for value in range(int(values.max()) + 1)
        ]
    return found


def test_a_column_of_single_tokens(folder, caplog):
    write_items(folder, COLOURS)
    caplog.set_level("INFO")
    assert read(folder, "category") == {"category": [["i1", "i3"], ["i2"]]}  # i99 does not occur, i4 has none
    assert "attribute category: 2 values, 9 of 12 items without" in caplog.text


def test_a_column_of_several_tokens(folder):
    write_items(folder, WORDS, "category:token_seq")
    assert read(folder, "category") == {"category": [["i1", "i4"], ["i1", "i2"]]}
    write_items(folder, {"i1": "a,b", "i2": "b"}, "category:token_seq")
    assert read(folder, "category", seq_separator=",") == {"category": [["i1"], ["i1", "i2"]]}


def test_auto_takes_the_first_usual_column_of_tokens(folder, caplog):
    caplog.set_level("WARNING")
    assert read(folder, "auto") == {} and "no attributes of items: MGS goes without" in caplog.text
    write_items(folder, {"i1": "9\tx", "i2": "9\ty"}, "category:float\tname:token")
    assert read(folder, "auto") == {}
    write_items(folder, {"i1": "x\ty", "i2": "x\ty"}, "brand:token\tclass:token_seq")
    assert list(read(folder, "auto")) == ["class"]
    assert read(folder, "brand, class") == {"brand": [["i1", "i2"]], "class": [["i1", "i2"]]}
    caplog.clear()
    assert read(folder, "none") == {} and not caplog.text


def test_other_columns_stay_unloaded(folder):
    write_items(folder, COLOURS)
    data = create_dataset(make_config("MGS", folder))
    before = dict(data.field2type)
    data.item_attributes("category")
    assert data.item_feat is None and data.field2type == before


REFUSED = [
    ("--attribute=categorie", "has no column 'categorie', did you mean 'category'?, it has item_id, category, price"),
    ("--attribute=zzz", "has no column 'zzz', it has item_id, category, price"),
    ("--attribute=category,zzz", "has no column 'zzz', it has item_id, category, price"),
    ("--attribute=category,category", "attribute 'category,category' names a column twice"),
    ("--attribute=price", "attribute 'price' is a column of numbers (float): it is for tokens"),
    ("--attribute=item_id", "attribute 'item_id' is a column of names: all of its values differ"),
    ("--attribute=[category]", "attribute must be of type str"),
    ("--n_mates=0", "n_mates must lie in [1, inf), got 0"),
    ("--n_rounds=0", "n_rounds must lie in [1, inf), got 0"),
    ("--tau=0", "tau must lie in (0, inf), got 0"),
    ("--mu=-1", "mu must lie in [0, inf), got -1"),
    ("--ssl_weight=-1", "ssl_weight must lie in [0, inf), got -1"),
    ("--eval_neighbours=some", "eval_neighbours must be one of all, keyed, random, got 'some'"),
    ("--ssl_reduction=max", "ssl_reduction must be one of mean, sum, got 'max'"),
    ("--ssl_padding=2", "ssl_padding must be of type bool"),
    ("--train_view=sequence", "MGS learns from the end of a history only: leave train_view at prefix"),
]


def refused(folder, capsys, *words):
    given = [
        "--MAX_ITEM_LIST_LENGTH=10",
        "--topk=[5]",
        "--valid_metric=MRR@5",
        "--show_progress=False",
        f"--data_path={folder}",
    ]
    assert main(["--model=MGS", "--dataset=cycle", *given, *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


@pytest.fixture
def no_training(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("training started")

    monkeypatch.setattr(trainer.EpochsMixin, "fit", fail)


@pytest.mark.parametrize("word, message", REFUSED)
def test_wrong_words_are_refused_in_one_line(folder, capsys, no_training, word, message):
    write_items(folder, {"i1": "red\t1.5", "i2": "red\t2"}, "category:token\tprice:float")
    assert message in refused(folder, capsys, word)


def test_files_that_say_nothing_are_refused_in_one_line(folder, capsys, no_training):
    assert "is a column of 'cycle.item', which dataset 'cycle' lacks: leave it out" in refused(
        folder, capsys, "--attribute=category"
    )
    write_items(folder, {"x1": "red", "x2": "blue"})
    assert "says nothing of the items of dataset 'cycle'" in refused(folder, capsys, "--attribute=category")
    write_items(folder, {"i1": "red", "i2": "red\tblue"})
    assert "wrong width" in refused(folder, capsys)


def test_what_a_run_keeps(folder):
    """The fingerprint knows the file; a checkpoint goes on where it stopped and recommends without data."""
    write_items(folder, {f"i{n}": f"c{n % 2}" for n in range(1, 13)})
    given = {"hidden_size": 8, "n_mates": 2, "epochs": 3, "attribute": "category"}
    config = make_config("MGS", folder, **given)
    settings, before = config.external_config_dict, data_hash(config)
    whole = run("MGS", "cycle", config_dict={**settings, "checkpoint_dir": f"{folder}/whole"})
    run("MGS", "cycle", config_dict={**settings, "epochs": 1, "checkpoint_dir": f"{folder}/parts"})
    resumed = run("MGS", "cycle", config_dict={**settings, "resume": True, "checkpoint_dir": f"{folder}/parts"})
    assert resumed["epochs"] == 3 and resumed["test_result"] == whole["test_result"]
    write_items(folder, {f"i{n}": f"c{n % 3}" for n in range(1, 13)})
    assert data_hash(config) != before
    recommender = Recommender.load(resumed["checkpoint"])
    kept = recommender.network.item_attributes["category"]
    assert len(kept[1].unique()) == 2  # those it was trained with
    assert len(recommender.recommend([["i1", "i2"]], k=5)[0]) == 5
