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
