"""From kept runs to the page, the CSV file and the pictures, on runs made up for the purpose; and the page of this repository."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml

from recbole_diffusion.atlas.evidence import best_setting, by_setting, gather, is_cut, read_runs
from recbole_diffusion.atlas.pages import format_lacking, format_seeds
from recbole_diffusion.atlas.plan import read_plan
from recbole_diffusion.atlas.summary import (
    below_counter,
    compare_seeds,
    compare_twins,
    cost_of,
    count_words,
    missing,
    timed,
    worth_of_masking,
)
from recbole_diffusion.cli import main
from recbole_diffusion.errors import UsageError
from recbole_diffusion.reports.study import Study
from recbole_diffusion.reports.tables import format_csv

ROOT = Path(__file__).parents[2]


def run_of(row, seed=2020, hit=0.08, ndcg=0.04, valid=0.03, dataset="beauty", masked=1.1, **more):
    test = {"hit@10": hit, "ndcg@10": ndcg}
    settings = {"seed": seed, "stopping_step": 2, "eval_step": 1, "topk": [10], **more.pop("settings", {})}
    return {
        "row": row, "model": row, "dataset": dataset, "seed": seed, "settings": settings, "best_valid_score": valid,
        "test_result_unmasked": test, "test_result_masked": {name: masked * value for name, value in test.items()},
        "history": {"valid": {"hit@10": [0.01, hit * 1.2], "ndcg@10": [0.01, ndcg * 1.2]}},
        "best_epoch": 3, "epochs": 7, "seconds": {"training": 3600.0}, "threads": 1, "leaks_test_labels": False, **more,
    }  # fmt: skip


@pytest.fixture
def keep(tmp_path):
    """Writes runs and the file of an atlas that knows them; returns the file."""
    def write(*runs, ranks=None, **plan):
        cells = tmp_path / "cells"
        cells.mkdir(exist_ok=True)
        for number, run in enumerate(runs):
            (cells / f"{number}.json").write_text(json.dumps(run))
            if ranks:
                users = np.arange(len(ranks[number]), dtype=np.int32)
                np.savez(cells / f"{number}.npz", user=users, item=users, unmasked=ranks[number], masked=ranks[number])
        (tmp_path / "atlas.yaml").write_text(yaml.safe_dump({"kept": ["cells"], **plan}, sort_keys=False))
        return tmp_path / "atlas.yaml"

    return write


def entry(evidence, row, dataset="beauty", table="simdiffrec.table2"):
    return next(e for e in evidence.entries if (e.table, e.dataset, e.row) == (table, dataset, row))


# Which runs count


def test_seeds_of_one_setting_are_one_group_whatever_was_typed():
    runs = [run_of("DuoRec", 2020, place="a", given={"tau": 1}, settings={"tau": 1}), run_of("DuoRec", 2021, place="b", settings={"tau": 1}),
            run_of("DuoRec", 2022, place="a", settings={"tau": 2}), run_of("DuoRec", 2022, place="a", settings={"threads": 4, "tau": 1})]  # fmt: skip
    groups = by_setting(runs)["beauty", "DuoRec"]
    assert [[run["seed"] for run in group] for group in groups] == [[2020, 2021, 2022], [2022]]


def test_most_seeds_count_then_the_validation_part_and_never_the_test_part():
    good_on_test = [run_of("a", hit=0.9, ndcg=0.9, valid=0.01)]
    better = [run_of("a", hit=0.1, ndcg=0.1, valid=0.02)]
    assert best_setting([good_on_test, better]) is better
    two = [run_of("a", 2020, valid=0.001), run_of("a", 2021, valid=0.001)]
    assert best_setting([better, two]) is two
    assert best_setting([]) == []


def test_of_runs_that_differ_in_their_code_the_newest_counts(keep, tmp_path):
    plan = keep(run_of("DuoRec", 2020, hit=0.1), run_of("DuoRec", 2020, hit=0.3), run_of("DuoRec", 2020, hit=0.2), run_of("DuoRec", 2021))
    for number, age in enumerate((50, 10, 30)):
        os.utime(tmp_path / "cells" / f"{number}.json", (1e9 - age, 1e9 - age))
    assert entry(gather(read_plan(plan)), "DuoRec").figures.test["hit@10"] == [0.3, 0.08]


def test_runs_that_see_test_labels_stand_apart(keep):
    plan = read_plan(keep(run_of("SimDiffRec", hit=0.05, ndcg=0.02), run_of("SimDiffRec", hit=0.0931, ndcg=0.0427, leaks_test_labels=True,
                                                                           settings={"graph": "all"})))  # fmt: skip
    found = entry(gather(plan), "SimDiffRec")
    assert found.word == "leaks" and len(found.runs) == 1 and found.figures.test["hit@10"] == [0.05]
    assert found.figures.leaking["hit@10"] == [0.0931]


def test_only_seconds_on_a_cpu_are_a_cost():
    seconds = {"training": 36.0}
    runs = [{"seconds": seconds, "device": "cpu", "threads": 2}, {"seconds": {"training": 4.0}, "device": "cuda"}]
    assert cost_of(runs) == pytest.approx((36, 36 * 2 * 10 / 3.6e6)) and timed(runs) == runs[:1]
    assert cost_of(runs[1:]) is None and cost_of([{"seconds": seconds}])[0] == 36  # kept before devices were


def test_a_training_that_its_epochs_ended_is_marked():
    assert is_cut([run_of("a", best_epoch=6)]) and is_cut([run_of("a", best_epoch=4)])  # two epochs of waiting, the third would end it
    assert not is_cut([run_of("a", best_epoch=3)])
    assert not is_cut([run_of("Successors", best_epoch=0, epochs=1)])
    assert not is_cut([run_of("a", best_epoch=6, settings={"stopping_step": 0})])
    every_second = {"settings": {"eval_step": 2}}  # the third validation without a better one is in the sixth epoch after the best
    assert is_cut([run_of("a", best_epoch=1, **every_second)]) and not is_cut([run_of("a", best_epoch=1, epochs=8, **every_second)])


def test_pages_stand_in_where_no_run_is_left(tmp_path, keep):
    page = tmp_path / "beauty.csv"
    page.write_text("row,dataset,seed,HR@10 not masked,NDCG@10 not masked,HR@10 masked,NDCG@10 masked,epochs,best_epoch,seconds,parameters,error\n"
                    "SimDiffRec,beauty,2020,0.0932,0.0427,0.1,0.05,30,29,100,5,\nSimDiffRec,beauty,2021,0.0930,0.0425,,,30,29,100,5,\n"
                    "SASRec,beauty,2020,,,,,,,,,it failed\n")  # fmt: skip
    runs = read_runs([page])
    assert [run["test_result_unmasked"] for run in runs] == [{"hit@10": 0.0932, "ndcg@10": 0.0427}, {"hit@10": 0.0930, "ndcg@10": 0.0425}]
    assert runs[0]["test_result_masked"] == {"hit@10": 0.1, "ndcg@10": 0.05} and runs[0]["seconds"] == {"training": 100.0}
    plan = read_plan(keep(run_of("SimDiffRec"), kept=["cells", "beauty.csv"]))
    found = entry(gather(plan), "SimDiffRec")
    assert [run["seed"] for run in found.runs] == [2020, 2021] and found.word == "reproduced"


def test_pages_say_which_runs_see_test_labels(tmp_path):
    shown = {"best_epoch": 1, "parameters": 5}
    page = format_csv([run_of("DiffuRec", **shown), run_of("DiffuRec", leaks_test_labels=True, **shown)], Study())
    (tmp_path / "beauty.csv").write_text(page)
    assert [run["leaks_test_labels"] for run in read_runs([tmp_path / "beauty.csv"])] == [False, True]
    assert "leaks" not in format_csv([run_of("DiffuRec", **shown)], Study())


@pytest.mark.parametrize("text", ["a,seed\n1,2020\n", "row,dataset,seed,epochs\na,beauty,first,2\n", "row,dataset,seed,HR@10 masked,epochs\na,b,1,x,2\n"])
def test_a_page_of_something_else_is_one_line(text, tmp_path):
    (tmp_path / "other.csv").write_text(text)
    with pytest.raises(UsageError, match="other.csv' is no CSV page of compare"):
        read_runs([tmp_path / "other.csv"])


def test_runs_without_labels_have_the_names_of_their_models_and_what_is_no_run_is_passed_over(keep):
    run = {key: value for key, value in run_of("DuoRec").items() if key != "row"}
    run["test_result_masked"] = {"hit@10": None, "ndcg@10": 0.05}  # as a metric without a value is kept
    found = entry(gather(read_plan(keep(run, [1], {"test": 1}))), "DuoRec")
    assert len(found.runs) == 1 and found.figures.masked == {"ndcg@10": [0.05]}


# What is computed


def test_entries_summary_and_what_is_missing(keep):
    plan = read_plan(keep(run_of("DuoRec"), run_of("Successors", hit=0.0659, ndcg=0.0427), beyond=["Successors"],
                          settings={"CL4SRec": "DuoRec"}))  # fmt: skip
    evidence = gather(plan, ["simdiffrec.table2"])
    assert entry(evidence, "DuoRec").word == "above" and entry(evidence, "CL4SRec").word == "above"
    assert entry(evidence, "MCLRec").word == "not run"
    words = count_words(evidence.entries)["simdiffrec"]
    assert words["above"] == 2 and sum(words.values()) == len(evidence.entries) == 50
    assert words["cannot be true"] == 5  # those whose NDCG@10 contradicts its hit rates
    result, low, count = below_counter(evidence)["beauty"]["Successors"]
    assert result["ndcg@10"] == 0.0427 and count == 10 and "SimDiffRec" not in {e.row for e in low} and len(low) == 9
    lifts = worth_of_masking(evidence)["beauty"]
    assert lifts["hit@10"] == (pytest.approx(0.1), 3)
    gaps = {(dataset, row): seconds for _, dataset, row, seconds in missing(evidence, {"beauty": 100, "toys": 50})}
    assert gaps["toys", "DuoRec"] == 1800 and gaps["toys", "MCLRec"] is None and ("sports", "DuoRec") not in gaps
    assert ("beauty", "DuoRec") not in gaps
    known = {(e.dataset, e.row) for e in evidence.entries if e.word == "cannot be true"}
    assert ("ml-1m", "BERT4Rec") in known  # such a figure is no run
    assert [row[1:3] for row in missing(evidence, {"ml-1m": 1}) if row[1:3] in known] == [("ml-1m", "BERT4Rec")]


def test_rows_that_the_data_cannot_have_are_not_missing(keep):
    plan = read_plan(keep(run_of("DuoRec"), lacking=[{"datasets": ["toys"], "rows": ["DuoRec", "STOSA"], "why": "no toys"}]))
    evidence = gather(plan, ["simdiffrec.table2", "diffurecsys.table5"])
    gaps = {row[1:3] for row in missing(evidence, {"beauty": 100, "toys": 50})}
    assert not gaps & {("toys", "DuoRec"), ("toys", "STOSA")} and gaps > {("toys", "MCLRec"), ("beauty", "STOSA")}
    assert entry(evidence, "DuoRec", "toys").word == "not run" and entry(evidence, "DuoRec").word == "above"
    assert format_lacking(evidence).endswith("data at hand:\n\n- toys: DuoRec, STOSA (no toys)")
    assert format_lacking(gather(read_plan(keep(run_of("DuoRec"))))) == ""


@pytest.mark.parametrize("lacking, match", [
    ({"datasets": ["a"]}, r"lacking must be a list"),
    (["toys"], r"each of lacking is \{datasets: \[A, B\], rows: \[C, D\], why: TEXT\}, got toys"),
    ([{"datasets": "toys", "rows": ["a"], "why": "b"}], r"datasets of lacking must be a list"),
])  # fmt: skip
def test_what_is_lacking_in_another_form_is_one_line(lacking, match, keep):
    with pytest.raises(UsageError, match=match):
        read_plan(keep(run_of("DuoRec"), lacking=lacking))


def test_twins_are_tested_over_users_and_corrected(keep):
    rng = np.random.default_rng(0)
    good, bad = rng.integers(1, 6, 400).astype(np.int16), rng.integers(5, 11, 400).astype(np.int16)
    plan = read_plan(keep(run_of("VSAN", ndcg=0.02), run_of("VSAN, twin", ndcg=0.04), run_of("MFGAN"), run_of("MFGAN, twin"),
                          ranks=[bad, good, good, good], twins={"VSAN": "VSAN, twin", "MFGAN": "MFGAN, twin", "ADRec": "none"}))  # fmt: skip
    pairs = compare_twins(gather(plan), plan)
    assert [(pair.model, pair.metric, pair.over) for pair in pairs] == [
        (model, metric, "users") for model in ("VSAN", "MFGAN") for metric in ("hit@10", "ndcg@10")
    ]
    assert pairs[1].mean - pairs[1].other == pytest.approx(-0.02)
    assert pairs[1].test.p_holm < 1e-10 and pairs[1].test.p_holm == pytest.approx(min(1, 4 * pairs[1].test.p)) and pairs[3].test.p_holm == 1


@pytest.mark.parametrize("seeds, over", [(3, "seeds"), (2, "")])
def test_twins_without_ranks_are_tested_over_seeds_from_three_on(seeds, over, keep):
    noise = [0.0, 0.0002, 0.0005]
    runs = [run_of("VSAN", 2020 + i, ndcg=0.02 + noise[i]) for i in range(seeds)]
    runs += [run_of("VSAN, twin", 2020 + i, ndcg=0.04) for i in range(seeds)]
    plan = read_plan(keep(*runs, twins={"VSAN": "VSAN, twin"}))
    _, pair = compare_twins(gather(plan), plan)
    assert pair.over == over and pair.seeds == (seeds, seeds)
    assert (pair.test is None) == (not over) and (not over or pair.test.p_holm < 0.001)


def test_twins_without_a_common_metric_are_not_compared(keep):
    short = {"test_result_unmasked": {"hit@5": 0.1, "ndcg@10": 0.05}, "test_result_masked": {}}
    plan = read_plan(keep(run_of("VSAN", **short), run_of("VSAN, twin"), twins={"VSAN": "VSAN, twin"}))
    assert [pair.metric for pair in compare_twins(gather(plan), plan)] == ["ndcg@10"]


def test_the_error_of_a_difference_is_that_of_the_seeds_of_both(keep):
    runs = [run_of("VSAN", 2020 + i, hit=0.08 + 0.01 * i, ndcg=0.04 + 0.001 * i) for i in range(3)]
    plan = read_plan(keep(*runs, run_of("VSAN, twin", hit=0.08, ndcg=0.02), twins={"VSAN": "VSAN, twin"}))
    evidence = gather(plan)
    by_hits, by_rank = compare_twins(evidence, plan)
    assert evidence.spread == pytest.approx(0.001 / 0.041)
    assert by_hits.error == pytest.approx(np.hypot(0.01 / 3**0.5, 0.01 / 0.09 * 0.08))  # of hits, its twin has the deviation of the model
    assert by_rank.error == pytest.approx(np.hypot(0.001 / 3**0.5, evidence.spread * 0.02))
    assert not by_hits.is_beyond_seeds and by_rank.is_beyond_seeds


def test_what_the_test_over_users_makes_of_seeds(keep):
    """Of three seeds one is another model: two of three pairs differ, and the page says so."""
    rng = np.random.default_rng(0)
    good, bad = rng.integers(1, 6, 400).astype(np.int16), rng.integers(5, 30, 400).astype(np.int16)
    runs = [run_of("MFGAN", 2020), run_of("MFGAN", 2021), run_of("MFGAN", 2022, hit=0.06), run_of("VSAN")]
    evidence = gather(read_plan(keep(*runs, ranks=[good, good, bad, bad])))
    pairs = [pair for pair in compare_seeds(evidence) if pair.metric == "hit@10"]
    assert [(pair.model, pair.twin, pair.test.p < 1e-10, pair.difference) for pair in pairs] == [
        ("MFGAN", "MFGAN", False, 0), ("MFGAN", "MFGAN", True, pytest.approx(0.02)), ("MFGAN", "MFGAN", True, pytest.approx(0.02)),
    ]  # fmt: skip
    assert "| HR@10 | 3 | 67% | 67% | 28.6% | 28.6% |" in format_seeds(evidence)


def test_models_that_hit_nothing_differ_in_nothing(keep):
    late = np.full(400, 30, dtype=np.int16)
    nothing = [run_of(row, seed, hit=0, ndcg=0) for row in ("VSAN", "VSAN, twin") for seed in (2020, 2021)]
    plan = read_plan(keep(*nothing, ranks=[late] * 4, twins={"VSAN": "VSAN, twin"}))
    evidence = gather(plan)
    assert [(pair.error, pair.relative, pair.is_beyond_seeds) for pair in compare_twins(evidence, plan)] == 2 * [(0, 0, False)]
    assert "| HR@10 | 2 | 0% | 0% | 0.0% | 0.0% |" in format_seeds(evidence)


def test_without_seeds_nothing_is_said_of_them(keep):
    assert format_seeds(gather(read_plan(keep(run_of("MFGAN"))))) == ""


# The command


def test_figures_that_decide_nothing_are_named_too_where_they_cannot_be_true(keep, tmp_path):
    """HR@10 and MRR@10 decide; the printed MRR@20 is beyond what they and HR@20 allow."""
    plan = keep(run_of("SKNN", dataset="cellphones"))
    assert main(["atlas", str(plan), "--tables=diffsbr.table2", f"--out={tmp_path / 'out'}"]) == 0
    decided, others = (tmp_path / "out" / "atlas.md").read_text().split("Nor can these of their figures at other cut-offs")
    assert "- cellphones, SKNN: MRR@20 must lie between 0.0894 and 0.0904" in others and "MRR@20" not in decided.split("## DiffSBR, Table 2")[1]


def test_the_command_writes_page_figures_and_pictures(keep, tmp_path, capsys):
    plan = keep(run_of("DuoRec"), run_of("SimDiffRec", 2020, hit=0.0932, ndcg=0.0427), run_of("SimDiffRec", 2021, hit=0.0934, ndcg=0.0429),
                run_of("VSAN", best_epoch=6), run_of("VSAN, twin"), twins={"VSAN": "VSAN, twin"}, pages={"DuoRec": "duorec.md"},
                claims={"simdiffrec.table2": {"*": {"kind": "masked", "why": "the code masks"}}})  # fmt: skip
    assert main(["atlas", str(plan), f"--out={tmp_path / 'out'}", "--pictures"]) == 0
    page = (tmp_path / "out" / "atlas.md").read_text()
    assert "| beauty | SimDiffRec | 0.0932 | 0.0933 ± 0.0001 | 0.0427 | 0.0428 ± 0.0001 | 2 | reproduced |" in page
    assert "| beauty | [DuoRec](duorec.md) | 0.0799 | 0.0800 (± 0.0003) |" in page and "all rows: the code masks" in page
    assert "0.0400 (± 0.0001) †" in page and "| beauty | VSAN | 1 / 1 | NDCG@10 | 0.0400 | 0.0400 | +0.0000 | 0.0002 | – |" in page
    lines = list(csv.DictReader(open(tmp_path / "out" / "atlas.csv")))
    line = next(line for line in lines if (line["table"], line["row"], line["dataset"], line["metric"])
                == ("simdiffrec.table2", "SimDiffRec", "beauty", "NDCG@10"))  # fmt: skip
    assert (line["ours"], line["seeds"], line["verdict"], line["validation"]) == ("0.04280", "2", "reproduced", "0.05136")
    names = {path.name for path in (tmp_path / "out" / "pictures").glob("*.png")}
    assert names == {"atlas.simdiffrec.table2.png", "atlas.diffurecsys.table5.png", "atlas.simdiffrec.table3.png", "atlas.beauty.costs.png"}


def test_runs_of_compare_need_no_file_of_their_own(keep, tmp_path):
    plan = keep()
    folder = tmp_path / "runs" / "beauty"
    folder.mkdir(parents=True)
    (folder / "DuoRec-seed2020-abc.json").write_text(json.dumps(run_of("DuoRec")))
    (folder / "DuoRec-seed2021-abc.failed.json").write_text(json.dumps({"row": "DuoRec", "error": "it failed"}))
    (tmp_path / "runs" / "index.json").write_text("{}")
    assert main(["atlas", str(plan), f"--runs= {tmp_path / 'runs'}, ", f"--out={tmp_path / 'out'}", "--tables=simdiffrec.table2"]) == 0
    assert "| beauty | DuoRec | 0.0799 | 0.0800" in (tmp_path / "out" / "atlas.md").read_text()


@pytest.mark.parametrize("words, message", [
    (["nowhere.yaml"], "'nowhere.yaml' does not exist"),
    (["{plan}", "--tables=simdiffrec.tabel2"], "did you mean 'simdiffrec.table2'"),
    (["{plan}", "--runs=nowhere"], "'nowhere' does not exist"),
])  # fmt: skip
def test_wrong_words_are_one_line(words, message, keep, capsys):
    plan = keep()
    assert main(["atlas", *(word.format(plan=plan) for word in words)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("content, message", [
    ({"setings": {}}, "unknown word 'setings', did you mean 'settings'"),
    ({"claims": {"simdiffrec.table2": {"*": {"kind": "guess", "why": ""}}}}, "kind: validation | masked | data"),
    ({"claims": {"nobody.table1": {}}}, "claims of an unknown table 'nobody.table1'"),
    ({"claims": {"simdiffrec.table2": "*"}}, "claims of simdiffrec.table2 must be pairs, {A: B}, got"),
    ({"claims": ["simdiffrec.table2"]}, "claims must be pairs"),
    ({"kept": "cells"}, r"kept must be a list, \[A, B\], got cells"),
    ({"twins": ["VSAN"]}, "twins must be pairs"),
])  # fmt: skip
def test_a_malformed_file_is_one_line(content, message, keep):
    with pytest.raises(UsageError, match=message.replace("|", r"\|")):
        read_plan(keep(**content))


# This repository


def test_the_atlas_of_this_repository_is_what_its_runs_say(tmp_path):
    assert main(["atlas", str(ROOT / "results" / "atlas.yaml"), f"--out={tmp_path}"]) == 0
    fresh, kept = ((folder / "atlas.csv").read_text() for folder in (tmp_path, ROOT / "results"))
    assert fresh == kept, "run: recbole-diffusion atlas --pictures"


def test_every_label_of_this_repositorys_file_has_runs_or_is_a_row_of_a_table():
    plan = read_plan(ROOT / "results" / "atlas.yaml")
    rows = {run["row"] for run in read_runs(plan.kept)}
    for label in (label for labels in plan.settings.values() for label in labels):
        assert label in rows | set(plan.settings), label
    assert plan.lacking and plan.lacking.keys() <= {(entry.dataset, entry.row) for entry in gather(plan).entries}
