"""Files that users have from earlier versions: checkpoints of 0.1.0, written before the package had rooms."""

import json
from pathlib import Path

import pytest

from recbole_diffusion import Recommender, evaluate, load_data_and_model
from recbole_diffusion.testing import cycle_sequences, write_sequences
from recbole_diffusion.training.trainer import trainer_class

KEPT = Path(__file__).parent / "files" / "version-0.1.0"
EXPECTED = json.loads((KEPT / "expected.json").read_text())


@pytest.mark.parametrize("model", EXPECTED)
def test_a_checkpoint_of_version_0_1_0_recommends_what_it_did(model):
    found = Recommender.load(str(KEPT / f"{model}.pth"), device="cpu").recommend([["i1", "i2", "i3"], ["i7"]], k=3)
    for ranking, wanted in zip(found, EXPECTED[model]["lists"]):
        assert [item for item, _ in ranking] == [item for item, _ in wanted]
        assert [score for _, score in ranking] == pytest.approx([score for _, score in wanted], abs=1e-3)


@pytest.mark.parametrize("model", EXPECTED)
def test_a_checkpoint_of_version_0_1_0_has_the_same_test_result(model, tmp_path):
    folder = write_sequences(cycle_sequences(n_users=12), tmp_path, "cycle")
    config, network, _, _, _, test_data = load_data_and_model(str(KEPT / f"{model}.pth"), data_path=folder)
    found = trainer_class(config)(config, network).evaluate(test_data, load_best_model=False)
    assert found == pytest.approx(EXPECTED[model]["test"], abs=1e-4)


@pytest.mark.parametrize("model", EXPECTED)
def test_the_data_of_a_checkpoint_of_version_0_1_0_are_known_again(model, tmp_path):
    folder = write_sequences(cycle_sequences(n_users=12), tmp_path, "cycle")
    found = evaluate(str(KEPT / f"{model}.pth"), data_path=folder, use_gpu=False)  # it compares their fingerprints
    assert found["test_result"] == pytest.approx(EXPECTED[model]["test"], abs=1e-4)


def test_the_old_place_of_the_recommender_leads_to_it():
    from recbole_diffusion.recommend import Recommender as old

    assert old is Recommender
