"""What a model says of itself after every epoch: at the console, in the history, and one warning."""

import re
from pathlib import Path

import pytest

from recbole_diffusion import run
from recbole_diffusion.cli import main
from recbole_diffusion.testing import cycle_sequences, write_sequences

SMALL = {"hidden_size": 8, "inner_size": 8, "diffusion_steps": 20, "epochs": 4, "topk": [1, 5], "valid_metric": "MRR@5"}
SMALL.update(use_gpu=False, train_batch_size=16)
# The squared error alone, which is smaller where all vectors are.
COLLAPSING = {"ce_weight": 0.0, "learning_rate": 0.03, "epochs": 12, "initializer_range": 1.0}


@pytest.fixture
def given(tmp_path):
    folder = write_sequences(cycle_sequences(), tmp_path, "cycle")
    return {**SMALL, "data_path": folder, "checkpoint_dir": str(tmp_path / "saved")}


def test_every_epoch_has_the_spread_of_the_items(given, capsys):
    words = [f"--{key}={value}" for key, value in given.items()]
    assert main(["--model=DreamRec", "--dataset=cycle", *words]) == 0
    output = capsys.readouterr().out
    lines = [line for line in output.splitlines() if line.startswith("epoch")]
    assert len(lines) == 4 and "collapse" not in output
    assert all(re.search(r"ce [\d.]+   item std 0\.\d{4}   item cosine -?0\.\d{4}   MRR@5", line) for line in lines)
    log = Path(re.search(r"log +(\S+)", output)[1]).read_text()
    assert lines[0] in log


def test_a_collapse_is_said_once_and_kept(given, capsys):
    words = [f"--{key}={value}" for key, value in {**given, **COLLAPSING}.items()]
    assert main(["--model=DreamRec", "--dataset=cycle", *words]) == 0
    output = capsys.readouterr().out
    assert output.count("the item vectors collapse: standard deviation") == 1
    assert re.search(r"warning +epoch \d+: the item vectors collapse: .* raise ce_weight", output)


def test_reports_are_kept_and_a_resumed_run_goes_on_with_them(given):
    whole = run("DreamRec", "cycle", config_dict=given)["history"]["report"]
    assert {name: len(values) for name, values in whole.items()} == {"item std": 4, "item cosine": 4}
    given["checkpoint_dir"] += "-again"
    run("DreamRec", "cycle", config_dict={**given, "epochs": 2})
    assert run("DreamRec", "cycle", config_dict={**given, "resume": True})["history"]["report"] == whole


@pytest.mark.parametrize("model", ["SASRec", "SimDiffRec"])
def test_models_that_report_nothing_train_as_ever(model, given):
    more = {"diffusion_steps": 5, "k_noise": 2, "k_sample": 2} if model == "SimDiffRec" else {}
    settings = {key: value for key, value in given.items() if key != "diffusion_steps"}
    assert "report" not in run(model, "cycle", config_dict={**settings, **more, "epochs": 1})["history"]
