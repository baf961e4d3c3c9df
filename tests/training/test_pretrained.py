"""Trainings that start from the item vectors of another model, and leave them alone at first."""

from pathlib import Path

import pytest
import torch
from models import training_settings
from test_processes import run_in_copies
from test_resume import assert_same_run, die_in, kill_in_a_copy

from recbole_diffusion import load_data_and_model, run
from recbole_diffusion.cli import main
from recbole_diffusion.serving.recommender import Recommender
from recbole_diffusion.testing import cycle_sequences, make_config, write_sequences
from recbole_diffusion.training import trainer


@pytest.fixture(scope="module")
def stage_one(tmp_path_factory):
    """Folder of data, checkpoint of a SASRec on them."""
    place = tmp_path_factory.mktemp("stage")
    folder = write_sequences(cycle_sequences(), place, "cycle")
    return folder, train_sasrec(folder, checkpoint_dir=str(place / "saved"))


def train_sasrec(folder, dataset="cycle", **more):
    small = {"hidden_size": 16, "inner_size": 16, "n_layers": 1, "loss_type": "CE", "epochs": 1, **more}
    settings = {**make_config("SASRec", folder, **small).external_config_dict}
    return run("SASRec", dataset, config_dict=settings)["checkpoint"]


@pytest.fixture
def given(stage_one):
    """Settings of ADRec that starts from the SASRec."""
    folder, checkpoint = stage_one
    more = {"pretrained_item_embedding": checkpoint, "frozen_epochs": 2, "epochs": 4, "checkpoint_dir": "saved"}
    return training_settings("ADRec", folder, **more)


def table_of(checkpoint):
    return torch.load(checkpoint)["state_dict"]["item_embedding.weight"]


def test_the_vectors_stand_still_for_some_epochs_and_then_learn(given, stage_one, monkeypatch):
    tables, train_epoch = [], trainer.DiffusionTrainer._train_epoch

    def watched(self, *words, **more):
        loss = train_epoch(self, *words, **more)
        tables.append(self.model.item_embedding.weight.detach().clone())
        others.append(self.model.encoder.attention[0].qkv.weight.detach().clone())
        return loss

    others = []
    monkeypatch.setattr(trainer.DiffusionTrainer, "_train_epoch", watched)
    result = run("ADRec", "cycle", config_dict={**given, "weight_decay": 0.1})
    trained = table_of(stage_one[1])
    assert torch.equal(tables[0][1:], trained[1:]) and torch.equal(tables[1], tables[0]) and not tables[0][0].any()
    assert not torch.equal(tables[2], tables[1]) and not torch.equal(tables[3], tables[2])
    assert all(not torch.equal(one, other) for one, other in zip(others, others[1:]))
    assert result["history"]["report"]["item std"][0] == pytest.approx(float(trained[1:].std()), rel=0.05)
    state = torch.load(result["checkpoint"].replace("-best", "-last"))["training"]["model"]
    assert state["deviation_at_start"] == result["history"]["report"]["item std"][0]


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_killed_in_any_stage_it_goes_on_to_the_same_files_without_the_checkpoint_of_stage_one(given, epoch):
    copy = Path("stage-one.pth")
    copy.write_bytes(Path(given["pretrained_item_embedding"]).read_bytes())
    given["pretrained_item_embedding"] = str(copy)
    whole = run("ADRec", "cycle", config_dict={**given, "checkpoint_dir": "whole"})

    def killed():
        die_in(trainer.DiffusionTrainer, "_train_epoch", call=epoch + 1, before=epoch % 2 == 1)
        run("ADRec", "cycle", config_dict=given)

    assert kill_in_a_copy(killed) != 0
    copy.unlink()
    assert_same_run(run("ADRec", "cycle", config_dict={**given, "resume": True}), whole)


def test_what_was_trained_is_used_without_the_checkpoint_of_stage_one(given, stage_one):
    copy = Path("stage-one.pth")
    copy.write_bytes(Path(given["pretrained_item_embedding"]).read_bytes())
    trained = run("ADRec", "cycle", config_dict={**given, "pretrained_item_embedding": str(copy), "epochs": 1})[
        "checkpoint"
    ]
    copy.unlink()
    network = load_data_and_model(trained, stage_one[0])[1]
    assert torch.equal(network.item_embedding.weight, table_of(trained))
    assert len(Recommender.load(trained).recommend([["i3", "i4"]], k=5)[0]) == 5


def test_several_processes_start_from_the_same_vectors(given, stage_one):
    results, codes = run_in_copies("ADRec", {**given, "epochs": 1})
    assert codes == [0, 0]
    assert torch.equal(table_of(results[0]["checkpoint"])[1:], table_of(stage_one[1])[1:])


def test_the_twin_of_a_model_is_a_stage_one(given):
    twin = training_settings("ADRec", given["data_path"], twin=True, epochs=1, checkpoint_dir="twin")
    checkpoint = run("ADRec", "cycle", config_dict=twin)["checkpoint"]
    result = run("ADRec", "cycle", config_dict={**given, "pretrained_item_embedding": checkpoint, "epochs": 1})
    assert torch.equal(table_of(result["checkpoint"])[1:], table_of(checkpoint)[1:])


# What is refused


def refused(capsys, given, **more):
    words = [f"--{key}={value}" for key, value in {**given, **more}.items() if value is not None]
    capsys.readouterr()
    assert main(["--model=ADRec", "--dataset=cycle", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    assert not list(Path("saved").glob("*.pth"))
    return error


MAKE = "with 'recbole-diffusion run --model=ADRec --twin=True --hidden_size=16 --dataset=cycle --data_path="


def test_a_missing_stage_one_is_named_with_the_command_that_makes_it(given, capsys):
    error = refused(capsys, given, pretrained_item_embedding=None)
    assert f"frozen_epochs 2 is for trained item vectors: make some {MAKE}" in error and "set frozen_epochs: 0" in error
    error = refused(capsys, given, pretrained_item_embedding="absent.pth")
    assert f"checkpoint 'absent.pth' does not exist: make one {MAKE}" in error


def test_the_command_of_data_in_their_usual_place_names_no_folder(capsys):
    assert main(["--model=ADRec", "--dataset=ml-100k", "--frozen_epochs=1"]) == 2
    assert (
        "with 'recbole-diffusion run --model=ADRec --twin=True --hidden_size=64 --dataset=ml-100k' and"
        in capsys.readouterr().err
    )


def test_checkpoints_that_do_not_serve(given, tmp_path, capsys):
    folder = given["data_path"]
    assert f"has item vectors of 16 numbers, hidden_size is 8: make one {MAKE}".replace("=16", "=8") in refused(
        capsys, given, hidden_size=8
    )
    others = write_sequences([[item + 1 for item in row] for row in cycle_sequences()], tmp_path / "others", "cycle")
    assert f"with other items than 'cycle' has now: make one {MAKE}" in refused(capsys, {**given, "data_path": others})
    split = "{split: {RS: [0.6, 0.2, 0.2]}, order: TO, group_by: user, mode: full}"
    assert "was trained on another part of the data" in refused(capsys, given, eval_args=split)
    rows = cycle_sequences()
    later = [[*row[:-3], row[-2], row[-3], row[-1]] for row in rows[10:]]  # the same items, of which others train
    later = write_sequences([*rows[:10], *later], tmp_path / "later", "cycle")
    assert "was trained on another part of the data" in refused(capsys, {**given, "data_path": later})
    for name, change, expected in (
        ("leaks", lambda state: state["config"].update(official_negatives=True), "trained with official_negatives: True"),
        (
            "none",
            lambda state: state["state_dict"].pop("item_embedding.weight"),
            "has no item vectors, hidden_size is 16",
        ),
    ):
        state = torch.load(given["pretrained_item_embedding"])
        change(state)
        torch.save(state, f"{name}.pth")
        assert expected in refused(capsys, given, pretrained_item_embedding=f"{name}.pth")
    Path("broken.pth").write_bytes(b"nothing")
    assert "'broken.pth' is not a checkpoint" in refused(capsys, given, pretrained_item_embedding="broken.pth")
    assert "unknown key 'pretrained_item_embedding'" in str(main_of("SimDiffRec", folder, given, capsys))


def main_of(model, folder, given, capsys):
    words = [f"--data_path={folder}", f"--pretrained_item_embedding={given['pretrained_item_embedding']}"]
    assert main([f"--model={model}", "--dataset=cycle", *words]) == 2
    return capsys.readouterr().err
