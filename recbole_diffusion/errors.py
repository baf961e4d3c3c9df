"""Errors that a user can repair.

Every message is one line that names the offending thing and says what to do about it.
The command line prints it on standard error and exits with code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """Wrong input by the user: a name, a setting, a file. Never a bug of the package."""


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """Return ``", did you mean 'x'?"`` for the nearest of ``known``, or ``""`` when nothing is near.

    Args:
        name (str): what the user wrote.
        known (Iterable[str]): the names that exist. Case is ignored in the comparison.
    """
    by_lower = {str(k).lower(): str(k) for k in known}
    near = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.6)
    return f", did you mean '{by_lower[near[0]]}'?" if near else ""


def one_line(error: object, limit: int | None = None) -> str:
    """What an exception says, as one line.

    Args:
        error (Exception): its lines are joined by spaces.
        limit (int, optional): number of characters that are kept.

    Returns:
        str: empty when the exception says nothing.
    """
    return " ".join(str(error).split())[:limit]
