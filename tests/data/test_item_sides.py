"""Prices by level and categories of items, from the item file."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from item_files import write_item_file

from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.errors import UsageError
from recbole_diffusion.prepare.extract import read_item_texts
from recbole_diffusion.testing import make_config, write_sequences

SEQUENCES = [[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]]
AS_USUAL = ("auto", "auto", 4)


@pytest.fixture
def prices(tmp_path):
    """Function: lines of an item file -> what a data set of the items i1 .. i6 finds there."""

    def find(lines, *choices, **settings):
        write_sequences(SEQUENCES, tmp_path, "cycle")
        if lines:
            write_item_file(tmp_path, lines)
        data = create_dataset(make_config("MMSBR", tmp_path, **settings))
        assert data.field2id_token["item_id"].tolist() == ["[PAD]", *(f"i{n}" for n in range(1, 7))]
        levels, categories = data.item_prices(*(choices or AS_USUAL))
        return [None if found is None else found.tolist() for found in (levels, categories)]

    return find


def test_levels_are_of_equal_width_within_a_category(prices):
    lines = ["price:float\titem_id:token\tcategory:token", "0\ti1\tB b", "10\ti2\tB b", "2.4\ti3\tB b", "2.5\ti4\tB b",
             "1000\ti5\tA", "1000\ti6\tA", "7\tunknown\tA"]  # fmt: skip
    # from 0 to 10 in four bins; where all cost the same, the middle; an item that is not in the data counts nowhere
    assert prices(lines) == [[0, 1, 4, 1, 2, 3, 3], [0, 2, 2, 2, 2, 1, 1]]
    assert prices(lines, "price", "none", 4) == [[0, 1, 1, 1, 1, 4, 4], None]
    assert prices(lines, "none", "auto", 4) == [None, None]


def test_unknown_prices_and_categories_are_0_and_the_last_of_a_list_counts(prices):
    lines = ["item_id:token\tcost:float\tcategories:token_seq", "i1\t1\tall shoes", "i2\t\tall shoes", "i3\tNA\tall hats",
             "i4\t3\tall shoes", "i5\t2\t", "i1\t99\tall hats"]  # fmt: skip
    assert prices(lines, "cost", "auto", 2) == [[0, 1, 0, 0, 2, 2, 0], [0, 2, 2, 1, 2, 0, 0]]
    assert prices(lines) == [None, None]  # no column price


def test_the_file_is_read_as_the_settings_say(prices):
    found = prices(["item_id:token\tprice:float\tcategory:token_seq", "i1\t5\tall/hats", "i2\t9\tall hats"], seq_separator="/")
    assert found == [[0, 3, 3, 0, 0, 0, 0], [0, 2, 1, 0, 0, 0, 0]]


def test_parquet_says_the_same(prices, tmp_path):
    write_sequences(SEQUENCES, tmp_path, "cycle")
    columns = {
        "item_id:token": ["i1", "i2", "i3", "i4", "i5", "i1"],
        "price:float": [1.0, None, float("nan"), 3.0, 2.0, 99.0],
        "categories:token_seq": [["all", "shoes"], ["all", "shoes"], ["all", "hats"], ["all", "shoes"], None, []],
    }
    path = tmp_path / "cycle" / "cycle.item.parquet"
    pq.write_table(pa.table(columns), path)
    assert prices(None, "auto", "auto", 2) == [[0, 1, 0, 0, 2, 2, 0], [0, 2, 2, 1, 2, 0, 0]]
    assert read_item_texts(path, "item_id", ["categories"])[0]["i2"] == "all shoes"
    damaged = bytearray(path.read_bytes())
    damaged[4:60] = b"?" * 56  # the pages, not the footer
    path.write_bytes(damaged)
    with pytest.raises(UsageError, match="^'[^:]*cycle.item.parquet' cannot be read as Parquet"):
        prices(None)
    pq.write_table(pa.table([["i1"], [1.0], [2.0]], ["item_id:token", "price:float", "price:float"]), path)
    with pytest.raises(UsageError, match="^[^:]*cycle.item.parquet has several columns of one name"):
        prices(None)
    path.write_bytes(b"PAR1 no more")
    with pytest.raises(UsageError, match="^'[^:]*cycle.item.parquet' cannot be read as Parquet"):
        prices(None)


def test_large_prices_do_not_overflow(prices):
    lines = ["item_id:token\tprice:float", "i1\t-1.7e308", "i2\t1.7e308", "i3\t0"]
    assert prices(lines) == [[0, 1, 4, 3, 0, 0, 0], None]


def test_without_a_file_there_is_nothing_unless_it_is_asked_for(prices):
    assert prices(None) == [None, None]
    with pytest.raises(UsageError, match="price_column: cost: .*cycle.item' has no column 'cost:float': write it there, or make"):
        prices(None, "cost", "auto", 4)


@pytest.mark.parametrize("bad", ["1,000", "$5", "inf"])
def test_what_is_no_number_is_named(prices, bad):
    with pytest.raises(UsageError, match="is no price"):
        prices(["item_id:token\tprice:float", f"i1\t{bad}"])


def test_both_are_what_a_model_can_look_up(tmp_path):
    write_sequences(SEQUENCES, tmp_path, "cycle")
    write_item_file(tmp_path, ["item_id:token\tprice:float\tcategory:token", "i1\t1\ta"])
    found = create_dataset(make_config("MMSBR", tmp_path)).item_prices(*AS_USUAL)
    assert all(part.dtype == torch.int64 and part.shape == (7,) for part in found)
