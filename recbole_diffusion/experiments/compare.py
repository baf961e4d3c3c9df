"""``recbole-diffusion compare``: models x data sets x seeds, each cell kept, and tables of what is there."""

import itertools
from dataclasses import dataclass
from pathlib import Path

from recbole_diffusion.errors import UsageError, did_you_mean
from recbole_diffusion.experiments import paper
from recbole_diffusion.experiments.fingerprint import fingerprint
from recbole_diffusion.experiments.store import Store
from recbole_diffusion.experiments.work import first_line, run_missing
from recbole_diffusion.files import make_folder
from recbole_diffusion.reports.kept import read_json
from recbole_diffusion.reports.report import write_reports
from recbole_diffusion.reports.tables import Study, format_settings, format_text, recbole_name
from recbole_diffusion.settings.checks import metric_names
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.settings.free import PLACES
from recbole_diffusion.settings.properties import load_yaml, missing_file_message, property_names
from recbole_diffusion.settings.registry import plugin_models, recbole_models

FIRST_SEED = 2020
DEFAULT_SEEDS = "3"
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


def add_arguments(parser):
    """Add the words of ``compare`` to an ``argparse`` parser; all others are settings for every cell."""
    parser.description = "Train rows x data sets x seeds, keep every cell and write tables. Other --KEY=VALUE words are"
    parser.description += " settings of all cells. A second call runs only what is missing."
    parser.add_argument("--models", default="", help="model names, separated by commas")
    parser.add_argument(
        "--rows",
        help="yaml file: label -> {model: NAME, key: value, datasets: {name: {key: value}}}; with --paper also more "
        "settings for its rows",
    )
    parser.add_argument("--paper", help="rows, data sets and published figures of a table, such as simdiffrec.table2")
    parser.add_argument("--datasets", default="", help="names of data sets, separated by commas")
    parser.add_argument("--only", default="", help="labels of rows, separated by commas: leave out the others")
    parser.add_argument("--ours", help="label of the row that is tested against the others (default the last)")
    parser.add_argument("--show", default="", help="metrics of the tables, such as HR@10,NDCG@10 (default all)")
    parser.add_argument("--seeds", default=DEFAULT_SEEDS, help="how many, counted from --seed (default 3, from 2020)")
    parser.add_argument("--jobs", default="1", help="runs side by side (default 1)")
    parser.add_argument("--out", default="runs/compare", help="folder for cells and tables (default runs/compare)")
    parser.add_argument("--only-tables", action="store_true", help="run nothing, write the tables of the kept cells")
    parser.add_argument(
        "--any-code", action="store_true", help="accept kept cells of other versions of the code, newest first"
    )


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
    preset = paper.read_preset(args.paper) if args.paper else None
    store = Store(args.out)
    jobs = read_count(args.jobs, "jobs", "how many runs stand side by side")
    cells, absent = plan_cells(args, settings, preset)
    study = describe_study(args, settings, preset, cells)
    make_folder(args.out, "out")
    results = [read_kept(cell, store, args.any_code) for cell in cells]
    say_what_is_there(cells, results, args.only_tables)
    if args.only_tables:
        results = [result or read_failure(cell) for cell, result in zip(cells, results)]
    else:
        run_missing(cells, results, store, jobs, lambda found: write_reports(in_order(found, absent), args.out, study))
    return finish(results, absent, store, study)


# Selection


def plan_cells(args, settings, preset=None):
    """Every cell of the selection, checked.

    Args:
        args (argparse.Namespace): see :func:`add_arguments`.
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


def in_order(results, rows):
    """What there is to show: the results, and in the tables of a paper also the rows without any, in its order.

    Args:
        results (list[dict | None]): of the cells.
        rows (list[dict]): an entry with ``absent`` for every data set and row of a preset, else empty.

    Returns:
        list[dict]: results and entries.
    """
    results = [result for result in results if result]
    if not rows:
        return results
    groups = {(entry["dataset"], entry["row"]): [] for entry in rows}
    for result in results:
        groups[result["dataset"], result["row"]].append(result)
    return [one for entry in rows for one in groups[entry["dataset"], entry["row"]] or [entry]]


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


def describe_study(args, settings, preset, cells):
    """What the tables say beside the numbers. Raises UsageError for an unknown row or metric."""
    labels = list(dict.fromkeys(cell.row for cell in cells))
    if args.ours and args.ours not in labels:
        raise UsageError(f"--ours names no row '{args.ours}'{did_you_mean(args.ours, labels)}")
    study = Study(f"recbole-diffusion compare {format_settings(selection_words(args, settings))}", ours=args.ours)
    if preset:
        study.title, study.note, study.published, study.unit = preset.title, preset.note, preset.published, preset.unit
        study.metrics, study.ours = list(preset.metrics), args.ours or preset.ours
    if args.show:
        study.metrics = [check_metric(name, cells) for name in split_names(args.show, "show")]
    return study


def check_metric(name, cells):
    """RecBole's name of a metric that every cell computes. Raises UsageError."""
    wanted = recbole_name(name)
    for cell in {(cell.row, cell.dataset): cell for cell in cells}.values():  # a seed changes no metric
        config = DiffusionConfig(cell.model, cell.dataset, config_dict={**cell.given, "seed": cell.seed})
        known = metric_names(config)
        if wanted not in known:
            hint = did_you_mean(wanted, known)
            raise UsageError(f"unknown metric '{name}'{hint}: {cell.row} on {cell.dataset} has {', '.join(known)}")
    return wanted


def refuse(settings, reasons, where="compare"):
    """Raise UsageError when a setting is given that the selection decides."""
    for key, reason in reasons.items():
        if key in settings:
            raise UsageError(f"{where} takes no '{key}': {reason}")


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
    try:
        found = fingerprint(config)
    except OSError as error:
        raise UsageError(f"{row.label} on {dataset}: a data file cannot be read: {error}") from None
    name = f"{row.model}-seed{seed}-{found['all']}.json"
    return Cell(row.label, row.model, dataset, seed, given, Path(args.out) / dataset / name, found)


def check_files(config):
    """Raise UsageError when the files of the data set are not there."""
    name, folder = config["dataset"], Path(config["data_path"])
    for part in config["benchmark_filename"] or [None]:
        file = ".".join(filter(None, [name, part, "inter"]))
        if not (folder / file).is_file():
            raise UsageError(missing_file_message(name, folder.parent, file))


def selection_words(args, settings):
    """What the user asked for, as settings of a command; --out and --jobs are no part of it."""
    words = {"paper": args.paper, "models": args.models, "rows": args.rows, "only": args.only}
    words.update(datasets=args.datasets, ours=args.ours, show=args.show, seeds=int(args.seeds))
    return {**{key: value for key, value in words.items() if value}, **settings}


# Kept cells


def read_kept(cell, store, any_code=False):
    """The stored result of a cell, or None.

    Args:
        cell (Cell): what is looked for.
        store (Store): where.
        any_code (bool): accept a run of the same settings and data by other code.

    Raises:
        UsageError: for a damaged file.
    """
    path = cell.path if cell.path.is_file() else None
    if path is None and (any_code or cell.fingerprint["data"] is None):
        path = newest_alike(cell, store, any_code)
    return describe_kept(cell, path) if path else None


def describe_kept(cell, path):
    """A stored result under the label and with the settings of the cell that asks for it."""
    stored = read_json(path)
    code = {"code": stored["fingerprint"]["code"]} if stored["fingerprint"] != cell.fingerprint else {}
    found = {**stored, **cell.describe(), "ranks_file": str(path.with_suffix(".npz"))}
    return {**found, "fingerprint": {**cell.fingerprint, **code}}


def newest_alike(cell, store, any_code):
    """Path of the newest finished run with the settings of a cell, its code unless any will do, and its data where
    they are at hand; or None."""
    parts = ["settings", *([] if any_code else ["code"]), *(["data"] if cell.fingerprint["data"] else [])]
    wanted = {key: cell.fingerprint[key] for key in parts}
    found = [
        (facts["stamp"][1], name)
        for name, facts in store.refresh_index().items()
        if "error" not in facts and wanted.items() <= facts.get("fingerprint", {}).items()
    ]
    return store.folder / max(found)[1] if found else None


def read_failure(cell):
    """The stored error of a cell, or None. Raises UsageError for a damaged file."""
    return {**read_json(cell.failed_path), **cell.describe()} if cell.failed_path.is_file() else None


def say_what_is_there(cells, results, with_missing):
    """Print the kept cells, and the missing ones where they will not be announced as they run."""
    for cell, result in zip(cells, results):
        if result or with_missing:
            print(f"{'kept' if result else 'missing'}: {cell} ({cell.path})", flush=True)


def finish(results, absent, store, study):
    """Write the tables and print where they are and what they say.

    Returns:
        int: 0, or 1 when a cell failed.

    Raises:
        UsageError: when there is no cell at all.
    """
    found = in_order(results, absent)
    if not found:
        raise UsageError(
            f"no kept cell of this selection in '{store.folder}': run the same command without --only-tables"
        )
    store.refresh_index()
    for dataset, path in write_reports(found, store.folder, study, everything=True).items():
        print(f"\n{path}\n{format_text([result for result in found if result['dataset'] == dataset], study)}")
    print(f"\nreport: {store.folder / 'report.html'}")
    return 1 if any("error" in result for result in found) else 0
