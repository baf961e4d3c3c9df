"""Validation figures beside test figures: what ``compare --validation`` adds to its pages.

Some released programs print, last of all, the best validation figure of each metric over the epochs, and such figures
have been published in tables of test figures. Here both stand side by side, under names that tell them apart.
"""

from recbole_diffusion.reports.study import (
    NOTHING,
    PROTOCOLS,
    finished,
    format_figure,
    format_mean,
    is_smaller_better,
    mean_and_std,
    metric_title,
    published_figures,
    values_of,
)

TITLE = "Best validation figures beside test figures"
ABOUT = (
    "'best validation' is no test figure: it is the best of each metric over the validated epochs of a run, so that one "
    "row may mix epochs. 'test' is the test part at the one epoch that validation chose, with the history as in "
    "validation. Mean ± sample standard deviation over seeds."
)


def best_validation(result, name):
    """The best validation figure of a metric over the epochs of a run, or None where there is none."""
    values = [value for value in result.get("history", {}).get("valid", {}).get(name, []) if value is not None]
    return (min if is_smaller_better(name) else max)(values, default=None)


def validation_values(cells, name):
    """:func:`best_validation` of every finished run that has it."""
    return [value for value in (best_validation(run, name) for run in finished(cells)) if value is not None]


def values_at_choice(cells, name):
    """A test metric of every finished run, with the history masked where validation masks it."""
    title = "masked" if any(run["mask_history"] for run in finished(cells)) else "not masked"
    return values_of(cells, PROTOCOLS[title], name)


KINDS = {"best validation": validation_values, "test": values_at_choice}


def texts_of(rows, read, name):
    """A text per row."""
    found = [read(cells, name) for cells in rows.values()]
    return [format_mean(values) if values else NOTHING for values in found]


def validation_lines(dataset, rows, names, study):
    """Label, kind and figures of every line of the table, the published figures last of a row."""
    figures, doubts = published_figures(dataset, rows, study)
    for label, cells in rows.items():
        for kind, read in KINDS.items():
            yield label, kind, [texts_of({label: cells}, read, name)[0] for name in names]
        if label in figures:
            values = figures[label]
            yield label, "paper", [format_figure(values.get(name), (label, name) in doubts, study.unit) for name in names]


def validation_columns(dataset, rows, names, study):
    """Column title -> texts, a line for every row and kind of figure; empty unless the study wants it."""
    rows = {label: cells for label, cells in rows.items() if finished(cells)}
    if not study.validation or not rows:
        return {}
    labels, kinds, texts = zip(*validation_lines(dataset, rows, names, study))
    return {"row": labels, "figures": kinds, **dict(zip(map(metric_title, names), zip(*texts)))}


def distances(dataset, rows, names, study):
    """A text per row that has published figures: how far both kinds of figures are from them."""
    figures, _ = published_figures(dataset, rows, study)
    texts = []
    for label, published in figures.items():
        parts = []
        for kind, read in KINDS.items():
            values = {name: read(rows[label], name) for name in names if name in published}
            gaps = [mean_and_std(found)[0] / published[name] - 1 for name, found in values.items() if found]
            if gaps:
                parts.append(f"{kind} {min(gaps):+.1%} to {max(gaps):+.1%}")
        if parts:
            texts.append(f"{label}, against the published figures: {', '.join(parts)}")
    return texts
