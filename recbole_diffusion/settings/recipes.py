"""Recipes: the best settings found on the validation part of a data set, ``properties/recipe/<dataset>.yaml``.

A file maps models to their settings. ``--config_files=recipe`` takes those of the model and the data set of the run.
"""

from recbole_diffusion.errors import UsageError, did_you_mean
from recbole_diffusion.settings.properties import load_yaml, property_file, property_names

WORD = "recipe"  # the name among config_files that stands for the file


def read_recipe(model, dataset):
    """The recipe of a model on a data set.

    Args:
        model (str): registered name.
        dataset (str): name of the data set.

    Returns:
        dict: key -> value.

    Raises:
        UsageError: when there is no recipe for the data set, or none for the model on it, with those that there are.
    """
    known = property_names(WORD)
    if dataset not in known:
        raise UsageError(f"no recipe for data set '{dataset}'{did_you_mean(str(dataset), known)}: there are: {', '.join(known)}")
    recipes = load_yaml(property_file(WORD, dataset))
    if model not in recipes:
        raise UsageError(
            f"no recipe for {model} on {dataset}{did_you_mean(str(model), recipes)}: there are: {', '.join(recipes)}"
        )
    return recipes[model]


def named_files(names):
    """Paths of a ``config_files``, or the word ``recipe``: a list, or a text with blanks between them."""
    return str(names or "").split() if not isinstance(names, (list, tuple)) else names


def expand_config_files(settings):
    """Settings with those of their ``config_files`` below them. Raises UsageError.

    ``recipe`` stays a name, since it depends on model and data set: each run reads it, below all others.
    """
    settings = dict(settings)
    expanded = {}
    for file in named_files(settings.pop("config_files", None)):
        expanded.update({"config_files": WORD} if file == WORD else load_yaml(file))
    return {**expanded, **settings}
