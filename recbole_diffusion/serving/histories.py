"""Histories read from files (``.csv``, ``.jsonl``, ``.parquet``) and rankings written to them (``.csv``, ``.jsonl``)."""

import csv
import json
import math
from datetime import datetime, timezone
from numbers import Integral
from pathlib import Path

from recbole_diffusion.data.numbers import finite
from recbole_diffusion.errors import UsageError

WRITTEN = (".csv", ".jsonl")
FORMATS = (*WRITTEN, ".parquet")
LONG_NAMES = {  # columns of files with one interaction per row
    "user": ("user", "user_id", "session_id"),
    "item": ("item", "item_id"),
    "time": ("time", "timestamp"),
}
LONGEST_CELL = 2**24  # characters of a cell of a csv file; Python's own limit of 2**17 is short for long histories


def read_histories(path, commas=True, group=None):
    """Histories of a file, one after the other.

    Args:
        path (str or Path): ``.csv`` with a header, a column ``items`` (tokens separated by blanks or commas) and perhaps
            ``id``; or ``.csv`` with one interaction per row and a header that names user, item and perhaps time, see
            :data:`LONG_NAMES`, which is read whole; or ``.jsonl`` with a list of tokens, or an object with ``items`` and
            perhaps ``id``, on every line; or ``.parquet`` with a column ``items`` of lists or of text as in ``.csv``, and
            perhaps ``id``.
        commas (bool): commas separate the tokens of a cell, too.
        group (int, optional): only this row group of a Parquet file.

    Yields:
        tuple: line number, id (the number of the row from 1 where there is none), list of tokens.

    Raises:
        UsageError: naming file and line, for anything else.
    """
    path = Path(path)
    if file_format(path) == ".parquet":
        for number, (name, items) in enumerate(_read_parquet(path, commas, group), 1):
            yield number, number if name is None else name, items
        return
    read = {".csv": _read_csv, ".jsonl": _read_jsonl}[file_format(path)]
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for number, (line, name, items) in enumerate(read(path, file, commas), 1):
                yield line, number if name is None else name, items
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"'{path}' is not UTF-8 text: {error}") from None


def file_format(path, known=FORMATS):
    """The ending of a name; raises UsageError for one that is not known."""
    suffix = Path(path).suffix.lower()
    if suffix not in known:
        raise UsageError(f"'{path}' must end in {', '.join(known[:-1])} or {known[-1]}")
    return suffix


def row_groups(path):
    """How many row groups a Parquet file has. Raises UsageError for one that is broken, and without pyarrow."""
    return _parquet_file(path).num_row_groups


def _parquet_file(path):
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UsageError("Parquet files need pyarrow: pip install pyarrow") from None
    try:
        return ParquetFile(path)
    except (OSError, ArrowException) as error:
        raise UsageError(f"'{path}' cannot be read as a Parquet file: {str(error).splitlines()[0]}") from None


def _read_parquet(path, commas, group):
    """Ids, None without, and tokens of each row."""
    file = _parquet_file(path)
    names = file.schema_arrow.names
    if "items" not in names:
        raise UsageError(f"'{path}' has no column 'items', it has {', '.join(names)}")
    columns = ["items", *(["id"] if "id" in names else [])]
    groups = range(file.num_row_groups) if group is None else [group]
    row = 0
    for batch in file.iter_batches(columns=columns, row_groups=list(groups)):
        ids = batch.column("id").to_pylist() if "id" in columns else [None] * len(batch)
        for name, items in zip(ids, batch.column("items").to_pylist()):
            row += 1
            if isinstance(items, str):
                items = (items.replace(",", " ") if commas else items).split()
            if not isinstance(items, list) or not all(map(is_token, items)):
                raise UsageError(f"'{path}' row {row}: 'items' must be a list of item tokens, or text with blanks between them")
            yield name, [str(item) for item in items]


def _read_csv(path, file, commas):
    previous = csv.field_size_limit(LONGEST_CELL)
    rows = csv.reader(file, strict=True)
    try:
        header = next(rows, [])
        names = [cell.partition(":")[0] for cell in header]  # as atomic files write them
        long = {what: [names.index(name) for name in known if name in names] for what, known in LONG_NAMES.items()}
        if "items" not in names and long["user"] and long["item"]:
            places = {what: found[0] for what, found in long.items() if found}
            yield from _grouped(path, _rows_of(path, rows, header), places)
            return
        if "items" not in header or len(set(header)) < len(header):
            raise UsageError(
                f"'{path}' line 1: the header must name a column 'items' once, or user and item (and time) of single "
                f"interactions, it is '{','.join(header)}'"
            )
        place, name = header.index("items"), header.index("id") if "id" in header else None
        for line, row in _rows_of(path, rows, header):
            items = row[place].replace(",", " ") if commas else row[place]
            yield line, None if name is None else row[name], items.split()
    except csv.Error as error:
        raise UsageError(f"'{path}' line {rows.line_num}: {error}") from None
    finally:
        csv.field_size_limit(previous)


def _rows_of(path, rows, header):
    """Line numbers and rows as wide as the header."""
    for row in rows:
        row = row or [""]  # an empty line of a file with one column is an empty history
        if len(row) != len(header):
            raise UsageError(f"'{path}' line {rows.line_num}: {len(row)} columns instead of {len(header)}")
        yield rows.line_num, row


def _grouped(path, rows, places):
    """Histories of single interactions: users in the order of the file, their items in that of time, if there is one."""
    users = {}
    for line, row in rows:
        user, item = row[places["user"]], row[places["item"]]
        if not user or not item:
            raise UsageError(f"'{path}' line {line}: every row needs a user and an item")
        time = _moment(path, line, row[places["time"]]) if "time" in places else 0
        users.setdefault(user, []).append((time, line, item))
    for user, found in users.items():
        yield found[0][1], user, [item for _, _, item in sorted(found)]


def _moment(path, line, text):
    """Seconds or any other number, or a date in ISO's form, as a number."""
    value = finite(text)
    if math.isnan(value):
        try:
            date = datetime.fromisoformat(text.replace("Z", "+00:00"))  # which Python 3.10 does not know
        except ValueError:
            raise UsageError(f"'{path}' line {line}: '{text}' is no time: write a number or 2024-05-31T12:00:00") from None
        value = date.replace(tzinfo=date.tzinfo or timezone.utc).timestamp()
    return value


def _read_jsonl(path, file, _):
    for line, text in _without_blank_end(path, file):
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:  # which counts lines within this one
            raise UsageError(f"'{path}' line {line} is not JSON: {error.msg} (column {error.colno})") from None
        except (ValueError, RecursionError) as error:  # a number too long, lists in lists in lists
            raise UsageError(f"'{path}' line {line} is not JSON: {error}") from None
        record = value if isinstance(value, dict) else {"items": value}
        items, name = record.get("items"), record.get("id")
        if not isinstance(items, list) or not all(map(is_token, items)):
            raise UsageError(f"'{path}' line {line}: needs a list of item tokens or an object with one as 'items'")
        if name is not None and not is_token(name):
            raise UsageError(f"'{path}' line {line}: 'id' must be text or a whole number")
        yield line, name, [str(item) for item in items]


def _without_blank_end(path, file):
    """Numbers and texts of the lines up to the last that is not blank; a blank one among them is refused."""
    blank = None
    for line, text in enumerate(file, 1):
        text = text.rstrip("\r\n")
        if not text.strip():
            blank = blank or line
        elif blank:
            raise UsageError(f"'{path}' line {blank} is not JSON: it is blank")
        else:
            yield line, text


def is_token(value):
    """Whether a value names an item: text or a whole number."""
    return isinstance(value, (str, Integral)) and not isinstance(value, bool)


def ranking_writer(path, file):
    """Function that writes the ranking of a history, given its id, in the format that the name of the file says.

    Args:
        path (str or Path): name of the file.
        file (TextIO): the file, opened.
    """
    return _csv_writer(file) if file_format(path, WRITTEN) == ".csv" else _jsonl_writer(file)


def _csv_writer(file):
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["id", "items", "scores", "source", "unknown"])

    def write(name, ranking):
        items, scores = " ".join(token for token, _ in ranking), " ".join(f"{score:.6g}" for _, score in ranking)
        writer.writerow([name, items, scores, ranking.source, len(ranking.unknown)])

    return write


def _jsonl_writer(file):
    def write(name, ranking):
        items, scores = [token for token, _ in ranking], [float(f"{score:.6g}") for _, score in ranking]
        record = {"id": name, "items": items, "scores": scores}
        record.update(source=ranking.source, unknown=len(ranking.unknown))
        file.write(json.dumps(record, ensure_ascii=False) + "\n")

    return write
