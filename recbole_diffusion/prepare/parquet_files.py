"""Atomic files as Parquet: written from the lines of text files, and shown as such lines."""

import importlib
from itertools import islice

from recbole_diffusion.data.atomic_files import NEEDED, open_parquet
from recbole_diffusion.data.numbers import MISSING
from recbole_diffusion.errors import UsageError, one_line

ROWS = 2**18  # of a row group


def require_pyarrow():
    """Raise UsageError without pyarrow, before any work is done."""
    _arrow()


def write_parquet(file, lines):
    """Write the columns of an atomic text file.

    Args:
        file (binary file): where to.
        lines (Iterable[str]): header and rows, with tabs between columns and spaces between the values of lists.

    Raises:
        UsageError: without pyarrow.
    """
    arrow, parquet = _arrow()
    lines = iter(lines)
    names = next(lines).rstrip("\n").split("\t")
    kinds = [name.partition(":")[2] for name in names]
    types = {"token": arrow.string(), "float": arrow.float64()}
    types = {**types, **{f"{kind}_seq": arrow.list_(inner) for kind, inner in types.items()}}
    schema = arrow.schema([(name, types[kind]) for name, kind in zip(names, kinds)])
    with parquet.ParquetWriter(file, schema) as writer:
        while rows := [line.rstrip("\n").split("\t") for line in islice(lines, ROWS)]:
            columns = [[VALUES[kind](text) for text in column] for kind, column in zip(kinds, zip(*rows))]
            writer.write_table(arrow.table(dict(zip(names, columns)), schema=schema))


def lines_of_parquet(path, seq_separator):
    """The rows of a file as lists of text, and before them its header.

    Args:
        path (Path): the file.
        seq_separator (str): to put between the values of lists.

    Yields:
        list[str]: a text for each column.

    Raises:
        UsageError: without pyarrow, and for a file that is not Parquet.
    """
    with open_parquet(path) as file:
        yield file.schema_arrow.names
        try:
            for batch in file.iter_batches(ROWS):
                for row in zip(*(column.to_pylist() for column in batch.columns)):
                    yield [_text(value, seq_separator) for value in row]
        except (OSError, ValueError) as error:
            raise UsageError(f"'{path}' cannot be read as Parquet: {one_line(error, 200)}") from None


def _text(value, separator):
    if value is None or value != value:
        return ""
    return separator.join(map(str, value)) if isinstance(value, list) else str(value)


def _arrow():
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UsageError(NEEDED) from None


VALUES = {
    "token": lambda text: None if text in MISSING else text,
    "float": lambda text: None if text in MISSING else float(text),
    "token_seq": lambda text: text.split(),
    "float_seq": lambda text: [float(word) for word in text.split()],
}
