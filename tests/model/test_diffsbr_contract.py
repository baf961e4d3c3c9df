"""DiffSBR under the common contract, and every switch in training."""

import pytest
import torch
from session_models import SMALL

from recbole_diffusion import run
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.testing import (
    ModelContract,
    cycle_sequences,
    group_sequences,
    make_config,
    write_features,
    write_sequences,
)
from recbole_diffusion.training.networks import build_model

LEARNING = {"epochs": 15, "learning_rate": 0.01, "mask_history": True}


class SessionContract(ModelContract):
    """The answer can be known from the items of a session, without their order."""

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        folder = write_sequences(cycle_sequences(), tmp_path_factory.mktemp("contract"), "cycle")
        write_features(folder)
        return folder

    @pytest.fixture(scope="class")
    def learning_folder(self, tmp_path_factory):
        folder = write_sequences(group_sequences(), tmp_path_factory.mktemp("learning"), "cycle")
        write_features(folder, n_items=15)
        return folder


class TestDiffSBR(SessionContract):
    model = "DiffSBR"
    settings = SMALL
    learning_settings = LEARNING


class TestWithoutModality(SessionContract):
    model = "DiffSBR"
    settings = {**SMALL, "item_features": "none", "scorer": "mlp"}
    learning_settings = LEARNING


SWITCHES = [
    {"retrieval": False, "fusion": "none"},
    {"feedback": "none"},
    {"feedback": "ranking"},
    {"scorer": "cosine"},
    {"fusion": "attention"},
    {"fusion": "early"},
    {"fusion": "late"},
    {"fusion": "condition"},
    {"neighbors": "observable"},
    {"neighbors": "observable", "fusion": "late", "bank_sessions": "input"},
    {"propagation": "mean", "n_layers": 2, "session_gate": "vector"},
    {"graph_edges": "transitions", "corruption_steps": 0, "detach_target": False},
    {"alignment_items": 0, "train_features": False},
    {"alignment_items": 5, "alignment_weight": 0.5},
    {"n_layers": 0, "retrieval": False},
]


@pytest.mark.parametrize("switches", SWITCHES, ids=lambda s: ",".join(f"{k}={v}" for k, v in s.items()))
def test_switch_learns_and_leaves_nothing_idle(switches, tmp_path):
    folder = write_sequences(group_sequences(), tmp_path, "cycle")
    write_features(folder, n_items=15)
    config = make_config("DiffSBR", folder, **{**SMALL, **LEARNING, **switches})
    train_data = build_loaders(config, create_dataset(config))[0]
    model = build_model(config, train_data)
    sum(model.calculate_loss(next(iter(train_data)))).backward()
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    assert [name for name, p in trained if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert all(torch.isfinite(p.grad).all() for _, p in trained)
    assert run("DiffSBR", "cycle", config_dict=config.external_config_dict)["test_result"]["hit@1"] > 0.9
