"""Recommending for folders of files: shares of processes, resumption, row groups of Parquet, every refusal."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recbole_diffusion.cli import main
from recbole_diffusion.serving.parts import parts_of

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

ROOT = Path(__file__).parents[2]
HISTORIES = {name: [[f"i{1 + (start + j) % 12}" for j in range(3)] for start in range(place, place + 4)]
             for place, name in enumerate(("a.jsonl", "b.csv", "c.parquet"))}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """Three files: JSON lines, CSV, and Parquet with two row groups."""
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.jsonl").write_text("".join(json.dumps(items) + "\n" for items in HISTORIES["a.jsonl"]))
    (source / "b.csv").write_text("items\n" + "".join(" ".join(items) + "\n" for items in HISTORIES["b.csv"]))
    table = pyarrow.table({"id": ["w", "x", "y", "z"], "items": HISTORIES["c.parquet"]})
    parquet.write_table(table, source / "c.parquet", row_group_size=2)
    return source


def lists_of(target):
    """Name of a part -> items of its rankings, whatever its format."""
    found = {}
    for path in sorted(target.glob("*.*")):
        if path.suffix == ".jsonl":
            found[path.name] = [json.loads(line)["items"] for line in path.read_text().splitlines()]
        elif path.suffix == ".csv":
            found[path.name] = [line.split(",")[1].split() for line in path.read_text().splitlines()[1:]]
    return found


@pytest.fixture
def model(checkpoint):
    """The checkpoint of SimDiffRec, trained before a test pretends to be one of several processes."""
    return checkpoint("SimDiffRec")


def recommend(model, source, target, *words):
    return main(["recommend", model, f"--input={source}", f"--output={target}", "--k=3", *words])


def test_every_file_and_row_group_has_a_part_with_the_lists_of_its_histories(model, recommender, folder, tmp_path, capsys):
    assert recommend(model, folder, tmp_path / "out") == 0
    expected = {name: [[token for token, _ in ranking] for ranking in recommender.recommend(rows, k=3)] for name, rows in HISTORIES.items()}
    assert lists_of(tmp_path / "out") == {
        "a.jsonl": expected["a.jsonl"], "b.csv": expected["b.csv"],
        "c.0.jsonl": expected["c.parquet"][:2], "c.1.jsonl": expected["c.parquet"][2:],
    }  # fmt: skip
    assert "4 parts, 0 of them from before; 12 histories" in capsys.readouterr().out
    ids = [json.loads(line)["id"] for line in (tmp_path / "out" / "c.1.jsonl").read_text().splitlines()]
    assert ids == ["y", "z"]


def test_two_processes_give_the_lists_of_one(model, folder, tmp_path):
    assert recommend(model, folder, tmp_path / "one") == 0
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--rdzv-backend=c10d",
         "--rdzv-endpoint=localhost:0", str(ROOT / "run_recbole_diffusion.py"), "recommend", model,
         f"--input={folder}", f"--output={tmp_path / 'two'}", "--k=3"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert lists_of(tmp_path / "two") == lists_of(tmp_path / "one")
    assert "process 0 of 2: 2 parts" in done.stdout and "process 1 of 2: 2 parts" in done.stdout


def test_each_process_takes_its_share_and_goes_on(model, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "1")
    assert recommend(model, folder, tmp_path / "out") == 0
    assert set(lists_of(tmp_path / "out")) == {"b.csv"}
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delenv("RANK")
    before = (tmp_path / "out" / "b.csv").stat().st_mtime_ns
    assert recommend(model, folder, tmp_path / "out", "--batch-size=1") == 0
    assert "4 parts, 1 of them from before; 8 histories" in capsys.readouterr().out
    assert (tmp_path / "out" / "b.csv").stat().st_mtime_ns == before and len(lists_of(tmp_path / "out")) == 4


@pytest.mark.parametrize("change, other", [("k", "k"), ("content", "input"), ("file", "input"), ("checkpoint", "checkpoint")])
def test_parts_of_other_settings_histories_or_weights_are_refused(change, other, model, checkpoint, folder, tmp_path, capsys):
    assert recommend(model, folder, tmp_path / "out") == 0
    capsys.readouterr()
    words = ["recommend", model, f"--input={folder}", f"--output={tmp_path / 'out'}", "--k=3"]
    if change == "k":
        words[-1] = "--k=4"
    elif change == "content":
        (folder / "b.csv").write_text("items\ni1\n")
    elif change == "file":
        (folder / "d.csv").write_text("items\ni1\n")
    else:
        words[1] = checkpoint("SASRec")
    assert main(words) == 2
    error = capsys.readouterr().err
    assert f"rankings that were made with another {other}: use another --output" in error and error.count("\n") == 1


def test_a_wrong_line_ends_that_process_and_keeps_what_is_whole(model, folder, tmp_path, monkeypatch, capsys):
    (folder / "b.csv").write_text("items,id\ni1,1\ni1\n")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "1")  # whose part it is: the first process does not know of it
    assert recommend(model, folder, tmp_path / "out") == 2
    assert "error: process 1: " in capsys.readouterr().err
    assert not (tmp_path / "out" / "b.csv").exists()


@pytest.mark.parametrize("words, message", [
    (["--output={tmp}/out.csv"], "looks like a file"),
    (["--output={tmp}/in"], "the same folder"),
    (["--output={tmp}/out", "--format=xml"], "--format must be csv or jsonl, got 'xml'"),
    (["--output={tmp}/out", "--input={tmp}/empty"], "holds no file of histories"),
    (["--output={tmp}/out", "--input={tmp}/strange"], "notes.txt' is no file of histories"),
    (["--output={tmp}/out", "--input={tmp}/twins"], "two files of"),
    (["--output={tmp}/out", "--input={tmp}/damaged"], "cannot be read as a Parquet file"),
    (["--output={tmp}/out.csv", "--input={tmp}/in/b.csv", "--format=csv"], "--format is for a folder"),
])  # fmt: skip
def test_wrong_words_are_one_line(words, message, model, folder, tmp_path, capsys):
    for name, files in {"empty": [], "strange": ["notes.txt"], "twins": ["a.csv", "a.jsonl"], "damaged": ["a.parquet"]}.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_text("items\n")
    words = [word.format(tmp=tmp_path) for word in words]
    given = [] if any(word.startswith("--input") for word in words) else [f"--input={folder}"]
    extra = ["--format=csv"] if "twins" in str(words) else []
    assert main(["recommend", model, *given, *words, *extra, "--k=3"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_one_file_is_not_shared_out(model, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert recommend(model, folder / "b.csv", tmp_path / "out.csv") == 2
    assert "several processes share out the files of a folder" in capsys.readouterr().err


def test_a_format_for_all_parts(folder, tmp_path):
    assert [part.target.name for part in parts_of(folder, tmp_path, ".csv")] == ["a.csv", "b.csv", "c.0.csv", "c.1.csv"]


def test_text_in_parquet_is_read_as_in_csv(recommender, tmp_path):
    from recbole_diffusion.serving.histories import read_histories

    parquet.write_table(pyarrow.table({"items": ["i1,i2", "i3 i4", ""]}), tmp_path / "a.parquet")
    assert list(read_histories(tmp_path / "a.parquet")) == [(1, 1, ["i1", "i2"]), (2, 2, ["i3", "i4"]), (3, 3, [])]
