"""RecBole's atomic files, read strictly: what RecBole takes in silence is refused with the line that is wrong."""

import math
from collections import defaultdict

import numpy as np
import pandas as pd
from recbole.utils import FeatureSource, FeatureType

from recbole_diffusion.data.atomic_files import find_atomic, is_parquet
from recbole_diffusion.data.columnar_reader import is_plain, read_plain_text
from recbole_diffusion.data.numbers import find_first_bad_number, finite
from recbole_diffusion.data.parquet_reader import parquet_cells, read_parquet
from recbole_diffusion.errors import UsageError, did_you_mean


class AtomicReader:
    """The reading part of a RecBole data set, to be mixed in before RecBole's class.

    Raises:
        UsageError: broken header, missing column, rows of the wrong width, non-numeric number, no rows.
    """

    def _load_inter_feat(self, token, dataset_path):
        """RecBole's, for files of both kinds."""
        if self.benchmark_filename_list is None:
            self.inter_feat = self._load_feat(find_atomic(dataset_path, f"{token}.inter"), FeatureSource.INTERACTION)
            return
        frames, longest = [], defaultdict(int)
        for part in self.benchmark_filename_list:
            frames.append(self._load_feat(find_atomic(dataset_path, f"{token}.{part}.inter"), FeatureSource.INTERACTION))
            for field, length in self.field2seqlen.items():
                longest[field] = max(longest[field], length)
        self.inter_feat, self.file_size_list = pd.concat(frames, ignore_index=True), list(map(len, frames))
        self.field2seqlen = longest

    def _load_user_or_item_feat(self, token, dataset_path, source, field_name):
        """RecBole's, for files of both kinds: a frame, or None where there is no file."""
        path, field = find_atomic(dataset_path, f"{token}.{source.value}"), getattr(self, field_name, None)
        feat = self._load_feat(path, source) if path else None
        if feat is not None and field not in feat:
            raise ValueError(f"{field_name} must be loaded if {source.value}_feat is loaded.")
        if feat is not None:  # of several rows without an id one stays, to be counted and left out
            feat = feat.drop_duplicates(subset=[field])
        if field in self.field2source:
            self.field2source[field] = FeatureSource(source.value + "_id")
        return feat

    def _load_feat(self, filepath, source):
        """RecBole's loader with checks, by columns where the file is plain and with pandas' C reader otherwise."""
        load_col, unload_col = self._get_load_and_unload_col(source)
        if load_col == set():
            return None
        reads = self._read_parquet if is_parquet(filepath) else self._read_text
        frame, names = reads(filepath, source, load_col, unload_col)
        if source != FeatureSource.INTERACTION:  # small, and looked at by more eyes
            frame = frame.astype({name: object for name in names if isinstance(frame[name].dtype, pd.CategoricalDtype)})
        if source in (FeatureSource.ITEM, FeatureSource.USER):
            _refuse_repeated_ids(frame, self.iid_field if source == FeatureSource.ITEM else self.uid_field, filepath)
        for name, ftype in names.items():
            if ftype.value.endswith("seq"):
                self._split_sequences(frame, name, ftype, filepath)
        if self.time_field in names and not np.isfinite(frame[self.time_field]).all():
            place = place_of(filepath, int(np.isfinite(frame[self.time_field]).argmin()))
            raise UsageError(f"{place}: no number in time field '{self.time_field}'")
        return frame

    def _read_text(self, filepath, source, load_col, unload_col):
        """Frame of a text file and the types of its columns by name. Raises UsageError."""
        separator, encoding = self.config["field_separator"], self.config["encoding"]
        if len(separator) != 1 or separator in '"\r\n':  # of several, pandas would make a pattern
            raise UsageError(f"field_separator must be one character that stands between columns, got {separator!r}")
        plain = is_plain(filepath, encoding)
        has_quotes = not plain and _scan_text(filepath, encoding)
        cells = header_cells(filepath, separator, encoding)
        names = self._read_header(filepath, source, cells, f"separator {separator!r}", load_col, unload_col)
        kinds = {f"{name}:{kind.value}": kind for name, kind in names.items()}
        frame = read_plain_text(filepath, separator, cells, kinds) if plain else None
        if frame is None:
            frame = _read_strictly(filepath, kinds, separator, encoding, has_quotes)
        frame.columns = list(names)
        return frame, names

    def _read_parquet(self, filepath, source, load_col, unload_col):
        """The same of a Parquet file."""
        names = self._read_header(filepath, source, parquet_cells(filepath), "in Parquet", load_col, unload_col)
        frame = read_parquet(filepath, {f"{name}:{kind.value}": kind for name, kind in names.items()})
        frame.columns = list(names)
        return frame, names

    def _read_header(self, filepath, source, cells, how, load_col, unload_col):
        """Name -> FeatureType of the columns to load, which are also registered with the data set. how: cells were found."""
        kinds = {kind.value: kind for kind in FeatureType}
        columns = {}
        for cell in cells:
            name, _, kind = cell.partition(":")
            if not name or kind not in kinds:
                raise UsageError(
                    f"{filepath}: header cell '{cell[:60]}' is not field:type with type in {', '.join(kinds)} "
                    f"({how})"
                )
            columns[name] = kinds[kind]
        absent = [name for name in load_col or () if name not in columns]
        if absent:
            raise UsageError(self._absent_column(filepath, absent[0], columns))
        if columns.get(self.time_field, FeatureType.FLOAT) != FeatureType.FLOAT:
            raise UsageError(
                f"{filepath}: time field '{self.time_field}' is a {columns[self.time_field].value}, which has no order: "
                f"write {self.time_field}:float with numbers"
            )
        wanted = {n: t for n, t in columns.items() if (not load_col or n in load_col) and n not in (unload_col or ())}
        for name, kind in wanted.items():
            self.field2source[name], self.field2type[name] = source, kind
            if not kind.value.endswith("seq"):
                self.field2seqlen[name] = 1
            if "float" in kind.value:
                self.field2bucketnum[name] = 2
        return wanted

    def _absent_column(self, filepath, name, columns):
        if name == self.time_field:
            return (
                f"{filepath} has no time field '{name}', which orders the sequences: set --TIME_FIELD to one of its "
                f"columns ({', '.join(columns)})"
            )
        return f"{filepath} has no column '{name}'{did_you_mean(name, columns)}, it has {', '.join(columns)}"

    def _split_sequences(self, frame, name, kind, filepath):
        separator, is_text = self.config["seq_separator"], kind == FeatureType.TOKEN_SEQ
        if separator in ("", self.config["field_separator"]):
            raise UsageError(f"seq_separator cannot be {separator!r}: it stands between the values of one column")
        limit = (self.config["seq_len"] or {}).get(name)
        rows = [words_of(value, separator)[:limit] for value in frame[name].fillna("")]
        if not is_text:
            rows = [[finite(word) for word in row] for row in rows]
            bad = next((number for number, row in enumerate(rows) if not all(map(math.isfinite, row))), None)
            if bad is not None:
                raise UsageError(
                    f"{place_of(filepath, bad)}: '{str(frame[name].iloc[bad])[:60]}' is no list of numbers separated by "
                    f"'{separator}' (column '{name}'; seq_separator says by what)"
                )
        frame[name] = pd.Series([np.array(row) for row in rows], index=frame.index, dtype=object)
        self.field2seqlen[name] = max(map(len, rows))


def place_of(filepath, row):
    """A row of a file, counted from 0, as a user finds it; above the rows of text stands its header."""
    return f"{filepath} row {row + 1}" if is_parquet(filepath) else f"{filepath} line {row + 2}"


def words_of(value, separator):
    """Words of a list that is text; of Parquet's lists, which are none, the text of each value."""
    if isinstance(value, str):
        return [word for word in value.split(separator) if word]
    return [str(word) for word in value]


def header_cells(filepath, separator, encoding):
    """The first line of a file, cut at its separators. Raises UsageError when it is empty."""
    with open(filepath, encoding=encoding, errors="replace") as file:
        header = file.readline().rstrip("\r\n").lstrip("\ufeff")
    if not header:
        raise UsageError(f"{filepath} is empty: it needs a header such as user_id:token<TAB>item_id:token")
    return header.split(separator)


def _read_strictly(filepath, kinds, separator, encoding, has_quotes):
    """Columns of a file with pandas, which says which line is wrong. kinds: header cell -> FeatureType. Raises UsageError."""
    dtypes = {cell: np.float64 if kind == FeatureType.FLOAT else str for cell, kind in kinds.items()}
    try:  # all columns, wanted or not: otherwise pandas says nothing of rows of the wrong width
        frame = pd.read_csv(filepath, sep=separator, dtype=dtypes, encoding=encoding, float_precision="round_trip")
    except pd.errors.ParserError as error:
        reason = str(error).strip().replace("Error tokenizing data. C error: ", "")
        raise UsageError(f"{filepath} has a row of the wrong width: {reason}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{filepath} is not {encoding or 'utf-8'} text: {error} (set --encoding)") from None
    except ValueError as error:
        _blame_number(filepath, kinds, separator, encoding)
        raise UsageError(f"{filepath}: {error}") from None
    if frame.empty:
        raise UsageError(f"{filepath} holds a header but no rows")
    if has_quotes:
        _refuse_swallowed_lines(frame, filepath)
    if not isinstance(frame.index, pd.RangeIndex):
        raise UsageError(f"{filepath} line 2 has more columns than the header")
    _refuse_short_rows(frame, filepath, separator, encoding)
    return frame[list(dtypes)]  # in the order of the file


def _blame_number(filepath, kinds, separator, encoding):
    """Raise UsageError for the first value that is no number in a column of numbers."""
    cells = header_cells(filepath, separator, encoding)
    for cell, kind in kinds.items():
        if kind == FeatureType.FLOAT:
            bad = find_first_bad_number(filepath, cells.index(cell), separator, encoding=encoding)
            if bad:
                name = cell.partition(":")[0]
                raise UsageError(f"{filepath} line {bad[0]}: '{bad[1]}' is not a number (column '{name}')")


def _scan_text(filepath, encoding):
    """Whether a file holds quote marks. Raises UsageError for a zero byte, at which pandas silently ends a value."""
    line, has_quotes = 1, False
    with open(filepath, encoding=encoding, errors="replace", newline="") as file:
        while text := file.read(2**20):
            if "\0" in text:
                line += text.count("\n", 0, text.index("\0"))
                raise UsageError(f"{filepath} line {line} holds a zero byte: the file is damaged, or set --encoding")
            line += text.count("\n")
            has_quotes = has_quotes or '"' in text
    return has_quotes


def _refuse_swallowed_lines(frame, filepath):
    """Between two quote marks pandas takes whole lines for one value. Raises UsageError."""
    for name in frame.select_dtypes(object):
        broken = frame[name].str.contains("\n", regex=False, na=False)
        if broken.any():
            line = int(broken.to_numpy().argmax()) + 2
            raise UsageError(f"{filepath} line {line}: a quote mark opens a value of several lines: remove it")


def _refuse_short_rows(frame, filepath, separator, encoding):
    """Pandas fills rows that end early, as in a file that was cut off, with missing values. Raises UsageError."""
    if not frame.iloc[:, -1].isna().any():
        return
    with open(filepath, encoding=encoding, errors="replace") as file:
        for number, line in enumerate(file, 1):
            width = line.count(separator) + 1
            if line.strip("\r\n") and width < frame.shape[1]:
                raise UsageError(
                    f"{filepath} line {number} has {width} of {frame.shape[1]} columns: the file may have been cut off"
                )


def _refuse_repeated_ids(frame, field, filepath):
    """RecBole joins item and user files to its ids, so that a second row would move all later ones. Raises UsageError."""
    if field not in frame:
        return
    repeated = frame[field].duplicated() & frame[field].notna()
    if repeated.any():
        raise UsageError(f"{filepath} has several rows for {field} '{frame[field][repeated].iloc[0]}': leave one")
