"""What is wrong with the atomic files of one data set, and what can be measured of them. Only numpy is imported."""

from dataclasses import dataclass, field

import numpy as np

from recbole_diffusion.data.atomic_files import find_atomic
from recbole_diffusion.errors import did_you_mean
from recbole_diffusion.prepare.atomic_table import Table, repeats
from recbole_diffusion.prepare.columns import swapped_by_name
from recbole_diffusion.prepare.interactions import k_core, lower_bound
from recbole_diffusion.prepare.swapped import SWAPPED, swapped_by_shape


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


def examine_rows(report, table, needed):
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


def examine_fields(report, table, wanted, kinds):
    """Fields that must be in the header, and the types they must have there."""
    for name in wanted:
        if name == "*":  # all that there are
            continue
        if name not in table.columns:
            hint, has = did_you_mean(name, table.columns), ", ".join(table.columns)
            report.problems.append(f"{table.path.name}: has no field '{name}'{hint}; it has {has}")
        elif name in kinds and table.columns[name].kind != kinds[name]:
            found = table.columns[name].kind
            report.problems.append(f"{table.path.name}: '{name}' must have the type {kinds[name]}, not {found}")


def examine_interactions(report, table, settings):
    """Measured facts, repeats and ties of the .inter file, and its counts."""
    user, item, time = (settings[key] for key in ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD"))
    users, items, times = (table.columns[name].array() for name in (user, item, time))
    for what, rows in {
        "repeat an earlier row": repeats(np.frombuffer(table.hashes, dtype=np.int64)),
        "repeat the user and item of an earlier row": repeats(items, users),
    }.items():
        if len(rows):
            first = table.line_of_first(rows)
            report.warnings.append(f"{table.path.name}: {len(rows)} row(s) {what}, the first is {table.unit} {first}")
    ties = repeats(times, users)
    report.facts["ties in time within a user"] = f"{len(ties)} ({100 * len(ties) / len(users):.2f} %)"
    if len(ties):
        report.warnings.append(
            f"{table.path.name}: {100 * len(ties) / len(users):.2f} % of rows share their time with an earlier row "
            f"of the user, the first is {table.unit} {table.line_of_first(ties)}; the data do not tell their true order"
        )
    tokens = (list(table.columns[name].numbers) for name in (user, item))
    reason = swapped_by_name(user, item) or swapped_by_shape(*tokens, users, items, times)
    if reason:
        report.warnings.append(f"{table.path.name}: {SWAPPED}: {reason}")
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


def examine_split(report, folder, settings):
    """The files of a ready-made split: their fields and counts. Returns the tokens of all users and of all items."""
    user, item = settings["USER_ID_FIELD"], settings["ITEM_ID_FIELD"]
    history = item + settings["LIST_SUFFIX"]
    users, items, examples = set(), set(), 0
    for part in settings["benchmark_filename"]:
        path = find_atomic(folder, f"{report.name}.{part}.inter")
        if not path:
            report.problems.append(f"{report.name}.{part}.inter: does not exist although benchmark_filename names it")
            continue
        table = Table(path, settings, keep_words=history)
        examine_rows(report, table, {user, item, history})
        if not table.problems:
            kinds = {user: "token", item: "token", history: "token_seq"}
            examine_fields(report, table, kinds, kinds)
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
    examine_rows(report, table, {id_field})
    if table.problems:
        return
    examine_fields(report, table, [id_field, *wanted], {id_field: "token"})
    column = table.columns.get(id_field)
    if column is None or column.kind != "token":
        return
    repeated = repeats(column.array())
    if len(repeated):
        first = table.line_of_first(repeated)
        report.warnings.append(
            f"{table.path.name}: {len(repeated)} row(s) repeat an '{id_field}', the first is {table.unit} {first}; "
            f"RecBole keeps the first of them"
        )
    without = sum(token not in column.numbers for token in known)
    if without:
        report.warnings.append(f"{table.path.name}: {without} of {len(known)} '{id_field}' of the .inter have no row")


def examine_sides(report, folder, settings, ids, known):
    """The .user and .item files, where they are or where load_col wants them; ``known`` are the tokens by kind."""
    load_col = settings["load_col"] or {}
    for kind, id_field in ids.items():
        path = find_atomic(folder, f"{report.name}.{kind}")
        if path:
            _examine_side(report, Table(path, settings), id_field, load_col.get(kind, []), known[kind])
        elif load_col.get(kind):
            report.problems.append(f"{report.name}.{kind}: does not exist although load_col names fields of it")
