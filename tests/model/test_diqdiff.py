"""DiQDiff: packed equals padded, DiffuRec when all is off, codes that stand still at inference, switches, bad input."""

import math

import plain_diqdiff as plain
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_diffusion import run
from recbole_diffusion.cli import main
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.errors import UsageError
from recbole_diffusion.model import diqdiff
from recbole_diffusion.serving.catalogue import Catalogue
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.testing import cycle_sequences, make_config, write_sequences
from recbole_diffusion.training.networks import build_model

SMALL = {"hidden_size": 16, "inner_size": 32, "n_blocks": 2, "n_heads": 2, "diffusion_steps": 8, "num_codes": 4}
STILL = {"hidden_dropout_prob": 0.0, "embedding_dropout_prob": 0.0}
N_ITEMS, WIDTH = 13, 10
LENGTHS = torch.tensor([3, 1, 10, 5, 4, 7])
TARGET = torch.tensor([7, 2, 12, 1, 7, 5])
RELEASED = {"official_codes": True, "mask_same_target": False, "attention_mask": "queries", "padding_in_softmax": True}


def build(**settings):
    """A network with a codebook that is filled and choices that differ."""
    given = {**SMALL, "MAX_ITEM_LIST_LENGTH": WIDTH, "use_gpu": False, **settings}
    config = DiffusionConfig("DiQDiff", "synthetic", config_dict=given)
    torch.manual_seed(3)
    network = config.model_class(config, Catalogue(config, {"item_tokens": range(N_ITEMS)})).eval()
    with torch.no_grad():
        network.item_embedding.weight.normal_()
        if network.codebook is not None:
            network.codebook.totals.uniform_(0.5, 3)
            network.codebook.weight.mul_(9)
    return network


def histories(width=WIDTH):
    torch.manual_seed(1)
    return torch.randint(1, N_ITEMS, (len(LENGTHS), width)) * (torch.arange(width) < LENGTHS[:, None])


def scores(network, items=None, lengths=LENGTHS):
    items = histories() if items is None else items
    rows = Interaction({network.ITEM_SEQ: items, network.ITEM_SEQ_LEN: lengths, network.ITEM_ID: items[:, 0]})
    with torch.no_grad():
        return network.full_sort_predict(rows)[:, 1:]


CASES = [
    {},
    {"num_codes": 1, "lambda_contrast": 0.0},
    {"svq": "none", "lambda_history": 0.6, "mask_same_target": False},
    {"twin": True, "code_noise": 0.0, "svq_balance": 0.3},
    {"official_codes": True, "lambda_code": 0.9},
    RELEASED,
    {**RELEASED, "official_codes": False},
]


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_packed_equals_padded_in_value_and_gradient(settings, monkeypatch):
    network, items = build(lambda_mean=0.7, **settings), histories()
    t, noise, gumbel = torch.tensor([0, 7, 3, 1, 5, 2]), torch.randn(6, 16), torch.randn(6, 4)[:, : network.config["num_codes"]]
    slow = plain.losses(network, items, LENGTHS, TARGET, t, noise, gumbel, network._temperature())
    monkeypatch.setattr(network, "_training_noise", lambda clean: noise)
    monkeypatch.setattr(torch, "randint", lambda *args, **kwargs: t)
    monkeypatch.setattr(diqdiff, "gumbel_like", lambda logits: gumbel)
    fast = network.loss_parts(items, LENGTHS, TARGET)
    assert set(fast) == set(slow)
    parameters = dict(network.named_parameters())
    for name, loss in fast.items():
        torch.testing.assert_close(loss, slow[name], atol=1e-5, rtol=1e-5)
        found, expected = (
            torch.autograd.grad(part, list(parameters.values()), allow_unused=True, retain_graph=True)
            for part in (loss, slow[name])
        )
        for key, ours, theirs in zip(parameters, found, expected):
            if ours is None or theirs is None:
                assert all(grad is None or grad.abs().max() < 1e-7 for grad in (ours, theirs)), (name, key)
            else:
                torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4, msg=f"{name}, {key}")


@pytest.fixture
def folder(tmp_path):
    return write_sequences(cycle_sequences(), tmp_path, "cycle")


@pytest.mark.parametrize("off", [{"svq": "none"}, {"lambda_code": 0.0}])
def test_without_codes_and_contrast_it_is_diffurec_bit_by_bit(folder, off):
    nothing = {**off, "lambda_contrast": 0.0, "lambda_std": 0.001, "reverse_variance": "beta", "stopping_step": 5}
    small = {**SMALL, "sampling_steps": 3, "epochs": 3, "data_path": folder}
    ours = run("DiQDiff", "cycle", config_dict=make_config("DiQDiff", folder, **{**small, **nothing}).external_config_dict)
    small.pop("num_codes")
    theirs = run("DiffuRec", "cycle", config_dict=make_config("DiffuRec", folder, **small).external_config_dict)
    assert list(ours["history"]["loss"].values()) == list(theirs["history"]["loss"].values())
    assert ours["history"]["valid"] == theirs["history"]["valid"] and ours["test_result"] == theirs["test_result"]


# The quantiser


@pytest.mark.parametrize("settings", [{}, {"official_codes": True}, {"num_codes": 1}, {"twin": True}, RELEASED], ids=str)
def test_scores_depend_on_the_history_alone(settings):
    network = build(lambda_code=2.0, sampling_steps=3, **settings)
    together = scores(network)
    alone = torch.cat([scores(network, histories()[i : i + 1], LENGTHS[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(alone, together)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    torch.testing.assert_close(scores(network, histories()[order], LENGTHS[order]), together[order])


@pytest.mark.parametrize("official", [False, True])
def test_codes_move_after_a_step_and_never_at_inference(official):
    network = build(official_codes=official, lambda_code=2.0)
    before, first = network.codebook.totals.clone(), scores(network)
    network.train()
    network.loss_parts(histories(), LENGTHS, TARGET)
    scores(network.eval())
    assert torch.equal(network.codebook.totals, before)
    network.after_step()
    assert not torch.equal(network.codebook.totals, before)
    moved = scores(network)
    assert not torch.allclose(moved, first) and torch.equal(moved, scores(network))
    network.after_step()  # a process without rows has nothing to add: the averages decay, the codes stay
    torch.testing.assert_close(scores(network), moved, atol=1e-4, rtol=1e-4)


def test_official_choices_come_from_the_history_and_the_seed():
    network, certain, other = (build(official_codes=True, lambda_code=2.0, code_noise=noise) for noise in (9.0, 0.0, 9.0))
    other.label_noise.table.neg_()  # another seed
    assert not torch.allclose(scores(network), scores(certain)) and not torch.allclose(scores(network), scores(other))
    assert "codebook.weight" in network.state_dict() and "codebook.weight" not in dict(network.named_parameters())


def test_the_chooser_learns_from_the_recommendation_alone():
    network = build(svq_balance=0.0, lambda_contrast=0.0)
    network.loss_parts(histories(), LENGTHS, TARGET)["recommendation"].backward()
    assert network.codebook.weight.grad.abs().sum() > 0 and network.codebook.bias.grad.abs().sum() > 0


def test_codes_that_are_all_alike_are_one_code(monkeypatch):
    many, one = build(lambda_code=2.0), build(lambda_code=2.0, num_codes=1)
    one.load_state_dict({k: v for k, v in many.state_dict().items() if "codebook" not in k}, strict=False)
    with torch.no_grad():
        many.codebook.totals.copy_(one.codebook.totals.expand_as(many.codebook.totals))
    torch.testing.assert_close(scores(many), scores(one))
    losses = []
    for network in (many, one):
        torch.manual_seed(5)
        monkeypatch.setattr(diqdiff, "gumbel_like", torch.zeros_like)
        losses.append(network.loss_parts(histories(), LENGTHS, TARGET)["recommendation"])
    torch.testing.assert_close(*losses)


def test_the_temperature_falls_and_goes_on_where_it_was():
    network = build(code_temperature=0.2, code_anneal_steps=4)
    found = []
    for _ in range(6):
        found.append(network._temperature())
        network.after_step()
    assert found == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.2])
    other = build(code_temperature=0.2, code_anneal_steps=4)
    other.load_training_state({**network.training_state(), "steps_taken": 2})
    assert other._temperature() == pytest.approx(0.6)
    assert build(code_temperature=0.2, code_anneal_steps=0)._temperature() == pytest.approx(0.2)


def test_the_codebook_is_in_the_checkpoint(folder):
    given = make_config("DiQDiff", folder, **SMALL, epochs=2).external_config_dict
    state = torch.load(run("DiQDiff", "cycle", config_dict=given)["checkpoint"], weights_only=True)
    totals = state["state_dict"]["codebook.totals"]
    assert totals.shape == (4, make_config("DiQDiff", folder)["MAX_ITEM_LIST_LENGTH"], 17) and totals[:, 0, -1].sum() > 0


# Switches and known numbers


def test_in_the_twin_nothing_of_the_diffusion_is_left():
    network = build(twin=True, code_noise=0.0, lambda_std=0.5, lambda_mean=3.0)
    assert not any("step_embedding" in name for name, _ in network.named_parameters())
    first, second = (network.loss_parts(histories(), LENGTHS, TARGET) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)  # nothing is drawn
    other = build(twin=True, seed=9, sampling_steps=7, sampler="ddim")
    other.load_state_dict(network.state_dict())
    assert torch.equal(scores(network), scores(other))
    assert network.sample(histories(), LENGTHS, 3).shape == (6, 3, 16)


def test_the_network_of_beauty_has_the_parameters_of_the_released_one():
    config = DiffusionConfig("DiQDiff", "synthetic", config_dict={"use_gpu": False})
    network = config.model_class(config, Catalogue(config, {"item_tokens": range(12_102)}))
    assert sum(parameter.numel() for parameter in network.parameters()) == 2_679_200


def test_it_says_how_many_codes_are_in_use_and_warns_of_one():
    network = build()
    with torch.no_grad():
        network.codebook.totals[:, 0, -1] = torch.tensor([2.0, 2.0, 0.0, 0.0])
    report = network.epoch_report()
    assert report == {"codes in use": pytest.approx(2.0, abs=1e-4)} and network.epoch_warning(report) is None
    assert "nearly all histories have one code of 4: raise svq_balance" in network.epoch_warning({"codes in use": 1.1})
    assert build(num_codes=1).epoch_warning({"codes in use": 1.0}) is None
    assert build(svq="none").epoch_report() == build(official_codes=True).epoch_report() == {}


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"num_codes": 0}, "num_codes"),
        ({"diffusion_steps": 0}, "diffusion_steps"),
        ({"sampling_steps": 0}, "sampling_steps"),
        ({"sampling_steps": 9}, "sampling_steps 9 is larger than diffusion_steps 8"),
        ({"lambda_mean": -1}, "lambda_mean"),
        ({"lambda_code": -1}, "lambda_code"),
        ({"lambda_history": 0}, "lambda_history"),
        ({"code_temperature": 0}, "code_temperature"),
        ({"code_decay": 1.0}, "code_decay"),
        ({"tau": 0}, "tau"),
        ({"svq": "kmeans"}, "svq must be one of ema, none"),
        ({"official_codes": True, "svq": "none"}, "official_codes needs svq: ema"),
        ({"official_codes": True, "train_batch_size": 3}, "num_codes 4 of a batch: train_batch_size 3 is too small"),
        ({"train_batch_size": 1}, "leaves DiQDiff no other row to contrast"),
        ({"trim_padding": True}, "trim_padding batches by length"),
        ({"train_view": "sequence"}, "leave train_view at prefix"),
        ({"hidden_size": 7, "n_heads": 1}, "hidden_size 7 must be even"),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings, words):
    with pytest.raises(UsageError, match=words) as refusal:
        DiffusionConfig("DiQDiff", "synthetic", config_dict={**SMALL, **settings})
    assert "\n" not in str(refusal.value)


def test_more_codes_than_users_end_with_one_line(folder, capsys):
    words = ["--model=DiQDiff", "--dataset=cycle", f"--data_path={folder}", "--num_codes=41", "--topk=[5]", "--valid_metric=MRR@5"]
    assert main(words) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error == "error: num_codes 41 is larger than the number of users, 40: lower it"
    config = make_config("DiQDiff", folder, **{**SMALL, "num_codes": 40})
    assert build_model(config, build_loaders(config, create_dataset(config))[0]).codebook.n_codes == 40


SWITCHES = [
    {"twin": True},
    {"svq": "none"},
    {"official_codes": True},
    {"num_codes": 1},
    {"lambda_contrast": 0.0},
    {**RELEASED, "reverse_variance": "official_exp", "sampling_steps": 8},
    {"repetition": "learned"},
]


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_switches_learn(folder, switches):
    given = {**SMALL, "epochs": 12, "learning_rate": 0.01, "eval_step": 4, "stopping_step": 10, **switches}
    result = run("DiQDiff", "cycle", config_dict=make_config("DiQDiff", folder, **given).external_config_dict)
    assert result["test_result"]["hit@1"] > 0.9
    assert math.isfinite(sum(values[-1] for values in result["history"]["loss"].values()))
