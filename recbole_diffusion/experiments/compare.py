"""``recbole-diffusion compare``: models x data sets x seeds, each cell kept, and tables of what is there."""

import re
from pathlib import Path

from recbole_diffusion.errors import UsageError, did_you_mean
from recbole_diffusion.experiments import paper
from recbole_diffusion.experiments.selection import plan_cells, read_count, split_names
from recbole_diffusion.experiments.store import Store
from recbole_diffusion.experiments.work import run_missing
from recbole_diffusion.files import make_folder
from recbole_diffusion.reports.commands import format_settings
from recbole_diffusion.reports.kept import read_json
from recbole_diffusion.reports.report import write_reports
from recbole_diffusion.reports.significance import add_metrics, is_of_ranks
from recbole_diffusion.reports.study import Study, finished, metric_title, recbole_name
from recbole_diffusion.reports.tables import format_text
from recbole_diffusion.settings.checks import metric_names
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.settings.recipes import expand_config_files

ORDERS = ("given", "cost")


def main(args, settings):
    """Run the missing cells of a selection, write its tables and print them.

    Args:
        args (argparse.Namespace): see :func:`recbole_diffusion.experiments.arguments.add_compare`.
        settings (dict): settings of all cells, typed.

    Returns:
        int: 0, or 1 when a cell failed.

    Raises:
        UsageError: see :func:`run_selection`.
    """
    found, study, paths = run_selection(args, settings)
    for dataset, path in paths.items():
        print(f"\n{path}\n{format_text([result for result in found if result['dataset'] == dataset], study)}")
    print(f"\nreport: {Path(args.out) / study.page}")
    return 1 if any("error" in result for result in found) else 0


def run_selection(args, settings):
    """Run the missing cells of a selection and write its tables.

    Args:
        args, settings: see :func:`main`.

    Returns:
        tuple: results as :func:`in_order` has them, what they are about (Study), and data set -> its page.

    Raises:
        UsageError: for a wrong selection or setting, before anything is trained, and when there is no cell at all.
    """
    settings = expand_config_files(settings)
    preset = paper.read_preset(args.paper) if args.paper else None
    store = Store(args.out)
    jobs = read_count(args.jobs, "jobs", "how many runs stand side by side")
    if args.order not in ORDERS:
        raise UsageError(f"--order must be {' or '.join(ORDERS)}, got '{args.order}'")
    cells, absent = plan_cells(args, settings, preset)
    study = describe_study(args, settings, preset, cells)
    make_folder(args.out, "out")
    results = [read_kept(cell, store, args.any_code) for cell in cells]
    say_what_is_there(cells, results, args.only_tables)
    if args.only_tables:
        results = [result or read_failure(cell) for cell, result in zip(cells, results)]
    else:
        run_missing(cells, results, store, jobs, lambda found: save(in_order(found, absent), args.out, study), args.order)
    found = in_order(results, absent)
    if not found:
        raise UsageError(
            f"no kept cell of this selection in '{store.folder}': run the same command without --only-tables"
        )
    store.refresh_index()
    return found, study, save(found, store.folder, study, everything=True)


def describe_study(args, settings, preset, cells):
    """What the tables say beside the numbers. Raises UsageError for an unknown row or metric."""
    labels = list(dict.fromkeys(cell.row for cell in cells))
    if args.ours and args.ours not in labels:
        raise UsageError(f"--ours names no row '{args.ours}'{did_you_mean(args.ours, labels)}")
    if args.name and not re.fullmatch(r"\w[\w.-]*", args.name):
        raise UsageError(f"--name must be letters, digits, '.', '_' or '-', got '{args.name}'")
    command = f"recbole-diffusion compare {format_settings(selection_words(args, settings))}"
    command += " --validation" if args.validation else ""
    study = Study(command, args.name, ours=args.ours, validation=args.validation)
    if preset:
        study.title, study.note, study.published, study.unit = preset.title, preset.note, preset.published, preset.unit
        study.metrics, study.ours = list(preset.metrics), args.ours or preset.ours
    if args.show:
        study.metrics = [check_metric(name, cells) for name in split_names(args.show, "show")]
    return study


def check_metric(name, cells):
    """RecBole's name of a metric that every cell computes, or that its ranks give. Raises UsageError."""
    wanted = recbole_name(name)
    for cell in {(cell.row, cell.dataset): cell for cell in cells}.values():  # a seed changes no metric
        config = DiffusionConfig(cell.model, cell.dataset, config_dict={**cell.given, "seed": cell.seed})
        known = metric_names(config)
        if wanted not in known and not is_of_ranks(wanted, max(config["topk"])):
            hint = did_you_mean(wanted, known)
            raise UsageError(f"unknown metric '{name}'{hint}: {cell.row} on {cell.dataset} has {', '.join(known)}")
    return wanted


def selection_words(args, settings):
    """What the user asked for, as settings of a command; --out and --jobs are no part of it."""
    words = {"paper": args.paper, "models": args.models, "rows": args.rows, "only": args.only}
    words.update(datasets=args.datasets, ours=args.ours, show=args.show, name=args.name, seeds=int(args.seeds))
    return {**{key: value for key, value in words.items() if value}, **settings}


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


def save(found, folder, study, everything=False):
    """Write the tables, with metrics that only the kept ranks give. See :func:`write_reports`."""
    for result in finished(found):
        missing = add_metrics(result, study.metrics)
        if missing and everything:
            where = f"{result['row']} on {result['dataset']}, seed {result['seed']}"
            print(f"{where}: no kept ranks for {', '.join(map(metric_title, missing))}", flush=True)
    return write_reports(found, folder, study, everything)
