"""An ensemble of DiffuRecSys under the common contract, and every switch in training."""

import pytest
import torch
from models import CONTRACTS

from recbole_diffusion import run
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.testing import cycle_sequences, make_config, write_sequences
from recbole_diffusion.training.networks import build_model

DiffuRecSys = CONTRACTS["DiffuRecSys"]


class TestEnsemble(DiffuRecSys):
    settings = {**DiffuRecSys.settings, "ensemble_seeds": 3, "cross_attention": "linear"}


SWITCHES = [
    {"cross_attention": "linear"},
    {"cross_attention": "linear", "key_softmax": "heads"},
    {"offset_noise": "none"},
    {"offset_noise": "per_example"},
    {"offset_noise": "per_dim", "offset_strength": 0.5},
    {"schedule": "linear", "diffusion_steps": 32},
    {"schedule": "cosine", "sampler": "ddim"},
    {"schedule": "sqrt", "sampler": "ddim", "ddim_eta": 0.5},
    {"sampling_steps": 1},
    {"sampling_steps": 3, "reverse_variance": "posterior"},
    {"use_position": True},
    {"attention_mask": "queries", "padding_in_softmax": True, "block_stack": "last"},
    {"cross_attention": "linear", "key_softmax": "heads", "attention_mask": "queries", "fill_padding_rows": True},
    {"cross_attention": "linear", "shared_norm": True, "drop_cross_output": True, "drop_block_output": False},
    {"lr_decay_step": 5, "weight_decay": 0.0},
]


@pytest.mark.parametrize("switches", SWITCHES, ids=lambda s: ",".join(f"{k}={v}" for k, v in s.items()))
def test_switch_learns_and_leaves_nothing_idle(switches, tmp_path):
    folder = write_sequences(cycle_sequences(max_length=11), tmp_path, "cycle")
    config = make_config("DiffuRecSys", folder, **DiffuRecSys.small(**{**DiffuRecSys.learning_settings, **switches}))
    train_data = build_loaders(config, create_dataset(config))[0]
    model = build_model(config, train_data)
    sum(model.calculate_loss(next(iter(train_data)))).backward()
    idle = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    dead = "approximator.blocks.0" if switches.get("block_stack") == "last" else "\0"
    assert {name for name in idle if not name.startswith(dead)} == set()
    assert bool(idle) == (dead != "\0")
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert run("DiffuRecSys", "cycle", config_dict=config.external_config_dict)["test_result"]["hit@1"] > 0.9
