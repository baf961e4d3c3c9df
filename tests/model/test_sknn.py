"""SKNN: its scores are those of a loop, and it finds what is alike."""

import math

import pytest
import torch
from session_files import TRAIN, write_split
from session_models import build

from recbole_diffusion import run
from recbole_diffusion.model import sknn
from recbole_diffusion.testing import group_sequences, make_config, write_sequences


def test_sknn_scores_are_those_of_a_loop(tmp_path):
    model, loaders = build(write_split(tmp_path, TRAIN, [[1, 4, 6]], [[2, 5, 1]]), "SKNN", n_neighbors=5)
    tokens = [str(token) for token in loaders[0]._dataset.field2id_token["item_id"]]
    batch = next(iter(loaders[2]))[0]
    query = {2, 5}
    overlaps = [len(query & set(s)) / math.sqrt(len(query) * len(s)) for s in TRAIN]
    found = model.full_sort_predict(batch)[0]
    order = torch.tensor(overlaps).topk(5).indices.tolist()
    for item in range(1, 7):
        wanted = sum(overlaps[j] for j in order if item in TRAIN[j])
        assert found[tokens.index(str(item))].item() == pytest.approx(wanted, abs=1e-6)


def test_of_equally_similar_sessions_the_first_of_the_training_part_count(tmp_path):
    sessions = [[1, 2], [3, 4, 5], [1, 6], [1, 3, 4, 5, 6, 7, 8, 9, 2], [9, 8]]
    model, loaders = build(write_split(tmp_path, sessions, [[1, 2]], [[1, 2]]), "SKNN", n_neighbors=1)
    tokens = [str(token) for token in loaders[0]._dataset.field2id_token["item_id"]]
    place = {token: number for number, token in enumerate(tokens)}

    def found(*items):
        row = torch.tensor([[place[str(item)] for item in items]])
        scores = model._scores(row)[0]
        return {int(tokens[number]) for number in scores.nonzero().flatten()}

    assert found(1) == {1, 2}  # of two, before {1, 6}
    assert found(3, 4, 5, 7) == {3, 4, 5}
    assert found(9, 8, 1) == {9, 8}


def test_pieces_of_a_batch_give_the_scores_of_the_whole(tmp_path, monkeypatch):
    model, loaders = build(write_split(tmp_path, TRAIN, [[1, 4, 6]], [[2, 5, 1]]), "SKNN", n_neighbors=5)
    rows = torch.tensor([[1, 2, 3], [4, 0, 0], [0, 0, 0], [2, 2, 5]])
    whole, pieces = model._scores(rows), []
    monkeypatch.setattr(sknn, "MEETINGS_AT_A_TIME", 3)
    pieces = list(model._few_at_a_time(rows))
    assert len(pieces) > 1 and torch.equal(torch.cat(pieces), rows)
    torch.testing.assert_close(torch.cat([model._scores(piece) for piece in pieces]), whole)
    assert not whole[2].any()


def test_sknn_runs_and_finds_the_group(tmp_path):
    folder = write_sequences(group_sequences(), tmp_path, "cycle")
    settings = make_config("SKNN", folder, mask_history=True, n_neighbors=20).external_config_dict
    assert run("SKNN", "cycle", config_dict=settings)["test_result"]["hit@1"] == 1.0
