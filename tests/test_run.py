"""The whole path through the command and through Python: results, checkpoints, protocols."""

import importlib
import json
import logging
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recbole_diffusion import load_data_and_model, quick_start, run
from recbole_diffusion.cli import main, parse_settings
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.errors import UsageError
from recbole_diffusion.quick_start import validate
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.testing import cycle_sequences, make_config, write_sequences
from recbole_diffusion.training.checkpoint import save_atomically
from recbole_diffusion.training.result import format_result
from recbole_diffusion.training.trainer import DiffusionTrainer, trainer_class

SMALL = {"hidden_size": 8, "inner_size": 16, "k_noise": 3, "k_sample": 2, "epochs": 2, "MAX_ITEM_LIST_LENGTH": 10}
SMALL.update(topk=[1, 5], valid_metric="MRR@5", show_progress=False)


@pytest.fixture
def folder(tmp_path):
    return write_sequences(cycle_sequences(), tmp_path, "cycle")


def settings(folder, **more):
    return {**SMALL, "data_path": folder, "checkpoint_dir": f"{folder}/saved", **more}


def test_the_command_prints_a_table_and_a_checkpoint(folder, capsys, tmp_path):
    words = [f"--{key}={value}" for key, value in settings(folder, train_batch_size=16).items()]
    assert main(["--model", "SimDiffRec", "-d", "cycle", "--result_file", "r/result.json", *words]) == 0
    output = capsys.readouterr().out
    result = json.loads(Path("r/result.json").read_text())
    assert "history not masked    history masked" in output
    assert "\x1b" not in output and "\r" not in output  # colours and bars are for terminals
    assert f"hit@5{'':5}{result['test_result_unmasked']['hit@5']:>20.4f}" in output
    assert f"checkpoint {result['checkpoint']}\n" in output and os.path.isfile(result["checkpoint"])
    assert output.endswith("result     r/result.json\n")


def test_result_holds_everything_needed_to_regenerate_it(folder):
    result = run("SimDiffRec", "cycle", config_dict=settings(folder, seed=7))
    assert result["dataset_counts"]["users"] == 40 and result["seed"] == 7 and result["mask_history"] is False
    assert result["test_result"] == result["test_result_unmasked"] != result["test_result_masked"]
    assert set(result["test_result"]) == {f"{m}@{k}" for m in ("hit", "ndcg", "mrr") for k in (1, 5)}
    assert set(result["seconds"]) == {"data", "training", "test"} and result["peak_memory_mb"]["process"] > 0
    assert result["versions"]["recbole"] == "1.2.1" and result["parameters"] > 0 and result["epochs"] == 2
    assert result["settings"]["k_noise"] == 3 and "LS" in result["split"] and result["command"]
    json.dumps(result)


def test_masked_protocol_is_the_unmasked_one_without_seen_items(folder):
    result = run("SimDiffRec", "cycle", config_dict=settings(folder, mask_history=True))
    assert result["test_result"] == result["test_result_masked"]
    config, model, _, _, _, test_data = load_data_and_model(result["checkpoint"])
    users, targets = next(iter(test_data))[0], []
    with torch.no_grad():
        scores = model.full_sort_predict(users)
    for row in range(len(users)):
        seen = users["item_id_list"][row]  # histories are short here, so the list is the whole history
        scores[row, seen] = -torch.inf
        targets.append(int((scores[row] > scores[row, users["item_id"][row]]).sum()) < 5)
    assert sum(targets) / len(targets) == pytest.approx(result["test_result_masked"]["hit@5"], abs=1e-4)


SAMPLING = {"n_blocks": 1, "n_heads": 2, "diffusion_steps": 4, "sampling_steps": 4, "eval_step": 1, "allow_unknown_keys": True}


@pytest.mark.parametrize("model", ["SimDiffRec", "DiffuRec", "DiffuRecSys", "DiffSBR"])
def test_evaluation_does_not_depend_on_the_batch_size(folder, model):
    results, own = [], {} if model == "SimDiffRec" else {**SAMPLING, "corruption_steps": 4}
    result = run(model, "cycle", config_dict=settings(folder, **own))
    for size in (1, 7, 64):
        config, model, _, *_, test_data = load_data_and_model(result["checkpoint"])
        config["eval_batch_size"] = size
        test_data = build_loaders(config, create_dataset(config))[2]
        trainer = trainer_class(config)(config, model)
        results.append(trainer.evaluate(test_data, load_best_model=False))
    assert results[0] == results[1] == results[2] == pytest.approx(result["test_result"])


def test_the_sizes_of_the_parts_are_logged(folder, caplog):
    with caplog.at_level("INFO"):
        create_dataset(make_config("SimDiffRec", folder)).build()
    assert "split: 40 training examples, 40 of validation, 40 of test" in caplog.text


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    """As much of the package as RecBole uses."""
    (tmp_path / "wandb.py").write_text(
        "class Run:\n"
        "    def __init__(self, **words): self.words, self.logged, self.summary = words, [], {}\n"
        "run, runs = None, []\n"
        "def init(**words):\n    global run\n    run = Run(**words)\n    runs.append(run)\n"
        "def finish(exit_code=0):\n    global run\n    run.exit_code, run = exit_code, None\n"
        "def define_metric(*words, **more): pass\n"
        "def log(metrics, commit=True): run.logged.append(metrics)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("wandb")
    del sys.modules["wandb"]


def test_weights_and_biases_get_every_part_of_the_loss(folder, wandb):
    result = run("SimDiffRec", "cycle", config_dict=settings(folder, log_wandb=True, wandb_project="mine"))
    names = {name for metrics in wandb.runs[0].logged for name in metrics}
    assert wandb.runs[0].words["project"] == "mine"
    assert wandb.runs[0].summary["eval/hit@5"] == result["test_result_unmasked"]["hit@5"]
    assert {"train/recommendation", "train/contrast", "train/diffusion", "valid/mrr@5"} <= names


def test_every_run_of_a_process_is_one_of_weights_and_biases(folder, wandb, monkeypatch):
    given = settings(folder, log_wandb=True, mask_history=True)
    masked = run("SimDiffRec", "cycle", config_dict=given)
    with monkeypatch.context() as patch, pytest.raises(UsageError, match="valid_metric mrr@5 has no value"):
        patch.setattr(DiffusionTrainer, "_valid_epoch", lambda self, *args, **more: (math.nan, {"mrr@5": math.nan}))
        validate("SimDiffRec", "cycle", config_dict=given)
    assert [one.exit_code for one in wandb.runs] == [0, 1] and wandb.run is None
    assert wandb.runs[0].summary["eval/hit@5"] == masked["test_result_masked"]["hit@5"]
    wandb.init()
    run("SimDiffRec", "cycle", config_dict=given)
    assert wandb.run is wandb.runs[2] and len(wandb.runs) == 3  # the caller's own, which is his to finish


def test_checkpoint_is_plain_and_gives_the_same_scores_again(folder):
    result = run("SimDiffRec", "cycle", config_dict=settings(folder))
    plain = torch.load(result["checkpoint"], weights_only=True)
    assert plain["item_tokens"][:2] == ["[PAD]", plain["item_tokens"][1]] and plain["config"]["k_noise"] == 3
    config, model, data, train, valid, test = load_data_and_model(result["checkpoint"])
    found = trainer_class(config)(config, model).evaluate(test, load_best_model=False)
    assert found == pytest.approx(result["test_result"])
    assert config["k_noise"] == 3 and not model.training and len(train._dataset) == 40


def test_recboles_own_full_sort_topk_works_on_a_loaded_model(folder):
    from recbole.utils.case_study import full_sort_topk

    result = run("SimDiffRec", "cycle", config_dict=settings(folder))
    config, model, data, _, _, test = load_data_and_model(result["checkpoint"])
    scores, items = full_sort_topk(data.token2id("user_id", ["u0", "u1"]), model, test, k=3, device=config["device"])
    assert items.shape == (2, 3) and (items > 0).all()


def test_recbole_checkpoints_reload_too(folder):
    result = run("GRU4Rec", "cycle", config_dict=settings(folder, k_noise=None, k_sample=None, allow_unknown_keys=True))
    config, model, _, _, _, test = load_data_and_model(result["checkpoint"])
    assert type(model).__name__ == "GRU4Rec"
    assert trainer_class(config)(config, model).evaluate(test, load_best_model=False) == pytest.approx(result["test_result"])


def test_foreign_and_mismatching_checkpoints_are_refused_in_one_line(folder, tmp_path):
    result = run("SimDiffRec", "cycle", config_dict=settings(folder))
    write_sequences(cycle_sequences(n_items=13), folder, "cycle")
    cases = {"absent.pth": None, "text.pth": b"hello", "half.pth": Path(result["checkpoint"]).read_bytes()[:500]}
    for name, content in cases.items():
        if content:
            (tmp_path / name).write_bytes(content)
        size = rf".*\({len(content)} bytes\)" if content else ""
        with pytest.raises(UsageError, match=name + size) as caught:
            load_data_and_model(str(tmp_path / name))
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="trained on other items"):
        load_data_and_model(result["checkpoint"])


def test_a_pickle_from_elsewhere_is_never_executed(tmp_path):
    trap = tmp_path / "trap"

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(trap),)

    torch.save({"format": 1, "config": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(UsageError, match="bomb.pth"):
        load_data_and_model(str(tmp_path / "bomb.pth"))
    assert not trap.exists()


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "model.pth"
    save_atomically({"epoch": 1}, path)
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
    (tmp_path / "other").unlink()
    with pytest.raises(Exception):
        save_atomically({"epoch": lambda: 2}, path)
    assert torch.load(path) == {"epoch": 1} and os.listdir(tmp_path) == ["model.pth"]


def test_many_runs_in_one_process_do_not_wrap_the_output_again_and_again(folder, monkeypatch):
    from recbole_diffusion.training.logs import start_logging

    streams = sys.stdout, sys.stderr
    for _ in range(2):
        start_logging(make_config("SimDiffRec", folder))
        assert (sys.stdout, sys.stderr) == streams


def test_config_files_in_order_and_the_command_line_wins(folder, tmp_path):
    (tmp_path / "a.yaml").write_text("tau: 0.1\nalpha: 0.2\nbeta: 0.3\n")
    (tmp_path / "b.yaml").write_text("alpha: 0.25\nbeta: 0.35\n")
    result = run(
        "SimDiffRec", "cycle", [str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")], settings(folder, beta=0.0, epochs=1)
    )
    assert [result["settings"][key] for key in ("tau", "alpha", "beta")] == [0.1, 0.25, 0.0]


def test_words_are_read_as_yaml_scalars():
    words = ["-m", "A", "--lr=1e-3", "--note=a=b", "--flag", "--topk", "[1,2]", "--name=10-12", "--off=False", "--x=~"]
    assert parse_settings(words) == {
        "model": "A", "lr": 0.001, "note": "a=b", "flag": True, "topk": [1, 2], "name": "10-12", "off": False, "x": None,
    }  # fmt: skip


def test_interrupt_of_the_test_says_how_to_go_on(folder, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(quick_start, "evaluate_both_protocols", interrupted)
    words = ["--model=SimDiffRec", "--dataset=cycle", *(f"--{key}={value}" for key, value in settings(folder).items())]
    assert main(words) == 130
    assert "the same command with --resume goes on after" in capsys.readouterr().err


def test_interrupt_right_after_the_first_file_knows_it(folder, capsys, monkeypatch):
    write = DiffusionTrainer._write

    def interrupted(self, state, path, verbose):
        write(self, state, path, verbose)
        raise KeyboardInterrupt

    monkeypatch.setattr(DiffusionTrainer, "_write", interrupted)
    words = ["--model=SimDiffRec", "--dataset=cycle", *(f"--{key}={value}" for key, value in settings(folder).items())]
    assert main(words) == 130
    assert "the same command with --resume goes on after 1 epochs, saved in " in capsys.readouterr().err


def test_a_full_disk_of_tensorboard_or_log_does_not_end_the_training(folder, caplog, capsys, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", full)
    monkeypatch.setattr(logging.FileHandler, "emit", lambda self, record: self.handleError(record))
    result = run("SimDiffRec", "cycle", config_dict=settings(folder))
    assert result["epochs"] == settings(folder)["epochs"]
    assert caplog.text.count("TensorBoard's files cannot be written any more: No space left on device") == 1
    assert "Logging error" not in capsys.readouterr().err


def test_devices_are_never_replaced_by_files(folder):
    os.mkfifo("pipe")
    with pytest.raises(UsageError, match="'pipe' cannot be written: it is a device or pipe"):
        run("SimDiffRec", "cycle", config_dict=settings(folder, result_file="pipe"))
    os.symlink("there.json", "link.json")
    run("SimDiffRec", "cycle", config_dict=settings(folder, result_file="link.json"))
    assert os.path.islink("link.json") and json.loads(Path("there.json").read_text())["epochs"]


@pytest.mark.parametrize("phase", ["_train_epoch", "_valid_epoch"])
def test_interrupt_says_how_to_go_on(folder, capsys, monkeypatch, phase):
    original, epochs = getattr(DiffusionTrainer, phase), []

    def interrupted_in_the_second(self, *args, **kwargs):
        epochs.append(1)
        if len(epochs) == 2:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(DiffusionTrainer, phase, interrupted_in_the_second)
    words = ["--model=SimDiffRec", "--dataset=cycle", *(f"--{key}={value}" for key, value in settings(folder).items())]
    assert main(words) == 130
    error = capsys.readouterr().err
    assert "interrupted: the same command with --resume goes on after 1 epochs, saved in " in error
    assert torch.load(error.split()[-1], weights_only=True)["epoch"] == 0
    assert main([*words, "--resume"]) == 0 and len(epochs) == 3


def test_without_validation_the_result_file_is_still_json(folder):
    result = run("SimDiffRec", "cycle", config_dict=settings(folder, eval_step=0))
    assert result["best_valid_score"] is None and "Infinity" not in json.dumps(result)


def test_a_removed_target_is_never_a_hit(tmp_path):
    sequences = [[1, 2, 3, 4, 5, 1]] * 6  # the test target was seen, and with it every item is removed
    folder = write_sequences(sequences, tmp_path, "cycle")
    result = run("SimDiffRec", "cycle", config_dict=settings(folder, alpha=0, beta=0))
    assert result["test_result_masked"]["hit@5"] == 0 < result["test_result_unmasked"]["hit@5"]


def test_ray_is_never_imported(folder):
    code = (
        "import sys; from recbole_diffusion import run; from recbole_diffusion.testing import make_config; "
        f"run('SimDiffRec', 'cycle', config_dict={settings(folder, epochs=1)!r}); "
        "assert 'ray' not in sys.modules"
    )
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(root)})


def test_without_the_installed_packages_one_line_says_so():
    script = Path(__file__).parents[1] / "run_recbole_diffusion.py"
    bare = [sys.executable, "-S", script, "--model=SimDiffRec", "--dataset=toy"]  # -S: as if nothing was installed
    done = subprocess.run(bare, env={}, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "is missing in this Python: run 'pip install -e .'" in done.stderr
    assert "Traceback" in subprocess.run([*bare, "--debug"], env={}, capture_output=True, text=True).stderr


def test_an_own_copy_of_ml_100k_wins_over_the_packaged_one(tmp_path):
    packaged = DiffusionConfig("SimDiffRec", "ml-100k", config_dict={"data_path": str(tmp_path)})["data_path"]
    assert Path(packaged, "ml-100k.inter").is_file() and not packaged.startswith(str(tmp_path))
    own = tmp_path / "ml-100k"
    own.mkdir()
    (own / "ml-100k.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n")
    assert DiffusionConfig("SimDiffRec", "ml-100k", config_dict={"data_path": str(tmp_path)})["data_path"] == str(own)


@pytest.mark.parametrize("dataset", ["beauty", "toys", "sports", "yelp", "games", "ml-1m"])
def test_the_lengths_of_diffurec_and_diffurecsys_are_the_papers_on_every_data_set(dataset):
    paper = {"preset": "paper"}
    assert DiffusionConfig("DiffuRec", dataset, config_dict=paper)["MAX_ITEM_LIST_LENGTH"] == 50
    assert DiffusionConfig("DiffuRecSys", dataset, config_dict=paper)["MAX_ITEM_LIST_LENGTH"] == 100
    assert DiffusionConfig("DiffuRecSys", dataset)["MAX_ITEM_LIST_LENGTH"] == 50


def test_a_data_set_can_hold_settings_of_single_models():
    assert DiffusionConfig("SimDiffRec", "ml-100k")["train_batch_size"] == 32
    assert DiffusionConfig("SASRec", "ml-100k")["train_batch_size"] == 2048
    assert DiffusionConfig("SimDiffRec", "ml-100k", config_dict={"train_batch_size": 64})["train_batch_size"] == 64


def test_sampled_ranking_has_no_masked_result(folder, capsys):
    sampled = settings(folder, eval_args={"mode": "uni5"}, topk=[1, 2], valid_metric="MRR@2")
    with pytest.raises(UsageError, match="mask_history needs full ranking"):
        run("SimDiffRec", "cycle", config_dict={**sampled, "mask_history": True})
    result = run("SimDiffRec", "cycle", config_dict=sampled)
    assert result["test_result_masked"] == {} and set(result["test_result_unmasked"]) >= {"hit@1", "hit@2"}
    assert "not available" in format_result(result)
