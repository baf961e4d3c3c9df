"""What a run prints, keeps and returns."""

import io
import json
import logging
import re
import sys
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from tqdm.auto import tqdm

from recbole_diffusion import run
from recbole_diffusion.cli import main
from recbole_diffusion.errors import UsageError
from recbole_diffusion.testing import cycle_sequences, write_sequences
from recbole_diffusion.training import console
from recbole_diffusion.training.console import describe_epoch
from recbole_diffusion.training.result import RunResult, format_result

SMALL = {"hidden_size": 8, "inner_size": 8, "k_noise": 2, "k_sample": 2, "diffusion_steps": 5, "epochs": 3, "topk": [1, 5]}
SMALL.update(valid_metric="MRR@5", use_gpu=False, train_batch_size=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_sequences(cycle_sequences(), tmp_path_factory.mktemp("console"), "cycle")


@pytest.fixture(autouse=True)
def no_notebook(monkeypatch):
    """A test that runs a notebook may have imported this here."""
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)


def given(folder, tmp_path, **more):
    return {**SMALL, "data_path": folder, "checkpoint_dir": str(tmp_path / "saved"), **more}


def words(folder, tmp_path, *more):
    pairs = given(folder, tmp_path).items()
    return ["--model=SimDiffRec", "--dataset=cycle", *(f"--{key}={value}" for key, value in pairs), *more]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def test_a_line_each_for_data_model_device_log_and_epochs_then_the_table(folder, tmp_path, capsys):
    assert main(words(folder, tmp_path)) == 0
    output, errors = capsys.readouterr()
    head, table = output.split("\n\n")
    labels = [line.split()[0] for line in head.splitlines()]
    assert labels == ["data", "model", "device", "log", "epoch", "epoch", "epoch"] and errors == ""
    assert "cycle: 40 users, 12 items, 357 interactions; 40 to train, 40 to validate, 40 to test" in head
    assert re.search(r"model +SimDiffRec, [\d,]+ parameters, seed 2020\n", head)
    assert re.search(r"epoch +0 of 3 +[\d.]+ s +recommendation [\d.]+ +diffusion [\d.]+ +contrast [\d.]+ +MRR@5 0\.\d{4} \*", head)
    assert table.startswith("Test of SimDiffRec on cycle")
    log = Path(re.search(r"log +(\S+)", head)[1]).read_text()
    assert "hidden_size = 8" in log and "hit@1" in log and "PackedTransformer" in log  # network, settings, all metrics
    assert log.rstrip().endswith(table.rstrip())


def test_quiet_prints_the_result_only_and_verbose_the_whole_log(folder, tmp_path, capsys):
    assert main(words(folder, tmp_path, "--quiet")) == 0
    assert capsys.readouterr().out.strip().startswith("Test of SimDiffRec")
    assert main(words(folder, tmp_path, "--verbose")) == 0
    output = capsys.readouterr().out
    assert "INFO  epoch 0 training" in output and "PackedTransformer" in output
    assert output.count("Test of SimDiffRec") == 1


def test_a_wrong_console_is_refused(folder, tmp_path, capsys):
    assert main(words(folder, tmp_path, "--console=loud")) == 2
    assert "console must be one of quiet, normal, verbose, got 'loud'" in capsys.readouterr().err
    assert main(words(folder, tmp_path, "--quiet", "--verbose")) == 2
    assert "--console is given twice" in capsys.readouterr().err


def test_bars_are_for_terminals_and_leave_nothing_behind(folder, tmp_path, capsys, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(console, "tqdm", partial(tqdm, mininterval=0))  # draws every step, however fast they are
    assert main(words(folder, tmp_path)) == 0
    assert "epoch 0:" in screen.getvalue() and "loss=" in screen.getvalue() and "evaluation:" in screen.getvalue()
    assert "\r" not in capsys.readouterr().out
    for more in (["--show_progress=False"], ["--quiet"]):
        screen.truncate(0)
        assert main(words(folder, tmp_path, *more)) == 0 and screen.getvalue().strip("\0") == ""


def test_warnings_are_shown_in_every_mode(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("recbole_diffusion.quick_start.introduce", lambda *_: logging.getLogger().warning("look out"))
    for more in ([], ["--quiet"], ["--verbose"]):
        assert main(words(folder, tmp_path, *more)) == 0
        assert "look out" in capsys.readouterr().out


def test_losses_of_an_epoch_are_means_per_batch(folder, tmp_path):
    result = run("SimDiffRec", "cycle", config_dict=given(folder, tmp_path))
    steps = result["history"]["steps"]
    assert steps == [3, 3, 3]  # 40 sequences in batches of 16
    sums, table = result["history"]["loss"]["recommendation"], result.history
    assert table["loss recommendation"].tolist() == pytest.approx([loss / 3 for loss in sums])
    text = describe_epoch(0, 3, 1.0, {"recommendation": sums[0]}, 3)
    assert f"recommendation {sums[0] / 3:.4f}" in text


def test_the_result_stands_beside_the_checkpoint_and_is_all_that_was_returned(folder, tmp_path):
    result = run("SimDiffRec", "cycle", config_dict=given(folder, tmp_path))
    path = Path(result["checkpoint"].replace("-best.pth", "-result.json"))
    assert result["result_file"] == str(path) and json.loads(path.read_text()) == result
    unsaved = run("SimDiffRec", "cycle", config_dict=given(folder, tmp_path), saved=False)
    assert unsaved["result_file"] is None and unsaved["tested_epoch"] == unsaved["epochs"] - 1
    assert ("since no weights were saved" in str(unsaved)) == (unsaved["best_epoch"] < unsaved["tested_epoch"])
    assert result["tested_epoch"] == result["best_epoch"] and "since no weights" not in str(result)
    earlier = format_result({**unsaved, "best_epoch": -7})
    assert f"; tested is {unsaved['tested_epoch']}, the last, since no weights were saved)" in earlier


def test_best_leaves_out_the_optimizer_and_cannot_be_resumed(folder, tmp_path, capsys):
    result = run("SimDiffRec", "cycle", config_dict=given(folder, tmp_path))
    best = Path(result["checkpoint"])
    last = Path(str(best).replace("-best", "-last"))
    assert "optimizer" not in torch.load(best, weights_only=True) and "optimizer" in torch.load(last, weights_only=True)
    assert best.stat().st_size < 0.6 * last.stat().st_size


def test_the_result_prints_as_its_table_and_has_frames_and_a_picture(folder, tmp_path):
    result = run("SimDiffRec", "cycle", config_dict=given(folder, tmp_path, eval_step=2))
    assert isinstance(result, RunResult) and str(result) == format_result(result)
    assert result.metrics.loc["mrr@5", "not masked"] == result["test_result_unmasked"]["mrr@5"]
    assert result.metrics.loc["mrr@5", "masked"] == result["test_result_masked"]["mrr@5"]
    assert result.history["mrr@5"].notna().tolist() == [False, True, True]  # the last epoch is always looked at
    assert "<table" in result._repr_html_()
    figure = result.plot("mrr@5")
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss, mean of batches", "mrr@5, validation"]
    with pytest.raises(UsageError, match="no validation of 'mrr@6', did you mean 'mrr@5'"):
        result.plot("mrr@6")


def test_a_result_without_masked_figures_has_one_column():
    result = RunResult({"test_result_unmasked": {"hit@1": None}, "test_result_masked": {}})
    assert list(result.metrics) == ["not masked"] and pd.isna(result.metrics.iloc[0, 0])
