"""``recbole-diffusion compare``: models x data sets x seeds, each cell kept, and tables of what is there."""

import hashlib
import json
import re
import statistics
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch

from recbole_diffusion import __version__, quick_start
from recbole_diffusion.analysis.tables import PLACES, format_settings, format_text, write_tables
from recbole_diffusion.config import DiffusionConfig
from recbole_diffusion.errors import UsageError, did_you_mean
from recbole_diffusion.properties import load_yaml, property_names

FIRST_SEED = 2020


@dataclass(frozen=True)
class Row:
    """One line of the tables: a model with settings, and more settings for single data sets."""

    label: str
    model: str
    settings: dict
    per_dataset: dict


@dataclass(frozen=True)
class Cell:
    """One training: a row on a data set with a seed, and the file that keeps its result."""

    row: str
    model: str
    dataset: str
    seed: int
    given: dict
    path: Path

    def __str__(self):
        return f"{self.row} on {self.dataset}, seed {self.seed}"

    @property
    def failed_path(self):
        """File that keeps the error of the last try."""
        return self.path.with_suffix(".failed.json")

    def describe(self):
        """The keys that every stored cell has, finished or failed."""
        given = {key: value for key, value in self.given.items() if key not in PLACES}
        return {"row": self.row, "model": self.model, "dataset": self.dataset, "seed": self.seed, "given": given}


def add_arguments(parser):
    """Add the words of ``compare`` to an ``argparse`` parser; all others are settings for every cell."""
    parser.allow_abbrev = False  # --seed is a setting and no short form of --seeds
    parser.error = _raise_usage_error
    parser.description = "Train rows x data sets x seeds, keep every cell and write tables. Other --KEY=VALUE words are"
    parser.description += " settings of all cells. A second call runs only what is missing."
    parser.add_argument("--models", default="", help="model names, separated by commas")
    parser.add_argument("--rows", help="yaml file: label -> {model: NAME, key: value, datasets: {name: {key: value}}}")
    parser.add_argument("--datasets", default="", help="names of data sets, separated by commas")
    parser.add_argument("--seeds", default="3", help="how many seeds, counted from --seed (default 3, from 2020)")
    parser.add_argument("--out", default="runs/compare", help="folder for cells and tables (default runs/compare)")
    parser.add_argument("--only-tables", action="store_true", help="run nothing, write the tables of the kept cells")


def _raise_usage_error(message):
    raise UsageError(f"compare: {message}")


def main(args, settings):
    """Run the missing cells of a selection and write its tables.

    Args:
        args (argparse.Namespace): see :func:`add_arguments`.
        settings (dict): settings of all cells, typed.

    Returns:
        int: 0, or 1 when a cell failed.

    Raises:
        UsageError: for a wrong selection or setting, before anything is trained.
    """
    settings = expand_config_files(settings)
    cells = plan_cells(args, settings)
    results = [read_kept(cell) for cell in cells]
    say_what_is_there(cells, results, args.only_tables)
    command = f"recbole-diffusion compare {format_settings(selection_words(args, settings))}"
    if args.only_tables:
        results = [result or read_failure(cell) for cell, result in zip(cells, results)]
    else:
        run_missing(cells, results, lambda: write_tables([r for r in results if r], args.out, command))
    return finish(results, args.out, command)


# Selection


def plan_cells(args, settings):
    """Every cell of the selection, checked.

    Args:
        args (argparse.Namespace): see :func:`add_arguments`.
        settings (dict): settings of all cells.

    Returns:
        list[Cell]: by data set, row and seed.

    Raises:
        UsageError: empty selection, unknown model, key or data set, value out of range, missing data file.
    """
    refuse(settings, {"model": "use --models", "dataset": "use --datasets", "result_file": "cells are kept in --out"})
    datasets = split_names(args.datasets, "datasets")
    rows = read_rows(args, settings, datasets)
    seeds = list_seeds(args.seeds, settings)
    return [
        plan_cell(row, dataset, seed, settings, args) for dataset in datasets for row in rows for seed in seeds
    ]


def refuse(settings, reasons, where="compare"):
    """Raise UsageError when a setting is given that the selection decides."""
    for key, reason in reasons.items():
        if key in settings:
            raise UsageError(f"{where} takes no '{key}': {reason}")


def split_names(text, option):
    """Names between commas, at least one and none twice. Raises UsageError."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError(f"nothing to compare: add --{option}=NAME,NAME")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UsageError(f"--{option} names '{twice[0]}' twice")
    return names


def list_seeds(count, settings):
    """The seeds, from the setting ``seed`` on. Raises UsageError."""
    first = settings.get("seed", FIRST_SEED)
    if not count.isdecimal() or int(count) < 1:
        raise UsageError(f"--seeds is how many seeds, a whole number from 1, got '{count}'")
    if not isinstance(first, int) or isinstance(first, bool):
        raise UsageError(f"seed must be a whole number, got '{first}'")
    return [first + i for i in range(int(count))]


def read_rows(args, settings, datasets):
    """The rows of --models, then those of --rows.

    Raises:
        UsageError: no row, a malformed file, two rows of one name, settings for a data set that nobody knows.
    """
    models = split_names(args.models, "models") if args.models or not args.rows else []
    rows = [Row(name, name, {}, {}) for name in models]
    rows += [read_row(str(label), content) for label, content in (load_yaml(args.rows) if args.rows else {}).items()]
    if not rows:
        raise UsageError(f"nothing to compare: '{args.rows}' has no rows")
    files = [safe_name(row.label) for row in rows]
    for row, name in zip(rows, files):
        if files.count(name) > 1:
            raise UsageError(f"two rows would be kept as '{name}': give them other labels")
        check_dataset_names(row, [*datasets, *known_datasets(settings)])
    return rows


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
        refuse(part, {**reasons, "model": "a row has one model"}, where=f"row '{label}'")
    return Row(label, model, settings, {str(name): extra for name, extra in per_dataset.items()})


def known_datasets(settings):
    """Data sets with settings or files; a row may have settings for more data sets than are selected."""
    folder = Path(str(settings.get("data_path", "dataset")))
    return [*property_names("dataset"), *(path.name for path in folder.glob("*/"))]


def check_dataset_names(row, known):
    """Raise UsageError for settings that would silently never apply."""
    for name in row.per_dataset:
        if name not in known:
            hint = did_you_mean(name, known)
            raise UsageError(f"row '{row.label}' has settings for an unknown data set '{name}'{hint}")


def expand_config_files(settings):
    """Settings with those of their ``config_files`` below them. Raises UsageError."""
    settings = dict(settings)
    expanded = {}
    for file in str(settings.pop("config_files", "")).split():
        expanded.update(load_yaml(file))
    return {**expanded, **settings}


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
    name = f"{safe_name(row.label)}-seed{seed}-{fingerprint(config)}.json"
    return Cell(row.label, row.model, dataset, seed, given, Path(args.out) / dataset / name)


def check_files(config):
    """Raise UsageError when the files of the data set are not there."""
    name, known = config["dataset"], property_names("dataset")
    for part in config["benchmark_filename"] or [None]:
        path = Path(config["data_path"]) / ".".join(filter(None, [name, part, "inter"]))
        if not path.is_file():
            near = did_you_mean(name, known) if name not in known else ""
            raise UsageError(
                f"no file '{path}'{near}: set --data_path to the folder that holds {name}/, or build it with "
                f"'recbole-diffusion prepare {name} --source=RAW_FILE'"
            )


def fingerprint(config):
    """Ten hex digits that change with the settings, all defaults included, and the package's version.

    They do not change with the data file or with edited code: delete the cells, or use another ``--out``, after that.
    """
    settings = {key: value for key, value in config.plain().items() if key not in PLACES}
    content = {"model": config["model"], "dataset": config["dataset"], "settings": settings, "version": __version__}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:10]


def safe_name(label):
    """A label as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", label)


def selection_words(args, settings):
    """What the user asked for, as settings of a command; --out is a place."""
    words = {"models": args.models, "rows": args.rows, "datasets": args.datasets, "seeds": int(args.seeds)}
    return {**{key: value for key, value in words.items() if value}, **settings}


# Running


def run_missing(cells, results, save_tables):
    """Train every cell without a result.

    Args:
        cells (list[Cell]): the selection.
        results (list[dict | None]): of the same length; filled in place.
        save_tables (callable): called after every cell.
    """
    missing = [i for i, result in enumerate(results) if result is None]
    seconds = []
    for number, i in enumerate(missing):
        left = format_duration(statistics.fmean(seconds) * (len(missing) - number)) if seconds else ""
        print(f"cell {number + 1} of {len(missing)}: {cells[i]}{left and f', about {left} left'}", flush=True)
        started = time.perf_counter()
        try:
            results[i] = run_cell(cells[i])
        except KeyboardInterrupt:
            raise KeyboardInterrupt("finished cells are kept, the same command goes on with the rest") from None
        if "error" not in results[i]:  # a cell that fails at once says nothing about the others
            seconds.append(time.perf_counter() - started)
        save_tables()


def run_cell(cell):
    """Train one cell and keep its result, or its error, which must not stop the others.

    Returns:
        dict: the stored result; a failed cell has the key ``error``.
    """
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()  # otherwise a small model would show the peak of a large one before it
    config_dict = {"show_progress": False, **cell.given, "seed": cell.seed}
    try:
        result = quick_start.run(cell.model, cell.dataset, config_dict=config_dict)
    except Exception as error:  # whatever a model raises belongs to this cell alone
        result = {**cell.describe(), "error": first_line(error)}
        print(f"failed: {cell}: {result['error']}", flush=True)
        quick_start.write_json({**result, "traceback": traceback.format_exc()}, cell.failed_path)
        return result
    result = {**result, **cell.describe()}
    quick_start.write_json(result, cell.path)
    cell.failed_path.unlink(missing_ok=True)
    return result


def first_line(error):
    """An exception as one line; those for users need no type."""
    text = (str(error).splitlines() or [""])[0]
    return text if isinstance(error, UsageError) else f"{type(error).__name__}: {text}"


def format_duration(seconds):
    """Rounded to what matters: ``40 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


# Kept cells


def read_kept(cell):
    """The stored result of a cell, or None. Raises UsageError for a damaged file."""
    return {**read_json(cell.path), **cell.describe()} if cell.path.is_file() else None


def read_failure(cell):
    """The stored error of a cell, or None. Raises UsageError for a damaged file."""
    return {**read_json(cell.failed_path), **cell.describe()} if cell.failed_path.is_file() else None


def read_json(path):
    """A stored cell. Raises UsageError when the file is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"'{path}' is damaged ({first_line(error)}): delete it to run the cell again") from None


def say_what_is_there(cells, results, with_missing):
    """Print the kept cells, and the missing ones where they will not be announced as they run."""
    for cell, result in zip(cells, results):
        if result or with_missing:
            print(f"{'kept' if result else 'missing'}: {cell} ({cell.path})", flush=True)


def finish(results, out, command):
    """Write the tables and print where they are and what they say.

    Returns:
        int: 0, or 1 when a cell failed.

    Raises:
        UsageError: when there is no cell at all.
    """
    results = [result for result in results if result]
    if not results:
        raise UsageError(f"no kept cell of this selection in '{out}': run the same command without --only-tables")
    for dataset, path in write_tables(results, out, command).items():
        print(f"\n{path}\n{format_text([result for result in results if result['dataset'] == dataset])}")
    return 1 if any("error" in result for result in results) else 0
