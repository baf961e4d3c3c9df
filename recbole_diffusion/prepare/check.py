"""Checks of atomic files before any training: what RecBole would read wrongly, or not at all.

Only numpy is imported.
"""

import sys
from pathlib import Path

from recbole_diffusion.errors import UsageError
from recbole_diffusion.prepare.archives import recbole_folder
from recbole_diffusion.prepare.atomic_table import Table
from recbole_diffusion.prepare.findings import (
    Report,
    examine_fields,
    examine_interactions,
    examine_rows,
    examine_sides,
    examine_split,
)
from recbole_diffusion.settings.properties import dataset_properties, missing_file_message

_DEFAULTS = {
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "TIME_FIELD": "timestamp",
    "field_separator": "\t",
    "seq_separator": " ",
    "load_col": None,
    "user_inter_num_interval": None,
    "item_inter_num_interval": None,
    "expected_counts": None,
    "benchmark_filename": None,
    "LIST_SUFFIX": "_list",
}


def _settings(name, config):
    config = {} if config is None else config
    given = {key: config[key] for key in _DEFAULTS if key in config and config[key] is not None}
    return {**_DEFAULTS, **dataset_properties(name), **given}


def _locate(name, data_path, file_name):
    """Folder of the data set, which holds a file of that name; ml-100k is packaged with RecBole."""
    folder = Path(data_path) / name
    if (folder / file_name).is_file():
        return folder
    if name == "ml-100k" and not folder.exists():
        return recbole_folder() / "dataset_example" / name
    raise UsageError(missing_file_message(name, data_path, file_name))


def check_data(name, data_path="dataset", config=None):
    """Check the atomic files of one data set.

    Args:
        name (str): name of the data set; ``ml-100k`` without a folder of its own means RecBole's packaged copy.
        data_path (str or Path): folder that holds the folder ``<name>``.
        config (Mapping): settings that go before those of ``properties/dataset/<name>.yaml``: names of fields,
            ``load_col``, separators, filter intervals, ``expected_counts``.

    Returns:
        Report: problems, warnings, facts.

    Raises:
        UsageError: when there is no such data set.
    """
    settings = _settings(name, config)
    parts = settings["benchmark_filename"]
    folder = _locate(name, data_path, f"{name}.{parts[0]}.inter" if parts else f"{name}.inter")
    report = Report(name)
    ids = {"user": settings["USER_ID_FIELD"], "item": settings["ITEM_ID_FIELD"]}
    time, load_col = settings["TIME_FIELD"], settings["load_col"] or {}
    if parts:
        known = dict(zip(ids, examine_split(report, folder, settings)))
        examine_sides(report, folder, settings, ids, known)
        return report
    required = [ids["user"], ids["item"], time]
    inter = Table(folder / f"{name}.inter", settings)
    report.facts["file"] = str(inter.path)
    examine_rows(report, inter, set(required))
    if not inter.problems:
        wanted = dict.fromkeys([*required, *load_col.get("inter", [])])
        examine_fields(report, inter, wanted, {ids["user"]: "token", ids["item"]: "token", time: "float"})
    if report.ok:
        examine_interactions(report, inter, settings)
    known = {kind: inter.columns[field].numbers if field in inter.columns else {} for kind, field in ids.items()}
    examine_sides(report, folder, settings, ids, known)
    return report


# ------------------------------------------------------------------------------------------- command line


def add_arguments(parser):
    """Add the arguments of ``recbole-diffusion check-data`` to an argparse parser."""
    parser.add_argument("name", help="name of the data set, e.g. beauty")
    parser.add_argument("--data_path", default="dataset", help="folder of the data sets (default: dataset)")


def main(args):
    """Run ``recbole-diffusion check-data``; returns 0, or 2 with the problems on standard error, one per line."""
    report = check_data(args.name, args.data_path)
    print(report.summary())
    for problem in report.problems:
        print(problem, file=sys.stderr)
    return 0 if report.ok else 2
