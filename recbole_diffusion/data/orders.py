"""Stable orders of long columns, several times as fast as NumPy's own stable sort and equal to it."""

import numpy as np
from scipy.sparse import coo_array

PIECE = 2**20  # rows that are looked up at a time


def stable_order(values):
    """What ``np.argsort(values, kind="stable")`` gives.

    NumPy sorts fast where equal values may change places; they are put right by a second sort, of their rows.

    Args:
        values (np.ndarray): [n] numbers.

    Returns:
        np.ndarray: [n] rows, int64.
    """
    if values.dtype.kind == "f" and np.isnan(values).any():  # nan equals nothing, not even itself
        return np.argsort(values, kind="stable")
    order = np.argsort(values)
    changes = _changes(values, order)
    if changes.all():
        return order
    order = order.astype(small_numbers(len(order)))  # columns may be a tenth of the memory
    keys = np.zeros(len(order), dtype=np.int64)
    keys[1:] = changes
    np.cumsum(keys, out=keys)
    keys *= len(order)  # below 2^63 for three billion rows
    keys += order
    del order
    keys.sort()
    keys %= len(keys)
    return keys


def small_numbers(n):
    """The smaller type that holds the numbers below n, int32 where it does."""
    return np.int32 if n < 2**31 else np.int64


def _changes(values, order):
    """Whether each value in that order, but the first, is another one than before, piece by piece: [n - 1] bool."""
    changes = np.empty(max(len(order) - 1, 0), dtype=bool)
    for start in range(0, len(changes), PIECE):
        ranked = values[order[start : start + PIECE + 1]]
        changes[start : start + PIECE] = ranked[1:] != ranked[:-1]
    return changes


def grouped_order(groups):
    """What ``np.argsort(groups, kind="stable")`` gives for small whole numbers, by counting instead of comparing.

    Args:
        groups (np.ndarray): [n] whole numbers from 0, such as the numbers of users.

    Returns:
        np.ndarray: [n] rows, int32 where they fit.
    """
    n = len(groups)
    if not n:
        return np.zeros(0, dtype=np.int64)
    rows = np.arange(n, dtype=small_numbers(n))
    cells = coo_array((np.ones(n, dtype=np.int8), (groups, rows)), shape=(int(groups.max()) + 1, n))
    return cells.tocsr().indices
