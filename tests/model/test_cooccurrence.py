"""CoOccurrence: its lists are those of a loop over the training sessions, and nothing else is counted."""

from collections import Counter
from fractions import Fraction
from itertools import permutations

import pytest
import torch
from session_files import TRAIN, write_split
from session_models import build

from recbole_diffusion import run
from recbole_diffusion.model import counters
from recbole_diffusion.testing import group_sequences, make_config, write_sequences

HISTORIES = [[2, 5], [4], [1, 1, 3], [6, 2, 4, 5], [5, 6, 1]]


def counted(sessions, histories, numbers):
    """Items of each history in the documented order, by loops over sessions and exact fractions."""
    pairs, popularity = Counter(), Counter(item for session in sessions for item in session)
    for session in sessions:
        pairs.update(pair for pair in permutations(session, 2) if pair[0] != pair[1])
    total = Counter()
    for (item, _), count in pairs.items():
        total[item] += count
    lists = []
    for history in histories:
        score = {to: sum(Fraction(pairs[item, to], total[item] or 1) for item in history) for to in numbers}
        lists.append((sorted(numbers, key=lambda item: (-score[item], -popularity[item], numbers[item])), score))
    return lists


def built(folder, **settings):
    model, loaders = build(folder, "CoOccurrence", **settings)
    tokens = loaders[0]._dataset.field2id_token["item_id"]
    return model, loaders, {int(token): number for number, token in enumerate(tokens) if number}


def scores_of(model, numbers, histories):
    width = max(map(len, histories))
    rows = torch.tensor([[numbers[item] for item in h] + [0] * (width - len(h)) for h in histories])
    return model.full_sort_predict({model.ITEM_SEQ: rows, model.ITEM_SEQ_LEN: (rows > 0).sum(1)})


def test_lists_are_those_of_a_loop_over_the_training_sessions(tmp_path):
    model, _, numbers = built(write_split(tmp_path, TRAIN, [[1, 4, 6]], [[2, 5, 1]]))
    scores = scores_of(model, numbers, HISTORIES)
    items = {number: item for item, number in numbers.items()}
    for row, (_, share) in zip(scores, counted(TRAIN, HISTORIES, numbers)):
        found = [items[number] for number in (row[1:].argsort(descending=True) + 1).tolist()]
        shares = [float(share[item]) for item in found]
        assert shares == pytest.approx(sorted(shares, reverse=True), abs=1e-6)
        assert len(row.unique()) == model.n_items


def test_equal_shares_go_by_popularity(tmp_path):
    sessions = [[1, 2], [1, 3], [1, 4], [3, 5], [3, 6], [4, 6]]
    model, _, numbers = built(write_split(tmp_path, sessions, [[5, 3]], [[5, 3]]))
    scores = scores_of(model, numbers, [[1]])[0]
    in_order = sorted(numbers, key=lambda item: -scores[numbers[item]].item())
    assert in_order == counted(sessions, [[1]], numbers)[0][0] and in_order[:3] == [3, 4, 2]


def test_shares_of_a_row_are_one_and_their_sums_exact(tmp_path):
    model, _, numbers = built(write_split(tmp_path, TRAIN, [[1, 4, 6]], [[2, 5, 1]]))
    sums = torch.as_tensor(model.shares.sum(1)).flatten()
    assert sums[0] == 0 and ((sums[1:] / counters.WHOLE - 1).abs() < 1e-6).all()
    assert model.shares.dtype == "int64"
    assert torch.equal(scores_of(model, numbers, [[2, 5, 1]]), scores_of(model, numbers, [[1, 2, 5]]))


def test_nothing_of_validation_and_test_is_counted(tmp_path):
    found = []
    for name, held in (("a", ([1, 4, 6], [2, 5, 1])), ("b", ([6, 3, 2], [3, 1, 6]))):
        model, loaders, _ = built(write_split(tmp_path / name, TRAIN, [held[0]], [held[1]]))
        token = loaders[0]._dataset.field2id_token["item_id"]
        shares = model.shares.tocoo()
        found.append({(token[a], token[b]): share for a, b, share in zip(shares.row, shares.col, shares.data)})
    assert found[0] == found[1] and len(found[0])


def test_it_runs_and_finds_the_group(tmp_path):
    folder = write_sequences(group_sequences(), tmp_path, "cycle")
    settings = make_config("CoOccurrence", folder, mask_history=True).external_config_dict
    assert run("CoOccurrence", "cycle", config_dict=settings)["test_result"]["hit@1"] == 1.0
