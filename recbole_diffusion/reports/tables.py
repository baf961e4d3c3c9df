"""Comparison tables in Markdown and CSV from the dicts that ``quick_start.run`` returns."""

import csv
import io
import json
import shlex
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from recbole_diffusion.files import write_whole
from recbole_diffusion.reports.bounds import impossible_metrics
from recbole_diffusion.reports.significance import ALPHA, compare_rows
from recbole_diffusion.settings.free import PLACES
from recbole_diffusion.settings.properties import parse_scalar

PROTOCOLS = {"not masked": "test_result_unmasked", "masked": "test_result_masked"}
SMALLER_IS_BETTER = ("averagepopularity", "giniindex")
NOTHING = "–"
USUAL = ("hit@10", "ndcg@10")
PREAMBLE = (
    "Mean ± sample standard deviation over seeds; the best mean of a column is bold, the second best underlined. "
    "Commands leave out settings that only name places, such as data_path."
)
ABOUT_TESTS = (
    "Paired two-sided t-tests against every other row; d is Cohen's d of the paired differences. Over users, a value "
    "is the mean over the row's seeds; over seeds, the pairs are equal seeds, from three on. p is corrected by Holm "
    f"over all tests of a column of a table, each protocol by itself; * is p < {ALPHA}."
)


@dataclass
class Study:
    """What a set of results is about, beside the results.

    Attributes:
        command (str): command line that regenerates the whole comparison.
        title (str): heading of the report.
        note (str): what a reader must know of it.
        ours (str | None): label of the row under test; None is the last row.
        metrics (list[str]): metrics of the tables, as in RecBole (``hit@10``); empty shows all.
        published (dict): data set -> row -> metric -> published figure.
        unit (float): last printed place of the published figures.
    """

    command: str = ""
    title: str = "Comparison"
    note: str = ""
    ours: str = None
    metrics: list = field(default_factory=list)
    published: dict = field(default_factory=dict)
    unit: float = 1e-4


def write_tables(results, out_dir, study):
    """Write ``<dataset>.md`` and ``<dataset>.csv`` for every data set among the results.

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
        paths[dataset] = Path(out_dir) / f"{dataset}.md"
        write_text(paths[dataset], format_markdown(dataset, cells, study))
        write_text(Path(out_dir) / f"{dataset}.csv", format_csv(cells))
    return paths


def group_by(results, key):
    """Results by the value of a key, in order of appearance; without ``row`` the model names the row."""
    groups = {}
    for result in results:
        groups.setdefault(result.get(key, result["model"]), []).append(result)
    return groups


def finished(results):
    """The results without the failed cells and the rows that cannot run."""
    return [result for result in results if "error" not in result and "absent" not in result]


# Numbers


def mean_and_std(values):
    """Mean, and sample standard deviation (n - 1), which is None for a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def format_mean(values):
    """``0.1234 ± 0.0012``, or only the value when there is one."""
    mean, std = mean_and_std(values)
    return f"{mean:.4f}" if std is None else f"{mean:.4f} ± {std:.4f}"


def recbole_name(metric):
    """A paper's ``HR@10`` or ``P@10`` as RecBole's ``hit@10``: precision of one target is printed as a hit rate."""
    name, at, k = metric.lower().partition("@")
    return f"{'hit' if name in ('hr', 'p') else name}{at}{k}"


def metric_title(name):
    """RecBole's ``hit@10`` as the papers' ``HR@10``."""
    metric, at, k = name.partition("@")
    return f"{'HR' if metric == 'hit' else metric.upper()}{at}{k}"


def metric_names(results):
    """Metrics of all finished results, in order of appearance."""
    return list(dict.fromkeys(name for r in finished(results) for key in PROTOCOLS.values() for name in r[key]))


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


def column(rows, protocol, name):
    """Texts and places of one metric.

    Returns:
        list[tuple[str, int | None]]: mean and deviation, and 1 for the best, 2 for the second best, None for others and
        for rows that see test labels.
    """
    values = [[r[protocol][name] for r in finished(cells) if r[protocol].get(name) is not None] for cells in rows.values()]
    # Compared as shown: a mark must not tell apart what the reader sees as equal.
    means = [round(mean_and_std(v)[0], 4) if v else None for v in values]
    fair = [None if leaks(cells) else mean for cells, mean in zip(rows.values(), means)]
    order = sorted({mean for mean in fair if mean is not None}, reverse=not is_smaller_better(name))
    texts = [format_mean(v) if v else NOTHING for v in values]
    return [(text, order.index(mean) + 1 if mean in order[:2] else None) for text, mean in zip(texts, fair)]


def leaks(cells):
    """Whether a row's model saw test labels, so that it is out of the competition."""
    return any(cell.get("leaks_test_labels") for cell in cells)


def is_smaller_better(name):
    """Whether a metric is good when it is small."""
    return name.partition("@")[0] in SMALLER_IS_BETTER


def shown_metrics(results, study):
    """Metrics of the tables: the study's that exist, else all; before the first run the study's."""
    names = metric_names(results)
    return [name for name in study.metrics if name in names] or names or list(study.metrics)


def row_under_test(rows, study):
    """Label of the row that the others are baselines of: the study's, else the last that has a finished run."""
    if study.ours in rows:
        return study.ours
    done = [label for label, cells in rows.items() if finished(cells)]
    return done[-1] if done else None


def improvements(rows, protocol, names, ours):
    """Metric -> ``(label of the best baseline, relative gain of ours over it)``; without two rows it is left out."""
    found = {}
    for name in names:
        means = {}
        for label, cells in rows.items():
            values = [r[protocol][name] for r in finished(cells) if r[protocol].get(name) is not None]
            if values and (label == ours or not leaks(cells)):
                means[label] = statistics.fmean(values)
        mine = means.pop(ours, None)
        if mine is None or not means:
            continue
        best = (min if is_smaller_better(name) else max)(means, key=means.get)
        if means[best]:
            found[name] = (best, mine / means[best] - 1)
    return found


def published_figures(dataset, labels, study):
    """Published figures of some rows and which of them cannot be true.

    Returns:
        tuple: ``{row: {metric: figure}}`` and ``{(row, metric): reason}``.
    """
    figures = {label: study.published.get(dataset, {}).get(label, {}) for label in labels}
    doubts = {
        (label, name): reason
        for label, values in figures.items()
        for name, reason in impossible_metrics(values, study.unit).items()
    }
    return {label: values for label, values in figures.items() if values}, doubts


def published_columns(dataset, rows, names, study):
    """The table of published figures beside ours.

    Returns:
        tuple: column title -> texts, empty without published figures, and what speaks against those marked with ‡.
    """
    figures, doubts = published_figures(dataset, rows, study)
    columns = {"row": list(figures)} if figures else {}
    for name in names if figures else ():
        ours = column({label: rows[label] for label in figures}, "test_result_unmasked", name)
        printed = [format_figure(figures[label].get(name), (label, name) in doubts, study.unit) for label in figures]
        columns[f"{metric_title(name)} ours"] = [text for text, _ in ours]
        columns[f"{metric_title(name)} paper"] = printed
    return columns, [f"{label}: {reason}" for (label, _), reason in doubts.items()]


# Markdown


def format_markdown(dataset, results, study):
    """The page of one data set: heading, both protocols, published figures, tests, facts, failures, commands."""
    rows = group_by(results, "row")
    names = shown_metrics(results, study)
    parts = [f"# {dataset}", study.note, format_heading(results), PREAMBLE]
    for title, protocol in PROTOCOLS.items():
        parts += [f"## History {title}", format_metrics(rows, names, protocol, study)]
    parts += [format_published(dataset, rows, names, study), format_tests(rows, names, study)]
    parts += ["## Facts", format_facts(rows)]
    failed = [f"- {r.get('row', r['model'])}, seed {r['seed']}: {r['error']}" for r in results if "error" in r]
    if failed:
        parts += ["## Failed cells", "\n".join(failed)]
    absent = [f"- {label}: {cells[0]['absent']}" for label, cells in rows.items() if "absent" in cells[0]]
    if absent:
        parts += ["## Rows without runs", "\n".join(absent)]
    runnable = {label: cells for label, cells in rows.items() if "absent" not in cells[0]}
    lines = [line for label, cells in runnable.items() for line in (f"# {label}", run_command(cells[0]))]
    parts += ["## Commands", "\n".join(["```sh", *lines, "", "# all", study.command, "```"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def format_heading(results):
    """What the numbers rest on; cells that differ show all variants."""
    facts = {
        "counts": lambda r: ", ".join(f"{count:,} {name}" for name, count in r["dataset_counts"].items()),
        "split": lambda r: r["split"],
        "best epoch chosen with the history": lambda r: "masked" if r["mask_history"] else "not masked",
        "versions": lambda r: ", ".join(f"{name} {version}" for name, version in r["versions"].items()),
        "device": lambda r: r["device"],
    }
    found = {name: list(dict.fromkeys(map(describe, finished(results)))) for name, describe in facts.items()}
    return "\n".join(f"- {name}: {'; '.join(texts)}" for name, texts in found.items() if texts)


def format_metrics(rows, names, protocol, study):
    """Rows x metrics under one protocol, and the gain over the best baseline."""
    columns = {metric_title(name): metric_cells(rows, protocol, name) for name in names}
    table = markdown_table({"row": [describe_row(label, cells) for label, cells in rows.items()], **columns})
    ours = row_under_test(rows, study)
    gains = improvements(rows, protocol, names, ours)
    words = [f"{metric_title(name)} {gain:+.1%} ({best})" for name, (best, gain) in gains.items()]
    return f"{table}\n\n{ours} against the best other row: {', '.join(words)}." if words else table


def describe_row(label, cells):
    """A row's label, and why it has no numbers."""
    if "absent" in cells[0]:
        return f"{label} ({cells[0]['absent']})"
    if leaks(cells):
        return f"{label} (sees test labels)"
    return label if finished(cells) else f"{label} (failed)"


def format_published(dataset, rows, names, study):
    """Published figures beside ours, under the protocol whose history is not masked; impossible ones are marked."""
    columns, reasons = published_columns(dataset, rows, names, study)
    if not columns:
        return ""
    note = ["‡ cannot be true, even allowing for rounding:", "\n".join(f"- {text}" for text in reasons)] if reasons else []
    return "\n\n".join(["## Published figures", markdown_table(columns), *note])


def format_figure(value, is_impossible, unit):
    """A published figure with as many places as it was printed with."""
    if value is None:
        return NOTHING
    places = len(f"{unit:.10f}".rstrip("0").partition(".")[2])
    return f"{value:.{places}f}{' ‡' if is_impossible else ''}"


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


def comparisons(rows, ours, protocol, names):
    """:func:`compare_rows` of the rows with finished runs, without those that nothing could be tested of."""
    done = {label: finished(cells) for label, cells in rows.items() if finished(cells)}
    if ours not in done:
        return []
    found = compare_rows(done, ours, protocol.removeprefix("test_result_"), names)
    return [comparison for comparison in found if comparison.users or comparison.seeds]


def comparison_columns(found):
    """Column title -> texts of a table of tests."""
    return {
        "against": [c.other for c in found],
        "metric": [metric_title(c.metric) for c in found],
        "difference": [f"{c.difference:+.4f}" for c in found],
        "p users": [format_p(c.users) for c in found],
        "d users": [f"{c.users.effect:+.3f}" if c.users else NOTHING for c in found],
        "p seeds": [format_p(c.seeds) for c in found],
        "d seeds": [f"{c.seeds.effect:+.2f}" if c.seeds else NOTHING for c in found],
        "pairs": [f"{c.users.n if c.users else NOTHING} / {c.seeds.n if c.seeds else NOTHING}" for c in found],
    }


def format_p(test):
    """A corrected p-value with a star where it is small."""
    if test is None:
        return NOTHING
    text = "< 0.0001" if test.p_holm < 1e-4 else f"{test.p_holm:.4f}"
    return f"{text} *" if test.p_holm < ALPHA else text


def format_facts(rows):
    """Rows x what the training took."""
    table = [row_facts(cells) for cells in rows.values()]
    columns = {"row": list(rows), **{name: [facts[name] for facts in table] for name in table[0]}}
    note = (
        "Peak memory is the largest among the seeds: of the GPU's allocator, or on a CPU of the whole process, "
        "which never falls while one process runs several cells."
    )
    return f"{markdown_table(columns)}\n\nEpochs count from 0 in 'best epoch'. {note}"


def row_facts(cells):
    """Facts of one row as texts, by column title."""
    done = finished(cells)
    failures = sum("error" in cell for cell in cells)
    peaks = [r["peak_memory_mb"].get("cuda") or r["peak_memory_mb"].get("process", 0) for r in done]  # 0 on Windows
    return {
        "seeds": f"{len(done)}, {failures} failed" if failures else str(len(done)),
        "validation": format_validation(done),
        "best epoch": format_plain([r["best_epoch"] for r in done if r["best_epoch"] is not None]),
        "epochs": format_plain([r["epochs"] for r in done]),
        "s/epoch": format_plain([r["seconds"]["training"] / max(r["epochs"], 1) for r in done], digits=2),
        "parameters": "; ".join(f"{count:,}" for count in sorted({r["parameters"] for r in done})) or NOTHING,
        "peak memory MB": f"{max(peaks):,}" if any(peaks) else NOTHING,
    }


def format_validation(done):
    """The validation metric by name with its mean."""
    if not done:
        return NOTHING
    metric = metric_title(done[0]["settings"]["valid_metric"].lower())
    scores = [r["best_valid_score"] for r in done if r["best_valid_score"] is not None]  # None without validation
    return f"{metric} {format_mean(scores)}" if scores else NOTHING


def format_plain(values, digits=1):
    """Mean without trailing zeros."""
    return f"{round(statistics.fmean(values), digits):.10g}" if values else NOTHING


def markdown_table(columns):
    """A Markdown table from column title -> texts."""
    lines = [list(columns), ["---"] * len(columns), *zip(*columns.values())]
    return "\n".join("| " + " | ".join(str(text).replace("|", "\\|") for text in line) + " |" for line in lines)


# Commands


def run_command(result):
    """The command that makes one cell again, from the settings that were given."""
    if "given" not in result:
        return result["command"]
    settings = {"model": result["model"], "dataset": result["dataset"], "seed": result["seed"], **result["given"]}
    return f"python run_recbole_diffusion.py {format_settings(settings)}"


def format_settings(settings):
    """Settings without places as words of a shell command; the command line reads back the same values."""
    return " ".join(
        shlex.quote(f"--{key}={format_value(value)}") for key, value in settings.items() if key not in PLACES
    )


def format_value(value):
    """A value as the YAML text of a command-line word."""
    if isinstance(value, str):
        return value if parse_scalar(value) == value else json.dumps(value)  # quoted where '1' would become 1
    return str(value) if isinstance(value, (bool, int, float)) else json.dumps(value)


# CSV and terminal


def format_csv(results):
    """One line per cell with all stored places of the metrics; a failed cell has its error instead of numbers."""
    names = metric_names(results)
    metrics = {f"{metric_title(name)} {title}": (key, name) for title, key in PROTOCOLS.items() for name in names}
    fields = ["row", "dataset", "seed", *metrics, "epochs", "best_epoch", "seconds", "parameters", "error"]
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for result in results:
        line = {**result, "row": result.get("row", result["model"]), "error": result.get("error", result.get("absent"))}
        if finished([result]):
            line["seconds"] = result["seconds"]["training"]
            line.update({title: result[key].get(name, "") for title, (key, name) in metrics.items()})
        writer.writerow(line)
    return text.getvalue()


def format_text(results, study):
    """A compact table for the terminal: both protocols, a few metrics, one data set."""
    rows = group_by(results, "row")
    columns = {"row": list(rows)}
    for title, protocol in PROTOCOLS.items():
        for name in terminal_metrics(results, study):
            columns[f"{metric_title(name)} {title}"] = [text for text, _ in column(rows, protocol, name)]
    widths = [max(map(len, [title, *texts])) for title, texts in columns.items()]
    lines = [list(columns), *zip(*columns.values())]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in lines)


def terminal_metrics(results, study):
    """The usual pair where the tables show it, else the first few of what they show."""
    shown = shown_metrics(results, study)
    return list(USUAL) if not shown or set(USUAL) <= set(shown) else shown[:4]


def write_text(path, text):
    """Write a file whole or not at all."""
    write_whole(path, text.encode("utf-8"))
