"""Checkpoints of every model load again, with RecBole's functions on top; files from elsewhere are not executed."""

import os
from pathlib import Path

import pytest
import torch
from recbole.trainer import Trainer
from recbole.utils.case_study import full_sort_topk
from session_files import SPLIT, TRAIN, write_split

from recbole_diffusion import load_data_and_model, run
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.errors import UsageError
from recbole_diffusion.serving.recommender import Recommender
from recbole_diffusion.testing import cycle_sequences, make_config, write_features, write_sequences
from recbole_diffusion.training.checkpoint import load_checkpoint
from recbole_diffusion.training.networks import build_model
from recbole_diffusion.training.trainer import trainer_class

SMALL = {"hidden_size": 8, "inner_size": 16, "epochs": 1}
CHAIN = {"n_blocks": 1, "diffusion_steps": 4, "sampling_steps": 4}
MODELS = {
    "SimDiffRec": {"k_noise": 3, "k_sample": 2},
    "DiffuRec": {**CHAIN, "ensemble_seeds": 2},
    "DiffuRecSys": CHAIN,
    "DiffSBR": {"diffusion_steps": 8, "corruption_steps": 8, "allow_unknown_keys": True},
    "SKNN": {"n_neighbors": 5, "allow_unknown_keys": True},
    "SASRec": {},
    "NARM": {"allow_unknown_keys": True},
    "FPMC": {"allow_unknown_keys": True},  # its loss needs negative items
}


@pytest.fixture
def folder(tmp_path):
    folder = write_sequences(cycle_sequences(), tmp_path, "cycle")
    write_features(folder, width=SMALL["hidden_size"])
    return folder


def trained(folder, model, name="cycle", **more):
    settings = make_config(model, folder, name, **{**SMALL, **MODELS[model], **more}).external_config_dict
    return run(model, name, config_dict=settings)


def reloaded(result):
    """The model of a run, which has its weights and its metrics: config, model, data set, test loader."""
    config, network, data, _, _, test_data = load_data_and_model(result["checkpoint"])
    weights = network.state_dict()
    saved = load_checkpoint(result["checkpoint"])["state_dict"]
    assert weights.keys() == saved.keys() and all(torch.equal(weights[name], saved[name]) for name in saved)
    found = trainer_class(config)(config, network).evaluate(test_data, load_best_model=False)
    assert found == pytest.approx(result["test_result"]) and not network.training
    return config, network, data, test_data


@pytest.mark.parametrize("model", MODELS)
def test_every_model_reloads_and_serves_recboles_own_functions(folder, model):
    result = trained(folder, model)
    config, network, data, test_data = reloaded(result)
    users = data.token2id("user_id", ["u0", "u1", "u2"])
    scores, items = full_sort_topk(users, network, test_data, k=3, device=config["device"])
    assert items.shape == (3, 3) and (items > 0).all() and scores.isfinite().all()


@pytest.mark.parametrize("model", ["DiffSBR", "SKNN", "SASRec"])
def test_models_on_ready_made_files_reload(tmp_path, model):
    folder = write_split(tmp_path, TRAIN, [[1, 4, 6]], [[2, 5, 1], [3, 4, 6, 2]])  # the sessions 8 and 9
    more = {"k_neighbors": 2} if model == "DiffSBR" else {}
    result = trained(folder, model, "shop", **SPLIT, **more)
    config, network, data, test_data = reloaded(result)
    sessions = data.token2id("session_id", ["9", "8"])
    scores, items = full_sort_topk(sessions, network, test_data, k=3, device=config["device"])
    own = [full_sort_topk([number], network, test_data, 3, config["device"])[0][0] for number in sessions]
    torch.testing.assert_close(scores, torch.stack(own))
    assert items.shape == (2, 3) and (items > 0).all() and scores.isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("model", MODELS)
def test_a_checkpoint_of_the_gpu_gives_the_same_list_on_the_cpu(folder, model):
    result = trained(folder, model, use_gpu=True)
    assert result["device"].startswith("cuda")
    on_gpu = load_data_and_model(result["checkpoint"])
    state = load_checkpoint(result["checkpoint"])
    assert all(tensor.device.type == "cpu" for tensor in state["state_dict"].values())
    state["config"]["use_gpu"] = False
    torch.save(state, f"{folder}/cpu.pth")
    on_cpu = load_data_and_model(f"{folder}/cpu.pth")
    lists = [full_sort_topk([1, 2], loaded[1], loaded[5], 3, loaded[0]["device"])[1].cpu() for loaded in (on_gpu, on_cpu)]
    assert torch.equal(*lists)


@pytest.mark.parametrize("content", [b"hello\n" * 9, b"{}", b"\x00" * 64, b"PK\x03\x04 and more"])
def test_nobody_is_told_to_trust_garbage(tmp_path, content):
    path = tmp_path / "some.pth"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="is not a checkpoint of .* it is damaged, or no file of PyTorch"):
        load_checkpoint(path)


def test_loading_writes_nothing_and_takes_paths(folder, monkeypatch):
    path = trained(folder, "SimDiffRec")["checkpoint"]
    os.mkdir("elsewhere")
    monkeypatch.chdir("elsewhere")
    load_data_and_model(path, data_path=Path(folder))
    assert os.listdir(".") == []


@pytest.mark.parametrize("change", [{"data_path": None}, {"train_neg_sample_args": None}])
def test_damaged_settings_are_refused(folder, change):
    path = trained(folder, "SimDiffRec")["checkpoint"]
    state = load_checkpoint(path)
    state["config"].update(change)
    torch.save(state, path)
    with pytest.raises(UsageError, match="has damaged settings: "):
        load_data_and_model(path)


def test_recboles_own_checkpoint_needs_trust(folder):
    config = make_config("SASRec", folder, **SMALL)
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


def test_weights_of_another_shape_are_refused_in_one_line(folder):
    result = trained(folder, "SASRec")
    state = load_checkpoint(result["checkpoint"])
    state["state_dict"]["item_embedding.weight"] = torch.zeros(3, 8)
    torch.save(state, f"{folder}/odd.pth")
    with pytest.raises(UsageError, match="does not fit SASRec on these data: size mismatch") as caught:
        load_data_and_model(f"{folder}/odd.pth")
    assert "\n" not in str(caught.value)
