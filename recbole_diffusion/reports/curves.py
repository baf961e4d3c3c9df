"""Pictures of results: learning curves, and a metric over a setting."""

import json

from recbole_diffusion.errors import UsageError
from recbole_diffusion.reports.drawing import (
    COLORS,
    MARKERS,
    MOST_LINES,
    check_metric,
    labelled_files,
    legend_below,
    new_figure,
)
from recbole_diffusion.reports.kept import KeptRuns, read_json
from recbole_diffusion.reports.study import finished, metric_title, recbole_name
from recbole_diffusion.training.checkpoint import load_checkpoint

LEAST_SPAN = 0.2  # of the axis of a sweep, relative to its middle


def draw_curves(args):
    """Losses by name on the left, the validation metric on the right, and the chosen epoch marked.

    Losses of other models, or summed over batches of another size, have other units: they are drawn relative to their
    first epoch. So is what a model reports of itself after every epoch, in a third panel where there is any.
    """
    runs = {label: read_curves(path) for label, path in labelled_files(args.files).items()}
    first = next(iter(runs.values()))
    metric = recbole_name(args.metric or first["metric"])
    relative = len({run["units"] for run in runs.values()}) > 1
    reports = any(run["history"].get("report") for run in runs.values())
    figure, (left, right, *third) = new_figure(3 if reports else 2)
    rows = draw_reports(third[0], runs) if reports else []
    for (label, run), color in zip(runs.items(), COLORS):
        history = run["history"]
        check_metric(metric, history["valid"], label)
        for (name, values), dashes in zip(history["loss"].items(), ("-", "--", ":", "-.") * 3):
            text = label if len(history["loss"]) == 1 else f"{label}: {name}"
            drawn = [value / abs(values[0] or 1) for value in values] if relative else values
            left.plot(history["epoch"], drawn, dashes, color=color, label=text, linewidth=1.6)
            rows += [line(label, name, *point) for point in zip(history["epoch"], values, drawn)]
        epochs, values = history["valid_epoch"], history["valid"][metric]
        right.plot(epochs, values, "-", color=color, label=label, linewidth=1.6)
        rows += [line(label, metric, epoch, value, value) for epoch, value in zip(epochs, values)]
        if run["best_epoch"] in epochs:
            right.plot(run["best_epoch"], values[epochs.index(run["best_epoch"])], "o", color=color, markersize=7)
    unit = "first epoch = 1" if relative else "parts as weighted"
    left.set(xlabel="epoch", ylabel=f"training loss ({unit})", title="Training")
    right.set(xlabel="epoch", ylabel=f"{metric_title(metric)} on validation", title="Validation (dot: chosen epoch)")
    for axes in (left, right, *third):
        axes.xaxis.get_major_locator().set_params(integer=True)
    losses = {name for run in runs.values() for name in run["history"]["loss"]}
    values = [row["drawn"] for row in rows if row["curve"] in losses]
    if min(values) > 0 and max(values) > 50 * min(values):
        left.set_yscale("log")
    legend_below(figure, left)
    return figure, rows


def draw_reports(axes, runs):
    """What models report of themselves, relative to the first epoch; returns the numbers."""
    rows = []
    for (label, run), color in zip(runs.items(), COLORS):
        history = run["history"]
        for (name, values), dashes in zip(history.get("report", {}).items(), ("-", "--", ":", "-.") * 3):
            drawn = [value / abs(values[0] or 1) for value in values]
            axes.plot(history["epoch"], drawn, dashes, color=color, label=f"{label}: {name}", linewidth=1.6)
            rows += [line(label, name, *point) for point in zip(history["epoch"], values, drawn)]
    axes.set(xlabel="epoch", ylabel="first epoch = 1", title="Reported by the model")
    axes.legend(fontsize=8)
    return rows


def line(label, curve, epoch, value, drawn):
    """A row of the numbers of learning curves: as the run found it, and as it was drawn."""
    return {"run": label, "curve": curve, "epoch": epoch, "value": value, "drawn": drawn}


def read_curves(path):
    """History, best epoch, validation metric, and what the losses depend on, of a result file or of a checkpoint.

    Raises:
        UsageError: when the file is damaged or has no history, such as a checkpoint of RecBole.
    """
    checkpoint = load_checkpoint(str(path)) if path.suffix == ".pth" else None
    try:
        found = checkpoint["training"] if checkpoint else json.loads(path.read_text(encoding="utf-8"))
        settings = checkpoint["config"] if checkpoint else found["settings"]
        history = found["history"]
        if history["epoch"] and history["valid_epoch"]:
            units = (settings["model"], settings["train_batch_size"], *history["loss"])
            return {"history": history, "best_epoch": found["best_epoch"], "metric": settings["valid_metric"],
                    "units": units}  # fmt: skip
    except (ValueError, KeyError, TypeError):
        pass
    raise UsageError(
        f"'{path}' has no learning curves: name a file of --result_file, a run of compare or a checkpoint (.pth)"
    )


# Sweeps


def draw_sweep(args):
    """Mean and deviation over seeds of a metric over a setting, one panel per data set, one line per other setting."""
    if args.part not in ("test", "valid"):
        raise UsageError(f"--part must be test or valid, got '{args.part}'")
    runs = swept_runs(args)
    source = "best_valid_result" if args.part == "valid" else f"test_result_{'masked' if args.masked else 'unmasked'}"
    metric = recbole_name(args.metric)
    panels = {}
    for path, run in runs.items():
        check_metric(args.metric, run[source], f"'{path}'")
        if run[source][metric] is not None:
            group = panels.setdefault(run["dataset"], {}).setdefault(other_settings(run, args.key), {})
            group.setdefault(run["given"][args.key], []).append(run[source][metric])
    labels = list(dict.fromkeys(label for groups in panels.values() for label in groups))
    if len(labels) > MOST_LINES:
        raise UsageError(f"{len(labels)} lines are more than a reader can tell apart: use --datasets or --folder")
    shown = dict(zip(labels, short_labels(labels)))
    figure, axes = new_figure(len(panels))
    rows = [row for place, (name, groups) in zip(axes, panels.items())
            for row in draw_panel(place, name, groups, labels, shown, args.key, metric)]  # fmt: skip
    for place in axes:
        place.set(xlabel=args.key)
    axes[0].set_ylabel(f"{metric_title(metric)} on {'validation' if args.part == 'valid' else 'test'}")
    if len(labels) > 1:
        fullest = max(axes, key=lambda place: len(place.get_legend_handles_labels()[1]))
        legend_below(figure, fullest, columns=2)
    return figure, rows


def swept_runs(args):
    """The kept runs of a sweep, the newest of those that differ only in their code or data.

    Args:
        args (argparse.Namespace): folder, key and data sets.

    Returns:
        dict[Path, dict]: file -> run, in the order of the files.

    Raises:
        UsageError: when there is none.
    """
    wanted = [name.strip() for name in args.datasets.split(",") if name.strip()]
    newest = {}
    for path in sorted(KeptRuns(args.folder).runs(), key=lambda path: path.stat().st_mtime_ns):
        run = read_json(path)
        if finished([run]) and args.key in run["given"] and (not wanted or run["dataset"] in wanted):
            same = json.dumps([run["model"], run["dataset"], run["seed"], run["given"]], sort_keys=True)
            newest[same] = (path, run)
    if not newest:
        raise UsageError(f"no kept run in '{args.folder}' was given the setting '{args.key}': see compare")
    return dict(sorted(newest.values(), key=lambda found: found[0]))


def other_settings(run, key):
    """Everything that a line of a sweep has in common, as text."""
    given = {name: value for name, value in run["given"].items() if name != key}
    return " ".join([run["model"], *(f"{name}={value}" for name, value in sorted(given.items()))])


def short_labels(labels):
    """Labels without the words that all of them have."""
    words = [label.split(" ") for label in labels]
    common = set.intersection(*map(set, words)) if len(labels) > 1 else set(words[0][1:])
    return [" ".join(word for word in label if word not in common) or label[0] for label in words]


def draw_panel(axes, dataset, groups, labels, shown, key, metric):
    """One data set of a sweep; returns its numbers. Values that are no numbers stand in equal steps."""
    import numpy as np

    values = sorted({value for points in groups.values() for value in points}, key=lambda v: (isinstance(v, str), v))
    numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    wide = numeric and min(values) > 0 and max(values) >= 20 * min(values)
    places = {value: value if numeric else i for i, value in enumerate(values)}
    rows = []
    for label, points in groups.items():
        style = labels.index(label)
        xs = [value for value in values if value in points]
        means = [float(np.mean(points[x])) for x in xs]
        errors = [float(np.std(points[x], ddof=1)) if len(points[x]) > 1 else 0.0 for x in xs]
        # No metric is below 0, and one whose mean is a share does not rise above 1.
        drawn = [[min(error, mean) for mean, error in zip(means, errors)],
                 [min(error, 1 - mean) if mean <= 1 else error for mean, error in zip(means, errors)]]  # fmt: skip
        axes.errorbar([places[x] for x in xs], means, drawn, label=shown[label], color=COLORS[style], capsize=3,
                      marker=MARKERS[style], linewidth=1.6)  # fmt: skip
        rows += [{"dataset": dataset, "line": shown[label], key: x, "metric": metric, "mean": mean, "std": error,
                  "seeds": len(points[x])} for x, mean, error in zip(xs, means, errors)]  # fmt: skip
    axes.set_title(dataset)
    if wide:
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks([places[value] for value in values], [str(value) for value in values])
    widen(axes)
    return rows


def widen(axes):
    """Let a vertical axis span a fifth of its values at least, so that a difference of a hundredth looks small."""
    low, high = axes.get_ylim()
    middle, half = (low + high) / 2, max(high - low, LEAST_SPAN * abs(low + high) / 2) / 2
    axes.set_ylim(middle - half, middle + half)
