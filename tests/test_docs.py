"""Every test and file of the repository that a page names is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PLACES = ("tests", "recbole_diffusion", "properties", "benchmarks", "results")
# What the guide tells to write.
OF_A_READER = {"test_mean_rec.py", "recbole_diffusion/model/meanrec.py", "properties/model/MeanRec.yaml",
               "tests/contracts/meanrec.py", "tests/model/test_meanrec.py", "test_meanrec.py",
               "properties/model/NAME.yaml"}  # fmt: skip


def functions_of(file):
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page):
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(rf"\b((?:{'|'.join(PLACES)})/[\w./-]+\.(?:py|yaml|md))\b", text)) - OF_A_READER
    assert {name for name in named if not (ROOT / name).exists()} == set()
    tests = {file.name for folder in ("tests", "recbole_diffusion/testing") for file in (ROOT / folder).rglob("*.py")}
    assert set(re.findall(r"\b(test_\w+\.py)\b", text)) - tests - OF_A_READER == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_a_page_names_are_there(page):
    """``file.py::test`` stands in that file, and a ``test`` after it in the same line somewhere."""
    files = {file.name: functions_of(file) for file in [*(ROOT / "tests").rglob("*.py"),
                                                        *(ROOT / "recbole_diffusion" / "testing").glob("*.py")]}  # fmt: skip
    everything = set().union(*files.values())
    text = page.read_text(encoding="utf-8")
    for file, test in re.findall(r"(\w+\.py)::(\w+)", text):
        assert test in files[file], f"{file}::{test}"
    for line in text.splitlines():
        if "::" in line:  # the tests after the first one are named without their file
            for test in re.findall(r"`(test_\w+)`", line):
                assert test in everything, test
