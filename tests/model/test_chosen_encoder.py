"""SimDiffRec with another encoder from training to recommending."""

import numpy as np
import pytest
import torch
from models import training_settings

from recbole_diffusion import load_data_and_model, run
from recbole_diffusion.layers.positioned import PositionedTransformer
from recbole_diffusion.serving.recommender import Recommender
from recbole_diffusion.testing import make_config

pytestmark = pytest.mark.parametrize("encoder", ["ligr", "hstu"])


@pytest.fixture
def train(trained_data):
    def train(encoder, **more):
        more = {"encoder": encoder, "checkpoint_dir": "saved", **more}
        settings = training_settings("SimDiffRec", trained_data("SimDiffRec"), **more)
        return run("SimDiffRec", "cycle", config_dict=settings)

    return train


def test_a_stopped_training_goes_on_to_the_same_weights(train, encoder):
    whole = train(encoder, checkpoint_dir="whole")
    train(encoder, epochs=2)
    resumed = train(encoder, resume=True)
    assert resumed["test_result"] == whole["test_result"]
    one, other = (torch.load(result["checkpoint"])["state_dict"] for result in (resumed, whole))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_checkpoint_recommends_what_its_model_scores(train, trained_data, encoder):
    path = train(encoder, epochs=1)["checkpoint"]
    _, network, data, _, _, test = load_data_and_model(path, data_path=str(trained_data("SimDiffRec")))
    batch = next(iter(test))[0]
    with torch.no_grad():
        scores = network.full_sort_predict(batch)[:, 1:]
    rows = zip(batch["item_id_list"], batch["item_length"])
    histories = [data.id2token("item_id", row[:length]).tolist() for row, length in rows]
    found = Recommender.load(path).recommend(histories, k=3)
    expected = scores.topk(3).values.numpy()
    assert np.array([[score for _, score in row] for row in found]) == pytest.approx(expected, abs=1e-5)


def test_mixed_precision_has_the_losses_of_full_precision(train, encoder):
    dropouts = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "epochs": 2}
    half = train(encoder, checkpoint_dir="half", enable_amp=True, amp_type="bf16", **dropouts)["history"]["loss"]
    full = train(encoder, **dropouts)["history"]["loss"]
    assert half.keys() == full.keys() and half != full
    for part in full:
        assert half[part] == pytest.approx(full[part], rel=0.05)


def test_the_denoiser_is_the_papers_unless_it_is_shared(encoder):
    class Data:
        def num(self, field):
            return 20

    kinds = []
    for share in (False, True):
        config = make_config("SimDiffRec", "unused", encoder=encoder, share_denoiser=share, k_noise=3, k_sample=2)
        model = config.model_class(config, Data())
        kinds.append(type(model.denoiser.transformer).__name__)
        assert isinstance(model.denoiser, PositionedTransformer)
        assert (model.denoiser.transformer is model.recommender.transformer) is share
    assert kinds == ["PackedTransformer", {"ligr": "LiGR", "hstu": "HSTU"}[encoder]]
