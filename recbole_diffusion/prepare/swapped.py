"""Signs that users and items were taken for each other. Only numpy is imported."""

import re

import numpy as np

SWAPPED = "users and items seem to be swapped"
_CLOCK = 1e8  # seconds of 1973; below are positions, days and other numbers without bursts
_FEWEST_PAIRS = 20
_ASIN = re.compile(r"B0[0-9A-Z]{8}|\d{9}[\dX]")
_AMAZON_USER = re.compile(r"A[0-9A-Z]{9,}")
_LIKE_ITEM = re.compile(r"(item|movie|product|prod|sku|song|track|book|i|p|m)[-_ ]?\d+", re.IGNORECASE)
_LIKE_USER = re.compile(r"(user|customer|cust|member|reviewer|visitor|u|c)[-_ ]?\d+", re.IGNORECASE)


def is_amazon_item_first(first, second):
    """Whether two fields are a product and a reviewer of Amazon, in this order, as in its ratings of 2018."""
    return bool(_ASIN.fullmatch(first) and _AMAZON_USER.fullmatch(second))


def swapped_by_shape(user_tokens, item_tokens, users, items, timestamps):
    """Why users and items seem to be swapped, told from the names in them and from what follows each other in time.

    People act in bursts: rows next to each other in time share their user far more often than chance would have it,
    and hardly ever their item. Where it is the other way round, and by far, the columns are likely swapped.

    Args:
        user_tokens, item_tokens (Sequence[str]): names.
        users, items (numpy.ndarray): numbers into them, [rows].
        timestamps (numpy.ndarray): [rows].

    Returns:
        str or None: the reason.
    """
    for like_user, like_item in ((_AMAZON_USER, _ASIN), (_LIKE_USER, _LIKE_ITEM)):
        if _share(user_tokens, like_item) > 0.95 and _share(item_tokens, like_user) > 0.95:
            return f"users are called such as '{user_tokens[0]}' and items such as '{item_tokens[0]}'"
    if len(users) < 2 or np.median(timestamps) < _CLOCK:
        return None
    # Rows of one time have no order: they are shuffled, so that the order of the file says nothing.
    order = np.lexsort((np.random.default_rng(0).random(len(timestamps)), timestamps))
    (user_lift, _), (item_lift, pairs) = _burstiness(users[order]), _burstiness(items[order])
    if pairs >= _FEWEST_PAIRS and item_lift > 10 * max(user_lift, 1):
        return (
            f"rows that follow each other in time share their item {item_lift:.0f} times as often as by chance and their "
            f"user {user_lift:.1f} times, where people act in bursts"
        )
    return None


def _share(tokens, pattern, most=1000):
    """Share of the first names that fit a pattern."""
    tokens = tokens[:most]
    return sum(bool(pattern.fullmatch(token)) for token in tokens) / len(tokens) if tokens else 0.0


def _burstiness(numbers):
    """How much more often neighbours are equal than by chance, and how many are; numbers has shape [rows]."""
    shares = np.bincount(numbers) / len(numbers)
    pairs = int((numbers[1:] == numbers[:-1]).sum())
    return pairs / (len(numbers) - 1) / float((shares**2).sum()), pairs
