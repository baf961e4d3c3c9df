"""Stable orders of long columns, several times as fast as NumPy's own stable sort and equal to it."""

import numpy as np
from scipy.sparse import coo_array


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
    ranked = values[order]
    changes = ranked[1:] != ranked[:-1]
    del ranked  # columns may be a tenth of the memory
    if changes.all():
        return order
    keys = np.zeros(len(order), dtype=np.int64)
    np.cumsum(changes, out=keys[1:])
    keys *= len(order)  # below 2^63 for three billion rows
    keys += order
    keys.sort()
    keys %= len(order)
    return keys


def grouped_order(groups):
    """What ``np.argsort(groups, kind="stable")`` gives for small whole numbers, by counting instead of comparing.

    Args:
        groups (np.ndarray): [n] whole numbers from 0, such as the numbers of users.

    Returns:
        np.ndarray: [n] rows, int64.
    """
    n = len(groups)
    if not n:
        return np.zeros(0, dtype=np.int64)
    rows = np.arange(n, dtype=np.int32 if n < 2**31 else np.int64)
    cells = coo_array((np.ones(n, dtype=np.int8), (groups, rows)), shape=(int(groups.max()) + 1, n))
    return cells.tocsr().indices.astype(np.int64)
