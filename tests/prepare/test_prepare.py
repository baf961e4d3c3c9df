"""prepare: every input format, the filter, the counts, the messages."""

import argparse
import functools
import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from raw_files import message, table, write

from recbole_diffusion.errors import UsageError
from recbole_diffusion.prepare import command as prepare_command
from recbole_diffusion.prepare.atomic_files import write_all
from recbole_diffusion.prepare.interactions import k_core, lower_bound
from recbole_diffusion.prepare.item_texts import clean_names, clean_text
from recbole_diffusion.prepare.sequences import prepare
from recbole_diffusion.settings import properties

quiet_prepare = functools.partial(prepare, show_progress=False)


CSV = "B,x,5.0,30\nA,y,3.5,20\nA,x,4.0,10\nB,z,1.0,30\n"
CSV_TABLE = [
    ["user_id:token", "item_id:token", "timestamp:float", "rating:float"],
    ["B", "x", "30", "5"],
    ["B", "z", "30", "1"],
    ["A", "x", "10", "4"],
    ["A", "y", "20", "3.5"],
]


# ------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize("input_format", [None, "amazon-ratings"])
def test_amazon_ratings(tmp_path, input_format):
    source = write(tmp_path / "ratings.csv", CSV)
    counts = quiet_prepare("mine", source, tmp_path, input_format)
    assert counts == {"users": 2, "items": 3, "interactions": 4}
    # users in order of first appearance, time inside, ties in the order of the file
    assert table(tmp_path, "mine") == CSV_TABLE
    assert not (tmp_path / "mine" / "mine.item").exists()


def test_gzip_byte_order_mark_windows_line_ends_and_blank_lines(tmp_path):
    source = tmp_path / "ratings.csv.gz"
    source.write_bytes(gzip.compress(("\ufeff" + CSV.replace("\n", "\r\n") + "\r\n").encode()))
    quiet_prepare("mine", source, tmp_path)
    assert table(tmp_path, "mine") == CSV_TABLE


def review(user, item, time, rating=5.0, **more):
    return json.dumps({"reviewerID": user, "asin": item, "overall": rating, "unixReviewTime": time, **more}) + "\n"


def test_amazon_reviews_with_literal_and_json_metadata(tmp_path):
    source = write(tmp_path / "reviews.json", review("u", "b", 2, text="a, b\t::") + review("u", "a", 1, 4.5))
    meta = write(
        tmp_path / "meta.json",
        "{'asin': 'a', 'title': 'Tom &amp; \"Jerry\"\\n\\tset', 'brand': None, 'salesRank': {'X': 3},"
        " 'categories': [['Beauty', 'Nail Polish'], ['Beauty', 'Hair']]}\n"
        + json.dumps({"asin": "unused", "title": "not written"})
        + "\n",
    )
    assert quiet_prepare("mine", source, tmp_path, meta=meta) == {"users": 1, "items": 2, "interactions": 2}
    assert [row[1:] for row in table(tmp_path, "mine")[1:]] == [["a", "1", "4.5"], ["b", "2", "5"]]
    assert table(tmp_path, "mine", "item") == [
        ["item_id:token", "title:token_seq", "brand:token_seq", "categories:token_seq"],
        ["b", "", "", ""],
        ["a", "Tom & ''Jerry'' set", "", "Beauty Nail_Polish Hair"],
    ]


def test_prices_of_amazon_are_a_column_where_any_item_has_one(tmp_path):
    source = write(tmp_path / "reviews.json", "".join(review("u", item, n) for n, item in enumerate("abcdef")))
    values = {"a": 9.99, "b": "$1,009.50", "c": "$5.00 - $7.00", "d": None, "e": 12, "f": ".a-box{margin:0}"}
    rows = [json.dumps({"asin": item, "title": item, "price": price}) for item, price in values.items()]
    quiet_prepare("mine", source, tmp_path, meta=write(tmp_path / "meta.json", "\n".join(rows) + "\n"))
    header, *items = table(tmp_path, "mine", "item")
    assert header[-1] == "price:float"
    assert {row[0]: row[-1] for row in items} == {"a": "9.99", "b": "1009.50", "c": "", "d": "", "e": "12", "f": ""}


def test_metadata_are_never_run_as_code(tmp_path):
    trap = tmp_path / "trap"
    source = write(tmp_path / "reviews.json", review("u", "a", 1))
    meta = write(tmp_path / "meta.json", f"{{'asin': 'a', 'title': open({str(trap)!r}, 'w')}}\n")
    with pytest.raises(UsageError) as error:
        quiet_prepare("mine", source, tmp_path, meta=meta)
    assert "line 1: neither JSON nor a Python literal" in message(error)
    assert not trap.exists() and not (tmp_path / "mine").exists()


def test_metadata_of_something_else(tmp_path):
    source = write(tmp_path / "reviews.json", review("u", "a", 1))
    meta = write(tmp_path / "meta.json", '{"asin": "other"}\n')
    with pytest.raises(UsageError, match="describes none of the 1 items"):
        quiet_prepare("mine", source, tmp_path, meta=meta)


def test_movielens_folder_with_latin_1_titles(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    write(raw / "ratings.dat", "1::73::5::978300760\n1::12::3::978302109\n")
    movies = "12::Sitcom (1999)::Comedy|Sci-Fi\n73::Misérables, Les (1995)::Drama|Film Noir\n99::Unrated::Drama\n"
    write(raw / "movies.dat", movies, "latin-1")
    quiet_prepare("mine", raw, tmp_path)
    assert table(tmp_path, "mine")[1] == ["1", "73", "978300760", "5"]
    assert table(tmp_path, "mine", "item") == [
        ["item_id:token", "title:token_seq", "release_year:token", "genre:token_seq"],
        ["73", "Misérables, Les", "1995", "Drama Film_Noir"],
        ["12", "Sitcom", "1999", "Comedy Sci-Fi"],
    ]


def test_movielens_100k_tabs(tmp_path):
    quiet_prepare("mine", write(tmp_path / "u.data", "196\t242\t3\t881250949\n"), tmp_path)
    assert table(tmp_path, "mine")[1:] == [["196", "242", "881250949", "3"]]


def test_sequences_count_positions_and_have_no_ratings(tmp_path):
    quiet_prepare("mine", write(tmp_path / "seq.txt", "7 a b a\n5 c a\n"), tmp_path)
    header, *rows = table(tmp_path, "mine")
    assert header == ["user_id:token", "item_id:token", "timestamp:float"]
    assert rows == [["7", "a", "0"], ["7", "b", "1"], ["7", "a", "2"], ["5", "c", "0"], ["5", "a", "1"]]


def test_pairs_in_order_of_time(tmp_path):
    for name, text in (("spaces", "7 a\n7 b\n5 c\n7 a\n"), ("tabs", "7\ta\n7\tb\n5\tc\n7\ta\n")):
        quiet_prepare(name, write(tmp_path / "pairs.txt", text), tmp_path)
        header, *rows = table(tmp_path, name)
        assert header == ["user_id:token", "item_id:token", "timestamp:float"]
        assert rows == [["7", "a", "0"], ["7", "b", "1"], ["7", "a", "2"], ["5", "c", "0"]]
    quiet_prepare("short", write(tmp_path / "short.txt", "7 a\n5 c\n"), tmp_path)  # sequences of one item
    assert [row[2] for row in table(tmp_path, "short")[1:]] == ["0", "0"]
    quiet_prepare("long", write(tmp_path / "long.txt", "7 a\n5 c d\n"), tmp_path)
    assert len(table(tmp_path, "long")) == 4


def test_amazon_reviews_of_2023(tmp_path):
    lines = [
        {"rating": 5.0, "title": "x", "asin": "child", "parent_asin": "b", "user_id": "u", "timestamp": 1588687728923},
        {"rating": 4.0, "asin": "a", "parent_asin": "a", "user_id": "u", "timestamp": 1588687728000},
    ]
    source = write(tmp_path / "All_Beauty.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    meta = write(
        tmp_path / "meta.jsonl",
        json.dumps({"title": "Soap", "store": "Acme", "parent_asin": "b", "categories": ["Bath", "Hand Soap"]}) + "\n",
    )
    quiet_prepare("mine", source, tmp_path, meta=meta)
    assert table(tmp_path, "mine")[1:] == [["u", "a", "1588687728", "4"], ["u", "b", "1588687728.923", "5"]]
    assert table(tmp_path, "mine", "item")[1:] == [["b", "Soap", "Acme", "Bath Hand_Soap"], ["a", "", "", ""]]


def test_amazon_ratings_of_2018_have_the_item_first(tmp_path):
    text = "B00000000X,A1AAAAAAAAAAAA,5.0,30\n0123456789,A1AAAAAAAAAAAA,4.0,20\n"
    source, lines = write(tmp_path / "Beauty.csv", text), []
    quiet_prepare("mine", source, tmp_path, say=lines.append)
    assert [row[:2] for row in table(tmp_path, "mine")[1:]] == [
        ["A1AAAAAAAAAAAA", "0123456789"], ["A1AAAAAAAAAAAA", "B00000000X"]
    ]  # fmt: skip
    assert not any("swapped" in line for line in lines)
    quiet_prepare("other", source, tmp_path, "amazon-ratings", say=lines.append)
    assert any(line.startswith("warning: users and items seem to be swapped: users are called") for line in lines)


# ------------------------------------------------------------------------------------------- filter and counts


def test_k_core_by_hand():
    # 2-core. Item d has one row, so user 3 keeps one row (c) and goes; then c has one row left (user 2's), goes,
    # and user 2 with b alone goes, too; b keeps users 0 and 1, who keep a and b.
    rows = [(0, "a"), (0, "b"), (1, "a"), (1, "b"), (2, "b"), (2, "c"), (3, "c"), (3, "d")]
    users = np.array([user for user, _ in rows])
    items = np.array(["abcd".index(item) for _, item in rows])
    assert k_core(users, items, 2, 2).tolist() == [0, 1, 2, 3]
    assert k_core(users, items, 0, 0).tolist() == list(range(8))
    assert k_core(users, items, 0, 3).tolist() == [1, 3, 4]
    assert k_core(users, items, 3, 0).tolist() == []


def test_filter_is_applied_to_users_and_items(tmp_path):
    source = write(tmp_path / "s.txt", "0 a b\n1 a b\n2 b c\n3 c d\n")
    counts = quiet_prepare("mine", source, tmp_path, min_user=2, min_item=2)
    assert counts == {"users": 2, "items": 2, "interactions": 4}
    assert {row[1] for row in table(tmp_path, "mine")[1:]} == {"a", "b"}


def test_filter_that_leaves_nothing_says_how_much_there_was(tmp_path):
    source = write(tmp_path / "s.txt", "0 a b\n1 a b\n")
    with pytest.raises(UsageError) as error:
        quiet_prepare("mine", source, tmp_path, min_user=3)
    assert "min_user=3, min_item=0 leaves 0 of 2 users, 2 items, 4 interactions" in message(error)


def test_filter_and_counts_come_from_the_yaml(tmp_path, monkeypatch):
    yaml = write(
        tmp_path / "mine.yaml",
        'user_inter_num_interval: "[2,inf)"\nitem_inter_num_interval: "(1,inf)"\n'
        "expected_counts: {users: 2, items: 2, interactions: 4}\n",
    )
    monkeypatch.setattr(properties, "property_file", lambda kind, name: yaml)
    source = write(tmp_path / "s.txt", "0 a b\n1 a b\n2 b c\n3 c d\n")
    assert quiet_prepare("mine", source, tmp_path)["interactions"] == 4
    with pytest.raises(UsageError, match="--min_user=-1"):
        quiet_prepare("mine", source, tmp_path, min_user=-1, force=True)


def test_count_mismatch_prints_both_and_leaves_the_old_file(tmp_path):
    target = tmp_path / "beauty" / "beauty.inter"
    target.parent.mkdir()
    target.write_text("old")
    source = write(tmp_path / "s.txt", "0 a b\n1 a b\n")
    with pytest.raises(UsageError) as error:
        quiet_prepare("beauty", source, tmp_path, min_user=0, min_item=0, force=True)
    assert "users 2, items 2, interactions 4" in message(error)
    assert "users 22363, items 12101, interactions 198502" in message(error)
    assert [path.name for path in target.parent.iterdir()] == ["beauty.inter"] and target.read_text() == "old"


@pytest.mark.parametrize(
    "text, low", [(None, 0), ("[5,inf)", 5), ("(5,inf)", 6), ("[2.5, 10]", 3), ("(-inf,5]", 0)]
)
def test_lower_bound(text, low):
    assert lower_bound(text) == low


def test_lower_bound_of_nonsense():
    with pytest.raises(UsageError, match="'five' is not understood"):
        lower_bound("five")


# ------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "input_format, text, expected",
    [
        ("amazon-ratings", "a,b,1,2\na,b,1\n", "line 2: not in the format amazon-ratings, 4 fields"),
        ("amazon-ratings", "user,item,rating,timestamp\n", "line 1: .*could not convert string to float: 'timestamp'"),
        ("amazon-ratings", "a,b,1,2\n\na,b,nan,2\n", "line 3: .*the rating is not a finite number"),
        ("amazon-ratings", "a,,1,2\n", "line 1: .*the item is empty"),
        ("amazon-ratings", 'a,"b",1,2\n', "line 1: .*holds a quote mark"),
        ("amazon-5core", review("a", "b", 1) + "{broken\n", "line 2: "),
        ("amazon-5core", '{"asin": "b"}\n', "line 1: .*the key 'reviewerID' is missing"),
        ("amazon-5core", review("a", 7, 1), "line 1: .*the item is empty or not text"),
        ("amazon-5core", review("a", "b", None), "line 1: "),
        ("amazon-5core", review("a", "b", 10**400), "line 1: "),
        ("movielens", "1::2::3::4\n1::2::3\n", "line 2: .*4 fields"),
        ("movielens", "1::2::3::inf\n", "line 1: .*the timestamp is not a finite number"),
        ("sequences", "1 2\n3\n", "line 2: .*at least one item"),
        ("sequences", "1 2\n1 3\n", "line 2: .*'1' already has a line"),
        ("pairs", "1 2\n1 3 4\n", "line 2: .*2 words are expected, it has 3"),
        ("amazon-2023", '{"user_id": "u", "parent_asin": "a", "rating": 5}\n', "line 1: .*the key 'timestamp' is missing"),
    ],
)
def test_bad_line_is_named(tmp_path, input_format, text, expected):
    source = write(tmp_path / "raw.txt", text)
    with pytest.raises(UsageError, match=f"raw.txt' {expected}") as error:
        quiet_prepare("mine", source, tmp_path, input_format)
    message(error)
    assert not (tmp_path / "mine").exists()


def test_bytes_outside_the_encoding(tmp_path):
    source = write(tmp_path / "raw.csv", "a,b,1,2\né,b,1,2\n", "latin-1")
    with pytest.raises(UsageError, match="line 2: it is not utf-8 text"):
        quiet_prepare("mine", source, tmp_path)


@pytest.mark.parametrize(
    "name, content, expected",
    [
        ("raw.csv", b"", "is empty"),
        ("raw.csv", b"\n\n", "is empty"),
        ("raw.csv", b"one two,three\n", "format of .* is not recognised.*amazon-ratings, amazon-5core"),
        ("raw.gz", b"a,b,1,2\n", "cannot be read"),
        ("raw.gz", gzip.compress(CSV.encode(), mtime=0)[:-12], "cannot be read"),
    ],
)
def test_unusable_file(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=expected) as error:
        quiet_prepare("mine", tmp_path / name, tmp_path)
    assert name in message(error)


def test_missing_file_unknown_format_bad_name_and_folder(tmp_path):
    with pytest.raises(UsageError, match="nothing.csv' does not exist"):
        quiet_prepare("mine", tmp_path / "nothing.csv", tmp_path)
    with pytest.raises(UsageError, match="'movielense' is unknown, did you mean 'movielens'"):
        quiet_prepare("mine", tmp_path / "nothing.csv", tmp_path, "movielense")
    with pytest.raises(UsageError, match="neither ratings.dat nor u.data"):
        quiet_prepare("mine", tmp_path, tmp_path)
    for name in ("../up", "a/b", "", "."):
        with pytest.raises(UsageError, match="cannot be a folder"):
            quiet_prepare(name, tmp_path / "nothing.csv", tmp_path)


def test_existing_target_needs_force(tmp_path):
    source = write(tmp_path / "ratings.csv", CSV)
    quiet_prepare("mine", source, tmp_path)
    write(source, "A,x,1,1\n")
    with pytest.raises(UsageError, match="--force"):
        quiet_prepare("mine", source, tmp_path)
    assert len(table(tmp_path, "mine")) == 5
    assert quiet_prepare("mine", source, tmp_path, force=True)["interactions"] == 1
    assert len(table(tmp_path, "mine")) == 2


def test_failure_in_the_middle_of_writing_leaves_no_file(tmp_path):
    def broken_lines():
        yield "item_id:token\n"
        raise OSError(28, "No space left on device")

    target = tmp_path / "mine" / "mine.inter"
    with pytest.raises(UsageError, match="No space left on device"):
        write_all({target: ["complete\n"], target.with_suffix(".item"): broken_lines()})
    assert list(target.parent.iterdir()) == []


def test_out_that_is_a_file(tmp_path):
    source = write(tmp_path / "ratings.csv", CSV)
    with pytest.raises(UsageError, match="use another --out"):
        quiet_prepare("mine", source, source)


def test_texts():
    assert clean_text(" a\t&quot;b&quot;\r\n c\x00d\u2028e &#9; \ud800 ") == "a ''b'' c d e"
    assert clean_text(None) == ""
    assert clean_names([["Nail  Polish", "Hair"], ["Hair"]]) == "Nail_Polish Hair"
    assert clean_names("Video Games") == "Video_Games"


# ------------------------------------------------------------------------------------------- command line, toy


def run_main(*words):
    parser = argparse.ArgumentParser()
    prepare_command.add_arguments(parser)
    return prepare_command.main(parser.parse_args(words))


def test_command_line_prints_counts_files_and_the_next_command(tmp_path, capsys):
    source = write(tmp_path / "ratings.csv", CSV)
    assert run_main("mine", f"--source={source}", f"--out={tmp_path}", "--min_user=2", "--format=amazon-ratings") == 0
    printed = capsys.readouterr().out
    assert "2 users, 3 items, 4 interactions" in printed and "mine.inter" in printed
    assert f"check-data mine --data_path={tmp_path}" in printed


@pytest.mark.parametrize(
    "words, expected",
    [
        (["mine"], "needs --source=PATH"),
        (["mine", "--source=x", "--download"], "exclude each other"),
        (["mine", "--source=x", "--sha256=00"], "belong to --download"),
    ],
)
def test_command_line_that_contradicts_itself(words, expected):
    with pytest.raises(UsageError, match=expected):
        run_main(*words)


def test_import_is_cheap():
    code = "import sys, recbole_diffusion.prepare.sequences, recbole_diffusion.prepare.check; print(*sys.modules)"
    root = Path(__file__).resolve().parents[2]
    loaded = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    assert not {"torch", "recbole", "pandas", "ray"} & set(loaded.split())


def test_toy_comes_out_the_same_again(tmp_path):
    folder = Path(__file__).resolve().parents[2] / "dataset"
    subprocess.run([sys.executable, folder / "make_toy.py", tmp_path], check=True)
    for name in ("toy.inter", "toy.item"):
        assert (tmp_path / name).read_bytes() == (folder / "toy" / name).read_bytes()
