"""The architecture that the folders promise, and files found in every kind of installation."""

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from recbole_diffusion import registry
from recbole_diffusion.properties import properties_dir, property_names
from recbole_diffusion.schema import read_schema

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "recbole_diffusion"
ALLOWED = {  # what each part may import of the package, besides errors, properties and schema
    "diffusion": set(),
    "layers": set(),
    "data": {"devices", "files", "processes"},
    "model": {"diffusion", "layers", "data", "model.base", "processes"},
    "checkpoint": {"files"},
    "files": set(),
    "devices": set(),
    "processes": set(),
    "trainer": {"diffusion", "layers", "data", "model", "checkpoint", "processes"},
}


def imports_of(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "recbole_diffusion":
            yield from (f"recbole_diffusion.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("part", ALLOWED)
def test_dependencies_point_one_way(part):
    files = list((PACKAGE / part).glob("*.py")) or [PACKAGE / f"{part}.py"]
    assert files
    for file in files:
        for module in imports_of(file):
            if part in ("diffusion", "layers"):
                assert not module.startswith("recbole.") and module != "recbole", f"{file} imports {module}"
            if module.startswith("recbole_diffusion."):
                inner = module.split(".", 1)[1]
                common = inner in ("errors", "properties", "schema")
                own = inner.split(".")[0] == part and part != "model"
                listed = any(inner == name or inner.startswith(f"{name}.") for name in ALLOWED[part])
                assert common or own or listed, f"{file.relative_to(ROOT)} imports {module}"


def test_no_recbole_name_is_shadowed_and_every_model_has_a_yaml():
    from importlib.util import find_spec

    for name in registry.MODELS:
        for kind in ("general", "sequential", "context_aware", "knowledge_aware"):
            assert find_spec(f"recbole.model.{kind}_recommender.{name.lower()}") is None
        assert name in property_names("model")
        assert registry.get_model(name).__name__ == name


@pytest.mark.parametrize("path", [*(ROOT / "properties" / "model").glob("*.yaml"), ROOT / "properties" / "overall.yaml"])
def test_every_setting_is_documented_and_its_default_is_in_range(path):
    from recbole_diffusion.properties import load_yaml

    schema, defaults = read_schema(path), load_yaml(path)
    assert set(defaults) == set(schema)
    for key, value in defaults.items():
        if value is not None:
            schema[key].check(value)


def test_properties_are_found_in_a_checkout():
    assert properties_dir() == ROOT / "properties"


def test_properties_travel_in_a_wheel(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(ROOT)],
        check=True,
    )
    wheel = next(tmp_path.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert "recbole_diffusion/properties/model/SimDiffRec.yaml" in names
    assert "recbole_diffusion/properties/paper/simdiffrec.table2.yaml" in names
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)
    code = "from recbole_diffusion.properties import properties_dir; print(properties_dir())"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == str(tmp_path / "site" / "recbole_diffusion" / "properties")


def test_import_is_light():
    code = "import sys, recbole_diffusion.cli; assert 'torch' not in sys.modules and 'recbole' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
