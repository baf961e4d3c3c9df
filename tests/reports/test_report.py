"""The pages of a comparison in HTML and LaTeX: whole, self-contained, and safe from awkward names."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_up_runs import made_up

from recbole_diffusion.reports.report import write_reports
from recbole_diffusion.reports.study import Study
from recbole_diffusion.reports.tables import format_text

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
        assert lines[0] == r" & HR@10 & NDCG@10 \\" and len(lines) == (8 if "published" in table else 7)
        assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {2}
        assert table.count(r"\toprule") == table.count(r"\bottomrule") == 1
    deviation = r"{\scriptsize\,$\pm$\,0.0100}"
    assert rf"\textbf{{0.3100}}{deviation}" in text and rf"\underline{{0.2200}}{deviation}" in text
    assert r"x\_y (failed)" in text and "toy\\_1" in text
    assert re.findall(r"\\label\{.*\}", text) == [r"\label{tab:toy-1-unmasked}", r"\label{tab:toy-1-masked}"]


MANY = [f"{metric}@{k}" for metric in ("hit", "ndcg", "mrr") for k in (1, 5, 10, 20)]


def wide_report(name=""):
    def results(value):
        return {f"test_result_{protocol}": dict.fromkeys(MANY, value) for protocol in ("masked", "unmasked")}

    labels = {"SASRec": 0.2, "w/o what makes it different from all the others": 0.3}
    rows = [made_up(row=row, seed=s, **results(value + s / 100)) for row, value in labels.items() for s in range(3)]
    write_reports(rows, "out", Study(name=name, metrics=MANY), everything=True)


def test_metrics_that_a_line_cannot_hold_stand_in_blocks():
    wide_report("all")
    text = Path("out/all.toy.tex").read_text(encoding="utf-8")
    heads = [line.strip(r" &\ ") for line in text.splitlines() if line.startswith(" &")]
    assert heads == ["HR@1 & HR@5 & HR@10 & HR@20", "NDCG@1 & NDCG@5 & NDCG@10 & NDCG@20",
                     "MRR@1 & MRR@5 & MRR@10 & MRR@20"] * 2  # fmt: skip
    assert r"\label{tab:all-toy-masked}" in text and text.count(r"\resizebox{\ifdim\width>\linewidth") == 2


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX on this machine")
@pytest.mark.parametrize("report, name", [(awkward_report, "toy_1"), (wide_report, "toy")])
def test_latex_compiles_and_fits_the_page(report, name):
    report()
    source = Path(f"out/{name}.tex").read_text(encoding="utf-8")
    head = "\\documentclass{article}\n\\usepackage{booktabs,graphicx}\n\\begin{document}\n"
    Path("page.tex").write_text(f"{head}{source}\n\\end{{document}}\n", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert Path("page.pdf").stat().st_size > 10_000 and "Overfull" not in done.stdout


def test_stars_stand_at_what_is_better_than_the_best_other_row():
    values = {"a": (0.20, 0.21, 0.22), "b": (0.30, 0.31, 0.33), "c": (0.40, 0.42, 0.43)}
    rows = [made_up(row=row, seed=s, value=v) for row, all_values in values.items() for s, v in enumerate(all_values)]
    write_reports(rows, "out", Study(), everything=True)
    text = Path("out/toy.tex").read_text(encoding="utf-8")
    assert text.count("$^{*}$") == 4 and text.count(r"\textbf{0.4167}$^{*}$") == 2  # two metrics, both protocols
    assert r"* better than the best other row, paired t-test over seeds, Holm, p $<$ 0.05." in text
    write_reports(rows, "out", Study(ours="b"), everything=True)
    assert "$^{*}$" not in Path("out/toy.tex").read_text(encoding="utf-8")  # worse than c, however surely
    found = Collector()
    found.feed(Path("out/report.html").read_text(encoding="utf-8"))
    assert not found.open


def test_published_figures_come_first_where_nothing_was_trained():
    figures = {"toy": {"a": {"hit@10": 0.3}, "b": {"hit@10": 0.25}}}
    empty = {"dataset": "toy", "seed": "", "given": {}, "absent": "not run yet"}
    rows = [{"row": row, "model": row, **empty} for row in "ab"]
    study = Study(published=figures, metrics=["hit@10"])
    page = write_reports(rows, "out", study, everything=True)["toy"].read_text(encoding="utf-8")
    table = "| row | HR@10 |\n| --- | --- |\n| a | 0.3000 |\n| b | 0.2500 |\n"
    assert page.startswith(f"# toy\n\n## Published figures\n\n{table}")
    assert "- a: not run yet" in page and "History" not in page and "–" not in page
    assert format_text(rows, study) == "row  HR@10\na    0.3000\nb    0.2500"
    html = Path("out/report.html").read_text(encoding="utf-8")
    assert "<td>0.3000</td>" in html and "<h3>History" not in html
    tex = Path("out/toy.tex").read_text(encoding="utf-8")
    assert r"a & \textit{0.3000} \\" in tex and tex.count(r"\begin{table}") == 1 and "{tab:toy-published}" in tex
