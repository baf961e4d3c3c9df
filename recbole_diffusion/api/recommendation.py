"""``recommend``: the next items of histories from Python, as a data frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_diffusion.errors import UsageError
from recbole_diffusion.serving.histories import LONG_NAMES
from recbole_diffusion.serving.recommend import histories_of_users
from recbole_diffusion.serving.recommender import Recommender
from recbole_diffusion.training.checkpoint import load_checkpoint


def recommend(
    checkpoint: str | Path | Mapping[str, Any] | Recommender,
    histories: Any = None,
    k: int = 10,
    *,
    users: Sequence[Any] | None = None,
    exclude_seen: bool = False,
    unknown: str = "drop",
    batch_size: int = 256,
    device: str | None = None,
    data_path: str | None = None,
    trust_checkpoint: bool = False,
    **sampling: Any,
) -> pd.DataFrame:
    """The best next items of some histories; the function of the command ``recommend``.

    Args:
        checkpoint (str | RunResult | Recommender): file of a training, what :func:`recbole_diffusion.run`
            returned, or a model that was loaded before, which is quicker for many calls.
        histories (list[list[str]] | dict | pandas.DataFrame): item tokens of each user, oldest first; or user -> item
            tokens; or one interaction per row, with columns of user, item and perhaps time under the names of the
            training's fields or those of :data:`recbole_diffusion.serving.histories.LONG_NAMES`.
        k (int): items per history.
        users (list[str], optional): users of the data set, instead of histories; needs the data.
        exclude_seen, unknown, batch_size: see :meth:`recbole_diffusion.Recommender.recommend`.
        device (str, optional): ``cpu``, ``cuda``, ...; by default as in training.
        data_path (str, optional): where the data sets are now, if they moved, for ``users``.
        trust_checkpoint (bool): read a pickle from elsewhere and execute any code in it.
        sampling: ``sampling_steps`` of a diffusion model that samples, or others of its settings of sampling.

    Returns:
        pandas.DataFrame: columns ``user`` (without names the number of the history, from 0), ``rank`` (from 1),
        ``item``, ``score``, and ``source``: ``model``, or ``popularity`` for a history without known items.

    Raises:
        UsageError: for a checkpoint, a history or a value that cannot be used.
    """
    if (histories is None) == (users is None):
        raise UsageError("recommend needs either histories or users of the data set")
    path = checkpoint.get("checkpoint") if isinstance(checkpoint, Mapping) else checkpoint
    if path is None:
        raise UsageError("the run was not saved: a checkpoint is needed to recommend")
    model = path if isinstance(path, Recommender) else Recommender.load(path, device, trust_checkpoint, **sampling)
    if users is not None:
        if path is model:
            raise UsageError("users are looked up in the data set that a checkpoint names: give its path")
        names = [str(user) for user in users]
        histories = histories_of_users(load_checkpoint(str(path), trust_checkpoint), names, data_path)
    elif isinstance(histories, pd.DataFrame):
        names, histories = by_user(histories, model.config)
    elif isinstance(histories, Mapping):
        names, histories = list(histories), list(histories.values())
    else:
        names = []
    rankings = model.recommend(histories, k, exclude_seen, unknown, batch_size)
    lines = [(user, rank, item, score, ranking.source)
             for user, ranking in zip(names or range(len(rankings)), rankings)
             for rank, (item, score) in enumerate(ranking, 1)]  # fmt: skip
    return pd.DataFrame(lines, columns=["user", "rank", "item", "score", "source"])


def by_user(frame: pd.DataFrame, config: Any) -> tuple[list[Any], list[list[Any]]]:
    """Histories of single interactions.

    Args:
        frame (pandas.DataFrame): one interaction per row.
        config (mapping): names the fields of the training.

    Returns:
        tuple: users in the order of the frame, and the items of each in the order of time, or of the frame without one.

    Raises:
        UsageError: for missing columns, missing values, and times that are none.
    """
    fields = {"user": "USER_ID_FIELD", "item": "ITEM_ID_FIELD", "time": "TIME_FIELD"}
    columns = {role: next((name for name in (config[fields[role]], *usual) if name in frame), None)
               for role, usual in LONG_NAMES.items()}  # fmt: skip
    for role in ("user", "item"):
        if columns[role] is None:
            wanted = ", ".join(dict.fromkeys((config[fields[role]], *LONG_NAMES[role])))
            raise UsageError(
                f"histories have no column of the {role}: name it {wanted}; there are {', '.join(map(str, frame))}"
            )
    frame = frame.reset_index(drop=True)
    for role, column in columns.items():
        if column is not None and frame[column].isna().any():
            raise UsageError(f"histories: row {frame[column].isna().idxmax()} has no {role}")
    if columns["time"] is not None:
        frame = frame.iloc[moments(frame[columns["time"]]).argsort(kind="stable")]
    found: dict[Any, list[Any]] = {user: [] for user in frame[columns["user"]].sort_index()}
    for user, item in zip(frame[columns["user"]], frame[columns["item"]]):
        found[user].append(item)
    return list(found), list(found.values())


def moments(times: pd.Series) -> Any:
    """A column of numbers, dates, or texts of either, as something with an order. Raises UsageError."""
    if pd.api.types.is_numeric_dtype(times) or pd.api.types.is_datetime64_any_dtype(times):
        return times.to_numpy()
    for read in (pd.to_numeric, lambda column: pd.to_datetime(column, utc=True)):
        try:
            return read(times).to_numpy()
        except (ValueError, TypeError):
            continue
    raise UsageError(f"histories: '{times.iloc[0]}' and the others of '{times.name}' are no times")
