"""What a comparison says, whatever the format of its page: rows, means, marks, tests and facts as texts."""

import statistics
from dataclasses import dataclass, field

from recbole_diffusion.reports.bounds import impossible_metrics
from recbole_diffusion.reports.significance import ALPHA, compare_rows

PROTOCOLS = {"not masked": "test_result_unmasked", "masked": "test_result_masked"}
SMALLER_IS_BETTER = ("averagepopularity", "giniindex")
NOTHING = "–"
USUAL = ("hit@10", "ndcg@10")
TITLES = {
    "hit": "HR", "recall": "Recall", "precision": "Precision", "itemcoverage": "Item coverage",
    "averagepopularity": "Average popularity", "giniindex": "Gini index", "shannonentropy": "Shannon entropy",
    "tailpercentage": "Tail percentage", "logloss": "Log loss",
}  # fmt: skip
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
        name (str): begins the names of the files, so that several comparisons share a folder; may be empty.
        title (str): heading of the report.
        note (str): what a reader must know of it.
        ours (str | None): label of the row under test; None is the last row.
        metrics (list[str]): metrics of the tables, as in RecBole (``hit@10``); empty shows all.
        published (dict): data set -> row -> metric -> published figure.
        unit (float): last printed place of the published figures.
        validation (bool): whether the best validation figures are shown beside the test figures.
    """

    command: str = ""
    name: str = ""
    title: str = "Comparison"
    note: str = ""
    ours: str = None
    metrics: list = field(default_factory=list)
    published: dict = field(default_factory=dict)
    unit: float = 1e-4
    validation: bool = False

    def stem(self, dataset):
        """Name of the files of a data set, without suffix."""
        return f"{self.name}.{dataset}" if self.name else dataset

    @property
    def page(self):
        """Name of the page of everything."""
        return f"{self.name or 'report'}.html"


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
    return f"{TITLES.get(metric, metric.upper())}{at}{k}"


def metric_names(results):
    """Metrics of all finished results, in order of appearance."""
    return list(dict.fromkeys(name for r in finished(results) for key in PROTOCOLS.values() for name in r[key]))


def shown_metrics(results, study):
    """Metrics of the tables: the study's that exist, else all; before the first run the study's."""
    names = metric_names(results)
    return [name for name in study.metrics if name in names] or names or list(study.metrics)


def usual_metrics(results, study):
    """Where there is little room: the chosen metrics, else the usual pair where there is one, else the first few."""
    shown = shown_metrics(results, study)
    if study.metrics and shown:
        return shown
    return list(USUAL) if not shown or set(USUAL) <= set(shown) else shown[:4]


def column(rows, protocol, name):
    """Texts and places of one metric.

    Returns:
        list[tuple[str, int | None]]: mean and deviation, and 1 for the best, 2 for the second best, None for others and
        for rows that see test labels.
    """
    values = [values_of(cells, protocol, name) for cells in rows.values()]
    # Compared as shown: a mark must not tell apart what the reader sees as equal.
    means = [round(mean_and_std(v)[0], 4) if v else None for v in values]
    fair = [None if leaks(cells) else mean for cells, mean in zip(rows.values(), means)]
    order = sorted({mean for mean in fair if mean is not None}, reverse=not is_smaller_better(name))
    texts = [format_mean(v) if v else NOTHING for v in values]
    return [(text, order.index(mean) + 1 if mean in order[:2] else None) for text, mean in zip(texts, fair)]


def values_of(cells, protocol, name):
    """A metric of every finished run that has it; what has no value, such as NaN, is None in results."""
    return [r[protocol][name] for r in finished(cells) if r[protocol].get(name) is not None]


def leaks(cells):
    """Whether a row's model saw test labels, so that it is out of the competition."""
    return any(cell.get("leaks_test_labels") for cell in cells)


def is_smaller_better(name):
    """Whether a metric is good when it is small."""
    return name.partition("@")[0] in SMALLER_IS_BETTER


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
            values = values_of(cells, protocol, name)
            if values and (label == ours or not leaks(cells)):
                means[label] = statistics.fmean(values)
        mine = means.pop(ours, None)
        if mine is None or not means:
            continue
        best = (min if is_smaller_better(name) else max)(means, key=means.get)
        if means[best]:
            found[name] = (best, mine / means[best] - 1)
    return found


def is_gain(name, gain):
    """Whether a relative gain is one for the better."""
    return gain < 0 if is_smaller_better(name) else gain > 0


# Published figures


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
    """The table of published figures, beside ours where there are any.

    Returns:
        tuple: column title -> texts, empty without published figures, and what speaks against those marked with ‡.
    """
    figures, doubts = published_figures(dataset, rows, study)
    columns = {"row": list(figures)} if figures else {}
    have_runs = bool(with_runs(rows))
    for name in names if figures else ():
        ours = column({label: rows[label] for label in figures}, "test_result_unmasked", name)
        printed = [format_figure(figures[label].get(name), (label, name) in doubts, study.unit) for label in figures]
        title = metric_title(name)
        both = {f"{title} ours": [text for text, _ in ours], f"{title} paper": printed}
        columns.update(both if have_runs else {title: printed})
    return columns, [f"{label}: {reason}" for (label, _), reason in doubts.items()]


def format_figure(value, is_impossible, unit):
    """A published figure with as many places as it was printed with."""
    if value is None:
        return NOTHING
    places = len(f"{unit:.10f}".rstrip("0").partition(".")[2])
    return f"{value:.{places}f}{' ‡' if is_impossible else ''}"


# Tests


def comparisons(rows, ours, protocol, names):
    """:func:`compare_rows` of the rows with finished runs, without those that nothing could be tested of."""
    done = {label: finished(cells) for label, cells in rows.items() if finished(cells)}
    if ours not in done:
        return []
    found = compare_rows(done, ours, protocol.removeprefix("test_result_"), names)
    return [comparison for comparison in found if comparison.users or comparison.seeds]


def significant_gains(rows, protocol, names, ours):
    """Metrics in which a row is better than the best other row by more than chance, each with what the test is over.

    Returns:
        dict[str, str]: metric -> ``users``, or ``seeds`` where users cannot be paired.
    """
    gains, found = improvements(rows, protocol, names, ours), {}
    for c in comparisons(rows, ours, protocol, names):
        best, gain = gains.get(c.metric, (None, 0))
        if c.other == best and is_gain(c.metric, gain) and (c.users or c.seeds).p_holm < ALPHA:
            found[c.metric] = "users" if c.users else "seeds"
    return found


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


# Facts


def describe_runs(results):
    """What the numbers rest on, a text per fact; runs that differ show all variants."""
    facts = {
        "counts": lambda r: ", ".join(f"{count:,} {name}" for name, count in r["dataset_counts"].items()),
        "split": lambda r: r["split"],
        "best epoch chosen with the history": lambda r: "masked" if r["mask_history"] else "not masked",
        "versions": lambda r: ", ".join(f"{name} {version}" for name, version in r["versions"].items()),
        "device": lambda r: r["device"],
    }
    found = {name: list(dict.fromkeys(map(describe, finished(results)))) for name, describe in facts.items()}
    return [f"{name}: {'; '.join(texts)}" for name, texts in found.items() if texts]


def describe_failed(results):
    """A text per failed cell."""
    return [f"{r.get('row', r['model'])}, seed {r['seed']}: {r['error']}" for r in results if "error" in r]


def describe_absent(rows):
    """A text per row without runs."""
    return [f"{label}: {cells[0]['absent']}" for label, cells in rows.items() if "absent" in cells[0]]


def describe_row(label, cells):
    """A row's label, and why it has no numbers."""
    if "absent" in cells[0]:
        return f"{label} ({cells[0]['absent']})"
    if leaks(cells):
        return f"{label} (sees test labels)"
    return label if finished(cells) else f"{label} (failed)"


def with_runs(rows):
    """The rows that ran or tried to."""
    return {label: cells for label, cells in rows.items() if "absent" not in cells[0]}


def facts_columns(rows):
    """Column title -> texts of what the training took; empty where nothing ran."""
    table = {label: row_facts(cells) for label, cells in with_runs(rows).items()}
    if not table:
        return {}
    titles = next(iter(table.values()))
    return {"row": list(table), **{title: [facts[title] for facts in table.values()] for title in titles}}


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
