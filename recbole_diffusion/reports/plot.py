"""``recbole-diffusion plot``: learning curves, sweeps, groups of users and embeddings as PNG, SVG and CSV."""

from pathlib import Path

from recbole_diffusion.reports.curves import draw_curves, draw_sweep
from recbole_diffusion.reports.drawing import import_matplotlib, save, style
from recbole_diffusion.reports.groups import draw_groups, draw_tsne

KINDS = {"curves": draw_curves, "sweep": draw_sweep, "groups": draw_groups, "tsne": draw_tsne}


def main(args):
    """Draw one picture and write it.

    Args:
        args (argparse.Namespace): see :func:`recbole_diffusion.reports.arguments.add_plot`.

    Returns:
        int: 0.

    Raises:
        UsageError: missing matplotlib, and everything wrong with the words or the files.
    """
    import_matplotlib().use("Agg")  # no screen is needed
    figure, rows = draw(args)
    save(figure, rows, Path(args.out) / (args.name or args.kind))
    return 0


def draw(args):
    """One picture and its numbers.

    Args:
        args (argparse.Namespace): see :func:`recbole_diffusion.reports.arguments.add_plot`.

    Returns:
        tuple: matplotlib.figure.Figure, which pyplot keeps open, and a list of dicts with the numbers.

    Raises:
        UsageError: see :func:`main`.
    """
    with style():
        return KINDS[args.kind](args)
