"""Tables with named columns from files, CSV in all its kinds and Parquet, read piece by piece."""

import importlib
import os

import pandas as pd
from tqdm import tqdm

from recbole_diffusion.errors import UsageError, one_line
from recbole_diffusion.prepare.columns import choose_columns, describe_columns
from recbole_diffusion.prepare.raw_lines import bad_line
from recbole_diffusion.prepare.table_header import line_of_row, not_this_encoding, opened, read_header, text_encoding
from recbole_diffusion.prepare.table_rows import TableRows
from recbole_diffusion.prepare.times import BadRow

_ROWS_PER_READ = 250_000


def read_table_file(path, input_format, options, show_progress=True):
    """Read a table.

    Args:
        path (Path): plain or .gz, or Parquet.
        input_format (str): ``csv`` or ``parquet``.
        options (recbole_diffusion.prepare.table_header.TableOptions): what the user said about it.
        show_progress (bool): show bytes read.

    Returns:
        tuple: Interactions, and lines on what was guessed and found; one that begins with "warning: " is one.

    Raises:
        UsageError: for anything the user can repair, with the line of the file where there is one.
    """
    return {"csv": _read_csv, "parquet": _read_parquet}[input_format](path, options, show_progress)


def _read_csv(path, options, show_progress):
    header = read_header(path, options)
    rows = TableRows(header.columns, options.columns, options.time_format)
    try:
        for frame in _csv_pieces(path, header, text_encoding(options), show_progress):
            rows.add(frame)
        data, notes = rows.finish(f"'{path}'")
    except BadRow as error:
        line = line_of_row(path, header.separator, text_encoding(options), error.row)
        raise bad_line(path, line, str(error)) from None
    return data, [*header.notes, describe_columns(header.columns, options.columns), *notes]


def _csv_pieces(path, header, encoding, show_progress):
    """Frames of the wanted columns. All are parsed: otherwise pandas says nothing of rows that are too long."""
    wanted = list(header.columns.values())
    size = os.path.getsize(path)
    try:
        with opened(path) as (file, raw), tqdm(
            total=size, unit="B", unit_scale=True, desc=path.name, disable=not show_progress
        ) as bar:
            pieces = pd.read_csv(
                file, sep=header.separator, header=0, names=_unique(header.names), dtype=str, na_filter=False,
                encoding=encoding, skipinitialspace=header.separator not in " \t", chunksize=_ROWS_PER_READ,
            )  # fmt: skip
            for frame in pieces:
                if len(frame) and not isinstance(frame.index, pd.RangeIndex):
                    raise UsageError(f"'{path}' has rows with more fields than the header: name all columns in it")
                yield frame[wanted].fillna("")
                bar.update(raw.tell() - bar.n)
    except pd.errors.ParserError as error:
        reason = one_line(error).replace("Error tokenizing data. C error: ", "")
        raise UsageError(f"'{path}' cannot be read as a table: {reason}") from None
    except UnicodeDecodeError:
        raise not_this_encoding(path, encoding.removesuffix("-sig")) from None


def _unique(names):
    """Columns without a name, of which there may be several, numbered."""
    return [name or f"column {number}" for number, name in enumerate(names, 1)]


def _read_parquet(path, options, show_progress):
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UsageError("Parquet files need pyarrow: pip install pyarrow, or the extra [parquet] of this package") from None
    if not path.is_file():
        raise UsageError(f"file '{path}' does not exist, give the path of a raw file")
    try:
        with parquet.ParquetFile(path) as file:
            columns = choose_columns(file.schema_arrow.names, options.columns, f"'{path}'")
            rows = TableRows(columns, options.columns, options.time_format)
            pieces = file.iter_batches(_ROWS_PER_READ, columns=list(columns.values()))
            with tqdm(total=file.metadata.num_rows, unit="row", desc=path.name, disable=not show_progress) as bar:
                for batch in pieces:
                    rows.add(batch.to_pandas())
                    bar.update(batch.num_rows)
        data, notes = rows.finish(f"'{path}'")
    except BadRow as error:
        raise UsageError(f"'{path}' row {error.row + 1}: {error}; mend or remove the row") from None
    except UsageError:
        raise
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these types
        raise UsageError(f"'{path}' cannot be read as Parquet: {one_line(error, 200)}") from None
    return data, [describe_columns(columns, options.columns), *notes]
