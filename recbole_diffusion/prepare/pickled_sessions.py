"""Sessions from pickled pairs, the files ``train.txt`` and ``test.txt`` that SR-GNN made customary.

Each file is a pickle of two lists, the items of histories and their targets; longer tuples hold more columns, which are
not read. Opening a pickle can run any code that its author put there, so only lists of numbers and texts are let in.
"""

import pickle
from itertools import chain

import numpy as np
import pandas as pd

from recbole_diffusion.errors import UsageError, one_line
from recbole_diffusion.prepare.sessions import Sessions

FILES = ("train.txt", "test.txt")


class PlainUnpickler(pickle.Unpickler):
    """Reads lists, tuples, numbers and texts; anything that would import or call something is refused."""

    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"it holds {module}.{name} and not only lists of numbers and texts")


def read_pickled(folder, prefixes):
    """Sessions of ``train.txt``, then of ``test.txt``, in their order.

    Args:
        folder (Path): holds both files.
        prefixes (bool): whether the files hold every prefix of a session, the longest first, which are joined again.
            Otherwise each pair is a session of its own.

    Returns:
        tuple: :class:`Sessions`, and how many of them are of the test part.

    Raises:
        UsageError: for files that are missing, are no such pickles or, with ``prefixes``, leave prefixes out.
    """
    parts = [read_pairs(folder / name) for name in FILES]
    if prefixes:
        parts = [join_prefixes(pairs, folder / name) for pairs, name in zip(parts, FILES)]
    else:
        for pairs, name in zip(parts, FILES):
            refuse_prefixes(pairs, folder / name)
    sessions = [[*history, target] for pairs in parts for history, target in pairs]
    numbers = np.repeat(np.arange(len(sessions)), [len(session) for session in sessions])
    places = np.arange(len(numbers)) - np.searchsorted(numbers, numbers)
    items, tokens = pd.factorize(np.array(list(map(str, chain.from_iterable(sessions))), dtype=object))
    return Sessions(list(tokens), numbers, items, places.astype(np.float64)), len(parts[1])


def read_pairs(path):
    """Histories and targets of one file.

    Args:
        path (Path): a pickle of two lists.

    Returns:
        list[tuple]: (list of items, target).

    Raises:
        UsageError: when the file is missing or something else.
    """
    content = _unpickled(path)
    if not isinstance(content, (list, tuple)) or len(content) < 2 or not all(isinstance(c, list) for c in content[:2]):
        raise UsageError(f"'{path}' is no pickle of two lists, histories and targets")
    histories, targets = content[:2]
    if len(histories) != len(targets) or not targets:
        raise UsageError(
            f"'{path}' has {len(histories)} histories and {len(targets)} targets, give one target for each"
        )
    for number, (history, target) in enumerate(zip(histories, targets), 1):
        if not isinstance(history, list) or not history or not all(map(_is_item, [*history, target])):
            raise UsageError(f"'{path}', pair {number}: needs a list of items and a target, numbers or texts")
    return list(zip(histories, targets))


def _unpickled(path):
    try:
        with open(path, "rb") as file:
            return PlainUnpickler(file).load()
    except OSError as error:
        raise UsageError(
            f"'{path}' cannot be read ({error.strerror}): --source is the folder of {' and '.join(FILES)}"
        ) from None
    except Exception as error:  # a damaged pickle can fail in any way
        reason = one_line(error, 150) or type(error).__name__
        raise UsageError(f"'{path}' is no pickle of two lists, histories and targets: {reason}") from None


def _is_item(value):
    return type(value) in (int, str)  # and not bool, which isinstance takes for an int


def refuse_prefixes(pairs, path):
    """Prefixes of one session must not come apart into training and validation as if they were sessions."""
    followed = [[*after, target] == before for (before, _), (after, target) in zip(pairs, pairs[1:]) if len(before) > 1]
    if sum(followed) > len(followed) / 2:
        raise UsageError(f"'{path}' lists every prefix of its sessions: add --prefixes")


def join_prefixes(pairs, path):
    """The longest pair of each session, which its shorter prefixes have to follow one by one."""
    longest, expected = [], None
    for number, (history, target) in enumerate(pairs):
        if expected is None:
            longest.append((history, target))
        elif [*history, target] != expected:
            raise UsageError(
                f"'{path}', pair {number + 1} is not the next prefix of the session before: leave out --prefixes"
            )
        expected = history if len(history) > 1 else None
    if expected:
        raise UsageError(f"'{path}' ends within the prefixes of a session: leave out --prefixes")
    return longest
