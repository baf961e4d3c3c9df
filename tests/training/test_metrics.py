"""RecBole's metrics besides the usual three: each is what it says, whatever else is measured."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_diffusion import load_data_and_model, run
from recbole_diffusion.cli import main
from recbole_diffusion.data import loaders
from recbole_diffusion.errors import UsageError
from recbole_diffusion.testing import cycle_sequences, make_config, write_sequences
from recbole_diffusion.training.collector import OneTargetCollector, mean_ranks, ranks_of_hits
from recbole_diffusion.training.evaluation import plain_metrics
from recbole_diffusion.training.result import format_result

SMALL = {"topk": [3, 5], "valid_metric": "MRR@5", "show_progress": False, "epochs": 1, "MAX_ITEM_LIST_LENGTH": 10}
SMALL.update(use_gpu=False, metric_decimal_place=7)
NETWORK = {"hidden_size": 8, "inner_size": 16}
OTHERS = ["AveragePopularity", "TailPercentage", "ItemCoverage", "GiniIndex", "ShannonEntropy", "GAUC", "Precision", "MAP"]
USUAL = ["Hit", "NDCG", "MRR", "Recall"]


@pytest.mark.parametrize("length", [5, 40_000])
def test_no_rank_is_too_large_for_its_type(length):
    hits = torch.zeros(2, length, dtype=torch.int)
    hits[1, -1] = 1
    assert ranks_of_hits(hits).tolist() == [0, length]


@pytest.fixture
def given(tmp_path):
    return {**SMALL, "data_path": write_sequences(cycle_sequences(), tmp_path, "cycle"), "checkpoint_dir": str(tmp_path / "s")}


def scores_of(result, masked):
    """[40, V] scores of the test part without padding and, if masked, without the user's items; and the targets."""
    _, model, _, _, _, test = load_data_and_model(result["checkpoint"])
    test.mask_history = masked
    (batch, seen, _, targets), *rest = list(test)
    assert not rest
    scores = model.full_sort_predict(batch).clone()
    scores[:, 0] = -torch.inf
    if masked:
        scores[seen] = -torch.inf
    return scores, targets


@pytest.mark.parametrize("model, view", [("SimDiffRec", "sequence"), ("SimDiffRec", "prefix"), ("SASRec", "prefix")])
def test_popularity_is_that_of_the_training_interactions(given, model, view):
    own = {**NETWORK, **({"k_noise": 3, "k_sample": 2} if model == "SimDiffRec" else {}), "train_view": view}
    metrics = ["MRR", "AveragePopularity", "TailPercentage"]
    result = run(model, "cycle", config_dict={**given, **own, "metrics": metrics, "tail_ratio": 0.25})
    counts = Counter(f"i{item}" for sequence in cycle_sequences() for item in sequence[:-2])
    tokens = load_data_and_model(result["checkpoint"])[2].field2id_token["item_id"]
    rare = sorted((counts[token], number) for number, token in enumerate(tokens) if counts[token])
    tail = {number for _, number in rare[: len(rare) // 4]}
    for masked, found in ((False, result["test_result_unmasked"]), (True, result["test_result_masked"])):
        top = scores_of(result, masked)[0].topk(5).indices.numpy()
        for k in (3, 5):
            listed = top[:, :k]
            mean = np.mean([counts[tokens[item]] for item in listed.ravel()])
            assert found[f"averagepopularity@{k}"] == pytest.approx(mean, abs=1e-6)
            assert found[f"tailpercentage@{k}"] == pytest.approx(np.isin(listed, list(tail)).mean(), abs=1e-6)


def test_no_metric_changes_another(given):
    """Every metric alone, and all at once: the same values, under both protocols."""
    together = run("SASRec", "cycle", config_dict={**given, **NETWORK, "metrics": USUAL + OTHERS})
    for metric in USUAL + OTHERS:
        valid = "GAUC" if metric == "GAUC" else f"{metric}@5"
        alone = run("SASRec", "cycle", config_dict={**given, **NETWORK, "metrics": [metric], "valid_metric": valid})
        for part in ("best_valid_result", "test_result_unmasked", "test_result_masked"):
            assert alone[part] == {name: together[part][name] for name in alone[part]} != {}


def test_gauc_is_the_share_of_other_items_below_the_target(given):
    result = run("SASRec", "cycle", config_dict={**given, **NETWORK, "metrics": ["GAUC"], "valid_metric": "GAUC"})
    assert result["best_valid_result"].keys() == {"gauc"}
    for masked, found in ((False, result["test_result_unmasked"]), (True, result["test_result_masked"])):
        scores, targets = scores_of(result, masked)
        shares = []
        for row, target in zip(scores, targets):
            others = torch.cat([row[1:target], row[target + 1 :]])
            others = others[others > -torch.inf]
            if not len(others) and row[target] > -torch.inf:
                continue  # the only item that is left says nothing
            shares.append(0.0 if row[target] == -torch.inf else float((others < row[target]).float().mean()))
        assert found["gauc"] == pytest.approx(np.mean(shares), abs=1e-5)


def test_ranks_of_removed_and_equal_targets():
    scores = torch.tensor([[3.0, 1, 2, 1, -torch.inf], [3, 1, 2, 1, -torch.inf], [-torch.inf, -torch.inf, 1, -torch.inf, 2]])
    scores = torch.cat([scores, torch.full((2, 5), -torch.inf)])
    scores[4, 2] = 0.5
    found = mean_ranks(scores, torch.tensor([1, 4, 2, 2, 2]))
    # Two share places 3 and 4; removed, behind all four; second of two; removed from nothing; alone.
    assert found.tolist() == [[3.5, 4, 1], [5, 5, 1], [2, 2, 1], [2, 2, 1], [1, 1, 1]]


def test_a_removed_target_is_no_hit_of_any_metric_and_ranks_are_written(tmp_path):
    """Every item of every user is removed."""
    folder = write_sequences([[1, 2, 3, 4, 5, 1]] * 6, tmp_path, "cycle")
    words = {**SMALL, **NETWORK, "data_path": folder, "metrics": [*USUAL, "GAUC", "MAP", "Precision"]}
    words.update(ranks_file="ranks.npz", result_file="r.json")
    result = run("SASRec", "cycle", config_dict=words)
    assert set(result["test_result_masked"].values()) == {0.0} and result["test_result_unmasked"]["hit@5"] == 1
    with np.load("ranks.npz") as ranks:
        assert not ranks["masked"].any() and ranks["unmasked"].all() and len(ranks["user"]) == 6
    for text in (Path("r.json").read_text(), json.dumps(result)):
        assert "NaN" not in text and "Infinity" not in text


@pytest.mark.parametrize("mode, split", [("uni4", {"LS": "valid_and_test"}), ("pop4", {"RS": [0.6, 0.2, 0.2]})])
def test_ranks_are_written_whatever_is_measured(given, mode, split):
    """Sampled ranking too, where a user may have several targets."""
    words = {**given, "metrics": ["ItemCoverage"], "valid_metric": "ItemCoverage@3", "ranks_file": "ranks.npz"}
    run("SKNN", "cycle", config_dict={**words, "eval_args": {"mode": mode, "split": split}})
    with np.load("ranks.npz") as ranks:
        assert len(ranks["user"]) == len(ranks["unmasked"]) >= 40 and ranks["unmasked"].max() <= 5
        assert (np.bincount(ranks["user"]).max() > 1) == ("RS" in split) and ranks["unmasked"].any()


def test_ranks_of_several_targets_of_a_user():
    config = make_config("SKNN", "nowhere", metrics=["Hit"], topk=[2], valid_metric="Hit@2")
    collector = OneTargetCollector(config)
    collector.ranks = []
    scores = torch.tensor([[-torch.inf, 1.0, 3.0, 2.0], [-torch.inf, 3.0, 1.0, 2.0]])
    collector.eval_batch_collect(scores, None, torch.tensor([0, 0, 1]), torch.tensor([3, 1, 1]))
    assert collector.ranks[0].tolist() == [2, 0, 1]
    assert collector.get_data_struct().get("rec.topk").tolist() == [[0, 1, 2], [1, 0, 1]]


def test_no_value_is_null(capsys):
    assert plain_metrics({"gauc": float("nan"), "hit@5": np.float64(0.5)}) == {"gauc": None, "hit@5": 0.5}
    assert plain_metrics(None) == {} and plain_metrics({"gauc": None}) == {"gauc": None}
    shown = {"model": "A", "dataset": "b", "best_epoch": 0, "epochs": 1, "seed": 1, "mask_history": False}
    shown.update(test_result_unmasked={"gauc": None}, test_result_masked={"gauc": 0.5}, leaks_test_labels=False, settings={})
    assert "no value            0.5000" in format_result(shown)


def test_tables_of_compare_hold_metrics_without_a_cutoff(given, tmp_path):
    words = [f"--{key}={value}" for key, value in {**given, "metrics": "[GAUC,Hit]", "valid_metric": "GAUC"}.items()]
    out = ["--datasets=cycle", "--seeds=2", f"--out={tmp_path}/runs", "--show=GAUC,HR@5"]
    assert main(["compare", "--models=SKNN,SASRec", *out, *words]) == 0
    page = (tmp_path / "runs" / "cycle.md").read_text()
    assert "GAUC" in page and "GAUC@" not in page and "HR@5" in page and "nan" not in page.lower()


def test_an_error_of_recboles_first_batch_is_one_line(given):
    """Its GRU4RecCPR takes the best hundred of all items, of which there are twelve."""
    with pytest.raises(UsageError, match="RecBole's GRU4RecCPR fails in its first batch with these data: selected"):
        run("GRU4RecCPR", "cycle", config_dict=given)
    with pytest.raises(UsageError, match="RecBole's SASRec cannot be built here: "):
        run("SASRec", "cycle", config_dict={**given, "n_layers": 1.5})


@pytest.mark.parametrize("model", ["SimDiffRec", "SASRec"])
def test_a_large_catalogue_is_scored_few_rows_at_a_time(given, model, monkeypatch):
    own = {**NETWORK, **({"k_noise": 3, "k_sample": 2} if model == "SimDiffRec" else {}), "metrics": [*USUAL, "GAUC"]}
    whole = run(model, "cycle", config_dict={**given, **own})
    monkeypatch.setattr(loaders, "MOST_SCORES", 50)  # of 13 items and more
    few = run(model, "cycle", config_dict={**given, **own})
    assert max(len(batch[0]) for batch in load_data_and_model(few["checkpoint"])[5]) < 4
    for part in ("best_valid_result", "test_result_unmasked", "test_result_masked"):
        assert few[part] == whole[part]
