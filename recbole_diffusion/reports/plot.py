"""``recbole-diffusion plot``: learning curves, sweeps, groups of users and embeddings as PNG, SVG and CSV."""

import csv
import io
import json
from pathlib import Path

from recbole_diffusion.errors import UsageError, did_you_mean
from recbole_diffusion.files import make_folder
from recbole_diffusion.reports.kept import KeptRuns, read_json
from recbole_diffusion.reports.tables import finished, metric_title, recbole_name, write_text
from recbole_diffusion.training.checkpoint import add_trust_argument, load_checkpoint

# Okabe and Ito (2008): told apart by colour-blind readers and, with the markers, in grey.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MOST_LINES = len(COLORS)
LEAST_SPAN = 0.2  # of the axis of a sweep, relative to its middle


def add_arguments(parser):
    """Add the kinds of pictures and their words to an ``argparse`` parser."""
    kinds = parser.add_subparsers(dest="kind", metavar="curves | sweep | groups | tsne", required=True)
    words = {
        "curves": "losses and validation by epoch, from result files or checkpoints",
        "sweep": "a metric over a setting, from a folder of compare",
        "groups": "metrics by length of history and by popularity of the target, from checkpoints",
        "tsne": "sequence or item embeddings in two dimensions, from checkpoints",
    }
    for kind, text in words.items():
        sub = kinds.add_parser(kind, help=text, description=text, allow_abbrev=False)
        sub.add_argument("--out", default="runs/plots", help="folder for PNG, SVG and CSV (default runs/plots)")
        sub.add_argument("--name", help="name of the files (default that of the kind)")
        if kind == "sweep":
            sub.add_argument("--folder", default="runs/compare", help="--out of compare (default runs/compare)")
            sub.add_argument("--key", required=True, help="the setting on the axis, such as alpha")
            sub.add_argument("--metric", default="HR@10", help="default HR@10")
            sub.add_argument("--datasets", default="", help="names, separated by commas (default all)")
            sub.add_argument("--part", default="test", help="test or valid (default test)")
            sub.add_argument("--masked", action="store_true", help="with the history masked")
            continue
        what = "result file (JSON) or checkpoint (.pth)" if kind == "curves" else "checkpoint"
        sub.add_argument("files", nargs="+", metavar="LABEL=FILE", help=f"{what}; without LABEL the file names it")
        if kind == "curves":
            sub.add_argument("--metric", help="validation metric (default the one that chose the epoch)")
        else:
            sub.add_argument("--data_path", help="where the data sets are now, if they moved")
            add_trust_argument(sub)
        if kind == "groups":
            sub.add_argument("--metric", default="HR@10", help="default HR@10")
            sub.add_argument("--groups", default="5", help="groups of histories of about equal number (default 5)")
        if kind == "tsne":
            sub.add_argument("--what", default="sequences", help="sequences, items or, for DiffSBR, neighbors (default sequences)")
            sub.add_argument("--points", default="1000", help="most points per checkpoint (default 1000)")
            sub.add_argument("--users", default="8", help="users whose items are coloured, for items (default 8)")
            sub.add_argument("--seed", default="2020", help="of the choice of points and of t-SNE (default 2020)")


def main(args):
    """Draw one picture.

    Args:
        args (argparse.Namespace): see :func:`add_arguments`.

    Returns:
        int: 0.

    Raises:
        UsageError: missing matplotlib, and everything wrong with the words or the files.
    """
    import_matplotlib()
    draw = {"curves": draw_curves, "sweep": draw_sweep, "groups": draw_groups, "tsne": draw_tsne}[args.kind]
    figure, rows = draw(args)
    save(figure, rows, Path(args.out) / (args.name or args.kind))
    return 0


def import_matplotlib():
    """matplotlib without a screen. Raises UsageError where it is missing."""
    try:
        import matplotlib
    except ImportError:
        raise UsageError("plot needs matplotlib: pip install matplotlib") from None
    matplotlib.use("Agg")
    style = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
             "grid.color": "#dddddd", "grid.linewidth": 0.6, "axes.axisbelow": True,
             "figure.constrained_layout.use": True, "legend.frameon": False, "svg.fonttype": "none",
             "svg.hashsalt": "recbole-diffusion"}  # fmt: skip
    matplotlib.rcParams.update(style)


def new_figure(columns, width=4.6, height=3.4):
    """A figure with panels side by side: ``(figure, list of axes)``."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, columns, figsize=(width * columns, height), squeeze=False)
    return figure, list(axes[0])


def save(figure, rows, path):
    """Write ``path.png``, ``path.svg`` and ``path.csv`` and print where they are.

    Args:
        figure (matplotlib.figure.Figure): is closed.
        rows (list[dict]): the numbers of the picture, all with the same keys.
        path (Path): without suffix.
    """
    from matplotlib import pyplot

    make_folder(path.parent, "out")
    figure.savefig(path.with_name(path.name + ".png"), dpi=160)
    figure.savefig(path.with_name(path.name + ".svg"), metadata={"Date": None})
    pyplot.close(figure)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path.with_name(path.name + ".csv"), text.getvalue())
    print(", ".join(str(path.with_name(path.name + suffix)) for suffix in (".png", ".svg", ".csv")))


def legend_below(figure, axes, columns=3):
    """One legend under all panels, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)))


def labelled_files(words):
    """Label -> path of words such as ``with=a.pth``. Raises UsageError for a missing file or two equal labels."""
    found = {}
    for word in words:
        label, separator, file = word.partition("=")
        path = Path(file if separator else word)
        label = label if separator else path.stem
        if not path.is_file():
            raise UsageError(f"file '{path}' does not exist")
        if label in found:
            raise UsageError(f"two files have the label '{label}': write LABEL=FILE")
        found[label] = path
    if len(found) > MOST_LINES:
        raise UsageError(f"{len(found)} files are more than a reader can tell apart: at most {MOST_LINES}")
    return found


def read_number(text, option, least=1):
    """A whole number from ``least`` on. Raises UsageError."""
    if not text.isdecimal() or int(text) < least:
        raise UsageError(f"--{option} must be a whole number from {least}, got '{text}'")
    return int(text)


def check_metric(name, known, where):
    """Raise UsageError, which begins with where, when a run has no such metric."""
    metric = recbole_name(name)
    if metric not in known:
        there = ", ".join(known) or "none"
        raise UsageError(f"{where}: unknown metric '{name}'{did_you_mean(metric, known)}: there are {there}")


# Learning curves


def draw_curves(args):
    """Losses by name on the left, the validation metric on the right, and the chosen epoch marked."""
    runs = {label: read_curves(path) for label, path in labelled_files(args.files).items()}
    first = next(iter(runs.values()))
    metric = recbole_name(args.metric or first["metric"])
    figure, (left, right) = new_figure(2)
    rows = []
    for (label, run), color in zip(runs.items(), COLORS):
        history = run["history"]
        check_metric(metric, history["valid"], label)
        for (name, values), dashes in zip(history["loss"].items(), ("-", "--", ":", "-.") * 3):
            text = label if len(history["loss"]) == 1 else f"{label}: {name}"
            left.plot(history["epoch"], values, dashes, color=color, label=text, linewidth=1.6)
            rows += [line(label, name, epoch, value) for epoch, value in zip(history["epoch"], values)]
        epochs, values = history["valid_epoch"], history["valid"][metric]
        right.plot(epochs, values, "-", color=color, label=label, linewidth=1.6)
        rows += [line(label, metric, epoch, value) for epoch, value in zip(epochs, values)]
        if run["best_epoch"] in epochs:
            right.plot(run["best_epoch"], values[epochs.index(run["best_epoch"])], "o", color=color, markersize=7)
    left.set(xlabel="epoch", ylabel="training loss (parts as weighted)", title="Training")
    right.set(xlabel="epoch", ylabel=f"{metric_title(metric)} on validation", title="Validation (dot: chosen epoch)")
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    values = [row["value"] for row in rows if row["curve"] != metric]
    if min(values) > 0 and max(values) > 50 * min(values):
        left.set_yscale("log")
    legend_below(figure, left)
    return figure, rows


def line(label, curve, epoch, value):
    """A row of the numbers of learning curves."""
    return {"run": label, "curve": curve, "epoch": epoch, "value": value}


def read_curves(path):
    """History, best epoch and validation metric of a result file or of a checkpoint.

    Raises:
        UsageError: when the file is damaged or has no history, such as a checkpoint of RecBole.
    """
    checkpoint = load_checkpoint(str(path)) if path.suffix == ".pth" else None
    try:
        found = checkpoint["training"] if checkpoint else json.loads(path.read_text(encoding="utf-8"))
        settings = checkpoint["config"] if checkpoint else found["settings"]
        history = found["history"]
        if history["epoch"] and history["valid_epoch"]:
            return {"history": history, "best_epoch": found["best_epoch"], "metric": settings["valid_metric"]}
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
        axes.errorbar([places[x] for x in xs], means, errors, label=shown[label], color=COLORS[style], capsize=3,
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


# Groups of users


def draw_groups(args):
    """A metric by length of history and by popularity of the target, one bar per checkpoint."""
    from recbole_diffusion.reports import probe

    count = read_number(args.groups, "groups", least=2)
    found = {
        label: probe.rank_test_part(path, args.data_path, args.trust_checkpoint)
        for label, path in labelled_files(args.files).items()
    }
    metric = recbole_name(args.metric)
    figure, (left, right) = new_figure(2)
    rows = []
    same = probe.same_users(list(found.values()))
    edges = probe.length_edges(next(iter(found.values())).lengths, count)
    for axes, title, split in (
        (left, "Length of the history", lambda part: probe.by_length(part, edges)),
        (right, "Popularity of the target", probe.by_popularity),
    ):
        for i, (label, part) in enumerate(found.items()):
            bars = probe.metric_by_group(part, split(part), metric)
            places = [place + (i + 0.5) * 0.8 / len(found) - 0.4 for place in range(len(bars))]
            values, errors = [bar["mean"] for bar in bars], [1.96 * bar["standard_error"] for bar in bars]
            style = {"color": COLORS[i], "edgecolor": "white", "hatch": ("", "//", "..", "xx", "\\\\", "++", "oo")[i]}
            axes.bar(places, values, 0.8 / len(found), yerr=errors, capsize=2, label=label, ecolor="#444444", **style)
            rows += [{"run": label, "split": title.lower(), **bar} for bar in bars]
        names = [f"{bar['group']}\n{bar['users']:,} users" if same else bar["group"] for bar in bars]
        axes.set_xticks(range(len(bars)), names, fontsize=8)
        axes.set(xlabel=title, ylabel=f"{metric_title(metric)} on test")
        axes.set_ylim(bottom=0)
        axes.grid(axis="x", visible=False)
    figure.suptitle("History not masked; bars with 95 % intervals over users", fontsize=10)
    legend_below(figure, left)
    return figure, rows


# Embeddings


def draw_tsne(args):
    """Embeddings of every checkpoint in a panel of its own, the same users or items in all of them."""
    from recbole_diffusion.quick_start import load_data_and_model
    from recbole_diffusion.reports import probe

    clouds = {"sequences": probe.sequence_cloud, "items": probe.item_cloud, "neighbors": probe.neighbor_cloud}
    if args.what not in clouds:
        raise UsageError(f"--what must be {', '.join(clouds)}, got '{args.what}'")
    points = read_number(args.points, "points", least=10)
    users, seed = read_number(args.users, "users"), read_number(args.seed, "seed", least=0)
    files = labelled_files(args.files)
    if users > MOST_LINES and args.what == "items":
        users = MOST_LINES
    figure, axes = new_figure(len(files), width=4.2, height=4.4)
    rows = []
    for place, (label, path) in zip(axes, files.items()):
        loaded = load_data_and_model(str(path), args.data_path, args.trust_checkpoint)
        cloud = clouds[args.what](loaded, points, users, seed)
        flat = probe.flatten(cloud.vectors, seed)
        draw_cloud(place, flat, cloud)
        place.set_title(f"{label}\n{cloud.note}", fontsize=10)
        place.set(xticks=[], yticks=[], xlabel="t-SNE 1", ylabel="t-SNE 2")
        place.grid(visible=False)
        rows += [{"run": label, "point": name, "group": group, "x": float(x), "y": float(y)}
                 for name, group, (x, y) in zip(cloud.names, cloud.groups, flat)]  # fmt: skip
    legend_below(figure, axes[0], columns=2 * len(files))
    return figure, rows


def draw_cloud(axes, flat, cloud):
    """Points by group; what belongs to no group lies below in grey."""
    import numpy as np

    groups = np.array(cloud.groups)
    if (groups == "").any():
        axes.scatter(*flat[groups == ""].T, s=6, color="#c8c8c8", linewidths=0, label="others")
    for i, name in enumerate(sorted(set(cloud.groups) - {""})):  # the same order, so the same colours, in all panels
        style = {"color": COLORS[i % MOST_LINES], "marker": MARKERS[i % MOST_LINES]}
        axes.scatter(*flat[groups == name].T, s=22, linewidths=0.4, edgecolors="white", label=name, **style)
