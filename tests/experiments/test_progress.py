"""The order of the cells of a comparison and the estimate of the time that they take."""

from types import SimpleNamespace

import numpy as np
import pytest
from made_up_runs import call

from recbole_diffusion.errors import UsageError
from recbole_diffusion.experiments.progress import Costs, Progress, format_duration


def cell(row, dataset="beauty", model="SASRec", seed=2020):
    return SimpleNamespace(row=row, dataset=dataset, model=model, seed=seed, describe=lambda: {"row": row, "model": model, "dataset": dataset})


def result(row, seconds, dataset="beauty", model="SASRec", interactions=None):
    counts = {"dataset_counts": {"interactions": interactions}} if interactions else {}
    return {"row": row, "dataset": dataset, "model": model, "seconds": {"training": seconds}, **counts}


def test_a_row_costs_what_it_cost_then_what_it_costs_elsewhere_then_what_its_model_costs():
    costs = Costs([result("a", 100), result("a", 300), result("b", 60, dataset="mine", interactions=1000)])
    assert costs.expected(cell("a")) == 200
    beauty, toys = costs.sizes["beauty"], costs.sizes["toys"]
    assert costs.expected(cell("a", "toys")) == pytest.approx(200 * toys / beauty)
    assert costs.expected(cell("b", "toys")) == pytest.approx(60 * toys / 1000)
    assert costs.expected(cell("new", "toys", "DuoRec")) == pytest.approx(costs.pace() * costs.models["DuoRec"] * toys / 1e5)
    assert costs.expected(cell("new", "beauty", "Nobody")) == pytest.approx(costs.pace() * costs.usual * beauty / 1e5)


def test_rows_of_seconds_say_little_of_the_speed():
    costs = Costs([result("counter", 10 * Costs().prior("Successors", "beauty"), model="Successors"), result("a", 2 * Costs().prior("SASRec", "beauty"))])
    assert 2 <= costs.pace() < 3.2  # the counter alone: ten times slower


def test_what_failed_or_was_never_timed_says_nothing():
    costs = Costs([{"row": "a", "dataset": "beauty", "model": "SASRec", "error": "it failed"}])
    assert costs.pace() is None and costs.expected(cell("a")) == costs.prior("SASRec", "beauty")


def test_cheap_cells_come_first_only_if_asked_for():
    cells = [cell("slow", model="DuoRec"), cell("counter", model="Successors"), cell("big", "yelp", "SASRec"), cell("small", "toys", "SASRec")]
    assert Progress(cells, [], 1).cells == cells
    assert [one.row for one in Progress(cells, [], 1, "cost").cells] == ["counter", "small", "big", "slow"]


@pytest.mark.parametrize("order, median, share", [("given", 1 / 6, 0.9), ("cost", 1 / 4, 0.8)])
def test_after_ten_cells_the_estimate_is_within_a_third(order, median, share):
    """Tables of 240 cells on machines of other speeds, whose rows take by chance half or twice what the table of costs says."""
    names = ("SASRec", "SimDiffRec", "CL4SRec", "DuoRec", "MCLRec", "ECLSR", "CaDiRec", "DreamRec", "BERT4Rec", "STOSA", "VSAN", "MFGAN",
             "DiffuRec", "DiQDiff", "PreferDiff", "Successors")  # fmt: skip
    wrong = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        speed, own = np.exp(rng.normal(0, 1)), {name: np.exp(rng.normal(0, 0.3)) for name in names}
        cells = [cell(name, dataset, name, seed) for dataset in ("beauty", "toys", "sports", "yelp", "ml-1m") for name in names
                 for seed in range(3)]  # fmt: skip
        progress = Progress(cells, [], 1, order)
        table = Costs()
        truth = {id(one): speed * own[one.model] * table.prior(one.model, one.dataset) * np.exp(rng.normal(0, 0.15)) for one in cells}
        for one in list(progress.cells)[:10]:
            progress.add(one, result(one.row, truth[id(one)], one.dataset, one.model))
        left = sum(truth[id(one)] for one in progress.left)
        wrong.append(abs(progress.seconds_left() / left - 1))
    assert np.median(wrong) < median and np.mean(np.array(wrong) < 1 / 3) >= share


def test_jobs_share_what_is_left_but_not_one_cell():
    progress = Progress([cell("a"), cell("b")], [result("a", 100), result("b", 300)], 4)
    assert progress.seconds_left() == 300
    assert Progress([cell("a")] * 8, [result("a", 100)], 4).seconds_left() == 200


def test_durations():
    assert [format_duration(s) for s in (40.4, 700, 11100)] == ["40 s", "12 min", "3 h 05 min"]


def test_the_command_fills_cheap_cells_first(runner):
    words = ["--models=DuoRec,Successors", "--datasets=ml-100k,toy", "--seeds=1", "--allow_unknown_keys=True"]
    assert call(*words, "--order=cost") == 0
    assert [model for model, _, _ in runner.calls][-1] == "DuoRec" and runner.calls[0][0] == "Successors"


def test_an_unknown_order_is_refused(runner):
    with pytest.raises(UsageError, match="--order must be given or cost"):
        call("--models=SASRec", "--order=price")
    assert not runner.calls
