"""The papers' presets: their figures, those that cannot be true, and the tables of compare that show them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import call, made_up

from recbole_diffusion.cli import run_module
from recbole_diffusion.errors import UsageError
from recbole_diffusion.experiments import paper
from recbole_diffusion.experiments.selection import read_row
from recbole_diffusion.reports.bounds import impossible_metrics
from recbole_diffusion.reports.report import write_reports
from recbole_diffusion.reports.significance import (
    user_values,
)
from recbole_diffusion.reports.study import column, improvements
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.settings.free import FREE_SETTINGS, PLACES
from recbole_diffusion.settings.properties import property_names
from recbole_diffusion.settings.registry import MODELS, plugin_models, recbole_models


def test_bounds_by_hand():
    # 10 of 1000 users enter between 5 and 10: NDCG grows by .01 / log2(11) = .00289 to .01 / log2(7) = .00356.
    possible = {"hit@5": 0.05, "hit@10": 0.06, "ndcg@5": 0.03}
    for ndcg, fits in ((0.0327, False), (0.0328, True), (0.0329, True), (0.0336, True), (0.0338, False)):
        assert (not impossible_metrics({**possible, "ndcg@10": ndcg}, 1e-4)) == fits
    assert "must lie between 0.0328 and 0.0336" in impossible_metrics({**possible, "ndcg@10": 0.03}, 1e-4)["ndcg@10"]
    for mrr, fits in ((0.06, False), (0.05, True), (0.005, True), (0.004, False)):
        assert (not impossible_metrics({"hit@10": 0.05, "mrr@10": mrr}, 1e-4)) == fits
    assert not impossible_metrics({"ndcg@10": 0.5}, 1e-4)


def test_no_measured_row_is_called_impossible():
    random = np.random.default_rng(0)
    for _ in range(200):
        ranks = {"ranks": random.integers(0, 60, (3, 37)).astype(np.int16), "longest": 50}
        names = [f"{metric}@{k}" for metric in ("hit", "ndcg", "mrr") for k in (5, 10, 20)]
        rounded = {name: round(float(user_values(ranks, name).mean()), 4) for name in names}
        assert impossible_metrics(rounded, 1e-4) == {}


IMPOSSIBLE = {
    "simdiffrec.table2": {("sports", "SimDiffRec"), ("yelp", "MCLRec"), ("toys", "BERT4Rec"), ("sports", "BERT4Rec"),
                          ("ml-1m", "BERT4Rec")},
    "simdiffrec.table3": set(),
    "diffurecsys.table3": set(),
    "diffurecsys.table5": {("beauty", "SASRec"), ("beauty", "MFGAN"), ("beauty", "DuoRec"), ("toys", "BERT4Rec"),
                           ("toys", "ACVAE"), ("toys", "MFGAN"), ("toys", "DuoRec"), ("ml-1m", "ACVAE")},
    "diffsbr.table2": {("cellphones", "SKNN"), ("grocery", "DiffSBR"), ("grocery", "DIMO"), ("instacart", "DiQDiff"),
                       ("instacart", "MGS"), ("sports-session", "DiffuRec"), ("sports-session", "Atten-Mixer"),
                       ("sports-session", "MSGAT"),
                       *((d, row) for d in ("sports-session", "grocery") for row in ("NARM", "SR-GNN", "MMSBR"))},
}  # fmt: skip


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_cells_of_the_papers(name):
    preset = paper.read_preset(name)
    found = {
        (dataset, row)
        for dataset, rows in preset.published.items()
        for row, values in rows.items()
        if impossible_metrics(values, preset.unit)
    }
    assert found >= IMPOSSIBLE[name]
    if name != "simdiffrec.table3":
        assert found == IMPOSSIBLE[name]


# Presets

FLOORS = {"SASRec-CE", "Successors", "CoOccurrence"}  # stand in tables of papers that have no such row


@pytest.mark.parametrize("name", property_names("paper"))
def test_a_preset_is_whole(name):
    preset = paper.read_preset(name)
    assert preset.rows and preset.datasets and preset.note and (preset.ours is None or preset.ours in preset.rows)
    for dataset, rows in preset.published.items():
        beyond = {row for row in preset.rows if row in FLOORS or row.endswith(("w/o diffusion", ", twin"))}
        assert dataset in preset.datasets and set(rows) == set(preset.rows) - beyond
        for values in rows.values():
            assert set(values) == set(preset.metrics) and all(0 < value < 1 for value in values.values())


@pytest.mark.parametrize("name", property_names("paper"))
def test_rows_of_a_preset_fit_their_models(name):
    preset = paper.read_preset(name)
    models = {*plugin_models(), *recbole_models()}
    for label, content in preset.rows.items():
        row = read_row(label, content)
        for dataset in preset.datasets if row.model in models else ():
            DiffusionConfig(row.model, dataset, config_dict={**row.settings, **row.per_dataset.get(dataset, {})})
        assert set(row.per_dataset) <= set(preset.datasets)


def used(given, *keys):
    """Settings of a run of SimDiffRec on beauty, those of its preset included."""
    config = DiffusionConfig("SimDiffRec", "beauty", config_dict=given)
    return tuple(config[key] for key in keys)


def test_a_paper_table_shows_published_figures_and_rows_without_models(runner, tmp_path, monkeypatch):
    monkeypatch.delitem(MODELS, "ACVAE")
    data = tmp_path / "data"
    (data / "beauty").mkdir(parents=True)
    (data / "beauty" / "beauty.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n")
    words = ["--paper=diffurecsys.table5", "--datasets=beauty", "--only=SASRec,ACVAE,SASRec-CE", "--seeds=1"]
    assert run_module("compare", [*words, f"--data_path={data}", "--out=out"]) == 0
    assert [(model, s["trim_padding"]) for model, _, s in runner.calls if model == "SASRec"] == [("SASRec", True)]
    assert [used(s, "alpha", "beta") for model, _, s in runner.calls if model == "SimDiffRec"] == [(0, 0)]
    page = Path("out/beauty.md").read_text(encoding="utf-8")
    assert "| ACVAE (no such model yet) |" in page and "- ACVAE: no such model yet" in page
    assert "| HR@5 ours | HR@5 paper |" in page and "| SASRec | 0.1000 | 0.0371 |" in page
    assert "| ACVAE | – | 0.0438 |" in page
    assert "--paper=diffurecsys.table5 --only=SASRec,ACVAE,SASRec-CE --datasets=beauty --seeds=1" in page
    html = Path("out/report.html").read_text(encoding="utf-8")
    assert "DiffuRecSys, Table 5" in html and "0.0438" in html


def test_a_rows_file_adds_settings_to_the_rows_of_a_paper(runner, tmp_path):
    data = tmp_path / "data"
    (data / "beauty").mkdir(parents=True)
    (data / "beauty" / "beauty.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n")
    rows = "SimDiffRec: {epochs: 7, datasets: {beauty: {beta: 0.2}, toys: {epochs: 9}}}\nOurs: {model: SimDiffRec}\n"
    Path("rows.yaml").write_text(rows)
    words = ["--paper=simdiffrec.table2", "--rows=rows.yaml", "--datasets=beauty", "--only=SimDiffRec,Ours", "--seeds=1"]
    assert run_module("compare", [*words, f"--data_path={data}", "--out=out"]) == 0
    defaults = DiffusionConfig("SimDiffRec", "beauty")
    found = [used(s, "epochs", "alpha", "beta") for _, _, s in runner.calls]
    assert found == [(7, 0.4, 0.2), (defaults["epochs"], defaults["alpha"], defaults["beta"])]
    assert "| SimDiffRec | 0.1000 | 0.0572 |" in Path("out/beauty.md").read_text(encoding="utf-8")
    Path("rows.yaml").write_text("SimDiffRec: 3\n")
    with pytest.raises(UsageError, match="row 'SimDiffRec' must be a mapping"):
        run_module("compare", [*words, f"--data_path={data}", "--out=out"])


def test_impossible_cells_are_marked(runner, tmp_path):
    words = ["--paper=simdiffrec.table2", "--datasets=sports", "--only-tables"]
    assert run_module("compare", [*words, f"--data_path={tmp_path}", "--out=out"]) == 0
    page = Path("out/sports.md").read_text(encoding="utf-8")
    assert "0.0252 ‡" in page and "- SimDiffRec: NDCG@10 must lie between 0.0255 and 0.0272" in page
    assert "- SimDiffRec: not run yet" in page and not runner.calls
    assert page.index("## Published figures") < page.index("## Rows without runs") and "## History" not in page


@pytest.mark.parametrize(
    "words, message",
    [
        (["--paper=simdiffrec.tabel2", "--datasets=beauty"], "unknown --paper 'simdiffrec.tabel2', did you mean"),
        (["--paper=x"], "unknown --paper 'x', there are: "),
        (["--paper=simdiffrec.table2", "--datasets=beuty"], "has no data set 'beuty', did you mean 'beauty'"),
        (["--paper=simdiffrec.table2", "--datasets=beauty", "--only=SASRek"], "no row 'SASRek', did you mean 'SASRec'"),
        (["--models=SASRec", "--ours=SASRek"], "--ours names no row 'SASRek', did you mean 'SASRec'"),
        (["--models=SASRec", "--show=HR@21"], "unknown metric 'HR@21'"),
        (["--models=SASRec", "--name=a/b"], "--name must be letters, digits"),
        (["--models=SASRec", "--jobs=0"], "--jobs is how many"),
    ],
)
def test_wrong_selections(runner, words, message):
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        call(*words)
    assert "\n" not in str(caught.value) and not runner.calls


def test_results_of_another_version_are_refused(runner):
    Path("out/toy").mkdir(parents=True)
    Path("out/toy/SASRec-seed2020-0123456789.json").write_text(json.dumps(made_up()))
    with pytest.raises(UsageError, match="results of another version"):
        call("--models=SASRec")


def test_runs_of_other_code_count_when_asked(runner, monkeypatch):
    call("--models=SASRec", "--seeds=1")
    monkeypatch.setattr("recbole_diffusion.experiments.fingerprint.code_hash", lambda config: "other")
    call("--models=SASRec", "--seeds=1", "--any-code")
    assert len(runner.calls) == 1
    call("--models=SASRec", "--seeds=1")
    assert len(runner.calls) == 2


def test_a_row_that_sees_test_labels_is_never_the_best():
    values = {"a": (0.3, False), "leaking": (0.5, True), "c": (0.4, False)}
    rows = {label: [made_up(row=label, value=value, leaks_test_labels=leak)] for label, (value, leak) in values.items()}
    assert [place for _, place in column(rows, "test_result_unmasked", "hit@5")] == [2, None, 1]
    assert improvements(rows, "test_result_unmasked", ["hit@5"], "a")["hit@5"][0] == "c"


def test_a_row_that_sees_test_labels_is_marked():
    page = write_reports([made_up(leaks_test_labels=True)], ".", "", everything=True)["toy"].read_text(encoding="utf-8")
    assert page.count("| SimDiffRec (sees test labels) |") == 2
    assert "(sees test labels)" in Path("report.html").read_text(encoding="utf-8")


def test_chosen_metrics_must_be_those_of_every_row(runner):
    Path("rows.yaml").write_text("SASRec: {}\nshort: {model: SASRec, topk: [5], valid_metric: MRR@5}\n")
    with pytest.raises(UsageError, match="unknown metric 'HR@10', did you mean 'hit@5'.*: short on toy has hit@5,"):
        call("--rows=rows.yaml", "--show=HR@10")
    assert not runner.calls


def test_metrics_are_chosen_for_rows_without_a_model(tmp_path):
    words = ["--paper=simdiffrec.table2", "--datasets=beauty", "--only=DreamRec", "--show=HR@10", "--only-tables"]
    assert run_module("compare", [*words, f"--data_path={tmp_path}", "--out=out"]) == 0
    page = Path("out/beauty.md").read_text(encoding="utf-8")
    assert "| row | HR@10 |\n| --- | --- |\n| DreamRec | 0.0805 |\n" in page


def test_chosen_metrics_and_row_under_test(runner):
    call("--models=SASRec,SimDiffRec", "--seeds=1", "--ours=SASRec", "--show=NDCG@10,hit@5")
    page = Path("out/toy.md").read_text(encoding="utf-8")
    assert "| row | NDCG@10 | HR@5 |" in page and "SASRec against the best other row" in page


def test_validation_figures_are_shown_when_asked(runner, capsys):
    assert call("--models=SASRec", "--seeds=1", "--validation") == 0
    page = Path("out/toy.md").read_text(encoding="utf-8")
    assert "## Best validation figures beside test figures" in page and "--seeds=1 --validation\n" in page
    assert "HR@10 best validation" in capsys.readouterr().out


def test_ablations_of_diffsbr_are_those_of_its_guide():
    guide = (Path(__file__).parents[2] / "docs" / "diffsbr.md").read_text(encoding="utf-8")
    rows = {**paper.read_preset("diffsbr.figure3").rows, **paper.read_preset("diffsbr.table3").rows}
    for label, content in rows.items():
        words = [f"{key}: {value}" for key, value in content.items() if key not in ("model", "preset")]
        assert content["preset"] == "paper"
        if label.startswith("w/o"):
            assert f"| {label} | {', '.join(f'`{word}`' for word in words)}" in guide


def test_settings_that_name_a_place_may_change_in_a_resumed_run():
    assert PLACES - {"single_spec"} < FREE_SETTINGS  # RecBole sets single_spec by itself
