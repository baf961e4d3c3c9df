"""Splits by arrays hold the rows of RecBole's own loops, on random data."""

import numpy as np
import pytest
import torch
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction

from recbole_diffusion.data.splits import ArraySplits, rows_of


class Fast(ArraySplits, Dataset):
    """As much of a data set as a split looks at."""

    uid_field, time_field = "user", "time"

    def __init__(self, feat):
        self.inter_feat, self.config, self.logger = feat, {"unused_col": None}, self

    def debug(self, *_):
        """Of the logger."""

    def __len__(self):
        return len(self.inter_feat)


class Slow(Dataset):
    __init__, __len__, debug, uid_field, time_field = Fast.__init__, Fast.__len__, Fast.debug, "user", "time"


def data(seed, rows=300, users=60):
    random = np.random.default_rng(seed)
    user = torch.from_numpy(random.zipf(1.5, rows) % users)
    time = torch.from_numpy(np.sort(random.integers(0, 200, rows)).astype(float))
    return Interaction({"user": user, "time": time, "row": torch.arange(rows)})


def rows(parts):
    """Row numbers of every part by user, users in the order of their numbers."""
    sorted_ = []
    for part in parts:
        feat = part.inter_feat
        order = feat["user"].argsort(stable=True) if len(feat) else torch.zeros(0, dtype=torch.long)
        sorted_.append(feat["row"][order].tolist())
    return sorted_


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "split",
    [
        lambda d: d.leave_one_out("user", "valid_and_test"),
        lambda d: d.leave_one_out("user", "valid_only"),
        lambda d: d.leave_one_out("user", "test_only"),
        lambda d: d.split_by_ratio([0.8, 0.1, 0.1], "user"),
        lambda d: d.split_by_ratio([3, 1], "user"),
        lambda d: d.split_by_ratio([0.5, 0.3, 0.1, 0.1], "user"),
        lambda d: d.split_by_ratio([0.8, 0.1, 0.1]),
        lambda d: d.time_based_split([0.8, 0.1, 0.1], "user"),
        lambda d: d.time_based_split([0.5, 0.2, 0.3], "user"),
    ],
)
def test_parts_hold_the_rows_of_recboles(split, seed):
    fast, slow = split(Fast(data(seed))), split(Slow(data(seed)))
    assert [len(part) for part in fast] == [len(part) for part in slow]
    assert rows(fast) == rows(slow)


def test_small_groups_keep_a_row_for_training():
    feat = Interaction({"user": torch.tensor([5, 3, 3, 5, 9]), "time": torch.arange(5.0), "row": torch.arange(5)})
    assert rows(Fast(feat).leave_one_out("user", "valid_and_test")) == [[1, 0, 4], [], [2, 3]]
    assert rows(Fast(feat).leave_one_out("user", "valid_only")) == [[1, 0, 4], [2, 3], []]


def test_what_recbole_refuses_is_refused():
    with pytest.raises(ValueError, match="require a group field"):
        Fast(data(0)).leave_one_out(None, "valid_only")
    with pytest.raises(NotImplementedError, match="leave_one_mode"):
        Fast(data(0)).leave_one_out("user", "both")
    with pytest.raises(ValueError, match="requires a group field"):
        Fast(data(0)).time_based_split([0.8, 0.1, 0.1], None)


def test_rows_of_takes_arrays_and_tensors_in_any_order():
    feat = data(1)
    for index in (np.array([5, 3, 3]), torch.tensor([5, 3, 3]), np.arange(300)[::-1][:3], np.zeros(0, dtype=int)):
        assert rows_of(feat, index)["row"].tolist() == list(index)
