"""The command line. Values are read as YAML scalars and never evaluated as code."""

import argparse
import os
import sys
import traceback
import warnings

from recbole_diffusion import __version__, threads
from recbole_diffusion.commands.help import print_help
from recbole_diffusion.commands.table import COMMANDS
from recbole_diffusion.errors import UsageError, did_you_mean
from recbole_diffusion.files import expand_home
from recbole_diffusion.settings.properties import parse_scalar, parse_separator

SYNONYMS = {"train": "run"}
NAMES = ("run", *SYNONYMS, *COMMANDS, "help")


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
    if name not in NAMES:
        hint = did_you_mean(name, NAMES) or f", there are: {', '.join(NAMES)}"
        raise UsageError(f"unknown command '{name}'{hint}")
    if name == "help":
        return dispatch([*rest, "--help"])
    if SYNONYMS.get(name, name) == "run":
        return run_command(rest)
    if os.environ.get("WORLD_SIZE", "1") != "1" and "RANK" in os.environ and not COMMANDS[name].in_parts:
        raise UsageError(f"{name} does not run under torchrun: start it as it is")
    return run_module(name, rest)


def run_module(name, words):
    """Run a command of the table; those that take settings get the words that are no arguments as a second value."""
    command = COMMANDS[name]
    parser = Parser(prog=f"recbole-diffusion {name}", allow_abbrev=False)
    command.add_arguments(parser)
    if command.takes_settings:
        arguments, rest = parser.parse_known_args(words)
        return command.run(with_homes(arguments), parse_settings(rest))
    return command.run(with_homes(parser.parse_args(words))) or 0


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
    files = dict.fromkeys(("config", "config_file"), "config_files")  # as RecBole's own scripts have it
    short = {"-m": "--model", "-d": "--dataset", "--quiet": "--console=quiet", "--verbose": "--console=verbose"}
    settings, words = {}, list(words)
    while words:
        word = words.pop(0)
        word = short.get(word, word)
        if not word.startswith("--") or word == "--":
            raise UsageError(f"'{word}' is not a setting: write --key=value")
        key, has_value, text = word[2:].partition("=")
        key = files.get(key, key)
        if not has_value:
            text = words.pop(0) if words and not words[0].startswith("--") else "True"
        settings_of_text = ("model", "dataset", "config_files", "result_file")
        parse = parse_separator if key in ("seq_separator", "field_separator") else parse_scalar
        value = text if key in settings_of_text else parse(text)
        if repr(settings.setdefault(key, value)) != repr(value):  # .nan differs from itself
            raise UsageError(f"--{key} is given twice: {settings[key]} and {value}")
    return settings


def run_command(words):
    """Train and test one model."""
    if not words or "--help" in words or "-h" in words:
        print_help(parse_settings([word for word in words if word not in ("--help", "-h")]))
        return 0 if words else 2
    settings = parse_settings(words)
    from recbole_diffusion.quick_start import run

    result = run(config_dict=settings)
    if speaks():
        print(f"\n{result}")
    return 0


class Parser(argparse.ArgumentParser):
    """argparse that refuses wrong words in one line like everything else."""

    def error(self, message):
        raise UsageError(f"{message} ('{self.prog} --help' lists the arguments)")


if __name__ == "__main__":
    sys.exit(main())
