"""Folds of training sessions: who is in which, and batches that never mix them."""

import numpy as np
import pytest
import torch
from session_files import SPLIT, TRAIN, write_split

from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.folds import FOLD, batches_within, draw_folds, graph_sessions
from recbole_diffusion.data.loaders import FoldTrainDataLoader, build_loaders
from recbole_diffusion.errors import UsageError
from recbole_diffusion.testing import cycle_sequences, make_config, write_sequences

USERS = torch.tensor([7, 3, 3, 9, 7, 1, 2, 2, 5, 9, 9])


def test_folds_are_of_one_size_and_hold_all_examples_of_a_session():
    folds = draw_folds(USERS, 3, seed=1)
    of_user = {}
    for user, fold in zip(USERS.tolist(), folds.tolist()):
        assert of_user.setdefault(user, fold) == fold
    assert np.bincount(list(of_user.values())).tolist() == [2, 2, 2]


def test_folds_follow_the_seed():
    users = torch.arange(50)
    folds = [draw_folds(users, 5, seed).tolist() for seed in (1, 1, 2)]
    assert folds[0] == folds[1] != folds[2]


def test_as_many_folds_as_sessions_and_no_more():
    assert sorted(draw_folds(USERS.unique(), 6, 1).tolist()) == list(range(6))
    with pytest.raises(UsageError, match="6 training sessions are too few for graph_folds 7"):
        draw_folds(USERS, 7, 1)


@pytest.mark.parametrize("generator", [None, torch.Generator().manual_seed(1)])
@pytest.mark.parametrize("n, size", [(23, 4), (23, 1), (23, 30), (24, 4)])
def test_batches_are_a_partition_and_of_one_fold_each(n, size, generator):
    folds = np.random.default_rng(n).integers(0, 3, n)
    batches = batches_within(folds, size, generator)
    assert sorted(np.concatenate(batches).tolist()) == list(range(n))
    assert all(len(set(folds[batch])) == 1 for batch in batches)
    sizes = [[len(batch) for batch in batches if folds[batch[0]] == fold] for fold in range(3)]
    for found, total in zip(sizes, np.bincount(folds).tolist()):
        assert len(found) == -(-total // size) and max(found) <= size  # as few as the size allows


def test_batches_without_a_generator_keep_the_order():
    batches = batches_within(np.array([1, 0, 1, 1, 0]), 2)
    assert [batch.tolist() for batch in batches] == [[1, 4], [0, 2], [3]]


def test_batches_and_their_order_are_random():
    generator, folds = torch.Generator().manual_seed(1), np.arange(600) % 2
    first, second = (batches_within(folds, 10, generator) for _ in range(2))
    again = batches_within(folds, 10, torch.Generator().manual_seed(1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    assert {frozenset(batch) for batch in first}.isdisjoint(frozenset(batch) for batch in second)
    of_batches = folds[[batch[0] for batch in first]]
    assert 20 < np.abs(np.diff(of_batches)).sum() < 40  # of 59 neighbours about half are of another fold


def loaders_of(folder, name="cycle", **settings):
    config = make_config("DiffSBR", folder, name, k_neighbors=2, **settings)
    return build_loaders(config, create_dataset(config))


def walk(loader):
    """Users and folds of all batches."""
    return [(batch[loader._dataset.uid_field].tolist(), batch[FOLD].tolist()) for batch in loader]


@pytest.mark.parametrize("worker", [0, 1])
def test_a_training_epoch_has_every_example_once_in_batches_of_one_fold(worker, tmp_path):
    train, valid, test = loaders_of(write_sequences(cycle_sequences(), tmp_path, "cycle"), graph_folds=3, train_batch_size=9, worker=worker)
    epochs = [walk(train) for _ in range(2)]
    of_user = train._dataset.session_folds(torch.arange(train._dataset.user_num))
    for batches in epochs:
        assert len(batches) == len(train)
        assert all(set(folds) == set(of_user[users].tolist()) and len(set(folds)) == 1 for users, folds in batches)
        assert sorted(sum((users for users, _ in batches), [])) == sorted(train._dataset.inter_feat["user_id"].tolist())
        assert max(len(users) for users, _ in batches) == 9
    assert epochs[0] != epochs[1]
    assert set(of_user[1:].tolist()) == {0, 1, 2} and of_user[0] == -1
    assert not any(FOLD in part._dataset.inter_feat for part in (valid, test))


def test_without_shuffling_the_batches_are_the_same_in_every_epoch(tmp_path):
    folder = write_sequences(cycle_sequences(), tmp_path, "cycle")
    train = loaders_of(folder, graph_folds=3, train_batch_size=9, shuffle=False)[0]
    batches = walk(train)
    assert batches == walk(train)
    order = [folds[0] for _, folds in batches]
    assert order == sorted(order)


def test_one_graph_needs_no_folds(tmp_path):
    train = loaders_of(write_sequences(cycle_sequences(), tmp_path, "cycle"))[0]
    assert not isinstance(train, FoldTrainDataLoader) and FOLD not in train._dataset.inter_feat
    assert train._dataset.session_folds(torch.tensor([1])) is None


@pytest.mark.parametrize("last_only", [True, False])
def test_ready_made_sessions_are_whole_in_a_fold(last_only, tmp_path):
    folder = write_split(tmp_path, TRAIN, [[1, 4, 6]], [[2, 5, 1]])
    train = loaders_of(folder, "shop", graph_folds=2, train_last_only=last_only, **SPLIT)[0]
    examples = train._dataset.inter_feat
    assert len(examples) == (6 if last_only else sum(map(len, TRAIN)) - 6)
    pairs = set(zip(examples["session_id"].tolist(), examples[FOLD].tolist()))
    assert len(pairs) == len(TRAIN) and np.bincount([fold for _, fold in pairs]).tolist() == [3, 3]


def test_evaluation_sessions_behind_a_leaking_graph(tmp_path):
    """They are in the fold of their user's training session, or in none where there is no such session."""
    folder = write_split(tmp_path / "a", TRAIN, [[1, 4, 6]], [[2, 5, 1]])
    train = loaders_of(folder, "shop", graph_folds=2, graph_source="all", **SPLIT)[0]._dataset
    items, lengths, folds = graph_sessions(train, "all")
    assert lengths.tolist()[-2:] == [3, 3] and folds.tolist()[-2:] == [-1, -1] and min(folds[:-2]) == 0
    assert len(items) == lengths.sum() == sum(map(len, TRAIN)) + 6

    folder = write_sequences(cycle_sequences(), tmp_path / "b", "cycle")
    train = loaders_of(folder, graph_folds=2, graph_source="all")[0]._dataset
    _, lengths, folds = graph_sessions(train, "all")
    n_users = len(cycle_sequences())
    assert len(lengths) == 3 * n_users and min(folds) == 0
    assert folds[:n_users].tolist() == folds[n_users : 2 * n_users].tolist() == folds[2 * n_users :].tolist()
