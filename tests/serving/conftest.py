"""Checkpoints of small models, each trained once in a session, and a recommender."""

import shutil

import pytest
from small_recommenders import MODELS, SMALL

from recbole_diffusion import run
from recbole_diffusion.serving.recommender import Recommender
from recbole_diffusion.testing import cycle_sequences, write_features, write_sequences


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Function: model -> checkpoint, trained once; its data set is gone."""
    made = {}

    def train(model):
        if model not in made:
            folder = tmp_path_factory.mktemp(model)
            write_sequences(cycle_sequences(min_length=5), folder, "cycle")
            if model == "DiffSBR":
                write_features(folder, width=SMALL["hidden_size"])
            where = {"data_path": str(folder), "checkpoint_dir": f"{folder}/saved"}
            made[model] = run(model, "cycle", config_dict={**SMALL, **MODELS.get(model, {}), **where})["checkpoint"]
            shutil.move(folder / "cycle", folder / "moved")
        return made[model]

    return train


@pytest.fixture
def recommender(checkpoint):
    """Of SimDiffRec, read anew for every test."""
    return Recommender.load(checkpoint("SimDiffRec"))
