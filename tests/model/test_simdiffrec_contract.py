"""SimDiffRec without its diffusion under the common contract, and every switch in training."""

import pytest
import torch
from models import CONTRACTS

from recbole_diffusion import run
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.testing import cycle_sequences, make_config, write_sequences
from recbole_diffusion.training.networks import build_model

SimDiffRec = CONTRACTS["SimDiffRec"]


class TestSASRec(SimDiffRec):
    """alpha = beta = 0: no diffusion left."""

    settings = {**SimDiffRec.settings, "alpha": 0, "beta": 0}


class TestLiGR(SimDiffRec):
    """Gated pre-norm blocks that recommend, and the paper's denoiser."""

    settings = {**SimDiffRec.settings, "encoder": "ligr"}


class TestHSTU(SimDiffRec):
    """Pointwise attention, also as the denoiser."""

    settings = {**SimDiffRec.settings, "encoder": "hstu", "share_denoiser": True}


SWITCHES = [
    {"noise": "gaussian"},
    {"positions": "random"},
    {"hard_negative": False},
    # BCE never uses a seen item as negative, so only the ranking of unseen items means something.
    {"loss_type": "BCE", "mask_history": True, "epochs": 60},
    {"loss_type": "SS", "n_negatives": 8},
    {"ce_positions": "last", "train_view": "prefix", "epochs": 12},
    {"noise_param": "convex"},
    {"confidence_t": "T", "reverse_steps": 3},
    {"share_denoiser": True},
    {"official_compat": True, "share_denoiser": True, "train_view": "prefix", "epochs": 12},
    {"sim_metric": "cosine", "detach_noise": True, "noise_refresh": 4},
    {"exclude_original": True, "mask_same_target": True},
    {"pos_align": "start", "mse_weight": 0.0},
    {"alpha": 0.0},
    {"encoder": "ligr", "share_denoiser": True},
    {"encoder": "hstu", "alpha": 0.0, "beta": 0.0},
    {"encoder": "hstu", "official_compat": True, "share_denoiser": True, "train_view": "prefix", "epochs": 12},
]


@pytest.mark.parametrize("switches", SWITCHES, ids=lambda s: ",".join(f"{k}={v}" for k, v in s.items()))
def test_switch_learns_and_leaves_nothing_idle(switches, tmp_path):
    folder = write_sequences(cycle_sequences(max_length=11), tmp_path, "cycle")
    config = make_config("SimDiffRec", folder, **SimDiffRec.small(**{**SimDiffRec.learning_settings, **switches}))
    train_data = build_loaders(config, create_dataset(config))[0]
    model = build_model(config, train_data)
    sum(model.calculate_loss(next(iter(train_data)))).backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert run("SimDiffRec", "cycle", config_dict=config.external_config_dict)["test_result"]["hit@1"] > 0.9
