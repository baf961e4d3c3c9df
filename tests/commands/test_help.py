"""What --help says, and that it answers at once."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recbole_diffusion.cli import main, parse_settings
from recbole_diffusion.commands.table import COMMANDS
from recbole_diffusion.settings.recbole_files import stock_models, stock_settings
from recbole_diffusion.settings.registry import UNSUPPORTED, recbole_models

ROOT = Path(__file__).parents[2]
LOOKING = """
import sys
from recbole_diffusion.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
for name in ("torch", "recbole"):
    assert name not in sys.modules, f"{name} is imported"
sys.exit(code)
"""
HELPS = [
    *([name, "--help"] for name in COMMANDS),
    *(["plot", kind, "--help"] for kind in ("curves", "sweep", "groups", "tsne")),
]
HELPS += [["--help"], ["run", "--help"], ["--help", "--model=DiffSBR"], ["list", "papers"]]
HELPS += [["train", "-h", "-m", "GRU4Rec", "-d", "beauty"], ["help", "compare"]]


def python(*words, **environment):
    """The command in a process of its own: (exit code, output, seconds)."""
    start = time.perf_counter()
    found = subprocess.run([sys.executable, *words], env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
                           capture_output=True, text=True)  # fmt: skip
    return found.returncode, found.stdout + found.stderr, time.perf_counter() - start


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_no_help_imports_pytorch_or_recbole(words):
    code, output, _ = python("-c", LOOKING, *words)
    assert code == 0, output
    assert "usage: recbole-diffusion" in output or words[0] == "list"


def test_help_answers_within_a_second():
    times = [python("-m", "recbole_diffusion", name, "--help")[2] for name in ("compare", "tune", "plot", "recommend")]
    assert min(times) < 1  # importing PyTorch takes several; the quickest, for a busy machine


def test_the_first_page_names_every_command(capsys):
    assert main(["--help"]) == 0
    output = capsys.readouterr().out
    assert [name for name in COMMANDS if f"recbole-diffusion {name}" not in output] == []


def test_the_command_runs_as_a_module():
    code, output, _ = python("-m", "recbole_diffusion", "--version")
    assert code == 0 and output.startswith("recbole-diffusion ")


def test_help_documents_the_settings_of_a_model_with_their_defaults(capsys):
    assert main(["--help", "--model=SimDiffRec"]) == 0
    output = capsys.readouterr().out
    assert "k_noise (int, default 30): " in output and "--preset=quick: Minutes" in output
    assert "epochs (int, default 300): Most training epochs." in output


def test_help_documents_models_of_recbole(capsys):
    assert main(["train", "--help", "--model=GRU4Rec"]) == 0
    output = capsys.readouterr().out
    assert "dropout_prob (float, default 0.3): The dropout rate." in output


def test_help_shows_the_settings_of_a_data_set(capsys):
    assert main(["--help", "--dataset=beauty"]) == 0
    assert "  user_inter_num_interval: [5,inf)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, message",
    [
        (["--help", "--model=SimDifRec"], "unknown model 'SimDifRec', did you mean 'SimDiffRec'?"),
        (["--help", "--model=FEARec"], "RecBole's FEARec cannot run here: it reads the padded histories"),
        (["--help", "--model=SASRec", "--preset=quick"], "SASRec has no preset 'quick': it has none"),
        (["--help", "--dataset=bauty"], "unknown data set 'bauty', did you mean 'beauty'?"),
        (["help", "comparee"], "unknown command 'comparee', did you mean 'compare'?"),
        (["comparee", "--help"], "unknown command 'comparee', did you mean 'compare'?"),
    ],
)
def test_a_wrong_name_is_an_error(words, message, capsys):
    assert main(words) == 2
    assert f"error: {message}" in capsys.readouterr().err


def test_help_alone_is_the_usage(capsys):
    assert main(["help"]) == 0
    with_help = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == with_help


def test_config_files_have_the_names_of_recbole():
    for name in ("config", "config_file", "config_files"):
        assert parse_settings([f"--{name}=a.yaml b.yaml"]) == {"config_files": "a.yaml b.yaml"}


def test_all_models_of_recbole_are_known_without_importing_it():
    assert set(stock_models()) == set(recbole_models())
    assert set(UNSUPPORTED) <= set(stock_models())
    for name in stock_models():
        assert all(setting.default for setting in stock_settings(name)), name
    by_key = {setting.key: setting for setting in stock_settings("LightSANs")}
    assert str(by_key["k_interests"]) == "k_interests (default 5)"  # its line has no comment
