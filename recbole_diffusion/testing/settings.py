"""A tiny network of any model and the values of its switches, both from the documented lines of its yaml file."""

import math
import re
from fnmatch import fnmatchcase
from pathlib import Path

from recbole_diffusion.settings.properties import load_yaml, property_file
from recbole_diffusion.settings.registry import get_model
from recbole_diffusion.settings.schema import read_schema

# Most that a setting of such a name may be in a test, the first name that fits. Two layers show what stands between
# layers, 32 time steps are enough for every schedule.
LARGEST = {
    "*hidden_size": 16, "*embedding_size": 16, "*inner_size": 32, "*heads": 2, "*layers": 2, "*blocks": 2,
    "diffusion_steps": 32, "*_steps": 4, "k_*": 3, "n_*": 8, "*dropout*": 0.1, "epochs": 2, "eval_step": 1,
}  # fmt: skip
_RANGE = re.compile(r"Range:\s*([\[(])([^,]+),\s*([^\])]+)([\])])")
_CHOICES = re.compile(r"One of:\s*([^.]+)\.")


def documented(model):
    """Defaults and schema of a model's own yaml file: two dicts, empty for a model that has none."""
    path = Path(getattr(get_model(model), "settings_file", property_file("model", model)))
    return (load_yaml(path), read_schema(path)) if path.is_file() else ({}, {})


def small_settings(model):
    """Settings of a network of ``model`` that trains in a moment.

    Every documented number whose name says that it is a size (widths, layers, heads, steps, neighbours, dropout) is
    made small, but not smaller than its range allows; everything else keeps its default.

    Args:
        model (str): registered name.

    Returns:
        dict: setting -> value, only settings that are not small by default.
    """
    defaults, schema = documented(model)
    small = {}
    for key, setting in schema.items():
        most = next((most for pattern, most in LARGEST.items() if fnmatchcase(key, pattern)), None)
        if most is None or setting.type not in ("int", "float"):
            continue
        value = max(most, _least(setting))
        if value < defaults[key]:
            small[key] = value
    return small


def _least(setting):
    """The smallest value in the range of a whole number; other ranges have none."""
    bounds = range_of(setting)
    if not bounds or setting.type != "int" or math.isinf(bounds[0]):
        return -math.inf
    return int(bounds[0]) + (not bounds[2])


def range_of(setting):
    """The documented range of a setting: (low, high, whether low is in it, whether high is), or None."""
    found = _RANGE.search(setting.doc)
    return found and (float(found[2]), float(found[3]), found[1] == "[", found[4] == "]")


def choices_of(setting):
    """The values between which a documented setting chooses: words of its ``One of:``, or False and True, or none."""
    if setting.type == "bool":
        return [False, True]
    words = _CHOICES.search(setting.doc)
    return [word.strip() for word in words[1].split(",")] if words else []


def switch_values(model):
    """Every value of every switch of a model that is not its default, each alone. How data are viewed is no switch.

    Args:
        model (str): registered name.

    Returns:
        list[dict]: such as ``{"noise": "gaussian"}``, in the order of the yaml file.
    """
    defaults, schema = documented(model)
    return [
        {key: value}
        for key, setting in schema.items()
        for value in choices_of(setting)
        if key != "train_view" and str(value) != str(defaults[key])
    ]
