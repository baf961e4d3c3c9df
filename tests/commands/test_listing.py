"""The lists of what there is."""

import pytest

from recbole_diffusion.cli import main
from recbole_diffusion.settings.properties import property_names
from recbole_diffusion.settings.registry import UNSUPPORTED, plugin_models, recbole_models
from recbole_diffusion.testing import cycle_sequences, write_sequences


def listed(capsys, *words):
    """First word of every line -> the line."""
    assert main(["list", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    return {line.split()[0]: line for line in lines if line}


def test_models(capsys):
    found = listed(capsys, "models")
    assert {*plugin_models(), *recbole_models()} <= set(found)
    assert found["SimDiffRec"].split() == [
        "SimDiffRec",
        "here",
        "yes",
        "onnx",
        "no",
        "yes",
        "yes",
        "paper,",
        "quick,",
        "released",
    ]
    assert found["Caser"].split() == ["Caser", "RecBole", "no", "no", "no", "no", "no"]
    assert "(vectors of items)" in found["DiffSBR"]
    for name, reason in UNSUPPORTED.items():
        assert reason in found[name]


def test_models_of_third_parties(capsys, monkeypatch):
    class Entry:
        value = "their_package.models:Theirs"

    monkeypatch.setattr("recbole_diffusion.settings.registry.plugin_models", lambda: {"Theirs": Entry()})
    assert listed(capsys, "models")["Theirs"].split() == ["Theirs", "their_package", "?", "?", "?", "yes", "no"]


def test_datasets_tell_where_they_are(tmp_path, capsys):
    write_sequences(cycle_sequences(), tmp_path, "cycle")
    found = listed(capsys, "datasets", f"--data_path={tmp_path}")
    assert found["cycle"].split()[:3] == ["cycle", "yes", f"{tmp_path}/cycle"]
    assert found["beauty"].split()[:3] == ["beauty", "no", f"{tmp_path}/beauty"]
    assert "22,363 users, 12,101 items" in found["beauty"] and "users with [5,inf) interactions" in found["beauty"]
    assert "ready-made parts train, valid, test" in found["diginetica"]
    assert found["ml-100k"].split()[1] == "yes" and "recbole" in found["ml-100k"]


def test_presets_and_papers(capsys):
    assert main(["list", "presets"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert sorted(f"{model}.{preset}" for model, preset, *_ in lines) == property_names("preset")
    assert set(property_names("paper")) < set(listed(capsys, "papers"))


@pytest.mark.parametrize("words", [["list"], ["list", "modells"]])
def test_what_cannot_be_listed_is_refused(words, capsys):
    assert main(words) == 2
    assert "what" in capsys.readouterr().err
