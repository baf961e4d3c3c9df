"""Mixed precision, gradient clipping and compilation of the training loop."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from recbole.trainer import Trainer
from recbole.utils import init_seed

from recbole_diffusion import run
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.errors import UsageError
from recbole_diffusion.testing import cycle_sequences, make_config, write_sequences
from recbole_diffusion.training import trainer
from recbole_diffusion.training.checkpoint import load_checkpoint
from recbole_diffusion.training.networks import build_model

ROOT = Path(__file__).parents[2]
SMALL = {"hidden_size": 16, "inner_size": 32, "epochs": 2, "k_noise": 3, "k_sample": 2}
PLAIN = {"alpha": 0, "beta": 0, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}


@pytest.fixture
def folder(tmp_path):
    return write_sequences(cycle_sequences(), tmp_path, "cycle")


def prepare(folder, model="SimDiffRec", kind=trainer.DiffusionTrainer, **more):
    """A trainer and its loaders, always with the same weights."""
    own = SMALL if model == "SimDiffRec" else {"hidden_size": 16, "inner_size": 32, "epochs": 2}
    config = make_config(model, folder, **{**own, **more})
    init_seed(config["seed"], True)
    loaders = build_loaders(config, create_dataset(config))
    return kind(config, build_model(config, loaders[0])), loaders


def test_full_precision_is_recboles_own_loop(folder):
    results = []
    for kind in (Trainer, trainer.DiffusionTrainer):
        one, loaders = prepare(folder, "SASRec", kind)
        one.fit(*loaders[:2], saved=False, verbose=False)
        results.append((one.model.state_dict(), one.train_loss_dict, one.best_valid_result))
    weights, losses, metrics = zip(*results)
    assert losses[0] == losses[1] and metrics[0] == metrics[1]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_autocast_keeps_no_copies_of_weights(folder, monkeypatch):
    """PyTorch 2.6 has no gradient for a weight whose kept copy was first used without one, as DiffSBR's search does."""
    used, autocast = [], torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: used.append(kwargs) or autocast(*args, **kwargs))
    one, loaders = prepare(folder, **PLAIN, enable_amp=True)
    one._train_batch(next(iter(loaders[0])), one.model.calculate_loss)
    assert used[0] == {"dtype": torch.bfloat16, "enabled": True, "cache_enabled": False}


@pytest.mark.parametrize("amp_type", ["bf16", "fp16"])
def test_mixed_precision_trains_in_half_and_keeps_float32(folder, amp_type):
    one, loaders = prepare(folder, **PLAIN, enable_amp=True, amp_type=amp_type, epochs=12, learning_rate=0.02, eval_step=12)
    dtypes = {True: set(), False: set()}
    layer = one.model.recommender.transformer.feed_forward[0].dense_1
    layer.register_forward_hook(lambda module, inputs, output: dtypes[module.training].add(output.dtype))
    one.fit(*loaders[:2], saved=False, verbose=False)
    assert dtypes == {True: {trainer.AMP_TYPES[amp_type]}, False: {torch.float32}}
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in one.model.parameters())
    assert one.evaluate(loaders[2], load_best_model=False)["hit@1"] > 0.95


def test_the_scaler_lives_on_between_epochs_and_in_checkpoints(folder):
    one, loaders = prepare(folder, **PLAIN, enable_amp=True, amp_type="fp16")
    one.scaler.set_growth_interval(4)
    one.fit(*loaders[:2], verbose=False)
    steps = len(loaders[0]) * one.epochs  # 3 batches an epoch: a scaler of one epoch would never grow
    assert len(loaders[0]) < 4 and one.scaler.get_scale() == 2.0**16 * 2 ** (steps // 4)
    assert load_checkpoint(one.last_model_file)["training"]["scaler"] == one.scaler.state_dict()


def test_an_overflow_in_half_precision_is_skipped(folder):
    one, loaders = prepare(folder, **PLAIN, enable_amp=True, amp_type="fp16")
    before = {name: tensor.clone() for name, tensor in one.model.state_dict().items()}
    one.model.train()
    one._train_batch(next(iter(loaders[0])), lambda batch: one.model.calculate_loss(batch)[0] * 1e38)
    assert one.scaler.get_scale() < 2.0**16
    assert all(torch.equal(before[name], tensor) for name, tensor in one.model.state_dict().items())


@pytest.mark.parametrize("amp_type", ["off", "fp16"])
def test_clipping_limits_the_gradient_itself_and_not_its_scaled_form(folder, amp_type):
    settings = {**PLAIN, "learner": "sgd", "learning_rate": 1.0, "enable_amp": amp_type != "off"}
    moved = {}
    for limit in (1e6, 0.01):
        more = {} if amp_type == "off" else {"amp_type": amp_type}
        one, loaders = prepare(folder, **settings, **more, clip_grad_norm={"max_norm": limit})
        before = [p.detach().clone() for p in one.model.parameters()]
        one._train_batch(next(iter(loaders[0])), one.model.calculate_loss)
        moved[limit] = math.sqrt(sum(float(((p - old) ** 2).sum()) for p, old in zip(one.model.parameters(), before)))
    assert moved[1e6] > 0.05 and moved[0.01] == pytest.approx(0.01, rel=1e-3)


def test_looking_at_recboles_models_does_not_slow_down_training():
    code = "from recbole_diffusion.settings import registry; registry.get_model('SASRec'); import torch; "
    code += "assert not torch.is_anomaly_enabled()"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_a_diverging_loss_ends_in_one_line_and_the_last_epoch_is_kept(folder, monkeypatch):
    one, loaders = prepare(folder)
    batches, train_batch = [], one._train_batch

    def diverging(batch, loss_func):
        batches.append(1)
        return (math.nan,) if len(batches) == 5 else train_batch(batch, loss_func)

    monkeypatch.setattr(one, "_train_batch", diverging)
    with pytest.raises(UsageError, match="no number in epoch 1, batch 1: lower learning_rate .now 0.001., or set clip"):
        one.fit(*loaders[:2], verbose=False)
    assert load_checkpoint(one.last_model_file)["epoch"] == 0


def test_a_diverging_loss_of_mixed_precision_names_it(folder, monkeypatch):
    one, loaders = prepare(folder, enable_amp=True)
    monkeypatch.setattr(one, "_train_batch", lambda batch, loss_func: (math.nan,))
    with pytest.raises(UsageError, match="or train without enable_amp"):
        one.fit(*loaders[:2], verbose=False)


def test_compile_takes_the_feed_forward_layers(folder, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **options: compiled.append((module, options)))
    one, _ = prepare(folder, compile=True)
    assert len(compiled) == 3 and all(options == {"dynamic": True} for _, options in compiled)
    assert compiled[0][0] is one.model.recommender.transformer.feed_forward[0]


def test_compile_without_a_compiler_is_refused(folder, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UsageError, match="needs a C\\+\\+ compiler such as g\\+\\+, none was found"):
        prepare(folder, compile=True)


@pytest.mark.slow
def test_compiled_training_gives_the_losses_of_plain_training(folder):
    losses = []
    for compile in (False, True):
        one, loaders = prepare(folder, **PLAIN, compile=compile)
        one.fit(*loaders[:2], saved=False, verbose=False)
        losses.append(list(one.train_loss_dict.values()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_settings_of_precision_reach_a_run(folder):
    settings = make_config("SimDiffRec", folder, **SMALL, enable_amp=True, clip_grad_norm={"max_norm": 1.0})
    result = run("SimDiffRec", "cycle", config_dict=settings.external_config_dict)
    assert result["settings"]["enable_amp"] and result["settings"]["clip_grad_norm"] == {"max_norm": 1.0}
