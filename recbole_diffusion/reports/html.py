"""One self-contained HTML page of a comparison, from ``templates/report.html``."""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from recbole_diffusion.reports.commands import commands_of
from recbole_diffusion.reports.study import (
    ABOUT_TESTS,
    NOTHING,
    PROTOCOLS,
    column,
    comparison_columns,
    comparisons,
    describe_absent,
    describe_failed,
    describe_row,
    describe_runs,
    facts_columns,
    finished,
    group_by,
    improvements,
    is_smaller_better,
    metric_title,
    published_columns,
    row_under_test,
    shown_metrics,
    with_runs,
)
from recbole_diffusion.reports.validation import ABOUT, TITLE, distances, validation_columns

PLACES = {1: "best", 2: "second", None: ""}


def format_html(results, study):
    """The page.

    Args:
        results (list[dict]): of all data sets.
        study (Study): what they are about.

    Returns:
        str: HTML, which loads nothing; no text of a result means anything to a browser.
    """
    datasets = [describe_dataset(name, cells, study) for name, cells in group_by(results, "dataset").items()]
    return template().render(study=study, datasets=datasets, about_tests=ABOUT_TESTS, about_validation=(TITLE, ABOUT), nothing=NOTHING, zip=zip)


@cache
def template():
    """The page's template; a name that it does not know is an error."""
    environment = Environment(
        loader=PackageLoader("recbole_diffusion.reports"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template("report.html")


def describe_dataset(dataset, results, study):
    """What the page says of one data set."""
    rows, names = group_by(results, "row"), shown_metrics(results, study)
    done = {label: cells for label, cells in rows.items() if finished(cells)}
    published, reasons = published_columns(dataset, rows, names, study)
    shown = [rows, done or rows]  # rows without runs stand in the first table only
    ours = row_under_test(rows, study)
    tables = [describe_table(some, names, *protocol, study) for some, protocol in zip(shown, PROTOCOLS.items())]
    tests = [(title, comparisons(rows, ours, protocol, names)) for title, protocol in PROTOCOLS.items()]
    return {
        "name": dataset,
        "facts": describe_runs(results),
        "tables": tables if with_runs(rows) or not published else [],
        "published": published,
        "reasons": reasons,
        "validation": validation_columns(dataset, rows, names, study),
        "distances": distances(dataset, rows, names, study),
        "ours": ours,
        "tests": [(title, ", ".join(dict.fromkeys(c.other for c in found)), comparison_columns(found))
                  for title, found in tests if found],
        "training": facts_columns(rows),
        "failed": describe_failed(results),
        "absent": describe_absent(rows),
        "commands": commands_of(rows),
    }  # fmt: skip


def describe_table(rows, names, title, protocol, study):
    """Rows x metrics of one protocol, and the gain over the best other row."""
    ours = row_under_test(rows, study)
    columns = [describe_column(column(rows, protocol, name), is_smaller_better(name)) for name in names]
    gains = improvements(rows, protocol, names, ours)
    return {
        "title": title,
        "metrics": [metric_title(name) for name in names],
        "ours": ours,
        "rows": [{"label": describe_row(label, cells), "is_ours": label == ours, "cells": line}
                 for (label, cells), *line in zip(rows.items(), *columns)],
        "gains": [(f"{gains[name][1]:+.1%}", gains[name][0]) if name in gains else (NOTHING, "") for name in names]
        if gains else [],
    }  # fmt: skip


def describe_column(texts, smaller_is_better):
    """Mean, deviation and mark of every cell, and the length of its bar: the share of the column's largest mean."""
    parts = [text.partition(" ± ")[::2] for text, _ in texts]
    values = [None if mean == NOTHING else float(mean) for mean, _ in parts]
    largest = 0 if smaller_is_better else max((value for value in values if value), default=0)
    return [
        {"mean": None if value is None else mean, "deviation": deviation, "place": PLACES[place],
         "share": f"{value / largest:.0%}" if value and largest else ""}
        for (mean, deviation), (_, place), value in zip(parts, texts, values)
    ]  # fmt: skip
