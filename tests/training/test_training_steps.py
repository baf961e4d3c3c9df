"""Models that take several steps of the optimizer for every batch, each with its own loss and parameters."""

import math

import pytest
import torch
from recbole.utils import init_seed
from test_processes import run_in_copies, settings, write_data

from recbole_diffusion import run
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.model.mclrec import MCLRec
from recbole_diffusion.testing import cycle_sequences, make_config, write_sequences
from recbole_diffusion.training.checkpoint import load_checkpoint
from recbole_diffusion.training.networks import build_model
from recbole_diffusion.training.trainer import DiffusionTrainer

SMALL = {"hidden_size": 16, "inner_size": 32, "epochs": 2, "train_batch_size": 16, "contrast_weight": 0.1}
STEPS = {"alternating": [0, 1], "official": [0, 1, 0]}


@pytest.fixture
def folder(tmp_path):
    return write_sequences(cycle_sequences(), tmp_path, "cycle")


def prepare(folder, **more):
    config = make_config("MCLRec", folder, **{**SMALL, **more})
    init_seed(config["seed"], True)
    loaders = build_loaders(config, create_dataset(config))
    return DiffusionTrainer(config, build_model(config, loaders[0])), loaders


def sides(model):
    """Parameters of the encoder, of the augmenters."""
    named = dict(model.named_parameters())
    return [[p for name, p in named.items() if name.startswith("augmenters") is own] for own in (False, True)]


def copies(parameters):
    return [p.detach().clone() for p in parameters]


def distance(parameters, before):
    return math.sqrt(sum(float(((p.detach() - old) ** 2).sum()) for p, old in zip(parameters, before)))


@pytest.mark.parametrize("meta", STEPS)
def test_steps_are_those_of_an_optimizer_for_each_network(folder, meta):
    """What the released code does: two optimizers, a pass and a step of one after the other."""
    trainer, loaders = prepare(folder, meta=meta)
    by_hand = prepare(folder, meta=meta)[0].model
    optimizers = [torch.optim.Adam(parameters, lr=0.001) for parameters in sides(by_hand)]
    for number, batch in enumerate(loaders[0]):
        init_seed(number, True)
        losses = trainer._train_batch(batch, trainer.model.calculate_loss)
        init_seed(number, True)
        inputs, found = by_hand.loss_inputs(batch), {}
        for side in STEPS[meta]:
            parts = (by_hand.encoder_parts, by_hand.augmenter_parts)[side](*inputs)
            by_hand.zero_grad()
            sum(parts.values()).backward()
            optimizers[side].step()
            found = {**parts, **found}
        assert trainer.model.loss_names == ("recommendation", "contrast", "meta", "augmenter")
        assert losses == tuple(found[name].item() for name in trainer.model.loss_names)
    assert number > 1
    for one, other in zip(trainer.model.parameters(), by_hand.parameters()):
        assert torch.equal(one, other)
    assert all(p.requires_grad for p in trainer.model.parameters())


@pytest.mark.parametrize("chosen", [0, 1])
def test_parameters_that_do_not_learn_in_a_step_stand_still(folder, monkeypatch, chosen):
    trainer, loaders = prepare(folder, weight_decay=0.1)
    steps = trainer.model.training_steps()[chosen : chosen + 1]
    monkeypatch.setattr(trainer.model, "training_steps", lambda: steps)
    before = [copies(side) for side in sides(trainer.model)]
    for batch in loaders[0]:
        trainer._train_batch(batch, trainer.model.calculate_loss)
    moved = [distance(side, old) for side, old in zip(sides(trainer.model), before)]
    assert moved[chosen] > 0 and moved[1 - chosen] == 0
    with_state = {id(p) for p in trainer.optimizer.state}
    assert with_state == {id(p) for p in sides(trainer.model)[chosen]}


def test_an_error_in_a_step_leaves_all_parameters_learning(folder, monkeypatch):
    trainer, loaders = prepare(folder)
    monkeypatch.setattr(trainer, "_update", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer._train_batch(next(iter(loaders[0])), trainer.model.calculate_loss)
    assert all(p.requires_grad for p in trainer.model.parameters())


def test_each_step_is_clipped_by_itself(folder):
    trainer, loaders = prepare(folder, learner="sgd", learning_rate=1.0, clip_grad_norm={"max_norm": 0.01})
    before = [copies(side) for side in sides(trainer.model)]
    trainer._train_batch(next(iter(loaders[0])), trainer.model.calculate_loss)
    for side, old in zip(sides(trainer.model), before):
        assert distance(side, old) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("amp_type", ["bf16", "fp16"])
def test_mixed_precision_takes_every_step(folder, amp_type):
    trainer, loaders = prepare(folder, enable_amp=True, amp_type=amp_type, learning_rate=0.01, epochs=8, eval_step=8)
    before = [copies(side) for side in sides(trainer.model)]
    trainer.fit(*loaders[:2], saved=False, verbose=False)
    assert all(distance(side, old) > 0.1 for side, old in zip(sides(trainer.model), before))
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in trainer.model.parameters())
    first, *_, last = trainer.history["loss"]["recommendation"]
    assert last < first


def test_a_warm_up_counts_batches(folder):
    trainer, loaders = prepare(folder, meta="official", lr_warmup_steps=10, epochs=1)
    rates, update = [], trainer._update
    trainer._update = lambda: rates.append(trainer.optimizer.param_groups[0]["lr"]) or update()
    trainer.fit(*loaders[:2], saved=False, verbose=False)
    assert rates == pytest.approx([0.001 * (batch + 1) / 10 for batch in range(len(loaders[0])) for _ in range(3)])


def test_a_resumed_training_goes_on_with_both_networks(folder, tmp_path):
    given = make_config(
        "MCLRec", folder, **SMALL, meta="official", checkpoint_dir=str(tmp_path / "one")
    ).external_config_dict
    whole = run("MCLRec", "cycle", config_dict=given)
    given["checkpoint_dir"] = str(tmp_path / "two")
    run("MCLRec", "cycle", config_dict={**given, "epochs": 1})
    resumed = run("MCLRec", "cycle", config_dict={**given, "resume": True})
    states = [load_checkpoint(result["checkpoint"].replace("-best.pth", "-last.pth")) for result in (whole, resumed)]
    for name, tensor in states[0]["state_dict"].items():
        assert torch.equal(states[1]["state_dict"][name], tensor), name
    assert any(name.startswith("augmenters") for name in states[0]["state_dict"])
    assert len(states[0]["optimizer"]["state"]) == len(states[0]["state_dict"])


# Several processes


def fixed_views(self, ids, lengths):
    """Views without chance: the history itself with a hole in front, and its first half."""
    holed = ids.clone()
    holed[lengths > 1, 0] = 0
    half = (lengths + 1) // 2
    return (holed, lengths), (ids * (torch.arange(ids.shape[1]) < half[:, None]), half)


def run_with_fixed_views(*arguments):
    MCLRec.draw_views = fixed_views
    return run(*arguments)


@pytest.mark.parametrize(
    "meta, reg, size", [("alternating", "paper", 2), ("official", "official", 3), ("simultaneous", "paper", 2)]
)
def test_several_processes_take_the_steps_of_one(tmp_path, monkeypatch, meta, reg, size):
    given = {"meta": meta, "reg": reg, "contrast_weight": 0.1, "train_batch_size": 40, "mask_same_target": True}
    given.update(hidden_dropout_prob=0.0, attn_dropout_prob=0.0, reg_weight=0.5)
    given = settings("MCLRec", write_data("MCLRec", tmp_path), **given)
    monkeypatch.setattr(MCLRec, "draw_views", fixed_views)
    one = run("MCLRec", "cycle", config_dict={**given, "checkpoint_dir": "one"})
    several, codes = run_in_copies("MCLRec", given, size, train=run_with_fixed_views)
    assert codes == [0] * size
    expected, found = (load_checkpoint(result["checkpoint"]) for result in (one, several[0]))
    for name, tensor in expected["state_dict"].items():
        torch.testing.assert_close(found["state_dict"][name], tensor, atol=1e-3, rtol=1e-3)
    losses = [state["training"]["history"]["loss"] for state in (found, expected)]
    assert list(losses[0]) == ["recommendation", "contrast", "meta", "augmenter"] == list(losses[1])
    for name in losses[0]:
        assert losses[0][name] == pytest.approx(losses[1][name], rel=1e-4), name
