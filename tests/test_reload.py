"""Checkpoints of every model load again, with RecBole's functions on top; files from elsewhere are not executed."""

import os
from pathlib import Path

import pytest
import torch
from models import ALL, CONTRACTS
from recbole.trainer import Trainer
from recbole.utils.case_study import full_sort_topk
from session_files import SPLIT, TRAIN, write_split

from recbole_diffusion import load_data_and_model, run
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.errors import UsageError
from recbole_diffusion.serving.recommender import Recommender
from recbole_diffusion.testing import make_config
from recbole_diffusion.training.checkpoint import load_checkpoint
from recbole_diffusion.training.networks import build_model
from recbole_diffusion.training.trainer import trainer_class

SMALL = {"hidden_size": 8, "inner_size": 16, "epochs": 1}
RELOADED = [*CONTRACTS, "SASRec", "NARM", "FPMC"]


def reloaded(result):
    """The model of a run, which has its weights and its metrics: config, model, data set, test loader."""
    config, network, data, _, _, test_data = load_data_and_model(result["checkpoint"])
    weights = network.state_dict()
    saved = load_checkpoint(result["checkpoint"])["state_dict"]
    assert weights.keys() == saved.keys() and all(torch.equal(weights[name], saved[name]) for name in saved)
    found = trainer_class(config)(config, network).evaluate(test_data, load_best_model=False)
    assert found == pytest.approx(result["test_result"]) and not network.training
    return config, network, data, test_data


@pytest.mark.parametrize("model", RELOADED)
def test_every_model_reloads_and_serves_recboles_own_functions(trained, model):
    config, network, data, test_data = reloaded(trained(model))
    users = data.token2id("user_id", ["u0", "u1", "u2"])
    scores, items = full_sort_topk(users, network, test_data, k=3, device=config["device"])
    assert items.shape == (3, 3) and (items > 0).all() and scores.isfinite().all()


@pytest.mark.parametrize("model", [*CONTRACTS, "SASRec"])
def test_models_on_ready_made_files_reload(tmp_path, model):
    folder = write_split(tmp_path, TRAIN, [[1, 4, 6]], [[2, 5, 1], [3, 4, 6, 2]])  # the sessions 8 and 9
    settings = make_config(model, folder, "shop", **ALL[model].small(epochs=1), **SPLIT).external_config_dict
    config, network, data, test_data = reloaded(run(model, "shop", config_dict=settings))
    sessions = data.token2id("session_id", ["9", "8"])
    scores, items = full_sort_topk(sessions, network, test_data, k=3, device=config["device"])
    own = [full_sort_topk([number], network, test_data, 3, config["device"])[0][0] for number in sessions]
    torch.testing.assert_close(scores, torch.stack(own))
    assert items.shape == (2, 3) and (items > 0).all() and scores.isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("model", RELOADED)
def test_a_checkpoint_of_the_gpu_gives_the_same_list_on_the_cpu(trained, model):
    result = trained(model, use_gpu=True)
    assert result["device"].startswith("cuda")
    on_gpu = load_data_and_model(result["checkpoint"])
    state = load_checkpoint(result["checkpoint"])
    assert all(tensor.device.type == "cpu" for tensor in state["state_dict"].values())
    state["config"]["use_gpu"] = False
    torch.save(state, "cpu.pth")
    on_cpu = load_data_and_model("cpu.pth")
    lists = [full_sort_topk([1, 2], loaded[1], loaded[5], 3, loaded[0]["device"])[1].cpu() for loaded in (on_gpu, on_cpu)]
    assert torch.equal(*lists)


@pytest.mark.parametrize("content", [b"hello\n" * 9, b"{}", b"\x00" * 64, b"PK\x03\x04 and more"])
def test_nobody_is_told_to_trust_garbage(tmp_path, content):
    path = tmp_path / "some.pth"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="is not a checkpoint of .* it is damaged, or no file of PyTorch"):
        load_checkpoint(path)


def test_loading_writes_nothing_and_takes_paths(trained, trained_data, monkeypatch):
    path = trained("SimDiffRec")["checkpoint"]
    os.mkdir("elsewhere")
    monkeypatch.chdir("elsewhere")
    load_data_and_model(path, data_path=Path(trained_data("SimDiffRec")))
    assert os.listdir(".") == []


@pytest.mark.parametrize("change", [{"data_path": None}, {"train_neg_sample_args": None}])
def test_damaged_settings_are_refused(trained, change):
    state = load_checkpoint(trained("SimDiffRec")["checkpoint"])
    state["config"].update(change)
    torch.save(state, "odd.pth")
    with pytest.raises(UsageError, match="has damaged settings: "):
        load_data_and_model("odd.pth")


def test_recboles_own_checkpoint_needs_trust(trained_data, tmp_path):
    config = make_config("SASRec", trained_data("SASRec"), **SMALL, checkpoint_dir=str(tmp_path))
    loaders = build_loaders(config, create_dataset(config))
    stock = Trainer(config, build_model(config, loaders[0]))
    stock.fit(*loaders[:2], verbose=False)
    with pytest.raises(UsageError, match="--trust-checkpoint reads it all the same") as caught:
        load_data_and_model(stock.saved_model_file)
    assert "\n" not in str(caught.value)
    loaded_config, network, *_ = load_data_and_model(stock.saved_model_file, trust_checkpoint=True)
    assert loaded_config["hidden_size"] == 8
    weights = network.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in stock.model.state_dict().items())
    with pytest.raises(UsageError, match="does not hold its items, as RecBole's own checkpoints: use load_data_and_model"):
        Recommender.load(stock.saved_model_file, trust_checkpoint=True)


def test_a_trusted_file_that_is_no_checkpoint_is_refused(tmp_path):
    torch.save({"config": os.getcwd, "format": 1}, tmp_path / "odd.pth")
    with pytest.raises(UsageError, match="odd.pth' is not a checkpoint"):
        load_data_and_model(str(tmp_path / "odd.pth"), trust_checkpoint=True)


def test_weights_of_another_shape_are_refused_in_one_line(trained):
    state = load_checkpoint(trained("SASRec")["checkpoint"])
    state["state_dict"]["item_embedding.weight"] = torch.zeros(3, 8)
    torch.save(state, "odd.pth")
    with pytest.raises(UsageError, match="does not fit SASRec on these data: size mismatch") as caught:
        load_data_and_model("odd.pth")
    assert "\n" not in str(caught.value)
