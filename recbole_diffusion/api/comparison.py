"""``compare``: rows x data sets x seeds from Python, with tables as data frames."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_diffusion.api.words import as_file, joined, parsed
from recbole_diffusion.experiments.arguments import add_compare
from recbole_diffusion.experiments.compare import run_selection
from recbole_diffusion.prepare.data_frames import with_frame_stored
from recbole_diffusion.reports.study import (
    PROTOCOLS,
    Study,
    comparisons,
    finished,
    group_by,
    mean_and_std,
    metric_names,
    metric_title,
    row_under_test,
    shown_metrics,
)
from recbole_diffusion.reports.tables import format_text
from recbole_diffusion.reports.validation import best_validation


def compare(
    models: list[str] | str | None = None,
    datasets: list[str] | str | pd.DataFrame | None = None,
    seeds: int = 3,
    *,
    rows: dict[str, Any] | str | Path | None = None,
    paper: str | None = None,
    only: list[str] | str | None = None,
    ours: str | None = None,
    show: list[str] | str | None = None,
    validation: bool = False,
    name: str | None = None,
    jobs: int = 1,
    order: str = "given",
    out: str | Path = "runs/compare",
    only_tables: bool = False,
    any_code: bool = False,
    **settings: Any,
) -> ComparisonResult:
    """Train rows x data sets x seeds, keep every cell and write the tables; the function of the command ``compare``.

    What was trained before with the same settings, data and code is not trained again.

    Args:
        models (list[str] | str, optional): names of models, each a row of its own.
        datasets (list[str] | str | pandas.DataFrame): names of data sets, or the rows of one.
        seeds (int): how many, counted from ``seed`` (2020).
        rows (dict | str, optional): label -> ``{"model": NAME, key: value, "datasets": {NAME: {key: value}}}``, or a
            yaml file with that.
        paper (str, optional): rows, data sets and published figures of a table, such as ``simdiffrec.table2``.
        only (list[str] | str, optional): labels of rows; the others are left out.
        ours (str, optional): label of the row that is tested against the others, by default the last.
        show (list[str] | str, optional): metrics of the tables, such as ``["HR@10", "NDCG@10"]``; by default all.
        validation (bool): show the best validation figures over the epochs beside the test figures.
        name (str, optional): begins the names of the tables, so that others in ``out`` stay.
        jobs (int): runs side by side.
        order (str): ``given``, or ``cost``: one seed of all rows first, cheap cells before dear ones.
        out (str): folder for cells and tables.
        only_tables (bool): train nothing, show what is kept.
        any_code (bool): accept kept cells of other versions of the code.
        settings: of all cells, such as ``epochs=20``.

    Returns:
        ComparisonResult: prints as the tables.

    Raises:
        UsageError: for a wrong selection or setting, before anything is trained.
    """
    if isinstance(datasets, pd.DataFrame):
        datasets, settings = with_frame_stored(datasets, settings)
    arguments = parsed(
        add_compare, models=joined(models, "models"), datasets=joined(datasets, "datasets"), seeds=seeds, paper=paper,
        rows=as_file(rows, "rows", out), only=joined(only, "only"), ours=ours, show=joined(show, "show"), name=name,
        validation=validation, jobs=jobs, order=order, out=out, only_tables=only_tables, any_code=any_code,
    )  # fmt: skip
    results, study, _ = run_selection(arguments, settings)
    return ComparisonResult(results, study, out)


class ComparisonResult:
    """What a comparison found.

    Attributes:
        results (list[dict]): of every cell, as :func:`recbole_diffusion.run` returns it; a failed one has ``error``, a
            row of a paper that was not trained ``absent``.
        study (Study): what they are about.
        folder (Path): holds cells and tables, and :attr:`page`.
    """

    def __init__(self, results: list[dict[str, Any]], study: Study, folder: str | Path) -> None:
        self.results, self.study, self.folder = results, study, Path(folder)

    def __str__(self) -> str:
        texts = [f"{dataset}\n{format_text(cells, self.study)}" for dataset, cells in self._datasets()]
        return "\n\n".join([*texts, f"report: {self.page}"])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The table in a notebook, mean ± deviation."""
        shown = self.table.drop(columns="seeds", level=0)
        texts = pd.DataFrame({
            metric: [format_cell(*pair) for pair in shown[metric].itertuples(index=False)]
            for metric in dict.fromkeys(shown.columns.get_level_values(0))
        }, index=shown.index)  # fmt: skip
        return f"{texts.to_html()}<p>report: {html.escape(str(self.page))}</p>"

    @property
    def page(self) -> Path:
        """The HTML page of everything (pathlib.Path)."""
        return self.folder / self.study.page

    @property
    def table(self) -> pd.DataFrame:
        """Means and deviations over seeds, a :class:`pandas.DataFrame`.

        A row per ``dataset``, ``history`` (``not masked``, ``masked``) and ``row``; columns are pairs such as
        ``("HR@10", "mean")`` and ``("HR@10", "std")``, the sample standard deviation, NaN for one seed; and ``("seeds", "")``.
        """
        lines = {}
        for dataset, cells in self._datasets():
            names = shown_metrics(cells, self.study)
            for title, protocol in PROTOCOLS.items():
                for label, runs in group_by(finished(cells), "row").items():
                    lines[dataset, title, label] = dict(summary(runs, protocol, names))
        index = pd.MultiIndex.from_tuples(lines, names=["dataset", "history", "row"]) if lines else None
        columns = list(dict.fromkeys(column for line in lines.values() for column in line))
        values = [[line.get(column) for column in columns] for line in lines.values()]
        return pd.DataFrame(values, index, pd.MultiIndex.from_tuples(columns or [("seeds", "")]), dtype=float)

    @property
    def cells(self) -> pd.DataFrame:
        """Every training, a :class:`pandas.DataFrame`: names, facts, and metrics such as ``HR@10 masked``.

        A cell that failed has its ``error`` and NaN. With ``validation`` there are ``HR@10 best validation`` and the like.
        """
        names = metric_names(self.results)
        lines = []
        for result in self.results:
            if "absent" in result:
                continue
            line = {
                key: result.get(key) for key in ("row", "model", "dataset", "seed", "error", "best_epoch", "epochs")
            }
            if finished([result]):
                line.update(parameters=result.get("parameters"), seconds=result["seconds"]["training"])
                line.update({f"{metric_title(name)} {title}": result[protocol].get(name)
                             for title, protocol in PROTOCOLS.items() for name in names})  # fmt: skip
                if self.study.validation:
                    best = {f"{metric_title(name)} best validation": best_validation(result, name) for name in names}
                    line.update(best)
            lines.append(line)
        return pd.DataFrame(lines)

    @property
    def tests(self) -> pd.DataFrame:
        """Paired tests of the row ``ours`` against the others, a :class:`pandas.DataFrame` with a row per metric.

        ``over`` says what the pairs are: users or seeds. ``p`` is two-sided, ``p_holm`` corrected for the number of
        tests, ``effect`` Cohen's d, ``n`` the number of pairs.
        """
        columns = ["dataset", "history", "ours", "other", "metric", "difference", "over", "n", "effect", "p", "p_holm"]
        lines = []
        for dataset, cells in self._datasets():
            rows, names = group_by(cells, "row"), shown_metrics(cells, self.study)
            ours = row_under_test(rows, self.study)
            for title, protocol in PROTOCOLS.items():
                for found in comparisons(rows, ours, protocol, names):
                    head = [dataset, title, ours, found.other, metric_title(found.metric), found.difference]
                    for over, test in (("users", found.users), ("seeds", found.seeds)):
                        if test:
                            lines.append([*head, over, test.n, test.effect, test.p, test.p_holm])
        return pd.DataFrame(lines, columns=columns)

    @property
    def published(self) -> pd.DataFrame:
        """Published figures of ``paper``, a :class:`pandas.DataFrame` by ``dataset`` and ``row``, else empty."""
        shown = [dataset for dataset, _ in self._datasets()]
        lines = {(dataset, row): {metric_title(name): value for name, value in figures.items()}
                 for dataset, of_rows in self.study.published.items() if dataset in shown
                 for row, figures in of_rows.items()}  # fmt: skip
        index = pd.MultiIndex.from_tuples(list(lines) or [], names=["dataset", "row"])
        return pd.DataFrame(list(lines.values()), index)

    def _datasets(self) -> Any:
        return group_by(self.results, "dataset").items()


def summary(
    runs: list[dict[str, Any]], protocol: str, names: list[str]
) -> Iterator[tuple[tuple[str, str], float | None]]:
    """Pairs of column and number: mean and deviation of every metric over the runs of a row, and how many there are."""
    for name in names:
        values = [run[protocol][name] for run in runs if run[protocol].get(name) is not None]
        mean, std = mean_and_std(values) if values else (None, None)
        yield (metric_title(name), "mean"), mean
        yield (metric_title(name), "std"), std
    yield ("seeds", ""), len(runs)


def format_cell(mean: float, std: float) -> str:
    """``0.1234 ± 0.0012``."""
    return "–" if pd.isna(mean) else f"{mean:.4f}" + ("" if pd.isna(std) else f" ± {std:.4f}")
