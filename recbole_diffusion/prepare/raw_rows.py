"""Rows of users and items from public raw files. Only numpy is imported, neither torch, RecBole nor pandas."""

import json
import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from recbole_diffusion.errors import UsageError
from recbole_diffusion.prepare.interactions import Interactions
from recbole_diffusion.prepare.item_texts import read_amazon_texts, read_movies
from recbole_diffusion.prepare.raw_lines import CONTROL, bad_line, fields, read_lines


class _Rows:
    """Collects rows; every name is checked once and kept once."""

    def __init__(self):
        self.user_ids, self.item_ids = {}, {}
        self.users, self.items = array("i"), array("i")
        self.timestamps, self.ratings = array("d"), array("d")
        self._positions = {}

    def add(self, user, item, timestamp, rating=None):
        """Add one row; raises ValueError with a reason when a value cannot be used."""
        user, item = _number_of(user, self.user_ids, "user"), _number_of(item, self.item_ids, "item")
        if not math.isfinite(timestamp):
            raise ValueError("the timestamp is not a finite number")
        if rating is not None:
            if not math.isfinite(rating):
                raise ValueError("the rating is not a finite number")
            self.ratings.append(rating)
        self.users.append(user)
        self.items.append(item)
        self.timestamps.append(timestamp)

    def rows_of(self, user):
        """How many rows a user has so far: the position of the next one."""
        position = self._positions.get(user, 0)
        self._positions[user] = position + 1
        return position

    def finish(self):
        """The collected rows as Interactions."""
        return Interactions(
            list(self.user_ids),
            list(self.item_ids),
            np.frombuffer(self.users, dtype=np.int32),
            np.frombuffer(self.items, dtype=np.int32),
            np.frombuffer(self.timestamps, dtype=np.float64),
            np.frombuffer(self.ratings, dtype=np.float64) if self.ratings else None,
        )


def _number_of(token, known, kind):
    number = known.get(token)
    if number is None:
        if not isinstance(token, str) or not token.strip():
            raise ValueError(f"the {kind} is empty or not text")
        if CONTROL.search(token) or '"' in token:
            raise ValueError(f"the {kind} {token!r} holds a quote mark or a control character")
        number = known[token] = len(known)
    return number


def _add_ratings_line(rows, line, separator):
    user, item, rating, timestamp = fields(line, separator, 4)
    rows.add(user, item, float(timestamp), float(rating))


def _add_csv_line(rows, line):
    _add_ratings_line(rows, line, ",")


def _add_item_first_line(rows, line):
    item, user, rating, timestamp = fields(line, ",", 4)
    rows.add(user, item, float(timestamp), float(rating))


def _add_movielens_line(rows, line):
    _add_ratings_line(rows, line, "::" if "::" in line else "\t")


def _review(line, *keys):
    """Values of one line of Amazon's reviews."""
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError("a JSON object in braces is expected")
    missing = [key for key in keys if key not in record]
    if missing:
        raise ValueError(f"the key '{missing[0]}' is missing")
    return [record[key] for key in keys]


def _add_review_line(rows, line):
    user, item, rating, timestamp = _review(line, "reviewerID", "asin", "overall", "unixReviewTime")
    rows.add(user, item, float(timestamp), float(rating))


def _add_review_2023_line(rows, line):
    user, item, rating, timestamp = _review(line, "user_id", "parent_asin", "rating", "timestamp")
    rows.add(user, item, float(timestamp) / 1000, float(rating))  # published in milliseconds


def _add_sequence_line(rows, line):
    user, *items = line.split()
    if not items:
        raise ValueError("a user and at least one item are expected")
    if user in rows.user_ids:
        raise ValueError(f"the user '{user}' already has a line, there must be one line per user")
    for position, item in enumerate(items):
        rows.add(user, item, position)


def _add_pair_line(rows, line):
    user, item = fields(line, None, 2)
    rows.add(user, item, rows.rows_of(user))


@dataclass(frozen=True)
class RowFormat:
    """What makes a format of rows.

    Attributes:
        add_line (callable): takes the rows so far and a line; raises ValueError with a reason.
        encoding (str): of the raw file and of its lines.
        read_texts (callable): takes a file of metadata, the wanted items and whether to show bytes read, as
            :func:`recbole_diffusion.prepare.item_texts.read_amazon_texts`.
        texts_beside (tuple[str]): names of metadata that may come in the folder of the raw file.
    """

    add_line: Callable
    encoding: str = "utf-8"
    read_texts: Callable = read_amazon_texts
    texts_beside: tuple = ()


FORMATS = {
    "amazon-ratings": RowFormat(_add_csv_line),
    "amazon-ratings-2018": RowFormat(_add_item_first_line),
    "amazon-5core": RowFormat(_add_review_line),
    "amazon-2023": RowFormat(_add_review_2023_line),
    "movielens": RowFormat(_add_movielens_line, "latin-1", read_movies, ("movies.dat",)),
    "sequences": RowFormat(_add_sequence_line),
    "pairs": RowFormat(_add_pair_line),
}


def read_rows(path, input_format, show_progress):
    """Read a raw file.

    Args:
        path (Path): plain or .gz.
        input_format (str): one of ``FORMATS``.
        show_progress (bool): show bytes read.

    Returns:
        Interactions: all of its rows.

    Raises:
        UsageError: when the file is missing or empty, and with the number of a line that cannot be used.
    """
    kind, rows = FORMATS[input_format], _Rows()
    for number, line in read_lines(path, kind.encoding, show_progress):
        try:
            kind.add_line(rows, line)
        except (ValueError, TypeError, OverflowError) as error:
            raise bad_line(path, number, f"not in the format {input_format}, {error}") from None
    if not rows.users:
        raise UsageError(f"file '{path}' is empty, give a raw file with at least one line")
    return rows.finish()
