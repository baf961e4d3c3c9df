"""What a run found: a dict of JSON values that prints as its table and turns into data frames and a picture."""

from __future__ import annotations

import html
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pandas as pd

from recbole_diffusion.errors import UsageError, did_you_mean
from recbole_diffusion.settings.leaks import leaking_setting

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class PrintedResult(dict[str, Any]):
    """A dict of JSON values that prints as its tables."""

    def _repr_html_(self) -> str:
        """The table in a notebook."""
        heading = html.escape(str(self).split("\n", 1)[0])
        return f"<p>{heading}</p>{self.metrics.to_html(float_format='{:.4f}'.format, na_rep='no value')}"

    @property
    def metrics(self) -> pd.DataFrame:
        """The metrics as a :class:`pandas.DataFrame`."""
        raise NotImplementedError


class RunResult(PrintedResult):
    """The dict that :func:`recbole_diffusion.run` returns; :func:`print` shows the table of the test.

    As a dict it holds JSON values only, see :func:`recbole_diffusion.run`.
    """

    def __str__(self) -> str:
        return format_result(self)

    @property
    def metrics(self) -> pd.DataFrame:
        """Test metrics, a :class:`pandas.DataFrame`: a row per metric, columns ``not masked`` and ``masked`` (history)."""
        return metric_table(self, "test")

    @property
    def history(self) -> pd.DataFrame:
        """A :class:`pandas.DataFrame` with a row per epoch: ``loss`` parts as means per batch, validation metrics.

        Epochs without a validation have NaN there.
        """
        kept = self["history"]
        epochs = pd.Index(kept["epoch"], name="epoch")
        steps = pd.Series(kept.get("steps") or 1, index=epochs, dtype=float)
        losses = {f"loss {name}": pd.Series(values, index=epochs) / steps for name, values in kept["loss"].items()}
        valid = {name: pd.Series(values, index=kept["valid_epoch"]) for name, values in kept["valid"].items()}
        return pd.DataFrame({**losses, **valid}, index=epochs)

    def plot(self, metric: str | None = None) -> Figure:
        """Learning curves: the parts of the loss on the left, a validation metric on the right.

        Args:
            metric (str, optional): such as ``ndcg@10``, by default that which chose the epoch.

        Returns:
            matplotlib.figure.Figure

        Raises:
            UsageError: when the metric was not computed, or matplotlib is missing.
        """
        pyplot = import_pyplot()
        table = self.history
        losses = [name for name in table if name.startswith("loss ")]
        wanted = str(metric or self["settings"]["valid_metric"]).lower()
        known = [name for name in table if name not in losses]
        if known and wanted not in known:
            raise UsageError(f"no validation of '{metric}'{did_you_mean(wanted, known)}: there are {', '.join(known)}")
        figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
        table[losses].rename(columns=lambda name: name[len("loss ") :]).plot(ax=axes[0], ylabel="loss, mean of batches")
        if known:
            table[wanted].dropna().plot(ax=axes[1], marker="o", ylabel=f"{wanted}, validation")
            axes[1].axvline(self["best_epoch"], color="grey", linestyle=":")
        figure.suptitle(f"{self['model']} on {self['dataset']}, seed {self['seed']}")
        pyplot.close(figure)  # a notebook shows it once, as the value of its cell
        return figure


class EvaluationResult(PrintedResult):
    """The dict that :func:`recbole_diffusion.evaluate` returns; :func:`print` shows the tables of its parts.

    As a dict it holds JSON values only, under the keys of a :class:`RunResult` where both have them; ``valid_result``,
    ``valid_result_unmasked`` and ``valid_result_masked`` are those of the validation part.
    """

    def __str__(self) -> str:
        return format_evaluation(self)

    @property
    def metrics(self) -> pd.DataFrame:
        """A :class:`pandas.DataFrame`: a row per metric, columns ``not masked`` and ``masked``, for both parts under their names."""
        tables = {part: metric_table(self, part) for part in self["parts"]}
        return pd.concat(tables, axis=1) if len(tables) > 1 else next(iter(tables.values()))


def metric_table(result: dict[str, Any], part: str) -> pd.DataFrame:
    """Metrics of a part, ``test`` or ``valid``: a row per metric, columns ``not masked`` and ``masked``."""
    both = {"not masked": result[f"{part}_result_unmasked"], "masked": result[f"{part}_result_masked"]}
    return pd.DataFrame({name: pd.Series(values, dtype=float) for name, values in both.items() if values})


def import_pyplot() -> ModuleType:
    """Matplotlib's pyplot. Raises UsageError where it is not installed."""
    try:
        from matplotlib import pyplot
    except ImportError:
        raise UsageError("pictures need matplotlib: pip install 'recbole-diffusion[viz]'") from None
    return pyplot


def format_result(result: dict[str, Any]) -> str:
    """The test metrics as a table, both protocols side by side, and where the files are.

    Args:
        result (dict): see :func:`recbole_diffusion.run`.

    Returns:
        str
    """
    chosen, tested = "masked" if result["mask_history"] else "not masked", result.get("tested_epoch", result["best_epoch"])
    last = "" if tested == result["best_epoch"] else f"; tested is {tested}, the last, since no weights were saved"
    lines = [
        f"Test of {subject(result)}, best epoch {result['best_epoch']} (counted from 0) of "
        f"{result['epochs']}, seed {result['seed']} (model chosen with the history {chosen}{last})",
        *table_lines(result["test_result_unmasked"], result["test_result_masked"]),
        *lines_of_data(result),
        *lines_of_files(result),
    ]
    return "\n".join(lines)


def format_evaluation(result: dict[str, Any]) -> str:
    """As :func:`format_result`, of :func:`recbole_diffusion.evaluate`: a table per part, and what differs from the training."""
    of = f"{subject(result)}, epoch {result['epoch']} (counted from 0), seed {result['seed']}"
    lines = []
    for part in result["parts"]:
        lines += [f"{'Test' if part == 'test' else 'Validation'} of {of}"]
        lines += table_lines(result[f"{part}_result_unmasked"], result[f"{part}_result_masked"])
    lines += lines_of_data(result)
    lines += [f"{'changed':<11}{key}: {now} (in training {before})" for key, (before, now) in result["changed"].items()]
    return "\n".join([*lines, *lines_of_files(result)])


def subject(result: dict[str, Any]) -> str:
    """What was measured on what: ``SASRec (preset paper) on beauty``."""
    preset = f" (preset {result['settings']['preset']})" if result["settings"].get("preset") else ""
    return f"{result['model']}{preset} on {result['dataset']}"


def lines_of_files(result: dict[str, Any]) -> list[str]:
    """Where the checkpoint and the result are, if they are anywhere."""
    return [f"{what.replace('_file', ''):<11}{result[what]}" for what in ("checkpoint", "result_file") if result.get(what)]


def table_lines(unmasked: dict[str, float | None], masked: dict[str, float | None]) -> list[str]:
    """The metrics of a part under both protocols: a heading and a line per metric."""
    width = max(10, *(len(metric) + 2 for metric in unmasked))
    lines = [f"{'metric':<{width}}{'history not masked':>20}{'history masked':>18}"]
    for metric, value in unmasked.items():
        other = format_value(masked[metric]) if masked else "not available"
        lines.append(f"{metric:<{width}}{format_value(value):>20}{other:>18}")
    return lines


def lines_of_data(result: dict[str, Any]) -> list[str]:
    """What a reader has to know of the data: pseudo items, and test targets that the model saw."""
    lines = []
    augmented = result.get("augmented")
    if augmented:
        made_of = f"{augmented['pseudo_length']} before the history of {augmented['users']:,} users"
        lines.append(f"pseudo items: {made_of}, {augmented['file']} ({augmented['fingerprint']})")
    if augmented and augmented["leaks"]:
        lines.append("These figures LEAK: the pseudo items were made from validation items (guide_from: train_valid).")
    elif result["leaks_test_labels"]:
        why = leaking_setting(result["settings"])
        lines.append(f"These figures LEAK: the model saw the test targets ({why}).")
    return lines


def format_value(value: float | None) -> str:
    """A metric as text; None is one that no user gives a value."""
    return "no value" if value is None else f"{value:.4f}"
