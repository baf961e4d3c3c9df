"""Times of a table as seconds: epochs in any unit, ISO dates, dates of pandas, or numbers that only order."""

import numpy as np
import pandas as pd

from recbole_diffusion.prepare.atomic_files import number_text

# Units since 1970 by the size of the numbers, from 1973 to 2099.
_EPOCHS = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}
_EARLIEST, _LATEST = 1e8, 4.1e9
_ISO = (
    r"\s*\d{4}[-/]\d{1,2}[-/]\d{1,2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?\s*(?:Z|UTC|[+-]\d{2}:?\d{2})?)?\s*"
)


class BadRow(ValueError):
    """A row of a table that cannot be used.

    Attributes:
        row (int): its number, from 0.
    """

    def __init__(self, row, reason):
        super().__init__(reason)
        self.row = row


class TimeColumn:
    """Times that come piece by piece; all must be of the kind of the first one.

    Args:
        time_format (str, optional): format of :func:`time.strptime` for dates that are not ISO.
    """

    def __init__(self, time_format=None):
        self._format, self._kind, self._parts, self._rows = time_format, None, [], []

    def add(self, values, rows):
        """Add a pandas.Series and the numbers of its rows in the table, [rows]. Raises BadRow."""
        if not len(values):
            return
        if self._format is None and not _holds_dates(values):
            numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64, na_value=np.nan)
        else:
            numbers = np.full(len(values), np.nan)
        if self._kind is None:
            self._kind = "number" if np.isfinite(numbers[0]) else "date"
        seconds = numbers if self._kind == "number" else self._dates(values)
        bad = ~np.isfinite(seconds)
        if bad.any():
            first = int(bad.argmax())
            raise BadRow(int(rows[first]), self._reason(values.iloc[first]))
        self._parts.append(seconds)
        self._rows.append(rows)

    def _dates(self, values):
        how = {"utc": True, "errors": "coerce"}
        if self._format is not None:
            dates = pd.to_datetime(values.astype(str), format=self._format, **how)
        elif _holds_dates(values):
            dates = pd.to_datetime(values, **how)
        else:
            texts = values.astype(str)
            texts = texts.where(texts.str.fullmatch(_ISO)).str.replace("UTC", "Z").str.strip()
            if int(pd.__version__.partition(".")[0]) >= 2:
                how["format"] = "ISO8601"
            dates = pd.to_datetime(texts, **how)
        return (dates - pd.Timestamp(0, tz="UTC")).dt.total_seconds().to_numpy(np.float64)

    def _reason(self, value):
        if value is None or value != value or str(value).strip() in ("", "NaT"):
            return "the time is empty"
        wanted = f"of the format '{self._format}'" if self._format else "an ISO date such as 2024-01-31 12:30:00"
        if self._kind == "number":
            return f"the time '{value}' is not a number, unlike those before it"
        other = "" if self._format else "; name the format of other dates, such as --time_format=%d/%m/%Y"
        return f"the time '{value}' is neither a number nor {wanted}{other}"

    def finish(self):
        """All times and what they are.

        Returns:
            tuple: float64 [rows], in seconds where they are dates or since 1970, and one line about them.

        Raises:
            BadRow: when seconds and milliseconds stand side by side.
        """
        values = np.concatenate(self._parts)
        if self._kind == "date":
            return values, f"time: dates, {_day(values.min())} to {_day(values.max())} (UTC where no zone is named)"
        of_units = {unit: _is_epoch(values, factor) for unit, factor in _EPOCHS.items()}
        found = [unit for unit, rows in of_units.items() if rows.any()]
        for unit in found:
            if of_units[unit].all():
                seconds = values / _EPOCHS[unit]
                return seconds, f"time: {unit} since 1970, {_day(seconds.min())} to {_day(seconds.max())}"
        if len(found) > 1:
            row = int(of_units[found[1]].argmax())
            reason = f"the time {values[row]:.0f} looks like {found[1]} since 1970, others like {found[0]}"
            raise BadRow(int(np.concatenate(self._rows)[row]), reason)
        smallest, largest = number_text(float(values.min())), number_text(float(values.max()))
        return values, f"time: numbers as they stand, {smallest} to {largest}"


def _holds_dates(values):
    return values.dtype.kind == "M" or isinstance(values.dtype, pd.DatetimeTZDtype)


def _is_epoch(values, factor):
    return (values >= _EARLIEST * factor) & (values <= _LATEST * factor)


def _day(seconds):
    return pd.Timestamp(seconds, unit="s").strftime("%Y-%m-%d")
