"""doctor: every known combination that does not fit, with the line that repairs it."""

import importlib.metadata
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from recbole_diffusion import doctor
from recbole_diffusion.cli import main
from recbole_diffusion.settings.properties import load_yaml, properties_dir
from recbole_diffusion.testing import cycle_sequences, write_sequences

GOOD = {name: "1.0" for name in (*doctor.SUPPORTED, *doctor.NEEDED_BY_RECBOLE)}
GOOD.update({name: None for name in doctor.OPTIONAL})
GOOD.update(recbole="1.2.1", torch="2.5.1+cpu", numpy="1.26.4", pandas="2.3.3", setuptools="80.0", jinja2="3.1")


def test_versions_that_fit():
    assert doctor.check_versions(GOOD, (3, 11)) == []


@pytest.mark.parametrize(
    "change, python, what, repair",
    [
        ({"pandas": "3.0.6"}, (3, 11), "3.0.6 is not supported: RecBole silently", 'pip install "pandas>=1.5,<3"'),
        ({"recbole": "1.1.1"}, (3, 11), "recbole 1.1.1 is not supported", 'pip install "recbole==1.2.1"'),
        ({"recbole": None}, (3, 12), "recbole is not installed", 'pip install --no-deps "recbole==1.2.1"'),
        ({"torch": "2.14.0"}, (3, 11), "torch 2.14.0 is not supported", 'pip install "torch>=2.2,<2.14"'),
        ({"torch": "2.1.2"}, (3, 11), "torch 2.1.2 is not supported", 'pip install "torch>=2.2,<2.14"'),
        ({"numpy": None}, (3, 11), "numpy is not installed", 'pip install "numpy>=1.23"'),
        ({"torch": "2.2.0", "numpy": "2.0.1"}, (3, 11), "was built for NumPy 1", 'pip install "numpy<2"'),
        ({}, (3, 8), "Python 3.8 is too old", "use Python 3.9 or later"),
        ({"colorlog": None, "thop": None}, (3, 11), "RecBole needs colorlog, thop", "pip install colorlog==4.7.2 thop"),
        ({"setuptools": None}, (3, 12), "thop needs distutils", "pip install setuptools"),
        ({"torchvision": "0.20.1"}, (3, 11), "torchvision 0.20.1 a CUDA build", "torchvision==0.20.*"),
        ({"torch": "2.5.1+cu124", "torchvision": "0.20.1+cpu"}, (3, 11), "is a CUDA build", "names for cu124"),
        ({"torch": "unknown"}, (3, 11), "torch is damaged: its version is 'unknown'", '--force-reinstall "torch>=2.2'),
        ({"recbole": "git"}, (3, 12), "recbole is damaged", 'pip install --force-reinstall --no-deps "recbole==1.2.1"'),
        ({"colorlog": ""}, (3, 11), "it tells no version", "pip install --force-reinstall colorlog==4.7.2"),
        ({"torchvision": ""}, (3, 11), "torchvision is damaged", "pip install --force-reinstall torchvision"),
        ({"setuptools": "git"}, (3, 12), "setuptools is damaged", "pip install --force-reinstall setuptools"),
        ({"torchvision": "0.19.0+cpu"}, (3, 11), "built for another PyTorch", "torchvision==0.20.*"),
    ],
)
def test_problems(change, python, what, repair):
    problems = [one for one in doctor.check_versions({**GOOD, **change}, python) if one.serious]
    assert len(problems) == 1 and what in problems[0].what and repair in problems[0].repair
    assert "\n" not in problems[0].what + problems[0].repair


@pytest.mark.parametrize(
    "change, what, repair",
    [
        ({"ray": "2.6.3", "setuptools": "84"}, "recbole.quick_start cannot be imported", 'pip install "setuptools<81"'),
        ({"numpy": "2.4.6"}, "RecBole's own Config and run_recbole fail", 'pip install "numpy<2"'),
        ({"torch": "2.6.0+cpu"}, "RecBole's own load_data_and_model fails", "recbole_diffusion.load_data_and_model"),
        ({"hyperopt": "0.3.0"}, "exhaustive search fails", 'pip install "hyperopt==0.2.5"'),
    ],
)
def test_notes_about_recboles_own_functions(change, what, repair):
    notes = doctor.check_versions({**GOOD, **change}, (3, 11))
    assert len(notes) == 1 and not notes[0].serious and what in notes[0].what and repair in notes[0].repair


def test_the_supported_versions_are_those_of_setup_py():
    text = (Path(__file__).parents[1] / "setup.py").read_text()
    required = re.search(r"install_requires=\[(.*?)\]", text, re.DOTALL)[1]
    wanted = {name + ",".join(sign + bound for sign, bound in bounds) for name, bounds in doctor.SUPPORTED.items()}
    assert set(re.findall(r'"(.+?)"', required)) == wanted


def test_optional_packages_are_those_of_the_extras():
    text = (Path(__file__).parents[1] / "setup.py").read_text()
    for extra in ("modality", "tune", "viz", "export"):
        packages = re.search(rf'"{extra}": \[(.*?)\]', text)[1]
        assert {re.split("[<>=]", name)[0] for name in re.findall(r'"(.+?)"', packages)} <= set(doctor.OPTIONAL)


def test_recboles_requirements_are_those_of_its_package():
    names = {re.split(r"[ (;<>=]", line)[0] for line in importlib.metadata.requires("recbole") if "extra" not in line}
    assert names - {"ray"} <= {*doctor.NEEDED_BY_RECBOLE, *doctor.SUPPORTED}


def test_a_cpu_build_of_an_unknown_version_beside_a_driver_is_noted(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    cuda = types.SimpleNamespace(is_available=lambda: False)
    torch = types.SimpleNamespace(cuda=cuda, version=types.SimpleNamespace(cuda=None), get_num_threads=lambda: 3)
    monkeypatch.setattr(doctor.importlib, "import_module", lambda name: torch)
    assert doctor.check_device({**GOOD, "torch": ""})[1][0].repair == 'pip install --force-reinstall "torch"'


@pytest.fixture
def fits(monkeypatch):
    monkeypatch.setattr(doctor, "installed", lambda: dict(GOOD))
    monkeypatch.setattr(doctor, "check_device", lambda found: ("cpu, 2 threads", []))


def test_a_good_installation_is_0_and_names_the_data_sets(fits, tmp_path, capsys):
    write_sequences(cycle_sequences(), tmp_path / "data", "mine")
    (tmp_path / "data" / "parts").mkdir()
    (tmp_path / "data" / "parts" / "parts.train.inter").touch()
    (tmp_path / "data" / "other").mkdir()
    (tmp_path / "data" / "other" / "wrong.inter").touch()
    assert main(["doctor", f"--data_path={tmp_path}/data"]) == 0
    output = capsys.readouterr().out
    assert f"looked for in {tmp_path}/data" in output and "data sets there: mine, parts; ml-100k comes" in output and "; toy comes with this" in output
    assert "not there: beauty" in output and "device: cpu, 2 threads" in output and output.endswith("no problems\n")


def test_a_problem_is_1_and_stands_before_the_notes(fits, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "installed", lambda: {**GOOD, "pandas": "3.0.6", "numpy": "2.4.6"})
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    found = [number for number, line in enumerate(lines) if line.startswith(("problem: ", "note: "))]
    assert lines[found[0]].startswith("problem: pandas 3.0.6")
    assert lines[found[0] + 1] == '    pip install "pandas>=1.5,<3"'
    assert all(lines[number].startswith("note: ") for number in found[1:]) and lines[-1] == "1 problem(s)"


def test_what_an_interrupted_installation_left_behind_is_a_problem(tmp_path, monkeypatch, capsys):
    (tmp_path / "thop-0.1.dist-info").mkdir()
    (tmp_path / "thop-0.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: thop\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert doctor.installed()["thop"] == ""
    assert main(["doctor"]) == 1
    output = capsys.readouterr().out
    assert "problem: the installation of thop is damaged: it tells no version\n" in output
    assert "    pip install --force-reinstall thop\n" in output


def test_the_default_folder_is_that_of_the_settings(fits, capsys, tmp_path):
    assert main(["doctor"]) == 0
    output = capsys.readouterr().out
    default = load_yaml(properties_dir() / "overall.yaml")["data_path"]
    assert str(tmp_path / default).rstrip("/") in output and "note: there is no folder" in output


def test_an_import_that_fails_is_a_problem(fits, monkeypatch, capsys):
    real = doctor.importlib.import_module

    def broken(name):
        if name == "recbole_diffusion.doctor":  # the command itself
            return real(name)
        raise RuntimeError("operator torchvision::nms does not exist\nand more")

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    assert main(["doctor"]) == 1
    output = capsys.readouterr().out
    assert "cannot be imported: RuntimeError: operator torchvision::nms does not exist and more" in output


def test_a_folder_that_cannot_be_written_is_a_problem(fits, monkeypatch, capsys):
    monkeypatch.setattr(doctor.os, "access", lambda *args: False)
    assert main(["doctor"]) == 1
    assert "nothing can be written in" in capsys.readouterr().out


@pytest.mark.parametrize(
    "gpu, build, driver, description, note",
    [
        (True, "12.4", None, "cuda, Big", None),
        (False, "12.4", None, "cpu, 3 threads", "sees no GPU"),
        (False, None, "/usr/bin/nvidia-smi", "cpu, 3 threads", "PyTorch is a CPU build"),
        (False, None, None, "cpu, 3 threads", None),
    ],
)
def test_device(monkeypatch, gpu, build, driver, description, note):
    cuda = types.SimpleNamespace(is_available=lambda: gpu, get_device_name=lambda n: "Big")
    torch = types.SimpleNamespace(cuda=cuda, version=types.SimpleNamespace(cuda=build), get_num_threads=lambda: 3)
    monkeypatch.setattr(doctor.importlib, "import_module", lambda name: torch)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: driver)
    found, notes = doctor.check_device(GOOD)
    assert found == description and [note in one.what for one in notes] == ([True] if note else [])
    assert not any(one.serious for one in notes)


def test_doctor_itself_needs_no_torch():
    code = "import sys, recbole_diffusion.doctor; assert not {'torch', 'numpy', 'pandas', 'recbole'} & set(sys.modules)"
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(root)})


def test_wrong_words(capsys):
    assert main(["doctor", "--fast"]) == 2
    assert "unrecognized arguments: --fast" in capsys.readouterr().err
