"""<name>.yaml in the folder of the data: read by every command, below what the user names, and checked like it."""

from pathlib import Path

import pytest
from session_files import TRAIN, write_split

from recbole_diffusion.cli import main
from recbole_diffusion.errors import UsageError
from recbole_diffusion.prepare.check import check_data
from recbole_diffusion.settings.config import DiffusionConfig

YAML = "USER_ID_FIELD: session_id\nbenchmark_filename: [train, valid, test]\nMAX_ITEM_LIST_LENGTH: 7\n"
WORDS = ["--epochs=1", "--show_progress=False", "--topk=[2]", "--valid_metric=MRR@2"]


@pytest.fixture
def beside(tmp_path):
    """Function that writes the settings of the data set ``shop``, whose parts it makes."""
    write_split(tmp_path, TRAIN, [[1, 2, 3]], [[2, 3, 4]])

    def write(text=YAML):
        (tmp_path / "shop" / "shop.yaml").write_text(text)
        return str(tmp_path)

    return write


def configured(folder, files=(), model="SASRec", **settings):
    return DiffusionConfig(model, "shop", list(files), {"data_path": folder, "topk": [2], "valid_metric": "MRR@2", **settings})


def test_they_stand_between_the_known_ones_and_what_is_named(beside, tmp_path):
    folder = beside()
    assert configured(folder)["MAX_ITEM_LIST_LENGTH"] == 7 and configured(folder)["USER_ID_FIELD"] == "session_id"
    named = tmp_path / "named.yaml"
    named.write_text("MAX_ITEM_LIST_LENGTH: 8\n")
    assert configured(folder, [str(named)])["MAX_ITEM_LIST_LENGTH"] == 8
    assert configured(folder, [str(named)], MAX_ITEM_LIST_LENGTH=9)["MAX_ITEM_LIST_LENGTH"] == 9


def test_they_win_over_those_of_a_known_data_set(tmp_path):
    (tmp_path / "toy").mkdir()
    assert DiffusionConfig("SASRec", "toy", config_dict={"data_path": str(tmp_path)})["MAX_ITEM_LIST_LENGTH"] == 20
    (tmp_path / "toy" / "toy.yaml").write_text("MAX_ITEM_LIST_LENGTH: 7\n")
    assert DiffusionConfig("SASRec", "toy", config_dict={"data_path": str(tmp_path)})["MAX_ITEM_LIST_LENGTH"] == 7


def test_settings_of_single_models(beside):
    folder = beside(YAML + "model_settings:\n  SASRec: {hidden_size: 32}\n")
    assert configured(folder)["hidden_size"] == 32
    assert configured(folder, hidden_size=16)["hidden_size"] == 16
    assert configured(folder, model="GRU4Rec")["hidden_size"] != 32


@pytest.mark.parametrize(
    "text, expected",
    [
        ("MAX_ITEM_LIST_LENGHT: 7\n", "^shop.yaml beside the data: unknown key 'MAX_ITEM_LIST_LENGHT', did you mean 'MAX_ITEM_LIST_LENGTH'"),
        ("train_batch_size: many\n", "train_batch_size must be"),
        ("data_path: elsewhere\n", "must not hold data_path"),
        ("- a\n", "must hold 'key: value' lines"),
    ],
)
def test_wrong_settings_are_refused(beside, text, expected):
    folder = beside(text)
    with pytest.raises(UsageError, match=expected):
        configured(folder)


def test_every_command_reads_them(beside, tmp_path, capsys):
    data = f"--data_path={beside()}"
    assert main(["run", "--model=SASRec", "--dataset=shop", data, *WORDS]) == 0
    assert main(["compare", "--models=SKNN", "--datasets=shop", "--seeds=1", f"--out={tmp_path / 'out'}", data, *WORDS]) == 0
    Path("space.yaml").write_text("learning_rate: [0.001, 0.01]\n")
    words = ["--model=SASRec", "--dataset=shop", "--trials=1", "--space=space.yaml", f"--out={tmp_path / 'tune'}"]
    assert main(["tune", *words, data, *WORDS]) == 0
    assert main(["check-data", "shop", data]) == 0
    out = capsys.readouterr().out
    assert "train: 6 examples" in out and "shop: ok" in out


def test_what_prepare_writes_for_sessions_is_checked_and_trained(tmp_path, capsys):
    rows = [f"s{s}\ti{(s + k) % 5}\t{k}" for s in range(20) for k in range(4)]
    source = tmp_path / "raw.inter"
    source.write_text("\n".join(["session_id:token\titem_id:token\ttimestamp:float", *rows]) + "\n")
    words = ["prepare", "visits", f"--source={source}", "--format=atomic-sessions"]
    assert main(words) == 0
    assert main(["check-data", "visits"]) == 0
    assert main(["--model=SASRec", "--dataset=visits", *WORDS]) == 0
    assert "Test of SASRec on visits" in capsys.readouterr().out


def test_check_data_takes_settings(beside, tmp_path, capsys):
    data = f"--data_path={tmp_path}"
    assert main(["check-data", "shop", data]) == 2
    assert "holds ready-made parts and no shop.inter" in capsys.readouterr().err
    words = ["--USER_ID_FIELD=session_id", "--benchmark_filename=[train,valid,test]"]
    assert main(["check-data", "shop", data, *words]) == 0
    file = tmp_path / "named.yaml"
    file.write_text(YAML + "learning_rate: 0.1\n")
    assert main(["check-data", "shop", data, f"--config_files={file}"]) == 0
    assert main(["check-data", "shop", data, f"--config_files={file}", "--USER_ID_FIELD=visit"]) == 2
    assert "has no field 'visit'" in capsys.readouterr().err
    assert main(["check-data", "shop", data, "--USER_ID_FEILD=x"]) == 2
    assert "--USER_ID_FEILD says nothing about data, did you mean 'USER_ID_FIELD'?" in capsys.readouterr().err
    assert main(["check-data", "shop", data, "--load_col=[a]"]) == 2
    assert "load_col must be a mapping such as" in capsys.readouterr().err


def test_none_switches_expected_counts_off(beside):
    folder = beside(YAML + "expected_counts: {users: 1, items: 1, interactions: 1}\n")
    assert not check_data("shop", folder).ok
    assert check_data("shop", folder, {"expected_counts": None}).ok
