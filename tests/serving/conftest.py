"""Checkpoints of small models, each trained once in a session, and a recommender."""

import pytest

from recbole_diffusion.serving.recommender import Recommender

LEARNING = {"epochs": 25, "learning_rate": 0.01, "train_batch_size": 32, "MAX_ITEM_LIST_LENGTH": 6, "lr_decay_step": 0}


@pytest.fixture
def checkpoint(trained):
    """Function: model -> checkpoint, trained once; its data set is gone. SimDiffRec has learned the cycle."""
    return lambda model: trained.alone(model, **(LEARNING if model == "SimDiffRec" else {}))


@pytest.fixture
def recommender(checkpoint):
    """Of SimDiffRec, read anew for every test."""
    return Recommender.load(checkpoint("SimDiffRec"))
