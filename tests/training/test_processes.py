"""Two processes are one: the same batches, the same metrics, one writer."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from models import ALL, CONTRACTS, without_dropout
from pseudo_files import write_pseudo_items

from recbole_diffusion import devices, processes, run
from recbole_diffusion.cli import main
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.errors import UsageError
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.testing import cycle_sequences, write_sequences
from recbole_diffusion.training import trainer
from recbole_diffusion.training.checkpoint import load_checkpoint
from recbole_diffusion.training.launch import free_port, run_in_group, split_group
from recbole_diffusion.training.networks import build_model

ROOT = Path(__file__).parents[2]
SETTINGS = {"epochs": 3, "MAX_ITEM_LIST_LENGTH": 10, "topk": [1, 5], "use_gpu": False, "show_progress": False}
SETTINGS.update(valid_metric="MRR@5", eval_batch_size=7, metrics=["Hit", "MRR", "ItemCoverage"], checkpoint_dir="saved")
PLAIN = {**without_dropout("SimDiffRec"), "train_batch_size": 20, "alpha": 0, "beta": 0}
# Cross-entropy by lookups, without chance: all rows of the table are met in every step.
ROWS = {"loss_type": "SCE", "sce_buckets": 1, "sce_states": 10**6, "sce_items": 10**6, "sparse_table": True}
LARGE = {"loss_type": "SS", "n_negatives": 3, "sparse_table": True, "rounding_loss": "sampled", "neighbour_search": "lists"}
fork = multiprocessing.get_context("fork")


def quiet(model, **more):
    """Settings under which several processes compute what one does."""
    return {**without_dropout(model), "train_batch_size": 40, **CONTRACTS[model].settings_without_chance, **more}


def settings(model, folder, **more):
    return {**ALL[model].small(), **SETTINGS, "data_path": str(folder), **more}


def write_data(model, folder):
    return ALL[model].write_data(folder, cycle_sequences(n_users=41))  # the last batch is a single row


@pytest.fixture
def folder(tmp_path):
    return write_data("SimDiffRec", tmp_path)


def run_in_copies(model, given, size=2, train=run):
    """The result of ``run`` in copies of this process, which have imported everything already; (results, exit codes)."""
    environment = {"MASTER_ADDR": "localhost", "MASTER_PORT": free_port(), "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    arguments = (0, environment, Path.cwd(), train, (model, "cycle", None, given, True))
    group = [fork.Process(target=run_in_group, args=(rank, *arguments)) for rank in range(size)]
    for process in group:
        process.start()
    for process in group:
        process.join(300)  # a loaded machine takes its time
    files = [Path(f"result-{rank}.json") for rank in range(size)]
    return [json.loads(file.read_text()) for file in files if file.exists()], [process.exitcode for process in group]


@pytest.mark.parametrize(
    "model, more, size",
    [
        ("SimDiffRec", PLAIN, 2),
        ("SimDiffRec", {**PLAIN, "ce_positions": "last", "train_view": "prefix", "enable_amp": True}, 2),
        ("SimDiffRec", {**PLAIN, "mask_history": True, "clip_grad_norm": {"max_norm": 0.1}}, 3),
        ("SimDiffRec", {**PLAIN, **ROWS, "clip_grad_norm": {"max_norm": 0.1}}, 3),
        ("SimDiffRec", quiet("SimDiffRec", mask_same_target=True, ce_positions="last", train_view="prefix"), 3),
        ("DiffSBR", quiet("DiffSBR", graph_folds=3, train_batch_size=11), 2),
        # The last of 245 examples is a batch of its own, and the codebook learns from it in both processes.
        ("DiQDiff", quiet("DiQDiff", train_batch_size=61), 2),
        ("SASRec", {**without_dropout("SASRec"), "train_batch_size": 64, "epochs": 1}, 2),
        *((model, quiet(model), 2) for model, contract in CONTRACTS.items() if contract.settings_without_chance is not None),
    ],
)
def test_several_processes_give_the_metrics_of_one(tmp_path, model, more, size):
    given = settings(model, write_data(model, tmp_path), **more)
    one = run(model, "cycle", config_dict={**given, "checkpoint_dir": "one"})
    several, codes = run_in_copies(model, given, size)
    assert codes == [0] * size
    for result in several:
        for kind in ("test_result_unmasked", "test_result_masked", "best_valid_result"):
            assert result[kind] == pytest.approx(one[kind], abs=1e-4)
        assert result["best_epoch"] == one["best_epoch"] and result["checkpoint"] == several[0]["checkpoint"]
    expected, found = (load_checkpoint(result["checkpoint"]) for result in (one, several[0]))
    losses = [list(state["training"]["train_loss_dict"].values()) for state in (found, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2 if "enable_amp" in more else 1e-4)
    if "enable_amp" not in more:
        for name, tensor in expected["state_dict"].items():
            other = found["state_dict"][name]
            if name.endswith("key_value.bias"):  # those of keys have no gradient but rounding: a softmax does not see them
                tensor, other = tensor.chunk(2)[1], other.chunk(2)[1]
            torch.testing.assert_close(other, tensor, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    "model, more",
    [
        ("SimDiffRec", {**PLAIN, "repetition": "learned", "augmented_parts": "all"}),
        ("ECLSR", quiet("ECLSR", official_compat=True)),  # padding is in its loss, pseudo items are not
        ("SASRec", {**without_dropout("SASRec"), "train_batch_size": 64, "epochs": 1}),
    ],
)
def test_pseudo_items_are_shared_out_like_others(tmp_path, model, more):
    folder = write_data(model, tmp_path)
    write_pseudo_items(folder, {user: [1 + user % 12, 12 - user % 12, 5] for user in range(0, 41, 3)})
    given = settings(model, folder, **more, augmented="auto")
    one = run(model, "cycle", config_dict={**given, "checkpoint_dir": "one"})
    several, codes = run_in_copies(model, given)
    assert codes == [0, 0]
    expected, *found = (load_checkpoint(result["checkpoint"]) for result in (one, *several))
    for result, state in zip(several, found):
        assert result["augmented"] == one["augmented"] and result["augmented"]["users"] == 14
        assert result["best_valid_result"] == pytest.approx(one["best_valid_result"], abs=1e-4)
        losses = [list(kept["training"]["train_loss_dict"].values()) for kept in (state, expected)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        for name, tensor in expected["state_dict"].items():
            torch.testing.assert_close(state["state_dict"][name], tensor, atol=1e-3, rtol=1e-3)


def test_the_noise_of_an_evaluation_does_not_depend_on_the_number_of_processes(folder):
    # Training has other noise, but changes nothing.
    noisy = {"lambda_mean": 1.0, "lambda_std": 1.0, "epochs": 1, "learning_rate": 1e-12, "train_batch_size": 64}
    given = settings("DiffuRec", folder, **noisy)
    one = run("DiffuRec", "cycle", config_dict={**given, "checkpoint_dir": "one"})
    several, codes = run_in_copies("DiffuRec", given)
    assert codes == [0, 0]
    for result in several:
        for kind in ("test_result_unmasked", "test_result_masked", "best_valid_result"):
            assert result[kind] == pytest.approx(one[kind], abs=1e-4)
    expected, found = (load_checkpoint(result["checkpoint"])["state_dict"] for result in (one, several[0]))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor)


def run_and_weigh(*arguments):
    """``run`` that also tells the sums of the weights that this process has after each epoch."""
    train_epoch, sums = trainer.DiffusionTrainer._train_epoch, []

    def weighed(self, *words, **more):
        loss = train_epoch(self, *words, **more)
        sums.append([float(weight.detach().double().sum()) for weight in self.model.parameters()])
        return loss

    trainer.DiffusionTrainer._train_epoch = weighed
    return {**run(*arguments), "weights": sums}


@pytest.mark.parametrize("model, more", [*((model, {}) for model in CONTRACTS), ("SimDiffRec", LARGE)])
def test_two_processes_have_other_noise_the_same_weights_and_one_writes(tmp_path, model, more):
    results, codes = run_in_copies(model, settings(model, write_data(model, tmp_path), **more), train=run_and_weigh)
    assert codes == [0, 0] and results[0]["test_result"] == results[1]["test_result"]
    assert results[0]["weights"] == results[1]["weights"] and len(results[0]["weights"]) == results[0]["epochs"]
    random = load_checkpoint(results[0]["checkpoint"])["training"]["random"]
    assert len(random) == 2 and not torch.equal(random[0]["torch"], random[1]["torch"])
    assert torch.equal(random[0]["generators"][0], random[1]["generators"][0])  # the order of the batches is common
    assert sorted(name.rpartition("-")[2] for name in os.listdir("saved")) == ["best.pth", "last.pth", "result.json"]
    assert len(list(Path("log").rglob("*.log"))) == 1 and len(list(Path("log_tensorboard").iterdir())) == 1


def test_two_processes_resume_exactly(folder):
    given = settings("SimDiffRec", folder)
    undisturbed, _ = run_in_copies("SimDiffRec", {**given, "checkpoint_dir": "undisturbed"})
    run_in_copies("SimDiffRec", {**given, "epochs": 1})
    resumed, codes = run_in_copies("SimDiffRec", {**given, "resume": True})
    assert codes == [0, 0] and resumed[0]["epochs"] == 3
    assert resumed[0]["test_result"] == undisturbed[0]["test_result"]
    weights = [load_checkpoint(result["checkpoint"])["state_dict"] for result in (resumed[0], undisturbed[0])]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_more_processes_than_users_are_refused(tmp_path):
    folder = write_sequences([[1, 2, 3, 4, 5]] * 2, tmp_path, "cycle")
    given = settings("SimDiffRec", folder, **PLAIN, topk=[1], valid_metric="MRR@1")
    _, codes = run_in_copies("SimDiffRec", given, size=3)
    assert codes == [2, 2, 2]
    assert "valid part has too few users for 3 processes" in Path("UsageError-0.txt").read_text()


def test_torchrun_prints_one_table(folder):
    words = [f"--{key}={value}" for key, value in settings("SimDiffRec", folder, **PLAIN, epochs=1).items()]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}",
         str(ROOT / "run_recbole_diffusion.py"), "--model=SimDiffRec", "--dataset=cycle", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("checkpoint ") == 1 and done.stdout.count("epoch    0 of 1") == 1


def test_nproc_starts_processes(folder):
    result = run("SimDiffRec", "cycle", config_dict=settings("SimDiffRec", folder, **PLAIN, epochs=1, nproc=2, worker=1, result_file="r.json"))
    assert result["settings"]["world_size"] == 2 and json.loads(Path("r.json").read_text()) == result


def test_wrong_settings_are_refused_before_anything_starts(folder):
    with pytest.raises(UsageError, match="tau must lie in"):
        run("SimDiffRec", "cycle", config_dict=settings("SimDiffRec", folder, tau=0, nproc=2))


@pytest.mark.parametrize(
    "group, expected",
    [
        ({"nproc": "two"}, "nproc must be a whole number, got 'two'"),
        ({"nproc": 0}, "must fit into world_size"),
        ({"nproc": 2, "world_size": 4, "group_offset": 3}, "must fit into world_size 4"),
    ],
)
def test_impossible_groups(group, expected):
    with pytest.raises(UsageError, match=expected):
        split_group({"tau": 1, **group})
    assert split_group({"tau": 1, "nproc": 1}) == ({"tau": 1}, {})


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine that says it has two GPUs; gives the calls that would reach them."""
    calls = []
    monkeypatch.setattr(devices, "_shown", [])  # as in a process that has not asked CUDA yet
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: calls.append(("device", device)))
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend: calls.append(("group", backend)))
    monkeypatch.setattr(processes.atexit, "register", lambda function: None)
    return calls


def test_every_process_has_its_gpu_and_they_meet_by_nccl(two_gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert processes.join(use_gpu=True) == torch.device("cuda", 1)
    assert two_gpus == [("device", 1), ("group", "cpu:gloo,cuda:nccl")]
    two_gpus.clear()
    assert processes.join(use_gpu=False) == torch.device("cpu")
    assert two_gpus == [("group", "gloo")]


def test_more_processes_than_gpus_are_refused(two_gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(UsageError, match="3 processes on one machine need 3 GPUs, it has 2: add --use_gpu=False"):
        processes.join(use_gpu=True)
    assert not two_gpus


@pytest.mark.parametrize("launched", [False, True])
@pytest.mark.parametrize("gpus, seen", [("2,3", "2,3"), ([2, 3], "2,3"), ((2, 3), "2,3"), (3, "3"), ([], ""), ("", "")])
def test_gpus_are_named_as_words_or_lists(two_gpus, monkeypatch, launched, gpus, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    monkeypatch.setattr(processes, "launched", lambda: launched)
    config = DiffusionConfig("SimDiffRec", "ml-100k", config_dict={"gpu_id": gpus})
    assert config["gpu_id"] == os.environ["CUDA_VISIBLE_DEVICES"] == seen
    assert config["device"].type == ("cuda" if seen else "cpu")


@pytest.mark.parametrize("visible", [None, "", "3", "MIG-1"])
def test_without_gpu_id_the_environment_decides(two_gpus, monkeypatch, visible):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert DiffusionConfig("SimDiffRec", "ml-100k")["device"].type == "cuda"
    assert DiffusionConfig("SimDiffRec", "ml-100k", config_dict={"use_gpu": False})["device"].type == "cpu"
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible


def test_no_thread_of_a_group_outlives_it():
    """Such a thread aborts a process now and then, while Python takes itself down."""
    program = """
import os
from recbole_diffusion import processes
import torch
processes.join(use_gpu=False)
import torch._dynamo, torch.distributed as dist
def threads(): return [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
count = sum("gloo" in name for name in threads())
dist.destroy_process_group()
print(count > 0, sum("gloo" in name for name in threads()))
"""
    meeting = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, **meeting}, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "0"], done.stderr


def fail_first(rank, port):
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    processes.join(use_gpu=False)
    try:
        processes.first_does(os.stat, "/no/such/file")
    except FileNotFoundError:
        os._exit(7)


def test_all_processes_get_the_error_of_the_first():
    port = free_port()
    group = [fork.Process(target=fail_first, args=(rank, port)) for rank in range(2)]
    for process in group:
        process.start()
    for process in group:
        process.join(60)
    assert [process.exitcode for process in group] == [7, 7]


def test_half_precision_trains_where_a_process_begins_without_rows(folder):
    given = settings("SimDiffRec", folder, **{**PLAIN, "train_batch_size": 1}, epochs=1, enable_amp=True, amp_type="fp16")
    assert run_in_copies("SimDiffRec", given)[1] == [0, 0]


def test_models_that_normalise_over_batches_are_refused(folder, monkeypatch):
    config = DiffusionConfig("DIN", "cycle", config_dict={**SETTINGS, "data_path": folder, "embedding_size": 8, "train_neg_sample_args": None})
    monkeypatch.setattr(processes, "world_size", lambda: 2)
    with pytest.raises(UsageError, match="DIN normalises over batches, of which processes see parts"):
        build_model(config, build_loaders(config, create_dataset(config))[0])


def test_ctrl_c_ends_all_processes_and_says_how_to_go_on(folder):
    words = [f"--{key}={value}" for key, value in settings("SimDiffRec", folder, **{**PLAIN, "epochs": 100_000}).items()]
    command = [sys.executable, ROOT / "run_recbole_diffusion.py", "--model=SimDiffRec", "--dataset=cycle", "--nproc=2", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True) as run:
        while not list(Path().glob("saved/*-last.pth")):
            assert run.poll() is None
            time.sleep(0.1)
        os.killpg(run.pid, signal.SIGINT)
        errors = run.stderr.read()
    assert run.returncode == 130 and "interrupted: the same command with --resume goes on after" in errors


def test_nproc_under_torchrun_is_refused(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="torchrun has started the processes already"):
        split_group({"nproc": 2})


def test_other_commands_do_not_run_under_torchrun(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert main(["compare", "--models=SimDiffRec", "--datasets=toy"]) == 2
    assert "compare does not run under torchrun" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")
    assert main(["compare"]) == 2 and capsys.readouterr().err == ""


def test_several_machines_need_an_address(folder):
    with pytest.raises(UsageError, match="several machines need --ip and --port"):
        run("SimDiffRec", "cycle", config_dict=settings("SimDiffRec", folder, nproc=1, world_size=2))
