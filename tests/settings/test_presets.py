"""Presets: every one is accepted, wins over defaults and loses to the command line, and is kept in results."""

from pathlib import Path

import pytest
import torch

from recbole_diffusion import load_data_and_model, run
from recbole_diffusion.cli import main
from recbole_diffusion.errors import UsageError
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.settings.presets import describe_preset, preset_files
from recbole_diffusion.settings.properties import load_yaml, properties_dir, property_names
from recbole_diffusion.settings.registry import MODELS
from recbole_diffusion.testing import cycle_sequences, write_sequences
from recbole_diffusion.training.result import format_result

FILES = sorted((properties_dir() / "preset").glob("*.yaml"))
DATA = {"beauty", "toys", "sports", "yelp", "ml-1m", "ml-100k", "toy", "cellphones"}
SMALL = {"n_blocks": 1, "hidden_size": 8, "inner_size": 8, "epochs": 1, "use_gpu": False, "show_progress": False}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_preset_is_documented_and_accepted_on_every_data_set(path):
    model, name = path.stem.split(".")
    assert model in MODELS and len(describe_preset(path)) > 20
    content = load_yaml(path)
    per_data = content.pop("datasets", {})
    assert set(per_data) <= set(property_names("dataset"))
    for dataset in DATA:
        config = DiffusionConfig(model, dataset, config_dict={"preset": name})
        for key, value in {**content, **per_data.get(dataset, {})}.items():
            assert config[key] == value
        # as a user's own settings they would be known, of the right type and in range
        DiffusionConfig(model, dataset, config_dict={**content, **per_data.get(dataset, {})})


@pytest.mark.parametrize("model", ["DreamRec", "PreferDiff"])
@pytest.mark.parametrize("name", ["paper", "released"])
def test_positions_of_dreamrec_and_preferdiff_are_counted_as_in_their_code(model, name):
    assert DiffusionConfig(model, "beauty", config_dict={"preset": name})["pos_align"] == "start"


@pytest.mark.parametrize("model", ["DiffuRec", "DiffuRecSys", "DiQDiff"])
def test_models_that_encode_every_prefix_see_fifty_items_of_the_long_histories_of_ml_1m(model):
    assert DiffusionConfig(model, "ml-1m", config_dict={})["MAX_ITEM_LIST_LENGTH"] == 50
    assert DiffusionConfig("SASRec", "ml-1m", config_dict={})["MAX_ITEM_LIST_LENGTH"] == 200


def test_models_that_train_have_the_three_presets():
    for model in set(MODELS) - {"SKNN", "CoOccurrence", "Successors", "Popularity"}:
        assert {"paper", "released", "quick"} <= set(preset_files(model)), model


def test_sources_of_settings_win_in_their_order(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("beta: 0.3\npreset: paper\n")
    default = DiffusionConfig("SimDiffRec", "beauty", config_dict={})
    paper = DiffusionConfig("SimDiffRec", "beauty", [str(file)], {"tau": 0.5})
    assert (default["alpha"], default["beta"], default["preset"]) == (0.1, 0.1, None)
    assert (paper["alpha"], paper["beta"], paper["tau"], paper["preset"]) == (0.4, 0.3, 0.5, "paper")
    assert DiffusionConfig("SimDiffRec", "toys", config_dict={"preset": "paper"})["alpha"] == 0.1


@pytest.mark.parametrize(
    "model, name, words",
    [
        ("DiffuRec", "papr", "DiffuRec has no preset 'papr', did you mean 'paper'.: there are: paper, quick, released"),
        ("SASRec", "paper", "SASRec has no preset 'paper'.*it has none"),
        ("DiffuRec", 3, "DiffuRec has no preset '3'"),
        ("DiffuRec", ["paper"], "DiffuRec has no preset"),
    ],
)
def test_unknown_presets_are_refused_with_those_that_exist(model, name, words):
    with pytest.raises(UsageError, match=words):
        DiffusionConfig(model, "toy", config_dict={"preset": name})


def test_help_of_a_model_lists_its_presets(capsys):
    assert main(["--help", "--model=DiffuRec"]) == 0
    text = capsys.readouterr().out
    for name, path in preset_files("DiffuRec").items():
        assert f"--preset={name}: {describe_preset(path)}" in text


def test_the_name_of_a_preset_is_kept_and_a_run_of_the_same_settings_resumes(tmp_path):
    folder = write_sequences(cycle_sequences(), tmp_path, "cycle")
    given = {**SMALL, "data_path": folder, "checkpoint_dir": f"{folder}/saved", "topk": [5], "valid_metric": "MRR@5"}
    result = run("DiffuRec", "cycle", config_dict={**given, "preset": "quick"})
    assert result["settings"]["preset"] == "quick" and result["settings"]["train_batch_size"] == 1024
    assert "Test of DiffuRec (preset quick) on cycle" in format_result(result)
    assert torch.load(result["checkpoint"], weights_only=True)["config"]["preset"] == "quick"
    config = load_data_and_model(result["checkpoint"])[0]
    assert config["train_batch_size"] == 1024 and config["learning_rate"] == 0.002

    # the settings count for resumption, not the word that brought them
    spelled = {**load_yaml(preset_files("DiffuRec")["quick"]), **given, "epochs": 2, "resume": True}
    assert len(run("DiffuRec", "cycle", config_dict=spelled)["history"]["epoch"]) == 2


def test_rows_of_papers_use_the_preset_of_the_paper():
    for path in (properties_dir() / "paper").glob("*.yaml"):
        content = load_yaml(path)
        rows = list(content.get("rows", {}).items())
        rows += [(sweep["key"], sweep["row"]) for sweep in content.get("sweeps", [])]
        for label, row in rows:
            if "paper" in preset_files(row["model"]):
                assert row["preset"] == ("released" if "released code" in label else "paper"), (path.name, label)


@pytest.mark.parametrize(
    "model, name, lengths",
    [
        ("ACVAE", "paper", {"beauty": 50, "yelp": 50, "ml-1m": 200}),
        ("ACVAE", "released", {"beauty": 50, "yelp": 50, "ml-1m": 200}),
        ("CL4SRec", "released", {"beauty": 50, "ml-1m": 50}),
    ],
)
def test_histories_are_as_long_as_in_the_source_of_a_preset_on_every_data_set(model, name, lengths):
    for dataset, longest in lengths.items():
        assert DiffusionConfig(model, dataset, config_dict={"preset": name})["MAX_ITEM_LIST_LENGTH"] == longest, dataset


@pytest.mark.parametrize("dataset", sorted(DATA - {"toy", "cellphones"}))  # those have limits of their own
def test_the_reconstruction_of_vsan_is_its_defaults_written_out(dataset):
    default = DiffusionConfig("VSAN", dataset, config_dict={})
    written = DiffusionConfig("VSAN", dataset, config_dict={"preset": "paper"})
    for key in load_yaml(preset_files("VSAN")["paper"]):
        assert key == "datasets" or written[key] == default[key], key


def test_a_model_from_elsewhere_has_presets_beside_its_settings_file(tmp_path):
    (tmp_path / "mine.yaml").write_text("a: 1\n")
    (tmp_path / "mine.fast.yaml").write_text("# Fast.\na: 2\n")
    assert preset_files("Mine", tmp_path / "mine.yaml") == {"fast": Path(tmp_path / "mine.fast.yaml")}
