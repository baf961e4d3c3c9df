"""Presets of published tables and sweeps: rows, data sets, metrics and figures, from ``properties/paper/*.yaml``."""

from dataclasses import dataclass

from recbole_diffusion.errors import UsageError, did_you_mean
from recbole_diffusion.reports.study import recbole_name
from recbole_diffusion.settings.properties import load_yaml, property_file, property_names


@dataclass(frozen=True)
class Preset:
    """One published table or sweep.

    Attributes:
        name (str): such as ``simdiffrec.table2``.
        title (str): heading.
        note (str): protocol and what is known of the figures.
        datasets (tuple[str]): names as in ``properties/dataset``.
        metrics (tuple[str]): names as in RecBole.
        rows (dict): label -> settings, as in a file of ``--rows``.
        ours (str): label of the paper's own model.
        published (dict): data set -> row -> metric -> fraction.
        unit (float): last printed place, as a fraction.
    """

    name: str
    title: str
    note: str
    datasets: tuple
    metrics: tuple
    rows: dict
    ours: str
    published: dict
    unit: float


def read_preset(name):
    """The preset of a name.

    Raises:
        UsageError: for an unknown name.
    """
    known = property_names("paper")
    if name not in known:
        hint = did_you_mean(name, known) or f", there are: {', '.join(known)}"
        raise UsageError(f"unknown --paper '{name}'{hint}")
    content = load_yaml(property_file("paper", name))
    metrics = tuple(recbole_name(metric) for metric in content["metrics"])
    scale = content.get("scale", 1)
    published = {
        dataset: {row: figures_of(values, metrics, scale) for row, values in rows.items()}
        for dataset, rows in content.get("published", {}).items()
    }
    rows = {**content.get("rows", {}), **sweep_rows(content.get("sweeps", []))}
    datasets = tuple(content["datasets"])
    return Preset(name, content["title"], content["note"], datasets, metrics, rows, content.get("ours"), published,
                  content["unit"] / scale)  # fmt: skip


def figures_of(values, metrics, scale):
    """Metric -> published figure as a fraction; ``~`` where the paper has none."""
    return {metric: value / scale for metric, value in zip(metrics, values) if value is not None}


def sweep_rows(sweeps):
    """One row per value of every swept setting: label -> settings."""
    return {
        f"{sweep['key']} = {value}": {**sweep["row"], sweep["key"]: value}
        for sweep in sweeps
        for value in sweep["values"]
    }
