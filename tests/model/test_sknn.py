"""SKNN: its scores are those of a loop, and it finds what is alike."""

import math

import pytest
import torch
from session_files import TRAIN, write_split
from session_models import build

from recbole_diffusion import run
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


def test_sknn_runs_and_finds_the_group(tmp_path):
    folder = write_sequences(group_sequences(), tmp_path, "cycle")
    settings = make_config("SKNN", folder, mask_history=True, n_neighbors=20).external_config_dict
    assert run("SKNN", "cycle", config_dict=settings)["test_result"]["hit@1"] == 1.0
