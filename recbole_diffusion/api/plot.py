"""``plot``: the pictures of the command ``plot`` as figures of matplotlib, for notebooks.

Each function draws what the command of its name draws, and leaves the settings of matplotlib as they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_diffusion.api.comparison import ComparisonResult
from recbole_diffusion.api.words import joined, parsed
from recbole_diffusion.errors import UsageError
from recbole_diffusion.reports.arguments import add_plot
from recbole_diffusion.reports.plot import draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def curves(runs: Any, metric: str | None = None) -> Figure:
    """Losses and a validation metric by epoch.

    Args:
        runs (dict | list | RunResult | str): label -> run, or runs: what :func:`recbole_diffusion.run` returned, result
            files or checkpoints.
        metric (str, optional): of the validation, by default the one that chose the epoch.

    Returns:
        matplotlib.figure.Figure

    Raises:
        UsageError: for runs without curves or metric, and without matplotlib.
    """
    return drawn("curves", labelled(runs, "result_file"), metric=metric)


def sweep(
    key: str,
    folder: str | Path | ComparisonResult = "runs/compare",
    metric: str = "HR@10",
    datasets: list[str] | str | None = None,
    part: str = "test",
    masked: bool = False,
) -> Figure:
    """A metric over a setting, mean and deviation over seeds.

    Args:
        key (str): the setting, such as ``alpha``.
        folder (str | ComparisonResult): ``out`` of a comparison, or what it returned.
        metric (str): such as ``HR@10``.
        datasets (list[str] | str, optional): names, by default all.
        part (str): ``test`` or ``valid``.
        masked (bool): with the history masked.

    Returns:
        matplotlib.figure.Figure

    Raises:
        UsageError: when no kept run was given the setting.
    """
    folder = folder.folder if isinstance(folder, ComparisonResult) else folder
    names = joined(datasets, "datasets")
    return drawn("sweep", [f"--key={key}"], folder=folder, metric=metric, datasets=names, part=part, masked=masked)


def groups(
    checkpoints: Any,
    metric: str = "HR@10",
    groups: int = 5,
    data_path: str | None = None,
    trust_checkpoint: bool = False,
) -> Figure:
    """A metric by length of history and by popularity of the target.

    Args:
        checkpoints (dict | list | RunResult | str): label -> checkpoint, or checkpoints: files, or what
            :func:`recbole_diffusion.run` returned.
        metric (str): such as ``HR@10``.
        groups (int): of histories, of about equal number.
        data_path (str, optional): where the data sets are now, if they moved.
        trust_checkpoint (bool): read a pickle from elsewhere and execute any code in it.

    Returns:
        matplotlib.figure.Figure

    Raises:
        UsageError: for checkpoints that cannot be read or give no ranks.
    """
    words = labelled(checkpoints, "checkpoint")
    return drawn("groups", words, metric=metric, groups=groups, data_path=data_path, trust_checkpoint=trust_checkpoint)


def tsne(
    checkpoints: Any,
    what: str = "sequences",
    points: int = 1000,
    users: int = 8,
    seed: int = 2020,
    data_path: str | None = None,
    trust_checkpoint: bool = False,
) -> Figure:
    """Embeddings in two dimensions.

    Args:
        checkpoints: as in :func:`groups`.
        what (str): ``sequences``, ``items`` or, for DiffSBR, ``neighbors``.
        points (int): most points per checkpoint.
        users (int): users whose items are coloured, for items.
        seed (int): of the choice of points and of t-SNE.
        data_path, trust_checkpoint: as in :func:`groups`.

    Returns:
        matplotlib.figure.Figure

    Raises:
        UsageError: for checkpoints that cannot be read.
    """
    words = labelled(checkpoints, "checkpoint")
    return drawn("tsne", words, what=what, points=points, users=users, seed=seed, data_path=data_path,
                 trust_checkpoint=trust_checkpoint)  # fmt: skip


def drawn(kind: str, words: list[str], **options: Any) -> Figure:
    """The figure of a kind of picture, closed, so that a notebook shows it once."""
    figure, _ = draw(parsed(add_plot, [kind, *words], **options))
    from matplotlib import pyplot

    pyplot.close(figure)
    return figure


def labelled(runs: Any, kept_as: str) -> list[str]:
    """Words ``LABEL=FILE``.

    Args:
        runs: see :func:`curves`.
        kept_as (str): key of a run's result that names the file.

    Raises:
        UsageError: for a run that was not kept, two equal labels, or a label that holds ``=``.
    """
    if isinstance(runs, Mapping) and "model" not in runs:
        pairs = [(str(label), file_of(run, kept_as)) for label, run in runs.items()]
    else:
        runs = runs if isinstance(runs, (list, tuple)) else [runs]
        files = [file_of(run, kept_as) for run in runs]
        labels = [run["model"] if isinstance(run, Mapping) else Path(run).stem for run in runs]
        if len(set(labels)) < len(labels):
            raise UsageError(f"two runs have the label '{max(labels, key=labels.count)}': give a dict, label -> run")
        pairs = list(zip(labels, files))
    for label, _ in pairs:
        if "=" in label:
            raise UsageError(f"a label cannot hold '=': '{label}'")
    return [f"{label}={file}" for label, file in pairs]


def file_of(run: Any, kept_as: str) -> Any:
    """Path of a file, or of what a result names."""
    if not isinstance(run, Mapping):
        return run
    file = run.get(kept_as) or run.get("checkpoint")
    if not file:
        raise UsageError(f"the run of {run['model']} was not saved: a file is needed to draw it")
    return file
