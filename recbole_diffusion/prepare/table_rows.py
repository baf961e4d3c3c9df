"""Rows of tables, from files or from pandas, as numbers: pieces of a table go in, interactions come out."""

import numpy as np
import pandas as pd

from recbole_diffusion.data.numbers import MISSING
from recbole_diffusion.errors import UsageError
from recbole_diffusion.prepare.atomic_files import number_text
from recbole_diffusion.prepare.columns import swapped_by_name
from recbole_diffusion.prepare.interactions import Interactions
from recbole_diffusion.prepare.raw_lines import CONTROL
from recbole_diffusion.prepare.swapped import SWAPPED
from recbole_diffusion.prepare.times import BadRow, TimeColumn


class TableRows:
    """Collects pieces of a table; every name is checked once and kept once.

    Args:
        columns (dict): {role: column} as :func:`recbole_diffusion.prepare.columns.choose_columns` returns it.
        given (Container[str]): roles whose columns the user named: a rating that was only guessed is left out when it
            holds no numbers.
        time_format (str, optional): see :class:`recbole_diffusion.prepare.times.TimeColumn`.
    """

    def __init__(self, columns, given=(), time_format=None):
        self._columns, self._given, self.notes = columns, given, []
        self._names = {"user": {}, "item": {}}
        self._numbers = {"user": [], "item": []}
        self._ratings, self._has_ratings = [], "rating" in columns
        self._times, self._rows, self._without = TimeColumn(time_format), 0, {"user": 0, "item": 0}

    def add(self, frame):
        """Add a pandas.DataFrame. Raises :class:`~recbole_diffusion.prepare.times.BadRow`."""
        if not len(frame):
            return
        numbers = {role: self._number(role, frame[self._columns[role]]) for role in ("user", "item")}
        kept = (numbers["user"] >= 0) & (numbers["item"] >= 0)
        for role, found in numbers.items():
            self._without[role] += int((found < 0).sum())
            self._numbers[role].append(found[kept].astype(np.int32))
        self._times.add(frame[self._columns["time"]][kept], self._rows + np.flatnonzero(kept))
        if self._has_ratings:
            self._add_ratings(frame[self._columns["rating"]], kept)
        self._rows += len(frame)

    def _number(self, role, values):
        """Numbers of the names of one column, -1 where there is none, [rows]."""
        codes, found = pd.factorize(np.asarray(values))
        known = self._names[role]
        numbers = np.full(len(found) + 1, -1, dtype=np.int64)  # the last one is that of code -1
        for code, name in enumerate(found.tolist()):
            token = number_text(name) if isinstance(name, float) else str(name)
            if token in MISSING or not token.strip():
                continue
            if CONTROL.search(token) or '"' in token:
                row = self._rows + int((codes == code).argmax())
                raise BadRow(row, f"the {role} {token!r} holds a quote mark or a control character")
            numbers[code] = known.setdefault(token, len(known))
        return numbers[codes]

    def _add_ratings(self, values, kept):
        ratings = pd.to_numeric(values, errors="coerce").to_numpy(np.float64, na_value=np.nan)
        bad = ~np.isfinite(ratings) & kept
        if bad.any():
            row = int(bad.argmax())
            if "rating" in self._given:
                raise BadRow(self._rows + row, f"the rating '{values.iloc[row]}' is not a number")
            self._has_ratings = False
            self.notes.append(f"rating: '{self._columns['rating']}' is not a number in every row, it is left out")
        self._ratings.append(ratings[kept])

    def finish(self, where):
        """The interactions, and lines on what was found.

        Args:
            where (str): what the rows come from, for messages.

        Returns:
            tuple: Interactions and list[str]; a line that begins with "warning: " is one.

        Raises:
            UsageError: when no row is left.
            BadRow: see :meth:`recbole_diffusion.prepare.times.TimeColumn.finish`.
        """
        if not self._rows:
            raise UsageError(f"{where} holds a header but no rows")
        users, items = (np.concatenate(self._numbers[role]) for role in ("user", "item"))
        for role, count in self._without.items():
            if count:
                self.notes.append(f"warning: {count:,} row(s) without {role} ('{self._columns[role]}') are left out")
        if not len(users):
            raise UsageError(f"{where}: every row lacks its user or its item, name other columns")
        times, about_times = self._times.finish()
        ratings = np.concatenate(self._ratings) if self._has_ratings else None
        reason = swapped_by_name(self._columns["user"], self._columns["item"])
        if reason:
            self.notes.append(f"warning: {SWAPPED}: {reason}")
        data = Interactions(list(self._names["user"]), list(self._names["item"]), users, items, times, ratings)
        return data, [about_times, *self.notes]
