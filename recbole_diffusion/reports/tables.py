"""Comparison tables in Markdown, CSV and for the terminal from the dicts that ``quick_start.run`` returns."""

import csv
import io
from pathlib import Path

from recbole_diffusion.files import write_whole
from recbole_diffusion.reports.commands import commands_of
from recbole_diffusion.reports.study import (
    ABOUT_TESTS,
    PROTOCOLS,
    Study,
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
    leaks,
    metric_names,
    metric_title,
    published_columns,
    row_under_test,
    shown_metrics,
    usual_metrics,
    with_runs,
)
from recbole_diffusion.reports.validation import (
    ABOUT,
    TITLE,
    best_validation,
    distances,
    texts_of,
    validation_columns,
    validation_values,
)

PREAMBLE = (
    "Mean ± sample standard deviation over seeds; the best mean of a column is bold, the second best underlined. "
    "Commands leave out settings that only name places, such as data_path."
)


def write_tables(results, out_dir, study):
    """Write a page and a CSV file for every data set among the results.

    Args:
        results (list[dict]): what ``quick_start.run`` returned. Optional keys: ``row`` (label, else the model's
            name), ``given`` (the settings the user gave, else the stored command is shown) and ``ranks_file``. A cell
            that failed is a dict of ``row``, ``model``, ``dataset``, ``seed``, ``given`` and ``error``; a row whose
            model does not exist has ``absent`` instead. Rows keep their first order.
        out_dir (str | Path): folder for the files.
        study (Study | str): what the results are about, or only its command.

    Returns:
        dict[str, Path]: data set -> its Markdown file.
    """
    study = Study(study) if isinstance(study, str) else study
    paths = {}
    for dataset, cells in group_by(results, "dataset").items():
        paths[dataset] = Path(out_dir) / f"{study.stem(dataset)}.md"
        write_text(paths[dataset], format_markdown(dataset, cells, study))
        write_text(Path(out_dir) / f"{study.stem(dataset)}.csv", format_csv(cells, study))
    return paths


def write_text(path, text):
    """Write a file whole or not at all."""
    write_whole(path, text.encode("utf-8"))


# Markdown


def format_markdown(dataset, results, study):
    """The page of one data set: heading, both protocols, published figures, tests, facts, failures, commands."""
    rows = group_by(results, "row")
    names = shown_metrics(results, study)
    parts = [f"# {dataset}", study.note, bullets(describe_runs(results))]
    published = format_published(dataset, rows, names, study)
    if with_runs(rows) or not published:  # a table of dashes says nothing
        parts += [PREAMBLE]
        for title, protocol in PROTOCOLS.items():
            parts += [f"## History {title}", format_metrics(rows, names, protocol, study)]
    parts += [published, format_validation(dataset, rows, names, study), format_tests(rows, names, study), format_facts(rows)]
    lists = {"Failed cells": describe_failed(results), "Rows without runs": describe_absent(rows)}
    for title, texts in lists.items():
        parts += [f"## {title}", bullets(texts)] if texts else []
    lines = [line for label, command in commands_of(rows) for line in (f"# {label}", command)]
    parts += ["## Commands", "\n".join(["```sh", *lines, "", "# all", study.command, "```"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def bullets(texts):
    """A list."""
    return "\n".join(f"- {text}" for text in texts)


def format_metrics(rows, names, protocol, study):
    """Rows x metrics under one protocol, and the gain over the best baseline."""
    columns = {metric_title(name): metric_cells(rows, protocol, name) for name in names}
    table = markdown_table({"row": [describe_row(label, cells) for label, cells in rows.items()], **columns})
    ours = row_under_test(rows, study)
    gains = improvements(rows, protocol, names, ours)
    words = [f"{metric_title(name)} {gain:+.1%} ({best})" for name, (best, gain) in gains.items()]
    return f"{table}\n\n{ours} against the best other row: {', '.join(words)}." if words else table


def metric_cells(rows, protocol, name):
    """One column of a metric table.

    Args:
        rows (dict[str, list[dict]]): row label -> results.
        protocol (str): key of the test result.
        name (str): metric.

    Returns:
        list[str]: a text per row; rows that show the best mean are bold, those that show the second best underlined.
    """
    marked = []
    for text, place in column(rows, protocol, name):
        marked.append({1: f"**{text}**", 2: f"<u>{text}</u>"}.get(place, text))
    return marked


def format_published(dataset, rows, names, study):
    """Published figures beside ours, under the protocol whose history is not masked; impossible ones are marked."""
    columns, reasons = published_columns(dataset, rows, names, study)
    if not columns:
        return ""
    note = ["‡ cannot be true, even allowing for rounding:", bullets(reasons)] if reasons else []
    return "\n\n".join(["## Published figures", markdown_table(columns), *note])


def format_validation(dataset, rows, names, study):
    """The best validation figures beside the test figures and the published ones, where the study wants them."""
    columns = validation_columns(dataset, rows, names, study)
    if not columns:
        return ""
    return "\n\n".join([f"## {TITLE}", ABOUT, markdown_table(columns), bullets(distances(dataset, rows, names, study))])


def format_tests(rows, names, study):
    """Tests of the row under test against the others, under both protocols."""
    ours = row_under_test(rows, study)
    parts = []
    for title, protocol in PROTOCOLS.items():
        found = comparisons(rows, ours, protocol, names)
        if found:
            parts += [f"History {title}:", markdown_table(comparison_columns(found))]
    if not parts:
        return ""
    return "\n\n".join([f"## Tests of {ours}", ABOUT_TESTS, *parts])


def format_facts(rows):
    """Rows x what the training took."""
    columns = facts_columns(rows)
    if not columns:
        return ""
    note = (
        "Peak memory is the largest among the seeds: of the GPU's allocator, or on a CPU of the whole process, "
        "which never falls while one process runs several cells."
    )
    return f"## Facts\n\n{markdown_table(columns)}\n\nEpochs count from 0 in 'best epoch'. {note}"


def markdown_table(columns):
    """A Markdown table from column title -> texts."""
    lines = [list(columns), ["---"] * len(columns), *zip(*columns.values())]
    return "\n".join("| " + " | ".join(str(text).replace("|", "\\|") for text in line) + " |" for line in lines)


# CSV and terminal


def format_csv(results, study):
    """One line per cell with all stored places of the metrics; a failed cell has its error instead of numbers.

    Where any run sees test labels, a last column says which do.
    """
    names = metric_names(results)
    metrics = {f"{metric_title(name)} {title}": (key, name) for title, key in PROTOCOLS.items() for name in names}
    best = {f"{metric_title(name)} best validation": name for name in names} if study.validation else {}
    marks = ["leaks_test_labels"] if leaks(results) else []
    fields = ["row", "dataset", "seed", *metrics, *best, "epochs", "best_epoch", "seconds", "parameters", "error", *marks]
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for result in results:
        line = {**result, "row": result.get("row", result["model"]), "error": result.get("error", result.get("absent"))}
        if finished([result]):
            line["seconds"] = result["seconds"]["training"]
            line.update({title: result[key].get(name, "") for title, (key, name) in metrics.items()})
            line.update({title: best_validation(result, name) for title, name in best.items()})
        writer.writerow(line)
    return text.getvalue()


def format_text(results, study):
    """A compact table of one data set for the terminal: both protocols, or what is published where nothing ran."""
    rows, names = group_by(results, "row"), usual_metrics(results, study)
    columns = {} if with_runs(rows) else published_columns(results[0]["dataset"], rows, names, study)[0]
    columns = columns or {"row": list(rows), **{
        f"{metric_title(name)} {title}": [text for text, _ in column(rows, protocol, name)]
        for title, protocol in PROTOCOLS.items() for name in names
    }, **terminal_validation(rows, names, study)}  # fmt: skip
    widths = [max(map(len, [title, *texts])) for title, texts in columns.items()]
    lines = [list(columns), *zip(*columns.values())]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in lines)


def terminal_validation(rows, names, study):
    """Column title -> a text per row."""
    if not study.validation:
        return {}
    return {f"{metric_title(name)} best validation": texts_of(rows, validation_values, name) for name in names}
