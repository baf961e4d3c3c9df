"""Search spaces: read, checked as settings of the model, cut to what the data can take, and drawn from."""

import json

from recbole_diffusion import quick_start
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.errors import UsageError
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.settings.properties import load_yaml, property_file, property_names
from recbole_diffusion.training.networks import build_model

RANGE_KEYS = {"low", "high", "log", "step"}


def read_space(args, settings):
    """The search space, each value checked as a setting of the model.

    Args:
        args (argparse.Namespace): model, data set, and file or None for ``properties/hyper/<model>.yaml``.
        settings (dict): settings of all trials; what they fix is not searched.

    Returns:
        dict: key -> list of values or a dict with ``low`` and ``high``.

    Raises:
        UsageError: no space, a malformed line, an unknown key, a value out of range.
    """
    if not args.space and args.model not in property_names("hyper"):
        known = ", ".join(property_names("hyper"))
        raise UsageError(f"no search space for {args.model} (there are: {known}): name a file with --space")
    source = args.space or property_file("hyper", args.model)
    space = {key: values for key, values in load_yaml(source).items() if key not in settings}
    if not space:
        raise UsageError(f"nothing to search: '{source}' has no key that is not fixed on the command line")
    for key, values in space.items():
        for value in ends_of(key, values):
            try:
                DiffusionConfig(args.model, args.dataset, config_dict={**settings, key: value})
            except UsageError as error:
                raise UsageError(f"search space '{source}', {key}: {error}") from None
    return space


def ends_of(key, values):
    """The values of a list, or the ends of a range. Raises UsageError for anything else."""
    if isinstance(values, list) and values:
        return values
    if isinstance(values, dict) and {"low", "high"} <= set(values) <= RANGE_KEYS:
        low, high = values["low"], values["high"]
        if all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in (low, high)) and low < high:
            return [low, high]
    raise UsageError(f"search space, {key}: must be a list of values or {{low: 0.1, high: 1, log: True}}, got {values}")


# What the data can take


def cut_to_data(space, args, settings, cache):
    """The space without numbers that are too large for the data, such as more neighbours than there are items.

    Networks are built with them, and nothing is trained: once where all is well.

    Args:
        space (dict): see :func:`read_space`.
        args (argparse.Namespace): model and data set.
        settings (dict): settings of all trials.
        cache (DataCache): keeps the data for the trials.

    Returns:
        dict: the space; a line is printed for every setting that lost values.

    Raises:
        UsageError: when no value of a setting fits.
    """
    numbers = {key: whole_numbers(values) for key, values in space.items()}
    numbers = {key: found for key, found in numbers.items() if found}
    if not reason_against({key: found[-1] for key, found in numbers.items()}, args, settings, cache):
        return space
    least = {key: found[0] for key, found in numbers.items()}
    space = dict(space)
    for key, found in numbers.items():
        fitting = count_fitting(found, lambda value: reason_against({**least, key: value}, args, settings, cache))
        if fitting == len(found):
            continue
        reason = reason_against({**least, key: found[fitting]}, args, settings, cache)
        if not fitting:
            raise UsageError(f"search space, {key}: {reason}")
        print(f"search space, {key}: nothing above {found[fitting - 1]} is tried: {reason}", flush=True)
        is_list = isinstance(space[key], list)
        fits = [value for value in space[key] if value <= found[fitting - 1]] if is_list else None
        space[key] = fits or {**space[key], "high": found[fitting - 1]}
    return space


def whole_numbers(values):
    """The whole numbers of a list or a range in order; nothing where others are among them."""
    ends = values if isinstance(values, list) else [values["low"], values["high"]]
    if not all(type(number) is int for number in ends):
        return []
    return sorted(set(ends)) if isinstance(values, list) else range(ends[0], ends[1] + 1)


def count_fitting(numbers, refusal):
    """How many of some numbers fit, of which the smaller ones do."""
    low, high = 0, len(numbers)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if refusal(numbers[middle]) else (middle + 1, high)
    return low


def reason_against(chosen, args, settings, cache):
    """Why no network of these settings can be built for the data, or None."""
    config = DiffusionConfig(args.model, args.dataset, config_dict={**settings, **chosen})
    data, _, parts = cache.get(config, quick_start.prepare_data)
    try:
        build_model(config, build_loaders(config, data, parts)[0])
    except UsageError as error:
        return str(error)


# Trials


def suggest(trial, key, values):
    """A value of a list, or of a range whose ends tell whether it is whole."""
    if isinstance(values, list):
        return trial.suggest_categorical(key, names_of(values))
    whole = all(isinstance(values[end], int) for end in ("low", "high"))
    options = {name: values[name] for name in ("log", "step") if name in values}
    return (trial.suggest_int if whole else trial.suggest_float)(key, values["low"], values["high"], **options)


def names_of(values):
    """Values as a study keeps them: those that are lists themselves as text."""
    return [json.dumps(value) if isinstance(value, list) else value for value in values]


def settings_of(params, space):
    """What a trial drew, as settings."""
    lists = {key: dict(zip(names_of(space[key]), space[key])) for key in params if isinstance(space.get(key), list)}
    return {key: lists[key][value] if key in lists else value for key, value in params.items()}


def grid_of(space):
    """The space for a grid. Raises UsageError where it has a range."""
    for key, values in space.items():
        if not isinstance(values, list):
            raise UsageError(f"--search=grid needs lists of values, {key} is a range")
    return {key: names_of(values) for key, values in space.items()}
