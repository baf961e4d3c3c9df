"""Every test, file and heading that a page names or links to is there, on the site as well."""

import ast
import posixpath
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKING = [
    *sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "results").rglob("*.md")]),
    ROOT / "dataset" / "README.md",
    ROOT / "benchmarks" / "README.md",
]
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


def anchors(page):
    """Anchors of the headings of a page, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKING, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\((?![a-z]+:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


def test_the_commands_of_the_readme_are_those_of_the_ci():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first, second = re.findall(r"^```\n(pip .*)\n```$", readme, re.MULTILINE)[:2]
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert first in ci and second in ci


def test_links_of_the_site_lead_to_the_pages_of_other_folders():
    hook = pytest.importorskip("mkdocs.plugins") and load_hook()
    for path in ("README.md", "docs/compare.md", "results/README.md"):
        site_uri = hook.place(path)

        class Page:
            file = type("File", (), {"src_uri": site_uri})

        text = hook.on_page_markdown((ROOT / path).read_text(encoding="utf-8"), Page, None, None)
        links = [link.partition("#")[0] for link in re.findall(r"\]\((?![a-z]+:|#)([^)\s]+)\)", text)]
        expected = {hook.place(target) for _, target in hook.targets(path, (ROOT / path).read_text(encoding="utf-8"))}
        found = {posixpath.normpath(posixpath.join(posixpath.dirname(site_uri), link)) for link in links}
        assert found == expected and len(found) > 1


def load_hook():
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("pages", ROOT / "docs" / "hooks" / "pages.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
