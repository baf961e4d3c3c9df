"""What a comparison trains: rows x data sets x seeds from words, files and published tables, each cell checked."""

import itertools
from dataclasses import dataclass
from pathlib import Path

from recbole_diffusion.data.atomic_files import find_atomic
from recbole_diffusion.errors import UsageError, did_you_mean
from recbole_diffusion.experiments.fingerprint import fingerprint
from recbole_diffusion.experiments.work import first_line
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.settings.free import PLACES
from recbole_diffusion.settings.properties import load_yaml, missing_file_message, property_names
from recbole_diffusion.settings.recipes import expand_config_files
from recbole_diffusion.settings.registry import plugin_models, recbole_models

FIRST_SEED = 2020
ONE_PROCESS = dict.fromkeys(("nproc", "world_size"), "every training of it is one process")


@dataclass(frozen=True)
class Row:
    """One line of the tables: a model with settings, and more settings for single data sets."""

    label: str
    model: str
    settings: dict
    per_dataset: dict


@dataclass(frozen=True)
class Cell:
    """One training: a row on a data set with a seed, the file that keeps its result and what it depends on."""

    row: str
    model: str
    dataset: str
    seed: int
    given: dict
    path: Path
    fingerprint: dict

    def __str__(self):
        return f"{self.row} on {self.dataset}, seed {self.seed}"

    @property
    def failed_path(self):
        """File that keeps the error of the last try."""
        return self.path.with_suffix(".failed.json")

    @property
    def ranks_path(self):
        """File that keeps the ranks of the test targets."""
        return self.path.with_suffix(".npz")

    def describe(self):
        """The keys that every stored cell has, finished or failed."""
        given = {key: value for key, value in self.given.items() if key not in PLACES}
        return {"row": self.row, "model": self.model, "dataset": self.dataset, "seed": self.seed, "given": given,
                "fingerprint": self.fingerprint}  # fmt: skip


def plan_cells(args, settings, preset=None):
    """Every cell of the selection, checked.

    Args:
        args (argparse.Namespace): see :func:`recbole_diffusion.experiments.arguments.add_compare`.
        settings (dict): settings of all cells.
        preset (Preset, optional): rows and data sets of a published table.

    Returns:
        tuple: the cells by data set, row and seed, and the entries of :func:`in_order` for the rows of a preset.

    Raises:
        UsageError: empty selection, unknown model, key or data set, value out of range, missing data file.
    """
    reasons = {"model": "use --models", "dataset": "use --datasets", "result_file": "cells are kept in --out"}
    refuse(settings, {**reasons, **ONE_PROCESS})
    datasets = select_datasets(args, preset)
    rows = read_rows(args, settings, datasets, preset)
    seeds = list_seeds(args.seeds, settings)
    known = {*plugin_models(), *recbole_models()} if preset else {row.model for row in rows}
    runnable = [row for row in rows if row.model in known]
    chosen = itertools.product(datasets, runnable, seeds)
    cells = [plan_cell(row, dataset, seed, settings, args) for dataset, row, seed in chosen]
    return cells, [
        {"row": row.label, "model": row.model, "dataset": dataset, "seed": "", "given": {},
         "absent": "not run yet" if row in runnable else "no such model yet"}
        for dataset in datasets for row in rows if preset
    ]  # fmt: skip


def select_datasets(args, preset):
    """Names of --datasets, by default those of the preset. Raises UsageError."""
    if preset and not args.datasets:
        return list(preset.datasets)
    names = split_names(args.datasets, "datasets")
    for name in names if preset else ():
        if name not in preset.datasets:
            hint = did_you_mean(name, preset.datasets) or f", there are: {', '.join(preset.datasets)}"
            raise UsageError(f"--paper={preset.name} has no data set '{name}'{hint}")
    return names


def plan_cell(row, dataset, seed, settings, args):
    """One checked cell. Raises UsageError."""
    given = {**settings, **row.settings, **row.per_dataset.get(dataset, {})}
    given.pop("seed", None)
    try:
        config = DiffusionConfig(row.model, dataset, config_dict={**given, "seed": seed})
        if not args.only_tables:
            check_files(config)
    except ValueError as error:  # RecBole raises it for some wrong values, UsageError is one
        raise UsageError(f"{row.label} on {dataset}: {first_line(error)}") from None
    try:
        found = fingerprint(config)
    except OSError as error:
        raise UsageError(f"{row.label} on {dataset}: a data file cannot be read: {error}") from None
    name = f"{row.model}-seed{seed}-{found['all']}.json"
    return Cell(row.label, row.model, dataset, seed, given, Path(args.out) / dataset / name, found)


def check_files(config):
    """Raise UsageError when the files of the data set are not there, as text or as Parquet."""
    name, folder = config["dataset"], Path(config["data_path"])
    for part in config["benchmark_filename"] or [None]:
        file = ".".join(filter(None, [name, part, "inter"]))
        if not find_atomic(folder, file):
            raise UsageError(missing_file_message(name, folder.parent, file))


def read_count(text, option, meaning):
    """A whole number from 1. Raises UsageError."""
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--{option} is {meaning}, a whole number from 1, got '{text}'")
    return int(text)


def list_seeds(count, settings):
    """The seeds, from the setting ``seed`` on. Raises UsageError."""
    first = settings.get("seed", FIRST_SEED)
    if not isinstance(first, int) or isinstance(first, bool):
        raise UsageError(f"seed must be a whole number, got '{first}'")
    return [first + i for i in range(read_count(count, "seeds", "how many seeds"))]


def split_names(text, option, labels=()):
    """Names between commas, at least one and none twice; a label may hold commas itself. Raises UsageError."""
    names, parts = [], [part.strip() for part in text.split(",") if part.strip()]
    while parts:
        length = next((n for n in range(len(parts), 1, -1) if ", ".join(parts[:n]) in labels), 1)
        names.append(", ".join(parts[:length]))
        parts = parts[length:]
    if not names:
        raise UsageError(f"nothing to compare: add --{option}=NAME,NAME")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UsageError(f"--{option} names '{twice[0]}' twice")
    return names


def refuse(settings, reasons, where="compare"):
    """Raise UsageError when a setting is given that the selection decides."""
    for key, reason in reasons.items():
        if key in settings:
            raise UsageError(f"{where} takes no '{key}': {reason}")


# Rows


def read_rows(args, settings, datasets, preset=None):
    """The rows of the preset, then those of --models, then those of --rows, without those that --only leaves out.

    A row of --rows with the label of a row of the preset adds its settings to that one, such as fewer epochs.

    Raises:
        UsageError: no row, a malformed file, two rows of one name, settings for a data set that nobody knows.
    """
    own = {str(label): content for label, content in (load_yaml(args.rows) if args.rows else {}).items()}
    published = preset.rows if preset else {}
    rows = [read_row(label, extended(content, own.pop(label, None))) for label, content in published.items()]
    models = split_names(args.models, "models") if args.models or not (args.rows or preset) else []
    rows += [Row(name, name, {}, {}) for name in models]
    rows += [read_row(label, content) for label, content in own.items()]
    if not rows:
        raise UsageError(f"nothing to compare: '{args.rows}' has no rows")
    labels = [row.label for row in rows]
    for row in rows:
        if labels.count(row.label) > 1:
            raise UsageError(f"two rows have the label '{row.label}': give one another")
        check_dataset_names(row, [*datasets, *known_datasets(settings), *(preset.datasets if preset else ())])
    chosen = split_names(args.only, "only", labels) if args.only else labels
    for label in chosen:
        if label not in labels:
            raise UsageError(f"--only names no row '{label}'{did_you_mean(label, labels)}")
    return [row for row in rows if row.label in chosen]


def extended(row, more):
    """The settings of a preset's row with those of a rows file over them; what is malformed is left to be refused."""
    if not isinstance(more, dict) or not isinstance(more.get("datasets") or {}, dict):
        return row if more is None else more
    old, new = row.get("datasets", {}), more.get("datasets") or {}
    both = {name: {**old.get(name, {}), **(new.get(name) or {})} for name in {**old, **new}}
    return {**row, **more, "datasets": both}


def read_row(label, content):
    """One row of a rows file; without ``model`` the label names it. Raises UsageError."""
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise UsageError(f"row '{label}' must be a mapping such as {{model: SimDiffRec, alpha: 0.4}}, got '{content}'")
    settings = dict(content)
    model, per_dataset = str(settings.pop("model", label)), settings.pop("datasets", None) or {}
    if not isinstance(per_dataset, dict) or not all(isinstance(extra, dict) for extra in per_dataset.values()):
        raise UsageError(f"row '{label}': datasets must map a data set to settings such as {{alpha: 0.4}}")
    settings = expand_config_files(settings)
    reasons = {"seed": "use --seed", "dataset": "use --datasets", "result_file": "cells are kept in --out"}
    for part in (settings, *per_dataset.values()):
        refuse(part, {**reasons, **ONE_PROCESS, "model": "a row has one model"}, where=f"row '{label}'")
    return Row(label, model, settings, {str(name): extra for name, extra in per_dataset.items()})


def known_datasets(settings):
    """Data sets with settings or files; a row may have settings for more data sets than are selected."""
    folder = Path(str(settings.get("data_path", "dataset")))
    return [*property_names("dataset"), *(path.name for path in folder.glob("*") if path.is_dir())]


def check_dataset_names(row, known):
    """Raise UsageError for settings that would silently never apply."""
    for name in row.per_dataset:
        if name not in known:
            hint = did_you_mean(name, known)
            raise UsageError(f"row '{row.label}' has settings for an unknown data set '{name}'{hint}")
