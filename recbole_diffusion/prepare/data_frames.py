"""Data frames of pandas as data sets: written once as an atomic file, whose name tells what it holds."""

import hashlib
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_diffusion.errors import UsageError
from recbole_diffusion.files import written_whole
from recbole_diffusion.prepare.columns import choose_columns, describe_columns
from recbole_diffusion.prepare.sequences import all_notes, inter_lines, ordered
from recbole_diffusion.prepare.table_rows import TableRows
from recbole_diffusion.prepare.times import BadRow

_FIELDS = {"user": "USER_ID_FIELD", "item": "ITEM_ID_FIELD", "time": "TIME_FIELD", "rating": "RATING_FIELD"}
_USUAL = {"user": "user_id", "item": "item_id", "time": "timestamp", "rating": "rating"}
_DIGITS = 12


def with_frame_stored(dataset, settings):
    """What :func:`recbole_diffusion.run` was given, with the name of a data set in the place of a data frame.

    The file lies under ``data_path`` where that is given, else in ``data`` in the folder of the checkpoints, so that
    checkpoints find it again. Equal frames share one file.

    Args:
        dataset (str or pandas.DataFrame): anything but a frame is handed back as it is.
        settings (dict, optional): ``USER_ID_FIELD``, ``ITEM_ID_FIELD``, ``TIME_FIELD`` and ``RATING_FIELD`` name
            columns of the frame; the others are guessed where their names leave no doubt, and said.

    Returns:
        tuple: name of the data set, and the settings with its place and its fields.

    Raises:
        UsageError: for columns in doubt, values that cannot be used, and a folder that cannot be written.
    """
    if not isinstance(dataset, pd.DataFrame):
        return dataset, settings
    settings = dict(settings or {})
    given = {role: settings[key] for role, key in _FIELDS.items() if settings.get(key) is not None}
    data, names = _interactions(dataset, given)
    folder = settings.get("data_path") or os.path.join(settings.get("checkpoint_dir") or "saved", "data")
    folder = Path(os.path.abspath(os.path.expanduser(str(folder))))
    name = f"frame-{_content_hash(data, names)}"
    path = folder / name / f"{name}.inter"
    if not path.is_file():
        with written_whole(path) as file:
            file.writelines(inter_lines(data, names))
    settings.pop(_FIELDS["rating"], None)  # its column is in the file under that name, and nothing reads the setting
    fields = {key: field for (role, key), field in zip(_FIELDS.items(), names) if role != "rating"}
    return name, {**settings, **fields, "data_path": str(folder)}


def _interactions(frame, given):
    """The rows of a frame in the order of users and times, and the names of the four fields."""
    where = "the data frame"
    repeated = frame.columns[frame.columns.duplicated()]
    if len(repeated):
        raise UsageError(f"{where} has the column '{repeated[0]}' twice, rename one of them")
    how_to_name = {role: f"config_dict={{'{key}': COLUMN}}" for role, key in _FIELDS.items()}
    columns = choose_columns(frame.columns, given, where, how_to_name)
    names = [str(given.get(role, _USUAL[role])) for role in _FIELDS]
    for name in names:
        if any(mark in name for mark in ":\t\r\n\""):
            raise UsageError(f"{where}: the column {name!r} holds a mark that headers of atomic files cannot, rename it")
    rows = TableRows(columns, given)
    try:
        rows.add(frame[list(columns.values())].reset_index(drop=True))
        data, notes = rows.finish(where)
    except BadRow as error:
        raise UsageError(f"{where} row {error.row}: {error}; mend or remove the row") from None
    if set(columns) - set(given):
        notes = [describe_columns(columns, given), *notes]
    for line in all_notes(data, notes):
        if line.startswith("warning: "):
            warnings.warn(line.removeprefix("warning: "), stacklevel=4)
        else:
            print(line)
    return ordered(data, np.arange(len(data.users))), names


def _content_hash(data, names):
    digest = hashlib.sha256()
    for texts in (names, data.user_tokens, data.item_tokens):
        for text in texts:
            encoded = text.encode("utf-8", "backslashreplace")
            digest.update(len(encoded).to_bytes(8, "big") + encoded)
        digest.update(b"end")
    for values in (data.users, data.items, data.timestamps, data.ratings):
        digest.update(b"none" if values is None else np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:_DIGITS]
