"""A run that is killed and resumed is the run that was never killed, bit by bit."""

import multiprocessing
import os
import random
import resource
import signal
import zipfile
from pathlib import Path

import pytest
import torch
from models import CONTRACTS, training_settings

from recbole_diffusion import load_data_and_model, run
from recbole_diffusion.cli import main
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.errors import UsageError
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.settings.free import FREE_SETTINGS
from recbole_diffusion.testing import cycle_sequences, write_sequences
from recbole_diffusion.training import checkpoint, trainer
from recbole_diffusion.training.collector import OneTargetCollector
from recbole_diffusion.training.networks import build_model

RESUMED = [*CONTRACTS, "SASRec", "GRU4Rec"]
NEGATIVES = {"loss_type": "BPR", "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}}
MORE = {"SASRec": NEGATIVES}
fork = multiprocessing.get_context("fork")


@pytest.fixture
def folder(trained_data):
    return trained_data("SimDiffRec")


def settings(folder, model="SimDiffRec", **more):
    """Those of the undisturbed training, whose files are elsewhere."""
    return training_settings(model, folder, **{**MORE.get(model, {}), "checkpoint_dir": "saved", **more})


@pytest.fixture
def expected(trained):
    """What an undisturbed training of SimDiffRec gives."""
    return trained("SimDiffRec")


def test_the_generator_of_the_own_gpu_is_saved_and_restored(monkeypatch):
    states = {torch.device("cuda", 1): torch.tensor([5])}
    monkeypatch.setattr(torch.cuda, "get_rng_state", states.get)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: states.update({device: state + 1}))
    here, gpu = torch.device("cpu"), torch.device("cuda", 1)
    on_gpu, on_cpu = checkpoint.random_state([], gpu), checkpoint.random_state([], here)
    checkpoint.restore_random_state(on_cpu, [], gpu)
    checkpoint.restore_random_state(on_gpu, [], here)
    assert on_cpu["cuda"] is None and states[gpu] == 5
    checkpoint.restore_random_state(on_gpu, [], gpu)
    assert states[gpu] == 6


def test_another_kind_of_device_is_named_at_a_resumption(folder, caplog):
    first = run("SimDiffRec", "cycle", config_dict=settings(folder, epochs=1))
    assert "another kind of device" not in caplog.text
    (last,) = Path("saved").glob("*-last.pth")
    state = checkpoint.load_checkpoint(last)
    state["training"]["random"][0]["cuda"] = torch.zeros(1)
    torch.save(state, last)
    run("SimDiffRec", "cycle", config_dict=settings(folder, epochs=2, resume=True))
    assert first["epochs"] == 1 and "the run began on another kind of device than cpu" in caplog.text


def train(model, given):
    return run(model, "cycle", config_dict=given)


def kill_in_a_copy(action, after=None):
    """Run in a copy of this process, which is killed after some seconds or kills itself; returns the exit code."""
    process = fork.Process(target=action)
    process.start()
    process.join(after)
    process.kill()
    process.join()
    return process.exitcode


def assert_same(found, expected, where=""):
    """Equal to the last bit, in nested dicts, lists and tensors."""
    if torch.is_tensor(expected):
        assert torch.equal(found, expected), where
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            assert_same(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), where
        for i, value in enumerate(expected):
            assert_same(found[i], value, f"{where}[{i}]")
    else:
        assert found == expected, where


def assert_same_run(found, expected):
    """Two results of ``run`` and both files of each."""
    for key in ("test_result", "test_result_masked", "best_valid_result", "best_valid_score", "best_epoch", "epochs"):
        assert found[key] == expected[key], key
    for kind in ("best", "last"):
        one, other = (torch.load(r["checkpoint"].replace("best.pth", f"{kind}.pth")) for r in (found, expected))
        for state in (one, other):
            state["config"] = {key: value for key, value in state["config"].items() if key not in FREE_SETTINGS}
            assert state["training"].pop("seconds") > 0
        assert_same(one, other)


def die_in(module, name, call, before=True):
    """A function that kills this process when ``module.name`` is called for the ``call``-th time, or just after."""
    original, calls = getattr(module, name), []

    def dying(*args, **kwargs):
        calls.append(1)
        if len(calls) == call and before:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(module, name, dying)


MOMENTS = {
    "in training": (trainer.DiffusionTrainer, "_train_batch", 5),
    "in validation": (OneTargetCollector, "eval_batch_collect", 2),
    "while saving": (checkpoint.os, "fsync", 4),
    "between last and best": (checkpoint.os, "replace", 4),
    "in the test": (trainer.DiffusionTrainer, "evaluate", 5),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_a_known_moment(folder, expected, moment):

    def killed():
        die_in(*MOMENTS[moment])
        train("SimDiffRec", settings(folder))

    assert kill_in_a_copy(killed) == -signal.SIGKILL
    assert_same_run(train("SimDiffRec", settings(folder, resume=True)), expected)
    assert not list(Path("saved").glob("*.tmp"))


def test_diffsbr_is_resumed_with_its_modality(trained_data):
    config = DiffusionConfig("DiffSBR", "cycle", config_dict=settings(trained_data("DiffSBR"), "DiffSBR"))
    assert build_model(config, build_loaders(config, create_dataset(config))[0]).fusion == "contrast"


def killed_at_random(trained, folder, model, moments, seed):
    """Kill a run at random moments, each time from the start, and compare what resuming makes of it."""
    expected = trained(model, **MORE.get(model, {}))
    seconds, chance = sum(expected["seconds"].values()), random.Random(seed)
    for number in range(moments):
        given = settings(folder, model, checkpoint_dir=f"saved{number}")
        kill_in_a_copy(lambda: train(model, given), after=chance.uniform(0, seconds))
        assert_same_run(train(model, {**given, "resume": True}), expected)


@pytest.mark.parametrize("model", RESUMED)
def test_killed_at_a_random_moment(trained, trained_data, model):
    killed_at_random(trained, trained_data(model), model, moments=3 if model in CONTRACTS else 1, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("model", RESUMED)
def test_killed_at_twenty_random_moments(trained, trained_data, model):
    killed_at_random(trained, trained_data(model), model, moments=20, seed=2)


def test_killed_again_and_again(folder, expected):
    for _ in range(2):

        def killed():
            die_in(trainer.DiffusionTrainer, "_train_epoch", call=2)
            train("SimDiffRec", settings(folder, resume=True))

        assert kill_in_a_copy(killed) == -signal.SIGKILL
    assert_same_run(train("SimDiffRec", settings(folder, resume=True)), expected)


def test_a_full_disk_ends_in_one_line_and_the_run_goes_on_later(folder, expected, capfd):
    words = ["--model=SimDiffRec", "--dataset=cycle", *(f"--{k}={v}" for k, v in settings(folder).items())]

    def on_a_full_disk():
        size = Path(expected["checkpoint"]).stat().st_size
        save, calls = checkpoint.torch.save, []

        def filling_up(state, file):
            calls.append(1)
            if len(calls) == 4:
                resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
            save(state, file)

        checkpoint.torch.save = filling_up
        os._exit(main(words))

    assert kill_in_a_copy(on_a_full_disk) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and "cannot be written" in error
    assert not list(Path("saved").glob("*.tmp"))
    assert_same_run(train("SimDiffRec", settings(folder, resume=True)), expected)


def test_more_epochs_go_on_with_a_finished_run(folder, expected):
    train("SimDiffRec", settings(folder, epochs=2))
    assert_same_run(train("SimDiffRec", settings(folder, resume=True)), expected)
    assert_same_run(train("SimDiffRec", settings(folder, resume=True)), expected)  # nothing is left to train
    with pytest.raises(UsageError, match="has 4 epochs already"):
        train("SimDiffRec", settings(folder, resume=True, epochs=3))


def test_seconds_of_training_include_the_part_before_the_stop(folder):
    first = train("SimDiffRec", settings(folder, epochs=2))
    file = last_file(first)
    state = checkpoint.load_checkpoint(file)
    state["training"]["seconds"] = 1000.0
    torch.save(state, file)
    resumed = train("SimDiffRec", settings(folder, resume=True))
    assert 1000 < resumed["seconds"]["training"] < 1100
    assert 1000 < checkpoint.load_checkpoint(file)["training"]["seconds"] <= resumed["seconds"]["training"]


def test_early_stopping_is_remembered(folder):
    given = settings(folder, learning_rate=1.0, stopping_step=1, epochs=9)
    first = train("SimDiffRec", given)
    again = train("SimDiffRec", {**given, "resume": True})
    assert first["epochs"] == again["epochs"] < 9 and first["checkpoint"] == again["checkpoint"]


def test_other_settings_are_another_run(folder, caplog):
    first = train("SimDiffRec", settings(folder, epochs=1))
    with caplog.at_level("INFO"):
        second = train("SimDiffRec", settings(folder, epochs=1, tau=0.5, resume=True))
    assert "no earlier run of these settings" in caplog.text and first["checkpoint"] != second["checkpoint"]


def last_file(result):
    return Path(result["checkpoint"].replace("-best", "-last"))


def flip_a_byte(path):
    """Of the largest tensor, which PyTorch would read as if nothing had happened."""
    with zipfile.ZipFile(path) as archive:
        tensors = [info for info in archive.infolist() if "/data/" in info.filename]
        largest = max(tensors, key=lambda info: info.file_size)
        content = archive.read(largest)
    whole = bytearray(path.read_bytes())
    whole[whole.index(content) + len(content) // 2] ^= 1
    path.write_bytes(whole)
    torch.load(path, weights_only=True)


def change_checkpoint(path, change):
    state = torch.load(path)
    change(state)
    torch.save(state, path)


@pytest.mark.parametrize(
    "damage, expected",
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-2000]), "is not a checkpoint of recbole_diffusion"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "is not a checkpoint of recbole_diffusion"),
        (lambda path: path.write_bytes(b""), "is not a checkpoint of recbole_diffusion"),
        (lambda path: torch.save([1], path), "is not a checkpoint of recbole_diffusion"),
        (lambda path: change_checkpoint(path, lambda s: s.update(format=99)), "has checkpoint format 99"),
        (lambda path: change_checkpoint(path, lambda s: s["config"].update(model="SASRec")), "of SASRec, not of SimDiffRec"),
        (lambda path: change_checkpoint(path, lambda s: s["training"].update(version="9.9")), "by recbole_diffusion 9.9"),
        (lambda path: change_checkpoint(path, lambda s: s.pop("training")), "not the state of its training"),
        (lambda path: change_checkpoint(path, lambda s: s["item_tokens"].pop()), "other items (11) than dataset 'cycle'"),
        (lambda path: change_checkpoint(path, lambda s: s["item_tokens"].reverse()), "on other items than"),
        (lambda path: Path(str(path).replace("last", "best")).unlink(), "-best.pth' is gone"),
        (lambda path: Path(str(path).replace("last", "best")).write_bytes(b"x"), "-best.pth' is not a checkpoint"),
        (lambda path: flip_a_byte(path), "it is damaged: a part of it is not what was written"),
        (lambda path: change_checkpoint(path, lambda s: s.pop("optimizer")), "not the state of its training"),
        (lambda path: change_checkpoint(path, lambda s: s["state_dict"].popitem()), "cannot be resumed with these data"),
        (lambda path: change_checkpoint(path, lambda s: s.pop("state_dict")), "it has no 'state_dict'"),
    ],
)
def test_what_cannot_be_resumed_is_refused_in_one_line(folder, capsys, damage, expected):
    given = settings(folder, epochs=2, learning_rate=1e-9, valid_metric="MRR@1")
    result = train("SimDiffRec", {**given, "epochs": 2})
    state = torch.load(last_file(result))
    state["training"]["best_epoch"] = 0
    torch.save(state, last_file(result))
    damage(last_file(result))
    words = [f"--{key}={value}" for key, value in given.items()]
    assert main(["--model=SimDiffRec", "--dataset=cycle", *words, "--resume"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and expected in error, error


@pytest.fixture
def own_folder(tmp_path):
    """Data that a test may change."""
    return CONTRACTS["SimDiffRec"].write_data(tmp_path)


def test_other_interactions_are_refused(own_folder):
    given = settings(own_folder, epochs=1)
    train("SimDiffRec", given)
    write_sequences(cycle_sequences(seed=1), own_folder, "cycle")
    with pytest.raises(UsageError, match="on other (items|interactions) than dataset 'cycle'"):
        train("SimDiffRec", {**given, "resume": True, "epochs": 2})


def test_other_validation_interactions_are_refused(own_folder):
    given = settings(own_folder, epochs=1)
    train("SimDiffRec", given)
    sequences = cycle_sequences()
    sequences[-1][-2:] = reversed(sequences[-1][-2:])  # the two targets of one user
    write_sequences(sequences, own_folder, "cycle")
    with pytest.raises(UsageError, match="on other interactions than dataset 'cycle'"):
        train("SimDiffRec", {**given, "resume": True, "epochs": 2})


def test_another_number_of_users_is_refused_by_models_with_user_vectors(own_folder):
    given = settings(own_folder, "FPMC", epochs=1)
    train("FPMC", given)
    write_sequences([*cycle_sequences(), [1, 2, 3, 4, 5]], own_folder, "cycle")
    with pytest.raises(UsageError, match="cannot be resumed with these data and settings: size mismatch for"):
        train("FPMC", {**given, "resume": True, "epochs": 2})


def test_a_checkpoint_from_a_run_with_other_settings_is_refused_by_name(folder):
    first = train("SimDiffRec", settings(folder, epochs=1))
    config, model, *_ = load_data_and_model(first["checkpoint"])
    config["tau"] = 0.5
    with pytest.raises(UsageError, match="other settings than this run: look at tau"):
        trainer.trainer_class(config)(config, model).resume_checkpoint(str(last_file(first)))
