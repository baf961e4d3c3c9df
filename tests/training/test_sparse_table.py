"""Item tables of which a step moves the rows that it meets: values, resumption, clipping, half precision."""

import math
from pathlib import Path

import pytest
import torch
from recbole.utils import init_seed

from recbole_diffusion import run
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.testing import cycle_sequences, make_config, write_sequences
from recbole_diffusion.training.checkpoint import load_checkpoint
from recbole_diffusion.training.networks import build_model
from recbole_diffusion.training.sparse_table import WithSparseTable, clip_gradients
from recbole_diffusion.training.trainer import DiffusionTrainer

SMALL = {"hidden_size": 16, "inner_size": 32, "k_noise": 3, "k_sample": 2, "epochs": 2}
PLAIN = {**SMALL, "alpha": 0, "beta": 0, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
SPARSE = {"sparse_table": True, "loss_type": "SS", "n_negatives": 4}
EVERYTHING = {"loss_type": "SCE", "sce_buckets": 1, "sce_states": 10**6, "sce_items": 10**6}  # is CE, by lookups
LARGE = {**SMALL, **SPARSE, "rounding_loss": "sampled", "neighbour_search": "lists", "search_refresh": 3, "search_probes": 2}


@pytest.fixture
def folder(tmp_path):
    return write_sequences(cycle_sequences(), tmp_path, "cycle")


def prepare(folder, **settings):
    config = make_config("SimDiffRec", folder, **settings)
    init_seed(config["seed"], True)
    loaders = build_loaders(config, create_dataset(config))
    return DiffusionTrainer(config, build_model(config, loaders[0])), loaders[0]


def lazy_adam(rows, gradients, rate, betas=(0.9, 0.999), eps=1e-8):
    """A row at a time: moments and the row stand still without a gradient; the count of steps goes on."""
    first, second = torch.zeros_like(rows), torch.zeros_like(rows)
    for step, gradient in enumerate(gradients, 1):
        for row in gradient.abs().sum(1).nonzero().flatten().tolist():
            first[row] = betas[0] * first[row] + (1 - betas[0]) * gradient[row]
            second[row] = betas[1] * second[row] + (1 - betas[1]) * gradient[row] ** 2
            size = rate * math.sqrt(1 - betas[1] ** step) / (1 - betas[0] ** step)
            rows[row] -= size * first[row] / (second[row].sqrt() + eps)
    return rows


def test_rows_that_are_met_move_as_adam_moves_them_and_others_stand_still():
    torch.manual_seed(0)
    table, other = torch.nn.Parameter(torch.randn(6, 3)), torch.nn.Parameter(torch.randn(2))
    before, twin = table.detach().clone(), torch.nn.Parameter(other.detach().clone())
    optimizer = WithSparseTable(torch.optim.Adam([other], lr=0.1), [table], 0.1)
    plain, gradients = torch.optim.Adam([twin], lr=0.1), []
    for met in ([1, 4, 4], [4], [2, 1]):
        optimizer.zero_grad()
        loss = torch.nn.functional.embedding(torch.tensor(met), table, sparse=True).square().sum() + other.square().sum()
        loss.backward()
        gradients.append(table.grad.to_dense())
        twin.grad = other.grad.clone()
        optimizer.step()
        plain.step()
    torch.testing.assert_close(table.detach(), lazy_adam(before.clone(), gradients, 0.1))
    assert torch.equal(table[[0, 3, 5]], before[[0, 3, 5]]) and torch.equal(other, twin)


def test_a_schedule_reaches_both_parts_also_after_loading():
    table, other = torch.nn.Parameter(torch.ones(3, 2)), torch.nn.Parameter(torch.ones(2))
    made = [WithSparseTable(torch.optim.Adam([other], lr=0.1), [table], 0.1) for _ in range(2)]
    made[1].load_state_dict(made[0].state_dict())
    for group in made[1].param_groups:
        group["lr"] = 0.5
    assert [group["lr"] for part in made[1].parts.values() for group in part.param_groups] == [0.5, 0.5]


def test_where_all_rows_are_met_training_is_that_of_adam_with_cross_entropy(folder):
    settings = {**PLAIN, "initializer_range": 0.1, "clip_grad_norm": {"max_norm": 0.05}, "lr_warmup_steps": 3}
    states = []
    for more in ({}, {**EVERYTHING, "sparse_table": True}):
        trainer, batches = prepare(folder, **settings, **more)
        before = trainer.model.item_embedding.weight.detach().clone()
        for epoch in range(2):
            trainer._train_epoch(batches, epoch)
        moved = (trainer.model.item_embedding.weight.detach() - before)[1:].abs().sum(1)
        assert (moved > 0).all()
        states.append(trainer.model.state_dict())
    for name, tensor in states[0].items():
        if not name.endswith("key_value.bias"):  # of keys, it has no gradient but rounding
            torch.testing.assert_close(states[1][name], tensor, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("settings", [{**PLAIN, **SPARSE}, LARGE, {**PLAIN, **SPARSE, "loss_type": "SCE", "lr_decay_step": 1}])
def test_a_resumed_training_is_the_undisturbed_one(folder, settings):
    given = dict(make_config("SimDiffRec", folder, **settings).external_config_dict, epochs=3)
    undisturbed = run("SimDiffRec", "cycle", config_dict={**given, "checkpoint_dir": "undisturbed"})
    run("SimDiffRec", "cycle", config_dict={**given, "epochs": 1, "checkpoint_dir": "saved"})
    resumed = run("SimDiffRec", "cycle", config_dict={**given, "resume": True, "checkpoint_dir": "saved"})
    assert resumed["epochs"] == 3 and resumed["test_result"] == undisturbed["test_result"]
    (one,), (two,) = (list(Path(name).glob("*-last.pth")) for name in ("undisturbed", "saved"))
    one, two = load_checkpoint(one), load_checkpoint(two)
    assert set(two["optimizer"]) == {"rest", "tables"} and two["optimizer"]["tables"]["state"]
    for part in ("rest", "tables"):
        for number, state in one["optimizer"][part]["state"].items():
            for name, value in state.items():
                assert torch.equal(torch.as_tensor(two["optimizer"][part]["state"][number][name]), torch.as_tensor(value))
    assert all(torch.equal(two["state_dict"][name], tensor) for name, tensor in one["state_dict"].items())


def test_clipping_takes_the_norm_of_the_sum_of_a_row():
    torch.manual_seed(0)
    gradients = []
    for sparse in (False, True):
        torch.manual_seed(0)
        table, other = torch.nn.Parameter(torch.randn(6, 3)), torch.nn.Parameter(torch.randn(2))
        loss = torch.nn.functional.embedding(torch.tensor([1, 4, 4, 2]), table, sparse=sparse).square().sum()
        (loss + other.square().sum()).backward()
        clip_gradients([table, other, torch.nn.Parameter(torch.ones(1))], max_norm=0.1)
        gradients.append((table.grad.to_dense(), other.grad))
    for dense, sparse in zip(*gradients):
        torch.testing.assert_close(sparse, dense)
    assert math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients[1])) == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("amp_type", ["bf16", "fp16"])
def test_it_trains_in_half_precision(folder, amp_type):
    trainer, batches = prepare(folder, **LARGE, enable_amp=True, amp_type=amp_type, clip_grad_norm={"max_norm": 1.0})
    before = trainer.model.item_embedding.weight.detach().clone()
    trainer._train_epoch(batches, 0)
    after = trainer.model.item_embedding.weight.detach()
    assert torch.isfinite(after).all() and not torch.equal(after, before)
    assert not amp_type == "fp16" or trainer.scaler.get_scale() > 1
