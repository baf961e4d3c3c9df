"""What arrays do is what RecBole's loops do: k-core, numbering and orders, on random data."""

import numpy as np
import pandas as pd
import pytest
from recbole.data.dataset import Dataset
from recbole.utils import FeatureType

from recbole_diffusion.data import orders
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.filters import ExactFilters
from recbole_diffusion.data.loaders import build_loaders, samplers_of
from recbole_diffusion.data.numbering import ArrayNumbering
from recbole_diffusion.data.orders import grouped_order, stable_order
from recbole_diffusion.testing import make_config, write_sequences

INTERVALS = [None, "[2,inf)", "[3,inf)", "(1,6]", "[1,2];[4,inf)", "[4,inf);[1,2]", "[0,5)", "(9,1)", "nonsense"]


class Slow(Dataset):
    """As much of a data set as the filters and the numbering look at."""

    uid_field, iid_field = "user_id", "item_id"

    def __init__(self, frames, config):
        self.inter_feat, self.user_feat, self.item_feat = frames
        self.config, self.logger = config, self
        self.field2id_token, self.field2token_id = {}, {}

    def debug(self, *_):
        """Of the logger."""

    warning = debug

    def __len__(self):
        return len(self.inter_feat)


class Fast(ExactFilters, ArrayNumbering, Slow):
    pass


def frames(seed, categories):
    """Interactions and, by chance, files of users and items with names that have none."""
    random = np.random.default_rng(seed)
    rows = int(random.integers(1, 120))
    draw = lambda letter: np.array([f"{letter}{n}" for n in random.zipf(1.6, rows) % 14], dtype=object)  # noqa: E731
    inter = pd.DataFrame({"user_id": draw("u"), "item_id": draw("i"), "row": np.arange(rows)})
    files = [
        pd.DataFrame({field: random.permutation([f"{field[0]}{n}" for n in range(18)])[: random.integers(1, 18)].astype(object)})
        if random.random() < 0.5 else None
        for field in ("user_id", "item_id")
    ]  # fmt: skip
    if categories:
        for field in ("user_id", "item_id"):
            names = random.permutation([f"{field[0]}{n}" for n in range(20)])  # in no order, and some for nobody
            inter[field] = pd.Categorical(inter[field], categories=list(names))
    return inter, *files


@pytest.mark.parametrize("categories", [False, True])
@pytest.mark.parametrize("users", INTERVALS)
@pytest.mark.parametrize("items", INTERVALS)
def test_the_k_core_is_recboles(users, items, categories):
    for seed in range(6):
        config = {"user_inter_num_interval": users, "item_inter_num_interval": items}
        slow, fast = Slow(frames(seed, False), config), Fast(frames(seed, categories), config)
        for data in (slow, fast):
            data._filter_by_inter_num()
        assert fast.inter_feat["row"].tolist() == slow.inter_feat["row"].tolist()
        for name in ("user_feat", "item_feat"):
            ours, theirs = getattr(fast, name), getattr(slow, name)
            assert (ours is None) == (theirs is None)
            assert ours is None or ours.to_numpy().tolist() == theirs.to_numpy().tolist()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("categories", [False, True])
def test_numbers_of_tokens_are_recboles(seed, categories):
    random = np.random.default_rng(seed)
    columns = [(0, "item_id", FeatureType.TOKEN), (1, "item_id", FeatureType.TOKEN), (0, "list", FeatureType.TOKEN_SEQ), (0, "user_id", FeatureType.TOKEN)]
    columns = [columns[n] for n in random.permutation(4)[: random.integers(1, 5)]]
    found = []
    for kind, with_categories in ((Slow, False), (Fast, categories)):
        inter, _, _ = frames(seed, with_categories)
        lists = np.random.default_rng(seed).integers(0, 30, (len(inter), 3))
        inter["list"] = pd.Series([np.array([f"i{n}" for n in row]) for row in lists])
        inter.loc[inter.index % 7 == 3, "item_id"] = np.nan
        both = (inter, pd.DataFrame({"item_id": [f"i{n}" for n in range(25)]}))
        data = kind((inter, None, None), {})
        data._remap([(both[frame], field, ftype) for frame, field, ftype in columns])
        found.append((data, both))
    (slow, theirs), (fast, ours) = found
    for frame, field, _ in columns:
        assert fast.field2id_token[field].tolist() == slow.field2id_token[field].tolist()
        assert fast.field2id_token[field].dtype == slow.field2id_token[field].dtype
        assert fast.field2token_id[field] == slow.field2token_id[field]
        assert [np.asarray(x).tolist() for x in ours[frame][field]] == [np.asarray(x).tolist() for x in theirs[frame][field]]
        assert ours[frame][field].dtype == theirs[frame][field].dtype


@pytest.mark.parametrize("seed", range(20))
def test_orders_are_numpys_stable_ones(seed, monkeypatch):
    monkeypatch.setattr(orders, "PIECE", 1 + 50 * seed)
    random = np.random.default_rng(seed)
    n = int(random.integers(0, 3000))
    whole = random.integers(0, random.integers(1, 2 * n + 2), n)
    for values in (whole, whole.astype(float), whole / 7 - 3, random.random(n), np.where(whole % 5 == 0, np.nan, whole)):
        assert stable_order(values).tolist() == np.argsort(values, kind="stable").tolist()
    assert grouped_order(whole).tolist() == np.argsort(whole, kind="stable").tolist()
    assert grouped_order(whole.astype(np.int32)).tolist() == grouped_order(whole).tolist()


@pytest.mark.parametrize("mode, sampled", [("full", False), ("uni5", True)])
def test_loaders_hold_no_list_of_all_rows_and_no_set_for_every_user(tmp_path, mode, sampled):
    folder = write_sequences([[(user + step) % 15 + 1 for step in range(4 + user % 5)] for user in range(30)], tmp_path, "cycle")
    config = make_config("SASRec", folder, eval_args={"mode": {"valid": mode, "test": mode}})
    data = create_dataset(config)
    parts = data.build()
    assert (samplers_of(config, data, parts)[1] is not None) == sampled
    for loader in build_loaders(config, data, parts)[: 1 if sampled else 3]:
        assert vars(loader)["dataset"] == range(loader.sample_size)  # loader.dataset is the data set
        assert sum(len(batch[0] if isinstance(batch, tuple) else batch) for batch in loader) == loader.sample_size
