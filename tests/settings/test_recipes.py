"""Recipes: every one is accepted, is found by its word, loses to later settings, and unknown ones name the nearest."""

import json

import pytest

from recbole_diffusion.cli import main
from recbole_diffusion.errors import UsageError
from recbole_diffusion.settings import recipes
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.settings.properties import load_yaml, properties_dir
from recbole_diffusion.settings.recipes import expand_config_files
from recbole_diffusion.testing import cycle_sequences, write_sequences

FILES = sorted((properties_dir() / "recipe").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_recipe_is_accepted_and_says_what_chose_it(path):
    assert "validation" in path.read_text().partition("\n\n")[0]
    for model, settings in load_yaml(path).items():
        config = DiffusionConfig(model, path.stem, ["recipe"])
        assert settings and {key: config[key] for key in settings} == settings


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A recipe for the data set cycle, and the settings of its data."""
    (tmp_path / "cycle.yaml").write_text("SimDiffRec: {alpha: 0, beta: 0.25, hidden_size: 16}\nDiffuRec: {n_blocks: 2}\n")
    monkeypatch.setattr(recipes, "property_names", lambda kind: ["beauty", "cycle"])
    monkeypatch.setattr(recipes, "property_file", lambda kind, name: tmp_path / f"{name}.yaml")
    folder = write_sequences(cycle_sequences(), tmp_path / "data", "cycle")
    return {"data_path": str(folder), "use_gpu": False, "show_progress": False}


def test_later_files_and_the_command_line_win(kept, tmp_path):
    (tmp_path / "mine.yaml").write_text("hidden_size: 32\n")
    config = DiffusionConfig("SimDiffRec", "cycle", None, {**kept, "config_files": f"recipe {tmp_path}/mine.yaml", "alpha": 0.1})
    assert (config["alpha"], config["beta"], config["hidden_size"]) == (0.1, 0.25, 32)
    assert DiffusionConfig("SimDiffRec", "cycle", [f"{tmp_path}/mine.yaml", "recipe"], kept)["hidden_size"] == 16
    assert DiffusionConfig(config_file_list=["recipe"], config_dict={**kept, "model": "DiffuRec", "dataset": "cycle"})["n_blocks"] == 2


@pytest.mark.parametrize("names", [None, "", [], ["recipe", "one.yaml"], "recipe one.yaml"])
def test_several_files_are_a_list_or_have_blanks_between_them(names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.yaml").write_text("alpha: 0.5\n")
    expected = {"config_files": "recipe", "alpha": 0.5} if names else {}
    assert expand_config_files({"config_files": names, "epochs": 3}) == {**expected, "epochs": 3}


def test_every_row_of_a_comparison_takes_its_own(kept, tmp_path, capsys):
    assert expand_config_files({"config_files": "recipe", "epochs": 3}) == {"config_files": "recipe", "epochs": 3}
    words = [f"--{key}={value}" for key, value in kept.items()]
    (tmp_path / "rows.yaml").write_text(
        "plain: {model: SimDiffRec, config_files: recipe}\nwider: {model: SimDiffRec, config_files: recipe, hidden_size: 24}\n"
    )
    small = ["--epochs=1", "--k_noise=2", "--topk=[5]", "--valid_metric=MRR@5", "--eval_step=0"]
    assert main(["compare", f"--rows={tmp_path}/rows.yaml", "--datasets=cycle", f"--out={tmp_path}/out", *words, *small]) == 0
    cells = [json.loads(path.read_text()) for path in (tmp_path / "out" / "cycle").glob("SimDiffRec*.json")]
    found = {cell["row"]: (cell["settings"]["beta"], cell["settings"]["hidden_size"]) for cell in cells}
    assert found == {"plain": (0.25, 16), "wider": (0.25, 24)}


@pytest.mark.parametrize(
    "model, dataset, words",
    [
        ("SimDiffRec", "cycles", "no recipe for data set 'cycles', did you mean 'cycle'.: there are: beauty, cycle"),
        ("SimDifRec", "cycle", "no recipe for SimDifRec on cycle, did you mean 'SimDiffRec'"),
        ("DiffuRecSys", "cycle", "no recipe for DiffuRecSys on cycle, did you mean 'DiffuRec'.: there are: SimDiffRec, DiffuRec"),
    ],
)  # fmt: skip
def test_what_there_is_not_names_the_nearest(kept, model, dataset, words):
    with pytest.raises(UsageError, match=words):
        DiffusionConfig(model, dataset, ["recipe"], kept)


def test_without_a_model_that_is_what_is_missing(kept):
    with pytest.raises(UsageError, match="no model given"):
        DiffusionConfig(None, "cycle", ["recipe"], kept)


def test_the_command_line_says_so_in_one_line(capsys):
    assert main(["--model=SimDiffRec", "--dataset=beuty", "--config_files=recipe"]) == 2
    error = capsys.readouterr().err.strip()
    assert "no recipe for data set 'beuty', did you mean 'beauty'" in error and "\n" not in error
