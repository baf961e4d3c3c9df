"""Plain text files read column by column with pyarrow, which is several times as fast as pandas and holds each name once.

A file is plain that every reader understands alike. Everything else, and every file with something wrong in it, is left
to pandas and its messages.
"""

import codecs
import importlib

import numpy as np
import pandas as pd
from recbole.utils import FeatureType

from recbole_diffusion.data.numbers import MISSING

BLOCK = 2**22  # bytes


def is_plain(path, encoding):
    """Whether a file is UTF-8 without quote marks, zero bytes, byte order mark and line ends of other kinds.

    Args:
        path (str or Path): the file.
        encoding (str or None): its encoding as the settings say.

    Returns:
        bool
    """
    if (encoding or "utf-8").lower().replace("_", "-") not in ("utf-8", "utf8", "ascii"):
        return False
    decoder = codecs.getincrementaldecoder("ascii" if (encoding or "").lower() == "ascii" else "utf-8")()
    with open(path, "rb") as file:
        if file.read(3) == codecs.BOM_UTF8:
            return False
        file.seek(0)
        try:
            while block := file.read(BLOCK):
                if block.endswith(b"\r"):
                    block += file.read(1)
                if b'"' in block or b"\0" in block or block.count(b"\r") != block.count(b"\r\n"):
                    return False
                if not block.isascii() or decoder.getstate()[0]:
                    decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def read_plain_text(path, separator, cells, kinds):
    """Columns of a plain file, equal to those of pandas.

    Args:
        path (str or Path): the file.
        separator (str): what stands between columns.
        cells (list[str]): the header.
        kinds (dict[str, FeatureType]): header cell -> type, of the columns to read, in the order of the file.

    Returns:
        pandas.DataFrame or None: tokens as categories in no particular order, numbers as float64, lists as text; None
        without pyarrow and for a file that is not as its header says.
    """
    try:
        arrow, csv = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.csv")
    except ImportError:
        return None
    if not kinds or len(cells) < 2 or len(set(cells)) < len(cells) or not separator.isascii():
        return None  # empty lines are rows of a single column, or none
    types = {FeatureType.FLOAT: arrow.float64(), FeatureType.TOKEN: arrow.dictionary(arrow.int32(), arrow.string())}
    convert = csv.ConvertOptions(
        check_utf8=False,
        column_types={cell: types.get(kind, arrow.string()) for cell, kind in kinds.items()},
        include_columns=list(kinds),
        null_values=sorted(MISSING),
        strings_can_be_null=True,
    )
    parse = csv.ParseOptions(delimiter=separator, quote_char=False)
    try:
        table = csv.read_csv(path, csv.ReadOptions(block_size=BLOCK), parse, convert)
    except arrow.ArrowException:
        return None
    frame = frame_of(table, kinds)
    del table
    arrow.default_memory_pool().release_unused()
    return frame


def frame_of(table, kinds):
    """Frame of an Arrow table, or None when it has no rows or a number is none; the table is emptied column by column.

    Args:
        table (pyarrow.Table): tokens as dictionaries of int32.
        kinds (dict[str, FeatureType]): column -> type.

    Returns:
        pandas.DataFrame or None: see :func:`read_plain_text`.
    """
    if not len(table):
        return None
    table, columns = table.unify_dictionaries(), {}
    for name, kind in kinds.items():
        column = table.column(name)
        if kind == FeatureType.TOKEN:
            columns[name] = _categories(column)
        elif kind == FeatureType.FLOAT:
            columns[name] = column.to_numpy()
            if np.isfinite(columns[name]).sum() != len(column) - column.null_count:
                return None  # words such as NAN and infinite numbers
        else:
            columns[name] = column.to_pandas()
        table = table.drop_columns([name])
    return pd.DataFrame(columns, copy=False)


def _categories(column):
    codes, start = np.empty(len(column), dtype=np.int32), 0
    for chunk in column.chunks:
        codes[start : start + len(chunk)] = chunk.indices.fill_null(-1)
        start += len(chunk)
    names = column.chunk(0).dictionary.to_numpy(zero_copy_only=False)
    return pd.Categorical.from_codes(codes, pd.Index(names, dtype=object))
