"""The command recommend: histories and rankings in files of any size, every refusal."""

import csv
import json
import os
import tracemalloc
from pathlib import Path

import pytest
import torch

from recbole_diffusion.cli import dispatch, main
from recbole_diffusion.errors import UsageError
from recbole_diffusion.serving.histories import read_histories
from recbole_diffusion.serving.recommend_file import recommend_file
from recbole_diffusion.serving.recommender import Recommender


def rows_of(path):
    if path.suffix == ".csv":
        with open(path, newline="") as file:
            return [{**row, **{key: row[key].split() for key in ("items", "scores")}} for row in csv.DictReader(file)]
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("kinds", [(".csv", ".csv"), (".csv", ".jsonl"), (".jsonl", ".csv"), (".jsonl", ".jsonl")])
def test_the_command_writes_what_python_gives(checkpoint, recommender, kinds, tmp_path, capsys):
    source, target = (tmp_path / f"{name}{kind}" for name, kind in zip(("in", "out"), kinds))
    histories = {"a": ["i1", "i2"], "b": [], "c": ["i9", "x", "i10"]}
    if kinds[0] == ".csv":
        source.write_text("id,note,items\n" + "".join(f"{n},hm,{' '.join(h)}\n" for n, h in histories.items()))
    else:
        source.write_text("".join(json.dumps({"id": n, "items": h}) + "\n" for n, h in histories.items()))
    words = ["recommend", checkpoint("SimDiffRec"), f"--input={source}", f"--output={target}"]
    assert main([*words, "--k=3", "--exclude-seen", "--batch-size=2"]) == 0
    assert "3 histories" in capsys.readouterr().out
    expected = recommender.recommend(list(histories.values()), k=3, exclude_seen=True)
    for row, name, ranking in zip(rows_of(target), histories, expected):
        assert row["id"] == name and row["items"] == [token for token, _ in ranking]
        assert [float(s) for s in row["scores"]] == pytest.approx([s for _, s in ranking], rel=1e-5)
        assert row["source"] == ranking.source and int(row["unknown"]) == len(ranking.unknown)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == sorted((source.name, target.name))


def test_rows_without_an_id_are_numbered_and_empty_lines_of_one_column_are_histories(tmp_path):
    (tmp_path / "a.csv").write_text("items\ni1 i2\n\n\"\"\ni3\n")
    assert [row[1:] for row in read_histories(tmp_path / "a.csv")] == [(1, ["i1", "i2"]), (2, []), (3, []), (4, ["i3"])]
    (tmp_path / "a.jsonl").write_text('["i1", 2]\n[]\n{"items": ["i3"]}')
    assert [row[1:] for row in read_histories(tmp_path / "a.jsonl")] == [(1, ["i1", "2"]), (2, []), (3, ["i3"])]
    (tmp_path / "a.jsonl").write_bytes(b'["i1"]\r\n["i2"]\r\n\r\n \n')
    assert list(read_histories(tmp_path / "a.jsonl")) == [(1, 1, ["i1"]), (2, 2, ["i2"])]
    (tmp_path / "bom.csv").write_text("\ufeffitems\r\ni1\r\n", encoding="utf-8")
    assert list(read_histories(tmp_path / "bom.csv")) == [(2, 1, ["i1"])]


def test_commas_separate_items_unless_an_item_holds_one(recommender, tmp_path):
    (tmp_path / "a.csv").write_text('items\n"i1,i2"\n"i1, i2 i3,"\n')
    assert [row[2] for row in read_histories(tmp_path / "a.csv")] == [["i1", "i2"], ["i1", "i2", "i3"]]
    recommender.tokens[3] = "i1,i2"
    recommender = Recommender(recommender.config, recommender.network, recommender.tokens)
    recommend_file(recommender, tmp_path / "a.csv", tmp_path / "out.jsonl", k=1)
    assert [row["unknown"] for row in rows_of(tmp_path / "out.jsonl")] == [0, 2]  # "i1," and "i3,"


@pytest.mark.parametrize(
    "content",
    [
        "user,item,time\nb,i2,20\na,i1,5\nb,i1,3\na,i3,5\na,i9,1\n",
        "timestamp:float,user_id:token,item_id:token\n20,b,i2\n5,a,i1\n3,b,i1\n5,a,i3\n1,a,i9\n",
        "item,note,user,time\ni2,x,b,2024-05-02\ni1,x,a,2024-05-01T10:00:00Z\ni1,x,b,2024-05-01 09:00\ni3,,a,2024-05-01T12:00:00+01:00\n"
        "i9,x,a,2023-12-31\n",
        "session_id,item_id\nb,i1\na,i9\na,i1\nb,i2\na,i3\n",
    ],
)
def test_a_long_table_is_grouped_by_user_and_ordered_by_time(tmp_path, content):
    (tmp_path / "a.csv").write_text(content)
    assert [row[1:] for row in read_histories(tmp_path / "a.csv")] == [("b", ["i1", "i2"]), ("a", ["i9", "i1", "i3"])]


def test_a_user_of_the_data_set_is_looked_up(checkpoint, trained, tmp_path, capsys):
    path = checkpoint("SimDiffRec")
    (tmp_path / "cycle").symlink_to(trained.data("SimDiffRec") / "cycle")
    first = [line.split("\t") for line in (tmp_path / "cycle" / "cycle.inter").read_text().splitlines()[1:]]
    history = [item for user, item, _ in sorted(first, key=lambda row: float(row[2])) if user == "u1"]
    words = ["--user=u1", "--user=u0", f"--data_path={tmp_path}", "--k=3"]
    assert main(["recommend", path, *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"u1, after {len(history)} items, at last {', '.join(history[-3:])}:" and len(lines) == 8
    expected = Recommender.load(path).recommend([history], k=3)[0]
    assert [line.split()[0] for line in lines[1:4]] == [token for token, _ in expected]
    assert "has no user 'u999'" in refused(capsys, path, "--user=u999", words[2])
    assert "--user looks users up in the data set, which a checkpoint does not hold" in refused(capsys, path, "--user=u1")
    assert "either --input, a file of histories, or --user" in refused(capsys, path, "--k=3")
    assert "what --user asks for is printed" in refused(capsys, path, "--user=u1", "--output=out.csv")


@pytest.mark.parametrize(
    "name, content, expected",
    [
        ("a.csv", "id,item\na,i1\n", "line 1: the header must name a column 'items'"),
        ("a.csv", "items,items\ni1,i2\n", "line 1: the header must name a column 'items' once"),
        ("a.csv", "", "line 1: the header must name a column 'items'"),
        ("a.csv", "id,items\na,i1\nb,i1,i2\n", "line 3: 3 columns instead of 2"),
        ("a.csv", "id,items\na,i1\n\n", "line 3: 1 columns instead of 2"),
        ("a.csv", 'id,items\na,"i1\nb,i2\n', "unexpected end of data"),
        ("a.csv", "id,items\na,\xff\n".encode("latin-1"), "is not UTF-8 text"),
        ("a.csv", "id,items\na,i1\nb,nobody\n", "line 3: unknown item 'nobody' (--unknown=drop"),
        ("a.jsonl", '["i1"]\n["i1"\n', "line 2 is not JSON: Expecting ',' delimiter (column 6)"),
        ("a.jsonl", '["i1"]\n["i1", "i\n', "line 2 is not JSON: Unterminated string starting at (column 8)"),
        ("a.jsonl", '["i1"]\n\n["i2"]\n', "line 2 is not JSON: it is blank"),
        ("a.jsonl", "[" * 100000, "line 1 is not JSON"),
        ("a.jsonl", '["i1"]\n{"item": ["i1"]}\n', "line 2: needs a list of item tokens"),
        ("a.jsonl", '{"items": "i1 i2"}\n', "line 1: needs a list of item tokens"),
        ("a.jsonl", '["i1", 2.5]\n', "line 1: needs a list of item tokens"),
        ("a.jsonl", '["i1", null]\n', "line 1: needs a list of item tokens"),
        ("a.jsonl", '{"id": [1], "items": ["i1"]}\n', "line 1: 'id' must be text or a whole number"),
        ("a.jsonl", '["i1"]\n["i2", "nobody"]\n', "line 2: unknown item 'nobody'"),
        ("a.csv", "user,item,time\na,i1,1\na,i2,soon\n", "line 3: 'soon' is no time: write a number or 2024-05-31T12"),
        ("a.csv", "user,item\na,i1\n,i2\n", "line 3: every row needs a user and an item"),
        ("a.csv", "user,item\na,i1\na\n", "line 3: 1 columns instead of 2"),
        ("a.txt", "i1 i2\n", "must end in .csv, .jsonl or .parquet"),
        ("a.parquet", "i1 i2\n", "cannot be read as a Parquet file"),
    ],
)
def test_bad_files_are_refused_in_one_line(checkpoint, tmp_path, capsys, name, content, expected):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "out.csv").write_text("old")
    words = [f"--input={tmp_path / name}", f"--output={tmp_path}/out.csv", "--k=2", "--unknown=error"]
    error = refused(capsys, checkpoint("SimDiffRec"), *words)
    assert expected in error and name in error
    assert (tmp_path / "out.csv").read_text() == "old" and not list(tmp_path.glob("*.tmp"))


def refused(capsys, *words):
    assert main(["recommend", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


def test_wrong_words_are_refused_in_one_line(checkpoint, tmp_path, capsys):
    good = checkpoint("SimDiffRec")
    (tmp_path / "in.csv").write_text("items\ni1\n")
    (tmp_path / "text.pth").write_text("hello")
    torch.save({"format": 1}, tmp_path / "foreign.pth")
    files = [f"--input={tmp_path}/in.csv", f"--output={tmp_path}/out.csv"]
    assert "absent.pth' does not exist" in refused(capsys, "absent.pth", *files)
    assert "text.pth' is not a checkpoint" in refused(capsys, f"{tmp_path}/text.pth", *files)
    assert "foreign.pth' is not a checkpoint" in refused(capsys, f"{tmp_path}/foreign.pth", *files)
    (tmp_path / "folder.csv").mkdir()
    assert "out.csv' looks like a file" in refused(capsys, good, f"--input={tmp_path}/folder.csv", files[1])
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.csv")
        assert "pipe.csv' is not a file" in refused(capsys, good, f"--input={tmp_path}/pipe.csv", files[1])
    assert "input 'no.csv' does not exist" in refused(capsys, good, "--input=no.csv", files[1])
    assert "the same file" in refused(capsys, good, files[0], f"--output={tmp_path}/in.csv")
    os.link(tmp_path / "in.csv", tmp_path / "hard.csv")
    assert "the same file" in refused(capsys, good, files[0], f"--output={tmp_path}/hard.csv")
    assert "out.txt' must end in .csv or .jsonl" in refused(capsys, good, files[0], "--output=out.txt")
    assert "k 99 is larger than the number of items, 12" in refused(capsys, good, *files, "--k=99")
    assert "invalid int value: 'many'" in refused(capsys, good, *files, "--k=many")
    assert "--output is required with --input" in refused(capsys, good, files[0])
    assert "unrecognized arguments: --top=3" in refused(capsys, good, *files, "--top=3")
    assert "unknown must be one of drop, error" in refused(capsys, good, *files, "--unknown=keep")
    assert "device 'tpu' cannot be used" in refused(capsys, good, *files, "--device=tpu")
    assert "cannot be written" in refused(capsys, good, files[0], f"--output={tmp_path}/in.csv/out.csv", "--k=2")
    assert not (tmp_path / "out.csv").exists()


def test_a_pickle_is_read_only_when_trusted(checkpoint, tmp_path):
    state = torch.load(checkpoint("SASRec"), weights_only=True)
    torch.save({**state, "note": Path("a")}, tmp_path / "pickle.pth")  # an object that weights_only refuses
    (tmp_path / "in.jsonl").write_text('["i1", "i2"]\n')
    words = ["recommend", f"{tmp_path}/pickle.pth", f"--input={tmp_path}/in.jsonl", f"--output={tmp_path}/out.jsonl"]
    with pytest.raises(UsageError, match="--trust-checkpoint reads it all the same"):
        dispatch([*words, "--k=3"])
    assert not (tmp_path / "out.jsonl").exists()
    assert dispatch([*words, "--k=3", "--trust-checkpoint"]) == 0
    assert len(json.loads((tmp_path / "out.jsonl").read_text())["items"]) == 3


def test_items_with_blanks_need_jsonl(recommender, tmp_path):
    recommender.tokens[1] = "two words"
    (tmp_path / "in.csv").write_text("items\ni1\n")
    with pytest.raises(UsageError, match="hold blanks"):
        recommend_file(recommender, tmp_path / "in.csv", tmp_path / "out.jsonl", k=1)


def test_memory_does_not_grow_with_the_file(recommender, tmp_path):
    def peak(n_rows):
        source = tmp_path / f"{n_rows}.csv"
        source.write_text("items\n" + "i1 i2 i3\n" * n_rows)
        tracemalloc.start()
        recommend_file(recommender, source, tmp_path / "out.csv", k=2, batch_size=64)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(200)
    assert peak(8000) < 1.3 * peak(800)
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 801
