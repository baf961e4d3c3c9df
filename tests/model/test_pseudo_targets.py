"""Pseudo items are input and never targets: losses at every token leave them out, and models that cannot are refused."""

import numpy as np
import plain_eclsr
import pytest
import torch
from models import CONTRACTS
from pseudo_files import write_pseudo_items

from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.errors import UsageError
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.repetition import Additions
from recbole_diffusion.model import mfgan, transformer_recommender
from recbole_diffusion.model.base import DiffusionSequentialRecommender
from recbole_diffusion.settings.registry import get_model
from recbole_diffusion.testing import cycle_sequences, make_config, write_sequences
from recbole_diffusion.training.networks import build_model

SEQUENCES = [row[: 4 + number % 5] for number, row in enumerate(cycle_sequences(min_length=9))]
LEARNERS = [name for name in CONTRACTS if issubclass(get_model(name), DiffusionSequentialRecommender)]


@pytest.fixture
def folder(tmp_path):
    folder = write_sequences(SEQUENCES, tmp_path, "cycle")
    write_pseudo_items(folder, {user: [1 + user % 12, 12 - user % 12] for user in range(0, len(SEQUENCES), 2)})
    return folder


def network_and_batch(model, folder, **more):
    small = {**CONTRACTS[model].small(), "augmented": "auto", "train_batch_size": 64, "k_noise": 3}
    config = make_config(model, folder, **{**small, **more, "allow_unknown_keys": True})
    loader = build_loaders(config, create_dataset(config))[0]
    return build_model(config, loader).eval(), next(iter(loader))


def recommendation(network, batch):
    """The recommendation loss alone."""
    losses = network.calculate_loss(batch)
    return dict(zip(network.loss_names, losses))["recommendation"]


SASREC = {"alpha": 0, "beta": 0, "repetition": "learned", "pos_align": "start"}


@pytest.mark.parametrize("view", ["sequence", "prefix"])
@pytest.mark.parametrize("loss_type", ["CE", "SS", "BCE"])
def test_the_loss_is_the_mean_over_real_targets(folder, view, loss_type, monkeypatch):
    network, batch = network_and_batch("SimDiffRec", folder, train_view=view, loss_type=loss_type, n_negatives=500, **SASREC)
    torch.nn.init.normal_(network.item_embedding.weight)
    network.repetition.amount.data.normal_()
    network.draw_negatives = lambda target: (torch.arange(500) % (network.n_items - 1) + 1, None)
    monkeypatch.setattr(transformer_recommender, "unseen_items", lambda rows, *seen: torch.ones_like(rows))
    found = recommendation(network, batch)
    expected, terms = 0, 0
    for row in range(len(batch)):  # a history at a time, and a target at a time
        items, target = batch["item_id_list"][row, : batch["item_length"][row]], batch["item_id"][row]
        following = [*items[1:].tolist(), int(target)]
        for end in range(int(batch["pseudo_length"][row]), len(items)):
            one = type(batch)({"item_id_list": items[None, : end + 1], "item_length": torch.tensor([end + 1])})
            scores = network.full_sort_predict(one)[0]
            positive, negative = scores[following[end]], scores[1]
            if loss_type == "BCE":
                expected = expected - positive.sigmoid().log() - (-negative).sigmoid().log()
            elif loss_type == "CE":
                expected = expected - scores[1:].log_softmax(0)[following[end] - 1]
            else:
                drawn = torch.arange(500) % (network.n_items - 1) + 1
                others = scores[drawn[drawn != following[end]]]
                expected = expected + torch.cat([others, positive[None]]).logsumexp(0) - positive
            terms += 1
    assert terms == network.taught_tokens(batch) == network.loss_weights(batch)["recommendation"]
    assert terms < int(batch["item_length"].sum())
    assert found.item() == pytest.approx(expected.item() / terms, rel=1e-4)


def test_a_reward_at_every_token_leaves_them_out(folder, monkeypatch):
    network, batch = network_and_batch("MFGAN", folder, objective="reward_bce", factors="popularity", pretrain_epochs=0)
    network.begin_epoch(1)
    seen, plain = [], mfgan.reward_bce
    monkeypatch.setattr(mfgan, "reward_bce", lambda *parts: seen.append(parts) or plain(*parts))
    network.calculate_loss(batch)
    weights = network.loss_weights(batch)
    assert {len(part) for part in seen[0]} == {network.taught_tokens(batch)} == {weights["generator"]}
    assert weights["generator"] < int(batch["item_length"].sum())


def test_without_pseudo_items_nothing_is_left_out(folder):
    network, batch = network_and_batch("SimDiffRec", folder, augmented=None, **SASREC)
    assert "pseudo_length" not in batch and network.taught_tokens(batch) == int(batch["item_length"].sum())
    assert network.taught(PackedLayout(batch["item_length"])) is None


@pytest.mark.parametrize("model", LEARNERS)
def test_every_model_leaves_them_out_or_refuses(folder, model):
    """In its own view; where a model has one loss per history, its target is real anyway."""
    try:
        network, batch = network_and_batch(model, folder)
        named = []
        network.taught = lambda layout: named.append(layout) or type(network).taught(network, layout)
        losses = network.calculate_loss(batch)
    except UsageError as error:
        assert "set train_view: prefix" in str(error)
        return
    assert all(torch.isfinite(loss) for loss in losses)
    assert named or not network._one_per_user
    weights = network.loss_weights(batch)
    of_targets = "recommendation" if "recommendation" in weights else None
    assert not named or weights[of_targets] == network.taught_tokens(batch)


@pytest.mark.parametrize("view", ["sequence", "prefix"])
def test_where_padding_is_in_the_loss_they_still_are_not(folder, view):
    compat = {"official_compat": True, "ce_positions": "all", "train_view": view}
    network, batch = network_and_batch("ECLSR", folder, **compat)
    found, pseudo = recommendation(network, batch), batch["pseudo_length"]
    rows = network.loss_inputs(batch)
    assert found.item() == pytest.approx(plain_eclsr.with_padding(network, *rows, pseudo)[0].item(), rel=1e-5)
    assert found.item() != pytest.approx(plain_eclsr.with_padding(network, *rows)[0].item(), rel=1e-5) and pseudo.any()
    assert network.loss_weights(batch)["recommendation"] == len(batch) * network.max_seq_length - int(pseudo.sum())


def test_a_model_that_would_learn_to_predict_them_is_refused(folder):
    network, batch = network_and_batch("SimDiffRec", folder, train_view="sequence", **SASREC)
    network.loss_parts = lambda item_seq, item_seq_len, target: {"recommendation": torch.zeros(())}
    with pytest.raises(UsageError, match="would learn to predict pseudo items in the sequence view: set train_view: prefix"):
        network.calculate_loss(batch)


def test_additions_of_some_rows():
    added = Additions(torch.tensor([0, 0, 2, 3]), torch.tensor([5, 6, 5, 7]), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    some = added.of_rows(torch.tensor([0, 1, 3]), 4)
    whole = added.to(torch.zeros(4, 8))
    assert np.array_equal(some.to(torch.zeros(3, 8)), whole[[0, 1, 3]])
