"""What the pictures of checkpoints rest on, against values worked out by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.reports import probe
from recbole_diffusion.testing import make_config, write_sequences


def test_groups_of_length_by_hand():
    lengths = np.array([1, 1, 1, 1, 2, 3, 4, 5, 6, 9])
    edges = probe.length_edges(lengths, 5)
    assert edges.tolist() == [1, 3, 5, 9]
    groups = probe.by_length(SimpleNamespace(lengths=lengths), edges)
    assert {name: int(inside.sum()) for name, inside in groups.items()} == {"1": 4, "2–3": 2, "4–5": 2, "6–9": 2}


def test_head_items_come_from_the_training_part(tmp_path):
    from recbole_diffusion.data.loaders import build_loaders

    # Item 1 is frequent in training; item 9 stands only at the ends, which are held out.
    sequences = [[1, 2, 1, 3, 1, 9, 9]] * 4 + [[1, 4, 5, 6, 7, 9, 9]] * 4
    config = make_config("SimDiffRec", write_sequences(sequences, tmp_path, "cycle"))
    data = create_dataset(config)
    train = build_loaders(config, data)[0]._dataset
    head = probe.head_items(train)
    tokens = data.field2id_token[data.iid_field]
    assert head.sum() == 2 and not head[0]  # a fifth of eight items, rounded up
    assert "i1" in tokens[head] and "i9" not in tokens[head]


def test_intervals_by_hand():
    # Wilson, 9 of 10, z = 1.96: centre (.9 + .19208) / 1.38416 = .78898, half sqrt(.009 + .009604) * 1.96 / 1.38416
    # = .19314.
    assert probe.interval(np.array([1.0] * 9 + [0])) == pytest.approx((0.59585, 0.98212), abs=1e-4)
    assert probe.interval(np.ones(4))[1] == 1 and 0.4 < probe.interval(np.ones(4))[0] < 0.6
    assert probe.interval(np.zeros(4))[0] == 0
    # Normal: mean .5, deviation .5, so .5 -+ 1.96 * .5 / sqrt 3 = -.066 to 1.066, which is cut.
    assert probe.interval(np.array([0.0, 0.5, 1.0])) == (0, 1)
    low, high = probe.interval(np.array([0.4, 0.5, 0.6] * 3))
    assert (low + high) / 2 == pytest.approx(0.5) and high - low == pytest.approx(2 * 1.96 * 0.0866025 / 3)


def test_as_many_users_as_asked_for(tmp_path, capsys):
    sequences = [[10 * user + i for i in range(6)] for user in range(12)]
    data = create_dataset(make_config("SimDiffRec", write_sequences(sequences, tmp_path, "cycle")))
    part = data.build()[2]
    for users in (1, 9, 12):
        owner = probe.items_of_users(data, part, users, seed=3)
        assert len(set(owner.values())) == users and len(owner) == 5 * users  # the last item is the target
    assert not capsys.readouterr().out
    assert len(set(probe.items_of_users(data, part, 13, seed=3).values())) == 12
    assert "12 of 13 users: no others have 2 items" in capsys.readouterr().out


def test_a_silhouette_by_hand():
    # Two points each at 0 and 90 degrees: within a group the distance is 0, between them sqrt 2, so the score is 1.
    vectors = probe.unit(np.array([[1.0, 0], [2, 0], [0, 1], [0, 3], [1, 1]]))
    cloud = probe.make_cloud(vectors, list("abcde"), ["x", "x", "y", "y", ""])
    assert cloud.note == "silhouette 1.00"
