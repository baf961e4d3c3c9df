"""One atomic file, read line by line, so that every finding has its line number. Only numpy is imported."""

import math
from array import array

import numpy as np

from recbole_diffusion.data.atomic_files import is_parquet
from recbole_diffusion.data.numbers import MISSING, finite
from recbole_diffusion.errors import did_you_mean
from recbole_diffusion.prepare.parquet_files import lines_of_parquet

TYPES = ("token", "float", "token_seq", "float_seq")


class Finding:
    """How often something was found, and where first."""

    def __init__(self, unit="line"):
        self.count, self.line, self.text, self.unit = 0, None, None, unit

    def add(self, line, text=""):
        if not self.count:
            self.line, self.text = line, text
        self.count += 1

    def __str__(self):
        return f"{self.count} row(s), the first is {self.unit} {self.line}"


class Column:
    """Values of one column: numbers of tokens (-1: missing) or floats (nan: missing or not a number)."""

    def __init__(self, name, kind, seq_separator, keep_words=False, unit="line"):
        self.name, self.kind, self.seq_separator, self.keep_words = name, kind, seq_separator, keep_words
        self.values = array("d" if kind == "float" else "i")
        self.numbers = {}
        self.missing, self.not_a_number = Finding(unit), Finding(unit)

    def add(self, line, text):
        missing = text in MISSING
        if missing:
            self.missing.add(line)
        if self.kind == "token":
            self.values.append(-1 if missing else self.numbers.setdefault(text, len(self.numbers)))
        elif self.kind == "float":
            value = math.nan if missing else finite(text)
            self.values.append(value)
            if not missing and math.isnan(value):
                self.not_a_number.add(line, text)
        elif self.keep_words and not missing:
            for word in filter(None, text.split(self.seq_separator)):
                self.numbers.setdefault(word, len(self.numbers))
        elif self.kind == "float_seq" and not missing:
            bad = [part for part in text.split(self.seq_separator) if part and math.isnan(finite(part))]
            if bad:
                self.not_a_number.add(line, bad[0])

    def array(self):
        """The values, [rows]; empty for sequence columns."""
        return np.frombuffer(self.values, dtype=np.float64 if self.kind == "float" else np.int32)


class Table:
    """One atomic file: columns by name and what is wrong with the rows.

    Rows with a wrong number of columns are counted and left out; ``lines`` are the line numbers of the rest.
    ``keep_words`` is the name of a list whose tokens are kept.
    """

    def __init__(self, path, settings, keep_words=None):
        self.path, self.keep_words = path, keep_words
        self.problems = []
        self.columns = {}
        self.lines, self.hashes = array("q"), array("q")
        self.unit = "row" if is_parquet(path) else "line"
        self.wrong_width, self.quotes = Finding(), Finding()
        self.separator, self.encoding = settings["field_separator"], settings["encoding"] or "utf-8"
        self._usual_kinds = usual_kinds(settings)
        if is_parquet(path):
            self._read_parquet(settings["seq_separator"])
            return
        with open(path, "rb") as file:
            self._read_header(file.readline(), settings["seq_separator"])
            if not self.problems:
                self._read_rows(file)

    def _problem(self, text):
        self.problems.append(f"{self.path.name}: {text}")

    def _read_header(self, raw, seq_separator):
        header = raw.decode(self.encoding, "replace").rstrip("\r\n")
        if not header:
            self._problem("has no header, line 1 is empty")
            return
        if raw.startswith(b"\xef\xbb\xbf"):
            self._problem("begins with a byte order mark, save it as UTF-8 without one")
            header = header[1:]
        names = header.split(self.separator)
        if header.count(":") > 1 and len(names) == 1:
            found = next((what for mark, what in _SEPARATORS.items() if mark in header), "other characters")
            self._problem(f"the header is separated by {found}, the separator must be {self.separator!r}")
            return
        for name in names:
            self._add_column(name, seq_separator)

    def _read_parquet(self, seq_separator):
        """The same of a Parquet file; its rows are counted from 1."""
        rows = lines_of_parquet(self.path, seq_separator)
        for name in next(rows):
            self._add_column(name, seq_separator)
        for number, parts in enumerate([] if self.problems else rows, 1):
            self.lines.append(number)
            self.hashes.append(hash("\t".join(parts)))
            for column, part in zip(self.columns.values(), parts):
                column.add(number, part)

    def _add_column(self, header, seq_separator):
        name, colon, kind = header.partition(":")
        if not colon:
            usual = self._usual_kinds.get(name)
            advice = f"'{name}:{usual}'" if usual else f"'{name}:token', or '{name}:float' for numbers"
            self._problem(f"the header field '{header}' has no type, write it like {advice}")
        elif kind not in TYPES:
            hint = did_you_mean(kind, TYPES)
            self._problem(f"the header field '{header}' has an unknown type{hint}, use one of: {', '.join(TYPES)}")
        elif name in self.columns:
            self._problem(f"the header names the field '{name}' twice, rename one")
        self.columns[name] = Column(name, kind, seq_separator, name == self.keep_words, self.unit)

    def _read_rows(self, file):
        columns, width = list(self.columns.values()), len(self.columns)
        for number, raw in enumerate(file, 2):
            try:
                text = raw.decode(self.encoding).rstrip("\r\n")
            except UnicodeDecodeError:
                self._problem(f"line {number} is not {self.encoding.upper()} text, convert the file or set --encoding")
                return
            if not text:
                continue  # RecBole passes over blank lines, too
            parts = text.split(self.separator)
            if len(parts) != width:
                self.wrong_width.add(number, str(len(parts)))
                continue
            if '"' in text:
                self.quotes.add(number)
            self.lines.append(number)
            self.hashes.append(hash(text))
            for column, part in zip(columns, parts):
                column.add(number, part)

    def line_of_first(self, rows):
        """Line number of the first of some row numbers."""
        return self.lines[int(np.min(rows))]


def usual_kinds(settings):
    """{field: type} of the fields that every data set has: those that the readers accept."""
    user, item, time = (settings[key] for key in ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD"))
    return {user: "token", item: "token", time: "float", item + settings["LIST_SUFFIX"]: "token_seq"}


_SEPARATORS = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars", " ": "spaces"}


def repeats(*keys):
    """Row numbers whose keys all equal those of an earlier row; keys have shape [rows]."""
    order = np.lexsort(keys)  # stable: of equal rows the earliest comes first
    same = np.ones(max(len(order) - 1, 0), dtype=bool)
    for key in keys:
        same &= key[order][1:] == key[order][:-1]
    return order[1:][same]
