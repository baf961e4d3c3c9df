"""The list of what models can is true: networks of all of them are built from a checkpoint alone, untrained."""

import numpy as np
import pytest

from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.errors import UsageError
from recbole_diffusion.serving import export, recommender
from recbole_diffusion.settings import abilities
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.settings.registry import UNSUPPORTED, recbole_models
from recbole_diffusion.testing import write_sequences
from recbole_diffusion.training.networks import build_model

GRAPHS = ("GRU4RecKG", "KSR")  # of knowledge, which no small data set has
ABLE = {one.name: one for one in abilities.abilities() if one.name not in (*UNSUPPORTED, *GRAPHS)}
SMALL = {
    "MAX_ITEM_LIST_LENGTH": 10,
    "train_batch_size": 16,
    "topk": [5],
    "valid_metric": "MRR@5",
    "allow_unknown_keys": True,
}


def build(name, folder):
    """A model that was never trained: (config, network, checkpoint without a file)."""
    random = np.random.default_rng(0)
    sequences = [random.integers(1, 130, size=random.integers(5, 9)).tolist() for _ in range(60)]
    write_sequences(sequences, folder, "many")
    rows = "".join(f"i{i}\tc{i % 3} c{i % 5}\n" for i in range(1, 130))
    (folder / "many" / "many.item").write_text("item_id:token\tclass:token_seq\n" + rows)
    settings = {**SMALL, "data_path": str(folder)}
    if ABLE[name].features == "columns of items":
        columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "class"]}
        settings.update(load_col=columns, selected_features=["class"])
    config = DiffusionConfig(name, "many", config_dict=settings)
    data = create_dataset(config)
    network = build_model(config, build_loaders(config, data)[0])
    checkpoint = {"state_dict": network.state_dict(), "other_parameter": network.other_parameter(),
                  "item_tokens": [str(token) for token in data.field2id_token[data.iid_field]]}  # fmt: skip
    return config, network, checkpoint


@pytest.mark.parametrize("name", ABLE)
def test_models_recommend_as_listed(name, tmp_path):
    config, network, checkpoint = build(name, tmp_path)
    try:
        restored = recommender._restored_network(config, checkpoint, "a file")
        ranked = recommender.Recommender(config, restored, checkpoint["item_tokens"]).recommend([["i3", "i4"]], k=5)
        found = "yes" if len(ranked[0]) == 5 else "no"
    except UsageError as error:
        assert ("learns something for every user" in str(error)) == (name in abilities.LEARN_USERS)
        found = "no"
    assert ABLE[name].recommend == found


def test_what_is_listed_exists():
    known = {*recbole_models(), *ABLE}
    assert {*abilities.LEARN_USERS, *abilities.READ_MORE, *abilities.NEEDS, *abilities.TAKES} <= known
    assert set(abilities.EXPORTABLE) == set(export.EXPORTABLE)
