"""Pictures of the atlas: published figures beside ours, and accuracy against the time of training; readable in black and white."""

import statistics

from recbole_diffusion.atlas.evidence import entries_by
from recbole_diffusion.atlas.summary import cost_of, row_metric
from recbole_diffusion.atlas.verdicts import mean_and_deviation
from recbole_diffusion.reports.drawing import legend_below, new_figure, style
from recbole_diffusion.reports.study import metric_title

ROW_INCHES = 0.28
COUNTERS = ("Successors", "SKNN")  # the second for sessions


def draw_table(entries, evidence):
    """One published table: a panel per data set with runs, a line per row, the published figure hollow and ours filled.

    Args:
        entries (list[Entry]): of the table.
        evidence (Evidence): has the counter, which is a dashed line.

    Returns:
        tuple: matplotlib.figure.Figure and its numbers, a list of dicts; None where no row of the table has a run.
    """
    datasets = [name for name, found in entries_by(entries, "dataset").items() if any(entry.runs for entry in found)]
    if not datasets:
        return None
    labels = list(dict.fromkeys(entry.row for entry in entries if entry.dataset in datasets))
    numbers = []
    with style():
        figure, panels = new_figure(len(datasets), width=3.6, height=1.4 + ROW_INCHES * len(labels))
        for axes, dataset in zip(panels, datasets):
            numbers += draw_panel(axes, dataset, [e for e in entries if e.dataset == dataset], labels, evidence)
        panels[0].set_yticks(range(len(labels)), labels)
        for axes in panels[1:]:
            axes.set_yticks(range(len(labels)), [""] * len(labels))
        legend_below(figure, panels[0], columns=4)
        figure.suptitle(entries[0].title)
    return figure, numbers


def draw_panel(axes, dataset, entries, labels, evidence):
    """One data set of a table; returns its numbers."""
    numbers = []
    name = row_metric(entries[0])
    for entry in entries:
        place = labels.index(entry.row)
        published, values = entry.published.get(name), entry.figures.test.get(name)
        if published is not None:
            doubtful = name in entry.doubts
            axes.plot(published, place, "x" if doubtful else "o", mfc="none", color="black", markersize=6)
        if values:
            mean, deviation = mean_and_deviation(values, evidence.spread)
            axes.errorbar(mean, place, xerr=2 * deviation, fmt="s", color="#0072B2", markersize=5, capsize=3)
        numbers.append({"dataset": dataset, "row": entry.row, "metric": metric_title(name), "published": published,
                        "ours": statistics.fmean(values) if values else None, "verdict": entry.word})  # fmt: skip
    axes.plot([], [], "o", mfc="none", color="black", label="published")
    axes.plot([], [], "x", color="black", label="published, cannot be true")
    axes.plot([], [], "s", color="#0072B2", label="ours ± two deviations")
    floor = next((evidence.runs[dataset, label] for label in COUNTERS if (dataset, label) in evidence.runs), None)
    if floor and name in floor[0]["test_result_unmasked"]:
        axes.axvline(floor[0]["test_result_unmasked"][name], linestyle="--", color="gray", linewidth=1.2)
    axes.plot([], [], "--", color="gray", label=f"counter ({' or '.join(COUNTERS)})")
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlim(0, 1.03 * axes.get_xlim()[1])  # room for the last mark
    axes.set(title=dataset, xlabel=metric_title(name))
    return numbers


def draw_costs(dataset, evidence, metrics=("ndcg@10", "mrr@20")):
    """Accuracy against seconds of training on one data set, every row by its name.

    Args:
        dataset (str): its name.
        evidence (Evidence): runs and their times.
        metrics (Sequence[str]): the first that all runs have is drawn.

    Returns:
        tuple: figure and numbers, as of :func:`draw_table`; None for fewer than three rows.
    """
    groups = {label: runs for (name, label), runs in evidence.runs.items() if name == dataset and cost_of(runs)}
    metric = next((m for m in metrics if all(m in run["test_result_unmasked"] for runs in groups.values() for run in runs)), None)
    if len(groups) < 3 or metric is None:
        return None
    numbers = [{"dataset": dataset, "row": label, "seconds": max(cost_of(runs)[0], 1), "metric": metric_title(metric),
                "value": statistics.fmean(run["test_result_unmasked"][metric] for run in runs)} for label, runs in groups.items()]  # fmt: skip
    with style():
        figure, (axes, names) = new_figure(2, width=2.6, height=max(3.4, 0.9 + 0.17 * len(numbers)), shares=[2, 1])
        axes.plot([one["seconds"] for one in numbers], [one["value"] for one in numbers], "o", color="black", markersize=4)
        axes.set(title=dataset, xlabel="seconds of training, one thread", xscale="log", ylabel=metric_title(metric))
        axes.minorticks_off()
        names.set_axis_off()
        label_points(axes, numbers)
    return figure, numbers


def label_points(axes, numbers):
    """The names of points in a column at the right, in the order of their values, each with a line to its point."""
    numbers = sorted(numbers, key=lambda one: one["value"])
    low, high = axes.get_ylim()
    step = (high - low) / max(len(numbers), 2)
    places = [one["value"] for one in numbers]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + step)
    places[-1] = min(places[-1], high)
    for i in range(len(places) - 2, -1, -1):
        places[i] = min(places[i], places[i + 1] - step)
    for one, place in zip(numbers, places):
        axes.annotate(one["row"], (one["seconds"], one["value"]), (1.04, place), va="center", fontsize=7,
                      textcoords=axes.get_yaxis_transform(), annotation_clip=False,
                      arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.5, "relpos": (0, 0.5)})  # fmt: skip
