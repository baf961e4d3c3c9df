"""Atomic files as Parquet, with the column names and types of the text files: ``user_id:token`` and so on."""

import importlib

import numpy as np
import pandas as pd
from recbole.utils import FeatureType

from recbole_diffusion.data.atomic_files import open_parquet
from recbole_diffusion.data.numbers import MISSING
from recbole_diffusion.errors import UsageError, one_line


def parquet_cells(path):
    """Names of the columns of a file (list[str]). Raises UsageError."""
    with open_parquet(path) as file:
        return file.schema_arrow.names


def read_parquet(path, kinds):
    """Columns of a file.

    Args:
        path (str or Path): the file.
        kinds (dict[str, FeatureType]): names of the columns to read -> type.

    Returns:
        pandas.DataFrame: tokens as categories in no particular order, numbers as float64, lists as lists or as text.
        Missing are null, nan, and the words that stand for nothing in text files, so that both kinds give the same data.

    Raises:
        UsageError: for a damaged file, one without rows, and a column whose values are of another type than its name says.
    """
    columns = {}
    with open_parquet(path) as file:
        if not file.metadata.num_rows:
            raise UsageError(f"{path} holds columns but no rows")
        names = file.schema_arrow.names
        for name, kind in kinds.items():
            if names.count(name) > 1:
                raise UsageError(f"{path} has several columns '{name}': leave one")
            try:
                column = file.read(columns=[name]).column(name)  # one by one: less is held at once
                columns[name] = CONVERSIONS[kind](importlib.import_module("pyarrow"), column)
            except TypeError:
                raise UsageError(
                    f"{path}: column '{name}' holds values of type {file.schema_arrow.field(name).type}, not {NEEDS[kind]}"
                ) from None
            except (OSError, ValueError) as error:
                raise UsageError(f"'{path}' cannot be read as Parquet: {one_line(error, 200)}") from None
    return pd.DataFrame(columns, copy=False)


def _is_text(arrow, kind):
    kind = kind.value_type if arrow.types.is_dictionary(kind) else kind
    return arrow.types.is_string(kind) or arrow.types.is_large_string(kind)


def _tokens(arrow, column):
    """Text and whole numbers as categories of text. Raises TypeError for other values."""
    if arrow.types.is_integer(column.type):
        column = column.cast(arrow.string())
    elif not _is_text(arrow, column.type):
        raise TypeError
    column = column.dictionary_encode().unify_dictionaries()
    codes, start = np.empty(len(column), dtype=np.int64), 0
    for chunk in column.chunks:
        codes[start : start + len(chunk)] = chunk.indices.cast(arrow.int64()).fill_null(-1)  # they may have no sign
        start += len(chunk)
    names = column.chunk(0).dictionary.to_numpy(zero_copy_only=False)
    there = np.array([name is not None and name not in MISSING for name in names], dtype=bool)
    numbers = np.append(np.where(there, there.cumsum() - 1, -1), -1)  # the last is of what is missing
    return pd.Categorical.from_codes(numbers[codes], pd.Index(names[there], dtype=object))


def _numbers(arrow, column):
    if not (arrow.types.is_integer(column.type) or arrow.types.is_floating(column.type)):
        raise TypeError
    return column.cast(arrow.float64(), safe=False).to_numpy()


def _lists(arrow, column):
    """Lists of text or of numbers, or text that is to be cut."""
    kind, types = column.type, arrow.types
    if types.is_list(kind) or types.is_large_list(kind):
        if not (_is_text(arrow, kind.value_type) or types.is_integer(kind.value_type) or types.is_floating(kind.value_type)):
            raise TypeError
        if column.combine_chunks().flatten().null_count:
            raise ValueError("a list holds a missing value")
    elif not _is_text(arrow, kind):
        raise TypeError
    return column.to_pandas()


CONVERSIONS = {
    FeatureType.TOKEN: _tokens,
    FeatureType.FLOAT: _numbers,
    FeatureType.TOKEN_SEQ: _lists,
    FeatureType.FLOAT_SEQ: _lists,
}
NEEDS = {
    FeatureType.TOKEN: "text or whole numbers",
    FeatureType.FLOAT: "numbers",
    FeatureType.TOKEN_SEQ: "lists of text or whole numbers",
    FeatureType.FLOAT_SEQ: "lists of numbers",
}
