"""``repetition: learned`` in every model that learns it: trained, scored, recommended, exported, refused."""

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_diffusion import Recommender, run
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.errors import UsageError
from recbole_diffusion.layers.repetition import GAIN
from recbole_diffusion.serving.export import padded_scorer
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.settings.registry import MODELS, get_model
from recbole_diffusion.testing import cycle_sequences, make_config, small_settings, write_features, write_sequences
from recbole_diffusion.training.networks import build_model

LEARNING = [name for name in MODELS if getattr(get_model(name), "learns_repetition", False)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_sequences(cycle_sequences(min_length=14, max_length=20), tmp_path_factory.mktemp("repetition"), "cycle")
    write_features(folder)
    return folder


def built(model, folder, **more):
    config = make_config(model, folder, **{**small_settings(model), "repetition": "learned", **more})
    loaders = build_loaders(config, create_dataset(config))
    return build_model(config, loaders[0]), loaders[0]


def test_every_model_that_learns_can_learn_repetition():
    own_way = {"MSGIFSR"}  # predicts by itself whether an item comes again
    assert set(MODELS) - set(LEARNING) == {"SKNN", "CoOccurrence", "Successors", "Popularity"} | own_way


@pytest.mark.parametrize("model", LEARNING)
def test_amounts_get_a_gradient_and_move_scores_of_the_history_only(model, folder):
    network, batches = built(model, folder)
    batch = next(iter(batches))
    losses = network.calculate_loss(batch)
    sum(losses).backward()
    assert network.repetition.amount.grad.abs().sum() > 0

    network.eval()
    histories = torch.tensor([[1, 2, 1, 0], [3, 0, 0, 0]])
    columns = {network.ITEM_SEQ: histories, network.ITEM_SEQ_LEN: torch.tensor([3, 1])}
    asked = Interaction({**columns, network.ITEM_ID: torch.tensor([2, 4]), network.USER_ID: torch.tensor([1, 1])})
    with torch.no_grad():
        before, one_before = network.full_sort_predict(asked).view(2, -1), network.predict(asked)
        network.repetition.amount.copy_(torch.arange(1.0, 1 + len(network.repetition.amount)) / GAIN)
        moved = network.full_sort_predict(asked).view(2, -1) - before
        moved_one = network.predict(asked) - one_before
    wanted = torch.zeros_like(moved)
    wanted[0, 1], wanted[0, 2], wanted[1, 3] = 1, 2, 1  # met 1, 2 and 1 steps ago
    torch.testing.assert_close(moved, wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(moved_one, torch.tensor([2.0, 0.0]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("settings", [{"loss_type": "SS", "n_negatives": 4}, {"loss_type": "BCE"}, {"ce_positions": "last", "train_view": "prefix"}])
def test_every_loss_of_simdiffrec_trains_the_amounts(folder, settings):
    network, batches = built("SimDiffRec", folder, **settings)
    sum(network.calculate_loss(next(iter(batches)))).backward()
    assert network.repetition.amount.grad.abs().sum() > 0


def test_without_it_nothing_is_added(folder):
    network, _ = built("SimDiffRec", folder, repetition="none")
    assert network.repetition is None and not any("repetition" in name for name in network.state_dict())


def test_an_ensemble_of_seeds_adds_it_before_the_softmax(folder):
    network, _ = built("DiffuRec", folder, ensemble_seeds=2)
    with torch.no_grad():
        network.eval().repetition.amount.fill_(30.0 / GAIN)
        scores = network.ensemble_scores(torch.tensor([[5, 6]]), torch.tensor([2]))[0]
    assert set(scores.topk(2).indices.tolist()) == {5, 6} and scores.exp().sum().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("model", ["SimDiffRec", "DiffuRec", "DiffuRecSys", "STOSA", "AttenMixer", "DIMO", "MGS"])
def test_the_exportable_form_has_the_scores_of_the_model(model, folder):
    settings = {"lambda_std": 0.0, "sampling_steps": 1} if model.startswith("DiffuRec") else {}
    network, _ = built(model, folder, **settings)
    with torch.no_grad():
        network.eval().repetition.amount.copy_(torch.linspace(1, 2, len(network.repetition.amount)))
        scorer = padded_scorer(network)
        rows = torch.zeros(2, scorer.width, dtype=torch.long)
        rows[0, :4], rows[1, :2] = torch.tensor([1, 2, 1, 4]), torch.tensor([7, 7])
        met = network.met_at_end(rows, torch.tensor([4, 2])).to(torch.zeros(2, network.n_items))
        torch.testing.assert_close(scorer.met(rows, torch.tensor([4, 2]), met)[:, 1:], met[:, 1:])


def test_on_data_without_repeats_it_learns_what_masking_does_by_hand(tmp_path):
    """Every user takes the same seven items in an order of his own: only what is left can follow."""
    random = np.random.default_rng(0)
    folder = write_sequences([(random.permutation(7) + 1).tolist() for _ in range(60)], tmp_path, "cycle")
    given = {**small_settings("SimDiffRec"), "alpha": 0, "beta": 0, "epochs": 15, "learning_rate": 0.05}
    given = make_config("SimDiffRec", folder, **given, topk=[1, 2], valid_metric="MRR@2").external_config_dict
    found = {kind: run("SimDiffRec", "cycle", config_dict={**given, "repetition": kind}) for kind in ("none", "learned")}
    learned = found["learned"]
    assert learned["test_result_unmasked"]["hit@1"] == pytest.approx(learned["test_result_masked"]["hit@1"], abs=0.05)
    assert learned["test_result_unmasked"]["hit@1"] > 0.9
    amounts = torch.load(learned["checkpoint"], weights_only=True)["state_dict"]["repetition.amount"]
    assert (GAIN * amounts[:3] < -1).all()
    ranking = Recommender.load(learned["checkpoint"], device="cpu").recommend([["i1", "i2", "i3", "i4", "i5", "i6"]], k=1)[0]
    assert ranking[0][0] == "i7"


@pytest.mark.parametrize(
    "model, settings, words",
    [
        ("SASRec", {"repetition": "learned"}, "repetition: learned is for models of this package that learn, SASRec cannot"),
        ("SKNN", {"repetition": "learned"}, "SKNN cannot"),
        ("SimDiffRec", {"repetition": "lerned"}, "repetition must be one of none, learned, got 'lerned'"),
        ("SimDiffRec", {"repetition_amounts": 0}, "repetition_amounts must lie in"),
    ],
)
def test_what_cannot_be_is_refused(model, settings, words):
    with pytest.raises(UsageError, match=words):
        DiffusionConfig(model, "toy", config_dict=settings)
