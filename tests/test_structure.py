"""The architecture that the folders promise, and files found in every kind of installation."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from recbole_diffusion.settings import registry
from recbole_diffusion.settings.properties import properties_dir, property_names
from recbole_diffusion.settings.schema import read_schema

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "recbole_diffusion"
# The rooms in the order of their dependencies: a room may import itself and those on the shelves below its own.
SHELVES = [
    {"errors", "versions", "threads"},
    {"files", "processes", "devices"},
    {"settings"},
    {"diffusion", "layers"},
    {"data"},
    {"model", "prepare"},
    {"training"},
    {"quick_start"},
    {"reports", "serving", "augment", "doctor"},
    {"experiments", "testing"},
    {"api", "atlas", "commands"},
    {"old_recommend", "cli"},
    {"__main__"},
]
NARROWER = {  # rooms that may import less than what lies below them
    "diffusion": {"errors"},
    "layers": {"errors"},
    "model": {"errors", "diffusion", "layers", "data", "processes"},
    "prepare": {"errors", "files", "settings", "data", "devices", "processes"},
}


def imports_of(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "recbole_diffusion":
            yield from (f"recbole_diffusion.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def may_import(room):
    """The rooms that a room may import, itself left out."""
    shelf = next(i for i, rooms in enumerate(SHELVES) if room in rooms)
    below = set().union(*SHELVES[:shelf])
    return NARROWER.get(room, below)


def room_of(module):
    """``recbole_diffusion.data.dataset`` -> ``data``; of the package itself ``None``."""
    return module.split(".")[1] if "." in module else None


PACKAGE_FILES = [file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("file", PACKAGE_FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_dependencies_point_one_way(file):
    room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for module in imports_of(file):
        if room in ("diffusion", "layers"):
            assert module.partition(".")[0] != "recbole"
        if module.partition(".")[0] != "recbole_diffusion" or room_of(module) in (None, "__version__"):
            continue
        if room_of(module) != room:
            assert room_of(module) in may_import(room), f"{room} imports {module}"
        elif room == "model":  # what two models share moves to layers or a base
            assert module.split(".")[2] in ("base", "transformer_recommender", "restoring_recommender"), f"{file.name} imports {module}"


def test_no_file_is_long():
    long = {file.relative_to(PACKAGE).as_posix(): len(file.read_text().splitlines()) for file in PACKAGE_FILES}
    assert {name: lines for name, lines in long.items() if lines > 400} == {}


def test_tests_mirror_the_rooms():
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    folders = {path.name for path in (ROOT / "tests").iterdir() if any(path.glob("test_*.py"))}
    assert folders <= rooms


def test_no_recbole_name_is_shadowed_and_every_model_has_a_yaml():
    from importlib.util import find_spec

    for name in registry.MODELS:
        for kind in ("general", "sequential", "context_aware", "knowledge_aware"):
            assert find_spec(f"recbole.model.{kind}_recommender.{name.lower()}") is None
        assert name in property_names("model")
        assert registry.get_model(name).__name__ == name


@pytest.mark.parametrize("path", [*(ROOT / "properties" / "model").glob("*.yaml"), ROOT / "properties" / "overall.yaml"])
def test_every_setting_is_documented_and_its_default_is_in_range(path):
    from recbole_diffusion.settings.properties import load_yaml

    schema, defaults = read_schema(path), load_yaml(path)
    assert len(re.findall(r"^\w+:", path.read_text(), re.MULTILINE)) == len(schema)  # none twice
    assert set(defaults) == set(schema)
    for key, value in defaults.items():
        if value is not None:
            schema[key].check(value)


def test_properties_are_found_in_a_checkout():
    assert properties_dir() == ROOT / "properties"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with this package from a wheel, without its requirements; built from a copy, since pip builds in place."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    left = shutil.ignore_patterns(".*", "build", "log*", "saved", "runs", "results", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=left)
    pip = [sys.executable, "-m", "pip", "-q"]
    words = ["--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run([*pip, "wheel", *words], check=True)
    wheel = next(folder.glob("*.whl"))
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel)], check=True)
    return folder / "site"


def test_what_travels_in_a_wheel(installed):
    names = {path.relative_to(installed).as_posix() for path in installed.rglob("*") if path.is_file()}
    package = "recbole_diffusion"
    assert {f"{package}/properties/model/SimDiffRec.yaml", f"{package}/py.typed"} <= names
    assert {f"{package}/properties/{name}.yaml" for name in ("paper/simdiffrec.table2", "augment/DiffuASR")} <= names
    assert {name for name in names if "/dataset/" in name and name.startswith(package) and "toy" in name} == {
        f"{package}/dataset/toy/toy.inter", f"{package}/dataset/toy/toy.item", f"{package}/properties/dataset/toy.yaml",
        f"{package}/properties/dataset/toys.yaml",
    }  # fmt: skip
    assert not any(name.startswith(("tests/", "benchmarks/")) or name.endswith("make_toy.py") for name in names)
    metadata = (next(installed.glob("*.dist-info")) / "METADATA").read_text()
    assert "Typing :: Typed" in metadata and "Author: " in metadata and "Keywords: " in metadata


def test_an_installed_package_finds_properties_and_toy_data(installed, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    code = "from recbole_diffusion.settings.properties import *; print(properties_dir(), default_data_path('toy'))\n"
    code += "from recbole_diffusion.reports.html import template; print(template().filename)"
    words = dict(cwd=tmp_path, env=environment, capture_output=True, text=True)
    found = subprocess.run([sys.executable, "-c", code], check=True, **words)
    package = installed / "recbole_diffusion"
    places = ("properties", "dataset", "reports/templates/report.html")
    assert found.stdout.split() == [str(package / place) for place in places]
    checked = subprocess.run([sys.executable, "-m", "recbole_diffusion.cli", "check-data", "toy"], **words)
    assert checked.returncode == 0 and str(package / "dataset" / "toy" / "toy.inter") in checked.stdout
    assert list(tmp_path.iterdir()) == []


def test_toy_data_train_anywhere_and_give_way_to_a_folder(tmp_path, monkeypatch):
    from recbole_diffusion.settings.config import DiffusionConfig

    monkeypatch.chdir(tmp_path)
    assert DiffusionConfig("SASRec", "toy")["data_path"] == str(ROOT / "dataset" / "toy")
    said = DiffusionConfig("SASRec", "toy", config_dict={"data_path": "elsewhere"})
    assert said["data_path"] == os.path.join("elsewhere", "toy")
    folder = tmp_path / "dataset" / "toy"
    folder.mkdir(parents=True)
    (folder / "toy.augmented.npz").touch()  # beside the data that come with the package
    assert DiffusionConfig("SASRec", "toy")["data_path"] == str(ROOT / "dataset" / "toy")
    (folder / "toy.inter").touch()
    assert DiffusionConfig("SASRec", "toy")["data_path"] == os.path.join("dataset/", "toy")


def test_import_is_light():
    code = "import sys, recbole_diffusion.cli; assert 'torch' not in sys.modules and 'recbole' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
