"""Validation figures beside test figures: what they are, and that nobody takes them for test figures."""

import csv
from pathlib import Path

from made_up_runs import METRICS, made_up

from recbole_diffusion.reports.report import write_reports
from recbole_diffusion.reports.study import Study
from recbole_diffusion.reports.tables import format_text
from recbole_diffusion.reports.validation import ABOUT, TITLE, best_validation


def run(seed, *by_epoch, row="V1", **other):
    valid = {name: [value + place / 100 for value in by_epoch] for place, name in enumerate(METRICS)}
    return made_up(row=row, seed=seed, value=0.2, history={"valid": valid}, **other)


def study(**other):
    published = {"toy": {"V1": {"hit@5": 0.5, "ndcg@10": 0.4}}}
    return Study(validation=True, published=published, metrics=["hit@5", "ndcg@10"], **other)


RUNS = [run(2020, 0.3, 0.5, 0.4), run(2021, 0.1, 0.2, 0.6), made_up(row="never validated", value=0.1)]


def section(page):
    return page.partition(f"## {TITLE}\n")[2].partition("\n## ")[0]


def test_the_best_of_each_metric_stands_beside_the_test_and_the_published_figure():
    page = write_reports(RUNS, "out", study())["toy"].read_text(encoding="utf-8")
    found = section(page)
    assert ABOUT in found and "is no test figure" in ABOUT
    assert "| row | figures | HR@5 | NDCG@10 |" in found
    assert "| V1 | best validation | 0.5500 ± 0.0707 | 0.5700 ± 0.0707 |" in found
    assert "| V1 | test | 0.2000 ± 0.0000 | 0.2000 ± 0.0000 |\n| V1 | paper | 0.5000 | 0.4000 |" in found
    assert "| never validated | best validation | – | – |\n| never validated | test | 0.1000 | 0.1000 |" in found
    assert "V1, against the published figures: best validation +10.0% to +42.5%, test -60.0% to -50.0%" in found


def test_without_the_word_nothing_is_said_of_it():
    write_reports(RUNS, "out", Study(), everything=True)
    assert not [path for path in Path("out").iterdir() if "best validation" in path.read_text(encoding="utf-8").lower()]


def test_every_format_names_them():
    write_reports(RUNS, "out", study(name="table"), everything=True)
    lines = list(csv.DictReader(Path("out/table.toy.csv").read_text(encoding="utf-8").splitlines()))
    assert [float(line["HR@5 best validation"] or "nan") for line in lines[:2]] == [0.5, 0.6]
    assert lines[2]["HR@5 best validation"] == "" and lines[0]["HR@5 not masked"] == "0.2"
    html = Path("out/table.html").read_text(encoding="utf-8")
    assert TITLE in html and "<td>best validation</td><td>0.5500 ± 0.0707</td>" in html
    latex = Path("out/table.toy.tex").read_text(encoding="utf-8")
    assert r"V1, best validation & 0.5500" in latex and r"V1, test & 0.2000" in latex
    assert r"\label{tab:table-toy-validation}" in latex and "Best validation is no test figure" in latex
    text = format_text(RUNS, study())
    assert "HR@5 best validation" in text.splitlines()[0] and "0.5500 ± 0.0707" in text


def test_where_small_is_good_the_least_is_best():
    valid = {"giniindex@10": [0.4, None, 0.2, 0.3]}
    assert best_validation({"history": {"valid": valid}}, "giniindex@10") == 0.2
    assert best_validation({"history": {"valid": {"hit@5": [None]}}}, "hit@5") is None


def test_a_masked_validation_stands_beside_the_masked_test():
    page = write_reports([run(2020, 0.5, mask_history=True)], "out", study())["toy"].read_text(encoding="utf-8")
    assert "| V1 | best validation | 0.5000 | 0.5200 |\n| V1 | test | 0.3000 | 0.3000 |" in section(page)
