"""DiffSBR without item features under the common contract, and every switch in training."""

import pytest
import torch
from models import CONTRACTS

from recbole_diffusion import run
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.testing import group_sequences, make_config
from recbole_diffusion.training.networks import build_model

DiffSBR = CONTRACTS["DiffSBR"]


class TestWithoutModality(DiffSBR):
    settings = {"item_features": "none", "scorer": "mlp"}


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
    {"graph_folds": 3},
    {"session_gate_bias": True, "inference_times": "raw", "noise_per_copy": True, "self_input": "restored"},
]


@pytest.mark.parametrize("switches", SWITCHES, ids=lambda s: ",".join(f"{k}={v}" for k, v in s.items()))
def test_switch_learns_and_leaves_nothing_idle(switches, tmp_path):
    folder = DiffSBR.write_data(tmp_path, group_sequences())
    config = make_config("DiffSBR", folder, **DiffSBR.small(**{**DiffSBR.learning_settings, **switches}))
    train_data = build_loaders(config, create_dataset(config))[0]
    model = build_model(config, train_data)
    sum(model.calculate_loss(next(iter(train_data)))).backward()
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    assert [name for name, p in trained if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert all(torch.isfinite(p.grad).all() for _, p in trained)
    assert run("DiffSBR", "cycle", config_dict=config.external_config_dict)["test_result"]["hit@1"] > 0.9
