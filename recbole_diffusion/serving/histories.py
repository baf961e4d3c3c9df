"""Histories read from files and rankings written to them: ``.csv`` and ``.jsonl``."""

import csv
import json
from numbers import Integral
from pathlib import Path

from recbole_diffusion.errors import UsageError

FORMATS = (".csv", ".jsonl")
LONGEST_CELL = 2**24  # characters of a cell of a csv file; Python's own limit of 2**17 is short for long histories


def read_histories(path):
    """Histories of a file, one after the other.

    Args:
        path (str or Path): ``.csv`` with a header, a column ``items`` (tokens separated by blanks) and perhaps ``id``;
            or ``.jsonl`` with a list of tokens, or an object with ``items`` and perhaps ``id``, on every line.

    Yields:
        tuple: line number, id (the number of the row from 1 where there is none), list of tokens.

    Raises:
        UsageError: naming file and line, for anything else.
    """
    path = Path(path)
    read = {".csv": _read_csv, ".jsonl": _read_jsonl}[file_format(path)]
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for number, (line, name, items) in enumerate(read(path, file), 1):
                yield line, number if name is None else name, items
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"'{path}' is not UTF-8 text: {error}") from None


def file_format(path):
    """``.csv`` or ``.jsonl``; raises UsageError for other endings."""
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise UsageError(f"'{path}' must end in {' or '.join(FORMATS)}")
    return suffix


def _read_csv(path, file):
    previous = csv.field_size_limit(LONGEST_CELL)
    rows = csv.reader(file, strict=True)
    try:
        header = next(rows, [])
        if "items" not in header or len(set(header)) < len(header):
            raise UsageError(f"'{path}' line 1: the header must name a column 'items' once, it is '{','.join(header)}'")
        place, name = header.index("items"), header.index("id") if "id" in header else None
        for row in rows:
            row = row or [""]  # an empty line of a file with one column is an empty history
            if len(row) != len(header):
                raise UsageError(f"'{path}' line {rows.line_num}: {len(row)} columns instead of {len(header)}")
            yield rows.line_num, None if name is None else row[name], row[place].split()
    except csv.Error as error:
        raise UsageError(f"'{path}' line {rows.line_num}: {error}") from None
    finally:
        csv.field_size_limit(previous)


def _read_jsonl(path, file):
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
    return _csv_writer(file) if file_format(path) == ".csv" else _jsonl_writer(file)


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
