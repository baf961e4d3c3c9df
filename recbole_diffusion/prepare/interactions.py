"""Rows of users and items as numbers, and their filter.

Rows are held as numbers (24 bytes each) and every user and item name once, so that the largest public sets fit into
memory. Only numpy is imported.
"""

import math
import re
from dataclasses import dataclass

import numpy as np

from recbole_diffusion.errors import UsageError


@dataclass
class Interactions:
    """Rows of one data set; all arrays have shape [rows].

    Attributes:
        user_tokens (list[str]): name of each user number, in order of first appearance.
        item_tokens (list[str]): name of each item number, in order of first appearance.
        users (numpy.ndarray): user numbers, int32.
        items (numpy.ndarray): item numbers, int32.
        timestamps (numpy.ndarray): float64, in the unit of the source (seconds, or positions 0, 1, 2, ...).
        ratings (numpy.ndarray or None): float64, None where the source has no ratings.
    """

    user_tokens: list
    item_tokens: list
    users: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray
    ratings: np.ndarray = None

    def counts(self):
        """Numbers of different users and items and of rows, as a dict."""
        return {
            "users": len(np.unique(self.users)),
            "items": len(np.unique(self.items)),
            "interactions": len(self.users),
        }

    def take(self, rows):
        """The same data with only ``rows`` (a mask or row numbers), in that order."""
        ratings = None if self.ratings is None else self.ratings[rows]
        return Interactions(
            self.user_tokens, self.item_tokens, self.users[rows], self.items[rows], self.timestamps[rows], ratings
        )


def k_core(users, items, min_user, min_item):
    """Which rows remain when users and items with too few rows are dropped until nothing changes.

    Args:
        users (numpy.ndarray): user numbers, [rows].
        items (numpy.ndarray): item numbers, [rows].
        min_user (int): least number of rows of a user; 0 and 1 filter nothing.
        min_item (int): least number of rows of an item.

    Returns:
        numpy.ndarray: row numbers that remain, ascending.
    """
    rows = np.arange(len(users))
    while len(rows):
        enough_user = np.bincount(users[rows])[users[rows]] >= min_user
        enough_item = np.bincount(items[rows])[items[rows]] >= min_item
        keep = enough_user & enough_item
        if keep.all():
            break
        rows = rows[keep]
    return rows


def lower_bound(interval):
    """Least count that an interval like ``"[5,inf)"`` or ``"(4,inf)"`` admits; 0 for None.

    Raises:
        UsageError: when the text is no interval. Upper bounds are left to RecBole, which applies them at load.
    """
    if interval is None:
        return 0
    match = re.match(r"\s*([\[(])\s*(\d+(?:\.\d+)?|-?inf)\s*,", str(interval))
    if not match:
        raise UsageError(f"interval '{interval}' is not understood, write it like '[5,inf)'")
    bracket, text = match.groups()
    low = float(text)
    if not math.isfinite(low):
        return 0
    return math.floor(low) + 1 if bracket == "(" else math.ceil(low)
