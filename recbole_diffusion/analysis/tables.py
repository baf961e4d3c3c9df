"""Comparison tables in Markdown and CSV from the dicts that ``quick_start.run`` returns."""

import csv
import io
import json
import os
import shlex
import statistics
from pathlib import Path

from recbole_diffusion.properties import parse_scalar

# Settings that name a place or a way of watching; they cannot change a number.
PLACES = frozenset(
    "checkpoint_dir data_path dataloaders_save_path dataset_save_path device gpu_id local_rank log_wandb result_file"
    " resume save_dataloaders save_dataset show_progress single_spec state wandb_project".split()
)
PROTOCOLS = {"not masked": "test_result_unmasked", "masked": "test_result_masked"}
SMALLER_IS_BETTER = ("averagepopularity", "giniindex")
NOTHING = "–"
PREAMBLE = (
    "Mean ± sample standard deviation over seeds; the best mean of a column is bold. Commands leave out settings "
    "that only name places, such as data_path."
)


def write_tables(results, out_dir, command):
    """Write ``<dataset>.md`` and ``<dataset>.csv`` for every data set among the results.

    Args:
        results (list[dict]): what ``quick_start.run`` returned. Optional keys: ``row`` (label, else the model's
            name) and ``given`` (the settings the user gave, else the stored command is shown). A cell that failed is
            a dict of ``row``, ``model``, ``dataset``, ``seed``, ``given`` and ``error``. Rows keep their first order.
        out_dir (str | Path): folder for the files.
        command (str): command line that regenerates the whole comparison.

    Returns:
        dict[str, Path]: data set -> its Markdown file.
    """
    paths = {}
    for dataset, cells in group_by(results, "dataset").items():
        paths[dataset] = Path(out_dir) / f"{dataset}.md"
        write_text(paths[dataset], format_markdown(dataset, cells, command))
        write_text(Path(out_dir) / f"{dataset}.csv", format_csv(cells))
    return paths


def group_by(results, key):
    """Results by the value of a key, in order of appearance; without ``row`` the model names the row."""
    groups = {}
    for result in results:
        groups.setdefault(result.get(key, result["model"]), []).append(result)
    return groups


def finished(results):
    """The results without the failed cells."""
    return [result for result in results if "error" not in result]


# Numbers


def mean_and_std(values):
    """Mean, and sample standard deviation (n - 1), which is None for a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def format_mean(values):
    """``0.1234 ± 0.0012``, or only the value when there is one."""
    mean, std = mean_and_std(values)
    return f"{mean:.4f}" if std is None else f"{mean:.4f} ± {std:.4f}"


def metric_title(name):
    """RecBole's ``hit@10`` as the papers' ``HR@10``."""
    metric, _, k = name.partition("@")
    return f"{'HR' if metric == 'hit' else metric.upper()}@{k}"


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
        list[str]: a text per row; rows that show the best mean are bold.
    """
    values = [[r[protocol][name] for r in finished(cells) if name in r[protocol]] for cells in rows.values()]
    # Compared as shown: bold must not tell apart what the reader sees as equal.
    means = [round(mean_and_std(v)[0], 4) if v else None for v in values]
    choose = min if name.partition("@")[0] in SMALLER_IS_BETTER else max
    best = choose((mean for mean in means if mean is not None), default=None)
    texts = [format_mean(v) if v else NOTHING for v in values]
    return [f"**{text}**" if mean is not None and mean == best else text for text, mean in zip(texts, means)]


# Markdown


def format_markdown(dataset, results, command):
    """The page of one data set: heading, both protocols, facts, failures, commands."""
    rows = group_by(results, "row")
    parts = [f"# {dataset}", format_heading(results), PREAMBLE]
    for title, protocol in PROTOCOLS.items():
        parts += [f"## History {title}", format_metrics(rows, results, protocol)]
    parts += ["## Facts", format_facts(rows)]
    failed = [f"- {r.get('row', r['model'])}, seed {r['seed']}: {r['error']}" for r in results if "error" in r]
    if failed:
        parts += ["## Failed cells", "\n".join(failed)]
    lines = [line for label, cells in rows.items() for line in (f"# {label}", run_command(cells[0]))]
    parts += ["## Commands", "\n".join(["```sh", *lines, "", "# all", command, "```"])]
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


def format_metrics(rows, results, protocol):
    """Rows x metrics under one protocol; a row without a finished cell says so."""
    columns = {metric_title(name): metric_cells(rows, protocol, name) for name in metric_names(results)}
    labels = [label if finished(cells) else f"{label} (failed)" for label, cells in rows.items()]
    return markdown_table({"row": labels, **columns})


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
    failures = len(cells) - len(done)
    peaks = [r["peak_memory_mb"].get("cuda") or r["peak_memory_mb"]["process"] for r in done]
    return {
        "seeds": f"{len(done)}, {failures} failed" if failures else str(len(done)),
        "validation": format_validation(done),
        "best epoch": format_plain([r["best_epoch"] for r in done if r["best_epoch"] is not None]),
        "epochs": format_plain([r["epochs"] for r in done]),
        "s/epoch": format_plain([r["seconds"]["training"] / max(r["epochs"], 1) for r in done], digits=2),
        "parameters": "; ".join(f"{count:,}" for count in sorted({r["parameters"] for r in done})) or NOTHING,
        "peak memory MB": f"{max(peaks):,}" if peaks else NOTHING,
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
    """One line per cell with full precision; a failed cell has its error instead of numbers."""
    names = metric_names(results)
    metrics = {f"{metric_title(name)} {title}": (key, name) for title, key in PROTOCOLS.items() for name in names}
    fields = ["row", "dataset", "seed", *metrics, "epochs", "best_epoch", "seconds", "parameters", "error"]
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for result in results:
        line = {**result, "row": result.get("row", result["model"])}
        if "error" not in result:
            line["seconds"] = result["seconds"]["training"]
            line.update({title: result[key].get(name, "") for title, (key, name) in metrics.items()})
        writer.writerow(line)
    return text.getvalue()


def format_text(results, names=("hit@10", "ndcg@10")):
    """A compact table for the terminal: both protocols, a few metrics, one data set."""
    rows = group_by(results, "row")
    columns = {"row": list(rows)}
    for title, protocol in PROTOCOLS.items():
        for name in names:
            columns[f"{metric_title(name)} {title}"] = [t.strip("*") for t in metric_cells(rows, protocol, name)]
    widths = [max(map(len, [title, *texts])) for title, texts in columns.items()]
    lines = [list(columns), *zip(*columns.values())]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in lines)


def write_text(path, text):
    """Write a file whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
