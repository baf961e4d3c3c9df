"""Separators of columns and of values in a column: signs of YAML, of patterns, wrong ones."""

import pytest

from recbole_diffusion.cli import main, parse_settings
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.errors import UsageError
from recbole_diffusion.testing import make_config

COLUMNS = {"inter": ["user_id", "item_id", "timestamp", "genres"]}


def write(folder, between_columns="\t", between_values=" ", values=("A", "B"), kind="token_seq"):
    (folder / "cycle").mkdir()
    rows = [["user_id:token", "item_id:token", "timestamp:float", f"genres:{kind}"]]
    rows += [[f"u{user}", f"i{user + step}", str(step), between_values.join(values)] for user in range(6) for step in range(5)]
    (folder / "cycle" / "cycle.inter").write_text("\n".join(map(between_columns.join, rows)) + "\n")
    return str(folder)


@pytest.mark.parametrize("sign", ["|", ">", "-", "&", "*", "#", "!", ",", ":", ";", "~", "/", "||", "->", " "])
def test_any_sign_separates_values_from_the_command_line(tmp_path, sign):
    settings = parse_settings([f"--seq_separator={sign}"])
    data = create_dataset(make_config("SASRec", write(tmp_path, between_values=sign), load_col=COLUMNS, **settings))
    assert sorted(data.field2id_token["genres"]) == ["A", "B", "[PAD]"]


def test_quoted_separators_are_read_as_yaml_and_tabulators_are_written():
    assert parse_settings(["--seq_separator='|'", "--field_separator=\\t"]) == {"seq_separator": "|", "field_separator": "\t"}
    assert parse_settings(['--field_separator="\\t"'])["field_separator"] == "\t"


def test_the_command_takes_a_bar(tmp_path, capsys):
    words = [f"--data_path={write(tmp_path, between_values='|')}", "--model=SKNN", "--dataset=cycle", "--epochs=1"]
    words += ["--load_col={inter: [user_id, item_id, timestamp, genres]}", "--seq_separator", "|", "--topk=[2]"]
    assert main([*words, "--valid_metric=MRR@2", "--show_progress=False"]) == 0
    assert "Test of SKNN on cycle" in capsys.readouterr().out


def test_columns_with_a_bar_between_them(tmp_path):
    config = make_config("SASRec", write(tmp_path, "|"), load_col=COLUMNS, field_separator="|")
    assert create_dataset(config).item_num == 11


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"field_separator": "||"}, r"field_separator must be one character that stands between columns, got '\|\|'"),
        ({"field_separator": ""}, "field_separator must be one character"),
        ({"seq_separator": ""}, "seq_separator cannot be ''"),
        ({"seq_separator": "\t"}, r"seq_separator cannot be '\\t'"),
    ],
)
def test_wrong_separators(tmp_path, settings, expected):
    with pytest.raises(UsageError, match=expected):
        create_dataset(make_config("SASRec", write(tmp_path), load_col=COLUMNS, **settings))


@pytest.mark.parametrize("values", [("1", "x"), ("1|2",), ("1", "inf")])
def test_lists_of_numbers_hold_numbers(tmp_path, values):
    folder = write(tmp_path, values=values, kind="float_seq")
    with pytest.raises(UsageError, match=r"cycle.inter line 2: '.*' is no list of numbers separated by ' ' \(column 'genres'"):
        create_dataset(make_config("SASRec", folder, load_col=COLUMNS))
