"""``trim_padding`` is offered for exactly those RecBole models whose scores do not depend on the padded width."""

import numpy as np
import pytest
import torch

from recbole_diffusion import run
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.settings.registry import TRIMMABLE, UNSUPPORTED, recbole_models
from recbole_diffusion.testing import make_config, write_sequences
from recbole_diffusion.training.networks import build_model


def scores_at_both_widths(name, tmp_path):
    """Scores of the test histories padded to MAX_ITEM_LIST_LENGTH and cut to the longest."""
    random = np.random.default_rng(0)
    sequences = [random.integers(1, 30, size=random.integers(4, 9)).tolist() for _ in range(40)]
    config = make_config(name, write_sequences(sequences, tmp_path, "cycle"), MAX_ITEM_LIST_LENGTH=20)
    loaders = build_loaders(config, create_dataset(config))
    model = build_model(config, loaders[0]).eval()
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # as after training: fresh weights hide differences
    data, found = loaders[2]._dataset, []
    for data.trims in (False, True):
        batch = data[np.arange(len(data))]
        with torch.no_grad():
            found.append((batch["item_id_list"].shape[1], model.full_sort_predict(batch)))
    (wide, padded), (narrow, trimmed) = found
    assert wide == 20 and narrow < 9 and padded.std() > 1e-3
    return padded, trimmed


@pytest.mark.parametrize("name", TRIMMABLE)
def test_listed_models_give_equal_scores(name, tmp_path):
    padded, trimmed = scores_at_both_widths(name, tmp_path)
    torch.testing.assert_close(padded, trimmed, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["NextItNet", "LightSANs", "STAMP"])
def test_unlisted_models_would_not(name, tmp_path):
    padded, trimmed = scores_at_both_widths(name, tmp_path)
    assert not torch.allclose(padded, trimmed, atol=1e-3)


FEATURES = {"FDSA", "GRU4RecF", "SASRecF"}  # these need a field of the items
KNOWLEDGE = {"GRU4RecKG", "KSR"}  # these need a knowledge graph
CATALOGUE = {"GRU4RecCPR", "SASRecCPR"}  # these need a hundred items


@pytest.mark.parametrize("name", sorted(set(recbole_models()) - set(UNSUPPORTED) - KNOWLEDGE - CATALOGUE))
def test_recbole_models_run_through_the_same_command(name, tmp_path):
    random = np.random.default_rng(0)
    sequences = [random.integers(1, 30, size=random.integers(5, 9)).tolist() for _ in range(40)]
    folder = write_sequences(sequences, tmp_path, "cycle")
    settings = {"epochs": 1, "trim_padding": name in TRIMMABLE, "MAX_ITEM_LIST_LENGTH": 20}
    if name in FEATURES:
        rows = "".join(f"i{i}\tc{i % 3} c{i % 5}\n" for i in range(1, 30))
        (tmp_path / "cycle" / "cycle.item").write_text("item_id:token\tclass:token_seq\n" + rows)
        columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "class"]}
        settings.update(load_col=columns, selected_features=["class"])
    config = make_config(name, folder, **settings)
    result = run(name, "cycle", config_dict=config.external_config_dict)
    assert 0 <= result["test_result_unmasked"]["hit@5"] <= 1 and result["epochs"] == 1
    assert result["dataset_counts"] == {"users": 40, "items": 29, "interactions": sum(map(len, sequences))}
    assert torch.load(result["checkpoint"], weights_only=True)["config"]["model"] == name
