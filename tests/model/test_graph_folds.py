"""Cross-fitted training: which graph a batch sees, which an evaluation, and runs that are resumed or recommend."""

import pytest
import torch
from session_files import TRAIN, write_split
from session_models import build
from torch.testing import assert_close

from recbole_diffusion import Recommender, run
from recbole_diffusion.data.folds import FOLD
from recbole_diffusion.testing import cycle_sequences, make_config, write_features, write_sequences
from recbole_diffusion.training.checkpoint import load_checkpoint

TRAINING = {"hidden_size": 16, "diffusion_steps": 8, "graph_folds": 3, "train_batch_size": 16, "epochs": 3}


@pytest.fixture
def folder(tmp_path):
    folder = write_sequences(cycle_sequences(), tmp_path, "cycle")
    write_features(folder)
    return folder


def test_a_batch_sees_the_graph_of_its_fold(folder, monkeypatch):
    model, (train, *_) = build(folder, name="cycle", graph_folds=3, train_batch_size=16)
    assert len(model.graphs.without) == 3
    asked, seen_from = [], model.graphs.seen_from
    monkeypatch.setattr(model.graphs, "seen_from", lambda fold: asked.append(fold) or seen_from(fold))
    wanted = []
    for batch in train:
        wanted += [int(batch[FOLD][0])] + [None] * (not wanted)  # the bank is searched in the graph of all
        model.calculate_loss(batch)
    assert asked == wanted and set(asked) == {0, 1, 2, None}


def loss_of(model, batch):
    torch.manual_seed(1)
    return torch.stack(model.train().calculate_loss(batch))


def test_evaluation_sees_the_graph_of_all(folder):
    """The same weights with and without folds: the losses of a fold differ, the scores do not."""
    whole, loaders = build(folder, name="cycle")
    folded, (train, *_) = build(folder, name="cycle", graph_folds=3, train_batch_size=16)
    folded.load_state_dict(whole.state_dict())
    batch = next(iter(train))
    of_fold, fold = loss_of(folded, batch), batch.interaction.pop(FOLD)
    assert len(set(fold.tolist())) == 1
    assert_close(loss_of(folded, batch), loss_of(whole, batch), rtol=0, atol=0)
    assert not torch.allclose(of_fold, loss_of(whole, batch))
    with torch.no_grad():
        for rows, *_ in loaders[2]:
            assert torch.equal(folded.eval().full_sort_predict(rows), whole.eval().full_sort_predict(rows))


def test_a_session_that_is_alone_with_an_edge_does_not_meet_it(tmp_path):
    """Of the training sessions only the fourth holds items 5 and 6."""
    model, (train, *_) = build(write_split(tmp_path, TRAIN, [[1, 4, 6]], [[2, 5, 1]]), k_neighbors=2, graph_folds=2)
    data = train._dataset
    five, six = (data.token2id("item_id", token) for token in "56")
    own = int(data.session_folds(torch.tensor([data.token2id("session_id", "4")])))
    graphs = {fold: model.graphs.seen_from(fold).matrix.csr().to_dense() for fold in (None, own, 1 - own)}
    assert graphs[own][five, six] == graphs[own][six, five] == 0
    assert graphs[None][five, six] > 0 and graphs[1 - own][five, six] > 0


def test_a_cross_fitted_run_is_resumed_bit_by_bit(folder):
    given = make_config("DiffSBR", folder, **TRAINING).external_config_dict
    undisturbed = run("DiffSBR", "cycle", config_dict={**given, "checkpoint_dir": "undisturbed"})
    run("DiffSBR", "cycle", config_dict={**given, "epochs": 1, "checkpoint_dir": "stopped"})
    resumed = run("DiffSBR", "cycle", config_dict={**given, "resume": True, "checkpoint_dir": "stopped"})
    assert resumed["epochs"] == 3 and resumed["test_result"] == undisturbed["test_result"]
    weights = [load_checkpoint(result["checkpoint"])["state_dict"] for result in (resumed, undisturbed)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_recommendations_come_from_the_graph_of_all(folder):
    config = make_config("DiffSBR", folder, **TRAINING)
    result = run("DiffSBR", "cycle", config_dict=config.external_config_dict)
    recommender = Recommender.load(result["checkpoint"])
    assert len(recommender.network.graphs.without) == 0
    model, loaders = build(folder, name="cycle", **{**TRAINING, "graph_folds": 0, "corruption_steps": 2})
    model.load_state_dict(load_checkpoint(result["checkpoint"])["state_dict"])
    batch = next(iter(loaders[2]))[0]
    with torch.no_grad():
        assert_close(recommender.network.full_sort_predict(batch), model.eval().full_sort_predict(batch))
