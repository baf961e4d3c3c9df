"""Parquet beside text: the same data, and one line for what is wrong."""

import importlib

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from recbole_diffusion.cli import main
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.errors import UsageError
from recbole_diffusion.experiments.selection import check_files
from recbole_diffusion.testing import make_config

COLUMNS = {"inter": ["user_id", "item_id", "timestamp", "tags", "sizes"]}
ROWS = [(f"u{user}", f"i{(user + step) % 12}", step // 2, ["ab"[step % 2], "c"], [1.5, step]) for user in range(20) for step in range(3 + user % 6)]
NAMES = ["user_id:token", "item_id:token", "timestamp:float", "tags:token_seq", "sizes:float_seq"]


def table(**changes):
    columns = dict(zip(NAMES, map(list, zip(*ROWS))))
    return pa.table({**columns, **changes})


def write(folder, content, name="cycle.inter.parquet"):
    target = folder / "cycle"
    target.mkdir(exist_ok=True, parents=True)
    if isinstance(content, pa.Table):
        parquet.write_table(content, target / name, row_group_size=50)
    else:
        (target / name).write_text(content)
    return str(folder)


def text(rows=ROWS):
    lines = [[u, i, str(t), " ".join(tags), " ".join(map(str, sizes))] for u, i, t, tags, sizes in rows]
    return "\n".join("\t".join(line) for line in [NAMES, *lines]) + "\n"


def everything(folder, **settings):
    data = create_dataset(make_config("SimDiffRec", folder, **{"load_col": COLUMNS, **settings}))
    names = {field: (tokens.tolist(), data.field2token_id[field]) for field, tokens in data.field2id_token.items()}
    parts = [{name: column.tolist() for name, column in part.inter_feat.interaction.items()} for part in data.build()]
    return names, parts, {name: column.tolist() for name, column in data.flat.items()}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"user_id:token": pa.array([row[0] for row in ROWS]).dictionary_encode(), "timestamp:float": [row[2] for row in ROWS]},
        {"timestamp:float": pa.array([row[2] for row in ROWS], pa.int32()), "item_id:token": pa.array([row[1] for row in ROWS], pa.large_string())},
        {"user_id:token": pa.array([row[0] for row in ROWS]).dictionary_encode().cast(pa.dictionary(pa.uint32(), pa.large_string()))},
        {"tags:token_seq": [" ".join(row[3]) for row in ROWS], "sizes:float_seq": [f"1.5 {row[4][1]}" for row in ROWS]},
    ],
)
def test_data_are_those_of_text(tmp_path, changes):
    filters = {"user_inter_num_interval": "[4,inf)"}
    theirs = everything(write(tmp_path / "text", text(), "cycle.inter"), **filters)
    assert everything(write(tmp_path / "parquet", table(**changes)), **filters) == theirs


def test_whole_numbers_are_tokens_and_missing_is_missing(tmp_path):
    numbers = [int(row[1][1:]) for row in ROWS]
    rows = [(u, str(n), t, tags, sizes) for (u, _, t, tags, sizes), n in zip(ROWS, numbers)]
    plain = everything(write(tmp_path / "a", table(**{"item_id:token": numbers})))
    assert plain == everything(write(tmp_path / "b", text(rows), "cycle.inter"))
    names = [None if n == 0 else "NA" if n == 1 else f"i{n}" for n in numbers]
    rows = [(u, name or "", t, tags, sizes) for (u, _, t, tags, sizes), name in zip(ROWS, names)]
    some = everything(write(tmp_path / "c", table(**{"item_id:token": names})))
    assert some == everything(write(tmp_path / "d", text(rows), "cycle.inter")) and len(some[0]["item_id"][0]) == 11


def test_a_comparison_finds_them(tmp_path):
    config = make_config("SASRec", write(tmp_path, table()))
    check_files(config)
    (tmp_path / "cycle" / "cycle.inter.parquet").rename(tmp_path / "cycle" / "other.parquet")
    with pytest.raises(UsageError, match="cycle.inter"):
        check_files(config)


def test_parts_and_item_files(tmp_path):
    settings = {"benchmark_filename": ["train", "test"], "load_col": {"inter": ["user_id", "item_id_list", "item_id"], "item": ["item_id", "class"]}}
    for folder, kind in (("text", "text"), ("parquet", "parquet")):
        for part, rows in (("train", ROWS[:60]), ("test", ROWS[60:])):
            lists = [[f"i{n % 12}" for n in range(1 + k % 4)] for k in range(len(rows))]
            if kind == "text":
                lines = "".join(f"{row[0]}\t{' '.join(items)}\t{row[1]}\n" for row, items in zip(rows, lists))
                write(tmp_path / folder, "user_id:token\titem_id_list:token_seq\titem_id:token\n" + lines, f"cycle.{part}.inter")
            else:
                columns = {"user_id:token": [row[0] for row in rows], "item_id_list:token_seq": lists, "item_id:token": [row[1] for row in rows]}
                write(tmp_path / folder, pa.table(columns), f"cycle.{part}.inter.parquet")
    write(tmp_path / "text", "item_id:token\tclass:token\n" + "".join(f"i{n}\tc{n % 3}\n" for n in range(14)), "cycle.item")
    columns = {"item_id:token": [f"i{n}" for n in range(14)], "class:token": [f"c{n % 3}" for n in range(14)]}
    write(tmp_path / "parquet", pa.table(columns), "cycle.item.parquet")
    found = []
    for folder in ("text", "parquet"):
        data = create_dataset(make_config("SASRec", str(tmp_path / folder), **settings))
        parts = [{name: column.tolist() for name, column in part.inter_feat.interaction.items()} for part in data.build()]
        classes = {name: column.tolist() for name, column in data.item_feat.interaction.items()}
        found.append((parts, classes, data.field2token_id, [x.tolist() for x in data.item_attributes("class")["class"]]))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"timestamp:float": ["a"] * len(ROWS)}, "column 'timestamp:float' holds values of type string, not numbers"),
        ({"user_id:token": [0.5] * len(ROWS)}, "column 'user_id:token' holds values of type double, not text or whole numbers"),
        ({"tags:token_seq": [1.5] * len(ROWS)}, "column 'tags:token_seq' holds values of type double, not lists of text"),
        ({"sizes:float_seq": [["x"]] * len(ROWS)}, "row 1: '['x']' is no list of numbers"),
        ({"tags:token_seq": [["x", None]] * len(ROWS)}, "a list holds a missing value"),
        ({"timestamp:float": [None, *range(len(ROWS) - 1)]}, "row 1: no number in time field 'timestamp'"),
        ({"price": [1] * len(ROWS)}, "header cell 'price' is not field:type"),
    ],
)
def test_wrong_columns_are_one_line(tmp_path, changes, message):
    with pytest.raises(UsageError) as found:
        everything(write(tmp_path, table(**changes)))
    assert message in str(found.value) and "\n" not in str(found.value)


def test_wrong_files_are_one_line_and_exit_2(tmp_path, capsys, monkeypatch):
    folder = write(tmp_path, table().drop_columns(["item_id:token"]))
    words = ["--model=SimDiffRec", "--dataset=cycle", f"--data_path={folder}", f"--checkpoint_dir={tmp_path}"]
    monkeypatch.chdir(tmp_path)

    def refused():
        assert main(words) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
        assert len(lines) == 1
        return lines[0]

    assert "has no column 'item_id'" in refused()
    write(tmp_path, table().slice(0, 0))
    assert "holds columns but no rows" in refused()
    write(tmp_path, "no parquet", "cycle.inter.parquet")
    assert "cannot be read as Parquet" in refused()
    write(tmp_path, text(), "cycle.inter")
    assert "is there as text and as Parquet ('cycle.inter.parquet'): remove the one" in refused()
    (tmp_path / "cycle" / "cycle.inter").unlink()
    imported = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", lambda name: imported("no_such_module" if name.startswith("pyarrow") else name))
    assert "Parquet files need pyarrow" in refused()


def test_check_data_says_the_same_of_both(tmp_path, capsys):
    rows = [*ROWS, ROWS[-1], ("u1", "", 3, ["a"], [1.0])]
    columns = dict(zip(NAMES, map(list, zip(*rows))))
    places = {"text": write(tmp_path / "text", text(rows), "cycle.inter"), "parquet": write(tmp_path / "parquet", pa.table(columns))}
    said = {}
    for kind, folder in places.items():
        code = main(["check-data", "cycle", f"--data_path={folder}"])
        lines = "".join(capsys.readouterr()).replace(str(tmp_path / kind), "").replace("cycle.inter.parquet", "cycle.inter")
        said[kind] = code, [line.split("the first is")[0] for line in lines.splitlines()]
        assert f"{'line' if kind == 'text' else 'row'} {len(rows) + (kind == 'text')}" in lines
    assert said["text"] == said["parquet"]
    write(tmp_path / "bad", table(**{"price": [1] * len(ROWS)}))
    assert main(["check-data", "cycle", f"--data_path={tmp_path / 'bad'}"]) == 2
    assert "has no type" in capsys.readouterr().err


def test_prepare_writes_either(tmp_path, capsys):
    source = tmp_path / "rows.csv"
    random = np.random.default_rng(0)
    rows = [f"u{random.integers(9)},i{random.integers(9)},{n},{random.integers(1, 6)}" for n in range(300)]
    source.write_text("\n".join(["user,item,timestamp,rating", *rows]) + "\n")
    words = ["prepare", "shop", f"--source={source}", "--format=csv"]
    assert main([*words, f"--out={tmp_path / 'text'}"]) == 0
    assert main([*words, f"--out={tmp_path / 'parquet'}", "--to=parquet"]) == 0
    assert [path.name for path in (tmp_path / "parquet" / "shop").iterdir()] == ["shop.inter.parquet"]
    found = []
    for kind in ("text", "parquet"):
        data = create_dataset(make_config("SASRec", str(tmp_path / kind), "shop"))
        found.append([{name: column.tolist() for name, column in part.inter_feat.interaction.items()} for part in data.build()])
    assert found[0] == found[1]
    assert main([*words, f"--out={tmp_path / 'text'}", "--to=parquet"]) == 2
    assert "exists already, add --force" in capsys.readouterr().err
    assert main([*words, f"--out={tmp_path / 'text'}", "--to=parquet", "--force"]) == 0
    assert [path.name for path in (tmp_path / "text" / "shop").iterdir()] == ["shop.inter.parquet"]
    assert main([*words, f"--out={tmp_path / 'text'}", "--force"]) == 0
    assert [path.name for path in (tmp_path / "text" / "shop").iterdir()] == ["shop.inter"]
