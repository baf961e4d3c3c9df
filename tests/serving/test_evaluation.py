"""evaluate: the figures of the run, in one process and in two, what may be changed, and every refusal."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from models import CONTRACTS, training_settings
from recbole.trainer import Trainer
from session_files import SPLIT, TRAIN, write_split

from recbole_diffusion import evaluate, run
from recbole_diffusion.cli import main
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.errors import UsageError
from recbole_diffusion.serving.recommender import SAMPLING_SETTINGS
from recbole_diffusion.testing import cycle_sequences, make_config, write_sequences
from recbole_diffusion.training.checkpoint import load_checkpoint
from recbole_diffusion.training.launch import free_port
from recbole_diffusion.training.networks import build_model

ROOT = Path(__file__).parents[2]
KINDS = ("test_result", "test_result_unmasked", "test_result_masked")
SHARED = ("model", "dataset", "dataset_counts", "split", "mask_history", "leaks_test_labels", "augmented", "seed", "parameters", "device",
          "threads", "versions")  # fmt: skip


def figures(result):
    return {kind: result[kind] for kind in KINDS}


@pytest.mark.parametrize("model", [*CONTRACTS, "SASRec", "NARM", "FPMC"])
def test_the_figures_are_those_of_the_run(trained, model):
    result = trained(model)
    found = evaluate(result, "both")
    assert figures(found) == figures(result)
    assert found["valid_result"] == found["valid_result_unmasked"] == result["best_valid_result"]
    assert {key: found[key] for key in SHARED} == {key: result[key] for key in SHARED}
    assert found["epoch"] == result["best_epoch"] and found["changed"] == {}


@pytest.mark.parametrize("model, more", [("BERT4Rec", {}), ("SASRec", {"mask_history": True}), ("DiffuRec", {"mask_history": True}),
                                         ("SimDiffRec", {"eval_args": {"mode": "uni5"}, "topk": [1, 2], "valid_metric": "MRR@2"}),
                                         ("SASRec", {"eval_args": {"mode": "pop5"}, "topk": [1, 2], "valid_metric": "MRR@2"}),
                                         ("SASRec", {"metrics": ["Hit", "MRR", "ItemCoverage", "AveragePopularity", "GAUC"]})])  # fmt: skip
def test_so_they_are_under_other_protocols(tmp_path, model, more):
    folder = write_sequences(cycle_sequences(), tmp_path, "cycle")
    settings = training_settings(model if model != "BERT4Rec" else "SASRec", folder, checkpoint_dir=str(tmp_path / "saved"), **more)
    result = run(model, "cycle", config_dict=settings)
    found = evaluate(result, "both")
    assert figures(found) == figures(result) and found["valid_result"] == result["best_valid_result"]


def test_the_command_prints_the_table_of_the_run_and_writes_what_it_found(trained, capsys, monkeypatch):
    result = trained("SASRec")
    capsys.readouterr()
    os.mkdir("elsewhere")
    monkeypatch.chdir("elsewhere")
    assert main(["evaluate", result["checkpoint"], "--output=found.json", "--ranks_file=ranks.npz"]) == 0
    table = capsys.readouterr().out.splitlines()
    expected = [f"{name}{value:.4f}" for name, value in result["test_result_unmasked"].items()]
    assert table[0] == f"Test of SASRec on cycle, epoch {result['best_epoch']} (counted from 0), seed 2020"
    assert ["".join(line.split()[:2]) for line in table[2 : 2 + len(expected)]] == expected
    found = json.loads(Path("found.json").read_text())
    assert figures(found) == figures(result) and found["result_file"] == "found.json" and found["parts"] == ["test"]
    assert found["settings"]["valid_metric"] == result["settings"]["valid_metric"]
    ranks = np.load("ranks.npz")
    assert np.mean((ranks["masked"] > 0) & (ranks["masked"] <= 1)) == pytest.approx(result["test_result_masked"]["hit@1"], abs=1e-5)
    assert sorted(os.listdir(".")) == ["found.json", "ranks.npz"]  # no logs, no TensorBoard


def test_other_metrics_are_those_of_a_run_that_asks_for_them(trained):
    given = {"metrics": ["Recall", "NDCG"], "topk": [2, 3], "mask_history": True, "eval_batch_size": 5}
    wanted = trained("SASRec", **given, valid_metric="NDCG@3")
    state, other = (load_checkpoint(result["checkpoint"])["state_dict"] for result in (wanted, trained("SASRec")))
    assert all(torch.equal(state[name], other[name]) for name in state)  # of three epochs the last is the best by both metrics
    found = evaluate(trained("SASRec")["checkpoint"], **given)
    assert figures(found) == figures(wanted)
    assert found["changed"]["topk"] == [trained("SASRec")["settings"]["topk"], [2, 3]] and "topk: [2, 3] (in training" in str(found)
    assert found["settings"]["valid_metric"] == "MRR@5" and list(found.metrics.columns) == ["not masked", "masked"]
    assert found.metrics.loc["ndcg@3", "masked"] == wanted["test_result_masked"]["ndcg@3"]


def test_the_tail_may_be_another_one(trained):
    found = evaluate(trained("SASRec"), metrics=["TailPercentage"], tail_ratio=1)
    assert found["changed"]["tail_ratio"] == [None, 1] and found["test_result"]["tailpercentage@1"] == 1


def test_sampled_ranking_has_candidates_that_belong_to_users(trained):
    given = {"eval_args": {"mode": "uni3"}, "topk": [1, 2], "metrics": "MRR"}
    once, again = (evaluate(trained("SASRec"), **given, eval_batch_size=size) for size in (3, 512))
    assert figures(once) == figures(again) and once["split"].endswith("'test': 'uni3'}")
    assert once["test_result_unmasked"]["mrr@2"] > trained("SASRec")["test_result_unmasked"]["mrr@5"]


@pytest.mark.parametrize("model, given", [
    ("DiffuRec", {"sampling_steps": 4}), ("DiffuRec", {"sampling_steps": 4, "sampler": "ddim", "ddim_eta": 0.5}),
    ("DiffuRec", {"sampling_steps": 3, "reverse_variance": "posterior", "ensemble_seeds": 3}), ("PreferDiff", {"guidance_strength": 7.0}),
    ("DreamRec", {"sampling_noise": False, "sampler": "loop", "sampling_steps": 3}), ("ADRec", {"reverse": "ddim", "sampling_noise": False}),
    ("ACVAE", {"eval_draws": 0}), ("MGS", {"eval_neighbours": "keyed"}),
])  # fmt: skip
def test_how_a_model_samples_may_be_changed(trained, model, given):
    found = evaluate(trained(model), **given)
    assert set(given) <= set(SAMPLING_SETTINGS) and {key: found["settings"][key] for key in given} == given


def test_sampling_changes_figures(trained):
    result = trained("DiffuRec", lambda_mean=3.0, lambda_std=1.0)
    assert figures(evaluate(result)) == figures(result) != figures(evaluate(result, ensemble_seeds=5))


def test_two_processes_print_what_one_does(trained, capsys):
    path = trained("DiffuRec")["checkpoint"]
    capsys.readouterr()
    words = ["evaluate", path, "--part=both", "--eval_batch_size=7", "--use_gpu=False"]
    assert main([*words, "--output=one.json"]) == 0
    one = capsys.readouterr().out
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}",
         str(ROOT / "run_recbole_diffusion.py"), *words, "--output=two.json"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.replace("two.json", "one.json") == one
    found, expected = (json.loads(Path(name).read_text()) for name in ("two.json", "one.json"))
    assert figures(found) == figures(expected) and found["valid_result_masked"] == expected["valid_result_masked"]
    assert found["settings"]["world_size"] == 2


def test_nproc_starts_processes_which_rank_the_same_candidates(tmp_path, capfd):
    folder = Path(write_sequences(cycle_sequences(), tmp_path, "cycle"))
    header, *rows = (folder / "cycle" / "cycle.inter").read_text().splitlines()
    rows = [f"{user}\t{item}\t{int(float(time)) // 2}" for user, item, time in (row.split("\t") for row in rows)]
    (folder / "cycle" / "cycle.inter").write_text("\n".join([header, *rows]) + "\n")
    result = run("SASRec", "cycle", config_dict=training_settings("SASRec", folder, checkpoint_dir="saved"))
    capfd.readouterr()
    given = {"eval_args": {"mode": "uni5"}, "topk": [1, 2], "use_gpu": False}
    found = evaluate(result, nproc=2, **given)
    assert capfd.readouterr().err.count("share user and time") == 1  # of two processes one says it
    assert found["settings"]["world_size"] == 2 and figures(found) == figures(evaluate(result, **given))


def test_what_is_wrong_is_said_before_processes_start(trained, monkeypatch):
    result = trained("SASRec")
    monkeypatch.setattr(torch.multiprocessing, "spawn", None)
    for given, message in (({"eval_batch_size": 0}, "eval_batch_size must lie in"), ({"nprocs": 2}, "did you mean 'nproc'"),
                           ({"ranks_file": "ranks.npz"}, "written by one process only")):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            evaluate(result, nproc=2, **given)


@pytest.mark.parametrize("words, message", [
    (["--hidden_size=16"], "hidden_size cannot be changed after the training, it is 8 in the checkpoint"),
    (["--dataset=other"], "dataset cannot be changed after the training, it is cycle"),
    (["--user_inter_num_interval=[9,inf)"], "user_inter_num_interval cannot be changed after the training"),
    (["--eval_args={split: {RS: [0.8, 0.1, 0.1]}}"], "split of eval_args cannot be changed after the training"),
    (["--eval_args={modes: uni5}"], "eval_args has the unknown key 'modes', did you mean 'mode'?"),
    (["--eval_args=uni5"], "eval_args must be a mapping, got 'uni5'"),
    (["--eval_args={mode: {test: uni0}}"], "mode of eval_args must be full, or uniN or popN such as uni100, got 'uni0'"),
    (["--topkk=3"], "evaluate has no setting 'topkk', did you mean 'topk'?"),
    (["--topk=0"], "topk must be positive whole numbers, got 0"),
    (["--metrics=5"], "metrics must name at least one metric, such as NDCG, got 5"),
    (["--tail_ratio=.inf"], "tail_ratio must be a part of the items in (0, 1] or a number of interactions, got 'inf'"),
    (["--topk=99"], "topk 99 is larger than the number of items, 12"),
    (["--metrics=[NDGC]"], "unknown metric 'NDGC', did you mean 'ndcg'?"),
    (["--eval_batch_size=0"], "eval_batch_size must lie in [1, inf), got 0"),
    (["--sampling_steps=3"], "SASRec has no sampling_steps to change"),
    (["--part=tset"], "part must be one of test, valid, both, got 'tset', did you mean 'test'?"),
    (["--part=valid", "--ranks_file=ranks.npz"], "ranks_file holds the ranks of the test part"),
    (["--data_path=nowhere"], "dataset 'cycle' not found in"),
    (["--output=/dev"], "output: '/dev' is a folder, name a file"),
    (["--output=/dev/null/found.json"], "output: nothing can be written to '/dev/null'"),
])  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(trained, words, message, capsys):
    path = trained("SASRec")["checkpoint"]
    capsys.readouterr()
    assert main(["evaluate", path, *words]) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and said.out == ""


def test_settings_of_the_training_may_be_repeated(trained):
    result = trained("SASRec")
    assert evaluate(result, hidden_size=8, dataset="cycle", eval_args={"order": "TO"})["changed"] == {}


def without_last(rows):
    """The second but last items of a history are others: those of the validation."""
    return [[*row[:-2], row[-1], row[-2]] if number == 3 else row for number, row in enumerate(rows)]


@pytest.mark.parametrize("change, message", [
    (lambda rows: rows[::-1], "was trained on other items (12) than dataset 'cycle' has now (12), or in another order"),
    (lambda rows: rows[:-1], "was trained on other interactions than dataset 'cycle' has now in"),
    (without_last, "was trained on other interactions than dataset 'cycle' has now in"),
    (lambda rows: [[13, *row] for row in rows], "was trained on other items (12) than dataset 'cycle' has now (13)"),
])  # fmt: skip
def test_other_data_are_refused_in_one_line(trained, change, message, tmp_path, capsys):
    folder = write_sequences(change(cycle_sequences()), tmp_path / "other", "cycle")
    assert main(["evaluate", trained("SASRec")["checkpoint"], f"--data_path={folder}"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_files_that_are_no_checkpoint_are_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "text.pth").write_text("hello")
    for path, message in (("text.pth", "is not a checkpoint"), ("none.pth", "checkpoint 'none.pth' does not exist")):
        assert main(["evaluate", path]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    with pytest.raises(UsageError, match="the run was not saved"):
        evaluate({"checkpoint": None})


def test_recboles_own_checkpoint_is_measured_when_trusted(trained_data, tmp_path, capsys):
    more = {"train_batch_size": 64, "epochs": 1, "use_gpu": False, "checkpoint_dir": str(tmp_path)}
    config = make_config("SASRec", trained_data("SASRec"), hidden_size=8, inner_size=16, **more)
    loaders = build_loaders(config, create_dataset(config))
    stock = Trainer(config, build_model(config, loaders[0]))
    stock.fit(*loaders[:2], verbose=False)
    assert main(["evaluate", stock.saved_model_file]) == 2
    assert "--trust-checkpoint reads it all the same" in capsys.readouterr().err
    found = evaluate(stock.saved_model_file, trust_checkpoint=True)
    assert found["test_result"] == stock.evaluate(loaders[2], load_best_model=False)


def test_ready_made_files_without_validation_have_none_to_measure(tmp_path):
    folder = write_split(tmp_path, TRAIN, [], [[2, 5, 1], [3, 4, 6, 2]])
    split = {**SPLIT, "benchmark_filename": ["train", "test"], "eval_step": 0}
    result = run("SASRec", "shop", config_dict=training_settings("SASRec", folder, **split, checkpoint_dir="saved"))
    assert figures(evaluate(result)) == figures(result)
    with pytest.raises(UsageError, match="dataset 'shop' has no valid part"):
        evaluate(result, "valid")


def test_ctrl_c_ends_it_in_one_line(trained):
    result = trained("SASRec")
    waiting = "import recbole_diffusion.serving.evaluation as e, time; e.measure = lambda *_: (print('now', flush=True), time.sleep(99))"
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a shell's job in the background ignores it
    code = f"{heard}\n{waiting}\nimport sys; from recbole_diffusion.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "evaluate", result["checkpoint"]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:  # fmt: skip
        assert process.stdout.readline() == "now\n"
        time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        error = process.stderr.read()
    assert process.returncode == 130 and error.strip() == "interrupted"
