"""The item file of a data set as text: what features, prices and categories are read from, whichever columns are loaded."""

from pathlib import Path

import pandas as pd

from recbole_diffusion.data.atomic_files import find_atomic, is_parquet, open_parquet
from recbole_diffusion.errors import UsageError, did_you_mean, one_line


def item_file(folder, dataset):
    """Path of the item file of a data set, text or Parquet; of the text where there is neither. Raises UsageError for both."""
    name = f"{dataset}.item"
    return find_atomic(folder, name) or Path(folder) / name


def read_item_table(path, item_field, separator="\t", encoding="utf-8", seq_separator=" "):
    """An item file as text, the first row of every item.

    Args:
        path (Path): atomic file, text or Parquet.
        item_field (str): name of the column of item tokens.
        separator, encoding (str): of a text file.
        seq_separator (str): what joins the lists of a Parquet file.

    Returns:
        pandas.DataFrame: of ``str``, its columns without their types, which ``attrs`` has by column.

    Raises:
        UsageError: when the file is missing or broken or has no such column.
    """
    if not path.is_file():
        raise UsageError(f"'{path}' does not exist: features need an item file with an '{item_field}:token' column")
    frame = _text_of_parquet(path, seq_separator) if is_parquet(path) else _text(path, separator, encoding)
    kinds = {name: kind for name, _, kind in (cell.partition(":") for cell in frame.columns)}
    frame.columns = [cell.partition(":")[0] for cell in frame.columns]
    require_column(path, frame, item_field)
    frame = frame.drop_duplicates(item_field)
    frame.attrs = kinds
    return frame


def require_column(path, frame, name):
    """Raise UsageError when a table lacks a column."""
    if name not in frame:
        raise UsageError(f"'{path}' has no column '{name}'{did_you_mean(name, frame)}, it has {', '.join(frame)}")


def _text(path, separator, encoding):
    try:
        return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding=encoding)
    except ValueError as error:  # all that pandas raises of a broken table
        raise UsageError(f"'{path}' cannot be read as a table: {one_line(error)}") from None


def _text_of_parquet(path, seq_separator):
    """Every value as the text file would have it, nothing where there is none."""

    def text(value):
        if isinstance(value, list):
            return seq_separator.join(map(text, value))
        return "" if value is None or value != value else str(value)

    with open_parquet(path) as file:
        names = file.schema_arrow.names
        if len({*names}) < len(names):
            raise UsageError(f"{path} has several columns of one name: leave one")
        try:
            columns = file.read().to_pydict()
        except (ValueError, OSError) as error:  # of pyarrow
            raise UsageError(f"'{path}' cannot be read as Parquet: {one_line(error, 200)}") from None
    return pd.DataFrame({name: [text(value) for value in values] for name, values in columns.items()}, dtype=str)
