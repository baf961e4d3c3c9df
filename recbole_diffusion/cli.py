"""The command line. Values are read as YAML scalars and never evaluated as code."""

import argparse
import importlib
import os
import sys
import traceback
import warnings

from recbole_diffusion import __version__, threads
from recbole_diffusion.errors import UsageError, did_you_mean
from recbole_diffusion.files import expand_home
from recbole_diffusion.settings.presets import describe_preset, preset_files
from recbole_diffusion.settings.properties import (
    parse_scalar,
    parse_separator,
    properties_dir,
    property_file,
    property_names,
)
from recbole_diffusion.settings.schema import read_schema

# Command -> module, imported only when it is asked for.
COMMANDS = {
    "compare": "experiments.compare",
    "tune": "experiments.tune",
    "plot": "reports.plot",
    "prepare": "prepare.command",
    "check-data": "prepare.check",
    "features": "prepare.extract",
    "recommend": "serving.recommend",
    "export": "serving.export",
    "doctor": "doctor",
}
TAKE_SETTINGS = ("compare", "tune", "check-data")

USAGE = """usage: recbole-diffusion [run] --model=NAME --dataset=NAME [--KEY=VALUE ...]
       recbole-diffusion compare --models=A,B --datasets=X,Y --seeds=3 [--KEY=VALUE ...]
       recbole-diffusion compare --paper=simdiffrec.table2 --datasets=beauty
       recbole-diffusion tune --model=NAME --dataset=NAME --trials=20 [--KEY=VALUE ...]
       recbole-diffusion plot curves | sweep | groups | tsne ... (plot --help)
       recbole-diffusion prepare NAME --source=FILE [--user=COLUMN ...] | --download
       recbole-diffusion check-data NAME [--KEY=VALUE ...]
       recbole-diffusion features --dataset=NAME [--text_model=FOLDER]
       recbole-diffusion recommend CHECKPOINT --input=FILE --output=FILE [--k=10] [--exclude-seen]
       recbole-diffusion export CHECKPOINT --format=onnx --output=FILE
       recbole-diffusion doctor
       python run_recbole_diffusion.py takes the same words.

Trains a model, picks the best epoch on the validation part and tests it.

  -m, --model NAME          a model of this package or any sequential model of RecBole (SASRec, GRU4Rec, ...)
  -d, --dataset NAME        a folder NAME/ under --data_path, or ml-100k, which needs no download
  --nproc N                 train in N processes; see docs/several_processes.md, also for torchrun
  --preset NAME             a bundle of the model's settings: paper, released, quick; --help --model=NAME lists them
  --config_files "A B"      yaml files; later ones win, the command line wins over all
  --result_file FILE.json   where everything the run found is written (default: beside the checkpoint)
  --KEY VALUE, --KEY=VALUE  any setting of RecBole or of the model
  --quiet, --verbose        print warnings and the result only, or the whole log
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
    threads.choose()  # before anything imports PyTorch
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    warnings.filterwarnings("ignore", category=FutureWarning, module="recbole")
    make_streams_lenient()
    try:
        code = dispatch([word for word in words if word != "--debug"])
        sys.stdout.flush()  # a full disk shall be told here and not by Python's last words
        return code
    except UsageError as error:
        if debug:
            traceback.print_exc()
        if speaks():
            print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `... | head` has read enough
        sys.stdout = None
        return 0
    except OSError as error:
        if debug or not output_fails():
            raise
        print(f"error: standard output cannot be written: {error.strerror or error}", file=sys.stderr)
        sys.stdout = None
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"\ninterrupted{': ' + str(interrupt) if str(interrupt) else ''}", file=sys.stderr)
        return 130


def make_streams_lenient():
    """No result is lost for a letter that the encoding of a stream lacks, nor for a stream that is closed.

    An escape is shown for the letter; what is closed becomes the null device, so that no file gets its number.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8", errors="backslashreplace"))
        elif getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def output_fails():
    """Whether standard output is what cannot be written."""
    try:
        print(flush=True)
    except OSError:
        return True
    return False


def speaks():
    """Whether this process may print: of several that torchrun started, only the first."""
    return os.environ.get("RANK", "0") == "0" or os.environ.get("WORLD_SIZE", "1") == "1"


def dispatch(words):
    """Hand the words to a command; without one they are those of ``run``."""
    if "--version" in words:
        print(f"recbole-diffusion {__version__}")
        return 0
    name, rest = (words[0], words[1:]) if words and not words[0].startswith("-") else ("run", words)
    if name not in ("run", *COMMANDS):
        hint = did_you_mean(name, ["run", *COMMANDS]) or f", there are: {', '.join(['run', *COMMANDS])}"
        raise UsageError(f"unknown command '{name}'{hint}")
    if name == "run":
        return run_command(rest)
    if os.environ.get("WORLD_SIZE", "1") != "1" and "RANK" in os.environ:
        raise UsageError(f"{name} does not run under torchrun: start it as it is")
    return run_module(name, rest)


def run_module(name, words):
    """Run the command of a module, which has ``add_arguments(parser)`` and ``main(arguments)``.

    Those that train or check data take settings as well: words that are no arguments go to ``main`` as a second value.
    """
    module = importlib.import_module(f"recbole_diffusion.{COMMANDS[name]}")
    parser = Parser(prog=f"recbole-diffusion {name}", allow_abbrev=False)
    module.add_arguments(parser)
    if name in TAKE_SETTINGS:
        arguments, rest = parser.parse_known_args(words)
        return module.main(with_homes(arguments), parse_settings(rest))
    return module.main(with_homes(parser.parse_args(words))) or 0


def with_homes(arguments):
    """The words of a command with the home folder for the ``~`` of paths, which shells leave alone behind ``--key=``."""
    for name, value in vars(arguments).items():
        values = value if isinstance(value, list) else [value]
        expanded = [expand_home(one) if isinstance(one, str) and one.startswith("~") else one for one in values]
        setattr(arguments, name, expanded if isinstance(value, list) else expanded[0])
    return arguments


def parse_settings(words):
    """``--key=value``, ``--key value`` and bare ``--flag`` into a dict of typed values.

    Raises:
        UsageError: for a word that is no setting, and for a key given twice with different values.
    """
    short = {"-m": "--model", "-d": "--dataset", "--quiet": "--console=quiet", "--verbose": "--console=verbose"}
    settings, words = {}, list(words)
    while words:
        word = words.pop(0)
        word = short.get(word, word)
        if not word.startswith("--") or word == "--":
            raise UsageError(f"'{word}' is not a setting: write --key=value")
        key, has_value, text = word[2:].partition("=")
        if not has_value:
            text = words.pop(0) if words and not words[0].startswith("--") else "True"
        settings_of_text = ("model", "dataset", "config_files", "result_file")
        parse = parse_separator if key in ("seq_separator", "field_separator") else parse_scalar
        value = text if key in settings_of_text else parse(text)
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
        print(f"\n{result}")
    return 0


def print_help(words):
    """Usage, and the documented settings of the model that the words name."""
    print(USAGE)
    print(f"models of this package: {', '.join(property_names('model'))}")
    print(f"data sets with settings: {', '.join(property_names('dataset'))}")
    model = parse_settings(words).get("model") if words else None
    for name, path in preset_files(model).items() if model else ():
        print(f"--preset={name}: {describe_preset(path)}")
    files = [properties_dir() / "overall.yaml"] + ([property_file("model", model)] if model else [])
    for path in files:
        if path.is_file():
            print(f"\nsettings in {path.parent.name}/{path.name}:")
            for setting in read_schema(path).values():
                print(f"  {setting.key} ({setting.type}): {setting.doc}")


class Parser(argparse.ArgumentParser):
    """argparse that refuses wrong words in one line like everything else."""

    def error(self, message):
        raise UsageError(f"{message} ('{self.prog} --help' lists the arguments)")


if __name__ == "__main__":
    sys.exit(main())
