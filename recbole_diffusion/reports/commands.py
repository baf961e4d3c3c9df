"""Shell commands from settings."""

import json
import shlex

from recbole_diffusion.settings.free import PLACES
from recbole_diffusion.settings.properties import parse_scalar


def run_command(result):
    """The command that makes one cell again, from the settings that were given."""
    if "given" not in result:
        return result["command"]
    settings = {"model": result["model"], "dataset": result["dataset"], "seed": result["seed"], **result["given"]}
    return f"python run_recbole_diffusion.py {format_settings(settings)}"


def commands_of(rows):
    """Label and command of every row that can run."""
    return [(label, run_command(cells[0])) for label, cells in rows.items() if "absent" not in cells[0]]


def format_settings(settings):
    """Settings without places as words of a shell command; the command line reads back the same values."""
    return " ".join(
        shlex.quote(f"--{key}={format_value(value)}") for key, value in settings.items() if key not in PLACES
    )


def format_value(value):
    """A value as the YAML text of a command-line word."""
    if isinstance(value, str):
        return value if parse_scalar(value) == value else json.dumps(value)  # quoted where '1' would become 1
    return str(value) if isinstance(value, (bool, int, float)) else json.dumps(value)
