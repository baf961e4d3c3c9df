"""Checks of atomic files before any training: what RecBole would read wrongly, or not at all.

Only numpy is imported. A file is read once, line by line, so that every finding has its line number.
"""

import math
import sys
from array import array
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from recbole_diffusion.data.numbers import MISSING, finite
from recbole_diffusion.errors import UsageError, did_you_mean
from recbole_diffusion.prepare.archives import recbole_folder
from recbole_diffusion.prepare.interactions import k_core, lower_bound
from recbole_diffusion.settings.properties import dataset_properties, missing_file_message

TYPES = ("token", "float", "token_seq", "float_seq")


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


@dataclass
class Report:
    """Findings on one data set.

    Attributes:
        name (str): name of the data set.
        problems (list[str]): what makes training fail or go wrong, one line each.
        warnings (list[str]): what a user should know.
        facts (dict): measured values by name.
    """

    name: str
    problems: list = field(default_factory=list)
    warnings: list = field(default_factory=list)
    facts: dict = field(default_factory=dict)

    @property
    def ok(self):
        """True when there are no problems."""
        return not self.problems

    def summary(self):
        """Readable text of everything but the problems, which are only counted."""
        lines = [f"{self.name}: {'ok' if self.ok else f'{len(self.problems)} problem(s)'}"]
        lines += [f"  {key}: {value}" for key, value in self.facts.items()]
        lines += [f"  warning: {text}" for text in self.warnings]
        return "\n".join(lines)

    def __str__(self):
        return "\n".join([self.summary(), *(f"  problem: {text}" for text in self.problems)])


# ------------------------------------------------------------------------------------------- one file


class _Finding:
    """How often something was found, and where first."""

    def __init__(self):
        self.count, self.line, self.text = 0, None, None

    def add(self, line, text=""):
        if not self.count:
            self.line, self.text = line, text
        self.count += 1

    def __str__(self):
        return f"{self.count} row(s), the first is line {self.line}"


class _Column:
    """Values of one column: numbers of tokens (-1: missing) or floats (nan: missing or not a number)."""

    def __init__(self, name, kind, seq_separator, keep_words=False):
        self.name, self.kind, self.seq_separator, self.keep_words = name, kind, seq_separator, keep_words
        self.values = array("d" if kind == "float" else "i")
        self.numbers = {}
        self.missing, self.not_a_number = _Finding(), _Finding()

    def add(self, line, text):
        missing = text in MISSING
        if missing:
            self.missing.add(line)
        if self.kind == "token":
            self.values.append(-1 if missing else self.numbers.setdefault(text, len(self.numbers)))
        elif self.kind == "float":
            value = math.nan if missing else finite(text)
            self.values.append(value)
            if not missing and math.isnan(value):
                self.not_a_number.add(line, text)
        elif self.keep_words and not missing:
            for word in filter(None, text.split(self.seq_separator)):
                self.numbers.setdefault(word, len(self.numbers))
        elif self.kind == "float_seq" and not missing:
            bad = [part for part in text.split(self.seq_separator) if part and math.isnan(finite(part))]
            if bad:
                self.not_a_number.add(line, bad[0])

    def array(self):
        """The values, [rows]; empty for sequence columns."""
        return np.frombuffer(self.values, dtype=np.float64 if self.kind == "float" else np.int32)


class _Table:
    """One atomic file: columns by name and what is wrong with the rows.

    Rows with a wrong number of columns are counted and left out; ``lines`` are the line numbers of the rest.
    ``keep_words`` is the name of a list whose tokens are kept.
    """

    def __init__(self, path, settings, keep_words=None):
        self.path, self.keep_words = path, keep_words
        self.problems = []
        self.columns = {}
        self.lines, self.hashes = array("q"), array("q")
        self.wrong_width, self.quotes = _Finding(), _Finding()
        self.separator = settings["field_separator"]
        with open(path, "rb") as file:
            self._read_header(file.readline(), settings["seq_separator"])
            if not self.problems:
                self._read_rows(file)

    def _problem(self, text):
        self.problems.append(f"{self.path.name}: {text}")

    def _read_header(self, raw, seq_separator):
        header = raw.decode("utf-8", "replace").rstrip("\r\n")
        if not header:
            self._problem("has no header, line 1 is empty")
            return
        if raw.startswith(b"\xef\xbb\xbf"):
            self._problem("begins with a byte order mark, save it as UTF-8 without one")
            header = header[1:]
        names = header.split(self.separator)
        if header.count(":") > 1 and len(names) == 1:
            found = next((what for mark, what in _SEPARATORS.items() if mark in header), "other characters")
            self._problem(f"the header is separated by {found}, the separator must be {self.separator!r}")
            return
        for name in names:
            self._add_column(name, seq_separator)

    def _add_column(self, header, seq_separator):
        name, colon, kind = header.partition(":")
        if not colon:
            self._problem(f"the header field '{header}' has no type, write it like '{header}:token'")
        elif kind not in TYPES:
            hint = did_you_mean(kind, TYPES)
            self._problem(f"the header field '{header}' has an unknown type{hint}, use one of: {', '.join(TYPES)}")
        elif name in self.columns:
            self._problem(f"the header names the field '{name}' twice, rename one")
        self.columns[name] = _Column(name, kind, seq_separator, name == self.keep_words)

    def _read_rows(self, file):
        columns, width = list(self.columns.values()), len(self.columns)
        for number, raw in enumerate(file, 2):
            try:
                text = raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                self._problem(f"line {number} is not UTF-8 text, convert the file")
                return
            if not text:
                continue  # RecBole passes over blank lines, too
            parts = text.split(self.separator)
            if len(parts) != width:
                self.wrong_width.add(number, str(len(parts)))
                continue
            if '"' in text:
                self.quotes.add(number)
            self.lines.append(number)
            self.hashes.append(hash(text))
            for column, part in zip(columns, parts):
                column.add(number, part)

    def line_of_first(self, rows):
        """Line number of the first of some row numbers."""
        return self.lines[int(np.min(rows))]


_SEPARATORS = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars", " ": "spaces"}


def _repeats(*keys):
    """Row numbers whose keys all equal those of an earlier row; keys have shape [rows]."""
    order = np.lexsort(keys)  # stable: of equal rows the earliest comes first
    same = np.ones(max(len(order) - 1, 0), dtype=bool)
    for key in keys:
        same &= key[order][1:] == key[order][:-1]
    return order[1:][same]


def _examine_rows(report, table, needed):
    """Findings that any atomic file can have; ``needed`` fields must be there and must have a value in every row."""
    name = table.path.name
    report.problems += table.problems
    if table.problems:
        return
    if table.wrong_width.count:
        width = len(table.columns)
        report.problems.append(
            f"{name}: wrong number of columns in {table.wrong_width} ({table.wrong_width.text} instead of {width})"
        )
    if not table.lines:
        report.problems.append(f"{name}: has no rows that can be read, it is empty below the header")
    for column in table.columns.values():
        if column.missing.count:
            findings = report.problems if column.name in needed else report.warnings
            findings.append(f"{name}: '{column.name}' is missing in {column.missing} (empty, or NA, None, nan, ...)")
        if column.not_a_number.count:
            text = column.not_a_number.text
            report.problems.append(f"{name}: '{column.name}' is not a number in {column.not_a_number} ('{text}')")
    if table.quotes.count:
        report.warnings.append(f'{name}: a " stands in {table.quotes}; RecBole takes it for a quote mark')


def _examine_fields(report, table, wanted, kinds):
    """Fields that must be in the header, and the types they must have there."""
    for name in wanted:
        if name not in table.columns:
            hint, has = did_you_mean(name, table.columns), ", ".join(table.columns)
            report.problems.append(f"{table.path.name}: has no field '{name}'{hint}; it has {has}")
        elif name in kinds and table.columns[name].kind != kinds[name]:
            found = table.columns[name].kind
            report.problems.append(f"{table.path.name}: '{name}' must have the type {kinds[name]}, not {found}")


# ------------------------------------------------------------------------------------------- the whole data set


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


def _examine_interactions(report, table, settings):
    """Measured facts, repeats and ties of the .inter file, and its counts."""
    user, item, time = (settings[key] for key in ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD"))
    users, items, times = (table.columns[name].array() for name in (user, item, time))
    for what, rows in {
        "repeat an earlier row": _repeats(np.frombuffer(table.hashes, dtype=np.int64)),
        "repeat the user and item of an earlier row": _repeats(items, users),
    }.items():
        if len(rows):
            first = table.line_of_first(rows)
            report.warnings.append(f"{table.path.name}: {len(rows)} row(s) {what}, the first is line {first}")
    ties = _repeats(times, users)
    report.facts["ties in time within a user"] = f"{len(ties)} ({100 * len(ties) / len(users):.2f} %)"
    if len(ties):
        report.warnings.append(
            f"{table.path.name}: {100 * len(ties) / len(users):.2f} % of rows share their time with an earlier row "
            f"of the user, the first is line {table.line_of_first(ties)}; the data do not tell their true order"
        )
    _examine_counts(report, users, items, settings)


def _describe(users, items):
    """Counts of a set of rows, in the layout of ``expected_counts``."""
    return {"users": len(np.unique(users)), "items": len(np.unique(items)), "interactions": len(users)}


def _examine_counts(report, users, items, settings):
    """Counts before and after the filter, sequence lengths, and whether one of them is what the yaml expects."""
    before = _describe(users, items)
    minima = [lower_bound(settings[f"{kind}_inter_num_interval"]) for kind in ("user", "item")]
    rows = k_core(users, items, *minima)
    after = _describe(users[rows], items[rows])
    report.facts.update(before)
    if max(minima) > 1:
        report.facts[f"after the filter (users {minima[0]}, items {minima[1]})"] = _shown(after)
    if not len(rows):
        report.problems.append(f"the filter of {minima[0]} rows per user and {minima[1]} per item leaves nothing of it")
        return
    lengths = np.unique(users[rows], return_counts=True)[1]
    report.facts["sequence length"] = f"min {lengths.min()}, mean {lengths.mean():.2f}, max {lengths.max()}"
    _compare_counts(report, after, settings["expected_counts"], "before and after" if before == after else "after")


def _compare_counts(report, counts, expected, when):
    if not expected:
        return
    if counts == expected:
        report.facts["expected counts"] = f"met {when} the filter" if when else "met"
    else:
        report.problems.append(
            f"counts are {_shown(counts)}, expected are {_shown(expected)}: prepare it again from the source that "
            f"dataset/README.md names, or give it another name"
        )


def _shown(counts):
    return ", ".join(f"{key} {value}" for key, value in counts.items())


def _examine_split(report, folder, settings):
    """The files of a ready-made split: their fields and counts. Returns the tokens of all users and of all items."""
    user, item = settings["USER_ID_FIELD"], settings["ITEM_ID_FIELD"]
    history = item + settings["LIST_SUFFIX"]
    users, items, examples = set(), set(), 0
    for part in settings["benchmark_filename"]:
        path = folder / f"{report.name}.{part}.inter"
        if not path.is_file():
            report.problems.append(f"{path.name}: does not exist although benchmark_filename names it")
            continue
        table = _Table(path, settings, keep_words=history)
        _examine_rows(report, table, {user, item, history})
        if not table.problems:
            kinds = {user: "token", item: "token", history: "token_seq"}
            _examine_fields(report, table, kinds, kinds)
        report.facts[part] = f"{len(table.lines)} examples"
        examples += len(table.lines)
        for names, fields in ((users, [user]), (items, [item, history])):
            names.update(*(table.columns[name].numbers for name in fields if name in table.columns))
    counts = {"users": len(users), "items": len(items), "interactions": examples}
    report.facts.update(counts)
    if report.ok:
        _compare_counts(report, counts, settings["expected_counts"], "")
    return users, items


def _examine_side(report, table, id_field, wanted, known):
    """The .item or .user file: its fields, repeated ids and ids without a row."""
    _examine_rows(report, table, {id_field})
    if table.problems:
        return
    _examine_fields(report, table, [id_field, *wanted], {id_field: "token"})
    column = table.columns.get(id_field)
    if column is None or column.kind != "token":
        return
    repeated = _repeats(column.array())
    if len(repeated):
        first = table.line_of_first(repeated)
        report.warnings.append(
            f"{table.path.name}: {len(repeated)} row(s) repeat an '{id_field}', the first is line {first}; "
            f"RecBole keeps the first of them"
        )
    without = sum(token not in column.numbers for token in known)
    if without:
        report.warnings.append(f"{table.path.name}: {without} of {len(known)} '{id_field}' of the .inter have no row")


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
        known = dict(zip(ids, _examine_split(report, folder, settings)))
        _examine_sides(report, folder, settings, ids, known)
        return report
    required = [ids["user"], ids["item"], time]
    inter = _Table(folder / f"{name}.inter", settings)
    report.facts["file"] = str(inter.path)
    _examine_rows(report, inter, set(required))
    if not inter.problems:
        wanted = dict.fromkeys([*required, *load_col.get("inter", [])])
        _examine_fields(report, inter, wanted, {ids["user"]: "token", ids["item"]: "token", time: "float"})
    if report.ok:
        _examine_interactions(report, inter, settings)
    known = {kind: inter.columns[field].numbers if field in inter.columns else {} for kind, field in ids.items()}
    _examine_sides(report, folder, settings, ids, known)
    return report


def _examine_sides(report, folder, settings, ids, known):
    """The .user and .item files, where they are or where load_col wants them; ``known`` are the tokens by kind."""
    load_col = settings["load_col"] or {}
    for kind, id_field in ids.items():
        path = folder / f"{report.name}.{kind}"
        if path.is_file():
            _examine_side(report, _Table(path, settings), id_field, load_col.get(kind, []), known[kind])
        elif load_col.get(kind):
            report.problems.append(f"{path.name}: does not exist although load_col names fields of it")


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
