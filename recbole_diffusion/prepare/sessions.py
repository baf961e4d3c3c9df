"""Sessions as arrays: the filter, the split, and what the parts may hold."""

from dataclasses import dataclass

import numpy as np

from recbole_diffusion.errors import UsageError
from recbole_diffusion.prepare.interactions import k_core

PARTS = ("train", "valid", "test")


@dataclass
class Sessions:
    """Items of sessions; the arrays have shape [rows] and the rows of a session stand together, in their order.

    Attributes:
        item_tokens (list[str]): name of each item number.
        numbers (numpy.ndarray): session of each row, ascending from 0 without gaps. The order is that of time.
        items (numpy.ndarray): item numbers.
        times (numpy.ndarray): float64, in the unit of the source.
        names (numpy.ndarray, optional): name of each session, [sessions]; without it they are counted from 1.
    """

    item_tokens: list
    numbers: np.ndarray
    items: np.ndarray
    times: np.ndarray
    names: np.ndarray = None

    def __len__(self):
        return int(self.numbers[-1]) + 1 if len(self.numbers) else 0

    def take(self, rows):
        """The same data with only ``rows`` (a mask or ascending row numbers), sessions numbered again."""
        remaining, numbers = np.unique(self.numbers[rows], return_inverse=True)
        names = None if self.names is None else self.names[remaining]
        return Sessions(self.item_tokens, numbers, self.items[rows], self.times[rows], names)

    def session_names(self):
        """Names of all sessions as a list of texts."""
        return [str(n) for n in (range(1, len(self) + 1) if self.names is None else self.names)]


def filter_sessions(sessions, min_item):
    """Drop items with fewer than ``min_item`` rows and sessions of one item until nothing changes.

    Raises:
        UsageError: when nothing is left.
    """
    rows = k_core(sessions.numbers, sessions.items, 2, min_item)
    if not len(rows):
        raise UsageError(
            f"no session of two or more items is left of {len(sessions)} with {len(np.unique(sessions.items))} items "
            f"when items need {min_item} occurrences: lower --min_item or give another source"
        )
    return sessions.take(rows)


def split_sessions(sessions, n_valid, n_test):
    """Part of every session, in order of time: 0 training, then 1 validation, then 2 test; [sessions].

    Raises:
        UsageError: when a part would be empty.
    """
    n_train = len(sessions) - n_valid - n_test
    if min(n_train, n_valid, n_test) < 1:
        raise UsageError(
            f"{len(sessions)} sessions cannot be split with {n_test} for test and {max(n_valid, 0)} for validation: "
            f"every part needs at least one"
        )
    return np.repeat([0, 1, 2], [n_train, n_valid, n_test])


def drop_unseen(sessions, parts):
    """Remove items that training sessions lack from the other sessions, and sessions of which one item is left.

    Args:
        sessions (Sessions): all of them.
        parts (numpy.ndarray): 0, 1 or 2 per session.

    Returns:
        tuple: the sessions that remain and their parts.

    Raises:
        UsageError: when a part has nothing left.
    """
    seen = np.zeros(len(sessions.item_tokens), dtype=bool)
    seen[sessions.items[parts[sessions.numbers] == 0]] = True
    known = seen[sessions.items]
    keep = known & (np.bincount(sessions.numbers, weights=known)[sessions.numbers] >= 2)
    parts = parts[np.unique(sessions.numbers[keep])]
    for part, name in enumerate(PARTS):
        if not (parts == part).any():
            raise UsageError(f"no session of the {name} part has two items that occur in training: give another source")
    return sessions.take(keep), parts
