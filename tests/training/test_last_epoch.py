"""The last epoch is validated whatever eval_step is, without a trace in what a longer run would do."""

import pytest
import torch

from recbole_diffusion import run
from recbole_diffusion.quick_start import validate
from recbole_diffusion.testing import cycle_sequences, write_sequences
from recbole_diffusion.training.trainer import DiffusionTrainer

SMALL = {"hidden_size": 8, "inner_size": 16, "k_noise": 3, "k_sample": 2, "MAX_ITEM_LIST_LENGTH": 10, "topk": [1, 5]}
SMALL.update(valid_metric="MRR@5", show_progress=False, train_batch_size=16, use_gpu=False)
BPR = {"loss_type": "BPR", "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}, "hidden_size": 8}
BPR.update(eval_args={"mode": "uni8"}, inner_size=16, n_layers=1)


@pytest.fixture
def given(tmp_path):
    folder = write_sequences(cycle_sequences(), tmp_path, "cycle")
    return {**SMALL, "data_path": folder, "checkpoint_dir": f"{folder}/saved"}


@pytest.fixture
def scores(monkeypatch):
    """Scores that the validations give, in order; each is taken once."""
    planned, valid_epoch = [], DiffusionTrainer._valid_epoch

    def scored(self, *args, **more):
        score, result = valid_epoch(self, *args, **more)
        return (planned.pop(0) if planned else score), result

    monkeypatch.setattr(DiffusionTrainer, "_valid_epoch", scored)
    return planned


@pytest.mark.parametrize(
    "eval_step, epochs, expected",
    [(2, 5, [1, 3, 4]), (2, 4, [1, 3]), (8, 3, [2]), (1, 3, [0, 1, 2]), (0, 3, []), (5, 1, [0])],
)
def test_which_epochs_are_validated(given, eval_step, epochs, expected):
    seen = []
    result = run("SimDiffRec", "cycle", config_dict={**given, "eval_step": eval_step, "epochs": epochs})
    assert result["history"]["valid_epoch"] == expected
    assert all(len(values) == len(expected) for values in result["history"]["valid"].values())
    if eval_step:
        more = {**given, "eval_step": eval_step, "epochs": epochs}
        validate("SimDiffRec", "cycle", config_dict=more, callback=lambda epoch, score: seen.append(epoch))
        assert seen == expected


def test_the_last_epoch_can_be_the_best(given, scores):
    scores += [0.1, 0.2, 0.3]
    result = run("SimDiffRec", "cycle", config_dict={**given, "eval_step": 2, "epochs": 5})
    assert result["best_epoch"] == 4 and result["best_valid_score"] == 0.3
    assert torch.load(result["checkpoint"], weights_only=True)["epoch"] == 4


def test_the_last_epoch_need_not_be_the_best(given, scores):
    scores += [0.1, 0.2, 0.15]
    result = run("SimDiffRec", "cycle", config_dict={**given, "eval_step": 2, "epochs": 5})
    assert result["best_epoch"] == 3 and result["best_valid_score"] == 0.2
    assert torch.load(result["checkpoint"], weights_only=True)["epoch"] == 3


def state(result):
    last = torch.load(result["checkpoint"].replace("-best", "-last"), weights_only=True)
    random = last["training"]["random"][0]
    return last["state_dict"], last["optimizer"]["state"], (random["torch"], random["numpy"][1], random["generators"])


@pytest.mark.parametrize("model, more", [("SimDiffRec", {}), ("SASRec", BPR)])
def test_a_longer_run_is_as_if_it_had_been_so_from_the_start(given, model, more):
    """SASRec draws negatives in training and in validation from one generator."""
    given = {**given, **more, "eval_step": 3, "allow_unknown_keys": True}
    whole = run(model, "cycle", config_dict={**given, "epochs": 6, "checkpoint_dir": f"{given['data_path']}/whole"})
    run(model, "cycle", config_dict={**given, "epochs": 4})
    resumed = run(model, "cycle", config_dict={**given, "epochs": 6, "resume": True})
    assert resumed["history"]["loss"] == whole["history"]["loss"]
    assert whole["history"]["valid_epoch"] == [2, 5] and resumed["history"]["valid_epoch"] == [2, 3, 5]
    for name, values in whole["history"]["valid"].items():
        assert [resumed["history"]["valid"][name][place] for place in (0, 2)] == values
    for one, other in zip(state(resumed), state(whole)):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("extra", [0.9, 0.1])
def test_the_extra_validation_counts_for_the_best_and_not_for_early_stopping(given, scores, extra):
    """In turn are .5 .4 .4, which ends a run of stopping_step 1; the extra look after the fourth epoch is between them."""
    given = {**given, "eval_step": 3, "stopping_step": 1}
    scores += [0.5, extra]
    assert run("SimDiffRec", "cycle", config_dict={**given, "epochs": 4})["epochs"] == 4
    scores += [0.4, 0.4]
    resumed = run("SimDiffRec", "cycle", config_dict={**given, "epochs": 30, "resume": True})
    assert resumed["epochs"] == 9 and resumed["best_epoch"] == (3 if extra == 0.9 else 2)
    assert resumed["best_valid_score"] == max(0.5, extra)
