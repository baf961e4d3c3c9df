"""Significance against values worked out by hand, bounds of published figures, LaTeX, HTML and the papers' presets."""

import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from test_compare import call, made_up, runner  # noqa: F401  (runner is a fixture)

from recbole_diffusion.cli import run_module
from recbole_diffusion.errors import UsageError
from recbole_diffusion.experiments import paper
from recbole_diffusion.experiments.compare import read_row
from recbole_diffusion.quick_start import run
from recbole_diffusion.reports.bounds import impossible_metrics
from recbole_diffusion.reports.report import write_reports
from recbole_diffusion.reports.significance import (
    PairedTest,
    compare_rows,
    correct,
    load_ranks,
    paired_test,
    user_values,
)
from recbole_diffusion.reports.tables import Study, column, improvements
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.settings.free import FREE_SETTINGS, PLACES
from recbole_diffusion.settings.properties import property_names
from recbole_diffusion.settings.registry import plugin_models, recbole_models
from recbole_diffusion.testing import cycle_sequences, write_sequences

# Tests


def test_paired_test_by_hand():
    # Differences 1, 2, 3: mean 2, deviation 1, t = 2 / (1 / sqrt 3) = 3.4641 with 2 degrees of freedom.
    # For 2 degrees, p = 1 - t / sqrt(t^2 + 2) = 1 - 3.4641 / sqrt(14) = 0.0741799.
    found = paired_test([3, 5, 7], [2, 3, 4])
    assert found.n == 3 and found.effect == pytest.approx(2.0)
    assert found.p == pytest.approx(1 - 12**0.5 / 14**0.5)
    backwards = paired_test([2, 3, 4], [3, 5, 7])
    assert backwards.p == pytest.approx(found.p) and backwards.effect == pytest.approx(-2.0)


def test_equal_differences_are_no_evidence():
    assert paired_test([0.1, 0.2, 0.3], [0.1, 0.2, 0.3]) == PairedTest(3, 1.0, 0.0)
    assert paired_test([0.2, 0.3, 0.4], [0.1, 0.2, 0.3]) is None
    assert paired_test([0.2], [0.1]) is None


def test_holm_by_hand():
    # Sorted .01, .02, .03, .04: times 4, 3, 2, 1 = .04, .06, .06, .04, and never below the one before.
    tests = [PairedTest(9, p, 0.0) for p in (0.03, 0.01, 0.04, 0.02)]
    correct([tests[0], None, *tests[1:]])
    assert [test.p_holm for test in tests] == pytest.approx([0.06, 0.04, 0.06, 0.06])
    large = [PairedTest(9, p, 0.0) for p in (0.6, 0.5)]
    correct(large)
    assert [test.p_holm for test in large] == [1.0, 1.0]


def test_values_of_users_by_hand():
    ranks = {"ranks": np.array([[1, 3, 0], [1, 0, 7]], dtype=np.int16), "longest": 10}
    assert user_values(ranks, "hit@5").tolist() == [1.0, 0.5, 0.0]
    assert user_values(ranks, "hit@10").tolist() == [1.0, 0.5, 0.5]
    assert user_values(ranks, "ndcg@5") == pytest.approx([1.0, 0.25, 0.0])  # 1 / log2(4) = .5 in one of two seeds
    assert user_values(ranks, "mrr@10") == pytest.approx([1.0, 1 / 6, 1 / 14])
    assert user_values(ranks, "hit@20") is None and user_values(ranks, "itemcoverage@5") is None


def with_ranks(name, ranks, users=(1, 2, 3, 4), **other):
    """A made-up result whose metrics follow from the ranks of its test targets."""
    ranks = np.array(ranks, dtype=np.int16)
    np.savez(f"{name}.npz", user=np.array(users), item=np.array(users) + 10, unmasked=ranks, masked=ranks)
    gains = np.where(ranks > 0, 1 / np.log2(np.maximum(ranks, 1) + 1.0), 0)
    metrics = {"hit@5": float((ranks > 0).mean()), "ndcg@10": float(gains.mean())}
    settings = {"valid_metric": "MRR@10", "topk": [5, 10]}
    return made_up(row=name, ranks_file=f"{name}.npz", settings=settings, test_result_unmasked=metrics,
                   test_result_masked=metrics, **other)  # fmt: skip


@pytest.mark.filterwarnings("error")
def test_rows_are_compared_over_users():
    rows = {"a": [with_ranks("a", [0, 0, 0, 1])], "b": [with_ranks("b", [1, 1, 0, 1])]}
    found = compare_rows(rows, "b", "unmasked", ["hit@5"])
    # Differences 1, 1, 0, 0: mean 1/2, deviation sqrt(1/3), t = sqrt 3 with 3 degrees; d = sqrt(3)/2.
    # F of t with 3 degrees: 1/2 + (t sqrt(3) / (t^2 + 3) + atan(t / sqrt 3)) / pi = 1/2 + (1/2 + pi/4) / pi.
    assert [(c.other, c.metric, c.difference) for c in found] == [("a", "hit@5", 0.5)]
    assert found[0].users.effect == pytest.approx(3**0.5 / 2)
    assert found[0].users.p == pytest.approx(2 * (0.5 - (0.5 + np.pi / 4) / np.pi))
    assert found[0].seeds is None


def test_other_users_or_missing_ranks_are_not_paired():
    rows = {"a": [with_ranks("a", [0, 1, 1, 0], users=(1, 2, 3, 5))], "b": [with_ranks("b", [1, 1, 0, 1])]}
    assert compare_rows(rows, "b", "masked", ["hit@5"])[0].users is None
    assert load_ranks([made_up()], "masked") is None


def test_rows_are_compared_over_seeds():
    def row(name, values):
        return [made_up(name, seed=seed, value=value) for seed, value in enumerate(values)]

    rows = {"a": row("a", [0.2, 0.3, 0.4]), "b": row("b", [0.3, 0.5, 0.7]), "c": row("c", [0.1, 0.2])}
    found = {c.other: c.seeds for c in compare_rows(rows, "b", "unmasked", ["hit@5"])}
    assert found["a"].p == pytest.approx(1 - 12**0.5 / 14**0.5) and found["a"].n == 3 and found["c"] is None


def test_stored_ranks_give_the_metrics(tmp_path):
    folder = write_sequences(cycle_sequences(), tmp_path, "cycle")
    settings = {"data_path": folder, "epochs": 2, "topk": [1, 5], "valid_metric": "MRR@5", "use_gpu": False, "alpha": 0,
                "beta": 0, "hidden_size": 8, "ranks_file": "r.npz", "train_batch_size": 16,
                "show_progress": False}  # fmt: skip
    result = run("SimDiffRec", "cycle", config_dict=settings)
    for protocol in ("unmasked", "masked"):
        ranks = load_ranks([{**result, "ranks_file": "r.npz"}], protocol)
        assert ranks["who"].shape == (2, 40)
        for name, value in result[f"test_result_{protocol}"].items():
            assert user_values(ranks, name).mean() == pytest.approx(value, abs=1e-5)
    assert Path("r.npz").stat().st_size < 2000


def test_improvement_is_over_the_best_other_row():
    rows = {"a": [made_up(value=0.2)], "b": [made_up(value=0.25)], "c": [made_up(value=0.3)]}
    assert improvements(rows, "test_result_unmasked", ["hit@5"], "c") == {"hit@5": ("b", pytest.approx(0.2))}
    assert improvements({"c": rows["c"]}, "test_result_unmasked", ["hit@5"], "c") == {}


def test_both_pages_say_how_the_tests_were_corrected():
    rows = [made_up(row=row, seed=seed, value=start + step * seed)
            for row, start, step in (("a", 0.2, 0.01), ("b", 0.3, 0.02)) for seed in range(3)]  # fmt: skip
    page = write_reports(rows, "out", Study(metrics=["hit@5"]), everything=True)["toy"].read_text(encoding="utf-8")
    found = compare_rows({"a": rows[:3], "b": rows[3:]}, "b", "masked", ["hit@5"])[0].seeds
    assert found.p_holm == found.p  # the test of the other protocol stands in a table of its own and does not count
    assert page.count(f"| {found.p_holm:.4f} * |") == 2 and "## Tests of b" in page
    for text in (page, unescape(Path("out/report.html").read_text(encoding="utf-8"))):
        assert "over all tests of a column of a table, each protocol by itself" in text


# Figures that cannot be true


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


@pytest.mark.parametrize("name", property_names("paper"))
def test_a_preset_is_whole(name):
    preset = paper.read_preset(name)
    assert preset.rows and preset.datasets and preset.note and (preset.ours is None or preset.ours in preset.rows)
    for dataset, rows in preset.published.items():
        assert dataset in preset.datasets and set(rows) == set(preset.rows)
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


def test_a_paper_table_shows_published_figures_and_rows_without_models(runner, tmp_path):  # noqa: F811
    data = tmp_path / "data"
    (data / "beauty").mkdir(parents=True)
    (data / "beauty" / "beauty.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n")
    words = ["--paper=simdiffrec.table2", "--datasets=beauty", "--only=SASRec,DreamRec,SimDiffRec", "--seeds=1"]
    assert run_module("compare", [*words, f"--data_path={data}", "--out=out"]) == 0
    assert [(model, s["train_batch_size"]) for model, _, s in runner.calls if model == "SASRec"] == [("SASRec", 256)]
    assert [(s["alpha"], s["beta"]) for model, _, s in runner.calls if model == "SimDiffRec"] == [(0.4, 0.4)]
    page = Path("out/beauty.md").read_text(encoding="utf-8")
    assert "| DreamRec (no such model yet) |" in page and "- DreamRec: no such model yet" in page
    assert "| HR@5 ours | HR@5 paper |" in page and "| SASRec | 0.1000 | 0.0303 |" in page
    assert "| DreamRec | – | 0.0477 |" in page
    assert "--paper=simdiffrec.table2 --only=SASRec,DreamRec,SimDiffRec --datasets=beauty --seeds=1" in page
    html = Path("out/report.html").read_text(encoding="utf-8")
    assert "SimDiffRec, Table 2" in html and "0.0477" in html


def test_a_rows_file_adds_settings_to_the_rows_of_a_paper(runner, tmp_path):  # noqa: F811
    data = tmp_path / "data"
    (data / "beauty").mkdir(parents=True)
    (data / "beauty" / "beauty.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n")
    rows = "SimDiffRec: {epochs: 7, datasets: {beauty: {beta: 0.2}, toys: {epochs: 9}}}\nOurs: {model: SimDiffRec}\n"
    Path("rows.yaml").write_text(rows)
    words = ["--paper=simdiffrec.table2", "--rows=rows.yaml", "--datasets=beauty", "--only=SimDiffRec,Ours", "--seeds=1"]
    assert run_module("compare", [*words, f"--data_path={data}", "--out=out"]) == 0
    used = [[s.get(key) for key in ("epochs", "alpha", "beta")] for _, _, s in runner.calls]
    assert used == [[7, 0.4, 0.2], [None, None, None]]
    assert "| SimDiffRec | 0.1000 | 0.0572 |" in Path("out/beauty.md").read_text(encoding="utf-8")
    Path("rows.yaml").write_text("SimDiffRec: 3\n")
    with pytest.raises(UsageError, match="row 'SimDiffRec' must be a mapping"):
        run_module("compare", [*words, f"--data_path={data}", "--out=out"])


def test_impossible_cells_are_marked(runner, tmp_path):  # noqa: F811
    words = ["--paper=simdiffrec.table2", "--datasets=sports", "--only-tables"]
    assert run_module("compare", [*words, f"--data_path={tmp_path}", "--out=out"]) == 0
    page = Path("out/sports.md").read_text(encoding="utf-8")
    assert "0.0252 ‡" in page and "- SimDiffRec: NDCG@10 must lie between 0.0255 and 0.0272" in page
    assert "| SimDiffRec (not run yet) |" in page and not runner.calls


@pytest.mark.parametrize(
    "words, message",
    [
        (["--paper=simdiffrec.tabel2", "--datasets=beauty"], "unknown --paper 'simdiffrec.tabel2', did you mean"),
        (["--paper=x"], "unknown --paper 'x', there are: "),
        (["--paper=simdiffrec.table2", "--datasets=beuty"], "has no data set 'beuty', did you mean 'beauty'"),
        (["--paper=simdiffrec.table2", "--datasets=beauty", "--only=SASRek"], "no row 'SASRek', did you mean 'SASRec'"),
        (["--models=SASRec", "--ours=SASRek"], "--ours names no row 'SASRek', did you mean 'SASRec'"),
        (["--models=SASRec", "--show=HR@11"], "unknown metric 'HR@11'"),
        (["--models=SASRec", "--jobs=0"], "--jobs is how many"),
    ],
)
def test_wrong_selections(runner, words, message):  # noqa: F811
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        call(*words)
    assert "\n" not in str(caught.value) and not runner.calls


def test_results_of_another_version_are_refused(runner):  # noqa: F811
    Path("out/toy").mkdir(parents=True)
    Path("out/toy/SASRec-seed2020-0123456789.json").write_text(json.dumps(made_up()))
    with pytest.raises(UsageError, match="results of another version"):
        call("--models=SASRec")


def test_runs_of_other_code_count_when_asked(runner, monkeypatch):  # noqa: F811
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


def test_chosen_metrics_must_be_those_of_every_row(runner):  # noqa: F811
    Path("rows.yaml").write_text("SASRec: {}\nshort: {model: SASRec, topk: [5], valid_metric: MRR@5}\n")
    with pytest.raises(UsageError, match="unknown metric 'HR@10', did you mean 'hit@5'.*: short on toy has hit@5,"):
        call("--rows=rows.yaml", "--show=HR@10")
    assert not runner.calls


def test_metrics_are_chosen_for_rows_without_a_model(tmp_path):
    words = ["--paper=simdiffrec.table2", "--datasets=beauty", "--only=DreamRec", "--show=HR@10", "--only-tables"]
    assert run_module("compare", [*words, f"--data_path={tmp_path}", "--out=out"]) == 0
    assert "| HR@10 ours | HR@10 paper |" in Path("out/beauty.md").read_text(encoding="utf-8")


def test_chosen_metrics_and_row_under_test(runner):  # noqa: F811
    call("--models=SASRec,SimDiffRec", "--seeds=1", "--ours=SASRec", "--show=NDCG@10,hit@5")
    page = Path("out/toy.md").read_text(encoding="utf-8")
    assert "| row | NDCG@10 | HR@5 |" in page and "SASRec against the best other row" in page


def test_ablations_of_diffsbr_are_those_of_its_guide():
    guide = (Path(__file__).parents[2] / "docs" / "diffsbr.md").read_text(encoding="utf-8")
    rows = {**paper.read_preset("diffsbr.figure3").rows, **paper.read_preset("diffsbr.table3").rows}
    for label, content in rows.items():
        words = [f"{key}: {value}" for key, value in content.items() if key != "model"]
        if label.startswith("w/o"):
            assert f"| {label} | {', '.join(f'`{word}`' for word in words)}" in guide


def test_settings_that_name_a_place_may_change_in_a_resumed_run():
    assert PLACES - {"single_spec"} < FREE_SETTINGS  # RecBole sets single_spec by itself


# Files


AWKWARD = r"50% & $x_1$ {\a} #1 ~^ <b>'\"é|"


def awkward_report():
    study = Study("recbole-diffusion compare --x='<&>'", title="A & B", note="50% <b>", ours="b",
                  published={"toy_1": {"b": {"hit@5": 0.3, "hit@10": 0.2}}})  # fmt: skip
    failed = {"row": "x_y", "model": "M", "dataset": "toy_1", "seed": 1, "given": {}, "error": "no <i>"}
    absent = {"row": "z", "model": "Z", "dataset": "toy_1", "seed": "", "given": {}, "absent": "no such model yet"}
    rows = [made_up(row=row, dataset="toy_1", seed=s, value=v + s / 100)
            for row, v in (("a", 0.2), (AWKWARD, 0.21), ("b", 0.3)) for s in range(3)]  # fmt: skip
    write_reports([*rows, failed, absent], "out", study, everything=True)


class Collector(HTMLParser):
    """Tags in order, and everything that would be loaded."""

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        links = [value for name, value in attrs if name in ("src", "href", "action")]
        self.loads += [value for value in links if not value.startswith("#")]
        if tag not in ("meta", "br"):
            self.open.append(tag)
        assert tag not in ("script", "link", "iframe", "img")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_html_is_whole_and_loads_nothing():
    awkward_report()
    page = Path("out/report.html").read_text(encoding="utf-8")
    found = Collector()
    found.feed(page)
    assert not found.open and not found.loads
    assert "://" not in page and "url(" not in page and "@import" not in page
    text = " ".join(found.text)
    assert AWKWARD in text and "A & B" in text and "no <i>" in text and "z (no such model yet)" in text


def test_latex_has_booktabs_rules_and_marks():
    awkward_report()
    text = Path("out/toy_1.tex").read_text(encoding="utf-8")
    for table in re.findall(r"\\begin\{tabular\}.*?\\end\{tabular\}", text, re.DOTALL):
        lines = [line for line in table.splitlines() if line.endswith(r"\\")]
        assert len(lines) == 8 if "published" in table else 7
        assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {3}
        assert table.count(r"\toprule") == table.count(r"\bottomrule") == 1
    assert r"\textbf{0.3100 $\pm$ 0.0100}" in text and r"\underline{0.2200 $\pm$ 0.0100}" in text
    assert r"x\_y (failed)" in text and "toy\\_1" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX on this machine")
def test_latex_compiles():
    awkward_report()
    source = Path("out/toy_1.tex").read_text(encoding="utf-8")
    head = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n"
    Path("page.tex").write_text(f"{head}{source}\n\\end{{document}}\n", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert Path("page.pdf").stat().st_size > 10_000
