"""Values of NumPy: as good as Python's where they come in, and never shown as ``np.float64(0.5)``."""

import numpy as np
import pandas as pd
import pytest

from recbole_diffusion.errors import UsageError
from recbole_diffusion.prepare.data_frames import with_frame_stored
from recbole_diffusion.serving.recommender import Recommender
from recbole_diffusion.settings.config import DiffusionConfig


class Model:
    ITEM_SEQ, ITEM_SEQ_LEN = "items", "lengths"

    def eval(self):
        return self


@pytest.fixture
def recommender():
    class Config(dict):
        is_plugin_model = True

    return Recommender(Config(MAX_ITEM_LIST_LENGTH=5), Model(), ["[PAD]", np.str_("a"), np.str_("b")])


def frame(**changed):
    rows = {"user_id": ["u", "u", "v"], "item_id": ["a", "b", "a"], "timestamp": [1, 2, 3]}
    return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in {**rows, **changed}.items()})


def test_settings_of_numpy_count_as_those_of_python():
    given = {
        "epochs": np.int64(3),
        "learning_rate": np.float64(0.1),
        "topk": np.array([5, 10]),
        "mask_history": np.True_,
    }
    config = DiffusionConfig("SimDiffRec", "toy", config_dict=given)
    assert [config["epochs"], config["topk"], config["mask_history"]] == [3, [5, 10], True]
    assert type(config["epochs"]) is int and type(config["learning_rate"]) is float


@pytest.mark.parametrize(
    "given, said",
    [
        ({"topk": [np.int64(0)]}, "got [0]"),
        ({"learning_rate": np.float32(-0.5)}, "got -0.5"),
        ({"k_noise": np.str_("many")}, "got str 'many'"),
        ({"clip_grad_norm": {"max_norm": np.float64(-1)}}, "got {'max_norm': -1.0}"),
    ],
)
def test_wrong_settings(given, said):
    with pytest.raises(UsageError) as error:
        DiffusionConfig("SimDiffRec", "toy", config_dict=given)
    message = str(error.value)
    assert said in message and "np." not in message


@pytest.mark.parametrize(
    "histories, said",
    [
        ([["a", np.float64(1.5)]], "got 1.5"),
        ([np.float64(2)], "got 2.0"),
        ([["a", [np.str_("b")]]], "got ['b']"),
        (np.float64(3), "got 3.0"),
    ],
)
def test_wrong_histories(recommender, histories, said):
    with pytest.raises(UsageError) as error:
        recommender.recommend(histories, k=1)
    assert said in str(error.value) and "np." not in str(error.value)


def test_unknown_items(recommender):
    with pytest.raises(UsageError, match="unknown item 'c'"):
        recommender.recommend(np.array([["c"]]), k=1, unknown="error")


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"item_id": ["a", np.str_('b"'), "c"]}, "'b\"'"),
        ({"timestamp": [np.float64(1), np.str_("soon"), np.float64(3)]}, "soon"),
    ],
)
def test_wrong_cells_of_a_frame(changed, said):
    with pytest.raises(UsageError) as error:
        with_frame_stored(frame(**changed), {})
    assert said in str(error.value) and "np." not in str(error.value)
