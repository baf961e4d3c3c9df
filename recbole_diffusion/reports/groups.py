"""Pictures of checkpoints: groups of users, and embeddings."""

from recbole_diffusion.errors import UsageError
from recbole_diffusion.reports.drawing import (
    COLORS,
    MOST_GROUPS,
    labelled_files,
    legend_below,
    new_figure,
    read_number,
    style_of,
    wrapped,
)
from recbole_diffusion.reports.study import metric_title, recbole_name

GROUP_SHARE = 0.17  # of the width of a panel, which holds "100–120"


def draw_groups(args):
    """A metric by length of history and by popularity of the target, one bar per checkpoint."""
    from recbole_diffusion.reports import probe

    count = read_number(args.groups, "groups", least=2)
    found = {
        label: probe.rank_test_part(path, args.data_path, args.trust_checkpoint)
        for label, path in labelled_files(args.files).items()
    }
    metric = recbole_name(args.metric)
    rows = []
    same = probe.same_users(list(found.values()))
    edges = probe.length_edges(next(iter(found.values())).lengths, count)
    figure, (left, right) = new_figure(2, shares=[max(1, GROUP_SHARE * len(edges)), 1])
    for axes, title, split in (
        (left, "Length of the history", lambda part: probe.by_length(part, edges)),
        (right, "Popularity of the target", probe.by_popularity),
    ):
        for i, (label, part) in enumerate(found.items()):
            bars = probe.metric_by_group(part, split(part), metric)
            places = [place + (i + 0.5) * 0.8 / len(found) - 0.4 for place in range(len(bars))]
            values = [bar["mean"] for bar in bars]
            errors = [[max(0, bar["mean"] - bar["low"]) for bar in bars],
                      [max(0, bar["high"] - bar["mean"]) for bar in bars]]  # fmt: skip
            style = {"color": COLORS[i], "edgecolor": "white", "hatch": ("", "//", "..", "xx", "\\\\", "++", "oo")[i]}
            axes.bar(places, values, 0.8 / len(found), yerr=errors, capsize=2, label=label, ecolor="#444444", **style)
            rows += [{"run": label, "split": title.lower(), **bar} for bar in bars]
        names = [f"{bar['group']}\n{bar['users']:,}" if same else bar["group"] for bar in bars]
        axes.set_xticks(range(len(bars)), names, fontsize=8)
        axes.set(xlabel=f"{title} (below: users)" if same else title, ylabel=f"{metric_title(metric)} on test")
        axes.set_ylim(0, min(1.02, axes.get_ylim()[1]))  # a line at 1 is seen whole
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
    if users > MOST_GROUPS:
        raise UsageError(f"--users: {users} are more than a reader can tell apart, at most {MOST_GROUPS}")
    figure, axes = new_figure(len(files), width=4.2, height=4.4)
    rows = []
    for place, (label, path) in zip(axes, files.items()):
        loaded = load_data_and_model(str(path), args.data_path, args.trust_checkpoint)
        cloud = clouds[args.what](loaded, points, users, seed)
        flat = probe.flatten(cloud.vectors, seed)
        draw_cloud(place, flat, cloud)
        place.set_title(f"{wrapped(label)}\n{cloud.note}", fontsize=10)
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
        axes.scatter(*flat[groups == name].T, s=22, linewidths=0.4, edgecolors="white", label=name, **style_of(i))
