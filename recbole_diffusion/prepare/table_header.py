"""The first lines of a table in a text file: encoding, separator and columns. Nothing is imported but Python's own."""

import csv
import gzip
import io
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field

from recbole_diffusion.data.numbers import finite
from recbole_diffusion.errors import UsageError
from recbole_diffusion.prepare.columns import REQUIRED, candidates, choose_columns

SEPARATORS = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar", " ": "space"}
_HEAD = 1 << 16
_FIRST_ROWS = 20


@dataclass(frozen=True)
class TableOptions:
    """What a user says about a table.

    Attributes:
        columns (dict): {role: column} of the columns that were named.
        separator (str, optional): one character, or its name in ``SEPARATORS``.
        encoding (str): of text files.
        time_format (str, optional): of dates that are not ISO, as of :func:`time.strptime`.
    """

    columns: dict = field(default_factory=dict)
    separator: str = None
    encoding: str = "utf-8"
    time_format: str = None

    def __bool__(self):
        return self != TableOptions()


@dataclass(frozen=True)
class Header:
    """The header of a table: separator, names of all columns, {role: column}, and lines on what was guessed."""

    separator: str
    names: list
    columns: dict
    notes: list


@contextmanager
def opened(path):
    """A plain or .gz file as bytes, and the file below it, whose position tells how far it was read.

    Raises:
        UsageError: when it is missing or cannot be read, also within the block.
    """
    try:
        with open(path, "rb") as raw:
            yield (gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw), raw
    except FileNotFoundError:
        raise UsageError(f"file '{path}' does not exist, give the path of a raw file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"file '{path}' cannot be read ({error})") from None


def text_encoding(options):
    """The encoding without the mark that some editors put before UTF-8 text. Raises UsageError for an unknown one."""
    try:
        "".encode(options.encoding)
    except LookupError:
        raise UsageError(f"--encoding={options.encoding} is unknown, use one such as utf-8 or latin-1") from None
    return "utf-8-sig" if options.encoding.lower().replace("_", "-") in ("utf-8", "utf8") else options.encoding


def read_header(path, options):
    """Find out how a text file holds its table.

    Args:
        path (Path): plain or .gz.
        options (TableOptions): what the user said.

    Returns:
        Header

    Raises:
        UsageError: for an empty file, another encoding, and where separator or columns are in doubt.
    """
    lines = _first_lines(path, options)
    separator, notes = _separator(path, lines, options)
    names, *rows = _records(lines, separator)
    names = [name.strip() for name in names]
    _refuse_no_header(path, names, options)
    repeated = next((name for name in names if name and names.count(name) > 1), None)
    if repeated:
        raise UsageError(f"'{path}': the header names the column '{repeated}' twice, rename one of them")
    columns = choose_columns(names, options.columns, f"'{path}'")
    if rows and len(rows[0]) != len(names):
        raise UsageError(
            f"'{path}' line 2 has {len(rows[0])} field(s) and the header {len(names)}, where a {SEPARATORS.get(separator, separator)} "
            f"separates them: mend the file or name its --separator"
        )
    return Header(separator, names, columns, notes)


def could_be_header(path, options):
    """Whether the first line names at least one of user, item and time, and holds no numbers."""
    line = _first_lines(path, options)[0]
    for separator in _present(line):
        names = _records([line], separator)[0]
        if _are_names(names) and any(candidates(names, role) for role in REQUIRED):
            return True
    return False


def line_of_row(path, separator, encoding, row):
    """Number of the line in which a row begins; blank lines and values of several lines move it."""
    with opened(path) as (file, _):
        reader = csv.reader(io.TextIOWrapper(file, encoding, newline=""), delimiter=separator)
        rows = (reader.line_num - sum(cell.count("\n") for cell in record) for record in reader if record)
        next(rows)
        for number, line in enumerate(rows):
            if number == row:
                return line
    return None


def _first_lines(path, options):
    with opened(path) as (file, _):
        head = file.read(_HEAD)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") and options.encoding == "utf-8":
        raise UsageError(f"'{path}' is UTF-16 text, say so with --encoding=utf-16")
    cut = head if len(head) < _HEAD else head[: head.rfind(b"\n") + 1] or head
    try:
        text = cut.decode(text_encoding(options))
    except UnicodeDecodeError as error:
        raise not_this_encoding(path, options.encoding, cut.count(b"\n", 0, error.start) + 1) from None
    lines = [line for line in text.splitlines(keepends=True) if line.strip()]
    if not lines:
        raise UsageError(f"file '{path}' is empty, give a table with a header and at least one row")
    if "\0" in text:
        raise UsageError(f"'{path}' is no text: it holds a zero byte")
    return lines


def not_this_encoding(path, encoding, line=None):
    """UsageError about bytes that are no text of an encoding."""
    place = f" line {line}" if line else ""
    return UsageError(f"'{path}'{place} is not {encoding} text: name the --encoding, often latin-1 or cp1252")


def _records(lines, separator):
    rows = csv.reader(lines, delimiter=separator, skipinitialspace=separator not in " \t")
    try:
        return [row for row, _ in zip(rows, range(_FIRST_ROWS))]
    except csv.Error:  # a value longer than 128 KiB: the first lines end within quote marks
        return _records(lines[:1], separator)


def _present(line):
    """The separators that a line holds; a space only where it holds no other."""
    found = [mark for mark in SEPARATORS if mark in line.strip("\r\n")]
    return [mark for mark in found if mark != " "] or found


def _separator(path, lines, options):
    """The separator, and a line about it where it was guessed. Raises UsageError in doubt."""
    if options.separator is not None:
        mark = {name: mark for mark, name in SEPARATORS.items()}.get(options.separator, options.separator)
        mark = "\t" if mark == "\\t" else mark
        if len(mark) != 1:
            raise UsageError(f"--separator='{mark}' must be one character, or {', '.join(SEPARATORS.values())}")
        if mark not in lines[0] and _present(lines[0]):
            found = " or ".join(SEPARATORS[other] for other in _present(lines[0]))
            raise UsageError(f"'{path}': the header holds no '{mark}', it seems separated by {found}: --separator={found}")
        return mark, []
    found = _present(lines[0])
    if not found:
        raise UsageError(f"'{path}': the header '{lines[0].strip()[:60]}' is one column only, three are needed")
    if len(found) > 1:
        found = _fitting(lines, found, options) or found
    if len(found) > 1:
        names = ", ".join(SEPARATORS[mark] for mark in found)
        raise UsageError(f"'{path}': what separates the columns? Name it with --separator, one of: {names}")
    return found[0], [f"separator: {SEPARATORS[found[0]]} (guessed)"]


def _fitting(lines, found, options):
    """Of several separators those with which the header names all columns, else those that fit the rows, too."""
    named, even = [], []
    for mark in found:
        records = _records(lines, mark)
        names = [name.strip() for name in records[0]]
        wanted = [[name] if name in names else [] for name in options.columns.values()]
        wanted += [candidates(names, role) for role in REQUIRED if role not in options.columns]
        named += [mark] if all(len(columns) == 1 for columns in wanted) else []
        even += [mark] if len({len(record) for record in records[:-1] or records}) == 1 else []
    return named or even


def _are_names(cells):
    return not any(finite(cell) == finite(cell) for cell in cells)


def _refuse_no_header(path, names, options):
    """A first line with numbers is a row, unless the user names its columns."""
    if not _are_names(names) and not any(name in names for name in options.columns.values()):
        raise UsageError(
            f"'{path}': line 1 ({', '.join(names)[:60]}) looks like a row: write a header with the names of the columns above it"
        )
