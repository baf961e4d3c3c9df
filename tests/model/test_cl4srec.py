"""CL4SRec: fast equals plain, SASRec without contrast, data that stay as they are, and the released damage."""

import random

import plain_contrastive as plain
import pytest
import torch
import torch.nn.functional as F
from test_processes import run_in_copies
from test_simdiffrec import FakeData, batch

from recbole_diffusion import run
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.examples import TrainingExamples
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.layers.augmentation import two_operators
from recbole_diffusion.model.cl4srec import CL4SRec
from recbole_diffusion.testing import cycle_sequences, make_config, small_settings, write_sequences
from recbole_diffusion.training.checkpoint import load_checkpoint
from recbole_diffusion.training.networks import build_model

SMALL = {"hidden_size": 16, "inner_size": 32, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
LAST = {"ce_positions": "last", "train_view": "prefix"}


class Data(FakeData):
    def training_examples(self):
        return TrainingExamples(torch.ones(2, dtype=torch.long), *torch.ones(4, 1, dtype=torch.long))


def build(**settings):
    torch.manual_seed(3)
    config = make_config(
        "CL4SRec", "unused", MAX_ITEM_LIST_LENGTH=12, **{**SMALL, "initializer_range": 0.5, **settings}
    )
    return CL4SRec(config, Data()).double()


def nowhere(target):
    return torch.full_like(target, -1)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        LAST,
        {"pos_align": "end", "similarity": "cosine", "tau": 0.3, "mask_same_target": True},
        {"encoder": "hstu", "aug_pair": "independent"},
        {"encoder": "ligr", **LAST},
    ],
)
def test_packed_equals_padded_in_values_and_gradients(settings):
    model = build(**settings)
    items, lengths, target = batch(rows=11)
    target[3] = target[5]
    torch.manual_seed(5)
    fast = model.loss_parts(items, lengths, target, nowhere(target))
    sum(fast.values()).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()

    torch.manual_seed(5)
    views = two_operators(items, lengths, model.operators, model.config["aug_pair"])
    slow = plain.loss_parts(model, items, lengths, target, views, {"contrast": (0.1, 1, 2)})
    sum(slow.values()).backward()
    assert fast.keys() == slow.keys() and gradients["mask_vector"].abs().sum() > 0
    for name in slow:
        torch.testing.assert_close(fast[name], slow[name])
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, msg=name)


def test_the_plain_operators_have_the_sizes_of_the_fast_ones():
    model, row = build(), torch.arange(1, 13)
    for n, sizes in {2: (1, 0, 1), 4: (2, 1, 2), 10: (6, 3, 6)}.items():
        ids = row * (torch.arange(12) < n)
        (cropped, size), (masked, _), (shuffled, _) = (
            plain.crop(ids, n, 0.6), plain.mask(ids, n, 0.3, model.n_items), plain.reorder(ids, n, 0.6),
        )  # fmt: skip
        assert size == sizes[0] == (cropped > 0).sum() and (masked == model.n_items).sum() == sizes[1]
        moved = (shuffled != ids).nonzero().squeeze(1)
        assert torch.equal(shuffled.sort().values, ids.sort().values)
        assert not len(moved) or moved[-1] - moved[0] < sizes[2]


@pytest.fixture
def folder(tmp_path):
    return write_sequences(cycle_sequences(max_length=9), tmp_path, "cycle")


def trained(model, folder, **settings):
    small = {key: value for key, value in small_settings("CL4SRec").items() if key != "k_noise"}
    settings = {
        **small,
        "pos_align": "start",
        "hidden_dropout_prob": 0.3,
        "attn_dropout_prob": 0.2,
        "epochs": 3,
        **settings,
    }
    config = make_config(model, folder, train_batch_size=8, checkpoint_dir=model, **settings).external_config_dict
    return load_checkpoint(run(model, "cycle", config_dict=config)["checkpoint"].replace("-best", "-last"))


@pytest.mark.parametrize("loss_type", ["CE", "BCE", "SS"])
def test_without_contrast_it_is_sasrec_bit_by_bit(folder, loss_type):
    ours = trained("CL4SRec", folder, contrast_weight=0, loss_type=loss_type)
    sasrec = trained("SimDiffRec", folder, alpha=0, beta=0, loss_type=loss_type)
    assert ours["training"]["train_loss_dict"] == sasrec["training"]["train_loss_dict"]
    assert ours["state_dict"].keys() == sasrec["state_dict"].keys()
    assert all(torch.equal(ours["state_dict"][name], tensor) for name, tensor in sasrec["state_dict"].items())


def test_without_contrast_nothing_but_the_loss_is_drawn():
    model = build(contrast_weight=0, **LAST)
    items, lengths, target = batch()
    state = torch.get_rng_state()
    assert list(model.loss_parts(items, lengths, target, nowhere(target))) == ["recommendation"]
    assert torch.equal(torch.get_rng_state(), state) and model.mask_vector is None


def epochs(folder, number, **settings):
    """A model after some epochs of losses, its loader, and the batches of the last epoch."""
    config = make_config("CL4SRec", folder, **{**small_settings("CL4SRec"), **settings}, train_batch_size=8)
    loader = build_loaders(config, create_dataset(config))[0]
    model = build_model(config, loader).train()
    for _ in range(number):
        batches = list(loader)
        for interaction in batches:
            before = interaction["item_id_list"].clone()
            model.calculate_loss(interaction)
            assert torch.equal(interaction["item_id_list"], before)
    return model, loader, batches


@pytest.mark.parametrize("settings", [{}, LAST, {**LAST, "official_compat": True}])
def test_stored_histories_are_the_same_after_an_epoch(folder, settings):
    _, loader, batches = epochs(folder, 3, **settings)
    config = make_config("CL4SRec", folder)
    fresh = build_loaders(config, create_dataset(config))[0]._dataset
    assert torch.equal(loader._dataset.flat["item_id"], fresh.flat["item_id"])
    assert all((batch["item_id_list"] < loader._dataset.item_num).all() for batch in batches)


# The released damage


@pytest.mark.parametrize("settings", [{}, {"crop_kept": 0.3, "mask_share": 0.6, "reorder_share": 0.9}])
def test_views_that_are_no_crops_are_the_damaged_rows_themselves(settings):
    model = build(official_compat=True, **LAST, **settings)
    rows, lengths = torch.arange(1, 11).repeat(900, 1), torch.full((900,), 10)
    edited, views = model._edit(rows, lengths)
    assert torch.equal(rows, torch.arange(1, 11).repeat(900, 1))
    whole = torch.stack([n == 10 for _, n in views])
    assert whole.any(0).all() and abs(whole.all(0).float().mean() - 1 / 3) < 0.08  # no crop in one of three pairs
    masked = (edited == model.mask_token).sum(1)
    share = int(model.config["mask_share"] * 10)
    assert set(masked.tolist()) == {0, share} and abs((masked > 0).float().mean() - 2 / 3) < 0.08
    for (ids, n), is_whole, size in zip(views, whole, [int(model.config["crop_kept"] * 10)] * 2):
        assert torch.equal(ids[is_whole], edited[is_whole])
        assert (n[~is_whole] == size).all() and (ids[~is_whole, size:] == 0).all()
    first_crop, second_crop = ~whole
    assert (views[0][0][first_crop, : views[0][1][first_crop][0]].diff() == 1).all()  # before anything was edited
    for ids, row in zip(views[1][0][second_crop], edited[second_crop]):  # after the first operator
        size = int(views[1][1][second_crop][0])
        assert any(torch.equal(ids[:size], row[start : start + size]) for start in range(11 - size))


def test_damage_stays_grows_and_reaches_the_recommendation_loss(folder, monkeypatch):
    seen, whole = [], CL4SRec.ends
    monkeypatch.setattr(CL4SRec, "ends", lambda self, *views: seen.append(views[0][0]) or whole(self, *views))
    shares = []
    for number in (1, 3, 10):
        model, _, batches = epochs(folder, number, official_compat=True, **LAST)
        shares.append((model.damaged.flat == model.mask_token).float().mean().item())
        for rows, interaction in zip(seen[-len(batches) :], batches):
            stored, _ = model.damaged.histories(model.damaged.find(model.places(interaction)))
            assert torch.equal(rows, stored)
    assert 0.05 < shares[0] < shares[1] < shares[2] and shares[2] > 0.4


def test_a_stopped_training_goes_on_from_the_damaged_histories(folder):
    model, loader, _ = epochs(folder, 2, official_compat=True, **LAST)
    state = model.training_state()
    fresh = build_model(model.config, loader)
    assert not torch.equal(fresh.damaged.flat, model.damaged.flat)
    fresh.load_training_state(state)
    assert torch.equal(fresh.damaged.flat, model.damaged.flat)


def test_damage_of_all_processes_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_sequences(cycle_sequences(n_users=41), tmp_path, "cycle")
    given = {**small_settings("CL4SRec"), **LAST, "official_compat": True, "epochs": 2, "train_batch_size": 20}
    given.update(MAX_ITEM_LIST_LENGTH=10, use_gpu=False, show_progress=False, data_path=folder, topk=[5])
    results, codes = run_in_copies("CL4SRec", {**given, "valid_metric": "MRR@5"})
    assert codes == [0, 0] and results[0]["test_result"] == results[1]["test_result"]
    damaged = load_checkpoint(results[0]["checkpoint"].replace("-best", "-last"))["training"]["model"]["damaged"]
    alone, _, _ = epochs(folder, 2, official_compat=True, MAX_ITEM_LIST_LENGTH=10, **LAST)
    masked, expected = ((flat == alone.mask_token).float().mean() for flat in (damaged, alone.damaged.flat))
    assert masked == pytest.approx(expected, rel=0.25)  # of one process alone it would be half


def test_released_loss_is_that_of_the_damaged_rows():
    model = build(official_compat=True, **LAST)
    items, lengths, target = batch(rows=11)

    torch.manual_seed(2)
    fast = model.loss_parts(items, lengths, target, nowhere(target))
    torch.manual_seed(2)
    edited, views = model._edit(items, lengths)
    rows = torch.arange(len(items))
    state, one, other = (plain.encode(model, ids)[rows, n - 1] for ids, n in ((edited, lengths), *views))
    loss = F.cross_entropy(state @ model.item_embedding.weight[1:].t(), target - 1)
    torch.testing.assert_close(fast["recommendation"], loss)
    torch.testing.assert_close(fast["contrast"], 0.1 * plain.nt_xent(one, other, 1.0))


def test_plain_augmentation_draws_two_different_operators():
    random.seed(0)
    model = build(mask_share=0.5)
    items, lengths = torch.arange(1, 13).repeat(300, 1), torch.full((300,), 12)
    (one, n_one), (other, n_other) = plain.augmented(model, items, lengths)
    kinds = [
        ["crop" if n < 12 else "mask" if (row == model.n_items).any() else "reorder" for row, n in zip(*view)]
        for view in ((one, n_one), (other, n_other))
    ]
    assert {*zip(*kinds)} == {
        (a, b) for a in ("crop", "mask", "reorder") for b in ("crop", "mask", "reorder") if a != b
    }
