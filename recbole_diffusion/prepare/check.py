"""Checks of atomic files before any training: what RecBole would read wrongly, or not at all.

Only numpy is imported.
"""

import sys
from pathlib import Path

from recbole_diffusion.data.atomic_files import find_atomic, inter_files, stem_of
from recbole_diffusion.errors import UsageError, did_you_mean
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
from recbole_diffusion.settings.properties import (
    default_data_path,
    missing_file_message,
    settings_of_data,
)
from recbole_diffusion.settings.recipes import expand_config_files

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
    "encoding": "utf-8",
}
_KINDS = {"load_col": dict, "expected_counts": dict, "benchmark_filename": list}  # of the others: text


def _settings(name, data_path, config):
    """Settings of all sources; None switches off what has no default, and is no value for the rest."""
    config = {} if config is None else config
    given = {key: config[key] for key in _DEFAULTS if key in config}
    given = {key: value for key, value in given.items() if value is not None or _DEFAULTS[key] is None}
    settings = {**_DEFAULTS, **settings_of_data(name, data_path), **given}
    for key in _DEFAULTS:
        kind = _KINDS.get(key, str)
        if settings[key] is not None and not isinstance(settings[key], kind):
            names = {dict: "a mapping such as {a: b}", list: "a list such as [a, b]", str: "text"}
            raise UsageError(f"{key} must be {names[kind]}, got '{settings[key]}'")
    return settings


def _locate(name, data_path, file_name):
    """Folder of the data set, which holds a file of that name; ml-100k is packaged with RecBole."""
    folder = Path(data_path) / name
    if find_atomic(folder, file_name):
        return folder
    if name == "ml-100k" and not folder.exists():
        return recbole_folder() / "dataset_example" / name
    parts = [stem_of(path).split(".")[-2] for path in inter_files(folder, f"{name}.*")]
    if parts and file_name == f"{name}.inter":
        parts = sorted(parts, key=lambda part: (_PARTS.index(part) if part in _PARTS else len(_PARTS), part))
        raise UsageError(
            f"'{folder}' holds ready-made parts and no {file_name}: name them in their order, such as "
            f"--benchmark_filename=[{','.join(parts)}], or write that to {folder / name}.yaml"
        )
    raise UsageError(missing_file_message(name, data_path, file_name))


_PARTS = ("train", "fit", "valid", "val", "dev", "test")


def check_data(name, data_path=None, config=None):
    """Check the atomic files of one data set.

    Args:
        name (str): name of the data set; ``ml-100k`` without a folder of its own means RecBole's packaged copy.
        data_path (str or Path, optional): folder that holds the folder ``<name>``; by default ``dataset``, and for
            ``toy`` the package's own copy where that has none.
        config (Mapping): settings that go before those of ``properties/dataset/<name>.yaml`` and of ``<name>.yaml``
            beside the data: names of fields, ``load_col``, separators, filter intervals, ``expected_counts``,
            ``benchmark_filename`` of ready-made parts.

    Returns:
        Report: problems, warnings, facts.

    Raises:
        UsageError: when there is no such data set, and for a setting of a wrong type.
    """
    data_path = data_path or default_data_path(name)
    settings = _settings(name, data_path, config)
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
    inter = Table(find_atomic(folder, f"{name}.inter"), settings)
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
    parser.add_argument("name", help="name of the data set, e.g. beauty; --KEY=VALUE and --config_files are settings")
    parser.add_argument("--data_path", help="folder of the data sets (default: dataset)")


def main(args, settings=None):
    """Run ``recbole-diffusion check-data``; returns 0, or 2 with the problems on standard error, one per line.

    Args:
        args (argparse.Namespace): see :func:`add_arguments`.
        settings (dict, optional): those of :func:`check_data`, and ``config_files``, which may hold others too.
    """
    report = check_data(args.name, args.data_path, _with_config_files(settings or {}))
    print(report.summary())
    for problem in report.problems:
        print(problem, file=sys.stderr)
    return 0 if report.ok else 2


def _with_config_files(settings):
    for key in settings:
        if key not in (*_DEFAULTS, "config_files"):
            raise UsageError(f"--{key} says nothing about data{did_you_mean(key, _DEFAULTS)}; check-data reads {', '.join(_DEFAULTS)}")
    expanded = expand_config_files(settings)
    expanded.pop("config_files", None)  # a recipe says nothing about data
    return expanded
