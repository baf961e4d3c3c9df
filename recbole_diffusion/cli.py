"""The command line. Values are read as YAML scalars and never evaluated as code."""

import argparse
import os
import sys
import traceback
import warnings

from recbole_diffusion import __version__
from recbole_diffusion.errors import UsageError, did_you_mean
from recbole_diffusion.properties import parse_scalar, properties_dir, property_file, property_names
from recbole_diffusion.schema import read_schema

USAGE = """usage: recbole-diffusion [run] --model=NAME --dataset=NAME [--KEY=VALUE ...]
       recbole-diffusion compare --models=A,B --datasets=X,Y --seeds=3 [--KEY=VALUE ...]
       recbole-diffusion compare --paper=simdiffrec.table2 --datasets=beauty
       recbole-diffusion tune --model=NAME --dataset=NAME --trials=20 [--KEY=VALUE ...]
       recbole-diffusion plot curves | sweep | groups | tsne ... (plot --help)
       recbole-diffusion prepare NAME --source=FILE | --download
       recbole-diffusion check-data NAME
       recbole-diffusion features --dataset=NAME [--text_model=FOLDER]
       recbole-diffusion recommend CHECKPOINT --input=FILE --output=FILE [--k=10] [--exclude-seen]
       recbole-diffusion export CHECKPOINT --format=onnx --output=FILE
       recbole-diffusion doctor
       python run_recbole_diffusion.py takes the same words.

Trains a model, picks the best epoch on the validation part and tests it.

  -m, --model NAME          a model of this package or any sequential model of RecBole (SASRec, GRU4Rec, ...)
  -d, --dataset NAME        a folder NAME/ under --data_path, or ml-100k, which needs no download
  --nproc N                 train in N processes; see docs/several_processes.md, also for torchrun
  --config_files "A B"      yaml files; later ones win, the command line wins over all
  --result_file FILE.json   write everything the run found
  --KEY VALUE, --KEY=VALUE  any setting of RecBole or of the model
  --debug                   show the traceback of an error
  --help                    this text; with --model=NAME also the settings of the model
  --version
"""


def main(argv=None):
    """Run one command.

    Args:
        argv (list[str], optional): words after the program's name; by default those of the process.

    Returns:
        int: 0 on success, 1 when ``doctor`` finds a problem, 2 for wrong input, 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    warnings.filterwarnings("ignore", category=FutureWarning, module="recbole")
    try:
        return dispatch([word for word in words if word != "--debug"])
    except UsageError as error:
        if debug:
            traceback.print_exc()
        if speaks():
            print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `... | head` has read enough
        sys.stdout = None
        return 0
    except KeyboardInterrupt as interrupt:
        print(f"\ninterrupted{': ' + str(interrupt) if str(interrupt) else ''}", file=sys.stderr)
        return 130


def speaks():
    """Whether this process may print: of several that torchrun started, only the first."""
    return os.environ.get("RANK", "0") == "0" or os.environ.get("WORLD_SIZE", "1") == "1"


def dispatch(words):
    """Hand the words to a command; without one they are those of ``run``."""
    commands = {
        "run": run_command,
        "compare": compare_command,
        "tune": tune_command,
        "plot": plot_command,
        "prepare": prepare_command,
        "check-data": check_command,
        "features": features_command,
        "recommend": recommend_command,
        "export": export_command,
        "doctor": doctor_command,
    }
    if "--version" in words:
        print(f"recbole-diffusion {__version__}")
        return 0
    if words and not words[0].startswith("-"):
        if words[0] not in commands:
            hint = did_you_mean(words[0], commands) or f", there are: {', '.join(commands)}"
            raise UsageError(f"unknown command '{words[0]}'{hint}")
        if words[0] != "run" and os.environ.get("WORLD_SIZE", "1") != "1" and "RANK" in os.environ:
            raise UsageError(f"{words[0]} does not run under torchrun: start it as it is")
        return commands[words[0]](words[1:])
    return run_command(words)


def parse_settings(words):
    """``--key=value``, ``--key value`` and bare ``--flag`` into a dict of typed values.

    Raises:
        UsageError: for a word that is no setting, and for a key given twice with different values.
    """
    short = {"-m": "--model", "-d": "--dataset"}
    settings, words = {}, list(words)
    while words:
        word = words.pop(0)
        word = short.get(word, word)
        if not word.startswith("--") or word == "--":
            raise UsageError(f"'{word}' is not a setting: write --key=value")
        key, has_value, text = word[2:].partition("=")
        if not has_value:
            text = words.pop(0) if words and not words[0].startswith("--") else "True"
        value = text if key in ("model", "dataset", "config_files", "result_file") else parse_scalar(text)
        if settings.setdefault(key, value) != value:
            raise UsageError(f"--{key} is given twice: {settings[key]} and {value}")
    return settings


def run_command(words):
    """Train and test one model."""
    if not words or "--help" in words or "-h" in words:
        print_help([word for word in words if word not in ("--help", "-h")])
        return 0 if words else 2
    settings = parse_settings(words)
    files = settings.pop("config_files", "").split()
    from recbole_diffusion.quick_start import run

    result = run(config_file_list=files, config_dict=settings)
    if speaks():
        print(format_result(result))
    return 0


def format_result(result):
    """The test metrics as a table, both protocols side by side, and where the checkpoint is."""
    both = (result["test_result_unmasked"], result["test_result_masked"])
    chosen = "masked" if result["mask_history"] else "not masked"
    lines = [
        "",
        f"Test of {result['model']} on {result['dataset']}, best epoch {result['best_epoch']} (counted from 0) of "
        f"{result['epochs']}, seed {result['seed']} (model chosen with the history {chosen})",
        f"{'metric':<10}{'history not masked':>20}{'history masked':>18}",
    ]
    for metric, value in both[0].items():
        masked = f"{both[1][metric]:.4f}" if both[1] else "not available"
        lines.append(f"{metric:<10}{value:>20.4f}{masked:>18}")
    if result["leaks_test_labels"]:
        lines.append("These figures LEAK: the model saw the test targets (graph_source: all).")
    if result["checkpoint"]:
        lines.append(f"checkpoint: {result['checkpoint']}")
    return "\n".join(lines)


def print_help(words):
    """Usage, and the documented settings of the model that the words name."""
    print(USAGE)
    print(f"models of this package: {', '.join(property_names('model'))}")
    print(f"data sets with settings: {', '.join(property_names('dataset'))}")
    model = parse_settings(words).get("model") if words else None
    files = [properties_dir() / "overall.yaml"] + ([property_file("model", model)] if model else [])
    for path in files:
        if path.is_file():
            print(f"\nsettings in {path.parent.name}/{path.name}:")
            for setting in read_schema(path).values():
                print(f"  {setting.key} ({setting.type}): {setting.doc}")


def compare_command(words):
    """Run models on data sets with several seeds and write tables."""
    from recbole_diffusion.analysis.compare import add_arguments, main as compare_main

    parser = Parser(prog="recbole-diffusion compare")
    add_arguments(parser)
    known, rest = parser.parse_known_args(words)
    return compare_main(known, parse_settings(rest))


def tune_command(words):
    """Search settings on the validation part."""
    from recbole_diffusion.analysis.tune import add_arguments, main as tune_main

    parser = Parser(prog="recbole-diffusion tune")
    add_arguments(parser)
    known, rest = parser.parse_known_args(words)
    return tune_main(known, parse_settings(rest))


def plot_command(words):
    """Draw curves, sweeps, groups of users and embeddings."""
    from recbole_diffusion.analysis import plot

    return _run_parser("plot", plot, words)


def prepare_command(words):
    """Build atomic files from public raw files."""
    from recbole_diffusion.data import prepare

    return _run_parser("prepare", prepare, words)


def check_command(words):
    """Check the atomic files of a data set."""
    from recbole_diffusion.data import check

    return _run_parser("check-data", check, words)


def features_command(words):
    """Turn texts and images of items into a feature file."""
    from recbole_diffusion.data import extract

    return _run_parser("features", extract, words)


def recommend_command(words):
    """Recommend for the histories of a file."""
    from recbole_diffusion import recommend

    return _run_parser("recommend", recommend, words)


def export_command(words):
    """Write a trained model for other programs."""
    from recbole_diffusion import export

    return _run_parser("export", export, words)


def doctor_command(words):
    """Say what of the installation does not fit."""
    from recbole_diffusion import doctor

    return _run_parser("doctor", doctor, words)


class Parser(argparse.ArgumentParser):
    """argparse that refuses wrong words in one line like everything else."""

    def error(self, message):
        raise UsageError(f"{message} ('{self.prog} --help' lists the arguments)")


def _run_parser(name, module, words):
    parser = Parser(prog=f"recbole-diffusion {name}", allow_abbrev=False)
    module.add_arguments(parser)
    return module.main(parser.parse_args(words)) or 0


if __name__ == "__main__":
    sys.exit(main())
