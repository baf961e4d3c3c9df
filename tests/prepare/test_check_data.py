"""check-data: each finding with its line number, on small files."""

import argparse
from pathlib import Path

import pytest

from recbole_diffusion.data.numbers import find_first_bad_number
from recbole_diffusion.errors import UsageError
from recbole_diffusion.prepare import check
from recbole_diffusion.prepare.check import check_data

HEADER = "user_id:token\titem_id:token\ttimestamp:float\n"
GOOD = HEADER + "u\ta\t1\nu\tb\t2\nv\ta\t1\nv\tb\t3\nv\tc\t4\n"
TOY = Path(__file__).resolve().parents[2] / "dataset"


@pytest.fixture
def report(tmp_path):
    """Function that writes the files of a data set and checks it."""

    def run(inter, config=None, **files):
        folder = tmp_path / "mine"
        folder.mkdir(exist_ok=True)
        for suffix, text in {"inter": inter, **files}.items():
            content = text if isinstance(text, bytes) else text.encode()
            (folder / f"mine.{suffix}").write_bytes(content)
        return check_data("mine", tmp_path, config)

    return run


def only(texts):
    assert len(texts) == 1, texts
    assert "\n" not in texts[0]
    return texts[0]


def test_good_file(report):
    found = report(GOOD)
    assert found.ok and not found.warnings
    facts = found.facts
    assert (facts["users"], facts["items"], facts["interactions"]) == (2, 3, 5)
    assert facts["sequence length"] == "min 2, mean 2.50, max 3"
    assert facts["ties in time within a user"] == "0 (0.00 %)"
    assert str(found).startswith("mine: ok\n") and "interactions: 5" in str(found)


def test_windows_line_ends_and_blank_lines(report):
    assert report(GOOD.replace("\n", "\r\n") + "\r\n").facts["interactions"] == 5


@pytest.mark.parametrize(
    "inter, expected",
    [
        ("", "has no header"),
        (HEADER, "has no rows"),
        (HEADER.replace("\t", ","), "separated by commas, the separator must be '\\t'"),
        (HEADER.replace("\t", " "), "separated by spaces"),
        (GOOD.replace("user_id:token", "user_id"), "'user_id' has no type, write it like 'user_id:token'"),
        (GOOD.replace("timestamp:float", "timestamp"), "'timestamp' has no type, write it like 'timestamp:float'"),
        (GOOD.replace("\n", "\t1\n").replace("\t1", "\tprice", 1), "like 'price:token', or 'price:float' for numbers"),
        (GOOD.replace("timestamp:float", "timestamp:flaot"), "unknown type, did you mean 'float'"),
        (GOOD.replace("item_id:token", "user_id:token"), "names the field 'user_id' twice"),
        ("\ufeff" + GOOD, "byte order mark"),
        (GOOD.replace("timestamp:float", "time:float"), "has no field 'timestamp'"),
        (GOOD.replace("timestamp:float", "timestamp:token"), "'timestamp' must have the type float, not token"),
        (GOOD.replace("user_id:token", "user_id:token_seq"), "'user_id' must have the type token"),
        (GOOD + "u\tc\nv\td\n", "wrong number of columns in 2 row(s), the first is line 7 (2 instead of 3)"),
        (GOOD + "u\t\t5\n", "'item_id' is missing in 1 row(s), the first is line 7"),
        (GOOD + "NA\tc\t5\n", "'user_id' is missing in 1 row(s), the first is line 7"),
        (GOOD + "u\tc\tlate\nu\td\tlater\n", "'timestamp' is not a number in 2 row(s), the first is line 7 ('late')"),
        (GOOD + "u\tc\tinf\n", "'timestamp' is not a number in 1 row(s), the first is line 7"),
        (GOOD.encode() + b"\xe9\tc\t5\n", "line 7 is not UTF-8 text"),
    ],
)
def test_problem(report, inter, expected):
    found = report(inter)
    assert not found.ok
    assert expected in only(found.problems) and found.problems[0].startswith("mine.inter: ")
    assert "problem(s)" in str(found) and expected in str(found)


def test_repeats_and_ties(report):
    found = report(GOOD + "v\tc\t4\nu\ta\t9\n")
    rows, pairs, ties = found.warnings
    assert found.ok
    assert "1 row(s) repeat an earlier row, the first is line 7" in rows
    assert "2 row(s) repeat the user and item of an earlier row, the first is line 7" in pairs
    assert "14.29 % of rows" in ties and "line 7" in ties
    assert found.facts["ties in time within a user"] == "1 (14.29 %)"


def test_missing_values_elsewhere_are_a_warning(report):
    inter = "user_id:token\titem_id:token\ttimestamp:float\trating:float\nu\ta\t1\t\nu\tb\t2\t5\n"
    found = report(inter)
    assert found.ok and "'rating' is missing in 1 row(s), the first is line 2" in only(found.warnings)


def test_quote_marks(report):
    found = report(GOOD + 'u\t"c\t5\n')
    assert "RecBole takes it for a quote mark" in only(found.warnings) and "line 7" in found.warnings[0]


def test_config_names_the_fields(report):
    inter = GOOD.replace("user_id", "session_id").replace("timestamp", "time").replace("\t", ",")
    config = {"USER_ID_FIELD": "session_id", "TIME_FIELD": "time", "field_separator": ",", "load_col": None}
    assert report(inter, config).ok
    config["load_col"] = {"inter": ["session_id", "rating"]}
    assert "has no field 'rating'" in only(report(inter, config).problems)


def test_all_columns_and_another_encoding(report):
    assert report(GOOD, {"load_col": {"inter": ["*"], "item": "*"}}, item="item_id:token\na\nb\nc\n").ok
    assert report((GOOD + "é\tc\t5\n").encode("latin-1"), {"encoding": "latin-1"}).ok


def test_swapped_columns_are_a_warning(report):
    found = report(GOOD, {"USER_ID_FIELD": "item_id", "ITEM_ID_FIELD": "user_id"})
    assert found.ok and "the users are to come from 'item_id', which sounds like items" in only(found.warnings[-1:])


def test_expected_counts_and_filter(report):
    inter = HEADER + "".join(f"{u}\t{i}\t{t}\n" for t, (u, i) in enumerate(["0a", "0b", "1a", "1b", "2b", "2c", "3c"]))
    config = {"user_inter_num_interval": "[2,inf)", "item_inter_num_interval": "[2,inf)"}
    expected = {"users": 2, "items": 2, "interactions": 4}
    found = report(inter, {**config, "expected_counts": expected})
    assert found.ok and found.facts["expected counts"] == "met after the filter"
    assert found.facts["after the filter (users 2, items 2)"] == "users 2, items 2, interactions 4"
    assert found.facts["sequence length"] == "min 2, mean 2.00, max 2"
    found = report(inter, {**config, "expected_counts": {**expected, "items": 3}})
    assert "users 2, items 2, interactions 4, expected are users 2, items 3" in only(found.problems)
    found = report(inter, {"user_inter_num_interval": "[9,inf)"})
    assert "leaves nothing" in only(found.problems)


def test_item_file(report):
    items = "item_id:token\ttitle:token_seq\tprices:float_seq\na\tOne\t1 2\na\tAgain\t3\nb\t\t4\n"
    found = report(GOOD, item=items)
    assert found.ok
    missing, repeated, without = found.warnings
    assert "mine.item: 'title' is missing in 1 row(s), the first is line 4" in missing
    assert "1 row(s) repeat an 'item_id', the first is line 3" in repeated
    assert "1 of 3 'item_id' of the .inter have no row" in without
    found = report(GOOD, item=items.replace("1 2", "1 two"))
    assert "'prices' is not a number in 1 row(s), the first is line 2 ('two')" in only(found.problems)
    found = report(GOOD, {"load_col": {"item": ["item_id", "brand"]}}, item=items)
    assert "mine.item: has no field 'brand'" in only(found.problems)


def test_item_file_that_is_not_there(report):
    found = report(GOOD, {"load_col": {"item": ["item_id", "title"]}})
    assert "mine.item: does not exist although load_col names fields of it" in only(found.problems)


def test_user_file(report):
    found = report(GOOD, user="age:float\n12\n")
    assert "mine.user: has no field 'user_id'" in only(found.problems)


def test_toy_and_packaged_data_meet_their_counts(tmp_path):
    toy = check_data("toy", TOY)
    assert toy.ok and toy.facts["expected counts"].startswith("met")
    packaged = check_data("ml-100k", tmp_path)
    assert packaged.ok and packaged.facts["interactions"] == 100000
    assert packaged.facts["expected counts"].startswith("met")


def test_unknown_data_set(tmp_path):
    (tmp_path / "minerals").mkdir()
    (tmp_path / "minerals" / "minerals.inter").write_text(GOOD)
    for name, near in (("mineral", "minerals"), ("beuty", "beauty")):
        with pytest.raises(UsageError) as error:
            check_data(name, tmp_path)
        text = str(error.value)
        assert f"{tmp_path / name / name}.inter" in text and f"did you mean '{near}'" in text
        assert f"recbole-diffusion prepare {name} --source=PATH" in text and "\n" not in text


def run_main(*words):
    parser = argparse.ArgumentParser()
    check.add_arguments(parser)
    return check.main(parser.parse_args(words))


def test_command_line(report, tmp_path, capsys):
    report(GOOD + "u\t\t5\nu\tc\n")
    assert run_main("mine", f"--data_path={tmp_path}") == 2
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == 2 and "line 8" in err and "mine: 2 problem(s)" in out
    assert run_main("toy", f"--data_path={TOY}") == 0
    out, err = capsys.readouterr()
    assert "interactions: 552" in out and err == ""


def test_find_first_bad_number(tmp_path):
    path = tmp_path / "x.inter"
    path.write_text(HEADER + "u\ta\t1\nu\tb\nu\tb\t\nu\tb\tNaN\nu\tb\tsoon\nu\tb\tlater\n")
    assert find_first_bad_number(path, 2) == (6, "soon")
    assert find_first_bad_number(path, 2, skip_header=False) == (1, "timestamp:float")
    path.write_text("h,h\r\n1,2\r\n3,4e5\r\n")
    assert find_first_bad_number(path, 1, separator=",") is None
    path.write_text("1\n-inf\n")
    assert find_first_bad_number(path, 0, skip_header=False) == (2, "-inf")


SPLIT = {"USER_ID_FIELD": "session_id", "benchmark_filename": ["train", "test"]}
SPLIT_HEADER = "session_id:token\titem_id_list:token_seq\titem_id:token\n"


def write_split(tmp_path, train="s1\ta b\tc\n", test="s2\tb\td\n", header=SPLIT_HEADER):
    folder = tmp_path / "mine"
    folder.mkdir(exist_ok=True)
    (folder / "mine.train.inter").write_text(header + train)
    (folder / "mine.test.inter").write_text(header + test)
    return folder


def test_ready_made_split(tmp_path):
    (write_split(tmp_path) / "mine.item").write_text("item_id:token\na\nb\n")
    expected = {"users": 2, "items": 4, "interactions": 2}
    found = check_data("mine", tmp_path, {**SPLIT, "expected_counts": expected})
    assert found.ok and found.facts["expected counts"] == "met" and found.facts["train"] == "1 examples"
    assert {key: found.facts[key] for key in expected} == expected
    assert found.warnings == ["mine.item: 2 of 4 'item_id' of the .inter have no row"]
    found = check_data("mine", tmp_path, {**SPLIT, "expected_counts": {**expected, "items": 5}})
    assert "items 4" in found.problems[0] and "items 5" in found.problems[0]


def test_broken_splits(tmp_path):
    write_split(tmp_path, test="s2\t\td\n")
    found = check_data("mine", tmp_path, SPLIT)
    assert found.problems == ["mine.test.inter: 'item_id_list' is missing in 1 row(s), the first is line 2 (empty, or NA, None, nan, ...)"]
    write_split(tmp_path, "s1\tc\n", "s2\td\n", header="session_id:token\titem_id:token\n")
    found = check_data("mine", tmp_path, SPLIT)
    assert len(found.problems) == 2 and "mine.train.inter: has no field 'item_id_list'" in found.problems[0]
    write_split(tmp_path, header=SPLIT_HEADER.replace("token_seq", "token"))
    assert "'item_id_list' must have the type token_seq" in check_data("mine", tmp_path, SPLIT).problems[0]
    (tmp_path / "mine" / "mine.test.inter").unlink()
    assert "mine.test.inter: does not exist although" in check_data("mine", tmp_path, SPLIT).problems[-1]
    (tmp_path / "mine" / "mine.train.inter").unlink()
    with pytest.raises(UsageError, match="mine.train.inter"):
        check_data("mine", tmp_path, SPLIT)
