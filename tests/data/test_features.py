"""Feature files: what is joined to which item, what is reported, and what is refused."""

import logging

import numpy as np
import pytest
import torch

from recbole_diffusion.cli import main
from recbole_diffusion.data.features import features_file, load_item_features, save_item_features
from recbole_diffusion.errors import UsageError
from recbole_diffusion.testing import cycle_sequences, write_sequences

ITEMS = ["[PAD]", "i2", "i1", "i3"]
TOKENS = ["i1", "i2", "other", "i3"]
VECTORS = np.array([[1, 10], [2, 20], [9, 90], [3, 30]])


@pytest.fixture
def file(tmp_path):
    return tmp_path / "shop.features.npz"


def refused(*args, **kwargs):
    with pytest.raises(UsageError) as error:
        load_item_features(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_vectors_follow_the_item_numbers(file, caplog):
    save_item_features(file, TOKENS, VECTORS, {"made": "by hand"})
    with caplog.at_level(logging.INFO):
        table, report = load_item_features(file, ITEMS, width=2)
    assert table.dtype == torch.float32
    assert table.tolist() == [[0, 0], [2, 20], [1, 10], [3, 30]]
    assert report == {"matched": 3, "missing": 0, "extra": 1}
    assert "3 items matched, 0 missing (error), 1 extra" in caplog.text


def test_tokens_of_recbole_are_an_array(file):
    save_item_features(file, TOKENS, VECTORS, {})
    assert load_item_features(str(file), np.array(ITEMS))[0][1].tolist() == [2, 20]


@pytest.mark.parametrize("policy, row", [("mean", [1.5, 15]), ("zero", [0, 0])])
def test_missing_items(file, policy, row):
    save_item_features(file, TOKENS[:3], VECTORS[:3], {})
    table, report = load_item_features(file, ITEMS, missing=policy)
    assert table[3].tolist() == row and table[0].tolist() == [0, 0]
    assert report == {"matched": 2, "missing": 1, "extra": 1}


def test_missing_items_are_an_error_by_default(file):
    save_item_features(file, TOKENS[:2], VECTORS[:2], {})
    text = refused(file, [*ITEMS, "i4"])
    assert "lacks 2 of 4 items, the first is 'i3'" in text and "mean or zero" in text


def test_file_is_replaced_whole_and_needs_no_pickle(file):
    save_item_features(file, TOKENS, VECTORS, {})
    save_item_features(file, TOKENS, VECTORS + 1, {"made": "again"})
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    with np.load(file, allow_pickle=False) as archive:
        assert archive["vectors"].dtype == np.float32 and archive["vectors"][0].tolist() == [2, 11]
        assert str(archive["meta"]) == '{"made": "again"}'


def test_failed_write_leaves_the_old_file(file, monkeypatch):
    save_item_features(file, TOKENS, VECTORS, {})

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(UsageError, match="No space left on device"):
        save_item_features(file, TOKENS, VECTORS + 1, {})
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert load_item_features(file, ITEMS)[0][1].tolist() == [2, 20]


def test_default_place(tmp_path):
    assert features_file(str(tmp_path), "shop") == tmp_path / "shop" / "shop.features.npz"


def test_missing_file_says_how_to_build_it(tmp_path):
    text = refused(features_file(tmp_path, "shop"), ITEMS)
    assert "does not exist" in text and "recbole-diffusion features --dataset=shop" in text
    assert "--dataset=NAME" in refused(tmp_path / "mine.npz", ITEMS)


def test_unknown_policy(file):
    assert "'zeros' is unknown, did you mean 'zero'?" in refused(file, ITEMS, missing="zeros")


def test_wrong_width_and_no_matching_item(file):
    save_item_features(file, TOKENS, VECTORS, {})
    assert "has 2 values per item, 100 are expected" in refused(file, ITEMS, width=100)
    text = refused(file, ["[PAD]", "a", "b"], missing="zero")
    assert "none of the 2 items" in text and "'i1'" in text and "'a'" in text


@pytest.mark.parametrize(
    "content",
    [b"", b"tokens,vectors\n", b"PK\x03\x04 broken"],
    ids=["empty", "text", "broken archive"],
)
def test_other_files(file, content):
    file.write_bytes(content)
    assert "is no feature file" in refused(file, ITEMS)


def test_truncated_file(file):
    save_item_features(file, TOKENS, VECTORS, {})
    file.write_bytes(file.read_bytes()[:-40])
    assert "is no feature file" in refused(file, ITEMS)


def test_single_array_and_archive_without_vectors(file):
    with open(file, "wb") as stream:
        np.save(stream, VECTORS)
    assert "is no feature file" in refused(file, ITEMS)
    np.savez(file, tokens=TOKENS)
    assert "is no feature file" in refused(file, ITEMS)


def test_pickled_objects_are_not_read(file):
    np.savez(file, tokens=np.array(TOKENS, dtype=object), vectors=VECTORS)
    assert "is no feature file" in refused(file, ITEMS)


@pytest.mark.parametrize(
    "tokens, vectors, expected",
    [
        (TOKENS, VECTORS[:, 0], "vectors must be a table of numbers, not int64 of shape [4]"),
        (TOKENS, VECTORS.astype(str), "vectors must be a table of numbers"),
        (TOKENS, VECTORS[:, :0], "vectors must be a table of numbers"),
        ([1, 2, 3, 4], VECTORS, "tokens must be one list of texts"),
        (TOKENS[:3], VECTORS, "has 3 tokens for 4 vectors"),
        (["i1", "i2", "i1", "i3"], VECTORS, "holds the item 'i1' 2 times"),
        (TOKENS, np.where(VECTORS == 20, np.nan, VECTORS), "NaN or infinite values for 1 item(s), the first is 'i2'"),
        (TOKENS, np.where(VECTORS == 90, -np.inf, VECTORS), "the first is 'other'"),
        (TOKENS, np.where(VECTORS == 30, 1e300, VECTORS), "the first is 'i3'"),
    ],
)
def test_content_that_cannot_be_used(file, tokens, vectors, expected):
    np.savez(file, tokens=tokens, vectors=vectors)
    assert expected in refused(file, ITEMS)


def test_nothing_wrong_is_written(file):
    with pytest.raises(UsageError, match="3 tokens for 4 vectors"):
        save_item_features(file, TOKENS[:3], VECTORS, {})
    with pytest.raises(UsageError, match="NaN or infinite"):
        save_item_features(file, TOKENS, VECTORS * np.nan, {})
    assert not file.exists()


CYCLE = [f"i{number}" for number in range(1, 13)]


@pytest.mark.parametrize(
    "tokens, vectors, expected",
    [
        (CYCLE, np.where(np.eye(12, 8) > 0, np.nan, 1.0), "NaN or infinite values for 8 item(s)"),
        (CYCLE, np.ones((12, 5)), "has 5 values per item, 8 are expected"),
        ([f"other{number}" for number in range(12)], np.ones((12, 8)), "describes none of the 12 items of the data set"),
    ],
    ids=["NaN", "wrong width", "no matching item"],
)
def test_the_command_line_refuses_a_file_in_one_line(tmp_path, capsys, tokens, vectors, expected):
    folder = write_sequences(cycle_sequences(), tmp_path, "cycle")
    np.savez(features_file(folder, "cycle"), tokens=tokens, vectors=vectors)
    words = ["--model=DiffSBR", "--dataset=cycle", f"--data_path={folder}", "--hidden_size=8", "--use_gpu=False"]
    assert main([*words, "--topk=[1,5]", "--valid_metric=MRR@5"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    assert expected in error and "cycle.features.npz" in error
