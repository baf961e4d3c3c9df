"""Every documented setting of every model refuses what its line of the yaml file excludes, in one line."""

import math

import pytest
from models import CONTRACTS

from recbole_diffusion.cli import main
from recbole_diffusion.testing import write_sequences
from recbole_diffusion.testing.settings import choices_of, documented, range_of
from recbole_diffusion.training import trainer

WRONG_TYPES = {"int": "1.5", "float": "warm", "bool": "maybe", "list": "{a: 1}", "dict": "5", "str": "[a]", "path": "[a]"}


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("training started")

    monkeypatch.setattr(trainer.EpochsMixin, "fit", fail)


def refused(capsys, model, folder, *words):
    """The message of a command that must be refused."""
    given = [f"--model={model}", "--dataset=cycle", f"--data_path={folder}", "--show_progress=False", *words]
    code, error = main(given), capsys.readouterr().err
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1, (words, error)
    return error


def outside(setting):
    """Numbers just outside the documented range."""
    bounds, step = range_of(setting), 1 if setting.type == "int" else 1e-3
    if bounds:
        low, high, with_low, with_high = bounds
        if not math.isinf(low):
            yield low - step if with_low else low
        if not math.isinf(high):
            yield high + step if with_high else high


@pytest.mark.parametrize("model", CONTRACTS)
def test_every_setting_is_checked(model, trained_data, capsys):
    tried, folder = 0, trained_data(model)
    for key, setting in documented(model)[1].items():
        assert f"{key} must be" in refused(capsys, model, folder, f"--{key}={WRONG_TYPES[setting.type]}")
        for number in outside(setting):
            number = int(number) if setting.type == "int" else number
            assert f"{key} must lie in" in refused(capsys, model, folder, f"--{key}={number}")
            tried += 1
        if choices_of(setting) and setting.type == "str":
            assert f"{key} must be one of" in refused(capsys, model, folder, f"--{key}=nonsense")
    assert tried > 0


@pytest.mark.parametrize("model", CONTRACTS)
def test_a_misspelt_setting_is_named(model, trained_data, capsys):
    for key in list(documented(model)[1])[:3]:
        message = refused(capsys, model, trained_data(model), f"--{key}s=1")
        assert f"unknown key '{key}s', did you mean '{key}'?" in message


@pytest.mark.parametrize("model", CONTRACTS)
def test_data_that_are_too_few_are_named(model, tmp_path, capsys):
    """Whatever a model counts or builds from the training part before it trains."""
    few = write_sequences([[1, 2]] * 3, tmp_path, "cycle")
    assert "no " in refused(capsys, model, few) or "few" in refused(capsys, model, few)
