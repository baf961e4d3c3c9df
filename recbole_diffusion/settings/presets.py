"""Presets: named bundles of a model's settings, ``properties/preset/<Model>.<name>.yaml``, chosen by ``preset``.

``paper`` has the settings of the model's paper, ``released`` what its released code does otherwise as far as switches
go, ``quick`` trains in minutes on a laptop. A model from elsewhere keeps its presets beside its ``settings_file`` as
``<stem>.<name>.yaml``.
"""

from pathlib import Path

from recbole_diffusion.errors import UsageError, did_you_mean
from recbole_diffusion.settings.properties import load_yaml, properties_dir


def preset_files(model, settings_file=None):
    """Name -> path of every preset of a model, sorted by name.

    Args:
        model (str): registered name.
        settings_file (str | Path, optional): the yaml file of a model from elsewhere.
    """
    stem = Path(settings_file).with_suffix("") if settings_file else properties_dir() / "preset" / model
    files = stem.parent.glob(f"{stem.name}.*.yaml")
    return {path.name[len(stem.name) + 1 : -len(".yaml")]: path for path in sorted(files)}


def read_preset(model, name, dataset, settings_file=None):
    """The settings of a preset on a data set; its ``datasets`` holds more settings for single ones.

    Args:
        model (str): registered name.
        name (str): such as ``paper``.
        dataset (str): name of the data set.
        settings_file (str | Path, optional): see :func:`preset_files`.

    Returns:
        dict: key -> value.

    Raises:
        UsageError: when the model has no such preset, with those that it has.
    """
    files = preset_files(model, settings_file)
    if str(name) not in files:
        there = f"there are: {', '.join(files)}" if files else "it has none"
        raise UsageError(f"{model} has no preset '{name}'{did_you_mean(str(name), files)}: {there}")
    settings = load_yaml(files[str(name)])
    return {**settings, **(settings.pop("datasets", None) or {}).get(dataset, {})}


def describe_preset(path):
    """The comment at the top of a preset's file as one line."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    first = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return " ".join(line.lstrip("# ") for line in lines[:first])
