"""``tune``: a search of settings from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from recbole_diffusion.api.words import as_file, parsed
from recbole_diffusion.experiments.arguments import add_tune
from recbole_diffusion.experiments.space import settings_of
from recbole_diffusion.experiments.tune import report, search
from recbole_diffusion.prepare.data_frames import with_frame_stored


def tune(
    model: str,
    dataset: str | pd.DataFrame,
    trials: int = 20,
    space: dict[str, Any] | str | Path | None = None,
    *,
    study: str | None = None,
    storage: str | None = None,
    search_by: str = "tpe",
    pruner: str = "median",
    search_seed: int = 2020,
    out: str | Path = "runs/tune",
    **settings: Any,
) -> TuningResult:
    """Search settings on the validation part; the function of the command ``tune``. The test part is never ranked.

    The same call goes on with its study.

    Args:
        model (str): name of the model.
        dataset (str | pandas.DataFrame): name of the data set, or its rows.
        trials (int): finished trials that the study shall have.
        space (dict | str, optional): key -> list of values or ``{"low": 0.1, "high": 1.0, "log": True}``, or a yaml
            file with that; by default the one of the package for the model.
        study (str, optional): name of the study, by default ``MODEL-DATASET``.
        storage (str, optional): database URL, by default SQLite in ``out``.
        search_by (str): ``tpe``, ``random`` or ``grid``.
        pruner (str): ``median``, ``halving`` or ``none``.
        search_seed (int): of the search.
        out (str): folder for the study and its best settings.
        settings: of all trials, such as ``epochs=20``.

    Returns:
        TuningResult

    Raises:
        UsageError: for wrong settings, before anything is trained, and when no trial ended well.
    """
    dataset, settings = with_frame_stored(dataset, settings)
    arguments = parsed(
        add_tune, model=model, dataset=dataset, trials=trials, space=as_file(space, "space", out), study=study,
        storage=storage, search=search_by, pruner=pruner, search_seed=search_seed, out=out,
    )  # fmt: skip
    found, space, settings, metric = search(arguments, settings)
    file = report(found, arguments, settings, space, metric)
    best = {**settings, **settings_of(found.best_params, space)}
    return TuningResult(found, model, dataset, best, metric, file)


class TuningResult:
    """What a search found.

    Attributes:
        study (optuna.Study): everything that Optuna knows.
        model, dataset (str): names.
        best (dict): the settings of the best trial, the given ones among them, for ``config_dict`` of
            :func:`recbole_diffusion.run`.
        metric (str): what was searched by, on the validation part.
        file (Path): ``best`` as a config file.
    """

    def __init__(
        self, study: Any, model: str, dataset: str, best: dict[str, Any], metric: str, file: str | Path
    ) -> None:
        self.study, self.model, self.dataset = study, model, dataset
        self.best, self.metric, self.file = best, metric, Path(file)

    def __str__(self) -> str:
        chosen = ", ".join(f"{key}={self.best[key]}" for key in self.best if key in self.trials)
        return f"{self.model} on {self.dataset}: {self.metric} {self.score:.4f} with {chosen}\n{self.trials}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.trials.to_html()

    @property
    def score(self) -> float:
        """Validation metric of the best trial."""
        return self.study.best_value

    @property
    def trials(self) -> pd.DataFrame:
        """A :class:`pandas.DataFrame` with a row per trial: ``state``, ``score`` and ``epochs``, and what it tried."""
        lines = [
            {
                "state": trial.state.name.lower(),
                "score": trial.value,
                "epochs": trial.user_attrs.get("epochs"),
                **trial.params,
            }
            for trial in self.study.trials
        ]
        return pd.DataFrame(lines, index=pd.RangeIndex(len(lines), name="trial"))
