"""What a run leaves behind in its process: nothing, and nothing of it reaches the next run."""

import io
import logging
import os
import random
import sys
import threading

import numpy as np
import pytest
import torch

from recbole_diffusion import run
from recbole_diffusion.cli import main
from recbole_diffusion.errors import UsageError
from recbole_diffusion.testing import cycle_sequences, make_config, write_sequences
from recbole_diffusion.training.logs import end_logging, start_logging

SMALL = {"topk": [5], "valid_metric": "MRR@5", "show_progress": False, "epochs": 1, "MAX_ITEM_LIST_LENGTH": 10}


@pytest.fixture
def given(tmp_path):
    return {**SMALL, "data_path": write_sequences(cycle_sequences(), tmp_path, "cycle"), "use_gpu": False}


@pytest.mark.parametrize("fails", [False, True])
def test_the_process_is_as_it_was(given, monkeypatch, fails):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    root, cudnn, own = logging.getLogger(), torch.backends.cudnn, logging.NullHandler()
    root.addHandler(own)

    def surroundings():
        return (
            root.level, list(root.handlers), torch.get_float32_matmul_precision(), cudnn.benchmark, cudnn.deterministic,
            os.environ.get("CUDA_VISIBLE_DEVICES"), sys.stdout, sys.stderr, threading.active_count(),
            torch.get_num_threads(),
        )  # fmt: skip

    def draws():
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    def seeded():
        random.seed(5), np.random.seed(5), torch.manual_seed(5)

    before = surroundings()
    seeded()
    expected = draws()
    seeded()
    words = {"state": "ERROR", "float32_matmul_precision": "medium", "reproducibility": False, "gpu_id": 7, "threads": 3}
    try:
        run("SKNN", "cycle", config_dict={**given, **words, **({"topk": [99], "valid_metric": "MRR@99"} if fails else {})})
        assert not fails
    except UsageError:
        assert fails
    finally:
        root.removeHandler(own)
        before[1].remove(own)
    assert surroundings() == before and draws() == expected


def test_every_run_has_logs_and_tensorboard_files_of_its_own(given, tmp_path):
    """Also where the program that calls has a log of its own, after which RecBole would name TensorBoard's folder."""
    own = logging.FileHandler(tmp_path / "app.log")
    logging.getLogger().addHandler(own)
    try:
        for seed in (1, 2):
            run("SKNN", "cycle", config_dict={**given, "seed": seed})
    finally:
        logging.getLogger().removeHandler(own)
        own.close()
    logs, boards = sorted(os.listdir("log/SKNN")), sorted(os.listdir("log_tensorboard"))
    assert len(logs) == 2 and boards == [name.split(".")[0] for name in logs]


def shown_in_ascii(monkeypatch, action):
    """What an action prints on a standard output that knows no other letters, and what it returns."""
    raw = io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
        result = action()
        sys.stdout.flush()
        return raw.getvalue().decode("ascii"), result


def test_a_letter_that_the_terminal_lacks_ends_neither_the_run_nor_the_log(given, tmp_path, monkeypatch):
    """Through Python, where nobody has made the stream lenient."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's cannot send half a letter to its other processes
    folder = tmp_path / "sav\xe9 \udcff"
    words = {**given, "checkpoint_dir": str(folder), "console": "verbose"}
    shown, _ = shown_in_ascii(monkeypatch, lambda: run("SKNN", "cycle", config_dict=words))
    assert "sav\\xe9 \\udcff/SKNN" in shown and shown.count("Loading model structure") == 1
    (log,) = os.listdir("log/SKNN")
    with open(f"log/SKNN/{log}", encoding="utf-8") as file:
        assert "sav\xe9 \\udcff/SKNN" in file.read()
    assert len(list(folder.glob("*-best.pth"))) == 1


def test_the_table_is_printed_on_a_stream_of_another_encoding(given, tmp_path, monkeypatch):
    words = [f"--{key}={value}" for key, value in {**given, "checkpoint_dir": tmp_path / "sav\xe9"}.items()]
    shown, code = shown_in_ascii(monkeypatch, lambda: main(["--model=SKNN", "--dataset=cycle", *words]))
    assert code == 0 and "mrr@5" in shown and "sav\\xe9/SKNN" in shown


def test_closed_streams(given, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    start_logging(make_config("SKNN", given["data_path"]))
    logging.getLogger().warning("nobody reads this")
    end_logging()
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["--model=SKNN", "--dataset=cycle", *(f"--{key}={value}" for key, value in given.items())]) == 0


def test_a_full_output_is_told_in_one_line(monkeypatch, capsys):
    if not os.path.exists("/dev/full"):
        pytest.skip("no such device here")
    monkeypatch.setattr(sys, "stdout", open("/dev/full", "w"))
    assert main(["--help"]) == 2
    assert capsys.readouterr().err == "error: standard output cannot be written: No space left on device\n"


def test_home_folders_of_other_commands(given, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    words = [f"--{key}={value}" for key, value in {**given, "data_path": "~/"}.items()]
    assert main(["compare", "--models=SKNN", "--datasets=cycle", "--seeds=1", "--out=~/runs", *words]) == 0
    assert list((tmp_path / "runs" / "cycle").glob("SKNN-*.json")) and not os.path.exists("~")
    assert main(["recommend", "~/absent.pth", "--input=x", "--output=y"]) == 2
    assert f"{tmp_path}/absent.pth" in capsys.readouterr().err
