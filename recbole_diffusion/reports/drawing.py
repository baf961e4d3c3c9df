"""What the pictures share: colours, figures, files, and reading the words of the command."""

import csv
import io
import textwrap
from contextlib import contextmanager
from pathlib import Path

from recbole_diffusion.errors import UsageError, did_you_mean
from recbole_diffusion.files import make_folder
from recbole_diffusion.reports.study import recbole_name
from recbole_diffusion.reports.tables import write_text

# Okabe and Ito (2008): told apart by colour-blind readers and, with the markers, in grey.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MOST_LINES = len(COLORS)
MOST_GROUPS = len(COLORS) * len(MARKERS)
LABEL_LETTERS = 40  # of a line of a legend or a title
STYLE = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#dddddd",
    "grid.linewidth": 0.6, "axes.axisbelow": True, "figure.constrained_layout.use": True, "legend.frameon": False,
    "svg.fonttype": "none", "svg.hashsalt": "recbole-diffusion",
}  # fmt: skip


def import_matplotlib():
    """The package matplotlib. Raises UsageError where it is missing."""
    try:
        import matplotlib
    except ImportError:
        raise UsageError("plot needs matplotlib: pip install matplotlib") from None
    return matplotlib


@contextmanager
def style():
    """The look of all pictures within the block. Raises UsageError without matplotlib."""
    with import_matplotlib().rc_context(STYLE):
        yield


def new_figure(columns, width=4.6, height=3.4, shares=None):
    """A figure with panels side by side, of equal width unless it has ``shares``: ``(figure, list of axes)``."""
    from matplotlib import pyplot

    shares = shares or [1] * columns
    size = (width * sum(shares), height)
    figure, axes = pyplot.subplots(1, columns, figsize=size, squeeze=False, width_ratios=shares)
    return figure, list(axes[0])


def style_of(i):
    """Colour and marker of a group, different for ``MOST_GROUPS`` of them."""
    lap, place = divmod(i, MOST_LINES)
    return {"color": COLORS[place], "marker": MARKERS[(place + lap) % MOST_LINES]}


def wrapped(label):
    """A label in lines that a panel can hold."""
    return textwrap.fill(label, LABEL_LETTERS)


def save(figure, rows, path):
    """Write ``path.png``, ``path.svg`` and ``path.csv`` and print where they are.

    Args:
        figure (matplotlib.figure.Figure): is closed.
        rows (list[dict]): the numbers of the picture, all with the same keys.
        path (Path): without suffix.
    """
    from matplotlib import pyplot

    make_folder(path.parent, "out")
    with style():
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
    """One legend under all panels, where it hides nothing, in as many columns as the figure is wide."""
    handles, labels = axes.get_legend_handles_labels()
    labels = [wrapped(label) for label in labels]
    for count in range(min(columns, len(labels)), 0, -1):
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=count)
        if count == 1 or legend.get_window_extent(figure.canvas.get_renderer()).width <= figure.bbox.width:
            return
        legend.remove()


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
